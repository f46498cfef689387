//! Every way to open an existing file such that it changes, and every way to make a new one.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use io_uring::squeue::Flags;
use libc::{O_APPEND, O_CREAT, O_EXCL, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use super::raw;

/// What the open gives the attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gain {
    /// A descriptor to write to.
    Descriptor,
    /// The file is empty afterwards.
    Emptied,
    /// A descriptor for ioctl(2) only.
    Control,
    /// A new file.
    NewFile,
}

/// One way in.
pub struct Attack {
    pub name: &'static str,
    pub open: fn(&Path) -> io::Result<OwnedFd>,
    pub gain: Gain,
    /// What the record says.
    pub access: &'static str,
    pub syscall: &'static str,
    pub flags: Option<&'static str>,
}

impl Attack {
    /// Opens, and uses what that gives.
    pub fn run(&self, path: &Path) -> io::Result<()> {
        let opened = (self.open)(path)?;
        if self.gain == Gain::Descriptor || self.gain == Gain::NewFile && !self.name.contains("O_RDONLY") {
            std::fs::File::from(opened).write_all(b"evil")?;
        }
        Ok(())
    }
}

macro_rules! attacks {
    ($($name:literal $gain:ident $access:literal $syscall:literal $flags:expr, $open:expr;)*) => {
        &[$(Attack {
            name: $name,
            open: $open,
            gain: Gain::$gain,
            access: $access,
            syscall: $syscall,
            flags: $flags,
        }),*]
    };
}

/// On a file that is there.
#[cfg(target_arch = "x86_64")]
pub const CHANGES: &[Attack] = attacks! {
    "open O_WRONLY" Descriptor "write" "open" Some("O_WRONLY"), |p| raw::open(p, O_WRONLY);
    "open O_RDWR" Descriptor "write" "open" Some("O_RDWR"), |p| raw::open(p, O_RDWR);
    "open O_RDONLY|O_TRUNC" Emptied "truncate" "open" Some("O_RDONLY|O_TRUNC"), |p| raw::open(p, O_RDONLY | O_TRUNC);
    "open O_ACCMODE" Control "write" "open" Some("O_ACCMODE"), |p| raw::open(p, 3);
    "openat O_WRONLY" Descriptor "write" "openat" Some("O_WRONLY"), |p| raw::openat(p, O_WRONLY);
    "openat O_APPEND" Descriptor "append" "openat" Some("O_WRONLY|O_APPEND"), |p| raw::openat(p, O_WRONLY | O_APPEND);
    "openat O_CREAT" Descriptor "write" "openat" Some("O_WRONLY|O_CREAT"), |p| raw::openat(p, O_WRONLY | O_CREAT);
    "openat O_TRUNC" Descriptor "truncate" "openat" Some("O_RDWR|O_TRUNC"), |p| raw::openat(p, O_RDWR | O_TRUNC);
    "creat" Descriptor "truncate" "creat" Some("O_WRONLY|O_CREAT|O_TRUNC"), raw::creat;
    "openat2 O_WRONLY" Descriptor "write" "openat2" Some("O_WRONLY"), |p| raw::openat2(p, O_WRONLY);
    "openat2 O_APPEND" Descriptor "append" "openat2" Some("O_RDWR|O_APPEND"), |p| raw::openat2(p, O_RDWR | O_APPEND);
    "openat2 O_RDONLY|O_TRUNC" Emptied "truncate" "openat2" Some("O_RDONLY|O_TRUNC"), |p| raw::openat2(p, O_RDONLY | O_TRUNC);
    "open_by_handle_at" Descriptor "write" "open_by_handle_at" Some("O_WRONLY"), |p| raw::open_by_handle(p, O_WRONLY);
    "/proc/self/fd of a reader" Descriptor "write" "openat" Some("O_WRONLY"), |p| raw::reopen(p, O_RDONLY, O_WRONLY);
    "/proc/self/fd of O_PATH" Descriptor "write" "openat" Some("O_RDWR"), |p| raw::reopen(p, O_PATH, O_RDWR);
    "int 0x80" Descriptor "write" "open" Some("O_WRONLY"), |p| raw::open_i386(p, O_WRONLY);
    "int 0x80 O_TRUNC" Emptied "truncate" "open" Some("O_RDONLY|O_TRUNC"), |p| raw::open_i386(p, O_RDONLY | O_TRUNC);
    "io_uring" Descriptor "unknown" "io_uring_enter" None, |p| raw::open_uring(p, O_WRONLY, Flags::empty());
    "io_uring IOSQE_ASYNC" Descriptor "unknown" "io_uring_enter" None, |p| raw::open_uring(p, O_WRONLY, Flags::ASYNC);
    "io_uring O_RDWR|O_TRUNC" Descriptor "unknown" "io_uring_enter" None, |p| raw::open_uring(p, O_RDWR | O_TRUNC, Flags::empty());
};

/// Of a name that is not there.
#[cfg(target_arch = "x86_64")]
pub const CREATES: &[Attack] = attacks! {
    "open O_RDONLY|O_CREAT" NewFile "create" "open" Some("O_RDONLY|O_CREAT"), |p| raw::open(p, O_RDONLY | O_CREAT);
    "open O_WRONLY|O_CREAT" NewFile "create" "open" Some("O_WRONLY|O_CREAT"), |p| raw::open(p, O_WRONLY | O_CREAT);
    "openat O_EXCL" NewFile "create" "openat" Some("O_RDWR|O_CREAT|O_EXCL"), |p| raw::openat(p, O_RDWR | O_CREAT | O_EXCL);
    "creat" NewFile "create" "creat" Some("O_WRONLY|O_CREAT|O_TRUNC"), raw::creat;
    "openat2 O_CREAT" NewFile "create" "openat2" Some("O_WRONLY|O_CREAT"), |p| raw::openat2(p, O_WRONLY | O_CREAT);
    "openat2 O_RDONLY|O_CREAT" NewFile "create" "openat2" Some("O_RDONLY|O_CREAT"), |p| raw::openat2(p, O_RDONLY | O_CREAT);
    "int 0x80 O_CREAT" NewFile "create" "open" Some("O_WRONLY|O_CREAT"), |p| raw::open_i386(p, O_WRONLY | O_CREAT);
    "io_uring O_CREAT" NewFile "create" "io_uring_enter" None, |p| raw::open_uring(p, O_WRONLY | O_CREAT, Flags::empty());
    "io_uring O_CREAT IOSQE_ASYNC" NewFile "create" "io_uring_enter" None, |p| raw::open_uring(p, O_WRONLY | O_CREAT, Flags::ASYNC);
    "io_uring O_RDONLY|O_CREAT" NewFile "create" "io_uring_enter" None, |p| raw::open_uring(p, O_RDONLY | O_CREAT, Flags::empty());
};
