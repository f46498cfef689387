//! Registers of blocked threads.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{Proc, read_at};

/// The longest line of `/proc/<tid>/syscall`: nine 64-bit numbers in hexadecimal.
pub const SYSCALL_LINE_BYTES: usize = 192;

/// How many threads' registers a responder keeps at hand. A descriptor each, so 128 responders stay below
/// 9,000 descriptors.
const CACHED_THREADS: usize = 64;

/// Descriptors of `/proc/<tid>/syscall`, one per recently seen thread: reading one that is open costs a third
/// of opening it anew.
#[derive(Debug)]
pub struct RegisterCache {
    entries: [(i32, Option<OwnedFd>); CACHED_THREADS],
    /// The last one that had to make room. To close it, most likely the last trace of a dead thread, takes as long as
    /// to open one, and the opener need not wait for that.
    replaced: Option<OwnedFd>,
}

impl Default for RegisterCache {
    fn default() -> Self {
        Self { entries: std::array::from_fn(|_| (0, None)), replaced: None }
    }
}

impl RegisterCache {
    /// Closes what had to make room.
    pub fn close_replaced(&mut self) {
        self.replaced = None;
    }

    /// Reads the line of `tid` into `line`; how many bytes there are.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when the thread is gone, `EPERM` without the right to look.
    pub fn read(&mut self, proc: &Proc, tid: i32, line: &mut [u8; SYSCALL_LINE_BYTES]) -> io::Result<usize> {
        let entry = &mut self.entries[tid as usize % CACHED_THREADS];
        if entry.0 == tid
            && let Some(file) = &entry.1
        {
            // A dead task answers ESRCH, so a number that was given to another thread is never mistaken.
            if let Ok(n) = read_at(file.as_fd(), line, 0)
                && n > 0
            {
                return Ok(n);
            }
        }
        entry.0 = 0;
        self.replaced = entry.1.take();
        let file = proc.open_file(tid, "syscall")?;
        let n = read_at(file.as_fd(), line, 0)?;
        *entry = (tid, Some(file));
        Ok(n)
    }
}
