//! fanotify(7): groups, marks, raw reads and responses.
//!
//! nix 0.31's wrapper allocates a `Vec` per read, closes unanswered events and lacks the newer flags, so this
//! module speaks to the kernel itself.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Linux 6.13: an event whose file could not be opened carries `-errno` instead of failing the read.
pub const FAN_REPORT_FD_ERROR: u32 = 0x2000;
/// Linux 6.14, some filesystems only: an open file is read, written, mapped or resized, or one is truncated by path.
pub const FAN_PRE_ACCESS: u64 = 0x0010_0000;

/// The layout version this code was written for (`struct fanotify_event_metadata`).
pub const METADATA_VERSION: u8 = 3;

/// Which directories' and files' events a mark asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Mask {
    /// Opens of the children of a directory, for a permission group.
    pub const OPEN_PERM_CHILDREN: Self = Self(libc::FAN_OPEN_PERM | libc::FAN_EVENT_ON_CHILD);
    /// Opens of one file, for a permission group.
    pub const OPEN_PERM: Self = Self(libc::FAN_OPEN_PERM);
    /// Accesses to the children of a directory, truncations by path among them.
    pub const PRE_ACCESS_CHILDREN: Self = Self(FAN_PRE_ACCESS | libc::FAN_EVENT_ON_CHILD);
    /// Accesses to one file.
    pub const PRE_ACCESS: Self = Self(FAN_PRE_ACCESS);
    /// New entries that are not directories.
    pub const CREATE: Self = Self(libc::FAN_CREATE);
    /// Entries that come and go, directories included: of a directory above a protected tree.
    pub const ENTRIES: Self = Self(
        libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO | libc::FAN_ONDIR,
    );
    /// Names and metadata in a directory whose files may be written by everybody.
    pub const NAMES: Self = Self(Self::ENTRIES.0 | libc::FAN_ATTRIB | libc::FAN_EVENT_ON_CHILD);
    /// What a tree that must not change may undergo: everything but permission events.
    pub const CHANGES: Self = Self(Self::NAMES.0 | libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE);
    /// Renames on a whole filesystem, with both names: of a file that has others, its handle would tell any of them.
    pub const RENAMES: Self = Self(libc::FAN_RENAME | libc::FAN_ONDIR);
    /// A file's own metadata, the number of its names included: the directory of a new name may be anywhere.
    pub const LINKS: Self = Self(libc::FAN_ATTRIB);
}

/// The most events that a responder takes at once. Each answer wakes every opener that waits, so those that wait
/// together are best looked at together, before the first answer, and answered in a row.
pub const EVENTS_MAX: usize = 8;

/// An answer to a permission event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The opener goes on.
    Allow,
    /// The opener gets EPERM.
    Deny,
}

/// A fanotify group. The kernel drops its marks and allows all that is pending when its last descriptor in any
/// process is closed.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
    /// See [`Group::events_at_once`].
    reports_errors: bool,
}

