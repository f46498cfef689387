//! Everything, once: after a lost event or a restart.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::action::{Action, Change, Did, Hint};
use super::healer::{Healer, Round};
use super::object::{Object, c_name};
use crate::sys::inode::{self, FLAGS_BLOCKING};

impl Healer {
    /// Looks at every expected name and at every entry of every expected directory, and puts right what is not. An
    /// object whose change time is the noted one costs one statx(2). Nobody who may change things should be doing so
    /// meanwhile.
    pub fn scan(&mut self) -> Vec<Action> {
        let hint = Hint::default();
        let mut round = Round::new(&hint);
        let mut directories: BTreeSet<PathBuf> = BTreeSet::new();
        let mut single: Vec<PathBuf> = Vec::new();
        for (path, expected) in self.inventory.iter() {
            if expected.is_dir() {
                directories.insert(path.to_owned());
            }
            if path.parent().is_none_or(|parent| !self.inventory.contains(parent)) {
                single.push(path.to_owned());
            }
        }
        for path in single {
            self.scan_one(path, Change::Unknown, &mut round);
        }
        // Parents sort before their children.
        for path in directories {
            self.scan_entries(&path);
            self.drain(&mut round);
        }
        // What cannot be put right may have been tried from its directory and for itself.
        let mut failed: BTreeSet<PathBuf> = BTreeSet::new();
        round.actions.retain(|one| !matches!(one.did, Did::Failed(_)) || failed.insert(one.path.clone()));
        round.actions
    }

    /// Up to `count` directories that were put right: a look at their entries is due.
    pub fn take_mended(&mut self, count: usize) -> impl Iterator<Item = PathBuf> {
        std::iter::from_fn(|| self.mended.pop_first()).take(count)
    }

    /// The tree at `path` was elsewhere for a while: what came into it there was nobody's business.
    pub(super) fn look_again_below(&mut self, path: &Path) {
        let below = self.inventory.after(&path.join("")).take_while(|(below, _)| below.starts_with(path));
        let directories = below.filter(|(_, expected)| expected.is_dir()).map(|(below, _)| below.to_owned());
        self.mended.extend(directories);
        self.mended.insert(path.to_owned());
    }

    /// Looks at the names behind `after` for so long, one statx(2) each: those that were touched and not reported, and
    /// the last that was looked at; `None` at the end.
    pub fn patrol(&self, after: &Path, time: Duration) -> (Vec<PathBuf>, Option<PathBuf>) {
        let (mut touched, started) = (Vec::new(), Instant::now());
        let mut directory: Option<(&Path, Object)> = None;
        for (path, expected) in self.inventory.after(after) {
            let parent = path.parent().unwrap_or(path);
            if directory.as_ref().is_none_or(|(opened, _)| *opened != parent) {
                directory = Object::at_path(parent).ok().map(|object| (parent, object));
            }
            let now = directory.as_ref().and_then(|(_, directory)| {
                let name = c_name(path).ok()?;
                // The root of the tree has no name.
                if name.is_empty() {
                    directory.inode().ok()
                } else {
                    inode::of_name(directory.as_fd(), &name).ok()
                }
            });
            if !now.is_some_and(|now| expected.is_untouched(&now)) {
                touched.push(path.to_owned());
            }
            if started.elapsed() > time {
                return (touched, Some(path.to_owned()));
            }
        }
        (touched, None)
    }

    /// Whether what is expected at `path` is there with other flags that forbid changes.
    pub fn has_other_flags(&self, path: &Path) -> bool {
        let Some(expected) = self.inventory.get(path) else { return false };
        let now = Object::at_path(path).and_then(|object| object.inode());
        now.is_ok_and(|now| now.id == expected.id && (now.flags ^ expected.flags) & FLAGS_BLOCKING != 0)
    }

    fn scan_one(&mut self, path: PathBuf, change: Change, round: &mut Round<'_>) {
        self.queue.push_back((path, change));
        self.drain(round);
    }

    fn scan_entries(&mut self, directory: &Path) {
        let Some(expected) = self.inventory.get(directory) else { return };
        // Of something that is mounted over it the entries are not ours.
        if let Ok(object) = Object::at_path(directory)
            && object.inode().is_ok_and(|inode| inode.id == expected.id)
        {
            self.queue_entries(directory, &object);
        }
    }
}
