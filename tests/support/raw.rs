//! System calls as an attacker makes them, without the C library's ideas in between.

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use io_uring::{IoUring, opcode, squeue, types};

/// `struct open_how` (openat2(2)).
#[repr(C)]
#[derive(Debug, Default)]
pub struct OpenHow {
    pub flags: u64,
    pub mode: u64,
    pub resolve: u64,
}

/// A path as the kernel wants it.
pub fn cstr(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

fn owned(result: c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

#[cfg(target_arch = "x86_64")]
pub fn open(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = cstr(path);
    // SAFETY: open(2) reads a NUL-terminated path.
    owned(unsafe { libc::syscall(libc::SYS_open, path.as_ptr(), flags, 0o644) })
}

#[cfg(target_arch = "x86_64")]
pub fn creat(path: &Path) -> io::Result<OwnedFd> {
    let path = cstr(path);
    // SAFETY: creat(2) reads a NUL-terminated path.
    owned(unsafe { libc::syscall(libc::SYS_creat, path.as_ptr(), 0o644) })
}

pub fn openat(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = cstr(path);
    // SAFETY: openat(2) reads a NUL-terminated path.
    owned(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644) })
}

/// Has thread `tid` run only when nobody else wants its CPU.
pub fn run_when_idle(tid: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is valid for the call (sched_setscheduler(2)).
    let result = unsafe { libc::sched_setscheduler(tid, libc::SCHED_IDLE, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// openat2(2) with an argument that others may be changing.
pub fn openat2_at(path: &Path, how: *const OpenHow) -> io::Result<OwnedFd> {
    let path = cstr(path);
    // SAFETY: openat2(2) reads a path and a struct of the size given; a bad address is EFAULT.
    owned(unsafe {
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how, size_of::<OpenHow>())
    })
}

pub fn openat2(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let mode = if flags & libc::O_CREAT != 0 { 0o644 } else { 0 };
    openat2_at(path, &OpenHow { flags: flags as u64, mode, resolve: 0 })
}

/// By file handle, through the directory that it lies in.
pub fn open_by_handle(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let directory = openat(path.parent().expect("a directory"), libc::O_RDONLY | libc::O_DIRECTORY)?;
    let name = cstr(path);
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0;
    // SAFETY: name_to_handle_at(2) fills a handle of the size that it says, and an integer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle that the kernel has filled.
    owned(unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, directory.as_raw_fd(), &raw const handle, flags)
    })
}

/// Through another descriptor's link in /proc.
pub fn reopen(path: &Path, first: i32, flags: i32) -> io::Result<OwnedFd> {
    let held = openat(path, first)?;
    openat(Path::new(&format!("/proc/thread-self/fd/{}", held.as_raw_fd())), flags)
}

/// A call of the 32-bit table that takes a path and two integers, from a 64-bit process.
#[cfg(target_arch = "x86_64")]
fn call_i386(number: i64, path: &Path, second: i64, third: i64) -> io::Result<i32> {
    let name = cstr(path);
    let name = name.as_bytes_with_nul();
    assert!(name.len() <= 4096);
    // SAFETY: a page of our own, where 32-bit addresses reach it.
    let low = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            -1,
            0,
        )
    };
    assert!(low != libc::MAP_FAILED, "no memory below 4 GiB");
    // SAFETY: the page is ours and large enough.
    unsafe { low.cast::<u8>().copy_from_nonoverlapping(name.as_ptr(), name.len()) };
    let result: i64;
    // SAFETY: the call reads the path; rbx is the compiler's, so it is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {path}",
            "int 0x80",
            "xchg rbx, {path}",
            path = inout(reg) low => _,
            inout("rax") number => result,
            in("rcx") second,
            in("rdx") third,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        libc::munmap(low, 4096);
    }
    let result = result as i32;
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// unlink(2) of the 32-bit table.
#[cfg(target_arch = "x86_64")]
pub fn unlink_i386(path: &Path) -> io::Result<()> {
    call_i386(10, path, 0, 0).map(drop)
}

#[cfg(target_arch = "x86_64")]
pub fn open_i386(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    owned(call_i386(5, path, i64::from(flags), 0o644)?.into())
}

/// truncate(2) of the 32-bit table.
#[cfg(target_arch = "x86_64")]
pub fn truncate_i386(path: &Path, length: i64) -> io::Result<()> {
    call_i386(92, path, length, 0).map(drop)
}

/// truncate64(2) of the 32-bit table: the length in two halves.
#[cfg(target_arch = "x86_64")]
pub fn truncate64_i386(path: &Path, length: i64) -> io::Result<()> {
    call_i386(193, path, length & 0xffff_ffff, length >> 32).map(drop)
}

