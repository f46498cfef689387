//! Walks protected trees and marks them. A directory is marked before it is read, so what appears in between is
//! either read or reported.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::groups::{Groups, Written};
use super::table::{MarkKind, MarkTable};
use crate::heal::Content;
use crate::policy::model::Action;
use crate::policy::snapshot::{Root, Snapshot};
use crate::sys::file::{self, Identity};
use crate::sys::path::FixedPath;
use crate::trie::Reach;
use crate::watch::duty_at;

/// Filesystems that hold no files of their own; marking them would only cost.
const PSEUDO_FILESYSTEMS: [libc::c_long; 7] = [
    libc::PROC_SUPER_MAGIC,
    libc::SYSFS_MAGIC,
    libc::CGROUP_SUPER_MAGIC,
    libc::CGROUP2_SUPER_MAGIC,
    libc::DEBUGFS_MAGIC,
    libc::TRACEFS_MAGIC,
    libc::DEVPTS_SUPER_MAGIC,
];

/// Why a directory or file could not be marked.
#[derive(Debug)]
pub struct Unmarked {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// What a walk did.
#[derive(Debug, Default)]
pub struct Report {
    /// Directories and files that were not marked before.
    pub new: usize,
    /// What is not covered although it should be.
    pub unmarked: Vec<Unmarked>,
}

/// Marks for one snapshot.
pub struct Marker<'a> {
    /// Where marks go.
    pub groups: &'a Groups,
    /// What is noted of them.
    pub table: &'a MarkTable,
    /// What to protect.
    pub snapshot: &'a Snapshot,
    /// The number of this walk; marks that it does not see are stale.
    pub walk: u64,
}

