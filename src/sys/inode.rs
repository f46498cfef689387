//! All that an inode says about itself, and the flags that chattr(1) sets. Healing compares and restores these.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::file::Identity;

/// A time as the kernel keeps it. Packed: an inventory holds two for each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
#[repr(C, packed(4))]
pub struct Time {
    /// Seconds since the epoch, negative before.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
}

impl Time {
    /// The present, as new inodes get it: the kernel's clock for them lags by up to a tick, 10 ms.
    pub fn now() -> Self {
        const TICK_NS: u64 = 10_000_000;
        let ns = super::clock::realtime_ns().saturating_sub(TICK_NS);
        Self { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }
}

/// `FS_IMMUTABLE_FL` of linux/fs.h: `chattr +i`.
pub const FLAG_IMMUTABLE: u32 = 0x10;
/// `FS_APPEND_FL` of linux/fs.h: `chattr +a`.
pub const FLAG_APPEND: u32 = 0x20;
/// `FS_NODUMP_FL` of linux/fs.h: `chattr +d`, which keeps a file out of backups.
pub const FLAG_NODUMP: u32 = 0x40;
/// The flags that keep a name or a file from being changed.
pub const FLAGS_BLOCKING: u32 = FLAG_IMMUTABLE | FLAG_APPEND;
/// The same flags as `FS_XFLAG_*` of linux/fs.h, which has other numbers for them.
const XFLAGS: [(u32, u64); 3] = [(FLAG_IMMUTABLE, 0x8), (FLAG_APPEND, 0x10), (FLAG_NODUMP, 0x80)];
/// The flags that are kept: those of which statx(2) tells, so that nothing has to be opened.
const FLAGS_KEPT: u32 = FLAGS_BLOCKING | FLAG_NODUMP;

/// What statx(2) says, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Device and inode.
    pub id: Identity,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names.
    pub links: u32,
    /// Bytes of content.
    pub size: u64,
    /// Bytes on disk.
    pub allocated: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything; no process can set it.
    pub ctime: Time,
    /// When it was made; zero where the filesystem does not know.
    pub born: Time,
    /// Which device a device node stands for.
    pub rdev: u64,
    /// [`FLAG_IMMUTABLE`], [`FLAG_APPEND`] and [`FLAG_NODUMP`], without opening the file. The last only of regular
    /// files and directories: others inherit it as well, and ext4 lets nobody take it off them.
    pub flags: u32,
    /// Which mount it was reached through.
    pub mount: u64,
}

