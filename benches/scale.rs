//! What size costs: many directories, many policy paths.
//!
//! ```text
//! cargo bench --bench scale -- [--dir DIRECTORY] [--docs DIRECTORY] [--rounds N] [--directories N] [--paths N]
//! ```
//!
//! Needs root and room for 200,000 inodes. A round compares on the spot: the bare walk beside the gate's, the
//! latency under a small policy beside that under a large one, both gates up. What counts is the median over the rounds.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod lab;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::clock;
use lab::gate::Gate;
use lab::opener::{Deed, Expect, Opener};
use lab::report::{self, Criterion};
use lab::stats::{finite, median, quartiles};
use lab::tree;
use serde_json::{Value, json};

const ROUNDS: usize = 7;
/// The tree whose walk is compared.
const WALKED: usize = 20_000;
/// Opens of one slice of latencies, and slices of either gate in a round.
const OPENS: usize = 3_000;
const SLICES: usize = 4;
/// Directories beside each other in one.
const FAN: usize = 100;
/// Files in one directory of those that are protected one by one.
const FILES: usize = 200;
/// The kernel frees the marks of a gate that has ended behind everybody's back, and takes this long for 150,000.
const SETTLED: Duration = Duration::from_secs(2);

/// What the rounds gave for one figure.
struct Figure {
    what: String,
    values: Vec<f64>,
    unit: &'static str,
    /// At most this.
    limit: Option<f64>,
}

/// Figures in the order in which they were first seen.
#[derive(Default)]
struct Sheet(Vec<Figure>);

impl Sheet {
    fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.put(what.into(), value, unit, None);
    }

    fn must(&mut self, what: impl Into<String>, value: f64, limit: f64, unit: &'static str) {
        self.put(what.into(), value, unit, Some(limit));
    }

    fn put(&mut self, what: String, value: f64, unit: &'static str, limit: Option<f64>) {
        match self.0.iter_mut().find(|figure| figure.what == what) {
            Some(figure) => figure.values.push(value),
            None => self.0.push(Figure { what, values: vec![value], unit, limit }),
        }
    }

    fn table(&self) -> String {
        let mut table = String::from("| what | median | least | most |\n| --- | --: | --: | --: |\n");
        for Figure { what, values, unit, .. } in self.0.iter().filter(|figure| figure.limit.is_none()) {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let _ =
                writeln!(table, "| {what} | {:.1} {unit} | {least:.1} | {most:.1} |", median(values.clone()));
        }
        table
    }

    fn criteria(&self) -> Vec<Criterion> {
        let criterion = |figure: &Figure| {
            Some(Criterion {
                what: figure.what.clone(),
                found: quartiles(figure.values.clone()),
                limit: figure.limit?,
                at_least: false,
                unit: figure.unit,
            })
        };
        self.0.iter().filter_map(criterion).collect()
    }

    fn json(&self) -> Value {
        let json = |figure: &Figure| {
            let rounds: Vec<_> = figure.values.iter().copied().map(finite).collect();
            (figure.what.clone(), json!({"rounds": rounds, "unit": figure.unit}))
        };
        self.0.iter().map(json).collect::<serde_json::Map<_, _>>().into()
    }
}

