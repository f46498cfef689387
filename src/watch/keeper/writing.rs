//! Trusted writers that are at work: no event tells of what is written through a mapping until that is gone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::Keeper;
use super::conclude::governing;
use crate::access::Access;
use crate::policy::snapshot::WriterMask;
use crate::subject::lineage::Moment;
use crate::subject::parse_mapping;
use crate::sys::file;
use crate::verdict::{Change, Outcome, decide};

impl Keeper {
    /// Whether a program that may change things runs: what it has done is not all reported yet.
    pub(super) fn is_writer_running(&self) -> bool {
        let Some(mut processes) = processes() else { return true };
        processes.any(|pid| {
            self.proc
                .task(pid)
                .and_then(|task| file::stat_at_follow(task.as_fd(), c"exe"))
                .is_ok_and(|exe| self.in_force.1.writers.is_program(exe.id))
        })
    }

    /// Before these are put right: what stands in files there that somebody who may has mapped for writing is left.
    pub(super) fn leave_to_writers(&mut self, paths: &BTreeSet<PathBuf>) {
        let written: Vec<_> = paths.iter().flat_map(|path| self.healer.written_at(path)).collect();
        if written.is_empty() {
            return;
        }
        let (snapshot, mapped) = (self.snapshot(), self.mapped_by_writers());
        let change = Change::Access(Access::Write);
        for path in written {
            let Some(expected) = self.healer.inventory().get(&path) else { continue };
            let Some(rule) = governing(&snapshot, &path) else { continue };
            let may = |writers| decide(&snapshot, rule, change, writers).outcome == Outcome::Allow;
            if mapped.iter().any(|&(ino, writers)| ino == expected.id.ino && may(writers)) {
                self.healer.leave(path);
            }
        }
    }

    /// The inode numbers of what trusted writers have mapped for writing, and who they are.
    fn mapped_by_writers(&mut self) -> Vec<(u64, WriterMask)> {
        let in_force = Arc::clone(&self.in_force.1);
        let mut mapped = Vec::new();
        // Trust first: only of a trusted process are the mappings read, others could have us wait.
        for pid in processes().into_iter().flatten() {
            let trusted = self.trust.of(&in_force, &self.proc, pid, WriterMask::ALL, Moment::now());
            if trusted != WriterMask::NONE {
                mapped.extend(mappings(pid).into_iter().map(|ino| (ino, trusted)));
            }
        }
        mapped
    }
}

/// The processes there are, if they can be listed.
fn processes() -> Option<impl Iterator<Item = i32>> {
    let all = std::fs::read_dir("/proc").ok()?;
    Some(all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Of which inodes changes reach the file through a mapping of this process. On which filesystem only the number could
/// tell, and it may be somebody's own.
fn mappings(pid: i32) -> Vec<u64> {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mappings = maps.split(|&byte| byte == b'\n').filter_map(parse_mapping);
    mappings.filter(|mapping| mapping.shared_writable).map(|mapping| mapping.inode).collect()
}
