//! Ways to protected paths that lead through no mount that came over them. Whoever mounts something there decides what
//! its files are and when they answer, which may be never: nothing of it is looked at.
//!
//! What may be passed through is published by whoever reads the list of mounts, for the whole process. A way is walked
//! from one mount to the next, and each is asked for its number when it is reached: a mount that came since the list was
//! read is not passed through either.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::{mount, names};

/// Nothing in a single step may leave the mount.
const WITHIN: u64 = libc::RESOLVE_NO_XDEV;

/// A mount that may be passed through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passable {
    /// The number that is never given twice; 0: the kernel has none.
    pub unique: u64,
    /// Where it stands.
    pub point: PathBuf,
}

/// What is known of the mounts of this process.
#[derive(Debug, Default)]
pub struct Mounts {
    passable: HashMap<u64, Passable>,
    points: HashSet<PathBuf>,
    covers: HashSet<PathBuf>,
}

/// `None`: nobody reads the list of mounts, and every way may be gone.
static MOUNTS: RwLock<Option<Arc<Mounts>>> = RwLock::new(None);
/// Most of the time there are none, and nothing has to be looked up.
static HAS_COVERS: AtomicBool = AtomicBool::new(false);

impl Mounts {
    /// Those that may be passed through, by their numbers in `/proc/self/mountinfo`, and where others came over
    /// protected paths.
    pub fn new(passable: HashMap<u64, Passable>, mut covers: HashSet<PathBuf>) -> Self {
        // Whatever lies over our own root is not on our way.
        covers.remove(Path::new("/"));
        Self { points: passable.values().map(|mount| mount.point.clone()).collect(), passable, covers }
    }

    /// From now on these are the mounts.
    pub fn publish(self) {
        let has_covers = !self.covers.is_empty();
        let old = MOUNTS.write().replace(Arc::new(self));
        HAS_COVERS.store(has_covers, Ordering::Release);
        drop(old);
    }

    fn is_passable(&self, directory: BorrowedFd<'_>) -> bool {
        let Ok(id) = mount::id(directory) else { return false };
        let Some(Passable { unique, point }) = self.passable.get(&id) else { return false };
        // Its number may be another's by now, and it may stand elsewhere.
        *unique == 0
            || mount::status(*unique)
                .is_ok_and(|now| now.id == id && now.point == point.as_os_str().as_bytes())
    }

    fn step(&self, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        match names::open_resolving(Some(directory), name, flags, WITHIN) {
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {}
            other => return other,
        }
        let found = names::open_at(directory, name, libc::O_PATH, 0)?;
        if self.is_passable(found.as_fd()) { Ok(found) } else { Err(in_the_way()) }
    }

    fn open(&self, path: &[u8], flags: i32, resolve: u64) -> io::Result<OwnedFd> {
        let within = resolve | WITHIN;
        let (mut at, mut rest): (Option<OwnedFd>, _) = (None, path);
        for end in self.points_on(path) {
            let Some((above, name)) = split(&path[path.len() - rest.len()..end]) else { continue };
            if !above.is_empty() {
                let directory = libc::O_PATH | libc::O_DIRECTORY;
                at = Some(names::open_resolving(
                    at.as_ref().map(AsFd::as_fd),
                    &c_string(above)?,
                    directory,
                    within,
                )?);
            }
            let Some(directory) = at else { continue };
            at = Some(self.step(directory.as_fd(), &c_string(name)?)?);
            rest = path[end..].strip_prefix(b"/").unwrap_or(&path[end..]);
        }
        match at {
            Some(mount) if rest.is_empty() && flags & libc::O_PATH != 0 => Ok(mount),
            at if rest.is_empty() => names::open_resolving(at.as_ref().map(AsFd::as_fd), c".", flags, within),
            at => names::open_resolving(at.as_ref().map(AsFd::as_fd), &c_string(rest)?, flags, within),
        }
    }

