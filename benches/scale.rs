//! What size costs: many directories, many policy paths.
//!
//! ```text
//! cargo bench --bench scale -- [--dir DIRECTORY] [--docs DIRECTORY] [--directories N] [--paths N]
//! ```
//!
//! Needs root and room for 200,000 inodes.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod lab;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::clock;
use lab::gate::Gate;
use lab::opener::{self, Deed, Expect, Opener};
use lab::report::{self, Criterion};
use lab::stats::{finite, median};
use lab::{responder, tree};
use serde_json::{Value, json};

const REPEATS: usize = 5;
const OPENS: usize = 5_000;
/// Directories beside each other in one.
const FAN: usize = 100;
/// Files in one directory of those that are protected one by one.
const FILES: usize = 200;

struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
}

#[derive(Default)]
struct Sheet {
    figures: Vec<Figure>,
    criteria: Vec<Criterion>,
}

impl Sheet {
    fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { what: what.into(), value, unit });
    }

    fn must(&mut self, what: impl Into<String>, value: f64, limit: f64, unit: &'static str) {
        self.criteria.push(Criterion { what: what.into(), found: [value; 3], limit, at_least: false, unit });
    }
}

/// What anybody pays who looks at every entry of a tree once.
fn bare_walk(top: &Path) -> (usize, Duration) {
    let started = Instant::now();
    let mut waiting = vec![top.to_owned()];
    let mut directories = 0;
    while let Some(directory) = waiting.pop() {
        directories += 1;
        for entry in fs::read_dir(&directory).expect("readable").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            } else {
                let _ = std::hint::black_box(entry.metadata());
            }
        }
    }
    (directories, started.elapsed())
}

fn make_directories(top: &Path, count: usize) {
    for number in 0..count {
        let directory = top.join(format!("group{:04}/directory-{number:06}", number / FAN));
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("file"), b"x").expect("a file");
    }
}

fn policy(paths: impl Iterator<Item = PathBuf>) -> String {
    let mut text =
        "[[policy]]\nname = \"scale\"\naction = \"block\"\nmodification = \"never\"\npaths = [\n".to_owned();
    for path in paths {
        let _ = writeln!(text, "  \"{}\",", path.display());
    }
    text + "]\n"
}

fn p50_us(directory: &Path) -> f64 {
    let own = std::env::current_exe().expect("own path");
    let mut opener = Opener::prepare(&own, Deed::Read, OPENS, directory, Expect::Allowed);
    opener.begin();
    median(opener.finish().latencies.into_iter().map(f64::from).collect()) / 1000.0
}

/// Median milliseconds until ready, over fresh gates, and whatever `look` says of the last one.
fn ready_ms(state: &Path, policy: &str, mut each: impl FnMut(&Gate)) -> f64 {
    let times = (0..REPEATS).map(|_| {
        let gate = Gate::start(state, policy, &[]);
        each(&gate);
        gate.ready_in.as_secs_f64() * 1000.0
    });
    median(times.collect())
}

fn many_directories(
    sheet: &mut Sheet,
    root: &Path,
    state: &Path,
    count: usize,
    empty_ms: f64,
    small_p50: f64,
) {
    let top = root.join(format!("directories{count}"));
    make_directories(&top, count);
    let text = policy(std::iter::once(top.join("")));
    let (mut walks, mut memory, mut kernel, mut latency, mut reload) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let inside = top.join("group0000/directory-000000");
    tree::fill(&inside);
    bare_walk(&top);
    let ready = ready_ms(state, &text, |gate| {
        // Interleaved with the gates, and while one is up: its own threads are idle then.
        let (directories, took) = bare_walk(&top);
        assert!(directories > count);
        walks.push(took.as_secs_f64() * 1000.0);
        memory.push(clock::own_memory_kib(gate.worker) as f64 / 1024.0);
        let with = clock::slab_kib();
        latency.push(p50_us(&inside));
        reload.push(gate.reload().as_secs_f64() * 1000.0);
        kernel.push(with as f64 / 1024.0);
    });
    let walk = median(walks);
    sheet.add(format!("{count} directories: bare walk"), walk, "ms");
    sheet.add(format!("{count} directories: from start to ready"), ready, "ms");
    sheet.add(format!("{count} directories: reload"), median(reload), "ms");
    sheet.add(format!("{count} directories: memory of the worker"), median(memory), "MiB");
    let before = clock::slab_kib() as f64 / 1024.0;
    sheet.add(
        format!("{count} directories: kernel slab while the gate is up, less after it"),
        median(kernel) - before,
        "MiB",
    );
    sheet.add(format!("{count} directories: p50 of a protected read"), median(latency), "µs");
    if count == 20_000 {
        sheet.must(
            "ready, less the start of an empty gate, to a bare walk of 20,000 directories",
            (ready - empty_ms) / walk,
            1.3,
            "×",
        );
    }
    sheet.add(
        format!("p50 with {count} directories to p50 with one"),
        small_p50_ratio(sheet, count, small_p50),
        "×",
    );
    fs::remove_dir_all(&top).expect("removed");
}

