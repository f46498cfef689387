//! What healing restores from.
//!
//! Each protected object that is no directory gets a second name in a private directory on its own mount: it costs
//! no space and brings back the very inode, with owner, attributes and times. A change *in* the inode changes what
//! that link shows too, so files whose content may not change get a copy as well: shared blocks where the filesystem
//! can, else written ones, within limits.
//!
//! A link is named by its inode number alone: while the link exists, no other object can have that number.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::object::{Object, c_string, is};
use super::store::{Store, Stores, Temporary};
use crate::sys::file::{self, Identity};
use crate::sys::inode::{self, Inode};

/// Bounds of what copies may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest file that is copied where blocks cannot be shared.
    pub copy_file: u64,
    /// Bytes of all written copies together.
    pub copy_total: u64,
}

/// Copies are what content is restored from; the gate keeps content from changing, so they are for what slips by and
/// bounded accordingly.
impl Default for Limits {
    fn default() -> Self {
        Self { copy_file: 4 << 20, copy_total: 256 << 20 }
    }
}

/// Whether a copy of the content is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The content may change.
    None,
    /// A new one is made when the kept one has another length or time.
    IfStale,
    /// The content was changed by someone who may: a new one is made.
    Fresh,
}

/// How many paths [`Vault::unheld`] remembers; more are counted only.
const UNHELD_MAX: usize = 10_000;

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Held {
    /// How many expected names there are of it.
    names: u32,
    pub(super) store: u16,
    link: bool,
    pub(super) copy: bool,
    /// KiB that its copy takes: narrow, because there is one of these for each file.
    cost_kib: u32,
}

impl Held {
    pub(super) fn cost(&self) -> u64 {
        u64::from(self.cost_kib) << 10
    }

    pub(super) fn set_cost(&mut self, bytes: u64) {
        self.cost_kib = bytes.div_ceil(1024) as u32;
    }
}

/// How much is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Links.
    pub links: usize,
    /// Copies.
    pub copies: usize,
    /// Bytes of written copies.
    pub copied_bytes: u64,
    /// Names of which something is missing.
    pub unheld: usize,
}

/// The vault.
#[derive(Debug)]
pub struct Vault {
    pub(super) stores: Stores,
    loaded: usize,
    pub(super) limits: Limits,
    pub(super) held: HashMap<Identity, Held>,
    /// How many names objects have elsewhere, rightly: only those that have any.
    others: HashMap<Identity, u32>,
    unheld: BTreeMap<PathBuf, Failure>,
    pub(super) copied: u64,
    pub(super) temporary: Temporary,
    /// Stores whose filesystem cannot share blocks.
    pub(super) unshared: BTreeSet<usize>,
}

fn link_name(ino: u64) -> CString {
    c_string(format!("l-{ino:x}").as_bytes()).unwrap_or_default()
}

impl Vault {
    /// Takes up what earlier processes left in `state_dir`; other stores are taken up when they are first needed.
    pub fn open(state_dir: &Path, limits: Limits) -> Self {
        let mut vault = Self {
            stores: Stores::new(state_dir, "vault"),
            loaded: 0,
            limits,
            held: HashMap::new(),
            others: HashMap::new(),
            unheld: BTreeMap::new(),
            copied: 0,
            temporary: Temporary::default(),
            unshared: BTreeSet::new(),
        };
        let _ = vault.stores.in_state();
        vault.load();
        vault
    }

    /// Reads the directories of stores that are new here.
    fn load(&mut self) {
        while self.loaded < self.stores.len() {
            let index = self.loaded;
            self.loaded += 1;
            let Some(store) = self.stores.get(index) else { return };
            let Ok(directory) = store.open() else { continue };
            for name in directory.entries().unwrap_or_default() {
                let text = name.to_str().unwrap_or_default();
                let parsed = text
                    .split_once('-')
                    .and_then(|(kind, ino)| Some((kind, u64::from_str_radix(ino, 16).ok()?)));
                let Some((kind @ ("l" | "c"), ino)) = parsed else {
                    // Half made when its maker died.
                    if text.starts_with(super::store::PREFIX) {
                        let _ = file::unlink_at(directory.as_fd(), &name);
                    }
                    continue;
                };
                let held = self.held.entry(Identity { dev: store.id.dev, ino }).or_default();
                held.store = index as u16;
                if kind == "l" {
                    held.link = true;
                } else {
                    held.copy = true;
                    let cost = inode::of_name(directory.as_fd(), &name).map_or(0, |inode| inode.allocated);
                    held.set_cost(cost);
                    self.copied += held.cost();
                }
            }
        }
    }

