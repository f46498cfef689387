//! Signals of a worker, turned into something that poll(2) can wait for.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::sys::process;

/// Sent to a worker whose supervisor has died.
pub const SUPERVISOR_DIED: i32 = libc::SIGUSR2;

/// What has come since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Came {
    /// SIGHUP.
    pub reload: bool,
    /// SIGTERM.
    pub stop: bool,
    /// See [`SUPERVISOR_DIED`].
    pub orphaned: bool,
}

/// Flags with a wake-up.
pub struct Signals {
    wake: UnixStream,
    reload: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    orphaned: Arc<AtomicBool>,
}

impl Signals {
    /// Takes the signals over from the supervisor's mask.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub fn install() -> io::Result<Self> {
        let (wake, sender) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let signals = Self { wake, reload: Arc::default(), stop: Arc::default(), orphaned: Arc::default() };
        for (signal, flag) in [
            (libc::SIGHUP, &signals.reload),
            (libc::SIGTERM, &signals.stop),
            (SUPERVISOR_DIED, &signals.orphaned),
        ] {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        // A terminal sends these to the whole group; the supervisor decides.
        process::ignore_signal(libc::SIGINT);
        process::ignore_signal(libc::SIGQUIT);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        Ok(signals)
    }

    /// Readable when something has come.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes what has come.
    pub fn take(&self) -> Came {
        let mut bytes = [0; 64];
        while matches!((&self.wake).read(&mut bytes), Ok(n) if n > 0) {}
        Came {
            reload: self.reload.swap(false, Ordering::AcqRel),
            stop: self.stop.swap(false, Ordering::AcqRel),
            orphaned: self.orphaned.swap(false, Ordering::AcqRel),
        }
    }
}
