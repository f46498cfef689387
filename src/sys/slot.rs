//! One reader's part of the shared page: the permission events that it has read and not yet answered.
//!
//! The kernel writes events straight into it, so that an event is on record here the instant read(2) returns:
//! copying it afterwards lost events when the worker was killed in between (measured).

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::fanotify::{EVENTS_MAX, FAN_PRE_ACCESS, Group, METADATA_VERSION};
use super::histogram::Histogram;

/// `struct fanotify_event_metadata`, written by the kernel, cleared by whoever answers.
///
/// `struct fanotify_event_info_range` has the same size and comes to stand in the place behind its event.
#[repr(C, align(8))]
#[derive(Debug, Default)]
struct RawEvent {
    /// Of this event with what belongs to it; 0: there is no unanswered event here.
    length: AtomicU32,
    version_and_sizes: AtomicU32,
    mask: AtomicU64,
    fd: AtomicI32,
    tid: AtomicI32,
}

/// An event without further records: all events of opens.
const EVENT_BYTES: usize = size_of::<RawEvent>();
const _: () = assert!(EVENT_BYTES == size_of::<libc::fanotify_event_metadata>());
/// An event of an access: with the range that it is about (`struct fanotify_event_info_range`, Linux 6.14).
const EVENT_WITH_RANGE_BYTES: usize = 2 * EVENT_BYTES;

/// One responder's part. A multiple of 128 bytes, so that no two responders write to one cache line or to a pair that
/// is fetched together.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Slot {
    /// An event with a range takes two places.
    events: [RawEvent; EVENTS_MAX],
    /// The thread that reads into it, 0: none yet. The supervisor looks whether it hangs or gets no CPU.
    pub reader: AtomicI32,
    /// Events answered; the supervisor watches that it moves.
    pub answered: AtomicU64,
    /// Events allowed.
    pub allowed: AtomicU64,
    /// Events denied.
    pub denied: AtomicU64,
    /// Events that the kernel refused by itself, because it could not open the file for us.
    pub refused: AtomicU64,
    /// From the end of the read that brought an event to the end of the write that answered it, nanoseconds.
    pub latency: Histogram,
}

/// What an event asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A file is being opened.
    Open,
    /// A file that is open is read, written, mapped or resized, or one is truncated by its path.
    Access {
        /// How many bytes, in whole pages; 0 where the kernel does not say.
        bytes: u64,
    },
}

/// What read(2) brought.
#[derive(Debug)]
pub enum Delivery {
    /// A permission event: answer it.
    Event(Arrival),
    /// The kernel has refused the opener: it could not open the file for the gate.
    Refused {
        /// The opener.
        tid: i32,
        /// Why, as an errno.
        errno: i32,
    },
    /// Nothing that wants an answer.
    Nothing,
}

/// An event's descriptor with the opener's thread id. Until it is answered and cleared it stands on record, so that
/// the supervisor can answer it.
#[derive(Debug)]
pub struct Arrival {
    /// Opened by the kernel for reading only.
    pub fd: OwnedFd,
    /// The opener.
    pub tid: i32,
    /// What it asks.
    pub request: Request,
    /// Where it stands in the slot; see [`Slot::clear`].
    pub place: usize,
}

/// An event on record whose reader may be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// The number of its descriptor in the process that read it.
    pub number: RawFd,
    /// The opener.
    pub tid: i32,
    /// What it asks.
    pub request: Request,
    /// Where it stands in the slot.
    pub place: usize,
}

/// The events of one read, each given out once.
#[derive(Debug)]
pub struct Deliveries<'a> {
    slot: &'a Slot,
    places: Range<usize>,
}

impl Iterator for Deliveries<'_> {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        let place = self.places.next()?;
        let event = &self.slot.events[place];
        let (fd, tid) = (event.fd.load(Ordering::Relaxed), event.tid.load(Ordering::Relaxed));
        if event.length.load(Ordering::Relaxed) as usize == EVENT_WITH_RANGE_BYTES {
            self.places.next();
        }
        if fd >= 0 {
            let request = self.slot.request(place);
            // SAFETY: the kernel has just installed this descriptor in our table for this event, and each place is
            // visited once for each read.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            return Some(Delivery::Event(Arrival { fd, tid, request, place }));
        }
        // The kernel denies such an event itself (FAN_REPORT_FD_ERROR, fanotify_init(2)).
        self.slot.clear(place);
        Some(if fd == libc::FAN_NOFD { Delivery::Nothing } else { Delivery::Refused { tid, errno: -fd } })
    }
}

