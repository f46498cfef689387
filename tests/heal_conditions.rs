//! Filesystems that are full or read-only, a state directory that goes away, very many files, very long paths: each
//! ends with a record, and nothing hangs.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sys::signal::Signal;
use serde_json::Value;
use support::look::{Inodes, look};
use support::{Gate, Lab, in_lab, raw, refused};

const CONTENT: &str = "as it was";
/// A gate that failed to put something right must not say so in every round of the patrol.
const RECORDS_MAX: usize = 2;

/// A filesystem of its own with a tree on it, and a gate.
fn small(lab: &Lab, options: &str) -> PathBuf {
    fs::create_dir(lab.path("fs")).unwrap();
    let target = lab.path("fs");
    nix::mount::mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
    fs::create_dir(lab.path("fs/tree")).unwrap();
    lab.file("fs/tree/file", CONTENT);
    lab.file("fs/tree/other", CONTENT);
    target
}

fn gate(lab: &Lab) -> Gate<'_> {
    lab.gate_with(&["--protect", "@/fs/tree/"])
}

fn of<'a>(records: &'a [Value], verdict: &str, path: &Path) -> Vec<&'a Value> {
    let path = path.to_str().unwrap();
    records.iter().filter(|record| record["verdict"] == verdict && record["path"] == path).collect()
}

/// It answers, opens are judged, and something that can be healed is.
fn is_alive(gate: &Gate<'_>, file: &Path) {
    assert_eq!(gate.status()["ready"], true);
    assert_eq!(fs::read_to_string(file).unwrap(), CONTENT);
    refused(raw::openat(file, libc::O_WRONLY));
}

#[test]
fn a_full_filesystem() {
    in_lab(60, |lab| {
        let top = small(lab, "size=256k");
        let mut filler = File::create(top.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        let gate = gate(lab);
        let path = lab.path("fs/tree/file");
        // A link needs no block.
        let before = look(&lab.path("fs/tree"), Inodes::OfFiles);
        fs::remove_file(&path).unwrap();
        gate.until(|| (look(&lab.path("fs/tree"), Inodes::OfFiles) == before).then_some(()));
        is_alive(&gate, &path);
    });
}

#[test]
fn a_filesystem_without_room_for_a_vault() {
    in_lab(60, |lab| {
        // The root, the tree, two files: no inode is left.
        small(lab, "size=256k,nr_inodes=5");
        let gate = gate(lab);
        let (path, other) = (lab.path("fs/tree/file"), lab.path("fs/tree/other"));
        fs::remove_file(&path).unwrap();
        let record = gate.record(|record| !of(std::slice::from_ref(record), "detected", &path).is_empty());
        assert!(record["reason"].as_str().unwrap().contains("not put back"), "{record:#}");
        is_alive(&gate, &other);
        std::thread::sleep(Duration::from_secs(3));
        let count = of(&gate.records(), "detected", &path).len();
        assert!(count <= RECORDS_MAX, "{count} records of one loss");
    });
}

#[test]
fn a_filesystem_that_becomes_read_only() {
    in_lab(60, |lab| {
        let top = small(lab, "size=1m");
        let gate = gate(lab);
        let (path, other) = (lab.path("fs/tree/file"), lab.path("fs/tree/other"));
        let before = look(&lab.path("fs/tree"), Inodes::OfFiles);
        let remount = |flags| {
            let none = None::<&str>;
            nix::mount::mount(none, &top, none, MsFlags::MS_REMOUNT | flags, none).unwrap();
        };
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGSTOP);
        fs::remove_file(&path).unwrap();
        remount(MsFlags::MS_RDONLY);
        gate.signal(worker, Signal::SIGCONT);
        let record = gate.record(|record| !of(std::slice::from_ref(record), "detected", &path).is_empty());
        assert!(record["reason"].as_str().unwrap().contains("read-only"), "{record:#}");
        assert_eq!(fs::read_to_string(&other).unwrap(), CONTENT);
        std::thread::sleep(Duration::from_secs(3));
        let count = of(&gate.records(), "detected", &path).len();
        assert!(count <= RECORDS_MAX, "{count} records of one loss");
        remount(MsFlags::empty());
        gate.until(|| (look(&lab.path("fs/tree"), Inodes::OfFiles) == before).then_some(()));
        is_alive(&gate, &path);
    });
}

