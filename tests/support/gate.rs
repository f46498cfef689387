//! The real binary, run on a lab.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use writegate::control::client;
use writegate::control::protocol;

use super::Lab;

/// How long anything that happens by itself may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running gate; ended when it is dropped.
pub struct Gate<'lab> {
    lab: &'lab Lab,
    child: Child,
    out: PathBuf,
    /// One of its processes was sent a signal: a line of the trail may end in the middle.
    disturbed: Cell<bool>,
}

/// The processes whose parent is `pid`.
pub fn children_of(pid: i32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&child| parent_of(child) == Some(pid))
        .collect()
}

/// The parent of a process.
pub fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn is_ours(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("writegate"))
}

impl<'lab> Gate<'lab> {
    pub(super) fn start(lab: &'lab Lab, arguments: &[&str]) -> Self {
        let gate = Self::start_unready(lab, arguments);
        let done = gate.command(&["status", "--wait", "20"]);
        assert!(done.status.success(), "the gate does not come up: {done:?}\n{}", gate.diagnostics());
        gate
    }

    pub(super) fn start_unready(lab: &'lab Lab, arguments: &[&str]) -> Self {
        let out = lab.path("run");
        let log = File::create(out.join("stderr")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_writegate"));
        command.arg("run").args(arguments).args(["--control", &lab.here("@/run/control.sock")]);
        if !arguments.contains(&"--audit-log") {
            command.args(["--audit-log", &lab.here("@/run/audit.jsonl")]);
        }
        command.args(["--state-dir", &lab.here("@/run/state")]).stdin(Stdio::null()).stderr(log);
        // SAFETY: prctl(2) with integers is async-signal-safe. The gate ends with the thread that started it.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command.spawn().expect("the gate starts");
        lab.supervisors.lock().unwrap().push(child.id() as i32);
        Self { lab, child, out, disturbed: Cell::new(false) }
    }

    /// `writegate ARGUMENTS --control …`.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_writegate"))
            .args(arguments)
            .args(["--control", &self.lab.here("@/run/control.sock")])
            .output()
            .expect("the binary runs")
    }

    /// What the gate said on stderr.
    pub fn diagnostics(&self) -> String {
        fs::read_to_string(self.out.join("stderr")).unwrap_or_default()
    }

    /// The status document, when a worker answers.
    pub fn try_status(&self) -> Option<Value> {
        let bytes = client::ask(&self.lab.path("run/control.sock"), protocol::Command::Status).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The status document.
    pub fn status(&self) -> Value {
        self.until(|| self.try_status())
    }

    /// Repeats `look` until it finds something.
    #[track_caller]
    pub fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain\n{}\n{:#?}",
                self.diagnostics(),
                self.records()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether `pid` is a process of this very gate.
    fn owns(&self, pid: i32) -> bool {
        let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pid > 1 && is_ours(pid) && cmdline.contains(self.out.to_str().expect("a plain path"))
    }

    /// All processes of this gate.
    fn processes(&self) -> Vec<i32> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| self.owns(pid)).collect()
    }

    /// The process that was started.
    pub fn supervisor(&self) -> i32 {
        self.child.id() as i32
    }

    /// The present worker.
    pub fn worker(&self) -> i32 {
        self.until(|| children_of(self.supervisor()).into_iter().find(|&pid| is_ours(pid)))
    }

    /// Sends a signal to the supervisor or to a worker.
    pub fn signal(&self, pid: i32, signal: Signal) {
        assert!(self.owns(pid), "{pid} is none of ours");
        self.disturbed.set(true);
        kill(Pid::from_raw(pid), signal).expect("a process of ours");
    }

    /// The trail so far.
    pub fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.out.join("audit.jsonl")).unwrap_or_default();
        // The last line may be half written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let parsed = whole.lines().filter_map(|line| match serde_json::from_str(line) {
            Ok(record) => Some(record),
            Err(_) if self.disturbed.get() => None,
            Err(error) => panic!("{error}: {line}"),
        });
        parsed.collect()
    }

    /// The first record that is as wanted; waits for it.
    #[track_caller]
    pub fn record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(|| self.records().into_iter().find(|record| wanted(record)))
    }

    /// The record of a denial, by path and access.
    #[track_caller]
    pub fn denial(&self, path: &std::path::Path, access: &str) -> Value {
        let path = path.to_str().expect("a plain path");
        self.record(|record| {
            record["verdict"] == "deny" && record["path"] == path && record["access"] == access
        })
    }

    /// Waits until exactly so many openers have been refused: an opener goes on before it is counted.
    #[track_caller]
    pub fn has_denied(&self, count: usize) {
        self.until(|| (self.status()["denied"].as_u64() >= Some(count as u64)).then_some(()));
        assert_eq!(self.status()["denied"], count);
    }

    /// Ends it as a service manager would; the whole trail.
    pub fn stop(mut self) -> Vec<Value> {
        let _ = kill(Pid::from_raw(self.supervisor()), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < deadline, "the gate does not stop\n{}", self.diagnostics());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.records()
    }
}

/// Asks it to end, and makes it end.
fn kill_if_alive(child: &mut Child) -> std::io::Result<()> {
    if child.try_wait()?.is_none() {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- stderr of the gate\n{}--- the trail's last records", self.diagnostics());
            let text = fs::read_to_string(self.out.join("audit.jsonl")).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(10)..] {
                eprintln!("{line}");
            }
        }
        let supervisor = self.supervisor();
        let _ = kill_if_alive(&mut self.child);
        // A worker goes on without its supervisor.
        for worker in self.processes() {
            let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
        }
        self.lab
            .supervisors
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|&pid| pid != supervisor);
    }
}
