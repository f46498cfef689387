//! `quarantine`: what healing took away, and how to get it back.

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::args::{ListArgs, ReleaseArgs, ShowArgs, StateDirArgs};
use super::report::{Exit, Failure, Report};
use super::run::absolute;
use crate::audit::tail::{escaped, escaped_bytes};
use crate::audit::text::Rfc3339;
use crate::heal::{self, Item, JsonPath, Quarantine};

/// An item in JSON, in the words of the audit record.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    time: String,
    kind: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<&'a str>,
    kept: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_hex: Option<&'a str>,
    /// Octal, as chmod(1) takes it.
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    bytes: u64,
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a Value>,
}

impl<'a> From<&'a Item> for Shown<'a> {
    fn from(item: &'a Item) -> Self {
        Self {
            id: &item.id,
            time: time(item),
            kind: &item.kind,
            path: &item.original.text,
            path_hex: item.original.hex.as_deref(),
            kept: &item.kept.text,
            kept_hex: item.kept.hex.as_deref(),
            mode: format!("{:04o}", item.mode & 0o7777),
            uid: item.uid,
            gid: item.gid,
            size: item.size,
            bytes: item.bytes,
            entries: item.entries,
            blake3: item.blake3.as_deref(),
            seq: (item.seq > 0).then_some(item.seq),
            subject: Some(&item.subject).filter(|subject| !subject.is_null()),
        }
    }
}

pub(super) fn list(args: &ListArgs) -> Result<Report, Failure> {
    let quarantine = open(&args.state_dir)?;
    if args.json.json {
        let items: Vec<_> = quarantine.list().map(Shown::from).collect();
        return Report::json(&items, Exit::Done);
    }
    let mut text = String::new();
    for item in quarantine.list() {
        let _ = writeln!(
            text,
            "{}  {}  {:<9}  {:>10}  {}{}",
            escaped(&item.id),
            time(item),
            escaped(&item.kind),
            item.bytes,
            printable(&item.original),
            who(&item.subject)
        );
    }
    Ok(Report::text(text, Exit::Done))
}

pub(super) fn show(args: &ShowArgs) -> Result<Report, Failure> {
    let quarantine = open(&args.state_dir)?;
    let item = quarantine.show(&args.id).ok_or_else(|| failure(heal::Failure::NoSuchItem, &args.id))?;
    if args.json.json {
        return Report::json(&Shown::from(item), Exit::Done);
    }
    Ok(Report::text(text(item), Exit::Done))
}

pub(super) fn release(args: &ReleaseArgs) -> Result<Report, Failure> {
    let mut quarantine = open(&args.state_dir)?;
    let no_such = || failure(heal::Failure::NoSuchItem, &args.id);
    let destination = if let Some(path) = &args.to {
        absolute(path)?
    } else {
        quarantine.show(&args.id).ok_or_else(no_such)?.original.path()
    };
    if destination.as_os_str().is_empty() {
        let what = format!("nothing says where {} was", escaped(&args.id));
        return Err(Failure::new(Exit::Finding, what, "say where it is to go with --to"));
    }
    quarantine.release(&args.id, &destination).map_err(|error| failure(error, &args.id))?;
    let path = escaped_bytes(destination.as_os_str().as_bytes());
    Ok(Report::text(format!("{} is at {path}\n", escaped(&args.id)), Exit::Done))
}

fn open(args: &StateDirArgs) -> Result<Quarantine, Failure> {
    let state_dir = absolute(&args.state_dir)?;
    Quarantine::existing(&state_dir).map_err(|error| unreadable(&state_dir, &error))
}

fn unreadable(state_dir: &Path, error: &io::Error) -> Failure {
    let what = format!("failed to read the quarantine in {}: {error}", state_dir.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Unavailable, what, "it is for root only: run this as root")
        }
        _ => Failure::new(Exit::Finding, what, "name the gate's own directory with --state-dir"),
    }
}

fn failure(error: heal::Failure, id: &str) -> Failure {
    let what = match error {
        heal::Failure::NoSuchItem => format!("nothing in the quarantine is called {id}"),
        _ => format!("failed to release {id}: {error}"),
    };
    let (exit, help) = match error {
        heal::Failure::NoSuchItem => (Exit::Finding, "`writegate quarantine list` shows what there is"),
        _ if error.is(libc::EEXIST) => {
            (Exit::Finding, "something is there already: name another path with --to")
        }
        heal::Failure::Replaced => {
            (Exit::Finding, "name a path with --to in a directory where nobody else may write")
        }
        _ if error.is(libc::ENOENT) => (Exit::Finding, "make the directory, or name another path with --to"),
        _ if error.is(libc::EACCES) || error.is(libc::EPERM) => {
            (Exit::Unavailable, "run this as root, and release it to a path that no gate protects")
        }
        _ => (Exit::Finding, "name another path with --to, on a filesystem with room"),
    };
    Failure::new(exit, what, help)
}

fn time(item: &Item) -> String {
    Rfc3339 { ns: item.time_ns, digits: 9 }.to_string()
}

/// A path for people, by its exact bytes.
fn printable(path: &JsonPath) -> String {
    escaped_bytes(path.path().as_os_str().as_bytes())
}

fn who(subject: &Value) -> String {
    match subject["pid"].as_i64() {
        Some(pid) => format!("  by {}[{pid}]", escaped(subject["exe"].as_str().unwrap_or("?"))),
        None => String::new(),
    }
}

fn text(item: &Item) -> String {
    let mut text = format!("{}\n", escaped(&item.id));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<8} {value}");
    };
    line("was", &printable(&item.original));
    line("is at", &printable(&item.kept));
    line("taken", &time(item));
    let entries = if item.entries == 1 { String::new() } else { format!(", {} entries", item.entries) };
    line("kind", &format!("{}, {} bytes on disk{entries}", escaped(&item.kind), item.bytes));
    line("mode", &format!("{:04o}, owner {}:{}", item.mode & 0o7777, item.uid, item.gid));
    line("blake3", item.blake3.as_deref().unwrap_or("not known"));
    match item.seq {
        0 => line("record", "not known"),
        seq => line("record", &format!("#{seq}")),
    }
    match who(&item.subject).trim_start() {
        "" => line("by", "unknown"),
        who => line("by", who.trim_start_matches("by ")),
    }
    if let Some(cmdline) = item.subject["cmdline"].as_str() {
        line("command", &escaped(cmdline));
    }
    for ancestor in item.subject["ancestors"].as_array().into_iter().flatten() {
        let comm = ancestor["exe"].as_str().or_else(|| ancestor["comm"].as_str()).unwrap_or("?");
        line("below", &format!("{}[{}]", escaped(comm), ancestor["pid"]));
    }
    text
}
