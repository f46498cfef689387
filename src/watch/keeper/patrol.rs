//! What no notification tells, and what was lost: looked for when nothing else is to be done.

use std::time::{Duration, Instant};

use super::Keeper;
use crate::heal::Hint;

/// A file that a trusted writer holds open is not judged by its content for so long.
const FLUID: Duration = Duration::from_secs(60);
/// Trusted writers' changes without notification (chattr) are not patrolled away so soon after they were at work.
const AFTER_TRUSTED: Duration = Duration::from_secs(2);
/// Names that one look of the patrol takes: half a millisecond.
const PATROL_NAMES: usize = 256;

/// However much trusted writers are at work, the patrol looks this often: else one write a second kept it off.
const LATEST: Duration = Duration::from_secs(10);

impl Keeper {
    pub(super) fn look_around(&mut self) {
        if self.scan_due && !self.is_writer_running() {
            self.scan_due = false;
            let actions = self.healer.scan();
            self.conclude(actions, None, None);
        }
        self.patrol();
    }

    /// Whether it is time to look.
    pub(super) fn is_quiet(&self) -> bool {
        self.trusted_at.is_none_or(|at| at.elapsed() > AFTER_TRUSTED) || self.patrolled_at.elapsed() > LATEST
    }

    /// What no notification tells (chattr, writes through old mappings): whatever was touched one look ago, and was
    /// not reported since, is put right.
    fn patrol(&mut self) {
        self.patrolled_at = Instant::now();
        self.fluid.retain(|_, since| since.elapsed() < FLUID);
        for path in std::mem::take(&mut self.suspects) {
            if !self.fluid.contains_key(&path) {
                let actions = self.healer.reconcile(&path, &Hint::default());
                self.conclude(actions, None, None);
            }
        }
        let (touched, last) = self.healer.patrol(&self.patrolled, PATROL_NAMES);
        self.patrolled = last.unwrap_or_default();
        self.suspects = touched;
        self.suspects.extend(self.healer.take_mended(PATROL_NAMES));
    }

    /// Whether a program that may change things runs: what it has done is not all reported yet.
    fn is_writer_running(&self) -> bool {
        let Ok(processes) = std::fs::read_dir("/proc") else { return true };
        processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).any(|pid: i32| {
            self.proc
                .task(pid)
                .and_then(|task| crate::sys::file::stat_at_follow(task.as_fd(), c"exe"))
                .is_ok_and(|exe| self.in_force.1.writers.is_program(exe.id))
        })
    }
}
