//! Keeps the protected trees as they should be: judges what happened, and has it put right or accepted.

mod conclude;
mod flags;
mod judge;
mod learning;
mod mounting;
mod opening;
mod patrol;
mod writing;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::account::{Account, UNHELD_TOLD};
use super::duty::duties;
use super::journal::Journal;
use super::report::Reporter;
use super::trust::Trust;
use crate::audit::queue::Filed;
use crate::gate::{InForce, Shared};
use crate::heal::{Bounds, Failure, Healer, Inventory, Limits, Quarantine, Vault};
use crate::policy::snapshot::Snapshot;
use crate::subject::Notes;
use crate::sys::checks::Checks;
use crate::sys::connector::Connector;
use crate::sys::proc::Proc;

/// A tree of so many names is known before the gate says that it is ready; the rest of a larger one is learned
/// behind that, so that start is not slowed down.
const NAMES_BEFORE_READY: usize = 2000;
/// How often the patrol looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Notes of the quarantine that get their record's number between two looks at the notifications: a millisecond.
const FILED_AT_ONCE: usize = 16;
/// How often a flood of notifications is interrupted for what is due.
const MEANWHILE_EVERY: Duration = Duration::from_millis(20);
/// How often the vault is put right when somebody goes on removing from it.
const REHOLD_EVERY: Duration = Duration::from_secs(1);

/// What a keeper is made of.
pub struct Parts {
    /// The gate.
    pub shared: Arc<Shared>,
    /// The supervisor's memory of the inventory.
    pub journal: Journal,
    /// Where vault and quarantine are.
    pub state_dir: PathBuf,
    /// What responders have found out.
    pub notes: Arc<Notes>,
    /// Who forks whom, where the kernel tells.
    pub connector: Option<Connector>,
    /// Who sets flags, where the kernel tells.
    pub checks: Option<Checks>,
    /// For `status`.
    pub account: Arc<Account>,
}

/// See the module. For one thread.
pub struct Keeper {
    shared: Arc<Shared>,
    journal: Journal,
    account: Arc<Account>,
    in_force: (u64, Arc<InForce>),
    healer: Healer,
    trust: Trust,
    proc: Proc,
    reporter: Reporter,
    /// Roots of the snapshot that were not begun yet: from here on.
    next_root: usize,
    /// Names learned with their directories since the queue was seen empty: of what came to be before that, the
    /// notification is still to be read.
    fresh: HashSet<PathBuf>,
    /// Everything is in the inventory, and that is on record outside this process.
    is_whole: bool,
    /// Makers of new files that the gate has not answered yet.
    opening: VecDeque<opening::Opening>,
    /// Who has set flags.
    flagging: flags::Flagging,
    /// What could not be put right, why, and when that was told.
    failed: HashMap<PathBuf, (Failure, Instant)>,
    mountings: mounting::Mountings,
    stores: Vec<PathBuf>,
    /// Devices whose renames are watched.
    filesystems: HashSet<u64>,
    vault_disturbed: bool,
    reheld: Instant,
    scan_due: bool,
    trusted_at: Option<Instant>,
    patrolled: PathBuf,
    suspects: BTreeSet<PathBuf>,
    patrolled_at: Instant,
    looked: Instant,
    /// When there was time for anything but notifications.
    rested: Instant,
    /// When the batch in work was read.
    read: Instant,
}

