//! What an object does to whoever handles it: flags that are inherited, leases, names that change meanwhile.

mod heal_support;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use heal_support::*;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use writegate::heal::{Bounds, Change, Did, Failure, Healer, Inventory, Limits, Quarantine, Vault};
use writegate::sys::inode;

/// A directory outside, in which everything new inherits +d.
fn flagged(ground: &Ground) -> PathBuf {
    let out = ground.fs.join("out");
    fs::create_dir(&out).unwrap();
    chattr("+d", &out);
    out
}

/// Tells who opens `path`.
fn watch(path: &Path) -> OwnedFd {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: inotify_init1(2) makes a descriptor, and `name` is NUL-terminated.
    unsafe {
        let fd = OwnedFd::from_raw_fd(libc::inotify_init1(libc::IN_NONBLOCK));
        assert!(libc::inotify_add_watch(fd.as_raw_fd(), name.as_ptr(), libc::IN_OPEN) >= 0);
        fd
    }
}

fn was_opened(watch: &OwnedFd) -> bool {
    nix::unistd::read(watch, &mut [0u8; 256]).is_ok()
}

#[test]
fn foreign_nodes_with_inherited_flags_go_and_are_not_opened() {
    let Some(ground) = ground(Kind::Ext4) else { return };
    let (top, mut healer) = protected(&ground);
    let out = flagged(&ground);
    symlink("/evil", out.join("link")).unwrap();
    mkfifo(&out.join("pipe"), Mode::S_IRWXU).unwrap();
    mknod(&out.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
    let _socket = UnixListener::bind(out.join("socket")).unwrap();
    for name in ["link", "pipe", "null", "socket"] {
        let (from, to) = (out.join(name), top.join("sub").join(name));
        let watch = (name != "link").then(|| watch(&from));
        fs::rename(&from, &to).unwrap();
        assert_eq!(dids(&heal(&mut healer, &to, Change::Unknown)), [Did::Removed], "{name}");
        assert!(to.symlink_metadata().is_err(), "{name}");
        assert!(!watch.is_some_and(|watch| was_opened(&watch)), "{name} was opened");
    }
    // In the place of something, too.
    symlink("/evil", out.join("other")).unwrap();
    fs::rename(out.join("other"), top.join("a")).unwrap();
    let actions = heal(&mut healer, &top.join("a"), Change::Unknown);
    assert_eq!((dids(&actions), actions[0].evidence_lost), (vec![Did::Linked], None));
    let left = fs::read_dir(&top).unwrap().flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|name| name.as_bytes().starts_with(b".writegate")).count(), 0);
}

#[test]
fn a_protected_link_with_inherited_flags_is_set_back_once() {
    let Some(ground) = ground(Kind::Ext4) else { return };
    let top = ground.fs.join("prot");
    fs::create_dir(&top).unwrap();
    chattr("+d", &top);
    symlink("right", top.join("link")).unwrap();
    let mut healer = healer(&ground, all_below(&top));
    healer.learn_tree(&top);
    std::os::unix::fs::lchown(top.join("link"), Some(7), Some(7)).unwrap();
    assert_eq!(dids(&heal(&mut healer, &top.join("link"), Change::Metadata)), [Did::Metadata]);
    assert_eq!(heal(&mut healer, &top.join("link"), Change::Unknown), []);
}

