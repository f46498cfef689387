//! Real filesystems for the healing tests: each test thread gets its own mount namespace.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use writegate::heal::{
    Action, Bounds, Did, Duties, Duty, Healer, Hint, Inventory, Limits, Quarantine, Vault,
};

/// A mounted filesystem and a state directory on another one.
pub struct Ground {
    pub dir: tempfile::TempDir,
    /// The root of the filesystem under test.
    pub fs: PathBuf,
    pub state: PathBuf,
}

/// Which filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tmpfs,
    Ext4,
    /// The one of the temporary directory, with the state directory on it.
    Same,
}

pub const KINDS: [Kind; 3] = [Kind::Tmpfs, Kind::Ext4, Kind::Same];

/// `None` without the rights to mount: the test has nothing to run on.
pub fn ground(kind: Kind) -> Option<Ground> {
    ground_of(kind, 64 << 20)
}

pub fn ground_of(kind: Kind, bytes: u64) -> Option<Ground> {
    if !nix::unistd::geteuid().is_root() || unshare(CloneFlags::CLONE_NEWNS).is_err() {
        eprintln!("skipped: needs root");
        return None;
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (fs, state) = (dir.path().join("fs"), dir.path().join("state"));
    std::fs::create_dir(&fs).unwrap();
    std::fs::create_dir(&state).unwrap();
    match kind {
        Kind::Tmpfs => mount(
            Some("tmpfs"),
            &fs,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(format!("size={bytes},nr_inodes=500000").as_str()),
        )
        .unwrap(),
        Kind::Ext4 => {
            let image = dir.path().join("image");
            std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-N", "32000", "-I", "256"]).arg(&image));
            run(Command::new("mount").args(["-o", "loop"]).args([&image, &fs]));
            std::fs::remove_dir(fs.join("lost+found")).unwrap();
        }
        Kind::Same => {}
    }
    Some(Ground { dir, fs, state })
}

impl Drop for Ground {
    fn drop(&mut self) {
        clear_flags(&self.fs);
        let _ = nix::mount::umount2(&self.fs, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn clear_flags(top: &Path) {
    let _ = Command::new("chattr").args(["-R", "-f", "-ia"]).arg(top).output();
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn chattr(flags: &str, path: &Path) {
    run(Command::new("chattr").arg(flags).arg("--").arg(path));
}

/// Sets or removes an extended attribute.
pub fn attribute(path: &Path, name: &std::ffi::CStr, value: Option<&[u8]>) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    match value {
        Some(value) => writegate::sys::xattr::set(&path, name, value).unwrap(),
        None => writegate::sys::xattr::remove(&path, name).unwrap(),
    }
}

/// Everything below `top` is to stay.
pub fn all_below(top: &Path) -> Duties {
    let top = top.to_owned();
    Arc::new(move |path| if path.starts_with(&top) { Duty::ALL } else { Duty::NONE })
}

pub fn healer(ground: &Ground, duties: Duties) -> Healer {
    healer_with(ground, duties, Limits::default())
}

pub fn healer_with(ground: &Ground, duties: Duties, limits: Limits) -> Healer {
    let quarantine = Quarantine::open(&ground.state, Bounds::default()).unwrap();
    Healer::new(Inventory::new(true), Vault::open(&ground.state, limits), quarantine, duties)
}

/// A protected tree `fs/prot` with some of everything, learned.
pub fn protected(ground: &Ground) -> (PathBuf, Healer) {
    let top = ground.fs.join("prot");
    std::fs::create_dir_all(top.join("sub/deep")).unwrap();
    std::fs::write(top.join("a"), "content of a").unwrap();
    std::fs::write(top.join("b"), "content of b").unwrap();
    std::fs::write(top.join("empty"), "").unwrap();
    std::fs::write(top.join("sub/c"), vec![7u8; 300_000]).unwrap();
    std::fs::write(top.join("sub/deep/d"), "d").unwrap();
    std::os::unix::fs::symlink("sub/c", top.join("link")).unwrap();
    nix::unistd::mkfifo(&top.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    std::os::unix::fs::chown(top.join("b"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::lchown(top.join("link"), Some(5), Some(6)).unwrap();
    run(Command::new("chmod").arg("4711").arg(top.join("b")));
    attribute(&top.join("a"), c"trusted.note", Some(b"right"));
    for (name, time) in
        [("a", "@1000.5"), ("b", "@2000"), ("link", "@3000"), ("sub", "@4000"), (".", "@5000")]
    {
        run(Command::new("touch").args(["-h", "-m", "-d", time]).arg(top.join(name)));
    }
    let mut healer = healer(ground, all_below(&top));
    assert_eq!(healer.learn_tree(&top), 0);
    (top, healer)
}

/// What one name is, without its inode number and change time.
fn describe(path: &Path) -> String {
    let m = path.symlink_metadata().unwrap();
    let kind = m.file_type();
    let content = if kind.is_file() {
        blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string()
    } else if kind.is_symlink() {
        std::fs::read_link(path).unwrap().display().to_string()
    } else {
        String::new()
    };
    let mut inventory = Inventory::new(false);
    inventory.take(path).unwrap();
    let expected = inventory.get(path).unwrap();
    let fifo = kind.is_fifo();
    format!(
        "{:o} {}:{} size {} mtime {}.{:09} rdev {} flags {:x} fifo {fifo} {content} {:?}",
        m.mode(),
        m.uid(),
        m.gid(),
        if m.is_dir() { 0 } else { m.size() },
        m.mtime(),
        m.mtime_nsec(),
        m.rdev(),
        expected.flags,
        expected.xattrs(),
    )
}

/// All names below `top` and what they are.
pub fn digest(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".writegate-")) {
            continue;
        }
        if path.symlink_metadata().unwrap().is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path.clone(), describe(&path));
    }
    found
}

/// Only what differs, for a readable failure.
pub fn assert_same(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>) {
    let lost: Vec<_> = before.iter().filter(|(path, what)| after.get(*path) != Some(*what)).collect();
    let new: Vec<_> = after.iter().filter(|(path, what)| before.get(*path) != Some(*what)).collect();
    assert!(lost.is_empty() && new.is_empty(), "was {lost:#?}\nis {new:#?}");
}

pub fn dids(actions: &[Action]) -> Vec<Did> {
    actions.iter().map(|action| action.did.clone()).collect()
}

pub fn heal(healer: &mut Healer, path: &Path, hint: impl Into<Hint>) -> Vec<Action> {
    let actions = healer.reconcile(path, &hint.into());
    for action in &actions {
        assert!(!matches!(action.did, Did::Failed(_)) && action.incomplete.is_none(), "{action:?}");
    }
    actions
}

pub fn ino(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

/// The store of this kind in a mount's root; its name ends with the id in the state directory.
pub fn store_in(root: &Path, state: &Path, kind: &str) -> PathBuf {
    let instance = std::fs::read_to_string(state.join("instance")).unwrap();
    root.join(format!(".writegate-{kind}-{instance}"))
}