    /// Where on the way to `path` the points of mounts end, the outermost first.
    fn points_on(&self, path: &[u8]) -> Vec<usize> {
        let ancestors = Path::new(OsStr::from_bytes(path)).ancestors();
        let points = ancestors.filter(|above| above.parent().is_some() && self.points.contains(*above));
        let mut ends: Vec<_> = points.map(|point| point.as_os_str().len()).collect();
        ends.reverse();
        ends
    }
}

/// Directory, with its slash, and last component.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|&byte| byte == b'/');
    let (above, name) = path.split_at(slash.map_or(0, |slash| slash + 1));
    (!name.is_empty()).then_some((above, name))
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn in_the_way() -> io::Error {
    io::Error::from_raw_os_error(libc::EXDEV)
}

fn mounts() -> Option<Arc<Mounts>> {
    MOUNTS.read().clone()
}

/// Opens an absolute path, with further `RESOLVE_*` bits.
///
/// # Errors
/// `EXDEV` where the way leads through what may not be passed; those of openat2(2).
pub fn open(path: &[u8], flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    match mounts() {
        Some(mounts) => mounts.open(path, flags, resolve),
        None => names::open_resolving(None, &c_string(path)?, flags, resolve),
    }
}

/// Opens `name` in `directory` where that is quickest: on the same mount; elsewhere `path`, which leads to the same.
///
/// # Errors
/// Those of [`open`].
pub fn open_in(directory: BorrowedFd<'_>, name: &CStr, path: &[u8], flags: i32) -> io::Result<OwnedFd> {
    match names::open_resolving(Some(directory), name, flags, WITHIN) {
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => open(path, flags, 0),
        other => other,
    }
}

/// A descriptor that stands for what `name` in `directory` is.
///
/// # Errors
/// `EXDEV` where something came over it; those of openat(2).
pub fn step(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    match mounts() {
        Some(mounts) => mounts.step(directory, name),
        None => names::open_at(directory, name, libc::O_PATH, 0),
    }
}

/// Whether a mount that came over protected paths lies at `path` or above it, by the list that was read last. For calls
/// that take a path and nothing else. Allocates nothing.
pub fn is_covered(path: &[u8]) -> bool {
    if !HAS_COVERS.load(Ordering::Acquire) {
        return false;
    }
    let path = Path::new(OsStr::from_bytes(path));
    MOUNTS.read().as_ref().is_some_and(|mounts| path.ancestors().any(|above| mounts.covers.contains(above)))
}

/// The same as an error.
///
/// # Errors
/// `EXDEV` where the path [is covered](is_covered).
pub fn check(path: &CStr) -> io::Result<()> {
    if is_covered(path.to_bytes()) { Err(in_the_way()) } else { Ok(()) }
}

/// What a path names, not following a final symbolic link.
///
/// # Errors
/// Those of [`open`].
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    File::from(open(path.as_os_str().as_bytes(), libc::O_PATH | libc::O_NOFOLLOW, 0)?).metadata()
}

/// Where mounts stand that may be passed through.
pub fn points() -> Vec<PathBuf> {
    mounts().map(|mounts| mounts.points.iter().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(points: &[&str]) -> Mounts {
        Mounts { points: points.iter().map(PathBuf::from).collect(), ..Mounts::default() }
    }

    #[test]
    fn points_on_the_way() {
        let mounts = mounts(&["/", "/a", "/a/b/c", "/ab", "/a/b/c/d/e"]);
        assert_eq!(mounts.points_on(b"/a/b/c/d"), [2, 6]);
        assert_eq!(mounts.points_on(b"/a/b/c/d/e"), [2, 6, 10]);
        assert_eq!(mounts.points_on(b"/x"), [0; 0]);
        assert_eq!(split(b"/a"), Some((&b"/"[..], &b"a"[..])));
        assert_eq!(split(b"b/c"), Some((&b"b/"[..], &b"c"[..])));
        assert_eq!(split(b"c"), Some((&b""[..], &b"c"[..])));
    }
}
