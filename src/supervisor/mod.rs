//! The supervisor: holds the groups and the shared page, starts workers, and answers when there is none.
//!
//! It never parses policy, has one thread, and allocates nothing after its start: there is little that can kill
//! it. Everything that can fail in interesting ways happens in a worker, which is replaced when it dies.
#![forbid(unsafe_code)]

mod notify;
mod safe_mode;
mod setup;
mod watchdog;

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::report::Failure;
use crate::options::RunOptions;
use crate::sys::process::{self, Forked};
use crate::sys::shared::{SharedPage, Stage};
use crate::sys::{clock, thread};
use crate::worker;
use notify::Notifier;
use safe_mode::SafeMode;
pub use setup::{Inheritance, SetupError};
use watchdog::Watchdog;

/// How often the supervisor looks at what gives no event: the stage of a starting worker.
const TICK_STARTING: Duration = Duration::from_millis(10);
/// How often it looks at a worker that is up.
const TICK: Duration = watchdog::TICK;
/// How long a worker may take to write its last records.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Workers that died before they were ready, in a row, before the supervisor waits between attempts.
const HASTY_DEATHS: u32 = 3;
/// The first wait; doubled up to `WAIT_MAX`. Safe mode answers meanwhile.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Runs the gate in the foreground until it is told to stop.
pub fn run(options: RunOptions) -> ExitCode {
    match setup::prepare(options) {
        Ok(prepared) => {
            let code = Supervisor::new(prepared).supervise();
            ExitCode::from(code)
        }
        Err(error) => Failure::from(error).print(),
    }
}

/// Everything made before the first worker.
struct Prepared {
    inheritance: Inheritance,
    signals: SignalFd,
    notifier: Notifier,
    safe_mode: SafeMode,
    watchdog: Watchdog,
}

struct Worker {
    pid: i32,
    pidfd: OwnedFd,
    /// It was killed, and dies when it gets a CPU, or when the disk that it waits for answers.
    is_killed: bool,
}

struct Supervisor {
    inheritance: Inheritance,
    page: &'static SharedPage,
    signals: SignalFd,
    notifier: Notifier,
    safe_mode: SafeMode,
    watchdog: Watchdog,
    worker: Option<Worker>,
    /// A worker has been ready once: from then on its death is never the end.
    was_ready: bool,
    ready_announced: bool,
    hasty_deaths: u32,
    next_start: Instant,
    stopping_since: Option<Instant>,
}

/// Says something on stderr without allocating.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

impl Supervisor {
    fn new(prepared: Prepared) -> Self {
        Self {
            page: prepared.inheritance.page,
            inheritance: prepared.inheritance,
            signals: prepared.signals,
            notifier: prepared.notifier,
            safe_mode: prepared.safe_mode,
            watchdog: prepared.watchdog,
            worker: None,
            was_ready: false,
            ready_announced: false,
            hasty_deaths: 0,
            next_start: Instant::now(),
            stopping_since: None,
        }
    }

    /// The loop; the exit code.
    fn supervise(mut self) -> u8 {
        loop {
            if self.worker.is_none() {
                if self.stopping_since.is_some() {
                    return 0;
                }
                if Instant::now() >= self.next_start {
                    self.start_worker();
                }
            }
            self.wait();
            self.take_signals();
            if let Some(code) = self.take_death() {
                return code;
            }
            self.answer_in_safe_mode();
            self.announce();
            self.tick();
        }
    }

    fn start_worker(&mut self) {
        match process::fork() {
            Ok(Forked::Child) => {
                let code = worker::main(&self.inheritance);
                thread::exit_now(i32::from(code));
            }
            Ok(Forked::Parent(pid)) => {
                self.page.worker_pid.store(pid, Relaxed);
                if let Ok(pidfd) = process::pidfd_open(pid) {
                    self.worker = Some(Worker { pid, pidfd, is_killed: false });
                } else {
                    // Without it the worker's death would go unseen.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    let _ = waitpid(Pid::from_raw(pid), None);
                    self.postpone();
                }
            }
            Err(_) => {
                say("writegate: cannot start a worker, staying in safe mode\n");
                self.postpone();
            }
        }
    }

