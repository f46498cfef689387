//! Mounts over protected paths, and those that are taken away, on a live gate.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Gate, Lab, in_lab};

const DETACH: &str = "[[policy]]\nname = 'p'\npaths = ['@/tree/']\nmount = 'detach'\n";

fn tmpfs(target: &Path) {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn moved(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>).unwrap();
}

fn directory(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.path(name);
    fs::create_dir(&path).unwrap();
    path
}

fn is_mounted(point: &Path) -> bool {
    let list = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    list.lines().any(|line| line.split(' ').nth(4) == point.to_str())
}

fn of<'a>(verdict: &'a str, path: &'a Path) -> impl Fn(&Value) -> bool + 'a {
    move |record| {
        record["verdict"] == verdict
            && record["mutation"] == "mount"
            && record["path"].as_str() == path.to_str()
    }
}

fn reason(record: &Value) -> &str {
    record["reason"].as_str().unwrap()
}

fn healed_mounts(gate: &Gate<'_>) -> usize {
    gate.records()
        .iter()
        .filter(|record| record["verdict"] == "healed" && record["mutation"] == "mount")
        .count()
}

#[test]
fn what_was_mounted_before_the_start_is_never_taken_away() {
    in_lab(60, |lab| {
        let (inner, elsewhere, dir) =
            (directory(lab, "tree/inner"), directory(lab, "free/elsewhere"), directory(lab, "tree/dir"));
        tmpfs(&inner);
        tmpfs(&elsewhere);
        let gate = lab.gate(DETACH);
        moved(&elsewhere, &dir);
        let record = gate.record(of("detected", &dir));
        assert!(reason(&record).ends_with("not unmounted: it is older than the gate"), "{record:#}");
        // Nor by those who come later.
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGKILL);
        gate.until(|| (gate.try_status()?["restarts"] == 1).then_some(()));
        assert!(gate.command(&["reload"]).status.success());
        std::thread::sleep(Duration::from_millis(500));
        assert!(is_mounted(&inner) && is_mounted(&dir));
        assert_eq!(healed_mounts(&gate), 0);
    });
}

#[test]
fn what_is_mounted_while_no_worker_lives_is_taken_away_by_the_next() {
    in_lab(60, |lab| {
        let (dir, other) = (directory(lab, "tree/dir"), directory(lab, "tree/other"));
        let gate = lab.gate(DETACH);
        // It has seen one before.
        tmpfs(&other);
        gate.record(of("healed", &other));
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGSTOP);
        tmpfs(&dir);
        gate.signal(worker, Signal::SIGKILL);
        let record = gate.record(of("healed", &dir));
        assert_eq!(reason(&record), "what was mounted over it was unmounted: tmpfs tmpfs");
        assert!(record["response"]["healed_us"].as_f64() > Some(0.0), "{record:#}");
        assert!(!is_mounted(&dir));
        assert_eq!(gate.status()["healed"], 2);
    });
}

#[test]
fn a_mount_that_is_made_again_and_again_is_a_fight() {
    in_lab(60, |lab| {
        let dir = directory(lab, "tree/dir");
        let gate = lab.gate(DETACH);
        for _ in 0..30 {
            tmpfs(&dir);
            gate.until(|| (!is_mounted(&dir)).then_some(()));
        }
        let fought =
            |record: &Value| of("healed", &dir)(record) && reason(record).contains("; a fight: 20 times in");
        gate.record(fought);
        assert!(gate.status()["ready"] == true);
    });
}

#[test]
fn who_only_records_takes_nothing_away() {
    in_lab(60, |lab| {
        for policy in ["mount = 'report'", "", "mount = 'detach'\naction = 'audit'"] {
            let gate = lab.gate(&format!("[[policy]]\nname = 'p'\npaths = ['@/tree/']\n{policy}\n"));
            tmpfs(&lab.tree());
            let verdict = if policy.contains("audit") { "audit" } else { "detected" };
            let seen = |record: &Value| record["mutation"] == "mount" && record["verdict"] != "healed";
            let record = gate.record(seen);
            assert!(is_mounted(&lab.tree()), "{policy}: {verdict}: {record:#}");
            umount2(&lab.tree(), MntFlags::MNT_DETACH).unwrap();
            drop(gate);
            fs::remove_file(lab.path("run/audit.jsonl")).unwrap();
        }
    });
}

/// What lay below a filesystem is nobody's attack.
#[test]
fn what_lies_below_an_unmounted_filesystem_stays_where_it_is() {
    in_lab(60, |lab| {
        let below = lab.file("tree/dir/below", "below");
        let dir = lab.path("tree/dir");
        tmpfs(&dir);
        lab.file("tree/dir/upper", "upper");
        let gate = lab.protect_tree();
        umount2(&dir, MntFlags::empty()).expect("the gate does not hold it");
        let record = gate.record(of("detected", &dir));
        assert!(reason(&record).starts_with("what was mounted here is gone"), "{record:#}");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(fs::read_to_string(&below).unwrap(), "below");
        let status = gate.status();
        assert_eq!((&status["healed"], &status["healing"]["quarantined"]), (&0.into(), &0.into()));
        // One record for all that was in it.
        let told = gate.records().iter().filter(|record| record["verdict"] == "detected").count();
        assert_eq!(told, 1, "{:#?}", gate.records());
    });
}
