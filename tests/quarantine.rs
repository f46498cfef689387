//! `writegate quarantine` on what a real gate took away.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{Gate, Lab, in_lab};
use writegate::audit::text::Hex;

/// `writegate quarantine ARGUMENTS` on the state of the lab's gate.
fn quarantine(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_writegate"));
    command.arg("quarantine").args(arguments).args(["--state-dir", &lab.here("@/run/state")]);
    command.output().expect("the binary runs")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn listed(lab: &Lab) -> Vec<Value> {
    serde_json::from_str(&text(&quarantine(lab, &["list", "--json"]))).expect("a list")
}

/// An intruder's file comes into the tree by rename, which asks nobody; what the list says of it then.
fn intrude(lab: &Lab, gate: &Gate<'_>, name: &std::ffi::OsStr, content: &[u8]) -> Value {
    let (from, to) = (lab.path("free/evil"), lab.tree().join(name));
    fs::write(&from, content).unwrap();
    fs::rename(&from, &to).unwrap();
    gate.until(|| {
        let shown = to.to_string_lossy();
        listed(lab).into_iter().find(|item| item["path"] == *shown && item["seq"].is_u64())
    })
}

#[test]
fn what_was_taken_away_is_listed_shown_and_given_back() {
    in_lab(60, |lab| {
        lab.file("tree/kept", "kept");
        let gate = lab.protect_tree();
        let content = b"#!/bin/sh\nevil \xff\n";
        let item = intrude(lab, &gate, "evil".as_ref(), content);
        let sum = blake3::hash(content).to_hex().to_string();
        assert_eq!((item["kind"].as_str(), item["blake3"].as_str()), (Some("file"), Some(sum.as_str())));
        assert_eq!(item["size"], content.len());
        assert_eq!(item["subject"]["pid"], std::process::id());
        let record = gate.record(|record| record["response"]["quarantine"] == item["id"]);
        assert_eq!(item["seq"], record["seq"]);
        assert!(!lab.tree().join("evil").exists());

        let id = item["id"].as_str().unwrap();
        let shown = text(&quarantine(lab, &["show", id]));
        assert!(shown.contains(&lab.here("@/tree/evil")) && shown.contains(&sum), "{shown}");
        let to = lab.path("free/evidence");
        let told = text(&quarantine(lab, &["release", id, "--to", to.to_str().unwrap()]));
        assert!(told.contains("free/evidence"), "{told}");
        assert_eq!(fs::read(&to).unwrap(), content);
        assert_eq!(listed(lab), [] as [Value; 0]);
        // The gate takes it as what it is: it goes on, and healed nothing for it.
        let again = intrude(lab, &gate, "evil".as_ref(), content);
        assert_ne!(again["id"], id);
        let taken =
            quarantine(lab, &["release", again["id"].as_str().unwrap(), "--to", to.to_str().unwrap()]);
        assert_eq!(taken.status.code(), Some(1), "{taken:?}");
        assert!(String::from_utf8_lossy(&taken.stderr).contains("help: something is there already"));
        assert_eq!(listed(lab), [again]);
    });
}

#[test]
fn into_a_protected_place_it_comes_back_under_another_name() {
    in_lab(60, |lab| {
        let gate = lab.protect_tree();
        let item = intrude(lab, &gate, "evil".as_ref(), b"evil");
        text(&quarantine(lab, &["release", item["id"].as_str().unwrap()]));
        let again = gate.until(|| listed(lab).into_iter().find(|again| again["id"] != item["id"]));
        assert_eq!((&again["path"], &again["blake3"]), (&item["path"], &item["blake3"]));
        assert!(!lab.tree().join("evil").exists());
    });
}

#[test]
fn hostile_names_do_not_steer_the_terminal() {
    in_lab(60, |lab| {
        let gate = lab.protect_tree();
        let name = std::ffi::OsStr::from_bytes(b"a\nb\x1b[2J\xff");
        let item = intrude(lab, &gate, name, b"evil");
        let exact = lab.tree().join(name);
        let hex = Hex(exact.as_os_str().as_bytes()).to_string();
        assert_eq!(item["path_hex"], hex);
        for told in [
            text(&quarantine(lab, &["list"])),
            text(&quarantine(lab, &["show", item["id"].as_str().unwrap()])),
        ] {
            assert!(told.contains("a\\nb\\u{1b}[2J\\xff") && !told.contains('\u{1b}'), "{told}");
        }
        let kept = Path::new(item["kept"].as_str().unwrap()).metadata().unwrap();
        assert_eq!(kept.size(), 4);
    });
}
