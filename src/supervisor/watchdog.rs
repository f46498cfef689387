//! Does the worker answer? A worker that hangs or was stopped is as bad as a dead one, and is made one.
//!
//! One that only gets no CPU is neither: another would get none either, and what this one had read would be
//! refused. So what counts is not how long an event waits, but how much of that its responder could have used.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::clock;
use crate::sys::fanotify::Group;
use crate::sys::proc::{Proc, ThreadTime};
use crate::sys::shared::{RESPONDERS_MAX, SharedPage, Stage};

/// How often the worker is looked at.
pub const TICK: Duration = Duration::from_millis(150);
const TICK_NS: u64 = TICK.as_nanos() as u64;

/// What a responder may use of its time with one event unanswered, or with a queue that nobody reads. With the tick
/// before the first look 0.9 s. A verdict takes microseconds; the looks at an opener that does not come to rest are
/// bounded at half a second.
const STUCK_NS: u64 = 5 * TICK_NS;

/// What was seen of one responder at the last look.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    answered: u64,
    /// Where there was something to do and nothing was done.
    time: Option<ThreadTime>,
    /// What it has used since the first look at the event that it does not answer.
    used_ns: u64,
}

/// What was seen at the last look.
pub struct Watchdog {
    proc: Proc,
    responders: [Seen; RESPONDERS_MAX],
    total: u64,
    /// What every responder has used since the first look at the queue that nobody reads.
    unread_ns: u64,
    last_look_ns: u64,
}

impl Watchdog {
    /// Opens /proc.
    ///
    /// # Errors
    /// It is not mounted.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            proc: Proc::open()?,
            responders: [Seen::default(); RESPONDERS_MAX],
            total: 0,
            unread_ns: 0,
            last_look_ns: 0,
        })
    }

    /// Forgets the worker that is dead.
    pub fn forget(&mut self) {
        self.responders.fill(Seen::default());
        (self.total, self.unread_ns) = (0, 0);
    }

    /// Looks, at most once per tick; whether the worker should be replaced.
    pub fn is_stuck(&mut self, page: &SharedPage, gate: &Group) -> bool {
        let now_ns = clock::monotonic_ns();
        let elapsed_ns = now_ns.saturating_sub(self.last_look_ns);
        if elapsed_ns < TICK_NS || page.stage() == Stage::Starting {
            return false;
        }
        self.last_look_ns = now_ns;
        let total = page.total(|slot| &slot.answered) + page.total(|slot| &slot.refused);
        let is_unread = total == self.total && is_readable(gate);
        self.total = total;
        // The one that could do least: those who hang in an event of their own are seen by that.
        let mut least_ns = TICK_NS;
        let mut is_stuck = false;
        for (slot, seen) in page.slots.iter().zip(&mut self.responders) {
            let tid = slot.reader.load(Relaxed);
            if tid == 0 {
                continue;
            }
            let answered = slot.answered.load(Relaxed) + slot.refused.load(Relaxed);
            let is_unanswered = answered == seen.answered && slot.unanswered().next().is_some();
            seen.answered = answered;
            if !is_unanswered {
                seen.used_ns = 0;
            }
            if !is_unanswered && !is_unread {
                seen.time = None;
                continue;
            }
            let time = ThreadTime::of(&self.proc, tid).unwrap_or_default();
            let used_ns = seen.time.replace(time).map_or(0, |before| used_between(before, time, elapsed_ns));
            least_ns = least_ns.min(used_ns);
            if is_unanswered {
                seen.used_ns += used_ns;
                is_stuck |= seen.used_ns >= STUCK_NS;
            }
        }
        self.unread_ns = if is_unread { self.unread_ns + least_ns } else { 0 };
        is_stuck || self.unread_ns >= STUCK_NS
    }
}

/// What a thread could use of the time between two looks: it ran, or it waited for something else than a CPU.
///
/// Never more than a tick, so that a stopped machine that goes on, or a supervisor that gets no CPU itself, does not
/// make a worker look dead.
fn used_between(before: ThreadTime, now: ThreadTime, elapsed_ns: u64) -> u64 {
    let used_ns = if now.wants_cpu {
        // How long it has been waiting for one is counted when it gets it.
        now.ran_ns.saturating_sub(before.ran_ns)
    } else {
        elapsed_ns.saturating_sub(now.waited_ns.saturating_sub(before.waited_ns))
    };
    used_ns.min(TICK_NS)
}

fn is_readable(group: &Group) -> bool {
    let mut fds = [PollFd::new(group.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ran_ms: u64, waited_ms: u64, wants_cpu: bool) -> ThreadTime {
        ThreadTime { ran_ns: ran_ms * MS, waited_ns: waited_ms * MS, wants_cpu }
    }

    #[test]
    fn to_hang_is_to_use_time_and_to_starve_is_not() {
        let before = at(10, 500, true);
        let used = |now, elapsed_ms: u64| used_between(before, now, elapsed_ms * MS) / MS;
        // Asleep or stopped all the time.
        assert_eq!(used(at(10, 500, false), 150), 150);
        // It waits for a CPU, and may have had one for a moment.
        assert_eq!(used(at(10, 500, true), 150), 0);
        assert_eq!(used(at(12, 600, true), 150), 2);
        // It had waited for one, then slept.
        assert_eq!(used(at(11, 640, false), 150), 10);
        // It does nothing but run.
        assert_eq!(used(at(160, 500, true), 150), 150);
        // The supervisor was late, or the machine stood still.
        assert_eq!(used(at(10, 500, false), 60_000), 150);
        assert_eq!(used(at(10, 450, false), 0), 0);
    }
}
