//! Stores that no gate uses any more: their state directory is gone, and with it who would take them up. Their links
//! keep files alive that nobody sees.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::object::Object;
use super::store::{self, OWNER, PREFIX};
use crate::sys::path::PATH_BYTES;

/// Filesystems whose server may not answer.
const REMOTE: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "autofs"];

/// Those in the roots of `mounts`, which are mount points and the types of what is mounted there.
pub fn abandoned<'a>(mounts: impl Iterator<Item = (&'a Path, &'a str)>) -> Vec<PathBuf> {
    let near = mounts.filter(|(_, kind)| !REMOTE.contains(kind) && !kind.starts_with("fuse"));
    let mut found: Vec<_> = near.flat_map(|(point, _)| in_root(point).unwrap_or_default()).collect();
    found.sort();
    found.dedup();
    found
}

fn in_root(root: &Path) -> io::Result<Vec<PathBuf>> {
    let top = Object::at_path(root)?;
    let mut found = Vec::new();
    for name in top.entries()? {
        let text = name.to_str().unwrap_or_default();
        let instance = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(_, id)| id);
        if instance.is_some_and(store::is_id)
            && let Ok(directory) = top.child(&name)
            && !is_owned(&directory, instance.unwrap_or_default())
        {
            found.push(root.join(OsStr::from_bytes(name.to_bytes())));
        }
    }
    Ok(found)
}

/// Whether the state directory that it was made for still is that instance's, or it cannot be told. One that does not
/// say whose it is, is nobody's: a gate that uses it writes that down.
fn is_owned(directory: &Object, instance: &str) -> bool {
    let owned = store::read_file(directory, OWNER, PATH_BYTES as u64, 1).and_then(|bytes| {
        let state = Object::directory_following(Path::new(OsStr::from_bytes(&bytes)))?;
        store::instance_in(&state)
    });
    match owned {
        Ok(found) => found == instance,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
