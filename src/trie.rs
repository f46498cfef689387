//! The prefix trie of protected paths: longest prefix on path components, in flat arrays.
#![forbid(unsafe_code)]

/// Names what governs a path. The trie gives it back and knows nothing else about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// How far an entry of the trie reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// This one path.
    File,
    /// This directory and its own entries, not what is below them.
    Entries,
    /// This directory and everything below.
    Tree,
}

/// Immutable after [`PathTrieBuilder::build`].
#[derive(Debug, Default)]
pub struct PathTrie {}

impl PathTrie {
    /// The rule of the most specific entry that covers `path`.
    pub fn lookup(&self, _path: &[u8]) -> Option<RuleId> {
        None
    }
}
