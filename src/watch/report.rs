//! Records of what the watch saw and did.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use crate::audit::json;
use crate::audit::queue::AuditQueue;
use crate::audit::record::{Kind, Object, ObjectKind, Record, What};
use crate::heal::{Action, Did};
use crate::policy::snapshot::Snapshot;
use crate::subject::capture;
use crate::subject::lineage::Lineage;
use crate::sys::proc::{Proc, TaskCache};
use crate::sys::{clock, reach};
use crate::verdict::{Change, Verdict};

/// The watcher may wait for the logger, nobody waits for the watcher: so often, and so long each time, before a
/// record is given up and counted as lost.
const POOL_TRIES: u32 = 100;
const POOL_WAIT: Duration = Duration::from_millis(1);

/// Writes records.
pub struct Reporter {
    audit: AuditQueue,
    account: Arc<Account>,
    parents: TaskCache,
    /// Subjects' memory is not read.
    pub spare_memory: bool,
}

/// What a record is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The policies that were asked.
    pub snapshot: &'a Arc<Snapshot>,
    /// What they said.
    pub verdict: Verdict,
    /// What was done.
    pub change: Change,
    /// Where.
    pub path: &'a Path,
    /// Who; 0: not known.
    pub tid: i32,
}

/// Of whom nothing but his number and his forebears is left.
const GONE: &[u8] = b"who did it was gone when this was read";

impl Reporter {
    /// Onto this queue.
    pub fn new(audit: AuditQueue, account: Arc<Account>) -> Self {
        Self { audit, account, parents: TaskCache::default(), spare_memory: false }
    }

    /// A record about `about`, with all that can still be known of its subject.
    pub fn open(&mut self, proc: &Proc, lineage: &Lineage, about: About<'_>) -> Option<Box<Record>> {
        let About { snapshot, verdict, change, path, tid } = about;
        let mut record = self.take(verdict.policy, snapshot.generation)?;
        record.kind = Kind::Detected;
        record.time_ns = clock::realtime_ns();
        record.what = change.into();
        record.reason = Some(verdict.reason);
        record.snapshot = Some(Arc::clone(snapshot));
        record.policy = verdict.policy;
        record.path = record.push_text(path.as_os_str().as_bytes());
        if tid > 0 {
            let _look = self.account.look();
            let capture = if self.spare_memory { capture::identity } else { capture::capture };
            capture(&mut record, proc, &mut self.parents, tid);
            if is_gone(&record) {
                capture::departed(&mut record, proc, &mut self.parents, &lineage.forebears(tid));
            }
        }
        Some(record)
    }

    fn take(&self, policy: Option<u16>, generation: u64) -> Option<Box<Record>> {
        for _ in 0..POOL_TRIES {
            if self.audit.pool().free() > 0 {
                break;
            }
            std::thread::sleep(POOL_WAIT);
        }
        self.audit.take(policy, generation)
    }

    /// Hands a record over.
    pub fn send(&self, mut record: Box<Record>) {
        if is_gone(&record) {
            // What was dropped stands at the end of a detail, and stays there.
            let said = match (record.text(record.detail), record.reason) {
                (b"", Some(reason)) => [reason.as_str().as_bytes(), GONE],
                (detail, _) => [GONE, detail],
            };
            let said = said.join(&b"; "[..]);
            record.detail = record.push_text(&said);
        }
        self.audit.offer(record);
    }

    /// Gives back a record that nothing came of.
    pub fn forget(&self, mut record: Box<Record>) {
        record.clear();
        self.audit.pool().give_back(record);
    }

    /// The subject of a record, for the note in the quarantine.
    pub fn subject_of(record: &Record) -> serde_json::Value {
        json::subject_value(record)
    }
}

/// Whether nothing of the subject could be read any more.
const fn is_gone(record: &Record) -> bool {
    record.subject.tid > 0 && record.subject.uid < 0
}

/// Fills in what was done; `event_ns`: since the event was read.
pub fn describe(record: &mut Record, action: &Action, event_ns: u64) {
    record.kind = if action.healed() { Kind::Healed } else { Kind::Detected };
    if let Some(part) = action.metadata.filter(|_| action.did == Did::Metadata) {
        record.what = What::Mutation(part);
    }
    if action.healed() {
        record.response.healed_ns = event_ns.max(1);
    }
    if let Some(id) = &action.quarantine {
        record.response.quarantine = record.push_text(id.as_bytes());
    }
    record.response.blake3 = action.blake3;
    let detail = detail(action);
    if !detail.is_empty() {
        record.detail = record.push_text(detail.as_bytes());
    }
    if let Ok(metadata) = reach::metadata(&action.path) {
        use std::os::unix::fs::MetadataExt;
        record.object =
            Object { dev: metadata.dev(), ino: metadata.ino(), kind: ObjectKind::from_mode(metadata.mode()) };
    }
}

fn detail(action: &Action) -> String {
    let mut text = match &action.did {
        Did::Failed(failure) => format!("not put back: {failure}"),
        Did::Escalated { heals } => {
            format!(
                "a fight: put back {heals} times in {} s, and it goes on",
                crate::heal::fight::WINDOW.as_secs()
            )
        }
        _ => String::new(),
    };
    let mut add = |more: String| {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&more);
    };
    if let Some(failure) = action.incomplete {
        add(format!("the name is put back, not all of it: {failure}"));
    }
    if let Some(failure) = action.evidence_lost {
        add(format!("what stood here could not be kept: {failure}"));
    }
    if !action.dropped.is_empty() {
        add(format!("the quarantine is full, dropped: {}", action.dropped.join(" ")));
    }
    text
}