impl Inode {
    /// The type bits of the mode.
    pub const fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is a directory.
    pub const fn is_dir(&self) -> bool {
        self.file_type() == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    pub const fn is_file(&self) -> bool {
        self.file_type() == libc::S_IFREG
    }

    /// Whether a flag keeps it from being changed, renamed or unlinked.
    pub const fn is_blocked(&self) -> bool {
        self.flags & FLAGS_BLOCKING != 0
    }
}

fn statx(dir: i32, name: &CStr, flags: i32) -> io::Result<Inode> {
    // SAFETY: statx is plain old data; all zero is valid.
    let mut raw: libc::statx = unsafe { std::mem::zeroed() };
    let how = flags | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;
    // SAFETY: `name` is NUL-terminated and `raw` is valid and writable (statx(2)).
    if unsafe { libc::statx(dir, name.as_ptr(), how, mask, &raw mut raw) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel has given these the numbers that chattr's flags have.
    const { assert!(FLAG_NODUMP == libc::STATX_ATTR_NODUMP as u32) };
    let has_flags = matches!(u32::from(raw.stx_mode) & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
    let flags = raw.stx_attributes as u32 & if has_flags { FLAGS_KEPT } else { FLAGS_BLOCKING };
    Ok(Inode {
        id: Identity { dev: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor), ino: raw.stx_ino },
        mode: u32::from(raw.stx_mode),
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        links: raw.stx_nlink,
        size: raw.stx_size,
        allocated: raw.stx_blocks.saturating_mul(512),
        mtime: Time { sec: raw.stx_mtime.tv_sec, nsec: raw.stx_mtime.tv_nsec },
        ctime: Time { sec: raw.stx_ctime.tv_sec, nsec: raw.stx_ctime.tv_nsec },
        born: Time { sec: raw.stx_btime.tv_sec, nsec: raw.stx_btime.tv_nsec },
        rdev: libc::makedev(raw.stx_rdev_major, raw.stx_rdev_minor),
        flags,
        mount: raw.stx_mnt_id,
    })
}

/// What an absolute path names, not following a last symbolic link.
///
/// # Errors
/// Those of statx(2).
pub fn of_path(path: &CStr) -> io::Result<Inode> {
    statx(libc::AT_FDCWD, path, 0)
}

/// What a descriptor, also an `O_PATH` one, refers to.
///
/// # Errors
/// Those of statx(2).
pub fn of_fd(fd: BorrowedFd<'_>) -> io::Result<Inode> {
    statx(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

/// What `name` in `dir` is, not following a link. Where something is mounted over it, that is not waited for.
///
/// # Errors
/// Those of statx(2).
pub fn of_name(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Inode> {
    statx(dir.as_raw_fd(), name, libc::AT_STATX_DONT_SYNC)
}

/// `struct file_attr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FileAttr {
    xflags: u64,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
}

/// Makes the kept flags of what `proc_path`, the link in /proc of an `O_PATH` descriptor, stands for equal `wanted`,
/// leaving all other flags alone. Opens nothing, so that no lease, FIFO or device is in the way (Linux 6.17). By the
/// link, because an `O_PATH` descriptor itself is `EBADF` there (measured on 6.18).
///
/// # Errors
/// `ENOSYS` before Linux 6.17, `EOPNOTSUPP` where the filesystem has no flags for what it is, and `EPERM`.
pub fn set_flags_unopened(proc_path: &CStr, wanted: u32) -> io::Result<()> {
    // One number on all architectures but alpha (scripts/syscall.tbl of Linux 6.17).
    const FILE_GETATTR: libc::c_long = 468;
    const FILE_SETATTR: libc::c_long = 469;
    let mut attr = FileAttr::default();
    let call = |number: libc::c_long, attr: &mut FileAttr| {
        // SAFETY: `proc_path` is NUL-terminated, and `attr` has the layout of the first version of struct file_attr,
        // is writable and as long as said (fs/file_attr.c of Linux 6.17).
        let result = unsafe {
            libc::syscall(
                number,
                libc::AT_FDCWD,
                proc_path.as_ptr(),
                std::ptr::from_mut(attr),
                size_of::<FileAttr>(),
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    call(FILE_GETATTR, &mut attr)?;
    let before = attr.xflags;
    for (flag, xflag) in XFLAGS {
        attr.xflags = if wanted & flag == 0 { attr.xflags & !xflag } else { attr.xflags | xflag };
    }
    if attr.xflags == before { Ok(()) } else { call(FILE_SETATTR, &mut attr) }
}

/// Makes the kept flags of an open file or directory equal `wanted`, leaving all other flags alone.
///
/// # Errors
/// Those of ioctl(2); `ENOTTY` or `EOPNOTSUPP` where the filesystem has no flags.
pub fn set_flags(fd: BorrowedFd<'_>, wanted: u32) -> io::Result<()> {
    // The kernel reads and writes an int, although the request is declared with a long.
    let mut flags: libc::c_int = 0;
    // SAFETY: `flags` is valid and writable for an int.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let new = (flags & !(FLAGS_KEPT as libc::c_int)) | (wanted & FLAGS_KEPT) as libc::c_int;
    if new == flags {
        return Ok(());
    }
    // SAFETY: `new` is valid and readable for an int.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const new) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes `to` share all blocks of `from` (`FICLONE`).
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV` or `EINVAL` where the filesystem cannot.
pub fn clone_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor number.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
