//! Answers while there is no worker: who only reads passes, everybody else is refused.
//!
//! Policy is not known here, so trusted writers and what is merely audited are refused too, for the tens of
//! milliseconds that a worker takes to start.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::access::Access;
use crate::audit::record::Record;
use crate::gate::{Creations, Look, Looker, Pending, Rollback};
use crate::marks::Groups;
use crate::subject::capture;
use crate::sys::fanotify::{Answer, Group};
use crate::sys::file::Stat;
use crate::sys::path::FixedPath;
use crate::sys::proc::{Proc, TaskCache};
use crate::sys::shared::{Leftover, SharedPage};
use crate::sys::slot::{Delivery, Request, Unanswered};
use crate::sys::{clock, file};

/// Taken with one read: what an event with a range needs. No more, because the worker that comes up waits for them.
const EVENTS_AT_ONCE: usize = 2;
/// Events answered before the supervisor looks at its child again.
const BATCH: usize = 64;

/// What safe mode needs, made at start.
pub struct SafeMode {
    proc: Proc,
    looker: Looker,
    path: FixedPath,
    parents: TaskCache,
    /// Filled while the opener is blocked, copied to the page.
    subject: Box<Record>,
    creations: Creations,
    rollback: Rollback,
}

impl SafeMode {
    /// Opens /proc.
    ///
    /// # Errors
    /// It is not mounted.
    pub fn new(page: &'static SharedPage) -> io::Result<Self> {
        Ok(Self {
            proc: Proc::open()?,
            looker: Looker::default(),
            path: FixedPath::default(),
            parents: TaskCache::default(),
            subject: Box::default(),
            creations: Creations::new(page),
            rollback: Rollback::default(),
        })
    }

    /// Answers what the dead worker had read. Its descriptors died with it, their numbers still name the events.
    ///
    /// Must come before anybody reads the queue again: new events may get the same numbers.
    pub fn answer_for_the_dead(&mut self, groups: &Groups, page: &SharedPage) {
        let Some(gate) = &groups.gate else { return };
        if let Some(creates) = &groups.creates {
            self.creations.drain(creates);
        }
        for slot in &page.slots {
            for event in slot.unanswered() {
                self.answer_by_number(gate, event, page);
                slot.clear(event.place);
            }
        }
    }

    fn answer_by_number(&mut self, gate: &Group, event: Unanswered, page: &SharedPage) {
        let Unanswered { number, tid, request, .. } = event;
        let (passes, look) = match request {
            Request::Open => {
                let look = self.looker.look_at_registers(&self.proc, tid);
                (look.is_some_and(|look| look.only_reads()), look)
            }
            Request::Access { bytes } => {
                let look = self.looker.look_at_access(&self.proc, tid, None, bytes);
                (look.is_none(), look)
            }
        };
        if !passes {
            self.look_at_subject(tid);
        }
        // Before the answer: while it waits, its last creation is the file that it opens.
        let made = self.creations.last_of(tid).filter(|_| request == Request::Open);
        if gate.respond(number, if passes { Answer::Allow } else { Answer::Deny }).is_err() {
            // It had been answered, or its opener was killed.
            return;
        }
        if passes {
            page.supervisor_allowed.fetch_add(1, Relaxed);
            return;
        }
        page.supervisor_denied.fetch_add(1, Relaxed);
        page.leave(tid, clock::realtime_ns(), |left| {
            self.store_subject(left);
            left.safe_mode.store(0, Relaxed);
            left.syscall.store(look.map_or(-1, |look| look.syscall), Relaxed);
            left.flags.store(look.and_then(|look| look.flags).unwrap_or(u64::MAX), Relaxed);
            left.dev.store(0, Relaxed);
            left.ino.store(0, Relaxed);
            left.rolled_back.store(0, Relaxed);
            left.made.copy_of(made);
            left.path.store(b"");
        });
    }

    /// Answers what waits in the queue, as long as no worker does.
    pub fn answer_queue(&mut self, groups: &Groups, page: &'static SharedPage) {
        let Some(gate) = &groups.gate else { return };
        for _ in 0..BATCH {
            let may_read = page.may_supervisor_read();
            let answered =
                may_read && is_readable(gate) && self.answer_some(gate, groups.creates.as_ref(), page);
            page.end_supervisor_read();
            if !answered {
                break;
            }
        }
    }

