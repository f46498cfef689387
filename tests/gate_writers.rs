//! Trusted writers: who is one, and what ends it.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::actor::{self, errno, errno_of};
use support::{Gate, Lab, in_lab};

const EPERM: i32 = libc::EPERM;

/// A protected tree with a file, a writer inside it, and the same program elsewhere.
struct Scene {
    data: PathBuf,
    writer: PathBuf,
    stranger: PathBuf,
}

fn scene(lab: &Lab) -> Scene {
    let scene = Scene {
        data: lab.file("tree/data", "as it was"),
        writer: lab.path("tree/writer"),
        stranger: lab.path("free/stranger"),
    };
    actor::build(&scene.writer, &[]);
    fs::copy(&scene.writer, &scene.stranger).unwrap();
    let program = &scene.stranger;
    assert_eq!(errno(program, &[Path::new("write"), &scene.data]), 0, "works without a gate");
    scene
}

fn gate<'lab>(lab: &'lab Lab, writer: &str) -> Gate<'lab> {
    lab.gate(&format!(
        "[[policy]]\nname = 'tree'\npaths = ['@/tree/']\nwriters = ['writer']\n[[writer]]\nname = 'writer'\n{writer}\n"
    ))
}

const WRITER: &str = "exe = ['@/tree/writer']";

fn write(program: &Path, data: &Path) -> i32 {
    errno(program, &[Path::new("write"), data])
}

#[test]
fn a_trusted_writer_may_and_a_copy_may_not() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let gate = gate(lab, WRITER);
        assert_eq!(write(&scene.writer, &scene.data), 0);
        assert_eq!(errno(&scene.writer, &[Path::new("create"), &lab.path("tree/new")]), 0);
        assert!(lab.path("tree/new").exists());
        assert_eq!(write(&scene.stranger, &scene.data), EPERM);
        assert_eq!(errno(&scene.stranger, &[Path::new("create"), &lab.path("tree/other")]), EPERM);
        assert!(!lab.path("tree/other").exists());
        assert_eq!(write(&scene.stranger, &lab.path("tree/new")), EPERM, "what a writer made is protected");
        assert_eq!(errno(&scene.stranger, &[Path::new("read"), &scene.data]), 0);
        let record = gate.denial(&scene.data, "write");
        assert_eq!(record["subject"]["exe"], scene.stranger.to_str().unwrap());
        assert_eq!(gate.status()["denied"], 3);
    });
}

#[test]
fn descendants_only_where_the_policy_says_so() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let child = [Path::new("run"), &scene.stranger, Path::new("write"), &scene.data];
        let grandchild = [Path::new("run"), &scene.stranger, child[0], child[1], child[2], child[3]];
        let own_child = [Path::new("run"), &scene.writer, Path::new("write"), &scene.data];
        let gate = gate(lab, WRITER);
        assert_eq!(errno(&scene.writer, &child), EPERM);
        assert_eq!(errno(&scene.writer, &grandchild), EPERM);
        assert_eq!(errno(&scene.stranger, &own_child), 0, "a writer is one whoever starts it");
        drop(gate);
        let _gate = self::gate(lab, "exe = ['@/tree/writer']\ndescendants = true");
        assert_eq!(errno(&scene.writer, &child), 0);
        assert_eq!(errno(&scene.writer, &grandchild), 0);
        assert_eq!(errno(&scene.stranger, &child), EPERM);
    });
}

#[test]
fn an_orphan_is_nobodys_descendant() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let orphan = [Path::new("orphan"), &scene.stranger, Path::new("write"), &scene.data];
        assert_eq!(errno(&scene.writer, &orphan), 0, "works without a gate");
        let _gate = gate(lab, "exe = ['@/tree/writer']\ndescendants = true");
        assert_eq!(errno(&scene.writer, &orphan), EPERM);
    });
}

#[test]
fn whoever_is_traced_is_not_trusted() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let traced = [Path::new("traced"), &scene.writer, Path::new("write"), &scene.data];
        assert_eq!(errno(&scene.stranger, &traced), 0, "works without a gate");
        let _gate = gate(lab, WRITER);
        assert_eq!(write(&scene.writer, &scene.data), 0);
        assert_eq!(errno(&scene.stranger, &traced), EPERM);
        assert_eq!(errno(&scene.writer, &traced), EPERM);
    });
}

