//! Trust across upgrades: a writer's executable and its libraries are replaced while the gate runs.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::actor::{self, errno};
use support::{Gate, Lab, in_lab};

const EPERM: i32 = libc::EPERM;

/// A program that may write its own tree, and the same program elsewhere.
struct Scene {
    data: PathBuf,
    manager: PathBuf,
    /// Listed, not installed yet.
    tool: PathBuf,
    stranger: PathBuf,
}

fn scene(lab: &Lab) -> Scene {
    let scene = Scene {
        data: lab.file("tree/data", "as it was"),
        manager: lab.path("tree/manager"),
        tool: lab.path("tree/tool"),
        stranger: lab.path("free/stranger"),
    };
    actor::build(&scene.manager, &[]);
    fs::copy(&scene.manager, &scene.stranger).unwrap();
    scene
}

fn gate(lab: &Lab) -> Gate<'_> {
    lab.gate(
        "[[policy]]\nname = 'tree'\npaths = ['@/tree/']\nresponse = 'alert'\nwriters = ['manager']\n\
         [[policy]]\nname = 'data'\npaths = ['@/tree/data']\nresponse = 'alert'\nwriters = ['manager', 'tool']\n\
         [[writer]]\nname = 'manager'\nexe = ['@/tree/manager']\n\
         [[writer]]\nname = 'tool'\nexe = ['@/tree/tool']\n",
    )
}

fn write(program: &Path, data: &Path) -> i32 {
    errno(program, &[Path::new("write"), data])
}

fn replace(by: &Path, source: &Path, target: &Path) -> i32 {
    errno(by, &[Path::new("replace"), source, target])
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_writer_that_replaced_itself_is_followed_by_its_successor() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let gate = gate(lab);
        for _ in 0..3 {
            let before = inode(&scene.manager);
            assert_eq!(replace(&scene.manager, &scene.stranger, &scene.manager), 0);
            assert_ne!(inode(&scene.manager), before);
            assert_eq!(write(&scene.manager, &scene.data), 0);
        }
        assert!(gate.command(&["reload"]).status.success());
        assert_eq!(write(&scene.manager, &scene.data), 0);
        assert_eq!(write(&scene.stranger, &scene.data), EPERM);
        assert_eq!(gate.status()["denied"], 1);
    });
}

#[test]
fn a_writer_that_is_installed_later_is_one_where_its_policy_says_so_only() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let _gate = gate(lab);
        assert_eq!(replace(&scene.manager, &scene.stranger, &scene.tool), 0);
        assert_eq!(write(&scene.tool, &scene.data), 0);
        let other = lab.path("tree/other");
        assert_eq!(errno(&scene.tool, &[Path::new("create"), &other]), EPERM);
        assert_eq!(replace(&scene.tool, &scene.stranger, &scene.manager), EPERM);
        assert_eq!(replace(&scene.manager, &scene.stranger, &other), 0);
        assert_eq!(write(&other, &scene.data), EPERM, "made by a writer, listed nowhere");
    });
}

/// rename(2) raises no permission event, so an intruder can put anything in a writer's place.
#[test]
fn what_an_intruder_puts_in_a_writers_place_is_not_trusted() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let _gate = gate(lab);
        fs::rename(&scene.stranger, &scene.manager).unwrap();
        assert_eq!(write(&scene.manager, &scene.data), EPERM);
        fs::rename(&scene.manager, &scene.tool).unwrap();
        assert_eq!(write(&scene.tool, &scene.data), EPERM);
    });
}

#[test]
fn a_successor_in_another_writers_place_is_not_trusted() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let _gate = gate(lab);
        assert_eq!(replace(&scene.manager, &scene.stranger, &scene.tool), 0);
        fs::rename(&scene.tool, &scene.manager).unwrap();
        assert_eq!(errno(&scene.manager, &[Path::new("create"), &lab.path("tree/new")]), EPERM);
    });
}

/// Moved out of the tree, its directory's mark does not see it any more; its own does.
#[test]
fn a_successor_cannot_be_written_wherever_it_is_moved() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let gate = gate(lab);
        assert_eq!(replace(&scene.manager, &scene.stranger, &scene.tool), 0);
        let moved = lab.path("free/moved");
        fs::rename(&scene.tool, &moved).unwrap();
        let before = fs::read(&moved).unwrap();
        assert_eq!(write(&scene.stranger, &moved), EPERM);
        assert_eq!(fs::read(&moved).unwrap(), before);
        let record = gate.denial(&scene.tool, "write");
        assert_eq!(record["alias"], moved.to_str().unwrap());
        let link = lab.path("free/link");
        fs::hard_link(&moved, &link).unwrap();
        assert_eq!(write(&scene.stranger, &link), EPERM);
    });
}

/// A dynamic program with its loader and C library in the protected tree.
fn dynamic(lab: &Lab) -> (PathBuf, PathBuf) {
    fs::create_dir(lab.path("tree/lib")).unwrap();
    let library = lab.path("tree/lib/libc.so.6");
    fs::copy("/lib64/ld-linux-x86-64.so.2", lab.path("tree/lib/loader.so")).unwrap();
    let found = Command::new("cc").arg("-print-file-name=libc.so.6").output().unwrap();
    fs::copy(String::from_utf8(found.stdout).unwrap().trim(), &library).unwrap();
    let program = lab.path("tree/manager");
    fs::remove_file(&program).unwrap();
    let paths = lab.here("-Wl,--dynamic-linker=@/tree/lib/loader.so,-rpath=@/tree/lib,--disable-new-dtags");
    actor::build(&program, &[&paths]);
    (program, library)
}

#[test]
fn a_writer_goes_on_when_its_library_is_replaced_under_it() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let (manager, library) = dynamic(lab);
        let new = lab.path("free/libc.so.6");
        fs::copy(&library, &new).unwrap();
        let _gate = gate(lab);
        let then = Path::new("then");
        let (again, twice) = (Path::new("write"), Path::new("replace"));
        let steps = [
            again,
            &scene.data,
            then,
            twice,
            &new,
            &library,
            then,
            again,
            &scene.data,
            then,
            twice,
            &new,
            &library,
        ];
        assert_eq!(errno(&manager, &steps), 0);
        assert_eq!(write(&manager, &scene.data), 0, "with the new library");
    });
}

#[test]
fn a_library_that_was_moved_away_ends_the_trust() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let (manager, library) = dynamic(lab);
        let moved = lab.path("free/libc.so.6");
        let _gate = gate(lab);
        assert_eq!(write(&manager, &scene.data), 0);
        fs::rename(&library, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &library).unwrap();
        assert_eq!(write(&manager, &scene.data), EPERM);
    });
}
