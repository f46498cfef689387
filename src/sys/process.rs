//! Processes: fork, and descriptors that stand for a process.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(i32),
}

/// Makes a child that shares nothing but mappings made to be shared and descriptors.
///
/// The caller must be the only thread of its process: the supervisor is.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the supervisor has one thread, so no lock can be held by a thread that the child lacks (fork(2)).
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid if pid > 0 => Ok(Forked::Parent(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor that becomes readable when process `pid` ends.
///
/// # Errors
/// `ESRCH`; `ENOSYS` before Linux 5.3.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Kills the process that `pidfd` stands for, whatever number others have by now.
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn kill_now(pidfd: &OwnedFd) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) with a null siginfo takes only integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps what this process touches in memory: where memory is short, its code would be read from disk again while
/// openers wait. What it never touches costs nothing. Children do not inherit it.
///
/// # Errors
/// `ENOMEM`, `EPERM` without `CAP_IPC_LOCK` and enough `RLIMIT_MEMLOCK`.
pub fn stay_in_memory() -> io::Result<()> {
    // With a limit in force, what is allocated later would fail instead of being swapped.
    if !may_lock_memory() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // SAFETY: mlockall(2) takes flags and changes no content of memory.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives back to the kernel what this process has freed. Locked pages stay where they are, so the lock is off
/// meanwhile.
pub fn give_back_memory() {
    // SAFETY: munlockall(2) takes nothing and changes no content of memory.
    unsafe { libc::munlockall() };
    // SAFETY: gives back pages in which nothing is allocated (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
    let _ = stay_in_memory();
}

fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities & CAP_IPC_LOCK != 0)
}

/// Ignores a signal for this process and its children.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN installs no handler of ours (signal(2)).
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
