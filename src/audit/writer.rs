//! The body of the logger thread: one loop that drains, encodes, writes, syncs and answers.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender};

use super::context::Context;
use super::logger::{COMMANDS, Format, LoggerConfig, Stopped};
use super::queue::{AuditDrain, Loss};
use super::record::{Kind, Record};
use super::text::now_ns;
use super::trail::{End, Progress, Torn, Trail};
use crate::policy::snapshot::Snapshot;

/// One `write(2)` takes at most this many records: they are given back together, and a denial is on disk soon.
const BATCH_RECORDS: usize = 128;

/// … and stops growing at this size, because a record of 48 KiB of hostile bytes becomes 400 KiB of text.
const BATCH_BYTES: usize = 256 * 1024;

/// Snapshots kept to name the policies of late losses.
const SNAPSHOTS: usize = 4;

/// How long a logger whose handle was dropped goes on trying.
const UNASKED_STOP: Duration = Duration::from_secs(2);

/// Something that became of the gate itself.
pub(super) struct Event {
    pub kind: Kind,
    pub time_ns: u64,
    pub detail: String,
    pub snapshot: Option<Arc<Snapshot>>,
}

/// What the other threads ask of the logger.
pub(super) enum Command {
    Event(Event),
    Flush { done: Sender<()> },
    Stop { detail: String, deadline: Instant },
}

/// The thread's own state.
pub(super) struct Writer {
    drain: AuditDrain,
    inbox: Receiver<Command>,
    path: PathBuf,
    trail: Trail,
    format: Format,
    context: Context,
    next_seq: u64,
    batch_records: u64,
    /// For records that the logger makes itself.
    scratch: Record,
    snapshots: Vec<Arc<Snapshot>>,
    /// Taken from the inbox while the disk stalled.
    events: VecDeque<Event>,
    flushes: Vec<Sender<()>>,
    stop: Option<Stop>,
}

struct Stop {
    /// For `stopped`; taken when that is encoded.
    detail: Option<String>,
    deadline: Instant,
}

impl Writer {
    pub fn new(
        config: LoggerConfig,
        drain: AuditDrain,
        inbox: Receiver<Command>,
        trail: Trail,
        end: End,
    ) -> Self {
        let LoggerConfig { path, format, context } = config;
        let mut writer = Self {
            drain,
            inbox,
            path,
            trail,
            format,
            context,
            next_seq: end.last_seq.map_or(1, |seq| seq.saturating_add(1)),
            batch_records: 0,
            scratch: Record::default(),
            snapshots: Vec::with_capacity(SNAPSHOTS + 1),
            events: VecDeque::with_capacity(COMMANDS),
            flushes: Vec::new(),
            stop: None,
        };
        if let Some(torn) = end.torn {
            writer.note_torn(torn);
        }
        writer
    }

    /// The thread's body.
    pub fn run(mut self) -> Stopped {
        loop {
            self.wait();
            self.take_commands();
            let mut emptied = false;
            if self.trail.is_written() {
                emptied = self.fill_batch();
                if emptied {
                    self.write_farewell();
                }
            }
            self.write();
            let finished = emptied && self.trail.is_written();
            if finished && !self.flushes.is_empty() {
                let synced = self.sync(true);
                for done in self.flushes.drain(..) {
                    // Dropping it unanswered says that it failed.
                    if synced {
                        let _ = done.send(());
                    }
                }
            }
            if let Some(stop) = &self.stop {
                if finished {
                    return Stopped { complete: self.sync(true), unwritten: 0 };
                }
                if Instant::now() >= stop.deadline {
                    return self.give_up();
                }
            }
        }
    }

    /// Until there is something to do. While a batch cannot be written the queue waits: it is bounded, and what
    /// it cannot take is counted.
    fn wait(&self) {
        let mut deadline = self.trail.next_due();
        let stalled = !self.trail.is_written();
        if let Some(stop) = &self.stop {
            deadline = deadline.min(stop.deadline);
            if stalled {
                thread::sleep(deadline.saturating_duration_since(Instant::now()));
            }
            return;
        }
        let mut select = Select::new();
        select.recv(&self.inbox);
        if !stalled {
            select.recv(&self.drain.receiver);
        }
        let _ = select.ready_deadline(deadline);
    }