#[test]
fn what_holds_such_a_node_is_dropped_when_the_quarantine_is_full() {
    let Some(ground) = ground(Kind::Ext4) else { return };
    let (top, _) = protected(&ground);
    let out = flagged(&ground);
    let quarantine = Quarantine::open(&ground.state, Bounds { items: 1, ..Bounds::default() }).unwrap();
    let vault = Vault::open(&ground.state, Limits::default());
    let mut healer = Healer::new(Inventory::new(false), vault, quarantine, all_below(&top));
    healer.learn_tree(&top);
    for name in ["first", "second"] {
        let tree = out.join(name);
        fs::create_dir(&tree).unwrap();
        symlink("x", tree.join("link")).unwrap();
        mkfifo(&tree.join("pipe"), Mode::S_IRWXU).unwrap();
        fs::rename(&tree, top.join(name)).unwrap();
        heal(&mut healer, &top.join(name), Change::Unknown);
    }
    let store = store_in(&ground.fs, &ground.state, "quarantine");
    // One of them, and the file that says whose the store is.
    assert_eq!(fs::read_dir(store).unwrap().count(), 2);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_lease_keeps_no_wrong_mode() {
    let Some(ground) = ground(Kind::Ext4) else { return };
    let (top, mut healer) = protected(&ground);
    let path = top.join("a");
    let right = mode(&path);
    // Breaking a lease sends a signal whose default action is death.
    // SAFETY: signal(2) with SIG_IGN installs no code.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let holder = File::open(&path).unwrap();
    // SAFETY: fcntl(2) F_SETLEASE takes integers.
    let leased = unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    assert_eq!(leased, 0);
    holder.set_permissions(fs::Permissions::from_mode(0o6777)).unwrap();
    inode::set_flags(holder.as_fd(), inode::FLAG_IMMUTABLE).unwrap();
    let by_path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    if inode::set_flags_unopened(&by_path, inode::FLAG_IMMUTABLE).is_err() {
        inode::set_flags(holder.as_fd(), 0).unwrap();
        return eprintln!("this kernel sets flags of open files only");
    }
    let watch = watch(&path);
    assert_eq!(dids(&heal(&mut healer, &path, Change::Metadata)), [Did::Metadata]);
    let now = inode::of_path(&by_path).unwrap();
    assert_eq!((now.mode & 0o7777, now.flags), (right, 0));
    assert!(!was_opened(&watch));
}

#[test]
fn flags_are_set_without_opening_and_leave_others_alone() {
    let Some(ground) = ground(Kind::Ext4) else { return };
    let path = ground.fs.join("file");
    fs::write(&path, "").unwrap();
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    chattr("+SA", &path);
    let shown = || {
        let output = std::process::Command::new("lsattr").arg(&path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().replace('-', "")
    };
    for (flags, letters) in [
        (inode::FLAG_APPEND | inode::FLAG_NODUMP, "SadAe"),
        (inode::FLAG_IMMUTABLE, "SiAe"),
        (inode::FLAG_NODUMP, "SdAe"),
        (0, "SAe"),
    ] {
        if inode::set_flags_unopened(&name, flags)
            .is_err_and(|error| error.raw_os_error() == Some(libc::ENOSYS))
        {
            return eprintln!("this kernel sets flags of open files only");
        }
        assert_eq!((shown().as_str(), inode::of_path(&name).unwrap().flags), (letters, flags));
    }
}

#[test]
fn further_names_go_one_after_the_other() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let (path, out) = (top.join("a"), ground.fs.join("out"));
        fs::create_dir(&out).unwrap();
        let alias = |n: usize| out.join(n.to_string());
        (0..1500).for_each(|n| fs::hard_link(&path, alias(n)).unwrap());
        let flags = if kind == Kind::Tmpfs { "" } else { "+a" };
        if !flags.is_empty() {
            chattr(flags, &out);
        }
        let mut actions = healer.take_links_away(&path, &alias(1499));
        // There may have been no time for all of them.
        while healer.next_due().is_some() {
            actions.extend(healer.due().into_iter().filter(|action| action.path != path));
        }
        assert_eq!(actions.len(), 1500, "{kind:?}");
        assert!(actions.iter().all(|action| action.did == Did::Unlinked), "{kind:?}");
        assert_eq!((fs::metadata(&path).unwrap().nlink(), fs::read_dir(&out).unwrap().count()), (2, 0));
        assert_eq!(healer.count_names(&path), None);
        if !flags.is_empty() {
            assert!(fs::create_dir(out.join("new")).is_ok());
            assert!(fs::remove_dir(out.join("new")).is_err(), "{kind:?}: its flag is back");
            chattr("-a", &out);
        }
        // The name that is known last hides the one before while somebody holds it; not on tmpfs.
        fs::hard_link(&path, alias(0)).unwrap();
        fs::hard_link(&path, alias(1)).unwrap();
        let _held = File::open(alias(1)).unwrap();
        let taken = healer.take_links_away(&path, &alias(1)).len();
        assert_eq!(taken, if kind == Kind::Tmpfs { 2 } else { 1 }, "{kind:?}");
        let left = healer.count_names(&path).map(|action| action.did);
        let hidden = (taken == 1).then_some(Did::Failed(Failure::OtherNames(1)));
        assert_eq!(left, hidden, "{kind:?}");
    }
}

#[test]
fn names_from_before_stay() {
    let Some(ground) = ground(Kind::Ext4) else { return };
    let top = ground.fs.join("prot");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("a"), "a").unwrap();
    fs::hard_link(top.join("a"), ground.fs.join("before")).unwrap();
    let mut healer = healer(&ground, all_below(&top));
    healer.learn_tree(&top);
    let id = ino(&top.join("a"));
    fs::hard_link(top.join("a"), ground.fs.join("new")).unwrap();
    let actions = healer.take_links_away(&top.join("a"), &ground.fs.join("new"));
    assert_eq!(dids(&actions), [Did::Unlinked]);
    assert_eq!((ino(&ground.fs.join("before")), healer.count_names(&top.join("a"))), (id, None));
    // Nor after a restart.
    healer.rehold();
    healer.scan();
    let inode = fs::metadata(top.join("a")).unwrap();
    let id = writegate::sys::file::Identity { dev: inode.dev(), ino: inode.ino() };
    assert!(!healer.is_foreign_link(id, inode.nlink() as u32));
}

/// Whoever may write in the directory that something is released to puts his own under the name in between.
#[test]
fn a_release_across_filesystems_dresses_nothing_but_its_own() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, mut healer) = protected(&ground);
    let to = ground.dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let (name, victim) = (to.join("name"), to.join("victim"));
    for round in 0..30 {
        let foreign = top.join(format!("foreign{round}"));
        fs::write(&foreign, vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::chown(&foreign, Some(12), Some(34)).unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o6755)).unwrap();
        let id = heal(&mut healer, &foreign, Change::Unknown).remove(0).quarantine.unwrap();
        fs::write(&victim, "victim").unwrap();
        let before = fs::metadata(&victim).unwrap();
        let _ = fs::remove_file(&name);
        let (done, swapped) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) && !swapped.load(Ordering::Relaxed) {
                    if name.exists() {
                        fs::rename(&victim, &name).unwrap();
                        swapped.store(true, Ordering::Relaxed);
                    }
                }
            });
            let mut quarantine = Quarantine::existing(&ground.state).unwrap();
            if let Err(failure) = quarantine.release(&id, &name) {
                assert_eq!(failure, Failure::Replaced);
                assert!(Quarantine::existing(&ground.state).unwrap().show(&id).is_some());
            }
            done.store(true, Ordering::Relaxed);
        });
        if swapped.load(Ordering::Relaxed)
            && let Ok(after) = fs::metadata(&name)
            && after.ino() == before.ino()
        {
            let dressed = (after.uid(), after.gid(), after.mode());
            assert_eq!(dressed, (before.uid(), before.gid(), before.mode()), "round {round}");
        }
    }
}
