//! Trusted writers: by identity, never by name.
//!
//! A subject is a writer when the executable that it runs is the very inode that a `[[writer]]` lists, nobody
//! traces it, and every executable mapping it has is a file that only writers can change. `/proc/<pid>/exe`
//! alone can be forged by a process that then runs from anonymous memory, and `LD_PRELOAD` needs no forging.
//!
//! Identities change when packages are upgraded, and the upgrade itself must not end for it: see `succession` for
//! executables that are replaced, `departed` for libraries that are replaced under a running writer.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::departed::DepartedCode;
use super::libraries;
use super::succession::{self, Successors};
use crate::policy::model::{Action, Modification};
use crate::policy::snapshot::Snapshot;
use crate::sys::file::{self, Identity, Stat};

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
pub(super) struct Executable {
    pub(super) writer: usize,
    pub(super) descendants: bool,
    found: Fingerprint,
    /// A policy keeps it from changing.
    guarded: bool,
    /// A policy says something of it.
    covered: bool,
    /// The libraries that its own header asks for.
    pub(super) libraries: Vec<Fingerprint>,
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

/// What the gate has seen of writers since it came up; outlives a reload.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Replacements of writers' executables.
    pub successors: Successors,
    pub(super) departed: DepartedCode,
}

/// Everybody who is trusted under one snapshot.
#[derive(Debug, Default)]
pub struct TrustedWriters {
    pub(super) executables: Vec<Executable>,
    /// Guarded paths of writers whose content is not pinned: whatever their policies let come there is trusted.
    pub(super) places: Vec<Box<[u8]>>,
    /// See [`Remembered`].
    pub remembered: Arc<Remembered>,
}

impl TrustedWriters {
    /// Takes the identities of all executables that exist. One that does not exist is no problem: it cannot run.
    pub fn of(snapshot: &Snapshot, remembered: Arc<Remembered>) -> (Self, Vec<WriterProblem>) {
        let mut executables = Vec::new();
        let mut places = Vec::new();
        let mut problems = Vec::new();
        for (index, writer) in snapshot.writers.iter().enumerate() {
            for path in &writer.exe {
                match Executable::take(snapshot, index, path) {
                    Ok(found) => executables.extend(found),
                    Err(problem) => problems.push(problem),
                }
                let place = path.as_os_str().as_bytes();
                if writer.blake3.is_empty() && is_guarded(snapshot, place) {
                    places.push(place.into());
                }
            }
        }
        (Self { executables, places, remembered }, problems)
    }

    /// Whether a process that runs `exe` may be one of them.
    pub fn is_program(&self, exe: Identity) -> bool {
        self.executables.iter().any(|executable| executable.found.id == exe)
            || self.remembered.successors.knows(exe)
    }

    /// Whether it is the program of one of them, and no policy's concern.
    pub fn is_uncovered(&self, exe: Identity) -> bool {
        self.executables.iter().any(|executable| !executable.covered && executable.found.id == exe)
    }

    /// The executable whose place a new file called `path` may take.
    pub fn place_for(&self, path: &[u8]) -> Option<&[u8]> {
        let places = self.places.iter().map(|place| &**place);
        places.filter(|place| succession::leads_to(path, place)).max_by_key(|place| place.len())
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
            covered: snapshot.rule_for(path.as_os_str().as_bytes()).is_some(),
            libraries: libraries::needed_by(path),
            _pin: pin,
        }))
    }

    pub(super) fn is_run_by(&self, exe: &Stat) -> bool {
        self.found.id == exe.id && (self.guarded || self.found.changed_ns == exe.changed_ns)
    }
}

/// Whether a blocking policy keeps the content of `path` from changing.
pub(super) fn is_guarded(snapshot: &Snapshot, path: &[u8]) -> bool {
    snapshot.rule_for(path).is_some_and(|rule| {
        rule.policies.iter().any(|&index| {
            let policy = &snapshot.policies[index as usize].policy;
            policy.action == Action::Block && policy.modification == Modification::Never
        })
    })
}
