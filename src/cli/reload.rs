//! `reload`: has the gate read its policies again.

use std::fmt::Write as _;

use serde_json::Value;

use super::args::ReloadArgs;
use super::report::{Exit, Failure, Report, shown};
use super::status::{failure, parsed};
use crate::control::client;
use crate::control::protocol::{Command, ReloadReply};

pub(super) fn reload(args: &ReloadArgs) -> Result<Report, Failure> {
    let socket = &args.control.control;
    let document = client::ask(socket, Command::Reload).map_err(|error| failure(&error))?;
    let reply: ReloadReply = parsed(socket, &document)?;
    let exit = if reply.ok { Exit::Done } else { Exit::Finding };
    if args.json.json {
        return Report::json(&parsed::<Value>(socket, &document)?, exit);
    }
    let mut text = findings(&reply);
    if reply.ok {
        let _ = writeln!(text, "reloaded: generation {} is in force", reply.generation);
    }
    let failure = (!reply.ok).then(|| {
        Failure::new(
            Exit::Finding,
            format!("the new policies have errors; generation {} stays in force", reply.generation),
            "correct what is shown above and reload again",
        )
    });
    Ok(Report { failure, ..Report::text(text, exit) })
}

/// Rendered by the gate, which has the files.
fn findings(reply: &ReloadReply) -> String {
    let mut text = String::new();
    for found in &reply.diagnostics {
        for line in found.rendered.lines() {
            let _ = writeln!(text, "{}", shown(line));
        }
        text.push('\n');
    }
    text
}
