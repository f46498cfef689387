//! What is written down beside each thing in the quarantine.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::audit::record::ObjectKind;
use crate::sys::inode::Inode;

/// A path in JSON: the text, and its bytes where the text is not exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonPath {
    /// As text; lossy when `hex` is there.
    pub text: String,
    /// The exact bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
}

impl JsonPath {
    /// Of `path`.
    pub fn new(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { text: text.to_owned(), hex: None },
            Err(_) => Self { text: String::from_utf8_lossy(bytes).into_owned(), hex: Some(hex_of(bytes)) },
        }
    }

    /// The path, exact.
    pub fn path(&self) -> PathBuf {
        let bytes = self.hex.as_deref().and_then(bytes_of);
        bytes.map_or_else(|| PathBuf::from(&self.text), |bytes| OsString::from_vec(bytes).into())
    }
}

/// Lower-case hexadecimal digits.
pub fn hex_of(bytes: &[u8]) -> String {
    crate::audit::text::Hex(bytes).to_string()
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// One thing in the quarantine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name there; later ones sort behind earlier ones.
    pub id: String,
    /// The audit record that tells of it; 0 until that is numbered. It stands here so that it can be written over.
    pub seq: u64,
    /// Where it was.
    pub original: JsonPath,
    /// Where it is.
    pub kept: JsonPath,
    /// When it was taken away, nanoseconds since the epoch.
    pub time_ns: u64,
    /// `file`, `directory`, `symlink`, `special`, or `content`: what stood in a protected file.
    pub kind: String,
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its +i, +a and +d flags, which were taken off.
    pub flags: u32,
    /// Length of a file.
    pub size: u64,
    /// Bytes on disk, of a tree all together.
    pub bytes: u64,
    /// Objects, of a tree all together.
    pub entries: u64,
    /// Of a regular file's content; none where it was too long.
    pub blake3: Option<String>,
    /// Who made it, as the caller knows it.
    pub subject: serde_json::Value,
}

impl Item {
    /// Of an object with this inode.
    pub fn new(id: String, original: &Path, kept: &Path, inode: &Inode) -> Self {
        Self {
            id,
            seq: 0,
            original: JsonPath::new(original),
            kept: JsonPath::new(kept),
            time_ns: crate::sys::clock::realtime_ns(),
            kind: kind_of(inode.mode).to_owned(),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            flags: inode.flags,
            size: inode.size,
            bytes: inode.allocated,
            entries: 1,
            blake3: None,
            subject: serde_json::Value::Null,
        }
    }
}

fn kind_of(mode: u32) -> &'static str {
    match ObjectKind::from_mode(mode) {
        ObjectKind::File => "file",
        ObjectKind::Directory => "directory",
        ObjectKind::Symlink => "symlink",
        ObjectKind::Special | ObjectKind::Unknown => "special",
    }
}
