//! Looks at a blocked opener: what does it ask for?

use std::os::fd::BorrowedFd;

use super::patience::Patience;
use crate::access::Access;
use crate::classify::{self, Asked, Call, Line};
use crate::subject::Credentials;
use crate::sys::file;
use crate::sys::lease::{self, Probe};
use crate::sys::proc::{self, Proc, RegisterCache, SYSCALL_LINE_BYTES, Task};
use crate::verdict::Change;

/// A kernel stack as text; those of openers have some fifteen frames of 40 bytes.
pub(super) const STACK_BYTES: usize = 4096;
/// `/proc/<pid>/status` up to the capabilities, with hundreds of groups.
const STATUS_BYTES: usize = 4096;

/// What is known of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What is asked, taken that the file was there before.
    pub access: Access,
    /// The open may have made the file.
    pub may_create: bool,
    /// The open certainly made the file.
    pub must_create: bool,
    /// Open flags, where they are known.
    pub flags: Option<u64>,
    /// The system call's number; -1 not known.
    pub syscall: i32,
    /// Where the opener goes on in user space; 0: not known.
    pub pc: u64,
    /// Not an open: a descriptor is used that an open was judged for.
    pub is_descriptor: bool,
}

impl Look {
    /// A read or an exec that cannot have made its file.
    pub const fn only_reads(&self) -> bool {
        matches!(self.access, Access::Read | Access::Exec) && !self.may_create
    }

    /// The change that the verdict is about.
    pub const fn change(&self, access: Access) -> Change {
        if self.is_descriptor { Change::Resize } else { Change::Access(access) }
    }

    /// Registers do not tell.
    const fn untold(access: Access, syscall: i32) -> Self {
        Self {
            access,
            may_create: true,
            must_create: false,
            flags: None,
            syscall,
            pc: 0,
            is_descriptor: false,
        }
    }

    const fn of_exec(syscall: i32) -> Self {
        Self { access: Access::Exec, may_create: false, ..Self::untold(Access::Exec, syscall) }
    }

    fn of_flags(flags: u64, call: &Call) -> Self {
        Self {
            access: classify::access_of_flags(flags),
            may_create: classify::may_create(flags) || classify::is_temporary(flags),
            must_create: classify::must_create(flags),
            flags: Some(flags),
            pc: call.pc,
            ..Self::untold(Access::Unknown, call.number)
        }
    }
}

/// What a look at a thread's registers found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// It is blocked in this call.
    Call(Call),
    /// It has not come to rest.
    Restless,
    /// They cannot be read, or the thread is gone.
    Hidden,
}

/// What one look sees, without waiting for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glance {
    /// Certainly this.
    Seen(Look),
    /// The opener has not come to rest.
    Restless,
    /// Anything else: [`Looker::look`] tells.
    Unclear,
}

/// Looks through /proc, keeping descriptors of the threads it has seen.
#[derive(Debug, Default)]
pub struct Looker {
    registers: RegisterCache,
}

impl Looker {
    /// What [`Looker::look`] would say, where that shows at once.
    pub fn glance(&mut self, proc: &Proc, tid: i32, fd: BorrowedFd<'_>) -> Glance {
        let told = match self.sight_of(proc, tid) {
            Sight::Call(call) => match classify::asked(&call) {
                Asked::Flags(flags) => Look::of_flags(flags, &call),
                Asked::Exec => Look::of_exec(call.number),
                Asked::Indirect(_) | Asked::Untold => return Glance::Unclear,
            },
            Sight::Restless => return Glance::Restless,
            Sight::Hidden => return Glance::Unclear,
        };
        if is_borne_out_at_once(&told, fd) { Glance::Seen(told) } else { Glance::Unclear }
    }

    /// What the opener `tid` of the file behind `fd` asks for.
    ///
    /// Registers first: they tell reads from writes even while somebody else has the file open for writing.
    pub fn look(&mut self, proc: &Proc, tid: i32, fd: BorrowedFd<'_>) -> Look {
        self.look_with(proc, tid, fd, |address| proc::read_resident_word(proc, tid, address).ok())
    }

