//! What one protected name should be.

use std::ffi::CStr;
use std::io;

use super::object::Object;
use crate::sys::file::Identity;
use crate::sys::inode::{Inode, Time};

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its full name, `security.capability`.
    pub name: Box<CStr>,
    /// Its value.
    pub value: Box<[u8]>,
}

/// What only few objects have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra {
    /// Which device a device node stands for.
    pub rdev: u64,
    /// Where a symbolic link points to.
    pub target: Option<Box<[u8]>>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
}

/// What a name should be. Kept small: there is one for each protected object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Device and inode.
    pub id: Identity,
    /// Bytes of content.
    pub size: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything, by our own hand at the latest: an object with this time is untouched.
    pub ctime: Time,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `chattr`'s +i, +a and +d.
    pub flags: u32,
    /// BLAKE3 sum of the content, where the content is to stay and could be copied.
    pub sum: Option<Box<[u8; 32]>>,
    /// Link target and extended attributes, where there are any.
    pub extra: Option<Box<Extra>>,
}

impl Expected {
    /// Takes down what `object` is now, without reading its content.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn take(object: &Object) -> io::Result<Self> {
        let inode = object.inode()?;
        let target = if inode.file_type() == libc::S_IFLNK { Some(object.target()?.into()) } else { None };
        let extra = Extra { rdev: inode.rdev, target, xattrs: object.xattrs()? };
        let extra = (extra != Extra::default()).then(|| Box::new(extra));
        Ok(Self::of(&inode, extra))
    }

    /// From its parts.
    pub fn of(inode: &Inode, extra: Option<Box<Extra>>) -> Self {
        Self {
            id: inode.id,
            size: inode.size,
            mtime: inode.mtime,
            ctime: inode.ctime,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            flags: inode.flags,
            sum: None,
            extra,
        }
    }

    /// The type bits of the mode.
    pub const fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is a directory.
    pub const fn is_dir(&self) -> bool {
        self.file_type() == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    pub const fn is_file(&self) -> bool {
        self.file_type() == libc::S_IFREG
    }

    /// Whether it is a symbolic link.
    pub const fn is_link(&self) -> bool {
        self.file_type() == libc::S_IFLNK
    }

    /// Its extended attributes.
    pub fn xattrs(&self) -> &[Xattr] {
        self.extra.as_ref().map_or(&[], |extra| &extra.xattrs)
    }

    /// Which device the device node stands for.
    pub fn rdev(&self) -> u64 {
        self.extra.as_ref().map_or(0, |extra| extra.rdev)
    }

    /// Where the symbolic link points to.
    pub fn target(&self) -> &[u8] {
        self.extra.as_ref().and_then(|extra| extra.target.as_deref()).unwrap_or_default()
    }

    /// The sum of the right content, if it is known.
    pub fn known_sum(&self) -> Option<[u8; 32]> {
        if self.is_file() && self.size == 0 {
            return Some(*blake3::hash(b"").as_bytes());
        }
        self.sum.as_deref().copied()
    }

    /// Whether it is the same file, with another time of its content.
    pub fn is_rewritten(&self, now: &Inode) -> bool {
        self.id == now.id && self.mtime != now.mtime
    }

    /// Whether nothing at all has happened to the object since.
    pub fn is_untouched(&self, now: &Inode) -> bool {
        self.id == now.id && self.ctime == now.ctime && self.mode == now.mode && self.flags == now.flags
    }
}
