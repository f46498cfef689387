//! A compiled, immutable policy set: what responders consult.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::model::{InactivePolicy, Policy, Writer};
use crate::trie::{PathTrie, Reach, RuleId};

/// A set of writers as a bit mask; bit `i` stands for `Snapshot::writers[i]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriterMask(pub u64);

/// The most writers one set may name: they fit a [`WriterMask`].
pub const WRITERS_MAX: usize = 64;

/// The most policies one set may have: their indexes are 16 bits wide.
pub const POLICIES_MAX: usize = u16::MAX as usize + 1;

impl WriterMask {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// Every one there is.
    pub const ALL: Self = Self(u64::MAX);

    /// Whether the two have a writer in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What governs a path: every policy written for the same most specific prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Indexes into [`Snapshot::policies`]; never empty; in the order they were written.
    pub policies: Box<[u16]>,
}

/// A policy as the deciding code sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledPolicy {
    /// As written, without its paths: [`Snapshot::roots`] are those of all policies, resolved.
    pub policy: Policy,
    /// [`Policy::writers`] as a mask.
    pub writers: WriterMask,
}

/// A protected path: where the marker starts to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root<'a> {
    /// Canonical for the part that exists, as written for the rest.
    pub path: &'a Path,
    /// What of it is covered.
    pub reach: Reach,
}

/// Immutable; swapped as a whole.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts successful loads, from 1.
    pub generation: u64,
    /// Canonical path to rule; its entries are the roots, so that a hundred thousand paths are not kept twice.
    pub trie: PathTrie,
    /// Indexed by [`RuleId`].
    pub rules: Vec<Rule>,
    /// Indexed by [`Rule::policies`].
    pub policies: Vec<CompiledPolicy>,
    /// Indexed by the bits of a [`WriterMask`]; their executables are canonical.
    pub writers: Vec<Writer>,
    /// No policy that audits or blocks has `read = false`: a read needs no path and no lookup.
    pub everybody_reads: bool,
    /// Every policy at once: what governs an object of which can only be told that it is protected.
    pub everything: Rule,
    /// Loaded, listed, not applied.
    pub inactive: Vec<InactivePolicy>,
}

impl Snapshot {
    /// Sorted by path; one for each path and reach.
    pub fn roots(&self) -> impl Iterator<Item = Root<'_>> {
        self.roots_of(0..self.trie.paths())
    }

    /// The roots of these paths, by their numbers in the order of paths.
    pub fn roots_of(&self, numbers: Range<usize>) -> impl Iterator<Item = Root<'_>> {
        let entries = self.trie.entries(numbers);
        entries.map(|(path, reach)| Root { path: Path::new(OsStr::from_bytes(path)), reach })
    }

    /// The number of this path among those of the roots.
    pub fn root_number(&self, path: &Path) -> Option<usize> {
        let number = self.trie.number_of(path.as_os_str().as_bytes());
        self.roots_of(number..number + 1).next().filter(|root| root.path == path).map(|_| number)
    }

    /// The roots at and below `path`.
    pub fn roots_below(&self, path: &Path) -> impl Iterator<Item = Root<'_>> {
        let bytes = path.as_os_str().as_bytes();
        let stem = bytes.strip_suffix(b"/").unwrap_or(bytes);
        // '0' is the character after '/'; what sorts in between and is not below has a name that begins alike.
        let end = [stem, b"0"].concat();
        let numbers = self.trie.number_of(stem)..self.trie.number_of(&end);
        self.roots_of(numbers).filter(move |root| root.path.starts_with(path))
    }

    /// The rule that governs `path` (canonical, absolute, no trailing slash), if any.
    pub fn rule_for(&self, path: &[u8]) -> Option<&Rule> {
        self.trie.lookup(path).map(|RuleId(id)| &self.rules[id as usize])
    }
}
