//! From entries in any order to the arrays of a [`PathTrie`].

use super::block::{BLOCK_BYTES, PrefixHash};
use super::{GROUP_RECORDS, GroupLayout, PathTrie, RECORD_ALIGN, Reach, RuleId, group_of, tidy};

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
        let paths: Vec<_> = self
            .entries
            .chunk_by(|a, b| path(a) == path(b))
            .filter_map(|same_path| Some((path(same_path.first()?)?, same_path)))
            .collect();
        let groups = paths.len().div_ceil(GROUP_RECORDS);
        // Hash and group of each path; then their order by group.
        let hashes: Vec<u64> = paths.iter().map(|(path, _)| PrefixHash::of(path)).collect();
        let mut order: Vec<u32> = (0..paths.len() as u32).collect();
        order.sort_by_key(|&at| group_of(hashes[at as usize], groups));

        let mut pool = Vec::new();
        let mut records = vec![0; paths.len()];
        let mut lengths = Vec::new();
        let mut len = 0;
        for &at in &order {
            let (path, same_path) = paths[at as usize];
            let last = |reach| same_path.iter().rev().find(|entry| entry.reach == reach);
            let entries = [Reach::File, Reach::Entries, Reach::Tree].map(last);
            let reaches = entries.iter().flatten().fold(0_u8, |bits, entry| bits | 1 << entry.reach as u8);

            records[at as usize] = (pool.len() / RECORD_ALIGN) as u32;
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

        let layout = GroupLayout::for_pool(pool.len());
        // One more than there are groups, so that each ends where the next begins.
        let mut table = vec![0; if paths.is_empty() { 0 } else { groups + 1 }];
        let mut next = order.iter().copied().peekable();
        let end = (pool.len() / RECORD_ALIGN) as u32;
        for (group, slot) in table.iter_mut().enumerate() {
            *slot = next.peek().map_or(end, |&at| records[at as usize]);
            while let Some(at) = next.next_if(|&at| group_of(hashes[at as usize], groups) == group) {
                *slot |= layout.flag(hashes[at as usize]);
            }
        }
        PathTrie {
            groups: table.into(),
            layout,
            pool: pool.into(),
            records: records.into(),
            lengths: lengths.into(),
            len,
        }
    }
}
