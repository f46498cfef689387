//! The prefix trie of protected paths: longest prefix on path components, in flat arrays.
//!
//! A trie in what it answers, a hash table in how. Walking nodes costs one dependent cache miss per
//! component. Here every prefix of the asked path that ends at a component boundary is hashed in one
//! pass, the prefixes whose *length* no entry has are dropped by one AND with a bitmap of lengths, and
//! the rest are looked up deepest first. The records of the entries lie in the order of their hashes, in groups of
//! [`GROUP_RECORDS`] or so. A table that is small enough to stay in the CPU's caches says where a group begins, and
//! the whole group is fetched at once: a hit costs the time of one cache miss, most of what is not there costs none.
//!
//! What an adversary can do to it: it holds only what policies name, so only a policy author can make a group long.
//! Who chooses file names can forge the flags that tell what is not in a group, and gains a comparison with each of its
//! records; their bytes always decide. Nothing beyond the longest entry is hashed, however long the path.
#![forbid(unsafe_code)]

mod block;
mod build;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hint::black_box;
use std::iter;
use std::ops::Range;

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

/// Bytes of a record before its rules.
const RECORD_HEAD: usize = 3;

/// How many records share a group, on average. More of them make the table smaller, so that it stays in the caches
/// whatever else is read; fewer make a group shorter, all of which is fetched at once.
const GROUP_RECORDS: usize = 2;

/// What is fetched from memory at once.
const CACHE_LINE: usize = 64;

/// The group of a hash, one of `groups`.
#[inline]
const fn group_of(hash: u64, groups: usize) -> usize {
    (((hash >> 32) * groups as u64) >> 32) as usize
}

/// What one `u32` of the table says of a group. With a hundred thousand paths a look-up costs what its cache misses
/// cost: the table is small enough to cause none, and says of most paths that are not there that they are not.
#[derive(Debug, Clone, Copy, Default)]
struct GroupLayout {
    /// The lower bits say at which multiple of [`RECORD_ALIGN`] the group starts. Of those above, each record of the
    /// group sets one, which its hash chooses.
    start_bits: u32,
}

impl GroupLayout {
    /// As many flags as a pool of this size leaves: 12 for a hundred thousand paths of 60 bytes, and one is left for
    /// 16 GiB of them.
    fn for_pool(pool_bytes: usize) -> Self {
        Self { start_bits: ((pool_bytes / RECORD_ALIGN + 1).ilog2() + 1).min(31) }
    }

    /// By the half of the hash that does not choose the group.
    #[inline]
    const fn flag(self, hash: u64) -> u32 {
        let flags = 32 - self.start_bits;
        1 << (self.start_bits + ((hash as u32 as u64 * flags as u64) >> 32) as u32)
    }

    #[inline]
    const fn start(self, slot: u32) -> usize {
        (slot & !(u32::MAX << self.start_bits)) as usize * RECORD_ALIGN
    }
}

/// Which rule governs a path. Immutable after [`PathTrieBuilder::build`]; looking up allocates nothing.
#[derive(Default)]
pub struct PathTrie {
    /// One for each group and one behind the last; see [`GroupLayout`]. Or none at all.
    groups: Box<[u32]>,
    layout: GroupLayout,
    /// The records of all paths, group by group; see [`Record`].
    pool: Box<[u8]>,
    /// Where each record starts in the pool, in the order of their paths: what [`PathTrie::below`] searches.
    records: Box<[u32]>,
    /// Bit `n`: some path is `n` bytes long. One word per [`Block`], none beyond the longest path.
    lengths: Box<[u64]>,
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

    /// How many paths have entries: as many as [`PathTrie::entries`] numbers.
    pub fn paths(&self) -> usize {
        self.records.len()
    }

    /// The entries of these paths; paths are numbered in their order, and of one path what reaches least far is first.
    pub fn entries(&self, numbers: Range<usize>) -> impl Iterator<Item = (&[u8], Reach)> {
        let records = self.records.get(numbers).unwrap_or_default().iter();
        records.filter_map(|&record| self.record(record)).flat_map(|record| {
            let reaches = [Reach::File, Reach::Entries, Reach::Tree].into_iter();
            let own = reaches.filter(move |&reach| record.reaches & 1 << reach as u8 != 0);
            own.map(move |reach| (record.shown(), reach))
        })
    }

    /// The number of the first path that does not sort before `path`.
    pub fn number_of(&self, path: &[u8]) -> usize {
        self.records.partition_point(|&at| self.record(at).is_some_and(|record| record.shown() < path))
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
        size_of_val(&*self.groups)
            + size_of_val(&*self.pool)
            + size_of_val(&*self.records)
            + size_of_val(&*self.lengths)
    }

    /// The record of the path with this hash for which `is` holds.
    #[inline]
    fn find(&self, hash: u64, is: impl Fn(&[u8]) -> bool) -> Option<Record<'_>> {
        let group = group_of(hash, self.groups.len().checked_sub(1)?);
        let slot = *self.groups.get(group)?;
        if slot & self.layout.flag(hash) == 0 {
            return None;
        }
        let end = self.layout.start(*self.groups.get(group + 1)?);
        let mut records = self.pool.get(self.layout.start(slot)..end)?;
        // Where a record ends is known when it is read. Asking for all lines now makes them come together.
        black_box(records.iter().step_by(CACHE_LINE).fold(0, |all, byte| all | byte));
        while let Some(record) = Record::read(records) {
            if is(record.path) {
                return Some(record);
            }
            records = records.get(record.bytes()..)?;
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
/// set bit (4 each), the path: all that a hit needs lies in one place.
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
        let (rules, bytes) = bytes.split_at_checked(size_of::<RuleId>() * reaches.count_ones() as usize)?;
        let path = bytes.get(..usize::from(u16::from_le_bytes([low, high])))?;
        Some(Self { reaches, rules, path })
    }

    /// What it occupies in the pool.
    #[inline]
    const fn bytes(&self) -> usize {
        (RECORD_HEAD + self.rules.len() + self.path.len()).next_multiple_of(RECORD_ALIGN)
    }

    /// The path as it is written.
    const fn shown(&self) -> &'a [u8] {
        if self.path.is_empty() { b"/" } else { self.path }
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
