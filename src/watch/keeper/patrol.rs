//! What no notification tells, and what was lost: looked for when nothing else is to be done.

use std::time::{Duration, Instant};

use super::Keeper;
use crate::heal::Hint;

/// Trusted writers' changes without notification (chattr +d, mappings) are not patrolled away so soon after they were at work.
const AFTER_TRUSTED: Duration = Duration::from_secs(2);
/// How long one look of the patrol takes: 0.4 % of a CPU, for some hundred names.
const PATROL: Duration = Duration::from_millis(1);
/// Directories that were put right and are looked into at once.
const MENDED: usize = 256;
/// What was touched is put right after this time, unless it was reported by then, or a trusted writer was at work.
const REPORTED_WITHIN: Duration = Duration::from_millis(20);
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

    /// What no notification tells (chattr, writes through old mappings): whatever was touched, and is not reported
    /// meanwhile, is put right.
    fn patrol(&mut self) {
        self.patrolled_at = Instant::now();
        self.healer.forget_fluid();
        let (touched, last) = self.healer.patrol(&self.patrolled, PATROL);
        self.patrolled = last.unwrap_or_default();
        self.suspects.extend(touched);
        self.suspects.extend(self.healer.take_mended(MENDED));
    }

    /// Puts right what the patrol found, if nobody has reported it since.
    pub(super) fn settle_suspects(&mut self) {
        let is_disturbed = self.trusted_at.is_some_and(|at| at > self.patrolled_at);
        if is_disturbed || self.patrolled_at.elapsed() < REPORTED_WITHIN {
            return;
        }
        let suspects = std::mem::take(&mut self.suspects);
        self.leave_to_writers(&suspects);
        for path in suspects {
            let actions = self.healer.reconcile(&path, &Hint::default());
            self.conclude(actions, None, None);
        }
    }

    /// When [`Keeper::settle_suspects`] has something to do.
    pub(super) fn next_settling(&self) -> Option<Instant> {
        let at = self.patrolled_at + REPORTED_WITHIN;
        // What is disturbed waits for the next look.
        (!self.suspects.is_empty() && at > Instant::now()).then_some(at)
    }
}
