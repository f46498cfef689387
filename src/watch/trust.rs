//! Who made a change: verified while it lives, remembered when it is gone.

use std::sync::Arc;

use crate::gate::InForce;
use crate::policy::snapshot::{Snapshot, WriterMask};
use crate::subject::lineage::{Lineage, Moment};
use crate::subject::{Notes, Verified, Verifier};
use crate::sys::connector::Connector;
use crate::sys::proc::Proc;
use crate::sys::{clock, file};

/// How often a chain of parents that changes meanwhile is looked at anew.
const LOOKS_MAX: usize = 64;

/// The watcher's judgement of subjects.
pub struct Trust {
    verifier: Verifier,
    lineage: Lineage,
    notes: Arc<Notes>,
}

impl Trust {
    /// Verifies nobody yet. `connector`: whence forks and ends are known; `notes`: what responders find out.
    pub fn new(connector: Option<Connector>, notes: Arc<Notes>) -> Self {
        Self { verifier: Verifier::default(), lineage: Lineage::new(connector), notes }
    }

    /// Who forked whom.
    pub const fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Takes in what happened to processes, and what responders have verified: before each batch of notifications.
    pub fn catch_up(&mut self) {
        self.lineage.catch_up(&self.notes);
    }

    /// For when no notification waits: forgets who ended long ago.
    pub fn forget_the_dead(&mut self) {
        self.lineage.forget_the_dead();
    }

    /// Which of the `wanted` writers the thread `tid` was when that was reported.
    pub fn of(
        &mut self,
        in_force: &InForce,
        proc: &Proc,
        tid: i32,
        wanted: WriterMask,
        when: Moment,
    ) -> WriterMask {
        if wanted == WriterMask::NONE {
            return WriterMask::NONE;
        }
        let found = self.verify(in_force, proc, tid, wanted);
        if found.is_somebody() {
            if self.lineage.is_work_of(tid, found, when) {
                return found.writers;
            }
        } else if has_program(proc, tid) {
            // It has not ended while it was looked at.
            return found.writers;
        }
        let heirs = with_descendants(&in_force.snapshot);
        for _ in 0..LOOKS_MAX {
            let (known, forebear) = self.lineage.recall(tid, heirs, when);
            let known = WriterMask(known.0 & wanted.0);
            let Some(pid) = forebear else { return known };
            let found = self.verify(in_force, proc, pid, WriterMask(wanted.0 & heirs.0));
            if !found.is_somebody() {
                if has_program(proc, pid) {
                    return known;
                }
                // It has ended since the kernel's events were taken in. Those before it count, and it as what it was.
                self.lineage.ended(pid);
                continue;
            }
            if self.lineage.is_work_of(tid, found, when) {
                return WriterMask(known.0 | found.writers.0);
            }
            if self.lineage.recall(tid, heirs, when).1 == Some(pid) {
                return known;
            }
        }
        WriterMask::NONE
    }

    fn verify(&mut self, in_force: &InForce, proc: &Proc, tid: i32, wanted: WriterMask) -> Verified {
        let InForce { snapshot, writers } = in_force;
        let at_ns = clock::monotonic_ns();
        let found = self.verifier.verify(snapshot, writers, proc, tid, wanted);
        if found.is_somebody() {
            // Since when it has run what has just been seen is known by now.
            self.catch_up();
            self.lineage.verified(tid, found, at_ns);
        }
        found
    }
}

/// Whether the thread is alive enough to be looked at: a zombie has no program any more.
fn has_program(proc: &Proc, tid: i32) -> bool {
    proc.task(tid).and_then(|task| file::stat_at_follow(task.as_fd(), c"exe")).is_ok()
}

fn with_descendants(snapshot: &Snapshot) -> WriterMask {
    let heirs = snapshot.writers.iter().enumerate().filter(|(_, writer)| writer.descendants);
    WriterMask(heirs.fold(0, |mask, (index, _)| mask | 1 << index))
}
