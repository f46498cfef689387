//! The healer, and how it learns what should be there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::action::{Action, Change, Content, Duty, Hint};
use super::expected::Expected;
use super::failure::Failure;
use super::fight::Fights;
use super::inventory::Inventory;
use super::mend::has_metadata;
use super::object::{Object, is, join};
use super::quarantine::Quarantine;
use super::store::Temporary;
use super::vault::{Copy, Vault};
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
    pub(super) temporary: Temporary,
    /// What is still to be looked at in this round.
    pub(super) queue: VecDeque<(PathBuf, Change)>,
    /// Directories that this round changed, and the flags that it took off them.
    pub(super) touched: BTreeMap<PathBuf, u32>,
    /// Directories whose times were set back: what else came into them at the same time no longer shows by these.
    pub(super) mended: BTreeSet<PathBuf>,
    /// Directories whose entries are not learned yet: what is in them is not foreign for being unknown.
    unlearned: BTreeSet<PathBuf>,
    /// Empty files that were made since then are not learned with their directory: whoever makes one is reported, and
    /// perhaps being refused it just now.
    since: Time,
}

/// Whether what is known of a file's content still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// As long as length and time of the last change are the same.
    IfAlike,
    /// No: somebody who may has written to it.
    No,
}

/// A name that was learned, for marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// Which.
    pub path: PathBuf,
    /// What it names.
    pub inode: Inode,
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
            temporary: Temporary::default(),
            queue: VecDeque::new(),
            touched: BTreeMap::new(),
            mended: BTreeSet::new(),
            unlearned: BTreeSet::new(),
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

    /// `path` is right as it is now, whatever it was: at start, or because a trusted writer made or changed it. A
    /// directory without its entries.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn learn(&mut self, path: &Path, content: Known) -> Result<Option<Learned>, Failure> {
        let learned = match Object::at_path(path) {
            Ok(object) => {
                let known = match content {
                    Known::IfAlike => self.inventory.get(path),
                    Known::No => None,
                };
                let learned = self.learn_object(path, &object, known.as_ref())?;
                self.learn_twins(path, &object);
                learned
            }
            Err(error) if is(&error, libc::ENOENT) || is(&error, libc::ENOTDIR) => {
                self.forget(path);
                None
            }
            Err(error) => return Err(Failure::of("open")(error)),
        };
        self.refresh_parent(path);
        Ok(learned)
    }

    /// Learns `path`, unless it is known; what is below it and not known is learned by [`Healer::learn_some`].
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn begin(&mut self, path: &Path) -> Result<Option<Learned>, Failure> {
        let is_known = self.inventory.contains(path);
        let learned = if is_known { None } else { self.learn(path, Known::No)? };
        if self.inventory.get(path).is_some_and(|known| known.is_dir()) && self.is_kept_inside(path) {
            self.unlearned.insert(path.to_owned());
        }
        Ok(learned)
    }

    /// Learns the entries of one directory that waits for it; `None` when there is none. What cannot be looked at
    /// is skipped and counted.
    pub fn learn_some(&mut self) -> Option<(Vec<Learned>, usize)> {
        let directory = self.unlearned.last()?.clone();
        let (mut learned, mut skipped) = (Vec::new(), 0);
        let mut deeper = Vec::new();
        match Object::at_path(&directory).and_then(|object| Ok((object.entries()?, object))) {
            Ok((names, object)) => {
                for name in names {
                    let path = join(&directory, &name);
                    if !self.inventory.contains(&path) {
                        match object.child(&name).map(|child| self.learn_entry(&path, &child)) {
                            Ok(Ok(one)) => learned.extend(one),
                            _ => skipped += 1,
                        }
                    }
                    if self.inventory.get(&path).is_some_and(|known| known.is_dir())
                        && self.is_kept_inside(&path)
                    {
                        deeper.push(path);
                    }
                }
            }
            Err(error) if is(&error, libc::ENOENT) => {}
            Err(_) => skipped += 1,
        }
        self.unlearned.remove(&directory);
        self.unlearned.extend(deeper);
        Some((learned, skipped))
    }

    /// Whether something waits for [`Healer::learn_some`].
    pub fn is_learning(&self) -> bool {
        !self.unlearned.is_empty()
    }

    /// Whether the entries of `directory`, or of one above it, are still to be learned.
    pub(super) fn is_unlearned(&self, directory: &Path) -> bool {
        !self.unlearned.is_empty() && directory.ancestors().any(|above| self.unlearned.contains(above))
    }

    /// Whether more of a directory is kept than that it exists.
    fn is_kept_inside(&self, directory: &Path) -> bool {
        let duty = (self.duties)(directory);
        duty.foreign || duty.metadata
    }

    /// Like [`Healer::learn`], with everything below. What cannot be looked at is skipped and counted.
    pub fn learn_tree(&mut self, path: &Path) -> usize {
        let mut skipped = 0;
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let Ok(object) = Object::at_path(&path) else {
                skipped += 1;
                continue;
            };
            let Ok(inode) = object.inode() else { continue };
            if self.is_own(&inode) {
                continue;
            }
            let known = self.inventory.get(&path);
            if self.learn_object(&path, &object, known.as_ref()).is_err() {
                skipped += 1;
            }
            if inode.is_dir() {
                let names = object.entries().unwrap_or_default();
                waiting.extend(names.iter().map(|name| join(&path, name)));
            }
        }
        self.refresh_parent(path);
        skipped
    }

    /// A trusted writer renamed `old` to `new`. What was learned is to be marked.
    pub fn renamed(&mut self, old: &Path, new: &Path) -> Option<Learned> {
        let known = self.inventory.get(old);
        // In this order what the vault holds stays held.
        let learned = match Object::at_path(new) {
            Ok(object) if known.as_ref().is_some_and(|known| !known.is_dir()) => {
                self.learn_object(new, &object, known.as_ref()).ok().flatten()
            }
            _ => {
                self.learn_tree(new);
                None
            }
        };
        self.refresh_parent(new);
        self.forget(old);
        learned
    }

    /// `path`, and everything below it, is rightly gone.
    pub fn forget(&mut self, path: &Path) {
        for (path, expected) in self.inventory.remove(path) {
            self.release(&path, &expected);
        }
        self.refresh_parent(path);
    }

    fn release(&mut self, path: &Path, expected: &Expected) {
        if is_held(expected) {
            self.vault.release(path, expected.id);
        }
    }

    fn learn_entry(&mut self, path: &Path, object: &Object) -> Result<Option<Learned>, Failure> {
        let inode = object.inode().map_err(Failure::of("statx"))?;
        if inode.is_file() && inode.size == 0 && inode.born >= self.since {
            return Ok(None);
        }
        self.learn_object(path, object, None)
    }

    /// `known`: what is known of the same object; of its content as long as that looks alike.
    fn learn_object(
        &mut self,
        path: &Path,
        object: &Object,
        known: Option<&Expected>,
    ) -> Result<Option<Learned>, Failure> {
        let inode = object.inode().map_err(Failure::of("statx"))?;
        let duty = (self.duties)(path);
        if duty == Duty::NONE || self.is_own(&inode) {
            return Ok(None);
        }
        let old = self.inventory.get(path).map(|old| (old.id, is_held(&old)));
        let mut sum = None;
        if inode.is_dir() {
            // Ahead of what it will hold: making it changes the time of the mount's root, perhaps this directory.
            let _ = self.vault.prepare(inode.mount, path);
        }
        let same = old.is_some_and(|(id, _)| id == inode.id);
        if needs_hold(&inode) {
            // Without its sum a copy that lies there already proves nothing.
            let alike =
                |old: &&Expected| old.id == inode.id && old.size == inode.size && old.mtime == inode.mtime;
            let known = known.filter(alike).and_then(|old| old.sum.clone());
            let copy = match known {
                _ if duty.content != Content::Fixed => Copy::None,
                Some(_) => Copy::IfStale,
                None => Copy::Fresh,
            };
            sum = self.vault.hold(path, object, &inode, copy, !same).or(known);
        }
        let mut expected = Expected::take(object).map_err(Failure::of("statx"))?;
        expected.sum = sum;
        self.inventory.put(path, &expected);
        if let Some((id, true)) = old
            && !same
        {
            self.vault.release(path, id);
        }
        Ok(Some(Learned { path: path.to_owned(), inode }))
    }

    /// Other expected names of the same file have rightly changed with it.
    fn learn_twins(&mut self, path: &Path, object: &Object) {
        let Ok(inode) = object.inode() else { return };
        if inode.is_dir() || inode.links <= 1 + self.vault.vault_links(inode.id) {
            return;
        }
        let Some(expected) = self.inventory.get(path) else { return };
        let twins = self.inventory.iter().filter(|(_, other)| other.id == inode.id);
        let twins: Vec<PathBuf> = twins.map(|(path, _)| path.to_owned()).collect();
        for twin in twins {
            self.inventory.put(&twin, &expected);
        }
    }

    /// The directory of `path` has rightly changed with it.
    fn refresh_parent(&mut self, path: &Path) {
        let Some(parent) = path.parent() else { return };
        let Some(mut expected) = self.inventory.get(parent) else { return };
        let found = Object::at_path(parent).and_then(|object| Ok((object.inode()?, object)));
        if let Ok((inode, object)) = found
            && inode.id == expected.id
        {
            expected.mtime = inode.mtime;
            // What else was changed there by somebody must not look untouched.
            if has_metadata(&object, &inode, &expected) {
                expected.ctime = inode.ctime;
            }
            self.inventory.put(parent, &expected);
        }
    }

    /// The audit record of what was taken away as `id` has the number `seq`.
    pub fn file(&mut self, id: &str, seq: u64) {
        self.quarantine.file(id, seq);
    }

    /// Nothing has to be put right now: what was kept for the next time goes.
    pub fn rest(&mut self) {
        self.quarantine.rest();
    }

    /// After a restart, or when somebody else was at the vault or the quarantine: finds out again what they hold,
    /// holds what is missing of what still is the expected object, and drops the rest.
    pub fn rehold(&mut self) {
        if let Err(error) = self.quarantine.load() {
            tracing::warn!(%error, "the quarantine cannot be read");
        }
        self.vault.recheck();
        for (path, expected) in self.inventory.iter().filter(|(_, expected)| expected.is_dir()) {
            if let Ok(inode) = Object::at_path(path).and_then(|object| object.inode())
                && inode.id == expected.id
            {
                let _ = self.vault.prepare(inode.mount, path);
            }
        }
        let all: Vec<PathBuf> = self
            .inventory
            .iter()
            .filter(|(_, expected)| is_held(expected))
            .map(|(path, _)| path.to_owned())
            .collect();
        for path in all {
            let Some(mut expected) = self.inventory.get(&path) else { continue };
            let fixed = (self.duties)(&path).content == Content::Fixed;
            if self.vault.adopt(expected.id, fixed && expected.is_file() && expected.size > 0) {
                continue;
            }
            let Ok(object) = Object::at_path(&path) else { continue };
            let Ok(inode) = object.inode() else { continue };
            if expected.id != inode.id {
                continue;
            }
            // Content that changed is not copied. Where only the change time differs (removing a link sets it too)
            // there is no better source left.
            let alike = expected.size == inode.size && expected.mtime == inode.mtime;
            let copy = if fixed && alike { Copy::IfStale } else { Copy::None };
            let sum = self.vault.hold(&path, &object, &inode, copy, false);
            // What was touched before must not look untouched, and its content must not count as right.
            if expected.is_untouched(&inode)
                && let Ok(inode) = object.inode()
            {
                expected.ctime = inode.ctime;
                expected.sum = sum.or(expected.sum);
            }
            self.inventory.put(&path, &expected);
        }
        self.vault.prune();
    }

    /// Whether it is a directory of the vault or the quarantine.
    pub(super) fn is_own(&self, inode: &Inode) -> bool {
        inode.is_dir() && (self.vault.is_own(inode.id) || self.quarantine.is_own(inode.id))
    }
}

/// Directories need no more than the inventory, and can have no second name.
fn needs_hold(inode: &Inode) -> bool {
    !inode.is_dir()
}

fn is_held(expected: &Expected) -> bool {
    !expected.is_dir()
}
