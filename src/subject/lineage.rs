//! Who a short-lived process was, after it is gone.
//!
//! A maintainer script's `rm` may have ended before the notification of what it did is read. Two things are known
//! by then: which processes the gate (or the watch) has verified while they lived, and, from the kernel's process
//! events, who forked whom. A dead process is what its verified ancestors make it, and without any it is unknown.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::notes::{Finding, NOTES_MAX, Note, Notes};
use super::status::Status;
use crate::policy::snapshot::WriterMask;
use crate::sys::clock;
use crate::sys::connector::{Connector, ProcessEvent};

/// How long after its end a process is remembered, at least; longer as long as notifications wait to be read. What it
/// made may be judged a little later than that (a file that is still being opened).
const REMEMBERED: Duration = Duration::from_secs(3);
/// The longest chain that is climbed.
const CHAIN_MAX: usize = 48;

/// What is known of when something was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Where in the stream of notifications, see [`crate::gate::Stream`].
    pub position: u64,
    /// It was after this time of the monotonic clock, nanoseconds: then nothing was waiting to be read.
    pub after_ns: u64,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self { position: u64::MAX, after_ns: u64::MAX }
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    parent: i32,
    verified: WriterMask,
    /// When it was forked, verified last, and last began to run another program; by the monotonic clock, 0: before all
    /// that is known.
    forked_ns: u64,
    verified_ns: u64,
    executed_ns: u64,
    /// When it was last about to execute a writer's program, and from where on in the stream it has.
    starting_ns: u64,
    started: Option<u64>,
    /// `None` while it lives, or where the kernel sends no process events.
    ended: Option<Instant>,
}

impl Known {
    const fn child_of(parent: i32, forked_ns: u64) -> Self {
        Self {
            parent,
            verified: WriterMask::NONE,
            forked_ns,
            verified_ns: 0,
            executed_ns: 0,
            starting_ns: 0,
            started: None,
            ended: None,
        }
    }

    /// Whether it ran what it runs now, or ran last, when that was reported.
    fn ran_it(&self, when: Moment) -> bool {
        let by_position = self.started.is_some_and(|started| when.position >= started);
        self.executed_ns <= when.after_ns || by_position && self.starting_ns <= self.executed_ns
    }
}

/// A thread that is not its process's first.
#[derive(Debug, Clone, Copy)]
struct Thread {
    tgid: i32,
    ended: Option<Instant>,
}

/// The watcher's memory of processes.
pub struct Lineage {
    connector: Option<Connector>,
    processes: HashMap<i32, Known>,
    threads: HashMap<i32, Thread>,
    taken: Vec<Note>,
    last_purge: Instant,
}

