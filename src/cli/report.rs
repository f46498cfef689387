//! What a command ends with: data and an exit code, or one line of what went wrong and one of what to do.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use crate::audit::text::is_unprintable;

/// The exit codes of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, nothing found.
    Done = 0,
    /// A lint error, no gate, a deviation.
    Finding = 1,
    /// Wrong usage.
    Usage = 2,
    /// Not permitted or not supported here.
    Unavailable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Data for stdout, and how the command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// All of it.
    pub text: String,
    /// How.
    pub exit: Exit,
    /// What keeps the data from being whole, for stderr.
    pub failure: Option<Failure>,
}

impl Report {
    /// With `text` as it is.
    pub fn text(text: String, exit: Exit) -> Self {
        Self { text, exit, failure: None }
    }

    /// With `data` as one JSON document.
    pub fn json(data: &impl Serialize, exit: Exit) -> Result<Self, Failure> {
        let mut text = serde_json::to_string_pretty(data).map_err(|error| {
            Failure::new(Exit::Finding, format!("failed to write JSON: {error}"), "report this as a bug")
        })?;
        text.push('\n');
        Ok(Self::text(text, exit))
    }

    /// Writes it. A reader that went away is no error.
    pub fn print(self) -> Result<ExitCode, Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(self.text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(Failure::output(&error)),
            _ => {}
        }
        Ok(self.failure.map_or(self.exit.into(), |failure| failure.print()))
    }
}

/// One line of what, one line of what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong, lower case.
    pub what: String,
    /// What to do.
    pub help: String,
    /// Findings to show before.
    pub details: String,
}

impl Failure {
    /// A failure without findings.
    pub fn new(exit: Exit, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { exit, what: what.into(), help: help.into(), details: String::new() }
    }

    /// Stdout does not take what there is to say.
    pub fn output(error: &io::Error) -> Self {
        Self::new(
            Exit::Finding,
            format!("failed to write to stdout: {error}"),
            "look at where stdout goes: a full disk, or a descriptor that is closed",
        )
    }

    /// To stderr, with the exit code.
    pub fn print(&self) -> ExitCode {
        let mut text = self.details.clone();
        let _ = writeln!(text, "error: {}\nhelp: {}", shown(&self.what), shown(&self.help));
        // Nobody is left to tell.
        let _ = io::stderr().lock().write_all(text.as_bytes());
        self.exit.into()
    }
}

/// `text` without anything that could steer a terminal or begin another line.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unprintable(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// `1 policy`, `2 policies`.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(shown("a\u{1b}[2J\nb é"), "a\\u{1b}[2J\\u{a}b é");
    }
}