fn small_p50_ratio(sheet: &Sheet, count: usize, small: f64) -> f64 {
    let what = format!("{count} directories: p50 of a protected read");
    sheet.figures.iter().find(|figure| figure.what == what).map_or(f64::NAN, |figure| figure.value / small)
}

fn many_paths(sheet: &mut Sheet, root: &Path, state: &Path, count: usize) {
    let top = root.join("paths");
    let file =
        |number: usize| top.join(format!("directory-{:05}/a-file-with-a-name-{number:06}", number / FILES));
    for number in 0..count {
        let path = file(number);
        if number % FILES == 0 {
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        }
        fs::write(path, b"").expect("a file");
    }
    let inside = top.join("inside");
    tree::fill(&inside);
    let text = policy((0..count).map(file).chain(std::iter::once(inside.join(""))));
    let (mut memory, mut latency, mut reload) = (Vec::new(), Vec::new(), Vec::new());
    let ready = ready_ms(state, &text, |gate| {
        memory.push(clock::own_memory_kib(gate.worker) as f64 / 1024.0);
        latency.push(p50_us(&inside));
        let error = fs::OpenOptions::new().write(true).open(file(count - 1)).expect_err("protected");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        reload.push(gate.reload().as_secs_f64() * 1000.0);
    });
    let memory = median(memory);
    sheet.add(format!("{count} policy paths: from start to ready and enforcing"), ready, "ms");
    sheet.add(format!("{count} policy paths: reload"), median(reload), "ms");
    sheet.add(format!("{count} policy paths: memory of the worker"), memory, "MiB");
    sheet.add(format!("{count} policy paths: p50 of a protected read"), median(latency), "µs");
    sheet.must(format!("{count} policy paths loaded and enforced"), ready / 1000.0, 3.0, " s");
    sheet.must(format!("{count} policy paths: memory"), memory, 64.0, " MiB");
    fs::remove_dir_all(&top).expect("removed");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--floor") => responder::main(&arguments[1..]),
        Some("--opener") => opener::main(&arguments[1..]),
        _ => {}
    }
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("scale: skipped, fanotify permission events need root");
        return;
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, or: usize| value(name).map_or(or, |text| text.parse().expect("a number"));
    let scratch = match value("--dir") {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    }
    .expect("a scratch directory");
    let root = scratch.path().canonicalize().expect("its canonical path");
    let state = tempfile::tempdir().expect("a directory for state");
    let mut sheet = Sheet::default();
    let small = root.join("small");
    tree::fill(&small);
    let mut small_p50 = Vec::new();
    let empty_ms =
        ready_ms(state.path(), &policy(std::iter::once(small.join(""))), |_| small_p50.push(p50_us(&small)));
    let small_p50 = median(small_p50);
    sheet.add("one directory: from start to ready", empty_ms, "ms");
    sheet.add("one directory: p50 of a protected read", small_p50, "µs");
    many_directories(&mut sheet, &root, state.path(), 20_000, empty_ms, small_p50);
    many_directories(&mut sheet, &root, state.path(), number("--directories", 50_000), empty_ms, small_p50);
    many_paths(&mut sheet, &root, state.path(), number("--paths", 100_000));
    let mut table = String::from("| what | |\n| --- | --: |\n");
    for figure in &sheet.figures {
        let _ = writeln!(table, "| {} | {:.1} {} |", figure.what, figure.value, figure.unit);
    }
    let text = format!(
        "{}; medians of {REPEATS}.\n\n{table}\n{}",
        report::machine(),
        report::criteria(&sheet.criteria)
    );
    println!("{text}");
    let value_of = |figure: &Figure| json!({"value": finite(figure.value), "unit": figure.unit});
    if let Some(docs) = value("--docs") {
        let figures: serde_json::Map<String, Value> =
            sheet.figures.iter().map(|figure| (figure.what.clone(), value_of(figure))).collect();
        report::publish(
            Path::new(&docs),
            "scale",
            &text,
            json!({"machine": report::machine(), "figures": figures, "criteria": report::criteria_json(&sheet.criteria)}),
        );
    }
}