pub fn truncate(path: &Path, length: i64) -> io::Result<()> {
    let path = cstr(path);
    // SAFETY: truncate(2) reads a NUL-terminated path.
    match unsafe { libc::truncate(path.as_ptr(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `openat` of `io_uring`, in the caller's context or, with `IOSQE_ASYNC`, in a worker thread of the kernel.
pub fn open_uring(path: &Path, flags: i32, submission: squeue::Flags) -> io::Result<OwnedFd> {
    let path = cstr(path);
    let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).flags(flags).mode(0o644).build();
    owned(submit(&open.flags(submission))?.into())
}

/// Has `io_uring` do one thing.
pub fn submit(entry: &squeue::Entry) -> io::Result<i32> {
    let mut ring = IoUring::new(4)?;
    // SAFETY: what the entry points to lives until the completion has been waited for.
    unsafe { ring.submission().push(entry) }.expect("room for one entry");
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().expect("one completion").result();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// ftruncate of `io_uring`, which a worker thread of the kernel does.
pub fn ftruncate_uring(file: &std::fs::File, length: u64) -> io::Result<()> {
    submit(&opcode::Ftruncate::new(types::Fd(file.as_raw_fd()), length).build()).map(drop)
}

/// A read of `io_uring`.
pub fn read_uring(file: &std::fs::File, buffer: &mut [u8], submission: squeue::Flags) -> io::Result<usize> {
    let length = buffer.len() as u32;
    let read = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), length).build();
    submit(&read.flags(submission)).map(|n| n as usize)
}

/// Takes, changes or gives up a lease on an open file.
pub fn set_lease(file: &std::fs::File, kind: i32) -> io::Result<()> {
    // SAFETY: fcntl(2) with integers.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Changes an open file's status flags: `O_APPEND` can be cleared.
pub fn set_status_flags(file: &std::fs::File, flags: i32) -> io::Result<()> {
    // SAFETY: fcntl(2) with integers.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) }.into())
}

fn done(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// So many bytes are moved by the calls that copy inside the kernel.
const MOVED: usize = 4;

/// `copy_file_range(2)`.
pub fn copy_range(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (openat(from, libc::O_RDONLY)?, openat(to, libc::O_WRONLY)?);
    let none = std::ptr::null_mut();
    // SAFETY: descriptors, no offsets.
    done(unsafe { libc::copy_file_range(from.as_raw_fd(), none, to.as_raw_fd(), none, MOVED, 0) } as c_long)
}

/// sendfile(2).
pub fn send_file(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (openat(from, libc::O_RDONLY)?, openat(to, libc::O_WRONLY)?);
    // SAFETY: descriptors, no offset.
    done(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), MOVED) } as c_long)
}

/// splice(2) out of a pipe.
pub fn splice_into(bytes: &[u8], to: &Path) -> io::Result<()> {
    let (read, write) = nix::unistd::pipe()?;
    nix::unistd::write(&write, bytes)?;
    let to = openat(to, libc::O_WRONLY)?;
    let none = std::ptr::null_mut();
    // SAFETY: descriptors, no offsets.
    done(unsafe { libc::splice(read.as_raw_fd(), none, to.as_raw_fd(), none, bytes.len(), 0) } as c_long)
}

/// linkat(2) of an open file by its descriptor's name in /proc.
pub fn link_descriptor(file: &std::fs::File, path: &Path) -> io::Result<()> {
    let (from, to) = (cstr(Path::new(&format!("/proc/thread-self/fd/{}", file.as_raw_fd()))), cstr(path));
    let here = libc::AT_FDCWD;
    // SAFETY: linkat(2) reads two NUL-terminated paths.
    done(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) }.into())
}

/// `chmod` by fchmodat2(2), which needs no descriptor and has no older name.
pub fn fchmodat2(path: &Path, mode: u32) -> io::Result<()> {
    let path = cstr(path);
    // SAFETY: a NUL-terminated path and integers.
    done(unsafe { libc::syscall(libc::SYS_fchmodat2, libc::AT_FDCWD, path.as_ptr(), mode, 0) })
}

/// A mount that stands nowhere, of what is at `path`.
pub fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = cstr(path);
    // SAFETY: a NUL-terminated path and integers.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), libc::OPEN_TREE_CLONE) })
}

/// Mounts what [`open_tree`] gave.
pub fn move_mount(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    let (fd, path) = (tree.as_raw_fd(), cstr(path));
    let (from, here, flags) = (c"", libc::AT_FDCWD, libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: two NUL-terminated paths, descriptors and flags.
    done(unsafe { libc::syscall(libc::SYS_move_mount, fd, from.as_ptr(), here, path.as_ptr(), flags) })
}

/// The number of what is at a path, if something is.
pub fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}
