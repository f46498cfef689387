//! What a directory looks like, to compare afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What an entry is. The times and sizes of directories change with every refused creation and are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    inode: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    content: Vec<u8>,
    /// Any change of a file moves it.
    changed_at: Option<(i64, i64)>,
}

/// A directory with everything below.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Looks.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.add(directory, Path::new(""))?;
        Ok(tree)
    }

    fn add(&mut self, top: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(top.join(below))? {
            let below = below.join(entry?.file_name());
            let path = top.join(&below);
            let metadata = fs::symlink_metadata(&path)?;
            let file = metadata.is_file();
            let entry = Entry {
                inode: (metadata.dev(), metadata.ino()),
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                content: if file { fs::read(&path)? } else { Vec::new() },
                changed_at: file.then(|| (metadata.ctime(), metadata.ctime_nsec())),
            };
            self.0.insert(below.clone(), entry);
            if metadata.is_dir() {
                self.add(top, &below)?;
            }
        }
        Ok(())
    }

    /// What is different in `later`, but for the mere existence of `expected`.
    pub fn changes(&self, later: &Self, expected: &Path) -> Vec<String> {
        let gone = self.0.keys().filter(|path| !later.0.contains_key(*path));
        let mut changes: Vec<_> = gone.map(|path| format!("{} is gone", path.display())).collect();
        for (path, after) in &later.0 {
            match self.0.get(path) {
                None if path == expected => {}
                None => changes.push(format!("{} is new", path.display())),
                Some(before) if before.inode != after.inode => {
                    changes.push(format!("{} is another", path.display()));
                }
                Some(before) if before.content != after.content => {
                    changes.push(format!("{} has other content", path.display()));
                }
                Some(before) if before != after => changes.push(format!("{} was touched", path.display())),
                Some(_) => {}
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        for name in ["a", "b", "c", "d"] {
            fs::write(path(name), "x").unwrap();
        }
        let before = Tree::of(directory.path()).unwrap();
        assert_eq!(before.changes(&before.clone(), Path::new("")), Vec::<String>::new());
        fs::write(path("a"), "y").unwrap();
        fs::remove_file(path("b")).unwrap();
        fs::rename(path("d"), path("c")).unwrap();
        fs::create_dir(path("new")).unwrap();
        let after = Tree::of(directory.path()).unwrap();
        assert_eq!(
            before.changes(&after, Path::new("new")),
            ["b is gone", "d is gone", "a has other content", "c is another"]
        );
    }
}
