//! What became of a notification: accepted, put back, or reported.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::Keeper;
use super::conclude::{governing, name_of_change};
use crate::access::Mutation;
use crate::heal::{Action, Content, Duty, Hint, Known};
use crate::policy::snapshot::{Rule, Snapshot, WriterMask};
use crate::sys::file::Identity;
use crate::sys::reach;
use crate::verdict::{Change, Outcome, Verdict, decide, writers_that_matter};
use crate::watch::duty::duty_at;
use crate::watch::incident::Incident;
use crate::watch::report::{About, Reporter};

impl Keeper {
    /// Judges one notification and has its consequences.
    pub fn take(&mut self, mut incident: Incident) {
        if self.is_in_store(&incident.path) {
            self.vault_disturbed = true;
            return self.report_tampering(&incident);
        }
        // Of several names the kernel tells any: the vault's own says nothing of where the other went.
        incident.now = incident.now.filter(|now| !self.is_in_store(now));
        let Some(incident) = self.put_off(incident) else { return };
        self.judge(&incident);
        if incident.appeared() && incident.mask & libc::FAN_ONDIR != 0 {
            self.catch_up_below(&incident);
        }
    }

    /// A directory above protected names has appeared, and what came into it before it was marked was not reported.
    fn catch_up_below(&mut self, incident: &Incident) {
        let snapshot = self.snapshot();
        for root in snapshot.roots_below(&incident.path).filter(|root| root.path != incident.path) {
            if self.healer.inventory().get(root.path).is_some() {
                continue;
            }
            if reach::metadata(root.path).is_ok_and(|found| found.is_dir()) {
                self.begin(root.path);
            } else {
                let mask = libc::FAN_MOVED_TO;
                let path = root.path.to_owned();
                let (tid, when) = (incident.tid, incident.when);
                self.judge(&Incident { mask, tid, when, path, now: None, target: None });
            }
        }
    }

    pub(super) fn judge(&mut self, incident: &Incident) {
        let snapshot = self.snapshot();
        let Some(rule) = governing(&snapshot, &incident.path) else { return };
        let expected = self.healer.inventory().get(&incident.path).is_some();
        if !expected && (is_only_above(&snapshot, &incident.path) || is_awaited(&snapshot, rule, incident)) {
            return self.begin(&incident.path);
        }
        let pending = !incident.appeared() && !expected && self.is_pending(&incident.path);
        let change = incident.change(expected);
        let verdict = decide(&snapshot, rule, change, WriterMask::NONE);
        if verdict.outcome == Outcome::Allow {
            // What is still to be learned is learned as it is then.
            if !pending {
                self.accept(incident);
            }
            return;
        }
        let matter = writers_that_matter(&snapshot, rule, change);
        let in_force = Arc::clone(&self.in_force.1);
        let trusted = {
            let _look = self.account.look();
            self.trust.of(&in_force, &self.proc, incident.tid, matter, incident.when)
        };
        let verdict = decide(&snapshot, rule, change, trusted);
        if verdict.outcome == Outcome::Allow {
            self.trusted_at = Some(Instant::now());
            if !pending {
                self.accept(incident);
            }
            return;
        }
        if incident.only_closed() {
            return;
        }
        if pending {
            // Nobody knows how it was.
            let (path, tid) = (&incident.path, incident.tid);
            return self.report(About { snapshot: &snapshot, verdict, change, path, tid });
        }
        self.answer(incident, &snapshot, verdict, change);
    }

    /// Somebody who may has changed something.
    fn accept(&mut self, incident: &Incident) {
        let path = &incident.path;
        let snapshot = self.snapshot();
        let duty = duty_at(&snapshot, path);
        if duty == Duty::NONE {
            return;
        }
        if incident.only_written() {
            if duty.content == Content::Fixed {
                self.healer.leave(path.clone());
            }
            return;
        }
        self.healer.leave_no_more(path);
        // It is gone again already. What is expected stays until it is known who took it away.
        if incident.appeared() && !incident.went() && is_missing(path) {
            return;
        }
        // Somebody else has put another object here since, which will be reported: that one was not his to make right.
        if !incident.went() && incident.target.is_some_and(|target| !is_named(path, target)) {
            return;
        }
        if incident.mask & libc::FAN_MOVED_FROM != 0
            && let Some(now) = &incident.now
            && duty_at(&snapshot, now) != Duty::NONE
        {
            let learned = self.healer.renamed(path, now);
            return self.mark(learned);
        }
        // Nothing else tells what went in a directory that is gone itself: no handle leads there any more.
        let replaced = incident.took_directory();
        if replaced {
            self.healer.forget(path);
        }
        let content = if incident.written() { Known::No } else { Known::IfAlike };
        match self.healer.learn(path, content) {
            Ok(learned) => {
                let is_directory = learned.as_ref().is_some_and(|learned| learned.inode.is_dir());
                self.mark(learned);
                if is_directory && (incident.appeared() || replaced) {
                    self.begin(path);
                }
            }
            Err(failure) => {
                tracing::warn!(path = %path.display(), %failure, "a change is not in the inventory");
            }
        }
    }

