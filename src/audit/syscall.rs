//! System call numbers as names, for what opens or changes files.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Serialize, Serializer};

/// A system call by its number; prints as its name, or `syscall_NNN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    /// As `/proc/<tid>/syscall` shows it.
    pub number: i32,
    /// The number belongs to the i386 table.
    pub i386: bool,
}

/// The table has no such call.
const NONE: i32 = -1;

/// Name, and number in the tables of x86-64, i386 and the generic one (aarch64); -1 where a table lacks it.
/// Generated once from the kernel's `asm/unistd_64.h`, `asm/unistd_32.h` and `asm-generic/unistd.h`.
#[rustfmt::skip]
const CALLS: [(&str, i32, i32, i32); 91] = [
    ("open", 2, 5, -1),
    ("creat", 85, 8, -1),
    ("openat", 257, 295, 56),
    ("openat2", 437, 437, 437),
    ("open_by_handle_at", 304, 342, 265),
    ("name_to_handle_at", 303, 341, 264),
    ("open_tree", 428, 428, 428),
    ("fspick", 433, 433, 433),
    ("execve", 59, 11, 221),
    ("execveat", 322, 358, 281),
    ("uselib", 134, 86, -1),
    ("truncate", 76, 92, 45),
    ("truncate64", -1, 193, -1),
    ("ftruncate", 77, 93, 46),
    ("ftruncate64", -1, 194, -1),
    ("fallocate", 285, 324, 47),
    ("read", 0, 3, 63),
    ("readv", 19, 145, 65),
    ("pread64", 17, 180, 67),
    ("preadv", 295, 333, 69),
    ("preadv2", 327, 378, 286),
    ("write", 1, 4, 64),
    ("writev", 20, 146, 66),
    ("pwrite64", 18, 181, 68),
    ("pwritev", 296, 334, 70),
    ("pwritev2", 328, 379, 287),
    ("sendfile", 40, 187, 71),
    ("sendfile64", -1, 239, -1),
    ("splice", 275, 313, 76),
    ("copy_file_range", 326, 377, 285),
    ("mmap", 9, 90, 222),
    ("mmap2", -1, 192, -1),
    ("readahead", 187, 225, 213),
    ("unlink", 87, 10, -1),
    ("unlinkat", 263, 301, 35),
    ("rmdir", 84, 40, -1),
    ("rename", 82, 38, -1),
    ("renameat", 264, 302, 38),
    ("renameat2", 316, 353, 276),
    ("link", 86, 9, -1),
    ("linkat", 265, 303, 37),
    ("symlink", 88, 83, -1),
    ("symlinkat", 266, 304, 36),
    ("mkdir", 83, 39, -1),
    ("mkdirat", 258, 296, 34),
    ("mknod", 133, 14, -1),
    ("mknodat", 259, 297, 33),
    ("chmod", 90, 15, -1),
    ("fchmod", 91, 94, 52),
    ("fchmodat", 268, 306, 53),
    ("fchmodat2", 452, 452, 452),
    ("chown", 92, 182, -1),
    ("lchown", 94, 16, -1),
    ("fchown", 93, 95, 55),
    ("fchownat", 260, 298, 54),
    ("chown32", -1, 212, -1),
    ("lchown32", -1, 198, -1),
    ("fchown32", -1, 207, -1),
    ("setxattr", 188, 226, 5),
    ("lsetxattr", 189, 227, 6),
    ("fsetxattr", 190, 228, 7),
    ("setxattrat", 463, 463, 463),
    ("removexattr", 197, 235, 14),
    ("lremovexattr", 198, 236, 15),
    ("fremovexattr", 199, 237, 16),
    ("removexattrat", 466, 466, 466),
    ("utime", 132, 30, -1),
    ("utimes", 235, 271, -1),
    ("utimensat", 280, 320, 88),
    ("futimesat", 261, 299, -1),
    ("utimensat_time64", -1, 412, 412),
    ("ioctl", 16, 54, 29),
    ("mount", 165, 21, 40),
    ("umount2", 166, 52, 39),
    ("umount", -1, 22, -1),
    ("swapon", 167, 87, 224),
    ("swapoff", 168, 115, 225),
    ("acct", 163, 51, 89),
    ("quotactl", 179, 131, 60),
    ("quotactl_fd", 443, 443, 443),
    ("init_module", 175, 128, 105),
    ("finit_module", 313, 350, 273),
    ("kexec_file_load", 320, -1, 294),
    ("bpf", 321, 357, 280),
    ("io_uring_setup", 425, 425, 425),
    ("io_uring_enter", 426, 426, 426),
    ("io_uring_register", 427, 427, 427),
    ("move_mount", 429, 429, 429),
    ("open_tree_attr", 467, 467, 467),
    ("mq_open", 240, 277, 180),
    ("msync", 26, 144, 227),
];

impl Syscall {
    /// Its name, where the table has it.
    pub fn name(self) -> Option<&'static str> {
        let known = |&&(_, x86_64, i386, generic): &&(&str, i32, i32, i32)| {
            let number = match (self.i386, cfg!(target_arch = "x86_64")) {
                (true, _) => i386,
                (false, true) => x86_64,
                (false, false) => generic,
            };
            number != NONE && number == self.number
        };
        CALLS.iter().find(known).map(|&(name, ..)| name)
    }
}

impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "syscall_{}", self.number),
        }
    }
}

impl Serialize for Syscall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_of_their_table() {
        let native = |number: libc::c_long| Syscall { number: number as i32, i386: false }.to_string();
        assert_eq!(native(libc::SYS_openat), "openat");
        assert_eq!(native(libc::SYS_openat2), "openat2");
        assert_eq!(native(libc::SYS_execve), "execve");
        assert_eq!(native(libc::SYS_truncate), "truncate");
        assert_eq!(native(libc::SYS_io_uring_enter), "io_uring_enter");
        assert_eq!(native(9_999), "syscall_9999");
        assert_eq!(native(-1), "syscall_-1");
        assert_eq!(Syscall { number: 5, i386: true }.to_string(), "open");
        assert_eq!(Syscall { number: 322, i386: true }.to_string(), "syscall_322");
    }

    #[test]
    fn no_number_is_given_twice() {
        for table in [0, 1, 2] {
            let mut numbers: Vec<_> = CALLS
                .iter()
                .map(|row| [row.1, row.2, row.3][table])
                .filter(|&number| number != NONE)
                .collect();
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{numbers:?}");
        }
    }
}
