//! From the handle of a directory in an event to the path by which policies know it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::MarkTable;
use crate::policy::snapshot::Snapshot;
use crate::sys::file::{self, Identity};
use crate::sys::path::FixedPath;
use crate::sys::proc::Proc;

/// Finds places; keeps an open directory on each filesystem that events come from, to open handles by.
pub struct Places {
    proc: Proc,
    filesystems: HashMap<u64, OwnedFd>,
    path: FixedPath,
}

impl Places {
    /// Knows no filesystem yet.
    ///
    /// # Errors
    /// /proc cannot be opened.
    pub fn new() -> io::Result<Self> {
        Ok(Self { proc: Proc::open()?, filesystems: HashMap::new(), path: FixedPath::default() })
    }

    /// The canonical path of `name` in the directory with that handle; `None` when it is gone.
    pub fn locate(
        &mut self,
        snapshot: &Snapshot,
        table: &MarkTable,
        filesystem: u64,
        (kind, handle): (i32, &[u8]),
        name: &[u8],
    ) -> Option<PathBuf> {
        if !self.filesystems.contains_key(&filesystem) {
            self.find_filesystems(snapshot);
        }
        let mount = self.filesystems.get(&filesystem)?;
        let directory = file::open_handle(mount.as_fd(), kind, handle).ok()?;
        let id = file::stat_fd(directory.as_fd()).ok()?.id;
        if !table.directory(id, &mut self.path) {
            self.proc.path_of(directory.as_fd(), &mut self.path).ok()?;
        }
        let directory = PathBuf::from(OsStr::from_bytes(self.path.as_bytes()));
        Some(match name {
            b"" | b"." => directory,
            name => directory.join(OsStr::from_bytes(name)),
        })
    }

    /// Where the object with that handle is now, as the kernel knows it: by the name it got last. With its number of
    /// names.
    pub fn find(
        &mut self,
        snapshot: &Snapshot,
        filesystem: u64,
        (kind, handle): (i32, &[u8]),
    ) -> Option<(PathBuf, Identity, u32)> {
        if !self.filesystems.contains_key(&filesystem) {
            self.find_filesystems(snapshot);
        }
        let mount = self.filesystems.get(&filesystem)?;
        let object = file::open_handle(mount.as_fd(), kind, handle).ok()?;
        let stat = file::stat_fd(object.as_fd()).ok()?;
        self.proc.path_of(object.as_fd(), &mut self.path).ok()?;
        let path = PathBuf::from(OsStr::from_bytes(self.path.as_bytes()));
        path.is_absolute().then_some((path, stat.id, stat.links as u32))
    }

    fn find_filesystems(&mut self, snapshot: &Snapshot) {
        for root in snapshot.roots() {
            let Some(top) = root.path.ancestors().find(|path| path.is_dir()) else { continue };
            if let Ok(directory) = File::open(top)
                && let Ok(id) = file::filesystem_id(directory.as_fd())
            {
                self.filesystems.entry(id).or_insert_with(|| directory.into());
            }
        }
    }
}
