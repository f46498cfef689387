//! Extended attributes of what an `O_PATH` descriptor stands for, by its link in /proc. The link is followed once,
//! to the very object; where that object is itself a symbolic link, it is not followed further.

use std::ffi::{CStr, CString};
use std::io;

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of linux/limits.h.
const LARGEST: usize = 64 * 1024;
/// What a first call offers: most objects have no attribute, or small ones.
const USUAL: usize = 1024;

/// Calls `fill` with a small buffer, and once more with the largest when that was too small.
fn filled(mut fill: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; USUAL];
    loop {
        let n = fill(&mut buffer);
        if n >= 0 {
            buffer.truncate(n as usize);
            return Ok(buffer);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() == LARGEST {
            return Err(error);
        }
        buffer.resize(LARGEST, 0);
    }
}

/// Names of all attributes; none where the filesystem has none.
///
/// # Errors
/// Those of listxattr(2).
pub fn list(proc_path: &CStr) -> io::Result<Vec<CString>> {
    let names = filled(|buffer| {
        // SAFETY: `proc_path` is NUL-terminated and `buffer` is writable for its length.
        unsafe { libc::listxattr(proc_path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    });
    match names {
        Ok(names) => Ok(names
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
            .filter_map(|name| CString::new(name).ok())
            .collect()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The value of an attribute.
///
/// # Errors
/// `ENODATA` when there is none.
pub fn get(proc_path: &CStr, name: &CStr) -> io::Result<Vec<u8>> {
    filled(|buffer| {
        // SAFETY: both names are NUL-terminated and `buffer` is writable for its length.
        unsafe { libc::getxattr(proc_path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// Sets an attribute.
///
/// # Errors
/// Those of setxattr(2).
pub fn set(proc_path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: both names are NUL-terminated and `value` is readable for its length.
    let result =
        unsafe { libc::setxattr(proc_path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Removes an attribute.
///
/// # Errors
/// Those of removexattr(2).
pub fn remove(proc_path: &CStr, name: &CStr) -> io::Result<()> {
    // SAFETY: both names are NUL-terminated.
    let result = unsafe { libc::removexattr(proc_path.as_ptr(), name.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
