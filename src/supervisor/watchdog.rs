//! Does the worker answer? A worker that hangs or was stopped is as bad as a dead one, and is made one.

use std::sync::atomic::Ordering::Relaxed;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::fanotify::Group;
use crate::sys::shared::{RESPONDERS_MAX, SharedPage, Stage};

/// How often the worker is looked at, milliseconds.
pub const TICK_MS: u64 = 150;

/// Looks in a row that find one event unanswered, or a queue that nobody reads: 0.9 s. A verdict takes
/// microseconds; the looks at an opener that does not come to rest are bounded at half a second.
const STUCK_TICKS: u8 = 6;

/// What was seen at the last look. Counted in looks, not in time, so that a stopped machine that goes on does
/// not kill its worker.
pub struct Watchdog {
    answered: [u64; RESPONDERS_MAX],
    stuck: [u8; RESPONDERS_MAX],
    total: u64,
    unread: u8,
    last_look_ms: u64,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            answered: [0; RESPONDERS_MAX],
            stuck: [0; RESPONDERS_MAX],
            total: 0,
            unread: 0,
            last_look_ms: 0,
        }
    }
}

impl Watchdog {
    /// Looks, at most once per tick; whether the worker should be replaced.
    pub fn is_stuck(&mut self, page: &SharedPage, gate: &Group) -> bool {
        let now_ms = crate::sys::clock::monotonic_ns() / 1_000_000;
        if now_ms < self.last_look_ms + TICK_MS || page.stage() == Stage::Starting {
            return false;
        }
        self.last_look_ms = now_ms;
        let mut total = 0;
        for (index, slot) in page.slots.iter().enumerate() {
            let answered = slot.answered.load(Relaxed) + slot.refused.load(Relaxed);
            total += answered;
            if slot.unanswered().next().is_some() && answered == self.answered[index] {
                self.stuck[index] += 1;
            } else {
                self.stuck[index] = 0;
            }
            self.answered[index] = answered;
            if self.stuck[index] >= STUCK_TICKS {
                return true;
            }
        }
        let mut fds = [PollFd::new(gate.as_fd(), PollFlags::POLLIN)];
        let waiting = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        self.unread = if waiting && total == self.total { self.unread + 1 } else { 0 };
        self.total = total;
        self.unread >= STUCK_TICKS
    }
}
