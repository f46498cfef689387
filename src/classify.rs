//! What a blocked opener asks for, from the registers it entered the kernel with.
//!
//! Pure: bytes of `/proc/<tid>/syscall` in, meaning out. Registers cannot change while their thread is blocked,
//! so what they say of open, openat, creat and `open_by_handle_at` is exact, as long as it is that call which opens
//! the file: on the way back from it the same thread may write a core file or run `io_uring`'s work. openat2 passes a
//! pointer, `io_uring` hides the flags; for those, and for whatever this table does not know, the lease probe decides.
#![forbid(unsafe_code)]

use crate::access::Access;
#[cfg(target_arch = "x86_64")]
use crate::touch;

/// A system call as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number; -1 where the thread is not in one.
    pub number: i32,
    /// The first four arguments.
    pub args: [u64; 4],
    /// Where the thread goes on in user space. 0: nowhere, it is the kernel's own or an `io_uring` worker, and the
    /// other registers are a copy of those of the thread that made it.
    pub pc: u64,
}

/// A line of `/proc/<tid>/syscall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// The thread does not sleep yet: look again.
    Running,
    /// It is blocked in this call.
    In(Call),
    /// Not understood.
    Garbled,
}

/// Parses such a line.
pub fn parse_line(line: &[u8]) -> Line {
    let line = line.trim_ascii_end();
    if line == b"running" {
        return Line::Running;
    }
    let mut fields = line.split(|&byte| byte == b' ');
    let Some(number) = fields.next().and_then(parse_decimal) else { return Line::Garbled };
    let mut args = [0; 4];
    for slot in &mut args {
        match fields.next() {
            Some(field) => match parse_hexadecimal(field) {
                Some(value) => *slot = value,
                None => return Line::Garbled,
            },
            // "-1 SP PC" has no arguments.
            None if number == -1 => return Line::In(Call { number, pc: args[1], args }),
            None => return Line::Garbled,
        }
    }
    // Two more arguments and the stack pointer come before it.
    match fields.nth(3).map(parse_hexadecimal) {
        Some(Some(pc)) => Line::In(Call { number, args, pc }),
        _ => Line::Garbled,
    }
}

/// Whether the thread is in a call that may open a file.
pub fn is_in_open(call: &Call) -> bool {
    let opens = matches!(asked(call), Asked::Flags(_) | Asked::Indirect(_));
    opens || call.pc == 0 || libc::c_long::from(call.number) == libc::SYS_io_uring_enter
}

fn parse_decimal(digits: &[u8]) -> Option<i32> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0i32;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(i32::from(digit))?;
    }
    Some(if negative { -value } else { value })
}

fn parse_hexadecimal(field: &[u8]) -> Option<u64> {
    let digits = field.strip_prefix(b"0x")?;
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let mut value = 0u64;
    for &digit in digits {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(digit);
    }
    Some(value)
}

/// What is asked, as far as registers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The open flags, exactly.
    Flags(u64),
    /// The program or interpreter of an exec.
    Exec,
    /// openat2: the flags are in the opener's memory at this address, which others may change, and which its owner
    /// can arrange to be such that reading it never ends (userfaultfd, FUSE).
    Indirect(u64),
    /// Registers do not tell.
    Untold,
}

/// System call numbers of the table that `int 0x80` uses on x86-64 (`arch/x86/entry/syscalls/syscall_32.tbl`).
///
/// None of these numbers opens a file in the 64-bit table, and none of the 64-bit numbers below opens one in
/// this table, so a number says which table it belongs to.
#[cfg(target_arch = "x86_64")]
mod i386 {
    pub const OPEN: i32 = 5;
    pub const CREAT: i32 = 8;
    pub const EXECVE: i32 = 11;
    pub const OPENAT: i32 = 295;
    pub const OPEN_BY_HANDLE_AT: i32 = 342;
    pub const EXECVEAT: i32 = 358;
}

/// Calls of the x32 table that open files have the numbers of the 64-bit table, with this bit.
#[cfg(target_arch = "x86_64")]
pub const X32_BIT: i32 = 0x4000_0000;
#[cfg(not(target_arch = "x86_64"))]
pub const X32_BIT: i32 = 0;

const CREAT_FLAGS: u64 = (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC) as u64;

