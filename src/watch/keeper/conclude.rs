//! What was done about it: recorded, and marked where it is new.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Keeper;
use crate::access::{Access, Mutation};
use crate::audit::record::Kind;
use crate::heal::{Action, Did, Failure};
use crate::policy::snapshot::{Rule, Snapshot, WriterMask};
use crate::sys::reach;
use crate::verdict::{Change, Outcome, Reason, Verdict, decide};
use crate::watch::incident::Incident;
use crate::watch::report::{About, describe};

/// How many such failures are remembered before the old ones are forgotten.
const FAILED_MAX: usize = 4096;
/// How often it is told that something still cannot be put right.
const FAILED_AGAIN: Duration = Duration::from_secs(60);

impl Keeper {
    /// Records what was done, and marks what is new.
    pub(super) fn conclude(
        &mut self,
        actions: Vec<Action>,
        mut first: Option<Box<crate::audit::record::Record>>,
        about: Option<About<'_>>,
    ) {
        for action in actions {
            if action.healed() {
                self.shared.page.healed.fetch_add(1, Relaxed);
                if action.new_inode || action.did == Did::Linked {
                    self.mark_anew(&action.path);
                }
            }
            if matches!(action.did, Did::Learned | Did::Deferred(_)) {
                if action.did == Did::Learned {
                    self.mark_anew(&action.path);
                }
                continue;
            }
            if self.is_known_failure(&action) || about.is_none() && is_of_a_mount(&action) {
                continue;
            }
            let record = first.take().or_else(|| {
                let snapshot = self.in_force.1.snapshot.clone();
                let verdict =
                    about.map_or_else(|| standing_verdict(&snapshot, &action.path), |about| about.verdict);
                let change = about.map_or(Change::Mutation(Mutation::Chmod), |about| about.change);
                let tid = about.map_or(0, |about| about.tid);
                let about = About { snapshot: &snapshot, verdict, change, path: &action.path, tid };
                self.reporter.open(&self.proc, self.trust.lineage(), about)
            });
            let Some(mut record) = record else { continue };
            if about.is_none_or(|about| about.path != action.path) {
                record.path = record.push_text(action.path.as_os_str().as_bytes());
            }
            // Who has linked the file and taken its own name away is told of by the link.
            let is_of_link = about.is_some_and(|about| about.change == Change::Mutation(Mutation::Link))
                && matches!(action.did, Did::Linked | Did::Copied | Did::MovedBack);
            if (about.is_none() || is_of_link) && action.metadata.is_none() {
                record.what = word_of(&action);
            }
            describe(&mut record, &action, self.read.elapsed().as_nanos() as u64);
            self.reporter.send(record);
        }
        if let Some(unused) = first {
            self.reporter.forget(unused);
        }
    }

    /// Whether this has failed in the same way a moment ago: it is tried again all the time, and told now and then.
    fn is_known_failure(&mut self, action: &Action) -> bool {
        let Did::Failed(failure) = action.did else {
            self.failed.remove(&action.path);
            return false;
        };
        if self.failed.len() >= FAILED_MAX {
            self.failed.retain(|_, (_, since)| since.elapsed() < FAILED_AGAIN);
        }
        if let Some((known, since)) = self.failed.get(&action.path)
            && *known == failure
            && since.elapsed() < FAILED_AGAIN
        {
            return true;
        }
        self.failed.insert(action.path.clone(), (failure, Instant::now()));
        false
    }

    pub(super) fn report(&mut self, about: About<'_>) {
        let Some(mut record) = self.reporter.open(&self.proc, self.trust.lineage(), about) else { return };
        record.kind = if about.verdict.outcome == Outcome::Audit { Kind::Audit } else { Kind::Detected };
        self.reporter.send(record);
    }

    /// Somebody else was at work in the vault or the quarantine. What the vault lacks is held again; who releases
    /// something from the quarantine is on record here too.
    pub(super) fn report_tampering(&mut self, incident: &Incident) {
        if incident.only_closed() {
            return;
        }
        let snapshot = self.snapshot();
        let verdict = Verdict { outcome: Outcome::Deny, policy: None, reason: Reason::OwnState };
        let (path, tid) = (&incident.path, incident.tid);
        self.report(About { snapshot: &snapshot, verdict, change: incident.change(true), path, tid });
    }
}

/// The rule of `path`; of a directory above protected names that of the first of them.
pub(super) fn governing<'a>(snapshot: &'a Snapshot, path: &Path) -> Option<&'a Rule> {
    snapshot.rule_for(path.as_os_str().as_bytes()).or_else(|| {
        let root = snapshot.roots_below(path).next()?;
        snapshot.rule_for(root.path.as_os_str().as_bytes())
    })
}

/// What the policies say to a change of `path` by nobody in particular.
pub(super) fn standing_verdict(snapshot: &Snapshot, path: &Path) -> Verdict {
    governing(snapshot, path)
        .map_or(Verdict { outcome: Outcome::Allow, policy: None, reason: Reason::NotProtected }, |rule| {
            decide(snapshot, rule, Change::Mutation(Mutation::Chmod), WriterMask::NONE)
        })
}

/// The word for what has come to be: the kernel says only that it did.
pub(super) fn name_of_change(incident: &Incident, change: Change) -> Change {
    if change != Change::Access(Access::Create) {
        return change;
    }
    let Ok(found) = reach::metadata(&incident.path) else { return change };
    let kind = found.file_type();
    if kind.is_symlink() {
        Change::Mutation(Mutation::Symlink)
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        Change::Mutation(Mutation::Mknod)
    } else if incident.mask & libc::FAN_MOVED_TO != 0 {
        Change::Mutation(Mutation::Rename)
    } else if found.nlink() > 1 {
        Change::Mutation(Mutation::Link)
    } else {
        change
    }
}

/// Whether a mount is all that is in the way: that is on record itself, and not for each name that it hides.
const fn is_of_a_mount(action: &Action) -> bool {
    matches!(action.did, Did::Failed(Failure::MountedOver | Failure::NotMounted))
}

/// The word for what was found to have happened, where nobody reported it.
fn word_of(action: &Action) -> crate::audit::record::What {
    use crate::audit::record::What;
    What::Mutation(match action.did {
        Did::Linked | Did::Copied | Did::Made => Mutation::Unlink,
        Did::MovedBack => Mutation::Rename,
        Did::Unlinked => Mutation::Link,
        Did::Content => return What::Access(Access::Write),
        Did::Removed => return What::Access(Access::Create),
        _ => Mutation::Chmod,
    })
}
