//! The right object, but changed: metadata and content are set back.

use std::path::Path;

use super::action::{Action, Change, Content, Did, Duty};
use super::content;
use super::expected::{Expected, Xattr};
use super::failure::Failure;
use super::healer::Healer;
use super::object::{Object, is};
use super::reconcile::Task;
use super::vault::Copy;
use crate::access::Mutation;
use crate::sys::inode::Inode;

impl Healer {
    /// Makes the object what is expected; nothing to do, nothing returned.
    pub(super) fn mend(
        &mut self,
        object: &Object,
        inode: &Inode,
        path: &Path,
        task: Task<'_>,
    ) -> Result<Option<Action>, Failure> {
        let Task { expected, duty, change, .. } = task;
        let is_left = duty.content == Content::Fixed && self.fluid.leaves(path, change);
        let duty = if is_left { Duty { content: Content::Free, ..duty } } else { duty };
        if inode.is_dir() && *change == Change::Unknown {
            self.queue_entries(path, object);
        }
        // What somebody was seen to change is compared whatever its change time says: that has the grain of a tick.
        if expected.is_untouched(inode) && *change == Change::Unknown {
            return Ok(None);
        }
        let mut action = Action::new(path.to_owned(), Did::Metadata);
        let mut work = Work { object, expected, duty, cleared: !inode.is_blocked(), did: false, what: None };
        let content = self.mend_content(&mut work, inode, path, Task { duty, ..task }, &mut action);
        // Even where the content cannot be set back, the rest can.
        if let Err(failure) = content
            && failure.is(libc::ETXTBSY)
        {
            return Err(failure);
        }
        work.metadata(inode)?;
        if inode.is_dir() && duty.foreign && inode.mtime != expected.mtime {
            self.touch(path);
            // With its entries its time changes by itself; somebody who is reported has set it.
            if *change == Change::Metadata {
                work.unblock(Some(Mutation::Utimes))?;
            }
        }
        let did = work.did;
        action.metadata = work.what;
        self.note(object, path, expected, task.duty, content.is_ok() && !is_left)?;
        content?;
        Ok((did || action.did == Did::Content).then_some(action))
    }

    /// Writes down how the object looks now that it is right: its change time, and what may change freely.
    fn note(
        &mut self,
        object: &Object,
        path: &Path,
        expected: &Expected,
        duty: Duty,
        right: bool,
    ) -> Result<(), Failure> {
        let now = object.inode().map_err(Failure::of("statx"))?;
        let mut noted = if duty.metadata {
            expected.clone()
        } else {
            Expected::take(object).map_err(Failure::of("statx"))?
        };
        (noted.size, noted.mtime) = (expected.size, expected.mtime);
        if duty.content != Content::Fixed || now.is_dir() && !duty.foreign {
            (noted.size, noted.mtime) = (now.size, now.mtime);
        }
        noted.id = now.id;
        // What is not right, or not any more, must not look untouched.
        let alike = !now.is_file() || (now.size, now.mtime) == (noted.size, noted.mtime);
        if right && alike && (!duty.metadata || has_metadata(object, &now, expected)) {
            noted.ctime = now.ctime;
        }
        self.inventory.put(path, &noted);
        Ok(())
    }

    fn mend_content(
        &mut self,
        work: &mut Work<'_>,
        inode: &Inode,
        path: &Path,
        task: Task<'_>,
        action: &mut Action,
    ) -> Result<(), Failure> {
        let object = work.object;
        let Task { expected, duty, change } = task;
        if !inode.is_file() {
            return Ok(());
        }
        match duty.content {
            Content::Free => return Ok(()),
            Content::Grows if inode.size >= expected.size => return Ok(()),
            Content::Grows => return Err(Failure::NoCopy),
            Content::Fixed => {}
        }
        let differs = inode.size != expected.size || inode.mtime != expected.mtime;
        if !differs && *change == Change::Metadata {
            return Ok(());
        }
        let Some(wanted) = expected.known_sum() else {
            return if differs || *change == Change::Modified { Err(Failure::NoCopy) } else { Ok(()) };
        };
        let now = object.open(libc::O_RDONLY).map_err(Failure::of("open"))?;
        // A file of the right length was short enough to be copied; one of another length may be endless.
        if inode.size == expected.size {
            let sum = content::sum(&now, expected.size).map_err(Failure::of("read"))?;
            if sum == Some(wanted) {
                return Ok(());
            }
        }
        let right = self.right_content(expected)?;
        work.unblock(None)?;
        let writable = object.open(libc::O_RDWR).map_err(Failure::of("open"))?;
        match self.quarantine.keep_content(&now, inode, path) {
            Ok(away) => {
                action.quarantine = Some(away.id().to_owned());
                self.away.push(away);
            }
            Err(failure) => action.evidence_lost = Some(failure),
        }
        let written = content::write_back(&right, &writable).map_err(Failure::of("write"))?;
        if written != wanted {
            return Err(Failure::BadCopy);
        }
        action.did = Did::Content;
        Ok(())
    }

