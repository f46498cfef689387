//! Texts and times of a record as JSON wants them: exact where UTF-8, else lossy with the bytes beside it.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

/// Nanoseconds since the epoch (`CLOCK_REALTIME`). No system call, no allocation.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Bytes that print, and serialize, as lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text field and, when it is not UTF-8, its exact bytes for the sibling `<field>_hex`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text<'a> {
    /// Lossy; `None` when the text is empty, that is, not known.
    pub text: Option<Cow<'a, str>>,
    /// Only when `text` is not exact.
    pub hex: Option<Hex<'a>>,
}

impl<'a> Text<'a> {
    /// Of `bytes`, without copying where they are UTF-8.
    pub fn new(bytes: &'a [u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        let text = String::from_utf8_lossy(bytes);
        let hex = matches!(text, Cow::Owned(_)).then_some(Hex(bytes));
        Self { text: Some(text), hex }
    }
}

/// `/proc/<pid>/cmdline` as a record shows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cmdline<'a> {
    /// The arguments joined by single spaces; `None` when there are none.
    pub joined: Option<String>,
    /// The exact bytes, NULs included, when `joined` is not exact.
    pub hex: Option<Hex<'a>>,
    /// The arguments one by one, when `joined` does not show where one ends.
    pub argv: Option<Vec<Cow<'a, str>>>,
}

impl<'a> Cmdline<'a> {
    /// Of arguments that are each ended by NUL.
    pub fn new(raw: &'a [u8]) -> Self {
        if raw.is_empty() {
            return Self::default();
        }
        let argv: Vec<_> = arguments(raw).map(String::from_utf8_lossy).collect();
        let lossy = argv.iter().any(|argument| matches!(argument, Cow::Owned(_)));
        let unclear =
            argv.iter().any(|argument| argument.is_empty() || argument.contains(char::is_whitespace));
        Self { joined: Some(argv.join(" ")), hex: lossy.then_some(Hex(raw)), argv: unclear.then_some(argv) }
    }
}

/// The arguments of `/proc/<pid>/cmdline`.
pub fn arguments(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    raw.strip_suffix(b"\0").unwrap_or(raw).split(|&byte| byte == 0)
}

/// A moment in UTC, RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rfc3339 {
    /// Nanoseconds since the epoch.
    pub ns: u64,
    /// Digits after the point: 9 for nanoseconds, 6 for microseconds.
    pub digits: u8,
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ns) = (self.ns / 1_000_000_000, self.ns % 1_000_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant's civil_from_days, for days after 1970 only: eras of 400 years from 0000-03-01.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let digits = self.digits.min(9) as usize;
        let fraction = ns / 10_u64.pow(9 - digits as u32);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:0digits$}Z")
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a character may break a line or steer a terminal: controls (C0, DEL, C1), Unicode's own line breaks,
/// and what reorders or hides text.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Compact JSON that also escapes what JSON lets through and [`is_unprintable`] does not: a reader that splits
/// lines at U+2028 or U+0085, as Python's `splitlines` does, must not be fed a second record by a file name.
#[derive(Debug, Clone, Copy, Default)]
pub struct LineFormatter;

impl Formatter for LineFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        if text.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(text.as_bytes());
        }
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_unprintable(c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            // All of them lie in the basic plane, so one escape of four digits is enough.
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Appends `value` to `out` as one line. On an error, which no type of this crate raises, `out` is as before.
pub(super) fn append_line<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let before = out.len();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, LineFormatter);
    let result = value.serialize(&mut serializer);
    match result {
        Ok(()) => out.push(b'\n'),
        Err(_) => out.truncate(before),
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, ns: u64, digits: u8) -> String {
        Rfc3339 { ns: seconds * 1_000_000_000 + ns, digits }.to_string()
    }

    #[test]
    fn times_are_those_of_date() {
        assert_eq!(at(0, 0, 9), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_399, 999_999_999, 9), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(at(951_782_400, 1, 9), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(at(1_696_316_210, 829_165_000, 6), "2023-10-03T06:56:50.829165Z");
        assert_eq!(at(1_767_225_599, 1_000, 6), "2025-12-31T23:59:59.000001Z");
        assert_eq!(at(4_107_542_400, 0, 6), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn cmdline_boundaries_are_exact_where_they_matter() {
        assert_eq!(Cmdline::new(b""), Cmdline::default());
        let plain = Cmdline::new(b"touch\0file\0");
        assert_eq!((plain.joined.as_deref(), plain.argv), (Some("touch file"), None));
        let spaced = Cmdline::new(b"sh\0-c\0echo hi\0\0");
        assert_eq!(spaced.joined.as_deref(), Some("sh -c echo hi "));
        assert_eq!(spaced.argv.unwrap(), ["sh", "-c", "echo hi", ""]);
        let bytes = Cmdline::new(b"touch\0\xff\0");
        assert_eq!(bytes.joined.as_deref(), Some("touch \u{fffd}"));
        assert_eq!(bytes.hex.unwrap().to_string(), "746f75636800ff00");
    }

    #[test]
    fn a_line_has_no_line_breaks_of_any_kind() {
        let hostile = "a\n\r\u{85}\u{2028}\u{2029}\u{7f}\u{9b}31m\u{202e}é\"\\z";
        let mut out = Vec::new();
        append_line(&hostile, &mut out).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert!(!line.trim_end_matches('\n').contains(is_unprintable), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), hostile);
    }
}
