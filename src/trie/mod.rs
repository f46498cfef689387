//! The prefix trie of protected paths: longest prefix on path components, in flat arrays.
//!
//! A trie in what it answers, a hash table in how. Walking nodes costs one dependent cache miss per
//! component. Here every prefix of the asked path that ends at a component boundary is hashed in one
//! pass, the prefixes whose *length* no entry has are dropped by one AND with a bitmap of lengths, and
//! the rest are looked up deepest first. Those look-ups do not depend on each other, so the CPU overlaps
//! their misses, and only a prefix whose fingerprint matches has its bytes compared.
//!
//! What an adversary can do to it: the table holds only what policies name, so only a policy author can
//! make it degenerate, and [`PathTrie::lookup`] never probes further than the longest run that
//! [`PathTrieBuilder::build`] has seen. Who chooses file names can forge fingerprints, and gains one comparison
//! of bytes for each; they always decide. Nothing beyond the longest entry is hashed, however long the path.
#![forbid(unsafe_code)]

mod block;
mod build;
#[cfg(test)]
mod tests;

use std::fmt;
use std::iter;

use block::{BLOCK_BYTES, Block, PrefixHash};
pub use build::{PATH_BYTES_MAX, PathTrieBuilder};

/// Names what governs a path. The trie gives it back and knows nothing else about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// How far an entry of the trie reaches. At one path, what reaches less far is more specific and wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reach {
    /// This one path.
    File = 0,
    /// This directory and its own entries, not what is below them.
    Entries = 1,
    /// This directory and everything below.
    Tree = 2,
}

/// Records start at multiples of this, so that a few bits say where.
const RECORD_ALIGN: usize = 8;

/// What one `u32` of the table says. With a hundred thousand paths a look-up costs what its cache misses cost,
/// so the table, which every prefix touches, is kept half the size that a whole hash or an address would make it.
#[derive(Debug, Clone, Copy, Default)]
struct SlotLayout {
    /// The lower bits say at which multiple of [`RECORD_ALIGN`] the record starts; those above are the fingerprint.
    record_bits: u32,
}

impl SlotLayout {
    /// No record starts where all lower bits are set.
    const EMPTY: u32 = u32::MAX;

    /// As wide a fingerprint as a pool of this size leaves: 12 bits for a hundred thousand paths of 60 bytes,
    /// and one bit is left for 16 GiB of them.
    fn for_pool(pool_bytes: usize) -> Self {
        Self { record_bits: ((pool_bytes / RECORD_ALIGN + 1).ilog2() + 1).min(31) }
    }

    const fn slot(self, hash: u64, record: u32) -> u32 {
        (hash >> 32) as u32 >> self.record_bits << self.record_bits | record
    }

    #[inline]
    const fn may_be(self, slot: u32, hash: u64) -> bool {
        (slot ^ (hash >> 32) as u32) >> self.record_bits == 0
    }

    #[inline]
    const fn record(self, slot: u32) -> u32 {
        slot & !(u32::MAX << self.record_bits)
    }
}

/// Which rule governs a path. Immutable after [`PathTrieBuilder::build`]; looking up allocates nothing.
#[derive(Default)]
pub struct PathTrie {
    /// Open addressing, linear probing, at most two thirds full, a power of two long (or empty).
    slots: Box<[u32]>,
    layout: SlotLayout,
    /// The records of all paths in the order of their bytes; see [`Record`].
    pool: Box<[u8]>,
    /// Where each record starts in the pool, in the same order: what [`PathTrie::below`] searches.
    records: Box<[u32]>,
    /// Bit `n`: some path is `n` bytes long. One word per [`Block`], none beyond the longest path.
    lengths: Box<[u64]>,
    /// The most slots that finding any path takes.
    probes_max: usize,
    /// Entries; a path with two reaches counts twice.
    len: usize,
}

impl PathTrie {
    /// The rule of the most specific entry that covers `path`, which must be absolute and canonical.
    ///
    /// Empty components are ignored. What does not begin with a slash (`pipe:[7]`) is no path and has no rule.
    pub fn lookup(&self, path: &[u8]) -> Option<RuleId> {
        if path.first() != Some(&b'/') {
            return None;
        }
        let path = without_trailing_slashes(path);
        let mut best = None;
        let mut block = Block::FIRST;
        for (&lengths, start) in self.lengths.iter().zip((0..).step_by(BLOCK_BYTES)) {
            let Some(ahead) = path.get(start..) else { break };
            block = block.next(ahead);
            if block.has_doubled_slash() {
                return self.lookup_untidy(path);
            }
            // Deepest first, so the first that covers is the best of this block and of those before it.
            let mut ends = block.prefix_ends() & lengths;
            while ends != 0 {
                let end = ends.ilog2();
                ends ^= 1 << end;
                let Some((prefix, rest)) = path.split_at_checked(start + end as usize) else { continue };
                let found = self.find(block.prefix_hash(end), |own| own == prefix);
                if let Some(rule) = found.and_then(|record| record.rule_for(rest)) {
                    best = Some(rule);
                    break;
                }
            }
        }
        best
    }

