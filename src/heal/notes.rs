//! The notes of the quarantine: one file beside each thing, in the state directory.
//!
//! Filesystems make inodes slowly while many are removed (ext4 looks at each that went in the last seconds), and who
//! floods a directory has two made and two removed for each name. So the number of a record is written into the note
//! that is there, and the note of what was dropped becomes the next one.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde_json::Value;

use super::object::{Object, c_string, is};
use super::quarantine::{Away, Quarantine};
use super::sidecar::Item;
use super::store::{self, Temporary};
use crate::sys::{file, names};

/// How the name of a note ends, after the id.
const NOTE: &str = ".json";
/// The longest note: a record's text about the subject, 48 KiB, in which JSON may write each byte as six and once more
/// in hexadecimal, and the paths. A longer one is written without the subject.
const NOTE_BYTES_MAX: u64 = 512 << 10;
/// How the number of a record is written: with room for the longest, so that it can be written over.
const SEQ: &str = "\"seq\": ";
/// The digits of the longest number.
const SEQ_DIGITS: usize = 20;

/// The file of a note that is needed no more, under a name that nobody looks at.
#[derive(Debug)]
pub(super) struct Spare {
    file: File,
    name: CString,
}

impl Quarantine {
    /// The record that tells of an item has this number in the trail.
    pub fn file(&mut self, id: &str, seq: u64) {
        let Some(kept) = self.items.get_mut(id) else { return };
        let before = head_of(&kept.item);
        kept.item.seq = seq;
        let item = kept.item.clone();
        let directory = self.stores.open_in_state().map_err(io::Error::other);
        let written = directory.and_then(|directory| write_head(&directory, &before, &item));
        if written.is_err() {
            self.write_note(&item);
        }
    }

    /// Writes the note of an item, wholly or not at all.
    pub(super) fn write_note(&mut self, item: &Item) {
        let directory = self.stores.open_in_state().map_err(io::Error::other);
        let written = directory.and_then(|directory| {
            let (bytes, name) = (bytes_of(item)?, note_name(&item.id)?);
            match self.spare.take().map(|spare| spare.become_note(&directory, &name, &bytes)) {
                Some(Ok(())) => Ok(()),
                _ => store::write_file(&directory, &name, &bytes, 0),
            }
        });
        if let Err(error) = written {
            tracing::warn!(id = item.id, %error, "a note of the quarantine could not be written");
        }
    }

    /// Takes a note away.
    pub(super) fn remove_note(&mut self, id: &str) {
        if let Ok(directory) = self.stores.open_in_state()
            && let Ok(name) = note_name(id)
        {
            let _ = file::unlink_at(directory.as_fd(), &name);
        }
    }

    /// Takes the note of what was dropped away, to be the next one.
    pub(super) fn recycle_note(&mut self, id: &str) {
        let Ok(directory) = self.stores.open_in_state() else { return };
        let Ok(name) = note_name(id) else { return };
        if self.spare.is_none() {
            self.spare = Spare::of(&directory, &name).ok();
        }
        // Where it has become the spare, there is none any more.
        let _ = file::unlink_at(directory.as_fd(), &name);
    }

    /// Nobody floods anything any more: what was kept for that goes.
    pub fn rest(&mut self) {
        if let Some(spare) = self.spare.take()
            && let Ok(directory) = self.stores.open_in_state()
        {
            let _ = file::unlink_at(directory.as_fd(), &spare.name);
        }
    }

    /// What had been taken away when its taker died, and has no note, gets one that says little.
    pub(super) fn adopt(&mut self) {
        while self.adopted < self.stores.len() {
            let store = self.adopted;
            self.adopted += 1;
            let Ok(directory) = self.stores.open(store) else { continue };
            for name in directory.entries().unwrap_or_default() {
                if let Some(away) = self.without_note(store, &directory, &name) {
                    tracing::warn!(id = away.id(), "it was in the quarantine without a note");
                    self.keep(away, &Value::Null);
                }
            }
        }
    }

    fn without_note(&mut self, store: usize, directory: &Object, name: &CStr) -> Option<Away> {
        let id = name.to_str().ok().filter(|id| store::is_id(id))?;
        if self.items.contains_key(id) {
            return None;
        }
        let notes = self.stores.open_in_state().ok()?;
        // One that was not believed, or not read, is left as it is.
        notes.child(&note_name(id).ok()?).err().filter(|error| is(error, libc::ENOENT))?;
        let object = directory.child(name).ok()?;
        let inode = object.inode().ok()?;
        let mut item = Item::new(id.to_owned(), Path::new(""), &self.path_of(store, id), &inode);
        item.time_ns = u64::from_str_radix(id, 16).unwrap_or(item.time_ns);
        Some(Away { item, store, object: Some(object), blake3: None })
    }

