//! Ways to open and change a file that nix and the standard library have no safe call for: what `demo` attacks
//! with.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// open(2), and not `openat` as everybody's libc does it.
///
/// # Errors
/// Those of open(2).
#[cfg(target_arch = "x86_64")]
pub fn by_open(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated.
    owned(unsafe { libc::syscall(libc::SYS_open, path.as_ptr(), flags, 0o600) })
}

/// creat(2).
///
/// # Errors
/// Those of creat(2).
#[cfg(target_arch = "x86_64")]
pub fn by_creat(path: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated.
    owned(unsafe { libc::syscall(libc::SYS_creat, path.as_ptr(), 0o600) })
}

/// openat2(2).
///
/// # Errors
/// Those of openat2(2).
pub fn by_openat2(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let how = [flags as u64, 0, 0];
    // SAFETY: `path` is NUL-terminated and `how` has the layout and the size of struct open_how.
    owned(unsafe {
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), size_of_val(&how))
    })
}

/// `open_by_handle_at(2)`: no path at all.
///
/// # Errors
/// Those of both calls.
pub fn by_handle(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct RawHandle {
        bytes: u32,
        kind: i32,
        handle: [u8; 128],
    }
    let mut raw = RawHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0i32;
    // SAFETY: `raw` has the layout of struct file_handle with `bytes` of room; `path` is NUL-terminated.
    let named = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut raw,
            &raw mut mount,
            0,
        )
    };
    if named < 0 {
        return Err(io::Error::last_os_error());
    }
    let directory = File::open(std::path::Path::new(std::ffi::OsStr::new("/")))?;
    let place = parent_directory(path).unwrap_or(directory);
    // SAFETY: `raw` was filled by the kernel and is readable.
    owned(unsafe { libc::syscall(libc::SYS_open_by_handle_at, place.as_raw_fd(), &raw const raw, flags) })
}

/// Any directory on the same filesystem will do.
fn parent_directory(path: &CStr) -> Option<File> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    File::open(path.parent()?).ok()
}

/// `open` through the i386 system call table. Ends the process with SIGSEGV where the kernel has none.
///
/// # Errors
/// Those of open(2).
#[cfg(target_arch = "x86_64")]
pub fn by_i386(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    const OPEN: i64 = 5;
    let bytes = path.to_bytes_with_nul();
    // SAFETY: a fresh anonymous mapping; MAP_32BIT because i386 pointers have 32 bits.
    let low = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            -1,
            0,
        )
    };
    if low == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has room for `bytes` and overlaps nothing.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), low.cast::<u8>(), bytes.len()) };
    let mut result = OPEN;
    // SAFETY: int 0x80 takes its arguments in eax, ebx, ecx and edx and clobbers r8 to r11; rbx is the
    // compiler's own, so it is swapped in and back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {path}",
            "int 0x80",
            "xchg rbx, {path}",
            path = inout(reg) low => _,
            inlateout("rax") result,
            in("rcx") i64::from(flags),
            in("rdx") 0o600i64,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    // The result has 32 bits.
    let result = result as i32;
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { owned(i64::from(result)) }
}

/// Opens through `io_uring`: the call that the kernel shows is `io_uring_enter`, which says nothing of flags.
///
/// # Errors
/// Those of open(2), or `ENOSYS`, `EPERM` where there is no `io_uring`.
pub fn by_io_uring(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    const OP_OPENAT: u8 = 18;
    const ENTER_GETEVENTS: u32 = 1;
    const OFFSET_SQES: i64 = 0x1000_0000;
    const FEATURE_SINGLE_MMAP: u32 = 1;
    // struct io_uring_params: ten words, then two sets of offsets (sq_off, cq_off), forty bytes each.
    let mut parameters = [0u32; 30];
    // SAFETY: `parameters` has the size and the alignment of struct io_uring_params.
    let ring = owned(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })?;
    let [sq_entries, cq_entries, _, _, _, features, ..] = parameters;
    if features & FEATURE_SINGLE_MMAP == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let (sq, cq) = (&parameters[10..20], &parameters[20..30]);
    let (sq_tail, sq_array) = (sq[1] as usize, sq[6] as usize);
    let (cq_head, cq_tail, cqes) = (cq[0] as usize, cq[1] as usize, cq[5] as usize);
    let rings =
        Mapped::new(&ring, (sq_array + sq_entries as usize * 4).max(cqes + cq_entries as usize * 16), 0)?;
    let entries = Mapped::new(&ring, sq_entries as usize * 64, OFFSET_SQES)?;
    let mut entry = [0u8; 64];
    entry[0] = OP_OPENAT;
    entry[4..8].copy_from_slice(&libc::AT_FDCWD.to_ne_bytes());
    entry[16..24].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
    entry[24..28].copy_from_slice(&0o600u32.to_ne_bytes());
    entry[28..32].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: offsets come from the kernel and lie within what was mapped with the lengths they imply; nobody
    // else uses this ring, and its indices are accessed atomically as the kernel asks.
    let result = unsafe {
        std::ptr::copy_nonoverlapping(entry.as_ptr(), entries.at::<u8>(0), entry.len());
        rings.at::<u32>(sq_array).write(0);
        (*rings.at::<AtomicU32>(sq_tail)).store(1, Ordering::Release);
        let entered = libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            1,
            1,
            ENTER_GETEVENTS,
            std::ptr::null::<u8>(),
            0,
        );
        if entered < 0 {
            return Err(io::Error::last_os_error());
        }
        let head = (*rings.at::<AtomicU32>(cq_head)).load(Ordering::Acquire);
        if (*rings.at::<AtomicU32>(cq_tail)).load(Ordering::Acquire) == head {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // struct io_uring_cqe: user_data, then the result.
        rings.at::<i32>(cqes + 8).read()
    };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { owned(i64::from(result)) }
}

/// A shared mapping that goes when it is dropped.
struct Mapped {
    start: *mut u8,
    length: usize,
}

impl Mapped {
    fn new(file: &OwnedFd, length: usize, offset: i64) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.length, "beyond the mapping");
        self.start.wrapping_add(offset).cast()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nothing points into it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// Writes `byte` at the start of `file` through a shared mapping.
///
/// # Errors
/// Those of mmap(2).
pub fn write_mapped(file: &OwnedFd, byte: u8) -> io::Result<()> {
    let mapped = Mapped::new(file, 1, 0)?;
    // SAFETY: one byte of a writable mapping; the caller's file has at least that.
    unsafe { mapped.at::<u8>(0).write_volatile(byte) };
    Ok(())
}

/// Sets inode flags as chattr(1) does.
///
/// # Errors
/// Those of `ioctl_iflags(2)`.
pub fn set_inode_flags(file: BorrowedFd<'_>, flags: libc::c_long) -> io::Result<()> {
    // SAFETY: FS_IOC_SETFLAGS reads an int from the pointer; a long in native order starts with it on
    // little-endian machines, and the kernel's own headers declare it as long.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets an extended attribute.
///
/// # Errors
/// Those of setxattr(2).
pub fn set_attribute(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: both names are NUL-terminated and `value` is readable for its length.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
