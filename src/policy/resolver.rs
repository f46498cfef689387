//! What compilation asks a file system, as a trait: compiling is testable without one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What lies at a path, symbolic links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file that starts with `#!`.
    Script,
    /// Any other file.
    File,
}

/// A file system, as far as policies need one.
pub trait PathResolver {
    /// `path` without symbolic links, when it exists.
    fn canonical(&self, path: &Path) -> Option<PathBuf>;
    /// What lies there, when something does.
    fn kind(&self, path: &Path) -> Option<Kind>;
}

/// A path after resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Canonical for the longest part that exists, as written for the rest.
    pub path: PathBuf,
    /// All of it exists.
    pub exists: bool,
}

/// Resolves many paths; what is missing is asked for once.
pub struct Resolutions<'r> {
    resolver: &'r dyn PathResolver,
    missing: HashMap<PathBuf, PathBuf>,
}

impl<'r> Resolutions<'r> {
    /// Nothing asked yet.
    pub fn new(resolver: &'r dyn PathResolver) -> Self {
        Self { resolver, missing: HashMap::new() }
    }

    /// Resolves the longest existing prefix of `path`.
    pub fn resolve(&mut self, path: &Path) -> Resolved {
        match self.resolver.canonical(path) {
            Some(path) => Resolved { path, exists: true },
            None => Resolved { path: self.resolve_missing(path), exists: false },
        }
    }

    fn resolve_missing(&mut self, path: &Path) -> PathBuf {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
        if let Some(parent) = self.missing.get(parent) {
            return parent.join(name);
        }
        let resolved = match self.resolver.canonical(parent) {
            Some(parent) => parent,
            None => self.resolve_missing(parent),
        };
        let joined = resolved.join(name);
        self.missing.insert(parent.to_owned(), resolved);
        joined
    }
}

/// A file system for tests: links, and what exists.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct TestResolver {
    /// Link to target; both absolute.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// What exists, beside the links.
    pub kinds: HashMap<PathBuf, Kind>,
}

#[cfg(test)]
impl TestResolver {
    /// The usual merged-/usr system.
    pub fn merged_usr() -> Self {
        let links =
            ["bin", "sbin", "lib"].map(|name| (PathBuf::from("/").join(name), Path::new("/usr").join(name)));
        let mut this = Self { links: links.into(), kinds: HashMap::new() };
        for directory in
            ["/", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/etc", "/boot", "/var", "/var/log"]
        {
            this.kinds.insert(directory.into(), Kind::Directory);
        }
        for file in ["/usr/bin/dpkg", "/etc/passwd"] {
            this.kinds.insert(file.into(), Kind::File);
        }
        this
    }
}

#[cfg(test)]
impl PathResolver for TestResolver {
    fn canonical(&self, path: &Path) -> Option<PathBuf> {
        let link = self.links.iter().find(|(link, _)| path.starts_with(link));
        let path = match link {
            Some((link, target)) => target.join(path.strip_prefix(link).ok()?),
            None => path.to_owned(),
        };
        let path: PathBuf = path.components().collect();
        self.kinds.contains_key(&path).then_some(path)
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        self.kinds.get(&self.canonical(path)?).copied()
    }
}
