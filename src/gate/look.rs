//! Looks at a blocked opener: what does it ask for?

use std::os::fd::BorrowedFd;

use crate::access::Access;
use crate::classify::{self, Asked, Call, Line};
use crate::sys::lease::{self, Probe};
use crate::sys::proc::{self, Proc, RegisterCache, SYSCALL_LINE_BYTES};

/// Looks at once while the opener is on its way to sleep on another CPU; that takes it less than a microsecond.
/// More looks only keep an opener that waits for this CPU from getting there: with eight openers on two CPUs, 30 of
/// them halved the throughput.
const LOOKS_AT_ONCE: u32 = 2;
/// Looks that yield the CPU in between: the opener may be waiting for the very CPU that the responder is on.
const LOOKS_YIELDING: u32 = 200;
/// Looks with a sleep in between. Together at most 20 ms, then the cautious answer.
const LOOKS_SLEEPING: u32 = 200;
const SLEEP_BETWEEN: std::time::Duration = std::time::Duration::from_micros(100);

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
}

impl Look {
    /// A read or an exec that cannot have made its file.
    pub const fn only_reads(&self) -> bool {
        matches!(self.access, Access::Read | Access::Exec) && !self.may_create
    }

    const fn of_exec(syscall: i32) -> Self {
        Self { access: Access::Exec, may_create: false, must_create: false, flags: None, syscall }
    }

    fn of_flags(flags: u64, syscall: i32) -> Self {
        Self {
            access: classify::access_of_flags(flags),
            may_create: classify::may_create(flags) || classify::is_temporary(flags),
            must_create: classify::must_create(flags),
            flags: Some(flags),
            syscall,
        }
    }
}

/// Looks through /proc, keeping descriptors of the threads it has seen.
#[derive(Debug, Default)]
pub struct Looker {
    registers: RegisterCache,
}

impl Looker {
    /// What the opener `tid` of the file behind `fd` asks for.
    ///
    /// Registers first: they are exact for the calls that open nearly every file, and cheaper than a lease.
    pub fn look(&mut self, proc: &Proc, tid: i32, fd: BorrowedFd<'_>) -> Look {
        let Some(call) = self.call_of(proc, tid) else { return by_lease(fd, -1) };
        match classify::asked(&call) {
            Asked::Flags(flags) => Look::of_flags(flags, call.number),
            Asked::Exec => Look::of_exec(call.number),
            Asked::Indirect(address) => by_memory(tid, address, fd, call.number),
            Asked::Untold => by_lease(fd, call.number),
        }
    }

    /// What registers alone tell, exactly; `None` where they do not. For events whose descriptor is gone.
    pub fn look_at_registers(&mut self, proc: &Proc, tid: i32) -> Option<Look> {
        let call = self.call_of(proc, tid)?;
        match classify::asked(&call) {
            Asked::Flags(flags) => Some(Look::of_flags(flags, call.number)),
            Asked::Exec => Some(Look::of_exec(call.number)),
            Asked::Indirect(_) | Asked::Untold => None,
        }
    }

    /// The call that `tid` is blocked in, once it sleeps.
    fn call_of(&mut self, proc: &Proc, tid: i32) -> Option<Call> {
        let mut line = [0; SYSCALL_LINE_BYTES];
        for attempt in 0..LOOKS_AT_ONCE + LOOKS_YIELDING + LOOKS_SLEEPING {
            let n = self.registers.read(proc, tid, &mut line).ok()?;
            match classify::parse_line(&line[..n]) {
                Line::In(call) => return Some(call),
                Line::Garbled => return None,
                Line::Running if attempt < LOOKS_AT_ONCE => std::hint::spin_loop(),
                Line::Running if attempt < LOOKS_AT_ONCE + LOOKS_YIELDING => std::thread::yield_now(),
                Line::Running => std::thread::sleep(SLEEP_BETWEEN),
            }
        }
        None
    }
}

/// Registers do not tell: whoever does not count as a writer reads. It may still have made the file.
fn by_lease(fd: BorrowedFd<'_>, syscall: i32) -> Look {
    let access = match lease::probe(fd) {
        Probe::NoWriter => Access::Read,
        Probe::Writer | Probe::Unsupported => Access::Unknown,
    };
    Look { access, may_create: true, must_create: false, flags: None, syscall }
}

/// openat2: `struct open_how` starts with the flags. Another thread may have changed it since, so it is
/// believed only where the lease agrees, and of two answers the stricter counts.
fn by_memory(tid: i32, address: u64, fd: BorrowedFd<'_>, syscall: i32) -> Look {
    let Ok(bytes) = proc::read_memory::<8>(tid, address) else { return by_lease(fd, syscall) };
    let told = Look::of_flags(u64::from_ne_bytes(bytes), syscall);
    let mut look = by_lease(fd, syscall);
    look.flags = told.flags;
    if told.access != Access::Read {
        look.access = told.access;
    }
    look
}
