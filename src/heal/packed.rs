//! A name and what it should be, as one piece of memory: there is one for each protected object. The journal holds the
//! same bytes.
//!
//! `path | fields`; numbers seven bits to a byte, lowest first, because most are small.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::expected::{Expected, Extra, Xattr};
use crate::sys::file::Identity;
use crate::sys::inode::Time;

/// Above every type and permission bit: a sum follows.
const SUM: u64 = 1 << 32;
/// The same for what only few objects have.
const EXTRA: u64 = 1 << 33;
/// What the fields of most objects take.
const FIELDS_BYTES: usize = 64;
/// The most bytes of a number.
const NUMBER_BYTES: usize = 10;

/// One of them. What orders it is its path alone.
#[derive(Debug)]
pub struct Packed(Box<[u8]>);

impl Packed {
    /// That `path` should be `expected`.
    pub fn new(path: &[u8], expected: &Expected) -> Self {
        let e = expected;
        let mut out = Vec::with_capacity(path.len() + FIELDS_BYTES);
        text(&mut out, path);
        let has = |flag, is| if is { flag } else { 0 };
        let kind = u64::from(e.mode) | has(SUM, e.sum.is_some()) | has(EXTRA, e.extra.is_some());
        let owner = [e.uid, e.gid, e.flags].map(u64::from);
        for value in [kind, e.id.dev, e.id.ino, e.size].into_iter().chain(owner) {
            number(&mut out, value);
        }
        for time in [e.mtime, e.ctime] {
            number(&mut out, time.sec as u64);
            number(&mut out, time.nsec.into());
        }
        out.extend(e.sum.as_deref().into_iter().flatten());
        if let Some(extra) = &e.extra {
            number(&mut out, extra.rdev);
            // Empty stands for no target: a symbolic link's target never is.
            text(&mut out, extra.target.as_deref().unwrap_or_default());
            number(&mut out, extra.xattrs.len() as u64);
            for xattr in &extra.xattrs {
                text(&mut out, xattr.name.to_bytes());
                text(&mut out, &xattr.value);
            }
        }
        Self(out.into())
    }

    /// From bytes that somebody may have damaged.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let packed = Self(bytes.into());
        packed.expected().map(|_| packed)
    }

    /// What is read back by [`Packed::read`].
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn key(&self) -> &[u8] {
        Reader(&self.0).text().unwrap_or_default()
    }

    /// Which name.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.key()))
    }

    /// What it should be; never `None` of what was made whole.
    pub fn expected(&self) -> Option<Expected> {
        let mut reader = Reader(&self.0);
        reader.text()?;
        let kind = reader.number()?;
        let id = Identity { dev: reader.number()?, ino: reader.number()? };
        let size = reader.number()?;
        let (uid, gid, flags) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (mtime, ctime) = (reader.time()?, reader.time()?);
        let sum = match kind & SUM {
            0 => None,
            _ => Some(Box::new(*reader.take(32)?.first_chunk()?)),
        };
        let extra = match kind & EXTRA {
            0 => None,
            _ => Some(Box::new(reader.extra()?)),
        };
        Some(Expected { id, size, mtime, ctime, mode: kind as u32, uid, gid, flags, sum, extra })
    }
}

impl Borrow<[u8]> for Packed {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Packed {}

/// Appends a number.
fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends how long the bytes are, and them.
pub fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Takes from the front what was appended.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// What [`text`] appended.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for at in 0..NUMBER_BYTES {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn u32(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn time(&mut self) -> Option<Time> {
        Some(Time { sec: self.number()? as i64, nsec: self.u32()? })
    }

    fn extra(&mut self) -> Option<Extra> {
        let rdev = self.number()?;
        let target = self.text()?;
        let target = (!target.is_empty()).then(|| target.into());
        let mut xattrs = Vec::new();
        for _ in 0..self.number()? {
            let name = CString::new(self.text()?).ok()?.into();
            xattrs.push(Xattr { name, value: self.text()?.into() });
        }
        Some(Extra { rdev, target, xattrs })
    }
}
