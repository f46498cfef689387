//! What every protected name should be, by path.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::expected::Expected;
use super::journal;
use super::object::Object;
use super::packed::Packed;

/// How much of a base is written at once.
const BASE_BUFFER_BYTES: usize = 64 * 1024;

/// The inventory. Every change is also appended to a journal, which [`Inventory::take_changes`] hands out: kept
/// behind the base of [`Inventory::write_base`] outside this process, it gives the same inventory to the next one.
#[derive(Debug, Default)]
pub struct Inventory {
    names: BTreeSet<Packed>,
    changes: Vec<u8>,
    journaled: bool,
}

/// How a decoding went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decoded {
    /// Whole records.
    pub records: usize,
    /// How many bytes they take.
    pub bytes: usize,
    /// Bytes after them that are no whole record: the writer died there.
    pub torn: usize,
}

impl Inventory {
    /// Empty; changes are journaled when `journaled`.
    pub fn new(journaled: bool) -> Self {
        Self { names: BTreeSet::new(), changes: Vec::new(), journaled }
    }

    /// What `path` should be.
    pub fn get(&self, path: &Path) -> Option<Expected> {
        self.names.get(path.as_os_str().as_bytes())?.expected()
    }

    /// Whether something should be at `path`.
    pub fn contains(&self, path: &Path) -> bool {
        self.names.contains(path.as_os_str().as_bytes())
    }

    /// Takes down what `path` is now: at start, or because a trusted writer changed it.
    ///
    /// # Errors
    /// It cannot be looked at; the inventory is as it was.
    pub fn take(&mut self, path: &Path) -> io::Result<()> {
        self.put(path, &Expected::take(&Object::at_path(path)?)?);
        Ok(())
    }

    /// Notes what `path` should be.
    pub fn put(&mut self, path: &Path, expected: &Expected) {
        self.put_packed(Packed::new(path.as_os_str().as_bytes(), expected));
    }

    fn put_packed(&mut self, name: Packed) {
        if self.names.get(&name).is_some_and(|known| known.bytes() == name.bytes()) {
            return;
        }
        if self.journaled {
            journal::append_put(&mut self.changes, &name);
        }
        self.names.replace(name);
    }

    /// Forgets `path` and everything below it; gives back what it was.
    pub fn remove(&mut self, path: &Path) -> Vec<(PathBuf, Expected)> {
        let key = path.as_os_str().as_bytes();
        let mut removed = Vec::new();
        removed.extend(self.names.take(key));
        let (first, end) = below(key);
        let range = (Bound::Included(first.as_slice()), Bound::Excluded(end.as_slice()));
        let keys: Vec<_> = self.names.range::<[u8], _>(range).map(|name| name.path().to_owned()).collect();
        removed.extend(keys.iter().filter_map(|key| self.names.take(key.as_os_str().as_bytes())));
        if self.journaled && !removed.is_empty() {
            journal::append_remove(&mut self.changes, key);
        }
        removed.iter().filter_map(|name| Some((name.path().to_owned(), name.expected()?))).collect()
    }

    /// Forgets `path` alone.
    pub fn remove_one(&mut self, path: &Path) -> Option<Expected> {
        let key = path.as_os_str().as_bytes();
        let removed = self.names.take(key)?;
        if self.journaled {
            journal::append_remove_one(&mut self.changes, key);
        }
        removed.expected()
    }

    /// The entries directly in `directory`, in order.
    pub fn children<'a>(&'a self, directory: &Path) -> impl Iterator<Item = (&'a Path, Expected)> + use<'a> {
        let (mut from, end) = below(directory.as_os_str().as_bytes());
        let start = from.len();
        std::iter::from_fn(move || {
            loop {
                let range = (Bound::Included(from.as_slice()), Bound::Excluded(end.as_slice()));
                let name = self.names.range::<[u8], _>(range).next()?;
                let key = name.path().as_os_str().as_bytes();
                // The root of the tree is below itself by its name.
                if key.len() == start {
                    from.push(0);
                    continue;
                }
                let deeper = key[start..].iter().position(|&byte| byte == b'/');
                // Past all that lies below this name, or just past this name.
                from.clear();
                match deeper {
                    Some(at) => from.extend([&key[..start + at], b"0"].concat()),
                    None => from.extend([key, &b"\0"[..]].concat()),
                }
                if deeper.is_none() {
                    return Some((name.path(), name.expected()?));
                }
            }
        })
    }

    /// The names behind `path`, in order.
    pub fn after<'a>(&'a self, path: &Path) -> impl Iterator<Item = (&'a Path, Expected)> + use<'a> {
        let from = (Bound::Excluded(path.as_os_str().as_bytes()), Bound::Unbounded);
        let range = self.names.range::<[u8], _>(from);
        range.filter_map(|name| Some((name.path(), name.expected()?)))
    }

    /// All names, parents before their children.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, Expected)> {
        self.names.iter().filter_map(|name| Some((name.path(), name.expected()?)))
    }

    /// How many names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Writes everything, as the base of a new journal.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_base(&self, out: &mut impl io::Write) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(2 * BASE_BUFFER_BYTES);
        for name in &self.names {
            journal::append_put(&mut buffer, name);
            if buffer.len() >= BASE_BUFFER_BYTES {
                out.write_all(&buffer)?;
                buffer.clear();
            }
        }
        out.write_all(&buffer)
    }

    /// Switches the journal on or off: while all is learned for the first time, the base alone is cheaper.
    pub fn set_journaled(&mut self, journaled: bool) {
        self.journaled = journaled;
    }

    /// What changed since the last call, to be appended to the journal.
    pub fn take_changes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.changes)
    }

    /// Reads a base and the changes behind it. Whatever is damaged ends it there: what follows may depend on it.
    pub fn decode(mut bytes: &[u8], journaled: bool) -> (Self, Decoded) {
        let mut inventory = Self::new(false);
        let mut decoded = Decoded::default();
        while let Some((change, taken)) = journal::next(bytes) {
            match change {
                journal::Change::Put(name) => inventory.put_packed(name),
                journal::Change::Remove(path) => {
                    inventory.remove(Path::new(OsStr::from_bytes(path)));
                }
                journal::Change::RemoveOne(path) => {
                    inventory.remove_one(Path::new(OsStr::from_bytes(path)));
                }
            }
            bytes = &bytes[taken..];
            decoded.records += 1;
            decoded.bytes += taken;
        }
        decoded.torn = bytes.len();
        inventory.journaled = journaled;
        (inventory, decoded)
    }
}

/// The range of paths below `directory`: from `directory/` up to, without it, `directory0`.
fn below(directory: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let stem = directory.strip_suffix(b"/").unwrap_or(directory);
    // '0' is the character after '/'.
    ([stem, b"/"].concat(), [stem, b"0"].concat())
}
