//! One name: what is there against what should be.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::action::{Action, Change, Did, Duty, Hint};
use super::expected::Expected;
use super::failure::Failure;
use super::healer::{Healer, Round};
use super::mend::has_metadata;
use super::object::{Object, c_name, is};
use crate::sys::inode::{self, FLAGS_BLOCKING, Inode};
use crate::sys::{file, names, reach};

/// How often a name that changes meanwhile is looked at again.
const TRIES: usize = 8;
/// How far up missing or replaced parents are put right first.
const PARENTS_MAX: usize = 64;

/// The place of a name.
pub(super) struct Place<'a> {
    pub parent: &'a Object,
    pub directory: &'a Path,
    pub mount: u64,
    pub name: &'a CStr,
    pub path: &'a Path,
}

/// What is to be done there.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub expected: &'a Expected,
    pub duty: Duty,
    pub change: &'a Change,
}

impl Healer {
    /// Puts right what is at `path`, and what has to be right before or after it. Nothing to do, nothing returned.
    pub fn reconcile(&mut self, path: &Path, hint: &Hint) -> Vec<Action> {
        let mut round = Round::new(hint);
        if let Some(wait) = self.fights.hold_off(path, round.started) {
            round.push(Action::new(path.to_owned(), Did::Deferred(wait)));
            return round.actions;
        }
        self.queue.push_back((path.to_owned(), hint.change.clone()));
        self.drain(&mut round);
        if round.actions.iter().any(|action| action.path == path && action.healed())
            && let Some(heals) = self.fights.note(path, Instant::now())
        {
            round.push(Action::new(path.to_owned(), Did::Escalated { heals }));
        }
        round.actions
    }

