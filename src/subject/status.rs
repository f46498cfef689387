//! `/proc/<tid>/status`, taken apart (proc(5)).

/// What the gate reads of it. Numbers are -1 where the line is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status<'a> {
    /// Thread name, with newline and backslash still escaped.
    pub name: &'a [u8],
    /// Thread group: what everybody calls the process id.
    pub tgid: i32,
    /// The parent's process id.
    pub ppid: i32,
    /// Who traces it; 0 is nobody.
    pub tracer: i32,
    /// Real user id.
    pub uid: i64,
}

impl<'a> Status<'a> {
    /// Parses as much as is there.
    pub fn parse(text: &'a [u8]) -> Self {
        let mut status = Self { name: b"", tgid: -1, ppid: -1, tracer: -1, uid: -1 };
        for line in text.split(|&byte| byte == b'\n') {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            let value = line[colon + 1..].strip_prefix(b"\t").unwrap_or_default();
            match &line[..colon] {
                b"Name" => status.name = value,
                b"Tgid" => status.tgid = number(value) as i32,
                b"PPid" => status.ppid = number(value) as i32,
                b"TracerPid" => status.tracer = number(value) as i32,
                b"Uid" => {
                    status.uid = number(value);
                    // Nothing of interest comes after it.
                    break;
                }
                _ => {}
            }
        }
        status
    }

    /// The thread name as it is, into `room`; how many bytes.
    pub fn unescaped_name(&self, room: &mut [u8]) -> usize {
        let mut from = self.name.iter().copied();
        let mut filled = 0;
        while filled < room.len() {
            let Some(byte) = from.next() else { break };
            room[filled] = match byte {
                b'\\' => match from.next() {
                    Some(b'n') => b'\n',
                    Some(other) => other,
                    None => b'\\',
                },
                other => other,
            };
            filled += 1;
        }
        filled
    }
}

/// Leading digits; -1 without any.
pub fn number(text: &[u8]) -> i64 {
    let mut value = -1i64;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.max(0).saturating_mul(10).saturating_add(i64::from(digit));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &[u8] =
        b"Name:\ta\\nb\\\\c\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t42\nNgid:\t0\nPid:\t43\n\
        PPid:\t7\nTracerPid:\t0\nUid:\t1000\t0\t0\t0\nGid:\t0\n";

    #[test]
    fn the_lines_that_matter() {
        let status = Status::parse(SAMPLE);
        assert_eq!((status.tgid, status.ppid, status.tracer, status.uid), (42, 7, 0, 1000));
        let mut name = [0; 15];
        let n = status.unescaped_name(&mut name);
        assert_eq!(&name[..n], b"a\nb\\c");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut name = [0; 15];
            Status::parse(&text).unescaped_name(&mut name);
        }
    }
}
