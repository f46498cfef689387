//! Mounts that come to cover protected paths, and those with protected paths that go. The kernel makes the list of
//! mounts readable with `POLLPRI` whenever it has changed (proc(5), `/proc/<pid>/mountinfo`): on every kernel, at once,
//! and with all that is mounted.

mod detach;
mod list;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::heal;
use crate::policy::snapshot::Snapshot;
use crate::sys::{mount, reach};
pub use detach::Stays;
pub use list::mounted;
use list::{List, Mount};

/// So many on each other are followed down to what they show.
const SAME_MAX: usize = 64;
/// How often the list is read again at one look because something was mounted between its numbers and its lines.
const READS: usize = 4;

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
    /// The number that is never given twice; 0: not known.
    pub unique: u64,
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

/// The list of mounts of this namespace.
pub struct MountWatch {
    file: File,
    known: List,
    /// The numbers that are never given twice, by those that are.
    unique: HashMap<u64, u64>,
    /// Those that were told of when they came: nothing is lost with them.
    covers: BTreeSet<u64>,
    /// Those of them that show what they lie over, and hide nothing.
    shows: BTreeSet<u64>,
    /// In the list when the gate came up; all that is told where numbers are given twice.
    first: BTreeSet<u64>,
    /// Where the gate keeps its own things.
    state_dir: PathBuf,
    /// Where those stood that were found there at first, by the numbers that are never given twice.
    homes: HashMap<u64, PathBuf>,
    /// Up to here mounts are older than the gate; 0: the kernel does not tell.
    at_start: u64,
}

