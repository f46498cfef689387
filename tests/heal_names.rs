//! One change at a time, on real filesystems: what was changed is put right, and nothing is lost.

mod heal_support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use heal_support::*;
use writegate::heal::{Change, Content, Did, Duty, Failure, Hint, Known, Quarantine};

/// Runs `test` on each filesystem with a learned tree, and demands that afterwards the tree is what it was.
fn each(test: impl Fn(&Ground, &Path, &mut writegate::heal::Healer)) {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let before = digest(&top);
        test(&ground, &top, &mut healer);
        assert_same(&before, &digest(&top));
        assert_eq!(healer.scan(), [], "{kind:?}: a scan finds nothing more to do");
    }
}

#[test]
fn a_removed_file_comes_back_as_the_same_inode() {
    each(|_, top, healer| {
        let path = top.join("b");
        let was = ino(&path);
        fs::remove_file(&path).unwrap();
        let actions = heal(healer, &path, Change::Metadata);
        assert_eq!(dids(&actions), [Did::Linked]);
        assert!(!actions[0].new_inode && actions[0].ns > 0);
        assert_eq!(ino(&path), was);
        assert_eq!(heal(healer, &path, Change::Metadata), []);
    });
}

#[test]
fn removed_links_fifos_and_trees_come_back() {
    each(|_, top, healer| {
        let (fifo, link) = (ino(&top.join("fifo")), ino(&top.join("link")));
        fs::remove_file(top.join("link")).unwrap();
        fs::remove_file(top.join("fifo")).unwrap();
        assert_eq!(dids(&heal(healer, &top.join("link"), Change::Unknown)), [Did::Linked]);
        assert_eq!(dids(&heal(healer, &top.join("fifo"), Change::Unknown)), [Did::Linked]);
        assert_eq!(ino(&top.join("fifo")), fifo);
        // Another one that says the same is not it.
        let target = fs::read_link(top.join("link")).unwrap();
        fs::remove_file(top.join("link")).unwrap();
        std::os::unix::fs::symlink(target, top.join("link")).unwrap();
        assert_eq!(dids(&heal(healer, &top.join("link"), Change::Unknown)), [Did::Linked]);
        assert_eq!(ino(&top.join("link")), link);
        fs::remove_dir_all(top.join("sub")).unwrap();
        let actions = heal(healer, &top.join("sub"), Change::Unknown);
        assert_eq!(dids(&actions), [Did::Made, Did::Linked, Did::Made, Did::Linked]);
        assert!(actions[0].new_inode);
        // Asked for something deep, it begins at the top.
        fs::remove_dir_all(top).unwrap();
        heal(healer, &top.join("sub/deep/d"), Change::Unknown);
    });
}

#[test]
fn a_replaced_file_changes_places_with_the_intruders() {
    each(|ground, top, healer| {
        let (path, evil) = (top.join("a"), ground.fs.join("evil"));
        let was = ino(&path);
        fs::write(&evil, "evil").unwrap();
        fs::rename(&evil, &path).unwrap();
        let hint = Hint { subject: serde_json::json!({"pid": 42}), ..Hint::default() };
        let actions = heal(healer, &path, hint);
        assert_eq!(dids(&actions), [Did::Linked]);
        assert_eq!(ino(&path), was);
        assert_eq!(actions[0].blake3, Some(*blake3::hash(b"evil").as_bytes()));
        let id = actions[0].quarantine.as_ref().unwrap();
        healer.file(id, 7);
        // What a note says outlives this process.
        let noted = Quarantine::existing(&ground.state).unwrap();
        let item = noted.show(id).unwrap();
        assert_eq!(Some(item), healer.quarantine().show(id));
        assert_eq!(fs::read(item.kept.path()).unwrap(), b"evil");
        assert_eq!((item.original.path(), item.seq), (path, 7));
        assert_eq!(item.subject["pid"], 42);
    });
}

