//! The words of the policy language, after parsing and before compilation.

use std::path::PathBuf;
use std::sync::Arc;

/// What happens to an access that a policy does not permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Nothing: an exception inside a protected tree.
    Allow,
    /// It passes and is recorded.
    Audit,
    /// It is refused and recorded.
    Block,
}

/// How an object may change. See the table in docs/policy.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Modification {
    /// Not at all.
    Never,
    /// It may grow.
    Append,
    /// Its content may change, its name and metadata may not.
    Content,
    /// Anything.
    Any,
}

/// What happens to a change that no permission event covers and a policy does not permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Response {
    /// It is put back and recorded.
    Restore,
    /// It is recorded.
    Alert,
}

impl Response {
    /// Of a policy that does not say: what may not change at all is put back.
    pub const fn default_for(action: Action, modification: Modification) -> Self {
        match (action, modification) {
            (Action::Block, Modification::Never | Modification::Append) => Self::Restore,
            _ => Self::Alert,
        }
    }
}

/// What becomes of truncate(2) by path, which raises no open event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Truncation {
    /// It is judged before it happens, where kernel and filesystem can ask; every read, write and mmap of a file
    /// that is covered then costs a round trip to the gate.
    Refuse,
    /// It is not seen by the gate, and reads are free: what it took has to be restored.
    Restore,
}

/// What becomes of a mount over a protected path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mounting {
    /// It is recorded.
    Report,
    /// It is unmounted and recorded, if it was not there when the gate came up.
    Detach,
}

/// One entry of `paths`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProtectedPath {
    /// Absolute, without `.` or `..`, without a trailing slash (except the root itself).
    pub path: PathBuf,
    /// A trailing slash was given: a directory with what is in it. Otherwise one file.
    pub tree: bool,
}

/// Where a policy was written, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file, or `<built-in>`, or `--protect`.
    pub file: Arc<str>,
    /// 1-based; 0 when there is no line to show.
    pub line: u32,
}

/// One `[[policy]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Unique within the set, except that one `KubeArmor` document makes several policies of its name when its
    /// entries differ in their settings.
    pub name: String,
    /// What happens to what is not permitted.
    pub action: Action,
    /// What it covers.
    pub paths: Vec<ProtectedPath>,
    /// Trees only: `false` covers the directory's own entries and nothing below.
    pub recursive: bool,
    /// What may change.
    pub modification: Modification,
    /// What becomes of truncate(2) by path, if `modification` does not permit it.
    pub truncate: Truncation,
    /// May new entries appear?
    pub create: bool,
    /// May everybody read? `false`: only writers may even open it.
    pub read: bool,
    /// What happens to a change that cannot be refused.
    pub response: Response,
    /// What becomes of a mount over one of the paths. Of that nobody is a trusted writer.
    pub mount: Mounting,
    /// Indexes into [`PolicySet::writers`].
    pub writers: Vec<usize>,
    /// 1 (least) to 10.
    pub severity: u8,
    /// Compliance tags, copied into every record.
    pub tags: Vec<String>,
    /// For the person who reads the alert.
    pub message: String,
    /// Where it was written.
    pub origin: Origin,
}

impl Policy {
    /// Whether truncations have to be asked about, at the price that [`Truncation::Refuse`] names.
    pub fn sees_truncations(&self) -> bool {
        self.action != Action::Allow
            && matches!(self.modification, Modification::Never | Modification::Append)
            && self.truncate == Truncation::Refuse
    }
}

/// One `[[writer]]`: a subject that is trusted by identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Unique within the set.
    pub name: String,
    /// Absolute paths of native executables.
    pub exe: Vec<PathBuf>,
    /// Processes with an unbroken parent chain to such an executable are trusted too.
    pub descendants: bool,
    /// Optional content pins: the executable must have one of these BLAKE3 sums.
    pub blake3: Vec<[u8; 32]>,
    /// Where it was written.
    pub origin: Origin,
}

/// Everything that was loaded, in one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// In force here.
    pub policies: Vec<Policy>,
    /// Referred to by [`Policy::writers`].
    pub writers: Vec<Writer>,
    /// Loaded, listed, not applied: its selector does not match the labels of this place.
    pub inactive: Vec<InactivePolicy>,
}

/// A policy whose selector does not match where the gate runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InactivePolicy {
    /// Its name.
    pub name: String,
    /// Which label is missing or different.
    pub reason: String,
    /// Where it was written.
    pub origin: Origin,
}
