//! Files that somebody who may is writing: what stands in them is judged when he is done.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::action::Change;
use super::healer::Healer;
use super::object::{Object, c_name};
use crate::sys::inode::{self, Inode};

/// How long such a file is left alone without a sign that it is still being written.
const LEFT: Duration = Duration::from_secs(60);

/// Which they are, and since when.
#[derive(Default)]
pub(super) struct Fluid(HashMap<PathBuf, Instant>);

impl Fluid {
    /// Whether what stands in the file at `path` is left as it is. Not what somebody else was seen to write there.
    pub(super) fn leaves(&self, path: &Path, change: &Change) -> bool {
        *change != Change::Modified && self.0.get(path).is_some_and(|since| since.elapsed() < LEFT)
    }
}

impl Healer {
    /// Somebody who may is writing to the file at `path`.
    pub fn leave(&mut self, path: PathBuf) {
        self.fluid.0.insert(path, Instant::now());
    }

    /// He is done.
    pub fn leave_no_more(&mut self, path: &Path) {
        self.fluid.0.remove(path);
    }

    /// Forgets of whom there was no sign for long.
    pub fn forget_fluid(&mut self) {
        self.fluid.0.retain(|_, since| since.elapsed() < LEFT);
    }

    /// The files among `path` and the entries of that directory that look as if somebody had written to them.
    pub fn written_at(&self, path: &Path) -> Vec<PathBuf> {
        let Some(expected) = self.inventory.get(path) else { return Vec::new() };
        let Ok(object) = Object::at_path(path) else { return Vec::new() };
        if expected.is_file() {
            let is_written = object.inode().is_ok_and(|now| expected.is_rewritten(&now));
            return if is_written { vec![path.to_owned()] } else { Vec::new() };
        }
        let files = self.inventory.children(path).filter(|(_, expected)| expected.is_file());
        let written = files.filter(|(path, expected)| {
            let now = c_name(path).ok().and_then(|name| inode::of_name(object.as_fd(), &name).ok());
            now.is_some_and(|now: Inode| expected.is_rewritten(&now))
        });
        written.map(|(path, _)| path.to_owned()).collect()
    }
}
