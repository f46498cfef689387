//! `chattr +i` and `+a`: no event tells of them, but the kernel tells who has asked for the capability they need. What he
//! changed is among what he has open, or is looked for.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Keeper;
use crate::subject::lineage::Moment;
use crate::sys::checks::{Check, Checks};
use crate::sys::path::FixedPath;
use crate::watch::incident::Incident;

/// How many of his descriptors are looked at: chattr(1) has four.
const DESCRIPTORS_MAX: usize = 64;
/// How much of what they had open is looked at first.
const LIKELY_MAX: usize = 256;
/// When everything is looked at after the kernel's word: the flag is set some microseconds after that, unless whoever
/// sets it loses his CPU.
const LOOKS: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(10)];
/// How long everything is looked at before notifications are read again.
const SLICE: Duration = Duration::from_millis(1);
/// All of it takes a fifth of a CPU at most: somebody may go on setting flags for ever.
const SHARE: u32 = 5;
/// … on average over this time: what is done now and then is done at once.
const BURST: Duration = Duration::from_secs(2);

/// Who has set flags, and where that is looked for.
pub(super) struct Flagging {
    checks: Option<Checks>,
    search: Option<Search>,
    /// Until then its share is used up.
    used_until: Instant,
}

/// A look at everything.
struct Search {
    /// Whose work is looked for; thread 0 where several have set flags.
    check: Check,
    /// What he had open: looked at first.
    likely: Vec<PathBuf>,
    looks: usize,
    has_found: bool,
    /// Flags were set since it began.
    is_due_again: bool,
    at: PathBuf,
    next: Instant,
}

impl Search {
    fn new(check: Check, likely: Vec<PathBuf>) -> Self {
        let next = Instant::now() + LOOKS[0];
        Self { check, likely, looks: 0, has_found: false, is_due_again: false, at: PathBuf::new(), next }
    }
}

impl Flagging {
    /// `None`: the kernel does not tell, and the patrol finds what was changed.
    pub(super) fn new(checks: Option<Checks>) -> Self {
        Self { checks, search: None, used_until: Instant::now() }
    }

    fn rests_until(&self) -> Option<Instant> {
        self.used_until.checked_sub(BURST).filter(|&until| until > Instant::now())
    }

    fn use_up(&mut self, took: Duration) {
        self.used_until = self.used_until.max(Instant::now()) + took * SHARE;
    }

    fn next_due(&self) -> Option<Instant> {
        let search = self.search.as_ref().map(|search| search.next);
        search.into_iter().chain(self.rests_until()).max()
    }

    /// Has everything looked at for what is not found at once.
    fn search_for(&mut self, check: Check, likely: Vec<PathBuf>) {
        match &mut self.search {
            // What was looked at already may have changed since.
            Some(search) => {
                search.likely.extend(likely);
                search.likely.truncate(LIKELY_MAX);
                search.is_due_again = true;
                search.check.tid = if search.check.tid == check.tid { check.tid } else { 0 };
            }
            None => self.search = Some(Search::new(check, likely)),
        }
    }

    /// The search has come to `last`, or to its end.
    fn searched(&mut self, last: Option<PathBuf>, has_found: bool, took: Duration) {
        self.use_up(took);
        let Some(search) = &mut self.search else { return };
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
        let likely = std::mem::take(&mut search.likely);
        self.search = search.is_due_again.then(|| Search::new(search.check, likely));
    }
}

impl Keeper {
    /// Readable when somebody has set flags; `None` where that cannot be told, or is not to be looked at yet.
    pub fn told_of_flags(&self) -> Option<BorrowedFd<'_>> {
        let flagging = &self.flagging;
        flagging.checks.as_ref().filter(|_| flagging.rests_until().is_none()).map(AsFd::as_fd)
    }

    /// When [`Keeper::settle_flags`] has something to do.
    pub(super) fn next_flags(&self) -> Option<Instant> {
        self.flagging.next_due()
    }

    /// Puts flags right of which the kernel has told.
    pub(super) fn settle_flags(&mut self) {
        if self.flagging.rests_until().is_some() {
            return;
        }
        let started = Instant::now();
        let all = self.new_checks();
        let checks = last_of_each(&all);
        for &check in &checks {
            let mut likely = open_files(check.tid);
            likely.extend(self.lately_opened(check.tid));
            likely.retain(|path| self.healer.inventory().contains(path));
            let mut found = likely.clone();
            found.retain(|path| self.healer.has_other_flags(path));
            // Of several files he may have closed the first.
            if found.is_empty() || checks.len() < all.len() {
                self.flagging.search_for(check, likely);
            }
            for path in found {
                self.judge_flags(path, check);
            }
        }
        if !checks.is_empty() {
            self.flagging.use_up(started.elapsed());
        }
        self.search_flags();
    }

    /// By their paths here.
    fn lately_opened(&self, tid: i32) -> Vec<PathBuf> {
        let mut scratch = FixedPath::default();
        let path = |id| {
            let is_marked = self.shared.table.file(id, &mut scratch);
            is_marked.then(|| PathBuf::from(OsStr::from_bytes(scratch.as_bytes())))
        };
        self.shared.opened.by(tid).filter_map(path).collect()
    }

    fn new_checks(&mut self) -> Vec<Check> {
        let mut checks = self.flagging.checks.as_mut().map(Checks::take).unwrap_or_default();
        checks.retain(|check| !self.shared.page.is_own_thread(check.tid));
        checks
    }

    fn search_flags(&mut self) {
        let started = Instant::now();
        let due = self.flagging.search.as_ref().filter(|search| search.next <= started);
        let Some(Search { check, likely, at, .. }) = due else { return };
        let (check, is_other) = (*check, |path: &PathBuf| self.healer.has_other_flags(path));
        let mut found: Vec<_> = likely.iter().filter(|path| is_other(path)).cloned().collect();
        let mut last = None;
        if found.is_empty() {
            (found, last) = self.healer.patrol(at, SLICE);
            found.retain(is_other);
        }
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

/// The last check of each thread is of what it may still have open.
fn last_of_each(checks: &[Check]) -> Vec<Check> {
    let mut last = checks.to_vec();
    last.sort_by_key(|check| (check.tid, Reverse(check.at_ns)));
    last.dedup_by_key(|check| check.tid);
    last
}

/// What the thread has open, by the names of that.
fn open_files(tid: i32) -> Vec<PathBuf> {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{tid}/fd")) else { return Vec::new() };
    let links = descriptors.flatten().take(DESCRIPTORS_MAX);
    links.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}
