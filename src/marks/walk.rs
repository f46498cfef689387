//! Marks what a snapshot protects. A directory is marked before it is read, so what appears in between is either
//! read or reported.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::groups::{Groups, Wanted, Written};
use super::table::{MarkKind, MarkTable};
use super::tree::TreeWalk;
use crate::heal::Content;
use crate::policy::model::Action;
use crate::policy::snapshot::{Root, Snapshot};
use crate::sys::file::{self, Identity, Stat};
use crate::sys::{directory, reach};
use crate::trie::Reach;
use crate::watch::duty_at;

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

impl Report {
    /// Adds what another thread did.
    pub(super) fn merge(&mut self, other: Self) {
        self.new += other.new;
        self.unmarked.extend(other.unmarked);
    }

    /// Notes what should be covered and is not. What is gone again needs no cover.
    pub(super) fn uncovered(&mut self, path: &[u8], error: io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.unmarked.push(Unmarked { path: OsStr::from_bytes(path).into(), error });
        }
    }
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
        let mut beside = None;
        for root in self.snapshot.roots() {
            self.mark_root(root, &mut beside, &mut report);
        }
        self.watch_above(&mut report);
        report
    }

    /// Watches the directories above every root: a tree goes away with any of them.
    fn watch_above(&self, report: &mut Report) {
        let mut above = BTreeSet::new();
        for root in self.snapshot.roots() {
            for directory in root.path.ancestors().skip(1) {
                if !above.insert(directory) {
                    break;
                }
            }
        }
        for directory in above {
            let Some(name) = named(directory) else { continue };
            match self.groups.watch_for_entries(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    report.uncovered(name.to_bytes(), error);
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
        let Some(name) = named(path) else { return report };
        let Ok(stat) = stat(&name) else { return report };
        if stat.file_type() == libc::S_IFDIR {
            TreeWalk::new(self).run(name, &mut report);
        } else {
            self.mark_file(&name, &stat, &mut report);
        }
        for root in self.snapshot.roots_below(path) {
            self.mark_root(root, &mut None, &mut report);
        }
        report
    }

    /// Marks one root, or the place where it will appear.
    ///
    /// `beside`: the directory of the root before this one. Roots are in the order of their paths, so the files of one
    /// directory follow each other, and it is opened and marked for the first of them.
    fn mark_root<'r>(&self, root: Root<'r>, beside: &mut Option<Beside<'r>>, report: &mut Report) {
        let Some(name) = named(root.path) else { return };
        let parent = root.path.parent();
        if beside.as_ref().map(|beside| beside.path) != parent {
            *beside = parent.and_then(Beside::open);
        }
        let found = beside.as_ref().map_or_else(|| stat(&name), |beside| beside.stat(root.path, &name));
        match found {
            Ok(stat) if stat.file_type() == libc::S_IFDIR => match root.reach {
                Reach::Tree => TreeWalk::new(self).run(name, report),
                Reach::Entries | Reach::File => self.mark_directory(root.path, report),
            },
            Ok(stat) => {
                if !beside.as_mut().is_some_and(|beside| std::mem::replace(&mut beside.is_marked, true)) {
                    self.mark_parent(root.path, report);
                }
                self.mark_file(&name, &stat, report);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.watch_for(root.path, report),
            Err(error) => report.uncovered(name.to_bytes(), error),
        }
    }

    /// A path that does not exist yet: its parent is marked if that is there, else the nearest ancestor that is
    /// there is watched for the next component.
    fn watch_for(&self, path: &Path, report: &mut Report) {
        if path.parent().is_some_and(is_dir) {
            self.mark_parent(path, report);
            return;
        }
        let Some(ancestor) = path.ancestors().skip(1).find(|ancestor| is_dir(ancestor)) else { return };
        let Some(name) = named(ancestor) else { return };
        if let Err(error) = self.groups.watch_for_entries(&name) {
            report.unmarked.push(Unmarked { path: path.to_owned(), error });
        }
    }

    fn mark_parent(&self, path: &Path, report: &mut Report) {
        if let Some(parent) = path.parent() {
            self.mark_directory(parent, report);
        }
    }

    fn mark_directory(&self, path: &Path, report: &mut Report) {
        let Some(name) = named(path) else { return };
        let marked = directory::open(&name).and_then(|directory| {
            let id = file::stat_fd(directory.as_fd())?.id;
            self.mark_open_directory(directory.as_fd(), id, name.to_bytes(), report)
        });
        if let Err(error) = marked {
            report.uncovered(name.to_bytes(), error);
        }
    }

    /// Marks the directory behind the descriptor, which was opened by `path`.
    pub(super) fn mark_open_directory(
        &self,
        directory: BorrowedFd<'_>,
        id: Identity,
        path: &[u8],
        report: &mut Report,
    ) -> io::Result<()> {
        let wanted = Wanted { written: self.written_in(path), truncations: self.sees_truncations(path) };
        self.groups.mark_directory(directory, wanted)?;
        self.note(MarkKind::Directory, id, path, wanted.truncations, report);
        Ok(())
    }

    /// Whether writing in this directory's files is of interest: everybody may write where it is not kept.
    fn written_in(&self, directory: &[u8]) -> Written {
        let kept = duty_at(self.snapshot, Path::new(OsStr::from_bytes(directory))).content == Content::Fixed;
        if kept || self.snapshot.trie.below(directory) { Written::Reported } else { Written::Ignored }
    }

    /// Whether truncations of what `path` names are to be seen. Of a directory the answer is that of its entries:
    /// what governs it covers those that have no rule of their own, and those that have are asked for themselves.
    fn sees_truncations(&self, path: &[u8]) -> bool {
        self.snapshot.rule_for(path).is_some_and(|rule| {
            rule.policies
                .iter()
                .any(|&index| self.snapshot.policies[index as usize].policy.sees_truncations())
        })
    }

    /// Marks a regular file that has several names: the others may lie outside every marked directory. One that has
    /// a single name is marked where its truncations are to be seen and its directory is not marked for them: so a
    /// protected file does not cost its neighbours' readers anything.
    pub(super) fn mark_file(&self, path: &CStr, stat: &Stat, report: &mut Report) {
        if stat.file_type() != libc::S_IFREG || !self.is_guarded(path.to_bytes()) {
            return;
        }
        let directory = |path: &CStr| {
            let path = path.to_bytes();
            path.iter()
                .rposition(|&byte| byte == b'/')
                .is_some_and(|end| self.sees_truncations(&path[..end.max(1)]))
        };
        if stat.links < 2 && (!self.sees_truncations(path.to_bytes()) || directory(path)) {
            return;
        }
        self.mark_named(path, stat.id, report);
    }

    /// Marks a regular file itself: whatever name it gets, its opens are seen, and that it got one.
    pub fn mark_inode(&self, path: &Path, id: Identity, report: &mut Report) {
        if let Some(name) = named(path) {
            self.mark_named(&name, id, report);
        }
    }

    fn mark_named(&self, path: &CStr, id: Identity, report: &mut Report) {
        let truncations = self.sees_truncations(path.to_bytes());
        match self.groups.mark_file(path, truncations) {
            Ok(()) => self.note(MarkKind::File, id, path.to_bytes(), truncations, report),
            Err(error) => report.uncovered(path.to_bytes(), error),
        }
    }

    /// Into the table. The first path of an object stays, but only while it names the object: an inode number is soon
    /// given to another, and that one must not be governed by what governed the first.
    fn note(&self, kind: MarkKind, id: Identity, path: &[u8], truncations: bool, report: &mut Report) {
        if let Some(former) = self.table.other_path(kind, id, path)
            && !CString::new(former).is_ok_and(|former| names(&former, id))
        {
            self.table.forget(kind, id);
        }
        if self.table.insert(kind, id, path, self.walk, truncations) {
            report.new += 1;
        }
    }

    /// Whether anything in or below the directory at `path` is protected.
    pub(super) fn concerns(&self, path: &[u8]) -> bool {
        self.is_guarded(path) || self.snapshot.trie.below(path)
    }

    /// Whether a policy that blocks or audits governs `path`.
    fn is_guarded(&self, path: &[u8]) -> bool {
        self.snapshot.rule_for(path).is_some_and(|rule| {
            rule.policies
                .iter()
                .any(|&index| self.snapshot.policies[index as usize].policy.action != Action::Allow)
        })
    }
}

/// The directory of a root.
struct Beside<'r> {
    path: &'r Path,
    directory: OwnedFd,
    is_marked: bool,
}

