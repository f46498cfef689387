//! What a blocked thread does to a file of which an event says only that it is accessed, from the registers it entered
//! the kernel with. Pure, as `classify.rs` is for opens.
#![forbid(unsafe_code)]

use crate::classify::{Call, X32_BIT};

/// What an access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// It truncates a file by its path: no open of it was ever judged.
    Truncates,
    /// It resizes a file through a descriptor, whose open was judged.
    Resizes,
    /// Anything else that takes a descriptor, or an exec: read, written or mapped.
    Uses,
    /// Registers do not tell; a worker of `io_uring`, which may resize through a descriptor (`IORING_OP_FTRUNCATE` is
    /// always left to a worker) and cannot truncate by path.
    Untold,
}

/// Truncations in the tables of 32-bit programs: the same numbers on x86, Arm, PowerPC and s390, and none of them
/// touches the content of a file in a 64-bit table.
mod compat {
    pub const TRUNCATE: i32 = 92;
    pub const FTRUNCATE: i32 = 93;
    pub const TRUNCATE64: i32 = 193;
    pub const FTRUNCATE64: i32 = 194;
}

/// What `call` does to the file that it accesses.
pub fn touch(call: &Call) -> Touch {
    if call.pc == 0 { Touch::Untold } else { touch_of(call.number) }
}

/// [`touch`] by the number alone.
pub fn touch_of(number: i32) -> Touch {
    match libc::c_long::from(number & !X32_BIT) {
        libc::SYS_truncate => return Touch::Truncates,
        libc::SYS_ftruncate => return Touch::Resizes,
        _ => {}
    }
    match number {
        compat::TRUNCATE | compat::TRUNCATE64 => Touch::Truncates,
        compat::FTRUNCATE | compat::FTRUNCATE64 => Touch::Resizes,
        _ => Touch::Uses,
    }
}

/// Whether `number`, shown by a call that is judged, was shown by a truncation of a 32-bit table.
pub fn is_compat(number: i32) -> bool {
    matches!(number, compat::TRUNCATE | compat::FTRUNCATE | compat::TRUNCATE64 | compat::FTRUNCATE64)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn truncations_of_each_table() {
        let of = |number, pc| touch(&Call { number, args: [0; 4], pc });
        for number in [76, 92, 193, 0x4000_004c] {
            assert_eq!(of(number, 0x7f12), Touch::Truncates, "{number}");
            assert_eq!(of(number, 0), Touch::Untold, "a copy of the registers, {number}");
        }
        assert!([77, 93, 194].iter().all(|&number| of(number, 0x7f12) == Touch::Resizes));
        // read, write, mmap, execve, io_uring_enter
        assert!([0, 1, 9, 59, 426, -1].iter().all(|&number| of(number, 0x7f12) == Touch::Uses));
    }
}