    /// The same for a path with empty components in it. No canonical path has any, so this is plain, not fast.
    #[cold]
    fn lookup_untidy(&self, path: &[u8]) -> Option<RuleId> {
        let mut best = None;
        let mut hash = PrefixHash::EMPTY;
        let mut rest = path;
        while hash.len() < self.lengths.len() * BLOCK_BYTES {
            let prefix = path.get(..path.len() - rest.len())?;
            let found = self.find(hash.finish(), |own| own.iter().copied().eq(tidy(prefix)));
            best = found.and_then(|record| record.rule_for(rest)).or(best);

            let Some(component) = components(rest).next() else { break };
            let gap = rest.iter().take_while(|&&byte| byte == b'/').count();
            for byte in tidy(component) {
                hash.push(byte);
            }
            rest = rest.get(gap + component.len()..)?;
        }
        best
    }

    /// Whether there is an entry strictly below this directory.
    ///
    /// Asked when a tree is walked: below a directory that nothing or an exception governs, the walk need only
    /// go on where this holds. Costs a binary search, so it is not for responders.
    pub fn below(&self, dir: &[u8]) -> bool {
        if dir.first() != Some(&b'/') {
            return false;
        }
        // Paths that begin with "dir/" are next to each other, the first of them where "dir/" would be.
        let begin = || tidy(dir).chain(iter::once(b'/'));
        let path_at =
            |&record: &u32| self.record(record).map_or(&[][..], |record| record.path).iter().copied();
        let at = self.records.partition_point(|record| path_at(record).lt(begin()));
        self.records.get(at).is_some_and(|record| {
            let mut path = path_at(record);
            begin().all(|byte| path.next() == Some(byte))
        })
    }

    /// Whether it governs nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries there are: one for each path and reach.
    pub fn len(&self) -> usize {
        self.len
    }

    /// What it occupies beside itself: `status` shows it, and a limit can be put on it.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.slots)
            + size_of_val(&*self.pool)
            + size_of_val(&*self.records)
            + size_of_val(&*self.lengths)
    }

    /// The record of the path with this hash for which `is` holds.
    #[inline]
    fn find(&self, hash: u64, is: impl Fn(&[u8]) -> bool) -> Option<Record<'_>> {
        let mask = self.slots.len().wrapping_sub(1);
        for probe in 0..self.probes_max {
            let slot = *self.slots.get((hash as usize).wrapping_add(probe) & mask)?;
            if slot == SlotLayout::EMPTY {
                return None;
            }
            if self.layout.may_be(slot, hash)
                && let Some(record) = self.record(self.layout.record(slot))
                && is(record.path)
            {
                return Some(record);
            }
        }
        None
    }

    #[inline]
    fn record(&self, record: u32) -> Option<Record<'_>> {
        Record::read(self.pool.get(record as usize * RECORD_ALIGN..)?)
    }
}

impl fmt::Debug for PathTrie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathTrie")
            .field("len", &self.len)
            .field("heap_bytes", &self.heap_bytes())
            .finish_non_exhaustive()
    }
}

/// One path and its rules. In the pool: the path's length (2 bytes), a bit per [`Reach`] (1), the rule of each
/// set bit (4 each), the path: all that a hit needs lies in one place, usually two cache lines.
#[derive(Clone, Copy)]
struct Record<'a> {
    reaches: u8,
    rules: &'a [u8],
    path: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the front of `bytes`.
    #[inline]
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[low, high, reaches], bytes) = bytes.split_first_chunk()?;
        let (rules, bytes) = bytes.split_at_checked(4 * reaches.count_ones() as usize)?;
        let path = bytes.get(..usize::from(u16::from_le_bytes([low, high])))?;
        Some(Self { reaches, rules, path })
    }

    /// Which of its rules covers this path followed by `rest`.
    #[inline]
    fn rule_for(&self, rest: &[u8]) -> Option<RuleId> {
        if rest.is_empty() {
            // All of them do, and the one that reaches least far is kept first.
            return rule_at(self.rules);
        }
        let entries = self.rule(Reach::Entries).filter(|_| components(rest).nth(1).is_none());
        entries.or_else(|| self.rule(Reach::Tree))
    }

    #[inline]
    fn rule(&self, reach: Reach) -> Option<RuleId> {
        let bit = 1 << reach as u8;
        if self.reaches & bit == 0 {
            return None;
        }
        let before = (self.reaches & (bit - 1)).count_ones() as usize;
        rule_at(self.rules.get(4 * before..)?)
    }
}

/// The rule at the front of the rules of a [`Record`].
#[inline]
fn rule_at(rules: &[u8]) -> Option<RuleId> {
    Some(RuleId(u32::from_le_bytes(*rules.first_chunk()?)))
}

fn without_trailing_slashes(mut path: &[u8]) -> &[u8] {
    while let [before @ .., b'/'] = path {
        path = before;
    }
    path
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
}

/// The path as it is kept: one slash before each component and none behind, so the root is empty.
fn tidy(path: &[u8]) -> impl Iterator<Item = u8> {
    components(path).flat_map(|component| iter::once(b'/').chain(component.iter().copied()))
}
