//! What either dialect makes of one file, before the files of a set are joined.

use super::diagnostic::Diagnostic;
use super::model::{InactivePolicy, Policy, Writer};
use super::source::Span;

/// One file.
#[derive(Debug, Default)]
pub struct Parsed {
    /// In the order written; those that were understood.
    pub policies: Vec<ParsedPolicy>,
    /// In the order written; those that were understood.
    pub writers: Vec<ParsedWriter>,
    /// Loaded, not applied here.
    pub inactive: Vec<InactivePolicy>,
    /// `KubeArmor` documents, in the order written.
    pub documents: Vec<ParsedDocument>,
    /// What is wrong with it.
    pub diagnostics: Vec<Diagnostic>,
}

/// A policy whose writers are still names.
#[derive(Debug)]
pub struct ParsedPolicy {
    /// Without writers.
    pub policy: Policy,
    /// Where its name was written; equal for all policies of one `KubeArmor` document.
    pub name_span: Span,
    /// One for each of its paths.
    pub path_spans: Vec<Span>,
    /// Names and places of its writers.
    pub writers: Vec<(String, Span)>,
    /// Made from a [`ParsedDocument`], which answers for the name.
    pub from_document: bool,
}

/// A writer with its places.
#[derive(Debug)]
pub struct ParsedWriter {
    /// As written.
    pub writer: Writer,
    /// Where its name was written.
    pub name_span: Span,
    /// One for each of its executables.
    pub exe_spans: Vec<Span>,
}

/// A `KubeArmor` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedDocument {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; none for host policies.
    pub namespace: Option<String>,
    /// Where the name was written.
    pub name_span: Span,
}
