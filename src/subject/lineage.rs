//! Who a short-lived process was, after it is gone.
//!
//! A maintainer script's `rm` may have ended before the notification of what it did is read. Two things are known
//! by then: which processes the gate (or the watch) has verified while they lived, and, from the kernel's process
//! events, who forked whom. A dead process is what its verified ancestors make it, and without any it is unknown.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::status::Status;
use crate::policy::snapshot::WriterMask;
use crate::sys::connector::{Connector, ProcessEvent};

/// How long after its end a process is remembered, at least; longer as long as notifications wait to be read. What it
/// made may be judged a little later than that (a file that is still being opened).
const REMEMBERED: Duration = Duration::from_secs(3);
/// Verifications that responders may note between two looks of the watcher; more than that are not remembered.
const NOTES_MAX: usize = 4096;
/// The longest chain that is climbed.
const CHAIN_MAX: usize = 48;

/// A thread that was verified.
#[derive(Debug, Clone, Copy)]
struct Note {
    tid: i32,
    writers: WriterMask,
    /// By the monotonic clock, before it was looked at.
    at_ns: u64,
}

/// What responders have verified, for the watcher to take. No allocation: the list is made at its full length.
pub struct Notes {
    list: Mutex<Vec<Note>>,
}

impl Default for Notes {
    fn default() -> Self {
        Self { list: Mutex::new(Vec::with_capacity(NOTES_MAX)) }
    }
}

impl Notes {
    /// The thread `tid` has been verified as these writers, by a look that began at `at_ns` of the monotonic clock.
    pub fn note(&self, tid: i32, writers: WriterMask, at_ns: u64) {
        let mut list = self.list.lock();
        if list.last().is_some_and(|last| last.tid == tid && last.writers == writers) {
            list.pop();
        }
        if list.len() < NOTES_MAX {
            list.push(Note { tid, writers, at_ns });
        }
    }

    fn take(&self, into: &mut Vec<Note>) {
        into.clear();
        let mut list = self.list.lock();
        into.extend_from_slice(&list);
        list.clear();
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    parent: i32,
    verified: WriterMask,
    /// When it was verified last, and when it last began to run another program; by the monotonic clock.
    verified_ns: u64,
    executed_ns: u64,
    /// `None` while it lives, or where the kernel sends no process events.
    ended: Option<Instant>,
}

impl Known {
    const fn child_of(parent: i32) -> Self {
        Self { parent, verified: WriterMask::NONE, verified_ns: 0, executed_ns: 0, ended: None }
    }
}

/// The watcher's memory of processes.
pub struct Lineage {
    connector: Option<Connector>,
    processes: HashMap<i32, Known>,
    /// Threads that are not their process's first.
    threads: HashMap<i32, i32>,
    taken: Vec<Note>,
    last_purge: Instant,
}

impl Lineage {
    /// Subscribes to process events where the kernel lets us.
    pub fn listen() -> Self {
        let connector = Connector::listen()
            .inspect_err(|error| {
                tracing::info!(%error, "no process events: changes by processes that end at once count as unknown");
            })
            .ok();
        let mut lineage = Self {
            connector,
            processes: HashMap::new(),
            threads: HashMap::new(),
            taken: Vec::with_capacity(NOTES_MAX),
            last_purge: Instant::now(),
        };
        lineage.take_census();
        lineage
    }

    /// Takes down whose children live now: of forks that were before, no event tells.
    fn take_census(&mut self) {
        if self.connector.is_none() {
            return;
        }
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        for entry in processes.flatten() {
            if let Some(tgid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && let Ok(text) = std::fs::read(entry.path().join("status"))
            {
                let parent = Status::parse(&text).ppid;
                self.processes.insert(tgid, Known::child_of(parent));
            }
        }
    }

    /// Takes in what has happened; before every batch of notifications.
    pub fn catch_up(&mut self, notes: &Notes) {
        // The fork and the exec of whoever is noted were told of before he was verified, so they are read after that.
        notes.take(&mut self.taken);
        self.take_events();
        for note in std::mem::take(&mut self.taken) {
            self.verified(note.tid, note.writers, note.at_ns);
        }
    }

    /// Forgets who ended long ago. Only for when no notification waits: it may be of one of them.
    pub fn forget_the_dead(&mut self) {
        if self.last_purge.elapsed() > REMEMBERED {
            self.last_purge = Instant::now();
            self.processes.retain(|_, known| known.ended.is_none_or(|at| at.elapsed() < REMEMBERED));
            let Self { processes, threads, .. } = self;
            threads.retain(|_, tgid| processes.contains_key(tgid));
        }
    }

    fn take_events(&mut self) {
        let Some(connector) = &self.connector else { return };
        loop {
            match connector.next() {
                Ok(Some(ProcessEvent::Fork { parent, tid, tgid })) if tid == tgid => {
                    // A new process under an old number is another one.
                    self.processes.insert(tgid, Known::child_of(parent));
                }
                Ok(Some(ProcessEvent::Fork { tid, tgid, .. })) => {
                    self.threads.insert(tid, tgid);
                }
                // What it was verified as, it ran; what its parents are, it stays below.
                Ok(Some(ProcessEvent::Exec { tgid, at_ns })) => {
                    if let Some(known) = self.processes.get_mut(&tgid) {
                        known.executed_ns = at_ns;
                        if known.verified_ns < at_ns {
                            known.verified = WriterMask::NONE;
                        }
                    }
                }
                Ok(Some(ProcessEvent::Exit { tid, tgid })) if tid == tgid => {
                    if let Some(known) = self.processes.get_mut(&tgid) {
                        known.ended = Some(Instant::now());
                    }
                }
                Ok(_) => {}
                // Events were lost: who was forked, and who runs another program now, is unknown.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.processes.values_mut().for_each(|known| known.verified = WriterMask::NONE);
                }
                Err(_) => return,
            }
        }
    }

