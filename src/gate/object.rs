//! Which protected object is this? Identity decides, not the string.
//!
//! The path of an event's descriptor is that of the mount it was opened through: an alias where that is a bind
//! mount, and meaningless where the mount belongs to another namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use super::in_force::InForce;
use super::mounts::Mounts;
use crate::marks::MarkTable;
use crate::sys::file::{self, Stat};
use crate::sys::path::FixedPath;
use crate::sys::proc::Proc;
use crate::sys::shared::Creation;
use crate::trie::RuleId;

/// What the resolver found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Governed by this rule, under the canonical path in [`Resolver::path`].
    Protected(RuleId),
    /// A marked directory's other entry, or an exception.
    NotProtected,
    /// It lies in something marked, and that is all that can be told.
    Unresolved,
}

/// Path buffers of one thread.
#[derive(Default)]
pub struct Resolver {
    /// The canonical path; empty when unresolved.
    pub path: FixedPath,
    /// The path it was reached by.
    pub seen: FixedPath,
    scratch: FixedPath,
    /// For one name at a time.
    pub name: FixedPath,
    mounts: Mounts,
}

/// The mark of an unlinked file in /proc (proc(5)).
const DELETED: &[u8] = b" (deleted)";

impl Resolver {
    /// Resolves the object behind `fd`, whose opener is `tid`.
    pub fn resolve(
        &mut self,
        in_force: &InForce,
        table: &MarkTable,
        proc: &Proc,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        tid: i32,
    ) -> Found {
        if proc.path_of(fd, &mut self.seen).is_err() {
            self.seen.clear();
        }
        if stat.links == 0 && self.seen.as_bytes().ends_with(DELETED) {
            self.seen.truncate(self.seen.as_bytes().len() - DELETED.len());
        }
        let Self { path, seen, scratch, name, mounts } = self;
        let resolved = scratch.set(seen.as_bytes()) && canonicalise(scratch, name, path, table, stat)
            || mounts.paths_from_here(proc, tid, stat.mount, seen.as_bytes(), scratch, |candidate| {
                canonicalise(candidate, name, path, table, stat)
            })
            // A file with several names has a mark of its own.
            || table.file(stat.id, path) && names(path, stat)
            // So has one that was made to take a trusted executable's place, wherever it was moved.
            || in_force.writers.remembered.successors.place_of(stat.id, path).is_some()
            || !table.is_complete() && is_protected_name(in_force, seen, path, stat);
        if !resolved {
            path.clear();
            // The mark of a writer's program that is no policy's concern is there to see it being executed.
            let is_uncovered = in_force.writers.is_uncovered(stat.id);
            return if is_uncovered { Found::NotProtected } else { Found::Unresolved };
        }
        self.look_up(in_force)
    }

    /// Resolves the object that was made as `made` says, where its path in the opener's mount means nothing: the
    /// directory is known by its handle, whatever name leads to it.
    pub fn resolve_creation(
        &mut self,
        in_force: &InForce,
        table: &MarkTable,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        made: &Creation,
    ) -> Found {
        let Self { path, name, .. } = self;
        let mut room = [0; file::HANDLE_BYTES];
        let handle = made.directory.load(&mut room);
        let directory = file::open_handle(fd, made.directory_type.load(Relaxed), handle)
            .and_then(|directory| file::stat_fd(directory.as_fd()));
        let mut room = [0; 256];
        let resolved = directory.is_ok_and(|directory| table.directory(directory.id, path))
            && name.set(made.name.load(&mut room))
            && path.push_component(name.as_bytes())
            && file::stat_path(path.as_cstr()).is_ok_and(|found| found.id == stat.id);
        if !resolved {
            path.clear();
            return Found::Unresolved;
        }
        self.look_up(in_force)
    }

    fn look_up(&self, in_force: &InForce) -> Found {
        match in_force.snapshot.trie.lookup(self.path.as_bytes()) {
            Some(rule) => Found::Protected(rule),
            None => Found::NotProtected,
        }
    }
}

/// While the table is being filled again: a name that holds and is protected is believed. One that is not is not,
/// because it may be an alias.
fn is_protected_name(in_force: &InForce, seen: &FixedPath, path: &mut FixedPath, stat: &Stat) -> bool {
    in_force.snapshot.trie.lookup(seen.as_bytes()).is_some()
        && file::stat_path(seen.as_cstr()).is_ok_and(|found| found.id == stat.id)
        && path.set(seen.as_bytes())
}

/// When `guess` names the object and its directory is a marked one: the canonical path into `path`.
///
/// `guess` is used up.
fn canonicalise(
    guess: &mut FixedPath,
    name: &mut FixedPath,
    path: &mut FixedPath,
    table: &MarkTable,
    stat: &Stat,
) -> bool {
    // The name of an unlinked object, or of one that never had one, cannot be checked; its directory can.
    let holds = stat.links == 0 || file::stat_path(guess.as_cstr()).is_ok_and(|found| found.id == stat.id);
    let Some((parent, last)) = split(guess.as_bytes()) else { return false };
    let parent_len = parent.len();
    if !holds || !name.set(last) {
        return false;
    }
    // "/x" has the parent "/".
    guess.truncate(parent_len.max(1));
    // The table knows a directory by its inode number: only while the path it has still names that directory does
    // the path say what governs it.
    file::stat_path_follow(guess.as_cstr()).is_ok_and(|parent| {
        table.directory(parent.id, path)
            && file::stat_path(path.as_cstr()).is_ok_and(|named| named.id == parent.id)
    }) && path.push_component(name.as_bytes())
}

/// Whether `path` names the object. An inode number alone is no identity: it is given away when its file is gone.
pub fn names(path: &FixedPath, object: &Stat) -> bool {
    file::stat_path(path.as_cstr()).is_ok_and(|found| found.id == object.id)
}

/// Directory and last component.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    let name = &path[slash + 1..];
    (path[0] == b'/' && !name.is_empty()).then_some((&path[..slash], name))
}

/// Opens the directory of a canonical path and gives its last component.
pub fn open_parent(path: &[u8], scratch: &mut FixedPath, name: &mut FixedPath) -> Option<OwnedFd> {
    let (parent, last) = split(path)?;
    if !name.set(last) || !scratch.set(if parent.is_empty() { b"/" } else { parent }) {
        return None;
    }
    file::open_path(scratch.as_cstr(), libc::O_DIRECTORY | libc::O_NOFOLLOW).ok()
}
