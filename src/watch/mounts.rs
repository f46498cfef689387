//! Mounts that come to cover protected paths, and those with protected paths that go. The kernel makes the list of
//! mounts readable with `POLLPRI` whenever it has changed (proc(5), `/proc/<pid>/mountinfo`): on every kernel, at once,
//! and with all that is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::gate::mounts::{parse, unescape};
use crate::policy::snapshot::Snapshot;
use crate::sys::path::FixedPath;
use crate::sys::{inode, mount, names};

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    options: Box<[u8]>,
    /// Type and source.
    what: Box<[u8]>,
}

/// What has become of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is new here.
    Came,
    /// It stood here before any look.
    Went,
    /// It has other options.
    Altered,
}

/// Something about a mount that concerns what is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remount {
    /// Its number in the list.
    pub id: u64,
    /// What has become of it.
    pub turn: Turn,
    /// Where it is, or was.
    pub point: PathBuf,
    /// For people: its type and source, or its options.
    pub what: String,
}

impl Remount {
    /// Protected paths that are hidden by it: its own, or those below.
    pub fn paths(&self, snapshot: &Snapshot) -> Vec<PathBuf> {
        if snapshot.rule_for(self.point.as_os_str().as_bytes()).is_some() {
            return vec![self.point.clone()];
        }
        snapshot.roots_below(&self.point).map(|root| root.path.to_owned()).collect()
    }
}

/// Why a mount was not taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// It was mounted somewhere before the gate came up, and has only been moved.
    #[error("it is older than the gate")]
    Older,
    /// Something else is mounted over it, or it is gone.
    #[error("it cannot be reached")]
    Hidden,
    /// The kernel refuses.
    #[error("umount: {}", .0.desc())]
    Refused(Errno),
}

/// The list of mounts of this namespace.
pub struct MountWatch {
    file: File,
    known: BTreeMap<u64, Mount>,
    /// Of those that concern protected paths: the number that is never given twice.
    unique: BTreeMap<u64, u64>,
    /// Those that were told of when they came: nothing is lost with them.
    covers: BTreeSet<u64>,
    /// In the list when the gate came up; all that is told where numbers are given twice.
    first: BTreeSet<u64>,
    /// Up to here mounts are older than the gate; 0: the kernel does not tell.
    at_start: u64,
    /// Up to here they were dealt with.
    seen: u64,
}

