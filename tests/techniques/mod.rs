//! Ways to change what is protected, by the row of the doctor's table that says what becomes of them.

mod aliases;
mod content;
pub mod document;
mod metadata;
mod mounts;
mod names;

pub use mounts::unmount;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::support::look::Inodes;

/// What the protected file holds.
pub const CONTENT: &[u8] = b"as it was\n";
/// What the intruder writes.
pub const EVIL: &[u8] = b"intruder\n";

/// Where one repetition of a way happens.
pub struct Place {
    /// Its number: prepared descriptors are kept by it.
    pub number: usize,
    /// Protected: `file`, `other`, `dir/inner`, `link`, `fifo`.
    pub inside: PathBuf,
    /// Not protected, on the same filesystem: `file`, `dir/inner`.
    pub outside: PathBuf,
}

impl Place {
    /// The protected file.
    pub fn file(&self) -> PathBuf {
        self.inside.join("file")
    }

    /// A protected path.
    pub fn at(&self, name: &str) -> PathBuf {
        self.inside.join(name)
    }

    /// A path outside.
    pub fn out(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    /// Fills it.
    pub fn fill(&self) -> io::Result<()> {
        fs::create_dir_all(self.at("dir"))?;
        fs::create_dir_all(self.out("dir"))?;
        for name in ["file", "other", "dir/inner"] {
            fs::write(self.at(name), CONTENT)?;
        }
        for name in ["file", "dir/inner"] {
            fs::write(self.out(name), EVIL)?;
        }
        symlink("file", self.at("link"))?;
        nix::unistd::mkfifo(&self.at("fifo"), nix::sys::stat::Mode::S_IRUSR)?;
        // Everybody may write here: what refuses or heals is the gate alone.
        for name in ["", "dir", "file", "other", "dir/inner"] {
            let mode = if name.ends_with('r') || name.is_empty() { 0o777 } else { 0o666 };
            fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode))?;
        }
        metadata::set(&self.file(), c"user.kept", b"yes")
    }
}

/// Where the protected tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Above all places: each place is a directory in it.
    Above,
    /// At each place, so that the tree's root and what is above it can be attacked.
    Here,
}

/// One way to do what a row of the table says.
pub struct Way {
    /// The row.
    pub row: &'static str,
    /// How it is done here.
    pub how: &'static str,
    pub run: fn(&Place) -> io::Result<()>,
    /// Done before the gate is up.
    pub prepare: fn(&Place) -> io::Result<()>,
    pub tree: Tree,
    pub inodes: Inodes,
    /// The feature of the host without which it cannot be done.
    pub needs: Option<&'static str>,
    /// Whether this kernel has the call.
    pub possible: fn() -> bool,
    /// What the policy says beside the paths.
    pub policy: &'static str,
}

const fn way(row: &'static str, how: &'static str, run: fn(&Place) -> io::Result<()>) -> Way {
    Way {
        row,
        how,
        run,
        prepare: |_| Ok(()),
        tree: Tree::Above,
        inodes: Inodes::All,
        needs: None,
        possible: || true,
        policy: "",
    }
}

impl Way {
    const fn prepare(self, prepare: fn(&Place) -> io::Result<()>) -> Self {
        Self { prepare, ..self }
    }

    const fn at_root(self) -> Self {
        Self { tree: Tree::Here, ..self }
    }

    /// A directory is lost, which is made again.
    const fn remade(self) -> Self {
        Self { inodes: Inodes::OfFiles, ..self }
    }

    const fn policy(self, policy: &'static str) -> Self {
        Self { policy, ..self }
    }

    const fn possible(self, possible: fn() -> bool) -> Self {
        Self { possible, ..self }
    }

    const fn needs(self, feature: &'static str) -> Self {
        Self { needs: Some(feature), ..self }
    }
}

/// All ways.
pub fn ways() -> impl Iterator<Item = &'static Way> {
    [content::WAYS, names::WAYS, metadata::WAYS, mounts::WAYS, aliases::WAYS].into_iter().flatten()
}

/// Opens for writing and writes.
fn write(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(EVIL)
}

/// A file without a name, on the filesystem of `directory`.
fn nameless(directory: &Path) -> io::Result<File> {
    let mut file = File::options().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(directory)?;
    file.write_all(EVIL)?;
    Ok(file)
}
