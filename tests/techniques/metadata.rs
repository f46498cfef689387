//! Modes, owners, attributes, times, flags.

use std::ffi::CStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, fchown, lchown};
use std::path::Path;
use std::time::SystemTime;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use writegate::sys::{attack, inode, xattr};

use super::{Way, way};
use crate::support::{
    rare,
    raw::{self, cstr},
};

/// Somebody else's number.
const OTHER: u32 = 12_345;

/// Sets an attribute.
pub fn set(path: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    attack::set_attribute(&cstr(path), name, value)
}

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn flags(path: &Path, flags: u32) -> io::Result<()> {
    inode::set_flags(File::open(path)?.as_fd(), flags)
}

/// `struct vfs_cap_data`, revision 2: the right to set user ids, effective.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// An access list in the kernel's form: the owner, user 12345, the group, a mask, others.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 6, 0, 0x39, 0x30, 0, 0, 4, 0, 4, 0, 0xff, 0xff,
    0xff, 0xff, 0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 0x20, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
];

const CHMOD: &str = "change permissions: chmod";
const CHOWN: &str = "change owner or group: chown";
const XATTR: &str = "change extended attributes, ACLs, file capabilities: setxattr";
const UTIMES: &str = "change times: utimes";
const CHATTR: &str = "change inode flags: chattr";
const CHATTR_NODUMP: &str = "change inode flags: chattr +d";
const CHATTR_UNSEEN: &str = "change other inode flags: chattr +S, +A, +D, +c and the like";

/// `FS_SYNC_FL` of linux/fs.h.
const SYNCHRONOUS: u32 = 0x8;
/// `FS_NOATIME_FL` of linux/fs.h.
const NO_ACCESS_TIME: u32 = 0x80;

pub const WAYS: &[Way] = &[
    way(CHMOD, "chmod", |p| mode(&p.file(), 0o777)),
    way(CHMOD, "set-user-id", |p| mode(&p.file(), 0o4755)),
    way(CHMOD, "fchmod of a reader", |p| {
        File::open(p.file())?.set_permissions(Permissions::from_mode(0o000))
    }),
    way(CHMOD, "fchmodat2", |p| raw::fchmodat2(&p.file(), 0o000)),
    way(CHMOD, "of a directory", |p| mode(&p.at("dir"), 0o000)),
    way(CHMOD, "of the tree itself", |p| mode(&p.inside, 0o000)).at_root(),
    way(CHMOD, "of a FIFO", |p| mode(&p.at("fifo"), 0o777)),
    way(CHOWN, "chown", |p| chown(p.file(), Some(OTHER), None)),
    way(CHOWN, "fchown of a reader", |p| fchown(File::open(p.file())?, Some(OTHER), Some(OTHER))),
    way(CHOWN, "lchown of a symbolic link", |p| lchown(p.at("link"), Some(OTHER), None)),
    way(CHOWN, "of a directory", |p| chown(p.at("dir"), Some(OTHER), Some(OTHER))),
    way(XATTR, "user.", |p| set(&p.file(), c"user.intruder", b"1")),
    way(XATTR, "changed", |p| set(&p.file(), c"user.kept", b"no")),
    way(XATTR, "removed", |p| xattr::remove(&cstr(&p.file()), c"user.kept")),
    way(XATTR, "io_uring, through a reader", |p| {
        rare::set_attribute_uring(&File::open(p.file())?, c"user.kept", b"no")
    })
    .needs("io_uring"),
    way(XATTR, "trusted.", |p| set(&p.file(), c"trusted.intruder", b"1")),
    way(XATTR, "security.", |p| set(&p.file(), c"security.intruder", b"1")),
    way(XATTR, "security.capability", |p| set(&p.file(), c"security.capability", CAPABILITY)),
    way(XATTR, "system.posix_acl_access", |p| set(&p.file(), c"system.posix_acl_access", ACL)),
    way(XATTR, "system.posix_acl_default", |p| set(&p.at("dir"), c"system.posix_acl_default", ACL)),
    way(UTIMES, "futimens of a reader", |p| {
        File::open(p.file())?.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
    }),
    way(UTIMES, "utimensat", |p| {
        let (then, how) = (TimeSpec::new(1, 2), UtimensatFlags::NoFollowSymlink);
        Ok(utimensat(AT_FDCWD, &p.at("link"), &then, &then, how)?)
    }),
    way(UTIMES, "utimensat of a directory", |p| {
        let then = TimeSpec::new(1, 2);
        Ok(utimensat(AT_FDCWD, &p.at("dir"), &then, &then, UtimensatFlags::FollowSymlink)?)
    }),
    way(UTIMES, "of a directory", |p| {
        File::open(p.at("dir"))?.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
    }),
    way(CHATTR, "+i", |p| flags(&p.file(), inode::FLAG_IMMUTABLE)),
    way(CHATTR, "+a of a directory", |p| flags(&p.at("dir"), inode::FLAG_APPEND)),
    way(CHATTR, "-i", |p| flags(&p.file(), 0)).prepare(|p| flags(&p.file(), inode::FLAG_IMMUTABLE)),
    way(CHATTR, "+i without an open: file_setattr", |p| rare::make_immutable(&p.file()))
        .possible(rare::has_file_setattr),
    way(CHATTR_NODUMP, "+d", |p| flags(&p.file(), inode::FLAG_NODUMP)),
    way(CHATTR_NODUMP, "+d of a directory", |p| flags(&p.at("dir"), inode::FLAG_NODUMP)),
    way(CHATTR_UNSEEN, "+S", |p| rare::add_flags(&p.file(), SYNCHRONOUS)),
    way(CHATTR_UNSEEN, "+A of a directory", |p| rare::add_flags(&p.at("dir"), NO_ACCESS_TIME)),
    way(CHATTR, "+i of the directory of a file that is deleted", |p| {
        fs::remove_file(p.at("dir/inner"))?;
        flags(&p.at("dir"), inode::FLAG_IMMUTABLE)
    }),
];
