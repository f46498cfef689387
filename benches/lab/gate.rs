//! A real gate, started from the real binary.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clock;

const BINARY: &str = env!("CARGO_BIN_EXE_writegate");

/// Stops when dropped.
pub struct Gate {
    supervisor: Child,
    /// The process whose threads answer.
    pub worker: i32,
    control: PathBuf,
    /// From the start of the process to the first `ready` of its status.
    pub ready_in: Duration,
}

impl Gate {
    /// Starts one on the policy text `policy`; files go to `state`.
    pub fn start(state: &Path, policy: &str, more: &[&str]) -> Self {
        fs::create_dir_all(state).expect("state directory");
        let file = state.join("policy.toml");
        if fs::read_to_string(&file).ok().as_deref() != Some(policy) {
            fs::write(&file, policy).expect("policy file");
        }
        let control = state.join("control.sock");
        let started = Instant::now();
        let supervisor = Command::new(BINARY)
            .arg("run")
            .args([Path::new("--policy"), &file, Path::new("--state-dir"), &state.join("state")])
            .args([Path::new("--control"), &control])
            .args([Path::new("--audit-log"), &state.join("audit.jsonl")])
            .args(more)
            .env("WRITEGATE_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(state.join("stderr")).expect("stderr"))
            .spawn()
            .expect("writegate starts");
        let mut gate = Self { supervisor, worker: 0, control, ready_in: Duration::ZERO };
        let deadline = started + Duration::from_secs(120);
        loop {
            let status = gate.status();
            if status["ready"] == true {
                gate.ready_in = started.elapsed();
                gate.worker = status["worker_pid"].as_i64().expect("worker_pid") as i32;
                return gate;
            }
            let ended = gate.supervisor.try_wait().ok().flatten();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the gate does not get ready: {}",
                fs::read_to_string(state.join("stderr")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What `status --json` says; null while nobody listens.
    pub fn status(&self) -> Value {
        use writegate::control::{client, protocol};
        let reply = client::ask(&self.control, protocol::Command::Status);
        reply.ok().and_then(|document| serde_json::from_slice(&document).ok()).unwrap_or(Value::Null)
    }

    /// Resident memory of supervisor and worker, KiB.
    pub fn resident_kib(&self) -> u64 {
        clock::resident_kib(self.supervisor.id() as i32) + clock::resident_kib(self.worker)
    }

    /// How long `reload` takes, asked on the socket.
    pub fn reload(&self) -> Duration {
        use writegate::control::{client, protocol};
        let started = Instant::now();
        client::ask(&self.control, protocol::Command::Reload).expect("reload");
        started.elapsed()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        clock::stop(&mut self.supervisor);
    }
}