    /// Holds an object that took the place of a lost one.
    pub(super) fn rehold_one(&mut self, path: &Path, object: &Object, copy: bool) {
        let Ok(inode) = object.inode() else { return };
        let copy = if copy { Copy::IfStale } else { Copy::None };
        let sum = self.vault.hold(path, object, &inode, copy, false);
        if let (Some(mut expected), Ok(inode)) = (self.inventory.get(path), object.inode()) {
            expected.sum = sum.or(expected.sum);
            expected.ctime = inode.ctime;
            self.inventory.put(path, &expected);
        }
    }
}

/// Whether mode, owner and attributes are the expected ones. `inode` is older than the look at the attributes: a
/// change in between has another change time.
pub(super) fn has_metadata(object: &Object, inode: &Inode, expected: &Expected) -> bool {
    (inode.mode, inode.uid, inode.gid) == (expected.mode, expected.uid, expected.gid)
        && object.xattrs().is_ok_and(|found| found == expected.xattrs())
}

/// One object's metadata.
struct Work<'a> {
    object: &'a Object,
    expected: &'a Expected,
    duty: Duty,
    /// No flag forbids a change any more.
    cleared: bool,
    did: bool,
    /// What was found first.
    what: Option<Mutation>,
}

impl Work<'_> {
    /// Takes the flags off that forbid any change.
    fn unblock(&mut self, what: Option<Mutation>) -> Result<(), Failure> {
        self.what = self.what.or(what);
        if !self.cleared {
            let inode = self.object.inode().map_err(Failure::of("statx"))?;
            self.object.unblock(&inode).map_err(Failure::of("chattr"))?;
            self.cleared = true;
        }
        self.did = true;
        Ok(())
    }

    /// Owner first: setting it takes set-id bits and capabilities away. Then attributes: an access list sets the
    /// mode. Then mode, time and flags.
    fn metadata(&mut self, before: &Inode) -> Result<(), Failure> {
        let (object, expected) = (self.object, self.expected);
        if self.duty.metadata {
            if (before.uid, before.gid) != (expected.uid, expected.gid) {
                self.unblock(Some(Mutation::Chown))?;
                object.set_owner(expected.uid, expected.gid).map_err(Failure::of("chown"))?;
            }
            self.xattrs()?;
            let now = object.inode().map_err(Failure::of("statx"))?;
            if now.mode != expected.mode && !expected.is_link() {
                self.unblock(Some(Mutation::Chmod))?;
                object.set_mode(expected.mode).map_err(Failure::of("chmod"))?;
            }
        }
        let now = object.inode().map_err(Failure::of("statx"))?;
        let fixed = if expected.is_file() {
            self.duty.content == Content::Fixed
        } else {
            !expected.is_dir() && self.duty.metadata
        };
        if fixed && now.mtime != expected.mtime && now.size == expected.size {
            self.unblock(Some(Mutation::Utimes))?;
            object.set_mtime(expected.mtime).map_err(Failure::of("utimensat"))?;
        }
        let wanted = if self.duty.metadata { expected.flags } else { before.flags };
        if now.flags != wanted {
            if self.duty.metadata && before.flags != wanted {
                self.did = true;
                self.what = self.what.or(Some(Mutation::Chattr));
            }
            object.set_flags(wanted).map_err(Failure::of("chattr"))?;
        }
        Ok(())
    }

    fn xattrs(&mut self) -> Result<(), Failure> {
        let object = self.object;
        let found = object.xattrs().map_err(Failure::of("getxattr"))?;
        let expected = self.expected.xattrs();
        if found == expected {
            return Ok(());
        }
        let has = |list: &[Xattr], one: &Xattr| list.iter().any(|other| other.name == one.name);
        for foreign in found.iter().filter(|one| !has(expected, one)) {
            self.unblock(Some(Mutation::Setxattr))?;
            match object.remove_xattr(&foreign.name) {
                Err(error) if !is(&error, libc::ENODATA) => {
                    return Err(Failure::of("removexattr")(error));
                }
                _ => {}
            }
        }
        for one in expected.iter().filter(|one| !found.contains(one)) {
            self.unblock(Some(Mutation::Setxattr))?;
            object.set_xattr(one).map_err(Failure::of("setxattr"))?;
        }
        Ok(())
    }
}
