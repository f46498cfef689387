//! The TOML dialect. Its words are those of [`super::model`].

use std::path::PathBuf;
use std::sync::Arc;

use super::fields::{Fields, Findings};
use super::model::{Action, Modification, Mounting, Policy, Response, Truncation, Writer};
use super::node::Node;
use super::parsed::{Parsed, ParsedPolicy, ParsedWriter};
use super::paths;
use super::source::SourceFile;
use super::toml_tree;

const POLICY_KEYS: &[&str] = &[
    "name",
    "action",
    "paths",
    "recursive",
    "modification",
    "truncate",
    "create",
    "read",
    "response",
    "mount",
    "writers",
    "severity",
    "tags",
    "message",
];
const WRITER_KEYS: &[&str] = &["name", "exe", "descendants", "blake3"];
const ACTIONS: &[(&str, Action)] =
    &[("block", Action::Block), ("audit", Action::Audit), ("allow", Action::Allow)];
const MODIFICATIONS: &[(&str, Modification)] = &[
    ("never", Modification::Never),
    ("append", Modification::Append),
    ("content", Modification::Content),
    ("any", Modification::Any),
];
const RESPONSES: &[(&str, Response)] = &[("restore", Response::Restore), ("alert", Response::Alert)];
const TRUNCATIONS: &[(&str, Truncation)] =
    &[("refuse", Truncation::Refuse), ("restore", Truncation::Restore)];
const MOUNTINGS: &[(&str, Mounting)] = &[("report", Mounting::Report), ("detach", Mounting::Detach)];
/// Of a policy that names none.
const SEVERITY_DEFAULT: u8 = 5;

/// Everything that `source` says, and everything that is wrong with it.
pub fn parse(source: &SourceFile) -> Parsed {
    let mut findings = Findings::new(source);
    let mut parsed = Parsed::default();
    match toml_tree::parse(&source.text) {
        Err((span, message)) => findings.error(span, format!("not valid TOML: {message}"), ""),
        Ok(document) => {
            let file: Arc<str> = Arc::from(source.name.as_str());
            read_document(&mut findings, &file, &document, &mut parsed);
        }
    }
    parsed.diagnostics = findings.into_list();
    parsed
}

fn read_document(findings: &mut Findings<'_>, file: &Arc<str>, document: &Node<'_>, parsed: &mut Parsed) {
    let Some(top) = findings.table(document, "a policy file", &["policy", "writer"]) else { return };
    if let Some(node) = top.get("policy") {
        for item in findings.list(node, "`policy`") {
            if let Some(fields) = findings.table(item, "`[[policy]]`", POLICY_KEYS) {
                parsed.policies.extend(read_policy(findings, file, fields));
            }
        }
    }
    if let Some(node) = top.get("writer") {
        for item in findings.list(node, "`writer`") {
            if let Some(fields) = findings.table(item, "`[[writer]]`", WRITER_KEYS) {
                parsed.writers.extend(read_writer(findings, file, fields));
            }
        }
    }
}

/// A name, reported when there is none.
fn name_of<'n>(findings: &mut Findings<'_>, fields: &Fields<'n>, what: &str) -> Option<&'n str> {
    let Some(node) = fields.get("name") else {
        findings.error(fields.span, format!("{what} without a `name`"), "add `name = \"...\"`");
        return None;
    };
    let name = findings.text(node, "`name`")?;
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        findings.error(node.span, format!("the name of a {what} must be visible"), "give it a word");
        return None;
    }
    Some(name)
}

