//! Looks at an access to a file that is marked for them: is it a truncation?
//!
//! truncate(2) by path raises no open event. Since 6.14 it raises `FAN_PRE_ACCESS`, and so does whatever else touches
//! the content of a file: read, write, mmap, exec, sendfile, fallocate, ftruncate (measured on 6.18). All of these but
//! truncate need a descriptor, and what that may do was judged when it was opened. So a truncation is judged, a resize
//! where a policy permits appending only, and everything else passes.

use std::os::fd::BorrowedFd;

use super::look::{Glance, Look, Looker, STACK_BYTES, Sight, cannot_write};
use super::patience::Patience;
use crate::access::Access;
use crate::sys::proc::{self, Proc};
use crate::touch::{Touch, touch};

/// It may be a truncation, and nothing shows that it is not.
const UNTOLD: Look = Look {
    access: Access::Unknown,
    may_create: false,
    must_create: false,
    flags: None,
    syscall: -1,
    pc: 0,
    is_descriptor: false,
};

impl Looker {
    /// What [`Looker::look_at_access`] would say, where that shows at once; `None`: there is nothing to judge.
    pub fn glance_at_access(&mut self, proc: &Proc, tid: i32, bytes: u64) -> Option<Glance> {
        if bytes > proc::page_bytes() {
            return None;
        }
        match self.sight_of(proc, tid) {
            Sight::Call(call) if touch(&call) == Touch::Uses => None,
            Sight::Restless => Some(Glance::Restless),
            Sight::Call(_) | Sight::Hidden => Some(Glance::Unclear),
        }
    }

    /// What of `tid`'s access to `bytes` bytes of a file is to be judged; `None`: nothing. `file` is none for events
    /// whose descriptor is gone.
    ///
    /// A thread on its way out of a truncation may run `io_uring`'s work under the same registers: that read is judged
    /// as the truncation it is not.
    pub fn look_at_access(
        &mut self,
        proc: &Proc,
        tid: i32,
        file: Option<BorrowedFd<'_>>,
        bytes: u64,
    ) -> Option<Look> {
        // A truncation or a resize has no length of its own: the kernel rounds the empty range at the new end of the
        // file outwards to whole pages (`fsnotify_pre_content` in include/linux/fsnotify.h).
        if bytes > proc::page_bytes() {
            return None;
        }
        let (touch, syscall) = match self.call_of(proc, tid, Patience::usual()) {
            Sight::Call(call) => match touch(&call) {
                Touch::Untold => (touch_by_stack(proc, tid).unwrap_or(Touch::Resizes), call.number),
                touch => (touch, call.number),
            },
            Sight::Restless | Sight::Hidden => (touch_by_stack(proc, tid).unwrap_or(Touch::Untold), -1),
        };
        let truncation = Look { access: Access::Truncate, syscall, ..UNTOLD };
        match touch {
            Touch::Uses => None,
            Touch::Truncates => Some(truncation),
            Touch::Resizes => Some(Look { is_descriptor: true, ..truncation }),
            // Only who may write the file may truncate it.
            Touch::Untold => file.is_none_or(|file| !cannot_write(proc, tid, file)).then_some(UNTOLD),
        }
    }
}

/// What the kernel stack of `tid` (`/proc/<tid>/stack`) shows beside the event that it waits in; `None` when it never
/// shows that. It tells of `io_uring`'s workers, whose registers are not theirs, and of a thread that was woken and
/// gets no CPU to go to sleep again, whose registers are not to be had.
fn touch_by_stack(proc: &Proc, tid: i32) -> Option<Touch> {
    let task = proc.task(tid).ok()?;
    let mut stack = [0u8; STACK_BYTES];
    let mut patience = Patience::usual();
    loop {
        let n = task.read_small(c"stack", &mut stack).ok()?;
        let shows = |name: &[u8]| stack[..n].windows(name.len()).any(|part| part == name);
        if shows(b"fsnotify") {
            let (resizes, truncates) = (shows(b"ftruncate"), shows(b"truncate"));
            return Some(if resizes {
                Touch::Resizes
            } else if truncates {
                Touch::Truncates
            } else {
                Touch::Uses
            });
        }
        if !patience.wait() {
            return None;
        }
    }
}
