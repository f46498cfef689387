//! The contents that the vault holds.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;

use super::content::{self, Made};
use super::failure::Failure;
use super::object::{Object, c_string, is};
use super::store;
use super::vault::{Held, Vault};
use crate::sys::file::{self, Identity};
use crate::sys::inode::{self, Inode};
use crate::sys::names;

fn copy_name(ino: u64) -> CString {
    c_string(format!("c-{ino:x}").as_bytes()).unwrap_or_default()
}

impl Vault {
    /// Makes a copy in the store with this number, unless there is one; `fresh`: of the same content, and not just of the same
    /// length and time. Gives back the sum of the content, where it was looked at.
    pub(super) fn copy(
        &mut self,
        (index, directory): (usize, &Object),
        object: &Object,
        inode: &Inode,
        fresh: bool,
    ) -> Result<Option<[u8; 32]>, Failure> {
        let name = copy_name(inode.id.ino);
        let kept = self.copy_of(inode.id, inode.size).filter(|_| copy_matches(directory, &name, inode));
        if kept.is_some() && !fresh {
            return Ok(None);
        }
        let limit = self.limit(directory, inode);
        if kept.is_none()
            && let Err(failure) = limit
            && self.unshared.contains(&index)
        {
            self.drop_copy(directory, inode.id);
            return Err(failure);
        }
        let content = object.open(libc::O_RDONLY).map_err(Failure::of("open"))?;
        if let Some(kept) = kept {
            // To read both is cheaper than to write one, and an earlier process has left most of them.
            let sum = content::sum(&content, inode.size).map_err(Failure::of("read"))?;
            if sum.is_some() && content::sum(&kept, inode.size).is_ok_and(|other| other == sum) {
                return Ok(sum);
            }
        }
        self.drop_copy(directory, inode.id);
        let half = self.temporary.next();
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let new = names::open_at(directory.as_fd(), &half, flags, 0o600).map_err(Failure::of("open"))?;
        let made = self.fill(index, limit, &content, &File::from(new), inode);
        let kept = made.and_then(|made| {
            let copy = directory.child(&half).map_err(Failure::of("open"))?;
            copy.set_mtime(inode.mtime).map_err(Failure::of("utimensat"))?;
            let (from, to) = ((directory.as_fd(), half.as_c_str()), (directory.as_fd(), name.as_c_str()));
            names::rename(from, to, 0).map_err(Failure::of("rename"))?;
            Ok(made)
        });
        match kept {
            Ok((cost, sum)) => {
                let held = self.held.entry(inode.id).or_default();
                held.copy = true;
                held.set_cost(cost);
                self.copied += held.cost();
                Ok(Some(sum))
            }
            Err(failure) => {
                let _ = file::unlink_at(directory.as_fd(), &half);
                Err(failure)
            }
        }
    }

    /// How many bytes of this file may be written; why none may.
    fn limit(&self, directory: &Object, inode: &Inode) -> Result<u64, Failure> {
        // The new copy takes the place of the old one.
        let others = self.copied.saturating_sub(self.held.get(&inode.id).map_or(0, Held::cost));
        if inode.size > self.limits.copy_file {
            Err(Failure::TooLarge)
        } else if inode.allocated > self.limits.copy_total.saturating_sub(others) {
            Err(Failure::OverBudget)
        } else if inode.allocated > store::room(directory)? {
            Err(Failure::NoSpace)
        } else {
            Ok(self.limits.copy_file)
        }
    }

    /// Fills a new copy; gives back what it costs, and its sum.
    fn fill(
        &mut self,
        index: usize,
        limit: Result<u64, Failure>,
        from: &File,
        to: &File,
        inode: &Inode,
    ) -> Result<(u64, [u8; 32]), Failure> {
        let limit = match limit {
            Ok(limit) => limit,
            // Even where no byte may be written, blocks may be shared.
            Err(failure) => {
                return content::share(from, to).map(|sum| (0, sum)).map_err(|error| {
                    if is(&error, libc::EOPNOTSUPP) {
                        self.unshared.insert(index);
                    }
                    failure
                });
            }
        };
        match content::copy(from, to, limit) {
            Ok((Made::Shared, sum)) => Ok((0, sum)),
            Ok((Made::Written, sum)) => Ok((inode.allocated, sum)),
            Err(error) if is(&error, libc::EFBIG) => Err(Failure::TooLarge),
            Err(error) => Err(Failure::of("copy")(error)),
        }
    }

    pub(super) fn drop_copy(&mut self, directory: &Object, id: Identity) {
        let Some(held) = self.held.get_mut(&id) else { return };
        if held.copy {
            let _ = file::unlink_at(directory.as_fd(), &copy_name(id.ino));
            self.copied = self.copied.saturating_sub(held.cost());
            held.copy = false;
            held.set_cost(0);
        }
    }

    /// Drops the copy of this object: it is not what should be restored.
    pub fn discard_copy(&mut self, id: Identity) {
        if let Some(directory) = self.store_of(id).and_then(|(store, _)| store.open().ok()) {
            self.drop_copy(&directory, id);
        }
    }

    /// Whether there is a copy, of whatever age.
    pub fn has_copy(&self, id: Identity) -> bool {
        self.held.get(&id).is_some_and(|held| held.copy)
    }

    /// The held content, if there is a copy of this length. Whether it is what was copied, its sum says.
    pub fn copy_of(&self, id: Identity, size: u64) -> Option<File> {
        let (store, held) = self.store_of(id)?;
        let object = held.copy.then(|| store.open().ok()?.child(&copy_name(id.ino)).ok())??;
        let inode = object.inode().ok()?;
        (inode.is_file() && inode.size == size).then(|| object.open(libc::O_RDONLY).ok())?
    }
}

fn copy_matches(directory: &Object, name: &CString, inode: &Inode) -> bool {
    inode::of_name(directory.as_fd(), name)
        .is_ok_and(|copy| copy.is_file() && copy.size == inode.size && copy.mtime == inode.mtime)
}
