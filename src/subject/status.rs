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

/// What decides whether a thread may write to files of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// User id for file access.
    pub fsuid: i64,
    /// Effective capabilities.
    pub capabilities: u64,
}

impl Credentials {
    /// `None` where something is missing.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = text.split(|&byte| byte == b'\n');
        let uids = lines.find_map(|line| line.strip_prefix(b"Uid:\t"))?;
        let fsuid = number(uids.split(|&byte| byte == b'\t').nth(3)?);
        let effective = lines.find_map(|line| line.strip_prefix(b"CapEff:\t"))?;
        let capabilities = u64::from_str_radix(std::str::from_utf8(effective).ok()?, 16).ok()?;
        (fsuid >= 0).then_some(Self { fsuid, capabilities })
    }

    /// Whether mode and owner keep a thread with these from writing. An access list shows in the group's bits.
    pub const fn cannot_write(&self, mode: u32, owner: u32) -> bool {
        const CAP_DAC_OVERRIDE: u64 = 1 << 1;
        mode & 0o022 == 0 && self.fsuid != owner as i64 && self.capabilities & CAP_DAC_OVERRIDE == 0
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

    #[test]
    fn who_cannot_write() {
        let text = b"Uid:\t1\t2\t3\t1000\nGid:\t0\nCapEff:\t0000000000000001\nCapBnd:\t0\n";
        let user = Credentials::parse(text).unwrap();
        assert_eq!(user, Credentials { fsuid: 1000, capabilities: 1 });
        assert!(user.cannot_write(0o100_644, 0));
        assert!(!user.cannot_write(0o100_664, 0) && !user.cannot_write(0o100_600, 1000));
        assert!(!Credentials { fsuid: 1000, capabilities: 2 }.cannot_write(0o100_644, 0));
        assert_eq!(
            Credentials::parse(b"Uid:\t1\t2\t3\t1000\nCapEff:\t00"),
            Some(Credentials { fsuid: 1000, capabilities: 0 })
        );
        assert_eq!(Credentials::parse(b"Uid:\t1\t2\nCapEff:\t00\n"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut name = [0; 15];
            Status::parse(&text).unescaped_name(&mut name);
        }
    }
}
