//! How the healer learns what should be there.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::action::{Content, Duty};
use super::expected::Expected;
use super::failure::Failure;
use super::healer::Healer;
use super::mend::has_metadata;
use super::object::{Object, is, join};
use super::vault::Copy;
use crate::sys::inode::Inode;

/// Whether what is known of a file's content still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// As long as length and time of the last change are the same.
    IfAlike,
    /// No: somebody who may has written to it.
    No,
}

/// A name that was learned, for marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// Which.
    pub path: PathBuf,
    /// What it names.
    pub inode: Inode,
}

/// How long is learned between two looks at the notifications: some twenty names.
pub(super) const AT_ONCE: Duration = Duration::from_millis(2);

/// A directory whose entries are being learned.
pub(super) struct Listing {
    path: PathBuf,
    object: Option<Object>,
    names: Vec<CString>,
    deeper: Vec<PathBuf>,
    is_unread: bool,
}

impl Healer {
    /// `path` is right as it is now, whatever it was: at start, or because a trusted writer made or changed it. A
    /// directory without its entries.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn learn(&mut self, path: &Path, content: Known) -> Result<Option<Learned>, Failure> {
        let learned = match Object::at_path(path) {
            Ok(object) => {
                let known = match content {
                    Known::IfAlike => self.inventory.get(path),
                    Known::No => None,
                };
                let learned = self.learn_object(path, &object, known.as_ref(), true)?;
                self.learn_twins(path, &object);
                learned
            }
            Err(error) if is(&error, libc::ENOENT) || is(&error, libc::ENOTDIR) => {
                self.forget(path);
                None
            }
            Err(error) => return Err(Failure::of("open")(error)),
        };
        self.refresh_parent(path);
        Ok(learned)
    }

    /// Learns `path`, unless it is known; what is below it and not known is learned by [`Healer::learn_some`].
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn begin(&mut self, path: &Path) -> Result<Option<Learned>, Failure> {
        let is_known = self.inventory.contains(path);
        let learned = if is_known { None } else { self.learn(path, Known::No)? };
        if self.inventory.get(path).is_some_and(|known| known.is_dir()) && self.is_kept_inside(path) {
            self.unlearned.insert(path.to_owned());
        }
        Ok(learned)
    }

    /// Learns some entries of a directory that waits for it; `None` when there is none. What cannot be looked at
    /// is skipped and counted.
    pub fn learn_some(&mut self) -> Option<(Vec<Learned>, usize)> {
        let mut listing = self.listing.take().or_else(|| self.next_listing())?;
        let (mut learned, mut skipped) = (Vec::new(), usize::from(listing.is_unread));
        let started = Instant::now();
        while let Some(name) = listing.names.pop() {
            let path = join(&listing.path, &name);
            if !self.inventory.contains(&path) {
                let child = listing.object.as_ref().map(|directory| directory.child(&name));
                match child.map(|child| child.map(|child| self.learn_entry(&path, &child))) {
                    Some(Ok(Ok(one))) => learned.extend(one),
                    Some(Err(error)) if is(&error, libc::ENOENT) => {}
                    _ => skipped += 1,
                }
            }
            if self.inventory.get(&path).is_some_and(|known| known.is_dir()) && self.is_kept_inside(&path) {
                listing.deeper.push(path);
            }
            if started.elapsed() > AT_ONCE {
                break;
            }
        }
        if listing.names.is_empty() {
            self.unlearned.remove(&listing.path);
            self.unlearned.extend(listing.deeper);
            if self.unlearned.is_empty() && !self.is_settled {
                self.is_settled = true;
                self.begin_copying();
            }
        } else {
            listing.is_unread = false;
            self.listing = Some(listing);
        }
        Some((learned, skipped))
    }

    fn next_listing(&self) -> Option<Listing> {
        let path = self.unlearned.last()?.clone();
        let read = Object::at_path(&path).and_then(|object| Ok((object.entries()?, object)));
        let is_unread = read.as_ref().is_err_and(|error| !is(error, libc::ENOENT));
        let (names, object) = read.map_or((Vec::new(), None), |(names, object)| (names, Some(object)));
        Some(Listing { path, object, names, deeper: Vec::new(), is_unread })
    }

    /// Whether something waits for [`Healer::learn_some`].
    pub fn is_learning(&self) -> bool {
        !self.unlearned.is_empty()
    }

    /// Whether the entries of `directory`, or of one above it, are still to be learned.
    pub(super) fn is_unlearned(&self, directory: &Path) -> bool {
        !self.unlearned.is_empty() && directory.ancestors().any(|above| self.unlearned.contains(above))
    }

    /// Whether more of a directory is kept than that it exists.
    fn is_kept_inside(&self, directory: &Path) -> bool {
        let duty = (self.duties)(directory);
        duty.foreign || duty.metadata
    }

    /// Like [`Healer::learn`], with everything below. What cannot be looked at is skipped and counted.
    pub fn learn_tree(&mut self, path: &Path) -> usize {
        let mut skipped = 0;
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let Ok(object) = Object::at_path(&path) else {
                skipped += 1;
                continue;
            };
            let Ok(inode) = object.inode() else { continue };
            if self.is_own(&inode) {
                continue;
            }
            let known = self.inventory.get(&path);
            if self.learn_object(&path, &object, known.as_ref(), true).is_err() {
                skipped += 1;
            }
            if inode.is_dir() {
                let names = object.entries().unwrap_or_default();
                waiting.extend(names.iter().map(|name| join(&path, name)));
            }
        }
        self.refresh_parent(path);
        skipped
    }

    /// A trusted writer renamed `old` to `new`. What was learned is to be marked.
    pub fn renamed(&mut self, old: &Path, new: &Path) -> Option<Learned> {
        let known = self.inventory.get(old);
        // In this order what the vault holds stays held.
        let learned = match Object::at_path(new) {
            Ok(object) if known.as_ref().is_some_and(|known| !known.is_dir()) => {
                self.learn_object(new, &object, known.as_ref(), true).ok().flatten()
            }
            _ => {
                self.learn_tree(new);
                None
            }
        };
        self.refresh_parent(new);
        self.forget(old);
        learned
    }

    /// `path`, and everything below it, is rightly gone.
    pub fn forget(&mut self, path: &Path) {
        for (path, expected) in self.inventory.remove(path) {
            self.release(&path, &expected);
        }
        self.refresh_parent(path);
    }

    pub(super) fn release(&mut self, path: &Path, expected: &Expected) {
        if is_held(expected) {
            self.vault.release(path, expected.id);
        }
    }

    fn learn_entry(&mut self, path: &Path, object: &Object) -> Result<Option<Learned>, Failure> {
        let inode = object.inode().map_err(Failure::of("statx"))?;
        if inode.is_file() && inode.size == 0 && inode.born >= self.since {
            return Ok(None);
        }
        self.learn_object(path, object, None, self.is_settled)
    }

    /// `known`: what is known of the same object; of its content as long as that looks alike. Without `at_once` its
    /// content is copied by [`Healer::copy_some`].
    fn learn_object(
        &mut self,
        path: &Path,
        object: &Object,
        known: Option<&Expected>,
        at_once: bool,
    ) -> Result<Option<Learned>, Failure> {
        let inode = object.inode().map_err(Failure::of("statx"))?;
        let duty = (self.duties)(path);
        if duty == Duty::NONE || self.is_own(&inode) {
            return Ok(None);
        }
        let old = self.inventory.get(path).map(|old| (old.id, is_held(&old)));
        let mut sum = None;
        if inode.is_dir() {
            // Ahead of what it will hold: making it changes the time of the mount's root, perhaps this directory.
            let _ = self.vault.prepare(inode.mount, path);
        }
        // A file may have got the number of a directory, which nothing held.
        let same = old == Some((inode.id, needs_hold(&inode)));
        if needs_hold(&inode) {
            // Without its sum a copy that lies there already proves nothing.
            let alike =
                |old: &&Expected| old.id == inode.id && old.size == inode.size && old.mtime == inode.mtime;
            let known = known.filter(alike).and_then(|old| old.sum.clone());
            let copy = match known {
                _ if duty.content != Content::Fixed || !at_once => Copy::None,
                Some(_) => Copy::IfStale,
                None => Copy::Fresh,
            };
            sum = self.vault.hold(path, object, &inode, copy, !same).or(known);
            // The vault's own link is the only other name of most.
            let links = if inode.links > 1 {
                object.inode().map_err(Failure::of("statx"))?.links
            } else {
                inode.links
            };
            self.vault.note_links(inode.id, links);
        }
        let mut expected = Expected::take(object).map_err(Failure::of("statx"))?;
        expected.sum = sum;
        self.inventory.put(path, &expected);
        if let Some((id, true)) = old
            && !same
        {
            self.vault.release(path, id);
        }
        Ok(Some(Learned { path: path.to_owned(), inode }))
    }

    /// Other expected names of the same file have rightly changed with it.
    fn learn_twins(&mut self, path: &Path, object: &Object) {
        let Ok(inode) = object.inode() else { return };
        if inode.is_dir() || inode.links <= 1 + self.vault.vault_links(inode.id) {
            return;
        }
        let Some(expected) = self.inventory.get(path) else { return };
        let twins = self.inventory.iter().filter(|(_, other)| other.id == inode.id);
        let twins: Vec<PathBuf> = twins.map(|(path, _)| path.to_owned()).collect();
        for twin in twins {
            self.inventory.put(&twin, &expected);
        }
    }

    /// The directory of `path` has rightly changed with it.
    fn refresh_parent(&mut self, path: &Path) {
        let Some(parent) = path.parent() else { return };
        let Some(mut expected) = self.inventory.get(parent) else { return };
        let found = Object::at_path(parent).and_then(|object| Ok((object.inode()?, object)));
        if let Ok((inode, object)) = found
            && inode.id == expected.id
        {
            expected.mtime = inode.mtime;
            // What else was changed there by somebody must not look untouched.
            if has_metadata(&object, &inode, &expected) {
                expected.ctime = inode.ctime;
            }
            self.inventory.put(parent, &expected);
        }
    }
}

/// Directories need no more than the inventory, and can have no second name.
fn needs_hold(inode: &Inode) -> bool {
    !inode.is_dir()
}

pub(super) fn is_held(expected: &Expected) -> bool {
    !expected.is_dir()
}
