//! The healer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::action::{Action, Change, Duty, Hint};
use super::copying::Copying;
use super::fight::Fights;
use super::fluid::Fluid;
use super::inventory::Inventory;
use super::learn::Listing;
use super::quarantine::{Away, Quarantine};
use super::store::Temporary;
use super::vault::Vault;
use crate::sys::inode::{Inode, Time};

/// What the policies want kept at a path.
pub type Duties = Arc<dyn Fn(&Path) -> Duty + Send + Sync>;

/// Compares what is there with what should be, and puts it right. For one thread.
pub struct Healer {
    pub(super) inventory: Inventory,
    pub(super) vault: Vault,
    pub(super) quarantine: Quarantine,
    pub(super) duties: Duties,
    pub(super) fights: Fights,
    pub(super) fluid: Fluid,
    pub(super) temporary: Temporary,
    /// What is still to be looked at in this round.
    pub(super) queue: VecDeque<(PathBuf, Change)>,
    /// Directories that this round changed, and the flags that it took off them.
    pub(super) touched: BTreeMap<PathBuf, u32>,
    /// What was moved to the quarantine in this round and has no note yet.
    pub(super) away: Vec<Away>,
    /// Directories whose times were set back: what else came into them at the same time no longer shows by these.
    pub(super) mended: BTreeSet<PathBuf>,
    /// Files that still have names which are to be taken away.
    pub(super) linked: BTreeSet<PathBuf>,
    /// Directories whose entries are not learned yet: what is in them is not foreign for being unknown.
    pub(super) unlearned: BTreeSet<PathBuf>,
    /// The one of them that is being learned.
    pub(super) listing: Option<Listing>,
    /// All that was to be learned at once is: the contents of what comes now are copied with it.
    pub(super) is_settled: bool,
    /// Where copying the contents of what is known has come to.
    pub(super) copying: Option<Copying>,
    /// Empty files that were made since then are not learned with their directory: whoever makes one is reported, and
    /// perhaps being refused it just now.
    pub(super) since: Time,
}

/// One round.
pub(super) struct Round<'a> {
    pub hint: &'a Hint,
    pub actions: Vec<Action>,
    pub started: Instant,
}

impl<'a> Round<'a> {
    pub fn new(hint: &'a Hint) -> Self {
        Self { hint, actions: Vec::new(), started: Instant::now() }
    }

    pub fn push(&mut self, mut action: Action) {
        let now = Instant::now();
        action.ns = now.duration_since(self.started).as_nanos() as u64;
        self.started = now;
        self.actions.push(action);
    }
}

impl Healer {
    /// From its parts. After a restart, call [`Healer::rehold`] next, then [`Healer::scan`].
    pub fn new(inventory: Inventory, vault: Vault, quarantine: Quarantine, duties: Duties) -> Self {
        Self {
            inventory,
            vault,
            quarantine,
            duties,
            fights: Fights::default(),
            fluid: Fluid::default(),
            temporary: Temporary::default(),
            queue: VecDeque::new(),
            touched: BTreeMap::new(),
            away: Vec::new(),
            mended: BTreeSet::new(),
            linked: BTreeSet::new(),
            unlearned: BTreeSet::new(),
            listing: None,
            is_settled: false,
            copying: None,
            since: Time::now(),
        }
    }

    /// What should be there.
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Switches the inventory's journal on or off, see [`Inventory::set_journaled`].
    pub fn set_journaled(&mut self, journaled: bool) {
        self.inventory.set_journaled(journaled);
    }

    /// Changes of the inventory since the last call, to be appended to its journal.
    pub fn take_changes(&mut self) -> Vec<u8> {
        self.inventory.take_changes()
    }

    /// What it is restored from.
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// What was taken away.
    pub const fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Other policies are in force. What they no longer protect is forgotten; what they newly protect is to be
    /// learned by the caller.
    pub fn set_duties(&mut self, duties: Duties) {
        self.duties = duties;
        self.is_settled = false;
        let unwanted: Vec<PathBuf> = self
            .inventory
            .iter()
            .filter(|(path, _)| (self.duties)(path) == Duty::NONE)
            .map(|(path, _)| path.to_owned())
            .collect();
        for path in unwanted {
            if let Some(expected) = self.inventory.remove_one(&path) {
                self.release(&path, &expected);
            }
        }
        self.vault.prune();
    }

    /// Drops what the vault holds and nothing expected needs: an earlier gate has left it.
    pub fn prune(&mut self) {
        self.vault.prune();
    }

    /// The audit record of what was taken away as `id` has the number `seq`.
    pub fn file(&mut self, id: &str, seq: u64) {
        self.quarantine.file(id, seq);
    }

    /// Nothing has to be put right now: what was kept for the next time goes.
    pub fn rest(&mut self) {
        self.quarantine.rest();
    }

    /// Whether it is a directory of the vault or the quarantine.
    pub(super) fn is_own(&self, inode: &Inode) -> bool {
        inode.is_dir() && (self.vault.is_own(inode.id) || self.quarantine.is_own(inode.id))
    }
}