#[test]
fn a_state_directory_that_is_removed() {
    in_lab(60, |lab| {
        let path = lab.file("tree/file", CONTENT);
        let before = look(&lab.tree(), Inodes::OfFiles);
        let gate = lab.protect_tree();
        fs::remove_dir_all(lab.path("run/state")).unwrap_or_default();
        // It is made again, and what is still there is held again.
        gate.until(|| lab.path("run/state/vault").exists().then_some(()));
        std::thread::sleep(Duration::from_secs(2));
        fs::remove_file(&path).unwrap();
        gate.until(|| (look(&lab.tree(), Inodes::OfFiles) == before).then_some(()));
        fs::create_dir(lab.path("tree/new")).unwrap();
        gate.until(|| (look(&lab.tree(), Inodes::OfFiles) == before).then_some(()));
        is_alive(&gate, &path);
    });
}

#[test]
fn a_state_directory_that_cannot_be_made() {
    in_lab(60, |lab| {
        let path = lab.file("tree/file", CONTENT);
        lab.file("run/state", "a file");
        let gate = lab.protect_tree();
        is_alive(&gate, &path);
        let says = |record: &Value| {
            record["reason"].as_str().is_some_and(|why| why.contains("nothing can be put back"))
        };
        gate.record(says);
    });
}

#[test]
fn a_hundred_thousand_files() {
    const DIRECTORIES: usize = 100;
    const FILES: usize = 1000;
    const KNOWN_WITHIN: Duration = Duration::from_secs(80);
    in_lab(120, |lab| {
        small(lab, "size=2g");
        let tree = lab.path("fs/tree");
        for directory in 0..DIRECTORIES {
            let directory = tree.join(format!("d{directory}"));
            fs::create_dir(&directory).unwrap();
            for file in 0..FILES {
                fs::write(directory.join(format!("f{file}")), CONTENT).unwrap();
            }
        }
        let started = Instant::now();
        let gate = gate(lab);
        let ready = started.elapsed();
        // Each is held by a link, behind the start.
        let instance = fs::read_to_string(lab.path("run/state/instance")).unwrap();
        let vault = lab.path("fs").join(format!(".writegate-vault-{instance}"));
        let all = DIRECTORIES * FILES;
        let is_link = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("l-");
        let held = || fs::read_dir(&vault).map_or(0, |found| found.flatten().filter(is_link).count());
        while held() < all {
            assert!(started.elapsed() < KNOWN_WITHIN, "{} are held", held());
            std::thread::sleep(Duration::from_millis(100));
        }
        // The first, the last, and one between.
        for name in ["d0/f0", "d99/f999", "d57/f500"] {
            let path = tree.join(name);
            let inode = raw::inode(&path);
            fs::remove_file(&path).unwrap();
            gate.until(|| (raw::inode(&path) == inode).then_some(()));
        }
        eprintln!("ready after {ready:?}, all known after {:?}", started.elapsed());
        is_alive(&gate, &tree.join("d0/f0"));
    });
}

/// Beyond 4,096 bytes no path names it: nothing can be put back there, and nothing stumbles over it.
#[test]
fn paths_that_are_too_long() {
    in_lab(60, |lab| {
        let path = lab.file("tree/file", CONTENT);
        let name = "d".repeat(250);
        std::thread::scope(|scope| {
            let deep = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
                std::env::set_current_dir(lab.tree()).unwrap();
                for _ in 0..20 {
                    fs::create_dir(&name).unwrap();
                    std::env::set_current_dir(&name).unwrap();
                }
                fs::write("file", CONTENT).unwrap();
                let gate = lab.protect_tree();
                let _ = File::options().write(true).open("file");
                let _ = fs::remove_file("file");
                let _ = fs::create_dir("new");
                std::thread::sleep(Duration::from_secs(1));
                is_alive(&gate, &path);
                fs::remove_file(&path).unwrap();
                gate.until(|| path.exists().then_some(()));
                gate.stop();
            });
            deep.join().unwrap();
        });
    });
}
