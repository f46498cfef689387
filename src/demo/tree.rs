//! What a directory looks like, to compare afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::heal::{Expected, Inventory};
use crate::sys::inode::Time;

/// What an entry is. The times and sizes of directories change with every refused creation and are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    expected: Expected,
    content: Vec<u8>,
    /// Any change of a file moves it, and so does putting it back.
    changed_at: Time,
}

impl Entry {
    fn of(path: &Path) -> io::Result<Self> {
        let mut inventory = Inventory::new(false);
        inventory.take(path)?;
        let mut expected = inventory.get(path).ok_or(io::ErrorKind::NotFound)?;
        let mut changed_at = std::mem::take(&mut expected.ctime);
        if expected.is_dir() {
            changed_at = Time::default();
            (expected.size, expected.mtime) = (0, Time::default());
        }
        let content = if expected.is_file() { fs::read(path)? } else { Vec::new() };
        Ok(Self { expected, content, changed_at })
    }
}

/// How closely two looks at a tree are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Same {
    /// Nothing has happened in between.
    Untouched,
    /// Whatever has happened was put right.
    Restored,
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
            let entry = Entry::of(&top.join(&below))?;
            let is_directory = entry.expected.is_dir();
            self.0.insert(below.clone(), entry);
            if is_directory {
                self.add(top, &below)?;
            }
        }
        Ok(())
    }

    /// What is different in `later`, but for the mere existence of `expected`.
    pub fn changes(&self, later: &Self, expected: &Path, same: Same) -> Vec<String> {
        let gone = self.0.keys().filter(|path| !later.0.contains_key(*path));
        let mut changes: Vec<_> = gone.map(|path| format!("{} is gone", path.display())).collect();
        for (path, after) in &later.0 {
            match self.0.get(path) {
                None if path == expected => {}
                None => changes.push(format!("{} is new", path.display())),
                Some(before) if before.expected.id != after.expected.id => {
                    changes.push(format!("{} is another", path.display()));
                }
                Some(before) if before.content != after.content => {
                    changes.push(format!("{} has other content", path.display()));
                }
                Some(before)
                    if before.expected != after.expected
                        || same == Same::Untouched && before.changed_at != after.changed_at =>
                {
                    changes.push(format!("{} was touched", path.display()));
                }
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
        assert_eq!(before.changes(&before.clone(), Path::new(""), Same::Untouched), Vec::<String>::new());
        fs::write(path("a"), "y").unwrap();
        fs::remove_file(path("b")).unwrap();
        fs::rename(path("d"), path("c")).unwrap();
        fs::create_dir(path("new")).unwrap();
        let after = Tree::of(directory.path()).unwrap();
        assert_eq!(
            before.changes(&after, Path::new("new"), Same::Untouched),
            ["b is gone", "d is gone", "a has other content", "c is another"]
        );
        // A change of mode that was taken back leaves its time.
        let before = after;
        for mode in [0o600, 0o644] {
            fs::set_permissions(path("a"), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let after = Tree::of(directory.path()).unwrap();
        assert_eq!(before.changes(&after, Path::new(""), Same::Untouched), ["a was touched"]);
        assert_eq!(before.changes(&after, Path::new(""), Same::Restored), Vec::<String>::new());
    }
}