impl Keeper {
    /// Takes up what an earlier worker or gate left, and learns a small tree at once.
    ///
    /// # Errors
    /// The quarantine's directory cannot be made: nothing can be put back without a place for what stood there.
    pub fn new(parts: Parts, proc: Proc) -> Result<Self, Failure> {
        let Parts { shared, mut journal, state_dir, notes, connector, checks, account } = parts;
        let in_force = shared.in_force.load();
        let snapshot = &in_force.1.snapshot;
        let kept = journal.load();
        let restarted = kept.is_some();
        let page = shared.page;
        let is_whole = restarted
            && page.learning.load(Relaxed) == 0
            && page.learned_generation.load(Relaxed) == snapshot.generation;
        let quarantine = Quarantine::open(&state_dir, Bounds::default())?;
        let vault = Vault::open(&state_dir, Limits::default());
        let inventory = kept.unwrap_or_else(|| Inventory::new(false));
        let healer = Healer::new(inventory, vault, quarantine, duties(snapshot));
        let mut keeper = Self {
            reporter: Reporter::new(shared.audit.clone(), Arc::clone(&account)),
            shared,
            journal,
            account,
            in_force,
            healer,
            trust: Trust::new(connector, notes),
            proc,
            // The inventory is left whole, but for what was being learned.
            next_root: if is_whole { usize::MAX } else { 0 },
            fresh: HashSet::new(),
            is_whole: restarted,
            opening: VecDeque::new(),
            flagging: flags::Flagging::new(checks),
            failed: HashMap::new(),
            mountings: mounting::Mountings::default(),
            stores: Vec::new(),
            filesystems: HashSet::new(),
            vault_disturbed: false,
            reheld: Instant::now(),
            scan_due: restarted,
            trusted_at: None,
            patrolled: PathBuf::new(),
            suspects: BTreeSet::new(),
            patrolled_at: Instant::now(),
            looked: Instant::now(),
            rested: Instant::now(),
            read: Instant::now(),
        };
        if restarted {
            keeper.healer.rehold();
            keeper.mark_inventory();
        }
        // Before anything is judged: links in the vault that the worker before this one has made are no intruder's.
        keeper.protect_stores();
        // What is marked are directories, and files with names elsewhere: at least so many names there are.
        let (directories, files) = keeper.shared.table.len();
        let mut names = directories + files;
        while names < NAMES_BEFORE_READY
            && let Some(learned) = keeper.learn()
        {
            names += learned;
        }
        if names < NAMES_BEFORE_READY {
            while keeper.healer.copy_some() {}
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
        self.trust.catch_up();
        let before = (self.in_force.0, self.snapshot());
        self.shared.in_force.refresh(&mut self.in_force);
        if self.in_force.0 != before.0 {
            self.reloaded(&before.1);
        }
    }

    /// What is in force now.
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.in_force.1.snapshot)
    }

    /// Notifications were lost: everything is looked at.
    pub fn overflowed(&mut self) {
        self.scan_due = true;
    }

    /// Between two batches of notifications: what cannot wait for the end of a flood.
    pub fn meanwhile(&mut self) {
        if self.rested.elapsed() < MEANWHILE_EVERY {
            return;
        }
        self.rested = Instant::now();
        self.settle_flags();
        let due = self.healer.due();
        self.conclude(due, None, None);
    }

    /// Work for when nothing is reported; how long until there is more.
    pub fn idle(&mut self) -> Duration {
        // With its memory: one directory may have had a hundred thousand names.
        self.fresh = HashSet::new();
        self.rested = Instant::now();
        self.catch_up();
        self.trust.forget_the_dead();
        self.settle_opened();
        self.settle_flags();
        self.settle_suspects();
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
        let copied = !learned && self.healer.copy_some();
        if !learned && self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.healer.rest();
            if self.is_quiet() {
                self.look_around();
            }
            if self.patrolled.as_os_str().is_empty() {
                self.note_state();
            }
        }
        // Who waits for it is told at once.
        if !learned && !copied && self.account.learning.load(Relaxed) != 0 {
            self.note_state();
        }
        self.save();
        if learned || copied || filed == FILED_AT_ONCE {
            return Duration::ZERO;
        }
        let next = if self.opening.is_empty() { LOOK_EVERY } else { opening::LOOK_EVERY };
        let due =
            [self.healer.next_due(), self.mountings.next_due(), self.next_settling(), self.next_flags()];
        let due = due.into_iter().flatten().min();
        due.map_or(next, |at| at.saturating_duration_since(Instant::now()).min(next))
    }

    fn note_state(&self) {
        let usage = self.healer.vault().usage();
        let account = &self.account;
        account.names.store(self.healer.inventory().len() as u64, Relaxed);
        let learning = !self.is_whole || self.healer.is_learning() || self.healer.is_copying();
        account.learning.store(u64::from(learning), Relaxed);
        account.links.store(usage.links as u64, Relaxed);
        account.copies.store(usage.copies as u64, Relaxed);
        account.unheld.store(usage.unheld as u64, Relaxed);
        let first = self.healer.vault().unheld().take(UNHELD_TOLD);
        *account.unheld_first.lock() = first.map(|(path, failure)| (path.to_owned(), failure)).collect();
        account.quarantined.store(self.healer.quarantine().list().count() as u64, Relaxed);
    }
}
