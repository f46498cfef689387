//! Joins the files of a set: names become unique, writers are found across files, limits hold.

use std::collections::HashMap;

use super::diagnostic::Diagnostic;
use super::fields::Findings;
use super::kubearmor::{self, Labels};
use super::model::PolicySet;
use super::parsed::{Parsed, ParsedPolicy};
use super::snapshot::{POLICIES_MAX, WRITERS_MAX};
use super::source::{SourceFile, Span};
use super::{suggest, toml_language};

/// A set with the places of its parts, for findings that need a file system or the compiled set.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What was understood; complete only without errors.
    pub set: PolicySet,
    /// In the order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
    /// One for each policy of the set.
    pub(super) policies: Vec<Places>,
    /// One for each writer of the set.
    pub(super) writers: Vec<Places>,
}

/// Where the parts of a policy or a writer were written.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Index into the sources.
    pub source: usize,
    /// One for each path or executable.
    pub spans: Vec<Span>,
}

impl Loaded {
    /// Whether an error keeps the set from being compiled.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Reads `sources` for a place with these `labels`.
pub fn load(sources: &[SourceFile], labels: &Labels) -> Loaded {
    let mut loaded = Loaded::default();
    let mut joiner = Joiner::default();
    let files: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| {
            let mut parsed = parse(source, labels);
            let mut findings = Findings::new(source);
            joiner.writers(index, source, &mut parsed, &mut findings, &mut loaded);
            (parsed, findings)
        })
        .collect();
    for (index, (source, (mut parsed, mut findings))) in sources.iter().zip(files).enumerate() {
        joiner.documents(source, &parsed, &mut findings);
        for policy in std::mem::take(&mut parsed.policies) {
            joiner.policy(index, source, policy, &mut findings, &mut loaded);
        }
        loaded.set.inactive.append(&mut parsed.inactive);
        let mut diagnostics = parsed.diagnostics;
        diagnostics.extend(findings.into_list());
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        loaded.diagnostics.extend(diagnostics);
    }
    loaded
}

fn parse(source: &SourceFile, labels: &Labels) -> Parsed {
    let extension = source.name.rsplit('.').next().unwrap_or_default();
    if matches!(extension, "yaml" | "yml") {
        kubearmor::parse(source, labels)
    } else {
        toml_language::parse(source)
    }
}

#[derive(Default)]
struct Joiner {
    /// Name to index into the set, and where it was written.
    writers: HashMap<String, (usize, String)>,
    /// Name of a TOML policy or `KubeArmor` document to its namespace and where it was written.
    names: HashMap<String, (Option<String>, String)>,
}

impl Joiner {
    fn writers(
        &mut self,
        index: usize,
        source: &SourceFile,
        parsed: &mut Parsed,
        findings: &mut Findings<'_>,
        loaded: &mut Loaded,
    ) {
        for parsed in std::mem::take(&mut parsed.writers) {
            let name = &parsed.writer.name;
            if let Some((_, place)) = self.writers.get(name) {
                let message = format!("a writer named `{name}` exists already");
                findings.error(parsed.name_span, message, format!("the other is in {place}"));
                continue;
            }
            if loaded.set.writers.len() == WRITERS_MAX {
                let message = format!("a set has at most {WRITERS_MAX} writers");
                findings.error(parsed.name_span, message, "one writer may list several executables");
                continue;
            }
            let place = format!("{}:{}", source.name, parsed.writer.origin.line);
            self.writers.insert(name.clone(), (loaded.set.writers.len(), place));
            loaded.set.writers.push(parsed.writer);
            loaded.writers.push(Places { source: index, spans: parsed.exe_spans });
        }
    }

    fn documents(&mut self, source: &SourceFile, parsed: &Parsed, findings: &mut Findings<'_>) {
        for document in &parsed.documents {
            let line = findings.line_of(document.name_span);
            self.name(&document.name, document.namespace.clone(), document.name_span, source, line, findings);
        }
    }

    /// Registers a name, or reports that it is taken.
    fn name(
        &mut self,
        name: &str,
        namespace: Option<String>,
        span: Span,
        source: &SourceFile,
        line: u32,
        findings: &mut Findings<'_>,
    ) {
        let Some((other, place)) = self.names.get(name) else {
            self.names.insert(name.to_owned(), (namespace, format!("{}:{line}", source.name)));
            return;
        };
        if *other == namespace {
            let message = format!("a policy named `{name}` exists already");
            findings.error(span, message, format!("the other is in {place}"));
        } else {
            let message = format!("a policy named `{name}` exists in another namespace");
            findings.warn(span, message, format!("records will not tell it from the one in {place}"));
        }
    }

    fn policy(
        &mut self,
        index: usize,
        source: &SourceFile,
        parsed: ParsedPolicy,
        findings: &mut Findings<'_>,
        loaded: &mut Loaded,
    ) {
        let ParsedPolicy { mut policy, name_span, path_spans, writers, from_document } = parsed;
        if !from_document {
            self.name(&policy.name, None, name_span, source, policy.origin.line, findings);
        }
        for (name, span) in writers {
            match self.writers.get(&name) {
                Some((writer, _)) if policy.writers.contains(writer) => {}
                Some((writer, _)) => policy.writers.push(*writer),
                None => {
                    let nearest = suggest::nearest(&name, self.writers.keys().map(String::as_str));
                    let help = match nearest {
                        Some(nearest) => format!("did you mean `{nearest}`?"),
                        None => format!("add a `[[writer]]` with `name = \"{name}\"`"),
                    };
                    findings.error(span, format!("unknown writer `{name}`"), help);
                }
            }
        }
        if loaded.set.policies.len() == POLICIES_MAX {
            let message = format!("a set has at most {POLICIES_MAX} policies");
            findings.error(name_span, message, "one policy may list many paths");
            return;
        }
        loaded.set.policies.push(policy);
        loaded.policies.push(Places { source: index, spans: path_spans });
    }
}
