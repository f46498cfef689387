//! The one place of the policy language that touches a file system, at load only.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Level};
use super::resolver::{Kind, PathResolver};
use super::source::{LineIndex, SourceFile, Span};

/// Larger policy files are refused: 100,000 paths take a tenth of it.
const SOURCE_BYTES_MAX: u64 = 64 << 20;

/// Reads every `FILE|DIR` of `--policy`; of a directory, its `*.toml`, `*.yaml` and `*.yml`, by name.
pub fn load_sources(paths: &[PathBuf]) -> (Vec<SourceFile>, Vec<Diagnostic>) {
    let mut sources = Vec::new();
    let mut diagnostics = Vec::new();
    for path in paths {
        let files = if path.is_dir() { policy_files(path) } else { Ok(vec![path.clone()]) };
        match files {
            Ok(files) => {
                for file in files {
                    match read_source(&file) {
                        Ok(source) => sources.push(source),
                        Err(diagnostic) => diagnostics.push(diagnostic),
                    }
                }
            }
            Err(error) => diagnostics.push(unreadable(path, &error)),
        }
    }
    (sources, diagnostics)
}

/// Whether `directory` exists and holds a policy file.
pub fn holds_policies(directory: &Path) -> bool {
    policy_files(directory).is_ok_and(|files| !files.is_empty())
}

fn policy_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let policy = matches!(path.extension().and_then(OsStr::to_str), Some("toml" | "yaml" | "yml"));
        if policy && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let help = "give a policy file or a directory of them that can be read".to_owned();
    Diagnostic::about(&path.to_string_lossy(), Level::Error, format!("failed to read: {error}"), Some(help))
}

fn read_source(path: &Path) -> Result<SourceFile, Diagnostic> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SOURCE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > SOURCE_BYTES_MAX {
        return Err(unreadable(path, &io::Error::other("a policy file may have 64 MiB")));
    }
    source_from_bytes(&path.to_string_lossy(), bytes)
}

/// `bytes` as a source, or where they stop to be UTF-8.
pub fn source_from_bytes(name: &str, bytes: Vec<u8>) -> Result<SourceFile, Diagnostic> {
    String::from_utf8(bytes).map(|text| SourceFile { name: name.to_owned(), text }).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let source = SourceFile { name: name.to_owned(), text };
        let help = Some("policies are written in UTF-8: convert the file".to_owned());
        let span = Span::new(valid, valid + 1);
        Diagnostic::at(&source, &LineIndex::new(&source.text), span, Level::Error, "not valid UTF-8", help)
    })
}

/// The file system of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filesystem;

impl PathResolver for Filesystem {
    fn canonical(&self, path: &Path) -> Option<PathBuf> {
        fs::canonicalize(path).ok()
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        let kind = fs::symlink_metadata(path).ok()?.file_type();
        Some(match () {
            () if kind.is_dir() => Kind::Directory,
            () if kind.is_symlink() => Kind::Link,
            () => Kind::File,
        })
    }

    fn is_script(&self, path: &Path) -> bool {
        // Only regular files are opened: a FIFO would hang, a device might act.
        let mut head = [0; 2];
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
            && File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok()
            && head == *b"#!"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_by_name_and_bad_files_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("b.yaml", b"x".as_slice()), ("a.toml", b"# a"), ("c.txt", b"no"), ("d.yml", b"k: \xff")]
        {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let missing = directory.path().join("missing.toml");
        let (sources, diagnostics) = load_sources(&[directory.path().to_owned(), missing]);
        let names: Vec<_> = sources.iter().map(|source| source.name.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.toml", "b.yaml"]);
        let found: Vec<_> = diagnostics.iter().map(|d| (d.line, d.column, d.message.as_str())).collect();
        assert_eq!(found[0], (1, 4, "not valid UTF-8"));
        assert!(found[1].2.starts_with("failed to read"), "{found:?}");
    }
}
