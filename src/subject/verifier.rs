//! Verifies subjects: which trusted writers somebody is, himself or through his parents.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::loader;
use super::maps::{self, Mapping};
use super::status::Status;
use super::writers::{Fingerprint, TrustedWriters, is_guarded};
use crate::policy::snapshot::{Snapshot, WriterMask};
use crate::sys::file::{self, Identity, Stat};
use crate::sys::path::FixedPath;
use crate::sys::proc::{Proc, Task};

/// How far up the parent chain a writer is looked for. Maintainer scripts of real packages stay below twelve.
const CHAIN_MAX: usize = 48;
/// `/proc/<pid>/status` up to the user ids is below 400 bytes.
const STATUS_BYTES: usize = 1024;
/// One read of maps; a line holds at most an escaped path.
const MAPS_BYTES: usize = 64 * 1024;
/// Pages that the kernel itself maps into every process.
const KERNEL_PAGES: [&[u8]; 3] = [b"[vdso]", b"[vsyscall]", b"[uprobes]"];

/// Ends the name of a mapped file that has lost it (proc(5)).
const DELETED: &[u8] = b" (deleted)";
/// Trusted processes whose ancestors have been looked at.
const ANCESTRIES: usize = 64;

/// Verifies subjects; one per responder.
pub struct Verifier {
    code: CodeCheck,
    place: FixedPath,
    /// Process ids: a number that is given to another process costs a look, or saves one, and decides nothing.
    ancestries: [i32; ANCESTRIES],
}

impl Default for Verifier {
    fn default() -> Self {
        Self { code: CodeCheck::default(), place: FixedPath::default(), ancestries: [0; ANCESTRIES] }
    }
}

/// Which writers somebody is, and the process that runs their program: his own or one above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// None of them: nobody.
    pub writers: WriterMask,
    /// The process, or the thread that was asked about.
    pub by: i32,
}

impl Verified {
    /// Whether he is any of them.
    pub fn is_somebody(&self) -> bool {
        self.writers != WriterMask::NONE
    }
}

/// What a subject is compared with.
#[derive(Clone, Copy)]
struct Trusted<'a> {
    snapshot: &'a Snapshot,
    writers: &'a TrustedWriters,
    /// Whom the verdict depends on.
    wanted: WriterMask,
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
    ) -> Verified {
        let mut found = Verified { writers: WriterMask::NONE, by: tid };
        if wanted == WriterMask::NONE {
            return found;
        }
        self.climb(Trusted { snapshot, writers, wanted }, proc, tid, &mut found);
        found
    }

    /// Which writers the blocked opener `tid` is, once its own code runs; `None` as long as its dynamic loader does,
    /// or where that cannot be told. `pc` is where it goes on in user space.
    pub fn verify_started(
        &mut self,
        snapshot: &Snapshot,
        writers: &TrustedWriters,
        proc: &Proc,
        tid: i32,
        pc: u64,
    ) -> Option<Verified> {
        let task = proc.task(tid).ok()?;
        if loader::is_loading(&task, pc, &mut self.code.buffer)? {
            return None;
        }
        Some(self.verify(snapshot, writers, proc, tid, WriterMask::ALL))
    }

    /// Up the parent chain to the nearest writer; `None` where it broke or could not be read.
    fn climb(&mut self, with: Trusted<'_>, proc: &Proc, tid: i32, found: &mut Verified) -> Option<()> {
        let mut task = proc.task(tid).ok()?;
        let mut id = tid;
        for depth in 0..CHAIN_MAX {
            let (ppid, tracer) = parent_of(&task)?;
            if tracer != 0 {
                return None;
            }
            let trusted = self.identify(with, &task, depth > 0);
            if !found.is_somebody() && trusted != WriterMask::NONE {
                *found = Verified { writers: trusted, by: id };
                // The writers above this one may be needed when it is gone, and with their libraries replaced: what
                // they run is looked at once, as long as its names stand.
                if !self.is_new_ancestry(id) {
                    return Some(());
                }
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
            id = ppid;
        }
        None
    }

    fn is_new_ancestry(&mut self, pid: i32) -> bool {
        let known = &mut self.ancestries[pid as usize % ANCESTRIES];
        std::mem::replace(known, pid) != pid
    }

    /// Which writers this one process is.
    fn identify(&mut self, with: Trusted<'_>, task: &Task, is_ancestor: bool) -> WriterMask {
        let mut trusted = WriterMask::NONE;
        let Ok(exe) = file::stat_at_follow(task.as_fd(), c"exe") else { return trusted };
        let mut listed = false;
        for executable in &with.writers.executables {
            if !executable.is_run_by(&exe) {
                continue;
            }
            listed = true;
            let bit = WriterMask(1 << executable.writer);
            if bit.intersects(with.wanted)
                && (executable.descendants || !is_ancestor)
                && self.code.is_clean(with, Program { exe: exe.id, libraries: &executable.libraries }, task)
            {
                trusted.0 |= bit.0;
            }
        }
        if listed { trusted } else { self.identify_successor(with, task, &exe, is_ancestor) }
    }

    /// The same where the executable came to its place after the policies were loaded.
    fn identify_successor(
        &mut self,
        with: Trusted<'_>,
        task: &Task,
        exe: &Stat,
        is_ancestor: bool,
    ) -> WriterMask {
        let Trusted { snapshot, writers, wanted } = with;
        let successors = &writers.remembered.successors;
        let Some(arrived) = successors.place_of(exe.id, &mut self.place) else { return WriterMask::NONE };
        if !arrived {
            // As seen from here, whatever the process itself sees at that path.
            if !file::stat_path(self.place.as_cstr()).is_ok_and(|found| found.id == exe.id) {
                return WriterMask::NONE;
            }
            successors.arrived(exe.id);
        }
        let place = self.place.as_bytes();
        if !writers.places.iter().any(|listed| **listed == *place) {
            return WriterMask::NONE;
        }
        let mut trusted = WriterMask::NONE;
        for (index, writer) in snapshot.writers.iter().enumerate() {
            let bit = WriterMask(1 << index);
            if bit.intersects(wanted)
                && (writer.descendants || !is_ancestor)
                && writer.blake3.is_empty()
                && writer.exe.iter().any(|listed| listed.as_os_str().as_bytes() == place)
            {
                trusted.0 |= bit.0;
            }
        }
        let program = Program { exe: exe.id, libraries: &[] };
        if trusted != WriterMask::NONE && self.code.is_clean(with, program, task) {
            trusted
        } else {
            WriterMask::NONE
        }
    }
}