#[test]
fn at_no_moment_does_a_replaced_name_not_exist() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, mut healer) = protected(&ground);
    let path = top.join("a");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let looker = {
        // A directory descriptor: the thread is in the same mount namespace, being started from here.
        let (path, stop) = (path.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut looks = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                path.symlink_metadata().unwrap();
                looks += 1;
            }
            looks
        })
    };
    for round in 0..300 {
        fs::write(ground.fs.join("evil"), format!("evil {round}")).unwrap();
        fs::rename(ground.fs.join("evil"), &path).unwrap();
        // The same path so often is a fight: a scan knows no pause.
        assert_eq!(dids(&healer.scan()), [Did::Linked]);
        assert_eq!(fs::read(&path).unwrap(), b"content of a");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(looker.join().unwrap() > 0);
}

/// Who holds a directory of it open names nothing protected with what he does there.
#[test]
fn what_came_into_a_tree_while_it_was_elsewhere_is_looked_for() {
    each(|ground, top, healer| {
        let before = digest(top);
        let (sub, away) = (top.join("sub"), ground.fs.join("away"));
        fs::rename(&sub, &away).unwrap();
        heal(healer, &sub, Change::MovedTo(away));
        // By the name that it had until a moment ago.
        fs::write(sub.join("deep/evil"), "evil").unwrap();
        let due: Vec<_> = healer.take_mended(100).collect();
        assert!(due.contains(&sub.join("deep")), "{due:?}");
        for directory in &due {
            healer.reconcile(directory, &Hint::default());
        }
        assert_same(&before, &digest(top));
    });
}

#[test]
fn every_kind_replaces_every_other() {
    each(|_, top, healer| {
        for name in ["a", "link", "fifo", "sub"] {
            let path = top.join(name);
            let makers: [&dyn Fn(); 4] = [
                &|| fs::write(&path, "evil").unwrap(),
                &|| symlink("/etc/passwd", &path).unwrap(),
                &|| fs::create_dir_all(path.join("x/y")).unwrap(),
                &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
            ];
            for make in makers {
                if path.symlink_metadata().unwrap().is_dir() {
                    fs::remove_dir_all(&path).unwrap();
                } else {
                    fs::remove_file(&path).unwrap();
                }
                make();
                heal(healer, &path, Change::Unknown);
            }
        }
    });
}

#[test]
fn what_is_foreign_goes_to_the_quarantine_whatever_its_name() {
    each(|_, top, healer| {
        let long = "x".repeat(255);
        let names: [&[u8]; 5] = [b"new\nline", b"\xff\xfe", long.as_bytes(), b"-rf", b" "];
        for name in names {
            let path = top.join(OsStr::from_bytes(name));
            fs::write(&path, "foreign").unwrap();
            let actions = heal(healer, &path, Change::Unknown);
            assert_eq!(dids(&actions), [Did::Removed]);
            let item = healer.quarantine().show(actions[0].quarantine.as_ref().unwrap()).unwrap();
            assert_eq!(item.original.path(), path);
            assert!(path.symlink_metadata().is_err());
        }
        let tree = top.join("tree");
        fs::create_dir_all(tree.join("x/y")).unwrap();
        fs::write(tree.join("x/y/z"), "z").unwrap();
        symlink("nowhere", tree.join("x/l")).unwrap();
        let actions = heal(healer, &tree, Change::Unknown);
        assert_eq!(dids(&actions), [Did::Removed]);
        let item = healer.quarantine().show(actions[0].quarantine.as_ref().unwrap()).unwrap();
        assert_eq!((item.entries, item.kind.as_str()), (5, "directory"));
    });
}

#[test]
fn protected_files_may_have_any_name_too() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let long = "y".repeat(255);
        let names: [&[u8]; 3] = [b"new\nline", b"\xff\xfe", long.as_bytes()];
        for name in names {
            let path = top.join(OsStr::from_bytes(name));
            fs::write(&path, "right").unwrap();
            healer.learn(&path, Known::No).unwrap();
        }
        let before = digest(&top);
        for name in names {
            let path = top.join(OsStr::from_bytes(name));
            fs::remove_file(&path).unwrap();
            assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Linked]);
            fs::remove_file(&path).unwrap();
            fs::write(&path, "wrong").unwrap();
            assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Linked]);
        }
        assert_same(&before, &digest(&top));
    }
}

