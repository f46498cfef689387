//! Reads the trail: the last records, and those that come.
//!
//! What it prints for people has no character that could steer their terminal, whatever a path is called.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::text::is_unprintable;

/// How often a followed trail is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A line longer than this is no record; it is cut here so that a broken file cannot take all memory.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What `audit tail` was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailOptions {
    /// The trail.
    pub path: PathBuf,
    /// How many of the last records.
    pub lines: usize,
    /// Go on with what is appended, through rotation.
    pub follow: bool,
    /// The records as they are, rather than for people.
    pub json: bool,
}

/// Why a trail cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The trail.
    #[error("failed to read the audit log {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Where it is shown.
    #[error("failed to write")]
    Write(#[source] io::Error),
}

/// Shows the trail on `out`. While it follows, `keep_going` is asked about five times a second. A reader of
/// `out` that went away is no error.
pub fn tail(
    options: &TailOptions,
    out: &mut impl Write,
    mut keep_going: impl FnMut() -> bool,
) -> Result<(), TailError> {
    let read = |source| TailError::Read { path: options.path.clone(), source };
    if options.lines == 0 && !options.follow {
        return Ok(());
    }
    let mut printer = Printer { out, json: options.json };
    let mut cursor = Cursor::at_last_lines(&options.path, options.lines).map_err(read)?;
    let result = loop {
        let end = cursor.lines(|number, line| printer.line(number, line));
        match end {
            Ok(()) => {}
            Err(Failure::Read(error)) => return Err(read(error)),
            Err(Failure::Write(error)) => break Err(error),
        }
        if !options.follow {
            break cursor.rest(|number, line| printer.line(number, line)).and_then(|()| printer.out.flush());
        }
        if let Err(error) = printer.out.flush() {
            break Err(error);
        }
        if !keep_going() {
            break Ok(());
        }
        match cursor.follow_rotation(&options.path) {
            // Again from the start of the new file, which may have lines by now.
            Ok(true) => {}
            Ok(false) => std::thread::sleep(POLL),
            Err(error) => return Err(read(error)),
        }
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(TailError::Write),
    }
}

enum Failure {
    Read(io::Error),
    Write(io::Error),
}

/// A place in the trail.
struct Cursor {
    file: File,
    /// Offset of the next byte to read.
    offset: u64,
    /// 1-based, of the line that `partial` begins.
    number: u64,
    /// Read, but no newline yet.
    partial: Vec<u8>,
}

impl Cursor {
    /// Before the last `lines` lines; counts all lines on the way, for the messages.
    fn at_last_lines(path: &Path, lines: usize) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut starts = VecDeque::from([0]);
        let (mut offset, mut count) = (0, 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            let newlines = chunk[..length].iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
            for (at, _) in newlines {
                count += 1;
                starts.push_back(offset + at as u64 + 1);
                // One more than asked for: the last start may have no line after it.
                if starts.len() > lines.saturating_add(1) {
                    starts.pop_front();
                }
            }
            offset += length as u64;
        }
        let unended = starts.back().is_some_and(|&start| start < offset);
        if unended && starts.len() > lines.max(1) {
            starts.pop_front();
        }
        // Never empty: the line after the last newline, which may still be empty, is one of them.
        let start = starts.front().copied().unwrap_or_default();
        let number = count + 2 - starts.len() as u64;
        file.seek(SeekFrom::Start(start))?;
        Ok(Self { file, offset: start, number, partial: Vec::new() })
    }

    /// Every whole line up to the end of the file.
    fn lines(&mut self, mut show: impl FnMut(u64, &[u8]) -> io::Result<()>) -> Result<(), Failure> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let length = self.file.read(&mut chunk).map_err(Failure::Read)?;
            if length == 0 {
                return Ok(());
            }
            self.offset += length as u64;
            let mut rest = &chunk[..length];
            while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
                self.extend(&rest[..at]);
                show(self.number, &self.partial).map_err(Failure::Write)?;
                self.partial.clear();
                self.number += 1;
                rest = &rest[at + 1..];
            }
            self.extend(rest);
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// A last line without its newline.
    fn rest(&mut self, mut show: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.partial.is_empty() { Ok(()) } else { show(self.number, &self.partial) }
    }

    /// `true` when the path names another file by now, or this one was truncated: then reading starts anew.
    fn follow_rotation(&mut self, path: &Path) -> io::Result<bool> {
        let here = self.file.metadata()?;
        if here.len() < self.offset {
            self.file.seek(SeekFrom::Start(0))?;
            self.start_anew();
            return Ok(true);
        }
        // Only when the old file was read to its end: a line may have come between reading and renaming.
        let moved =
            std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) != (here.dev(), here.ino()));
        if !moved || here.len() > self.offset {
            return Ok(false);
        }
        match File::open(path) {
            Ok(file) => self.file = file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        self.start_anew();
        Ok(true)
    }

    fn start_anew(&mut self) {
        self.offset = 0;
        self.number = 1;
        self.partial.clear();
    }
}

