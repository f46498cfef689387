//! The inventory as bytes: records that each say how long they are and carry a sum, so that a tail which was torn
//! off while it was written is recognised and left out.
//!
//! `length u32 | sum u32 | kind u8 | packed name or path`, little-endian; length counts what follows the sum.

use super::packed::{Packed, Reader, text};

const HEADER_BYTES: usize = 8;
const PUT: u8 = 1;
const REMOVE: u8 = 2;
const REMOVE_ONE: u8 = 3;

/// One record.
#[derive(Debug)]
pub enum Change<'a> {
    /// The path should be this.
    Put(Packed),
    /// The path and everything below it is no longer expected.
    Remove(&'a [u8]),
    /// The path alone is no longer expected.
    RemoveOne(&'a [u8]),
}

/// Appends a record of what a name should be.
pub fn append_put(out: &mut Vec<u8>, name: &Packed) {
    record(out, |out| {
        out.push(PUT);
        out.extend(name.bytes());
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

/// The first record of `bytes` and how many bytes it takes; `None` where there is no whole one.
pub fn next(bytes: &[u8]) -> Option<(Change<'_>, usize)> {
    let mut header = Reader(bytes);
    let length = u32::from_le_bytes(*header.take(4)?.first_chunk()?) as usize;
    let expected_sum = header.take(4)?;
    let body = header.take(length)?;
    if sum(body) != expected_sum {
        return None;
    }
    let (kind, body) = body.split_first()?;
    let change = match *kind {
        PUT => Change::Put(Packed::read(body)?),
        REMOVE => Change::Remove(Reader(body).text()?),
        REMOVE_ONE => Change::RemoveOne(Reader(body).text()?),
        _ => return None,
    };
    Some((change, HEADER_BYTES + length))
}