    /// When [`Healer::due`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        if self.linked.is_empty() { self.fights.next_due() } else { Some(Instant::now()) }
    }

    /// Reconciles the paths that were deferred and have waited long enough, and goes on with further names of files.
    pub fn due(&mut self) -> Vec<Action> {
        let due = self.fights.take_due(Instant::now());
        let mut actions: Vec<_> =
            due.iter().flat_map(|path| self.reconcile(path, &Hint::default())).collect();
        if let Some(path) = self.linked.pop_first() {
            actions.extend(self.take_links_away(&path, &path));
            actions.extend(self.reconcile(&path, &Hint::default()));
            actions.extend(self.count_names(&path));
        }
        actions
    }

    /// Works off the queue, and sets times and flags of the directories it changed.
    pub(super) fn drain(&mut self, round: &mut Round<'_>) {
        while let Some((path, change)) = self.queue.pop_front() {
            self.settle(&path, &change, round, 0);
            if !self.away.is_empty() {
                self.finish();
                self.keep_evidence(round);
            }
        }
        self.finish();
    }

    /// The tree is right; what was taken out of it gets its note.
    fn keep_evidence(&mut self, round: &mut Round<'_>) {
        for away in std::mem::take(&mut self.away) {
            let taken = self.quarantine.keep(away, &round.hint.subject);
            let is_of = |action: &Action| action.quarantine.as_ref() == Some(&taken.id);
            if let Some(action) = round.actions.iter_mut().rfind(|action| is_of(action)) {
                action.blake3 = taken.blake3;
            }
            if let Some(action) = round.actions.last_mut() {
                action.dropped.extend(taken.dropped);
            }
        }
    }

    fn settle(&mut self, path: &Path, change: &Change, round: &mut Round<'_>, depth: usize) {
        let duty = (self.duties)(path);
        if duty == Duty::NONE || depth > PARENTS_MAX {
            return;
        }
        // The same would come out after several looks for each name.
        if reach::is_covered(path.as_os_str().as_bytes()) {
            return round.push(Action::new(path.to_owned(), Did::Failed(Failure::MountedOver)));
        }
        let mut unblocked = false;
        for _ in 0..TRIES {
            match self.attempt(path, duty, change, round, depth) {
                Ok(Some(action)) => return round.push(action),
                Ok(None) => return,
                Err(Failure::Raced) => {}
                Err(failure) if failure.is(libc::EPERM) && !unblocked => {
                    unblocked = true;
                    if let Some(parent) = path.parent() {
                        self.unblock(parent);
                    }
                }
                Err(failure) => return round.push(Action::new(path.to_owned(), Did::Failed(failure))),
            }
        }
        round.push(Action::new(path.to_owned(), Did::Failed(Failure::Raced)));
    }

    fn attempt(
        &mut self,
        path: &Path,
        duty: Duty,
        change: &Change,
        round: &mut Round<'_>,
        depth: usize,
    ) -> Result<Option<Action>, Failure> {
        let expected = self.inventory.get(path);
        let wanted = expected.is_some() && duty.names;
        let Some((parent, mount)) = self.parent_of(path, wanted, round, depth)? else { return Ok(None) };
        let name = c_name(path).map_err(Failure::of("name"))?;
        let directory = path.parent().unwrap_or(path);
        let place = Place { parent: &parent, directory, mount, name: &name, path };
        // The root of the tree has no name.
        let found = if name.is_empty() { Object::at_path(path) } else { parent.child(&name) };
        let object = match found {
            Ok(object) => object,
            Err(error) if is(&error, libc::ENOENT) => {
                return match expected {
                    Some(expected) if duty.names => {
                        let task = Task { expected: &expected, duty, change };
                        self.restore(&place, task).map(Some)
                    }
                    Some(_) => {
                        self.forget(path);
                        Ok(None)
                    }
                    None => Ok(None),
                };
            }
            Err(error) => return Err(Failure::of("open")(error)),
        };
        let inode = object.inode().map_err(Failure::of("statx"))?;
        if self.is_own(&inode) {
            return Ok(None);
        }
        match expected {
            // Of a directory that is not learned yet only what has just appeared is known to be foreign.
            None if duty.foreign && !round.hint.appeared && self.is_unlearned(directory) => Ok(None),
            None if duty.foreign => {
                let mut action = Action::new(path.to_owned(), Did::Removed);
                self.dispose(&place, &mut action)?;
                Ok(Some(action))
            }
            Some(expected) if self.is_same(&expected, &inode, &object) => {
                let task = Task { expected: &expected, duty, change };
                match self.mend(&object, &inode, path, task) {
                    // A program that runs cannot be written to: another file takes its place.
                    Err(failure) if failure.is(libc::ETXTBSY) => self.replace(&place, task, true).map(Some),
                    mended => mended,
                }
            }
            Some(expected) if duty.names => {
                if inode.mount != mount {
                    return Err(Failure::MountedOver);
                }
                // Behind an unmounted filesystem there is always a directory: it is what it was, and no intruder's.
                if expected.is_dir() && inode.is_dir() && expected.id.dev != inode.id.dev {
                    return Err(Failure::NotMounted);
                }
                let task = Task { expected: &expected, duty, change };
                self.replace(&place, task, false).map(Some)
            }
            // Whatever is here may be here.
            _ => {
                self.learn_tree(path);
                Ok(Some(Action::new(path.to_owned(), Did::Learned)))
            }
        }
    }

    /// The directory of `path` and its mount, put right first where it is not the expected one. `None`: there is
    /// none and none is wanted.
    fn parent_of(
        &mut self,
        path: &Path,
        wanted: bool,
        round: &mut Round<'_>,
        depth: usize,
    ) -> Result<Option<(Object, u64)>, Failure> {
        let directory = path.parent().unwrap_or(path);
        for last in [false, true] {
            let found = Object::at_path(directory).and_then(|object| Ok((object.inode()?, object)));
            match found {
                Ok((inode, object)) if inode.is_dir() => {
                    let expected = self.inventory.get(directory);
                    if expected.is_none_or(|expected| expected.id == inode.id) {
                        return Ok(Some((object, inode.mount)));
                    }
                    if last {
                        // What is in there now is somebody else's.
                        return Err(Failure::MountedOver);
                    }
                }
                _ if !wanted => return Ok(None),
                Ok(_) if last => return Err(Failure::Call { call: "open", errno: libc::ENOTDIR }),
                Err(error) if last => return Err(Failure::of("open")(error)),
                _ => {}
            }
            if self.inventory.contains(directory) {
                self.settle(directory, &Change::Unknown, round, depth + 1);
            } else if depth < PARENTS_MAX
                && directory != path
                && let Some((above, _)) = self.parent_of(directory, wanted, round, depth + 1)?
            {
                // Nobody said how an unprotected directory should look; a protected file needs one.
                let name = c_name(directory).map_err(Failure::of("name"))?;
                if names::make_dir(above.as_fd(), &name, 0o755).is_ok() {
                    let mut action = Action::new(directory.to_owned(), Did::Made);
                    action.new_inode = true;
                    round.push(action);
                }
            }
        }
        Ok(None)
    }

    /// Whether what is there is the expected object. A symbolic link that nothing holds is what it points to.
    fn is_same(&self, expected: &Expected, inode: &Inode, object: &Object) -> bool {
        expected.file_type() == inode.file_type()
            && (expected.id == inode.id
                || expected.is_link()
                    && self.vault.link_of(expected.id).is_none()
                    && object.target().is_ok_and(|target| target == expected.target()))
    }

    /// Takes the flags off a directory that forbid changing its entries; [`Healer::finish`] sets them back.
    pub(super) fn unblock(&mut self, directory: &Path) {
        let Ok(object) = Object::at_path(directory) else { return };
        let Ok(inode) = object.inode() else { return };
        if self.inventory.get(directory).is_some_and(|expected| expected.id != inode.id) {
            return;
        }
        if inode.is_blocked() && object.unblock(&inode).is_ok() {
            *self.touched.entry(directory.to_owned()).or_default() |= inode.flags;
        }
    }

    /// The entries of this directory were changed by us.
    pub(super) fn touch(&mut self, directory: &Path) {
        self.touched.entry(directory.to_owned()).or_default();
    }

    /// An entry of `directory` was taken away by ourselves: its time is set back.
    pub fn tidy(&mut self, directory: &Path) {
        self.touch(directory);
        self.finish();
    }

    /// Moves what is at `place` to the quarantine; a further name of an object that the vault holds just goes.
    pub(super) fn dispose(&mut self, place: &Place<'_>, action: &mut Action) -> Result<(), Failure> {
        self.touch(place.directory);
        let object = place.parent.child(place.name).map_err(Failure::of("open"))?;
        let inode = object.inode().map_err(Failure::of("statx"))?;
        if !inode.is_dir() && self.vault.link_of(inode.id).is_some() {
            return unlink_alias(place, &object, &inode, action);
        }
        let away = self.quarantine.take(place.parent, place.name, place.path, &object)?;
        action.quarantine = Some(away.id().to_owned());
        self.away.push(away);
        Ok(())
    }

    /// Sets times and flags of changed directories to what they should be.
    fn finish(&mut self) {
        for (directory, flags) in std::mem::take(&mut self.touched) {
            let Ok(object) = Object::at_path(&directory) else { continue };
            let Ok(inode) = object.inode() else { continue };
            let expected = self.inventory.get(&directory).filter(|expected| expected.id == inode.id);
            let Some(mut expected) = expected else {
                if flags != 0 {
                    let _ = object.set_flags(flags);
                }
                continue;
            };
            let duty = (self.duties)(&directory);
            let (mut set, mut is_right) = (inode.flags, true);
            if duty.foreign && inode.mtime != expected.mtime {
                // A flag that somebody has set just now would forbid it.
                if inode.is_blocked() && object.unblock(&inode).is_ok() {
                    set &= !FLAGS_BLOCKING;
                }
                is_right = object.set_mtime(expected.mtime).is_ok();
            } else {
                expected.mtime = inode.mtime;
            }
            let wanted = if duty.metadata { expected.flags } else { inode.flags | flags };
            if set != wanted {
                let _ = object.set_flags(wanted);
            }
            self.mended.insert(directory.clone());
            if let Ok(inode) = object.inode() {
                // What else was changed is not put right here, and must not look untouched.
                if is_right && (!duty.metadata || has_metadata(&object, &inode, &expected)) {
                    expected.ctime = inode.ctime;
                }
                self.inventory.put(&directory, &expected);
            }
        }
    }

    /// Queues what is in `directory` but not expected, and what is expected but not there or not the same.
    pub(super) fn queue_entries(&mut self, directory: &Path, object: &Object) {
        if self.is_unlearned(directory) {
            return;
        }
        let mut found: std::collections::HashSet<_> =
            object.entries().unwrap_or_default().into_iter().collect();
        let mut queue = Vec::new();
        for (path, expected) in self.inventory.children(directory) {
            let Ok(name) = c_name(path) else { continue };
            let now = found.remove(&name).then(|| inode::of_name(object.as_fd(), &name));
            match now {
                Some(Ok(now)) if expected.is_untouched(&now) => {
                    // After a restart nobody knows any more how many names it had.
                    if !now.is_dir() && now.links > 1 {
                        self.vault.note_links(now.id, now.links);
                    }
                }
                _ => queue.push(path.to_owned()),
            }
        }
        queue.extend(found.iter().map(|name| super::object::join(directory, name)));
        self.queue.extend(queue.into_iter().map(|path: PathBuf| (path, Change::Unknown)));
    }
}

/// Takes away one name of an object that has others.
fn unlink_alias(
    place: &Place<'_>,
    object: &Object,
    inode: &Inode,
    action: &mut Action,
) -> Result<(), Failure> {
    object.unblock(inode).map_err(Failure::of("chattr"))?;
    let unlinked = file::unlink_at(place.parent.as_fd(), place.name);
    if inode.is_blocked() {
        object.set_flags(inode.flags).map_err(Failure::of("chattr"))?;
    }
    if action.did == Did::Removed {
        action.did = Did::Unlinked;
    }
    unlinked.map_err(Failure::of("unlink"))
}
