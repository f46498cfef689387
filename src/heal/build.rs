//! Makes a name what it should be: from where it was moved to, from the vault, from the inventory.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::action::{Action, Change, Content, Did};
use super::content;
use super::expected::Expected;
use super::failure::Failure;
use super::fresh;
use super::healer::Healer;
use super::object::{Object, c_name, is};
use super::reconcile::{Place, Task};
use crate::sys::file::{self, Identity};
use crate::sys::names;

impl Healer {
    /// The name does not exist.
    pub(super) fn restore(&mut self, place: &Place<'_>, task: Task<'_>) -> Result<Action, Failure> {
        let expected = task.expected;
        self.touch(place.directory);
        let mut action = Action::new(place.path.to_owned(), Did::MovedBack);
        let mut made = None;
        if let Change::MovedTo(new) = task.change
            && self.take_back(place, expected, new, names::NOREPLACE)?.is_some()
        {
            self.queue.push_back((new.clone(), Change::Unknown));
        } else if expected.is_dir() || expected.is_link() && self.vault.link_of(expected.id).is_none() {
            // A name that is gone needs no other to take its place.
            (action.did, made) = self.make(place.parent, place.name, expected, false)?;
        } else if let Some(link) = self.vault.link_of(expected.id) {
            link_as(&link, place.parent, place.name)?;
            action.did = Did::Linked;
        } else {
            let temporary = self.temporary.next();
            (action.did, made) = self.make(place.parent, &temporary, expected, false)?;
            let (from, to) = ((place.parent.as_fd(), temporary.as_c_str()), at(place));
            if let Err(error) = names::rename(from, to, names::NOREPLACE) {
                let _ = file::unlink_at(place.parent.as_fd(), &temporary);
                return Err(Failure::of("rename")(error));
            }
        }
        self.dress(place, task, made, &mut action);
        Ok(action)
    }

    /// The name is something else: at no moment does it not exist.
    pub(super) fn replace(
        &mut self,
        place: &Place<'_>,
        task: Task<'_>,
        lost: bool,
    ) -> Result<Action, Failure> {
        let Task { expected, change, .. } = task;
        self.touch(place.directory);
        let mut action = Action::new(place.path.to_owned(), Did::MovedBack);
        let mut made = None;
        if let Change::MovedTo(new) = change
            && !lost
            && let Some(other) = self.take_back(place, expected, new, names::EXCHANGE)?
        {
            // The two have changed places.
            let name = c_name(new).map_err(Failure::of("name"))?;
            let directory = new.parent().unwrap_or(new);
            let there =
                Place { parent: &other, directory, mount: place.mount, name: &name, path: place.path };
            if let Err(failure) = self.dispose(&there, &mut action) {
                action.evidence_lost = Some(failure);
            }
        } else {
            let temporary = self.temporary.next();
            (action.did, made) = self.make(place.parent, &temporary, expected, lost)?;
            if lost {
                // What it has become is evidence, not something to restore from.
                self.vault.disown(expected.id);
            }
            self.exchange(place, &temporary, expected, &mut action)?;
        }
        self.dress(place, task, made, &mut action);
        Ok(action)
    }

    /// Puts `temporary` in the place of what is there, and that away.
    fn exchange(
        &mut self,
        place: &Place<'_>,
        temporary: &CStr,
        expected: &Expected,
        action: &mut Action,
    ) -> Result<(), Failure> {
        let half = Place { name: temporary, ..*place };
        let mut exchanged = names::rename(at(&half), at(place), names::EXCHANGE);
        // What is there may itself be protected by flags.
        if exchanged.as_ref().is_err_and(|error| is(error, libc::EPERM))
            && let Ok(object) = place.parent.child(place.name)
            && object.inode().is_ok_and(|inode| inode.is_blocked() && object.unblock(&inode).is_ok())
        {
            exchanged = names::rename(at(&half), at(place), names::EXCHANGE);
        }
        let placed = match exchanged {
            Ok(()) => {
                if let Err(failure) = self.dispose(&half, action) {
                    // It stands under a name that every scan looks at.
                    action.evidence_lost = Some(failure);
                }
                return Ok(());
            }
            // It is gone meanwhile, or this filesystem cannot exchange.
            Err(error) if is(&error, libc::ENOENT) => Ok(()),
            Err(error) if is(&error, libc::EINVAL) => self.dispose(place, action),
            Err(error) if is(&error, libc::EBUSY) => Err(Failure::MountedOver),
            Err(error) => Err(Failure::of("rename")(error)),
        };
        placed
            .and_then(|()| {
                names::rename(at(&half), at(place), names::NOREPLACE).map_err(Failure::of("rename"))
            })
            .inspect_err(|_| discard(place.parent, temporary, expected))
    }

