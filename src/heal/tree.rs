//! Trees that an intruder made: measured, copied and removed without trusting their depth, size or flags.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use super::content;
use super::fresh;
use super::object::{Object, is};
use super::store::Temporary;
use crate::sys::file::{self, Identity};
use crate::sys::inode::Inode;
use crate::sys::names;

/// How deep a tree is measured or copied; each level holds a descriptor.
const DEPTH_MAX: usize = 64;
/// How many entries are measured or copied.
const ENTRIES_MAX: u64 = 100_000;
/// What each copied object takes besides its content: its inode and its name, about.
const ENTRY_BYTES: u64 = 512;
/// How many objects with several names a copy remembers; each holds a descriptor.
const LINKED_MAX: usize = 256;
/// How many rounds of other people's writes a removal bears.
const ROUNDS_MAX: usize = 1_000_000;

/// What a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measure {
    /// Objects, the top included.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// It is deeper or larger than what was looked at.
    pub cut: bool,
}

/// Measures `top`, on its own mount.
pub fn measure(top: &Object) -> Measure {
    measure_up_to(top, ENTRIES_MAX)
}

/// The same, looking at so many entries at most.
pub fn measure_up_to(top: &Object, entries: u64) -> Measure {
    let mut found = Measure::default();
    let mount = top.inode().map_or(0, |inode| inode.mount);
    let mut measuring = Measuring { entries, mount, linked: HashSet::new() };
    measuring.below(top, 0, &mut found);
    found
}

struct Measuring {
    entries: u64,
    mount: u64,
    /// Objects with several names, which take their space once.
    linked: HashSet<Identity>,
}

impl Measuring {
    fn below(&mut self, object: &Object, depth: usize, found: &mut Measure) {
        let Ok(inode) = object.inode() else { return };
        found.entries += 1;
        if inode.mount != self.mount {
            return;
        }
        if inode.is_dir() || inode.links == 1 || self.linked.insert(inode.id) {
            found.bytes = found.bytes.saturating_add(inode.allocated);
        }
        if !inode.is_dir() {
            return;
        }
        for name in object.entries().unwrap_or_default() {
            if depth == DEPTH_MAX || found.entries >= self.entries {
                found.cut = true;
                return;
            }
            if let Ok(child) = object.child(&name) {
                self.below(&child, depth + 1, found);
            }
        }
    }
}

/// Removes `name` in `directory` with everything below it. Any depth: what lies deeper is moved up first.
///
/// # Errors
/// `EBUSY` where something is mounted below it: what lies on another mount is not the tree's own. Those of the calls.
pub fn remove(directory: &Object, name: &CStr) -> io::Result<()> {
    let mount = directory.inode()?.mount;
    let own = |object: &Object| match object.inode()? {
        inode if inode.mount == mount => Ok(inode),
        _ => Err(io::Error::from_raw_os_error(libc::EBUSY)),
    };
    let object = directory.child(name)?;
    let inode = own(&object)?;
    object.unblock(&inode)?;
    if !inode.is_dir() {
        return file::unlink_at(directory.as_fd(), name);
    }
    let mut temporary = Temporary::default();
    for _ in 0..ROUNDS_MAX {
        let entries = object.entries()?;
        if entries.is_empty() {
            return names::remove_dir(directory.as_fd(), name);
        }
        for entry in entries {
            let child = object.child(&entry)?;
            let inode = own(&child)?;
            child.unblock(&inode)?;
            if !inode.is_dir() {
                file::unlink_at(object.as_fd(), &entry)?;
                continue;
            }
            for deeper in child.entries()? {
                let grandchild = child.child(&deeper)?;
                grandchild.unblock(&own(&grandchild)?)?;
                if file::unlink_at(child.as_fd(), &deeper).is_ok() {
                    continue;
                }
                loop {
                    let up = temporary.next();
                    let to = (object.as_fd(), up.as_c_str());
                    match names::rename((child.as_fd(), &deeper), to, names::NOREPLACE) {
                        Err(error) if is(&error, libc::EEXIST) => {}
                        other => break other?,
                    }
                }
            }
            names::remove_dir(object.as_fd(), &entry)?;
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOTEMPTY))
}

/// What a copy may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of everything together. Holes count: they have to be read.
    pub total: u64,
}

impl Budget {
    /// Of a copy that a person asked for.
    pub const UNLIMITED: Self = Self { file: u64::MAX, total: u64::MAX };
}

/// Copies `from` as `name` into `to`, with everything below it and its metadata, and says which object the copy is.
///
/// # Errors
/// `EFBIG` beyond the budget, `EXDEV` where something is mounted below it, `ESTALE` where somebody has put something
/// else in the place of what was made, and those of the calls. A part of the copy may be there then.
pub fn copy(from: &Object, to: &Object, name: &CStr, budget: Budget) -> io::Result<Identity> {
    let mount = from.inode()?.mount;
    let mut copying = Copying { budget, entries: ENTRIES_MAX, mount, linked: HashMap::new() };
    copying.below(from, to, name, 0)
}

/// A copy in work.
struct Copying {
    /// What is left of it.
    budget: Budget,
    entries: u64,
    mount: u64,
    /// The copies of objects with several names: each is copied, and counted, once.
    linked: HashMap<Identity, Object>,
}

impl Copying {
    fn spend(&mut self, bytes: u64) -> io::Result<()> {
        let left = self.budget.total.checked_sub(bytes);
        self.budget.total = left.ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        Ok(())
    }

    fn below(&mut self, from: &Object, to: &Object, name: &CStr, depth: usize) -> io::Result<Identity> {
        if depth > DEPTH_MAX || self.entries == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        self.entries -= 1;
        self.spend(ENTRY_BYTES)?;
        let inode = from.inode()?;
        if inode.mount != self.mount {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        if let Some(copy) = self.linked.get(&inode.id) {
            copy.link(to, name)?;
            return Ok(copy.inode()?.id);
        }
        let copy = match inode.file_type() {
            libc::S_IFREG => {
                let copy = fresh::file(to, name)?;
                let new = copy.opened()?;
                let limit = self.budget.file.min(self.budget.total);
                content::copy(&from.open(libc::O_RDONLY)?, &new, limit)?;
                // It may have grown since its length was asked.
                self.spend(new.metadata()?.len())?;
                copy
            }
            libc::S_IFDIR => {
                let copy = fresh::directory(to, name)?;
                for entry in from.entries()? {
                    self.below(&from.child(&entry)?, &copy, &entry, depth + 1)?;
                }
                copy
            }
            libc::S_IFLNK => fresh::symlink(to, name, &from.target()?)?,
            kind => fresh::node(to, name, kind, inode.rdev)?,
        };
        self.dress(&copy, from, &inode)?;
        let id = copy.inode()?.id;
        if !inode.is_dir() && inode.links > 1 && self.linked.len() < LINKED_MAX {
            self.linked.insert(inode.id, copy);
        }
        Ok(id)
    }

    /// Gives the copy the metadata of what it was copied from.
    fn dress(&mut self, copy: &Object, from: &Object, inode: &Inode) -> io::Result<()> {
        copy.set_owner(inode.uid, inode.gid)?;
        if inode.file_type() != libc::S_IFLNK {
            copy.set_mode(inode.mode)?;
        }
        for xattr in from.xattrs()? {
            self.spend(xattr.value.len() as u64)?;
            // Another filesystem may not have them; the content counts.
            let _ = copy.set_xattr(&xattr);
        }
        copy.set_mtime(inode.mtime)
    }
}
