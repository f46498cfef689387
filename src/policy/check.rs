//! From sources to findings, or to findings and a snapshot: what `check`, `run` and `reload` call.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compile::{self, CompileError};
use super::diagnostic::{Diagnostic, Level};
use super::kubearmor::Labels;
use super::lint;
use super::load::{self, Loaded};
use super::model::{Action, Modification, Origin, Policy, ProtectedPath};
use super::paths;
use super::resolver::{Kind, PathResolver};
use super::snapshot::Snapshot;
use super::source::SourceFile;

/// The name of the policy that `--protect` makes, and of its origin.
pub const PROTECT_NAME: &str = "protect";
const PROTECT_ORIGIN: &str = "--protect";
const PROTECT_SEVERITY: u8 = 8;

/// What became of a set of sources.
#[derive(Debug)]
pub struct Built {
    /// `None` when an error stands among the diagnostics.
    pub snapshot: Option<Snapshot>,
    /// In the order of files and lines; warnings too.
    pub diagnostics: Vec<Diagnostic>,
}

/// Every finding about `sources` for a place with these `labels`.
pub fn check(sources: &[SourceFile], labels: &Labels, resolver: &dyn PathResolver) -> Vec<Diagnostic> {
    build_with(sources, labels, None, 1, resolver, lint::Scope::Check).diagnostics
}

/// The snapshot of `sources` and of what `--protect` added, with every finding that matters to a running gate.
pub fn build(
    sources: &[SourceFile],
    labels: &Labels,
    protect: Option<Policy>,
    generation: u64,
    resolver: &dyn PathResolver,
) -> Built {
    build_with(sources, labels, protect, generation, resolver, lint::Scope::Load)
}

fn build_with(
    sources: &[SourceFile],
    labels: &Labels,
    protect: Option<Policy>,
    generation: u64,
    resolver: &dyn PathResolver,
    scope: lint::Scope,
) -> Built {
    let mut loaded = load::load(sources, labels);
    if loaded.has_errors() {
        return Built { snapshot: None, diagnostics: loaded.diagnostics };
    }
    loaded.set.policies.extend(protect);
    match compile_and_lint(&mut loaded, sources, generation, resolver, scope) {
        Ok(snapshot) => {
            let mut diagnostics = loaded.diagnostics;
            let position = |file: &str| sources.iter().position(|source| source.name == file);
            diagnostics.sort_by_cached_key(|found| (position(&found.file), found.line, found.column));
            Built { snapshot: Some(snapshot), diagnostics }
        }
        Err(error) => {
            let mut diagnostics = loaded.diagnostics;
            diagnostics.push(compile_diagnostic(&error, sources));
            Built { snapshot: None, diagnostics }
        }
    }
}

fn compile_and_lint(
    loaded: &mut Loaded,
    sources: &[SourceFile],
    generation: u64,
    resolver: &dyn PathResolver,
    scope: lint::Scope,
) -> Result<Snapshot, CompileError> {
    lint::writers(loaded, sources, resolver);
    let targets = compile::resolve(&loaded.set, resolver)?;
    lint::targets(loaded, sources, &targets, resolver, scope);
    let set = std::mem::take(&mut loaded.set);
    let snapshot = compile::assemble(set, &targets, generation, resolver)?;
    lint::trust(loaded, sources, &snapshot);
    Ok(snapshot)
}

fn compile_diagnostic(error: &CompileError, sources: &[SourceFile]) -> Diagnostic {
    let file = sources.first().map_or("<policies>", |source| source.name.as_str());
    Diagnostic::about(file, Level::Error, error.to_string(), None)
}

/// The policy of all `--protect PATH`: nothing changes, severity 8. `None` when there are none.
///
/// A trailing slash or an existing directory makes a tree, everything else is one file.
pub fn protect(arguments: &[PathBuf], resolver: &dyn PathResolver) -> Result<Option<Policy>, Diagnostic> {
    if arguments.is_empty() {
        return Ok(None);
    }
    let paths = arguments.iter().map(|path| protect_path(path, resolver)).collect::<Result<_, _>>()?;
    Ok(Some(Policy {
        name: PROTECT_NAME.to_owned(),
        action: Action::Block,
        paths,
        recursive: true,
        modification: Modification::Never,
        create: false,
        read: true,
        writers: Vec::new(),
        severity: PROTECT_SEVERITY,
        tags: Vec::new(),
        message: String::new(),
        origin: Origin { file: Arc::from(PROTECT_ORIGIN), line: 0 },
    }))
}

fn protect_path(path: &Path, resolver: &dyn PathResolver) -> Result<ProtectedPath, Diagnostic> {
    let mut protected = paths::parse_argument(path).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Diagnostic::about(PROTECT_ORIGIN, Level::Error, message, Some(error.help().to_owned()))
    })?;
    protected.tree = protected.tree || resolver.kind(&protected.path) == Some(Kind::Directory);
    Ok(protected)
}
