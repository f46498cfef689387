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

/// The next worker's scan does not know it, and must not take it for an intruder's.
#[test]
fn a_tree_that_a_worker_died_learning_stays() {
    const FILES: usize = 3000;
    in_lab(60, |lab| {
        let gate = lab.gate("[[policy]]\nname = 'one'\npaths = ['@/tree/']\n");
        for n in 0..FILES {
            lab.file(&format!("free/large/{}/{n}", n % 10), CONTENT);
        }
        fs::rename(lab.path("free/large"), lab.path("large")).unwrap();
        lab.write_policy("[[policy]]\nname = 'two'\npaths = ['@/tree/', '@/large/']\n");
        assert!(gate.command(&["reload"]).status.success());
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGKILL);
        gate.until(|| (gate.try_status()?["restarts"] == 1).then_some(()));
        // A scan comes once everything is learned, and what is not healed within this time is not.
        gate.until(|| (gate.status()["healing"]["learning"] == false).then_some(()));
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(look(&lab.path("large"), Inodes::OfFiles).len(), 1 + 10 + FILES);
        assert_eq!(gate.status()["healed"], 0);
    });
}

/// What is mounted over a directory is somebody else's.
#[test]
fn what_is_mounted_over_a_directory_is_not_its_contents() {
    in_lab(60, |lab| {
        let before = tree(lab);
        for name in ["inner", "deep/precious", "other"] {
            lab.file(&format!("free/victim/{name}"), "theirs");
        }
        let victim = look(&lab.path("free/victim"), Inodes::All);
        let gate = lab.protect_tree();
        lab.bind(&lab.path("free/victim"), &lab.path("tree/dir"));
        gate.record(|record| record["verdict"] == "detected" && record["mutation"] == "mount");
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGKILL);
        gate.until(|| (gate.try_status()?["restarts"] == 1).then_some(()));
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(look(&lab.path("free/victim"), Inodes::All), victim);
        nix::mount::umount2(&lab.path("tree/dir"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        gate.until(|| (look(&lab.tree(), Inodes::OfFiles) == before).then_some(()));
    });
}
