//! Trusted writers that are at work: no event tells of what is written through a mapping until that is gone.

use std::path::Path;
use std::sync::Arc;

use super::Keeper;
use super::conclude::governing;
use crate::access::Access;
use crate::subject::lineage::Moment;
use crate::subject::parse_mapping;
use crate::sys::file;
use crate::verdict::{Change, Outcome, decide, writers_that_matter};

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

    /// Before `path` is put right: what stands in files there that somebody who may has mapped for writing is left.
    pub(super) fn leave_to_writers(&mut self, path: &Path) {
        for file in self.healer.written_at(path) {
            if self.is_mapped_by_a_writer(&file) {
                self.healer.leave(file);
            }
        }
    }

    fn is_mapped_by_a_writer(&mut self, path: &Path) -> bool {
        let snapshot = self.snapshot();
        let Some(rule) = governing(&snapshot, path) else { return false };
        let change = Change::Access(Access::Write);
        let matter = writers_that_matter(&snapshot, rule, change);
        let Some(expected) = self.healer.inventory().get(path) else { return false };
        let in_force = Arc::clone(&self.in_force.1);
        // Trust first: only of a trusted process are the mappings read, others could have us wait.
        processes().into_iter().flatten().any(|pid| {
            let trusted = self.trust.of(&in_force, &self.proc, pid, matter, Moment::now());
            decide(&snapshot, rule, change, trusted).outcome == Outcome::Allow && maps(pid, expected.id.ino)
        })
    }
}

/// The processes there are, if they can be listed.
fn processes() -> Option<impl Iterator<Item = i32>> {
    let all = std::fs::read_dir("/proc").ok()?;
    Some(all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Whether changes of what the process has mapped reach an inode of this number. On which filesystem only that could
/// tell, and it may be somebody's own.
fn maps(pid: i32, ino: u64) -> bool {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut mappings = maps.split(|&byte| byte == b'\n').filter_map(parse_mapping);
    mappings.any(|mapping| mapping.shared_writable && mapping.inode == ino)
}