impl MountWatch {
    /// With what is mounted now: that is what the policies were resolved against.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        let newest = mount::list().ok().and_then(|_| mount::newest_id()).unwrap_or_default();
        let file = File::open("/proc/self/mountinfo")?;
        let (known, unique, covers, shows, first, homes) = Default::default();
        let state_dir = state_dir.to_owned();
        let mut watch =
            Self { file, state_dir, known, unique, covers, shows, first, homes, at_start: newest };
        watch.known = watch.read()?;
        watch.first = watch.known.keys().copied().collect();
        watch.note_homes();
        Ok(watch)
    }

    /// Goes on where another process has stopped: what came after the start is new again, and what was there is not,
    /// but for the exceptions that it left.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn resume(state_dir: &Path, at_start: u64, exceptions: &[u64]) -> io::Result<Self> {
        let mut watch = Self::new(state_dir)?;
        // A kernel that has told before, and does not now: everything is taken for older.
        if watch.at_start == 0 {
            return Ok(watch);
        }
        watch.at_start = at_start;
        watch.known.retain(|_, mount| {
            mount.unique != 0 && (mount.unique <= at_start) != exceptions.contains(&mount.unique)
        });
        watch.note_homes();
        Ok(watch)
    }

    fn note_homes(&mut self) {
        self.homes = self.known.values().map(|mount| (mount.unique, mount.point.clone())).collect();
    }

    /// Up to which number mounts are older than the gate; 0 where the kernel does not tell.
    pub const fn at_start(&self) -> u64 {
        self.at_start
    }

    /// For [`Self::resume`]: those that came later, to where no policy had to do with them then, and has now; those that
    /// were there at the start and have come over something protected since.
    pub fn exceptions(&self, snapshot: &Snapshot) -> impl Iterator<Item = u64> {
        let is_exception = |(id, mount): &(&u64, &Mount)| {
            mount.unique != 0
                && (mount.unique <= self.at_start) == self.covers.contains(id)
                && self.concerns(snapshot, &mount.point)
        };
        self.known.iter().filter(is_exception).map(|(_, mount)| mount.unique)
    }

    /// Where something hides what is protected.
    pub fn covered(&self) -> impl Iterator<Item = &Path> {
        self.known.iter().filter(|(id, _)| self.hides(**id)).map(|(_, mount)| mount.point.as_path())
    }

    /// For poll(2), `POLLPRI`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Has the whole process keep out of what came over protected paths.
    pub fn publish(&self) {
        let passable =
            self.known.iter().filter(|(id, _)| !self.hides(**id)).map(|(&id, mount)| {
                (id, reach::Passable { unique: mount.unique, point: mount.point.clone() })
            });
        reach::Mounts::new(passable.collect(), self.covered().map(Path::to_owned).collect()).publish();
    }

    fn hides(&self, id: u64) -> bool {
        self.covers.contains(&id) && !self.shows.contains(&id)
    }

    fn read(&mut self) -> io::Result<List> {
        let mut list = List::new();
        for _ in 0..READS {
            // Before the list: a number of it that is given again meanwhile shows at the next look.
            self.note_unique();
            let mut text = Vec::new();
            self.file.rewind()?;
            self.file.read_to_end(&mut text)?;
            list = list::read(&text, &self.unique);
            if self.unique.is_empty() || list.values().all(|mount| mount.unique != 0) {
                break;
            }
        }
        self.unique.retain(|id, _| list.contains_key(id));
        Ok(list)
    }

    /// All of them each time: what is mounted now may have been made, and got its number, long ago.
    fn note_unique(&mut self) {
        let noted: HashSet<u64> = self.unique.values().copied().collect();
        for unique in mount::list().unwrap_or_default() {
            if !noted.contains(&unique)
                && let Ok(status) = mount::status(unique)
            {
                self.unique.insert(status.id, unique);
            }
        }
    }

    /// What has happened to mounts with or over protected paths since the last look.
    pub fn look(&mut self, snapshot: &Snapshot) -> Vec<Remount> {
        let Ok(now) = self.read() else { return Vec::new() };
        let before = std::mem::replace(&mut self.known, now);
        let mut found = Vec::new();
        let mut add = |id: u64, turn, mount: &Mount| {
            let what = if turn == Turn::Altered { &mount.options } else { &mount.what };
            let what = String::from_utf8_lossy(what).into_owned();
            found.push(Remount { id, unique: mount.unique, turn, point: mount.point.clone(), what });
        };
        for (id, old) in &before {
            let stands = self.known.get(id).is_some_and(|mount| is_same(mount, old));
            let is_lost = !stands && !self.covers.remove(id);
            if is_lost && self.concerns(snapshot, &old.point) {
                add(*id, Turn::Went, old);
            }
        }
        for (&id, mount) in self.known.iter().rev() {
            match before.get(&id).filter(|old| is_same(mount, old)) {
                None if self.concerns(snapshot, &mount.point) => {
                    if mount.unique == 0 || self.homes.get(&mount.unique) != Some(&mount.point) {
                        self.covers.insert(id);
                    }
                    add(id, Turn::Came, mount);
                }
                Some(old) if old.options != mount.options && self.holds(snapshot, id, mount) => {
                    add(id, Turn::Altered, mount);
                }
                _ => {}
            }
        }
        self.note_shows();
        self.publish();
        found
    }

    /// Whether protected paths lie below it or above it, or what the gate keeps.
    fn concerns(&self, snapshot: &Snapshot, point: &Path) -> bool {
        snapshot.rule_for(point.as_os_str().as_bytes()).is_some()
            || snapshot.roots_below(point).next().is_some()
            || self.state_dir.starts_with(point)
            || point.starts_with(&self.state_dir)
            || heal::is_store(point)
    }

    /// A directory that is mounted over itself is what it was, and still looked after.
    fn note_shows(&mut self) {
        let shows = |id: &u64| {
            let mut at = *id;
            // Thousands on each other are nobody's good intention.
            for _ in 0..SAME_MAX {
                let Some(mount) = self.known.get(&at) else { return false };
                if !self.covers.contains(&at) {
                    return true;
                }
                if !self.known.get(&mount.parent).is_some_and(|below| mount.shows_the_same_as(below)) {
                    return false;
                }
                at = mount.parent;
            }
            false
        };
        self.shows = self.covers.iter().copied().filter(shows).collect();
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
}

/// Whether it is the same mount, at the same place. A number that was not known yet is none.
fn is_same(mount: &Mount, before: &Mount) -> bool {
    let known = mount.unique != 0 && before.unique != 0;
    mount.point == before.point && !(known && mount.unique != before.unique)
}