    /// Makes the store that holds what lies on `mount`, ahead of the first object: its name appears in the mount's
    /// root.
    ///
    /// # Errors
    /// There can be none.
    pub fn prepare(&mut self, mount: u64, path: &Path) -> Result<(), Failure> {
        let index = self.stores.on_mount(mount, path);
        self.load();
        index.map(|_| ())
    }

    /// Looks again at what the stores hold, and forgets which names need it: [`Vault::adopt`] says so anew.
    pub fn recheck(&mut self) {
        self.held.clear();
        self.unheld.clear();
        self.copied = 0;
        self.loaded = 0;
        self.load();
    }

    /// A name of this object is expected. Whether it is linked.
    pub fn adopt(&mut self, id: Identity) -> bool {
        let held = self.held.entry(id).or_default();
        held.names += 1;
        held.link
    }

    /// Holds `object`, which `path` names. `new_name`: the path did not name this object before. Gives back the sum
    /// of a copy that was made now.
    pub fn hold(
        &mut self,
        path: &Path,
        object: &Object,
        inode: &Inode,
        copy: Copy,
        new_name: bool,
    ) -> Option<Box<[u8; 32]>> {
        if new_name {
            self.held.entry(inode.id).or_default().names += 1;
        }
        match self.try_hold(path, object, inode, copy) {
            Ok(sum) => {
                self.unheld.remove(path);
                sum.map(Box::new)
            }
            Err(failure) => {
                // A symbolic link can be made again without.
                if self.unheld.len() < UNHELD_MAX && inode.file_type() != libc::S_IFLNK {
                    self.unheld.insert(path.to_owned(), failure);
                }
                None
            }
        }
    }

    fn try_hold(
        &mut self,
        path: &Path,
        object: &Object,
        inode: &Inode,
        copy: Copy,
    ) -> Result<Option<[u8; 32]>, Failure> {
        let index = self.stores.on_mount(inode.mount, path)?;
        self.load();
        let store = self.stores.get(index).ok_or(Failure::NoPlace)?;
        let directory = store.open()?;
        let held = self.held.entry(inode.id).or_default();
        held.store = index as u16;
        let linked = link(&directory, object, inode);
        held.link = linked.is_ok();
        // Without content there is nothing to copy, and `copy_of` knows it.
        if copy != Copy::None && inode.is_file() && inode.size > 0 {
            let sum = self.copy((index, &directory), object, inode, copy == Copy::Fresh)?;
            return linked.map(|()| sum);
        }
        linked.map(|()| None)
    }

    /// The object `old` is lost; `path` names `object` now, which needs what `old` had.
    pub fn succeed(&mut self, path: &Path, old: Identity, object: &Object, inode: &Inode) {
        self.hold(path, object, inode, Copy::None, true);
        self.release(path, old);
    }

    /// One expected name of the object is gone on purpose; with the last one it is no longer held.
    pub fn release(&mut self, path: &Path, id: Identity) {
        self.unheld.remove(path);
        let Some(held) = self.held.get_mut(&id) else { return };
        held.names = held.names.saturating_sub(1);
        if held.names == 0 {
            self.drop_object(id);
        }
    }

    /// Drops the link to an object that can no longer be made right; its copy stays.
    pub fn disown(&mut self, id: Identity) {
        let Some((store, held)) = self.store_of(id) else { return };
        if held.link
            && let Ok(directory) = store.open()
        {
            let _ = file::unlink_at(directory.as_fd(), &link_name(id.ino));
        }
        if let Some(held) = self.held.get_mut(&id) {
            held.link = false;
        }
    }

