//! Which policies are meant by a command line: those given, else those installed, else the built-in set.

use std::path::{Path, PathBuf};

use super::builtin;
use super::check::{self, Built};
use super::diagnostic::Diagnostic;
use super::filesystem::{self, Filesystem};
use super::kubearmor::Labels;
use super::source::SourceFile;
use crate::options::POLICY_DIR;

/// The sources that `--policy` and `--protect` ask for: the files given; none with `--protect` alone; else the
/// installed directory if it holds a policy, else the built-in set.
pub fn sources(policy: &[PathBuf], protect: &[PathBuf]) -> (Vec<SourceFile>, Vec<Diagnostic>) {
    sources_or(policy, protect, Path::new(POLICY_DIR))
}

fn sources_or(
    policy: &[PathBuf],
    protect: &[PathBuf],
    installed: &Path,
) -> (Vec<SourceFile>, Vec<Diagnostic>) {
    if !policy.is_empty() || !protect.is_empty() {
        filesystem::load_sources(policy)
    } else if filesystem::holds_policies(installed) {
        filesystem::load_sources(&[installed.to_owned()])
    } else {
        (builtin::sources(), Vec::new())
    }
}

/// The snapshot of [`sources`]. Whatever cannot be read leaves none.
pub fn build(policy: &[PathBuf], protect: &[PathBuf], labels: &Labels, generation: u64) -> Built {
    let (sources, mut diagnostics) = sources(policy, protect);
    let protected = match check::protect(protect, &Filesystem) {
        Ok(protected) => protected,
        Err(found) => {
            diagnostics.push(found);
            None
        }
    };
    let built = check::build(&sources, labels, protected, generation, &Filesystem);
    let broken = diagnostics.iter().any(Diagnostic::is_error);
    diagnostics.extend(built.diagnostics);
    Built { snapshot: built.snapshot.filter(|_| !broken), diagnostics }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_policies_stand_in_for_none_only() {
        let directory = tempfile::tempdir().unwrap();
        let installed = directory.path();
        let names = |policy: &[PathBuf], protect: &[PathBuf], installed: &Path| -> Vec<String> {
            let (sources, _) = sources_or(policy, protect, installed);
            sources.into_iter().map(|source| source.name).collect()
        };
        let own = installed.join("a.toml");
        assert_eq!(names(&[], &[], &installed.join("none")), [builtin::BUILTIN_NAME]);
        assert_eq!(names(&[], &[], installed), [builtin::BUILTIN_NAME]);
        std::fs::write(&own, "").unwrap();
        assert_eq!(names(&[], &[], installed), [own.to_string_lossy()]);
        assert!(names(&[], &["/y".into()], installed).is_empty());
        assert_eq!(names(std::slice::from_ref(&own), &["/y".into()], installed).len(), 1);
    }

    #[test]
    fn protect_alone_is_the_only_policy() {
        let built = build(&[], &["/etc/".into()], &Labels::new(), 1);
        let names: Vec<_> =
            built.snapshot.unwrap().policies.into_iter().map(|compiled| compiled.policy.name).collect();
        assert_eq!(names, [check::PROTECT_NAME]);
    }

    #[test]
    fn what_cannot_be_read_leaves_no_snapshot() {
        let built = build(&["/nonexistent/p.toml".into()], &[], &Labels::new(), 1);
        assert!(built.snapshot.is_none());
        assert!(built.diagnostics[0].is_error());
        assert!(build(&[], &["relative".into()], &Labels::new(), 1).snapshot.is_none());
    }
}
