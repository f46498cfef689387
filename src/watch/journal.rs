//! The inventory outside the worker: a base and the changes behind it, in memory files that the supervisor holds.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::heal::Inventory;
use crate::sys::shared::SharedPage;

/// Changes that are kept behind a base before a new one is written, as a part of its length: rewriting costs as much
/// as that, so every byte is written twice at most.
const CHANGES_PER_BASE: u64 = 1;
/// … and at least so many bytes.
const CHANGES_MIN: u64 = 1 << 20;

/// One of the two files is valid, as the shared page says; the other is being written.
pub struct Journal {
    page: &'static SharedPage,
    files: [File; 2],
    base: u64,
    length: u64,
}

impl Journal {
    /// On the supervisor's memory files.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new(page: &'static SharedPage, files: &[OwnedFd; 2]) -> io::Result<Self> {
        let [first, second] = files;
        let files = [first.try_clone()?.into(), second.try_clone()?.into()];
        Ok(Self { page, files, base: 0, length: 0 })
    }

    /// What an earlier worker has left; `None` where it left nothing whole.
    pub fn load(&mut self) -> Option<Inventory> {
        let file = &mut self.files[self.valid()?];
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).ok()?;
        let (inventory, decoded) = Inventory::decode(&bytes, true);
        if decoded.torn > 0 {
            // The last change was being written: the scan that follows a restart finds it again.
            file.set_len(decoded.bytes as u64).ok()?;
        }
        (self.base, self.length) = (decoded.bytes as u64, decoded.bytes as u64);
        Some(inventory)
    }

    fn valid(&self) -> Option<usize> {
        match self.page.inventory.load(Acquire) {
            1 => Some(0),
            2 => Some(1),
            _ => None,
        }
    }

    /// Writes everything into the other file and makes that the valid one.
    ///
    /// # Errors
    /// No memory.
    pub fn rewrite(&mut self, inventory: &Inventory) -> io::Result<()> {
        let next = usize::from(self.valid() == Some(0));
        let file = &mut self.files[next];
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        let mut out = BufWriter::new(&*file);
        inventory.write_base(&mut out)?;
        out.flush()?;
        drop(out);
        self.base = file.stream_position()?;
        self.length = self.base;
        self.page.inventory.store(next as u32 + 1, Release);
        if let Some(old) = self.files.get(1 - next) {
            old.set_len(0)?;
        }
        Ok(())
    }

    /// Appends `changes`; whether it is time to rewrite.
    ///
    /// # Errors
    /// No memory.
    pub fn append(&mut self, changes: &[u8]) -> io::Result<bool> {
        let Some(valid) = self.valid() else { return Ok(false) };
        let file = &mut self.files[valid];
        file.seek(SeekFrom::Start(self.length))?;
        file.write_all(changes)?;
        self.length += changes.len() as u64;
        Ok(self.length - self.base > (self.base * CHANGES_PER_BASE).max(CHANGES_MIN))
    }
}
