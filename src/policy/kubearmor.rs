//! The `KubeArmor` dialect: `KubeArmorPolicy` and `KubeArmorHostPolicy` documents as they stand.
//!
//! What they ask for and this gate does not enforce is a warning with its place, never silence and never an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fields::{Fields, Findings};
use super::kubearmor_entries::{self, Settings};
use super::model::InactivePolicy;
use super::node::{Node, Value};
use super::parsed::{Parsed, ParsedDocument};
use super::source::{SourceFile, Span};
use super::yaml_tree;

/// Labels of the place where the gate runs.
pub type Labels = BTreeMap<String, String>;

const API_VERSION: &str = "security.kubearmor.com/v1";
const DOCUMENT_KEYS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const LIST_KEYS: &[&str] = &["apiVersion", "kind", "metadata", "items"];
const SPEC_KEYS: &[&str] = &[
    "selector",
    "nodeSelector",
    "process",
    "file",
    "network",
    "capabilities",
    "syscalls",
    "apparmor",
    "selinux",
    "severity",
    "tags",
    "message",
    "action",
    "status",
];
/// Sections that only warn.
const SECTIONS_NOT_ENFORCED: &[&str] =
    &["process", "network", "capabilities", "syscalls", "apparmor", "selinux"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pods,
    Host,
}

impl Kind {
    const fn selector_key(self) -> &'static str {
        match self {
            Self::Pods => "selector",
            Self::Host => "nodeSelector",
        }
    }
}

/// Everything that `source` says for a place with these `labels`, and everything that is wrong with it.
pub fn parse(source: &SourceFile, labels: &Labels) -> Parsed {
    let mut findings = Findings::new(source);
    let mut parsed = Parsed::default();
    match yaml_tree::parse(&source.text) {
        Err((span, message)) => findings.error(span, format!("not valid YAML: {message}"), ""),
        Ok(documents) => {
            let file: Arc<str> = Arc::from(source.name.as_str());
            let mut reader = Reader { findings: &mut findings, file, labels, parsed: &mut parsed };
            for document in &documents {
                reader.document(document);
            }
        }
    }
    parsed.diagnostics = findings.into_list();
    parsed
}

struct Reader<'r, 's> {
    findings: &'r mut Findings<'s>,
    file: Arc<str>,
    labels: &'r Labels,
    parsed: &'r mut Parsed,
}

impl Reader<'_, '_> {
    fn document(&mut self, node: &Node<'_>) {
        let Some(fields) = self.findings.open_table(node, "a KubeArmor document") else { return };
        let kind = fields.get("kind").and_then(|node| match &node.value {
            Value::Text(text) => Some(text.as_ref()),
            _ => None,
        });
        let kind = match kind {
            Some("KubeArmorPolicy") => Kind::Pods,
            Some("KubeArmorHostPolicy") => Kind::Host,
            Some("List" | "KubeArmorPolicyList" | "KubeArmorHostPolicyList") => {
                self.findings.table(node, "a list", LIST_KEYS);
                if let Some(items) = fields.get("items") {
                    for item in self.findings.list(items, "`items`") {
                        self.document(item);
                    }
                }
                return;
            }
            Some(other @ "KubeArmorClusterPolicy") => {
                let span = fields.get("kind").map_or(fields.span, |node| node.span);
                let message = format!("{other} is not enforced yet: this document is not applied");
                self.findings.warn(span, message, "write a KubeArmorPolicy with the labels it is for");
                return;
            }
            other => {
                let span = fields.get("kind").map_or(fields.span, |node| node.span);
                let message = match other {
                    Some(other) => format!("a document of kind `{other}` is no policy"),
                    None => "a document without a `kind` is no policy".to_owned(),
                };
                self.findings.error(span, message, "KubeArmorPolicy and KubeArmorHostPolicy are read");
                return;
            }
        };
        self.findings.table(node, "a KubeArmor document", DOCUMENT_KEYS);
        self.api_version(&fields);
        let name = self.metadata(&fields);
        let Some(spec_node) = fields.get("spec") else {
            self.findings.error(
                fields.span,
                "the document has no `spec`",
                "add `spec:` with a `file:` section",
            );
            return;
        };
        let Some(spec) = self.findings.table(spec_node, "`spec`", SPEC_KEYS) else { return };
        let inactive = self.inactive_because(kind, &spec);
        let entries = self.spec(&spec);
        let Some((name, span)) = name else { return };
        let origin = self.findings.origin(&self.file, span);
        match inactive {
            Some(reason) => self.parsed.inactive.push(InactivePolicy { name, reason, origin }),
            None => self.parsed.policies.extend(kubearmor_entries::group(&name, span, &origin, entries)),
        }
    }

