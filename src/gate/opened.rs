//! What was opened lately, and by whom: chattr(1) opens a file before it changes its flags, and no event tells which.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize};

use crate::sys::file::Identity;

/// How many opens are remembered: whoever wants to know asks within a millisecond.
const PLACES: usize = 64;
/// So many opens are noted in so many nanoseconds, because each has to be looked at: a thousandth of a CPU.
const NOTED_IN_NS: u64 = 10_000_000;
const NOTED: u32 = 20;

#[derive(Debug, Default)]
struct Place {
    tid: AtomicI32,
    dev: AtomicU64,
    ino: AtomicU64,
}

/// A memory that forgets: what stands there says where to look, and may be of two opens.
#[derive(Debug)]
pub struct Opened {
    places: [Place; PLACES],
    next: AtomicUsize,
    /// The present stretch of time, and how many were noted in it.
    stretch: AtomicU64,
    noted: AtomicU32,
}

impl Default for Opened {
    fn default() -> Self {
        Self {
            places: std::array::from_fn(|_| Place::default()),
            next: AtomicUsize::new(0),
            stretch: AtomicU64::new(0),
            noted: AtomicU32::new(0),
        }
    }
}

impl Opened {
    /// Whether one more may be noted at `now_ns` of the monotonic clock.
    pub fn has_room(&self, now_ns: u64) -> bool {
        let stretch = now_ns / NOTED_IN_NS;
        if self.stretch.load(Relaxed) != stretch {
            self.stretch.store(stretch, Relaxed);
            self.noted.store(0, Relaxed);
        }
        self.noted.load(Relaxed) < NOTED
    }

    /// `tid` is about to have opened this.
    pub fn note(&self, tid: i32, object: Identity) {
        self.noted.fetch_add(1, Relaxed);
        let place = &self.places[self.next.fetch_add(1, Relaxed) % PLACES];
        place.tid.store(tid, Relaxed);
        place.dev.store(object.dev, Relaxed);
        place.ino.store(object.ino, Relaxed);
    }

    /// What the thread `tid` may have opened lately.
    pub fn by(&self, tid: i32) -> impl Iterator<Item = Identity> {
        let places = self.places.iter().filter(move |place| place.tid.load(Relaxed) == tid);
        places.map(|place| Identity { dev: place.dev.load(Relaxed), ino: place.ino.load(Relaxed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_few_at_a_time() {
        let opened = Opened::default();
        let object = |ino| Identity { dev: 1, ino };
        for ino in 0..NOTED.into() {
            assert!(opened.has_room(5));
            opened.note(7, object(ino));
        }
        assert!(!opened.has_room(NOTED_IN_NS - 1) && opened.has_room(NOTED_IN_NS));
        assert_eq!(opened.by(7).count(), NOTED as usize);
        for ino in 0..PLACES as u64 {
            opened.note(8, object(ino));
        }
        assert_eq!((opened.by(7).count(), opened.by(8).count()), (0, PLACES));
        assert!(opened.by(8).any(|seen| seen == object(PLACES as u64 - 1)));
    }
}