    /// Removes what was half made when its maker died.
    pub(super) fn sweep(&mut self) {
        let Ok(directory) = self.stores.open_in_state() else { return };
        for name in directory.entries().unwrap_or_default() {
            if name.to_bytes().starts_with(store::PREFIX.as_bytes()) {
                let _ = file::unlink_at(directory.as_fd(), &name);
            }
        }
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Spare {
    /// Of the note `name`, which must be a file of ours with no other name.
    fn of(directory: &Object, name: &CStr) -> io::Result<Self> {
        let object = directory.child(name)?;
        if !object.inode()?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let file = object.open(libc::O_WRONLY)?;
        let spare = Self { file, name: Temporary::default().next() };
        spare.check()?;
        names::rename((directory.as_fd(), name), (directory.as_fd(), &spare.name), names::NOREPLACE)?;
        Ok(spare)
    }

    /// Whether what is written there is seen nowhere else.
    fn check(&self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        let is_own = metadata.nlink() == 1 && metadata.uid() == nix::unistd::geteuid().as_raw();
        if is_own { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// With another content and under another name.
    fn become_note(self, directory: &Object, name: &CStr, bytes: &[u8]) -> io::Result<()> {
        // Never of no length: ext4 writes out at once what was emptied and is closed.
        let written = self
            .check()
            .and_then(|()| self.file.write_all_at(bytes, 0))
            .and_then(|()| self.file.set_len(bytes.len() as u64))
            .and_then(|()| names::rename((directory.as_fd(), &self.name), (directory.as_fd(), name), 0));
        if written.is_err() {
            let _ = file::unlink_at(directory.as_fd(), &self.name);
        }
        written
    }
}

/// A note: the item as JSON, with room behind the number of its record.
fn bytes_of(item: &Item) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(item)?;
    if bytes.len() as u64 + SEQ_DIGITS as u64 > NOTE_BYTES_MAX {
        bytes = serde_json::to_vec_pretty(&Item { subject: Value::Null, ..item.clone() })?;
    }
    let plain = plain_head(item, 0);
    if bytes.starts_with(plain.as_bytes()) {
        bytes.splice(..plain.len(), head_of(item).into_bytes());
    }
    Ok(bytes)
}

/// How a note begins, as it is written without room; `width` at least for the number.
fn plain_head(item: &Item, width: usize) -> String {
    format!("{{\n  \"id\": \"{}\",\n  {SEQ}{:<width$},\n", item.id, item.seq)
}

/// The same with room.
fn head_of(item: &Item) -> String {
    plain_head(item, SEQ_DIGITS)
}

/// Writes the beginning of a note anew, if it is the one that begins with `before`: at one go, and within a page.
fn write_head(directory: &Object, before: &str, item: &Item) -> io::Result<()> {
    let object = directory.child(&note_name(&item.id)?)?;
    let inode = object.inode()?;
    let mut found = vec![0; before.len()];
    let after = head_of(item);
    if inode.is_file() && inode.links == 1 && after.len() == before.len() {
        let file = object.open(libc::O_RDWR)?;
        file.read_exact_at(&mut found, 0)?;
        if found == before.as_bytes() {
            return file.write_all_at(after.as_bytes(), 0);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// What the note of an item is called.
fn note_name(id: &str) -> io::Result<CString> {
    c_string(format!("{id}{NOTE}").as_bytes())
}

/// Which item a note is about, by its name.
pub(super) fn id_of_note(name: &CStr) -> Option<String> {
    let id = name.to_str().ok()?.strip_suffix(NOTE)?;
    store::is_id(id).then(|| id.to_owned())
}

/// A note and its length, if it is one that we may have written.
pub(super) fn read_note(notes: &Object, id: &str) -> Option<(u64, Item)> {
    let bytes = store::read_file(notes, &note_name(id).ok()?, NOTE_BYTES_MAX, 1).ok()?;
    let item = serde_json::from_slice::<Item>(&bytes).ok()?;
    (item.id == id).then_some((bytes.len() as u64, item))
}
