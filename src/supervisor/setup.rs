//! Everything the supervisor makes before the first worker, while failing is still cheap.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::notify::Notifier;
use super::safe_mode::SafeMode;
use super::watchdog::Watchdog;
use super::{Prepared, note_start};
use crate::cli::report::{Exit, Failure};
use crate::marks::Groups;
use crate::options::{Mode, RunOptions};
use crate::preflight::PreflightError;
use crate::sys::checks::Checks;
use crate::sys::connector::Connector;
use crate::sys::process;
use crate::sys::shared::SharedPage;

/// What every worker inherits.
pub struct Inheritance {
    /// How the gate was started.
    pub options: RunOptions,
    /// Shared with the supervisor.
    pub page: &'static SharedPage,
    /// The groups; they and their marks outlive a worker.
    pub groups: Groups,
    /// Made once, so that a caller who comes while there is no worker waits instead of being refused.
    pub control: UnixListener,
    /// The sources of the policies in force, twice: one is being written while the other is valid.
    pub bundles: [OwnedFd; 2],
    /// What is to be where, twice for the same reason.
    pub inventories: [OwnedFd; 2],
    /// Who forks whom, where the kernel tells: what happens while there is no worker waits for the next one.
    pub connector: Option<Connector>,
    /// Who sets flags, where the kernel tells.
    pub checks: Option<Checks>,
}

/// Why the gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No permission group.
    #[error(transparent)]
    Groups(PreflightError),
    /// Another gate has the socket.
    #[error("another writegate already listens on {0}")]
    AlreadyRunning(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Control {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else that a process needs.
    #[error("cannot set up {what}: {source}")]
    Resource {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        let help = match &error {
            SetupError::Groups(missing) => {
                return Self::new(Exit::Unavailable, missing.to_string(), missing.help());
            }
            SetupError::AlreadyRunning(_) => "stop it first, or give this one another socket with --control",
            SetupError::Control { .. } => "give a path in a directory that you may write, with --control",
            SetupError::Resource { .. } => {
                "look at the limits of this process (ulimit -a) and at free memory"
            }
        };
        Self::new(Exit::Finding, error.to_string(), help)
    }
}

fn resource<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> SetupError {
    move |error| SetupError::Resource { what, source: error.into() }
}

/// Makes it all.
pub(super) fn prepare(options: RunOptions) -> Result<Prepared, SetupError> {
    raise_descriptor_limit();
    // As in the worker: not a condition.
    let _ = process::stay_in_memory();
    // A lease probe can be broken by a writer that comes in between; the default action of SIGIO is death.
    process::ignore_signal(libc::SIGIO);
    let is_healing = options.mode == Mode::Enforce;
    // Before the groups: a process that is killed gives up last what it closes first (task_work_run), and openers do not
    // wait for these.
    let checks = if is_healing { Checks::listen().ok() } else { None };
    let groups = match options.mode {
        Mode::Enforce => Groups::enforcing(),
        Mode::Observe => Groups::observing(),
    }
    .map_err(|error| SetupError::Groups(error.into()))?;
    let page = SharedPage::map().map_err(resource("shared memory"))?;
    note_start(page);
    let control = listen(&options.control)?;
    let memory = |name| memfd_create(name, MFdFlags::MFD_CLOEXEC).map_err(resource("a memory file"));
    let connector = if is_healing { Connector::listen().ok() } else { None };
    let bundles = [memory(c"writegate-policies")?, memory(c"writegate-policies")?];
    let inventories = [memory(c"writegate-inventory")?, memory(c"writegate-inventory")?];
    Ok(Prepared {
        signals: block_signals().map_err(resource("signals"))?,
        notifier: Notifier::from_environment(),
        safe_mode: SafeMode::new(page).map_err(resource("/proc"))?,
        watchdog: Watchdog::new().map_err(resource("/proc"))?,
        inheritance: Inheritance { options, page, groups, control, bundles, inventories, connector, checks },
    })
}

/// Each event in flight costs a descriptor, and so does each thread whose registers are kept at hand.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGCHLD] {
        set.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn listen(path: &Path) -> Result<UnixListener, SetupError> {
    let failed = |source| SetupError::Control { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(SetupError::AlreadyRunning(path.to_owned()));
            }
            fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map_err(failed)
        }
        other => other.map_err(failed),
    }
    .and_then(|listener| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(listener)
    })
}
