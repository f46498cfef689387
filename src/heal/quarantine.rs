//! Where an intruder's objects go: moved away whole, with a note of what they were and whose. Nothing is destroyed
//! but the oldest, when the bounds are reached, and that is reported.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::content;
use super::failure::Failure;
use super::notes::{Spare, id_of_note, read_note};
use super::object::{Object, c_string, is};
use super::sidecar::{Item, JsonPath, hex_of};
use super::store::{self, Stores};
use super::tree::{self, Budget};
use crate::sys::inode::Inode;
use crate::sys::{clock, names};

/// Its directory in the state directory, and the kind of its stores elsewhere.
const NAME: &str = "quarantine";

/// How many notes are read, far more than are kept; whoever plants more has them ignored.
const NOTES_MAX: usize = 10_000;
/// How many bytes of notes are held in memory: 64 KiB for each of the items that are kept.
const NOTES_BYTES_MAX: u64 = 64 << 20;
/// How many objects are measured when all notes are read, a fraction of a second: of what is beyond them too little is
/// counted, and so nothing is dropped for it.
const MEASURED_MAX: u64 = 100_000;
/// One thing that has to be copied takes this part of all bytes at most, so that it does not drive out the rest.
const COPY_SHARE: u64 = 4;

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

/// What was taken away, and has no note yet: for [`Quarantine::keep`].
#[derive(Debug)]
#[must_use]
pub struct Away {
    pub(super) item: Item,
    pub(super) store: usize,
    /// What is to be measured yet.
    pub(super) object: Option<Object>,
    pub(super) blake3: Option<[u8; 32]>,
}

impl Away {
    /// Under which name it is kept.
    pub fn id(&self) -> &str {
        &self.item.id
    }
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Under which name.
    pub id: String,
    /// Checksum of a regular file.
    pub blake3: Option<[u8; 32]>,
    /// Older items that had to go for it.
    pub dropped: Vec<String>,
}

/// The quarantine.
#[derive(Debug)]
pub struct Quarantine {
    pub(super) stores: Stores,
    bounds: Bounds,
    pub(super) items: BTreeMap<String, Kept>,
    pub(super) bytes: u64,
    last: u64,
    /// Stores that were looked through for things without a note.
    pub(super) adopted: usize,
    /// Notes that stand for nothing, when they were read last.
    strays: usize,
    /// For the next note.
    pub(super) spare: Option<Spare>,
}

/// An item, and which store it is in under its id. Where its note says that it is, is for people only.
#[derive(Debug)]
pub(super) struct Kept {
    pub item: Item,
    pub store: usize,
}

