//! A protected file reached by another name is the same file.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use libc::{O_CREAT, O_WRONLY};
use support::raw;
use support::{Gate, Lab, in_lab, refused};

const CONTENT: &str = "as it was";

/// Writing and truncating through `alias` are refused, and the record names the file by `path`.
fn is_guarded(gate: &Gate<'_>, alias: &Path, path: &Path) {
    let name = alias.display();
    refused(File::options().write(true).open(alias));
    let record = gate.denial(path, "write");
    if alias != path {
        assert!(record.get("alias").is_none_or(|seen| seen != &record["path"]), "{name}: {record:#}");
    }
    refused(File::options().read(true).write(true).truncate(true).open(alias));
    gate.denial(path, "truncate");
    assert_eq!(fs::read_to_string(alias).unwrap(), CONTENT, "{name}: reads pass");
}

/// What the same alias does where nothing is protected.
fn is_an_alias(alias: &Path, path: &Path) {
    File::options().append(true).open(alias).unwrap().write_all(b"!").unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), format!("{CONTENT}!"), "without a gate");
    fs::write(path, CONTENT).unwrap();
}

/// A refusal at `alias` whose file is `inode`, under whatever path.
fn is_guarded_by_identity(gate: &Gate<'_>, alias: &Path, inode: u64) {
    refused(File::options().write(true).open(alias));
    gate.record(|record| record["verdict"] == "deny" && record["object"]["ino"] == inode);
    assert_eq!(fs::read_to_string(alias).unwrap(), CONTENT);
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

#[test]
fn symbolic_links() {
    in_lab(30, |lab| {
        let path = lab.file("tree/a/data", CONTENT);
        symlink(&path, lab.path("free/file")).unwrap();
        symlink(lab.path("tree/a"), lab.path("free/directory")).unwrap();
        symlink(lab.path("tree/a/new"), lab.path("free/dangling")).unwrap();
        let aliases = [lab.path("free/file"), lab.path("free/directory/data")];
        for alias in &aliases {
            is_an_alias(alias, &path);
        }
        let gate = lab.protect_tree();
        for alias in &aliases {
            is_guarded(&gate, alias, &path);
        }
        refused(File::options().write(true).create(true).truncate(false).open(lab.path("free/dangling")));
        assert_eq!(gate.denial(&lab.path("tree/a/new"), "create")["rolled_back"], true);
        assert!(!lab.path("tree/a/new").exists());
    });
}

#[test]
fn bind_mounts_made_before_and_after_the_start() {
    in_lab(30, |lab| {
        let path = lab.file("tree/a/data", CONTENT);
        let other = lab.file("tree/a/other", CONTENT);
        for name in ["before", "after"] {
            fs::create_dir(lab.path("free").join(name)).unwrap();
            lab.file(&format!("free/{name}-file"), "");
        }
        lab.bind(&lab.path("tree/a"), &lab.path("free/before"));
        lab.bind(&other, &lab.path("free/before-file"));
        is_an_alias(&lab.path("free/before/data"), &path);
        is_an_alias(&lab.path("free/before-file"), &other);
        let gate = lab.protect_tree();
        lab.bind(&lab.path("tree/a"), &lab.path("free/after"));
        lab.bind(&other, &lab.path("free/after-file"));
        for name in ["before", "after"] {
            is_guarded(&gate, &lab.path(&format!("free/{name}/data")), &path);
            is_guarded(&gate, &lab.path(&format!("free/{name}-file")), &other);
            let new = lab.path(&format!("free/{name}/new"));
            refused(raw::openat(&new, O_CREAT | O_WRONLY));
            assert_eq!(gate.denial(&lab.path("tree/a/new"), "create")["rolled_back"], true);
            assert!(!new.exists());
        }
    });
}

#[test]
fn another_mount_namespace() {
    in_lab(30, |lab| {
        let path = lab.file("tree/a/data", CONTENT);
        // Seen from the attacker's namespace only: the tree at /mnt, and its own place hidden.
        let script = |write: &str| {
            let script =
                lab.here(&format!("mount --bind @/tree/a /mnt && mount -t tmpfs none @/tree && {write}"));
            Command::new("unshare").args(["-m", "sh", "-c", &script]).env("LC_ALL", "C").output().unwrap()
        };
        let done = script("printf '!' >>/mnt/data");
        assert!(done.status.success(), "works without a gate: {done:?}");
        fs::write(&path, CONTENT).unwrap();
        let gate = lab.protect_tree();
        for write in ["printf evil >/mnt/data", "printf evil >>/mnt/data", "touch /mnt/new"] {
            let done = script(write);
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(!done.status.success() && said.contains("not permitted"), "{write}: {done:?}");
        }
        gate.denial(&path, "truncate");
        gate.denial(&path, "append");
        assert_eq!(gate.denial(&lab.path("tree/a/new"), "create")["rolled_back"], true);
        assert_eq!(fs::read_to_string(&path).unwrap(), CONTENT);
        assert!(!lab.path("tree/a/new").exists());
    });
}

#[test]
fn hard_links_made_before_the_start() {
    in_lab(30, |lab| {
        let path = lab.file("tree/a/data", CONTENT);
        fs::hard_link(&path, lab.path("free/link")).unwrap();
        is_an_alias(&lab.path("free/link"), &path);
        let gate = lab.protect_tree();
        is_guarded(&gate, &lab.path("free/link"), &path);
        is_guarded(&gate, &path, &path);
    });
}

#[test]
fn a_detached_mount() {
    in_lab(30, |lab| {
        let path = lab.file("tree/a/data", CONTENT);
        let directory = lab.path("tree/a");
        let clone = || {
            let name = raw::cstr(&directory);
            // SAFETY: open_tree(2) reads a path.
            let fd = unsafe {
                libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), libc::OPEN_TREE_CLONE)
            };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: the kernel has just made this descriptor for us.
            unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd as i32) }
        };
        let before = clone();
        let inside = |tree: &File, name: &str| {
            Path::new(&format!("/proc/thread-self/fd/{}", tree.as_raw_fd())).join(name)
        };
        is_an_alias(&inside(&before, "data"), &path);
        let gate = lab.protect_tree();
        let after = clone();
        for tree in [&before, &after] {
            is_guarded_by_identity(&gate, &inside(tree, "data"), inode(&path));
            refused(raw::openat(&inside(tree, "new"), O_CREAT | O_WRONLY));
            assert!(!lab.path("tree/a/new").exists(), "the file stayed");
        }
    });
}

