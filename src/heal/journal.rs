//! The inventory as bytes: records that each say how long they are and carry a sum, so that a tail which was torn
//! off while it was written is recognised and left out.
//!
//! `length u32 | sum u32 | kind u8 | path | fields`, little-endian; length counts what follows the sum.

use super::expected::{Expected, Extra, Xattr};
use crate::sys::file::Identity;
use crate::sys::inode::Time;

const HEADER_BYTES: usize = 8;
const PUT: u8 = 1;
const REMOVE: u8 = 2;
const REMOVE_ONE: u8 = 3;

/// One record.
#[derive(Debug)]
pub enum Change<'a> {
    /// The path should be this.
    Put(&'a [u8], Expected),
    /// The path and everything below it is no longer expected.
    Remove(&'a [u8]),
    /// The path alone is no longer expected.
    RemoveOne(&'a [u8]),
}

/// Appends a record that `path` should be `expected`.
pub fn append_put(out: &mut Vec<u8>, path: &[u8], expected: &Expected) {
    let e = expected;
    record(out, |out| {
        out.push(PUT);
        text(out, path);
        for number in [e.id.dev, e.id.ino, e.size, e.rdev(), e.mtime.sec as u64, e.ctime.sec as u64] {
            out.extend(number.to_le_bytes());
        }
        for number in [e.mtime.nsec, e.ctime.nsec, e.mode, e.uid, e.gid, e.flags] {
            out.extend(number.to_le_bytes());
        }
        text(out, e.sum.as_ref().map_or(&[], |sum| sum.as_slice()));
        // 0 stands for no target: a symbolic link's target is never empty.
        text(out, e.target());
        out.extend((e.xattrs().len() as u32).to_le_bytes());
        for xattr in e.xattrs() {
            text(out, xattr.name.to_bytes());
            text(out, &xattr.value);
        }
    });
}

/// Appends a record that `path` and everything below it is no longer expected.
pub fn append_remove(out: &mut Vec<u8>, path: &[u8]) {
    record(out, |out| {
        out.push(REMOVE);
        text(out, path);
    });
}

/// Appends a record that `path` alone is no longer expected.
pub fn append_remove_one(out: &mut Vec<u8>, path: &[u8]) {
    record(out, |out| {
        out.push(REMOVE_ONE);
        text(out, path);
    });
}

fn record(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; HEADER_BYTES]);
    body(out);
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&sum(body));
}

fn sum(body: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(body);
    let bytes = hash.as_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

/// The first record of `bytes` and how many bytes it takes; `None` where there is no whole one.
pub fn next(bytes: &[u8]) -> Option<(Change<'_>, usize)> {
    let mut header = Reader(bytes);
    let length = header.u32()? as usize;
    let expected_sum = header.take(4)?;
    let body = header.take(length)?;
    if sum(body) != expected_sum {
        return None;
    }
    let mut reader = Reader(body);
    let change = match reader.take(1)? {
        [PUT] => Change::Put(reader.text()?, reader.expected()?),
        [REMOVE] => Change::Remove(reader.text()?),
        [REMOVE_ONE] => Change::RemoveOne(reader.text()?),
        _ => return None,
    };
    Some((change, HEADER_BYTES + length))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn expected(&mut self) -> Option<Expected> {
        let id = Identity { dev: self.u64()?, ino: self.u64()? };
        let (size, rdev) = (self.u64()?, self.u64()?);
        let (mtime_sec, ctime_sec) = (self.u64()? as i64, self.u64()? as i64);
        let mtime = Time { sec: mtime_sec, nsec: self.u32()? };
        let ctime = Time { sec: ctime_sec, nsec: self.u32()? };
        let (mode, uid, gid, flags) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let sum = match self.text()? {
            [] => None,
            sum => Some(Box::new(sum.try_into().ok()?)),
        };
        let target = self.text()?;
        let target = (!target.is_empty()).then(|| target.into());
        let mut xattrs = Vec::new();
        for _ in 0..self.u32()? {
            let name = std::ffi::CString::new(self.text()?).ok()?.into();
            xattrs.push(Xattr { name, value: self.text()?.into() });
        }
        let extra = Extra { rdev, target, xattrs };
        let extra = (extra != Extra::default()).then(|| Box::new(extra));
        Some(Expected { id, size, mtime, ctime, mode, uid, gid, flags, sum, extra })
    }
}
