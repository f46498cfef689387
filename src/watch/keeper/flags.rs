//! `chattr +i` and `+a`: no event tells of them, but the kernel tells who has asked for the capability they need. What he
//! changed is among what he has open, or is looked for.

use std::cmp::Reverse;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Keeper;
use crate::subject::lineage::Moment;
use crate::sys::checks::{Check, Checks};
use crate::watch::incident::Incident;

/// How many of his descriptors are looked at: chattr(1) has four.
const DESCRIPTORS_MAX: usize = 64;
/// When everything is looked at after the kernel's word: the flag is set some microseconds after that, unless whoever
/// sets it loses his CPU.
const LOOKS: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(10)];
/// How long everything is looked at before notifications are read again.
const SLICE: Duration = Duration::from_millis(1);
/// So many times as long as it took, nothing of the kind is done: somebody may go on setting flags for ever.
const REST: u32 = 9;

/// Who has set flags, and where that is looked for.
pub(super) struct Flagging {
    checks: Option<Checks>,
    search: Option<Search>,
    rests_until: Instant,
}

/// A look at everything.
struct Search {
    /// Whose work is looked for; thread 0 where several have set flags.
    check: Check,
    looks: usize,
    has_found: bool,
    /// Flags were set since it began.
    is_due_again: bool,
    at: PathBuf,
    next: Instant,
    took: Duration,
}

impl Search {
    fn new(check: Check) -> Self {
        let (next, took) = (Instant::now() + LOOKS[0], Duration::ZERO);
        Self { check, looks: 0, has_found: false, is_due_again: false, at: PathBuf::new(), next, took }
    }
}

impl Flagging {
    /// `None`: the kernel does not tell, and the patrol finds what was changed.
    pub(super) fn new(checks: Option<Checks>) -> Self {
        Self { checks, search: None, rests_until: Instant::now() }
    }

    fn is_resting(&self) -> bool {
        self.rests_until > Instant::now()
    }

    fn rest(&mut self, took: Duration) {
        self.rests_until = Instant::now() + took * REST;
    }

    fn next_due(&self) -> Option<Instant> {
        let search = self.search.as_ref().map(|search| search.next.max(self.rests_until));
        search.or_else(|| self.is_resting().then_some(self.rests_until))
    }

    /// Has everything looked at for what is not found at once.
    fn search_for(&mut self, check: Check) {
        match &mut self.search {
            // What was looked at already may have changed since.
            Some(search) => {
                search.is_due_again = true;
                search.check.tid = if search.check.tid == check.tid { check.tid } else { 0 };
            }
            None => self.search = Some(Search::new(check)),
        }
    }

    /// The search has come to `last`, or to its end.
    fn searched(&mut self, last: Option<PathBuf>, has_found: bool, took: Duration) {
        let Some(search) = &mut self.search else { return };
        search.took += took;
        search.has_found |= has_found;
        if let Some(last) = last {
            search.at = last;
            return;
        }
        search.at = PathBuf::new();
        search.looks += 1;
        if let Some(&later) = LOOKS.get(search.looks)
            && !search.has_found
        {
            search.next = Instant::now() + later;
            return;
        }
        let took = search.took;
        self.search = search.is_due_again.then(|| Search::new(search.check));
        self.rest(took);
    }
}

impl Keeper {
    /// Readable when somebody has set flags; `None` where that cannot be told, or is not to be looked at yet.
    pub fn told_of_flags(&self) -> Option<BorrowedFd<'_>> {
        let flagging = &self.flagging;
        flagging.checks.as_ref().filter(|_| !flagging.is_resting()).map(AsFd::as_fd)
    }

    /// When [`Keeper::settle_flags`] has something to do.
    pub(super) fn next_flags(&self) -> Option<Instant> {
        self.flagging.next_due()
    }

    /// Puts flags right of which the kernel has told.
    pub(super) fn settle_flags(&mut self) {
        if self.flagging.is_resting() {
            return;
        }
        let started = Instant::now();
        let checks = self.new_checks();
        for &check in &checks {
            let mut found = open_files(check.tid);
            found.retain(|path| self.healer.has_other_flags(path));
            if found.is_empty() {
                self.flagging.search_for(check);
            }
            for path in found {
                self.judge_flags(path, check);
            }
        }
        if !checks.is_empty() && self.flagging.search.is_none() {
            self.flagging.rest(started.elapsed());
        }
        self.search_flags();
    }

    /// The last of each, which is of what he may still have open.
    fn new_checks(&mut self) -> Vec<Check> {
        let mut checks = self.flagging.checks.as_mut().map(Checks::take).unwrap_or_default();
        checks.retain(|check| !self.shared.page.is_own_thread(check.tid));
        checks.sort_by_key(|check| (check.tid, Reverse(check.at_ns)));
        checks.dedup_by_key(|check| check.tid);
        checks
    }

    fn search_flags(&mut self) {
        let started = Instant::now();
        let due = self.flagging.search.as_ref().filter(|search| search.next <= started);
        let Some(Search { check, at, .. }) = due else { return };
        let check = *check;
        let (mut found, last) = self.healer.patrol(at, SLICE);
        found.retain(|path| self.healer.has_other_flags(path));
        self.flagging.searched(last, !found.is_empty(), started.elapsed());
        for path in found {
            self.judge_flags(path, check);
        }
    }

    fn judge_flags(&mut self, path: PathBuf, check: Check) {
        // What he ran then, whatever he runs now.
        let when = Moment { position: 0, after_ns: check.at_ns };
        self.take(Incident { mask: libc::FAN_ATTRIB, tid: check.tid, when, path, now: None, target: None });
    }
}

/// What the thread has open, by the names of that.
fn open_files(tid: i32) -> Vec<PathBuf> {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{tid}/fd")) else { return Vec::new() };
    let links = descriptors.flatten().take(DESCRIPTORS_MAX);
    links.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}
