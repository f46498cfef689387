//! What `writegate run` was asked to do: filled by the command line, carried to every worker.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::audit::logger::Format;
use crate::policy::kubearmor::Labels;

/// Where policies are looked for when none are given.
pub const POLICY_DIR: &str = "/etc/writegate/policies.d";
/// State, vault and quarantine.
pub const STATE_DIR: &str = "/var/lib/writegate";
/// Where the gate listens for `status` and `reload`.
pub const CONTROL_SOCKET: &str = "/run/writegate/control.sock";
/// The trail.
pub const AUDIT_LOG: &str = "/var/log/writegate/audit.jsonl";

/// Refuse, or only look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Permission events: what is not permitted is refused.
    Enforce,
    /// Notification events only: nobody can be blocked, what enforce would have refused is recorded.
    Observe,
}

impl Mode {
    /// The word of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// The options of `writegate run`.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// `--policy`: files and directories, in order. Empty, and `protect` too: those of [`POLICY_DIR`] if there are
    /// any, else the built-in set.
    pub policy: Vec<PathBuf>,
    /// `--protect`: absolute paths.
    pub protect: Vec<PathBuf>,
    /// `--mode`.
    pub mode: Mode,
    /// `--state-dir`.
    pub state_dir: PathBuf,
    /// `--control`.
    pub control: PathBuf,
    /// `--audit-log`.
    pub audit_log: PathBuf,
    /// `--audit-format`.
    pub audit_format: Format,
    /// `--label`.
    pub labels: Labels,
    /// `--threads`; `None`: one for each CPU, up to a bound.
    pub threads: Option<usize>,
}
