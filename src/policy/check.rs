//! From sources to findings, or to findings and a snapshot: what `check`, `run` and `reload` call.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compile::{self, CompileError};
use super::diagnostic::{Diagnostic, Level};
use super::kubearmor::Labels;
use super::lint;
use super::load::{self, Loaded};
use super::model::{Action, Modification, Mounting, Origin, Policy, ProtectedPath, Response, Truncation};
use super::paths;
use super::resolver::{Kind, PathResolver, Resolutions};
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
    examine(sources, labels, resolver).diagnostics
}

/// As [`check`], with the snapshot that there would be.
pub fn examine(sources: &[SourceFile], labels: &Labels, resolver: &dyn PathResolver) -> Built {
    build_with(sources, labels, None, 1, resolver, lint::Scope::Check)
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
    let snapshot = compile_and_lint(&mut loaded, sources, generation, resolver, scope);
    let mut diagnostics = loaded.diagnostics;
    let position = |file: &str| sources.iter().position(|source| source.name == file);
    diagnostics.sort_by_cached_key(|found| (position(&found.file), found.line, found.column));
    let snapshot = snapshot.unwrap_or_else(|error| {
        diagnostics.push(compile_diagnostic(&error, sources));
        None
    });
    Built { snapshot, diagnostics }
}

/// `None` when an error was found and stands among the diagnostics of `loaded`.
fn compile_and_lint(
    loaded: &mut Loaded,
    sources: &[SourceFile],
    generation: u64,
    resolver: &dyn PathResolver,
    scope: lint::Scope,
) -> Result<Option<Snapshot>, CompileError> {
    lint::writers(loaded, sources, resolver);
    let targets = compile::resolve(&loaded.set, resolver)?;
    lint::targets(loaded, sources, &targets, scope);
    if loaded.has_errors() {
        return Ok(None);
    }
    let set = std::mem::take(&mut loaded.set);
    let snapshot = compile::assemble(set, &targets, generation, resolver)?;
    lint::trust(loaded, sources, &snapshot);
    Ok(Some(snapshot))
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
        truncate: Truncation::Refuse,
        create: false,
        read: true,
        response: Response::Restore,
        mount: Mounting::Report,
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
    let is_directory = || Resolutions::new(resolver).resolve(&protected.path).kind == Some(Kind::Directory);
    protected.tree = protected.tree || is_directory();
    Ok(protected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::resolver::TestResolver;

    fn toml(text: &str) -> Vec<SourceFile> {
        vec![SourceFile { name: "p.toml".to_owned(), text: text.to_owned() }]
    }

    fn messages(found: &[Diagnostic]) -> Vec<&str> {
        found.iter().map(|found| found.message.as_str()).collect()
    }

    #[test]
    fn protect_makes_trees_of_slashes_and_directories() {
        let resolver = TestResolver::merged_usr();
        let arguments = ["/etc", "/srv/", "/etc/passwd", "/new"].map(PathBuf::from);
        let policy = protect(&arguments, &resolver).unwrap().unwrap();
        let trees: Vec<_> = policy.paths.iter().map(|path| path.tree).collect();
        assert_eq!(trees, [true, true, false, false]);
        assert_eq!((policy.name.as_str(), policy.severity), ("protect", 8));
        let error = protect(&["etc".into()], &resolver).unwrap_err();
        assert_eq!(error.to_string().lines().next(), Some("--protect:1:1: error: etc: the path is relative"));
        assert_eq!(protect(&[], &resolver), Ok(None));
        let built = build(&[], &Labels::new(), Some(policy), 7, &resolver);
        assert_eq!((built.diagnostics, built.snapshot.unwrap().generation), (vec![], 7));
    }

    #[test]
    fn an_error_leaves_no_snapshot() {
        let built = build(&toml("x = 1"), &Labels::new(), None, 1, &TestResolver::merged_usr());
        assert!(built.snapshot.is_none());
    }

    #[test]
    fn a_link_to_an_interpreter_is_no_writer() {
        let mut resolver = TestResolver::merged_usr();
        resolver.links.push(("/usr/bin/tool".into(), "/usr/bin/python3".into()));
        resolver.kinds.insert("/usr/bin/python3".into(), Kind::File);
        let built = build(
            &toml("[[writer]]\nname = 'w'\nexe = ['/bin/tool', '/usr/bin/tool']\n"),
            &Labels::new(),
            None,
            1,
            &resolver,
        );
        assert!(built.snapshot.is_none());
        assert_eq!(messages(&built.diagnostics)[1], "/usr/bin/tool is the interpreter /usr/bin/python3");
    }

    #[test]
    fn a_protected_or_pinned_writer_is_no_finding() {
        let policy = "[[policy]]\nname = 'bin'\npaths = ['/bin/']\nwriters = ['w']\n";
        let writer = "[[writer]]\nname = 'w'\nexe = ['/bin/dpkg']\n";
        let resolver = TestResolver::merged_usr();
        assert_eq!(check(&toml(&format!("{policy}{writer}")), &Labels::new(), &resolver), []);
        let alone = check(&toml(writer), &Labels::new(), &resolver);
        assert_eq!(
            messages(&alone),
            ["/usr/bin/dpkg is not protected: whoever replaces it becomes a writer"]
        );
        let pinned = format!("{writer}blake3 = ['{}']\n", "0aF".repeat(22).split_at(64).0);
        assert_eq!(check(&toml(&pinned), &Labels::new(), &resolver), []);
    }

    #[test]
    fn scripts_and_wrong_slashes_warn() {
        let mut resolver = TestResolver::merged_usr();
        resolver.kinds.insert("/usr/bin/script".into(), Kind::File);
        resolver.scripts.push("/usr/bin/script".into());
        let text = "[[policy]]\nname = 'p'\npaths = ['/bin/', '/etc', '/etc/passwd/', '/none']\n\
                    [[writer]]\nname = 'w'\nexe = ['/bin/script']\n";
        let found = build(&toml(text), &Labels::new(), None, 1, &resolver).diagnostics;
        assert_eq!(
            messages(&found),
            [
                "the path is a directory, and only the directory itself is covered",
                "the path is a file, not a directory",
                "the executable is a script: its processes run the interpreter, so nobody is this writer",
            ]
        );
    }
}