/// What a process may run wherever it lies.
#[derive(Clone, Copy)]
struct Program<'a> {
    exe: Identity,
    libraries: &'a [Fingerprint],
}

/// Looks at all code that a process can run.
struct CodeCheck {
    buffer: Box<[u8]>,
    path: FixedPath,
    link: FixedPath,
}

impl Default for CodeCheck {
    fn default() -> Self {
        Self {
            buffer: vec![0; MAPS_BYTES].into_boxed_slice(),
            path: FixedPath::default(),
            link: FixedPath::default(),
        }
    }
}

impl CodeCheck {
    /// Whether all code that the process can run comes from where only writers can put it.
    fn is_clean(&mut self, with: Trusted<'_>, program: Program<'_>, task: &Task) -> bool {
        let Ok(maps) = task.open(c"maps") else { return false };
        let Self { buffer, path, link } = self;
        maps::all(maps.as_fd(), buffer, |mapping| {
            !mapping.executable || is_trusted_mapping(with, program, task, mapping, path, link)
        })
    }
}

fn is_trusted_mapping(
    with: Trusted<'_>,
    program: Program<'_>,
    task: &Task,
    mapping: &Mapping<'_>,
    path: &mut FixedPath,
    link: &mut FixedPath,
) -> bool {
    if mapping.inode == 0 {
        return KERNEL_PAGES.contains(&mapping.path);
    }
    let linked =
        link.set(b"map_files/") && link.push(mapping.start) && link.push(b"-") && link.push(mapping.end);
    if !linked {
        return false;
    }
    let Ok(mapped) = file::stat_at_follow(task.as_fd(), link.as_cstr()) else { return false };
    if mapped.id == program.exe {
        return true;
    }
    let departed = &with.writers.remembered.departed;
    // The path alone can be forged in another mount namespace: the file behind the mapping must be the one that
    // the path names here.
    let is_named = path.set(mapping.path)
        && is_guarded(with.snapshot, path.as_bytes())
        && file::stat_path(path.as_cstr()).is_ok_and(|found| found.id == mapped.id);
    if is_named {
        departed.note(&mapped, || {
            let pin = file::open_path_below(task.as_fd(), link.as_cstr()).ok()?;
            file::stat_fd(pin.as_fd()).is_ok_and(|found| found.id == mapped.id).then_some(pin)
        });
        return true;
    }
    let had_guarded_name =
        mapping.path.strip_suffix(DELETED).is_some_and(|name| is_guarded(with.snapshot, name));
    had_guarded_name && departed.knows(&mapped) || program.libraries.contains(&Fingerprint::from(&mapped))
}

/// Parent's process id and tracer.
fn parent_of(task: &Task) -> Option<(i32, i32)> {
    let mut buffer = [0u8; STATUS_BYTES];
    let n = task.read_small(c"status", &mut buffer).ok()?;
    let status = Status::parse(&buffer[..n]);
    (status.ppid >= 0).then_some((status.ppid, status.tracer))
}
