//! `explain`: which policy, which verdict, why.

use std::fmt::Write as _;

use super::args::ExplainArgs;
use super::check::rendered;
use super::report::{Exit, Failure, Report, shown};
use super::run::{absolute, chosen};
use crate::policy::choice;
use crate::policy::explain::{self as policy_explain, Enforcement, Explanation, change_from_word};
use crate::policy::filesystem::Filesystem;
use crate::policy::snapshot::Snapshot;

pub(super) fn explain(args: ExplainArgs) -> Result<Report, Failure> {
    let (policy, protect) = chosen(&args.chosen)?;
    let labels = args.labels.labels.into_iter().collect();
    let built = choice::build(&policy, &protect, &labels, 1);
    let Some(snapshot) = built.snapshot else {
        let failure = Failure::new(
            Exit::Finding,
            "the policies have errors, so nothing can be said about the path",
            "correct what is shown above; `writegate check` shows it too",
        );
        return Err(Failure { details: rendered(&built.diagnostics), ..failure });
    };
    // Clap has let only these words through.
    let Some(change) = change_from_word(&args.access) else {
        return Err(Failure::new(Exit::Usage, "no such access", "see `writegate explain --help`"));
    };
    let path = absolute(&args.path)?;
    let exe = args.exe.as_deref().map(absolute).transpose()?;
    let answer = policy_explain::explain(&snapshot, &Filesystem, &path, change, exe.as_deref());
    if args.json.json {
        return Report::json(&answer, Exit::Done);
    }
    Ok(Report::text(text(&answer, &snapshot), Exit::Done))
}

fn text(answer: &Explanation, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: {} of {}", answer.verdict, answer.access, shown(&answer.path));
    let governing = answer.policy.as_ref().and_then(|name| {
        snapshot.policies.iter().map(|compiled| &compiled.policy).find(|policy| policy.name == *name)
    });
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<12} {}", shown(value));
    };
    if let Some(policy) = governing {
        let origin = &policy.origin;
        let place = if origin.line == 0 {
            origin.file.to_string()
        } else {
            format!("{}:{}", origin.file, origin.line)
        };
        line("policy", &format!("{} ({place}), severity {}", policy.name, policy.severity));
    }
    line("reason", &answer.reason);
    line("enforcement", enforcement(answer));
    if let Some(policy) = governing {
        if !policy.message.is_empty() && answer.verdict != "allow" {
            line("message", &policy.message);
        }
        let writers: Vec<_> =
            policy.writers.iter().filter_map(|&index| snapshot.writers.get(index)).collect();
        for writer in writers {
            let exe: Vec<_> = writer.exe.iter().map(|exe| exe.to_string_lossy()).collect();
            let who = if writer.descendants { " and its descendants" } else { "" };
            line("writer", &format!("{}: {}{who}", writer.name, exe.join(", ")));
        }
    }
    for inactive in &snapshot.inactive {
        line("inactive", &format!("{}: {}", inactive.name, inactive.reason));
    }
    text
}

fn enforcement(answer: &Explanation) -> &'static str {
    match (answer.enforcement, answer.verdict) {
        (Enforcement::Prevented, _) => "prevented: refused before it happens",
        (Enforcement::Healed, _) => "healed: put back as soon as it has happened",
        (Enforcement::Detected, _) => "detected: recorded when it happens",
        (Enforcement::None, "allow") => "none: it passes",
        (Enforcement::None, _) => "none: the gate does not see such a change (see `writegate doctor`)",
    }
}
