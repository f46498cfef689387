//! Tables for people, JSON for machines, and both into the documentation.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::stats::{Metric, Series, finite};

/// One line of the verdict.
pub struct Criterion {
    /// What is compared.
    pub what: String,
    /// Quartiles or three times the same figure.
    pub found: [f64; 3],
    /// At most this (at least, where `at_least`).
    pub limit: f64,
    /// More is better.
    pub at_least: bool,
    /// Behind the figure.
    pub unit: &'static str,
}

impl Criterion {
    /// Whether the median keeps to the limit.
    pub fn is_met(&self) -> bool {
        if self.at_least { self.found[1] >= self.limit } else { self.found[1] <= self.limit }
    }
}

/// The machine as the kernel names it.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name").map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_else(|| "unknown CPU".to_owned());
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let virtual_ = if read("/proc/cpuinfo").contains(" hypervisor ") { ", virtual machine" } else { "" };
    let release = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cpus} CPUs{virtual_}, Linux {}", release.trim())
}

/// The table of latencies.
pub fn latencies(series: &[&Series]) -> String {
    let mut table = String::from(
        "| scenario | opens | p50 µs | p90 | p99 | p99.9 | max | responder CPU µs per event | of it read to answer |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n",
    );
    for one in series {
        let us = |metric| {
            let us = one.median_of(metric) / 1000.0;
            if us.is_nan() { "–".to_owned() } else { format!("{us:.2}") }
        };
        let _ = writeln!(
            table,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.1} | {:.0} | {} | {} |",
            one.title,
            one.all.len(),
            one.at(50.0),
            one.at(90.0),
            one.at(99.0),
            one.at(99.9),
            one.max(),
            us(Metric::Cpu),
            us(Metric::Work)
        );
    }
    table
}

/// The table of criteria.
pub fn criteria(criteria: &[Criterion]) -> String {
    let mut table = String::from(
        "| criterion | median of rounds | quartiles | limit | |\n\
         | --- | --: | --- | --: | --- |\n",
    );
    for one in criteria {
        let [low, middle, high] = one.found;
        let (unit, word) = (one.unit, if one.at_least { "≥" } else { "≤" });
        let verdict = if one.is_met() { "met" } else { "**not met**" };
        let quartiles = if low.to_bits() == high.to_bits() {
            "–".to_owned()
        } else {
            format!("{low:.2} – {high:.2}")
        };
        let _ = writeln!(
            table,
            "| {} | {middle:.2}{unit} | {quartiles} | {word} {}{unit} | {verdict} |",
            one.what, one.limit
        );
    }
    table
}

/// The same for machines.
pub fn criteria_json(criteria: &[Criterion]) -> Value {
    criteria
        .iter()
        .map(|one| {
            json!({
                "what": one.what, "quartile_1": finite(one.found[0]), "median": finite(one.found[1]),
                "quartile_3": finite(one.found[2]), "limit": one.limit, "at_least": one.at_least,
                "unit": one.unit, "met": one.is_met(),
            })
        })
        .collect()
}

/// Puts `text` between the markers of `section` in docs/performance.md, and `value` under its key in
/// docs/performance.json.
pub fn publish(docs: &Path, section: &str, text: &str, value: Value) {
    let page = docs.join("performance.md");
    let (begin, end) = (format!("<!-- begin {section} -->"), format!("<!-- end {section} -->"));
    let old = fs::read_to_string(&page).expect("docs/performance.md");
    let (before, rest) = old.split_once(&begin).expect("the page has the section's first marker");
    let (_, after) = rest.split_once(&end).expect("the page has the section's last marker");
    fs::write(&page, format!("{before}{begin}\n{}\n{end}{after}", text.trim_end())).expect("written");
    let file = docs.join("performance.json");
    let mut all: serde_json::Map<String, Value> =
        fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    all.insert(section.to_owned(), value);
    let text = serde_json::to_string_pretty(&all).expect("JSON");
    fs::write(file, text + "\n").expect("written");
}
