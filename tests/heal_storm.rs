//! Thousands of changes at once, and a worker that dies meanwhile: afterwards everything is as it was.
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::look::{Inodes, Look, contents, differences, look};
use support::{Gate, Lab, actor, in_lab};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/storm.c");
const INTRUDERS: u32 = 4;
const CHANGES: u32 = 10_000;
const KILLS: u32 = 5;
const DIRECTORIES: usize = 20;
const FILES: usize = 20;
/// A path that was fought for is looked at again after two seconds at most; a scan and a look of the patrol follow.
const QUIET_WITHIN: Duration = Duration::from_secs(20);
/// The tree must not only be right for a moment.
const STAYS_FOR: Duration = Duration::from_secs(1);

fn tree(lab: &Lab) {
    for directory in 0..DIRECTORIES {
        for file in 0..FILES {
            lab.file(&format!("tree/d{directory}/f{file}"), &format!("{directory} {file}\n"));
        }
        symlink("f0", lab.path(&format!("tree/d{directory}/link"))).unwrap();
    }
}

fn intruders(lab: &Lab) -> Vec<Child> {
    let program = lab.path("free/storm");
    actor::compile(Path::new(SOURCE), &program, &[]);
    fs::create_dir(lab.path("free/out")).unwrap();
    let start = |seed: u32| {
        let mut command = Command::new(&program);
        command.args([lab.tree(), lab.path("free/out")]);
        command.args([seed.to_string(), (CHANGES / INTRUDERS).to_string()]);
        command.spawn().expect("an intruder")
    };
    (1..=INTRUDERS).map(start).collect()
}

/// Waits until the tree is what it was, and has been for a while.
fn settled(gate: &Gate<'_>, lab: &Lab, before: &Look) -> Duration {
    let started = Instant::now();
    let mut right_since = None;
    loop {
        let now = look(&lab.tree(), Inodes::OfFiles);
        let right = now == *before;
        right_since = if right { right_since.or_else(|| Some(Instant::now())) } else { None };
        if right_since.is_some_and(|since| since.elapsed() >= STAYS_FOR) {
            return started.elapsed();
        }
        if started.elapsed() > QUIET_WITHIN {
            let left = differences(before, &now);
            let of =
                |record: &&Value| left.iter().any(|one| one.contains(record["path"].as_str().unwrap_or("?")));
            let records = gate.records();
            let last: Vec<_> = records.iter().rev().filter(of).take(5).collect();
            panic!("{} differences:\n{}\n{last:#?}", left.len(), left[..left.len().min(20)].join("\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the trail says was put into the quarantine is there, or dropped from it, which the trail says too.
fn is_accounted_for(lab: &Lab, records: &[Value]) {
    let details = records.iter().filter_map(|record| record["reason"].as_str());
    let dropped: BTreeSet<_> = details
        .filter_map(|detail| detail.split_once("dropped: "))
        .flat_map(|(_, ids)| ids.split(';').next().unwrap_or_default().split(' '))
        .collect();
    let notes = lab.path("run/state/quarantine");
    let taken = records.iter().filter_map(|record| record["response"]["quarantine"].as_str());
    let taken: BTreeSet<_> = taken.collect();
    eprintln!("{} things in quarantine, {} of them dropped", taken.len(), dropped.len());
    assert!(!taken.is_empty());
    let lost: Vec<_> = taken
        .iter()
        .filter(|id| !dropped.contains(**id) && !notes.join(format!("{id}.json")).exists())
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn ten_thousand_changes_and_five_dead_workers() {
    in_lab(110, |lab| {
        tree(lab);
        let before = look(&lab.tree(), Inodes::OfFiles);
        let content = contents(&before);
        let gate = lab.protect_tree();
        let started = Instant::now();
        let mut intruders = intruders(lab);
        for _ in 0..KILLS {
            std::thread::sleep(Duration::from_millis(150));
            let worker = gate.worker();
            gate.signal(worker, Signal::SIGKILL);
            gate.until(|| (gate.try_status()?["worker_pid"] != worker).then_some(()));
        }
        assert!(intruders[0].try_wait().unwrap().is_none(), "it ended before the last worker died");
        for intruder in &mut intruders {
            assert!(intruder.wait().unwrap().success());
        }
        let took = started.elapsed();
        let quiet = settled(&gate, lab, &before);
        eprintln!("{CHANGES} changes in {took:?}, everything as before after another {quiet:?}");
        assert_eq!(contents(&look(&lab.tree(), Inodes::OfFiles)), content);
        assert_eq!(gate.status()["restarts"], KILLS);
        is_accounted_for(lab, &gate.stop());
    });
}

/// Somebody who deletes a file again and again is put off, and the record says so.
#[test]
fn a_fight_is_recorded_and_ends() {
    in_lab(60, |lab| {
        let path = lab.file("tree/d/file", "as it was");
        let before = look(&lab.tree(), Inodes::OfFiles);
        let gate = lab.protect_tree();
        let until = Instant::now() + Duration::from_secs(3);
        let mut deleted = 0;
        while Instant::now() < until {
            deleted += u32::from(fs::remove_file(&path).is_ok());
        }
        settled(&gate, lab, &before);
        let records = gate.stop();
        let is = |record: &&Value, verdict| {
            record["verdict"] == verdict && record["path"] == path.to_str().unwrap()
        };
        let fights = records.iter().filter(|record| is(record, "detected"));
        let fights: Vec<_> = fights
            .filter(|record| record["reason"].as_str().is_some_and(|d| d.contains("a fight")))
            .collect();
        let healed = records.iter().filter(|record| is(record, "healed")).count();
        eprintln!("deleted {deleted} times, put back {healed} times");
        assert_eq!(fights.len(), 1, "{fights:#?}");
        // Twenty times as fast as it can, then with pauses that grow to two seconds.
        assert!(healed < 40 && healed > 20, "put back {healed} times");
    });
}
