//! The logger thread: drains the queue, numbers and encodes, appends to the trail.
//!
//! It is the only thread that writes the trail. While the disk refuses, it keeps its one batch and tries again;
//! the queue fills, what does not fit is counted, and the count is written as `lost` records afterwards.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::context::Context;
use super::queue::{AuditDrain, Shared};
use super::record::{Kind, Record};
use super::text::now_ns;
use super::trail::Trail;
use super::writer::{Command, Event, Writer};
use super::{json, kubearmor};
use crate::policy::snapshot::Snapshot;

/// Lifecycle records and flushes that wait while the disk stalls. They come a few a minute.
pub(super) const COMMANDS: usize = 64;

/// How much longer than its deadline a stop waits for a thread that hangs in the kernel.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// `--audit-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The record of docs/audit-record.md.
    #[default]
    Native,
    /// The same under `KubeArmor`'s field names.
    KubeArmor,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "native" => Ok(Self::Native),
            "kubearmor" => Ok(Self::KubeArmor),
            _ => Err(format!("no audit format is called {word:?}; there are native and kubearmor")),
        }
    }
}

impl Format {
    /// Appends `record` as one line to `out`. On an error `out` is as before.
    pub fn encode(
        self,
        record: &Record,
        seq: u64,
        context: &Context,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        match self {
            Self::Native => json::encode(record, seq, context, out),
            Self::KubeArmor => kubearmor::encode(record, seq, context, out),
        }
    }
}

/// What the logger needs to know.
#[derive(Debug, Clone)]
pub struct LoggerConfig {
    /// The trail. Its directory is made with mode 0700 if need be, the file with 0600.
    pub path: PathBuf,
    /// Of its lines.
    pub format: Format,
    /// What is the same for every record.
    pub context: Context,
}

/// Why there is no logger.
#[derive(Debug, thiserror::Error)]
pub enum LoggerError {
    /// The trail cannot be opened.
    #[error("failed to open the audit log {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread.
    #[error("failed to start the logger thread")]
    Thread(#[source] io::Error),
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Everything is in the trail and synced.
    pub complete: bool,
    /// Records known to be missing.
    pub unwritten: u64,
}

/// Starts the thread.
pub struct Logger;

/// The other threads' way to the logger. Shared by reference; dropping it without [`LoggerHandle::stop`] makes
/// the thread write what is queued and end.
pub struct LoggerHandle {
    commands: Sender<Command>,
    finished: Receiver<Stopped>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

impl Logger {
    /// Opens the trail and starts the thread, which calls `on_thread_start` first: there the caller notes its
    /// thread id, because the gate lets its own threads pass. The calling thread must be let pass too.
    pub fn spawn(
        config: LoggerConfig,
        drain: AuditDrain,
        on_thread_start: impl FnOnce() + Send + 'static,
    ) -> Result<LoggerHandle, LoggerError> {
        let (trail, end) = Trail::open(&config.path, Instant::now())
            .map_err(|source| LoggerError::Open { path: config.path.clone(), source })?;
        let (commands, inbox) = bounded(COMMANDS);
        let (finish, finished) = bounded(1);
        let shared = Arc::clone(&drain.shared);
        let writer = Writer::new(config, drain, inbox, trail, end);
        let body = move || {
            on_thread_start();
            let stopped = writer.run();
            let _ = finish.send(stopped);
        };
        let thread = thread::Builder::new()
            .name("writegate-log".to_owned())
            .spawn(body)
            .map_err(LoggerError::Thread)?;
        Ok(LoggerHandle { commands, finished, thread: Mutex::new(Some(thread)), shared })
    }
}

impl LoggerHandle {
    /// Writes `started`; call it once the gate is up. `detail` is the record's `reason`.
    pub fn started(&self, snapshot: &Arc<Snapshot>, detail: &str) {
        self.event(Kind::Started, detail, Some(Arc::clone(snapshot)));
    }

    /// Writes `reloaded`.
    pub fn reloaded(&self, snapshot: &Arc<Snapshot>, detail: &str) {
        self.event(Kind::Reloaded, detail, Some(Arc::clone(snapshot)));
    }

    /// Writes `reload-failed`: `detail` says what is wrong and that the old snapshot stays in force.
    pub fn reload_failed(&self, detail: &str) {
        self.event(Kind::ReloadFailed, detail, None);
    }

    /// Writes `detected`: the gate itself can do less than it should, and why.
    pub fn degraded(&self, detail: &str) {
        self.event(Kind::Detected, detail, None);
    }

    /// Writes `lost`: the kernel had no memory for notifications; everything is looked at again.
    pub fn notifications_lost(&self) {
        self.event(Kind::Lost, "notifications of changes: every protected name is looked at again", None);
    }

    /// Writes `worker-replaced`.
    pub fn worker_replaced(&self, detail: &str) {
        self.event(Kind::WorkerReplaced, detail, None);
    }

    /// Never blocks: with [`COMMANDS`] waiting it is counted as a loss.
    fn event(&self, kind: Kind, detail: &str, snapshot: Option<Arc<Snapshot>>) {
        let event = Event { kind, time_ns: now_ns(), detail: detail.to_owned(), snapshot };
        if self.commands.try_send(Command::Event(event)).is_err() {
            self.shared.losses.count(None, 0);
        }
    }

    /// Waits until all that is queued now is in the trail and synced, `within` at most; `false`: it is not.
    pub fn flush(&self, within: Duration) -> bool {
        let (done, answer) = bounded(1);
        let deadline = Instant::now() + within;
        self.commands.send_deadline(Command::Flush { done }, deadline).is_ok()
            && answer.recv_deadline(deadline).is_ok()
    }

    /// Writes what is queued and then `stopped`, syncs, and ends the thread, `within` at most. Stop the
    /// responders first. A thread that hangs in the kernel is left behind.
    pub fn stop(&self, detail: &str, within: Duration) -> Stopped {
        let deadline = Instant::now() + within;
        let stop = Command::Stop { detail: detail.to_owned(), deadline };
        let sent = self.commands.send_deadline(stop, deadline).is_ok();
        let finished = if sent { self.finished.recv_deadline(deadline + STOP_GRACE).ok() } else { None };
        match (finished, self.thread.lock().take()) {
            (Some(stopped), Some(thread)) => {
                let joined = thread.join().is_ok();
                Stopped { complete: stopped.complete && joined, ..stopped }
            }
            _ => Stopped { complete: false, unwritten: 0 },
        }
    }
}
