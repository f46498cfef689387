//! What the worker's other threads may know of the watcher's work.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::heal::Failure;
use crate::sys::clock;

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

    /// How long the watcher has been looking at one subject.
    pub fn looking_for(&self) -> Duration {
        match self.looking_since_ns.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(clock::monotonic_ns().saturating_sub(since)),
        }
    }
}
