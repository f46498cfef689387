//! What is said on the control socket. The client sends one [`Request`] as a line and shuts down its half; the
//! gate answers with one [`StatusReply`] or [`ReloadReply`] and closes.

use serde::{Deserialize, Serialize};

use crate::policy::diagnostic::Diagnostic;

/// A request line is at most this long.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// A reply is at most this long: every directory of a large tree may be listed as not covered.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The command.
    pub command: Command,
}

/// What the gate can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// A [`StatusReply`].
    Status,
    /// To read its policies again: a [`ReloadReply`].
    Reload,
}

/// The state of the gate. Keys that are missing, from a gate of another version, are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReply {
    /// Everything is marked and somebody answers events.
    pub ready: bool,
    /// `enforce` or `observe`.
    pub mode: String,
    /// The process that was started.
    pub supervisor_pid: i32,
    /// The process that answers; 0 while there is none.
    pub worker_pid: i32,
    /// Workers that were replaced.
    pub restarts: u64,
    /// Of the policies in force; 1 at start.
    pub generation: u64,
    /// Policies in force.
    pub policies: u64,
    /// Paths that they name.
    pub paths: u64,
    /// Directories and files that are marked.
    pub marks: u64,
    /// Events answered.
    pub events: u64,
    /// Of these allowed.
    pub allowed: u64,
    /// Of these denied.
    pub denied: u64,
    /// How long the gate took with them.
    pub latency: Latency,
    /// Changes put back.
    pub healed: u64,
    /// What they are put back from.
    pub healing: Healing,
    /// Records that are missing from the trail.
    pub lost: u64,
    /// Records that wait to be written.
    pub queue_depth: u64,
    /// Since the supervisor's start.
    pub uptime_s: u64,
    /// Loaded, not applied here.
    pub inactive: Vec<Inactive>,
    /// The last time that records were lost.
    pub last_loss: Option<Loss>,
    /// Protected, and yet not covered.
    pub unmarked: Vec<Unmarked>,
    /// Protected, and yet could not be put back, or not wholly: the first of [`Healing::unheld`].
    pub unheld: Vec<Unmarked>,
    /// The trail.
    pub audit_log: String,
}

/// From the moment an event is read to the moment it is answered, over all of them since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Half of them took no longer, nanoseconds.
    pub p50_ns: u64,
    /// All but one in a hundred took no longer, nanoseconds.
    pub p99_ns: u64,
    /// How many took less than so many nanoseconds, and not less than the entry before.
    pub buckets: Vec<(u64, u64)>,
}

/// A policy whose selector does not match here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inactive {
    /// Its name.
    pub name: String,
    /// Which label is missing or different.
    pub reason: String,
}

/// Records that are missing from the trail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// How many.
    pub count: u64,
    /// When the last of them was lost: RFC 3339, UTC.
    pub time: String,
}

/// Inventory, vault and quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healing {
    /// Names that are kept as they are.
    pub names: u64,
    /// More of them are still being looked at for the first time.
    pub learning: bool,
    /// Objects held by a link.
    pub links: u64,
    /// Files of whose content a copy is held.
    pub copies: u64,
    /// Names of which something could not be held.
    pub unheld: u64,
    /// Things in the quarantine.
    pub quarantined: u64,
}

/// Something that is not covered, or not wholly, although a policy names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unmarked {
    /// Which.
    pub path: String,
    /// Why.
    pub error: String,
}

/// What became of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadReply {
    /// The new policies are in force; otherwise the old ones still are.
    pub ok: bool,
    /// Of what is in force now.
    pub generation: u64,
    /// Everything found in the new policies.
    pub diagnostics: Vec<Finding>,
}

/// A [`Diagnostic`] on its way through the socket, where its rendering would be lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// The file as it was given.
    pub file: String,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// `error` or `warning`.
    pub level: String,
    /// One cause, lower case.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// With the source line and a caret, safe for a terminal.
    pub rendered: String,
}

impl From<&Diagnostic> for Finding {
    fn from(found: &Diagnostic) -> Self {
        Self {
            file: found.file.clone(),
            line: found.line,
            column: found.column,
            level: found.level.as_str().to_owned(),
            message: found.message.clone(),
            help: found.help.clone(),
            rendered: found.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::diagnostic::Level;

    #[test]
    fn requests_look_like_the_contract() {
        let line = serde_json::to_string(&Request { command: Command::Status }).unwrap();
        assert_eq!(line, r#"{"command":"status"}"#);
        let request: Request = serde_json::from_str(r#"{"command":"reload"}"#).unwrap();
        assert_eq!(request.command, Command::Reload);
    }

    #[test]
    fn a_reply_of_another_version_is_understood() {
        let reply: StatusReply = serde_json::from_str(r#"{"ready":true,"new_key":[1]}"#).unwrap();
        assert!(reply.ready && reply.worker_pid == 0 && reply.last_loss.is_none());
    }

    #[test]
    fn a_finding_keeps_its_rendering() {
        let found = Diagnostic::about("p.toml", Level::Error, "it is wrong", None);
        let finding = Finding::from(&found);
        assert_eq!((finding.level.as_str(), finding.rendered), ("error", found.to_string()));
    }
}
