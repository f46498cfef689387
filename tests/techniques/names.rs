//! Names: no permission event exists for any of this.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{AT_FDCWD, AtFlags, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{UnlinkatFlags, linkat, mkfifo, unlinkat};

use super::{EVIL, Way, nameless, way};
use crate::support::{rare, raw};

fn renamed(from: &Path, to: &Path, how: RenameFlags) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, from, AT_FDCWD, to, how)?)
}

fn node(path: &Path, kind: SFlag) -> io::Result<()> {
    Ok(mknod(path, kind, Mode::S_IRUSR, makedev(1, 3))?)
}

const UNLINK: &str = "delete a file: unlink";
const RMDIR: &str = "delete a directory: rmdir";
const AWAY: &str = "rename a protected name away";
const OUT: &str = "rename a protected name out of the tree";
const OVER: &str = "rename something over a protected name";
const IN: &str = "rename something into the tree";
const EXCHANGE: &str = "exchange a protected name with another: renameat2";
const WHITEOUT: &str = "leave a whiteout: renameat2";
const ROOT: &str = "rename or delete the tree itself, or a directory above it";
const LINK: &str = "make a hard link: link";
const LINK_OUT: &str = "make a hard link to a protected file outside the tree";
const NAMELESS: &str = "give a file without a name one in the tree: linkat of /proc/self/fd/N";
const SYMLINK: &str = "make a symbolic link: symlink";
const MKDIR: &str = "make a directory: mkdir";
const MKNOD: &str = "make a FIFO, socket or device node: mknod";
const MKNOD_FILE: &str = "make a file without opening it: mknod";
const RUN: &str = "run a program that replaced a protected one";

