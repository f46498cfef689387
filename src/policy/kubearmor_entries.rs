//! The `file` section of a `KubeArmor` document: its entries, what they inherit, and the policies they become.

use super::fields::{Fields, Findings};
use super::model::{Action, Modification, Mounting, Origin, Policy, ProtectedPath, Response, Truncation};
use super::node::{Node, Value};
use super::parsed::ParsedPolicy;
use super::source::Span;
use super::suggest;

const SECTION_KEYS: &[&str] =
    &["matchPaths", "matchDirectories", "matchPatterns", "severity", "tags", "message", "action"];
const PATH_KEYS: &[&str] =
    &["path", "readOnly", "ownerOnly", "fromSource", "severity", "tags", "message", "action"];
const DIRECTORY_KEYS: &[&str] =
    &["dir", "recursive", "readOnly", "ownerOnly", "fromSource", "severity", "tags", "message", "action"];
const PATTERN_KEYS: &[&str] =
    &["pattern", "readOnly", "ownerOnly", "fromSource", "severity", "tags", "message", "action"];
/// `KubeArmor`'s own default.
const SEVERITY_DEFAULT: u8 = 1;

/// What an entry takes from its section, and the section from the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    action: Action,
    severity: u8,
    tags: Vec<String>,
    message: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { action: Action::Block, severity: SEVERITY_DEFAULT, tags: Vec::new(), message: String::new() }
    }
}

impl Settings {
    /// What `fields` give, and for the rest what is inherited.
    pub fn read(findings: &mut Findings<'_>, fields: &Fields<'_>, inherited: &Self) -> Self {
        let tags = findings.texts_at(fields, "tags").filter(|tags| !tags.is_empty());
        let message = findings.text_at(fields, "message").filter(|message| !message.is_empty());
        Self {
            action: read_action(findings, fields).unwrap_or(inherited.action),
            severity: findings.severity_at(fields, "severity", true).unwrap_or(inherited.severity),
            tags: tags.map_or_else(
                || inherited.tags.clone(),
                |tags| tags.into_iter().map(|(tag, _)| tag.to_owned()).collect(),
            ),
            message: message.map_or_else(|| inherited.message.clone(), str::to_owned),
        }
    }
}

fn read_action(findings: &mut Findings<'_>, fields: &Fields<'_>) -> Option<Action> {
    let node = fields.get("action")?;
    let text = findings.text(node, "`action`")?;
    match text.to_ascii_lowercase().as_str() {
        "block" => Some(Action::Block),
        "audit" => Some(Action::Audit),
        "allow" => Some(Action::Allow),
        "" => None,
        _ => {
            let help = suggest::advice(text, &["Block", "Audit", "Allow"]);
            findings.error(node.span, format!("unknown action `{text}`"), help);
            None
        }
    }
}

/// One path or directory with everything it inherits.
#[derive(Debug)]
pub struct Entry {
    path: ProtectedPath,
    span: Span,
    recursive: bool,
    read_only: bool,
    settings: Settings,
}

/// The entries that are applied; the others leave a warning.
pub fn read_file_section(findings: &mut Findings<'_>, node: &Node<'_>, spec: &Settings) -> Vec<Entry> {
    let Some(section) = findings.table(node, "`file`", SECTION_KEYS) else { return Vec::new() };
    let settings = Settings::read(findings, &section, spec);
    let mut entries = Vec::new();
    if let Some(node) = section.get("matchPaths") {
        for item in findings.list(node, "`matchPaths`") {
            if let Some(fields) = findings.table(item, "an entry of `matchPaths`", PATH_KEYS) {
                entries.extend(read_entry(findings, &fields, "path", &settings));
            }
        }
    }
    if let Some(node) = section.get("matchDirectories") {
        for item in findings.list(node, "`matchDirectories`") {
            if let Some(fields) = findings.table(item, "an entry of `matchDirectories`", DIRECTORY_KEYS) {
                entries.extend(read_entry(findings, &fields, "dir", &settings));
            }
        }
    }
    if let Some(node) = section.get("matchPatterns") {
        for item in findings.list(node, "`matchPatterns`") {
            if let Some(fields) = findings.table(item, "an entry of `matchPatterns`", PATTERN_KEYS) {
                let message = "matchPatterns are not enforced yet: this entry is not applied";
                let span = fields.get("pattern").map_or(fields.span, |node| node.span);
                findings.warn(span, message, "name the directory with `matchDirectories`");
                Settings::read(findings, &fields, &settings);
            }
        }
    }
    entries
}

