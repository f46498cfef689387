//! `chattr +i` and `+a`: no event tells of them, but the kernel tells who has asked for the capability they need. What he
//! changed is among what he has open, or is looked for.

use std::ffi::{CString, OsStr};
use std::fs::Metadata;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Keeper;
use crate::subject::lineage::Moment;
use crate::sys::checks::{Check, Checks};
use crate::sys::path::FixedPath;
use crate::sys::proc::Proc;
use crate::sys::{clock, reach};
use crate::watch::incident::Incident;

/// Which of his descriptors are looked at: chattr(1) has four.
const DESCRIPTORS_MAX: usize = 64;
/// How much of what they had open is looked at first.
const LIKELY_MAX: usize = 256;
/// Of how many threads at once it is asked what they have open.
const THREADS_MAX: usize = 32;
/// Change times have the grain of a tick on older kernels.
const TICK: Duration = Duration::from_millis(10);
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
        let checks = self.new_checks();
        for check in first_of_each(&checks) {
            let likely = self.likely_flagged(check.tid);
            let is_found = self.right_flags(&likely, check);
            // Of several files he may have closed the first.
            if !is_found || checks.len() > 1 {
                self.flagging.search_for(check, likely);
            }
        }
        if !checks.is_empty() {
            self.flagging.use_up(started.elapsed());
        }
        self.search_flags();
    }

    fn new_checks(&mut self) -> Vec<Check> {
        let mut checks = self.flagging.checks.as_mut().map(Checks::take).unwrap_or_default();
        checks.retain(|check| !self.shared.page.is_own_thread(check.tid));
        checks
    }

    /// What the thread has open or was seen to open, by the paths here.
    fn likely_flagged(&self, tid: i32) -> Vec<PathBuf> {
        let mut likely = {
            let _look = self.account.look();
            open_files(&self.proc, tid)
        };
        let mut scratch = FixedPath::default();
        let path = |id| {
            let is_marked = self.shared.table.file(id, &mut scratch);
            is_marked.then(|| PathBuf::from(OsStr::from_bytes(scratch.as_bytes())))
        };
        likely.extend(self.shared.opened.by(tid).filter_map(path));
        likely.retain(|path| self.healer.inventory().contains(path));
        likely
    }

    fn search_flags(&mut self) {
        let started = Instant::now();
        let due = self.flagging.search.as_mut().filter(|search| search.next <= started);
        let Some(search) = due else { return };
        let (check, likely, at) = (search.check, std::mem::take(&mut search.likely), search.at.clone());
        let was_likely = self.right_flags(&likely, check);
        let (touched, last) = self.healer.patrol(&at, SLICE);
        let is_found = self.right_flags(&touched, check) || was_likely;
        self.flagging.searched(last, is_found, started.elapsed());
    }

    /// Puts right which of these have other flags; whether any had, and has not any more.
    fn right_flags(&mut self, paths: &[PathBuf], check: Check) -> bool {
        let mut is_any_right = false;
        for path in paths {
            if !self.healer.has_other_flags(path) {
                continue;
            }
            // Whatever was changed before he set flags is somebody else's work.
            let is_his = reach::metadata(path).is_ok_and(|found| is_since(&found, check.at_ns));
            let tid = if is_his { check.tid } else { 0 };
            // What he ran then, whatever he runs now.
            let when = Moment { position: 0, after_ns: check.at_ns };
            let mask = libc::FAN_ATTRIB;
            self.take(Incident { mask, tid, when, path: path.clone(), now: None, target: None });
            is_any_right |= !self.healer.has_other_flags(path);
        }
        is_any_right
    }
}

/// Whether the file was changed last after `at_ns` of the monotonic clock.
fn is_since(found: &Metadata, at_ns: u64) -> bool {
    let ago = Duration::from_nanos(clock::monotonic_ns().saturating_sub(at_ns)) + TICK;
    let since = SystemTime::now().checked_sub(ago).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let changed = Duration::new(found.ctime().max(0) as u64, found.ctime_nsec() as u32);
    since.is_some_and(|since| changed >= since)
}

/// One check of each thread, the first: what it ran later had no part in it. Of too many, nobody's.
fn first_of_each(checks: &[Check]) -> Vec<Check> {
    let mut first = checks.to_vec();
    first.sort_by_key(|check| (check.tid, check.at_ns));
    first.dedup_by_key(|check| check.tid);
    if first.len() > THREADS_MAX {
        first = vec![Check { tid: 0, ..first[0] }];
    }
    first
}

/// What the thread has open, by the names of that.
fn open_files(proc: &Proc, tid: i32) -> Vec<PathBuf> {
    let Ok(task) = proc.task(tid) else { return Vec::new() };
    let mut target = vec![0; libc::PATH_MAX as usize];
    let descriptors = (0..DESCRIPTORS_MAX).filter_map(|number| {
        let name = CString::new(format!("fd/{number}")).ok()?;
        let length = task.link(&name, &mut target).ok()?;
        Some(PathBuf::from(OsStr::from_bytes(&target[..length])))
    });
    descriptors.collect()
}
