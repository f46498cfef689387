//! Trees that an intruder made: measured, copied and removed without trusting their depth, size or flags.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::content;
use super::object::{Object, is};
use super::store::Temporary;
use crate::sys::{file, inode, names};

/// How deep a tree is measured or copied; each level holds a descriptor.
const DEPTH_MAX: usize = 64;
/// How many entries are measured or copied.
const ENTRIES_MAX: u64 = 100_000;
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

/// Measures `top`.
pub fn measure(top: &Object) -> Measure {
    let mut found = Measure::default();
    measure_below(top, 0, &mut found);
    found
}

fn measure_below(object: &Object, depth: usize, found: &mut Measure) {
    let Ok(inode) = object.inode() else { return };
    found.entries += 1;
    found.bytes += inode.allocated;
    if !inode.is_dir() {
        return;
    }
    if depth == DEPTH_MAX || found.entries > ENTRIES_MAX {
        found.cut = true;
        return;
    }
    for name in object.entries().unwrap_or_default() {
        if let Ok(child) = object.child(&name) {
            measure_below(&child, depth + 1, found);
        }
    }
}

/// Removes `name` in `directory` with everything below it. Any depth: what lies deeper is moved up first.
pub fn remove(directory: &Object, name: &CStr) -> io::Result<()> {
    let object = directory.child(name)?;
    let inode = object.inode()?;
    if inode.flags != 0 {
        object.set_flags(0)?;
    }
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
            let inode = child.inode()?;
            if inode.flags != 0 {
                child.set_flags(0)?;
            }
            if !inode.is_dir() {
                file::unlink_at(object.as_fd(), &entry)?;
                continue;
            }
            for deeper in child.entries()? {
                let grandchild = child.child(&deeper)?;
                if grandchild.inode()?.flags != 0 {
                    grandchild.set_flags(0)?;
                }
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

/// Copies `from` as `name` into `to`, with everything below it and its metadata, up to `limit` bytes for a file.
pub fn copy(from: &Object, to: &Object, name: &CStr, limit: u64) -> io::Result<()> {
    let mut left = ENTRIES_MAX;
    copy_below(from, to, name, limit, 0, &mut left)
}

fn copy_below(
    from: &Object,
    to: &Object,
    name: &CStr,
    limit: u64,
    depth: usize,
    left: &mut u64,
) -> io::Result<()> {
    if depth > DEPTH_MAX || *left == 0 {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    *left -= 1;
    let inode = from.inode()?;
    match inode.file_type() {
        libc::S_IFREG => {
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            let new = File::from(names::open_at(to.as_fd(), name, flags, 0o600)?);
            content::copy(&from.open(libc::O_RDONLY)?, &new, limit)?;
        }
        libc::S_IFDIR => {
            names::make_dir(to.as_fd(), name, 0o700)?;
            let directory = to.child(name)?;
            for entry in from.entries()? {
                copy_below(&from.child(&entry)?, &directory, &entry, limit, depth + 1, left)?;
            }
        }
        libc::S_IFLNK => {
            let target = super::object::c_string(&from.target()?)?;
            names::symlink(&target, to.as_fd(), name)?;
        }
        _ => names::make_node(to.as_fd(), name, inode.mode, inode.rdev)?,
    }
    dress(&to.child(name)?, from, &inode)
}

/// Gives the copy the metadata of what it was copied from.
fn dress(copy: &Object, from: &Object, inode: &inode::Inode) -> io::Result<()> {
    copy.set_owner(inode.uid, inode.gid)?;
    if inode.file_type() != libc::S_IFLNK {
        copy.set_mode(inode.mode)?;
    }
    for xattr in from.xattrs()? {
        // Another filesystem may not have them; the content counts.
        let _ = copy.set_xattr(&xattr);
    }
    copy.set_mtime(inode.mtime)
}
