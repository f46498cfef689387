//! Findings that take a file system or the compiled set: what loads, and does less than its author expects.

use std::collections::HashMap;

use super::compile::Target;
use super::fields::Findings;
use super::load::{Loaded, Places};
use super::model::{Action, Modification};
use super::paths;
use super::resolver::{Kind, PathResolver, Resolutions};
use super::snapshot::Snapshot;
use super::source::{SourceFile, Span};
use crate::trie::Reach;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `check`: everything.
    Check,
    /// A running gate: not what merely waits to exist.
    Load,
}

/// The findings of several files.
struct Sheets<'s> {
    sources: &'s [SourceFile],
    open: HashMap<usize, Findings<'s>>,
}

impl<'s> Sheets<'s> {
    fn new(sources: &'s [SourceFile]) -> Self {
        Self { sources, open: HashMap::new() }
    }

    /// The findings and the span of a part; `None` for what was written in no file.
    fn at(&mut self, places: Option<&Places>, index: usize) -> Option<(&mut Findings<'s>, Span)> {
        let places = places?;
        let source = self.sources.get(places.source)?;
        let span = *places.spans.get(index)?;
        Some((self.open.entry(places.source).or_insert_with(|| Findings::new(source)), span))
    }

    fn into_lists(self) -> impl Iterator<Item = super::diagnostic::Diagnostic> {
        self.open.into_values().flat_map(Findings::into_list)
    }
}

/// Executables that are missing, or that the kernel never shows as anybody's executable.
pub fn writers(loaded: &mut Loaded, sources: &[SourceFile], resolver: &dyn PathResolver) {
    let mut sheets = Sheets::new(sources);
    for (writer, places) in loaded.set.writers.iter().zip(&loaded.writers) {
        for (index, exe) in writer.exe.iter().enumerate() {
            let Some((findings, span)) = sheets.at(Some(places), index) else { continue };
            let resolved = Resolutions::new(resolver).resolve(exe);
            match resolved.kind {
                _ if paths::is_interpreter(&resolved.path) => {
                    let path = resolved.path.display();
                    let message = format!("{} is the interpreter {path}", exe.display());
                    let help = "an interpreter is never a writer by its executable alone";
                    findings.error(span, message, help);
                }
                None => findings.warn(
                    span,
                    "the executable does not exist",
                    "nobody is this writer until it does",
                ),
                Some(Kind::Directory) => {
                    findings.warn(span, "the executable is a directory", "name the program in it");
                }
                Some(_) if resolver.is_script(&resolved.path) => findings.warn(
                    span,
                    "the executable is a script: its processes run the interpreter, so nobody is this writer",
                    "name the program that starts it, with `descendants = true`",
                ),
                Some(_) => {}
            }
        }
    }
    loaded.diagnostics.extend(sheets.into_lists());
}

/// Paths that several policies share, that are not what their spelling says, or that do not exist.
pub fn targets(loaded: &mut Loaded, sources: &[SourceFile], targets: &[Target], scope: Scope) {
    let mut sheets = Sheets::new(sources);
    for same_path in targets.chunk_by(|a, b| a.path == b.path) {
        let mut first_written: Option<&Target> = None;
        for target in same_path {
            if first_written.is_none_or(|first| target.policy < first.policy) {
                first_written = Some(target);
            }
        }
        for target in same_path {
            let Some((findings, span)) =
                sheets.at(loaded.policies.get(target.policy as usize), target.index as usize)
            else {
                continue;
            };
            if let Some(first) = first_written.filter(|first| first.policy != target.policy) {
                let other = &loaded.set.policies[first.policy as usize];
                let place = format!("{}:{}", other.origin.file, other.origin.line);
                let message =
                    format!("policy `{}` ({place}) covers {} too", other.name, target.path.display());
                findings.warn(span, message, "all of them apply: the strictest verdict counts");
            }
            match (target.reach, target.kind) {
                (_, None) if scope == Scope::Check => {
                    findings.warn(span, "the path does not exist yet", "it is watched for");
                }
                (Reach::File, Some(Kind::Directory)) => findings.warn(
                    span,
                    "the path is a directory, and only the directory itself is covered",
                    "add a trailing slash to cover what is in it",
                ),
                (Reach::Entries | Reach::Tree, Some(Kind::File)) => {
                    findings.warn(span, "the path is a file, not a directory", "remove the trailing slash");
                }
                _ => {}
            }
        }
    }
    loaded.diagnostics.extend(sheets.into_lists());
}

/// Writers that anybody may replace.
pub fn trust(loaded: &mut Loaded, sources: &[SourceFile], snapshot: &Snapshot) {
    use std::os::unix::ffi::OsStrExt;
    let mut sheets = Sheets::new(sources);
    for (writer, places) in snapshot.writers.iter().zip(&loaded.writers) {
        if !writer.blake3.is_empty() {
            continue;
        }
        for (index, exe) in writer.exe.iter().enumerate() {
            let rule = snapshot.rule_for(exe.as_os_str().as_bytes());
            let protected = rule.is_some_and(|rule| {
                rule.policies.iter().map(|index| &snapshot.policies[*index as usize].policy).any(|policy| {
                    policy.action == Action::Block && policy.modification == Modification::Never
                })
            });
            if let (false, Some((findings, span))) = (protected, sheets.at(Some(places), index)) {
                let message =
                    format!("{} is not protected: whoever replaces it becomes a writer", exe.display());
                findings.warn(span, message, "cover it with a block policy, or pin it with `blake3`");
            }
        }
    }
    loaded.diagnostics.extend(sheets.into_lists());
}