fn read_entry(
    findings: &mut Findings<'_>,
    fields: &Fields<'_>,
    key: &str,
    inherited: &Settings,
) -> Option<Entry> {
    let settings = Settings::read(findings, fields, inherited);
    let read_only = findings.boolean_at(fields, "readOnly").unwrap_or(false);
    let recursive = findings.boolean_at(fields, "recursive").unwrap_or(false);
    let owner_only = findings.boolean_at(fields, "ownerOnly").unwrap_or(false);
    let Some(node) = fields.get(key) else {
        findings.error(fields.span, format!("the entry has no `{key}`"), format!("add `{key}: /...`"));
        return None;
    };
    let text = findings.text(node, &format!("`{key}`"))?;
    let path = findings.path(text, node.span)?;
    let is_directory = key == "dir";
    if is_directory && !path.tree {
        let help = format!("write `{text}/`, or name a file under `matchPaths`");
        findings.error(node.span, "a `dir` ends with a slash", help);
        return None;
    }
    if !is_directory && path.tree {
        let help = "remove the slash, or name a directory under `matchDirectories`";
        findings.error(node.span, "a `path` does not end with a slash", help);
        return None;
    }
    let mut applied = true;
    if let Some(from) = fields.get("fromSource").filter(|from| !is_empty(from)) {
        let span = fields.key_span("fromSource").unwrap_or(from.span);
        let message = "fromSource is not enforced yet: this entry is not applied";
        findings.warn(span, message, "without it, the entry would hold for every program");
        applied = false;
    }
    if owner_only {
        let span = fields.key_span("ownerOnly").unwrap_or(fields.span);
        let message = "ownerOnly is not enforced yet: the entry holds for the owner too";
        findings.warn(span, message, "");
    }
    if settings.action == Action::Allow {
        let span = fields.get("action").map_or(node.span, |action| action.span);
        let message = "Allow makes a default-deny list, which is not enforced yet: this entry is not applied";
        findings.warn(span, message, "block what must not change instead");
        applied = false;
    }
    applied.then_some(Entry { path, span: node.span, recursive, read_only, settings })
}

fn is_empty(node: &Node<'_>) -> bool {
    matches!(&node.value, Value::List(items) if items.is_empty())
}

/// The entries as policies, all under the document's name: one for each combination of settings.
pub fn group(name: &str, name_span: Span, origin: &Origin, entries: Vec<Entry>) -> Vec<ParsedPolicy> {
    // With each: what its trees say about `recursive`, once it has one.
    let mut groups: Vec<(ParsedPolicy, Option<bool>)> = Vec::new();
    for Entry { path, span, recursive, read_only, settings } in entries {
        // KubeArmor's Block leaves no access at all, unless the entry is read-only.
        let read = read_only;
        let depth = path.tree.then_some(recursive);
        let same = groups.iter_mut().rev().find(|(group, group_depth)| {
            let policy = &group.policy;
            policy.action == settings.action
                && policy.read == read
                && policy.severity == settings.severity
                && policy.message == settings.message
                && policy.tags == settings.tags
                && (depth.is_none() || group_depth.is_none() || *group_depth == depth)
        });
        if let Some((group, group_depth)) = same {
            if let Some(recursive) = depth {
                group.policy.recursive = recursive;
                *group_depth = depth;
            }
            group.policy.paths.push(path);
            group.path_spans.push(span);
            continue;
        }
        let policy = Policy {
            name: name.to_owned(),
            action: settings.action,
            recursive: !path.tree || recursive,
            paths: vec![path],
            modification: Modification::Never,
            truncate: Truncation::Refuse,
            create: false,
            read,
            response: Response::default_for(settings.action, Modification::Never),
            mount: Mounting::Report,
            writers: Vec::new(),
            severity: settings.severity,
            tags: settings.tags,
            message: settings.message,
            origin: origin.clone(),
        };
        let (path_spans, writers) = (vec![span], Vec::new());
        groups.push((ParsedPolicy { policy, name_span, path_spans, writers, from_document: true }, depth));
    }
    groups.into_iter().map(|(policy, _)| policy).collect()
}
