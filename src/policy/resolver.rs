//! What compilation asks a file system, as a trait: compiling is testable without one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    File,
}

/// A file system, as far as policies need one.
pub trait PathResolver {
    /// `path` without symbolic links, when it exists.
    fn canonical(&self, path: &Path) -> Option<PathBuf>;
    /// What lies there, a link at its end not followed; `None` when nothing does.
    fn kind(&self, path: &Path) -> Option<Kind>;
    /// Whether the file there starts with `#!`.
    fn is_script(&self, path: &Path) -> bool;
}

/// A path after resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Canonical for the longest part that exists, as written for the rest.
    pub path: PathBuf,
    /// What lies there; never a link. `None` when not all of it exists.
    pub kind: Option<Kind>,
}

/// Resolves many paths. A directory is resolved once, so each path in it costs one question: a set may name a hundred
/// thousand of them.
pub struct Resolutions<'r> {
    resolver: &'r dyn PathResolver,
    directories: HashMap<PathBuf, Resolved>,
}

impl<'r> Resolutions<'r> {
    /// Nothing asked yet.
    pub fn new(resolver: &'r dyn PathResolver) -> Self {
        Self { resolver, directories: HashMap::new() }
    }

    /// Resolves the longest existing prefix of `path`.
    pub fn resolve(&mut self, path: &Path) -> Resolved {
        let resolver = self.resolver;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return followed(resolver, path.to_owned());
        };
        let directory = self.directory(parent);
        let mut path = PathBuf::with_capacity(directory.path.as_os_str().len() + 1 + name.len());
        path.push(&directory.path);
        path.push(name);
        if directory.kind.is_none() {
            return Resolved { path, kind: None };
        }
        match resolver.kind(&path) {
            Some(Kind::Link) => followed(resolver, path),
            kind => Resolved { path, kind },
        }
    }

    fn directory(&mut self, path: &Path) -> &Resolved {
        if !self.directories.contains_key(path) {
            let resolved = self.resolve(path);
            self.directories.insert(path.to_owned(), resolved);
        }
        &self.directories[path]
    }
}

/// What a link at the end of `path` leads to; `path` itself when that is nothing.
fn followed(resolver: &dyn PathResolver, path: PathBuf) -> Resolved {
    match resolver.canonical(&path) {
        Some(path) => Resolved { kind: resolver.kind(&path), path },
        None => Resolved { path, kind: None },
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
    /// Which of the files are scripts.
    pub scripts: Vec<PathBuf>,
}

#[cfg(test)]
impl TestResolver {
    /// The usual merged-/usr system.
    pub fn merged_usr() -> Self {
        let links =
            ["bin", "sbin", "lib"].map(|name| (PathBuf::from("/").join(name), Path::new("/usr").join(name)));
        let mut this = Self { links: links.into(), ..Self::default() };
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
        let is_link = self.links.iter().any(|(link, _)| link == path);
        if is_link { Some(Kind::Link) } else { self.kinds.get(path).copied() }
    }

    fn is_script(&self, path: &Path) -> bool {
        self.scripts.iter().any(|script| script == path)
    }
}
