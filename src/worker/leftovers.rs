//! Records of what the supervisor refused while there was no worker.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::access::Access;
use crate::audit::record::{Kind, Object, What};
use crate::classify;
use crate::gate::Shared;
use crate::subject::capture;
use crate::sys::proc::Proc;
use crate::verdict::Reason;

/// Queues one record for each. The opener has had its answer; what is still known of it is taken.
pub fn record(shared: &Shared) {
    let Ok(proc) = Proc::open() else { return };
    for leftover in &shared.page.leftovers {
        let tid = leftover.tid.load(Acquire);
        if tid == 0 {
            continue;
        }
        if let Some(mut record) = shared.audit.take(None, 0) {
            record.kind = Kind::Deny;
            record.time_ns = leftover.time_ns.load(Relaxed);
            record.what = What::Access(Access::Unknown);
            let safe_mode = leftover.safe_mode.load(Relaxed) != 0;
            record.reason = Some(if safe_mode { Reason::SafeMode } else { Reason::WorkerDied });
            record.object = Object {
                dev: leftover.dev.load(Relaxed),
                ino: leftover.ino.load(Relaxed),
                ..Object::default()
            };
            record.syscall = leftover.syscall.load(Relaxed);
            record.syscall_i386 = classify::is_i386(record.syscall);
            capture::capture(&mut record, &proc, tid);
            shared.audit.offer(record);
        }
        leftover.tid.store(0, Release);
    }
}