impl MountWatch {
    /// With what is mounted now: that is what the policies were resolved against.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new() -> io::Result<Self> {
        let newest = mount::newest_id().unwrap_or_default();
        let file = File::open("/proc/self/mountinfo")?;
        let (known, unique, covers, first) = Default::default();
        let mut watch = Self { file, known, unique, covers, first, at_start: newest, seen: newest };
        watch.known = watch.read()?;
        watch.first = watch.known.keys().copied().collect();
        Ok(watch)
    }

    /// Goes on where another process has stopped: what was mounted since then is new.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn resume(at_start: u64, seen: u64) -> io::Result<Self> {
        let mut watch = Self::new()?;
        let mut tops = Vec::new();
        for (&id, mount) in &watch.known {
            let unique = open(&mount.point).and_then(|fd| mount::unique_id(fd.as_fd()));
            if unique > Some(seen) {
                tops.push(mount.point.clone());
            } else if unique > Some(at_start) {
                watch.covers.insert(id);
            }
        }
        // What lies under a new one cannot be asked.
        watch.known.retain(|_, mount| !tops.iter().any(|top| mount.point.starts_with(top)));
        (watch.at_start, watch.seen) = (at_start, seen);
        Ok(watch)
    }

    /// For [`Self::resume`]: what was there at the start, and what was dealt with; 0 where the kernel does not tell.
    pub const fn progress(&self) -> (u64, u64) {
        (self.at_start, self.seen)
    }

    /// For poll(2), `POLLPRI`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn read(&mut self) -> io::Result<BTreeMap<u64, Mount>> {
        let mut text = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut text)?;
        let mut point = FixedPath::default();
        let lines = text.split(|&byte| byte == b'\n').filter_map(|line| Some((parse(line)?, rest(line))));
        Ok(lines
            .filter_map(|(line, (options, what))| {
                let (options, what) = (options.into(), what.into());
                unescape(line.point, &mut point).then(|| {
                    let point = PathBuf::from(OsStr::from_bytes(point.as_bytes()));
                    (line.id, Mount { point, options, what })
                })
            })
            .collect())
    }

    /// What has happened to mounts with or over protected paths since the last look; the newest first, which may lie
    /// over others.
    pub fn look(&mut self, snapshot: &Snapshot) -> Vec<Remount> {
        // Before the list: what comes after this number is in the next one.
        let newest = mount::newest_id().unwrap_or_default();
        let Ok(now) = self.read() else { return Vec::new() };
        let before = std::mem::replace(&mut self.known, now);
        let others = self.note_unique(snapshot);
        let stands = |id: u64, point: &Path, list: &BTreeMap<u64, Mount>| {
            !others.contains(&id) && list.get(&id).is_some_and(|mount| mount.point == point)
        };
        let mut found = Vec::new();
        let mut add = |id: u64, turn, mount: &Mount| {
            let what = if turn == Turn::Altered { &mount.options } else { &mount.what };
            let what = String::from_utf8_lossy(what).into_owned();
            found.push(Remount { id, turn, point: mount.point.clone(), what });
        };
        for (&id, old) in &before {
            let is_lost = !stands(id, &old.point, &self.known) && !self.covers.remove(&id);
            if is_lost && concerns(snapshot, &old.point) {
                add(id, Turn::Went, old);
            }
        }
        for (&id, mount) in self.known.iter().rev() {
            if !stands(id, &mount.point, &before) {
                if concerns(snapshot, &mount.point) {
                    self.covers.insert(id);
                    add(id, Turn::Came, mount);
                }
            } else if before[&id].options != mount.options && self.holds(snapshot, id, mount) {
                add(id, Turn::Altered, mount);
            }
        }
        self.seen = newest;
        found
    }

    /// Takes down the numbers that are never given twice; those of the list that stand for another mount than before.
    fn note_unique(&mut self, snapshot: &Snapshot) -> BTreeSet<u64> {
        let mut others = BTreeSet::new();
        self.unique.retain(|id, _| self.known.contains_key(id));
        for (&id, mount) in self.known.iter().filter(|(_, mount)| concerns(snapshot, &mount.point)) {
            let Some(unique) = reach(id, &mount.point).and_then(|fd| mount::unique_id(fd.as_fd())) else {
                continue;
            };
            if self.unique.insert(id, unique).is_some_and(|before| before != unique) {
                others.insert(id);
            }
        }
        others
    }

    /// Whether protected paths lie on this mount, and not on one below it.
    fn holds(&self, snapshot: &Snapshot, id: u64, mount: &Mount) -> bool {
        let innermost = |path: &Path| {
            let above = self.known.iter().filter(|(_, other)| path.starts_with(&other.point));
            above.max_by_key(|(_, other)| other.point.as_os_str().len()).map(|(id, _)| *id)
        };
        snapshot.rule_for(mount.point.as_os_str().as_bytes()).is_some()
            || snapshot.roots_below(&mount.point).any(|root| innermost(root.path) == Some(id))
    }

    /// Unmounts what has come, lazily, with all that was mounted in it. By descriptor: a path may lead to another mount
    /// by the time the kernel looks.
    ///
    /// # Errors
    /// It stays.
    pub fn detach(&mut self, mount: &Remount) -> Result<(), Stays> {
        let fd = reach(mount.id, &mount.point).ok_or(Stays::Hidden)?;
        let older = match mount::unique_id(fd.as_fd()) {
            Some(unique) if self.at_start > 0 => unique <= self.at_start,
            _ => self.first.contains(&mount.id),
        };
        if older {
            return Err(Stays::Older);
        }
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        umount2(path.as_str(), MntFlags::MNT_DETACH).map_err(Stays::Refused)?;
        // The next one may get its number.
        self.known.remove(&mount.id);
        Ok(())
    }
}

/// The root of what is mounted last on `point`.
fn open(point: &Path) -> Option<impl AsFd + use<>> {
    let path = CString::new(point.as_os_str().as_bytes()).ok()?;
    names::open_no_links(&path, libc::O_PATH | libc::O_NOFOLLOW).ok()
}

/// The root of this mount, if nothing lies over it.
fn reach(id: u64, point: &Path) -> Option<impl AsFd + use<>> {
    open(point).filter(|fd| inode::of_fd(fd.as_fd()).is_ok_and(|inode| inode.mount == id))
}

/// The options of a line, the filesystem's own "ro" or "rw" with them, and its type and source.
fn rest(line: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let fields: Vec<_> = line.split(|&byte| byte == b' ').collect();
    let options = fields.get(5).copied().unwrap_or_default();
    let after = fields.iter().position(|&field| field == b"-").unwrap_or(fields.len());
    let of = |index: usize| fields.get(after + index).copied().unwrap_or_default();
    let own = of(3).split(|&byte| byte == b',').next().unwrap_or_default();
    ([options, own].join(&b' '), [of(1), of(2)].join(&b' '))
}

fn concerns(snapshot: &Snapshot, point: &Path) -> bool {
    snapshot.rule_for(point.as_os_str().as_bytes()).is_some() || snapshot.roots_below(point).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_type_and_source_of_a_line() {
        let line = b"36 35 98:0 /a /mnt rw,noatime master:1 - ext4 /dev/x ro,errors=continue";
        assert_eq!(rest(line), (b"rw,noatime ro".to_vec(), b"ext4 /dev/x".to_vec()));
        assert_eq!(rest(b"36 35 98:0 / /mnt rw"), (b"rw ".to_vec(), b" ".to_vec()));
    }
}
