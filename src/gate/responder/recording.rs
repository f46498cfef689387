//! What a responder says of an event in its record.

use std::io::Write as _;
use std::sync::Arc;

use super::{Pending, Responder};
use crate::access::Access;
use crate::audit::record::{Kind, Object, ObjectKind, Record, What};
use crate::classify;
use crate::gate::Look;
use crate::subject::capture;
use crate::sys::clock;
use crate::sys::file::Stat;
use crate::verdict::{Outcome, Reason, Verdict};

impl Responder {
    pub(super) fn describe(
        &mut self,
        record: &mut Record,
        pending: &Pending<'_>,
        look: &Look,
        stat: &Stat,
        access: Access,
        verdict: Verdict,
    ) {
        record.kind = if verdict.outcome == Outcome::Deny { Kind::Deny } else { Kind::Audit };
        record.time_ns = clock::realtime_ns();
        record.what = What::Access(access);
        record.reason = Some(verdict.reason);
        record.snapshot = Some(Arc::clone(&self.in_force.1.snapshot));
        record.policy = verdict.policy;
        let (path, seen) = (self.resolver.path.as_bytes(), self.resolver.seen.as_bytes());
        record.path = record.push_text(if path.is_empty() { seen } else { path });
        if seen != path && !path.is_empty() {
            record.alias = record.push_text(seen);
        }
        record.object = Object { dev: stat.id.dev, ino: stat.id.ino, kind: ObjectKind::from_mode(stat.mode) };
        record.syscall = look.syscall;
        record.syscall_i386 = classify::is_i386(look.syscall);
        record.flags = look.flags;
        capture::capture(record, &self.proc, &mut self.parents, pending.tid());
    }

    /// The kernel could not open the file for us and has refused the opener.
    pub(super) fn kernel_refused(&mut self, tid: i32, errno: i32) {
        use std::sync::atomic::Ordering::Relaxed;
        self.slot.refused.store(self.slot.refused.load(Relaxed) + 1, Relaxed);
        let Some(mut record) = self.audit.take(None, 0) else { return };
        record.kind = Kind::Deny;
        record.time_ns = clock::realtime_ns();
        record.what = What::Access(Access::Unknown);
        record.reason = Some(Reason::KernelRefused);
        let mut text = [0u8; 96];
        let mut rest = &mut text[..];
        // A slice takes what fits; the text is shorter.
        let _ = write!(rest, "{} (errno {errno})", Reason::KernelRefused.as_str());
        let unused = rest.len();
        record.detail = record.push_text(&text[..text.len() - unused]);
        if tid > 0 {
            capture::capture(&mut record, &self.proc, &mut self.parents, tid);
        }
        self.audit.offer(record);
    }
}
