//! Mounts by number, asked of the kernel and never of their filesystems: one that answers nobody holds nobody up.
//!
//! The numbers in `/proc/self/mountinfo` are given again; those of listmount(2) and statmount(2) (Linux 6.8) are not.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// statmount(2) and listmount(2): the same numbers on every architecture, and the C library's headers lack them.
const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;
/// `LSMT_ROOT` of linux/mount.h: all mounts below our own root.
const ROOT: u64 = u64::MAX;
/// `STATMOUNT_MNT_BASIC` of linux/mount.h.
const BASIC: u64 = 0x2;
/// `STATMOUNT_MNT_POINT` of linux/mount.h.
const POINT: u64 = 0x10;
/// How many numbers one listmount(2) brings.
const AT_ONCE: usize = 512;

/// `struct mnt_id_req` of linux/mount.h, as Linux 6.8 has it.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    id: u64,
    param: u64,
}

impl Request {
    const fn new(id: u64, param: u64) -> Self {
        Self { size: size_of::<Self>() as u32, spare: 0, id, param }
    }
}

/// `struct statmount` of linux/mount.h, as far as it is asked for, with room for a path.
#[repr(C)]
struct RawStatus {
    size: u32,
    _options: u32,
    mask: u64,
    _superblock: [u64; 2],
    _type: [u32; 2],
    id: u64,
    parent: u64,
    id_old: u32,
    parent_old: u32,
    _propagation: [u64; 5],
    _root: u32,
    point: u32,
    _spare: [u64; 50],
    text: [u8; libc::PATH_MAX as usize],
}

/// What a mount is and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its number in `/proc/self/mountinfo`.
    pub id: u64,
    /// The number of the mount that it stands on, one that is never given twice.
    pub parent: u64,
    /// Where it stands, from our own root.
    pub point: Vec<u8>,
}

/// The number of the mount that `fd` lies on, as in `/proc/self/mountinfo`.
///
/// # Errors
/// Those of statx(2).
pub fn id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // Nothing is asked for, so that nobody has to be asked: the number comes with every answer.
    Ok(statx(fd, 0)?.stx_mnt_id)
}

fn statx(fd: BorrowedFd<'_>, mask: u32) -> io::Result<libc::statx> {
    // SAFETY: statx is plain old data; all zero is valid.
    let mut raw: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the name is NUL-terminated and `raw` is valid and writable (statx(2)).
    let result = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut raw) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(raw) }
}

/// The highest number so far that is never given twice: that of a mount of our own, which stands nowhere and is gone
/// at once.
pub fn newest_id() -> Option<u64> {
    use std::os::fd::AsFd;
    let raw = statx(clone_root().ok()?.as_fd(), libc::STATX_MNT_ID_UNIQUE).ok()?;
    (raw.stx_mask & libc::STATX_MNT_ID_UNIQUE != 0).then_some(raw.stx_mnt_id)
}

fn clone_root() -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: a NUL-terminated path and flags.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The numbers of all mounts here, in ascending order.
///
/// # Errors
/// `ENOSYS` before Linux 6.8; `EPERM` where a container may not ask.
pub fn list() -> io::Result<Vec<u64>> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let mut ids = [0u64; AT_ONCE];
        let request = Request::new(ROOT, after);
        // SAFETY: the request says its size, and `ids` is writable for as many numbers as said.
        let n = unsafe { libc::syscall(LISTMOUNT, &raw const request, ids.as_mut_ptr(), ids.len(), 0usize) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        found.extend_from_slice(&ids[..n]);
        match ids[..n].last() {
            Some(&last) if n == ids.len() => after = last,
            _ => return Ok(found),
        }
    }
}

/// What is known of the mount with this number, one that is never given twice.
///
/// # Errors
/// `ENOENT` when it is gone; those of [`list`].
pub fn status(unique: u64) -> io::Result<Status> {
    let request = Request::new(unique, BASIC | POINT);
    // SAFETY: plain old data; all zero is valid.
    let mut raw: Box<RawStatus> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: the request says its size, and `raw` is writable for the size given.
    let result = unsafe {
        libc::syscall(STATMOUNT, &raw const request, &raw mut *raw, size_of::<RawStatus>(), 0usize)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let text = raw.text.get(raw.point as usize..).unwrap_or_default();
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    let point = if raw.mask & POINT == 0 { Vec::new() } else { text[..end].to_owned() };
    Ok(Status { id: raw.id_old.into(), parent: raw.parent, point })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_of_the_kernel() {
        assert_eq!(std::mem::offset_of!(RawStatus, id), 40);
        assert_eq!(std::mem::offset_of!(RawStatus, point), 108);
        assert_eq!(std::mem::offset_of!(RawStatus, text), 512);
    }
}
