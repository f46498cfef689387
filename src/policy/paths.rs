//! What a path and an executable of the policy language may look like.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::model::ProtectedPath;

/// Longer paths cannot be opened (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4095;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing was written.
    #[error("the path is empty")]
    Empty,
    /// It does not start at the root.
    #[error("the path is relative")]
    Relative,
    /// It has a `.` or `..` component.
    #[error("the path has a `.` or `..` component")]
    Dots,
    /// It has a NUL byte.
    #[error("the path has a NUL character")]
    Nul,
    /// No system call takes it.
    #[error("the path is longer than 4095 bytes")]
    Long,
}

impl PathError {
    /// What to do.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Empty => "give an absolute path, or remove the entry",
            Self::Relative => "write the path from the root: it starts with `/`",
            Self::Dots => "write the path that is meant, without `.` and `..`",
            Self::Nul => "no file name has one: remove it",
            Self::Long => "no file can be opened by so long a path: name a directory above it",
        }
    }
}

/// Checks and normalises: repeated slashes go, and a trailing one means a tree.
pub fn parse(text: &str) -> Result<ProtectedPath, PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    if !text.starts_with('/') {
        return Err(PathError::Relative);
    }
    if text.contains('\0') {
        return Err(PathError::Nul);
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(PathError::Long);
    }
    if text.split('/').any(|component| component == "." || component == "..") {
        return Err(PathError::Dots);
    }
    let mut path = String::with_capacity(text.len());
    for component in text.split('/').filter(|component| !component.is_empty()) {
        path.push('/');
        path.push_str(component);
    }
    if path.is_empty() {
        path.push('/');
    }
    Ok(ProtectedPath { path: path.into(), tree: text.ends_with('/') })
}

/// As [`parse`], for a path that came as an argument.
pub fn parse_argument(path: &Path) -> Result<ProtectedPath, PathError> {
    use std::os::unix::ffi::OsStrExt;
    match path.to_str() {
        Some(text) => parse(text),
        // Not UTF-8: the checks are about ASCII only, so a lossy copy passes and fails them alike.
        None => parse(&path.to_string_lossy()).map(|checked| ProtectedPath {
            path: path.components().collect::<PathBuf>(),
            tree: checked.tree || path.as_os_str().as_bytes().ends_with(b"/"),
        }),
    }
}

/// Programs that run what somebody else wrote: their identity says nothing about what they do.
const INTERPRETERS: &[&str] = &[
    "sh",
    "bash",
    "rbash",
    "dash",
    "zsh",
    "ksh",
    "ksh93",
    "mksh",
    "ash",
    "csh",
    "tcsh",
    "fish",
    "busybox",
    "toybox",
    "awk",
    "gawk",
    "mawk",
    "nawk",
    "original-awk",
    "tclsh",
    "wish",
    "expect",
    "env",
    "node",
    "nodejs",
    "deno",
    "bun",
    "java",
    "guile",
    "gdb",
    "qjs",
    "pwsh",
];

/// Families whose programs carry versions and variants in their names (`python3.12`, `php-cgi8.2`).
const INTERPRETER_PREFIXES: &[&str] = &["python", "pypy", "perl", "ruby", "lua", "php"];

/// Whether `exe` is an interpreter by its file name, version suffixes aside.
pub fn is_interpreter(exe: &Path) -> bool {
    let Some(name) = exe.file_name().and_then(|name| name.to_str()) else { return false };
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let known = |name: &str| INTERPRETERS.contains(&name);
    known(name) || known(bare) || INTERPRETER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked_and_normalised() {
        let tree = |path: &str| ProtectedPath { path: path.into(), tree: true };
        assert_eq!(parse("/usr//bin/"), Ok(tree("/usr/bin")));
        assert_eq!(parse("/"), Ok(tree("/")));
        assert_eq!(parse("/etc/passwd").map(|path| path.tree), Ok(false));
        let refused = [
            ("", PathError::Empty),
            ("etc/", PathError::Relative),
            ("/a/../b", PathError::Dots),
            ("/a/./b", PathError::Dots),
            ("/a\0", PathError::Nul),
        ];
        for (text, error) in refused {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        assert_eq!(parse(&format!("/{}", "a".repeat(5000))), Err(PathError::Long));
        assert!(parse("/a..b/...").is_ok());
    }

    #[test]
    fn interpreters_by_name() {
        for name in [
            "sh",
            "bash5",
            "python3",
            "python3.12",
            "perl5.36.0",
            "node18",
            "lua5.4",
            "php-cgi8.2",
            "gawk-5.1.0",
        ] {
            assert!(is_interpreter(&Path::new("/usr/bin").join(name)), "{name}");
        }
        for name in ["dpkg", "apt-get", "rpm", "nginx", "sshd"] {
            assert!(!is_interpreter(&Path::new("/usr/bin").join(name)), "{name}");
        }
    }
}
