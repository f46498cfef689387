//! Looks at an access to a file that is marked for them: is it a truncation?
//!
//! truncate(2) by path raises no open event. Since 6.14 it raises `FAN_PRE_ACCESS`, and so does whatever else touches
//! the content of a file: read, write, mmap, exec, sendfile, fallocate, ftruncate (measured on 6.18). All of these but
//! truncate need a descriptor, and what that may do was judged when it was opened. So a truncation is judged, a resize
//! where a policy permits appending only, and everything else passes.

use std::os::fd::BorrowedFd;

use super::look::{LOOKS_AT_STACK, Look, Looker, PATIENCE_NS, STACK_BYTES, Sight, cannot_write};
use crate::access::Access;
use crate::classify::{Call, Touch, touch};
use crate::sys::proc::{self, Proc};

impl Looker {
    /// What of `tid`'s access to `bytes` bytes of the file behind `fd` is to be judged; `None`: nothing.
    pub fn look_at_access(&mut self, proc: &Proc, tid: i32, fd: BorrowedFd<'_>, bytes: u64) -> Option<Look> {
        if is_too_long(bytes) {
            return None;
        }
        match self.patient_call_of(proc, tid, fd) {
            Sight::Call(call) => judged(&call, proc, tid),
            // Only who may write the file may truncate it.
            Sight::Restless | Sight::Hidden if cannot_write(proc, tid, fd) => None,
            Sight::Restless | Sight::Hidden => Some(UNTOLD),
        }
    }

    /// The same by registers alone, for events whose descriptor is gone.
    pub fn look_at_access_of(&mut self, proc: &Proc, tid: i32, bytes: u64) -> Option<Look> {
        if is_too_long(bytes) {
            return None;
        }
        match self.call_of(proc, tid, PATIENCE_NS) {
            Sight::Call(call) => judged(&call, proc, tid),
            Sight::Restless | Sight::Hidden => Some(UNTOLD),
        }
    }
}

/// A truncation or a resize has no length of its own: the kernel rounds the empty range at the new end of the file
/// outwards to whole pages (`fsnotify_pre_content` in include/linux/fsnotify.h). Longer ranges need no look.
fn is_too_long(bytes: u64) -> bool {
    bytes > proc::page_bytes()
}

/// It may be a truncation, and nothing shows that it is not.
const UNTOLD: Look = Look {
    access: Access::Unknown,
    may_create: false,
    must_create: false,
    flags: None,
    syscall: -1,
    is_descriptor: false,
};

/// The thread may be on its way out of a truncation and run `io_uring`'s work under the same registers: that read
/// is judged as the truncation it is not. It was refused before, so nothing is lost.
fn judged(call: &Call, proc: &Proc, tid: i32) -> Option<Look> {
    let is_descriptor = match touch(call) {
        Touch::Truncates => false,
        Touch::Resizes => true,
        Touch::Untold if resizes(proc, tid) => true,
        Touch::Untold | Touch::Uses => return None,
    };
    Some(Look { access: Access::Truncate, syscall: call.number, is_descriptor, ..UNTOLD })
}

/// Whether a worker of `io_uring` is in an ftruncate, by its kernel stack; also when the stack never shows the event
/// that it waits in.
fn resizes(proc: &Proc, tid: i32) -> bool {
    let Ok(task) = proc.task(tid) else { return true };
    let mut stack = [0u8; STACK_BYTES];
    for _ in 0..LOOKS_AT_STACK {
        let n = task.read_small(c"stack", &mut stack).unwrap_or(0);
        let shows = |name: &[u8]| stack[..n].windows(name.len()).any(|part| part == name);
        if shows(b"fsnotify") {
            return shows(b"ftruncate");
        }
        std::thread::yield_now();
    }
    true
}
