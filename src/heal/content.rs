//! Content of regular files: copied, compared, written back.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::sys::inode;

/// One read or write.
const BLOCK: usize = 256 * 1024;

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Its blocks are shared: it costs no space until one of the two changes.
    Shared,
    /// Every byte was written.
    Written,
}

/// Makes the empty file `to` the same as `from` by sharing its blocks; gives back the BLAKE3 sum of what `to` holds.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem cannot; those of reading.
pub fn share(from: &File, to: &File) -> io::Result<[u8; 32]> {
    inode::clone_content(from.as_fd(), to.as_fd())?;
    Ok(sum(to, u64::MAX)?.unwrap_or_default())
}

/// Makes the empty file `to` the same as `from`, up to `limit` bytes unless blocks can be shared; gives back the
/// BLAKE3 sum of what `to` holds.
///
/// # Errors
/// `EFBIG` when it would be longer; those of reading and writing.
pub fn copy(from: &File, to: &File, limit: u64) -> io::Result<(Made, [u8; 32])> {
    if let Ok(sum) = share(from, to) {
        return Ok((Made::Shared, sum));
    }
    let mut buffer = vec![0u8; BLOCK];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0u64;
    loop {
        let n = read_block(from, &mut buffer, at)?;
        if n == 0 {
            break;
        }
        if at + n as u64 > limit {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        hasher.update(&buffer[..n]);
        // Holes stay holes.
        if buffer[..n].iter().any(|&byte| byte != 0) {
            to.write_all_at(&buffer[..n], at)?;
        }
        at += n as u64;
    }
    to.set_len(at)?;
    Ok((Made::Written, *hasher.finalize().as_bytes()))
}

/// Makes `now` the same as `right` in place, writing only what differs; gives back the BLAKE3 sum of what it is now.
///
/// # Errors
/// Those of reading and writing.
pub fn write_back(right: &File, now: &File) -> io::Result<[u8; 32]> {
    let length = right.metadata()?.len();
    now.set_len(length)?;
    let (mut a, mut b) = (vec![0u8; BLOCK], vec![0u8; BLOCK]);
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < length {
        let n = read_block(right, &mut b, at)?;
        if n == 0 {
            break;
        }
        hasher.update(&b[..n]);
        let m = read_block(now, &mut a[..n], at)?;
        if a[..m] != b[..n] {
            now.write_all_at(&b[..n], at)?;
        }
        at += n as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The BLAKE3 sum, unless the file is longer than `limit`.
///
/// # Errors
/// Those of reading.
pub fn sum(file: &File, limit: u64) -> io::Result<Option<[u8; 32]>> {
    let mut buffer = vec![0u8; BLOCK];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at <= limit {
        let n = read_block(file, &mut buffer, at)?;
        if n == 0 {
            return Ok(Some(*hasher.finalize().as_bytes()));
        }
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(None)
}

/// Reads until the buffer is full or the file ends.
fn read_block(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
