//! `doctor`: what this kernel, filesystem and container allow.
#![forbid(unsafe_code)]

pub mod coverage;
pub mod features;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::report::{Exit, Failure, Report, shown};
use crate::control::client;
use crate::control::protocol::{Command, StatusReply, Unmarked};
use crate::heal;
use crate::policy::explain::Enforcement;
use crate::preflight::preflight;
use crate::watch;
use coverage::Row;
use features::Features;

/// The answer; its keys are a public contract.
#[derive(Debug, Serialize)]
struct Answer {
    kernel: String,
    features: BTreeMap<&'static str, bool>,
    coverage: Vec<Row>,
    /// Of the features that are missing.
    missing: BTreeMap<&'static str, String>,
    security_modules: Vec<String>,
    open_files: Limits,
    /// What the running gate could not put back; none where no gate answers.
    unheld: Option<Vec<Unmarked>>,
    /// Stores of gates whose state directory is gone.
    abandoned: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Limits {
    soft: u64,
    hard: u64,
}

/// Probes this host. Where no gate can run it says what can be told, and what is missing.
/// What the gate that listens on `control`, if one does, could not put back, it lists too.
pub fn doctor(control: &Path, json: bool) -> Result<Report, Failure> {
    let preflight = preflight();
    let features = Features::probe();
    let exit = if preflight.is_ok() { Exit::Done } else { Exit::Unavailable };
    let unheld = unheld(control);
    let report = if json {
        Report::json(&answer(&features, unheld), exit)?
    } else {
        Report::text(text(&features, &unheld.unwrap_or_default()) + &text_of_abandoned(&abandoned()), exit)
    };
    Ok(Report { failure: preflight.err().map(Failure::from), ..report })
}

fn kernel() -> String {
    let Ok(name) = nix::sys::utsname::uname() else { return "unknown".to_owned() };
    let word = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    format!("{} {} {}", word(name.sysname()), word(name.release()), word(name.machine()))
}

fn unheld(control: &Path) -> Option<Vec<Unmarked>> {
    let document = client::ask(control, Command::Status).ok()?;
    let reply: StatusReply = serde_json::from_slice(&document).ok()?;
    Some(reply.unheld)
}

fn answer(features: &Features, unheld: Option<Vec<Unmarked>>) -> Answer {
    let (soft, hard) = features.open_files;
    Answer {
        kernel: kernel(),
        features: features.iter().map(|feature| (feature.name, feature.found.is_ok())).collect(),
        coverage: coverage::coverage(features),
        missing: features
            .iter()
            .filter_map(|feature| feature.found.clone().err().map(|why| (feature.name, why)))
            .collect(),
        security_modules: features.security_modules.clone(),
        open_files: Limits { soft, hard },
        unheld,
        abandoned: abandoned().iter().map(|path| path.display().to_string()).collect(),
    }
}

fn abandoned() -> Vec<PathBuf> {
    let mounts = watch::mounted();
    heal::abandoned(mounts.iter().map(|(point, kind)| (point.as_path(), kind.as_str())))
}

fn text_of_abandoned(abandoned: &[PathBuf]) -> String {
    let mut text = String::new();
    if !abandoned.is_empty() {
        text.push_str("\nLeft behind by a gate whose state directory is gone: remove it, it keeps deleted files alive\n");
    }
    for path in abandoned {
        let _ = writeln!(text, "  {}", shown(&path.display().to_string()));
    }
    text
}

/// The word for people.
pub const fn class_word(class: Enforcement) -> &'static str {
    match class {
        Enforcement::Prevented => "prevented",
        Enforcement::Healed => "healed",
        Enforcement::Detected => "detected",
        Enforcement::None => "not covered",
    }
}

fn text(features: &Features, unheld: &[Unmarked]) -> String {
    let mut text = String::new();
    let (soft, hard) = features.open_files;
    let modules = match features.security_modules.as_slice() {
        [] => "cannot be told".to_owned(),
        modules => modules.join(", "),
    };
    let _ = writeln!(text, "kernel            {}", shown(&kernel()));
    let _ = writeln!(text, "security modules  {}", shown(&modules));
    let _ = writeln!(text, "open files        {soft}, up to {hard}: so many opens can wait at once");
    text.push_str("\nThis host\n");
    for feature in features.iter() {
        let yes = if feature.found.is_ok() { "yes" } else { "no " };
        let _ = write!(text, "  {yes}  {:<21} {}", feature.name, feature.purpose);
        if let Err(why) = &feature.found {
            let _ = write!(text, " ({})", shown(why));
        }
        text.push('\n');
    }
    text.push_str("\nWhat becomes of a change that a policy does not permit\n");
    for class in [Enforcement::Prevented, Enforcement::Healed, Enforcement::Detected, Enforcement::None] {
        for row in coverage::coverage(features).iter().filter(|row| row.class == class) {
            let _ = writeln!(text, "  {:<12} {}", class_word(class), row.mutation);
            let _ = writeln!(text, "  {:<12}   {}", "", row.why);
        }
    }
    if !unheld.is_empty() {
        text.push_str("\nWhat the running gate could not put back, or not wholly\n");
    }
    for one in unheld {
        let _ = writeln!(text, "  {}: {}", shown(&one.path), shown(&one.error));
    }
    text
}