    fn take_commands(&mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Event(event)) if self.events.len() < COMMANDS => self.events.push_back(event),
                Ok(Command::Event(_)) => self.drain.shared.losses.count(None, 0),
                Ok(Command::Flush { done }) => self.flushes.push(done),
                Ok(Command::Stop { detail, deadline }) => {
                    self.stop = Some(Stop { detail: Some(detail), deadline });
                }
                Err(error) => {
                    // The handle is gone without a word: write what there is and end.
                    if error.is_disconnected() && self.stop.is_none() {
                        self.stop = Some(Stop { detail: None, deadline: Instant::now() + UNASKED_STOP });
                    }
                    return;
                }
            }
        }
    }

    fn write_event(&mut self, event: Event) {
        self.scratch.kind = event.kind;
        self.scratch.time_ns = event.time_ns;
        if let Some(snapshot) = event.snapshot {
            self.remember(&snapshot);
        }
        self.write_own(event.detail.as_bytes());
    }

    /// Encodes what became of the gate, what is queued, then what was lost; `true` when the queue was emptied.
    fn fill_batch(&mut self) -> bool {
        while let Some(event) = self.events.pop_front() {
            self.write_event(event);
        }
        let mut emptied = false;
        for _ in 0..BATCH_RECORDS {
            if self.trail.batch().len() >= BATCH_BYTES {
                break;
            }
            let Some(record) = self.drain.try_next() else {
                emptied = true;
                break;
            };
            if let Some(snapshot) = &record.snapshot {
                self.remember(snapshot);
            }
            self.encode(&record);
            self.drain.recycle(record);
        }
        let losses: Vec<Loss> = self.drain.take_losses().collect();
        for loss in losses {
            self.write_loss(loss);
        }
        emptied
    }

    /// `stopped`, when it is asked for and everything before it has been encoded.
    fn write_farewell(&mut self) {
        if let Some(detail) = self.stop.as_mut().and_then(|stop| stop.detail.take()) {
            self.scratch.kind = Kind::Stopped;
            self.scratch.time_ns = now_ns();
            self.write_own(detail.as_bytes());
        }
    }

    fn write_loss(&mut self, loss: Loss) {
        self.drain.shared.progress.last_lost_count.store(loss.count, Relaxed);
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.generation as u16 == loss.generation);
        self.scratch.kind = Kind::Lost;
        self.scratch.time_ns = now_ns();
        self.scratch.count = loss.count;
        self.scratch.since_ns = loss.since_ns;
        let detail = match (loss.policy, snapshot) {
            (None, _) => "no room was left for these records".to_owned(),
            (Some(_), Some(snapshot)) => {
                self.scratch.snapshot = Some(Arc::clone(snapshot));
                self.scratch.policy = loss.policy;
                "no room was left for these records of the policy".to_owned()
            }
            (Some(policy), None) => format!("no room was left for these records of policy number {policy}"),
        };
        self.write_own(detail.as_bytes());
    }

    fn note_torn(&mut self, torn: Torn) {
        self.scratch.kind = Kind::Lost;
        self.scratch.time_ns = now_ns();
        self.scratch.count = u64::from(!torn.whole);
        let what = if torn.whole { "it is whole" } else { "its record is lost" };
        let detail = format!("the trail ended in a line of {} bytes without a newline; {what}", torn.bytes);
        self.write_own(detail.as_bytes());
    }

    /// Encodes the scratch record with `detail` as its reason, and clears it.
    fn write_own(&mut self, detail: &[u8]) {
        self.scratch.detail = self.scratch.push_text(detail);
        let seq = self.next_seq;
        let result = self.format.encode(&self.scratch, seq, &self.context, self.trail.batch());
        self.scratch.clear();
        self.encoded(result.is_ok());
    }

    fn encode(&mut self, record: &Record) {
        let result = self.format.encode(record, self.next_seq, &self.context, self.trail.batch());
        if result.is_err() {
            self.drain.shared.losses.count(record.policy, record.generation());
        } else if let id @ [_, ..] = record.text(record.response.quarantine) {
            self.drain.shared.file(String::from_utf8_lossy(id).into_owned(), self.next_seq);
        }
        self.encoded(result.is_ok());
    }

    fn encoded(&mut self, ok: bool) {
        if ok {
            self.next_seq += 1;
            self.batch_records += 1;
        }
    }

    fn remember(&mut self, snapshot: &Arc<Snapshot>) {
        if self.snapshots.iter().any(|known| known.generation == snapshot.generation) {
            return;
        }
        self.snapshots.insert(0, Arc::clone(snapshot));
        self.snapshots.truncate(SNAPSHOTS);
    }

    fn write(&mut self) {
        let now = Instant::now();
        let shared = Arc::clone(&self.drain.shared);
        let progress = &shared.progress;
        match self.trail.follow_rotation(now) {
            Ok(true) => {
                tracing::info!(path = %self.path.display(), "the audit log was moved; a new one is open");
            }
            Ok(false) => {}
            Err(error) => self.complain("reopen", &error),
        }
        let stalled = self.trail.last_error().is_some();
        match self.trail.write(now) {
            Progress::Written => {
                progress.written.fetch_add(std::mem::take(&mut self.batch_records), Relaxed);
                if stalled {
                    progress.stalled.store(false, Relaxed);
                    tracing::warn!(path = %self.path.display(), "the audit log can be written again");
                }
            }
            Progress::Waiting => {}
            Progress::Failed => {
                progress.write_errors.fetch_add(1, Relaxed);
                progress.stalled.store(true, Relaxed);
                // Once each time it begins, not at every try.
                if let (false, Some(error)) = (stalled, self.trail.last_error()) {
                    tracing::error!(path = %self.path.display(), %error,
                        "failed to write the audit log; records are kept and then counted until it works");
                }
            }
        }
        self.sync(false);
    }

    fn sync(&mut self, force: bool) -> bool {
        let result = self.trail.sync(Instant::now(), force);
        if let Err(error) = &result {
            self.complain("sync", error);
        }
        result.is_ok()
    }

    fn complain(&self, what: &str, error: &io::Error) {
        self.drain.shared.progress.write_errors.fetch_add(1, Relaxed);
        tracing::error!(path = %self.path.display(), %error, "failed to {what} the audit log");
    }

    /// The deadline has passed: counts what is lost for good.
    fn give_up(&mut self) -> Stopped {
        let mut unwritten = self.trail.waiting_lines() + self.drain.receiver.len() as u64;
        unwritten += self.drain.take_losses().map(|loss| loss.count).sum::<u64>();
        tracing::error!(path = %self.path.display(), unwritten, "the audit log could not be completed in time");
        self.sync(true);
        Stopped { complete: false, unwritten }
    }
}