impl Group {
    /// A group of class `PRE_CONTENT`: permission events with the opener's thread id and an event descriptor. The class
    /// is as old as CONTENT; what it adds since 6.14 is the right to `FAN_PRE_ACCESS`, and it costs nothing by itself.
    ///
    /// `O_NONBLOCK` on event descriptors: the kernel opens the file inside read(2), and without it another
    /// user's write lease would stall that read, and with it every opener, for up to 45 s.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` or `ENOSYS` where the kernel lacks permission events.
    pub fn permission() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_PRE_CONTENT
            | libc::FAN_CLOEXEC
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS
            | libc::FAN_REPORT_TID;
        let event_flags =
            libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE | libc::O_NONBLOCK | libc::O_NOATIME;
        match Self::init(flags | FAN_REPORT_FD_ERROR, event_flags) {
            Ok(group) => Ok(Self { reports_errors: true, ..group }),
            // Kernels before 6.13 do not know the flag; there a read fails with the errno instead.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::init(flags, event_flags),
            Err(error) => Err(error),
        }
    }

    /// A group of class NOTIF that reports directory, name and target by file handle, non-blocking.
    ///
    /// # Errors
    /// `EINVAL` on kernels before 5.17, which cannot report targets.
    pub fn notification() -> io::Result<Self> {
        Self::init(
            libc::FAN_CLASS_NOTIF
                | libc::FAN_CLOEXEC
                | libc::FAN_NONBLOCK
                | libc::FAN_UNLIMITED_QUEUE
                | libc::FAN_UNLIMITED_MARKS
                | libc::FAN_REPORT_TID
                | libc::FAN_REPORT_DFID_NAME
                | libc::FAN_REPORT_FID
                | libc::FAN_REPORT_TARGET_FID,
            libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE,
        )
    }

    fn init(flags: u32, event_flags: i32) -> io::Result<Self> {
        // SAFETY: fanotify_init(2) takes two integers and touches no memory of ours.
        let fd = unsafe { libc::fanotify_init(flags, event_flags as u32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, reports_errors: false })
    }

    /// Of `most` permission events, how many one read may ask for without losing sight of a refusal: where an event
    /// whose file cannot be opened fails the read, it does so only when it comes first. Later in the same read the
    /// kernel refuses its opener and says nothing.
    pub const fn events_at_once(&self, most: usize) -> usize {
        if self.reports_errors { most } else { 1 }
    }

    /// For poll(2) and for handing on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    /// Another descriptor of the same group.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, reports_errors: self.reports_errors })
    }

    /// Adds `mask` to the mark of the object at `path`, not following a final symbolic link.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR` when it has changed meanwhile; `ENOSPC`, `ENOMEM`; for notification groups
    /// `ENODEV`, `EXDEV`, `EOPNOTSUPP` where the filesystem cannot name objects by handle.
    pub fn mark_add(&self, mask: Mask, path: &CStr) -> io::Result<()> {
        self.mark(libc::FAN_MARK_ADD | libc::FAN_MARK_DONT_FOLLOW, mask, path)
    }

    /// Adds `mask` to the mark of the filesystem that `path` lies on.
    ///
    /// # Errors
    /// As [`Group::mark_add`].
    pub fn mark_filesystem(&self, mask: Mask, path: &CStr) -> io::Result<()> {
        self.mark(libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, mask, path)
    }

    /// Takes `mask` off the mark of the object at `path`.
    ///
    /// # Errors
    /// `ENOENT` when there is no such mark or no such path.
    pub fn mark_remove(&self, mask: Mask, path: &CStr) -> io::Result<()> {
        self.mark(libc::FAN_MARK_REMOVE | libc::FAN_MARK_DONT_FOLLOW, mask, path)
    }

    /// Adds `mask` to the mark of what the descriptor refers to; not for descriptors that only stand for a path.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub fn mark_object(&self, mask: Mask, object: BorrowedFd<'_>) -> io::Result<()> {
        self.mark_descriptor(libc::FAN_MARK_ADD, mask, object)
    }

    /// Takes off what [`Group::mark_object`] put on.
    ///
    /// # Errors
    /// `ENOENT` when there is no such mark.
    pub fn unmark_object(&self, mask: Mask, object: BorrowedFd<'_>) -> io::Result<()> {
        self.mark_descriptor(libc::FAN_MARK_REMOVE, mask, object)
    }

    fn mark_descriptor(&self, flags: u32, mask: Mask, object: BorrowedFd<'_>) -> io::Result<()> {
        let (group, object) = (self.fd.as_raw_fd(), object.as_raw_fd());
        // SAFETY: without a path the call means the descriptor itself and touches no memory of ours
        // (fanotify_mark(2)).
        let result = unsafe { libc::fanotify_mark(group, flags, mask.0, object, std::ptr::null()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn mark(&self, flags: u32, mask: Mask, path: &CStr) -> io::Result<()> {
        // SAFETY: `path` is NUL-terminated and outlives the call (fanotify_mark(2)).
        let result =
            unsafe { libc::fanotify_mark(self.fd.as_raw_fd(), flags, mask.0, libc::AT_FDCWD, path.as_ptr()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads events into `buffer`; a notification group gives `WouldBlock` when its queue is empty.
    ///
    /// # Errors
    /// Those of read(2); for a permission group most of them mean one lost event (see fanotify(7)).
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer is valid and writable for its whole length.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    /// How many events wait. Of a notification group FIONREAD gives so many times the length of an event without its
    /// information (`fanotify_ioctl`, 2.6.36 and later); a kernel that gave their whole lengths would give too many.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn queued(&self) -> io::Result<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: `bytes` is valid and writable for an int.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(u64::from(bytes.unsigned_abs()) / size_of::<libc::fanotify_event_metadata>() as u64)
    }

    /// Allows several events, each as [`Group::respond`] does, in one call: an opener that the first answer wakes
    /// does not get this CPU before the last is given. On a file that only knows write(2), as a group is, writev(2) is
    /// a loop of it in the kernel, one response to a part, up to the first that fails.
    pub fn allow_all(&self, events: &[RawFd]) {
        const RESPONSE_BYTES: usize = size_of::<libc::fanotify_response>();
        let mut done = 0;
        while let rest @ [_, ..] = &events[done..] {
            let responses: [libc::fanotify_response; EVENTS_MAX] = std::array::from_fn(|at| {
                libc::fanotify_response { fd: rest.get(at).copied().unwrap_or(-1), response: libc::FAN_ALLOW }
            });
            let parts = responses.each_ref().map(|response| libc::iovec {
                iov_base: std::ptr::from_ref(response).cast_mut().cast(),
                iov_len: RESPONSE_BYTES,
            });
            let count = rest.len().min(EVENTS_MAX);
            // SAFETY: `count` does not exceed the parts, each of which describes a response that is only read.
            let n = unsafe { libc::writev(self.fd.as_raw_fd(), parts.as_ptr(), count as i32) };
            // An error is that of the first: its opener was killed and its event is gone.
            done += usize::try_from(n).map_or(1, |n| (n / RESPONSE_BYTES).max(1));
        }
    }

    /// Answers the pending event that was delivered with descriptor number `fd`, whichever process read it:
    /// the kernel matches numbers, oldest first. Retries `EINTR`.
    ///
    /// # Errors
    /// `ENOENT` when no event with that number waits any more.
    pub fn respond(&self, fd: RawFd, answer: Answer) -> io::Result<()> {
        let response = libc::fanotify_response {
            fd,
            response: match answer {
                Answer::Allow => libc::FAN_ALLOW,
                Answer::Deny => libc::FAN_DENY,
            },
        };
        loop {
            // SAFETY: `response` is a valid struct of the length given.
            let n = unsafe {
                libc::write(
                    self.fd.as_raw_fd(),
                    (&raw const response).cast(),
                    size_of::<libc::fanotify_response>(),
                )
            };
            if n >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
