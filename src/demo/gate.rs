//! The gate that is attacked: this very program, as a child.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cli::report::{Exit, Failure, shown};
use crate::control::client;
use crate::control::protocol::{self, StatusReply};
use crate::sys::child;

/// A scratch directory is marked in a millisecond.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// To write its last records.
const STOP_WITHIN: Duration = Duration::from_secs(6);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Of the gate's own messages, shown when it does not come up.
const MESSAGES_SHOWN: usize = 20;

/// A child that is ended when this is dropped.
pub(super) struct Gate {
    child: Child,
    directory: PathBuf,
}

impl Gate {
    /// Starts it on `directory`/protected/ and waits until it is up.
    pub fn start(directory: &Path, until: Instant) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let what = format!("failed to start a gate: {error}");
            Failure::new(Exit::Unavailable, what, "look at the limits of processes and open files")
        };
        let messages = File::create(directory.join("messages")).map_err(failed)?;
        let mut command = Command::new("/proc/self/exe");
        // A trailing slash protects the tree.
        command.arg("run").arg("--protect").arg(directory.join("protected/"));
        for (option, name) in
            [("--control", "socket"), ("--audit-log", "audit.jsonl"), ("--state-dir", "state")]
        {
            command.arg(option).arg(directory.join(name));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages);
        child::ends_with_parent(&mut command, libc::SIGTERM);
        let child = command.spawn().map_err(failed)?;
        let mut gate = Self { child, directory: directory.to_owned() };
        gate.wait_until_ready(until.min(Instant::now() + READY_WITHIN))?;
        Ok(gate)
    }

    fn wait_until_ready(&mut self, until: Instant) -> Result<(), Failure> {
        while Instant::now() < until {
            if self.status().is_some_and(|status| status.ready) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.did_not_come_up(&format!("the gate ended with {status}")));
            }
            std::thread::sleep(POLL_EVERY);
        }
        Err(self.did_not_come_up("the gate did not come up in time"))
    }

    fn did_not_come_up(&self, what: &str) -> Failure {
        let messages = fs::read_to_string(self.directory.join("messages")).unwrap_or_default();
        let lines: Vec<_> = messages.lines().collect();
        let mut details = String::new();
        for line in &lines[lines.len().saturating_sub(MESSAGES_SHOWN)..] {
            let _ = writeln!(details, "gate: {}", shown(line));
        }
        let failure =
            Failure::new(Exit::Unavailable, what, "its messages are above; `writegate doctor` tells more");
        Failure { details, ..failure }
    }

    /// How it is.
    pub fn status(&self) -> Option<StatusReply> {
        let document = client::ask(&self.directory.join("socket"), protocol::Command::Status).ok()?;
        serde_json::from_slice(&document).ok()
    }

    /// Whether it is up, or comes up again by then.
    pub fn is_ready_by(&self, until: Instant) -> bool {
        loop {
            if self.status().is_some_and(|status| status.ready) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Kills its worker; only a process that is its child.
    pub fn kill_worker(&self) -> bool {
        let Some(worker) = self.status().map(|status| status.worker_pid) else { return false };
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let own = parent.and_then(|pid| pid.trim().parse().ok()) == Some(self.child.id());
        own && worker > 0 && kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok()
    }

    /// Ends it, so that all of its trail is written, and gives the trail.
    pub fn stop(mut self) -> Vec<Value> {
        self.end();
        self.trail()
    }

    /// The trail as far as it is written.
    pub fn trail(&self) -> Vec<Value> {
        let trail = fs::read_to_string(self.directory.join("audit.jsonl")).unwrap_or_default();
        trail.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn end(&mut self) {
        // Not reaped yet, so the number is still its own.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let until = Instant::now() + STOP_WITHIN;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}