impl Quarantine {
    /// Takes up what is kept in `state_dir/quarantine`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(state_dir: &Path, bounds: Bounds) -> Result<Self, Failure> {
        let mut quarantine = Self::new(state_dir, bounds);
        quarantine.stores.in_state()?;
        quarantine.sweep();
        quarantine.load().map_err(Failure::of("read"))?;
        quarantine.adopt();
        Ok(quarantine)
    }

    /// As [`Quarantine::open`], for who only looks and releases: makes nothing, and one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn existing(state_dir: &Path) -> io::Result<Self> {
        let mut quarantine = Self::new(state_dir, Bounds::default());
        match quarantine.load() {
            Err(error) if !is(&error, libc::ENOENT) => Err(error),
            _ => Ok(quarantine),
        }
    }

    fn new(state_dir: &Path, bounds: Bounds) -> Self {
        let stores = Stores::new(state_dir, NAME);
        Self { stores, bounds, items: BTreeMap::new(), bytes: 0, last: 0, adopted: 0, strays: 0, spare: None }
    }

    /// Reads the notes again: another process may have released something. They may be anybody's, so each is believed
    /// only as far as the thing that it is about is in one of our stores; nothing is removed because of one.
    ///
    /// # Errors
    /// They cannot be read; what was known stays known.
    pub fn load(&mut self) -> io::Result<()> {
        let home = self.stores.found_in_state()?;
        let notes = self.stores.open(home).map_err(io::Error::other)?;
        let mut ids: Vec<_> = notes.entries()?.iter().filter_map(|name| id_of_note(name)).collect();
        ids.sort_unstable();
        self.items.clear();
        self.bytes = 0;
        let (mut bytes_left, mut entries_left, mut strays) = (NOTES_BYTES_MAX, MEASURED_MAX, 0);
        // The newest are what somebody wants to know of first.
        for (read, id) in ids.into_iter().rev().enumerate() {
            let note = if read < NOTES_MAX { read_note(&notes, &id) } else { None };
            let item = note.filter(|(length, _)| *length <= bytes_left).and_then(|(length, mut item)| {
                let (store, object) = self.locate(&item)?;
                let measure = tree::measure_up_to(&object, entries_left);
                entries_left = entries_left.saturating_sub(measure.entries);
                bytes_left -= length;
                (item.bytes, item.entries) = (measure.bytes, measure.entries);
                item.kept = JsonPath::new(&self.stores.get(store)?.path.join(&id));
                Some(Kept { item, store })
            });
            match item {
                Some(kept) => {
                    self.bytes = self.bytes.saturating_add(kept.item.bytes);
                    self.items.insert(id, kept);
                }
                None => strays += 1,
            }
        }
        if strays > self.strays {
            tracing::warn!(strays, "notes in the quarantine that stand for nothing it keeps are left alone");
        }
        self.strays = strays;
        Ok(())
    }

    /// The store that has the thing itself. Where its note says it is only helps to find stores of earlier processes.
    fn locate(&mut self, item: &Item) -> Option<(usize, Object)> {
        let hint = item.kept.path().parent().and_then(|path| self.stores.found_at(path));
        let name = c_string(item.id.as_bytes()).ok()?;
        let mut places = hint.into_iter().chain(0..self.stores.len());
        places.find_map(|index| Some((index, self.stores.open(index).ok()?.child(&name).ok()?)))
    }

    /// Everything, oldest first.
    pub fn list(&self) -> impl Iterator<Item = &Item> {
        self.items.values().map(|kept| &kept.item)
    }

    /// One item.
    pub fn show(&self, id: &str) -> Option<&Item> {
        self.items.get(id).map(|kept| &kept.item)
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

    /// Moves `object`, which `name` in `parent` is, away. `original` is its path. Its note waits until what is left
    /// behind is put right: that is what somebody may be looking at.
    ///
    /// # Errors
    /// It is still there; `EPERM` where a flag of the directory keeps it.
    pub fn take(
        &mut self,
        parent: &Object,
        name: &CStr,
        original: &Path,
        object: &Object,
    ) -> Result<Away, Failure> {
        let inode = object.inode().map_err(Failure::of("statx"))?;
        let mount = parent.inode().map_err(Failure::of("statx"))?.mount;
        if inode.mount != mount {
            return Err(Failure::MountedOver);
        }
        object.unblock(&inode).map_err(Failure::of("chattr"))?;
        let id = self.next_id();
        let kept_name = c_string(id.as_bytes()).map_err(Failure::of("name"))?;
        let place = self.stores.on_mount(mount, original);
        self.adopt();
        let moved = place.and_then(|index| {
            let directory = self.stores.open(index)?;
            let (from, to) = ((parent.as_fd(), name), (directory.as_fd(), kept_name.as_c_str()));
            names::rename(from, to, names::NOREPLACE).map_err(Failure::of("rename"))?;
            Ok((index, directory))
        });
        let (store, directory) = match moved {
            Ok(moved) => moved,
            Err(failure @ (Failure::Raced | Failure::ReadOnly)) => return Err(failure),
            Err(failure) if failure.is(libc::EPERM) => return Err(failure),
            Err(_) => self.carry(parent, name, object, &kept_name)?,
        };
        // The name may have changed its meaning since it was looked at; what came along counts.
        let object = directory.child(&kept_name).map_err(Failure::of("open"))?;
        let came = object.inode().map_err(Failure::of("statx"))?;
        let mut item = Item::new(id.clone(), original, &self.path_of(store, &id), &came);
        item.flags = inode.flags;
        Ok(Away { item, store, object: Some(object), blake3: None })
    }

    /// Moves by copying to the state directory: where its own mount has no place for it. What is too large for that
    /// stays where it is.
    fn carry(
        &mut self,
        parent: &Object,
        name: &CStr,
        object: &Object,
        kept_name: &CStr,
    ) -> Result<(usize, Object), Failure> {
        let index = self.stores.in_state()?;
        let directory = self.stores.open(index)?;
        let room = store::room(&directory)?;
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
        Ok((index, directory))
    }

    fn sum(&self, object: &Object) -> Option<[u8; 32]> {
        content::sum(&object.open(libc::O_RDONLY).ok()?, self.bounds.file).ok()?
    }

    /// Keeps a copy of what stands in a protected file, which is about to get its right content back.
    ///
    /// # Errors
    /// It is too long or there is no space.
    pub fn keep_content(&mut self, file: &File, inode: &Inode, original: &Path) -> Result<Away, Failure> {
        let id = self.next_id();
        let name = c_string(id.as_bytes()).map_err(Failure::of("name"))?;
        let index = match self.stores.on_mount(inode.mount, original) {
            Ok(index) => index,
            Err(_) => self.stores.in_state()?,
        };
        let (directory, kept) = (self.stores.open(index)?, self.path_of(index, &id));
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
        Ok(Away { item, store: index, object: None, blake3: Some(sum) })
    }

    pub(super) fn path_of(&self, store: usize, id: &str) -> PathBuf {
        self.stores.get(store).map_or_else(PathBuf::new, |store| store.path.join(id))
    }

    /// Measures what was taken away, writes its note and makes room.
    pub fn keep(&mut self, away: Away, subject: &Value) -> Taken {
        let Away { mut item, store, object, mut blake3 } = away;
        if let Some(object) = object {
            let measure = tree::measure(&object);
            (item.bytes, item.entries) = (measure.bytes, measure.entries);
            blake3 = if item.kind == "file" { self.sum(&object) } else { None };
        }
        item.blake3 = blake3.map(|sum| hex_of(&sum));
        item.subject = subject.clone();
        self.write_note(&item);
        self.bytes = self.bytes.saturating_add(item.bytes);
        let id = item.id.clone();
        self.items.insert(id.clone(), Kept { item, store });
        let mut dropped = Vec::new();
        while self.items.len() > 1 && (self.items.len() > self.bounds.items || self.bytes > self.bounds.bytes)
        {
            let Some((oldest, kept)) = self.items.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(kept.item.bytes);
            self.destroy(&oldest, kept.store);
            dropped.push(oldest);
        }
        Taken { id, blake3, dropped }
    }

    fn destroy(&mut self, id: &str, store: usize) {
        let removed = self.stores.open(store).map_err(io::Error::other).and_then(|directory| {
            match tree::remove(&directory, &c_string(id.as_bytes())?) {
                Err(error) if is(&error, libc::ENOENT) => Ok(()),
                other => other,
            }
        });
        match removed {
            Ok(()) => self.recycle_note(id),
            // Its note stays with it.
            Err(error) => tracing::warn!(id, %error, "an item of the quarantine could not be removed"),
        }
    }

    /// The item is not in the quarantine any more, so its note goes too.
    pub(super) fn forget(&mut self, id: &str) {
        self.remove_note(id);
        if let Some(kept) = self.items.remove(id) {
            self.bytes = self.bytes.saturating_sub(kept.item.bytes);
        }
    }
}
