//! Takes a [`Node`] apart and reports everything that is wrong with it, not the first thing.

use super::diagnostic::{Diagnostic, Level};
use super::model::{Origin, ProtectedPath};
use super::node::{Key, Node, Value};
use super::paths;
use super::source::{LineIndex, SourceFile, Span};
use super::suggest;

/// Findings shown for one file; a wrong generator script makes thousands of the same.
const FINDINGS_PER_FILE_MAX: usize = 200;

/// The findings of one file.
pub struct Findings<'s> {
    source: &'s SourceFile,
    lines: LineIndex,
    list: Vec<Diagnostic>,
    left_out: usize,
}

impl<'s> Findings<'s> {
    /// None yet.
    pub fn new(source: &'s SourceFile) -> Self {
        Self { source, lines: LineIndex::new(&source.text), list: Vec::new(), left_out: 0 }
    }

    /// All of them.
    pub fn into_list(mut self) -> Vec<Diagnostic> {
        if self.left_out > 0 {
            let message = format!("{} more findings in this file are not shown", self.left_out);
            self.list.push(Diagnostic::about(&self.source.name, Level::Warning, message, None));
        }
        self.list
    }

    /// Something that keeps the set from being loaded.
    pub fn error(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(span, Level::Error, message.into(), help.into());
    }

    /// Something that may not do what its author expects.
    pub fn warn(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(span, Level::Warning, message.into(), help.into());
    }

    fn push(&mut self, span: Span, level: Level, message: String, help: String) {
        let errors_first = level == Level::Error && !self.list.iter().any(Diagnostic::is_error);
        if self.list.len() >= FINDINGS_PER_FILE_MAX && !errors_first {
            self.left_out += 1;
            return;
        }
        let help = (!help.is_empty()).then_some(help);
        self.list.push(Diagnostic::at(self.source, &self.lines, span, level, message, help));
    }

    /// The origin of what was written at `span`.
    pub fn origin(&self, file: &std::sync::Arc<str>, span: Span) -> Origin {
        Origin { file: file.clone(), line: self.line_of(span) }
    }

    /// The 1-based line of `span`.
    pub fn line_of(&self, span: Span) -> u32 {
        self.lines.place(&self.source.text, span).line
    }

    /// The source text of `span`.
    pub fn text_of(&self, span: Span) -> &'s str {
        self.source.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    fn wrong_type(&mut self, node: &Node<'_>, what: &str, wanted: &str) {
        let message = format!("{what} must be {wanted}, not {}", node.value.kind());
        self.error(node.span, message, "");
    }

    /// The node as a table that has no other keys than `known`.
    pub fn table<'n>(&mut self, node: &'n Node<'n>, what: &str, known: &[&str]) -> Option<Fields<'n>> {
        let fields = self.open_table(node, what)?;
        for (key, _) in fields.entries {
            if !known.contains(&key.text.as_ref()) {
                let message = format!("unknown key `{}` in {what}", key.text);
                self.error(key.span, message, suggest::advice(&key.text, known));
            }
        }
        Some(fields)
    }

    /// The node as a table of any keys.
    pub fn open_table<'n>(&mut self, node: &'n Node<'n>, what: &str) -> Option<Fields<'n>> {
        match &node.value {
            Value::Table(entries) => Some(Fields { span: node.span, entries }),
            Value::Null => Some(Fields { span: node.span, entries: &[] }),
            _ => {
                self.wrong_type(node, what, "a table");
                None
            }
        }
    }

    /// The node as an array.
    pub fn list<'n>(&mut self, node: &'n Node<'n>, what: &str) -> &'n [Node<'n>] {
        match &node.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => {
                self.wrong_type(node, what, "an array");
                &[]
            }
        }
    }

    /// The node as a string.
    pub fn text<'n>(&mut self, node: &'n Node<'n>, what: &str) -> Option<&'n str> {
        if let Value::Text(text) = &node.value {
            return Some(text);
        }
        self.wrong_type(node, what, "a string");
        None
    }

    /// `key` as a string.
    pub fn text_at<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<&'n str> {
        self.text(fields.get(key)?, &format!("`{key}`"))
    }

    /// `key` as an array of strings with their places; what is no string is reported and left out.
    pub fn texts_at<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<Vec<(&'n str, Span)>> {
        let node = fields.get(key)?;
        let what = format!("`{key}`");
        let items = self.list(node, &what);
        let each = format!("each of {what}");
        Some(items.iter().filter_map(|item| Some((self.text(item, &each)?, item.span))).collect())
    }

    /// `key` as a boolean.
    pub fn boolean_at(&mut self, fields: &Fields<'_>, key: &str) -> Option<bool> {
        let node = fields.get(key)?;
        if let Value::Boolean(boolean) = node.value {
            return Some(boolean);
        }
        self.wrong_type(node, &format!("`{key}`"), "true or false");
        None
    }

    /// `key` as a severity; `numeric_text` also takes `"5"`.
    pub fn severity_at(&mut self, fields: &Fields<'_>, key: &str, numeric_text: bool) -> Option<u8> {
        let node = fields.get(key)?;
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) if numeric_text => text.trim().parse().ok(),
            _ => {
                self.wrong_type(node, &format!("`{key}`"), "an integer from 1 to 10");
                return None;
            }
        };
        let severity = number.and_then(|n| u8::try_from(n).ok()).filter(|n| (1..=10).contains(n));
        if severity.is_none() {
            let message = format!("`{key}` must lie between 1 and 10");
            self.error(node.span, message, "1 is the least severe, 10 the most");
        }
        severity
    }

    /// `key` as one of `words`; `None` when absent or reported.
    pub fn word_at<T: Copy>(&mut self, fields: &Fields<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text_at(fields, key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if let (None, Some(node)) = (found, fields.get(key)) {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.error(node.span, format!("unknown {key} `{text}`"), suggest::advice(text, &known));
        }
        found
    }

    /// A path of the policy language, with warnings for what it does not mean.
    pub fn path(&mut self, text: &str, span: Span) -> Option<ProtectedPath> {
        match paths::parse(text) {
            Ok(path) => {
                if text.contains(['*', '?', '[']) {
                    self.warn(
                        span,
                        "wildcards in a path are taken as ordinary characters",
                        "name a directory with a trailing slash to cover what is in it",
                    );
                }
                Some(path)
            }
            Err(error) => {
                self.error(span, error.to_string(), error.help());
                None
            }
        }
    }
}

/// The entries of a table.
#[derive(Clone, Copy)]
pub struct Fields<'n> {
    /// Where the table was written.
    pub span: Span,
    /// In the order written.
    pub entries: &'n [(Key<'n>, Node<'n>)],
}

impl<'n> Fields<'n> {
    /// The value of `key`; a YAML null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'n Node<'n>> {
        self.entries.iter().find(|(k, v)| k.text == key && v.value != Value::Null).map(|(_, value)| value)
    }

    /// Where `key` itself was written.
    pub fn key_span(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|(k, _)| k.text == key).map(|(key, _)| key.span)
    }
}
