//! The fixed-size record a responder fills while the opener is still blocked.
//!
//! Filling one never allocates: texts are copied into the record's own arena. Boxes of records are made once, at
//! start, and travel responder → logger → pool.

use std::sync::Arc;

use crate::access::{Access, Mutation};
use crate::policy::model::Policy;
use crate::policy::snapshot::Snapshot;
use crate::verdict::{Change, Reason};

/// Room for all texts of one record: four paths of 4,096 bytes, 16 ancestors and a long command line.
pub const TEXT_BYTES: usize = 48 * 1024;

/// How far up the parent chain is recorded; a login shell under systemd has five.
pub const ANCESTORS_MAX: usize = 16;

/// `comm` as the kernel bounds it (`TASK_COMM_LEN`, proc(5)), without the terminating NUL.
pub const COMM_BYTES: usize = 15;

/// The `verdict` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Kind {
    /// Refused.
    #[default]
    Deny,
    /// Passed on purpose, worth a record.
    Allow,
    /// Passed, and a policy wants to know.
    Audit,
    /// Put back.
    Healed,
    /// Seen, not undone.
    Detected,
    /// Records or events were lost; `count` says how many.
    Lost,
    /// The gate is up.
    Started,
    /// The gate was stopped on purpose.
    Stopped,
    /// A new snapshot is in force.
    Reloaded,
    /// A reload failed; the old snapshot stays in force.
    ReloadFailed,
    /// The worker died and was replaced.
    WorkerReplaced,
}

impl Kind {
    /// The word of the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Healed => "healed",
            Self::Detected => "detected",
            Self::Lost => "lost",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Reloaded => "reloaded",
            Self::ReloadFailed => "reload-failed",
            Self::WorkerReplaced => "worker-replaced",
        }
    }
}

/// A piece of the record's text arena. Length 0: not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u16,
    len: u16,
}

/// The type of an object, from its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ObjectKind {
    /// Not known.
    #[default]
    Unknown,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Special,
}

impl ObjectKind {
    /// From `st_mode`.
    pub const fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            _ => Self::Special,
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Object {
    /// `st_dev`; 0 with `ino` 0 when not known.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// Its type.
    pub kind: ObjectKind,
}

/// One process up the parent chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ancestor {
    /// Process id.
    pub pid: i32,
    /// Its `comm`.
    pub comm: Span,
    /// Its executable.
    pub exe: Span,
}

/// Who asked. Numbers are -1 where they could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Process id (thread group leader).
    pub pid: i32,
    /// Thread id.
    pub tid: i32,
    /// Parent process id.
    pub ppid: i32,
    /// Real user id.
    pub uid: i64,
    /// Login user id (`/proc/<pid>/loginuid`); -1 is also "never logged in".
    pub auid: i64,
    /// Executable path.
    pub exe: Span,
    /// Thread name.
    pub comm: Span,
    /// Arguments, each ended by NUL, as `/proc/<pid>/cmdline` has them.
    pub cmdline: Span,
    /// The command line was longer than the room left.
    pub cmdline_cut: bool,
    /// Working directory.
    pub cwd: Span,
    /// The parent's executable path.
    pub parent_exe: Span,
    /// `/proc/<pid>/cgroup`, for the container's id.
    pub cgroup: Span,
    /// Parent first.
    pub ancestors: [Ancestor; ANCESTORS_MAX],
    /// How many of `ancestors` are filled.
    pub ancestors_len: u8,
}

impl Default for Subject {
    fn default() -> Self {
        Self {
            pid: -1,
            tid: -1,
            ppid: -1,
            uid: -1,
            auid: -1,
            exe: Span::default(),
            comm: Span::default(),
            cmdline: Span::default(),
            cmdline_cut: false,
            cwd: Span::default(),
            parent_exe: Span::default(),
            cgroup: Span::default(),
            ancestors: [Ancestor::default(); ANCESTORS_MAX],
            ancestors_len: 0,
        }
    }
}

/// What was done, where one of the two applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum What {
    /// Neither: a record about the gate itself.
    #[default]
    Nothing,
    /// An open.
    Access(Access),
    /// A change no permission event covers.
    Mutation(Mutation),
}

impl From<Change> for What {
    fn from(change: Change) -> Self {
        match change {
            Change::Access(access) => Self::Access(access),
            Change::Resize => Self::Access(Access::Truncate),
            Change::Mutation(mutation) => Self::Mutation(mutation),
        }
    }
}

/// What was done about it, where something was put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Response {
    /// From the mutation's event to the restored object, nanoseconds; 0 when nothing was put back.
    pub healed_ns: u64,
    /// Where the intruder's file went.
    pub quarantine: Span,
    /// Its BLAKE3 sum.
    pub blake3: Option<[u8; 32]>,
}

/// Where a record's texts lie.
enum Arena {
    /// On the heap: a record made singly.
    Own(Box<[u8]>),
    /// A part of the pool's one slab, which lives as long as the process.
    Slab(&'static mut [u8]),
}

impl Arena {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Slab(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Slab(bytes) => bytes,
        }
    }
}

