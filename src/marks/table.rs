//! What is marked, by identity: the answer to "this event's path means nothing here, so what is it?".

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::sys::file::Identity;
use crate::sys::path::FixedPath;

/// A marked object. Kept small: there is one for each protected file.
#[derive(Debug)]
struct Marked {
    /// Its canonical path, as the policies name it.
    path: Box<[u8]>,
    /// The walk that saw it last: the lower half of its number.
    walk: u32,
    /// The mark may be one for truncations.
    truncations: bool,
    /// The walk that saw it last wants it to be.
    wants_truncations: bool,
}

#[derive(Debug, Default)]
struct Inner {
    directories: HashMap<Identity, Marked>,
    files: HashMap<Identity, Marked>,
    /// Other names of marked files that policies govern: each of them counts. Few files have any.
    more: HashMap<Identity, Vec<Box<[u8]>>>,
}

/// Marked directories, and files that are marked themselves. Locks are held for memory operations only, so a
/// responder never waits here for anything that waits for a responder.
#[derive(Debug, Default)]
pub struct MarkTable {
    inner: RwLock<Inner>,
    complete: AtomicBool,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// A directory, marked for its children.
    Directory,
    /// A file that is marked itself: it has several names, or its truncation is to be seen and its directory's
    /// other entries are no concern.
    File,
}

impl MarkTable {
    /// The first walk is done.
    pub fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether everything that is marked is noted here. Marks outlive a worker, its table does not.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Copies the canonical path of the marked directory `id` into `path`.
    pub fn directory(&self, id: Identity, path: &mut FixedPath) -> bool {
        self.inner.read().directories.get(&id).is_some_and(|marked| path.set(&marked.path))
    }

    /// Copies the canonical path of the marked file `id` into `path`.
    pub fn file(&self, id: Identity, path: &mut FixedPath) -> bool {
        self.inner.read().files.get(&id).is_some_and(|marked| path.set(&marked.path))
    }

    /// Shows every governed name of the marked file `id` to `look`, which must not wait for anything.
    pub fn names_of_file(&self, id: Identity, mut look: impl FnMut(&[u8])) {
        let inner = self.inner.read();
        if let Some(marked) = inner.files.get(&id) {
            look(&marked.path);
            inner.more.get(&id).into_iter().flatten().for_each(|name| look(name));
        }
    }

    /// The path by which `id` is known, where that is not `path`.
    pub fn other_path(&self, kind: MarkKind, id: Identity, path: &[u8]) -> Option<Box<[u8]>> {
        let inner = self.inner.read();
        let map = match kind {
            MarkKind::Directory => &inner.directories,
            MarkKind::File => &inner.files,
        };
        map.get(&id).filter(|marked| *marked.path != *path).map(|marked| marked.path.clone())
    }

    /// Notes a mark; true when it was not there before under this path.
    pub fn insert(&self, kind: MarkKind, id: Identity, path: &[u8], walk: u64, truncations: bool) -> bool {
        let walk = walk as u32;
        let mut inner = self.inner.write();
        let Inner { directories, files, more } = &mut *inner;
        let map = match kind {
            MarkKind::Directory => directories,
            MarkKind::File => files,
        };
        let Some(marked) = map.get_mut(&id) else {
            let path = path.into();
            map.insert(id, Marked { path, walk, truncations, wants_truncations: truncations });
            return true;
        };
        let is_seen = marked.walk == walk;
        marked.truncations |= truncations;
        marked.wants_truncations = truncations || marked.wants_truncations && is_seen;
        let differs = *marked.path != *path;
        if is_seen {
            // A directory's first path stays: two of them are an alias, and one is enough.
            if !differs || kind == MarkKind::Directory {
                return false;
            }
            let more = more.entry(id).or_default();
            let is_new_name = !more.iter().any(|name| **name == *path);
            if is_new_name {
                more.push(path.into());
            }
            return is_new_name;
        }
        if differs {
            marked.path = path.into();
        }
        marked.walk = walk;
        if kind == MarkKind::File {
            more.remove(&id);
        }
        differs
    }

    /// Forgets `id`, whose path names another object by now: it was moved, or it is gone and its inode number was
    /// given away.
    pub fn forget(&self, kind: MarkKind, id: Identity) {
        let mut inner = self.inner.write();
        match kind {
            MarkKind::Directory => drop(inner.directories.remove(&id)),
            MarkKind::File => {
                inner.files.remove(&id);
                inner.more.remove(&id);
            }
        }
    }

    /// Takes out what the walk `walk` did not see, and gives it back.
    pub fn take_stale(&self, walk: u64) -> Vec<(MarkKind, Identity, Box<[u8]>)> {
        let mut inner = self.inner.write();
        let mut stale = Vec::new();
        let Inner { directories, files, more } = &mut *inner;
        for (kind, map) in [(MarkKind::Directory, directories), (MarkKind::File, files)] {
            map.retain(|&id, marked| {
                if marked.walk == walk as u32 {
                    return true;
                }
                if kind == MarkKind::File {
                    more.remove(&id);
                }
                stale.push((kind, id, std::mem::take(&mut marked.path)));
                false
            });
        }
        stale
    }

    /// Finds marks that stay and may be for truncations which the last walk did not want, and takes note that they
    /// are not any more.
    pub fn take_unwanted_truncations(&self) -> Vec<(Identity, Box<[u8]>)> {
        let mut inner = self.inner.write();
        let Inner { directories, files, .. } = &mut *inner;
        let marks = directories.iter_mut().chain(files);
        let unwanted = marks.filter(|(_, marked)| marked.truncations && !marked.wants_truncations);
        unwanted
            .map(|(&id, marked)| {
                marked.truncations = false;
                (id, marked.path.clone())
            })
            .collect()
    }

    /// How many directories and files are marked.
    pub fn len(&self) -> (usize, usize) {
        let inner = self.inner.read();
        (inner.directories.len(), inner.files.len())
    }

    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}
