//! /proc without allocation: small files into the caller's buffer, links, a blocked thread's registers.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::path::FixedPath;

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

/// Parents that a responder keeps at hand: shells, init, the session's manager come back with every event. Three
/// descriptors each; with those of subjects and registers, 128 responders stay below 19,000.
const CACHED_PARENTS: usize = 20;
/// Subjects that it keeps at hand: who is refused once tries again. Five descriptors each.
const CACHED_SUBJECTS: usize = 4;

/// A subject whose files in /proc are kept open: opening one costs more than reading most of them.
#[derive(Debug)]
pub struct Subject {
    task: Task,
    status: OwnedFd,
    login_uid: Option<OwnedFd>,
    command_line: OwnedFd,
    cgroup: Option<OwnedFd>,
}

/// Files of a [`Subject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectFile {
    /// `loginuid`; kernels without audit have none.
    LoginUid,
    /// `cmdline`.
    CommandLine,
    /// `cgroup`.
    Cgroup,
}

impl Subject {
    fn open(proc: &Proc, tid: i32) -> io::Result<Self> {
        let task = proc.task(tid)?;
        Ok(Self {
            status: task.open(c"status")?,
            login_uid: task.open(c"loginuid").ok(),
            command_line: task.open(c"cmdline")?,
            cgroup: task.open(c"cgroup").ok(),
            task,
        })
    }

    /// Its directory.
    pub const fn task(&self) -> &Task {
        &self.task
    }

    /// What one of its files says now, as far as it fits; the kernel gives each in one piece.
    ///
    /// # Errors
    /// `ESRCH` when it is gone, `ENOENT` where the kernel has no such file.
    pub fn read(&self, file: SubjectFile, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match file {
            SubjectFile::LoginUid => self.login_uid.as_ref(),
            SubjectFile::CommandLine => Some(&self.command_line),
            SubjectFile::Cgroup => self.cgroup.as_ref(),
        };
        read_at(file.ok_or(io::ErrorKind::NotFound)?.as_fd(), buffer, 0)
    }
}

/// A parent whose files in /proc are kept open. They name the process, not its number.
#[derive(Debug)]
pub struct Parent {
    pid: i32,
    /// Tells this process from others that had the number, for as long as the cache lives.
    serial: u64,
    task: Task,
    comm: OwnedFd,
    exe: OwnedFd,
    /// Its own parent, as `status` said last.
    ppid: i32,
    /// The entry that was alive under the number `ppid` then; 0: not looked for yet.
    serial_above: u64,
    /// When it was asked for last, counted in questions.
    asked: u64,
}

/// `/proc/<pid>/status` up to the parent's number is below 300 bytes.
const STATUS_BYTES: usize = 512;

impl Parent {
    fn open(proc: &Proc, pid: i32, serial: u64) -> io::Result<Self> {
        let task = proc.task(pid)?;
        let comm = task.open(c"comm")?;
        let exe = open_at(task.dir.as_raw_fd(), c"exe", libc::O_PATH | libc::O_NOFOLLOW)?;
        let mut parent = Self { pid, serial, task, comm, exe, ppid: 0, serial_above: 0, asked: 0 };
        parent.ppid = parent.look_for_parent()?;
        Ok(parent)
    }

    fn look_for_parent(&self) -> io::Result<i32> {
        let mut buffer = [0; STATUS_BYTES];
        let n = self.task.read_small(c"status", &mut buffer)?;
        let mut lines = buffer[..n].split(|&byte| byte == b'\n');
        let digits = lines.find_map(|line| line.strip_prefix(b"PPid:\t"));
        digits
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The link to its executable, as of now; nothing for a kernel thread and for a process that is ending.
    pub fn exe(&self, buffer: &mut [u8]) -> usize {
        link_at(self.exe.as_raw_fd(), c"", buffer).unwrap_or(0)
    }
}

/// Processes seen lately, by number.
#[derive(Debug)]
pub struct TaskCache {
    parents: [Option<Parent>; CACHED_PARENTS],
    subjects: [Option<(i32, Subject)>; CACHED_SUBJECTS],
    asked: u64,
}

impl Default for TaskCache {
    fn default() -> Self {
        Self { parents: std::array::from_fn(|_| None), subjects: std::array::from_fn(|_| None), asked: 0 }
    }
}

impl TaskCache {
    /// The living thread `tid`, with its status read into `buffer`.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when there is none.
    pub fn subject(&mut self, proc: &Proc, tid: i32, buffer: &mut [u8]) -> io::Result<(&Subject, usize)> {
        let entry = &mut self.subjects[tid as usize % CACHED_SUBJECTS];
        let read = match entry {
            // A dead task answers ESRCH, so a number that was given to another thread is never mistaken.
            Some((of, known)) if *of == tid => read_at(known.status.as_fd(), buffer, 0).unwrap_or(0),
            _ => 0,
        };
        if read > 0
            && let Some((_, known)) = entry
        {
            return Ok((known, read));
        }
        let (_, known) = entry.insert((tid, Subject::open(proc, tid)?));
        let read = read_at(known.status.as_fd(), buffer, 0)?;
        Ok((known, read))
    }

    /// The living process `pid`, with its name read into `comm`.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when there is none.
    pub fn parent(&mut self, proc: &Proc, pid: i32, comm: &mut [u8]) -> io::Result<(&Parent, usize)> {
        self.asked += 1;
        let asked = self.asked;
        let place = self.place_of(pid);
        let entry = &mut self.parents[place];
        let read = match entry {
            Some(known) if known.pid == pid => read_at(known.comm.as_fd(), comm, 0).unwrap_or(0),
            _ => 0,
        };
        if read > 0
            && let Some(known) = entry
        {
            known.asked = asked;
            return Ok((known, read));
        }
        // The number of a question serves as a serial: no two processes are opened for one question.
        let known = entry.insert(Parent::open(proc, pid, asked)?);
        known.asked = asked;
        let read = read_at(known.comm.as_fd(), comm, 0)?;
        Ok((known, read))
    }

