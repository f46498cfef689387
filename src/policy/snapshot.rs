//! A compiled, immutable policy set: what responders consult.

use super::model::{Policy, Writer};
use crate::trie::{PathTrie, RuleId};

/// A set of writers as a bit mask; bit `i` stands for `Snapshot::writers[i]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriterMask(pub u64);

/// The most writers one set may name: they fit a [`WriterMask`].
pub const WRITERS_MAX: usize = 64;

impl WriterMask {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Whether the two have a writer in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What governs a path: every policy written for the same most specific prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Indexes into [`Snapshot::policies`]; never empty; in the order they were written.
    pub policies: Box<[u16]>,
}

/// A policy as the deciding code sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledPolicy {
    /// As written.
    pub policy: Policy,
    /// [`Policy::writers`] as a mask.
    pub writers: WriterMask,
}

/// Immutable; swapped as a whole.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts successful loads, from 1.
    pub generation: u64,
    /// Canonical path to rule.
    pub trie: PathTrie,
    /// Indexed by [`RuleId`].
    pub rules: Vec<Rule>,
    /// Indexed by [`Rule::policies`].
    pub policies: Vec<CompiledPolicy>,
    /// Indexed by the bits of a [`WriterMask`].
    pub writers: Vec<Writer>,
    /// No policy has `read = false`: a read needs no path and no lookup.
    pub everybody_reads: bool,
}

impl Snapshot {
    /// The rule that governs `path` (canonical, absolute, no trailing slash), if any.
    pub fn rule_for(&self, path: &[u8]) -> Option<&Rule> {
        self.trie.lookup(path).map(|RuleId(id)| &self.rules[id as usize])
    }
}