impl Slot {
    /// Waits for events, and takes up to `most` of those that are there. The kernel writes them into this slot, whose
    /// last ones must have been answered.
    ///
    /// # Errors
    /// Those of read(2), see [`Group::read`]; `Unsupported` for events of another layout.
    pub fn receive(&self, group: &Group, most: usize) -> io::Result<Deliveries<'_>> {
        let room = most.min(EVENTS_MAX) * EVENT_BYTES;
        // SAFETY: the slot lies in a mapping that is never unmapped, RawEvent has the size and layout of one event,
        // `room` does not exceed the array, and all its fields are atomics, so a write from the kernel is a write to
        // shared memory.
        let n = unsafe {
            libc::read(group.as_fd().as_raw_fd(), (&raw const self.events).cast_mut().cast(), room)
        };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        let places = 0..n as usize / EVENT_BYTES;
        let version = |event: &RawEvent| event.version_and_sizes.load(Ordering::Relaxed) as u8;
        let heads = places.clone().filter(|&place| self.is_event(place));
        if heads.into_iter().any(|place| version(&self.events[place]) != METADATA_VERSION) {
            places.for_each(|place| self.clear(place));
            return Err(io::Error::new(io::ErrorKind::Unsupported, "unknown layout of fanotify events"));
        }
        Ok(Deliveries { slot: self, places })
    }

    /// Whether an unanswered event begins at `place`.
    ///
    /// A range begins with its type and its own length in 16 bits each, which is never the length of an event.
    fn is_event(&self, place: usize) -> bool {
        let length = self.events[place].length.load(Ordering::Acquire) as usize;
        length == EVENT_BYTES || length == EVENT_WITH_RANGE_BYTES
    }

    fn request(&self, place: usize) -> Request {
        let event = &self.events[place];
        if event.mask.load(Ordering::Relaxed) & FAN_PRE_ACCESS == 0 {
            return Request::Open;
        }
        let has_range = event.length.load(Ordering::Relaxed) as usize == EVENT_WITH_RANGE_BYTES;
        let Some(range) = self.events.get(place + 1).filter(|_| has_range) else {
            return Request::Access { bytes: 0 };
        };
        // Its `count` stands where an event has descriptor and thread.
        let half = |half: &AtomicI32| u64::from(half.load(Ordering::Relaxed) as u32);
        let [low, high] =
            if cfg!(target_endian = "little") { [&range.fd, &range.tid] } else { [&range.tid, &range.fd] };
        Request::Access { bytes: half(low) | half(high) << 32 }
    }

    /// The event at `place` is answered: takes it off the record. Before its descriptor is closed, so that its number
    /// cannot be given to another event while it still stands here.
    pub fn clear(&self, place: usize) {
        self.events[place].length.store(0, Ordering::Release);
    }

    /// The unanswered events on record.
    pub fn unanswered(&self) -> impl Iterator<Item = Unanswered> + '_ {
        (0..EVENTS_MAX).filter(|&place| self.is_event(place)).filter_map(|place| {
            let event = &self.events[place];
            let number = event.fd.load(Ordering::Relaxed);
            let tid = event.tid.load(Ordering::Relaxed);
            (number >= 0).then(|| Unanswered { number, tid, request: self.request(place), place })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it.
    fn store(event: &RawEvent, length: usize, mask: u64, fd: i32, tid: i32) {
        event.mask.store(mask, Ordering::Relaxed);
        event.fd.store(fd, Ordering::Relaxed);
        event.tid.store(tid, Ordering::Relaxed);
        event.length.store(length as u32, Ordering::Relaxed);
    }

    #[test]
    fn two_opens_are_two_events_and_a_range_is_none() {
        let slot = Slot::default();
        assert_eq!(slot.unanswered().count(), 0);
        store(&slot.events[0], EVENT_BYTES, libc::FAN_OPEN_PERM, 7, 100);
        store(&slot.events[1], EVENT_BYTES, libc::FAN_OPEN_PERM, 8, 101);
        let opens = [7, 8].map(|number| Unanswered {
            number,
            tid: number + 93,
            request: Request::Open,
            place: number as usize - 7,
        });
        assert_eq!(slot.unanswered().collect::<Vec<_>>(), opens);
        slot.clear(0);
        assert_eq!(slot.unanswered().collect::<Vec<_>>(), opens[1..]);
        slot.clear(1);
        // Type 6 (FAN_EVENT_INFO_TYPE_RANGE), 24 bytes, from 4096 on, 5 GiB.
        store(&slot.events[0], EVENT_WITH_RANGE_BYTES, FAN_PRE_ACCESS, 7, 100);
        store(&slot.events[1], 24 << 16 | 6, 4096, 0x4000_0000, 1);
        let request = Request::Access { bytes: 5 << 30 };
        let access = Unanswered { number: 7, tid: 100, request, place: 0 };
        assert_eq!(slot.unanswered().collect::<Vec<_>>(), [access]);
        slot.clear(0);
        assert_eq!(slot.unanswered().count(), 0);
    }
}
