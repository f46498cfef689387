//! A descriptor that stands for one object. All work goes through it, so that a name which changes its meaning
//! meanwhile cannot redirect it.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::expected::Xattr;
use crate::sys::inode::{self, FLAGS_BLOCKING, Inode, Time};
use crate::sys::{names, reach, xattr};

/// How a directory is opened, and nothing but a directory.
const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK;

/// An object, opened with `O_PATH`: raises no permission event, follows no link. One that was made as a file is open.
#[derive(Debug)]
pub struct Object {
    fd: OwnedFd,
    /// `/proc/self/fd/N`, for the calls that take no such descriptor.
    proc_path: CString,
}

impl Object {
    /// What `fd` stands for.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let proc_path = c_string(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes())?;
        Ok(Self { fd, proc_path })
    }

    /// What an absolute path names; `ELOOP` where a directory in it is a symbolic link, `EXDEV` where it leads into
    /// a mount that came over it, see [`reach`].
    pub fn at_path(path: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        Self::of(reach::open(path.as_os_str().as_bytes(), flags, libc::RESOLVE_NO_SYMLINKS)?)
    }

    /// The directory that an absolute path names, through symbolic links: for paths that the operator chose.
    pub fn directory_following(path: &Path) -> io::Result<Self> {
        let path = c_string(path.as_os_str().as_bytes())?;
        reach::check(&path)?;
        Self::of(names::reopen(&path, libc::O_PATH | libc::O_DIRECTORY)?)
    }

    /// What `name` in the directory `self` is; `EXDEV` where that is a mount that came over it.
    pub fn child(&self, name: &CStr) -> io::Result<Self> {
        Self::of(reach::step(self.as_fd(), name)?)
    }

    /// What statx(2) says of it.
    pub fn inode(&self) -> io::Result<Inode> {
        inode::of_fd(self.as_fd())
    }

    /// Opens the content of a regular file. What a FIFO or a device does when it is opened is for whoever made it to
    /// choose, so they are not: `EINVAL`. `O_NONBLOCK`: nobody's lease may hold us.
    pub fn open(&self, flags: i32) -> io::Result<File> {
        if !self.inode()?.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let flags = flags | libc::O_NONBLOCK;
        // Reading leaves no trace in the access time, where the filesystem lets us say so.
        names::reopen(&self.proc_path, flags | libc::O_NOATIME)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EPERM) => names::reopen(&self.proc_path, flags),
                _ => Err(error),
            })
            .map(File::from)
    }

    /// Another descriptor of a file that is open.
    pub fn opened(&self) -> io::Result<File> {
        self.fd.try_clone().map(File::from)
    }

    /// Opens the directory `self`.
    pub fn open_directory(&self) -> io::Result<File> {
        names::reopen(&self.proc_path, DIRECTORY).map(File::from)
    }

    /// What the kernel calls it: by one of its names, where it has several.
    pub fn path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(OsStr::from_bytes(self.proc_path.to_bytes()))
    }

    /// Names in the directory `self`, without `.` and `..`.
    pub fn entries(&self) -> io::Result<Vec<CString>> {
        let directory = self.open_directory()?;
        let mut names = Vec::new();
        for entry in nix::dir::Dir::from_fd(directory.into())?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Gives it another name.
    pub fn link(&self, directory: &Self, name: &CStr) -> io::Result<()> {
        names::link(&self.proc_path, directory.as_fd(), name)
    }

    /// Sets the owner.
    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        names::set_owner(self.as_fd(), uid, gid)
    }

    /// Sets the permissions; not for symbolic links.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        names::set_mode(&self.proc_path, mode)
    }

    /// Sets the time of the last change of content.
    pub fn set_mtime(&self, mtime: Time) -> io::Result<()> {
        names::set_mtime(self.as_fd(), mtime)
    }

    /// Sets `chattr`'s +i, +a and +d to what `wanted` says. `EOPNOTSUPP` where it can have none: that is so of most
    /// that is neither a file nor a directory.
    pub fn set_flags(&self, wanted: u32) -> io::Result<()> {
        let done = inode::set_flags_unopened(&self.proc_path, wanted);
        let Err(error) = &done else { return done };
        // Before Linux 6.17 it has to be open.
        if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)) {
            return done;
        }
        let opened = match self.inode()? {
            inode if inode.is_file() => self.open(libc::O_RDONLY)?,
            inode if inode.is_dir() => self.open_directory()?,
            _ => return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        };
        inode::set_flags(opened.as_fd(), wanted)
    }

    /// Takes off the flags that keep it, which looks like `inode`, from being changed.
    pub fn unblock(&self, inode: &Inode) -> io::Result<()> {
        if inode.is_blocked() { self.set_flags(inode.flags & !FLAGS_BLOCKING) } else { Ok(()) }
    }

    /// All extended attributes, sorted by name.
    pub fn xattrs(&self) -> io::Result<Vec<Xattr>> {
        let mut found = Vec::new();
        for name in xattr::list(&self.proc_path)? {
            match xattr::get(&self.proc_path, &name) {
                Ok(value) => found.push(Xattr { name: name.into(), value: value.into() }),
                // Removed meanwhile, or one that this process may list but not read.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EPERM)) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, wanted: &Xattr) -> io::Result<()> {
        xattr::set(&self.proc_path, &wanted.name, &wanted.value)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, name: &CStr) -> io::Result<()> {
        xattr::remove(&self.proc_path, name)
    }

    /// Where the symbolic link `self` points to.
    pub fn target(&self) -> io::Result<Vec<u8>> {
        names::read_link(self.as_fd())
    }
}

impl AsFd for Object {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For a kernel call; a NUL inside is `EINVAL`.
pub fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The last component of a path.
pub fn c_name(path: &Path) -> io::Result<CString> {
    c_string(path.file_name().map(OsStr::as_bytes).unwrap_or_default())
}

/// `directory` and `name` joined.
pub fn join(directory: &Path, name: &CStr) -> PathBuf {
    directory.join(OsStr::from_bytes(name.to_bytes()))
}

/// Whether the error is this one.
pub fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}
