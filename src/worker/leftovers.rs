//! What the supervisor refused while there was no worker: recorded, and its new files taken back.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use std::time::Duration;

use crate::access::Access;
use crate::audit::record::{Kind, Object, ObjectKind, Record, Subject, What};
use crate::classify;
use crate::gate::{Rollback, Shared};
use crate::marks::Places;
use crate::policy::snapshot::{Snapshot, WriterMask};
use crate::subject::capture;
use crate::sys::file::{self, Stat};
use crate::sys::path::FixedPath;
use crate::sys::proc::{Proc, TaskCache};
use crate::sys::shared::Leftover;
use crate::touch::{Touch, touch_of};
use crate::verdict::{Change, Reason, decide};

/// The opener was refused within this time after it had made the file, nanoseconds: the verdict of a dead worker's
/// event comes within the supervisor's wake-up, that of safe mode at once.
const CREATED_BEFORE_NS: i64 = 2_000_000_000;

/// The logger empties the queue within milliseconds unless its disk stalls; then losses are counted. For all records
/// together, because the worker is ready only after them.
const ROOM_WAITS: u32 = 50;
const ROOM_WAIT: Duration = Duration::from_millis(2);

/// Queues one record for each. The opener has had its answer; what is still known of it is taken.
pub fn record(shared: &Shared) {
    let (Ok(proc), Ok(places)) = (Proc::open(), Places::new()) else { return };
    if let Some(creates) = &shared.groups.creates {
        shared.creations.drain(creates);
    }
    let snapshot = Arc::clone(&shared.in_force.load().1.snapshot);
    let mut aftermath = Aftermath {
        shared,
        snapshot,
        proc,
        places,
        rollback: Rollback::default(),
        parents: TaskCache::default(),
        waits_left: ROOM_WAITS,
    };
    for leftover in &shared.page.leftovers {
        let tid = leftover.tid.load(Acquire);
        if tid != 0 {
            aftermath.settle(tid, leftover);
            leftover.tid.store(0, Release);
        }
    }
}

struct Aftermath<'a> {
    shared: &'a Shared,
    snapshot: Arc<Snapshot>,
    proc: Proc,
    places: Places,
    rollback: Rollback,
    parents: TaskCache,
    waits_left: u32,
}

impl Aftermath<'_> {
    fn settle(&mut self, tid: i32, left: &Leftover) {
        let syscall = left.syscall.load(Relaxed);
        let flags = Some(left.flags.load(Relaxed)).filter(|&flags| flags != u64::MAX);
        let made = if flags.is_none_or(classify::may_create) { self.file_made_by(tid, left) } else { None };
        let gone = left.rolled_back.load(Relaxed) != 0;
        let rolled_back = gone.then_some(true).or_else(|| {
            made.as_ref().map(|(path, stat)| self.rollback.remove(path.as_os_str().as_bytes(), stat))
        });
        self.wait_for_room();
        let Some(mut record) = self.shared.audit.take(None, 0) else { return };
        let access = match flags {
            _ if rolled_back.is_some() => Access::Create,
            Some(flags) => classify::access_of_flags(flags),
            None if touch_of(syscall) != Touch::Uses => Access::Truncate,
            None => Access::Unknown,
        };
        record.kind = Kind::Deny;
        record.time_ns = left.time_ns.load(Relaxed);
        record.what = What::Access(access);
        let safe_mode = left.safe_mode.load(Relaxed) != 0;
        record.reason = Some(if safe_mode { Reason::SafeMode } else { Reason::WorkerDied });
        record.object =
            Object { dev: left.dev.load(Relaxed), ino: left.ino.load(Relaxed), kind: ObjectKind::File };
        if record.object.ino == 0 {
            record.object.kind = ObjectKind::Unknown;
        }
        let mut room = [0; 1024];
        let path = match &made {
            Some((path, _)) => path.as_os_str().as_bytes(),
            None => left.path.load(&mut room),
        };
        record.path = record.push_text(path);
        if let Some(rule) = self.snapshot.rule_for(path) {
            let change = Change::Access(access);
            record.policy = decide(&self.snapshot, rule, change, WriterMask::NONE).policy;
            record.snapshot = Some(Arc::clone(&self.snapshot));
        }
        record.syscall = syscall;
        record.syscall_i386 = classify::is_i386(syscall);
        record.flags = flags;
        record.rolled_back = rolled_back;
        capture::capture(&mut record, &self.proc, &mut self.parents, tid);
        // Its number is another's by now, or it is a zombie without an executable.
        if record.subject.pid != left.pid.load(Relaxed) || record.text(record.subject.exe).is_empty() {
            recall_subject(&mut record, tid, left);
        }
        self.shared.audit.offer(record);
    }

    /// There may be more of them than the pool has records; unlike a responder, this thread can wait.
    fn wait_for_room(&mut self) {
        while self.waits_left > 0 && self.shared.audit.pool().free() == 0 {
            self.waits_left -= 1;
            std::thread::sleep(ROOM_WAIT);
        }
    }

    /// The empty file that the refused open has made just before, where a creation record proves it.
    fn file_made_by(&mut self, tid: i32, left: &Leftover) -> Option<(PathBuf, Stat)> {
        let made = &left.made;
        if made.tid.load(Relaxed) != tid {
            return None;
        }
        let (mut handle, mut name) = ([0; file::HANDLE_BYTES], [0; 256]);
        let directory = (made.directory_type.load(Relaxed), made.directory.load(&mut handle));
        let path = self.places.locate(
            &self.snapshot,
            &self.shared.table,
            made.filesystem.load(Relaxed),
            directory,
            made.name.load(&mut name),
        )?;
        let mut fixed = FixedPath::default();
        let stat =
            fixed.set(path.as_os_str().as_bytes()).then(|| file::stat_path(fixed.as_cstr()).ok())??;
        let refused_ns = left.time_ns.load(Relaxed) as i64;
        let is_it = stat.size == 0
            && stat.links == 1
            && (left.ino.load(Relaxed) == 0 || left.ino.load(Relaxed) == stat.id.ino)
            && stat.changed_ns > refused_ns - CREATED_BEFORE_NS
            && stat.changed_ns <= refused_ns;
        is_it.then_some((path, stat))
    }
}

/// What the supervisor saw of the opener while it was blocked.
fn recall_subject(record: &mut Record, tid: i32, left: &Leftover) {
    let mut room = [0; 1024];
    record.subject = Subject {
        tid,
        pid: left.pid.load(Relaxed),
        ppid: left.ppid.load(Relaxed),
        uid: left.uid.load(Relaxed),
        auid: left.auid.load(Relaxed),
        comm: record.push_text(left.comm.load(&mut room)),
        ..Subject::default()
    };
    record.subject.exe = record.push_text(left.exe.load(&mut room));
    record.subject.parent_exe = record.push_text(left.parent_exe.load(&mut room));
}
