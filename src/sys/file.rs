//! Files by descriptor and by fixed path: identity, handles, removal. Nothing here raises a permission event
//! (no open for reading or writing) and nothing allocates.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::reach;

/// Device and inode: what an object is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// `st_dev`, as stat(2) encodes it.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// The parts of statx(2) that the gate looks at.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Device and inode.
    pub id: Identity,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Names of the object.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of content or metadata, nanoseconds since the epoch; no process can set it.
    pub changed_ns: i64,
    /// Last change of content, nanoseconds since the epoch; anybody who may write the file can set it.
    pub modified_ns: i64,
    /// Which mount it was reached through (Linux 5.8; 0 before).
    pub mount: u64,
}

impl Stat {
    /// The type bits of the mode.
    pub const fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

fn statx(dir: i32, path: &CStr, flags: i32) -> io::Result<Stat> {
    // SAFETY: statx is plain old data; all zero is valid.
    let mut buffer: libc::statx = unsafe { std::mem::zeroed() };
    // AT_STATX_DONT_SYNC and AT_NO_AUTOMOUNT: a responder must not wait for a server or a mount helper.
    let flags = flags | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    // SAFETY: `path` is NUL-terminated and `buffer` is valid and writable (statx(2)).
    if unsafe { libc::statx(dir, path.as_ptr(), flags, mask, &raw mut buffer) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Stat {
        id: Identity { dev: libc::makedev(buffer.stx_dev_major, buffer.stx_dev_minor), ino: buffer.stx_ino },
        mode: u32::from(buffer.stx_mode),
        uid: buffer.stx_uid,
        links: buffer.stx_nlink,
        size: buffer.stx_size,
        changed_ns: nanoseconds(buffer.stx_ctime),
        modified_ns: nanoseconds(buffer.stx_mtime),
        mount: buffer.stx_mnt_id,
    })
}

fn nanoseconds(time: libc::statx_timestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000) + i64::from(time.tv_nsec)
}

/// What an open descriptor refers to.
///
/// # Errors
/// Those of statx(2).
pub fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

/// What a path names, not following a final symbolic link.
///
/// # Errors
/// Those of statx(2); `EXDEV` where a mount came over it, see [`reach`].
pub fn stat_path(path: &CStr) -> io::Result<Stat> {
    reach::check(path)?;
    statx(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW)
}

/// What a path names, following symbolic links.
///
/// # Errors
/// Those of [`stat_path`].
pub fn stat_path_follow(path: &CStr) -> io::Result<Stat> {
    reach::check(path)?;
    statx(libc::AT_FDCWD, path, 0)
}

/// What a path below `dir` names, following symbolic links: `exe` links of /proc.
///
/// # Errors
/// Those of statx(2).
pub fn stat_at_follow(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<Stat> {
    statx(dir.as_raw_fd(), path, 0)
}

/// What `name` in `dir` is, not following a link.
///
/// # Errors
/// Those of statx(2).
pub fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Stat> {
    statx(dir.as_raw_fd(), name, libc::AT_SYMLINK_NOFOLLOW)
}

/// A descriptor that only stands for the object at `path`: raises no event, gives no content.
///
/// # Errors
/// Those of open(2).
pub fn open_path(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    open_path_at(libc::AT_FDCWD, path, flags)
}

/// The same below `dir`, following symbolic links: `map_files` links of /proc.
///
/// # Errors
/// Those of openat(2).
pub fn open_path_below(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    open_path_at(dir.as_raw_fd(), path, 0)
}

fn open_path_at(dir: i32, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated; O_PATH takes no mode.
    let fd = unsafe { libc::openat(dir, path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC | flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Removes the name `name` of `dir`; not for directories.
///
/// # Errors
/// Those of unlinkat(2).
pub fn unlink_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    let result = unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `MAX_HANDLE_SZ` of fcntl.h: the longest file handle.
pub const HANDLE_BYTES: usize = 128;

/// A file handle (`name_to_handle_at(2)`): names an object of a filesystem for ever, unlike an inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// The filesystem's own type number.
    pub kind: i32,
    len: u8,
    bytes: [u8; HANDLE_BYTES],
}

impl Default for Handle {
    fn default() -> Self {
        Self { kind: 0, len: 0, bytes: [0; HANDLE_BYTES] }
    }
}

impl Handle {
    /// From the bytes of an event; `None` when too long or empty.
    pub fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > HANDLE_BYTES {
            return None;
        }
        let mut handle = Self { kind, len: bytes.len() as u8, bytes: [0; HANDLE_BYTES] };
        handle.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(handle)
    }

    /// The opaque bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; HANDLE_BYTES],
}

/// The handle of what `path` names from `dir`, or of `dir` itself when `path` is empty; the form that
/// events carry (`AT_HANDLE_FID`, Linux 6.5) where the filesystem can, else the one to open by.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no handles.
pub fn handle_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<Handle> {
    const AT_HANDLE_FID: i32 = 0x200;
    let mut raw = RawHandle { bytes: HANDLE_BYTES as u32, kind: 0, handle: [0; HANDLE_BYTES] };
    let mut mount = 0i32;
    let mut call = |flags: i32| {
        raw.bytes = HANDLE_BYTES as u32;
        // SAFETY: `raw` has the layout of struct file_handle with `bytes` of room, `mount` is writable, `path`
        // is NUL-terminated (name_to_handle_at(2)).
        unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw mut raw,
                &raw mut mount,
                flags,
            )
        }
    };
    if call(libc::AT_EMPTY_PATH | AT_HANDLE_FID) < 0 && call(libc::AT_EMPTY_PATH) < 0 {
        return Err(io::Error::last_os_error());
    }
    Handle::new(raw.kind, &raw.handle[..(raw.bytes as usize).min(HANDLE_BYTES)])
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// Opens the object that a handle names, as a descriptor that only stands for it. `mount` is any descriptor on
/// the same filesystem that is not itself `O_PATH`.
///
/// # Errors
/// `ESTALE` when the object is gone; `EPERM` without `CAP_DAC_READ_SEARCH`.
pub fn open_handle(mount: BorrowedFd<'_>, kind: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    let mut raw = RawHandle { bytes: handle.len() as u32, kind, handle: [0; HANDLE_BYTES] };
    let Some(room) = raw.handle.get_mut(..handle.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
    };
    room.copy_from_slice(handle);
    // SAFETY: `raw` has the layout of struct file_handle and holds as many bytes as it says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `f_fsid` of statfs(2): what events carry beside a handle.
///
/// # Errors
/// Those of fstatfs(2).
pub fn filesystem_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: statfs is plain old data; all zero is valid.
    let mut buffer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `buffer` is valid and writable.
    if unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut buffer) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fsid_t is two 32-bit integers without padding.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, u64>(buffer.f_fsid) })
}
