//! Observe mode blocks nobody and records what enforce would have refused.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;

use libc::{O_CREAT, O_RDONLY, O_WRONLY};
use support::{Lab, in_lab, raw};

fn observe(lab: &Lab) -> support::Gate<'_> {
    lab.gate_with(&["--protect", "@/tree/", "--mode", "observe"])
}

#[test]
fn everything_passes_and_is_recorded() {
    in_lab(30, |lab| {
        let path = lab.file("tree/data", "as it was");
        let victim = lab.file("tree/victim", "");
        let gate = observe(lab);
        assert_eq!(gate.status()["mode"], "observe");
        fs::write(&path, "other").unwrap();
        raw::openat(&lab.path("tree/new"), O_CREAT | O_WRONLY).unwrap();
        fs::remove_file(&victim).unwrap();
        fs::rename(&path, lab.path("tree/moved")).unwrap();
        fs::create_dir(lab.path("tree/directory")).unwrap();
        let recorded = |path: &str, key: &str, word: &str| {
            let path = lab.path(path);
            let record =
                gate.record(|record| record["path"] == path.to_str().unwrap() && record[key] == word);
            assert_eq!(record["verdict"], "audit", "{record:#}");
            assert_eq!(record["policy"], "protect", "{record:#}");
            assert_eq!(record["subject"]["pid"], std::process::id(), "{record:#}");
        };
        recorded("tree/data", "access", "write");
        recorded("tree/new", "access", "create");
        recorded("tree/victim", "mutation", "unlink");
        recorded("tree/data", "mutation", "rename");
        recorded("tree/directory", "mutation", "mkdir");
        assert_eq!(gate.status()["denied"], 0);
    });
}

#[test]
fn reads_leave_no_record() {
    in_lab(30, |lab| {
        let path = lab.file("tree/data", "as it was");
        let gate = observe(lab);
        raw::openat(&path, O_RDONLY).unwrap();
        fs::write(lab.path("tree/last"), "").unwrap();
        gate.record(|record| record["access"] == "create");
        let records = gate.stop();
        assert!(records.iter().all(|record| record["path"] != path.to_str().unwrap()), "{records:#?}");
    });
}

/// Nobody answers anything in observe mode, so a worker that stands still stops nobody.
#[test]
fn a_stopped_worker_blocks_nobody() {
    in_lab(30, |lab| {
        let path = lab.file("tree/data", "as it was");
        let gate = observe(lab);
        let worker = gate.worker();
        gate.signal(worker, nix::sys::signal::Signal::SIGSTOP);
        let started = std::time::Instant::now();
        fs::write(&path, "other").unwrap();
        assert!(started.elapsed().as_millis() < 500);
        gate.signal(worker, nix::sys::signal::Signal::SIGCONT);
        gate.record(|record| record["access"] == "write");
    });
}
