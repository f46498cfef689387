//! Decides: a pure function of (rule, access, trusted writers).
#![forbid(unsafe_code)]

use crate::access::{Access, Mutation};
use crate::policy::model::{Action, Modification, Policy};
use crate::policy::snapshot::{Rule, Snapshot, WriterMask};

/// What the kernel is told, and what becomes of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub enum Outcome {
    /// Passes without a record.
    Allow,
    /// Passes with a record.
    Audit,
    /// Refused with a record.
    Deny,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// No policy covers the path.
    NotProtected = 0,
    /// The governing policies permit this access to everybody.
    Permitted = 1,
    /// A trusted writer may do everything.
    TrustedWriter = 2,
    /// `modification` does not permit this change.
    Modification = 3,
    /// `create = false`.
    Create = 4,
    /// `read = false`.
    Read = 5,
    /// The access could not be told, so it counts as a write.
    UnknownAccess = 6,
    /// The object was reached under another name, and which protected object it is could not be told.
    UnresolvedAlias = 7,
    /// The kernel could not open the object for the gate and refused the opener itself.
    KernelRefused = 8,
    /// The worker died before it had answered; answered by the supervisor from the opener's registers.
    WorkerDied = 9,
    /// There was no worker; answered by the supervisor in safe mode.
    SafeMode = 10,
    /// Vault and quarantine are writegate's own.
    OwnState = 11,
}

impl Reason {
    /// One clause, lower case, for the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotProtected => "no policy covers this path",
            Self::Permitted => "the policy permits this access",
            Self::TrustedWriter => "a trusted writer may change this",
            Self::Modification => "the policy does not permit this modification",
            Self::Create => "the policy does not permit new entries",
            Self::Read => "the policy lets only its writers open this",
            Self::UnknownAccess => "the access could not be told, so it counts as a write",
            Self::UnresolvedAlias => "reached under another name that could not be traced to its policy",
            Self::KernelRefused => "the kernel could not open the file for the gate and refused the opener",
            Self::WorkerDied => "the worker died with this event unanswered; refused unless it only reads",
            Self::OwnState => "vault and quarantine are changed by writegate alone",
            Self::SafeMode => "no worker was up; refused unless it only reads",
        }
    }
}

/// The outcome with the policy that decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    /// What happens.
    pub outcome: Outcome,
    /// Index into [`Snapshot::policies`]; `None` when no policy had a say.
    pub policy: Option<u16>,
    /// Why.
    pub reason: Reason,
}

/// What a policy says to a change of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Covered by a permission event.
    Access(Access),
    /// A file is resized through a descriptor whose open was judged (ftruncate(2)).
    Resize,
    /// Not covered by a permission event.
    Mutation(Mutation),
}

/// Whether `policy` lets everybody do this; else what stands against it.
fn permits(policy: &Policy, change: Change) -> Result<(), Reason> {
    use Modification::{Any, Append, Content};
    let modification = policy.modification;
    let ok = |permitted: bool, reason| if permitted { Ok(()) } else { Err(reason) };
    match change {
        Change::Access(Access::Read | Access::Exec) => ok(policy.read, Reason::Read),
        Change::Access(Access::Append) => {
            ok(matches!(modification, Append | Content | Any), Reason::Modification)
        }
        Change::Access(Access::Write | Access::Truncate) => {
            ok(matches!(modification, Content | Any), Reason::Modification)
        }
        // It was opened for writing, so the rest was permitted then. That nothing gets shorter is the one promise that
        // cannot be kept by judging opens.
        Change::Resize => ok(modification != Append, Reason::Modification),
        Change::Access(Access::Unknown) => ok(matches!(modification, Content | Any), Reason::UnknownAccess),
        Change::Access(Access::Create)
        | Change::Mutation(Mutation::Mkdir | Mutation::Symlink | Mutation::Mknod) => {
            ok(policy.create || modification == Any, Reason::Create)
        }
        Change::Mutation(_) => ok(modification == Any, Reason::Modification),
    }
}

/// The strictest verdict of all policies of `rule`; of equals the most severe, then the first written.
///
/// `trusted` holds the writers that the subject has been verified to be. Pass [`WriterMask::NONE`] first and
/// verify the subject only when [`writers_that_matter`] says that it can change the outcome.
pub fn decide(snapshot: &Snapshot, rule: &Rule, change: Change, trusted: WriterMask) -> Verdict {
    let mut strictest = Verdict { outcome: Outcome::Allow, policy: None, reason: Reason::Permitted };
    let mut severity = 0;
    for &index in &rule.policies {
        let compiled = &snapshot.policies[index as usize];
        let (outcome, reason) = match permits(&compiled.policy, change) {
            Ok(()) => (Outcome::Allow, Reason::Permitted),
            Err(_) if compiled.writers.intersects(trusted) => (Outcome::Allow, Reason::TrustedWriter),
            Err(reason) => match compiled.policy.action {
                Action::Allow => (Outcome::Allow, Reason::Permitted),
                Action::Audit => (Outcome::Audit, reason),
                Action::Block => (Outcome::Deny, reason),
            },
        };
        let first = strictest.policy.is_none();
        if first || (outcome, compiled.policy.severity) > (strictest.outcome, severity) {
            strictest = Verdict { outcome, policy: Some(index), reason };
            severity = compiled.policy.severity;
        }
    }
    strictest
}

/// The writers whose trust would soften the verdict: empty when nobody's would.
pub fn writers_that_matter(snapshot: &Snapshot, rule: &Rule, change: Change) -> WriterMask {
    let mut mask = WriterMask::NONE;
    for &index in &rule.policies {
        let compiled = &snapshot.policies[index as usize];
        if compiled.policy.action != Action::Allow && permits(&compiled.policy, change).is_err() {
            mask.0 |= compiled.writers.0;
        }
    }
    mask
}
