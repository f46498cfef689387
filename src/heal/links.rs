//! Further names of protected files, where no policy keeps anything: they are taken away.
//!
//! Of a link that is made outside of every marked directory the kernel tells the file and not the name, and many of
//! them it tells as one. Of a file's handle it gives one of its names, the one it has heard of last; with that away,
//! the next. What it does not give is counted.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::action::{Action, Did};
use super::failure::Failure;
use super::healer::Healer;
use super::object::{Object, c_name};
use crate::sys::file::{self, Handle, Identity};

/// How long names of one file are taken away before everything else has its turn: some hundred names.
const AT_ONCE: Duration = Duration::from_millis(20);

impl Healer {
    /// Takes names of the protected file at `path` away that nobody expects: `seen`, if it is one, and those that come
    /// to light behind it. What there is no time for is left to [`Healer::due`].
    pub fn take_links_away(&mut self, path: &Path, seen: &Path) -> Vec<Action> {
        let (mut actions, started) = (Vec::new(), Instant::now());
        let Some(expected) = self.inventory.get(path) else { return actions };
        let names = Names::of(path, seen, expected.id);
        let mut next = Some(seen.to_owned()).filter(|seen| seen != path);
        let mut last = PathBuf::new();
        loop {
            let name = next.take().or_else(|| {
                let (name, links) = names.as_ref()?.find()?;
                self.is_foreign_link(expected.id, links).then_some(name)
            });
            let Some(name) = name.filter(|name| *name != last && !self.is_known_name(name)) else { break };
            if started.elapsed() > AT_ONCE {
                // Who only renames it to and fro gets no more of our time.
                if !actions.is_empty() {
                    self.linked.insert(path.to_owned());
                }
                break;
            }
            let action = self.take_link_away(&name, expected.id);
            let is_stuck = action.as_ref().is_some_and(|action| !action.healed());
            actions.extend(action);
            if is_stuck {
                break;
            }
            last = name;
        }
        actions
    }

    /// Whether a name that nobody expects, of an object with so many names, is one that somebody has made since. What
    /// had other names when it was learned keeps as many: which of them are new nobody can tell then.
    pub fn is_foreign_link(&self, id: Identity, links: u32) -> bool {
        self.vault.others(id) == 0 || self.names_beyond(id, links) > 0
    }

    /// How many of the names of an object, if it has so many, nobody expects.
    pub fn names_beyond(&self, id: Identity, links: u32) -> u32 {
        let vault = &self.vault;
        links.saturating_sub(vault.names(id) + vault.vault_links(id) + vault.others(id))
    }

    /// Says so if the file at `path` has further names that did not come to light.
    pub fn count_names(&self, path: &Path) -> Option<Action> {
        if self.linked.contains(path) {
            return None;
        }
        let id = self.inventory.get(path)?.id;
        let inode = Object::at_path(path).ok()?.inode().ok().filter(|inode| inode.id == id)?;
        let beyond = self.names_beyond(id, inode.links);
        (beyond > 0).then(|| Action::new(path.to_owned(), Did::Failed(Failure::OtherNames(beyond))))
    }

    /// Whether something is expected under this name, or it lies in the vault or the quarantine, whose directories the
    /// kernel may call otherwise than we do.
    pub fn is_known_name(&self, name: &Path) -> bool {
        let is_own = |directory: &Path| {
            Object::at_path(directory)
                .and_then(|object| object.inode())
                .is_ok_and(|inode| self.is_own(&inode))
        };
        self.inventory.contains(name) || name.ancestors().skip(1).any(is_own)
    }

    /// `None`: the path does not name the object.
    fn take_link_away(&mut self, path: &Path, id: Identity) -> Option<Action> {
        let mut action = Action::new(path.to_owned(), Did::Unlinked);
        let (started, directory) = (Instant::now(), path.parent()?);
        let mut unlinked = unlink_if(path, id)?;
        if unlinked.is_err_and(|failure| failure.is(libc::EPERM)) {
            self.unblock(directory);
            unlinked = unlink_if(path, id)?;
        }
        if let Err(failure) = unlinked {
            action.did = Did::Failed(failure);
        }
        // It may well be protected, and gets its flags back.
        self.tidy(directory);
        action.ns = started.elapsed().as_nanos() as u64;
        Some(action)
    }
}

/// Finds an object by its handle.
struct Names {
    handle: Handle,
    /// A directory on the object's filesystem.
    directory: File,
}

impl Names {
    fn of(path: &Path, seen: &Path, id: Identity) -> Option<Self> {
        let is_it = |object: &Object| object.inode().is_ok_and(|inode| inode.id == id);
        let named = |path: &Path| Object::at_path(path).ok().filter(is_it);
        let object = named(seen).or_else(|| named(path))?;
        let handle = file::handle_at(object.as_fd(), c"").ok()?;
        let directory = [path.parent()?, seen.parent()?].into_iter().find_map(|directory| {
            let directory = Object::at_path(directory).ok()?;
            (directory.inode().ok()?.id.dev == id.dev).then(|| directory.open_directory().ok())?
        })?;
        Some(Self { handle, directory })
    }

    /// One of its names, and how many it has.
    fn find(&self) -> Option<(PathBuf, u32)> {
        let Handle { kind, .. } = self.handle;
        let found = file::open_handle(self.directory.as_fd(), kind, self.handle.as_bytes()).ok()?;
        let object = Object::of(found).ok()?;
        Some((object.path().ok()?, object.inode().ok()?.links))
    }
}

/// `None`: the path does not name the object.
fn unlink_if(path: &Path, id: Identity) -> Option<Result<(), Failure>> {
    let parent = Object::at_path(path.parent()?).ok()?;
    let name = c_name(path).ok()?;
    let object = parent.child(&name).ok()?;
    let inode = object.inode().ok().filter(|inode| inode.id == id)?;
    let _ = object.unblock(&inode);
    let unlinked = file::unlink_at(parent.as_fd(), &name).map_err(Failure::of("unlink"));
    if inode.is_blocked() {
        let _ = object.set_flags(inode.flags);
    }
    Some(unlinked)
}
