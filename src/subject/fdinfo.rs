//! `/proc/<pid>/fdinfo/<fd>` (proc(5)).

use crate::access::Access;
use crate::classify;

/// How the descriptor may write; `None` where it only reads.
pub fn access_of_fdinfo(info: &[u8]) -> Option<Access> {
    let flags = info.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"flags:"))?;
    let flags = u64::from_str_radix(std::str::from_utf8(flags.trim_ascii()).ok()?, 8).ok()?;
    // A descriptor that only stands for a path shows no access mode.
    if flags & libc::O_PATH as u64 != 0 {
        return None;
    }
    match classify::access_of_flags(flags & !(libc::O_TRUNC as u64)) {
        Access::Read => None,
        Access::Append => Some(Access::Append),
        _ => Some(Access::Write),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_modes() {
        assert_eq!(access_of_fdinfo(b"pos:\t0\nflags:\t0100000\nmnt_id:\t29\n"), None);
        assert_eq!(access_of_fdinfo(b"pos:\t0\nflags:\t0100002\n"), Some(Access::Write));
        assert_eq!(access_of_fdinfo(b"flags:\t0102001\n"), Some(Access::Append));
        assert_eq!(access_of_fdinfo(b"flags:\tx\n"), None);
        assert_eq!(access_of_fdinfo(b""), None);
    }
}