/// One record with an arena of [`TEXT_BYTES`], of which only the touched pages are resident.
pub struct Record {
    /// The verdict.
    pub kind: Kind,
    /// Nanoseconds since the epoch (`CLOCK_REALTIME`), when the event was read.
    pub time_ns: u64,
    /// From the event's read to its response, nanoseconds.
    pub latency_ns: u64,
    /// What was done.
    pub what: What,
    /// Why, in the closed list of reasons; `detail` overrides it in the output.
    pub reason: Option<Reason>,
    /// Why, or what exactly, where the closed list cannot say it.
    pub detail: Span,
    /// The snapshot that decided, for the policy's name, severity, tags and message.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Index into the snapshot's policies.
    pub policy: Option<u16>,
    /// Canonical path of the object.
    pub path: Span,
    /// The name it was reached by, where that differs.
    pub alias: Span,
    /// The object's identity.
    pub object: Object,
    /// Who.
    pub subject: Subject,
    /// System call number as `/proc/<tid>/syscall` shows it; -1 not known.
    pub syscall: i32,
    /// The number belongs to the i386 table.
    pub syscall_i386: bool,
    /// Open flags, where they are known.
    pub flags: Option<u64>,
    /// The new file of a denied create was removed again; `None` where no file was created.
    pub rolled_back: Option<bool>,
    /// What was put back.
    pub response: Response,
    /// For how many this record stands.
    pub count: u64,
    /// When the first of them was, nanoseconds since the epoch; 0 when that is `time_ns`.
    pub since_ns: u64,
    used: usize,
    arena: Arena,
}

impl Default for Record {
    /// A record with an arena of its own: allocates, so not for a responder.
    fn default() -> Self {
        Self::with_arena(Arena::Own(vec![0; TEXT_BYTES].into_boxed_slice()))
    }
}

impl Record {
    /// A record whose texts go to `slab`, a part of the pool's slab.
    pub(super) fn in_slab(slab: &'static mut [u8]) -> Self {
        debug_assert!(slab.len() == TEXT_BYTES);
        Self::with_arena(Arena::Slab(slab))
    }

    fn with_arena(arena: Arena) -> Self {
        Self {
            kind: Kind::Deny,
            time_ns: 0,
            latency_ns: 0,
            what: What::Nothing,
            reason: None,
            detail: Span::default(),
            snapshot: None,
            policy: None,
            path: Span::default(),
            alias: Span::default(),
            object: Object::default(),
            subject: Subject::default(),
            syscall: -1,
            syscall_i386: false,
            flags: None,
            rolled_back: None,
            response: Response::default(),
            count: 1,
            since_ns: 0,
            used: 0,
            arena,
        }
    }

    /// Makes the record as new without touching the arena's bytes. Drops the snapshot: call it where a
    /// deallocation may happen (the logger), not on a responder.
    pub fn clear(&mut self) {
        self.kind = Kind::Deny;
        self.time_ns = 0;
        self.latency_ns = 0;
        self.what = What::Nothing;
        self.reason = None;
        self.detail = Span::default();
        self.snapshot = None;
        self.policy = None;
        self.path = Span::default();
        self.alias = Span::default();
        self.object = Object::default();
        self.subject = Subject::default();
        self.syscall = -1;
        self.syscall_i386 = false;
        self.flags = None;
        self.rolled_back = None;
        self.response = Response::default();
        self.count = 1;
        self.since_ns = 0;
        self.used = 0;
    }

    /// Copies `bytes` into the arena; what does not fit is cut.
    pub fn push_text(&mut self, bytes: &[u8]) -> Span {
        let spare = self.spare();
        let len = bytes.len().min(spare.len());
        spare[..len].copy_from_slice(&bytes[..len]);
        self.commit(len)
    }

    /// The arena's free part, to read into directly; then [`Record::commit`].
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.arena.bytes_mut()[self.used..]
    }

    /// Takes the first `len` bytes of [`Record::spare`] as a text.
    pub fn commit(&mut self, len: usize) -> Span {
        let len = len.min(self.arena.bytes().len() - self.used);
        let span = Span { start: self.used as u16, len: len as u16 };
        self.used += len;
        span
    }

    /// The bytes of a text of this record.
    pub fn text(&self, span: Span) -> &[u8] {
        &self.arena.bytes()[span.start as usize..span.start as usize + span.len as usize]
    }

    /// The generation of the snapshot that decided; 0 when there is none.
    pub fn generation(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.generation)
    }

    /// The policy that decided.
    pub fn policy(&self) -> Option<&Policy> {
        let compiled = self.snapshot.as_ref()?.policies.get(self.policy? as usize)?;
        Some(&compiled.policy)
    }
}

const _: () = assert!(TEXT_BYTES <= u16::MAX as usize, "spans are 16 bits wide");
