//! Open flags as words.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Serialize, Serializer};

/// The argument of `open(2)` as the kernel got it; prints as `O_WRONLY|O_CREAT`, what has no name as `0x…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags(pub u64);

/// `O_LARGEFILE` as the kernel knows it: the C library's is 0 on 64-bit systems.
#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
const LARGEFILE: u64 = 0o100_000;
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const LARGEFILE: u64 = 0o400_000;

/// In the order of x86's bits. A composite stands before its parts.
const NAMES: [(u64, &str); 16] = [
    (libc::O_CREAT as u64, "O_CREAT"),
    (libc::O_EXCL as u64, "O_EXCL"),
    (libc::O_NOCTTY as u64, "O_NOCTTY"),
    (libc::O_TRUNC as u64, "O_TRUNC"),
    (libc::O_APPEND as u64, "O_APPEND"),
    (libc::O_NONBLOCK as u64, "O_NONBLOCK"),
    // Both of its bits; one of them alone is O_DSYNC.
    (libc::O_SYNC as u64, "O_SYNC"),
    (libc::O_DSYNC as u64, "O_DSYNC"),
    (libc::O_ASYNC as u64, "O_ASYNC"),
    (libc::O_DIRECT as u64, "O_DIRECT"),
    (LARGEFILE, "O_LARGEFILE"),
    // With O_DIRECTORY, which it contains.
    (libc::O_TMPFILE as u64, "O_TMPFILE"),
    (libc::O_DIRECTORY as u64, "O_DIRECTORY"),
    (libc::O_NOFOLLOW as u64, "O_NOFOLLOW"),
    (libc::O_NOATIME as u64, "O_NOATIME"),
    (libc::O_CLOEXEC as u64, "O_CLOEXEC"),
];

/// Separate, so that the table above stays in the order of the bits.
const PATH: (u64, &str) = (libc::O_PATH as u64, "O_PATH");

impl fmt::Display for OpenFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 & libc::O_ACCMODE as u64 {
            0 => "O_RDONLY",
            1 => "O_WRONLY",
            2 => "O_RDWR",
            // Neither reading nor writing, but the rights of both: for ioctl(2).
            _ => "O_ACCMODE",
        })?;
        let mut rest = self.0 & !(libc::O_ACCMODE as u64);
        for (bits, name) in NAMES.into_iter().chain([PATH]) {
            if rest & bits == bits {
                write!(f, "|{name}")?;
                rest &= !bits;
            }
        }
        if rest != 0 {
            write!(f, "|{rest:#x}")?;
        }
        Ok(())
    }
}

impl Serialize for OpenFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(flags: i32) -> String {
        OpenFlags(flags as u64).to_string()
    }

    #[test]
    fn flags_read_as_strace_shows_them() {
        assert_eq!(words(0), "O_RDONLY");
        assert_eq!(words(libc::O_CREAT), "O_RDONLY|O_CREAT");
        assert_eq!(
            words(libc::O_WRONLY | libc::O_CREAT | libc::O_NOCTTY | libc::O_NONBLOCK),
            "O_WRONLY|O_CREAT|O_NOCTTY|O_NONBLOCK"
        );
        assert_eq!(words(libc::O_RDWR | libc::O_SYNC), "O_RDWR|O_SYNC");
        assert_eq!(words(libc::O_RDWR | libc::O_DSYNC), "O_RDWR|O_DSYNC");
        assert_eq!(words(libc::O_WRONLY | libc::O_TMPFILE), "O_WRONLY|O_TMPFILE");
        assert_eq!(words(libc::O_DIRECTORY), "O_RDONLY|O_DIRECTORY");
        assert_eq!(words(3), "O_ACCMODE");
        assert_eq!(OpenFlags(LARGEFILE | libc::O_PATH as u64).to_string(), "O_RDONLY|O_LARGEFILE|O_PATH");
    }

    #[test]
    fn unknown_bits_are_not_swallowed() {
        assert_eq!(OpenFlags(0x8000_0000_0000_0001).to_string(), "O_WRONLY|0x8000000000000000");
        // Half of O_TMPFILE: the kernel refuses it, the record shows it.
        let half = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
        assert_eq!(OpenFlags(half).to_string(), format!("O_RDONLY|{half:#x}"));
    }
}
