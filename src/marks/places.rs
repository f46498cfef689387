//! From the handle of a directory in an event to the path by which policies know it.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::MarkTable;
use crate::policy::snapshot::Snapshot;
use crate::sys::file::{self, Identity};
use crate::sys::path::FixedPath;
use crate::sys::proc::Proc;
use crate::sys::{directory, reach};

/// Finds places; keeps an open directory on each filesystem that events come from, to open handles by.
pub struct Places {
    proc: Proc,
    filesystems: HashMap<u64, OwnedFd>,
    /// Where the others are mounted, in protected trees. Nothing of them is held: they could not be unmounted.
    inner: HashMap<u64, PathBuf>,
    /// Those that were looked for in vain since the mounts have changed.
    missing: HashSet<u64>,
    path: FixedPath,
    /// Where directories are from which little is of interest, by filesystem and handle; see
    /// [`Places::unconcerned`].
    lately: HashMap<Box<[u8]>, Box<[u8]>>,
    key: Vec<u8>,
    /// Under which snapshot that was.
    generation: u64,
}

/// How many directories are remembered before all are forgotten.
const LATELY_MAX: usize = 1024;

impl Places {
    /// Knows no filesystem yet.
    ///
    /// # Errors
    /// /proc cannot be opened.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            proc: Proc::open()?,
            filesystems: HashMap::new(),
            inner: HashMap::new(),
            missing: HashSet::new(),
            path: FixedPath::default(),
            lately: HashMap::new(),
            key: Vec::new(),
            generation: 0,
        })
    }

    /// The path of `name` in the directory with that handle, if no policy has to do with it nor with anything below it.
    /// Where the directory is, is remembered: whoever is at work all the time somewhere else costs no look at each.
    ///
    /// Directories move: call [`Places::forget`] whenever one may have.
    pub fn unconcerned(
        &mut self,
        snapshot: &Snapshot,
        table: &MarkTable,
        filesystem: u64,
        (kind, handle): (i32, &[u8]),
        name: &[u8],
    ) -> Option<&Path> {
        self.renew(snapshot);
        if self.lately.len() >= LATELY_MAX {
            self.lately.clear();
        }
        self.key.clear();
        self.key.extend(filesystem.to_le_bytes());
        self.key.extend(kind.to_le_bytes());
        self.key.extend(handle);
        if !self.lately.contains_key(self.key.as_slice()) {
            let directory = self.locate(snapshot, table, filesystem, (kind, handle), b"")?;
            self.lately.insert(self.key.as_slice().into(), directory.into_os_string().into_vec().into());
        }
        let whole = self.path.set(self.lately.get(self.key.as_slice())?)
            && (matches!(name, b"" | b".") || self.path.push_component(name));
        let path = self.path.as_bytes();
        // What is in no directory that can be reached from here has no path.
        let is_path = whole && path.first() == Some(&b'/');
        (is_path && snapshot.rule_for(path).is_none() && !snapshot.trie.below(path))
            .then(|| Path::new(OsStr::from_bytes(path)))
    }

    /// What is newly marked has a path of its own in the table, and may lie on another filesystem.
    fn renew(&mut self, snapshot: &Snapshot) {
        if self.generation != snapshot.generation {
            self.remounted();
            self.generation = snapshot.generation;
        }
    }

    /// Some directory may be elsewhere than it was.
    pub fn forget(&mut self) {
        self.lately.clear();
    }

    /// Other filesystems may be mounted than were.
    pub fn remounted(&mut self) {
        self.forget();
        self.missing.clear();
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
        let directory = self.open(snapshot, filesystem, (kind, handle))?;
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
        let object = self.open(snapshot, filesystem, (kind, handle))?;
        let stat = file::stat_fd(object.as_fd()).ok()?;
        self.proc.path_of(object.as_fd(), &mut self.path).ok()?;
        let path = PathBuf::from(OsStr::from_bytes(self.path.as_bytes()));
        path.is_absolute().then_some((path, stat.id, stat.links as u32))
    }

    fn open(
        &mut self,
        snapshot: &Snapshot,
        filesystem: u64,
        (kind, handle): (i32, &[u8]),
    ) -> Option<OwnedFd> {
        self.renew(snapshot);
        if self.missing.contains(&filesystem) {
            return None;
        }
        let is_known = self.filesystems.contains_key(&filesystem) || self.inner(filesystem).is_some();
        if !is_known {
            self.find_filesystems(snapshot);
            self.find_inner(snapshot);
        }
        if let Some(mount) = self.filesystems.get(&filesystem) {
            return file::open_handle(mount.as_fd(), kind, handle).ok();
        }
        let Some(mount) = self.inner(filesystem) else {
            self.missing.insert(filesystem);
            return None;
        };
        file::open_handle(mount.as_fd(), kind, handle).ok()
    }

    fn inner(&self, filesystem: u64) -> Option<OwnedFd> {
        let (id, directory) = open_directory(self.inner.get(&filesystem)?)?;
        (id == filesystem).then_some(directory)
    }

    fn find_inner(&mut self, snapshot: &Snapshot) {
        let protected = |point: &PathBuf| snapshot.rule_for(point.as_os_str().as_bytes()).is_some();
        for point in reach::points().into_iter().filter(protected) {
            if let Some((id, _)) = open_directory(&point) {
                self.inner.insert(id, point);
            }
        }
    }

    fn find_filesystems(&mut self, snapshot: &Snapshot) {
        for root in snapshot.roots() {
            if let Some((id, directory)) = root.path.ancestors().find_map(open_directory) {
                self.filesystems.entry(id).or_insert(directory);
            }
        }
    }
}

/// The directory at `path`, and which filesystem it lies on.
fn open_directory(path: &Path) -> Option<(u64, OwnedFd)> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let directory = directory::open(&path).ok()?;
    Some((file::filesystem_id(directory.as_fd()).ok()?, directory))
}
