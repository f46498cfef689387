//! What the worker's other threads may know of the watcher's work.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::heal::Failure;
use crate::sys::clock;
use crate::sys::proc::{Proc, ThreadTime};

/// Of the names that could not be held, so many are told; of the rest, how many.
pub const UNHELD_TOLD: usize = 100;

/// What `status` says of healing, and what the watcher is at.
#[derive(Debug, Default)]
pub struct Account {
    /// Names in the inventory.
    pub names: AtomicU64,
    /// 1 while parts of the protected trees are not in the inventory yet.
    pub learning: AtomicU64,
    /// Objects held by a link.
    pub links: AtomicU64,
    /// Objects of which a copy is held.
    pub copies: AtomicU64,
    /// Names of which something could not be held.
    pub unheld: AtomicU64,
    /// The first of them, with the reason.
    pub unheld_first: Mutex<Vec<(PathBuf, Failure)>>,
    /// Things in the quarantine.
    pub quarantined: AtomicU64,
    /// Monotonic nanoseconds; 0 while no subject is looked at.
    looking_since_ns: AtomicU64,
    /// The watcher's thread while it is at work; 0 while it waits for some.
    at_work: AtomicI32,
    rest: Mutex<Rest>,
}

/// How long a thread has not run, as far as anybody has looked.
#[derive(Debug, Default)]
struct Rest {
    /// Nanoseconds that it had run by then.
    ran: u64,
    /// Monotonic nanoseconds.
    since: u64,
    /// Likewise.
    looked: u64,
}

/// Who looks less often has seen nothing of what was in between.
const LOOK_EVERY_NS: u64 = 2_000_000_000;

/// While it lives the watcher is at work.
pub struct Work(Arc<Account>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.at_work.store(0, Relaxed);
    }
}

/// While it lives the watcher looks at a subject.
pub struct Look<'a>(&'a Account);

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.0.looking_since_ns.store(0, Relaxed);
    }
}

impl Account {
    /// The watcher looks at a subject from now on.
    pub fn look(&self) -> Look<'_> {
        self.looking_since_ns.store(clock::monotonic_ns(), Relaxed);
        Look(self)
    }

    /// The watcher, thread `tid`, is at work from now on.
    pub fn work(self: &Arc<Self>, tid: i32) -> Work {
        self.at_work.store(tid, Relaxed);
        Work(Arc::clone(self))
    }

    /// How long the watcher has been at work without running at all; to be asked again and again.
    pub fn resting_for(&self, proc: &Proc) -> Duration {
        let now = clock::monotonic_ns();
        let tid = self.at_work.load(Relaxed);
        let time = if tid == 0 { None } else { ThreadTime::of(proc, tid).ok() };
        let ran_ns = time.filter(|time| !time.wants_cpu).map_or(0, |time| time.ran_ns);
        let mut rest = self.rest.lock();
        if ran_ns == 0 || ran_ns != rest.ran || now.saturating_sub(rest.looked) > LOOK_EVERY_NS {
            rest.since = now;
        }
        (rest.ran, rest.looked) = (ran_ns, now);
        Duration::from_nanos(now - rest.since)
    }

    /// How long the watcher has been looking at one subject.
    pub fn looking_for(&self) -> Duration {
        match self.looking_since_ns.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(clock::monotonic_ns().saturating_sub(since)),
        }
    }
}
