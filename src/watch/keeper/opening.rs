//! New files whose makers may still be in the open(2) that made them: the gate judges that, and takes a file that it
//! refuses away again itself. A file that was made without opening it (mknod) looks the same until its maker goes on.

use std::time::{Duration, Instant};

use super::Keeper;
use crate::classify;
use crate::sys::proc::{Proc, ThreadTime};
use crate::sys::reach;
use crate::watch::incident::Incident;

/// How often it is looked whether they have left it: a quarter of the time within which things are put right.
pub(super) const LOOK_EVERY: Duration = Duration::from_micros(250);
/// How long a new file's maker may take to leave its open(2): the gate answers within that, or nobody does.
const LATEST: Duration = Duration::from_secs(1);
/// A maker who runs may be on his way to wait for the gate, which needs some microseconds of a CPU: whoever has had so
/// many since, and does not wait, is past it.
const PAST_NS: u64 = 500_000;
/// … and however few he has had after this time; not all kernels count them.
const PAST: Duration = Duration::from_millis(20);

/// One of them.
pub(super) struct Opening {
    incident: Incident,
    since: Instant,
    ran_ns: u64,
}

impl Opening {
    /// Whether the maker may be in it.
    fn is_under_way(&self, proc: &Proc) -> bool {
        let waited = self.since.elapsed();
        let path = &self.incident.path;
        if waited > LATEST || !reach::metadata(path).is_ok_and(|found| is_new_file(&found)) {
            return false;
        }
        let Ok(line) = std::fs::read(format!("/proc/{}/syscall", self.incident.tid)) else { return false };
        match classify::parse_line(&line) {
            classify::Line::In(call) => classify::is_in_open(&call),
            classify::Line::Running => {
                waited < PAST && ran_ns(proc, self.incident.tid).saturating_sub(self.ran_ns) < PAST_NS
            }
            classify::Line::Garbled => false,
        }
    }
}

impl Keeper {
    /// Gives the notification back, unless it is of a new file whose maker may be opening it.
    pub(super) fn put_off(&mut self, incident: Incident) -> Option<Incident> {
        if incident.mask & libc::FAN_CREATE == 0 || incident.mask & libc::FAN_ONDIR != 0 {
            return Some(incident);
        }
        let ran_ns = ran_ns(&self.proc, incident.tid);
        let opening = Opening { incident, since: Instant::now(), ran_ns };
        if !opening.is_under_way(&self.proc) {
            return Some(opening.incident);
        }
        self.opening.push_back(opening);
        None
    }

    /// Judges those that are settled.
    pub(super) fn settle_opened(&mut self) {
        for _ in 0..self.opening.len() {
            let Some(opening) = self.opening.pop_front() else { return };
            if opening.is_under_way(&self.proc) {
                self.opening.push_back(opening);
            } else {
                self.judge(&opening.incident);
            }
        }
    }
}

/// Whether it can be one that was made by the notification's call.
fn is_new_file(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.is_file() && found.nlink() == 1
}

/// Zero where nobody counts.
fn ran_ns(proc: &Proc, tid: i32) -> u64 {
    ThreadTime::of(proc, tid).map_or(0, |time| time.ran_ns)
}
