//! Names in directories, always by directory descriptor and never through a final symbolic link.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::inode::Time;

/// `RENAME_NOREPLACE` of linux/fs.h.
pub const NOREPLACE: u32 = 1;
/// `RENAME_EXCHANGE` of linux/fs.h: both names exist at every moment.
pub const EXCHANGE: u32 = 2;

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// openat2(2) (Linux 5.6) with `RESOLVE_*` bits; an absolute path where there is no `dir`.
///
/// # Errors
/// `ELOOP` where a component is a link and may not be, `EXDEV` where one lies on another mount and may not.
pub fn open_resolving(
    dir: Option<BorrowedFd<'_>>,
    path: &CStr,
    flags: i32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: open_how is plain old data; all zero is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    let dir = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    // SAFETY: `path` is NUL-terminated and `how` is as long as said.
    owned(unsafe {
        libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, size_of::<libc::open_how>())
    })
}

/// Opens `name` in `dir`.
///
/// # Errors
/// Those of openat(2).
pub fn open_at(dir: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `name` is NUL-terminated.
    owned(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode) }.into())
}

/// Opens the object that an `O_PATH` descriptor stands for, by its link in /proc.
///
/// # Errors
/// Those of open(2).
pub fn reopen(proc_path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `proc_path` is NUL-terminated.
    owned(unsafe { libc::open(proc_path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

/// Renames, with [`NOREPLACE`] or [`EXCHANGE`].
///
/// # Errors
/// Those of renameat2(2).
pub fn rename(
    (from, old): (BorrowedFd<'_>, &CStr),
    (to, new): (BorrowedFd<'_>, &CStr),
    flags: u32,
) -> io::Result<()> {
    // SAFETY: both names are NUL-terminated.
    done(unsafe { libc::renameat2(from.as_raw_fd(), old.as_ptr(), to.as_raw_fd(), new.as_ptr(), flags) })
}

/// Gives the object behind an `O_PATH` descriptor another name.
///
/// # Errors
/// Those of linkat(2).
pub fn link(proc_path: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // By the link in /proc: AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH.
    // SAFETY: both names are NUL-terminated.
    done(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            proc_path.as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })
}

/// Makes a symbolic link.
///
/// # Errors
/// Those of symlinkat(2).
pub fn symlink(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both texts are NUL-terminated.
    done(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) })
}

/// What the symbolic link behind an `O_PATH` descriptor points to.
///
/// # Errors
/// Those of readlinkat(2); `EINVAL` for anything but a link.
pub fn read_link(link: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut target = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: `target` is writable for its length.
    let n =
        unsafe { libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    target.truncate(n as usize);
    Ok(target)
}

/// Makes a directory.
///
/// # Errors
/// Those of mkdirat(2).
pub fn make_dir(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    done(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })
}

/// Makes a device node, FIFO or socket.
///
/// # Errors
/// Those of mknodat(2).
pub fn make_node(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: u64) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    done(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) })
}

/// Removes an empty directory.
///
/// # Errors
/// Those of unlinkat(2).
pub fn remove_dir(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    done(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) })
}

/// Sets the owner of what a descriptor stands for, a symbolic link included.
///
/// # Errors
/// Those of fchownat(2).
pub fn set_owner(object: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the empty name is NUL-terminated.
    done(unsafe { libc::fchownat(object.as_raw_fd(), c"".as_ptr(), uid, gid, flags) })
}

/// Sets the permissions of what an `O_PATH` descriptor stands for, by its link in /proc; not for symbolic links.
///
/// # Errors
/// Those of chmod(2).
pub fn set_mode(proc_path: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `proc_path` is NUL-terminated.
    done(unsafe { libc::chmod(proc_path.as_ptr(), mode & 0o7777) })
}

/// Sets the time of the last change of content, and leaves the time of the last access alone.
///
/// # Errors
/// Those of utimensat(2).
pub fn set_mtime(object: BorrowedFd<'_>, mtime: Time) -> io::Result<()> {
    let times = [
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        libc::timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() },
    ];
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the empty name is NUL-terminated and `times` holds two entries (AT_EMPTY_PATH: Linux 5.8).
    done(unsafe { libc::utimensat(object.as_raw_fd(), c"".as_ptr(), times.as_ptr(), flags) })
}

/// Bytes free to others and bytes in all of the filesystem of `fd`.
///
/// # Errors
/// Those of fstatvfs(3).
pub fn space(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    // SAFETY: statvfs is plain old data; all zero is valid.
    let mut raw: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `raw` is valid and writable.
    done(unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut raw) })?;
    Ok((raw.f_bavail.saturating_mul(raw.f_frsize), raw.f_blocks.saturating_mul(raw.f_frsize)))
}
