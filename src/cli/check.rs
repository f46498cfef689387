//! `check`: every finding about policies, for people or as JSON.

use std::fmt::Write as _;

use super::args::CheckArgs;
use super::report::{Exit, Failure, Report, counted};
use crate::policy::check::{self as policy_check, Built};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::filesystem::{Filesystem, load_sources};
use crate::policy::snapshot::Snapshot;

pub(super) fn check(args: CheckArgs) -> Result<Report, Failure> {
    let labels = args.labels.labels.into_iter().collect();
    let (sources, mut diagnostics) = load_sources(&args.policy);
    let Built { snapshot, diagnostics: found } = policy_check::examine(&sources, &labels, &Filesystem);
    diagnostics.extend(found);
    let errors = diagnostics.iter().filter(|found| found.is_error()).count();
    let exit = if errors > 0 { Exit::Finding } else { Exit::Done };
    if args.json.json {
        return Report::json(&diagnostics, exit);
    }
    let mut text = rendered(&diagnostics);
    let _ = write!(text, "{}", counted(sources.len(), "file", "files"));
    // With an error in one file the counts of the others would pass for the whole.
    if let (0, Some(snapshot)) = (errors, &snapshot) {
        text.push_str(&numbers(snapshot));
    }
    let warnings = diagnostics.len() - errors;
    let errors = counted(errors, "error", "errors");
    let _ = writeln!(text, ": {errors}, {}", counted(warnings, "warning", "warnings"));
    if let Some(snapshot) = snapshot {
        for inactive in &snapshot.inactive {
            let _ = writeln!(text, "inactive: {}: {}", inactive.name, inactive.reason);
        }
    }
    Ok(Report::text(text, exit))
}

fn numbers(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        ", {}, {}",
        counted(snapshot.policies.len(), "policy", "policies"),
        counted(snapshot.trie.len(), "path", "paths")
    );
    if !snapshot.inactive.is_empty() {
        let _ = write!(text, ", {} inactive", snapshot.inactive.len());
    }
    text
}

/// Every finding with its line and caret, each followed by an empty line.
pub(super) fn rendered(diagnostics: &[Diagnostic]) -> String {
    let mut text = String::new();
    for found in diagnostics {
        let _ = write!(text, "{found}\n\n");
    }
    text
}
