//! What is changed while a worker dies, while there is none, and while the gate stops.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nix::sys::signal::Signal;
use support::look::{Inodes, Look, contents, look};
use support::{Gate, Lab, in_lab};

const CONTENT: &str = "as it was";

fn tree(lab: &Lab) -> Look {
    for name in ["file", "other", "dir/inner", "dir/deep/one"] {
        lab.file(&format!("tree/{name}"), CONTENT);
    }
    symlink("file", lab.path("tree/link")).unwrap();
    look(&lab.tree(), Inodes::OfFiles)
}

/// One of each kind.
fn attack(lab: &Lab) {
    fs::remove_file(lab.path("tree/file")).unwrap();
    fs::create_dir(lab.path("tree/new")).unwrap();
    // A gate that is up puts back what is deleted meanwhile.
    let _ = fs::remove_dir_all(lab.path("tree/dir"));
    fs::set_permissions(lab.path("tree/other"), fs::Permissions::from_mode(0o777)).unwrap();
    lab.file("free/evil", "evil");
    fs::rename(lab.path("free/evil"), lab.path("tree/link")).unwrap();
}

fn is_right_again(gate: &Gate<'_>, lab: &Lab, before: &Look) {
    gate.until(|| (look(&lab.tree(), Inodes::OfFiles) == *before).then_some(()));
    assert!(contents(before).values().all(|content| content == CONTENT.as_bytes()));
    for name in ["file", "new", "dir", "other", "link"] {
        let path = lab.path("tree").join(name);
        let healed = |path: &Path| {
            let path = path.to_str().unwrap().to_owned();
            gate.record(|record| record["verdict"] == "healed" && record["path"] == path)
        };
        healed(&path);
    }
}

/// All of its threads.
fn is_stopped(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it is alive").flatten();
    let mut stats = tasks.map(|task| fs::read_to_string(task.path().join("stat")).unwrap_or_default());
    stats.all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
}

#[test]
fn what_a_worker_had_no_time_for_the_next_one_heals() {
    in_lab(60, |lab| {
        let before = tree(lab);
        let gate = lab.protect_tree();
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGSTOP);
        gate.until(|| is_stopped(worker).then_some(()));
        attack(lab);
        gate.signal(worker, Signal::SIGKILL);
        is_right_again(&gate, lab, &before);
        assert_eq!(gate.status()["restarts"], 1);
    });
}

#[test]
fn what_is_changed_while_there_is_no_worker_is_healed_when_there_is() {
    in_lab(60, |lab| {
        let before = tree(lab);
        let log = "@/run/log/audit.jsonl";
        let gate = lab.gate_with(&["--protect", "@/tree/", "--audit-log", log]);
        fs::remove_dir_all(lab.path("run/log")).unwrap();
        lab.file("run/log", "a file where the log's directory was");
        gate.signal(gate.worker(), Signal::SIGKILL);
        gate.until(|| gate.try_status().is_none().then_some(()));
        attack(lab);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(!lab.path("tree/file").exists(), "there is nobody to heal");
        fs::remove_file(lab.path("run/log")).unwrap();
        gate.until(|| (look(&lab.tree(), Inodes::OfFiles) == before).then_some(()));
    });
}

#[test]
fn a_gate_that_stops_leaves_everything_right() {
    in_lab(60, |lab| {
        let before = tree(lab);
        let gate = lab.protect_tree();
        attack(lab);
        gate.stop();
        assert_eq!(look(&lab.tree(), Inodes::OfFiles), before);
    });
}
