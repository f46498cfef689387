//! The trees: one directory for each responder, all alike, on one filesystem.

use std::fs;
use std::path::{Path, PathBuf};

/// The file that is opened.
pub const EXISTING: &str = "existing";
/// The dynamically linked program, its loader, and its only library beside them.
pub const PROGRAM: &str = "program";
/// The loader.
pub const LOADER: &str = "loader";

/// Fills `directory` with what the openers need.
pub fn fill(directory: &Path) {
    fs::create_dir_all(directory).expect("a directory");
    fs::write(directory.join(EXISTING), b"content\n").expect("a file");
    fs::copy("/bin/true", directory.join(PROGRAM)).expect("/bin/true");
    for (mapped, name) in libraries() {
        fs::copy(&mapped, directory.join(name)).expect("a library");
    }
}

/// The loader and the C library that this process itself was started with, and the names they get.
fn libraries() -> Vec<(PathBuf, String)> {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    for path in maps.lines().filter_map(|line| line.split_whitespace().nth(5)) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let as_name = if name.starts_with("ld-") {
            LOADER.to_owned()
        } else if name.starts_with("libc.so") {
            name.to_owned()
        } else {
            continue;
        };
        if found.iter().all(|(_, other)| *other != as_name) {
            found.push((path.into(), as_name));
        }
    }
    assert_eq!(found.len(), 2, "this program is linked to the C library dynamically");
    found
}
