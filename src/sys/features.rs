//! Questions to the running kernel that have no other use: can it do this?

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::fanotify::{FAN_PRE_ACCESS, FAN_REPORT_FD_ERROR};

/// Linux 6.14: mounts and unmounts.
const FAN_REPORT_MNT: u32 = 0x4000;
const FAN_MARK_MNTNS: u32 = 0x0110;
const FAN_MNT_ATTACH: u64 = 0x0100_0000;
const FAN_MNT_DETACH: u64 = 0x0200_0000;
/// `lsm_list_modules` has the same number on every architecture.
const SYS_LSM_LIST_MODULES: libc::c_long = 461;

fn init(flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: fanotify_init(2) takes two integers and touches no memory of ours.
    let fd = unsafe { libc::fanotify_init(flags | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn mark(group: &OwnedFd, flags: u32, mask: u64, path: &CStr) -> io::Result<()> {
    let flags = libc::FAN_MARK_ADD | flags;
    // SAFETY: `path` is NUL-terminated and outlives the call (fanotify_mark(2)).
    let result =
        unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Permission events at all.
///
/// # Errors
/// Why not.
pub fn permission_events() -> io::Result<()> {
    init(libc::FAN_CLASS_CONTENT).map(drop)
}

/// Permission events that name the opener's thread.
///
/// # Errors
/// Why not.
pub fn thread_ids() -> io::Result<()> {
    init(libc::FAN_CLASS_CONTENT | libc::FAN_REPORT_TID).map(drop)
}

/// An event whose file cannot be opened says why.
///
/// # Errors
/// Why not.
pub fn event_fd_errors() -> io::Result<()> {
    init(libc::FAN_CLASS_CONTENT | FAN_REPORT_FD_ERROR).map(drop)
}

/// Permission events for truncate(2) on the file at `path`.
///
/// # Errors
/// Why not; some filesystems have none.
pub fn pre_access(path: &CStr) -> io::Result<()> {
    mark(&init(libc::FAN_CLASS_PRE_CONTENT)?, 0, FAN_PRE_ACCESS, path)
}

/// Reports of mounts in this mount namespace.
///
/// # Errors
/// Why not.
pub fn mount_events() -> io::Result<()> {
    let group = init(libc::FAN_CLASS_NOTIF | FAN_REPORT_MNT)?;
    mark(&group, FAN_MARK_MNTNS, FAN_MNT_ATTACH | FAN_MNT_DETACH, c"/proc/self/ns/mnt")
}

/// Whether processes like this one may use `io_uring`.
///
/// # Errors
/// `ENOSYS`: not built in; `EPERM`: switched off.
pub fn io_uring() -> io::Result<()> {
    // SAFETY: a null pointer for the parameters is refused with EFAULT before anything is written.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null_mut::<u8>()) };
    let error = io::Error::last_os_error();
    if result >= 0 || error.raw_os_error() == Some(libc::EFAULT) { Ok(()) } else { Err(error) }
}

/// The ids of the active security modules (Linux 6.8).
pub fn security_modules() -> Option<Vec<u64>> {
    let mut ids = [0u64; 32];
    let mut bytes = size_of_val(&ids) as u32;
    // SAFETY: `ids` has `bytes` bytes of room and both are writable.
    let count = unsafe { libc::syscall(SYS_LSM_LIST_MODULES, ids.as_mut_ptr(), &raw mut bytes, 0u32) };
    let count = usize::try_from(count).ok()?;
    Some(ids.get(..count)?.to_vec())
}
