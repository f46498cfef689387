//! Proof that a blocked opener has just made the file it opens.
//!
//! `open(O_CREAT)` of a new name makes the file before its permission event, and by then the `FAN_CREATE` record
//! of the same thread is queued in any notification group that marks the directory (measured on 6.18). What was
//! read from that queue is remembered in the shared page: the next worker needs it when this one dies.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use parking_lot::Mutex;

use crate::event::{Notification, Notifications};
use crate::sys::fanotify::Group;
use crate::sys::file;
use crate::sys::shared::{CREATIONS_MAX, Creation, SharedPage};

/// One read of the group's queue: some sixty records.
const BUFFER_BYTES: usize = 8 * 1024;

/// What was created lately, by whom. The lock is held for non-blocking reads and memory operations only.
pub struct Creations {
    page: &'static SharedPage,
    buffer: Mutex<Box<[u8]>>,
}

impl Creations {
    /// On the page that outlives this worker.
    pub fn new(page: &'static SharedPage) -> Self {
        Self { page, buffer: Mutex::new(vec![0; BUFFER_BYTES].into_boxed_slice()) }
    }

    /// The proof that `tid` has just created the object behind `fd`; it also says where.
    pub fn prove(&self, group: &Group, tid: i32, fd: BorrowedFd<'_>) -> Option<&'static Creation> {
        let target = file::handle_at(fd, c"").ok()?;
        let filesystem = file::filesystem_id(fd).ok()?;
        let mut buffer = self.buffer.lock();
        self.drain_into(group, &mut buffer);
        self.newest_first().find(|made| {
            made.tid.load(Acquire) == tid
                && made.filesystem.load(Relaxed) == filesystem
                && made.target_type.load(Relaxed) == target.kind
                && made.target.is(target.as_bytes())
        })
    }

    /// The last creation of `tid` that is remembered.
    pub fn last_of(&self, tid: i32) -> Option<&'static Creation> {
        self.newest_first().find(|made| made.tid.load(Acquire) == tid)
    }

    /// Empties the kernel's queue, so that creations nobody asks about do not pile up there.
    pub fn drain(&self, group: &Group) {
        self.drain_into(group, &mut self.buffer.lock());
    }

    fn newest_first(&self) -> impl Iterator<Item = &'static Creation> + use<> {
        let page = self.page;
        let next = page.creations_next.load(Acquire) as usize;
        (1..=CREATIONS_MAX).map(move |back| &page.creations[(next + CREATIONS_MAX - back) % CREATIONS_MAX])
    }

    fn drain_into(&self, group: &Group, buffer: &mut [u8]) {
        while let Ok(n) = group.read(buffer) {
            if n == 0 {
                break;
            }
            for made in Notifications::new(&buffer[..n]) {
                self.remember(&made);
            }
        }
    }

    fn remember(&self, made: &Notification<'_>) {
        let (Some(place), Some(target)) = (made.place, made.target) else { return };
        let next = self.page.creations_next.load(Relaxed) as usize % CREATIONS_MAX;
        let entry = &self.page.creations[next];
        entry.tid.store(0, Release);
        entry.filesystem.store(target.filesystem, Relaxed);
        entry.target_type.store(target.handle_type, Relaxed);
        entry.target.store(target.handle);
        entry.directory_type.store(place.directory.handle_type, Relaxed);
        entry.directory.store(place.directory.handle);
        entry.name.store(place.name);
        entry.tid.store(made.tid, Release);
        self.page.creations_next.store(((next + 1) % CREATIONS_MAX) as u32, Release);
    }
}