    fn api_version(&mut self, fields: &Fields<'_>) {
        let Some(node) = fields.get("apiVersion") else {
            let message = format!("the document has no `apiVersion`: read as {API_VERSION}");
            self.findings.warn(fields.span, message, format!("add `apiVersion: {API_VERSION}`"));
            return;
        };
        match self.findings.text(node, "`apiVersion`") {
            Some(API_VERSION) | None => {}
            Some(other) => {
                let message = format!("`{other}` is read as {API_VERSION}");
                self.findings.warn(node.span, message, "what differs between the two is not known here");
            }
        }
    }

    /// Name and place. Kubernetes keeps much more in here, so other keys are nobody's business.
    fn metadata(&mut self, fields: &Fields<'_>) -> Option<(String, Span)> {
        let metadata = fields.get("metadata").and_then(|node| self.findings.open_table(node, "`metadata`"));
        let named = metadata.and_then(|metadata| Some((metadata, metadata.get("name")?)));
        let Some((metadata, node)) = named else {
            self.findings.error(
                fields.span,
                "the document has no `metadata.name`",
                "records name the policy by it",
            );
            return None;
        };
        let name = self.findings.text(node, "`metadata.name`")?.to_owned();
        let namespace = self.findings.text_at(&metadata, "namespace").map(str::to_owned);
        self.parsed.documents.push(ParsedDocument { name: name.clone(), namespace, name_span: node.span });
        Some((name, node.span))
    }

    /// Why the document does not apply here, if it does not.
    fn inactive_because(&mut self, kind: Kind, spec: &Fields<'_>) -> Option<String> {
        let key = kind.selector_key();
        let other = if kind == Kind::Pods { Kind::Host } else { Kind::Pods }.selector_key();
        if let Some(span) = spec.key_span(other) {
            self.findings.error(
                span,
                format!("`{other}` does not belong to this kind"),
                format!("write `{key}`"),
            );
        }
        let status = self.findings.word_at(spec, "status", &[("Active", true), ("Inactive", false)]);
        if status == Some(false) {
            return Some("its status is Inactive".to_owned());
        }
        let selector =
            self.findings.table(spec.get(key)?, &format!("`{key}`"), &["matchLabels", "matchExpressions"])?;
        if let Some(span) = selector.key_span("matchExpressions") {
            let message = "matchExpressions are not evaluated yet: the policy is not applied";
            self.findings.warn(span, message, "write the labels under `matchLabels`");
            return Some("its matchExpressions are not evaluated yet".to_owned());
        }
        let wanted = self.findings.open_table(selector.get("matchLabels")?, "`matchLabels`")?;
        wanted.entries.iter().find_map(|(label, node)| {
            let value = match &node.value {
                Value::Text(text) => text.as_ref(),
                Value::Null => "",
                // `version: 1.10` is a string to whoever wrote it.
                _ => self.findings.text_of(node.span),
            };
            match self.labels.get(label.text.as_ref()) {
                Some(here) if here == value => None,
                Some(here) => Some(format!("label {} is `{here}` here, not `{value}`", label.text)),
                None => Some(format!("label {}={value} is missing here", label.text)),
            }
        })
    }

    fn spec(&mut self, spec: &Fields<'_>) -> Vec<kubearmor_entries::Entry> {
        for section in SECTIONS_NOT_ENFORCED {
            if let (Some(span), Some(_)) = (spec.key_span(section), spec.get(section)) {
                let message = format!("`{section}` is not enforced yet: this section is not applied");
                self.findings.warn(span, message, "the `file` section is what this gate enforces");
            }
        }
        let settings = Settings::read(self.findings, spec, &Settings::default());
        let entries = match spec.get("file") {
            Some(node) => kubearmor_entries::read_file_section(self.findings, node, &settings),
            None => Vec::new(),
        };
        if spec.get("file").is_none() {
            let message = "the policy has no `file` section: it protects nothing here";
            self.findings.warn(spec.span, message, "add `file:` with `matchPaths` or `matchDirectories`");
        }
        entries
    }
}
