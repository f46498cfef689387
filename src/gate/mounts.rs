//! From a path in somebody's mount to the path by which we know the same object.
//!
//! A mount's line in mountinfo (proc(5)) tells which directory of its filesystem it shows. With the path below
//! the mount that is the object's path inside the filesystem, and one of our own mounts of that filesystem
//! shows it under the name that policies use.

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use crate::sys::path::FixedPath;
use crate::sys::proc::{self, Proc};
use crate::sys::thread;

/// The longest line of mountinfo that is understood: two escaped paths and the options of an overlay.
const LINE_BYTES: usize = 32 * 1024;

/// Buffers of one thread.
pub struct Mounts {
    buffer: Box<[u8]>,
    inside: FixedPath,
    root: FixedPath,
    point: FixedPath,
}

impl Default for Mounts {
    fn default() -> Self {
        Self {
            buffer: vec![0; LINE_BYTES].into_boxed_slice(),
            inside: FixedPath::default(),
            root: FixedPath::default(),
            point: FixedPath::default(),
        }
    }
}

/// The fields of a line that matter here, still escaped.
pub struct Line<'a> {
    /// Number of the mount.
    pub id: u64,
    /// Number of the mount that it stands on.
    pub parent: u64,
    /// Which filesystem it shows.
    pub device: &'a [u8],
    /// Which directory of that.
    pub root: &'a [u8],
    /// Where it is mounted.
    pub point: &'a [u8],
}

/// Takes a line apart.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    Some(Line { id, parent, device: fields.next()?, root: fields.next()?, point: fields.next()? })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
pub fn unescape(escaped: &[u8], path: &mut FixedPath) -> bool {
    path.clear();
    let mut at = 0;
    while at < escaped.len() {
        let (byte, used) = match escaped.get(at..at + 4) {
            Some([b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7']) => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), 4)
            }
            _ => (escaped[at], 1),
        };
        if !path.push(&[byte]) {
            return false;
        }
        at += used;
    }
    true
}

/// `path` below `prefix`, with its leading slash; the whole of it when the prefix is the root.
fn below<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}

fn each_line(
    proc: &Proc,
    id: i32,
    buffer: &mut [u8],
    mut look: impl FnMut(Line<'_>) -> ControlFlow<()>,
) -> bool {
    let Ok(file) = proc.open_file(id, "mountinfo") else { return false };
    let mut filled = 0;
    loop {
        let Ok(n) = proc::read_next(file.as_fd(), &mut buffer[filled..]) else { return false };
        filled += n;
        let mut start = 0;
        while let Some(end) = buffer[start..filled].iter().position(|&byte| byte == b'\n') {
            if let Some(line) = parse(&buffer[start..start + end])
                && look(line).is_break()
            {
                return true;
            }
            start += end + 1;
        }
        if n == 0 {
            return false;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if filled == buffer.len() {
            filled = 0;
        }
    }
}

impl Mounts {
    /// Calls `try_path` with every path by which the object may be known here, until it says yes.
    ///
    /// `seen` is its path as our kernel prints it: whole when the mount is one of ours, else from the root of the
    /// opener's namespace. `mount` is the mount's id, `tid` the opener.
    pub fn paths_from_here(
        &mut self,
        proc: &Proc,
        tid: i32,
        mount: u64,
        seen: &[u8],
        candidate: &mut FixedPath,
        mut try_path: impl FnMut(&mut FixedPath) -> bool,
    ) -> bool {
        let Self { buffer, inside, root, point } = self;
        let own = thread::getpid();
        let mut device = [0u8; 16];
        let mut device_len = 0;
        let mut find = |id: i32, ours: bool| {
            each_line(proc, id, buffer, |line| {
                if line.id != mount {
                    return ControlFlow::Continue(());
                }
                if unescape(line.root, inside) && unescape(line.point, point) {
                    // An opener in a chroot is told of its mounts from there.
                    let rest = below(seen, point.as_bytes()).unwrap_or(if ours { b"" } else { seen });
                    let trimmed = inside.as_bytes().len() - usize::from(inside.as_bytes().ends_with(b"/"));
                    inside.truncate(trimmed);
                    if (rest == b"/" || inside.push(rest)) && line.device.len() <= device.len() {
                        device[..line.device.len()].copy_from_slice(line.device);
                        device_len = line.device.len();
                    }
                }
                ControlFlow::Break(())
            })
        };
        if !find(own, true) && !find(tid, false) || device_len == 0 {
            return false;
        }
        let mut found = false;
        each_line(proc, own, buffer, |line| {
            if line.device == &device[..device_len]
                && unescape(line.root, root)
                && unescape(line.point, point)
                && let Some(rest) = below(inside.as_bytes(), root.as_bytes())
                && candidate.set(point.as_bytes().strip_suffix(b"/").unwrap_or(point.as_bytes()))
                && candidate.push(rest)
                && try_path(candidate)
            {
                found = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_escapes() {
        let line = parse(br"36 35 98:0 /a\040b /mnt\134x rw - ext4 /dev/x rw").unwrap();
        assert_eq!((line.id, line.parent, line.device), (36, 35, &b"98:0"[..]));
        let mut path = FixedPath::default();
        assert!(unescape(line.root, &mut path));
        assert_eq!(path.as_bytes(), b"/a b");
        assert!(unescape(line.point, &mut path));
        assert_eq!(path.as_bytes(), br"/mnt\x");
    }

    #[test]
    fn below_respects_components() {
        assert_eq!(below(b"/a/b", b"/a"), Some(&b"/b"[..]));
        assert_eq!(below(b"/a/b", b"/"), Some(&b"/a/b"[..]));
        assert_eq!(below(b"/ab", b"/a"), None);
        assert_eq!(below(b"/a", b"/a"), Some(&b""[..]));
    }
}
