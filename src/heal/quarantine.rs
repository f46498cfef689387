//! Where an intruder's objects go: moved away whole, with a note of what they were and whose. Nothing is destroyed
//! but the oldest, when the bounds are reached, and that is reported.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::content;
use super::failure::Failure;
use super::object::{Object, c_name, c_string, is};
use super::sidecar::{Item, hex_of};
use super::store::{self, Stores, path_in};
use super::tree::{self, Budget};
use crate::sys::inode::Inode;
use crate::sys::{clock, names};

/// Its directory in the state directory, and the kind of its stores elsewhere.
const NAME: &str = "quarantine";

/// One thing that has to be copied takes this part of all bytes at most, so that it does not drive out the rest.
const COPY_SHARE: u64 = 4;
/// What a copy leaves free on the filesystem of the state directory, where that is not more than a tenth of it: the
/// audit trail is written there too.
const RESERVE_MAX: u64 = 1 << 30;

/// Bounds of what is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes on disk; the newest item stays even when it alone is larger.
    pub bytes: u64,
    /// Items.
    pub items: usize,
    /// The longest file that gets a checksum, or is copied because it cannot be moved.
    pub file: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 1 << 30, items: 1000, file: 64 << 20 }
    }
}

/// What was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Under which name it is kept.
    pub id: String,
    /// Checksum of a regular file.
    pub blake3: Option<[u8; 32]>,
    /// Older items that had to go for it.
    pub dropped: Vec<String>,
}

/// The quarantine.
#[derive(Debug)]
pub struct Quarantine {
    stores: Stores,
    notes: PathBuf,
    bounds: Bounds,
    pub(super) items: BTreeMap<String, Item>,
    pub(super) bytes: u64,
    last: u64,
}