pub const WAYS: &[Way] = &[
    way(UNLINK, "unlink", |p| fs::remove_file(p.file())),
    way(UNLINK, "unlinkat", |p| Ok(unlinkat(AT_FDCWD, &p.at("dir/inner"), UnlinkatFlags::NoRemoveDir)?)),
    way(UNLINK, "io_uring", |p| rare::unlink_uring(&p.file())).needs("io_uring"),
    way(UNLINK, "int 0x80", |p| raw::unlink_i386(&p.file())).needs("i386"),
    way(UNLINK, "of a FIFO", |p| fs::remove_file(p.at("fifo"))),
    way(UNLINK, "of a symbolic link", |p| fs::remove_file(p.at("link"))),
    way(RMDIR, "rm -r", |p| remove_all(&p.at("dir"))).remade(),
    way(RMDIR, "unlink, rmdir", |p| {
        fs::remove_file(p.at("dir/inner"))?;
        match fs::remove_dir(p.at("dir")) {
            // The file is back already.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other,
        }
    })
    .remade(),
    way(AWAY, "rename", |p| fs::rename(p.file(), p.at("moved"))),
    way(AWAY, "renameat2 NOREPLACE", |p| {
        renamed(&p.file(), &p.at("dir/moved"), RenameFlags::RENAME_NOREPLACE)
    }),
    way(AWAY, "io_uring", |p| rare::rename_uring(&p.file(), &p.at("moved"))).needs("io_uring"),
    way(AWAY, "of a directory", |p| fs::rename(p.at("dir"), p.at("moved"))),
    way(OUT, "of a file", |p| fs::rename(p.file(), p.out("moved"))),
    way(OUT, "of a directory", |p| fs::rename(p.at("dir"), p.out("moved"))),
    way(OUT, "of a file, over another", |p| fs::rename(p.file(), p.out("file"))),
    way(OVER, "from outside", |p| fs::rename(p.out("file"), p.file())),
    way(OVER, "another protected one", |p| fs::rename(p.at("other"), p.file())),
    way(OVER, "over a symbolic link", |p| fs::rename(p.out("file"), p.at("link"))),
    way(IN, "a file", |p| fs::rename(p.out("file"), p.at("new"))),
    way(IN, "a directory", |p| fs::rename(p.out("dir"), p.at("new"))),
    way(EXCHANGE, "two protected ones", |p| renamed(&p.file(), &p.at("other"), RenameFlags::RENAME_EXCHANGE)),
    way(EXCHANGE, "with a file outside", |p| {
        renamed(&p.file(), &p.out("file"), RenameFlags::RENAME_EXCHANGE)
    }),
    way(EXCHANGE, "with a directory outside", |p| {
        renamed(&p.at("dir"), &p.out("dir"), RenameFlags::RENAME_EXCHANGE)
    }),
    way(WHITEOUT, "RENAME_WHITEOUT", |p| renamed(&p.file(), &p.out("moved"), RenameFlags::RENAME_WHITEOUT)),
    way(ROOT, "the tree, away", |p| fs::rename(&p.inside, p.out("moved"))).at_root(),
    way(ROOT, "the directory above, away", |p| fs::rename(p.inside.parent().expect("above"), p.out("moved")))
        .at_root(),
    way(ROOT, "the tree, replaced", |p| renamed(&p.inside, &p.out("dir"), RenameFlags::RENAME_EXCHANGE))
        .at_root(),
    way(ROOT, "rm -r", |p| remove_all(&p.inside)).at_root().remade(),
    way(LINK, "of a protected file", |p| fs::hard_link(p.file(), p.at("new"))),
    way(LINK, "of a foreign file", |p| fs::hard_link(p.out("file"), p.at("dir/new"))),
    way(LINK, "io_uring", |p| rare::link_uring(&p.file(), &p.at("new"))).needs("io_uring"),
    way(LINK_OUT, "AT_EMPTY_PATH of a reader", |p| {
        rare::link_empty_path(&fs::File::open(p.file())?, &p.out("new"))
    }),
    way(LINK_OUT, "link", |p| fs::hard_link(p.file(), p.out("new"))),
    way(LINK_OUT, "linkat of a symbolic link", |p| {
        let flags = AtFlags::AT_SYMLINK_FOLLOW;
        Ok(linkat(AT_FDCWD, &p.at("link"), AT_FDCWD, &p.out("new"), flags)?)
    }),
    way(NAMELESS, "O_TMPFILE outside", |p| raw::link_descriptor(&nameless(&p.outside)?, &p.at("new"))),
    way(NAMELESS, "AT_EMPTY_PATH", |p| rare::link_empty_path(&nameless(&p.outside)?, &p.at("new"))),
    way(SYMLINK, "io_uring", |p| rare::symlink_uring(Path::new("/etc/passwd"), &p.at("new")))
        .needs("io_uring"),
    way(SYMLINK, "symlink", |p| symlink("/etc/passwd", p.at("new"))),
    way(MKDIR, "mkdir", |p| fs::create_dir(p.at("new"))),
    way(MKDIR, "io_uring", |p| rare::mkdir_uring(&p.at("new"))).needs("io_uring"),
    way(MKDIR, "mkdir -p", |p| fs::create_dir_all(p.at("new/and/deeper")).or_else(too_late)),
    way(MKNOD, "FIFO", |p| Ok(mkfifo(&p.at("new"), Mode::S_IRUSR)?)),
    way(MKNOD, "character device", |p| node(&p.at("new"), SFlag::S_IFCHR)),
    way(MKNOD, "block device", |p| node(&p.at("new"), SFlag::S_IFBLK)),
    way(MKNOD, "socket", |p| node(&p.at("new"), SFlag::S_IFSOCK)),
    way("bind a socket to a name: bind", "bind", |p| UnixListener::bind(p.at("s")).map(drop)),
    way(MKNOD_FILE, "mknod", |p| node(&p.at("new"), SFlag::S_IFREG)),
    way(RUN, "rename over, exec", |p| {
        fs::copy("/bin/true", p.out("program"))?;
        fs::rename(p.out("program"), p.file())?;
        // It may be back already, and is no program then.
        let _ = Command::new(p.file()).status();
        Ok(())
    }),
    way("fill a name again and again while it is healed", "ten times", |p| {
        for _ in 0..10 {
            fs::write(p.out("again"), EVIL)?;
            fs::rename(p.out("again"), p.file())?;
        }
        Ok(())
    }),
];

/// The directory is healed away while its maker goes on.
fn too_late(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// As rm -r does it, once: what comes back meanwhile stays.
pub fn remove_all(top: &Path) -> io::Result<()> {
    fs::remove_dir_all(top).or_else(|error| {
        if error.kind() == io::ErrorKind::DirectoryNotEmpty { Ok(()) } else { too_late(error) }
    })
}
