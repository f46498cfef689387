//! Many openers, slow disks, leases, openers that vanish.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use libc::{O_RDONLY, O_WRONLY};
use support::{in_lab, raw, refused};
use writegate::sys::inode;

const CONTENT: &str = "as it was";
/// Longer than any verdict, much shorter than anything that hangs.
const PROMPT: Duration = Duration::from_secs(2);
/// More than there are records under way.
const OPENS: u64 = 2000;

fn run(command: &str, arguments: &[&str]) {
    let done = Command::new(command).args(arguments).output().expect("the tool runs");
    assert!(done.status.success(), "{command} {arguments:?}: {done:?}");
}

fn flags_of(opener: usize) -> i32 {
    if opener.is_multiple_of(2) { O_RDONLY } else { O_WRONLY }
}

#[test]
fn a_thousand_openers_at_once() {
    in_lab(120, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let before = lab.contents();
        let gate = lab.protect_tree();
        let (path, start) = (&path, &Barrier::new(1000));
        let results: Vec<_> = std::thread::scope(|scope| {
            let open = |index: usize| {
                move || {
                    start.wait();
                    let started = Instant::now();
                    let result = raw::openat(path, flags_of(index));
                    (index, result.map(drop).map_err(|error| error.raw_os_error()), started.elapsed())
                }
            };
            let threads: Vec<_> = (0..1000)
                .map(|index| {
                    std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, open(index))
                })
                .collect();
            threads.into_iter().map(|thread| thread.unwrap().join().unwrap()).collect()
        });
        for (index, result, _) in &results {
            let expected = if flags_of(*index) == O_RDONLY { Ok(()) } else { Err(Some(libc::EPERM)) };
            assert_eq!(*result, expected, "opener {index}");
        }
        let longest = results.iter().map(|(.., waited)| *waited).max().unwrap();
        eprintln!("the last of 1,000 openers waited {longest:?}");
        gate.has_denied(500);
        assert_eq!(lab.contents(), before);
        let status = gate.status();
        let buckets = status["latency"]["buckets"].as_array().unwrap();
        let timed: u64 = buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
        assert_eq!(timed, status["events"], "every event is timed once");
        assert!(status["latency"]["p50_ns"].as_u64() <= status["latency"]["p99_ns"].as_u64());
        // What the log did not take is counted.
        let count = |verdict: &str, records: &[serde_json::Value]| -> u64 {
            records
                .iter()
                .filter(|record| record["verdict"] == verdict)
                .map(|record| record["count"].as_u64().unwrap_or(1))
                .sum()
        };
        let records = gate.stop();
        assert_eq!(count("deny", &records) + count("lost", &records), 500);
    });
}

/// The trail lies on a filesystem that stands still: openers do not, and what the trail lost it says.
#[test]
fn a_frozen_disk_under_the_log() {
    in_lab(120, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let image = lab.path("free/image");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let (image, disk) = (image.to_str().unwrap(), lab.here("@/disk"));
        fs::create_dir(&disk).unwrap();
        run("mkfs.ext4", &["-q", image]);
        run("mount", &["-o", "loop", image, &disk]);
        let gate = lab.gate_with(&["--protect", "@/tree/", "--audit-log", "@/disk/log/audit.jsonl"]);
        refused(raw::openat(&path, O_WRONLY));
        run("fsfreeze", &["-f", &disk]);
        let mut longest = Duration::ZERO;
        let frozen = Instant::now();
        for _ in 0..OPENS {
            let started = Instant::now();
            refused(raw::openat(&path, O_WRONLY));
            longest = longest.max(started.elapsed());
        }
        let lasted = frozen.elapsed();
        std::thread::sleep(Duration::from_secs(3).saturating_sub(lasted));
        run("fsfreeze", &["-u", &disk]);
        eprintln!("{OPENS} openers in {lasted:?}, the slowest {longest:?}");
        assert!(longest < PROMPT, "an opener waited {longest:?} for the disk");
        let lost = gate.status()["lost"].as_u64().unwrap();
        assert!(lost > 0, "the frozen disk was not felt");
        let read = || {
            let text = fs::read_to_string(lab.path("disk/log/audit.jsonl")).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            lines.collect::<Vec<_>>()
        };
        let told = gate.until(|| {
            let told: u64 =
                read().iter().filter(|r| r["verdict"] == "lost").filter_map(|r| r["count"].as_u64()).sum();
            (told >= lost).then_some(told)
        });
        gate.stop();
        let denied = read().iter().filter(|record| record["verdict"] == "deny").count() as u64;
        assert_eq!(denied + told, OPENS + 1, "every denial is recorded or counted as lost");
        run("umount", &[&disk]);
    });
}