impl Quarantine {
    /// Takes up what is kept in `state_dir/quarantine`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(state_dir: &Path, bounds: Bounds) -> Result<Self, Failure> {
        let mut stores = Stores::new(state_dir, NAME);
        let index = stores.in_state()?;
        let notes = stores.get(index).map(|store| store.path.clone()).ok_or(Failure::NoPlace)?;
        let mut quarantine = Self { stores, notes, bounds, items: BTreeMap::new(), bytes: 0, last: 0 };
        quarantine.load().map_err(Failure::of("read"))?;
        Ok(quarantine)
    }

    /// As [`Quarantine::open`], for who only looks and releases: makes nothing, and one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn existing(state_dir: &Path) -> io::Result<Self> {
        let stores = Stores::new(state_dir, NAME);
        let notes = state_dir.join(NAME);
        let bounds = Bounds::default();
        let mut quarantine = Self { stores, notes, bounds, items: BTreeMap::new(), bytes: 0, last: 0 };
        match quarantine.load() {
            Err(error) if !is(&error, libc::ENOENT) => Err(error),
            _ => Ok(quarantine),
        }
    }

    /// Reads the notes again: another process may have released something.
    ///
    /// # Errors
    /// They cannot be read; what was known stays known.
    pub fn load(&mut self) -> io::Result<()> {
        let entries = std::fs::read_dir(&self.notes)?;
        self.items.clear();
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Ok(bytes) = std::fs::read(&path)
                && let Ok(item) = serde_json::from_slice::<Item>(&bytes)
            {
                self.items.insert(item.id.clone(), item);
            }
        }
        self.bytes = self.items.values().map(|item| item.bytes).sum();
        Ok(())
    }

    /// Everything, oldest first.
    pub fn list(&self) -> impl Iterator<Item = &Item> {
        self.items.values()
    }

    /// One item.
    pub fn show(&self, id: &str) -> Option<&Item> {
        self.items.get(id)
    }

    /// The directories, which nobody else may write in.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.stores.paths()
    }

    /// Whether this is one of the quarantine's directories.
    pub fn is_own(&self, id: crate::sys::file::Identity) -> bool {
        self.stores.is_own(id)
    }

    /// A name that sorts behind all earlier ones.
    fn next_id(&mut self) -> String {
        self.last = clock::realtime_ns().max(self.last + 1);
        format!("{:016x}", self.last)
    }

    /// Moves what `name` in `parent` is away. `original` is its path.
    ///
    /// # Errors
    /// It is still there; `EPERM` where a flag of the directory keeps it.
    pub fn take(
        &mut self,
        parent: &Object,
        name: &CStr,
        original: &Path,
        subject: &Value,
    ) -> Result<Taken, Failure> {
        let object = parent.child(name).map_err(Failure::of("open"))?;
        let inode = object.inode().map_err(Failure::of("statx"))?;
        let mount = parent.inode().map_err(Failure::of("statx"))?.mount;
        if inode.mount != mount {
            return Err(Failure::MountedOver);
        }
        if inode.flags != 0 {
            object.set_flags(0).map_err(Failure::of("chattr"))?;
        }
        let id = self.next_id();
        let kept_name = c_string(id.as_bytes()).map_err(Failure::of("name"))?;
        let moved = self.stores.on_mount(mount, original).and_then(|index| {
            let store = self.stores.get(index).ok_or(Failure::NoPlace)?;
            let directory = store.open()?;
            let (from, to) = ((parent.as_fd(), name), (directory.as_fd(), kept_name.as_c_str()));
            names::rename(from, to, names::NOREPLACE).map_err(Failure::of("rename"))?;
            Ok((path_in(store, &kept_name), directory))
        });
        let (kept, directory) = match moved {
            Ok(moved) => moved,
            Err(failure @ (Failure::Raced | Failure::ReadOnly)) => return Err(failure),
            Err(failure) if failure.is(libc::EPERM) => return Err(failure),
            Err(_) => self.carry(parent, name, &object, &kept_name)?,
        };
        // The name may have changed its meaning since it was looked at; what came along counts.
        let object = directory.child(&kept_name).map_err(Failure::of("open"))?;
        let came = object.inode().map_err(Failure::of("statx"))?;
        let mut item = Item::new(id, original, &kept, &came);
        item.flags = inode.flags;
        let measure = tree::measure(&object);
        (item.bytes, item.entries) = (measure.bytes, measure.entries);
        let blake3 = if came.is_file() { self.sum(&object) } else { None };
        Ok(self.keep(item, blake3, subject))
    }

    /// Moves by copying to the state directory: where its own mount has no place for it. What is too large for that
    /// stays where it is.
    fn carry(
        &mut self,
        parent: &Object,
        name: &CStr,
        object: &Object,
        kept_name: &CStr,
    ) -> Result<(PathBuf, Object), Failure> {
        let index = self.stores.in_state()?;
        let store = self.stores.get(index).ok_or(Failure::NoPlace)?;
        let directory = store.open()?;
        let (free, all) = names::space(directory.as_fd()).map_err(Failure::of("statvfs"))?;
        let room = free.saturating_sub(RESERVE_MAX.min(all / 10));
        let total = (self.bounds.bytes / COPY_SHARE).min(room);
        let budget = Budget { file: self.bounds.file, total };
        if let Err(error) = tree::copy(object, &directory, kept_name, budget) {
            let _ = tree::remove(&directory, kept_name);
            return Err(match error {
                error if is(&error, libc::EFBIG) && total == room => Failure::NoSpace,
                error if is(&error, libc::EFBIG) => Failure::TooLarge,
                error => Failure::of("copy")(error),
            });
        }
        tree::remove(parent, name).map_err(Failure::of("unlink"))?;
        Ok((path_in(store, kept_name), directory))
    }

    fn sum(&self, object: &Object) -> Option<[u8; 32]> {
        content::sum(&object.open(libc::O_RDONLY).ok()?, self.bounds.file).ok()?
    }

    /// Keeps a copy of what stands in a protected file, which is about to get its right content back.
    ///
    /// # Errors
    /// It is too long or there is no space.
    pub fn keep_content(
        &mut self,
        file: &File,
        inode: &Inode,
        original: &Path,
        subject: &Value,
    ) -> Result<Taken, Failure> {
        let id = self.next_id();
        let name = c_string(id.as_bytes()).map_err(Failure::of("name"))?;
        let index = match self.stores.on_mount(inode.mount, original) {
            Ok(index) => index,
            Err(_) => self.stores.in_state()?,
        };
        let store = self.stores.get(index).ok_or(Failure::NoPlace)?;
        let (directory, kept) = (store.open()?, path_in(store, &name));
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let copy = names::open_at(directory.as_fd(), &name, flags, 0o600).map_err(Failure::of("open"))?;
        let sum = match content::copy(file, &File::from(copy), self.bounds.file) {
            Ok((_, sum)) => sum,
            Err(error) => {
                let _ = tree::remove(&directory, &name);
                return Err(Failure::of("copy")(error));
            }
        };
        let mut item = Item::new(id, original, &kept, inode);
        "content".clone_into(&mut item.kind);
        Ok(self.keep(item, Some(sum), subject))
    }

    /// Writes the note and makes room.
    fn keep(&mut self, mut item: Item, blake3: Option<[u8; 32]>, subject: &Value) -> Taken {
        item.blake3 = blake3.map(|sum| hex_of(&sum));
        item.subject = subject.clone();
        self.write_note(&item);
        self.bytes += item.bytes;
        let id = item.id.clone();
        self.items.insert(id.clone(), item);
        let mut dropped = Vec::new();
        while self.items.len() > 1 && (self.items.len() > self.bounds.items || self.bytes > self.bounds.bytes)
        {
            let Some((oldest, item)) = self.items.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(item.bytes);
            self.destroy(&item);
            dropped.push(oldest);
        }
        Taken { id, blake3, dropped }
    }

    /// The record that tells of an item has this number in the trail.
    pub fn file(&mut self, id: &str, seq: u64) {
        let Some(item) = self.items.get_mut(id) else { return };
        item.seq = seq;
        let item = item.clone();
        self.write_note(&item);
    }

    fn write_note(&mut self, item: &Item) {
        let directory = self.stores.in_state().and_then(|index| self.stores.open(index));
        let written = directory.map_err(io::Error::other).and_then(|directory| {
            let bytes = serde_json::to_vec_pretty(item)?;
            store::write_file(&directory, &note_name(&item.id)?, &bytes, 0)
        });
        if let Err(error) = written {
            tracing::warn!(id = item.id, %error, "a note of the quarantine could not be written");
        }
    }

    pub(super) fn note_path(&self, id: &str) -> PathBuf {
        self.notes.join(format!("{id}.json"))
    }

    fn destroy(&self, item: &Item) {
        let kept = item.kept.path();
        if let (Some(directory), Ok(name)) = (kept.parent(), c_name(&kept))
            && let Err(error) =
                Object::directory_following(directory).and_then(|directory| tree::remove(&directory, &name))
            && !is(&error, libc::ENOENT)
        {
            tracing::warn!(id = item.id, %error, "an item of the quarantine could not be removed");
        }
        let _ = std::fs::remove_file(self.note_path(&item.id));
    }
}

/// What the note of an item is called.
fn note_name(id: &str) -> io::Result<CString> {
    c_string(format!("{id}.json").as_bytes())
}
