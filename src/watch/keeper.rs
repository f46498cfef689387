//! Keeps the protected trees as they should be: judges what happened, and has it put right or accepted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::account::{Account, UNHELD_TOLD};
use super::duty::{duties, duty_at};
use super::incident::Incident;
use super::journal::Journal;
use super::mounts::Covered;
use super::report::{About, Reporter, describe};
use super::trust::Trust;
use crate::access::{Access, Mutation};
use crate::audit::queue::Filed;
use crate::audit::record::Kind;
use crate::classify;
use crate::gate::{InForce, Shared};
use crate::heal::{
    Action, Bounds, Content, Did, Duty, Failure, Healer, Hint, Inventory, Known, Learned, Limits, Quarantine,
    Vault,
};
use crate::marks::{Marker, Report, Wanted, Written};
use crate::policy::snapshot::{Rule, Snapshot, WriterMask};
use crate::subject::lineage::Notes;
use crate::sys::directory;
use crate::sys::file::Identity;
use crate::sys::proc::Proc;
use crate::verdict::{Change, Outcome, Reason, Verdict, decide, writers_that_matter};

/// Copies are what content is restored from; the gate keeps content from changing, so they are for what slips by and
/// bounded accordingly: a file up to here …
const COPY_FILE_BYTES: u64 = 4 << 20;
/// … and all of them together.
const COPY_TOTAL_BYTES: u64 = 256 << 20;
/// A tree of so many names is known before the gate says that it is ready; the rest of a larger one is learned
/// behind that, so that start is not slowed down.
const NAMES_BEFORE_READY: usize = 2000;
/// How often the patrol looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked whether a new file's maker has left its open(2).
const OPENING_EVERY: Duration = Duration::from_millis(1);
/// Names that one look of the patrol takes: half a millisecond.
const PATROL_NAMES: usize = 256;
/// Notes of the quarantine that get their record's number between two looks at the notifications: a millisecond.
const FILED_AT_ONCE: usize = 16;
/// Roots that are begun between two looks at the notifications.
const ROOTS_AT_ONCE: usize = 64;
/// Trusted writers' changes without notification (chattr) are not patrolled away so soon after they were at work.
const AFTER_TRUSTED: Duration = Duration::from_secs(2);
/// A file that a trusted writer holds open is not judged by its content for so long.
const FLUID: Duration = Duration::from_secs(60);
/// How often the vault is put right when somebody goes on removing from it.
const REHOLD_EVERY: Duration = Duration::from_secs(1);
/// How often it is told that something still cannot be put right.
const FAILED_AGAIN: Duration = Duration::from_secs(60);
/// How many such failures are remembered before the old ones are forgotten.
const FAILED_MAX: usize = 4096;
/// How long a new file's maker may take to leave its open(2): the gate answers within that, or nobody does.
const OPENING: Duration = Duration::from_secs(1);
/// How long a maker of whom it cannot be told, because he runs, is taken to be in it.
const RUNNING: Duration = Duration::from_millis(20);

/// What a keeper is made of.
pub struct Parts {
    /// The gate.
    pub shared: Arc<Shared>,
    /// The supervisor's memory of the inventory.
    pub journal: Journal,
    /// Where vault and quarantine are.
    pub state_dir: PathBuf,
    /// What responders have verified.
    pub notes: Arc<Notes>,
    /// For `status`.
    pub account: Arc<Account>,
}

/// See the module. For one thread.
pub struct Keeper {
    shared: Arc<Shared>,
    journal: Journal,
    notes: Arc<Notes>,
    account: Arc<Account>,
    in_force: (u64, Arc<InForce>),
    healer: Healer,
    trust: Trust,
    proc: Proc,
    reporter: Reporter,
    /// Roots of the snapshot that were not begun yet: from here on.
    next_root: usize,
    /// Makers of new files that the gate has not answered yet.
    opening: VecDeque<(Instant, Incident)>,
    /// What trusted writers are writing, since when.
    fluid: HashMap<PathBuf, Instant>,
    /// What could not be put right, why, and when that was told.
    failed: HashMap<PathBuf, (Failure, Instant)>,
    stores: Vec<PathBuf>,
    /// Devices whose renames are watched.
    filesystems: HashSet<u64>,
    vault_disturbed: bool,
    reheld: Instant,
    scan_due: bool,
    trusted_at: Option<Instant>,
    patrolled: PathBuf,
    suspects: Vec<PathBuf>,
    looked: Instant,
    /// When the batch in work was read.
    read: Instant,
}