#[test]
fn a_log_in_the_protected_tree() {
    in_lab(30, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let gate = lab.gate_with(&["--protect", "@/tree/", "--audit-log", "@/tree/log/audit.jsonl"]);
        for _ in 0..50 {
            refused(raw::openat(&path, O_WRONLY));
        }
        let log = lab.path("tree/log/audit.jsonl");
        refused(raw::openat(&log, O_WRONLY));
        gate.until(|| {
            let text = fs::read_to_string(&log).unwrap();
            (text.matches("\"verdict\":\"deny\"").count() >= 51).then_some(())
        });
        // A rotated log is opened anew, in the tree.
        fs::rename(&log, lab.path("tree/log/audit.jsonl.1")).unwrap();
        gate.until(|| log.exists().then_some(()));
        refused(raw::openat(&log, O_WRONLY));
    });
}

/// The kernel opens the file for the gate inside the gate's read: another's lease must not stall it.
#[test]
fn a_write_lease_on_a_protected_file() {
    in_lab(60, |lab| {
        let leased = lab.file("tree/leased", CONTENT);
        let other = lab.file("tree/other", CONTENT);
        // Breaking a lease sends a signal whose default action is death.
        // SAFETY: signal(2) with SIG_IGN installs no code.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let holder = File::open(&leased).unwrap();
        raw::set_lease(&holder, libc::F_WRLCK).expect("a lease");
        let gate = lab.protect_tree();
        for (path, flags) in
            [(&leased, O_RDONLY), (&leased, O_WRONLY), (&other, O_RDONLY), (&other, O_WRONLY)]
        {
            let started = Instant::now();
            let result = raw::openat(path, flags | libc::O_NONBLOCK);
            let waited = started.elapsed();
            eprintln!("{} {flags}: {result:?} after {waited:?}", path.display());
            assert!(waited < PROMPT, "{waited:?}");
            assert!(flags == O_RDONLY || result.is_err(), "a write got through");
            assert!(
                path == &leased || flags == O_WRONLY || result.is_ok(),
                "another file's reader was refused"
            );
        }
        raw::set_lease(&holder, libc::F_UNLCK).unwrap();
        raw::openat(&leased, O_RDONLY).expect("without the lease all is well");
        refused(raw::openat(&leased, O_WRONLY));
        drop(gate);
        assert_eq!(fs::read_to_string(&leased).unwrap(), CONTENT);
    });
}

/// Nobody can open what somebody holds a lease on without his leave, the gate neither.
#[test]
fn a_lease_keeps_no_wrong_mode_and_makes_no_noise() {
    in_lab(60, |lab| {
        let leased = lab.file("tree/leased", CONTENT);
        let name = raw::cstr(&leased);
        if inode::set_flags_unopened(&name, 0).is_err() {
            return eprintln!("this kernel sets flags of open files only");
        }
        // SAFETY: signal(2) with SIG_IGN installs no code.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let gate = lab.protect_tree();
        let right = inode::of_path(&name).unwrap().mode;
        let holder = File::open(&leased).unwrap();
        raw::set_lease(&holder, libc::F_WRLCK).expect("a lease");
        holder.set_permissions(PermissionsExt::from_mode(0o6777)).unwrap();
        inode::set_flags_unopened(&name, inode::FLAG_IMMUTABLE).unwrap();
        gate.until(|| {
            let now = inode::of_path(&name).unwrap();
            (now.mode == right && now.flags == 0).then_some(())
        });
        // The patrol goes on looking at what is in it.
        std::thread::sleep(Duration::from_secs(1));
        let noise = |record: &&serde_json::Value| record["verdict"] == "deny";
        assert_eq!(gate.records().iter().find(noise), None);
    });
}

#[test]
fn openers_that_vanish() {
    in_lab(60, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let gate = lab.protect_tree();
        for round in 0..150 {
            let script = format!("while :; do : <>{0}; : <{0}; done", path.display());
            let mut child = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(500 + round * 37));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let started = Instant::now();
        refused(raw::openat(&path, O_WRONLY));
        raw::openat(&path, O_RDONLY).unwrap();
        assert!(started.elapsed() < PROMPT);
        assert_eq!(fs::read_to_string(&path).unwrap(), CONTENT);
        assert_eq!(gate.status()["restarts"], 0);
    });
}
