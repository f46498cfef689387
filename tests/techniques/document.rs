//! docs/coverage.md: the doctor's table, with the times that were measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use writegate::doctor::class_word;
use writegate::doctor::coverage::Row;
use writegate::policy::explain::Enforcement;

/// Where it is.
pub const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/coverage.md");

/// The median and the 99th percentile.
pub fn shown(sorted: &[Duration]) -> String {
    let at =
        |permille: usize| sorted.get((sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1)));
    match (at(500), at(990)) {
        (Some(p50), Some(p99)) => format!("{} / {}", short(*p50), short(*p99)),
        _ => String::new(),
    }
}

fn short(time: Duration) -> String {
    if time < Duration::from_millis(1) {
        format!("{} µs", time.as_micros())
    } else {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    }
}

pub const HEAD: &str = include_str!("coverage.md.head");
pub const COLUMNS: &str =
    "| technique | what becomes of it | healed, p50 / p99 | why |\n| --- | --- | --- | --- |\n";

pub fn document(rows: &[Row], times: &mut BTreeMap<&str, Vec<Duration>>) -> String {
    let mut text = format!("{HEAD}{COLUMNS}");
    for row in rows {
        let seen = times.entry(row.mutation).or_default();
        seen.sort();
        let (before, after) = cells(row);
        writeln!(text, "{before} {} {after}", shown(seen)).expect("memory");
    }
    text
}

/// A line of the table before and after its time.
pub fn cells(row: &Row) -> (String, String) {
    let class = if row.class == Enforcement::None { "**not covered**" } else { class_word(row.class) };
    let plain = |text: &str| text.replace('|', "\\|");
    (format!("| {} | {class} |", plain(row.mutation)), format!("| {} |", plain(row.why)))
}