    fn drop_object(&mut self, id: Identity) {
        let Some(&held) = self.held.get(&id) else { return };
        if let Some(directory) = self.stores.get(held.store.into()).and_then(|store| store.open().ok()) {
            self.drop_copy(&directory, id);
            if held.link {
                let name = link_name(id.ino);
                if file::unlink_at(directory.as_fd(), &name).is_err_and(|error| is(&error, libc::EPERM))
                    && let Ok(object) = directory.child(&name)
                {
                    // Only as long as it takes: the object may have other names.
                    if let Ok(inode) = object.inode()
                        && object.unblock(&inode).is_ok()
                    {
                        let _ = file::unlink_at(directory.as_fd(), &name);
                        let _ = object.set_flags(inode.flags);
                    }
                }
            }
        }
        self.held.remove(&id);
        self.others.remove(&id);
    }

    /// Drops what no expected name needs: policies changed, or it was left by an earlier process.
    pub fn prune(&mut self) -> usize {
        let unneeded: Vec<_> =
            self.held.iter().filter(|(_, held)| held.names == 0).map(|(id, _)| *id).collect();
        for id in &unneeded {
            self.drop_object(*id);
        }
        unneeded.len()
    }

    pub(super) fn store_of(&self, id: Identity) -> Option<(&Store, Held)> {
        let held = self.held.get(&id)?;
        Some((self.stores.get(held.store.into())?, *held))
    }

    /// The held object itself, if it is still there.
    pub fn link_of(&self, id: Identity) -> Option<Object> {
        let (store, held) = self.store_of(id)?;
        let object = held.link.then(|| store.open().ok()?.child(&link_name(id.ino)).ok())??;
        (object.inode().ok()?.id == id).then_some(object)
    }

    /// The directories, which nobody else may write in: they hold further names of protected files.
    pub fn places(&self) -> impl DoubleEndedIterator<Item = &Path> {
        self.stores.paths()
    }

    /// How many of an object's names are the vault's own: they are no foreign hard links.
    pub fn vault_links(&self, id: Identity) -> u32 {
        self.held.get(&id).map_or(0, |held| u32::from(held.link))
    }

    /// How many expected names the object has.
    pub fn names(&self, id: Identity) -> u32 {
        self.held.get(&id).map_or(0, |held| held.names)
    }

    /// The object is right with so many names, wherever they are.
    pub(super) fn note_links(&mut self, id: Identity, links: u32) {
        match links.saturating_sub(self.names(id) + self.vault_links(id)) {
            0 => self.others.remove(&id),
            others => self.others.insert(id, others),
        };
    }

    /// How many names the object has, rightly, beside the expected ones and the vault's.
    pub fn others(&self, id: Identity) -> u32 {
        self.others.get(&id).copied().unwrap_or(0)
    }

    /// What is not held, or not wholly, and why.
    pub fn unheld(&self) -> impl Iterator<Item = (&Path, Failure)> {
        self.unheld.iter().map(|(path, failure)| (path.as_path(), *failure))
    }

    /// How much is held.
    pub fn usage(&self) -> Usage {
        Usage {
            links: self.held.values().filter(|held| held.link).count(),
            copies: self.held.values().filter(|held| held.copy).count(),
            copied_bytes: self.copied,
            unheld: self.unheld.len(),
        }
    }

    /// Whether this is one of the vault's directories.
    pub fn is_own(&self, id: Identity) -> bool {
        self.stores.is_own(id)
    }
}

/// Links `object` into the store, unless it is there already.
fn link(directory: &Object, object: &Object, inode: &Inode) -> Result<(), Failure> {
    let name = link_name(inode.id.ino);
    for _ in 0..3 {
        match inode::of_name(directory.as_fd(), &name) {
            Ok(found) if found.id == inode.id => return Ok(()),
            // Of an object that lived on this number in another filesystem's life.
            Ok(_) => file::unlink_at(directory.as_fd(), &name).map_err(Failure::of("unlink"))?,
            Err(_) => {}
        }
        match object.link(directory, &name) {
            Ok(()) => return Ok(()),
            Err(error) if is(&error, libc::EEXIST) => {}
            // The kernel gives no further name to what may not change.
            Err(error) if is(&error, libc::EPERM) && inode.is_blocked() => {
                object.unblock(inode).map_err(Failure::of("chattr"))?;
                let linked = object.link(directory, &name);
                object.set_flags(inode.flags).map_err(Failure::of("chattr"))?;
                return linked.map_err(Failure::of("link"));
            }
            Err(error) => return Err(Failure::of("link")(error)),
        }
    }
    Err(Failure::Raced)
}
