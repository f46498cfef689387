//! Proof that a blocked opener has just made the file it opens.
//!
//! `open(O_CREAT)` of a new name makes the file before its permission event, and by then the `FAN_CREATE` record of the
//! same thread is queued in any notification group that marks the directory (measured on 6.18).

use std::os::fd::BorrowedFd;

use parking_lot::Mutex;

use crate::event::Notifications;
use crate::sys::fanotify::Group;
use crate::sys::file::{self, Handle};

/// Creations that are remembered. Each opener needs its own only until its verdict, so some hundreds suffice
/// for every responder and for bursts of allowed creations in between.
const REMEMBERED: usize = 512;

/// One read of the group's queue: some sixty records.
const BUFFER_BYTES: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Creation {
    tid: i32,
    filesystem: u64,
    target: Handle,
}

struct Ring {
    entries: Box<[Creation]>,
    next: usize,
    buffer: Box<[u8]>,
}

/// What was created lately, by whom. Its lock is held for non-blocking reads and memory operations only.
pub struct Creations {
    ring: Mutex<Ring>,
}

impl Default for Creations {
    fn default() -> Self {
        Self {
            ring: Mutex::new(Ring {
                entries: vec![Creation::default(); REMEMBERED].into_boxed_slice(),
                next: 0,
                buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            }),
        }
    }
}

impl Creations {
    /// Whether `tid` has just created the object behind `fd`.
    pub fn prove(&self, group: &Group, tid: i32, fd: BorrowedFd<'_>) -> bool {
        let (Ok(target), Ok(filesystem)) = (file::handle_at(fd, c""), file::filesystem_id(fd)) else {
            return false;
        };
        let mut ring = self.ring.lock();
        ring.drain(group);
        ring.entries
            .iter()
            .any(|made| made.tid == tid && made.filesystem == filesystem && made.target == target)
    }

    /// Empties the kernel's queue, so that creations nobody asks about do not pile up there.
    pub fn drain(&self, group: &Group) {
        self.ring.lock().drain(group);
    }
}

impl Ring {
    fn drain(&mut self, group: &Group) {
        while let Ok(n) = group.read(&mut self.buffer) {
            if n == 0 {
                break;
            }
            for made in Notifications::new(&self.buffer[..n]) {
                let Some(target) = made.target else { continue };
                let Some(handle) = Handle::new(target.handle_type, target.handle) else { continue };
                self.entries[self.next] =
                    Creation { tid: made.tid, filesystem: target.filesystem, target: handle };
                self.next = (self.next + 1) % REMEMBERED;
            }
        }
    }
}