impl Keeper {
    /// Takes up what an earlier worker or gate left, and learns a small tree at once.
    ///
    /// # Errors
    /// The quarantine's directory cannot be made: nothing can be put back without a place for what stood there.
    pub fn new(parts: Parts, proc: Proc) -> Result<Self, Failure> {
        let Parts { shared, mut journal, state_dir, notes, account } = parts;
        let in_force = shared.in_force.load();
        let snapshot = &in_force.1.snapshot;
        let kept = journal.load();
        let restarted = kept.is_some();
        let limits = Limits { copy_file: COPY_FILE_BYTES, copy_total: COPY_TOTAL_BYTES, ..Limits::default() };
        let quarantine = Quarantine::open(&state_dir, Bounds::default())?;
        let vault = Vault::open(&state_dir, limits);
        let inventory = kept.unwrap_or_else(|| Inventory::new(false));
        let healer = Healer::new(inventory, vault, quarantine, duties(snapshot));
        let mut keeper = Self {
            reporter: Reporter::new(shared.audit.clone(), Arc::clone(&account)),
            shared,
            journal,
            notes,
            account,
            in_force,
            healer,
            trust: Trust::listen(),
            proc,
            // The inventory is left whole, or not at all.
            next_root: if restarted { usize::MAX } else { 0 },
            opening: VecDeque::new(),
            fluid: HashMap::new(),
            failed: HashMap::new(),
            stores: Vec::new(),
            filesystems: HashSet::new(),
            vault_disturbed: false,
            reheld: Instant::now(),
            scan_due: restarted,
            trusted_at: None,
            patrolled: PathBuf::new(),
            suspects: Vec::new(),
            looked: Instant::now(),
            read: Instant::now(),
        };
        if restarted {
            keeper.healer.rehold();
            keeper.mark_inventory();
        }
        // Before anything is judged: links in the vault that the worker before this one has made are no intruder's.
        keeper.protect_stores();
        let mut names = 0;
        while names < NAMES_BEFORE_READY
            && let Some(learned) = keeper.learn()
        {
            names += learned;
        }
        keeper.note_state();
        Ok(keeper)
    }

    /// What comes now the worker before this one may have died of: subjects' memory is left alone.
    pub const fn spare_memory(&mut self, spare: bool) {
        self.reporter.spare_memory = spare;
    }

    /// Before each batch of notifications.
    pub fn catch_up(&mut self) {
        self.read = Instant::now();
        self.trust.catch_up(&self.notes);
        let before = (self.in_force.0, self.snapshot());
        self.shared.in_force.refresh(&mut self.in_force);
        if self.in_force.0 != before.0 {
            self.reloaded(&before.1);
        }
    }

    /// Learns what is kept under the new policies and was not under the `old` ones. The rest is known, and looking
    /// at it anew would make right what somebody is doing to it now.
    fn reloaded(&mut self, old: &Snapshot) {
        // What was not begun under the old roots is begun under the new ones.
        let unfinished = self.next_root < old.roots.len();
        let new = self.snapshot();
        self.healer.set_duties(duties(&new));
        let is_kept = |snapshot: &Snapshot, path: &Path| {
            let duty = duty_at(snapshot, path);
            duty.foreign || duty.metadata
        };
        for root in old.roots.iter().chain(&new.roots) {
            if is_kept(&new, &root.path) && (unfinished || !is_kept(old, &root.path)) {
                self.begin(&root.path);
            }
        }
        self.next_root = usize::MAX;
    }

