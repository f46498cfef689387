//! Names that are hard to print, and paths that are too long to say.
#![cfg(target_arch = "x86_64")]

mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use libc::{O_CREAT, O_WRONLY};
use support::{in_lab, raw, refused};

const CONTENT: &str = "as it was";

#[test]
fn names_that_are_hard_to_print() {
    in_lab(60, |lab| {
        let long = "x".repeat(255);
        let names: [&[u8]; 5] = [b"new\nline", b"\xff\xfe\x80", b"a\"b\\c", b" (deleted)", long.as_bytes()];
        for name in names {
            fs::write(lab.tree().join(OsStr::from_bytes(name)), CONTENT).unwrap();
        }
        let before = lab.contents();
        let gate = lab.protect_tree();
        for name in names {
            let path = lab.tree().join(OsStr::from_bytes(name));
            refused(raw::openat(&path, O_WRONLY));
            let new = path.with_extension("n");
            if new.file_name().unwrap().len() < 256 {
                refused(raw::openat(&new, O_WRONLY | O_CREAT));
                assert!(!new.exists(), "{new:?}");
            }
            let shown = path.to_string_lossy();
            let record = gate.record(|record| record["path"] == *shown && record["access"] == "write");
            if std::str::from_utf8(name).is_err() {
                let hex = record["path_hex"].as_str().unwrap();
                let bytes = path.as_os_str().as_bytes();
                assert!(hex.len() == 2 * bytes.len() && hex.ends_with("fffe80"), "{hex}");
            }
        }
        let mut after = lab.contents();
        after.insert(lab.tree(), before[&lab.tree()].clone());
        assert_eq!(after, before);
    });
}

/// Deeper than any path can say: made and opened from within.
#[test]
fn paths_as_long_as_can_be_and_longer() {
    in_lab(60, |lab| {
        let name = "d".repeat(250);
        let mut inside = File::open(lab.tree()).unwrap();
        let mut length = lab.tree().as_os_str().len();
        let mut files = Vec::new();
        let at = |directory: &File, name: &str| {
            Path::new(&format!("/proc/thread-self/fd/{}", directory.as_raw_fd())).join(name)
        };
        while length < 5000 {
            // The last one before the limit fills it up to 4,095 bytes.
            let room = 4095_usize.checked_sub(length + 1);
            if let Some(room @ 1..=255) = room {
                fs::write(at(&inside, &"f".repeat(room)), CONTENT).unwrap();
                files.push((inside.try_clone().unwrap(), "f".repeat(room)));
            }
            fs::create_dir(at(&inside, &name)).unwrap();
            inside = File::open(at(&inside, &name)).unwrap();
            length += 1 + name.len();
            fs::write(at(&inside, "f"), CONTENT).unwrap();
            files.push((inside.try_clone().unwrap(), "f".to_owned()));
        }
        let gate = lab.protect_tree();
        let mut covered = 0;
        for (directory, name) in &files {
            let path = at(directory, name);
            let written = raw::openat(&path, O_WRONLY);
            covered += usize::from(written.is_err());
            assert_eq!(io::read_to_string(File::open(&path).unwrap()).unwrap(), CONTENT);
        }
        let unmarked = gate.status()["unmarked"].clone();
        eprintln!("{covered} of {} files refused, not covered: {unmarked}", files.len());
        assert!(
            covered == files.len() || unmarked.as_array().is_some_and(|paths| !paths.is_empty()),
            "what is not covered must be told"
        );
        assert!(covered >= 16, "everything up to 4,095 bytes is covered");
        drop(gate);
        assert!(Command::new("rm").arg("-rf").arg(lab.tree()).status().unwrap().success());
    });
}
