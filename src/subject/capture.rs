//! Copies all that is known of a subject into a record, while the subject is still blocked.

use std::ffi::CStr;

use super::status::{self, Status};
use crate::audit::record::{ANCESTORS_MAX, Ancestor, COMM_BYTES, Record, Span};
use crate::sys::path::PATH_BYTES;
use crate::sys::proc::{Proc, Subject, SubjectFile, Task, TaskCache};

/// `/proc/<pid>/status` up to the user ids is below 400 bytes.
const STATUS_BYTES: usize = 1024;
/// Kept free for the texts that come after the command line: working directory, executables of the parents.
const ROOM_AFTER_CMDLINE: usize = 16 * 1024;
/// The first process, which does not end, and whose executable need not be visible.
const INIT: i32 = 1;
/// Longest cgroup path that is kept.
const CGROUP_BYTES: usize = 1024;

/// Fills `record.subject`. What cannot be read stays as unknown.
pub fn capture(record: &mut Record, proc: &Proc, cache: &mut TaskCache, tid: i32) {
    fill(record, proc, cache, tid, true);
}

/// As [`capture`], without the command line: that lies in the subject's own memory, and a subject can put it on a
/// page that never answers. Who must not hang asks for this.
pub fn identity(record: &mut Record, proc: &Proc, cache: &mut TaskCache, tid: i32) {
    fill(record, proc, cache, tid, false);
}

fn fill(record: &mut Record, proc: &Proc, cache: &mut TaskCache, tid: i32, with_memory: bool) {
    record.subject.tid = tid;
    let mut buffer = [0u8; STATUS_BYTES];
    let Ok((subject, n)) = cache.subject(proc, tid, &mut buffer) else { return };
    let status = Status::parse(&buffer[..n]);
    record.subject.pid = status.tgid;
    record.subject.ppid = status.ppid;
    record.subject.uid = status.uid;
    record.subject.comm = comm(record, &status);
    record.subject.auid = login_uid(subject);
    record.subject.exe = link(record, subject.task(), c"exe");
    record.subject.cwd = link(record, subject.task(), c"cwd");
    if with_memory {
        cmdline(record, subject);
    }
    record.subject.cgroup = cgroup(record, subject);
    ancestors(record, proc, cache, status.ppid);
}

/// Fills `record.subject` of a thread that is gone: `forebears` begins with its process, goes on with that one's
/// parents, and ends with the first of them that may still be looked at.
pub fn departed(record: &mut Record, proc: &Proc, cache: &mut TaskCache, forebears: &[i32]) {
    let [pid, parents @ ..] = forebears else { return };
    record.subject.pid = *pid;
    let Some((living, dead)) = parents.split_last() else { return };
    record.subject.ppid = parents[0];
    for (place, &pid) in record.subject.ancestors.iter_mut().zip(dead) {
        *place = Ancestor { pid, ..Ancestor::default() };
        record.subject.ancestors_len += 1;
    }
    ancestors(record, proc, cache, *living);
}

fn comm(record: &mut Record, status: &Status<'_>) -> Span {
    let mut name = [0; COMM_BYTES];
    let n = status.unescaped_name(&mut name);
    record.push_text(&name[..n])
}

fn login_uid(subject: &Subject) -> i64 {
    let mut digits = [0u8; 16];
    match subject.read(SubjectFile::LoginUid, &mut digits).map(|n| status::number(&digits[..n])) {
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

fn cgroup(record: &mut Record, subject: &Subject) -> Span {
    let room = record.spare();
    let len = room.len().min(CGROUP_BYTES);
    let n = subject.read(SubjectFile::Cgroup, &mut room[..len]).unwrap_or(0);
    record.commit(n)
}

fn cmdline(record: &mut Record, subject: &Subject) {
    let room = record.spare();
    let len = room.len().saturating_sub(ROOM_AFTER_CMDLINE);
    let n = subject.read(SubjectFile::CommandLine, &mut room[..len]).unwrap_or(0);
    record.subject.cmdline = record.commit(n);
    record.subject.cmdline_cut = n == len;
}

/// The parents from `pid` up, each looked at now. Which process is whose parent is read anew only where it can have changed.
fn ancestors(record: &mut Record, proc: &Proc, cache: &mut TaskCache, mut pid: i32) {
    let mut child = None;
    let mut depth = record.subject.ancestors_len as usize;
    // A parent may end meanwhile, its children go to another, and so on; not for ever.
    for _ in 0..2 * ANCESTORS_MAX {
        if pid <= 0 || depth == ANCESTORS_MAX {
            break;
        }
        let mut name = [0; COMM_BYTES + 1];
        let mut exe = 0;
        let found = cache.parent(proc, pid, &mut name).map(|(known, n)| {
            exe = known.exe(record.spare());
            n
        });
        if let Some(child) = child {
            let now = cache.parent_of(proc, child, pid, found.is_ok() && (exe > 0 || pid == INIT));
            if now != pid {
                pid = now;
                continue;
            }
        }
        let Ok(n) = found else { break };
        let exe = record.commit(exe);
        let comm = record.push_text(name[..n].strip_suffix(b"\n").unwrap_or(&name[..n]));
        if depth == 0 {
            record.subject.parent_exe = exe;
        }
        record.subject.ancestors[depth] = Ancestor { pid, comm, exe };
        depth += 1;
        record.subject.ancestors_len = depth as u8;
        child = Some(pid);
        pid = cache.guess_of_grandparent(pid);
    }
}
