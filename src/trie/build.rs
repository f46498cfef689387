//! From entries in any order to the arrays of a [`PathTrie`].

use super::block::{BLOCK_BYTES, PrefixHash};
use super::{PathTrie, RECORD_ALIGN, Reach, RuleId, SlotLayout, tidy};

/// The longest path an entry may have. The kernel names no longer one (`PATH_MAX`, with its NUL), so a longer
/// entry could cover nothing that is ever asked for.
pub const PATH_BYTES_MAX: usize = 4095;

/// Collects entries. Flat too: a policy set of a hundred thousand paths is two allocations that grow.
#[derive(Debug, Default)]
pub struct PathTrieBuilder {
    /// The tidy paths, one behind the other.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    len: u16,
    reach: Reach,
    rule: RuleId,
}

impl PathTrieBuilder {
    /// Without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; a later one for the same path and reach replaces it.
    ///
    /// Empty components are ignored. A relative path or one of more than [`PATH_BYTES_MAX`] bytes can cover nothing
    /// and is left out: policies that name one are refused before they come here.
    pub fn insert(&mut self, path: &[u8], reach: Reach, rule: RuleId) {
        if path.first() != Some(&b'/') {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend(tidy(path));
        let len = self.bytes.len() - start;
        if len > PATH_BYTES_MAX {
            self.bytes.truncate(start);
            return;
        }
        self.entries.push(Entry { start, len: len as u16, reach, rule });
    }

    /// Sorts, merges and hashes: once per load of policies, never while an opener waits.
    pub fn build(mut self) -> PathTrie {
        let bytes = &*self.bytes;
        let path =
            |entry: &Entry| bytes.get(entry.start..).and_then(|path| path.get(..usize::from(entry.len)));
        // Stable, so the last of what is the same is the one inserted last.
        self.entries.sort_by(|a, b| path(a).cmp(&path(b)).then(a.reach.cmp(&b.reach)));

        let paths = self.entries.chunk_by(|a, b| path(a) == path(b));
        let mut pool = Vec::new();
        let mut records = Vec::new();
        let mut lengths = Vec::new();
        let mut len = 0;
        for same_path in paths {
            let Some(path) = same_path.first().and_then(path) else { continue };
            let last = |reach| same_path.iter().rev().find(|entry| entry.reach == reach);
            let entries = [Reach::File, Reach::Entries, Reach::Tree].map(last);
            let reaches = entries.iter().flatten().fold(0_u8, |bits, entry| bits | 1 << entry.reach as u8);

            records.push((pool.len() / RECORD_ALIGN) as u32);
            pool.extend((path.len() as u16).to_le_bytes());
            pool.push(reaches);
            pool.extend(entries.iter().flatten().flat_map(|entry| entry.rule.0.to_le_bytes()));
            pool.extend_from_slice(path);
            pool.resize(pool.len().next_multiple_of(RECORD_ALIGN), 0);

            len += reaches.count_ones() as usize;
            let block = path.len() / BLOCK_BYTES;
            if lengths.len() <= block {
                lengths.resize(block + 1, 0);
            }
            lengths[block] |= 1_u64 << (path.len() % BLOCK_BYTES);
        }

        let mut trie = PathTrie {
            slots: Box::default(),
            layout: SlotLayout::for_pool(pool.len()),
            pool: pool.into(),
            records: records.into(),
            lengths: lengths.into(),
            probes_max: 0,
            len,
        };
        (trie.slots, trie.probes_max) = slots(&trie);
        trie
    }
}

/// The table of all records, and the most slots that finding one takes.
fn slots(trie: &PathTrie) -> (Box<[u32]>, usize) {
    if trie.records.is_empty() {
        return Default::default();
    }
    let mut slots = vec![SlotLayout::EMPTY; (trie.records.len() * 3 / 2 + 1).next_power_of_two()];
    let mask = slots.len() - 1;
    let mut probes_max = 0;
    for &record in &trie.records {
        let Some(path) = trie.record(record).map(|record| record.path) else { continue };
        let hash = PrefixHash::of(path);
        let mut probes = (0..slots.len()).map(|probe| (probe, (hash as usize).wrapping_add(probe) & mask));
        // There always is one: a third of the slots stay empty.
        if let Some((probe, at)) = probes.find(|&(_, at)| slots[at] == SlotLayout::EMPTY) {
            slots[at] = trie.layout.slot(hash, record);
            probes_max = probes_max.max(probe + 1);
        }
    }
    (slots.into(), probes_max)
}
