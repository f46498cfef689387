//! The same through another name, from another namespace, by another user, with names that are hard to handle.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::names::remove_all;
use super::{CONTENT, Place, Way, way, write};

/// Nobody in particular.
const UNPRIVILEGED: u32 = 65_534;

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn bound(place: &Place) -> io::Result<()> {
    fs::create_dir(place.out("bound"))?;
    bind(&place.inside, &place.out("bound"))
}

/// In a mount namespace of its own.
fn apart(work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            work()
        });
        thread.join().expect("no panic")
    })
}

/// With another root directory; for a thread that shares it with nobody.
fn within(root: &Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    nix::unistd::chroot(root)?;
    work()
}

/// With the whole mount table of this namespace moved aside.
fn pivoted(root: &Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    bind(root, root)?;
    std::env::set_current_dir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)?;
    work()
}

fn by_user(place: &Place, script: &str) -> io::Result<()> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).current_dir(&place.inside).uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    let done = command.stderr(std::process::Stdio::null()).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn strange(place: &Place) -> [PathBuf; 3] {
    let long = "l".repeat(255);
    [b"new\nline\"\\" as &[u8], b"\xff\xfe invalid", long.as_bytes()]
        .map(|name| place.inside.join(OsStr::from_bytes(name)))
}

fn make_strange(place: &Place) -> io::Result<()> {
    strange(place).iter().try_for_each(|path| fs::write(path, CONTENT))
}

/// A file below as many directories as a path may name.
fn deep(place: &Place) -> PathBuf {
    let mut path = place.inside.clone();
    while path.as_os_str().len() + 210 < libc::PATH_MAX as usize {
        path.push("d".repeat(200));
    }
    path.join("deep")
}

const WRITE_LINK: &str = "write through a symbolic link";
const WRITE_BIND: &str = "write through a bind mount, made before or after the start";
const WRITE_APART: &str = "write from another mount namespace or container";
const WRITE_OLD: &str = "write through a hard link that exists when the gate starts or reloads";
const WRITE_NEW: &str = "write through a hard link made later, outside every protected tree";
const NAMES: &str = "delete or rename through a symbolic link, a bind mount or another mount namespace";
const USER: &str = "delete, rename or change by another user who may write there";
const STRANGE: &str = "delete or rename what has a name with newlines, invalid UTF-8 or the longest length";

pub const WAYS: &[Way] = &[
    way(WRITE_LINK, "in the tree", |p| write(&p.at("link"))),
    way(WRITE_LINK, "from outside", |p| {
        symlink(p.file(), p.out("alias"))?;
        write(&p.out("alias"))
    }),
    way(WRITE_BIND, "before", |p| write(&p.out("bound/file"))).prepare(bound),
    way(WRITE_BIND, "of a file", |p| {
        fs::write(p.out("bound"), "")?;
        bind(&p.file(), &p.out("bound"))?;
        write(&p.out("bound"))
    }),
    way(WRITE_BIND, "after", |p| {
        bound(p)?;
        write(&p.out("bound/file"))
    }),
    way(WRITE_APART, "unshare", |p| apart(|| write(&p.file()))),
    way(WRITE_APART, "chroot", |p| apart(|| within(&p.inside, || write(Path::new("/file"))))),
    way(WRITE_APART, "pivot_root", |p| apart(|| pivoted(&p.inside, || write(Path::new("/file"))))),
    way(WRITE_OLD, "link", |p| write(&p.out("old"))).prepare(|p| fs::hard_link(p.file(), p.out("old"))),
    way(WRITE_NEW, "link", |p| {
        fs::hard_link(p.file(), p.out("late"))?;
        match write(&p.out("late")) {
            Ok(()) => Err(io::ErrorKind::InvalidData.into()),
            // Refused, or the name is gone already.
            Err(_) => Ok(()),
        }
    }),
    way(NAMES, "symbolic link to the directory, unlink", |p| {
        symlink(p.at("dir"), p.out("alias"))?;
        fs::remove_file(p.out("alias/inner"))
    }),
    way(NAMES, "bind mount, unlink", |p| fs::remove_file(p.out("bound/file"))).prepare(bound),
    way(NAMES, "bind mount, rename", |p| {
        bound(p)?;
        fs::rename(p.out("bound/file"), p.out("bound/dir/inner"))
    }),
    way(NAMES, "another namespace, unlink", |p| apart(|| fs::remove_file(p.file()))),
    way(NAMES, "another namespace, rename", |p| apart(|| fs::rename(p.file(), p.at("other")))),
    way(NAMES, "chroot, unlink", |p| apart(|| within(&p.inside, || fs::remove_file("/file")))),
    way(NAMES, "pivot_root, rename", |p| apart(|| pivoted(&p.inside, || fs::rename("/file", "/dir/inner")))),
    way(NAMES, "/proc/<pid>/root, unlink", |p| {
        fs::remove_file(Path::new("/proc/self/root").join(p.file().strip_prefix("/").expect("absolute")))
    }),
    way(USER, "rm", |p| by_user(p, "rm -f file")),
    way(USER, "mv", |p| by_user(p, "mv other file")),
    way(USER, "mkdir", |p| by_user(p, "mkdir new")),
    way(STRANGE, "unlink", |p| strange(p).iter().try_for_each(fs::remove_file)).prepare(make_strange),
    way(STRANGE, "rename", |p| {
        let [a, b, c] = strange(p);
        fs::rename(a, p.at("moved"))?;
        fs::rename(b, c)
    })
    .prepare(make_strange),
    way(STRANGE, "unlink below 4,000 bytes of path", |p| fs::remove_file(deep(p))).prepare(|p| {
        fs::create_dir_all(deep(p).parent().expect("above"))?;
        fs::write(deep(p), CONTENT)
    }),
    way(STRANGE, "rm -r of 4,000 bytes of path", |p| remove_all(&p.at(&"d".repeat(200))))
        .prepare(|p| {
            fs::create_dir_all(deep(p).parent().expect("above"))?;
            fs::write(deep(p), CONTENT)
        })
        .remade(),
    way(STRANGE, "make", |p| strange(p).iter().try_for_each(fs::create_dir)),
];