impl Marker<'_> {
    /// Marks everything that the snapshot protects.
    pub fn mark_all(&self) -> Report {
        let mut report = Report::default();
        let mut marked = None;
        for root in &self.snapshot.roots {
            self.mark_root_after(root, &mut marked, &mut report);
        }
        self.watch_above(&mut report);
        report
    }

    /// Watches the directories above every root: a tree goes away with any of them.
    fn watch_above(&self, report: &mut Report) {
        let mut above = BTreeSet::new();
        for root in &self.snapshot.roots {
            for directory in root.path.ancestors().skip(1) {
                if !above.insert(directory) {
                    break;
                }
            }
        }
        for directory in above {
            let Ok(name) = CString::new(directory.as_os_str().as_bytes()) else { continue };
            match self.groups.watch_for_entries(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    report.unmarked.push(Unmarked { path: directory.to_owned(), error });
                }
                _ => {}
            }
        }
    }

    /// Takes off the marks of earlier walks that this one did not see.
    pub fn remove_stale(&self) {
        for (kind, id, path) in self.table.take_stale(self.walk) {
            let Ok(path) = CString::new(path.into_vec()) else { continue };
            // Marks come off by path: another object that has that path now keeps its own.
            if !names(&path, id) {
                continue;
            }
            match kind {
                MarkKind::Directory => self.groups.unmark_directory(&path),
                MarkKind::File => self.groups.unmark_file(&path),
            }
        }
        for (id, path) in self.table.take_unwanted_truncations() {
            if let Ok(path) = CString::new(path.into_vec())
                && names(&path, id)
            {
                self.groups.unmark_truncations(&path);
            }
        }
    }

    /// `path` has just appeared: marks what of it is protected, and the roots that waited for it.
    pub fn mark_new(&self, path: &Path) -> Report {
        let mut report = Report::default();
        let Ok(metadata) = std::fs::symlink_metadata(path) else { return report };
        if metadata.is_dir() {
            self.mark_tree(path, &mut report);
        } else {
            self.mark_file(path, &metadata, &mut report);
        }
        for root in self.snapshot.roots_below(path) {
            self.mark_root(root, &mut report);
        }
        report
    }

    /// Marks one root, or the place where it will appear.
    pub fn mark_root(&self, root: &Root, report: &mut Report) {
        self.mark_root_after(root, &mut None, report);
    }

    /// `marked`: the directory that the root before this one has just had marked. Roots are in the order of their
    /// paths, so the files of one directory follow each other, and it is marked for the first of them.
    fn mark_root_after<'r>(&self, root: &'r Root, marked: &mut Option<&'r Path>, report: &mut Report) {
        match std::fs::symlink_metadata(&root.path) {
            Ok(metadata) if metadata.is_dir() => match root.reach {
                Reach::Tree => self.mark_tree(&root.path, report),
                Reach::Entries | Reach::File => {
                    self.mark_directory(&root.path, report);
                }
            },
            Ok(metadata) => {
                let parent = root.path.parent();
                if *marked != parent {
                    self.mark_parent(&root.path, report);
                    *marked = parent;
                }
                self.mark_file(&root.path, &metadata, report);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.watch_for(&root.path, report),
            Err(error) => report.unmarked.push(Unmarked { path: root.path.clone(), error }),
        }
    }

    /// A path that does not exist yet: its parent is marked if that is there, else the nearest ancestor that is
    /// there is watched for the next component.
    fn watch_for(&self, path: &Path, report: &mut Report) {
        if path.parent().is_some_and(Path::is_dir) {
            self.mark_parent(path, report);
            return;
        }
        let Some(ancestor) = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()) else { return };
        let Ok(name) = CString::new(ancestor.as_os_str().as_bytes()) else { return };
        if let Err(error) = self.groups.watch_for_entries(&name) {
            report.unmarked.push(Unmarked { path: path.to_owned(), error });
        }
    }

    fn mark_parent(&self, path: &Path, report: &mut Report) {
        if let Some(parent) = path.parent() {
            self.mark_directory(parent, report);
        }
    }

    /// Marks `top` and every directory below it that something protects.
    pub fn mark_tree(&self, top: &Path, report: &mut Report) {
        let mut seen = HashSet::new();
        let mut waiting = vec![top.to_owned()];
        while let Some(directory) = waiting.pop() {
            if !self.concerns(&directory) || is_pseudo(&directory) {
                continue;
            }
            let Some(id) = self.mark_directory(&directory, report) else { continue };
            // A directory that is mounted below itself must not send us round for ever.
            if !seen.insert(id) {
                continue;
            }
            if let Err(error) = self.mark_entries(&directory, &mut waiting, report) {
                report.unmarked.push(Unmarked { path: directory, error });
            }
        }
    }

    fn mark_entries(
        &self,
        directory: &Path,
        waiting: &mut Vec<PathBuf>,
        report: &mut Report,
    ) -> io::Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() && entry.ino() != 0 {
                // An entry that vanished meanwhile needs no mark.
                if let Ok(metadata) = entry.metadata()
                    && metadata.nlink() > 1
                {
                    self.mark_file(&entry.path(), &metadata, report);
                }
            }
        }
        Ok(())
    }

    /// Whether anything in or below `directory` is protected.
    fn concerns(&self, directory: &Path) -> bool {
        let path = directory.as_os_str().as_bytes();
        self.snapshot.trie.below(path) || self.is_guarded(path)
    }

    /// Whether a policy that blocks or audits governs `path`.
    fn is_guarded(&self, path: &[u8]) -> bool {
        self.snapshot.rule_for(path).is_some_and(|rule| {
            rule.policies
                .iter()
                .any(|&index| self.snapshot.policies[index as usize].policy.action != Action::Allow)
        })
    }

    /// Whether truncations of what `path` names are to be seen. Of a directory the answer is that of its entries:
    /// what governs it covers those that have no rule of their own, and those that have are asked for themselves.
    fn sees_truncations(&self, path: &Path) -> bool {
        self.snapshot.rule_for(path.as_os_str().as_bytes()).is_some_and(|rule| {
            rule.policies
                .iter()
                .any(|&index| self.snapshot.policies[index as usize].policy.sees_truncations())
        })
    }

    fn mark_directory(&self, path: &Path, report: &mut Report) -> Option<Identity> {
        let name = CString::new(path.as_os_str().as_bytes()).ok()?;
        let truncations = self.sees_truncations(path);
        let marked = file::stat_path(&name).and_then(|stat| {
            self.groups.mark_directory(&name, self.content_of(path), truncations)?;
            Ok(stat.id)
        });
        match marked {
            Ok(id) => {
                self.forget_former(MarkKind::Directory, id);
                let bytes = path.as_os_str().as_bytes();
                if self.table.insert(MarkKind::Directory, id, bytes, self.walk, truncations) {
                    report.new += 1;
                }
                Some(id)
            }
            // It is gone again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                report.unmarked.push(Unmarked { path: path.to_owned(), error });
                None
            }
        }
    }

    /// Whether writing in this directory's files is of interest: everybody may write where it is not kept.
    fn content_of(&self, directory: &Path) -> Written {
        let kept = duty_at(self.snapshot, directory).content == Content::Fixed;
        if kept || self.snapshot.trie.below(directory.as_os_str().as_bytes()) {
            Written::Reported
        } else {
            Written::Ignored
        }
    }

    /// The first path of an object stays, but only while it names the object: an inode number is soon given to
    /// another, and that one must not be governed by what governed the first.
    fn forget_former(&self, kind: MarkKind, id: Identity) {
        let mut former = FixedPath::default();
        let known = match kind {
            MarkKind::Directory => self.table.directory(id, &mut former),
            MarkKind::File => self.table.file(id, &mut former),
        };
        if known && !names(former.as_cstr(), id) {
            self.table.forget(kind, id);
        }
    }

    /// Marks a regular file that has several names: the others may lie outside every marked directory. One that has
    /// a single name is marked where its truncations are to be seen and its directory is not marked for them: so a
    /// protected file does not cost its neighbours' readers anything.
    pub fn mark_file(&self, path: &Path, metadata: &std::fs::Metadata, report: &mut Report) {
        if !metadata.is_file() || !self.is_guarded(path.as_os_str().as_bytes()) {
            return;
        }
        let truncations = self.sees_truncations(path);
        let directory_sees = || path.parent().is_some_and(|parent| self.sees_truncations(parent));
        if metadata.nlink() < 2 && (!truncations || directory_sees()) {
            return;
        }
        let id = Identity { dev: metadata.dev(), ino: metadata.ino() };
        self.mark_inode(path, id, report);
    }

    /// Marks a regular file itself: whatever name it gets, its opens are seen, and that it got one.
    pub fn mark_inode(&self, path: &Path, id: Identity, report: &mut Report) {
        let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return };
        let truncations = self.sees_truncations(path);
        match self.groups.mark_file(&name, truncations) {
            Ok(()) => {
                self.forget_former(MarkKind::File, id);
                let bytes = path.as_os_str().as_bytes();
                if self.table.insert(MarkKind::File, id, bytes, self.walk, truncations) {
                    report.new += 1;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => report.unmarked.push(Unmarked { path: path.to_owned(), error }),
        }
    }
}

/// Whether `path` is a name of `id` now.
fn names(path: &CStr, id: Identity) -> bool {
    file::stat_path(path).is_ok_and(|found| found.id == id)
}

/// Whether `directory` lies on a filesystem such as proc.
fn is_pseudo(directory: &Path) -> bool {
    nix::sys::statfs::statfs(directory)
        .is_ok_and(|found| PSEUDO_FILESYSTEMS.contains(&(found.filesystem_type().0 as libc::c_long)))
}