/// Renaming raises no permission event. Where it is not put back, what is in the directory stays guarded by its mark.
#[test]
fn a_protected_directory_that_was_renamed_away() {
    in_lab(30, |lab| {
        lab.file("tree/a/b/data", CONTENT);
        let gate = lab.gate("[[policy]]\nname = 'tree'\npaths = ['@/tree/']\nresponse = 'alert'\n");
        fs::rename(lab.path("tree/a"), lab.path("free/a")).unwrap();
        let path = lab.path("free/a/b/data");
        refused(File::options().write(true).open(&path));
        assert_eq!(fs::read_to_string(&path).unwrap(), CONTENT);
        gate.until(|| (gate.status()["denied"].as_u64() > Some(0)).then_some(()));
        gate.record(|record| record["verdict"] == "deny" && record["access"] == "write");
    });
}

#[test]
fn the_kernels_own_views_of_a_file() {
    in_lab(30, |lab: &Lab| {
        let path = lab.file("tree/a/data", CONTENT);
        let gate = lab.protect_tree();
        let directory = File::open(lab.path("tree/a")).unwrap();
        for alias in [
            format!("/proc/self/root{}", path.display()),
            format!("/proc/{}/root{}", std::process::id(), path.display()),
            format!("/proc/thread-self/fd/{}/data", directory.as_raw_fd()),
            format!("{}/../a/./data", lab.path("tree/a").display()),
        ] {
            is_guarded(&gate, Path::new(&alias), &path);
        }
    });
}
