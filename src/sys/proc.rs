//! /proc without allocation: small files into the caller's buffer, links, a blocked thread's registers.

mod registers;
mod tasks;
mod time;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::path::FixedPath;

pub use registers::{RegisterCache, SYSCALL_LINE_BYTES};
pub use tasks::{Subject, SubjectFile, TaskCache};
pub use time::{ThreadTime, threads_of};

/// Two directories of /proc, kept open: looking up below them is cheaper than from the root, and a later mount
/// over /proc does not mislead us.
#[derive(Debug)]
pub struct Proc {
    root: OwnedFd,
    own_descriptors: OwnedFd,
}

fn open_at(dir: i32, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated and no file is created, so no mode is read.
    let fd = unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn link_at(dir: i32, path: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `path` is NUL-terminated, `buffer` valid and writable for its length.
    let n = unsafe { libc::readlinkat(dir, path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

fn read_at(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: i64) -> io::Result<usize> {
    // SAFETY: `buffer` is valid and writable for its length.
    let n = unsafe { libc::pread(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), offset) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// A path such as `1234/syscall`, short enough for the stack.
struct Entry {
    bytes: [u8; 40],
}

impl Entry {
    fn new(id: i32, name: &str) -> Self {
        use std::io::Write as _;
        let mut entry = Self { bytes: [0; 40] };
        // Names are ours and at most 12 bytes; the array is longer than any of them with any number.
        let _ = write!(&mut entry.bytes[..39], "{id}/{name}");
        entry
    }

    fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Proc {
    /// Opens them; call it in the process whose descriptors are to be looked at.
    ///
    /// # Errors
    /// Those of open(2): /proc is not mounted.
    pub fn open() -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        Ok(Self {
            root: open_at(libc::AT_FDCWD, c"/proc", flags)?,
            own_descriptors: open_at(libc::AT_FDCWD, c"/proc/self/fd", flags)?,
        })
    }

    /// The path by which `fd` was reached, as seen from here.
    ///
    /// # Errors
    /// `ENAMETOOLONG` for a path of 4,096 bytes or more.
    pub fn path_of(&self, fd: BorrowedFd<'_>, path: &mut FixedPath) -> io::Result<()> {
        let mut name = FixedNumber::new(fd.as_raw_fd());
        let n = link_at(self.own_descriptors.as_raw_fd(), name.as_cstr(), path.room())?;
        path.filled(n);
        Ok(())
    }

    /// The directory of a process or thread. It names the task, not the number: once the task is dead, look-ups
    /// below it fail with `ESRCH` or `ENOENT`, whoever gets the number next.
    ///
    /// # Errors
    /// `ENOENT` when it is gone.
    pub fn task(&self, id: i32) -> io::Result<Task> {
        let entry = Entry::new(id, "");
        let dir = open_at(self.root.as_raw_fd(), entry.as_cstr(), libc::O_PATH | libc::O_DIRECTORY)?;
        Ok(Task { dir })
    }

    /// Opens `/proc/<id>/<name>` for reading.
    ///
    /// # Errors
    /// `ENOENT` when the task is gone, `EACCES` without the right to look.
    pub fn open_file(&self, id: i32, name: &str) -> io::Result<OwnedFd> {
        open_at(self.root.as_raw_fd(), Entry::new(id, name).as_cstr(), libc::O_RDONLY)
    }
}

/// One descriptor number as text.
struct FixedNumber {
    bytes: [u8; 12],
}

impl FixedNumber {
    fn new(number: i32) -> Self {
        use std::io::Write as _;
        let mut text = Self { bytes: [0; 12] };
        let _ = write!(&mut text.bytes[..11], "{number}");
        text
    }

    fn as_cstr(&mut self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// A process or thread in /proc.
#[derive(Debug)]
pub struct Task {
    dir: OwnedFd,
}

impl Task {
    /// Reads as much of the file `name` as fits `buffer`.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` when the task is gone.
    pub fn read(&self, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.open(name)?;
        let mut filled = 0;
        while filled < buffer.len() {
            let n = read_at(file.as_fd(), &mut buffer[filled..], filled as i64)?;
            if n == 0 {
                break;
            }
            filled += n;
        }
        Ok(filled)
    }

    /// Reads a file of at most one page that the kernel gives in one piece.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` when the task is gone.
    pub fn read_small(&self, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
        read_at(self.open(name)?.as_fd(), buffer, 0)
    }

    /// Opens the file `name` for reading.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` when the task is gone.
    pub fn open(&self, name: &CStr) -> io::Result<OwnedFd> {
        open_at(self.dir.as_raw_fd(), name, libc::O_RDONLY)
    }

    /// Reads the link `name`.
    ///
    /// # Errors
    /// `ENOENT` for kernel threads and dead tasks.
    pub fn link(&self, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
        link_at(self.dir.as_raw_fd(), name, buffer)
    }

    /// The directory's descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Reads from `file` at its position until `buffer` is full or the file ends.
///
/// # Errors
/// Those of read(2).
pub fn read_next(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid and writable for its length.
    let n = unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// The size of a page of memory.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf(3) takes an integer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// `/proc/<pid>/pagemap`: the bit that says that a page is in memory (Documentation/admin-guide/mm/pagemap.rst).
const PAGE_PRESENT: u64 = 1 << 63;

/// Copies the 8 bytes at `address` of the process that thread `tid` belongs to, if their page is in memory.
///
/// A page that is not would have to be fetched, and its owner can see to it that this never ends (userfaultfd, FUSE).
/// What the kernel has just read itself is there, unless somebody took it away on purpose.
///
/// # Errors
/// `EFAULT` when it is not there or crosses into another page; `ESRCH`, `EPERM` (`process_vm_readv(2)`).
pub fn read_resident_word(proc: &Proc, tid: i32, address: u64) -> io::Result<u64> {
    const WORD: usize = size_of::<u64>();
    let away = || io::Error::from_raw_os_error(libc::EFAULT);
    let page = page_bytes();
    if address % page > page - WORD as u64 {
        return Err(away());
    }
    let pagemap = proc.open_file(tid, "pagemap")?;
    let mut entry = [0u8; WORD];
    let offset = i64::try_from(address / page * WORD as u64).map_err(|_| away())?;
    if read_at(pagemap.as_fd(), &mut entry, offset)? < WORD || u64::from_ne_bytes(entry) & PAGE_PRESENT == 0 {
        return Err(away());
    }
    let mut bytes = [0u8; WORD];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: WORD };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: WORD };
    // SAFETY: `local` describes `bytes`; `remote` is only an address for the kernel to look up elsewhere.
    let n = unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(n) {
        Ok(WORD) => Ok(u64::from_ne_bytes(bytes)),
        Ok(_) => Err(away()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
