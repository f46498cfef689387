//! When the watcher looks at the mounts: before it looks at anything that they may have come over.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::Watcher;
use crate::sys::reach;
use crate::watch::{MountWatch, Remount};
use crate::worker::Worker;

/// The mounts, with those that have come over protected paths since the start of the gate: before anything else is
/// looked at. `None` where there will be no watcher.
///
/// # Errors
/// /proc is not mounted.
pub fn mounts(worker: &Worker) -> io::Result<Option<(MountWatch, Vec<Remount>)>> {
    let (page, state_dir) = (worker.page, &worker.options.state_dir);
    if worker.shared.groups.watch.is_none() {
        return Ok(None);
    }
    let mut mounts = match page.mounts_at_start.load(Relaxed) {
        0 => MountWatch::new(state_dir),
        at_start => {
            let exceptions = page.mount_exceptions.iter().map(|place| place.load(Relaxed));
            let exceptions: Vec<_> = exceptions.take_while(|&unique| unique != 0).collect();
            MountWatch::resume(state_dir, at_start, &exceptions)
        }
    }?;
    page.mounts_at_start.store(mounts.at_start(), Relaxed);
    let remounts = mounts.look(&worker.shared.in_force.load().1.snapshot);
    Ok(Some((mounts, remounts)))
}

/// The last look at the mounts.
pub(super) struct Looked {
    /// When the next may be: as long after it as it took, for a list may be made very long.
    pub(super) again: Instant,
    /// They have changed since.
    pub(super) is_due: bool,
    /// The policies that it was made with.
    generation: u64,
}

impl Default for Looked {
    fn default() -> Self {
        Self { again: Instant::now(), is_due: true, generation: 0 }
    }
}

impl Watcher {
    pub(super) fn look_at_mounts_if_due(&mut self) {
        let generation = self.worker.shared.in_force.load().1.snapshot.generation;
        let is_due = self.looked.is_due && self.looked.again <= Instant::now();
        if is_due || self.looked.generation != generation {
            self.look_at_mounts();
        } else if let Some(keeper) = self.keeper.as_mut().filter(|keeper| keeper.has_mounts_due()) {
            keeper.take_mounts(&mut self.mounts, Vec::new());
        }
    }

    /// Before a path is looked at: the mounts, if they have changed.
    pub(super) fn look_out_for_mounts(&mut self) {
        let mut fds = [PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI)];
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::ZERO)), None);
        self.looked.is_due |= fds[0].any().unwrap_or_default();
        if self.looked.is_due && self.looked.again <= Instant::now() {
            self.look_at_mounts();
        }
    }

    /// Marks what a walk has passed over, once nothing lies over it any more.
    pub(super) fn mark_uncovered(&mut self) {
        if self.unmarked.is_empty() {
            return;
        }
        let worker = Arc::clone(&self.worker);
        let _one_at_a_time = worker.marking.lock();
        let snapshot = Arc::clone(&worker.shared.in_force.load().1.snapshot);
        let is_covered = |path: &PathBuf| reach::is_covered(path.as_os_str().as_bytes());
        let (later, now): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.unmarked).into_iter().partition(is_covered);
        self.unmarked = later;
        for path in now {
            self.mark_new(&snapshot, &path);
        }
    }

    pub(super) fn look_at_mounts(&mut self) {
        let started = Instant::now();
        self.places.remounted();
        let snapshot = Arc::clone(&self.worker.shared.in_force.load().1.snapshot);
        let mut found = std::mem::take(&mut self.remounts);
        found.extend(self.mounts.look(&snapshot));
        let page = self.worker.page;
        let exceptions = self.mounts.exceptions(&snapshot).chain(std::iter::repeat(0));
        for (place, unique) in page.mount_exceptions.iter().zip(exceptions) {
            place.store(unique, Relaxed);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.take_mounts(&mut self.mounts, found);
        }
        // A walk was made with these policies, at the start or a reload.
        if self.looked.generation != snapshot.generation {
            self.unmarked.extend(self.mounts.covered().map(Path::to_owned));
        }
        let again = Instant::now() + started.elapsed();
        self.looked = Looked { again, is_due: false, generation: snapshot.generation };
    }
}
