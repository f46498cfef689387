//! What responders find out about subjects, for the watcher: who does something to names is reported when he may be
//! gone.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use super::verifier::Verified;

/// Verifications that responders may note between two looks of the watcher; more than that are not remembered.
pub(super) const NOTES_MAX: usize = 4096;

/// What a responder has found out about a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It was verified.
    Verified(Verified),
    /// It is about to execute a writer's program. What is reported behind this position it did after that.
    Starts(Option<u64>),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    pub tid: i32,
    pub finding: Finding,
    /// By the monotonic clock, before it was looked at.
    pub at_ns: u64,
}

/// What responders have found out, for the watcher to take. No allocation: the list is made at its full length.
pub struct Notes {
    list: Mutex<Vec<Note>>,
    lost: AtomicBool,
}

impl Default for Notes {
    fn default() -> Self {
        Self { list: Mutex::new(Vec::with_capacity(NOTES_MAX)), lost: AtomicBool::new(false) }
    }
}

impl Notes {
    /// The thread `tid` has been verified as this, by a look that began at `at_ns` of the monotonic clock.
    pub fn note(&self, tid: i32, verified: Verified, at_ns: u64) {
        self.push(Note { tid, finding: Finding::Verified(verified), at_ns });
    }

    /// The process of `tid` is about to execute a writer's program, and does nothing else meanwhile. `position`: where
    /// in the stream what it does from then on is reported, if that can be told.
    pub fn starts(&self, tid: i32, position: Option<u64>, at_ns: u64) {
        self.push(Note { tid, finding: Finding::Starts(position), at_ns });
    }

    fn push(&self, note: Note) {
        let mut list = self.list.lock();
        if list.last().is_some_and(|last| last.tid == note.tid && last.finding == note.finding) {
            list.pop();
        }
        if list.len() < NOTES_MAX {
            list.push(note);
        } else {
            self.lost.store(true, Relaxed);
        }
    }

    /// Whether some were lost.
    pub(super) fn take(&self, into: &mut Vec<Note>) -> bool {
        into.clear();
        let mut list = self.list.lock();
        into.extend_from_slice(&list);
        list.clear();
        self.lost.swap(false, Relaxed)
    }
}
