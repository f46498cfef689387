//! A directory of one's own for a while.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

/// A new directory below `$TMPDIR` or /tmp, for root only; removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// With `name` in its name.
    pub fn new(name: &str) -> io::Result<Self> {
        let template = std::env::temp_dir().join(format!("writegate-{name}-XXXXXX"));
        let made = nix::unistd::mkdtemp(&template)?;
        // Policies are about canonical paths.
        let path = made.canonicalize().unwrap_or(made);
        Ok(Self { path, keep: false })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it behind.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing better can be done about what stays than to leave it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