    /// As [`Looker::look`], without reading the opener's memory: even a page that was there a moment ago may be one
    /// that never answers, and the supervisor must not hang. openat2 is left to the lease.
    pub fn look_from_outside(&mut self, proc: &Proc, tid: i32, fd: BorrowedFd<'_>) -> Look {
        self.look_with(proc, tid, fd, |_| None)
    }

    fn look_with(
        &mut self,
        proc: &Proc,
        tid: i32,
        fd: BorrowedFd<'_>,
        read_flags: impl FnOnce(u64) -> Option<u64>,
    ) -> Look {
        let mut sight = self.call_of(proc, tid, Patience::usual());
        if sight == Sight::Restless && is_executing(proc, tid, fd) {
            return Look::of_exec(-1);
        }
        // Whoever cannot write cannot empty the file either: no need to wait for it.
        if sight == Sight::Restless && !cannot_write(proc, tid, fd) {
            sight = self.call_of(proc, tid, Patience::long());
        }
        let call = match sight {
            Sight::Call(call) => call,
            Sight::Restless => return unseen(proc, tid, fd, -1),
            Sight::Hidden => return by_lease(fd, -1),
        };
        let told = match classify::asked(&call) {
            Asked::Flags(flags) => Look::of_flags(flags, &call),
            Asked::Exec => Look::of_exec(call.number),
            Asked::Indirect(address) => {
                return match read_flags(address) {
                    Some(flags) => by_memory(flags, fd, &call),
                    None => unseen(proc, tid, fd, call.number),
                };
            }
            Asked::Untold => return by_lease(fd, call.number),
        };
        if is_borne_out(&told, proc, tid, fd) { told } else { Look::untold(Access::Unknown, call.number) }
    }

    /// What registers alone tell, exactly; `None` where they do not. For events whose descriptor is gone.
    pub fn look_at_registers(&mut self, proc: &Proc, tid: i32) -> Option<Look> {
        let Sight::Call(call) = self.call_of(proc, tid, Patience::usual()) else { return None };
        let told = match classify::asked(&call) {
            Asked::Flags(flags) => Look::of_flags(flags, &call),
            Asked::Exec => Look::of_exec(call.number),
            Asked::Indirect(_) | Asked::Untold => return None,
        };
        is_within_its_call(proc, tid).then_some(told)
    }

    /// What `tid` is in now.
    pub(super) fn sight_of(&mut self, proc: &Proc, tid: i32) -> Sight {
        let mut line = [0; SYSCALL_LINE_BYTES];
        let Ok(n) = self.registers.read(proc, tid, &mut line) else { return Sight::Hidden };
        match classify::parse_line(&line[..n]) {
            Line::In(call) => Sight::Call(call),
            Line::Garbled => Sight::Hidden,
            Line::Running => Sight::Restless,
        }
    }

    /// The call that `tid` is blocked in, once it sleeps.
    pub(super) fn call_of(&mut self, proc: &Proc, tid: i32, mut patience: Patience) -> Sight {
        loop {
            let sight = self.sight_of(proc, tid);
            if sight != Sight::Restless || !patience.wait() {
                return sight;
            }
        }
    }

    /// To be called when nobody waits: gives up what was put aside while somebody did.
    pub fn tidy_up(&mut self) {
        self.registers.close_replaced();
    }
}

/// Registers do not tell: whoever does not count as a writer reads. It may have made the file.
///
/// `O_RDONLY|O_TRUNC` is no writer either. Of the calls that come here only `io_uring`'s workers can ask for it; reads
/// through them must pass, and so does this (docs/threat-model.md).
fn by_lease(fd: BorrowedFd<'_>, syscall: i32) -> Look {
    let access = match lease::probe(fd) {
        Probe::NoWriter => Access::Read,
        Probe::Writer | Probe::Unsupported => Access::Unknown,
    };
    Look::untold(access, syscall)
}

