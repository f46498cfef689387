//! The worker: everything that can go wrong in interesting ways. The supervisor replaces it when it dies.
//!
//! ```text
//! responder × CPU   answers events
//! logger            writes the trail
//! watcher           marks what appears, has changes judged and put back; in observe mode records them
//! main              starts the others, then signals, socket, reload
//! ```
#![forbid(unsafe_code)]

mod control;
mod holders;
mod leftovers;
mod observe;
mod policies;
mod signals;
mod threads;
mod watcher;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;

use crate::audit::context::Context;
use crate::audit::logger::{Logger, LoggerConfig, LoggerError, LoggerHandle};
use crate::audit::queue::audit_queue;
use crate::gate::{Creations, InForceCell, Opened, Shared, Starting, Stream};
use crate::marks::{MarkTable, Marker, Report};
use crate::options::{Mode, RunOptions};
use crate::supervisor::Inheritance;
use crate::sys::fanotify::Mask;
use crate::sys::proc::Proc;
use crate::sys::shared::{SharedPage, Stage};
use crate::sys::{process, thread};
use crate::watch::Account;
use policies::PolicyError;

/// How long the watcher may wait within its work, and not run at all: for a filesystem that does not answer.
const STALL_PATIENCE: Duration = Duration::from_secs(5);
/// How long the logger may take to write what is queued when the gate is stopped.
const LOG_PATIENCE: Duration = Duration::from_secs(3);
/// How long a stopping gate goes on putting right what was reported before: the supervisor waits longer.
const WATCH_PATIENCE: Duration = Duration::from_secs(2);
/// How long the watcher may look at one subject, which takes some hundred microseconds, or as long as it takes to swap
/// a few pages in. A subject can see to it that it takes for ever: its command line may lie on a page that FUSE never
/// brings. Until then nothing is put back.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// Why a worker does not get to work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No policies to work with.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No trail.
    #[error(transparent)]
    Logger(#[from] LoggerError),
    /// A thread, a signal handler, a descriptor.
    #[error("cannot set up {what}: {source}")]
    Resource {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn resource(what: &'static str) -> impl Fn(io::Error) -> WorkerError {
    move |source| WorkerError::Resource { what, source }
}

/// Everything a worker has, once it is up.
pub(crate) struct Worker {
    options: RunOptions,
    page: &'static SharedPage,
    shared: Arc<Shared>,
    logger: LoggerHandle,
    policies: Mutex<policies::Loader>,
    /// Held while marks are placed or taken off: reload and watcher take turns.
    marking: Mutex<()>,
    /// What is protected on paper only, from the last walk.
    unmarked: Mutex<Vec<(PathBuf, String)>>,
    /// What the watcher keeps.
    account: Arc<Account>,
    proc: Proc,
}

/// The body of a worker process; its exit code.
pub fn main(inheritance: &Inheritance) -> u8 {
    let page = inheritance.page;
    page.add_own_thread(thread::gettid());
    thread::set_name(c"writegate-work");
    // Without the right to it the gate is slower when memory is short, and otherwise the same.
    let _ = process::stay_in_memory();
    // If the supervisor dies, the worker goes on alone: an open gate would be worse.
    thread::on_parent_death(signals::SUPERVISOR_DIED);
    match start(inheritance) {
        Ok((worker, signals, watching)) => {
            control::serve(&worker, &inheritance.control, &signals);
            if let Some(watching) = watching {
                watching.finish(WATCH_PATIENCE);
            }
            let stopped = worker.logger.stop("asked to stop", LOG_PATIENCE);
            if !stopped.complete {
                tracing::error!(unwritten = stopped.unwritten, "the audit log is not complete");
            }
            0
        }
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            1
        }
    }
}

fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

type Started = (Arc<Worker>, signals::Signals, Option<watcher::Watching>);

fn start(inheritance: &Inheritance) -> Result<Started, WorkerError> {
    let page = inheritance.page;
    let options = inheritance.options.clone();
    let signals = signals::Signals::install().map_err(resource("signal handlers"))?;
    let restarted = page.restarts.load(Relaxed) > 0;
    let mut loader = policies::Loader::new(inheritance).map_err(resource("the policy store"))?;
    let first = loader.first(restarted)?;
    let (audit, drain) = audit_queue();
    let config = LoggerConfig {
        path: options.audit_log.clone(),
        format: options.audit_format,
        context: Context::of_this_place(options.labels.clone()),
    };
    let logger = Logger::spawn(config, drain, move || page.add_own_thread(thread::gettid()))?;
    let snapshot = Arc::clone(&first.snapshot);
    let shared = Arc::new(Shared {
        page,
        groups: inheritance.groups.try_clone().map_err(resource("the groups"))?,
        in_force: InForceCell::new(first),
        table: MarkTable::default(),
        creations: Creations::new(page),
        audit,
        notes: Arc::default(),
        starting: Starting::default(),
        stream: Stream::default(),
        opened: Opened::default(),
    });
    let worker = Arc::new(Worker {
        options,
        page,
        shared,
        logger,
        policies: Mutex::new(loader),
        marking: Mutex::default(),
        unmarked: Mutex::default(),
        account: Arc::default(),
        proc: Proc::open().map_err(resource("/proc"))?,
    });
    if worker.options.mode == Mode::Enforce {
        threads::start_responders(&worker).map_err(resource("responders"))?;
        page.take_queue_over();
    }
    let mounts = watcher::mounts(&worker).map_err(resource("the list of mounts"))?;
    let report = worker.mark(&snapshot, snapshot.generation);
    worker.note_unmarked(report);
    worker.shared.table.complete();
    leftovers::record(&worker.shared);
    let watching = watcher::start(&worker, inheritance, mounts).map_err(resource("the watcher"))?;
    if !restarted {
        holders::record(&worker.shared);
    }
    page.set_stage(Stage::Ready);
    let (directories, files) = worker.shared.table.len();
    let detail = format!(
        "{} mode, {} policies on {} paths, {directories} directories and {files} files marked",
        worker.options.mode.as_str(),
        snapshot.policies.len(),
        snapshot.trie.len(),
    );
    if restarted {
        worker.logger.worker_replaced(&detail);
    } else {
        worker.logger.started(&snapshot, &detail);
        tracing::info!("{detail}");
    }
    process::give_back_memory();
    Ok((worker, signals, watching))
}

impl Worker {
    /// Places the marks of a snapshot.
    fn mark(&self, snapshot: &crate::policy::snapshot::Snapshot, walk: u64) -> Report {
        self.mark_writers(snapshot);
        Marker { groups: &self.shared.groups, table: &self.shared.table, snapshot, walk }.mark_all()
    }

    /// Who executes a writer is seen, wherever its program lies.
    fn mark_writers(&self, snapshot: &crate::policy::snapshot::Snapshot) {
        let Some(gate) = &self.shared.groups.gate else { return };
        for path in snapshot.writers.iter().flat_map(|writer| &writer.exe) {
            let bytes = path.as_os_str().as_bytes();
            if snapshot.rule_for(bytes).is_none()
                && let Ok(name) = CString::new(bytes)
            {
                // One that is not there cannot run.
                let _ = gate.mark_add(Mask::OPEN_PERM, &name);
            }
        }
    }

    fn note_unmarked(&self, report: Report) {
        for unmarked in &report.unmarked {
            tracing::warn!(path = %unmarked.path.display(), error = %unmarked.error, "not covered");
        }
        *self.unmarked.lock() =
            report.unmarked.into_iter().map(|unmarked| (unmarked.path, unmarked.error.to_string())).collect();
    }

    /// Ends a worker whose watcher hangs: the next one leaves the memory of that subject alone.
    fn look_at_watcher(&self) {
        if self.account.looking_for() > LOOK_PATIENCE {
            give_up("the watcher hangs at a subject that does not let itself be read");
        }
        if self.account.resting_for(&self.proc) > STALL_PATIENCE {
            give_up("the watcher hangs at a file that does not let itself be looked at");
        }
    }

    /// Reads the policies again; with an error the old ones stay in force.
    fn reload(&self) -> Result<u64, PolicyError> {
        let mut loader = self.policies.lock();
        let old = self.shared.in_force.load().1;
        match loader.reload(old.snapshot.generation + 1) {
            Ok((next, sources)) => {
                let snapshot = Arc::clone(&next.snapshot);
                let _one_at_a_time = loop {
                    match self.marking.try_lock_for(LOOK_PATIENCE) {
                        Some(guard) => break guard,
                        None => self.look_at_watcher(),
                    }
                };
                // New marks before the swap, old marks off after it: at no moment is less covered than both say.
                let report = self.mark(&snapshot, snapshot.generation);
                self.shared.in_force.replace(next);
                Marker {
                    groups: &self.shared.groups,
                    table: &self.shared.table,
                    snapshot: &snapshot,
                    walk: snapshot.generation,
                }
                .remove_stale();
                self.note_unmarked(report);
                loader.keep(&sources, snapshot.generation);
                drop(sources);
                process::give_back_memory();
                let detail = format!("{} policies in force", snapshot.policies.len());
                self.logger.reloaded(&snapshot, &detail);
                Ok(snapshot.generation)
            }
            Err(error) => {
                self.logger.reload_failed(&format!("{}; the old policies stay in force", one_line(&error)));
                Err(error)
            }
        }
    }
}

/// Ends a process that can do no more good: the supervisor makes another.
fn give_up(why: &str) -> ! {
    eprintln!("writegate: {why}");
    process::ignore_signal(libc::SIGTERM);
    thread::exit_now(101)
}