    /// The process is seen to have ended.
    pub fn ended(&mut self, tgid: i32) {
        let unknown = Known::child_of(0);
        self.processes.entry(tgid).or_insert(unknown).ended.get_or_insert_with(Instant::now);
    }

    /// The process of the thread `tid` has been verified while it lived, by a look that began at `at_ns`.
    pub fn verified(&mut self, tid: i32, writers: WriterMask, at_ns: u64) {
        let tgid = self.threads.get(&tid).copied().unwrap_or(tid);
        let ended = self.connector.is_none().then(Instant::now);
        let known = self.processes.entry(tgid).or_insert(Known { ended, ..Known::child_of(0) });
        // Of a program that it no longer runs this says nothing.
        if at_ns >= known.executed_ns {
            known.verified.0 |= writers.0;
            known.verified_ns = at_ns;
        }
    }

    /// The process of the dead thread `tid`, its parent, and so on up to the first that lives, as far as is known.
    pub fn forebears(&self, tid: i32) -> Vec<i32> {
        let mut chain = vec![self.threads.get(&tid).copied().unwrap_or(tid)];
        while chain.len() < CHAIN_MAX
            && let Some(known) = chain.last().and_then(|pid| self.processes.get(pid))
            && (chain.len() == 1 || known.ended.is_some())
            && known.parent > 0
        {
            chain.push(known.parent);
        }
        chain
    }

    /// What the dead thread `tid` was, and the nearest of its forebears that lives: what that one is counts too.
    /// `heirs` are the writers whose descendants are trusted.
    pub fn recall(&self, tid: i32, heirs: WriterMask) -> (WriterMask, Option<i32>) {
        let mut trusted = WriterMask::NONE;
        for (depth, pid) in self.forebears(tid).into_iter().enumerate() {
            let known = self.processes.get(&pid);
            if depth > 0 && known.is_none_or(|known| known.ended.is_none()) {
                // An orphan's parent says nothing of who made it.
                return (trusted, Some(pid).filter(|&pid| pid > 1));
            }
            let Some(known) = known else { break };
            trusted.0 |= if depth == 0 { known.verified.0 } else { known.verified.0 & heirs.0 };
        }
        (trusted, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_events() -> Lineage {
        Lineage {
            connector: None,
            processes: HashMap::new(),
            threads: HashMap::new(),
            taken: Vec::new(),
            last_purge: Instant::now(),
        }
    }

    #[test]
    fn descendants_inherit_only_where_the_writer_lets_them() {
        let mut lineage = without_events();
        let (packages, accounts) = (WriterMask(1), WriterMask(2));
        lineage.verified(100, WriterMask(3), 1);
        let child = Known { ended: Some(Instant::now()), ..Known::child_of(100) };
        lineage.processes.insert(101, child);
        lineage.processes.insert(102, Known { parent: 101, ..child });
        lineage.threads.insert(1020, 102);
        assert_eq!(lineage.recall(100, packages), (WriterMask(packages.0 | accounts.0), None));
        assert_eq!(lineage.recall(102, packages), (packages, None));
        assert_eq!(lineage.recall(1020, packages), (packages, None));
        assert_eq!(lineage.recall(999, packages), (WriterMask::NONE, None));
        lineage.processes.insert(103, Known { parent: 7, ..child });
        assert_eq!(lineage.recall(103, packages), (WriterMask::NONE, Some(7)));
        lineage.processes.insert(104, Known { parent: 1, ..child });
        assert_eq!(lineage.recall(104, packages), (WriterMask::NONE, None));
        assert_eq!(lineage.forebears(1020), [102, 101, 100]);
        assert_eq!((lineage.forebears(103), lineage.forebears(104)), (vec![103, 7], vec![104, 1]));
        assert_eq!(lineage.forebears(999), [999]);
    }

    #[test]
    fn the_kernel_tells_of_a_child_that_is_gone() {
        let mut lineage = Lineage::listen();
        if lineage.connector.is_none() {
            eprintln!("SKIPPED: process events need CAP_NET_ADMIN and the initial namespaces");
            return;
        }
        let me = std::process::id() as i32;
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = child.id() as i32;
        child.wait().expect("its end");
        lineage.catch_up(&Notes::default());
        assert_eq!(lineage.recall(pid, WriterMask(1)), (WriterMask::NONE, Some(me)));
    }
}
