//! Numbers of mounts that are never given twice (Linux 6.8): those in `/proc/self/mountinfo` are.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The number of the mount that `fd` lies on; `None` where the kernel has none.
pub fn unique_id(fd: BorrowedFd<'_>) -> Option<u64> {
    // SAFETY: statx is plain old data; all zero is valid.
    let mut raw: libc::statx = unsafe { std::mem::zeroed() };
    let (flags, mask) = (libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT, libc::STATX_MNT_ID_UNIQUE);
    // SAFETY: the name is NUL-terminated and `raw` is valid and writable (statx(2)).
    let result = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut raw) };
    (result == 0 && raw.stx_mask & libc::STATX_MNT_ID_UNIQUE != 0).then_some(raw.stx_mnt_id)
}

/// The highest such number so far: that of a mount of our own, which stands nowhere and is gone at once.
pub fn newest_id() -> Option<u64> {
    use std::os::fd::AsFd;
    unique_id(clone_root().ok()?.as_fd())
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
