//! What was just made, as a descriptor. mkdir(2), mknod(2) and symlink(2) give none, and whoever may write in the
//! directory may put something of his own under the name before it is opened: what would be done to it then, owner and
//! set-id bits, would be done to his. So it is looked at whether it can be ours.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use super::object::{Object, c_string};
use crate::sys::inode::{Inode, Time};
use crate::sys::names;

/// The permissions of everybody else.
const OTHERS: u32 = 0o077;

/// A new file, readable and writable for us alone: the very one, for the kernel opens what it makes.
pub fn file(directory: &Object, name: &CStr) -> io::Result<Object> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    Object::of(names::open_at(directory.as_fd(), name, flags, 0o600)?)
}

/// A new directory, for us alone and empty.
pub fn directory(directory: &Object, name: &CStr) -> io::Result<Object> {
    let since = Time::now();
    names::make_dir(directory.as_fd(), name, 0o700)?;
    let made = directory.child(name)?;
    let inode = made.inode()?;
    prove(inode.is_dir() && is_new(&inode, since) && inode.mode & OTHERS == 0)?;
    prove(made.entries()?.is_empty())?;
    Ok(made)
}

/// A new device node, FIFO or socket, for us alone.
pub fn node(directory: &Object, name: &CStr, file_type: u32, device: u64) -> io::Result<Object> {
    let since = Time::now();
    names::make_node(directory.as_fd(), name, file_type | 0o600, device)?;
    let made = directory.child(name)?;
    let inode = made.inode()?;
    let is_alike = (inode.file_type(), inode.rdev, inode.links) == (file_type, device, 1);
    prove(is_alike && is_new(&inode, since) && inode.mode & OTHERS == 0)?;
    Ok(made)
}

/// A new symbolic link.
pub fn symlink(directory: &Object, name: &CStr, target: &[u8]) -> io::Result<Object> {
    let since = Time::now();
    names::symlink(&c_string(target)?, directory.as_fd(), name)?;
    let made = directory.child(name)?;
    let inode = made.inode()?;
    prove(inode.file_type() == libc::S_IFLNK && inode.links == 1 && is_new(&inode, since))?;
    prove(made.target()? == target)?;
    Ok(made)
}

/// Whether it is ours, and where the filesystem knows when it was made, from now.
fn is_new(inode: &Inode, since: Time) -> bool {
    let is_dated = inode.born != Time::default();
    inode.uid == nix::unistd::geteuid().as_raw() && (!is_dated || inode.born >= since)
}

/// `ESTALE`: somebody has put something else there meanwhile, which is left alone.
fn prove(is_ours: bool) -> io::Result<()> {
    if is_ours { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESTALE)) }
}