    /// Makes the expected object under a free name, and says which object that is, unless it is the one that the vault
    /// holds. `lost`: its inode is of no use any more.
    fn make(
        &mut self,
        parent: &Object,
        name: &CStr,
        expected: &Expected,
        lost: bool,
    ) -> Result<(Did, Option<Identity>), Failure> {
        let made = match expected.file_type() {
            libc::S_IFDIR => fresh::directory(parent, name).map_err(Failure::of("mkdir"))?,
            libc::S_IFLNK if lost || self.vault.link_of(expected.id).is_none() => {
                fresh::symlink(parent, name, expected.target()).map_err(Failure::of("symlink"))?
            }
            kind => {
                if !lost && let Some(link) = self.vault.link_of(expected.id) {
                    link_as(&link, parent, name)?;
                    return Ok((Did::Linked, None));
                }
                if kind == libc::S_IFREG {
                    let made = self.make_from_copy(parent, name, expected)?;
                    return Ok((Did::Copied, Some(made)));
                }
                fresh::node(parent, name, kind, expected.rdev()).map_err(Failure::of("mknod"))?
            }
        };
        Ok((Did::Made, Some(made.inode().map_err(Failure::of("statx"))?.id)))
    }

    fn make_from_copy(
        &mut self,
        parent: &Object,
        name: &CStr,
        expected: &Expected,
    ) -> Result<Identity, Failure> {
        let right = self.right_content(expected).map_err(|failure| match failure {
            Failure::NoCopy => Failure::NothingHeld,
            other => other,
        })?;
        let new = fresh::file(parent, name).map_err(Failure::of("open"))?;
        let made = match new.opened().and_then(|file| content::copy(&right, &file, u64::MAX)) {
            Ok((_, sum)) if Some(sum) == expected.known_sum() => {
                new.inode().map(|inode| inode.id).map_err(Failure::of("statx"))
            }
            Ok(_) => Err(Failure::BadCopy),
            Err(error) => Err(Failure::of("copy")(error)),
        };
        made.inspect_err(|_| drop(file::unlink_at(parent.as_fd(), name)))
    }

    /// The content that the file should have, if a copy is held; of an empty file always. The copy is checked: who
    /// could change it would have the healer write what the gate refuses.
    pub(super) fn right_content(&self, expected: &Expected) -> Result<File, Failure> {
        if expected.size == 0 {
            // Not /dev/null: an intruder may have put a FIFO there, and wait.
            let empty = memfd_create(c"empty", MFdFlags::MFD_CLOEXEC);
            return empty.map(File::from).map_err(|errno| Failure::of("memfd_create")(errno.into()));
        }
        let wanted = expected.known_sum().ok_or(Failure::NoCopy)?;
        let copy = self.vault.copy_of(expected.id, expected.size).ok_or(Failure::NoCopy)?;
        let sum = content::sum(&copy, expected.size).map_err(Failure::of("read"))?;
        if sum == Some(wanted) { Ok(copy) } else { Err(Failure::BadCopy) }
    }

    /// Renames the object back from `new`, if it is still there; gives back the directory it was in.
    fn take_back(
        &mut self,
        place: &Place<'_>,
        expected: &Expected,
        new: &Path,
        how: u32,
    ) -> Result<Option<Object>, Failure> {
        // A name that itself should be something else keeps existing: it is put right by exchange.
        if self.inventory.get(new).is_some_and(|other| other.id != expected.id) {
            self.queue.push_back((new.to_owned(), Change::Unknown));
            return Ok(None);
        }
        let Some(directory) = new.parent() else { return Ok(None) };
        let (Ok(other), Ok(name)) = (Object::at_path(directory), c_name(new)) else { return Ok(None) };
        let Ok(object) = other.child(&name) else { return Ok(None) };
        let Ok(inode) = object.inode() else { return Ok(None) };
        if inode.id != expected.id || inode.file_type() != expected.file_type() {
            return Ok(None);
        }
        object.unblock(&inode).map_err(Failure::of("chattr"))?;
        self.unblock(directory);
        self.touch(directory);
        match names::rename((other.as_fd(), &name), at(place), how) {
            Ok(()) => Ok(Some(other)),
            Err(error) if is(&error, libc::EXDEV) || is(&error, libc::EINVAL) => Ok(None),
            Err(error) if is(&error, libc::ENOENT) => Ok(None),
            Err(error) => Err(Failure::of("rename")(error)),
        }
    }

