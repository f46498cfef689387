//! Children that must not outlive their parent.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel send `signal` to what `command` starts when the thread that starts it ends, however it ends.
pub fn ends_with_parent(command: &mut Command, signal: i32) {
    let bind = move || {
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes integers and is a plain system call, safe after fork.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure makes one system call and touches no memory of the parent.
    unsafe { command.pre_exec(bind) };
}
