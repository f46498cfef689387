//! The command line: from arguments to a report and an exit code.
//!
//! A command that prints data makes all of it first, so that whoever reads it may go away at any time without
//! changing the exit code.
#![forbid(unsafe_code)]

mod args;
mod audit;
mod check;
mod explain;
mod quarantine;
mod reload;
pub mod report;
mod run;
mod status;

use std::process::ExitCode;

use clap::Parser;

use args::{AuditCommand, Cli, Command, DemoArgs, QuarantineCommand};
use report::{Failure, Report};

use crate::demo;

/// What clap knows, for manual pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn demo(args: &DemoArgs) -> Result<Report, Failure> {
    match args.attack.as_deref() {
        Some([name, directory]) => demo::attack(&name.to_string_lossy(), directory),
        _ => demo::demo(args.keep, args.json.json),
    }
}

/// Reads the arguments of this process and does what they say.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => return run::run(args),
        Command::Status(args) => status::status(&args),
        Command::Check(args) => check::check(args),
        Command::Explain(args) => explain::explain(args),
        Command::Doctor(args) => crate::doctor::doctor(&args.control.control, args.json.json),
        Command::Demo(args) => demo(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Audit(AuditCommand::Tail(args)) => audit::tail(args),
        Command::Quarantine(QuarantineCommand::List(args)) => quarantine::list(&args),
        Command::Quarantine(QuarantineCommand::Show(args)) => quarantine::show(&args),
        Command::Quarantine(QuarantineCommand::Release(args)) => quarantine::release(&args),
    };
    done.and_then(Report::print).unwrap_or_else(|failure| failure.print())
}
