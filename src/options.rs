//! What `writegate run` was asked to do: filled by the command line, carried to every worker.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::audit::logger::Format;
use crate::policy::kubearmor::Labels;

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
    /// `--policy`: files and directories, in order. Empty, and `protect` too: the built-in set.
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
    /// `--threads`; `None`: one for each CPU.
    pub threads: Option<usize>,
}
