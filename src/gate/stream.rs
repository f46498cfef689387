//! Where in the stream of notifications a moment is: what a process did before it executed a program is told from what
//! it did after that, however late it is read.
//!
//! A notification is queued within the call that it is about (fsnotify), at the end, and may swallow a later one like
//! it. So whatever is behind the end of the queue at one moment happened after it.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use crate::sys::fanotify::Group;
use crate::sys::shared::{Fill, WATCH_BUFFER_BYTES};

/// Where the first notification that this worker reads is: what it inherits is before any moment of its own.
const FIRST: u64 = WATCH_BUFFER_BYTES as u64;
/// How often the watcher may read in between before it is given up: a fifth of a millisecond, within which it is done
/// unless it has no CPU.
const TRIES: usize = 256;

/// Counts notifications. For one reader and many who ask.
#[derive(Debug)]
pub struct Stream {
    read: AtomicU64,
    /// Odd while the reader reads.
    turn: AtomicU64,
}

impl Default for Stream {
    fn default() -> Self {
        Self { read: AtomicU64::new(FIRST), turn: AtomicU64::new(0) }
    }
}

impl Stream {
    /// Has the queue read; gives back where its first notification is, too.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn take(&self, read: impl FnOnce() -> io::Result<Fill>) -> io::Result<(u64, Fill)> {
        self.turn.fetch_add(1, SeqCst);
        let filled = read();
        let count = filled.as_ref().map_or(0, |filled| filled.events);
        let at = self.read.fetch_add(count as u64, SeqCst);
        self.turn.fetch_add(1, SeqCst);
        filled.map(|filled| (at, filled))
    }

    /// Where the next notification will be that is queued for `watch`; `None` where that cannot be told.
    pub fn end(&self, watch: &Group) -> Option<u64> {
        for _ in 0..TRIES {
            let turn = self.turn.load(SeqCst);
            let (read, queued) = (self.read.load(SeqCst), watch.queued().ok()?);
            if turn.is_multiple_of(2) && self.turn.load(SeqCst) == turn {
                return Some(read + queued);
            }
            std::thread::yield_now();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_counts() {
        let stream = Stream::default();
        let fill = |events| stream.take(|| Ok(Fill { events, emptied: true })).unwrap().0;
        assert_eq!((fill(3), fill(2), fill(0)), (FIRST, FIRST + 3, FIRST + 5));
        assert!(stream.take(|| Err(io::ErrorKind::WouldBlock.into())).is_err());
        assert_eq!(fill(1), FIRST + 5);
    }
}
