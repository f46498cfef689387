//! Takes back the file that a denied `O_CREAT` has made, while its opener still waits.

use std::os::fd::AsFd;

use super::object;
use crate::sys::file::{self, Stat};
use crate::sys::path::FixedPath;

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
}
