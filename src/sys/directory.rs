//! Directories by descriptor: what is marked is what is read. Opening one raises no permission event of ours, because
//! no mark of ours asks for those of directories (`FAN_ONDIR`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::reach;

/// Room for the entries of one call: as much as readdir(3) takes, some thousand short names.
pub const ENTRIES_BYTES: usize = 32 * 1024;

/// Offsets in `struct linux_dirent64` (getdents64(2)); the name, ended by NUL, is its last member.
const LENGTH_AT: usize = 16;
const KIND_AT: usize = 18;
const NAME_AT: usize = 19;

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'b> {
    /// `DT_DIR` and so on; `DT_UNKNOWN` where the filesystem does not say.
    pub kind: u8,
    /// Its name.
    pub name: &'b CStr,
}

/// Opens a directory to be marked and read; not through a final symbolic link. Where we may, its time of access
/// stays as it is: a walk must not make the filesystem write to every directory.
///
/// # Errors
/// Those of open(2); `ENOTDIR` for what is none, `ELOOP` or `ENOTDIR` for a link, `EXDEV` where a mount came over it,
/// see [`reach`].
pub fn open(path: &CStr) -> io::Result<OwnedFd> {
    open_without_trace(|flags| reach::open(path.to_bytes(), flags, 0))
}

/// The same for a directory whose own directory is open as `above`.
///
/// # Errors
/// As [`open`].
pub fn open_in(above: BorrowedFd<'_>, name: &CStr, path: &CStr) -> io::Result<OwnedFd> {
    open_without_trace(|flags| reach::open_in(above, name, path.to_bytes(), flags))
}

fn open_without_trace(open: impl Fn(i32) -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    const FLAGS: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    open(FLAGS | libc::O_NOATIME).or_else(|error| {
        // Not for whose owner has no id in our user namespace.
        if error.raw_os_error() == Some(libc::EPERM) { open(FLAGS) } else { Err(error) }
    })
}

/// The next entries of an open directory, without `.` and `..`; `None` behind the last.
///
/// # Errors
/// Those of getdents64(2).
pub fn read<'b>(
    directory: BorrowedFd<'_>,
    buffer: &'b mut [u8],
) -> io::Result<Option<impl Iterator<Item = Entry<'b>>>> {
    // SAFETY: the buffer is valid and writable for its whole length.
    let n = unsafe {
        libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((n > 0).then(|| entries(&buffer[..n as usize])))
}

fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        let length = bytes.get(LENGTH_AT..LENGTH_AT + 2)?;
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        let (entry, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let name = CStr::from_bytes_until_nul(entry.get(NAME_AT..)?).ok()?;
        Some(Entry { kind: entry[KIND_AT], name })
    })
    .filter(|entry| !matches!(entry.name.to_bytes(), b"." | b".."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::CString;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn every_entry_comes_once_whatever_the_size_of_the_buffer() {
        let scratch = tempfile::tempdir().unwrap();
        let names: BTreeSet<String> =
            (0..300).map(|number| "n".repeat(number % 200 + 1) + &number.to_string()).collect();
        for name in &names {
            std::fs::write(scratch.path().join(name), b"").unwrap();
        }
        std::fs::create_dir(scratch.path().join("directory")).unwrap();
        let path = CString::new(scratch.path().as_os_str().as_bytes()).unwrap();
        for size in [512, ENTRIES_BYTES] {
            let directory = open(&path).unwrap();
            let mut buffer = vec![0; size];
            let mut found = Vec::new();
            while let Some(entries) = read(directory.as_fd(), &mut buffer).unwrap() {
                found.extend(entries.map(|entry| (entry.name.to_str().unwrap().to_owned(), entry.kind)));
            }
            assert_eq!(found.len(), names.len() + 1);
            for (name, kind) in found {
                let expected = if names.contains(&name) { libc::DT_REG } else { libc::DT_DIR };
                assert!(kind == expected || kind == libc::DT_UNKNOWN, "{name}");
            }
        }
        let file = CString::new(scratch.path().join("n0").as_os_str().as_bytes()).unwrap();
        assert_eq!(open(&file).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    }
}
