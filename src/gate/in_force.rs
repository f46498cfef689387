//! What is in force: swapped as a whole, under load, without a lock on the way of an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::policy::snapshot::Snapshot;
use crate::subject::TrustedWriters;

/// A snapshot with the identities of its writers.
#[derive(Debug)]
pub struct InForce {
    /// The policies.
    pub snapshot: Arc<Snapshot>,
    /// Who may do everything.
    pub writers: TrustedWriters,
}

/// Where responders find it.
#[derive(Debug)]
pub struct InForceCell {
    version: AtomicU64,
    current: Mutex<Arc<InForce>>,
    /// Kept until no responder uses them, so that none of them ever frees one.
    retired: Mutex<Vec<Arc<InForce>>>,
}

impl InForceCell {
    /// With the first.
    pub fn new(first: InForce) -> Self {
        Self {
            version: AtomicU64::new(1),
            current: Mutex::new(Arc::new(first)),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// The present one, with its version.
    pub fn load(&self) -> (u64, Arc<InForce>) {
        let current = self.current.lock();
        (self.version.load(Ordering::Acquire), Arc::clone(&current))
    }

    /// Brings `held` up to date. One relaxed load when it is.
    pub fn refresh(&self, held: &mut (u64, Arc<InForce>)) {
        if self.version.load(Ordering::Acquire) != held.0 {
            *held = self.load();
        }
    }

    /// Puts another in force and frees those that nobody holds any more.
    pub fn replace(&self, next: InForce) {
        let next = Arc::new(next);
        let mut retired = self.retired.lock();
        let mut current = self.current.lock();
        retired.push(std::mem::replace(&mut *current, next));
        self.version.fetch_add(1, Ordering::AcqRel);
        drop(current);
        retired.retain(|old| Arc::strong_count(old) > 1);
    }
}
