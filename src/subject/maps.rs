//! `/proc/<pid>/maps`, line by line (proc(5)).

use std::os::fd::BorrowedFd;

use crate::sys::proc;

/// One mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// `start-end`, in hexadecimal, as the file name in `map_files` has it.
    pub start: &'a [u8],
    /// See `start`.
    pub end: &'a [u8],
    /// Code may run from it.
    pub executable: bool,
    /// Changes of it reach the file.
    pub shared_writable: bool,
    /// Of the file behind it: major, minor.
    pub device: (u64, u64),
    /// 0: no file behind it.
    pub inode: u64,
    /// Path or `[name]`, newlines escaped.
    pub path: &'a [u8],
}

impl Mapping<'_> {
    /// Whether `address` lies in it.
    pub fn contains(&self, address: u64) -> bool {
        let (start, end) = (hexadecimal(self.start), hexadecimal(self.end));
        start.is_some_and(|start| start <= address) && end.is_some_and(|end| address < end)
    }
}

/// Calls `each` with the mappings of a process until it says no; reads through `buffer`, which a line must fit.
///
/// Whether all were read and `each` never said no.
pub fn all(maps: BorrowedFd<'_>, buffer: &mut [u8], mut each: impl FnMut(&Mapping<'_>) -> bool) -> bool {
    let mut filled = 0;
    loop {
        let Ok(n) = proc::read_next(maps, &mut buffer[filled..]) else { return false };
        filled += n;
        let mut start = 0;
        while let Some(end) = buffer[start..filled].iter().position(|&byte| byte == b'\n') {
            match parse(&buffer[start..start + end]) {
                Some(mapping) if each(&mapping) => start += end + 1,
                _ => return false,
            }
        }
        if n == 0 {
            return start == filled;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if filled == buffer.len() {
            return false;
        }
    }
}

/// Parses a line without its newline.
pub fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let range = fields.next()?;
    let dash = range.iter().position(|&byte| byte == b'-')?;
    let permissions: &[u8; 4] = fields.next()?.try_into().ok()?;
    let (_offset, device) = (fields.next()?, fields.next()?);
    let colon = device.iter().position(|&byte| byte == b':')?;
    let inode = super::status::number(fields.next()?);
    Some(Mapping {
        start: without_zeros(&range[..dash]),
        end: without_zeros(&range[dash + 1..]),
        executable: permissions[2] == b'x',
        shared_writable: permissions[1] == b'w' && permissions[3] == b's',
        device: (hexadecimal(&device[..colon])?, hexadecimal(&device[colon + 1..])?),
        inode: u64::try_from(inode).ok()?,
        path: fields.next().unwrap_or_default().trim_ascii_start(),
    })
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// maps pads addresses to eight digits, `map_files` does not.
fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    &digits[zeros.min(digits.len().saturating_sub(1))..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_the_kernel_prints_them() {
        let line = b"00400000-0040b000 r-xp 00000000 fe:00 131105                     /usr/bin/a b";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end), (&b"400000"[..], &b"40b000"[..]));
        assert!(mapping.executable && !mapping.shared_writable);
        assert!(mapping.contains(0x40_0000) && mapping.contains(0x40_afff) && !mapping.contains(0x40_b000));
        assert_eq!((mapping.device, mapping.inode), ((0xfe, 0), 131_105));
        assert_eq!(mapping.path, b"/usr/bin/a b");
        let vdso = parse(b"7ffd3f5f9000-7ffd3f5fb000 r-xp 00000000 00:00 0                          [vdso]")
            .unwrap();
        assert_eq!((vdso.inode, vdso.path), (0, &b"[vdso]"[..]));
        assert!(parse(b"garbage").is_none());
        assert!(parse(b"").is_none());
    }
}
