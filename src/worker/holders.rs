//! Processes that already held a protected file open for writing when the gate came up: no permission event
//! will ever tell of what they do.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::Access;
use crate::audit::record::{Kind, Object, ObjectKind, What};
use crate::gate::{InForce, Shared};
use crate::policy::snapshot::{Rule, Snapshot};
use crate::subject::{self, Verifier, capture};
use crate::sys::clock;
use crate::sys::file::Identity;
use crate::sys::path::FixedPath;
use crate::sys::proc::{Proc, TaskCache};
use crate::verdict::{Change, Outcome, decide, writers_that_matter};

/// How a process holds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Descriptor(Access),
    Mapping,
}

/// Looks through all processes once, and records who holds what.
pub fn record(shared: &Shared) {
    let Ok(proc) = Proc::open() else { return };
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let in_force = shared.in_force.load().1;
    let mut search = Search {
        shared,
        in_force: &in_force,
        proc,
        verifier: Verifier::default(),
        parents: TaskCache::default(),
    };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that vanishes meanwhile holds nothing any more.
        let _ = search.descriptors(pid);
        let _ = search.mappings(pid);
    }
}

struct Search<'a> {
    shared: &'a Shared,
    in_force: &'a InForce,
    proc: Proc,
    verifier: Verifier,
    parents: TaskCache,
}

impl Search<'_> {
    fn descriptors(&mut self, pid: i32) -> io::Result<()> {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            // One that is closed meanwhile is no reason to leave out those behind it.
            let Ok(path) = fs::read_link(entry.path()) else { continue };
            // Not of sockets, pipes and the like: a fanotify group's information lists every mark, ours too.
            if !path.is_absolute() {
                continue;
            }
            let info = fs::read(format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy()));
            let Some(access) = info.ok().and_then(|info| subject::access_of_fdinfo(&info)) else { continue };
            let _ = self.consider(pid, &entry.path(), &path, Hold::Descriptor(access));
        }
        Ok(())
    }

    fn mappings(&mut self, pid: i32) -> io::Result<()> {
        let maps = fs::read(format!("/proc/{pid}/maps"))?;
        let mut seen: Vec<u64> = Vec::new();
        for line in maps.split(|&byte| byte == b'\n') {
            let Some(mapping) = subject::parse_mapping(line) else { continue };
            if !mapping.shared_writable || mapping.inode == 0 || seen.contains(&mapping.inode) {
                continue;
            }
            seen.push(mapping.inode);
            let range = [mapping.start, b"-", mapping.end].concat();
            let link = PathBuf::from(format!("/proc/{pid}/map_files/{}", String::from_utf8_lossy(&range)));
            let Ok(path) = fs::read_link(&link) else { continue };
            let _ = self.consider(pid, &link, &path, Hold::Mapping);
        }
        Ok(())
    }

    fn consider(&mut self, pid: i32, link: &Path, path: &Path, hold: Hold) -> io::Result<()> {
        let metadata = fs::metadata(link)?;
        if !metadata.is_file() {
            return Ok(());
        }
        let snapshot = &self.in_force.snapshot;
        let id = Identity { dev: metadata.dev(), ino: metadata.ino() };
        let mut canonical = FixedPath::default();
        let known = self.shared.table.file(id, &mut canonical) || self.under_a_mark(path, &mut canonical);
        let Some(rule) = known.then(|| snapshot.rule_for(canonical.as_bytes())).flatten() else {
            return Ok(());
        };
        self.judge(pid, canonical.as_bytes(), rule, id, hold);
        Ok(())
    }

    /// The canonical path where the directory is a marked one, by whatever name.
    fn under_a_mark(&self, path: &Path, canonical: &mut FixedPath) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        fs::metadata(parent).is_ok_and(|found| {
            let id = Identity { dev: found.dev(), ino: found.ino() };
            self.shared.table.directory(id, canonical) && canonical.push_component(name.as_bytes())
        })
    }

    fn judge(&mut self, pid: i32, path: &[u8], rule: &Rule, id: Identity, hold: Hold) {
        let snapshot: &Arc<Snapshot> = &self.in_force.snapshot;
        let access = match hold {
            Hold::Descriptor(access) => access,
            Hold::Mapping => Access::Write,
        };
        let change = Change::Access(access);
        let matter = writers_that_matter(snapshot, rule, change);
        let trusted = self.verifier.verify(snapshot, &self.in_force.writers, &self.proc, pid, matter).writers;
        let verdict = decide(snapshot, rule, change, trusted);
        if verdict.outcome == Outcome::Allow {
            return;
        }
        let Some(mut record) = self.shared.audit.take(verdict.policy, snapshot.generation) else { return };
        record.kind = Kind::Detected;
        record.time_ns = clock::realtime_ns();
        record.what = What::Access(access);
        record.reason = Some(verdict.reason);
        record.detail = record.push_text(match hold {
            Hold::Descriptor(_) => b"already open for writing when the gate came up",
            Hold::Mapping => b"already mapped for writing when the gate came up",
        });
        record.snapshot = Some(Arc::clone(snapshot));
        record.policy = verdict.policy;
        record.path = record.push_text(path);
        record.object = Object { dev: id.dev, ino: id.ino, kind: ObjectKind::File };
        capture::capture(&mut record, &self.proc, &mut self.parents, pid);
        self.shared.audit.offer(record);
    }
}
