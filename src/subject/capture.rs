//! Copies all that is known of a subject into a record, while the subject is still blocked.

use std::ffi::CStr;

use super::status::{self, Status};
use crate::audit::record::{ANCESTORS_MAX, Ancestor, COMM_BYTES, Record, Span};
use crate::sys::path::PATH_BYTES;
use crate::sys::proc::{Proc, Task, TaskCache};

/// `/proc/<pid>/status` up to the user ids is below 400 bytes.
const STATUS_BYTES: usize = 1024;
/// Longest cgroup path that is kept.
const CGROUP_BYTES: usize = 1024;

/// Fills `record.subject`. What cannot be read stays as unknown.
pub fn capture(record: &mut Record, proc: &Proc, parents: &mut TaskCache, tid: i32) {
    if let Some(task) = identity(record, proc, parents, tid) {
        cmdline(record, &task);
    }
}

/// As [`capture`], without the command line: that lies in the subject's own memory, and a subject can put it on a
/// page that never answers. Who must not hang asks for this.
pub fn identity(record: &mut Record, proc: &Proc, parents: &mut TaskCache, tid: i32) -> Option<Task> {
    record.subject.tid = tid;
    let task = proc.task(tid).ok()?;
    let mut buffer = [0u8; STATUS_BYTES];
    let n = task.read_small(c"status", &mut buffer).ok()?;
    let status = Status::parse(&buffer[..n]);
    record.subject.pid = status.tgid;
    record.subject.ppid = status.ppid;
    record.subject.uid = status.uid;
    record.subject.comm = comm(record, &status);
    record.subject.auid = login_uid(&task);
    record.subject.exe = link(record, &task, c"exe");
    record.subject.cwd = link(record, &task, c"cwd");
    record.subject.cgroup = small_file(record, &task, c"cgroup");
    ancestors(record, proc, parents, status.ppid);
    Some(task)
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
    let room = record.spare();
    let len = room.len().min(PATH_BYTES);
    let n = task.link(name, &mut room[..len]).unwrap_or(0);
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
    let len = room.len();
    let n = task.read(c"cmdline", room).unwrap_or(0);
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
