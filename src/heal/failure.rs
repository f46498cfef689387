//! Why something could not be put back, held or taken away.

use std::io;

/// A reason, for the audit record and for `doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Neither a link nor a copy of it is held.
    #[error("nothing is held to restore it from")]
    NothingHeld,
    /// No copy of its content is held.
    #[error("its content changed and no copy of it is held")]
    NoCopy,
    /// The copy of its content was changed.
    #[error("the copy of its content was tampered with")]
    BadCopy,
    /// The filesystem is mounted read-only.
    #[error("the filesystem is read-only")]
    ReadOnly,
    /// The filesystem is full, or nearly so.
    #[error("no space is left on the filesystem")]
    NoSpace,
    /// Another filesystem is mounted over the name.
    #[error("something is mounted over it")]
    MountedOver,
    /// The filesystem that the name led to is not mounted here any more.
    #[error("the filesystem that it was on is not mounted here")]
    NotMounted,
    /// The name changed faster than it could be put right.
    #[error("it keeps changing")]
    Raced,
    /// Its mount has no directory that could hold the store.
    #[error("its mount has no directory to keep things in")]
    NoPlace,
    /// The directory of the store was replaced or removed.
    #[error("the directory that keeps things was replaced")]
    StoreLost,
    /// The file is longer than the limit for one copy.
    #[error("the file is too large to copy")]
    TooLarge,
    /// All copies together would exceed the limit.
    #[error("the limit for all copies is reached")]
    OverBudget,
    /// So many names of the file are somewhere, and the kernel does not tell where.
    #[error("it has further names that do not come to light, {0} of them; through these it is guarded too")]
    OtherNames(u32),
    /// Somebody has put something else in the place of what was made.
    #[error("somebody has put something else in the place of what was made there, and that is left alone")]
    Replaced,
    /// Nothing with that name.
    #[error("there is no such item")]
    NoSuchItem,
    /// A system call failed.
    #[error("{call}: {}", io::Error::from_raw_os_error(*.errno))]
    Call {
        /// Which.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

impl Failure {
    /// Turns the error of `call` into a reason; what only says that the name changed meanwhile is [`Self::Raced`].
    pub fn of(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::EEXIST | libc::ESTALE | libc::ENOTEMPTY) => Self::Raced,
            // See `sys::reach`.
            Some(libc::EXDEV) if call == "open" => Self::MountedOver,
            Some(libc::EROFS) => Self::ReadOnly,
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace,
            errno => Self::Call { call, errno: errno.unwrap_or(libc::EIO) },
        }
    }

    /// Whether the kernel said `errno`.
    pub const fn is(self, errno: i32) -> bool {
        matches!(self, Self::Call { errno: found, .. } if found == errno)
    }
}
