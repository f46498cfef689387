//! Out of the quarantine again, because a person says so.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::failure::Failure;
use super::object::{Object, c_name, c_string, is};
use super::quarantine::Quarantine;
use super::tree::{self, Budget};
use crate::sys::names;

/// The operator wants to know what exactly is wrong, so nothing is called a race here.
fn exactly(call: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Call { call, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn directory_of(path: &Path) -> io::Result<Object> {
    Object::directory_following(path.parent().unwrap_or(path))
}

impl Quarantine {
    /// Gives an item back at `destination`, which must not exist. A gate that runs learns of it by its own watch.
    ///
    /// # Errors
    /// There is no such item, or something is at the destination.
    pub fn release(&mut self, id: &str, destination: &Path) -> Result<(), Failure> {
        let store = self.items.get(id).ok_or(Failure::NoSuchItem)?.store;
        let destination = std::path::absolute(destination).map_err(exactly("path"))?;
        let from = self.stores.open(store)?;
        let to = directory_of(&destination).map_err(exactly("open the directory to release to"))?;
        let old = c_string(id.as_bytes()).map_err(exactly("name"))?;
        let new = c_name(&destination).map_err(exactly("name"))?;
        let exactly = exactly("release");
        match names::rename((from.as_fd(), &old), (to.as_fd(), &new), names::NOREPLACE) {
            Err(error) if is(&error, libc::EXDEV) => {
                if to.child(&new).is_ok() {
                    return Err(exactly(io::Error::from_raw_os_error(libc::EEXIST)));
                }
                let object = from.child(&old).map_err(&exactly)?;
                match tree::copy(&object, &to, &new, Budget::UNLIMITED) {
                    Ok(copy)
                        if to.child(&new).and_then(|now| now.inode()).is_ok_and(|now| now.id == copy) => {}
                    // Where somebody is at work on the copy, nobody knows any more whose is what.
                    Err(error) if !is(&error, libc::ESTALE) => {
                        let _ = tree::remove(&to, &new);
                        return Err(exactly(error));
                    }
                    _ => return Err(Failure::Replaced),
                }
                tree::remove(&from, &old).map_err(&exactly)?;
            }
            other => other.map_err(&exactly)?,
        }
        self.forget(id);
        Ok(())
    }
}