#[test]
fn what_was_moved_out_is_moved_back() {
    each(|ground, top, healer| {
        for name in ["a", "link", "fifo", "sub"] {
            let (path, away) = (top.join(name), ground.fs.join("away"));
            let was = ino(&path);
            fs::rename(&path, &away).unwrap();
            let actions = heal(healer, &path, Change::MovedTo(away.clone()));
            assert_eq!(dids(&actions), [Did::MovedBack], "{name}");
            assert_eq!(ino(&path), was);
            assert!(away.symlink_metadata().is_err());
            // And when the intruder has already put something else there.
            fs::rename(&path, &away).unwrap();
            fs::write(&path, "evil").unwrap();
            let actions = heal(healer, &path, Change::MovedTo(away.clone()));
            assert_eq!(dids(&actions), [Did::MovedBack], "{name}");
            assert!(actions[0].quarantine.is_some());
            assert!(away.symlink_metadata().is_err());
        }
    });
}

#[test]
fn names_moved_within_the_tree_are_sorted_out() {
    each(|_, top, healer| {
        let (a, b) = (top.join("a"), top.join("b"));
        // Over another protected name.
        fs::rename(&a, &b).unwrap();
        heal(healer, &a, Change::MovedTo(b.clone()));
        // To a new one.
        fs::rename(&a, top.join("sub/new")).unwrap();
        heal(healer, &a, Change::MovedTo(top.join("sub/new")));
        // Exchanged.
        let to = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        let cwd = fs::File::open("/").unwrap();
        let cwd = std::os::fd::AsFd::as_fd(&cwd);
        writegate::sys::names::rename((cwd, &to(&a)), (cwd, &to(&b)), 2).unwrap();
        heal(healer, &a, Change::MovedTo(b.clone()));
        heal(healer, &b, Change::MovedTo(a.clone()));
        assert_eq!(healer.quarantine().list().count(), 0, "nothing of this was the intruder's");
    });
}

#[test]
fn a_further_name_of_a_protected_file_just_goes() {
    each(|_, top, healer| {
        fs::hard_link(top.join("a"), top.join("sub/alias")).unwrap();
        let actions = heal(healer, &top.join("sub/alias"), Change::Unknown);
        assert_eq!(dids(&actions), [Did::Unlinked]);
        assert_eq!(actions[0].quarantine, None);
    });
}

#[test]
fn metadata_is_set_back() {
    each(|_, top, healer| {
        let commands: [(&str, &[&str], &str); 6] = [
            ("chmod", &["0777"], "b"),
            ("chmod", &["0777"], "sub"),
            ("chown", &["77:88"], "b"),
            ("chown", &["-h", "77:88"], "link"),
            ("touch", &["-m", "-d", "@99"], "a"),
            ("touch", &["-h", "-m", "-d", "@99"], "link"),
        ];
        for (command, arguments, name) in commands {
            let path = top.join(name);
            run(Command::new(command).args(arguments).arg(&path));
            let actions = heal(healer, &path, Change::Metadata);
            assert_eq!(dids(&actions), [Did::Metadata], "{command} {arguments:?}");
            assert_eq!(heal(healer, &path, Change::Metadata), []);
        }
        let path = top.join("a");
        let wrong: [(_, Option<&[u8]>); 3] =
            [(c"trusted.note", Some(b"wrong")), (c"trusted.more", Some(b"x")), (c"trusted.note", None)];
        for (name, value) in wrong {
            attribute(&path, name, value);
            assert_eq!(dids(&heal(healer, &path, Change::Metadata)), [Did::Metadata], "{name:?}");
        }
    });
}

