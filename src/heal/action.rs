//! What the healer is told and what it tells.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::failure::Failure;
use crate::access::Mutation;

/// What may happen to the content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Fixed,
    /// It may grow.
    Grows,
    /// Anything.
    Free,
}

/// What is to be kept as it is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    /// That the name exists and which object it names.
    pub names: bool,
    /// That nothing exists here which is not expected. Of a directory: that its entries, and so its time, stay.
    pub foreign: bool,
    /// Mode, owner, attributes and flags.
    pub metadata: bool,
    /// What stands in it.
    pub content: Content,
}

impl Duty {
    /// Everything.
    pub const ALL: Self = Self { names: true, foreign: true, metadata: true, content: Content::Fixed };
    /// Nothing: the path is not looked at.
    pub const NONE: Self = Self { names: false, foreign: false, metadata: false, content: Content::Free };
}

/// What is known to have happened at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Change {
    /// Something: everything is looked at that has another change time, a directory's entries too.
    #[default]
    Unknown,
    /// Somebody wrote to the file, and perhaps more: its content is compared whatever its length and times say.
    Modified,
    /// The name or the metadata only, as one event of an unbroken stream says: content is compared where length or
    /// time say so.
    Metadata,
    /// The object was renamed to there.
    MovedTo(PathBuf),
}

/// What the caller knows about a change.
#[derive(Debug, Clone, Default)]
pub struct Hint {
    /// What happened.
    pub change: Change,
    /// The name has come to be with this change.
    pub appeared: bool,
    /// Who did it, for the note in the quarantine: pid, executable, command line; or null.
    pub subject: Value,
}

impl From<Change> for Hint {
    fn from(change: Change) -> Self {
        Self { change, ..Self::default() }
    }
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// The very object got its name back, from the vault.
    Linked,
    /// A new file with the right content and metadata took its place: the object itself is lost.
    Copied,
    /// The object was renamed back from where it had been moved to.
    MovedBack,
    /// A directory, symbolic link or node was made again.
    Made,
    /// Something that does not belong here went to the quarantine.
    Removed,
    /// A further name of a protected file was taken away; the file itself stands where it should.
    Unlinked,
    /// Metadata was set back.
    Metadata,
    /// Content was written back, in place.
    Content,
    /// It may be here, or be so: it is expected from now on.
    Learned,
    /// The same path had to be put right too often. It goes on, more slowly.
    Escalated {
        /// So many times within [`super::fight::WINDOW`].
        heals: u32,
    },
    /// Not now: look again after this time, see [`super::Healer::due`].
    Deferred(Duration),
    /// It could not be put right.
    Failed(Failure),
}

/// What was done at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub did: Did,
    /// How long it took, nanoseconds.
    pub ns: u64,
    /// Which part of the metadata was set back, where that is all.
    pub metadata: Option<Mutation>,
    /// The name has another inode than before: marks on it must be placed anew.
    pub new_inode: bool,
    /// What stood here is kept in the quarantine under this name.
    pub quarantine: Option<String>,
    /// Checksum of what stood here.
    pub blake3: Option<[u8; 32]>,
    /// Older items of the quarantine that had to go.
    pub dropped: Vec<String>,
    /// The name is put right, something else about it is not.
    pub incomplete: Option<Failure>,
    /// What stood here could not be kept as evidence, or could not be moved away.
    pub evidence_lost: Option<Failure>,
}

impl Action {
    /// Nothing but `did` is known.
    pub(super) fn new(path: PathBuf, did: Did) -> Self {
        Self {
            path,
            did,
            ns: 0,
            metadata: None,
            new_inode: false,
            quarantine: None,
            blake3: None,
            dropped: Vec::new(),
            incomplete: None,
            evidence_lost: None,
        }
    }

    /// Whether something was put right.
    pub const fn healed(&self) -> bool {
        !matches!(self.did, Did::Learned | Did::Escalated { .. } | Did::Deferred(_) | Did::Failed(_))
    }
}
