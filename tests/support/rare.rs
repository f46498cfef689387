//! Calls that few programs make.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use io_uring::{opcode, types};
use libc::c_long;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::raw::{cstr, submit};

fn done(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// linkat(2) of an open file by its descriptor alone.
pub fn link_empty_path(file: &std::fs::File, path: &Path) -> io::Result<()> {
    let path = cstr(path);
    let (from, here) = (c"", libc::AT_FDCWD);
    // SAFETY: linkat(2) reads two NUL-terminated paths.
    done(
        unsafe { libc::linkat(file.as_raw_fd(), from.as_ptr(), here, path.as_ptr(), libc::AT_EMPTY_PATH) }
            .into(),
    )
}

const HERE: types::Fd = types::Fd(libc::AT_FDCWD);

/// unlinkat of `io_uring`.
pub fn unlink_uring(path: &Path) -> io::Result<()> {
    let path = cstr(path);
    submit(&opcode::UnlinkAt::new(HERE, path.as_ptr()).build()).map(drop)
}

/// renameat2 of `io_uring`.
pub fn rename_uring(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (cstr(from), cstr(to));
    submit(&opcode::RenameAt::new(HERE, from.as_ptr(), HERE, to.as_ptr()).build()).map(drop)
}

/// linkat of `io_uring`.
pub fn link_uring(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (cstr(from), cstr(to));
    submit(&opcode::LinkAt::new(HERE, from.as_ptr(), HERE, to.as_ptr()).build()).map(drop)
}

/// symlinkat of `io_uring`.
pub fn symlink_uring(target: &Path, path: &Path) -> io::Result<()> {
    let (target, path) = (cstr(target), cstr(path));
    submit(&opcode::SymlinkAt::new(HERE, target.as_ptr(), path.as_ptr()).build()).map(drop)
}

/// mkdirat of `io_uring`.
pub fn mkdir_uring(path: &Path) -> io::Result<()> {
    let path = cstr(path);
    submit(&opcode::MkDirAt::new(HERE, path.as_ptr()).mode(0o755).build()).map(drop)
}

/// fsetxattr of `io_uring`: a descriptor for reading will do.
pub fn set_attribute_uring(file: &std::fs::File, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    let fd = types::Fd(file.as_raw_fd());
    let set = opcode::FSetXattr::new(fd, name.as_ptr(), value.as_ptr().cast(), value.len() as u32);
    submit(&set.build()).map(drop)
}

/// `struct file_attr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FileAttributes {
    flags: u64,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
}

/// `FS_XFLAG_IMMUTABLE` of linux/fs.h.
const XFLAG_IMMUTABLE: u64 = 0x8;
const SYS_FILE_SETATTR: c_long = 469;

/// `chattr +i` by `file_setattr(2)`, which opens nothing. Since Linux 6.17.
pub fn make_immutable(path: &Path) -> io::Result<()> {
    let path = cstr(path);
    let wanted = FileAttributes { flags: XFLAG_IMMUTABLE, ..FileAttributes::default() };
    // SAFETY: a NUL-terminated path and a struct of the size given.
    done(unsafe {
        libc::syscall(
            SYS_FILE_SETATTR,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw const wanted,
            size_of::<FileAttributes>(),
            0,
        )
    })
}

/// Whether the kernel has [`make_immutable`].
pub fn has_file_setattr() -> bool {
    make_immutable(Path::new("")).is_err_and(|error| error.raw_os_error() != Some(libc::ENOSYS))
}

/// Sets flags of chattr(1) beside those that are there, any of them.
pub fn add_flags(path: &Path, added: u32) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    let mut flags: libc::c_int = 0;
    // SAFETY: `flags` is valid and writable for an int.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) }.into())?;
    flags |= added as libc::c_int;
    // SAFETY: `flags` is valid and readable for an int.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) }.into())
}

/// swapon(2).
pub fn swap_on(path: &Path) -> io::Result<()> {
    let path = cstr(path);
    // SAFETY: a NUL-terminated path.
    done(unsafe { libc::swapon(path.as_ptr(), 0) }.into())
}

/// A page of a file, mapped for reading.
pub struct Mapping(*mut libc::c_void);

const PAGE: usize = 4096;

impl Mapping {
    pub fn of(file: &std::fs::File) -> io::Result<Self> {
        let (any, flags) = (std::ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: a new mapping, where the kernel wants it.
        let at = unsafe { libc::mmap(any, PAGE, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(at)) }
    }

    /// Its name in /proc.
    pub fn proc_path(&self) -> PathBuf {
        let from = self.0 as usize;
        format!("/proc/self/map_files/{from:x}-{:x}", from + PAGE).into()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody looks into it.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}

/// `struct move_extent` of ext4.
#[repr(C)]
struct MoveExtent {
    reserved: u32,
    donor: u32,
    start: u64,
    donor_start: u64,
    blocks: u64,
    moved: u64,
}

/// `_IOWR('f', 15, struct move_extent)`.
const EXT4_IOC_MOVE_EXT: libc::Ioctl = 0xc028_660f;
/// `_IO('f', 17)`.
const EXT4_IOC_SWAP_BOOT: libc::Ioctl = 0x6611;

/// Exchanges the first block of two open files, as a defragmenter does.
pub fn move_extent(file: &OwnedFd, donor: &OwnedFd) -> io::Result<()> {
    let donor = donor.as_raw_fd() as u32;
    let mut wanted = MoveExtent { reserved: 0, donor, start: 0, donor_start: 0, blocks: 1, moved: 0 };
    // SAFETY: the struct that this request reads and writes.
    done(unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_MOVE_EXT, &raw mut wanted) }.into())
}

/// Exchanges an open file with the boot loader's inode.
pub fn swap_boot(file: &OwnedFd) -> io::Result<()> {
    // SAFETY: no argument.
    done(unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_SWAP_BOOT) }.into())
}

/// A filesystem that never answers: whoever asks it for anything waits until this is dropped.
pub struct DeadFuse {
    device: Option<File>,
    target: PathBuf,
}

impl DeadFuse {
    /// Mounts one of this owner; `None` where the kernel has no FUSE.
    pub fn mount(target: &Path, owner: u32) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id={owner},group_id=0", device.as_raw_fd());
        let flags = MsFlags::empty();
        mount(Some("never"), target, Some("fuse"), flags, Some(options.as_str())).expect("a mount of FUSE");
        Some(Self { device: Some(device), target: target.to_owned() })
    }
}

impl Drop for DeadFuse {
    fn drop(&mut self) {
        // First the device: whoever waits is told that nobody answers any more.
        self.device = None;
        let _ = umount2(&self.target, MntFlags::MNT_DETACH);
    }
}
