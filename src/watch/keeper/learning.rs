//! What should be there: learned little by little, marked, and kept for the next worker.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use std::sync::atomic::Ordering::Relaxed;

use super::Keeper;
use crate::heal::{Known, Learned};
use crate::marks::{Marker, Report, Wanted, Written};
use crate::policy::snapshot::Snapshot;
use crate::sys::directory;
use crate::watch::duty::{duties, duty_at};

/// Roots that are begun between two looks at the notifications.
const ROOTS_AT_ONCE: usize = 64;

impl Keeper {
    /// Learns what is kept under the new policies and was not under the `old` ones. The rest is known, and looking
    /// at it anew would make right what somebody is doing to it now.
    pub(super) fn reloaded(&mut self, old: &Snapshot) {
        // What was not begun under the old roots is begun under the new ones.
        let unfinished = self.next_root < old.trie.paths();
        let new = self.snapshot();
        self.healer.set_duties(duties(&new));
        let is_kept = |snapshot: &Snapshot, path: &Path| {
            let duty = duty_at(snapshot, path);
            duty.foreign || duty.metadata
        };
        for root in old.roots().chain(new.roots()) {
            if is_kept(&new, root.path) && (unfinished || !is_kept(old, root.path)) {
                self.begin(root.path);
            }
        }
        self.next_root = usize::MAX;
    }

    pub(super) fn begin(&mut self, path: &Path) {
        for above in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if !self.healer.inventory().contains(above) {
                let _ = self.healer.learn(above, Known::No);
            }
        }
        // The next worker must know: what is not in the inventory then was perhaps only not learned yet.
        self.shared.page.learning.store(1, Relaxed);
        let learned = self.healer.begin(path).ok().flatten();
        self.mark(learned);
    }

    /// Learns a little; how many names, `None` when all is known.
    pub(super) fn learn(&mut self) -> Option<usize> {
        let snapshot = self.snapshot();
        if self.next_root < snapshot.trie.paths() {
            let end = (self.next_root + ROOTS_AT_ONCE).min(snapshot.trie.paths());
            for root in snapshot.roots_of(self.next_root..end) {
                self.begin(root.path);
            }
            let begun = end - self.next_root;
            self.next_root = end;
            self.protect_stores();
            return Some(begun);
        }
        let Some((learned, skipped)) = self.healer.learn_some() else {
            if !self.is_whole {
                self.all_learned();
            }
            if self.shared.page.learning.load(Relaxed) != 0 {
                self.save();
                self.shared.page.learning.store(0, Relaxed);
            }
            self.shared.page.learned_generation.store(snapshot.generation, Relaxed);
            return None;
        };
        let count = learned.len() + 1;
        for one in learned {
            self.fresh.insert(one.path.clone());
            self.mark(Some(one));
        }
        if skipped > 0 {
            tracing::warn!(skipped, "entries could not be looked at and are not kept");
        }
        Some(count)
    }

    /// From now on the next worker need not learn anything.
    fn all_learned(&mut self) {
        self.is_whole = true;
        self.protect_stores();
        self.healer.prune();
        match self.journal.rewrite(self.healer.inventory()) {
            Ok(()) => self.healer.set_journaled(true),
            Err(error) => {
                tracing::warn!(%error, "a restarted worker will take what it finds for what should be");
            }
        }
        let _ = self.healer.take_changes();
    }

    /// Whether `path` belongs to what is not learned yet.
    pub(super) fn is_pending(&self, path: &Path) -> bool {
        let snapshot = &self.in_force.1.snapshot;
        path.ancestors()
            .any(|above| snapshot.root_number(above).is_some_and(|number| number >= self.next_root))
    }

    fn marker<'a>(&'a self, snapshot: &'a Snapshot) -> Marker<'a> {
        Marker { groups: &self.shared.groups, table: &self.shared.table, snapshot, walk: snapshot.generation }
    }

    pub(super) fn mark(&mut self, learned: Option<Learned>) {
        let Some(Learned { path, inode }) = learned else { return };
        if self.filesystems.insert(inode.id.dev)
            && let Ok(name) = CString::new(path.as_os_str().as_bytes())
            && let Err(error) = self.shared.groups.watch_renames(&name)
        {
            tracing::info!(path = %path.display(), %error, "where a renamed file goes is not told here");
        }
        if inode.is_file() {
            let snapshot = self.snapshot();
            self.marker(&snapshot).mark_inode(&path, inode.id, &mut Report::default());
        }
    }

    pub(super) fn mark_anew(&self, path: &Path) {
        let snapshot = self.snapshot();
        let marker = self.marker(&snapshot);
        let _ = marker.mark_new(path);
        if let Some(expected) = self.healer.inventory().get(path)
            && expected.is_file()
        {
            marker.mark_inode(path, expected.id, &mut Report::default());
        }
    }

    /// After a restart marks are there, the table that says what they are is not.
    pub(super) fn mark_inventory(&self) {
        let snapshot = self.snapshot();
        let marker = self.marker(&snapshot);
        for (path, expected) in self.healer.inventory().iter().filter(|(_, expected)| expected.is_file()) {
            marker.mark_inode(path, expected.id, &mut Report::default());
        }
    }

    /// The stores are watched themselves.
    pub(super) fn protect_stores(&mut self) {
        let places = self.healer.vault().places().chain(self.healer.quarantine().places());
        let new: Vec<_> = places
            .filter(|place| !self.stores.iter().any(|store| store == place))
            .map(Path::to_owned)
            .collect();
        for place in new {
            let wanted = Wanted { written: Written::Ignored, truncations: false };
            if let Ok(name) = CString::new(place.as_os_str().as_bytes())
                && let Ok(directory) = directory::open(&name)
            {
                let _ = self.shared.groups.mark_directory(directory.as_fd(), wanted);
            }
            self.stores.push(place);
        }
    }

    /// Whether it lies in the vault or the quarantine.
    pub fn is_in_store(&self, path: &Path) -> bool {
        self.stores.iter().any(|store| path.starts_with(store))
    }

    /// Puts what changed in the inventory on record outside this process.
    pub fn save(&mut self) {
        if !self.is_whole {
            return;
        }
        let changes = self.healer.take_changes();
        if changes.is_empty() {
            return;
        }
        match self.journal.append(&changes) {
            Ok(true) => drop(self.journal.rewrite(self.healer.inventory())),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the next worker will not know what was healed last"),
        }
    }
}
