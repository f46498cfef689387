//! Which policies are meant by a command line: those given, else those installed, else the built-in set.

use std::path::{Path, PathBuf};

use super::builtin;
use super::check::{self, Built};
use super::diagnostic::Diagnostic;
use super::filesystem::{self, Filesystem};
use super::kubearmor::Labels;
use super::source::SourceFile;
use crate::options::POLICY_DIR;

/// `--policy` as it was given, or the installed directory where nothing was given and it holds a policy.
pub fn policy_arguments(policy: Vec<PathBuf>, protect: &[PathBuf]) -> Vec<PathBuf> {
    installed_or(policy, protect, Path::new(POLICY_DIR))
}

fn installed_or(policy: Vec<PathBuf>, protect: &[PathBuf], installed: &Path) -> Vec<PathBuf> {
    if policy.is_empty() && protect.is_empty() && filesystem::holds_policies(installed) {
        return vec![installed.to_owned()];
    }
    policy
}

/// Reads what [`policy_arguments`] chose.
pub fn sources(policy: &[PathBuf], protect: &[PathBuf]) -> (Vec<SourceFile>, Vec<Diagnostic>) {
    if policy.is_empty() && protect.is_empty() {
        (builtin::sources(), Vec::new())
    } else {
        filesystem::load_sources(policy)
    }
}

/// The snapshot of what [`policy_arguments`] chose. Whatever cannot be read leaves none.
pub fn build(policy: &[PathBuf], protect: &[PathBuf], labels: &Labels, generation: u64) -> Built {
    let (sources, mut diagnostics) = sources(policy, protect);
    let protected = check::protect(protect, &Filesystem);
    match (protected, diagnostics.is_empty()) {
        (Ok(protected), true) => check::build(&sources, labels, protected, generation, &Filesystem),
        (protected, _) => {
            diagnostics.extend(check::check(&sources, labels, &Filesystem));
            diagnostics.extend(protected.err());
            Built { snapshot: None, diagnostics }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_policies_stand_in_for_none_only() {
        let directory = tempfile::tempdir().unwrap();
        let installed = directory.path();
        assert_eq!(installed_or(vec![], &[], installed), Vec::<PathBuf>::new());
        assert_eq!(installed_or(vec![], &[], &installed.join("none")), Vec::<PathBuf>::new());
        std::fs::write(installed.join("a.toml"), "").unwrap();
        assert_eq!(installed_or(vec![], &[], installed), [installed.to_owned()]);
        assert_eq!(installed_or(vec!["/x".into()], &[], installed), [PathBuf::from("/x")]);
        assert_eq!(installed_or(vec![], &["/y".into()], installed), Vec::<PathBuf>::new());
    }

    #[test]
    fn nothing_given_is_the_built_in_set_and_protect_alone_is_not() {
        let built = build(&[], &[], &Labels::new(), 1);
        assert_eq!(built.snapshot.unwrap().policies[0].policy.origin.file.as_ref(), builtin::BUILTIN_NAME);
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
    }
}
