//! What a subject asks of an object.
#![forbid(unsafe_code)]

use std::fmt;

/// What is asked when a file is opened. Everything a permission event can cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Access {
    /// Opened for reading only.
    Read = 0,
    /// Opened for writing at the end only (`O_APPEND`, no `O_TRUNC`).
    Append = 1,
    /// Opened for writing anywhere.
    Write = 2,
    /// Opened with `O_TRUNC`, or truncated by path.
    Truncate = 3,
    /// A new file came to exist with this open.
    Create = 4,
    /// Opened by `execve(2)`, as a program or as its interpreter.
    Exec = 5,
    /// Neither registers nor the lease probe could say; treated as a write.
    Unknown = 6,
}

impl Access {
    /// Every access, in the order of the discriminants.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Append, Self::Write, Self::Truncate, Self::Create, Self::Exec, Self::Unknown];

    /// The word of the audit record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Append => "append",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Create => "create",
            Self::Exec => "exec",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A change that raises no permission event: the watch sees it, `explain` asks about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mutation {
    /// A name removed (`unlink(2)`, `rmdir(2)`).
    Unlink = 0,
    /// A name moved away, or another moved over it.
    Rename = 1,
    /// A second name for the same object.
    Link = 2,
    /// A new directory.
    Mkdir = 3,
    /// Permission bits changed.
    Chmod = 4,
    /// Owner or group changed.
    Chown = 5,
    /// An extended attribute changed.
    Setxattr = 6,
    /// A new symbolic link.
    Symlink = 7,
    /// A new FIFO, socket or device node.
    Mknod = 8,
    /// The time of the last change of content was set.
    Utimes = 9,
    /// A flag of chattr(1) was set or cleared.
    Chattr = 10,
    /// Something was mounted over a name.
    Mount = 11,
}

impl Mutation {
    /// Every mutation.
    pub const ALL: [Self; 12] = [
        Self::Unlink,
        Self::Rename,
        Self::Link,
        Self::Mkdir,
        Self::Chmod,
        Self::Chown,
        Self::Setxattr,
        Self::Symlink,
        Self::Mknod,
        Self::Utimes,
        Self::Chattr,
        Self::Mount,
    ];

    /// The word of the audit record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlink => "unlink",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Mkdir => "mkdir",
            Self::Chmod => "chmod",
            Self::Chown => "chown",
            Self::Setxattr => "setxattr",
            Self::Symlink => "symlink",
            Self::Mknod => "mknod",
            Self::Utimes => "utimes",
            Self::Chattr => "chattr",
            Self::Mount => "mount",
        }
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