/// What anybody pays who looks at every name of a tree once: each directory opened, read and closed by one thread, and
/// nothing else. No stat: the entries say themselves which of them are directories.
fn bare_walk(top: &Path) -> (usize, Duration) {
    let started = Instant::now();
    let mut waiting = vec![top.to_owned()];
    let mut directories = 0;
    while let Some(directory) = waiting.pop() {
        directories += 1;
        for entry in fs::read_dir(&directory).expect("readable").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
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

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A large policy beside a small one.
struct Bench<'a> {
    sheet: Sheet,
    root: &'a Path,
    state: &'a Path,
    rounds: usize,
}

impl Bench<'_> {
    /// Starts a gate in every round and notes what it costs; `look` may see more of it. `inside` is protected by it
    /// and holds what openers need.
    fn measure(&mut self, name: &str, text: &str, inside: &Path, mut look: impl FnMut(&mut Sheet, &Gate)) {
        let small = self.root.join("small");
        for _ in 0..self.rounds {
            std::thread::sleep(SETTLED);
            let little =
                Gate::start(&self.state.join("small"), &policy(std::iter::once(small.join(""))), &[]);
            let kernel = clock::slab_kib();
            let gate = Gate::start(&self.state.join("large"), text, &[]);
            let kernel = clock::slab_kib().saturating_sub(kernel) as f64 / 1024.0;
            let resident = gate.resident_kib() as f64 / 1024.0;
            self.sheet.add(format!("{name}: start to ready"), ms(gate.ready_in), "ms");
            self.sheet.add("one directory: start to ready", ms(little.ready_in), "ms");
            self.sheet.add(format!("{name}: resident, supervisor and worker"), resident, "MiB");
            self.sheet.add(format!("{name}: kernel slab beyond that before the start"), kernel, "MiB");
            look(&mut self.sheet, &gate);
            let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
            for _ in 0..SLICES {
                of_small.push(p50_us(&small));
                of_large.push(p50_us(inside));
            }
            let (of_small, of_large) = (median(of_small), median(of_large));
            self.sheet.add(format!("{name}: p50 of a protected read"), of_large, "µs");
            self.sheet.must(
                format!("{name}: p50 of a protected read to one directory's"),
                of_large / of_small,
                1.1,
                "×",
            );
            self.sheet.add(format!("{name}: reload"), ms(gate.reload()), "ms");
            let resident = gate.resident_kib() as f64 / 1024.0;
            self.sheet.add(format!("{name}: resident after a reload"), resident, "MiB");
        }
    }

    fn many_directories(&mut self, count: usize) {
        let top = self.root.join(format!("directories{count}"));
        make_directories(&top, count);
        let inside = top.join("group0000/directory-000000");
        tree::fill(&inside);
        bare_walk(&top);
        let name = format!("{count} directories");
        self.measure(&name, &policy(std::iter::once(top.join(""))), &inside, |sheet, gate| {
            // A gate is up here, and has nothing to do: opening a directory concerns it in no way.
            let (directories, walk) = bare_walk(&top);
            assert!(directories > count);
            sheet.add(format!("{name}: bare walk"), ms(walk), "ms");
            if count == WALKED {
                let ratio = gate.ready_in.as_secs_f64() / walk.as_secs_f64();
                sheet.must(format!("{name}: start to ready, to a bare walk"), ratio, 1.3, "×");
            }
        });
        fs::remove_dir_all(&top).expect("removed");
    }

    fn many_paths(&mut self, count: usize) {
        let top = self.root.join("paths");
        let file = |number: usize| {
            top.join(format!("directory-{:05}/a-file-with-a-name-{number:06}", number / FILES))
        };
        for number in 0..count {
            let path = file(number);
            if number.is_multiple_of(FILES) {
                fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            }
            fs::write(path, b"").expect("a file");
        }
        let inside = top.join("inside");
        tree::fill(&inside);
        let text = policy((0..count).map(file).chain(std::iter::once(inside.join(""))));
        let name = format!("{count} policy paths");
        self.measure(&name, &text, &inside, |sheet, gate| {
            let error = fs::OpenOptions::new().write(true).open(file(count - 1)).expect_err("protected");
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            sheet.must(format!("{name}: loaded and enforced"), gate.ready_in.as_secs_f64(), 3.0, " s");
            let resident = gate.resident_kib() as f64 / 1024.0;
            sheet.must(format!("{name}: resident memory, enforcing"), resident, 64.0, " MiB");
        });
        fs::remove_dir_all(&top).expect("removed");
    }
}

fn main() {
    let Some(arguments) = lab::begin("scale") else { return };
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
    tree::fill(&root.join("small"));
    let rounds = number("--rounds", ROUNDS);
    let mut bench = Bench { sheet: Sheet::default(), root: &root, state: state.path(), rounds };
    bench.many_directories(WALKED);
    bench.many_directories(number("--directories", 50_000));
    bench.many_paths(number("--paths", 100_000));
    let criteria = bench.sheet.criteria();
    let text = format!(
        "{}; {rounds} rounds.\n\n{}\n{}",
        report::machine(),
        bench.sheet.table(),
        report::criteria(&criteria)
    );
    println!("{text}");
    if let Some(docs) = value("--docs") {
        let json = json!({
            "machine": report::machine(), "figures": bench.sheet.json(), "criteria": report::criteria_json(&criteria),
        });
        report::publish(Path::new(&docs), "scale", &text, json);
    }
}
