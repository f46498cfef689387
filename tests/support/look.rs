//! What a tree looks like, to the last attribute, without opening a file: an open would ask the gate.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use writegate::sys::inode::{self, Time};
use writegate::sys::xattr;

use super::raw::cstr;

/// One object under one name: all that healing promises, and not its change time, which nobody can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Device and inode; `None` where another one may take its place.
    pub id: Option<(u64, u64)>,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub mtime: Time,
    pub rdev: u64,
    pub flags: u32,
    pub target: Option<PathBuf>,
    pub xattrs: BTreeMap<CString, Vec<u8>>,
}

/// Which inode numbers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inodes {
    All,
    /// Directories may be made again, no link can keep them; and symbolic links with them.
    OfFiles,
}

/// A tree by path.
pub type Look = BTreeMap<PathBuf, Seen>;

/// Looks at `top` and everything below; what goes away meanwhile is missing.
pub fn look(top: &Path, inodes: Inodes) -> Look {
    let mut found = Look::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let name = cstr(&path);
        let Ok(inode) = inode::of_path(&name) else { continue };
        let is_link = inode.file_type() == libc::S_IFLNK;
        if inode.is_dir() {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        let counts = inodes == Inodes::All || !(inode.is_dir() || is_link);
        let mut xattrs = BTreeMap::new();
        if !is_link {
            for attribute in xattr::list(&name).unwrap_or_default() {
                let value = xattr::get(&name, &attribute).unwrap_or_default();
                xattrs.insert(attribute, value);
            }
        }
        let seen = Seen {
            id: counts.then_some((inode.id.dev, inode.id.ino)),
            mode: inode.mode,
            owner: (inode.uid, inode.gid),
            // A directory's own size depends on what was in it once.
            size: if inode.is_dir() { 0 } else { inode.size },
            mtime: inode.mtime,
            rdev: inode.rdev,
            flags: inode.flags,
            target: is_link.then(|| fs::read_link(&path).unwrap_or_default()),
            xattrs,
        };
        found.insert(path, seen);
    }
    found
}

/// The content of every file in `look`.
pub fn contents(look: &Look) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = look.iter().filter(|(_, seen)| seen.mode & libc::S_IFMT == libc::S_IFREG);
    files.map(|(path, _)| (path.clone(), fs::read(path).unwrap_or_default())).collect()
}

/// What differs, for people.
pub fn differences(before: &Look, after: &Look) -> Vec<String> {
    let mut list = Vec::new();
    for (path, was) in before {
        match after.get(path) {
            None => list.push(format!("{} is gone", path.display())),
            Some(is) if is != was => list.push(format!("{}: {was:?} -> {is:?}", path.display())),
            Some(_) => {}
        }
    }
    list.extend(
        after.keys().filter(|path| !before.contains_key(*path)).map(|p| format!("{} is new", p.display())),
    );
    list
}
