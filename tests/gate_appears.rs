//! What a policy names before it exists, and what appears in protected trees later.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use libc::{O_CREAT, O_RDONLY, O_WRONLY};
use nix::sys::signal::Signal;
use support::{Gate, in_lab, raw, refused};

const CONTENT: &str = "as it was";

/// From some moment on `path` cannot be opened for writing; marks follow within milliseconds.
#[track_caller]
fn becomes_guarded(gate: &Gate<'_>, path: &Path) {
    gate.until(|| raw::openat(path, O_WRONLY).is_err().then_some(()));
    refused(raw::openat(path, O_WRONLY));
    raw::openat(path, O_RDONLY).expect("reads pass");
}

#[test]
fn a_file_that_is_moved_to_where_a_policy_waits() {
    in_lab(30, |lab| {
        let gate = lab.gate("[[policy]]\nname = 'one'\npaths = ['@/free/etc/app.conf']\n");
        fs::create_dir(lab.path("free/etc")).unwrap();
        let new = lab.file("free/app.new", CONTENT);
        let path = lab.path("free/etc/app.conf");
        fs::rename(new, &path).unwrap();
        becomes_guarded(&gate, &path);
        let neighbour = lab.file("free/etc/other.conf", CONTENT);
        raw::openat(&neighbour, O_WRONLY).expect("its neighbours are free");
    });
}

#[test]
fn a_file_that_does_not_exist_cannot_be_made() {
    in_lab(30, |lab| {
        let _gate = lab.gate("[[policy]]\nname = 'one'\npaths = ['@/free/app.conf']\n");
        refused(raw::openat(&lab.path("free/app.conf"), O_CREAT | O_WRONLY));
        assert!(!lab.path("free/app.conf").exists());
        raw::openat(&lab.path("free/other.conf"), O_CREAT | O_WRONLY).expect("its neighbours are free");
    });
}

#[test]
fn directories_that_are_made_where_a_policy_waits() {
    in_lab(30, |lab| {
        let gate = lab.gate("[[policy]]\nname = 'deep'\npaths = ['@/free/a/b/c/']\n");
        for name in ["free/a", "free/a/b", "free/a/b/c"] {
            fs::create_dir(lab.path(name)).unwrap();
        }
        gate.until(|| {
            let new = lab.path("free/a/b/c/new");
            let refused = raw::openat(&new, O_CREAT | O_WRONLY).is_err();
            let _ = fs::remove_file(&new);
            refused.then_some(())
        });
        assert_eq!(gate.denial(&lab.path("free/a/b/c/new"), "create")["rolled_back"], true);
    });
}

#[test]
fn a_tree_that_is_moved_to_where_a_policy_waits() {
    in_lab(30, |lab| {
        let gate = lab.gate("[[policy]]\nname = 'moved'\npaths = ['@/free/app/']\n");
        lab.file("free/new/one/two/data", CONTENT);
        fs::rename(lab.path("free/new"), lab.path("free/app")).unwrap();
        becomes_guarded(&gate, &lab.path("free/app/one/two/data"));
    });
}

#[test]
fn what_appears_in_a_protected_tree() {
    in_lab(30, |lab| {
        let gate = lab.protect_tree();
        lab.file("free/moved/below/data", CONTENT);
        fs::rename(lab.path("free/moved"), lab.path("tree/moved")).unwrap();
        // A gate that heals takes it away again; that is as good.
        gate.until(|| {
            let path = lab.path("tree/moved/below/data");
            (!path.exists() || raw::openat(&path, O_WRONLY).is_err()).then_some(())
        });
        let _ = fs::create_dir_all(lab.path("tree/made/below"));
        gate.until(|| {
            let new = lab.path("tree/made/below/new");
            let refused = raw::openat(&new, O_CREAT | O_WRONLY).is_err();
            let _ = fs::remove_file(&new);
            refused.then_some(())
        });
    });
}

/// A hard link to a protected file, made while the gate is up.
#[test]
fn a_new_link_of_a_protected_file() {
    in_lab(30, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let gate = lab.protect_tree();
        fs::hard_link(&path, lab.path("tree/second")).unwrap();
        becomes_guarded(&gate, &path);
        fs::hard_link(&path, lab.path("tree/third")).unwrap();
        gate.until(|| {
            let link = lab.path("tree/third");
            (!link.exists() || raw::openat(&link, O_WRONLY).is_err()).then_some(())
        });
    });
}

/// Of links that are made while nobody looks the kernel tells as one, and not where they are.
#[test]
fn links_that_are_made_faster_than_they_are_told_of() {
    in_lab(60, |lab| {
        let (many, moved) = (lab.file("tree/many", CONTENT), lab.file("tree/moved", CONTENT));
        lab.file("tree/before", CONTENT);
        let before = lab.path("free/before");
        fs::hard_link(lab.path("tree/before"), &before).unwrap();
        let gate = lab.protect_tree();
        let worker = gate.worker();
        gate.signal(worker, Signal::SIGSTOP);
        for n in 0..10 {
            fs::hard_link(&many, lab.path(&format!("free/{n}"))).unwrap();
        }
        fs::hard_link(&moved, lab.path("free/moved")).unwrap();
        fs::remove_file(&moved).unwrap();
        fs::hard_link(&before, lab.path("free/after")).unwrap();
        gate.signal(worker, Signal::SIGCONT);
        gate.until(|| (fs::read_dir(lab.path("free")).unwrap().count() == 1 && moved.exists()).then_some(()));
        assert!(before.exists(), "a name from before the start is nobody's to take away");
        gate.record(|record| record["mutation"] == "unlink" && record["path"] == *moved.to_string_lossy());

        // The kernel goes on telling of a name that is held, and not of the one behind it.
        gate.signal(worker, Signal::SIGSTOP);
        fs::hard_link(&many, lab.path("free/hidden")).unwrap();
        fs::hard_link(&many, lab.path("free/held")).unwrap();
        let held = fs::File::options().read(true).custom_flags(libc::O_PATH).open(lab.path("free/held"));
        gate.signal(worker, Signal::SIGCONT);
        gate.until(|| (!lab.path("free/held").exists()).then_some(()));
        gate.until(|| {
            let told = |record: &serde_json::Value| {
                record["verdict"] == "detected" && record["reason"].to_string().contains("further names")
            };
            (!lab.path("free/hidden").exists() || gate.records().iter().any(told)).then_some(())
        });
        assert!(raw::openat(&lab.path("free/hidden"), O_WRONLY).is_err(), "it is guarded");
        drop(held);
    });
}
