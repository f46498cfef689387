//! `chattr +i` and `+a`: no event tells, but the kernel says who has used the capability for it.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use support::{Lab, actor, in_lab, skip};
use writegate::sys::checks::Checks;
use writegate::sys::inode;

/// A second patrol has come by, after the time for which writers are left alone.
const PATROLLED: Duration = Duration::from_secs(4);

/// Whether the kernel tells; else the patrol finds it, which other tests see.
fn is_told(test: &str) -> bool {
    let told = Checks::listen();
    if let Err(error) = &told {
        skip(test, &format!("the kernel does not tell who uses a capability: {error}"));
    }
    told.is_ok()
}

fn flags(path: &Path) -> u32 {
    inode::of_fd(fs::File::open(path).unwrap().as_fd()).unwrap().flags
}

fn chattr(program: &Path, path: &Path) -> u32 {
    let mut child = Command::new(program).arg("chattr").arg(path).stdout(Stdio::piped()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    child.id()
}

fn stranger(lab: &Lab) -> PathBuf {
    let stranger = lab.path("free/stranger");
    actor::build(&stranger, &[]);
    stranger
}

#[test]
fn whoever_sets_a_flag_is_named_and_it_is_cleared() {
    in_lab(60, |lab| {
        if !is_told("whoever_sets_a_flag_is_named_and_it_is_cleared") {
            return;
        }
        let stranger = stranger(lab);
        lab.file("tree/dir/file", "file");
        for number in 0..500 {
            lab.file(&format!("tree/other/{number}"), "other");
        }
        let gate = lab.protect_tree();
        for name in ["tree/dir/file", "tree/dir"] {
            let path = lab.path(name);
            let pid = chattr(&stranger, &path);
            let started = Instant::now();
            gate.until(|| (flags(&path) & inode::FLAG_APPEND == 0).then_some(()));
            // The patrol would take longer: this is a look at what somebody has just done.
            assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
            let record = gate.record(|record| record["path"].as_str() == path.to_str());
            assert_eq!((&record["verdict"], &record["mutation"]), (&"healed".into(), &"chattr".into()));
            assert_eq!(record["subject"]["pid"], pid, "{record}");
        }
    });
}

#[test]
fn what_flags_a_writer_sets_stay() {
    in_lab(60, |lab| {
        if !is_told("what_flags_a_writer_sets_stay") {
            return;
        }
        let writer = lab.path("tree/writer");
        actor::build(&writer, &[]);
        let file = lab.file("tree/file", "file");
        let gate = lab.gate(
            "[[policy]]\nname = 'p'\npaths = ['@/tree/']\nwriters = ['w']\n\
             [[writer]]\nname = 'w'\nexe = ['@/tree/writer']\n",
        );
        chattr(&writer, &file);
        std::thread::sleep(PATROLLED);
        assert_ne!(flags(&file) & inode::FLAG_APPEND, 0);
        // And it is what is put back from then on.
        inode::set_flags(fs::File::open(&file).unwrap().as_fd(), 0).unwrap();
        gate.until(|| (flags(&file) & inode::FLAG_APPEND != 0).then_some(()));
        drop(gate);
        inode::set_flags(fs::File::open(&file).unwrap().as_fd(), 0).unwrap();
    });
}

#[test]
fn whoever_sets_flags_all_the_time_keeps_nobody_from_healing() {
    in_lab(60, |lab| {
        let mine = lab.file("free/mine", "mine");
        let files: Vec<_> = (0..20).map(|number| lab.file(&format!("tree/{number}"), "file")).collect();
        let gate = lab.protect_tree();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mine = fs::File::open(&mine).unwrap();
                while !over.load(Relaxed) {
                    inode::set_flags(mine.as_fd(), inode::FLAG_IMMUTABLE).unwrap();
                    inode::set_flags(mine.as_fd(), 0).unwrap();
                }
            });
            let _end = support::Finally(&over);
            for file in &files {
                std::thread::sleep(Duration::from_millis(50));
                fs::remove_file(file).unwrap();
                let started = Instant::now();
                gate.until(|| file.exists().then_some(()));
                assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
            }
        });
    });
}

/// As chattr -R does: more than can be remembered, and closed again at once.
#[test]
fn flags_of_a_whole_tree_are_cleared() {
    in_lab(60, |lab| {
        if !is_told("flags_of_a_whole_tree_are_cleared") {
            return;
        }
        let files: Vec<_> = (0..300).map(|number| lab.file(&format!("tree/{number}"), "file")).collect();
        let gate = lab.protect_tree();
        for file in &files {
            inode::set_flags(fs::File::open(file).unwrap().as_fd(), inode::FLAG_APPEND).unwrap();
        }
        let started = Instant::now();
        gate.until(|| files.iter().all(|file| flags(file) & inode::FLAG_APPEND == 0).then_some(()));
        eprintln!("all cleared after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    });
}
