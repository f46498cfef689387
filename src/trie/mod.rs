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

/// A slot is a fingerprint (the upper bits of the hash) above where in the pool the record is.
const RECORD_BITS: u32 = 40;
const RECORD_MASK: u64 = (1 << RECORD_BITS) - 1;
/// No record starts at the last byte of a pool of a tebibyte.
const SLOT_EMPTY: u64 = u64::MAX;

/// Which rule governs a path. Immutable after [`PathTrieBuilder::build`]; looking up allocates nothing.
#[derive(Default)]
pub struct PathTrie {
    /// Open addressing, linear probing, at most half full, a power of two long (or empty).
    slots: Box<[u64]>,
    /// The records of all paths in the order of their bytes; see [`Record`].
    pool: Box<[u8]>,
    /// Where each record starts in the pool, in the same order: what [`PathTrie::below`] searches.
    starts: Box<[u64]>,
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
            iter::once(b'/').chain(component.iter().copied()).for_each(|byte| hash.push(byte));
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
        let path_at = |&start: &u64| self.record(start).map_or(&[][..], |record| record.path).iter().copied();
        let at = self.starts.partition_point(|start| path_at(start).lt(begin()));
        self.starts.get(at).is_some_and(|start| {
            let mut path = path_at(start);
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
            + size_of_val(&*self.starts)
            + size_of_val(&*self.lengths)
    }

    /// The record of the path with this hash for which `is` holds.
    #[inline]
    fn find(&self, hash: u64, is: impl Fn(&[u8]) -> bool) -> Option<Record<'_>> {
        let mask = self.slots.len().wrapping_sub(1);
        for probe in 0..self.probes_max {
            let slot = *self.slots.get((hash as usize).wrapping_add(probe) & mask)?;
            if slot == SLOT_EMPTY {
                return None;
            }
            if (slot ^ hash) >> RECORD_BITS == 0
                && let Some(record) = self.record(slot & RECORD_MASK)
                && is(record.path)
            {
                return Some(record);
            }
        }
        None
    }

    fn record(&self, start: u64) -> Option<Record<'_>> {
        Record::read(self.pool.get(start as usize..)?)
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
        let tree = || self.rule(Reach::Tree);
        if rest.is_empty() {
            self.rule(Reach::File).or_else(|| self.rule(Reach::Entries)).or_else(tree)
        } else {
            self.rule(Reach::Entries).filter(|_| components(rest).nth(1).is_none()).or_else(tree)
        }
    }

    #[inline]
    fn rule(&self, reach: Reach) -> Option<RuleId> {
        let bit = 1 << reach as u8;
        if self.reaches & bit == 0 {
            return None;
        }
        let before = (self.reaches & (bit - 1)).count_ones() as usize;
        let rule = self.rules.get(4 * before..)?.first_chunk()?;
        Some(RuleId(u32::from_le_bytes(*rule)))
    }
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
