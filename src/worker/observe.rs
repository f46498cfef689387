//! Observe mode: what enforce would have refused, seen after the fact.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::access::{Access, Mutation};
use crate::audit::record::Kind;
use crate::event::Notification;
use crate::gate::Shared;
use crate::subject::{Verifier, capture};
use crate::sys::clock;
use crate::sys::proc::{Proc, TaskCache};
use crate::verdict::{Change, Outcome, decide, writers_that_matter};

/// Which change a bit of the mask stands for. A close after writing stands for the open that enforce would have
/// refused; a modification shows it before the close.
const CHANGES: [(u64, Change, Change); 7] = [
    (libc::FAN_CREATE, Change::Access(Access::Create), Change::Mutation(Mutation::Mkdir)),
    (libc::FAN_MODIFY, Change::Access(Access::Write), Change::Access(Access::Write)),
    (libc::FAN_CLOSE_WRITE, Change::Access(Access::Write), Change::Access(Access::Write)),
    (libc::FAN_DELETE, Change::Mutation(Mutation::Unlink), Change::Mutation(Mutation::Unlink)),
    (libc::FAN_MOVED_FROM, Change::Mutation(Mutation::Rename), Change::Mutation(Mutation::Rename)),
    (libc::FAN_MOVED_TO, Change::Mutation(Mutation::Rename), Change::Mutation(Mutation::Rename)),
    (libc::FAN_ATTRIB, Change::Mutation(Mutation::Chmod), Change::Mutation(Mutation::Chmod)),
];

/// Turns notifications into records.
#[derive(Default)]
pub struct Observer {
    verifier: Verifier,
    parents: TaskCache,
    /// A modification and the close after it are one write.
    last_write: Option<(i32, Vec<u8>)>,
}

impl Observer {
    /// Records every change of `path` in `notification` that the policies in force would not let pass.
    pub fn record(&mut self, shared: &Shared, proc: &Proc, path: &Path, notification: &Notification<'_>) {
        let in_force = shared.in_force.load().1;
        let snapshot = &in_force.snapshot;
        let path = path.as_os_str().as_bytes();
        let Some(rule) = snapshot.rule_for(path) else { return };
        for (bit, of_file, of_directory) in CHANGES {
            if notification.mask & bit == 0 {
                continue;
            }
            let change = if notification.mask & libc::FAN_ONDIR == 0 { of_file } else { of_directory };
            if change == Change::Access(Access::Write) && self.is_repeated(notification.tid, path) {
                continue;
            }
            let matter = writers_that_matter(snapshot, rule, change);
            let trusted =
                self.verifier.verify(snapshot, &in_force.writers, proc, notification.tid, matter).writers;
            let verdict = decide(snapshot, rule, change, trusted);
            if verdict.outcome == Outcome::Allow {
                continue;
            }
            let Some(mut record) = shared.audit.take(verdict.policy, snapshot.generation) else { continue };
            record.kind = Kind::Audit;
            record.time_ns = clock::realtime_ns();
            record.what = change.into();
            record.detail = record.push_text(if verdict.outcome == Outcome::Deny {
                b"observe mode: enforce mode would have refused or undone this"
            } else {
                b"observe mode: the policy audits this"
            });
            record.reason = Some(verdict.reason);
            record.snapshot = Some(Arc::clone(snapshot));
            record.policy = verdict.policy;
            record.path = record.push_text(path);
            capture::capture(&mut record, proc, &mut self.parents, notification.tid);
            shared.audit.offer(record);
        }
    }

    fn is_repeated(&mut self, tid: i32, path: &[u8]) -> bool {
        let same = self.last_write.as_ref().is_some_and(|(last, of)| *last == tid && of == path);
        if same {
            // The close ends it: the next write of the same thread is another one.
            self.last_write = None;
        } else {
            self.last_write = Some((tid, path.to_vec()));
        }
        same
    }
}
