//! The command line, as clap reads it.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::audit::logger::Format;
use crate::options::{AUDIT_LOG, CONTROL_SOCKET, Mode, STATE_DIR};
use crate::policy::explain::change_words;
use crate::sys::shared::RESPONDERS_MAX;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 a finding; 2 wrong usage; 3 not permitted or not supported here.";

/// A gate in front of the files that must not change.
///
/// writegate answers Linux fanotify permission events: a write to a protected path is refused before it happens,
/// with the reason and the actor on record. Everything else passes.
#[derive(Debug, Parser)]
#[command(name = "writegate", version, arg_required_else_help = true, after_help = EXIT_CODES)]
#[command(infer_subcommands = false, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Status(StatusArgs),
    Check(CheckArgs),
    Explain(ExplainArgs),
    Doctor(DoctorArgs),
    Demo(DemoArgs),
    Reload(ReloadArgs),
    /// Read the audit trail
    #[command(subcommand, arg_required_else_help = true, disable_help_subcommand = true)]
    Audit(AuditCommand),
    /// See what healing took away, and give it back
    #[command(subcommand, arg_required_else_help = true, disable_help_subcommand = true)]
    Quarantine(QuarantineCommand),
}

/// Run the gate, in the foreground
///
/// Without --policy and --protect the policies of /etc/writegate/policies.d are in force, and where there are none
/// the built-in set: programs, libraries, boot files and account files change only through the package manager and
/// the tools made for them. SIGHUP reloads, SIGTERM and SIGINT end the gate, and a service manager is told when it
/// is up (`sd_notify`).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate run --protect /srv/www/
  writegate run --policy /etc/writegate/policies.d --mode observe
  writegate run --policy kubearmor.yaml --label app=web")]
pub struct RunArgs {
    #[command(flatten)]
    pub chosen: ChosenArgs,
    /// Refuse what is not permitted, or only record what would have been refused
    ///
    /// In observe mode nobody can be blocked: it uses notification events only.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = ModeWord::Enforce)]
    pub mode: ModeWord,
    /// Directory for what must outlive a restart
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
    #[command(flatten)]
    pub control: ControlArgs,
    #[command(flatten)]
    pub audit_log: AuditLogArgs,
    #[arg(help = "Field names of the audit trail: writegate's own, or KubeArmor's")]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = FormatWord::Native)]
    pub audit_format: FormatWord,
    #[command(flatten)]
    pub labels: LabelArgs,
    /// Number of threads that answer events [default: one for each CPU, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=RESPONDERS_MAX as i64))]
    pub threads: Option<u16>,
}

/// Which policies.
#[derive(Debug, Args)]
pub struct ChosenArgs {
    /// Policy file, or directory of them (*.toml, *.yaml, *.yml); may be repeated
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    pub policy: Vec<PathBuf>,
    /// Path that nobody may change; a directory stands for its whole tree; may be repeated
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub protect: Vec<PathBuf>,
}

/// Where the gate listens.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// The gate's control socket
    #[arg(long, value_name = "SOCKET", default_value = CONTROL_SOCKET, value_hint = ValueHint::FilePath)]
    pub control: PathBuf,
}

/// The trail.
#[derive(Debug, Args)]
pub struct AuditLogArgs {
    /// The audit trail, one JSON object per line
    #[arg(long, value_name = "FILE", default_value = AUDIT_LOG, value_hint = ValueHint::FilePath)]
    pub audit_log: PathBuf,
}

/// Labels.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Label of this host or container, for policies with a selector; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
}

/// JSON or not.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Show whether the gate is up, its counters and what it does not cover
///
/// Exit code 0 once the gate is up and every mark is in place, 1 while it is not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate status
  writegate status --wait 10 && systemctl start web
  writegate status --json | jq .denied")]
