//! The calling thread: its number, its CPU, its name.

use std::ffi::CStr;
use std::io;

/// The kernel's id of the calling thread.
pub fn gettid() -> i32 {
    // SAFETY: gettid(2) takes nothing and always succeeds.
    unsafe { libc::gettid() }
}

/// The process id.
pub fn getpid() -> i32 {
    // SAFETY: getpid(2) takes nothing and always succeeds.
    unsafe { libc::getpid() }
}

/// The CPUs this process may run on, in order.
///
/// # Errors
/// Those of `sched_getaffinity(2)`.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid and writable for the size given.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` when the CPU is not there or not ours.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index is below CPU_SETSIZE, and `set` is valid for the call.
    let result = unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the calling thread run soon after it is woken, for a short time: it asks for short turns. Its share of the CPU
/// stays the same (`sched_setattr(2)`; Linux 6.12 and later, ignored before).
///
/// # Errors
/// `EPERM` under a security module that forbids it.
pub fn take_short_turns() -> io::Result<()> {
    /// The shortest that the kernel grants.
    const TURN_NS: u64 = 100_000;
    // SAFETY: sched_attr is plain old data; all zero is valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: `attributes` is valid and writable for the size given; 0 is the calling thread.
    let got = unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size_of::<libc::sched_attr>(), 0)
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.sched_runtime = TURN_NS;
    // SAFETY: `attributes` is valid for the size it names; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the calling thread one that is not run the instant it is woken, but when the thread that runs goes to sleep
/// or has had its turn. Its share of the CPU stays the same (sched(7), `SCHED_BATCH`).
///
/// # Errors
/// `EPERM` under a security module that forbids it.
pub fn preempt_nobody() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is valid for the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Names the calling thread; the kernel keeps 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: PR_SET_NAME reads a NUL-terminated string (prctl(2)).
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Asks for `signal` when the parent process dies.
pub fn on_parent_death(signal: i32) {
    // SAFETY: PR_SET_PDEATHSIG takes an integer (prctl(2)).
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) };
}

/// Ends the process at once, running nothing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) does not return and runs no handlers.
    unsafe { libc::_exit(code) }
}