    /// What now stands at the place is made right in all else. What cannot be is noted in the action: the name
    /// itself is put right already.
    fn dress(&mut self, place: &Place<'_>, task: Task<'_>, made: Option<Identity>, action: &mut Action) {
        if task.expected.is_dir() && action.did == Did::MovedBack {
            self.look_again_below(place.path);
        }
        match self.try_dress(place, task, made, action) {
            Ok(None) => {}
            Ok(Some(more)) => {
                action.quarantine = action.quarantine.take().or(more.quarantine);
                action.evidence_lost = action.evidence_lost.or(more.evidence_lost);
            }
            // A program that runs: another file takes its place.
            Err(failure) if failure.is(libc::ETXTBSY) => {
                self.queue.push_back((place.path.to_owned(), Change::Modified));
            }
            Err(failure) => action.incomplete = Some(failure),
        }
    }

    /// Where the inode is another one than before, the one that was `made`, that one is expected from now on. A new
    /// directory gets its entries.
    fn try_dress(
        &mut self,
        place: &Place<'_>,
        task: Task<'_>,
        made: Option<Identity>,
        action: &mut Action,
    ) -> Result<Option<Action>, Failure> {
        let object = place.parent.child(place.name).map_err(Failure::of("open"))?;
        let mut inode = object.inode().map_err(Failure::of("statx"))?;
        // What somebody has put there since is not dressed as ours.
        if inode.file_type() != task.expected.file_type() || made.is_some_and(|made| made != inode.id) {
            return Err(Failure::Raced);
        }
        let mut expected = task.expected.clone();
        // A new inode may well have the old one's number.
        action.new_inode = matches!(action.did, Did::Made | Did::Copied);
        if inode.id != expected.id {
            if !action.new_inode {
                return Err(Failure::Raced);
            }
            let old = std::mem::replace(&mut expected.id, inode.id);
            if !inode.is_dir() {
                self.vault.succeed(place.path, old, &object, &inode);
            }
            self.inventory.put(place.path, &expected);
        }
        // Of the content of what was lost for a moment no more is believed than was known before.
        let mut change = match task.change {
            Change::Metadata => Change::Metadata,
            Change::Unknown | Change::Modified | Change::MovedTo(_) => Change::Unknown,
        };
        if inode.is_dir() && action.did == Did::Made {
            self.touch(place.path);
            let children: Vec<_> =
                self.inventory.children(place.path).map(|(path, _)| path.to_owned()).collect();
            self.queue.extend(children.into_iter().map(|path| (path, change.clone())));
            change = Change::Metadata;
        }
        if action.did == Did::Copied {
            // Written by ourselves just now: with the right time it needs no second look.
            object.set_mtime(expected.mtime).map_err(Failure::of("utimensat"))?;
            inode = object.inode().map_err(Failure::of("statx"))?;
            change = Change::Metadata;
        }
        let mend = Task { expected: &expected, change: &change, ..task };
        let mended = self.mend(&object, &inode, place.path, mend)?;
        if action.new_inode && expected.is_file() {
            self.rehold_one(place.path, &object, task.duty.content == Content::Fixed);
        }
        Ok(mended)
    }
}

fn at<'a>(place: &Place<'a>) -> (std::os::fd::BorrowedFd<'a>, &'a CStr) {
    (place.parent.as_fd(), place.name)
}

/// Links a held object, taking off the flags that forbid it: they are set back with the other metadata.
fn link_as(link: &Object, parent: &Object, name: &CStr) -> Result<(), Failure> {
    let linked = link.link(parent, name);
    if linked.as_ref().is_err_and(|error| is(error, libc::EPERM))
        && link.inode().is_ok_and(|inode| inode.is_blocked() && link.unblock(&inode).is_ok())
    {
        return link.link(parent, name).map_err(Failure::of("link"));
    }
    linked.map_err(Failure::of("link"))
}

fn discard(parent: &Object, name: &CStr, expected: &Expected) {
    let name = CString::from(name);
    let _ = if expected.is_dir() {
        names::remove_dir(parent.as_fd(), &name)
    } else {
        file::unlink_at(parent.as_fd(), &name)
    };
}