/// What `call` asks for.
pub fn asked(call: &Call) -> Asked {
    let flags = |argument: usize| Asked::Flags(call.args[argument] & 0xffff_ffff);
    if call.pc == 0 {
        return Asked::Untold;
    }
    match libc::c_long::from(call.number & !X32_BIT) {
        libc::SYS_openat | libc::SYS_open_by_handle_at => flags(2),
        libc::SYS_execve | libc::SYS_execveat => Asked::Exec,
        libc::SYS_openat2 => Asked::Indirect(call.args[2]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => flags(1),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => Asked::Flags(CREAT_FLAGS),
        _ => asked_i386(call),
    }
}

#[cfg(target_arch = "x86_64")]
fn asked_i386(call: &Call) -> Asked {
    match call.number {
        i386::OPEN => Asked::Flags(call.args[1] & 0xffff_ffff),
        i386::OPENAT | i386::OPEN_BY_HANDLE_AT => Asked::Flags(call.args[2] & 0xffff_ffff),
        i386::CREAT => Asked::Flags(CREAT_FLAGS),
        i386::EXECVE | i386::EXECVEAT => Asked::Exec,
        _ => Asked::Untold,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn asked_i386(_call: &Call) -> Asked {
    Asked::Untold
}

/// Whether `number` was shown by a call of the i386 table.
pub fn is_i386(number: i32) -> bool {
    #[cfg(target_arch = "x86_64")]
    return touch::is_compat(number)
        || matches!(
            number,
            i386::OPEN | i386::CREAT | i386::EXECVE | i386::OPENAT | i386::OPEN_BY_HANDLE_AT | i386::EXECVEAT
        );
    #[cfg(not(target_arch = "x86_64"))]
    return {
        let _ = number;
        false
    };
}

/// What open flags ask for, were the file there before.
///
/// `O_ACCMODE` of 3 (a device-control mode that grants neither read nor write by name) needs both permissions
/// and counts as a write. `O_RDONLY|O_TRUNC` empties the file without counting as a writer.
pub fn access_of_flags(flags: u64) -> Access {
    let has = |bit: i32| flags & bit as u64 != 0;
    if has(libc::O_TRUNC) {
        return Access::Truncate;
    }
    match (flags & libc::O_ACCMODE as u64) as i32 {
        libc::O_RDONLY => Access::Read,
        _ if is_temporary(flags) => Access::Create,
        _ if has(libc::O_APPEND) => Access::Append,
        _ => Access::Write,
    }
}

/// `O_TMPFILE`: a new file without a name.
pub fn is_temporary(flags: u64) -> bool {
    // glibc's O_TMPFILE includes O_DIRECTORY; the bit of its own is what the kernel looks for.
    let own_bit = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
    flags & own_bit != 0
}

/// Whether the open may have made the file.
pub fn may_create(flags: u64) -> bool {
    flags & libc::O_CREAT as u64 != 0
}

/// Whether the open certainly made the file: `O_CREAT|O_EXCL` fails on an existing name before any event.
pub fn must_create(flags: u64) -> bool {
    let both = (libc::O_CREAT | libc::O_EXCL) as u64;
    flags & both == both || is_temporary(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_as_the_kernel_prints_them() {
        assert_eq!(parse_line(b"running\n"), Line::Running);
        assert_eq!(
            parse_line(b"257 0xffffff9c 0x7ffd1 0x241 0x1b6 0x0 0x0 0x7ffd0 0x7f12\n"),
            Line::In(Call { number: 257, args: [0xffff_ff9c, 0x7ffd1, 0x241, 0x1b6], pc: 0x7f12 })
        );
        assert_eq!(
            parse_line(b"-1 0x7ffd0 0x7f12\n"),
            Line::In(Call { number: -1, args: [0x7ffd0, 0x7f12, 0, 0], pc: 0x7f12 })
        );
        assert_eq!(parse_line(b""), Line::Garbled);
        assert_eq!(parse_line(b"257 0x1\n"), Line::Garbled);
        assert_eq!(parse_line(b"257 0x1 0x1 0x1 0x1 0x1 0x1 0x1\n"), Line::Garbled);
    }

    #[test]
    fn flags_of_each_call() {
        let call = |number, args| asked(&Call { number, args, pc: 0x7f12 });
        assert_eq!(call(257, [0, 0, 0x8241, 0]), Asked::Flags(0x8241));
        assert_eq!(call(2, [0, 1, 0, 0]), Asked::Flags(1));
        assert_eq!(call(85, [0; 4]), Asked::Flags(CREAT_FLAGS));
        assert_eq!(call(304, [0, 0, 2, 0]), Asked::Flags(2));
        assert_eq!(call(437, [0, 0, 0x1000, 24]), Asked::Indirect(0x1000));
        assert_eq!(asked(&Call { number: 257, args: [0; 4], pc: 0 }), Asked::Untold);
        assert_eq!(call(59, [0; 4]), Asked::Exec);
        assert_eq!(call(5, [0, 0x201, 0, 0]), Asked::Flags(0x201));
        assert_eq!(call(426, [0; 4]), Asked::Untold);
        assert_eq!(call(-1, [0; 4]), Asked::Untold);
    }

    #[test]
    fn access_of_flag_words() {
        let of = |flags: i32| access_of_flags(flags as u64);
        assert_eq!(of(libc::O_RDONLY | libc::O_CREAT), Access::Read);
        assert_eq!(of(libc::O_RDONLY | libc::O_TRUNC), Access::Truncate);
        assert_eq!(of(libc::O_WRONLY | libc::O_APPEND), Access::Append);
        assert_eq!(of(libc::O_WRONLY | libc::O_APPEND | libc::O_TRUNC), Access::Truncate);
        assert_eq!(of(libc::O_RDWR), Access::Write);
        assert_eq!(of(3), Access::Write);
        assert_eq!(of(libc::O_TMPFILE | libc::O_RDWR), Access::Create);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(line in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_line(&line);
        }

        #[test]
        fn what_is_not_exactly_a_read_is_never_one(flags in any::<u32>()) {
            let flags = u64::from(flags);
            let reads_only = flags & libc::O_ACCMODE as u64 == 0 && flags & libc::O_TRUNC as u64 == 0;
            prop_assert_eq!(access_of_flags(flags) == Access::Read, reads_only);
        }
    }
}