fn read_policy(findings: &mut Findings<'_>, file: &Arc<str>, fields: Fields<'_>) -> Option<ParsedPolicy> {
    let name = name_of(findings, &fields, "policy");
    let action = findings.word_at(&fields, "action", ACTIONS).unwrap_or(Action::Block);
    let modification =
        findings.word_at(&fields, "modification", MODIFICATIONS).unwrap_or(Modification::Never);
    let truncate = findings.word_at(&fields, "truncate", TRUNCATIONS).unwrap_or(Truncation::Refuse);
    let recursive = findings.boolean_at(&fields, "recursive").unwrap_or(true);
    let create = findings.boolean_at(&fields, "create").unwrap_or(false);
    let read = findings.boolean_at(&fields, "read").unwrap_or(true);
    let response = findings.word_at(&fields, "response", RESPONSES);
    let mount = findings.word_at(&fields, "mount", MOUNTINGS).unwrap_or(Mounting::Report);
    let in_vain = [
        ("response", "restore", response == Some(Response::Restore)),
        ("mount", "detach", mount == Mounting::Detach),
    ];
    for (key, word, is_said) in in_vain {
        if is_said
            && action == Action::Audit
            && let Some(span) = fields.key_span(key)
        {
            let message = format!("`{key} = \"{word}\"` has no effect with `action = \"audit\"`");
            let help = "an audit policy records and puts nothing back: block, or remove the key";
            findings.warn(span, message, help);
        }
    }
    let severity = findings.severity_at(&fields, "severity", false).unwrap_or(SEVERITY_DEFAULT);
    let message = findings.text_at(&fields, "message").unwrap_or_default().to_owned();
    let tags = findings.texts_at(&fields, "tags").unwrap_or_default();
    let writers = findings.texts_at(&fields, "writers").unwrap_or_default();
    let written = findings.texts_at(&fields, "paths");
    if written.as_ref().is_none_or(Vec::is_empty) && fields.get("paths").is_none_or(is_empty_list) {
        let span = fields.key_span("paths").unwrap_or(fields.span);
        findings.error(span, "a policy without paths protects nothing", "add `paths = [\"/...\"]`");
    }
    let mut paths = Vec::new();
    let mut path_spans = Vec::new();
    for (text, span) in written.unwrap_or_default() {
        if let Some(path) = findings.path(text, span) {
            paths.push(path);
            path_spans.push(span);
        }
    }
    if !paths.is_empty() && paths.iter().all(|path| !path.tree) {
        for key in ["recursive", "create"] {
            if let Some(span) = fields.key_span(key) {
                let message =
                    format!("`{key}` means nothing for files, and all paths of this policy are files");
                findings.warn(span, message, "a directory is written with a trailing slash");
            }
        }
    }
    if action == Action::Allow {
        for key in ["modification", "truncate", "writers", "create", "read", "response", "mount"] {
            if let Some(span) = fields.key_span(key) {
                let message = format!("`{key}` has no effect with `action = \"allow\"`");
                findings.warn(span, message, "an allow policy permits everything: remove the key");
            }
        }
    }
    let name_span = fields.get("name").map_or(fields.span, |node| node.span);
    let policy = Policy {
        name: name?.to_owned(),
        action,
        paths,
        recursive,
        modification,
        truncate,
        create,
        read,
        response: response.unwrap_or(Response::default_for(action, modification)),
        mount,
        writers: Vec::new(),
        severity,
        tags: tags.into_iter().map(|(tag, _)| tag.to_owned()).collect(),
        message,
        origin: findings.origin(file, name_span),
    };
    let writers = writers.into_iter().map(|(name, span)| (name.to_owned(), span)).collect();
    Some(ParsedPolicy { policy, name_span, path_spans, writers, from_document: false })
}

fn is_empty_list(node: &Node<'_>) -> bool {
    matches!(&node.value, super::node::Value::List(items) if items.is_empty())
}

fn read_writer(findings: &mut Findings<'_>, file: &Arc<str>, fields: Fields<'_>) -> Option<ParsedWriter> {
    let name = name_of(findings, &fields, "writer");
    let descendants = findings.boolean_at(&fields, "descendants").unwrap_or(false);
    let written = findings.texts_at(&fields, "exe");
    if fields.get("exe").is_none_or(is_empty_list) {
        let span = fields.key_span("exe").unwrap_or(fields.span);
        findings.error(span, "a writer without `exe` is nobody", "add `exe = [\"/...\"]`");
    }
    let mut exe: Vec<PathBuf> = Vec::new();
    let mut exe_spans = Vec::new();
    for (text, span) in written.unwrap_or_default() {
        let Some(path) = findings.path(text, span) else { continue };
        if path.tree {
            findings.error(span, "an executable is a file, not a directory", "remove the trailing slash");
        } else if paths::is_interpreter(&path.path) {
            findings.error(
                span,
                "an interpreter is never a writer by its executable alone",
                "it runs whatever it is given: name the program that starts it, with `descendants = true`",
            );
        } else {
            exe.push(path.path);
            exe_spans.push(span);
        }
    }
    let mut pins = Vec::new();
    for (text, span) in findings.texts_at(&fields, "blake3").unwrap_or_default() {
        match blake3::Hash::from_hex(text) {
            Ok(pin) => pins.push(*pin.as_bytes()),
            Err(_) => findings.error(
                span,
                "a BLAKE3 sum is 64 hexadecimal digits",
                "`b3sum FILE` prints it; a SHA-256 sum does not do",
            ),
        }
    }
    let name_span = fields.get("name").map_or(fields.span, |node| node.span);
    let origin = findings.origin(file, name_span);
    let writer = Writer { name: name?.to_owned(), exe, descendants, blake3: pins, origin };
    Some(ParsedWriter { writer, name_span, exe_spans })
}