    fn look_at_subject(&mut self, tid: i32) {
        self.subject.clear();
        // Not its command line, which is memory of its own; the worker reads that if it still can.
        capture::identity(&mut self.subject, &self.proc, &mut self.parents, tid);
    }

    fn store_subject(&self, left: &Leftover) {
        let subject = &self.subject.subject;
        left.pid.store(subject.pid, Relaxed);
        left.ppid.store(subject.ppid, Relaxed);
        left.uid.store(subject.uid, Relaxed);
        left.auid.store(subject.auid, Relaxed);
        left.comm.store(self.subject.text(subject.comm));
        left.exe.store(self.subject.text(subject.exe));
        left.parent_exe.store(self.subject.text(subject.parent_exe));
    }

    fn answer_some(&mut self, gate: &Group, creates: Option<&Group>, page: &'static SharedPage) -> bool {
        let slot = &page.supervisor_slot;
        let deliveries = match slot.receive(gate, gate.events_at_once(EVENTS_AT_ONCE)) {
            Ok(deliveries) => deliveries,
            Err(error) => {
                return !matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::EFAULT));
            }
        };
        let read_ns = clock::monotonic_ns();
        for delivery in deliveries {
            let Delivery::Event(arrival) = delivery else { continue };
            let pending = Pending::new(gate, slot, arrival, read_ns);
            let tid = pending.tid();
            if tid == page.worker_pid.load(Relaxed) || page.is_own_thread(tid) {
                pending.answer(Answer::Allow);
                continue;
            }
            match self.look(&pending) {
                Some(look) => self.pass_or_refuse(pending, &look, creates, page),
                None => pending.answer(Answer::Allow),
            }
        }
        true
    }
}

impl SafeMode {
    /// What of the event is to be judged; `None`: nothing.
    fn look(&mut self, pending: &Pending<'_>) -> Option<Look> {
        let (tid, fd) = (pending.tid(), pending.fd());
        match pending.request() {
            Request::Open => Some(self.looker.look_from_outside(&self.proc, tid, fd)),
            Request::Access { bytes } => self.looker.look_at_access(&self.proc, tid, Some(fd), bytes),
        }
    }

    fn pass_or_refuse(
        &mut self,
        pending: Pending<'_>,
        look: &Look,
        creates: Option<&Group>,
        page: &SharedPage,
    ) {
        let stat = file::stat_fd(pending.fd()).ok();
        let may_be_new = look.may_create && stat.is_none_or(|stat| stat.size == 0);
        if matches!(look.access, Access::Read | Access::Exec) && !may_be_new {
            return pending.answer(Answer::Allow);
        }
        let tid = pending.tid();
        let known = self.proc.path_of(pending.fd(), &mut self.path).is_ok();
        self.look_at_subject(tid);
        let rolled_back = may_be_new && self.roll_back(creates, &pending, stat.as_ref());
        pending.answer(Answer::Deny);
        page.leave(tid, clock::realtime_ns(), |left| {
            self.store_subject(left);
            left.safe_mode.store(1, Relaxed);
            left.syscall.store(look.syscall, Relaxed);
            left.flags.store(look.flags.unwrap_or(u64::MAX), Relaxed);
            left.dev.store(stat.map_or(0, |stat| stat.id.dev), Relaxed);
            left.ino.store(stat.map_or(0, |stat| stat.id.ino), Relaxed);
            left.rolled_back.store(u32::from(rolled_back), Relaxed);
            left.made.copy_of(None);
            left.path.store(if known { self.path.as_bytes() } else { b"" });
        });
    }

    /// Takes back the file that the opener has just made, while it waits.
    fn roll_back(&mut self, creates: Option<&Group>, pending: &Pending<'_>, stat: Option<&Stat>) -> bool {
        let (Some(creates), Some(stat)) = (creates, stat) else { return false };
        self.creations
            .prove(creates, pending.tid(), pending.fd())
            .is_some_and(|made| self.rollback.remove_creation(pending.fd(), stat, made))
    }
}

fn is_readable(group: &Group) -> bool {
    let mut fds = [PollFd::new(group.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
