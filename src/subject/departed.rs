//! Code that has lost its name since it was verified.
//!
//! A package manager that upgrades the C library goes on with the old one mapped: no name leads to it any more, so its
//! name proves nothing. It was verified while its name stood, though, and a process's first verified write comes
//! before the first library is replaced. So every library that was found in a guarded place under its own name is
//! remembered, and held open, so that its inode number cannot come to stand for another file.
//!
//! Only the disappearance of a guarded name is forgiven: a library that was moved somewhere else shows its new name.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;

use crate::sys::file::{Identity, Stat};

/// Sets of the table, chosen by inode number.
const SETS: usize = 64;
/// Places in each. Together more libraries than all writers of a desktop map.
const WAYS: usize = 8;

#[derive(Debug)]
struct Code {
    id: Identity,
    size: u64,
    modified_ns: i64,
    used: u64,
    _pin: OwnedFd,
}

impl Code {
    fn is(&self, stat: &Stat) -> bool {
        self.id == stat.id && self.size == stat.size && self.modified_ns == stat.modified_ns
    }
}

#[derive(Debug)]
struct Table {
    sets: Box<[[Option<Code>; WAYS]; SETS]>,
    clock: u64,
}

/// The table. Its lock is held for memory operations only.
#[derive(Debug)]
pub struct DepartedCode {
    table: Mutex<Table>,
}

impl Default for DepartedCode {
    fn default() -> Self {
        let sets = Box::new(std::array::from_fn(|_| std::array::from_fn(|_| None)));
        Self { table: Mutex::new(Table { sets, clock: 0 }) }
    }
}

impl Table {
    fn find(&mut self, stat: &Stat) -> bool {
        self.clock += 1;
        let clock = self.clock;
        let found = self.sets[set_of(stat.id)].iter_mut().flatten().find(|code| code.is(stat));
        found.is_some_and(|code| {
            code.used = clock;
            true
        })
    }

    /// Puts `code` in the place of the same file's older state, of nothing, or of what was not used longest.
    fn put(&mut self, code: Code) -> Option<Code> {
        let set = &mut self.sets[set_of(code.id)];
        let age = |place: &Option<Code>| match place {
            Some(old) if old.id == code.id => 0,
            None => 1,
            Some(old) => 2 + old.used,
        };
        set.iter_mut().min_by_key(|place| age(place)).and_then(|place| place.replace(code))
    }
}

fn set_of(id: Identity) -> usize {
    (id.ino ^ id.dev) as usize % SETS
}

impl DepartedCode {
    /// Remembers what was just verified by its name. `pin` opens it, and is asked only for what is not known yet.
    pub fn note(&self, stat: &Stat, pin: impl FnOnce() -> Option<OwnedFd>) {
        if self.table.lock().find(stat) {
            return;
        }
        let Some(pin) = pin() else { return };
        let mut table = self.table.lock();
        let used = table.clock;
        let code = Code { id: stat.id, size: stat.size, modified_ns: stat.modified_ns, used, _pin: pin };
        let evicted = table.put(code);
        drop(table);
        // Closed without the lock: it may be the last hold on a file.
        drop(evicted);
    }

    /// Whether exactly this was verified while it had its name.
    pub fn knows(&self, stat: &Stat) -> bool {
        self.table.lock().find(stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file;
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_is_known_after_it_lost_its_name_and_unknown_once_it_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lib");
        fs::write(&path, b"code").unwrap();
        let mut open = File::options().append(true).open(&path).unwrap();
        let known = DepartedCode::default();
        let before = file::stat_fd(open.as_fd()).unwrap();
        assert!(!known.knows(&before));
        known.note(&before, || Some(open.try_clone().unwrap().into()));
        fs::hard_link(&path, directory.path().join("lib.dpkg-tmp")).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(known.knows(&file::stat_fd(open.as_fd()).unwrap()), "names come and go");
        open.write_all(b"more").unwrap();
        assert!(!known.knows(&file::stat_fd(open.as_fd()).unwrap()), "not the content that was verified");
    }

    #[test]
    fn a_known_file_is_opened_once_and_a_full_set_forgets_what_was_not_used_longest() {
        let null = File::open("/dev/null").unwrap();
        let stat = file::stat_fd(null.as_fd()).unwrap();
        let with = |ino: u64| Stat { id: Identity { dev: 0, ino: ino * SETS as u64 }, ..stat };
        let known = DepartedCode::default();
        let note = |ino| known.note(&with(ino), || Some(null.try_clone().unwrap().into()));
        for ino in 0..WAYS as u64 {
            note(ino);
        }
        known.note(&with(0), || panic!("known already"));
        note(WAYS as u64);
        assert!(known.knows(&with(0)), "used since");
        assert!(!known.knows(&with(1)), "used least");
        assert!(known.knows(&with(WAYS as u64)));
    }

    #[test]
    fn what_cannot_be_opened_is_not_remembered() {
        let null = File::open("/dev/null").unwrap();
        let stat = file::stat_fd(null.as_fd()).unwrap();
        let known = DepartedCode::default();
        known.note(&stat, || None);
        assert!(!known.knows(&stat));
    }
}
