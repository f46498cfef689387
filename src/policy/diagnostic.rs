//! What is wrong with a policy, shown where it is wrong.

use std::fmt;

use serde::Serialize;

use super::source::{LineIndex, Place, SourceFile, Span};

/// Does it keep the policy from being loaded?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Yes: the old snapshot stays in force.
    Error,
    /// No: it loads, and may not do what its author expects.
    Warning,
}

impl Level {
    /// The word of the JSON and of the rendering.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One finding. [`fmt::Display`] renders it with the source line and a caret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file as it was given.
    pub file: String,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// Does it keep the policy from being loaded?
    pub level: Level,
    /// One cause, lower case.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The source line, when there is one to show.
    #[serde(skip)]
    pub snippet: Option<Box<Snippet>>,
}

/// A source line made safe for a terminal, and where the carets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    text: String,
    padding: usize,
    carets: usize,
}

/// Characters of a line that are shown; the rest becomes `…`.
const SNIPPET_CHARS_MAX: usize = 120;
/// Of these, shown before the span.
const SNIPPET_BEFORE_MAX: usize = 60;

impl Diagnostic {
    /// A finding about a file as a whole: it has no line to show.
    pub fn about(file: &str, level: Level, message: impl Into<String>, help: Option<String>) -> Self {
        let (line, column) = (1, 1);
        Self { file: file.to_owned(), line, column, level, message: message.into(), help, snippet: None }
    }

    /// A finding at `span` of `source`.
    pub fn at(
        source: &SourceFile,
        lines: &LineIndex,
        span: Span,
        level: Level,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Self {
        let place = lines.place(&source.text, span);
        Self {
            line: place.line,
            column: place.column,
            snippet: Some(Box::new(Snippet::new(place))),
            ..Self::about(&source.name, level, message, help)
        }
    }

    /// Whether it keeps the policy from being loaded.
    pub fn is_error(&self) -> bool {
        self.level == Level::Error
    }
}

impl Snippet {
    fn new(place: Place<'_>) -> Self {
        let skipped = (place.column as usize - 1).saturating_sub(SNIPPET_BEFORE_MAX);
        let mut snippet = Self { text: String::new(), padding: 0, carets: 0 };
        if skipped > 0 {
            snippet.text.push('…');
            snippet.padding = 1;
        }
        for (shown, (at, character)) in place.text.char_indices().skip(skipped).enumerate() {
            if shown == SNIPPET_CHARS_MAX {
                snippet.text.push('…');
                break;
            }
            let width = push_visible(&mut snippet.text, character);
            if at < place.start {
                snippet.padding += width;
            } else if at < place.end {
                snippet.carets += width;
            }
        }
        snippet.carets = snippet.carets.max(1);
        snippet
    }
}

/// Appends what a terminal may show of `character` and returns the columns that takes.
fn push_visible(text: &mut String, character: char) -> usize {
    match character {
        '\t' => {
            text.push_str("    ");
            4
        }
        // Would move the cursor, or reorder what is read.
        _ if character.is_control() || is_invisible(character) => {
            text.push('\u{fffd}');
            1
        }
        _ => {
            text.push(character);
            columns(character)
        }
    }
}

fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Terminal columns, near enough for a caret.
fn columns(character: char) -> usize {
    match character as u32 {
        0x300..=0x36f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        push_visible(&mut shown, character);
    }
    shown
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, message) = (visible(&self.file), visible(&self.message));
        write!(f, "{file}:{}:{}: {}: {message}", self.line, self.column, self.level.as_str())?;
        let number = self.line.to_string();
        let gutter = number.len();
        if let Some(snippet) = &self.snippet {
            let Snippet { text, padding, carets } = snippet.as_ref();
            write!(f, "\n {number} | {text}\n {:gutter$} | {:padding$}{}", "", "", "^".repeat(*carets))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n {:gutter$} = help: {}", "", visible(help))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn render(text: &str, start: usize, end: usize) -> String {
        let source = SourceFile { name: "p.toml".to_owned(), text: text.to_owned() };
        let span = Span::new(start, end);
        Diagnostic::at(&source, &LineIndex::new(text), span, Level::Error, "it is wrong", None).to_string()
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_caret_in_place() {
        assert_eq!(
            render("\t\"日本\" = x", 12, 13),
            "p.toml:1:9: error: it is wrong\n 1 |     \"日本\" = x\n   |              ^"
        );
    }

    #[test]
    fn a_span_at_the_end_of_an_empty_file() {
        assert_eq!(render("", 0, 0), "p.toml:1:1: error: it is wrong\n 1 | \n   | ^");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert!(!render("a = \"\u{1b}[2J\u{202e}\"", 0, 1).contains(['\u{1b}', '\u{202e}']));
    }

    #[test]
    fn a_long_line_is_cut_around_the_span() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let shown = render(&text, 5000, 5001);
        assert!(shown.len() < 400 && shown.contains('X') && shown.contains('…'), "{shown}");
    }

    #[test]
    fn json_has_exactly_the_contract_keys() {
        let finding = Diagnostic::about("f", Level::Warning, "m", None);
        let json = serde_json::to_value(&finding).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["column", "file", "help", "level", "line", "message"]);
        assert_eq!(json["level"], "warning");
    }

    proptest! {
        #[test]
        fn no_text_and_no_span_panics(text in "(?s).{0,200}", start in 0usize..250, length in 0usize..250) {
            let _ = render(&text, start, start + length);
        }
    }
}
