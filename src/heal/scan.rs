//! Everything, once: after a lost event or a restart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::action::{Action, Change, Did, Hint};
use super::healer::{Healer, Round};
use super::object::Object;

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
            if path.parent().is_none_or(|parent| self.inventory.get(parent).is_none()) {
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

    fn scan_one(&mut self, path: PathBuf, change: Change, round: &mut Round<'_>) {
        self.queue.push_back((path, change));
        self.drain(round);
    }

    fn scan_entries(&mut self, directory: &Path) {
        if let Ok(object) = Object::at_path(directory) {
            self.queue_entries(directory, &object);
        }
    }
}
