//! Takes back the file that a denied `O_CREAT` has made, while its opener still waits.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;

use super::object;
use crate::sys::file::{self, Stat};
use crate::sys::path::FixedPath;
use crate::sys::shared::Creation;

/// Buffers of one thread.
#[derive(Default)]
pub struct Rollback {
    directory: FixedPath,
    name: FixedPath,
}

impl Rollback {
    /// Removes the name `path` if it still names `object`, which the caller has proven to be new. False when it
    /// could not be removed.
    ///
    /// Between the check and the removal somebody could move another file to that name; who can do that in a
    /// protected directory could remove it himself.
    pub fn remove(&mut self, path: &[u8], object: &Stat) -> bool {
        let Some(directory) = object::open_parent(path, &mut self.directory, &mut self.name) else {
            return false;
        };
        let names_it = file::stat_at(directory.as_fd(), self.name.as_cstr()).is_ok_and(|s| s.id == object.id);
        names_it && file::unlink_at(directory.as_fd(), self.name.as_cstr()).is_ok()
    }

    /// The same for the file behind `fd`, made as `made` says: by the directory's handle, without any policy.
    pub fn remove_creation(&mut self, fd: BorrowedFd<'_>, object: &Stat, made: &Creation) -> bool {
        let (mut handle, mut name) = ([0; file::HANDLE_BYTES], [0; 256]);
        let handle = made.directory.load(&mut handle);
        let Ok(directory) = file::open_handle(fd, made.directory_type.load(Relaxed), handle) else {
            return false;
        };
        self.name.set(made.name.load(&mut name))
            && file::stat_at(directory.as_fd(), self.name.as_cstr()).is_ok_and(|s| s.id == object.id)
            && file::unlink_at(directory.as_fd(), self.name.as_cstr()).is_ok()
    }
}
