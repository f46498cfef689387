//! A permission event that waits for its one answer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::clock;
use crate::sys::fanotify::{Answer, EVENTS_MAX, Group};
use crate::sys::slot::{Arrival, Request, Slot};

/// Owns the event's descriptor from read to close. It cannot be answered twice, and dropped unanswered it is
/// denied: whatever goes wrong, no opener hangs and none slips through.
#[must_use = "an event that is not answered is denied"]
pub struct Pending<'a> {
    group: &'a Group,
    slot: &'a Slot,
    /// `None` once answered.
    fd: Option<OwnedFd>,
    tid: i32,
    request: Request,
    /// Where it stands on record.
    place: usize,
    /// When it was read, nanoseconds on the clock that never steps.
    read_ns: u64,
}

impl<'a> Pending<'a> {
    /// Takes over what the kernel delivered into `slot`, read at `read_ns`.
    pub fn new(group: &'a Group, slot: &'a Slot, arrival: Arrival, read_ns: u64) -> Self {
        let Arrival { fd, tid, request, place } = arrival;
        Self { group, slot, fd: Some(fd), tid, request, place, read_ns }
    }

    /// What is asked.
    pub const fn request(&self) -> Request {
        self.request
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

    /// When it was read.
    pub const fn read_ns(&self) -> u64 {
        self.read_ns
    }

    /// Answers, then closes.
    pub fn answer(mut self, answer: Answer) {
        self.finish(answer);
    }

    /// Takes those that are `chosen` by their place and allows them in a row, then closes them.
    pub fn allow_all(group: &Group, events: &mut [Option<Self>; EVENTS_MAX], chosen: impl Fn(usize) -> bool) {
        let (mut numbers, mut count) = ([-1; EVENTS_MAX], 0);
        for (place, event) in events.iter().enumerate() {
            if let Some(Self { fd: Some(fd), .. }) = event
                && chosen(place)
            {
                numbers[count] = fd.as_raw_fd();
                count += 1;
            }
        }
        group.allow_all(&numbers[..count]);
        let now_ns = clock::monotonic_ns();
        for (place, event) in events.iter_mut().enumerate() {
            if chosen(place)
                && let Some(mut event) = event.take()
                && let Some(fd) = event.fd.take()
            {
                event.close(fd, Answer::Allow, now_ns);
            }
        }
    }

    fn finish(&mut self, answer: Answer) {
        let Some(fd) = self.fd.take() else { return };
        // ENOENT: the opener was killed and its event is gone. There is nothing to do about any error.
        let _ = self.group.respond(fd.as_raw_fd(), answer);
        self.close(fd, answer, clock::monotonic_ns());
    }

    /// It is answered: takes it off the record, counts it, and only then gives its number back.
    fn close(&self, fd: OwnedFd, answer: Answer, now_ns: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        self.slot.clear(self.place);
        let counter = match answer {
            Answer::Allow => &self.slot.allowed,
            Answer::Deny => &self.slot.denied,
        };
        // Only this thread writes these, so no read-modify-write cycle is needed.
        counter.store(counter.load(Relaxed) + 1, Relaxed);
        self.slot.answered.store(self.slot.answered.load(Relaxed) + 1, Relaxed);
        self.slot.latency.add(now_ns.saturating_sub(self.read_ns));
        drop(fd);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.finish(Answer::Deny);
    }
}
