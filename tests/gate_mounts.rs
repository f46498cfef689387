//! Mounts over protected paths, and those that are taken away, on a live gate.

mod support;

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::rare::DeadFuse;
use support::{Gate, Lab, in_lab, raw, refused};

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

/// A mount that was there before the gate, in a new one.
#[test]
fn what_is_older_is_not_taken_along_with_what_it_was_moved_into() {
    in_lab(60, |lab| {
        let (old, new, dir) =
            (directory(lab, "free/old"), directory(lab, "free/new"), directory(lab, "tree/dir"));
        tmpfs(&old);
        let gate = lab.gate(DETACH);
        tmpfs(&new);
        let inner = directory(lab, "free/new/inner");
        moved(&old, &inner);
        moved(&new, &dir);
        let record = gate.record(of("detected", &dir));
        assert!(
            reason(&record).ends_with("a mount that is older than the gate is mounted in it"),
            "{record:#}"
        );
        std::thread::sleep(Duration::from_millis(500));
        assert!(is_mounted(&dir) && is_mounted(&dir.join("inner")));
        // It goes as soon as it can.
        moved(&dir.join("inner"), &old);
        gate.record(of("healed", &dir));
        assert!(is_mounted(&old) && !is_mounted(&dir));
    });
}

#[test]
fn what_was_hidden_for_long_goes_when_it_can_be_reached() {
    in_lab(60, |lab| {
        let (old, new, other, dir) = (
            directory(lab, "free/old"),
            directory(lab, "free/new"),
            directory(lab, "free/other"),
            directory(lab, "tree/dir"),
        );
        tmpfs(&old);
        let gate = lab.gate(DETACH);
        tmpfs(&new);
        let (below, above) =
            (raw::openat(&new, libc::O_PATH).unwrap(), raw::openat(&old, libc::O_PATH).unwrap());
        raw::move_mount(&above, &new).unwrap();
        raw::move_mount(&below, &dir).unwrap();
        gate.record(of("detected", &dir));
        for _ in 0..20 {
            tmpfs(&other);
            std::thread::sleep(Duration::from_millis(20));
            umount2(&other, MntFlags::empty()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        moved(&dir, &old);
        gate.record(of("healed", &dir));
        assert!(is_mounted(&old) && !is_mounted(&dir));
    });
}

#[test]
fn the_next_worker_goes_on_with_a_fight() {
    in_lab(60, |lab| {
        let dir = directory(lab, "tree/dir");
        let gate = lab.gate(DETACH);
        while gate.try_status().is_some_and(|status| status["healed"].as_u64() < Some(22)) {
            tmpfs(&dir);
            std::thread::sleep(Duration::from_millis(10));
        }
        tmpfs(&dir);
        std::thread::sleep(Duration::from_millis(20));
        assert!(is_mounted(&dir), "it waits");
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGKILL);
        gate.until(|| (!is_mounted(&dir)).then_some(()));
    });
}

/// So many on each other, the newest at the bottom; with that one the others can be moved.
fn stack(lab: &Lab, count: usize) -> OwnedFd {
    let (stack, parts) = (directory(lab, "free/stack"), directory(lab, "free/parts"));
    let part = |n: usize| parts.join(n.to_string());
    for n in 0..count {
        fs::create_dir(part(n)).unwrap();
        tmpfs(&part(n));
    }
    let parts = (0..count).rev().map(|n| {
        let mount = raw::openat(&part(n), libc::O_PATH).unwrap();
        raw::move_mount(&mount, &stack).unwrap();
        mount
    });
    parts.fold(None, |first, mount| first.or(Some(mount))).unwrap()
}

#[test]
fn all_of_a_stack_goes() {
    const COUNT: usize = 300;
    in_lab(60, |lab| {
        let dir = directory(lab, "tree/dir");
        let gate = lab.gate(DETACH);
        let first = stack(lab, COUNT);
        raw::move_mount(&first, &dir).unwrap();
        gate.until(|| (!is_mounted(&dir)).then_some(()));
        gate.until(|| (healed_mounts(&gate) == COUNT).then_some(()));
    });
}

/// How long until a change of this file is undone.
fn healing_time(gate: &Gate<'_>, file: &Path) -> Duration {
    let mode = fs::metadata(file).unwrap().permissions().mode();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    let started = Instant::now();
    gate.until(|| (fs::metadata(file).unwrap().permissions().mode() == mode).then_some(()));
    started.elapsed()
}

#[test]
fn thousands_of_mounts_do_not_keep_the_watcher_from_its_work() {
    const COUNT: usize = 2000;
    in_lab(60, |lab| {
        let (dir, inner) = (directory(lab, "tree/dir"), directory(lab, "tree/inner"));
        let file = lab.file("other/file", "content");
        tmpfs(&inner);
        let held = raw::openat(&inner, libc::O_RDONLY).unwrap();
        let gate = lab.gate("[[policy]]\nname = 'p'\npaths = ['@/tree/', '@/other/']\n");
        raw::move_mount(&stack(lab, COUNT), &dir).unwrap();
        gate.record(of("detected", &dir));
        // What happens on it from now on happens nowhere.
        umount2(&inner, MntFlags::MNT_DETACH).unwrap();
        for n in 0..100 {
            fs::create_dir(format!("/proc/thread-self/fd/{}/{n}", held.as_raw_fd())).unwrap();
        }
        for _ in 0..5 {
            let took = healing_time(&gate, &file);
            assert!(took < Duration::from_secs(2), "{took:?}");
            std::thread::sleep(Duration::from_millis(300));
        }
    });
}

#[test]
fn a_filesystem_that_never_answers_stops_nothing() {
    const NAME: &str = "a_filesystem_that_never_answers_stops_nothing";
    in_lab(60, |lab| {
        let dir = lab.file("tree/dir/below", "content").parent().unwrap().to_owned();
        let below = raw::openat(&dir, libc::O_PATH | libc::O_DIRECTORY).unwrap();
        let file = lab.file("tree/file", "content");
        // Root may not look at what is another user's, not even at its number.
        for (policy, owner) in [("report", 0), ("report", 1000), ("detach", 0), ("detach", 1000)] {
            let gate =
                lab.gate(&format!("[[policy]]\nname = 'p'\npaths = ['@/tree/']\nmount = '{policy}'\n"));
            let Some(fuse) = DeadFuse::mount(&dir, owner) else {
                return support::skip(NAME, "the kernel has no FUSE");
            };
            let through = PathBuf::from(format!("/proc/thread-self/fd/{}/below", below.as_raw_fd()));
            fs::set_permissions(&through, fs::Permissions::from_mode(0o600)).unwrap();
            let took = healing_time(&gate, &file);
            assert!(took < Duration::from_secs(2), "{policy}, of {owner}: {took:?}");
            refused(File::options().append(true).open(&through));
            let verdict = if policy == "detach" { "healed" } else { "detected" };
            gate.record(of(verdict, &dir));
            assert_eq!(is_mounted(&dir), policy == "report");
            let worker = gate.worker();
            gate.signal(worker, Signal::SIGKILL);
            gate.until(|| (gate.try_status()?["restarts"] == 1).then_some(()));
            healing_time(&gate, &file);
            assert_eq!(gate.status()["restarts"], 1, "no worker hung");
            drop(fuse);
            // What it hid is looked after again.
            let mode = || fs::metadata(dir.join("below")).unwrap().permissions().mode();
            gate.until(|| (mode() & 0o777 != 0o600).then_some(()));
            gate.until(|| {
                refused(File::options().append(true).open(dir.join("below")));
                let known = |record: &Value| record["verdict"] == "deny" && record["policy"] == "p";
                let records = gate.records();
                let mut denials = records.iter().filter(|record| known(record));
                denials.any(|record| record["path"].as_str() == dir.join("below").to_str()).then_some(())
            });
            drop(gate);
            fs::remove_file(lab.path("run/audit.jsonl")).unwrap();
        }
    });
}

/// Nothing can be taken from there then, and what needs nothing from there is healed.
#[test]
fn nor_does_one_over_what_the_gate_keeps() {
    const NAME: &str = "nor_does_one_over_what_the_gate_keeps";
    in_lab(60, |lab| {
        let file = lab.file("tree/file", "content");
        let state = lab.path("run/state");
        let gate = lab.protect_tree();
        let Some(_fuse) = DeadFuse::mount(&state, 0) else {
            return support::skip(NAME, "the kernel has no FUSE");
        };
        let record = gate.record(of("detected", &state));
        assert_eq!(record["access"], Value::Null, "{record:#}");
        fs::write(lab.path("tree/foreign"), "x").unwrap_err();
        fs::create_dir(lab.path("tree/foreign")).unwrap();
        for _ in 0..3 {
            healing_time(&gate, &file);
        }
        assert_eq!(gate.status()["restarts"], 0, "no worker hung");
        // The next one can keep nothing, and comes up all the same.
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGKILL);
        gate.until(|| (gate.try_status()?["restarts"] == 1).then_some(()));
        refused(File::options().append(true).open(&file));
    });
}

/// It hides nothing, and whoever has mounted it so could have what is below unlinked and gone.
#[test]
fn what_is_mounted_over_itself_is_looked_after() {
    in_lab(60, |lab| {
        let file = lab.file("tree/dir/file", "content");
        let dir = lab.path("tree/dir");
        let gate = lab.protect_tree();
        for path in [&dir, &lab.tree(), &dir] {
            lab.bind(path, path);
            gate.record(of("detected", path));
            healing_time(&gate, &file);
        }
    });
}
