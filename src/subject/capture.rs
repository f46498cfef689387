//! Copies all that is known of a subject into a record, while the subject is still blocked.

use std::ffi::CStr;

use super::status::{self, Status};
use crate::audit::record::{ANCESTORS_MAX, Ancestor, COMM_BYTES, Record, Span, TEXT_BYTES};
use crate::sys::proc::{Proc, Task, TaskCache};

/// `/proc/<pid>/status` up to the user ids is below 400 bytes.
const STATUS_BYTES: usize = 1024;
/// Kept free for the texts that come after the command line: working directory, executables of the parents.
const ROOM_AFTER_CMDLINE: usize = 16 * 1024;
/// Longest cgroup path that is kept.
const CGROUP_BYTES: usize = 1024;

/// Fills `record.subject`. What cannot be read stays as unknown.
pub fn capture(record: &mut Record, proc: &Proc, parents: &mut TaskCache, tid: i32) {
    record.subject.tid = tid;
    let Ok(task) = proc.task(tid) else { return };
    let mut buffer = [0u8; STATUS_BYTES];
    let Ok(n) = task.read_small(c"status", &mut buffer) else { return };
    let status = Status::parse(&buffer[..n]);
    record.subject.pid = status.tgid;
    record.subject.ppid = status.ppid;
    record.subject.uid = status.uid;
    record.subject.comm = comm(record, &status);
    record.subject.auid = login_uid(&task);
    record.subject.exe = link(record, &task, c"exe");
    record.subject.cwd = link(record, &task, c"cwd");
    cmdline(record, &task);
    record.subject.cgroup = small_file(record, &task, c"cgroup");
    ancestors(record, proc, parents, status.ppid);
}

fn comm(record: &mut Record, status: &Status<'_>) -> Span {
    let mut name = [0; COMM_BYTES];
    let n = status.unescaped_name(&mut name);
    record.push_text(&name[..n])
}

fn login_uid(task: &Task) -> i64 {
    let mut digits = [0u8; 16];
    match task.read_small(c"loginuid", &mut digits).map(|n| status::number(&digits[..n])) {
        Ok(uid) if uid != i64::from(u32::MAX) => uid,
        _ => -1,
    }
}

fn link(record: &mut Record, task: &Task, name: &CStr) -> Span {
    let n = task.link(name, record.spare()).unwrap_or(0);
    record.commit(n)
}

fn small_file(record: &mut Record, task: &Task, name: &CStr) -> Span {
    let room = record.spare();
    let len = room.len().min(CGROUP_BYTES);
    let n = task.read_small(name, &mut room[..len]).unwrap_or(0);
    record.commit(n)
}

fn cmdline(record: &mut Record, task: &Task) {
    let room = record.spare();
    let len = room.len().saturating_sub(ROOM_AFTER_CMDLINE);
    let n = task.read(c"cmdline", &mut room[..len]).unwrap_or(0);
    record.subject.cmdline = record.commit(n);
    record.subject.cmdline_cut = n == len;
}

fn ancestors(record: &mut Record, proc: &Proc, parents: &mut TaskCache, mut pid: i32) {
    for depth in 0..ANCESTORS_MAX {
        if pid <= 0 {
            break;
        }
        let mut buffer = [0u8; STATUS_BYTES];
        let Ok((known, n)) = parents.get(proc, pid, &mut buffer) else { break };
        let status = Status::parse(&buffer[..n]);
        let ancestor = Ancestor { pid, comm: comm(record, &status), exe: link(record, known.task(), c"exe") };
        if depth == 0 {
            record.subject.parent_exe = ancestor.exe;
        }
        record.subject.ancestors[depth] = ancestor;
        record.subject.ancestors_len = depth as u8 + 1;
        pid = status.ppid;
    }
}

const _: () = assert!(TEXT_BYTES > 2 * ROOM_AFTER_CMDLINE);
