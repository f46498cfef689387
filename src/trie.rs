//! The prefix trie of protected paths: longest prefix on path components, in flat arrays.
#![forbid(unsafe_code)]

use std::collections::HashMap;

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
pub struct PathTrie {
    nodes: HashMap<Box<[u8]>, [Option<RuleId>; 3]>,
}

/// Collects entries.
#[derive(Debug, Default)]
pub struct PathTrieBuilder {
    trie: PathTrie,
}

impl PathTrieBuilder {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// A later insert for the same path and reach replaces the earlier.
    pub fn insert(&mut self, path: &[u8], reach: Reach, rule: RuleId) {
        let path = if path == b"/" { b"" } else { path };
        self.trie.nodes.entry(path.into()).or_default()[reach as usize] = Some(rule);
    }

    /// Done.
    pub fn build(self) -> PathTrie {
        self.trie
    }
}

impl PathTrie {
    /// The rule of the most specific entry that covers `path`.
    pub fn lookup(&self, path: &[u8]) -> Option<RuleId> {
        let mut prefix = if path == b"/" { b"" } else { path };
        let mut depth = 0;
        loop {
            if let Some([file, entries, tree]) = self.nodes.get(prefix) {
                let file = file.filter(|_| depth == 0);
                let entries = entries.filter(|_| depth <= 1);
                if let Some(rule) = file.or(entries).or(*tree) {
                    return Some(rule);
                }
            }
            prefix = &prefix[..prefix.iter().rposition(|byte| *byte == b'/')?];
            depth += 1;
        }
    }
}