pub struct StatusArgs {
    #[command(flatten)]
    pub control: ControlArgs,
    /// Wait until the gate is up, at most this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub wait: Option<std::time::Duration>,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Lint policies
///
/// Shows every finding with its line and a caret. Exit code 1 when there is an error: such a policy is not loaded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate check /etc/writegate/policies.d
  writegate check kubearmor.yaml --label app=web
  writegate check --json policies/ | jq '.[] | select(.level == \"error\")'")]
pub struct CheckArgs {
    /// Policy files, or directories of them (*.toml, *.yaml, *.yml)
    #[arg(required = true, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    pub policy: Vec<PathBuf>,
    #[command(flatten)]
    pub labels: LabelArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Say which policy governs a path, what its verdict is, and why
///
/// Asks the policies, not the running gate. Without --policy and --protect it asks those that `run` would use.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate explain /usr/bin/ls
  writegate explain /usr/bin/ls --access write --exe /usr/bin/dpkg
  writegate explain /var/log/syslog --access truncate --policy logs.toml")]
pub struct ExplainArgs {
    /// The path asked about
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// What would be done to it
    #[arg(long, value_name = "ACCESS", default_value = "write", value_parser = access_words())]
    pub access: String,
    /// Executable of the process that would do it, taken at its word
    #[arg(long, value_name = "EXE", value_hint = ValueHint::ExecutablePath)]
    pub exe: Option<PathBuf>,
    #[command(flatten)]
    pub labels: LabelArgs,
    #[command(flatten)]
    pub chosen: ChosenArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Show what this kernel and container allow, and what becomes of each kind of change
///
/// Probes the running kernel. Each way to change a file is prevented, healed, detected or not covered, and why.
/// Where a gate runs, it is asked what it could not put back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate doctor
  writegate doctor --json | jq '.coverage[] | select(.class == \"none\")'")]
pub struct DoctorArgs {
    #[command(flatten)]
    pub control: ControlArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Protect a scratch directory, attack it, and show what became of each attack
///
/// Starts a gate of its own on a new directory below $TMPDIR or /tmp, and ends it and removes the directory
/// afterwards. Touches nothing else. Exit code 0 when everything that should be prevented or put back was.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate demo
  writegate demo --keep       # leave the directory and its audit trail to look at")]
pub struct DemoArgs {
    /// Leave the scratch directory and its audit trail behind
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub json: JsonArgs,
    /// One attack, in a process of its own
    #[arg(long, hide = true, num_args = 2, value_names = ["NAME", "DIR"])]
    pub attack: Option<Vec<PathBuf>>,
}

/// Have the gate read its policies again
///
/// When they have an error the old ones stay in force, the findings are shown and the exit code is 1.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub control: ControlArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// The commands of `audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    Tail(TailArgs),
}

/// Show the last records, and with --follow those that come
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate audit tail
  writegate audit tail --follow
  writegate audit tail -n 1000 --json | jq 'select(.verdict == \"deny\") | .path'")]
pub struct TailArgs {
    #[command(flatten)]
    pub audit_log: AuditLogArgs,
    /// How many of the last records
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: usize,
    /// Go on with what comes, through rotation, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Print the records as they are, one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Taken by every audit command; showing records needs no state
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, hide = true)]
    pub state_dir: PathBuf,
}

/// The commands of `quarantine`.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    List(ListArgs),
    Show(ShowArgs),
    Release(ReleaseArgs),
}

/// Where the quarantine is.
#[derive(Debug, Args)]
pub struct StateDirArgs {
    /// The gate's state directory
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
}

/// List what healing took away, oldest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate quarantine list
  writegate quarantine list --json | jq '.[] | select(.kind == \"file\") | .blake3'")]
pub struct ListArgs {
    #[command(flatten)]
    pub state_dir: StateDirArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Show all that is known of one thing: what it was, where, by whom, and where it is kept
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Its name in the list
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    pub state_dir: StateDirArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Give one thing back: where it was, or at --to
///
/// It is moved, with content, owner, mode and attributes as they were; flags of chattr(1) stay off. A running gate
/// does not know that you want it: in a place that it protects, it takes it away again. Release it elsewhere, or
/// give the place a policy that lets it be, and reload.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  writegate quarantine release 187f4d2a9c3b1e05 --to /root/evidence/evil
  writegate quarantine release 187f4d2a9c3b1e05")]
pub struct ReleaseArgs {
    /// Its name in the list
    #[arg(value_name = "ID")]
    pub id: String,
    /// A path that does not exist yet [default: where it was]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub to: Option<PathBuf>,
    #[command(flatten)]
    pub state_dir: StateDirArgs,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeWord {
    /// Refuse what is not permitted
    Enforce,
    /// Only record what would have been refused
    Observe,
}

impl From<ModeWord> for Mode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Enforce => Self::Enforce,
            ModeWord::Observe => Self::Observe,
        }
    }
}

/// `--audit-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatWord {
    /// The record of docs/audit-record.md
    Native,
    #[value(name = "kubearmor", help = "The same under KubeArmor's field names")]
    KubeArmor,
}

impl From<FormatWord> for Format {
    fn from(word: FormatWord) -> Self {
        match word {
            FormatWord::Native => Self::Native,
            FormatWord::KubeArmor => Self::KubeArmor,
        }
    }
}

fn access_words() -> impl TypedValueParser<Value = String> {
    // "unknown" is what the gate says when it cannot tell; nobody asks for it.
    PossibleValuesParser::new(change_words().filter(|word| *word != "unknown"))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written KEY=VALUE".to_owned()),
    }
}

fn parse_seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "give a number of seconds, such as 10 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn labels_and_seconds() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_label("=b").is_err() && parse_label("a").is_err());
        assert_eq!(parse_seconds("0.5"), Ok(std::time::Duration::from_millis(500)));
        assert!(parse_seconds("-1").is_err() && parse_seconds("nan").is_err() && parse_seconds("x").is_err());
    }

    #[test]
    fn threads_fit_the_shared_page() {
        assert!(Cli::try_parse_from(["writegate", "run", "--threads", "128"]).is_ok());
        for bad in ["0", "129", "x"] {
            assert!(Cli::try_parse_from(["writegate", "run", "--threads", bad]).is_err());
        }
    }
}
