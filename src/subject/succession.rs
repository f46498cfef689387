//! Successors: executables that trusted writers have put in a writer's place.
//!
//! Trust goes by identity, and an upgrade gives `/usr/bin/dpkg` another inode. The gate sees how it comes to be: the
//! new file is created beside the old one (`dpkg.dpkg-new`, `rpm;5f3a91c2`) by somebody who may replace the old one. From
//! that moment on it is held open, so that its inode number cannot come to stand for another file, and has a mark
//! of its own, so that it cannot be written under any name by anybody who may not write the old one. Once it stands in
//! the place it was made for, it is what the policy names, and is trusted like it.
//!
//! Nothing else that appears there is: a file renamed into the place, which no permission event tells of, runs
//! without trust until the policies are loaded again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;

use crate::sys::fanotify::{Group, Mask};
use crate::sys::file::Identity;
use crate::sys::path::FixedPath;

/// More than there are executables in any sensible set of writers, so that what is pushed out has been replaced itself.
const REMEMBERED: usize = 256;
/// Executables with longer paths wait for the next load of the policies.
const PATH_BYTES: usize = 160;
/// What package managers put between a file's name and the rest of its temporary one.
const SEPARATORS: &[u8] = b".;";

#[derive(Debug)]
struct Successor {
    id: Identity,
    place: [u8; PATH_BYTES],
    place_len: usize,
    /// Seen in its place.
    arrived: bool,
    number: u64,
    hold: OwnedFd,
}

impl Successor {
    fn place(&self) -> &[u8] {
        &self.place[..self.place_len]
    }
}

#[derive(Debug)]
struct Table {
    /// Never grows beyond its capacity.
    entries: Vec<Successor>,
    next_number: u64,
}

/// The table. Its lock is held for memory operations only.
#[derive(Debug)]
pub struct Successors {
    table: Mutex<Table>,
}

impl Default for Successors {
    fn default() -> Self {
        Self { table: Mutex::new(Table { entries: Vec::with_capacity(REMEMBERED), next_number: 0 }) }
    }
}

impl Table {
    fn put(&mut self, mut new: Successor) -> Option<Successor> {
        new.number = self.next_number;
        self.next_number += 1;
        if let Some(same) = self.entries.iter_mut().find(|old| old.id == new.id) {
            return Some(std::mem::replace(same, new));
        }
        if self.entries.len() < REMEMBERED {
            self.entries.push(new);
            return None;
        }
        let place = self.dispensable()?;
        Some(std::mem::replace(&mut self.entries[place], new))
    }

    /// The oldest that has been succeeded itself, else the oldest.
    fn dispensable(&self) -> Option<usize> {
        let succeeded = |old: &Successor| {
            self.entries.iter().any(|new| new.number > old.number && new.place() == old.place())
        };
        let oldest_first = |&index: &usize| (!succeeded(&self.entries[index]), self.entries[index].number);
        (0..self.entries.len()).min_by_key(oldest_first)
    }
}

impl Successors {
    /// `file`, which somebody who may replace the executable `place` has just created beside it, may become it.
    pub fn note(&self, gate: &Group, file: BorrowedFd<'_>, id: Identity, place: &[u8]) {
        if place.len() > PATH_BYTES || gate.mark_object(Mask::OPEN_PERM, file).is_err() {
            return;
        }
        let Ok(hold) = file.try_clone_to_owned() else { return };
        let mut new =
            Successor { id, place: [0; PATH_BYTES], place_len: place.len(), arrived: false, number: 0, hold };
        new.place[..place.len()].copy_from_slice(place);
        let evicted = self.table.lock().put(new);
        if let Some(old) = evicted.filter(|old| old.id != id) {
            // Gone with its inode otherwise.
            let _ = gate.unmark_object(Mask::OPEN_PERM, old.hold.as_fd());
        }
    }

    /// The place that the file `id` was made for, and whether it has been seen there.
    pub fn place_of(&self, id: Identity, place: &mut FixedPath) -> Option<bool> {
        let table = self.table.lock();
        let found = table.entries.iter().find(|entry| entry.id == id)?;
        place.set(found.place()).then_some(found.arrived)
    }

    /// Whether it was made for a place.
    pub fn knows(&self, id: Identity) -> bool {
        self.table.lock().entries.iter().any(|entry| entry.id == id)
    }

    /// It stands in its place.
    pub fn arrived(&self, id: Identity) {
        if let Some(found) = self.table.lock().entries.iter_mut().find(|entry| entry.id == id) {
            found.arrived = true;
        }
    }
}

/// Whether a file called `path` may be on its way to the place `exe`: the place itself, or a temporary name beside it.
pub fn leads_to(path: &[u8], exe: &[u8]) -> bool {
    path.strip_prefix(exe)
        .is_some_and(|rest| rest.is_empty() || SEPARATORS.contains(&rest[0]) && !rest.contains(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn temporary_names_of_package_managers() {
        let dpkg = b"/usr/bin/dpkg";
        assert!(leads_to(b"/usr/bin/dpkg.dpkg-new", dpkg));
        assert!(leads_to(b"/usr/bin/rpm;5f3a91c2", b"/usr/bin/rpm"));
        assert!(leads_to(dpkg, dpkg));
        assert!(!leads_to(b"/usr/bin/dpkg-deb.dpkg-new", dpkg));
        assert!(!leads_to(b"/usr/bin/dpkg.d/x", dpkg));
        assert!(!leads_to(b"/usr/bin/dpk", dpkg));
    }

    fn successor(ino: u64, place: &str) -> Successor {
        let mut bytes = [0; PATH_BYTES];
        bytes[..place.len()].copy_from_slice(place.as_bytes());
        Successor {
            id: Identity { dev: 1, ino },
            place: bytes,
            place_len: place.len(),
            arrived: false,
            number: 0,
            hold: File::open("/dev/null").unwrap().into(),
        }
    }

    #[test]
    fn the_latest_of_each_place_outlives_many_of_another() {
        let successors = Successors::default();
        let mut place = FixedPath::default();
        let put = |ino, place: &str| successors.table.lock().put(successor(ino, place));
        assert!(put(0, "/bin/rare").is_none());
        for ino in 1..REMEMBERED as u64 {
            assert!(put(ino, "/bin/often").is_none());
        }
        let pushed_out = put(10_000, "/bin/often").unwrap();
        assert_eq!(pushed_out.id.ino, 1, "the oldest that was succeeded");
        assert_eq!(successors.place_of(Identity { dev: 1, ino: 0 }, &mut place), Some(false));
        assert_eq!(place.as_bytes(), b"/bin/rare");
        assert_eq!(successors.place_of(Identity { dev: 1, ino: 1 }, &mut place), None);
        successors.arrived(Identity { dev: 1, ino: 0 });
        assert_eq!(successors.place_of(Identity { dev: 1, ino: 0 }, &mut place), Some(true));
    }
}