#[test]
fn flags_do_not_keep_it_from_healing() {
    each(|ground, top, healer| {
        let (path, evil) = (top.join("a"), ground.fs.join("evil"));
        chattr("+i", &path);
        assert_eq!(dids(&heal(healer, &path, Change::Unknown)), [Did::Metadata]);
        // The intruder's file cannot be removed, and the directory cannot be changed.
        fs::write(&evil, "evil").unwrap();
        fs::rename(&evil, &path).unwrap();
        chattr("+i", &path);
        chattr("+i", top);
        assert_eq!(dids(&heal(healer, &path, Change::Unknown)), [Did::Linked]);
        fs::remove_file(&path).unwrap();
        fs::write(top.join("foreign"), "foreign").unwrap();
        chattr("+i", &top.join("foreign"));
        chattr("+a", top);
        assert_eq!(dids(&heal(healer, &top.join("foreign"), Change::Unknown)), [Did::Removed]);
        chattr("+i", top);
        assert_eq!(dids(&heal(healer, &path, Change::Unknown)), [Did::Linked]);
        fs::rename(&path, &evil).unwrap();
        chattr("+i", &evil);
        assert_eq!(dids(&heal(healer, &path, Change::MovedTo(evil))), [Did::MovedBack]);
    });
}

#[test]
fn flags_that_belong_there_are_set_again() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let path = top.join("a");
        chattr("+i", &path);
        healer.learn(&path, Known::No).unwrap();
        let before = digest(&top);
        chattr("-i", &path);
        fs::remove_file(&path).unwrap();
        assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Linked]);
        chattr("-i", &path);
        fs::write(&path, "changed").unwrap();
        chattr("+a", &path);
        assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Content]);
        assert_same(&before, &digest(&top));
    }
}

#[test]
fn content_is_written_back_in_place() {
    each(|_, top, healer| {
        let path = top.join("sub/c");
        let was = ino(&path);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let edits: [&dyn Fn(); 4] = [
            &|| file.set_len(0).unwrap(),
            &|| file.set_len(1_000_000).unwrap(),
            &|| std::os::unix::fs::FileExt::write_all_at(&file, b"evil", 290_000).unwrap(),
            &|| {
                // With its time set back: only the content tells.
                let time = file.metadata().unwrap().modified().unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"evil", 5).unwrap();
                file.set_modified(time).unwrap();
            },
        ];
        for edit in edits {
            edit();
            let evil = blake3::hash(&fs::read(&path).unwrap());
            let actions = heal(healer, &path, Change::Modified);
            assert_eq!(dids(&actions), [Did::Content]);
            assert_eq!(actions[0].blake3, Some(*evil.as_bytes()));
            let item = healer.quarantine().show(actions[0].quarantine.as_ref().unwrap()).unwrap();
            assert_eq!(blake3::hash(&fs::read(item.kept.path()).unwrap()), evil);
            assert_eq!(ino(&path), was);
        }
        // Truncated, then removed.
        file.set_len(0).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(dids(&heal(healer, &path, Change::Unknown)), [Did::Linked]);
        fs::write(top.join("empty"), "no more").unwrap();
        assert_eq!(dids(&heal(healer, &top.join("empty"), Change::Modified)), [Did::Content]);
    });
}

#[test]
fn a_running_program_gets_another_inode() {
    for kind in [Kind::Ext4, Kind::Same] {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let path = top.join("sleep");
        fs::copy("/bin/sleep", &path).unwrap();
        healer.learn(&path, Known::No).unwrap();
        let before = digest(&top);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"evil").unwrap();
        let mut child = Command::new(&path).arg("60").spawn().unwrap();
        let actions = heal(&mut healer, &path, Change::Modified);
        assert_eq!(dids(&actions), [Did::Copied]);
        assert!(actions[0].new_inode && actions[0].quarantine.is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_same(&before, &digest(&top));
        // The new one is held like the old one was.
        fs::remove_file(&path).unwrap();
        assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Linked]);
        assert_same(&before, &digest(&top));
    }
}

#[test]
fn a_parent_that_became_a_link_does_not_lead_away() {
    each(|ground, top, healer| {
        let outside = ground.fs.join("outside");
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(outside.join("c"), "not ours").unwrap();
        fs::rename(top.join("sub"), ground.fs.join("hidden")).unwrap();
        symlink(&outside, top.join("sub")).unwrap();
        heal(healer, &top.join("sub/c"), Change::Unknown);
        assert_eq!(fs::read(outside.join("c")).unwrap(), b"not ours");
        assert!(top.join("sub").symlink_metadata().unwrap().is_dir());
        let _ = fs::remove_dir_all(ground.fs.join("hidden"));
    });
}

