//! The walk through one tree, by several threads once there is enough of it: most of its time is spent in the
//! kernel, in calls that do not wait for each other.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::walk::{Marker, Report};
use crate::sys::directory::{self, ENTRIES_BYTES};
use crate::sys::file::{self, Identity};
use crate::sys::reach;

/// The most threads of one walk. They share the locks of three groups, so more of them would wait for each other.
const WALKERS_MAX: usize = 4;
/// As many directories must wait before others help: a thread costs as much as ten of them.
const HELP_FROM: usize = 64;

/// Filesystems that hold no files of their own; marking them would only cost.
const PSEUDO_FILESYSTEMS: [libc::c_long; 7] = [
    libc::PROC_SUPER_MAGIC,
    libc::SYSFS_MAGIC,
    libc::CGROUP_SUPER_MAGIC,
    libc::CGROUP2_SUPER_MAGIC,
    libc::DEBUGFS_MAGIC,
    libc::TRACEFS_MAGIC,
    libc::DEVPTS_SUPER_MAGIC,
];

/// A directory that has been seen and not been read.
struct Waiting {
    path: CString,
    /// The directory above, whose filesystem is known to hold files.
    above: Option<Above>,
}

#[derive(Clone)]
struct Above {
    device: u64,
    directory: Arc<OwnedFd>,
}

impl Waiting {
    fn open(&self) -> io::Result<OwnedFd> {
        let name = self.path.to_bytes_with_nul().rsplit(|&byte| byte == b'/').next();
        match (&self.above, name.map(CStr::from_bytes_with_nul)) {
            (Some(above), Some(Ok(name))) => directory::open_in(above.directory.as_fd(), name, &self.path),
            _ => directory::open(&self.path),
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Directories being read: each may add to those that wait.
    busy: usize,
}

/// One walk.
pub(super) struct TreeWalk<'a> {
    marker: &'a Marker<'a>,
    /// What is visible by two paths in one tree is read by one of them.
    seen: Mutex<HashSet<Identity>>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl<'a> TreeWalk<'a> {
    pub(super) fn new(marker: &'a Marker<'a>) -> Self {
        Self { marker, seen: Mutex::default(), queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Marks `top` and every directory below it that something protects, and the files with several names in them.
    pub(super) fn run(self, top: CString, report: &mut Report) {
        self.queue.lock().waiting.push(Waiting { path: top, above: None });
        report.merge(self.walk(HELP_FROM));
        if self.queue.lock().waiting.is_empty() {
            return;
        }
        let walkers = thread::available_parallelism().map_or(1, usize::from).min(WALKERS_MAX);
        thread::scope(|scope| {
            // Without helpers it takes longer and does the same.
            let helpers: Vec<_> = (1..walkers)
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, || self.walk(usize::MAX)).ok())
                .collect();
            report.merge(self.walk(usize::MAX));
            for helper in helpers {
                report.merge(helper.join().unwrap_or_default());
            }
        });
    }

    /// Takes directories until there are none left, or as many as `enough`.
    fn walk(&self, enough: usize) -> Report {
        let mut report = Report::default();
        let mut buffer = vec![0; ENTRIES_BYTES];
        let mut found = Vec::new();
        let mut queue = self.queue.lock();
        while queue.waiting.len() < enough {
            let Some(next) = queue.waiting.pop() else {
                if queue.busy == 0 {
                    break;
                }
                self.changed.wait(&mut queue);
                continue;
            };
            queue.busy += 1;
            drop(queue);
            self.visit(&next, &mut buffer, &mut found, &mut report);
            queue = self.queue.lock();
            queue.busy -= 1;
            queue.waiting.append(&mut found);
            self.changed.notify_all();
        }
        report
    }

    fn visit(&self, next: &Waiting, buffer: &mut [u8], found: &mut Vec<Waiting>, report: &mut Report) {
        let path = &next.path;
        if !self.marker.concerns(path.to_bytes()) || reach::is_covered(path.to_bytes()) {
            return;
        }
        let visited = next.open().and_then(|directory| {
            let id = file::stat_fd(directory.as_fd())?.id;
            // Another filesystem begins at another device.
            if next.above.as_ref().is_none_or(|above| above.device != id.dev) && is_pseudo(directory.as_fd())
            {
                return Ok(());
            }
            self.marker.mark_open_directory(directory.as_fd(), id, path.to_bytes(), report)?;
            if !self.seen.lock().insert(id) {
                return Ok(());
            }
            let directory = Arc::new(directory);
            let above = Above { device: id.dev, directory: Arc::clone(&directory) };
            while let Some(entries) = directory::read(directory.as_fd(), buffer)? {
                for entry in entries {
                    let below = || join(path, entry.name.to_bytes());
                    // An entry that vanishes meanwhile needs no mark.
                    let stat = || file::stat_at(directory.as_fd(), entry.name);
                    match entry.kind {
                        libc::DT_DIR => found.push(Waiting { path: below(), above: Some(above.clone()) }),
                        libc::DT_REG => {
                            if let Ok(stat) = stat()
                                && stat.links > 1
                            {
                                self.marker.mark_file(&below(), &stat, report);
                            }
                        }
                        libc::DT_UNKNOWN => match stat() {
                            Ok(stat) if stat.file_type() == libc::S_IFDIR => {
                                found.push(Waiting { path: below(), above: Some(above.clone()) });
                            }
                            Ok(stat) => self.marker.mark_file(&below(), &stat, report),
                            Err(_) => {}
                        },
                        _ => {}
                    }
                }
            }
            Ok(())
        });
        if let Err(error) = visited {
            report.uncovered(path.to_bytes(), error);
        }
    }
}

/// The path of an entry.
fn join(directory: &CStr, name: &[u8]) -> CString {
    let directory = directory.to_bytes();
    let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    // Neither part has a NUL, so nothing is ever refused.
    CString::new([directory, slash, name].concat()).unwrap_or_default()
}

/// Whether `directory` lies on a filesystem such as proc.
fn is_pseudo(directory: BorrowedFd<'_>) -> bool {
    nix::sys::statfs::fstatfs(directory)
        .is_ok_and(|found| PSEUDO_FILESYSTEMS.contains(&(found.filesystem_type().0 as libc::c_long)))
}