    fn begin(&mut self, path: &Path) {
        for above in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if self.healer.inventory().get(above).is_none() {
                let _ = self.healer.learn(above, Known::No);
            }
        }
        let learned = self.healer.begin(path).ok().flatten();
        self.mark(learned);
    }

    /// What is in force now.
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.in_force.1.snapshot)
    }

    /// Judges one notification and has its consequences.
    pub fn take(&mut self, mut incident: Incident) {
        if self.is_in_store(&incident.path) {
            self.vault_disturbed = true;
            return self.report_tampering(&incident);
        }
        // Of several names the kernel tells any: the vault's own says nothing of where the other went.
        incident.now = incident.now.filter(|now| !self.is_in_store(now));
        if is_being_opened(&incident, Duration::ZERO) {
            self.opening.push_back((Instant::now(), incident));
            return;
        }
        self.judge(&incident);
        if incident.appeared() && incident.mask & libc::FAN_ONDIR != 0 {
            self.catch_up_below(&incident);
        }
    }

    /// Somebody else was at work in the vault or the quarantine. What the vault lacks is held again; who releases
    /// something from the quarantine is on record here too.
    fn report_tampering(&mut self, incident: &Incident) {
        if incident.only_closed() {
            return;
        }
        let snapshot = self.snapshot();
        let verdict = Verdict { outcome: Outcome::Deny, policy: None, reason: Reason::OwnState };
        let (path, tid) = (&incident.path, incident.tid);
        self.report(About { snapshot: &snapshot, verdict, change: incident.change(true), path, tid });
    }

    fn is_in_store(&self, path: &Path) -> bool {
        self.stores.iter().any(|store| path.starts_with(store))
    }

    /// A directory above protected names has appeared, and what came into it before it was marked was not reported.
    fn catch_up_below(&mut self, incident: &Incident) {
        let snapshot = self.snapshot();
        for root in snapshot.roots_below(&incident.path).filter(|root| root.path != incident.path) {
            if self.healer.inventory().get(&root.path).is_some() {
                continue;
            }
            if root.path.is_dir() {
                self.begin(&root.path);
            } else {
                let mask = libc::FAN_MOVED_TO;
                self.judge(&Incident { mask, tid: incident.tid, path: root.path.clone(), now: None });
            }
        }
    }

    fn judge(&mut self, incident: &Incident) {
        let snapshot = self.snapshot();
        let Some(rule) = governing(&snapshot, &incident.path) else { return };
        let expected = self.healer.inventory().get(&incident.path).is_some();
        if !expected && (is_only_above(&snapshot, &incident.path) || is_awaited(&snapshot, rule, incident)) {
            return self.begin(&incident.path);
        }
        if !incident.appeared() && !expected && self.is_pending(&incident.path) {
            return;
        }
        let change = incident.change(expected);
        let verdict = decide(&snapshot, rule, change, WriterMask::NONE);
        if verdict.outcome == Outcome::Allow {
            return self.accept(incident);
        }
        let matter = writers_that_matter(&snapshot, rule, change);
        let in_force = Arc::clone(&self.in_force.1);
        let trusted = {
            let _look = self.account.look();
            self.trust.of(&in_force, &self.proc, incident.tid, matter)
        };
        let verdict = decide(&snapshot, rule, change, trusted);
        if verdict.outcome == Outcome::Allow {
            self.trusted_at = Some(Instant::now());
            return self.accept(incident);
        }
        if incident.only_closed() {
            return;
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
                self.fluid.insert(path.clone(), Instant::now());
            }
            return;
        }
        self.fluid.remove(path);
        // It is gone again already. What is expected stays until it is known who took it away.
        if incident.appeared() && !incident.went() && is_missing(path) {
            return;
        }
        if incident.mask & libc::FAN_MOVED_FROM != 0
            && let Some(now) = &incident.now
            && duty_at(&snapshot, now) != Duty::NONE
        {
            let learned = self.healer.renamed(path, now);
            return self.mark(learned);
        }
        let content = if incident.written() { Known::No } else { Known::IfAlike };
        match self.healer.learn(path, content) {
            Ok(learned) => {
                let is_directory = learned.as_ref().is_some_and(|learned| learned.inode.is_dir());
                self.mark(learned);
                if is_directory && incident.appeared() {
                    let _ = self.healer.begin(path);
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
        let record = self.reporter.open(&self.proc, self.trust.lineage(), about);
        let subject = record.as_deref().map_or(serde_json::Value::Null, Reporter::subject_of);
        let hint = Hint { change: incident.hint(), appeared: incident.appeared(), subject };
        let actions = match incident.now.as_deref().filter(|_| change == Change::Mutation(Mutation::Link)) {
            Some(name) => self.undo_link(path, name, &hint),
            None => self.healer.reconcile(path, &hint),
        };
        self.conclude(actions, record, Some(about));
    }

    /// The other name of a protected file goes, unless somebody may have names there.
    fn undo_link(&mut self, path: &Path, name: &Path, hint: &Hint) -> Vec<Action> {
        let Some(expected) = self.healer.inventory().get(path) else { return Vec::new() };
        let id = expected.id;
        let mut actions: Vec<_> = self.healer.take_link_away(name, id).into_iter().collect();
        actions.extend(self.healer.reconcile(path, hint));
        actions
    }

    /// Records what was done, and marks what is new.
    fn conclude(
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
            if self.is_known_failure(&action) {
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
            if about.is_none() && action.metadata.is_none() {
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

    fn report(&mut self, about: About<'_>) {
        let Some(mut record) = self.reporter.open(&self.proc, self.trust.lineage(), about) else { return };
        record.kind = if about.verdict.outcome == Outcome::Audit { Kind::Audit } else { Kind::Detected };
        self.reporter.send(record);
    }

    /// Something was mounted over a protected path.
    pub fn take_mount(&mut self, covered: &Covered) {
        let snapshot = self.snapshot();
        let verdict = standing_verdict(&snapshot, &covered.path);
        let change = Change::Mutation(Mutation::Mount);
        let about = About { snapshot: &snapshot, verdict, change, path: &covered.path, tid: 0 };
        let Some(mut record) = self.reporter.open(&self.proc, self.trust.lineage(), about) else { return };
        record.alias = record.push_text(covered.point.as_os_str().as_bytes());
        record.detail =
            record.push_text(b"something was mounted over it: what is below is not what is protected");
        self.reporter.send(record);
    }

    /// A responder has taken a refused file away again: the directory is as it was, but for its time.
    pub fn rolled_back(&mut self, path: &Path) {
        if let Some(directory) = path.parent() {
            self.healer.tidy(directory);
        }
    }

    /// Notifications were lost: everything is looked at.
    pub fn overflowed(&mut self) {
        self.scan_due = true;
    }

    /// A protected file's number of names has changed: perhaps it was the vault's that went. With the vault's directory
    /// gone, nothing else tells.
    pub fn check_held(&mut self, id: Identity) {
        let vault = self.healer.vault();
        self.vault_disturbed |= vault.vault_links(id) > 0 && vault.link_of(id).is_none();
    }

    /// A protected file's number of names has changed: the other name, if there is one that nobody expects.
    pub fn foreign_link(&self, id: Identity, links: u32, seen: &Path) -> Option<PathBuf> {
        let vault = self.healer.vault();
        let expected = vault.names(id) + vault.vault_links(id);
        (links > expected && !self.is_in_store(seen) && self.healer.inventory().get(seen).is_none())
            .then(|| seen.to_owned())
    }

    /// Work for when nothing is reported; how long until there is more.
    pub fn idle(&mut self) -> Duration {
        self.catch_up();
        self.settle_opened();
        let due = self.healer.due();
        self.conclude(due, None, None);
        let mut filed = 0;
        for Filed { id, seq } in self.shared.audit.take_filed().take(FILED_AT_ONCE) {
            self.healer.file(&id, seq);
            filed += 1;
        }
        if self.vault_disturbed && self.reheld.elapsed() >= REHOLD_EVERY {
            self.vault_disturbed = false;
            self.reheld = Instant::now();
            self.healer.rehold();
            // They may have been made again.
            self.stores.clear();
            self.protect_stores();
        }
        let learned = self.learn().is_some();
        if !learned && self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            if self.is_quiet() {
                self.look_around();
            }
            if self.patrolled.as_os_str().is_empty() {
                self.note_state();
            }
        }
        self.save();
        if learned || filed == FILED_AT_ONCE {
            return Duration::ZERO;
        }
        let next = if self.opening.is_empty() { LOOK_EVERY } else { OPENING_EVERY };
        let due = self.healer.next_due().map(|at| at.saturating_duration_since(Instant::now()));
        due.map_or(next, |due| due.min(next))
    }

    fn look_around(&mut self) {
        if self.scan_due && !self.is_writer_running() {
            self.scan_due = false;
            let actions = self.healer.scan();
            self.conclude(actions, None, None);
        }
        self.patrol();
    }

    fn is_quiet(&self) -> bool {
        self.trusted_at.is_none_or(|at| at.elapsed() > AFTER_TRUSTED)
    }

    /// What no notification tells (chattr, writes through old mappings): whatever was touched one look ago, and was
    /// not reported since, is put right.
    fn patrol(&mut self) {
        self.fluid.retain(|_, since| since.elapsed() < FLUID);
        for path in std::mem::take(&mut self.suspects) {
            if !self.fluid.contains_key(&path) {
                let actions = self.healer.reconcile(&path, &Hint::default());
                self.conclude(actions, None, None);
            }
        }
        let (touched, last) = self.healer.patrol(&self.patrolled, PATROL_NAMES);
        self.patrolled = last.unwrap_or_default();
        self.suspects = touched;
    }

    /// Whether a program that may change things runs: what it has done is not all reported yet.
    fn is_writer_running(&self) -> bool {
        let Ok(processes) = std::fs::read_dir("/proc") else { return true };
        processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).any(|pid: i32| {
            self.proc
                .task(pid)
                .and_then(|task| crate::sys::file::stat_at_follow(task.as_fd(), c"exe"))
                .is_ok_and(|exe| self.in_force.1.writers.is_program(exe.id))
        })
    }

    /// Learns a little; how many names, `None` when all is known.
    fn learn(&mut self) -> Option<usize> {
        let snapshot = self.snapshot();
        if self.next_root < snapshot.roots.len() {
            let end = (self.next_root + ROOTS_AT_ONCE).min(snapshot.roots.len());
            for root in &snapshot.roots[self.next_root..end] {
                self.begin(&root.path);
            }
            let begun = end - self.next_root;
            self.next_root = end;
            self.protect_stores();
            return Some(begun);
        }
        let (learned, skipped) = self.healer.learn_some()?;
        let count = learned.len() + 1;
        for one in learned {
            self.mark(Some(one));
        }
        if skipped > 0 {
            tracing::warn!(skipped, "entries could not be looked at and are not kept");
        }
        if !self.healer.is_learning() {
            self.protect_stores();
            let _ = self.journal.rewrite(self.healer.inventory());
            self.healer.set_journaled(true);
            let _ = self.healer.take_changes();
        }
        Some(count)
    }

    /// Whether `path` belongs to what is not learned yet.
    fn is_pending(&self, path: &Path) -> bool {
        let roots = &self.in_force.1.snapshot.roots;
        path.ancestors().any(|above| {
            let above = above.as_os_str().as_bytes();
            roots
                .binary_search_by(|root| root.path.as_os_str().as_bytes().cmp(above))
                .is_ok_and(|index| index >= self.next_root)
        })
    }

    fn marker<'a>(&'a self, snapshot: &'a Snapshot) -> Marker<'a> {
        Marker { groups: &self.shared.groups, table: &self.shared.table, snapshot, walk: snapshot.generation }
    }

    fn mark(&mut self, learned: Option<Learned>) {
        let Some(Learned { path, inode }) = learned else { return };
        if self.filesystems.insert(inode.id.dev)
            && let Ok(name) = CString::new(path.as_os_str().as_bytes())
            && let Err(error) = self.shared.groups.watch_renames(&name)
        {
            tracing::info!(path = %path.display(), %error, "where a renamed file goes is not told here");
        }
        if inode.is_file() {
            let snapshot = self.snapshot();
            self.marker(&snapshot).mark_inode(&path, inode.id, &mut Report::default());
        }
    }

    fn mark_anew(&self, path: &Path) {
        let snapshot = self.snapshot();
        let marker = self.marker(&snapshot);
        let _ = marker.mark_new(path);
        if let Some(expected) = self.healer.inventory().get(path)
            && expected.is_file()
        {
            marker.mark_inode(path, expected.id, &mut Report::default());
        }
    }

    /// After a restart marks are there, the table that says what they are is not.
    fn mark_inventory(&self) {
        let snapshot = self.snapshot();
        let marker = self.marker(&snapshot);
        for (path, expected) in self.healer.inventory().iter().filter(|(_, expected)| expected.is_file()) {
            marker.mark_inode(path, expected.id, &mut Report::default());
        }
    }

    /// The stores are watched themselves.
    fn protect_stores(&mut self) {
        let places = self.healer.vault().places().chain(self.healer.quarantine().places());
        let new: Vec<_> = places
            .filter(|place| !self.stores.iter().any(|store| store == place))
            .map(Path::to_owned)
            .collect();
        for place in new {
            let wanted = Wanted { written: Written::Ignored, truncations: false };
            if let Ok(name) = CString::new(place.as_os_str().as_bytes())
                && let Ok(directory) = directory::open(&name)
            {
                let _ = self.shared.groups.mark_directory(directory.as_fd(), wanted);
            }
            self.stores.push(place);
        }
    }

    /// Puts what changed in the inventory on record outside this process.
    pub fn save(&mut self) {
        if self.healer.is_learning() {
            return;
        }
        let changes = self.healer.take_changes();
        if changes.is_empty() {
            return;
        }
        match self.journal.append(&changes) {
            Ok(true) => drop(self.journal.rewrite(self.healer.inventory())),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the next worker will not know what was healed last"),
        }
    }

    fn note_state(&self) {
        let usage = self.healer.vault().usage();
        let account = &self.account;
        account.names.store(self.healer.inventory().len() as u64, Relaxed);
        let learning = self.healer.is_learning() || self.next_root < self.in_force.1.snapshot.roots.len();
        account.learning.store(u64::from(learning), Relaxed);
        account.links.store(usage.links as u64, Relaxed);
        account.copies.store(usage.copies as u64, Relaxed);
        account.unheld.store(usage.unheld as u64, Relaxed);
        let first = self.healer.vault().unheld().take(UNHELD_TOLD);
        *account.unheld_first.lock() = first.map(|(path, failure)| (path.to_owned(), failure)).collect();
        account.quarantined.store(self.healer.quarantine().list().count() as u64, Relaxed);
    }

    fn settle_opened(&mut self) {
        for _ in 0..self.opening.len() {
            let Some((since, incident)) = self.opening.pop_front() else { return };
            if is_being_opened(&incident, since.elapsed()) {
                self.opening.push_back((since, incident));
            } else {
                self.judge(&incident);
            }
        }
    }
}

/// Whether the new file's maker is in the open(2) that made it: the gate judges that, and takes the file away again
/// itself.
fn is_being_opened(incident: &Incident, waited: Duration) -> bool {
    if incident.mask & libc::FAN_CREATE == 0 || incident.mask & libc::FAN_ONDIR != 0 || waited > OPENING {
        return false;
    }
    let is_file =
        std::fs::symlink_metadata(&incident.path).is_ok_and(|found| found.is_file() && found.nlink() == 1);
    let Ok(line) = std::fs::read(format!("/proc/{}/syscall", incident.tid)) else { return false };
    is_file
        && match classify::parse_line(&line) {
            classify::Line::In(call) => classify::is_in_open(&call),
            classify::Line::Running => waited < RUNNING,
            classify::Line::Garbled => false,
        }
}

fn is_missing(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
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

/// The rule of `path`; of a directory above protected names that of the first of them.
fn governing<'a>(snapshot: &'a Snapshot, path: &Path) -> Option<&'a Rule> {
    snapshot.rule_for(path.as_os_str().as_bytes()).or_else(|| {
        let root = snapshot.roots_below(path).next()?;
        snapshot.rule_for(root.path.as_os_str().as_bytes())
    })
}

/// What the policies say to a change of `path` by nobody in particular.
fn standing_verdict(snapshot: &Snapshot, path: &Path) -> Verdict {
    governing(snapshot, path)
        .map_or(Verdict { outcome: Outcome::Allow, policy: None, reason: Reason::NotProtected }, |rule| {
            decide(snapshot, rule, Change::Mutation(Mutation::Chmod), WriterMask::NONE)
        })
}

/// The word for what has come to be: the kernel says only that it did.
fn name_of_change(incident: &Incident, change: Change) -> Change {
    if change != Change::Access(Access::Create) {
        return change;
    }
    let Ok(found) = std::fs::symlink_metadata(&incident.path) else { return change };
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
