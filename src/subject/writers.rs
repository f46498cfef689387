//! Trusted writers: by identity, never by name.
//!
//! A subject is a writer when the executable that it runs is the very inode that a `[[writer]]` lists, nobody
//! traces it, and every executable mapping it has is a file that only writers can change. `/proc/<pid>/exe`
//! alone can be forged by a process that then runs from anonymous memory, and `LD_PRELOAD` needs no forging.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::maps::{self, Mapping};
use super::status::Status;
use crate::policy::model::{Action, Modification};
use crate::policy::snapshot::{Snapshot, WriterMask};
use crate::sys::file::{self, Identity, Stat};
use crate::sys::path::FixedPath;
use crate::sys::proc::{self, Proc, Task};

use super::libraries;

/// How far up the parent chain a writer is looked for. Maintainer scripts of real packages stay below twelve.
const CHAIN_MAX: usize = 48;
/// `/proc/<pid>/status` up to the user ids is below 400 bytes.
const STATUS_BYTES: usize = 1024;
/// One read of maps; a line holds at most an escaped path.
const MAPS_BYTES: usize = 64 * 1024;
/// Pages that the kernel itself maps into every process.
const KERNEL_PAGES: [&[u8]; 3] = [b"[vdso]", b"[vsyscall]", b"[uprobes]"];

/// A file as it was when the policies were loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    id: Identity,
    /// Only compared where no policy keeps the file from changing.
    changed_ns: i64,
}

impl From<&Stat> for Fingerprint {
    fn from(stat: &Stat) -> Self {
        Self { id: stat.id, changed_ns: stat.changed_ns }
    }
}

/// One executable of a writer.
#[derive(Debug)]
struct Executable {
    writer: usize,
    descendants: bool,
    found: Fingerprint,
    /// A policy keeps it from changing.
    guarded: bool,
    /// The libraries that its own header asks for.
    libraries: Vec<Fingerprint>,
    /// Keeps the inode alive, so that its number cannot be given to an intruder's file.
    _pin: OwnedFd,
}

/// Why an executable is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum WriterProblem {
    /// It cannot be looked at.
    #[error("writer \"{writer}\": cannot open {path}")]
    Open {
        /// The writer's name.
        writer: String,
        /// The executable.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// None of the listed sums is its own.
    #[error("writer \"{writer}\": {path} has the BLAKE3 sum {found}, which is not among those listed")]
    Pin {
        /// The writer's name.
        writer: String,
        /// The executable.
        path: PathBuf,
        /// In hexadecimal.
        found: String,
    },
}

/// Everybody who is trusted under one snapshot.
#[derive(Debug, Default)]
pub struct TrustedWriters {
    executables: Vec<Executable>,
}

impl TrustedWriters {
    /// Takes the identities of all executables that exist. One that does not exist is no problem: it cannot run.
    pub fn of(snapshot: &Snapshot) -> (Self, Vec<WriterProblem>) {
        let mut executables = Vec::new();
        let mut problems = Vec::new();
        for (index, writer) in snapshot.writers.iter().enumerate() {
            for path in &writer.exe {
                match Executable::take(snapshot, index, path) {
                    Ok(found) => executables.extend(found),
                    Err(problem) => problems.push(problem),
                }
            }
        }
        (Self { executables }, problems)
    }
}

impl Executable {
    fn take(snapshot: &Snapshot, index: usize, path: &Path) -> Result<Option<Self>, WriterProblem> {
        let writer = &snapshot.writers[index];
        let failed =
            |source| WriterProblem::Open { writer: writer.name.clone(), path: path.to_owned(), source };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
        let pin = match file::open_path(&name, 0) {
            Ok(pin) => pin,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let stat = file::stat_fd(pin.as_fd()).map_err(failed)?;
        if !writer.blake3.is_empty() {
            let mut hasher = blake3::Hasher::new();
            hasher.update_mmap(path).map_err(failed)?;
            let sum = hasher.finalize();
            if !writer.blake3.iter().any(|pin| pin == sum.as_bytes()) {
                return Err(WriterProblem::Pin {
                    writer: writer.name.clone(),
                    path: path.to_owned(),
                    found: sum.to_hex().to_string(),
                });
            }
        }
        Ok(Some(Self {
            writer: index,
            descendants: writer.descendants,
            found: Fingerprint::from(&stat),
            guarded: is_guarded(snapshot, path.as_os_str().as_bytes()),
            libraries: libraries::needed_by(path),
            _pin: pin,
        }))
    }

    fn is_run_by(&self, exe: &Stat) -> bool {
        self.found.id == exe.id && (self.guarded || self.found.changed_ns == exe.changed_ns)
    }
}

/// Whether a blocking policy keeps the content of `path` from changing.
fn is_guarded(snapshot: &Snapshot, path: &[u8]) -> bool {
    snapshot.rule_for(path).is_some_and(|rule| {
        rule.policies.iter().any(|&index| {
            let policy = &snapshot.policies[index as usize].policy;
            policy.action == Action::Block && policy.modification == Modification::Never
        })
    })
}

/// Verifies subjects; one per responder.
pub struct Verifier {
    buffer: Box<[u8]>,
    path: FixedPath,
    file_name: FixedPath,
}

impl Default for Verifier {
    fn default() -> Self {
        Self {
            buffer: vec![0; MAPS_BYTES].into_boxed_slice(),
            path: FixedPath::default(),
            file_name: FixedPath::default(),
        }
    }
}

impl Verifier {
    /// Which of the `wanted` writers the blocked opener `tid` is, itself or through its parents.
    pub fn verify(
        &mut self,
        snapshot: &Snapshot,
        writers: &TrustedWriters,
        proc: &Proc,
        tid: i32,
        wanted: WriterMask,
    ) -> WriterMask {
        if wanted == WriterMask::NONE || writers.executables.is_empty() {
            return WriterMask::NONE;
        }
        self.climb(snapshot, writers, proc, tid, wanted).unwrap_or(WriterMask::NONE)
    }