/// A dynamic program with its loader and C library in the protected tree.
fn dynamic_writer(lab: &Lab) -> PathBuf {
    fs::create_dir(lab.path("tree/lib")).unwrap();
    let loader = lab.path("tree/lib/loader.so");
    fs::copy("/lib64/ld-linux-x86-64.so.2", &loader).unwrap();
    let found = Command::new("cc").arg("-print-file-name=libc.so.6").output().unwrap();
    fs::copy(String::from_utf8(found.stdout).unwrap().trim(), lab.path("tree/lib/libc.so.6")).unwrap();
    let writer = lab.path("tree/dynamic");
    let paths = lab.here("-Wl,--dynamic-linker=@/tree/lib/loader.so,-rpath=@/tree/lib,--disable-new-dtags");
    actor::build(&writer, &[&paths]);
    writer
}

#[test]
fn a_preloaded_library_ends_the_trust() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let writer = dynamic_writer(lab);
        let source = lab.file(
            "free/foreign.c",
            "__attribute__((constructor)) void foreign(void) { __asm__ volatile(\"nop\"); }\n",
        );
        let foreign = lab.path("free/foreign.so");
        actor::compile(&source, &foreign, &["-shared", "-fPIC", "-nostdlib"]);
        let own = lab.path("tree/lib/own.so");
        fs::copy(&foreign, &own).unwrap();
        let _gate = gate(lab, "exe = ['@/tree/dynamic']");
        assert_eq!(write(&writer, &scene.data), 0);
        let preloaded = |library: &Path| {
            errno_of(Command::new(&writer).arg("write").arg(&scene.data).env("LD_PRELOAD", library))
        };
        assert_eq!(preloaded(&foreign), EPERM);
        assert_eq!(preloaded(&own), 0, "a library of the protected tree is as good as the program");
    });
}

#[test]
fn a_writer_that_was_replaced_on_disk_is_not_trusted() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let writer = lab.path("free/unprotected");
        let policy = "exe = ['@/free/unprotected']";
        for overwrite in [true, false] {
            fs::copy(&scene.stranger, &writer).unwrap();
            let gate = gate(lab, policy);
            assert_eq!(write(&writer, &scene.data), 0);
            if overwrite {
                // The same inode with other content.
                fs::write(&writer, fs::read(&scene.stranger).unwrap()).unwrap();
            } else {
                let new = lab.path("free/new");
                fs::copy(&scene.stranger, &new).unwrap();
                fs::rename(&new, &writer).unwrap();
            }
            assert_eq!(write(&writer, &scene.data), EPERM, "overwritten in place: {overwrite}");
            assert!(gate.command(&["reload"]).status.success());
            assert_eq!(write(&writer, &scene.data), 0, "a reload takes the new one");
        }
    });
}

#[test]
fn a_pin_must_match() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let sum = blake3::hash(&fs::read(&scene.writer).unwrap()).to_hex();
        let wrong = blake3::hash(b"something else").to_hex();
        let pinned = |sum: &str| format!("exe = ['@/tree/writer']\nblake3 = ['{sum}']");
        let first = gate(lab, &pinned(&sum));
        assert_eq!(write(&scene.writer, &scene.data), 0);
        drop(first);
        let second = gate(lab, &pinned(&wrong));
        assert_eq!(write(&scene.writer, &scene.data), EPERM);
        assert!(second.diagnostics().contains("not trusted"), "{}", second.diagnostics());
    });
}

/// A script's executable is its interpreter, which anybody can run.
#[test]
fn a_script_is_no_writer() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let script = lab.path("tree/script");
        fs::write(&script, lab.here("#!/bin/sh\nexec 3<>@/tree/data || exit 1\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new(&script).status().unwrap().success(), "works without a gate");
        let _gate = gate(lab, "exe = ['@/tree/script']");
        assert!(!Command::new(&script).status().unwrap().success());
        assert_eq!(fs::read(&scene.data).unwrap(), b"ws it was");
    });
}