    /// Somebody who may not has changed something: it is put back, or reported.
    fn answer(&mut self, incident: &Incident, snapshot: &Arc<Snapshot>, verdict: Verdict, change: Change) {
        let path = &incident.path;
        let change = name_of_change(incident, change);
        let duty = duty_at(snapshot, path);
        let about = About { snapshot, verdict, change, path, tid: incident.tid };
        if duty == Duty::NONE || verdict.outcome != Outcome::Deny {
            // What was opened the gate has judged and recorded.
            if !matches!(change, Change::Access(_)) || verdict.outcome == Outcome::Deny && incident.written()
            {
                self.report(about);
            }
            return;
        }
        if self.has_learned_what_appeared(incident) {
            self.healer.forget(path);
        }
        // Not what is in a writer's hands only: tried again later, it is put back too.
        if incident.hint() == crate::heal::Change::Modified {
            self.healer.leave_no_more(path);
        }
        let record = self.reporter.open(&self.proc, self.trust.lineage(), about);
        let subject = record.as_deref().map_or(serde_json::Value::Null, Reporter::subject_of);
        let hint = Hint { change: incident.hint(), appeared: incident.appeared(), subject };
        let actions = match incident.now.as_deref().filter(|_| change == Change::Mutation(Mutation::Link)) {
            Some(name) => self.undo_link(path, name, &hint),
            None => self.healer.reconcile(path, &hint),
        };
        self.conclude(actions, record, Some(about));
    }

    /// Whether the object that appeared was learned with its directory while its own notification was still under way.
    fn has_learned_what_appeared(&self, incident: &Incident) -> bool {
        let path = &incident.path;
        let learned = self.healer.inventory().get(path).map(|expected| expected.id);
        incident.appeared() && self.fresh.contains(path) && learned.is_some() && learned == incident.target
    }

    /// Other names of a protected file go, and those that cannot be found are counted.
    fn undo_link(&mut self, path: &Path, name: &Path, hint: &Hint) -> Vec<Action> {
        let mut actions = self.healer.take_links_away(path, name);
        actions.extend(self.healer.reconcile(path, hint));
        actions.extend(self.healer.count_names(path));
        actions
    }

    /// A protected file's number of names has changed: perhaps it was the vault's that went. With the vault's directory
    /// gone, nothing else tells.
    pub fn check_held(&mut self, id: Identity) {
        let vault = self.healer.vault();
        self.vault_disturbed |= vault.vault_links(id) > 0 && vault.link_of(id).is_none();
    }

    /// The number of names has changed of the protected file at `path`, and `seen` is one of them: the other name, if
    /// there is one that nobody expects; `path` itself if there is and it cannot be told which. The file's own name may
    /// be gone meanwhile, so that the number alone does not say.
    pub fn foreign_link(&self, id: Identity, links: u32, seen: &Path, path: &Path) -> Option<PathBuf> {
        let healer = &self.healer;
        if !healer.is_known_name(seen) && is_named(seen, id) && healer.is_foreign_link(id, links) {
            return Some(seen.to_owned());
        }
        (healer.names_beyond(id, links) > 0).then(|| path.to_owned())
    }

    /// Whether the object has rightly names where no policy keeps anything.
    pub fn has_other_names(&self, id: Identity) -> bool {
        self.healer.vault().others(id) > 0
    }

    /// A responder has taken a refused file away again: the directory is as it was, but for its time.
    pub fn rolled_back(&mut self, path: &Path) {
        if let Some(directory) = path.parent() {
            self.healer.tidy(directory);
        }
    }
}

fn is_named(path: &Path, object: Identity) -> bool {
    let found = reach::metadata(path);
    found.is_ok_and(|found| Identity { dev: found.dev(), ino: found.ino() } == object)
}

fn is_missing(path: &Path) -> bool {
    reach::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether nothing of this directory is kept but that it leads to what is.
fn is_only_above(snapshot: &Snapshot, path: &Path) -> bool {
    snapshot.rule_for(path.as_os_str().as_bytes()).is_none()
}

/// Whether a policy has waited for this path and names nobody who may put something there: then whoever does, does.
fn is_awaited(snapshot: &Snapshot, rule: &Rule, incident: &Incident) -> bool {
    let nobody =
        rule.policies.iter().all(|&index| snapshot.policies[index as usize].writers == WriterMask::NONE);
    nobody
        && incident.appeared()
        && snapshot.roots_below(&incident.path).next().is_some_and(|root| root.path == incident.path)
}