    /// `None`: something could not be read, or the chain broke.
    fn climb(
        &mut self,
        snapshot: &Snapshot,
        writers: &TrustedWriters,
        proc: &Proc,
        tid: i32,
        wanted: WriterMask,
    ) -> Option<WriterMask> {
        let mut task = proc.task(tid).ok()?;
        for depth in 0..CHAIN_MAX {
            let (ppid, tracer) = parent_of(&task)?;
            if tracer != 0 {
                return None;
            }
            let mut trusted = WriterMask::NONE;
            if let Ok(exe) = file::stat_at_follow(task.as_fd(), c"exe") {
                for executable in &writers.executables {
                    let bit = WriterMask(1 << executable.writer);
                    if bit.intersects(wanted)
                        && (depth == 0 || executable.descendants)
                        && executable.is_run_by(&exe)
                        && self.is_clean(snapshot, executable, &task)
                    {
                        trusted.0 |= bit.0;
                    }
                }
            }
            if trusted != WriterMask::NONE {
                return Some(trusted);
            }
            // Orphans go to process 1 (or to a subreaper above the writer): the chain is broken.
            if ppid <= 1 {
                return None;
            }
            let parent = proc.task(ppid).ok()?;
            // Still the parent, now that its directory is open: the number was not given to another meanwhile.
            if parent_of(&task)?.0 != ppid {
                return None;
            }
            task = parent;
        }
        None
    }

    /// Whether all code that the process can run comes from where only writers can put it.
    fn is_clean(&mut self, snapshot: &Snapshot, executable: &Executable, task: &Task) -> bool {
        let Ok(maps) = task.open(c"maps") else { return false };
        let mut filled = 0;
        loop {
            let Ok(n) = proc::read_next(maps.as_fd(), &mut self.buffer[filled..]) else { return false };
            filled += n;
            let mut start = 0;
            while let Some(end) = self.buffer[start..filled].iter().position(|&byte| byte == b'\n') {
                let Some(mapping) = maps::parse(&self.buffer[start..start + end]) else { return false };
                if mapping.executable
                    && !is_trusted_mapping(
                        snapshot,
                        executable,
                        task,
                        &mapping,
                        &mut self.path,
                        &mut self.file_name,
                    )
                {
                    return false;
                }
                start += end + 1;
            }
            if n == 0 {
                return start == filled;
            }
            self.buffer.copy_within(start..filled, 0);
            filled -= start;
            if filled == self.buffer.len() {
                return false;
            }
        }
    }
}

fn is_trusted_mapping(
    snapshot: &Snapshot,
    executable: &Executable,
    task: &Task,
    mapping: &Mapping<'_>,
    path: &mut FixedPath,
    link: &mut FixedPath,
) -> bool {
    if mapping.inode == 0 {
        return KERNEL_PAGES.contains(&mapping.path);
    }
    // The path alone can be forged in another mount namespace: the file behind the mapping must be the one that
    // the path names here.
    let named =
        link.set(b"map_files/") && link.push(mapping.start) && link.push(b"-") && link.push(mapping.end);
    if !named {
        return false;
    }
    let Ok(mapped) = file::stat_at_follow(task.as_fd(), link.as_cstr()) else { return false };
    if mapped.id == executable.found.id || executable.libraries.contains(&Fingerprint::from(&mapped)) {
        return true;
    }
    path.set(mapping.path)
        && is_guarded(snapshot, path.as_bytes())
        && file::stat_path(path.as_cstr()).is_ok_and(|found| found.id == mapped.id)
}

/// Parent's process id and tracer.
fn parent_of(task: &Task) -> Option<(i32, i32)> {
    let mut buffer = [0u8; STATUS_BYTES];
    let n = task.read_small(c"status", &mut buffer).ok()?;
    let status = Status::parse(&buffer[..n]);
    (status.ppid >= 0).then_some((status.ppid, status.tracer))
}
