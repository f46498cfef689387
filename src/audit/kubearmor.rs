//! The record under `KubeArmor`'s field names. docs/audit-record.md says what stands where.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use serde::Serialize;

use super::context::Context;
use super::flags::OpenFlags;
use super::json::{has_subject, known, place, reason, syscall};
use super::record::{Kind, Record, Span, What};
use super::text::{Hex, Rfc3339, Text, append_line, arguments};

/// What fanotify gives a refused opener. `KubeArmor`'s own alerts say "Permission denied" (EACCES) because an
/// LSM hook refused; a permission event that is answered with `FAN_DENY` yields EPERM, and that is what the
/// refused program prints.
const REFUSED: &str = "Operation not permitted";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Owner<'a> {
    #[serde(rename = "Ref")]
    kind: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Alert<'a> {
    timestamp: u64,
    updated_time: Rfc3339,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
    #[serde(rename = "ContainerID", skip_serializing_if = "Option::is_none")]
    container_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_image: Option<&'a str>,
    #[serde(rename = "HostPPID", skip_serializing_if = "Option::is_none")]
    host_ppid: Option<i32>,
    #[serde(rename = "HostPID", skip_serializing_if = "Option::is_none")]
    host_pid: Option<i32>,
    #[serde(rename = "PPID", skip_serializing_if = "Option::is_none")]
    ppid: Option<i32>,
    #[serde(rename = "PID", skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(rename = "UID", skip_serializing_if = "Option::is_none")]
    uid: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_process_name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_name_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<String>,
    #[serde(rename = "ATags", skip_serializing_if = "Option::is_none")]
    tag_list: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Cow<'a, str>>,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_hex: Option<Hex<'a>>,
    operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    enforcer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
}

/// Appends `record` as one line to `out`. On an error `out` is as before.
pub fn encode(
    record: &Record,
    seq: u64,
    context: &Context,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let text = |span: Span| Text::new(record.text(span));
    let subject = &record.subject;
    let number = |known: i32| (known >= 0).then_some(known);
    let (exe, path) = (text(subject.exe), text(record.path));
    let policy = record.policy();
    let place = place(record, context);
    let own = place.and_then(|place| place.container);
    let namespace = own.and_then(|own| known(&own.namespace));
    let (action, result) = action(record.kind).unzip();
    let about_gate = about_gate(record.kind);
    let message = match policy.and_then(|policy| known(&policy.message)) {
        Some(message) if !about_gate => Some(Cow::Borrowed(message)),
        _ => reason(record).text,
    };
    let (pid, ppid) = (number(subject.pid), number(subject.ppid));
    let alert = Alert {
        timestamp: record.time_ns / 1_000_000_000,
        updated_time: Rfc3339 { ns: record.time_ns, digits: 6 },
        seq,
        cluster_name: known(&context.cluster),
        host_name: known(&context.hostname),
        namespace_name: namespace,
        owner: own.and_then(|own| own.owner.as_ref()).map(|owner| Owner {
            kind: &owner.kind,
            name: &owner.name,
            namespace,
        }),
        pod_name: own.and_then(|own| known(&own.pod)),
        labels: place.and_then(|place| place.labels).map(|labels| {
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        }),
        container_id: place.and_then(|place| place.id),
        container_name: own.and_then(|own| known(&own.name)),
        container_image: own.and_then(|own| known(&own.image)),
        // Both as the gate sees them: in the container's own PID namespace the numbers may be others.
        host_ppid: ppid,
        host_pid: pid,
        ppid,
        pid,
        uid: (0..i64::from(u32::MAX)).contains(&subject.uid).then_some(subject.uid),
        parent_process_name: text(subject.parent_exe).text,
        process_name: exe.text,
        process_name_hex: exe.hex,
        policy_name: policy.map(|policy| policy.name.as_str()),
        severity: policy.map(|policy| policy.severity.to_string()),
        tags: policy.map(|policy| policy.tags.join(",")),
        tag_list: policy.map(|policy| policy.tags.as_slice()),
        message,
        r#type: match (about_gate, place) {
            (true, _) => "SystemEvent",
            (false, Some(_)) => "MatchedPolicy",
            (false, None) => "MatchedHostPolicy",
        },
        source: source(record),
        source_hex: Text::new(record.text(subject.cmdline)).hex,
        operation: if about_gate { "writegate" } else { "File" },
        resource: path.text,
        resource_hex: path.hex,
        cwd: text(subject.cwd).text,
        data: data(record),
        enforcer: "writegate",
        action,
        result,
    };
    append_line(&alert, out)
}

/// Records about the gate rather than about a file.
fn about_gate(kind: Kind) -> bool {
    match kind {
        Kind::Deny | Kind::Allow | Kind::Audit | Kind::Healed | Kind::Detected => false,
        Kind::Lost
        | Kind::Started
        | Kind::Stopped
        | Kind::Reloaded
        | Kind::ReloadFailed
        | Kind::WorkerReplaced => true,
    }
}

/// `Action` and `Result`. "Audit (Block)" is `KubeArmor`'s word for a Block policy that could not refuse.
fn action(kind: Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Deny => Some(("Block", REFUSED)),
        Kind::Audit => Some(("Audit", "Passed")),
        Kind::Allow => Some(("Allow", "Passed")),
        Kind::Healed => Some(("Audit (Block)", "Restored")),
        Kind::Detected => Some(("Audit (Block)", "Passed")),
        _ => None,
    }
}

/// The command line with the executable's path as its first word.
fn source(record: &Record) -> Option<String> {
    let exe = record.text(record.subject.exe);
    let cmdline = record.text(record.subject.cmdline);
    if !has_subject(record) || (exe.is_empty() && cmdline.is_empty()) {
        return None;
    }
    let skipped = usize::from(!exe.is_empty());
    let mut source = String::from_utf8_lossy(exe).into_owned();
    let arguments = (!cmdline.is_empty()).then(|| arguments(cmdline)).into_iter().flatten();
    for argument in arguments.skip(skipped) {
        if !source.is_empty() {
            source.push(' ');
        }
        source.push_str(&String::from_utf8_lossy(argument));
    }
    Some(source)
}

/// `syscall=SYS_OPENAT flags=O_WRONLY|O_CREAT`, and for what was no system call of the subject, what it was.
fn data(record: &Record) -> String {
    let mut words: Vec<String> = Vec::with_capacity(4);
    if about_gate(record.kind) {
        words.push(format!("event={}", record.kind.as_str()));
    }
    if let Some(syscall) = syscall(record) {
        words.push(format!("syscall=SYS_{}", syscall.to_string().to_uppercase()));
    }
    if let Some(flags) = record.flags {
        words.push(format!("flags={}", OpenFlags(flags)));
    }
    match record.what {
        What::Mutation(mutation) => words.push(format!("mutation={mutation}")),
        What::Access(access) if record.flags.is_none() => words.push(format!("access={access}")),
        _ => {}
    }
    if record.count != 1 || record.kind == Kind::Lost {
        words.push(format!("count={}", record.count));
    }
    if record.since_ns > 0 {
        words.push(format!("since={}", Rfc3339 { ns: record.since_ns, digits: 6 }));
    }
    if record.rolled_back.is_some() {
        words.push(format!("rolled_back={}", record.rolled_back == Some(true)));
    }
    words.join(" ")
}
