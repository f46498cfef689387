//! The native record: one JSON object per line. The field reference is docs/audit-record.md.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::context::{Context, Place};
use super::flags::OpenFlags;
use super::record::{Kind, Object, ObjectKind, Record, Response, Span, Subject, What};
use super::syscall::Syscall;
use super::text::{Cmdline, Hex, Rfc3339, Text, append_line};

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    time: Rfc3339,
    #[serde(skip_serializing_if = "str::is_empty")]
    boot_id: &'a str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<ObjectPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<SubjectPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syscall: Option<Syscall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<OpenFlags>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<ContainerPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<ResponsePart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Rfc3339>,
}

#[derive(Serialize)]
struct ObjectPart {
    dev: u64,
    ino: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
}

#[derive(Serialize)]
struct SubjectPart<'a> {
    pid: i32,
    tid: i32,
    ppid: i32,
    uid: i64,
    auid: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    argv: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cmdline_cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_exe: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_exe_hex: Option<Hex<'a>>,
    ancestors: Vec<AncestorPart<'a>>,
}

#[derive(Serialize)]
struct AncestorPart<'a> {
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_hex: Option<Hex<'a>>,
}

#[derive(Serialize)]
struct ContainerPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct ResponsePart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    healed_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<Hex<'a>>,
}

/// Appends `record` as one line to `out`. On an error `out` is as before.
pub fn encode(
    record: &Record,
    seq: u64,
    context: &Context,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let text = |span: Span| Text::new(record.text(span));
    let (path, alias, reason) = (text(record.path), text(record.alias), reason(record));
    let policy = record.policy();
    let (access, mutation) = match record.what {
        What::Nothing => (None, None),
        What::Access(access) => (Some(access.as_str()), None),
        What::Mutation(mutation) => (None, Some(mutation.as_str())),
    };
    let line = Line {
        seq,
        time: nanoseconds(record.time_ns),
        boot_id: &context.boot_id,
        verdict: record.kind.as_str(),
        access,
        mutation,
        path: path.text,
        path_hex: path.hex,
        alias: alias.text,
        alias_hex: alias.hex,
        object: object(record.object),
        policy: policy.map(|policy| policy.name.as_str()),
        severity: policy.map(|policy| policy.severity),
        tags: policy.map(|policy| policy.tags.as_slice()),
        message: policy.and_then(|policy| known(&policy.message)),
        subject: subject(record),
        syscall: syscall(record),
        flags: record.flags.map(OpenFlags),
        reason: reason.text,
        reason_hex: reason.hex,
        rolled_back: record.rolled_back,
        latency_us: microseconds(record.latency_ns),
        container: place(record, context).map(container),
        response: response(record),
        count: (record.count != 1 || record.kind == Kind::Lost).then_some(record.count),
        since: (record.since_ns > 0).then(|| nanoseconds(record.since_ns)),
    };
    append_line(&line, out)
}

/// The subject of a record alone; null where nothing is known.
pub fn subject_value(record: &Record) -> serde_json::Value {
    serde_json::to_value(subject(record)).unwrap_or_default()
}

fn nanoseconds(ns: u64) -> Rfc3339 {
    Rfc3339 { ns, digits: 9 }
}

/// Whole nanoseconds as microseconds: three digits after the point; 0 is "not measured".
fn microseconds(ns: u64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 104 days")]
    (ns > 0).then_some(ns as f64 / 1_000.0)
}

/// `None` for an empty text.
pub(super) fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The record's own words, else those of the closed list.
pub(super) fn reason(record: &Record) -> Text<'_> {
    let detail = Text::new(record.text(record.detail));
    match (&detail.text, record.reason) {
        (None, Some(reason)) => Text { text: Some(Cow::Borrowed(reason.as_str())), hex: None },
        _ => detail,
    }
}

pub(super) fn syscall(record: &Record) -> Option<Syscall> {
    (record.syscall >= 0).then_some(Syscall { number: record.syscall, i386: record.syscall_i386 })
}

/// The container, for records that have a subject.
pub(super) fn place<'a>(record: &'a Record, context: &'a Context) -> Option<Place<'a>> {
    has_subject(record).then(|| context.container_of(record.text(record.subject.cgroup))).flatten()
}

/// Records about the gate itself, and mutations nobody was seen doing, have none.
pub(super) fn has_subject(record: &Record) -> bool {
    record.subject != Subject::default()
}

fn object(object: Object) -> Option<ObjectPart> {
    if object == Object::default() {
        return None;
    }
    let kind = match object.kind {
        ObjectKind::Unknown => None,
        ObjectKind::File => Some("file"),
        ObjectKind::Directory => Some("directory"),
        ObjectKind::Symlink => Some("symlink"),
        ObjectKind::Special => Some("special"),
    };
    Some(ObjectPart { dev: object.dev, ino: object.ino, kind })
}

/// The kernel's `(uid_t)-1`, "not set", reads as -1.
fn id_or_unset(id: i64) -> i64 {
    if id == i64::from(u32::MAX) { -1 } else { id }
}

fn subject(record: &Record) -> Option<SubjectPart<'_>> {
    if !has_subject(record) {
        return None;
    }
    let subject = &record.subject;
    let text = |span: Span| Text::new(record.text(span));
    let (exe, comm, cwd, parent) =
        (text(subject.exe), text(subject.comm), text(subject.cwd), text(subject.parent_exe));
    let cmdline = Cmdline::new(record.text(subject.cmdline));
    let filled = subject.ancestors.iter().take(subject.ancestors_len as usize);
    let ancestors = filled.map(|ancestor| {
        let (comm, exe) = (text(ancestor.comm), text(ancestor.exe));
        AncestorPart {
            pid: ancestor.pid,
            comm: comm.text,
            comm_hex: comm.hex,
            exe: exe.text,
            exe_hex: exe.hex,
        }
    });
    Some(SubjectPart {
        pid: subject.pid,
        tid: subject.tid,
        ppid: subject.ppid,
        uid: id_or_unset(subject.uid),
        auid: id_or_unset(subject.auid),
        exe: exe.text,
        exe_hex: exe.hex,
        comm: comm.text,
        comm_hex: comm.hex,
        cmdline: cmdline.joined,
        cmdline_hex: cmdline.hex,
        argv: cmdline.argv,
        cmdline_cut: subject.cmdline_cut,
        cwd: cwd.text,
        cwd_hex: cwd.hex,
        parent_exe: parent.text,
        parent_exe_hex: parent.hex,
        ancestors: ancestors.collect(),
    })
}

fn container(place: Place<'_>) -> ContainerPart<'_> {
    let own = place.container;
    ContainerPart {
        id: place.id,
        name: own.and_then(|own| known(&own.name)),
        image: own.and_then(|own| known(&own.image)),
        pod: own.and_then(|own| known(&own.pod)),
        namespace: own.and_then(|own| known(&own.namespace)),
        labels: place.labels,
    }
}

fn response(record: &Record) -> Option<ResponsePart<'_>> {
    if record.response == Response::default() {
        return None;
    }
    let quarantine = Text::new(record.text(record.response.quarantine));
    Some(ResponsePart {
        healed_us: microseconds(record.response.healed_ns),
        quarantine: quarantine.text,
        quarantine_hex: quarantine.hex,
        blake3: record.response.blake3.as_ref().map(|sum| Hex(sum)),
    })
}
