//! Every way to open a protected file for writing is refused, and every way to read it passes.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use io_uring::squeue::Flags;
use serde_json::Value;
use support::attacks::{Attack, CHANGES, CREATES, Gain};
use support::raw::{self, OpenHow};
use support::{in_lab, refused};

const CONTENT: &str = "as it was";

/// Without a gate the attack must succeed, or its refusal proves nothing.
fn works_without_a_gate(attack: &Attack, path: &Path) {
    attack.run(path).unwrap_or_else(|error| panic!("{}: {error}", attack.name));
    let after = fs::read_to_string(path).unwrap();
    match attack.gain {
        Gain::Descriptor => assert!(after.contains("evil"), "{}: {after}", attack.name),
        Gain::Emptied => assert_eq!(after, "", "{}", attack.name),
        Gain::Control | Gain::NewFile => {}
    }
}

/// The record of `attack` says what there is to know of it.
fn describes(record: &Value, attack: &Attack, path: &Path) {
    let name = attack.name;
    assert_eq!(record["path"], path.to_str().unwrap(), "{name}");
    assert_eq!(record["policy"], "protect", "{name}");
    assert_eq!(record["access"], attack.access, "{name}: {record:#}");
    assert_eq!(record["syscall"], attack.syscall, "{name}: {record:#}");
    assert_eq!(record["flags"].as_str(), attack.flags, "{name}");
    let subject = &record["subject"];
    assert_eq!(subject["pid"], std::process::id(), "{name}: {subject:#}");
    assert_eq!(subject["uid"], 0, "{name}");
    assert_eq!(Path::new(subject["exe"].as_str().unwrap()), std::env::current_exe().unwrap(), "{name}");
    let arguments: Vec<_> = std::env::args().collect();
    assert_eq!(subject["cmdline"], arguments.join(" "), "{name}");
    assert!(record["latency_us"].as_f64().unwrap() > 0.0, "{name}");
    assert!(record["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{name}");
}

#[test]
fn every_open_that_changes_a_file_is_refused() {
    in_lab(60, |lab| {
        for (index, attack) in CHANGES.iter().enumerate() {
            works_without_a_gate(attack, &lab.file(&format!("free/{index}"), CONTENT));
            lab.file(&format!("tree/{index}"), CONTENT);
        }
        let before = lab.contents();
        let gate = lab.protect_tree();
        for (index, attack) in CHANGES.iter().enumerate() {
            let path = lab.tree().join(index.to_string());
            eprintln!("{}", attack.name);
            refused(attack.run(&path));
            describes(&gate.denial(&path, attack.access), attack, &path);
        }
        assert_eq!(lab.contents(), before);
        gate.has_denied(CHANGES.len());
        assert_eq!(gate.stop().iter().filter(|record| record["verdict"] == "deny").count(), CHANGES.len());
    });
}

#[test]
fn every_open_that_makes_a_file_is_refused_and_leaves_none() {
    in_lab(60, |lab| {
        for (index, attack) in CREATES.iter().enumerate() {
            works_without_a_gate(attack, &lab.path(&format!("free/{index}")));
        }
        fs::create_dir(lab.path("tree/below")).unwrap();
        let before = lab.contents();
        let gate = lab.protect_tree();
        for (index, attack) in CREATES.iter().enumerate() {
            let path = lab.path("tree/below").join(index.to_string());
            eprintln!("{}", attack.name);
            refused(attack.run(&path));
            assert!(fs::symlink_metadata(&path).is_err(), "{}: the file stayed", attack.name);
            let record = gate.denial(&path, attack.access);
            describes(&record, attack, &path);
            assert_eq!(record["rolled_back"], true, "{}", attack.name);
        }
        // Only the directory's own time may have moved.
        let names = |contents: support::Contents| contents.into_keys().collect::<Vec<_>>();
        assert_eq!(names(lab.contents()), names(before));
    });
}

#[test]
fn a_file_without_a_name_is_refused() {
    in_lab(30, |lab| {
        let flags = libc::O_TMPFILE | libc::O_RDWR;
        raw::openat(&lab.path("free"), flags).expect("works without a gate");
        let gate = lab.protect_tree();
        refused(raw::openat(&lab.tree(), flags));
        refused(raw::openat2(&lab.tree(), flags));
        refused(raw::open_uring(&lab.tree(), flags, Flags::empty()));
        gate.has_denied(3);
        let record = gate.record(|record| record["verdict"] == "deny");
        assert_eq!(record["access"], "create", "{record:#}");
        assert_eq!(record["flags"], "O_RDWR|O_TMPFILE", "{record:#}");
        assert!(Path::new(record["path"].as_str().unwrap()).starts_with(lab.tree()), "{record:#}");
        assert!(record.get("rolled_back").is_none(), "there is no name to take back: {record:#}");
    });
}

#[test]
fn touch_says_what_everybody_expects() {
    in_lab(30, |lab| {
        let gate = lab.protect_tree();
        let path = lab.path("tree/new");
        let done = Command::new("touch").arg(&path).env("LC_ALL", "C").output().unwrap();
        let expected = format!("touch: cannot touch '{}': Operation not permitted\n", path.display());
        assert_eq!(String::from_utf8_lossy(&done.stderr), expected);
        assert_eq!(done.status.code(), Some(1));
        assert!(!path.exists());
        let record = gate.denial(&path, "create");
        assert_eq!(record["subject"]["cmdline"], format!("touch {}", path.display()));
        assert_eq!(record["subject"]["comm"], "touch");
        assert_eq!(record["subject"]["ppid"], std::process::id());
        assert_eq!(record["rolled_back"], true);
    });
}

#[test]
fn every_read_passes_and_leaves_no_record() {
    in_lab(30, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let program = lab.path("tree/true");
        fs::copy("/bin/true", &program).unwrap();
        let gate = lab.protect_tree();
        let reads: &[(&str, &dyn Fn() -> io::Result<std::os::fd::OwnedFd>)] = &[
            ("open", &|| raw::open(&path, libc::O_RDONLY)),
            ("openat", &|| raw::openat(&path, libc::O_RDONLY | libc::O_CLOEXEC)),
            ("O_RDONLY|O_CREAT", &|| raw::openat(&path, libc::O_RDONLY | libc::O_CREAT)),
            ("openat2", &|| raw::openat2(&path, libc::O_RDONLY)),
            ("openat2 O_CREAT", &|| raw::openat2(&path, libc::O_RDONLY | libc::O_CREAT)),
            ("open_by_handle_at", &|| raw::open_by_handle(&path, libc::O_RDONLY)),
            ("/proc/self/fd", &|| raw::reopen(&path, libc::O_PATH, libc::O_RDONLY)),
            ("int 0x80", &|| raw::open_i386(&path, libc::O_RDONLY)),
            ("io_uring", &|| raw::open_uring(&path, libc::O_RDONLY, Flags::empty())),
            ("io_uring async", &|| raw::open_uring(&path, libc::O_RDONLY, Flags::ASYNC)),
        ];
        for (name, read) in reads {
            let file = read().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(io::read_to_string(fs::File::from(file)).unwrap(), CONTENT, "{name}");
        }
        assert!(Command::new(&program).status().unwrap().success());
        let status = gate.status();
        assert!(status["allowed"].as_u64().unwrap() > reads.len() as u64, "the gate saw them: {status}");
        assert_eq!(status["denied"], 0);
        let kinds: Vec<_> = gate.stop().iter().map(|record| record["verdict"].to_string()).collect();
        assert_eq!(kinds, ["\"started\"", "\"stopped\""]);
    });
}