impl<'r> Beside<'r> {
    fn open(path: &'r Path) -> Option<Self> {
        let directory = reach::open(path.as_os_str().as_bytes(), libc::O_PATH | libc::O_DIRECTORY, 0).ok()?;
        Some(Self { path, directory, is_marked: false })
    }

    fn stat(&self, path: &Path, whole: &CStr) -> io::Result<Stat> {
        let Some(Ok(name)) = path.file_name().map(|name| CString::new(name.as_bytes())) else {
            return stat(whole);
        };
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        file::stat_fd(reach::open_in(self.directory.as_fd(), &name, whole.to_bytes(), flags)?.as_fd())
    }
}

/// The path for a kernel call; one with a NUL in it names nothing, and one that something is mounted over nothing that
/// is protected.
fn named(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok().filter(|path| !reach::is_covered(path.to_bytes()))
}

fn is_dir(path: &Path) -> bool {
    reach::open(path.as_os_str().as_bytes(), libc::O_PATH | libc::O_DIRECTORY, 0).is_ok()
}

/// What a path names, without asking what came over it.
fn stat(path: &CStr) -> io::Result<Stat> {
    file::stat_fd(reach::open(path.to_bytes(), libc::O_PATH | libc::O_NOFOLLOW, 0)?.as_fd())
}

/// Whether `path` is a name of `id` now.
fn names(path: &CStr, id: Identity) -> bool {
    file::stat_path(path).is_ok_and(|found| found.id == id)
}
