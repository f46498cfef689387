//! Files of subjects and their parents, kept open, found by number and replaced by age.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{Proc, Task, link_at, open_at, read_at};

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