#[test]
fn what_policies_leave_free_is_left_alone() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let duties: writegate::heal::Duties = Arc::new(|path| match path.file_name().map(OsStr::as_bytes) {
            Some(b"log") => Duty { content: Content::Grows, ..Duty::ALL },
            Some(b"a") => Duty { content: Content::Free, ..Duty::ALL },
            Some(b"free") => Duty::NONE,
            Some(b"made") => Duty { foreign: false, ..Duty::ALL },
            _ => Duty::ALL,
        });
        healer.set_duties(duties);
        fs::write(top.join("log"), "one\n").unwrap();
        healer.learn(&top.join("log"), Known::No).unwrap();
        let mut log = fs::OpenOptions::new().append(true).open(top.join("log")).unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(heal(&mut healer, &top.join("log"), Change::Modified), []);
        log.set_len(3).unwrap();
        let actions = healer.reconcile(&top.join("log"), &Change::Modified.into());
        assert_eq!(dids(&actions), [Did::Failed(Failure::NoCopy)]);
        fs::write(top.join("a"), "changed").unwrap();
        assert_eq!(heal(&mut healer, &top.join("a"), Change::Modified), []);
        fs::write(top.join("free"), "free").unwrap();
        assert_eq!(heal(&mut healer, &top.join("free"), Change::Unknown), []);
        fs::write(top.join("made"), "made").unwrap();
        assert_eq!(dids(&heal(&mut healer, &top.join("made"), Change::Unknown)), [Did::Learned]);
        fs::remove_file(top.join("made")).unwrap();
        assert_eq!(dids(&heal(&mut healer, &top.join("made"), Change::Unknown)), [Did::Linked]);
    }
}

#[test]
fn a_fight_is_reported_once_and_goes_on_more_slowly() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, mut healer) = protected(&ground);
    let path = top.join("a");
    let (mut escalated, mut deferred) = (0, 0);
    for _ in 0..30 {
        let _ = fs::remove_file(&path);
        for action in healer.reconcile(&path, &Hint::default()) {
            match action.did {
                Did::Escalated { heals } => escalated += heals,
                Did::Deferred(_) => deferred += 1,
                _ => {}
            }
        }
    }
    assert_eq!((escalated, deferred), (20, 10));
    assert!(path.symlink_metadata().is_err());
    let due = healer.next_due().unwrap();
    std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
    assert_eq!(dids(&healer.due()), [Did::Linked]);
    assert!(path.metadata().unwrap().nlink() == 2);
}

#[test]
fn a_single_file_gets_its_directories_back() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let path = ground.fs.join("x/y/file");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "right").unwrap();
    let mut healer = healer(&ground, all_below(&path));
    healer.learn(&path, Known::No).unwrap();
    fs::remove_dir_all(ground.fs.join("x")).unwrap();
    assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Made, Did::Made, Did::Linked]);
    assert_eq!(fs::read(&path).unwrap(), b"right");
}

#[test]
fn something_mounted_over_it_is_said() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, mut healer) = protected(&ground);
    let none: Option<&str> = None;
    let path = top.join("sub");
    nix::mount::mount(Some("x"), &path, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    let actions = healer.reconcile(&path, &Hint::default());
    assert_eq!(dids(&actions), [Did::Failed(Failure::MountedOver)]);
    nix::mount::umount(&path).unwrap();
    assert_eq!(heal(&mut healer, &path, Change::Unknown), []);
}

#[test]
fn a_read_only_filesystem_is_said() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, mut healer) = protected(&ground);
    fs::remove_file(top.join("a")).unwrap();
    let remount = |options: &str| {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&ground.fs));
    };
    remount("ro");
    let actions = healer.reconcile(&top.join("a"), &Hint::default());
    assert_eq!(dids(&actions), [Did::Failed(Failure::ReadOnly)]);
    remount("rw");
    assert_eq!(dids(&heal(&mut healer, &top.join("a"), Change::Unknown)), [Did::Linked]);
}
