//! Mounts that come to cover protected paths. The kernel makes the list of mounts readable with `POLLPRI` whenever it
//! has changed (proc(5), `/proc/<pid>/mountinfo`): on every kernel, at once, and with all that is mounted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::gate::mounts::{parse, unescape};
use crate::policy::snapshot::Snapshot;
use crate::sys::path::FixedPath;

/// A mount that covers something protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// Where it is.
    pub point: PathBuf,
    /// A path that is protected and hidden by it, or the mount's own.
    pub path: PathBuf,
}

/// The list of mounts of this namespace.
pub struct MountWatch {
    file: File,
    known: BTreeMap<u64, PathBuf>,
}

impl MountWatch {
    /// With what is mounted now: that is what the policies were resolved against.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new() -> io::Result<Self> {
        let mut watch = Self { file: File::open("/proc/self/mountinfo")?, known: BTreeMap::new() };
        watch.known = watch.read()?;
        Ok(watch)
    }

    /// For poll(2), `POLLPRI`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn read(&mut self) -> io::Result<BTreeMap<u64, PathBuf>> {
        let mut text = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut text)?;
        let mut point = FixedPath::default();
        let lines = text.split(|&byte| byte == b'\n').filter_map(parse);
        Ok(lines
            .filter_map(|line| {
                unescape(line.point, &mut point)
                    .then(|| (line.id, PathBuf::from(OsStr::from_bytes(point.as_bytes()))))
            })
            .collect())
    }

    /// What has been mounted over protected paths since the last look.
    pub fn look(&mut self, snapshot: &Snapshot) -> Vec<Covered> {
        let Ok(now) = self.read() else { return Vec::new() };
        let new = now.iter().filter(|(id, point)| self.known.get(id) != Some(point));
        let covered = new.filter_map(|(_, point)| covered_by(snapshot, point)).collect();
        self.known = now;
        covered
    }
}

fn covered_by(snapshot: &Snapshot, point: &Path) -> Option<Covered> {
    let bytes = point.as_os_str().as_bytes();
    if snapshot.rule_for(bytes).is_some() {
        return Some(Covered { point: point.to_owned(), path: point.to_owned() });
    }
    let root = snapshot.roots_below(point).next()?;
    Some(Covered { point: point.to_owned(), path: root.path.to_owned() })
}