struct Printer<'a, W: Write> {
    out: &'a mut W,
    json: bool,
}

impl<W: Write> Printer<'_, W> {
    fn line(&mut self, number: u64, line: &[u8]) -> io::Result<()> {
        if line.is_empty() {
            return Ok(());
        }
        let parsed = serde_json::from_slice::<Value>(line).ok().filter(Value::is_object);
        match (parsed, self.json) {
            (Some(_), true) => {
                self.out.write_all(line)?;
                self.out.write_all(b"\n")
            }
            (Some(record), false) => writeln!(self.out, "{}", human(&record)),
            (None, true) => {
                let text = String::from_utf8_lossy(line);
                writeln!(self.out, "{}", serde_json::json!({ "unparsable": text, "line": number }))
            }
            (None, false) => writeln!(self.out, "line {number}: not a record: {}", escaped_bytes(line)),
        }
    }
}

/// One record, of either format, as one line for people: time, verdict, access, path, by whom, policy, reason.
pub fn human(record: &Value) -> String {
    if record.get("verdict").is_some() { human_native(record) } else { human_kubearmor(record) }
}

fn human_native(record: &Value) -> String {
    let subject = &record["subject"];
    let mut line = String::new();
    word(&mut line, "", &field(record, "time"));
    word(&mut line, "", &field(record, "verdict"));
    word(&mut line, "", &field(record, "access"));
    word(&mut line, "", &field(record, "mutation"));
    word(&mut line, "", &field(record, "path"));
    who(&mut line, &field(subject, "exe"), &field(subject, "pid"), &field(subject, "uid"));
    word(&mut line, "policy=", &field(record, "policy"));
    word(&mut line, "count=", &field(record, "count"));
    word(&mut line, "since=", &field(record, "since"));
    word(&mut line, "quarantine=", &field(&record["response"], "quarantine"));
    if record["rolled_back"] == Value::Bool(true) {
        line.push_str(" rolled back");
    }
    reason(line, &field(record, "reason"))
}

fn human_kubearmor(record: &Value) -> String {
    let mut line = String::new();
    word(&mut line, "", &field(record, "UpdatedTime"));
    word(&mut line, "", &field(record, "Action"));
    word(&mut line, "", &field(record, "Data"));
    word(&mut line, "", &field(record, "Resource"));
    who(&mut line, &field(record, "ProcessName"), &field(record, "HostPID"), &field(record, "UID"));
    word(&mut line, "policy=", &field(record, "PolicyName"));
    reason(line, &field(record, "Message"))
}

fn who(line: &mut String, exe: &str, pid: &str, uid: &str) {
    if pid.is_empty() {
        return;
    }
    let exe = if exe.is_empty() { "?" } else { exe };
    let _ = write!(line, " by {exe}[{pid}]");
    word(line, "uid=", uid);
}

fn reason(mut line: String, reason: &str) -> String {
    if !reason.is_empty() {
        let _ = write!(line, ": {reason}");
    }
    line
}

fn word(line: &mut String, before: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(before);
    line.push_str(text);
}