impl Lineage {
    /// Knows who lives now, and what the events tell, where there are any.
    pub fn new(connector: Option<Connector>) -> Self {
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
                self.processes.insert(tgid, Known::child_of(parent, 0));
            }
        }
    }

    /// Takes in what has happened; before every batch of notifications.
    pub fn catch_up(&mut self, notes: &Notes) {
        // The fork and the exec of whoever is noted were told of before he was verified, so they are read after that.
        if notes.take(&mut self.taken) {
            self.processes.values_mut().for_each(|known| known.started = None);
        }
        self.take_events();
        let mut taken = std::mem::take(&mut self.taken);
        for Note { tid, finding, at_ns } in taken.drain(..) {
            match finding {
                Finding::Writers(writers) => self.verified(tid, writers, at_ns),
                Finding::Starts(position) => {
                    if let Some(known) = self.processes.get_mut(&self.process_of(tid)) {
                        (known.starting_ns, known.started) = (at_ns, position);
                    }
                }
            }
        }
        self.taken = taken;
    }

    fn process_of(&self, tid: i32) -> i32 {
        self.threads.get(&tid).map_or(tid, |thread| thread.tgid)
    }

    /// Forgets who ended long ago. Only for when no notification waits: it may be of one of them.
    pub fn forget_the_dead(&mut self) {
        if self.last_purge.elapsed() > REMEMBERED {
            self.last_purge = Instant::now();
            self.processes.retain(|_, known| known.ended.is_none_or(|at| at.elapsed() < REMEMBERED));
            let Self { processes, threads, .. } = self;
            threads.retain(|_, thread| {
                processes.contains_key(&thread.tgid)
                    && thread.ended.is_none_or(|at| at.elapsed() < REMEMBERED)
            });
        }
    }

    fn take_events(&mut self) {
        while let Some(connector) = &self.connector {
            match connector.next() {
                Ok(event) => event.into_iter().for_each(|event| self.take(event)),
                // Events were lost: who was forked, and who runs another program now, is unknown.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    let now = clock::monotonic_ns();
                    self.processes.values_mut().for_each(|known| {
                        (known.verified, known.executed_ns) = (WriterMask::NONE, now);
                    });
                }
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Fork { parent, tid, tgid, at_ns } if tid == tgid => {
                // Whatever had the number before was another one.
                self.threads.remove(&tgid);
                self.processes.insert(tgid, Known::child_of(parent, at_ns));
            }
            ProcessEvent::Fork { tid, tgid, .. } => {
                self.threads.insert(tid, Thread { tgid, ended: None });
            }
            // What it was verified as, it ran; what its parents are, it stays below.
            ProcessEvent::Exec { tgid, at_ns } => {
                if let Some(known) = self.processes.get_mut(&tgid) {
                    known.executed_ns = at_ns;
                    if known.verified_ns < at_ns {
                        known.verified = WriterMask::NONE;
                    }
                }
            }
            ProcessEvent::Exit { tid, tgid } if tid == tgid => {
                if let Some(known) = self.processes.get_mut(&tgid) {
                    known.ended = Some(Instant::now());
                }
            }
            ProcessEvent::Exit { tid, .. } => {
                if let Some(thread) = self.threads.get_mut(&tid) {
                    thread.ended = Some(Instant::now());
                }
            }
        }
    }

    /// The process is seen to have ended.
    pub fn ended(&mut self, tgid: i32) {
        let unknown = Known::child_of(0, 0);
        self.processes.entry(tgid).or_insert(unknown).ended.get_or_insert_with(Instant::now);
    }

    /// The process of the thread `tid` has been verified while it lived, by a look that began at `at_ns`.
    pub fn verified(&mut self, tid: i32, writers: WriterMask, at_ns: u64) {
        let tgid = self.process_of(tid);
        let ended = self.connector.is_none().then(Instant::now);
        let known = self.processes.entry(tgid).or_insert(Known { ended, ..Known::child_of(0, 0) });
        // Of a program that it no longer runs this says nothing.
        if at_ns >= known.executed_ns {
            known.verified.0 |= writers.0;
            known.verified_ns = at_ns;
        }
    }

    /// The process of the dead thread `tid`, its parent, and so on up to the first that lives, as far as is known.
    pub fn forebears(&self, tid: i32) -> Vec<i32> {
        let mut chain = vec![self.process_of(tid)];
        while chain.len() < CHAIN_MAX
            && let Some(known) = chain.last().and_then(|pid| self.processes.get(pid))
            && (chain.len() == 1 || known.ended.is_some())
            && known.parent > 0
        {
            chain.push(known.parent);
        }
        chain
    }

    /// Whether the process of `tid` ran what it runs now, or ran last, when that was reported. Where no events tell,
    /// it counts as if it had.
    pub fn ran_it(&self, tid: i32, when: Moment) -> bool {
        let known = self.processes.get(&self.process_of(tid));
        // Whoever is unknown although events tell was forked when some were lost.
        known.map_or(self.connector.is_none(), |known| known.ran_it(when))
    }

    /// What the thread `tid` was, which is dead or runs another program now, and the nearest of its forebears that
    /// lives: what that one is counts too. `heirs` are the writers whose descendants are trusted.
    pub fn recall(&self, tid: i32, heirs: WriterMask, when: Moment) -> (WriterMask, Option<i32>) {
        let (mut trusted, mut pid) = (WriterMask::NONE, self.process_of(tid));
        let mut child: Option<&Known> = None;
        for _ in 0..CHAIN_MAX {
            let known = self.processes.get(&pid);
            let is_living = known.is_none_or(|known| known.ended.is_none());
            match (child, known) {
                // What a process has executed since says nothing of the children from before; who made it does.
                (Some(child), Some(known)) if known.executed_ns > child.forked_ns => {}
                // An orphan's parent says nothing of who made it.
                (Some(_), _) if is_living => return (trusted, Some(pid).filter(|&pid| pid > 1)),
                (Some(_), Some(known)) => trusted.0 |= known.verified.0 & heirs.0,
                (None, Some(known)) if known.ran_it(when) => trusted.0 |= known.verified.0,
                _ => {}
            }
            let Some(known) = known.filter(|known| known.parent > 0) else { break };
            (child, pid) = (Some(known), known.parent);
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
        let child = Known { ended: Some(Instant::now()), ..Known::child_of(100, 5) };
        let now = Moment::now();
        lineage.processes.insert(101, child);
        lineage.processes.insert(102, Known { parent: 101, ..child });
        lineage.threads.insert(1020, Thread { tgid: 102, ended: None });
        assert_eq!(lineage.recall(100, packages, now), (WriterMask(packages.0 | accounts.0), None));
        assert_eq!(lineage.recall(102, packages, now), (packages, None));
        assert_eq!(lineage.recall(1020, packages, now), (packages, None));
        assert_eq!(lineage.recall(999, packages, now), (WriterMask::NONE, None));
        lineage.processes.insert(103, Known { parent: 7, ..child });
        assert_eq!(lineage.recall(103, packages, now), (WriterMask::NONE, Some(7)));
        lineage.processes.insert(104, Known { parent: 1, ..child });
        assert_eq!(lineage.recall(104, packages, now), (WriterMask::NONE, None));
        assert_eq!(lineage.forebears(1020), [102, 101, 100]);
        assert_eq!((lineage.forebears(103), lineage.forebears(104)), (vec![103, 7], vec![104, 1]));
        assert_eq!(lineage.forebears(999), [999]);
    }

    fn fork(parent: i32, tid: i32, tgid: i32, at_ns: u64) -> ProcessEvent {
        ProcessEvent::Fork { parent, tid, tgid, at_ns }
    }

    #[test]
    fn a_number_that_was_a_writers_thread_is_nobodys() {
        let mut lineage = without_events();
        let (writer, now) = (WriterMask(1), Moment::now());
        lineage.take(fork(1, 100, 100, 1));
        lineage.take(fork(1, 101, 100, 2));
        lineage.verified(101, writer, 3);
        assert_eq!(lineage.recall(101, writer, now), (writer, Some(1).filter(|&pid| pid > 1)));
        lineage.take(ProcessEvent::Exit { tid: 101, tgid: 100 });
        lineage.take(fork(7, 101, 101, 4));
        assert_eq!(lineage.recall(101, writer, now), (WriterMask::NONE, Some(7)));
    }

    #[test]
    fn what_was_done_before_the_writer_was_executed_is_not_its_work() {
        let mut lineage = without_events();
        let (writer, notes) = (WriterMask(1), Notes::default());
        lineage.take(fork(7, 100, 100, 1));
        let before = Moment { position: 10, after_ns: 5 };
        let after = Moment { position: 11, after_ns: 5 };
        notes.starts(100, Some(11), 20);
        lineage.catch_up(&notes);
        lineage.take(ProcessEvent::Exec { tgid: 100, at_ns: 30 });
        lineage.verified(100, writer, 40);
        assert!(!lineage.ran_it(100, before) && lineage.ran_it(100, after));
        assert_eq!(lineage.recall(100, writer, before).0, WriterMask::NONE);
        assert_eq!(lineage.recall(100, writer, after).0, writer);
        // Nothing waited after it was executed.
        assert!(lineage.ran_it(100, Moment { position: 10, after_ns: 30 }));
        // Where it cannot be told, it is not.
        notes.starts(100, None, 50);
        lineage.catch_up(&notes);
        lineage.take(ProcessEvent::Exec { tgid: 100, at_ns: 60 });
        assert!(!lineage.ran_it(100, after));
    }

    #[test]
    fn a_child_from_before_is_not_the_writers() {
        let mut lineage = without_events();
        let (writer, now) = (WriterMask(1), Moment::now());
        lineage.take(fork(7, 100, 100, 1));
        lineage.take(fork(100, 101, 101, 2));
        lineage.take(ProcessEvent::Exec { tgid: 100, at_ns: 3 });
        lineage.verified(100, writer, 4);
        lineage.take(fork(100, 102, 102, 5));
        lineage.take(ProcessEvent::Exit { tid: 101, tgid: 101 });
        lineage.take(ProcessEvent::Exit { tid: 102, tgid: 102 });
        assert_eq!(lineage.recall(101, writer, now), (WriterMask::NONE, Some(7)));
        assert_eq!(lineage.recall(102, writer, now), (WriterMask::NONE, Some(100)));
        // A maintainer script that becomes another program is dpkg's child as before, and so is what it had forked.
        lineage.take(fork(100, 103, 103, 6));
        lineage.take(fork(103, 104, 104, 7));
        lineage.take(ProcessEvent::Exit { tid: 104, tgid: 104 });
        lineage.take(ProcessEvent::Exec { tgid: 103, at_ns: 8 });
        assert_eq!(lineage.recall(104, writer, now), (WriterMask::NONE, Some(100)));
        lineage.take(ProcessEvent::Exit { tid: 100, tgid: 100 });
        assert_eq!(lineage.recall(102, writer, now).0, writer);
    }

    #[test]
    fn the_kernel_tells_of_a_child_that_is_gone() {
        let mut lineage = Lineage::new(Connector::listen().ok());
        if lineage.connector.is_none() {
            eprintln!("SKIPPED: process events need CAP_NET_ADMIN and the initial namespaces");
            return;
        }
        let me = std::process::id() as i32;
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = child.id() as i32;
        child.wait().expect("its end");
        lineage.catch_up(&Notes::default());
        assert_eq!(lineage.recall(pid, WriterMask(1), Moment::now()), (WriterMask::NONE, Some(me)));
    }
}