/// openat2: the flags as they stand in the opener's memory now. Another thread may have changed them since, so they
/// are believed only where the lease agrees, and of two answers the stricter counts.
fn by_memory(flags: u64, fd: BorrowedFd<'_>, call: &Call) -> Look {
    let told = Look::of_flags(flags, call);
    let mut look = by_lease(fd, call.number);
    look.flags = told.flags;
    look.pc = told.pc;
    if told.access != Access::Read {
        look.access = told.access;
    }
    look
}

/// The flags could be seen, and are kept from us: an opener that does not come to rest, or one whose memory is away.
/// Not being a writer is then no proof of a read, unless the opener could not empty the file if it wanted to.
fn unseen(proc: &Proc, tid: i32, fd: BorrowedFd<'_>, syscall: i32) -> Look {
    let mut look = by_lease(fd, syscall);
    if !cannot_write(proc, tid, fd) {
        look.access = Access::Unknown;
    }
    look
}

/// Whether it is certainly the call in the registers that opens the file behind `fd`, where that matters.
///
/// The same registers still show while a thread on its way out of a call writes a core file or runs `io_uring`'s
/// work; both would count as writers, or read (such work neither creates nor truncates: `io_uring` leaves that to its
/// workers). So a read is borne out by the lease, and everything else that is less than a write by the kernel stack.
fn is_borne_out(told: &Look, proc: &Proc, tid: i32, fd: BorrowedFd<'_>) -> bool {
    is_borne_out_at_once(told, fd) || is_within_its_call(proc, tid)
}

/// The same without a look at the kernel stack.
fn is_borne_out_at_once(told: &Look, fd: BorrowedFd<'_>) -> bool {
    match told.access {
        Access::Write | Access::Truncate | Access::Unknown => !told.must_create,
        Access::Read | Access::Exec => !told.must_create && lease::probe(fd) == Probe::NoWriter,
        _ => false,
    }
}

/// Whether the thread is inside a call that opens or executes, by its kernel stack (`/proc/<tid>/stack`).
///
/// Each answer to anybody wakes all who wait for one, and the stack of a thread that is awake may not show: so
/// only several looks say no.
fn is_within_its_call(proc: &Proc, tid: i32) -> bool {
    let Ok(task) = proc.task(tid) else { return false };
    let mut patience = Patience::usual();
    loop {
        match stack_shows(&task, &[b"sys_open", b"sys_creat", b"sys_exec"]) {
            Some(true) => return true,
            Some(false) if patience.wait() => {}
            _ => return false,
        }
    }
}

/// Whether an opener that was woken, and gets no CPU to go to sleep again, executes the file: its registers do not
/// show then, its stack does. The lease says that it is no work of `io_uring`'s that writes, see [`is_borne_out`].
fn is_executing(proc: &Proc, tid: i32, fd: BorrowedFd<'_>) -> bool {
    lease::probe(fd) == Probe::NoWriter
        && proc.task(tid).is_ok_and(|task| stack_shows(&task, &[b"sys_exec"]) == Some(true))
}

/// Whether the name of a frame of the thread's kernel stack has one of `calls` in it; `None`: it is gone.
fn stack_shows(task: &Task, calls: &[&[u8]]) -> Option<bool> {
    let mut stack = [0u8; STACK_BYTES];
    let n = task.read_small(c"stack", &mut stack).ok()?;
    let shows = |call: &&[u8]| stack[..n].windows(call.len()).any(|part| part == *call);
    Some(calls.iter().any(shows))
}

/// Whether mode and owner of the file keep the opener from writing, and so from opening with `O_TRUNC`.
pub(super) fn cannot_write(proc: &Proc, tid: i32, fd: BorrowedFd<'_>) -> bool {
    let mut text = [0u8; STATUS_BYTES];
    let Ok(n) = proc.task(tid).and_then(|task| task.read_small(c"status", &mut text)) else { return false };
    let Ok(stat) = file::stat_fd(fd) else { return false };
    Credentials::parse(&text[..n]).is_some_and(|opener| opener.cannot_write(stat.mode, stat.uid))
}
