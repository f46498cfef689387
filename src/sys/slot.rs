//! One reader's part of the shared page: the permission events that it has read and not yet answered.
//!
//! The kernel writes events straight into it, so that an event is on record here the instant read(2) returns:
//! copying it afterwards lost events when the worker was killed in between (measured).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::fanotify::{FAN_PRE_ACCESS, Group, METADATA_VERSION};

/// `struct fanotify_event_metadata`, written by the kernel, cleared by whoever answers.
///
/// The second of a slot is also where `struct fanotify_event_info_range` comes to stand, of the same size.
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

/// One responder's part. 128 bytes apart, so that no two responders write to one cache line or to a pair that
/// is fetched together.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Slot {
    /// Room for one event with a range, which is room for two without: a read may bring both.
    events: [RawEvent; 2],
    /// Events answered; the supervisor watches that it moves.
    pub answered: AtomicU64,
    /// Events allowed.
    pub allowed: AtomicU64,
    /// Events denied.
    pub denied: AtomicU64,
    /// Events that the kernel refused by itself, because it could not open the file for us.
    pub refused: AtomicU64,
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

/// An event's descriptor with the opener's thread id. A drop without an answer closes the descriptor but leaves the
/// event on record, so that the supervisor can still answer it.
#[derive(Debug)]
pub struct Arrival {
    /// Opened by the kernel for reading only.
    pub fd: OwnedFd,
    /// The opener.
    pub tid: i32,
    /// What it asks.
    pub request: Request,
    /// Where in the slot it stands.
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
    /// Where in the slot it stands.
    pub place: usize,
}

impl Slot {
    /// The next event: the second of the last read if that brought two, else what the kernel has next. Waits for it.
    ///
    /// # Errors
    /// Those of read(2); see [`Group::read`].
    pub fn receive(&self, group: &Group) -> io::Result<Delivery> {
        if self.holds_second() {
            return self.deliver(1);
        }
        let read = match self.read(group, EVENT_BYTES) {
            // The event whose turn it is needs more room. Asked for first, that room would take two opens from the
            // queue at once, while another responder waits for one.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.read(group, EVENT_WITH_RANGE_BYTES)?
            }
            other => other?,
        };
        if read < EVENT_BYTES { Ok(Delivery::Nothing) } else { self.deliver(0) }
    }

    fn read(&self, group: &Group, bytes: usize) -> io::Result<usize> {
        // SAFETY: the slot lies in a mapping that is never unmapped, `bytes` is at most the size of both events,
        // which have the layout of the kernel's, and all their fields are atomics, so a write from the kernel is a
        // write to shared memory.
        let n = unsafe {
            libc::read(group.as_fd().as_raw_fd(), (&raw const self.events).cast_mut().cast(), bytes)
        };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    /// Whether the last read has brought a second event that is not answered yet.
    ///
    /// A range begins with its type and its own length in 16 bits each, which is never the length of an event.
    pub fn holds_second(&self) -> bool {
        self.events[1].length.load(Ordering::Acquire) as usize == EVENT_BYTES
    }

    fn deliver(&self, place: usize) -> io::Result<Delivery> {
        let event = &self.events[place];
        let version = event.version_and_sizes.load(Ordering::Relaxed) as u8;
        let fd = event.fd.load(Ordering::Relaxed);
        let tid = event.tid.load(Ordering::Relaxed);
        if version != METADATA_VERSION {
            self.clear(place);
            return Err(io::Error::new(io::ErrorKind::Unsupported, "unknown layout of fanotify events"));
        }
        if fd < 0 {
            // The kernel denies such an event itself (FAN_REPORT_FD_ERROR, fanotify_init(2)).
            self.clear(place);
            return Ok(if fd == libc::FAN_NOFD {
                Delivery::Nothing
            } else {
                Delivery::Refused { tid, errno: -fd }
            });
        }
        let request = self.request(place);
        // SAFETY: the kernel has installed this descriptor in our table for this event, which is delivered once.
        Ok(Delivery::Event(Arrival { fd: unsafe { OwnedFd::from_raw_fd(fd) }, tid, request, place }))
    }

    fn request(&self, place: usize) -> Request {
        let event = &self.events[place];
        if event.mask.load(Ordering::Relaxed) & FAN_PRE_ACCESS == 0 {
            return Request::Open;
        }
        let has_range = event.length.load(Ordering::Relaxed) as usize == EVENT_WITH_RANGE_BYTES;
        // `count` of the range stands where the second event has descriptor and thread.
        let half = |half: &AtomicI32| u64::from(half.load(Ordering::Relaxed) as u32);
        let [low, high] = if cfg!(target_endian = "little") {
            [&self.events[1].fd, &self.events[1].tid]
        } else {
            [&self.events[1].tid, &self.events[1].fd]
        };
        Request::Access { bytes: if has_range { half(low) | half(high) << 32 } else { 0 } }
    }

    /// The event is answered: takes it off the record. Before its descriptor is closed, so that its number
    /// cannot be given to another event while it still stands here.
    pub fn clear(&self, place: usize) {
        self.events[place].length.store(0, Ordering::Release);
    }

    /// The unanswered events on record.
    pub fn unanswered(&self) -> impl Iterator<Item = Unanswered> + '_ {
        let stands = |place: usize| match place {
            0 => self.events[0].length.load(Ordering::Acquire) != 0,
            _ => self.holds_second(),
        };
        (0..self.events.len()).filter(move |&place| stands(place)).filter_map(|place| {
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
        assert!(slot.holds_second());
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
        assert!(!slot.holds_second());
    }
}
