//! A permission event that waits for its one answer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::fanotify::{Answer, Group};
use crate::sys::shared::{Arrival, Slot};

/// Owns the event's descriptor from read to close. It cannot be answered twice, and dropped unanswered it is
/// denied: whatever goes wrong, no opener hangs and none slips through.
#[must_use = "an event that is not answered is denied"]
pub struct Pending<'a> {
    group: &'a Group,
    slot: &'a Slot,
    /// `None` once answered.
    fd: Option<OwnedFd>,
    tid: i32,
    /// Where it stands on record.
    place: usize,
}

impl<'a> Pending<'a> {
    /// Takes over what the kernel delivered into `slot`.
    pub fn new(group: &'a Group, slot: &'a Slot, arrival: Arrival) -> Self {
        Self { group, slot, fd: Some(arrival.fd), tid: arrival.tid, place: arrival.place }
    }

    /// The opener's thread.
    pub const fn tid(&self) -> i32 {
        self.tid
    }

    /// The object, opened for reading by the kernel.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.as_fd(),
            // Only `finish` takes it, and that consumes or drops us.
            None => self.group.as_fd(),
        }
    }

    /// Answers, then closes.
    pub fn answer(mut self, answer: Answer) {
        self.finish(answer);
    }

    fn finish(&mut self, answer: Answer) {
        use std::sync::atomic::Ordering::Relaxed;
        let Some(fd) = self.fd.take() else { return };
        // ENOENT: the opener was killed and its event is gone. There is nothing to do about any error.
        let _ = self.group.respond(fd.as_raw_fd(), answer);
        self.slot.clear(self.place);
        let counter = match answer {
            Answer::Allow => &self.slot.allowed,
            Answer::Deny => &self.slot.denied,
        };
        // Only this thread writes these, so no read-modify-write cycle is needed.
        counter.store(counter.load(Relaxed) + 1, Relaxed);
        self.slot.answered.store(self.slot.answered.load(Relaxed) + 1, Relaxed);
        drop(fd);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.finish(Answer::Deny);
    }
}