    fn postpone(&mut self) {
        self.hasty_deaths = self.hasty_deaths.saturating_add(1);
        let doublings = self.hasty_deaths.saturating_sub(HASTY_DEATHS).min(5);
        let wait = if self.hasty_deaths < HASTY_DEATHS {
            Duration::ZERO
        } else {
            (WAIT_FIRST * (1 << doublings)).min(WAIT_MAX)
        };
        self.next_start = Instant::now() + wait;
    }

    /// Sleeps until there is something to do.
    fn wait(&self) {
        let starting = self.page.stage() != Stage::Ready;
        let timeout = if starting { TICK_STARTING } else { TICK };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        let none = self.signals.as_fd();
        let worker = self.worker.as_ref().map_or(none, |worker| worker.pidfd.as_fd());
        let gate = match &self.inheritance.groups.gate {
            Some(gate) if self.page.stage() == Stage::Starting => gate.as_fd(),
            _ => none,
        };
        let mut fds = [
            PollFd::new(none, PollFlags::POLLIN),
            PollFd::new(worker, PollFlags::POLLIN),
            PollFd::new(gate, PollFlags::POLLIN),
        ];
        // EINTR and the like: the loop looks at everything anyway.
        let _ = poll(&mut fds, timeout);
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGHUP => self.forward(Signal::SIGHUP),
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT if self.stopping_since.is_none() => {
                    self.notifier.stopping();
                    self.stopping_since = Some(Instant::now());
                    self.forward(Signal::SIGTERM);
                }
                _ => {}
            }
        }
    }

    fn forward(&self, signal: Signal) {
        if let Some(worker) = &self.worker {
            let _ = kill(Pid::from_raw(worker.pid), signal);
        }
    }

    /// Looks after a dead worker; the exit code when that ends everything.
    fn take_death(&mut self) -> Option<u8> {
        let pid = self.worker.as_ref()?.pid;
        let status = match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::EINTR) => return None,
            Ok(status) => status,
            Err(_) => WaitStatus::StillAlive,
        };
        self.worker = None;
        let was_starting = self.page.stage() != Stage::Ready;
        // It may have become ready and died since the last look.
        self.was_ready |= !was_starting;
        self.page.set_stage(Stage::Starting);
        self.page.forget_own_threads();
        self.safe_mode.answer_for_the_dead(&self.inheritance.groups, self.page);
        self.watchdog.forget();
        if self.stopping_since.is_some() {
            return Some(0);
        }
        if !self.was_ready
            && let WaitStatus::Exited(_, code) = status
            && code != 0
        {
            // It has said why.
            return Some(code as u8);
        }
        self.page.restarts.fetch_add(1, Relaxed);
        if was_starting {
            self.postpone();
        } else {
            self.hasty_deaths = 0;
            self.next_start = Instant::now();
        }
        None
    }

    fn answer_in_safe_mode(&mut self) {
        self.safe_mode.answer_queue(&self.inheritance.groups, self.page);
    }

    fn announce(&mut self) {
        if self.page.stage() == Stage::Ready {
            self.was_ready = true;
            self.hasty_deaths = 0;
            if !self.ready_announced {
                self.ready_announced = true;
                self.notifier.ready();
            }
        }
    }

    fn tick(&mut self) {
        if self.worker.as_ref().is_some_and(|worker| worker.is_killed) {
            return;
        }
        if let Some(since) = self.stopping_since
            && since.elapsed() > STOP_PATIENCE
        {
            self.kill_worker("writegate: the worker did not stop in time\n");
            return;
        }
        let Some(gate) = &self.inheritance.groups.gate else {
            self.notifier.alive();
            return;
        };
        if self.watchdog.is_stuck(self.page, gate) {
            self.kill_worker("writegate: the worker answers no more, replacing it\n");
        } else {
            self.notifier.alive();
        }
    }

    fn kill_worker(&mut self, why: &str) {
        if let Some(worker) = &mut self.worker {
            say(why);
            let _ = process::kill_now(&worker.pidfd);
            worker.is_killed = true;
        }
    }
}

/// Marks the start in the page.
fn note_start(page: &SharedPage) {
    page.supervisor_pid.store(thread::getpid(), Relaxed);
    page.started_ns.store(clock::realtime_ns(), Relaxed);
}