/// A field as printable text, by its exact bytes where the record has them; empty when there is none.
fn field(record: &Value, name: &str) -> String {
    for hex_name in [format!("{name}_hex"), format!("{name}Hex")] {
        if let Some(bytes) = record.get(&hex_name).and_then(Value::as_str).and_then(unhex) {
            return escaped_bytes(&bytes);
        }
    }
    match record.get(name) {
        Some(Value::String(text)) => escaped(text),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Text with every character escaped that could break the line or steer a terminal, and the backslash itself.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if is_unprintable(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// As [`escaped`], with `\xNN` for what is not UTF-8.
pub fn escaped_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn shown(text: &str, lines: usize, json: bool) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, text).unwrap();
        let mut out = Vec::new();
        tail(&TailOptions { path, lines, follow: false, json }, &mut out, || false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_last_lines_are_shown() {
        let text = "{\"seq\":1}\n{\"seq\":2}\n{\"seq\":3}\n";
        assert_eq!(shown(text, 2, true), "{\"seq\":2}\n{\"seq\":3}\n");
        assert_eq!(shown(text, 3, true), text);
        assert_eq!(shown(text, 99, true), text);
        assert_eq!(shown(text, 0, true), "");
        assert_eq!(shown("", 5, true), "");
        assert_eq!(shown("{\"seq\":1}\n{\"seq\":2}", 1, true), "{\"seq\":2}\n");
        assert_eq!(shown("{\"seq\":1}\n{\"seq\":2}", 2, true), "{\"seq\":1}\n{\"seq\":2}\n");
        assert_eq!(shown("{\"seq\":1}\n{\"seq\":2}", 0, true), "");
    }

    #[test]
    fn what_is_no_record_is_shown_with_its_line_number() {
        let text = "{}\n{\"a\":1}\nrub\u{1b}[31mbish\n";
        assert_eq!(shown(text, 1, false), "line 3: not a record: rub\\u{1b}[31mbish\n");
        assert_eq!(shown(text, 1, true), "{\"line\":3,\"unparsable\":\"rub\\u001b[31mbish\"}\n");
        assert_eq!(shown("{}\n{\"to", 2, false).lines().last(), Some("line 2: not a record: {\"to"));
        assert_eq!(shown("a\nb\nc", 2, false), "line 2: not a record: b\nline 3: not a record: c\n");
    }

    #[test]
    fn a_hostile_path_stays_on_its_line() {
        let record = json!({
            "time": "2026-01-01T00:00:00.000000001Z", "verdict": "deny", "access": "create",
            "path": "/usr/bin/\u{1b}]0;x\u{7}\n\u{202e}\\", "policy": "bins", "rolled_back": true,
            "subject": { "pid": 7, "uid": 0, "exe": "/tmp/\u{fffd}", "exe_hex": "2f746d702fff" },
            "reason": "the policy does not permit new entries"
        });
        assert_eq!(
            human(&record),
            "2026-01-01T00:00:00.000000001Z deny create /usr/bin/\\u{1b}]0;x\\u{7}\\n\\u{202e}\\\\ \
             by /tmp/\\xff[7] uid=0 policy=bins rolled back: the policy does not permit new entries"
        );
    }

    #[test]
    fn following_survives_rotation_and_truncation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, "{\"seq\":1}\n{\"seq\":").unwrap();
        let append = |text: &str| {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut step = 0;
        let mut out = Vec::new();
        let options = TailOptions { path: path.clone(), lines: 10, follow: true, json: true };
        tail(&options, &mut out, || {
            step += 1;
            match step {
                1 => append("2}\n"),
                3 => {
                    append("{\"seq\":3}\n");
                    fs::rename(&path, dir.path().join("audit.jsonl.1")).unwrap();
                    append("{\"seq\":4}\n");
                }
                7 => fs::write(&path, "").unwrap(),
                9 => append("{\"seq\":5}\n"),
                _ => {}
            }
            step < 12
        })
        .unwrap();
        let expected: Vec<_> = (1..=5).map(|seq| format!("{{\"seq\":{seq}}}\n")).collect();
        assert_eq!(String::from_utf8(out).unwrap(), expected.concat());
    }
}