/// A thread that changes the flags while the opener waits: the kernel has its copy, the gate has not.
#[test]
fn flags_that_change_under_the_gate_let_nothing_through() {
    in_lab(60, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let before = lab.contents();
        let gate = lab.protect_tree();
        let how = OpenHow { flags: libc::O_WRONLY as u64, ..OpenHow::default() };
        let flags = AtomicU64::new(0);
        let over = AtomicBool::new(false);
        let (mut opened, mut denied) = (0u32, 0u32);
        // SAFETY: the struct lives as long as the scope below and is only touched through this atomic.
        let shared = unsafe { AtomicU64::from_ptr((&raw const how.flags).cast_mut()) };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    shared.store(libc::O_WRONLY as u64, Ordering::Relaxed);
                    flags.fetch_add(1, Ordering::Relaxed);
                    shared.store(libc::O_RDONLY as u64, Ordering::Relaxed);
                }
            });
            // Also when it panics.
            let _end = support::Finally(&over);
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                match raw::openat2_at(&path, &raw const how) {
                    Ok(file) => {
                        use io::Write as _;
                        opened += 1;
                        // A reader's descriptor does not take it.
                        assert!(fs::File::from(file).write_all(b"evil").is_err(), "a writer was let through");
                    }
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                        denied += 1;
                    }
                }
            }
        });
        eprintln!("{opened} opens passed as reads, {denied} were refused");
        assert!(opened > 0 && denied > 0, "the race must have been run from both sides");
        assert_eq!(lab.contents(), before);
        drop(gate);
    });
}
