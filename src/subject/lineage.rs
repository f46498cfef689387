//! Who a short-lived process was, after it is gone.
//!
//! A maintainer script's `rm` may have ended before the notification of what it did is read. Two things are known
//! by then: which processes the gate (or the watch) has verified while they lived, and, from the kernel's process
//! events, who forked whom. A dead process is what its verified ancestors make it, and without any it is unknown. And
//! of one that lives it tells whether what it runs now, or what its parent runs, was already run when it did that.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::notes::{Finding, NOTES_MAX, Note, Notes};
use super::status::Status;
use super::verifier::Verified;
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

    /// Whether it ran what it runs now, or ran last, when that was reported. Its program is seen to be another one
    /// before the kernel tells of that, so that what it is about to execute counts as executed. `lost_ns`: then the
    /// kernel told last not of all.
    fn ran_it(&self, when: Moment, lost_ns: u64) -> bool {
        self.began_ns().max(lost_ns) <= when.after_ns
            || self.started.is_some_and(|started| when.position >= started)
    }

    fn began_ns(&self) -> u64 {
        self.executed_ns.max(self.starting_ns)
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
    /// When events were lost last, by the monotonic clock.
    lost_ns: u64,
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
            lost_ns: 0,
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
                Finding::Verified(verified) => self.verified(tid, verified, at_ns),
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
                // Events were lost: who was forked, and who runs another program now, is unknown. Who is about to execute a
                // writer's is told by the responders, so that children from before that stay known.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.lost_ns = clock::monotonic_ns();
                    self.processes.values_mut().for_each(|known| known.verified = WriterMask::NONE);
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

    /// The thread `tid` has been verified while it lived, by a look that began at `at_ns`.
    pub fn verified(&mut self, tid: i32, verified: Verified, at_ns: u64) {
        self.runs_as(self.process_of(verified.by), verified.writers, at_ns);
        if tid != verified.by && self.descends(tid, verified.by) {
            self.runs_as(self.process_of(tid), verified.writers, at_ns);
        }
    }

    fn runs_as(&mut self, tgid: i32, writers: WriterMask, at_ns: u64) {
        let ended = self.connector.is_none().then(Instant::now);
        let known = self.processes.entry(tgid).or_insert(Known { ended, ..Known::child_of(0, 0) });
        // Of a program that it no longer runs this says nothing.
        if at_ns >= known.executed_ns {
            known.verified.0 |= writers.0;
            known.verified_ns = at_ns;
        }
    }

    /// Whether the process of `tid` comes from what the process `above` runs now: a child from before it executed that
    /// does not. Where no events tell, it counts as if it did.
    fn descends(&self, tid: i32, above: i32) -> bool {
        let mut pid = self.process_of(tid);
        for _ in 0..CHAIN_MAX {
            let Some(known) = self.processes.get(&pid) else { break };
            if known.parent == above {
                return self.processes.get(&above).is_some_and(|above| above.began_ns() <= known.forked_ns);
            }
            pid = known.parent;
        }
        self.connector.is_none()
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

    /// Whether what was reported then of the thread `tid` is the work of what it has just been verified as. Where no
    /// events tell, it counts as if it were.
    pub fn is_work_of(&self, tid: i32, verified: Verified, when: Moment) -> bool {
        if tid != verified.by {
            return self.descends(tid, verified.by);
        }
        let known = self.processes.get(&self.process_of(tid));
        // Whoever is unknown although events tell was forked when some were lost.
        known.map_or(self.connector.is_none(), |known| known.ran_it(when, self.lost_ns))
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
                (Some(child), Some(known)) if known.began_ns() > child.forked_ns => {}
                // An orphan's parent says nothing of who made it.
                (Some(_), _) if is_living => return (trusted, Some(pid).filter(|&pid| pid > 1)),
                (Some(_), Some(known)) => trusted.0 |= known.verified.0 & heirs.0,
                (None, Some(known)) if known.ran_it(when, self.lost_ns) => trusted.0 |= known.verified.0,
                _ => {}
            }
            let Some(known) = known.filter(|known| known.parent > 0) else { break };
            (child, pid) = (Some(known), known.parent);
        }
        (trusted, None)
    }
}

#[cfg(test)]
mod tests;