    /// Where `pid` is, or else where it may go: the entry that was not asked for the longest. Hashing numbers to
    /// places instead let the parents of one subject drive each other out.
    fn place_of(&self, pid: i32) -> usize {
        let known =
            self.parents.iter().position(|entry| entry.as_ref().is_some_and(|known| known.pid == pid));
        let oldest =
            || (0..CACHED_PARENTS).min_by_key(|&at| self.parents[at].as_ref().map_or(0, |k| k.asked));
        known.or_else(oldest).unwrap_or(0)
    }

    /// The number that `pid`, which [`TaskCache::parent`] has just given, had for its parent when last looked.
    pub fn guess_of_grandparent(&self, pid: i32) -> i32 {
        self.known(pid).map_or(0, |known| known.ppid)
    }

    /// The parent of `child`, whose guess was `guess`, which [`TaskCache::parent`] has just given.
    ///
    /// A process gets another parent only when its parent ends. So a guess that holds for a process that `is_running`
    /// (that is not ending, seen after its entry was found alive) still holds, and `status`, which costs as much as
    /// all else that is read of a parent together, need not be read again.
    pub fn parent_of(&mut self, proc: &Proc, child: i32, guess: i32, is_running: bool) -> i32 {
        let serial = self.known(guess).map_or(0, |known| known.serial);
        match self.parents.iter_mut().flatten().find(|known| known.pid == child) {
            Some(known) => {
                if serial == 0 || known.serial_above != serial || !is_running {
                    known.ppid = known.look_for_parent().unwrap_or(0);
                    known.serial_above = if known.ppid == guess { serial } else { 0 };
                }
                known.ppid
            }
            // There are more parents than places.
            None => Parent::open(proc, child, 0).map_or(0, |known| known.ppid),
        }
    }

    fn known(&self, pid: i32) -> Option<&Parent> {
        self.parents.iter().flatten().find(|known| known.pid == pid)
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

/// The longest line of `/proc/<tid>/syscall`: nine 64-bit numbers in hexadecimal.
pub const SYSCALL_LINE_BYTES: usize = 192;

/// How many threads' registers a responder keeps at hand. A descriptor each, so 128 responders stay below
/// 9,000 descriptors.
const CACHED_THREADS: usize = 64;

/// Descriptors of `/proc/<tid>/syscall`, one per recently seen thread: reading one that is open costs a third
/// of opening it anew.
#[derive(Debug)]
pub struct RegisterCache {
    entries: [(i32, Option<OwnedFd>); CACHED_THREADS],
    /// The last one that had to make room. To close it, most likely the last trace of a dead thread, takes as long as
    /// to open one, and the opener need not wait for that.
    replaced: Option<OwnedFd>,
}

impl Default for RegisterCache {
    fn default() -> Self {
        Self { entries: std::array::from_fn(|_| (0, None)), replaced: None }
    }
}

impl RegisterCache {
    /// Closes what had to make room.
    pub fn close_replaced(&mut self) {
        self.replaced = None;
    }

    /// Reads the line of `tid` into `line`; how many bytes there are.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when the thread is gone, `EPERM` without the right to look.
    pub fn read(&mut self, proc: &Proc, tid: i32, line: &mut [u8; SYSCALL_LINE_BYTES]) -> io::Result<usize> {
        let entry = &mut self.entries[tid as usize % CACHED_THREADS];
        if entry.0 == tid
            && let Some(file) = &entry.1
        {
            // A dead task answers ESRCH, so a number that was given to another thread is never mistaken.
            if let Ok(n) = read_at(file.as_fd(), line, 0)
                && n > 0
            {
                return Ok(n);
            }
        }
        entry.0 = 0;
        self.replaced = entry.1.take();
        let file = proc.open_file(tid, "syscall")?;
        let n = read_at(file.as_fd(), line, 0)?;
        *entry = (tid, Some(file));
        Ok(n)
    }
}

/// How a thread has spent its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// On a CPU, nanoseconds.
    pub ran_ns: u64,
    /// Ready to run, until it got a CPU, nanoseconds.
    pub waited_ns: u64,
    /// It is on a CPU now or waits for one; that time is not counted yet.
    pub wants_cpu: bool,
}

impl ThreadTime {
    /// Of thread `tid`; waits for nothing that another process can hold.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when it is gone; `Unsupported` where the kernel does not count.
    pub fn of(proc: &Proc, tid: i32) -> io::Result<Self> {
        /// More than the three numbers of `schedstat`, and more than `stat` has up to the state.
        const BYTES: usize = 96;
        let mut text = [0; BYTES];
        let task = proc.task(tid)?;
        let n = task.read_small(c"stat", &mut text)?;
        // The name is in parentheses and may hold some itself.
        let wants_cpu =
            text[..n].rsplit(|&byte| byte == b')').next().is_some_and(|rest| rest.starts_with(b" R"));
        let n = task.read_small(c"schedstat", &mut text)?;
        let line = std::str::from_utf8(&text[..n]).unwrap_or_default();
        let mut numbers = line.split_ascii_whitespace().map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            // All zeros from a kernel that could count and does not.
            (Some(ran_ns @ 1..), Some(waited_ns)) => Ok(Self { ran_ns, waited_ns, wants_cpu }),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
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
