//! Every way to change what is protected, tried on a live gate: what becomes of it is what the doctor's table says.
//!
//! `WRITEGATE_BLESS=1 cargo test --release --test coverage` tries each way many times and writes docs/coverage.md
//! with how long healing took.
#![cfg(target_arch = "x86_64")]

mod support;
mod techniques;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::look::{Look, contents, differences, look};
use support::{Gate, Lab, in_lab};
use techniques::document::{COLUMNS, DOCUMENT, HEAD, cells, document, shown};
use techniques::{Place, Tree, Way, ways};
use writegate::doctor::class_word;
use writegate::doctor::coverage::{Row, coverage, row_of};
use writegate::doctor::features::Features;
use writegate::policy::explain::Enforcement;

/// Rows that are not tried here.
const ELSEWHERE: &[&str] = &[
    // tests/gate_deaths.rs
    "kill the worker",
    "kill the supervisor",
    "kill the supervisor and the worker",
    // tests/gate_truncate.rs
    "shorten a log opened for appending: ftruncate",
    // Nothing of the gate's is touched.
    "mount something over a protected path in a mount namespace of one's own",
    "write to the raw block device",
];

/// How often each way is tried.
const TRIES: usize = 3;
/// … for the document, so that a 99th percentile means something.
const TRIES_FOR_THE_DOCUMENT: usize = 100;
/// … but not for longer than this with one way, once there are enough for a median: the patrol takes its time.
const BUDGET: Duration = Duration::from_secs(4);
const TRIES_ENOUGH: usize = 20;
/// The gate has then dealt with what the last try left to do.
const IDLE: Duration = Duration::from_millis(10);
/// Who looks all the time holds the directories' locks all the time, and the healer cannot change an entry.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// The patrol, which looks for what no event tells, takes 250 ms for some five hundred names.
const HEALED_WITHIN: Duration = Duration::from_secs(5);
/// What nobody has healed or recorded by then stays so: the patrol has been around.
const GIVEN_UP_AFTER: Duration = Duration::from_millis(1500);
/// … and where nobody is expected to, it is not waited for as often.
const TRIES_IN_VAIN: usize = 2;

/// What became of one try.
struct Tried {
    class: Enforcement,
    /// From the mutation's return until everything was right, as seen from outside.
    seen: Option<Duration>,
    why: String,
}

fn is_blessing() -> bool {
    std::env::var_os("WRITEGATE_BLESS").is_some()
}

fn places(lab: &Lab, way: &Way, tries: usize) -> Vec<Place> {
    let place = |number| {
        let inside = match way.tree {
            Tree::Above => lab.path("tree").join(format!("p{number}")),
            Tree::Here => lab.path("free").join(format!("u{number}/up/tree")),
        };
        let place = Place { number, inside, outside: lab.path("free").join(format!("o{number}")) };
        place.fill().expect("a place");
        (way.prepare)(&place).unwrap_or_else(|error| panic!("{}: {error}", way.how));
        place
    };
    (0..tries).map(place).collect()
}

fn gate<'lab>(lab: &'lab Lab, way: &Way, places: &[Place]) -> Gate<'lab> {
    let paths: Vec<_> = match way.tree {
        Tree::Above => vec![format!("{}/", lab.tree().display())],
        Tree::Here => places.iter().map(|place| format!("{}/", place.inside.display())).collect(),
    };
    lab.gate(&format!("[[policy]]\nname = 'covered'\npaths = {paths:?}\n{}\n", way.policy))
}

/// Names outside that are names of protected files too.
fn aliases(place: &Place, before: &Look) -> usize {
    let inside: BTreeSet<_> = before.values().filter_map(|seen| seen.id).collect();
    let outside = look(&place.outside, support::look::Inodes::All);
    // What is mounted there shows the tree itself.
    let bound = place.out("bound");
    outside
        .iter()
        .filter(|(path, _)| !path.starts_with(&bound))
        .filter(|(_, seen)| inside.contains(&seen.id.unwrap_or_default()))
        .count()
}

/// Everything that was there before is, and nothing else.
struct Before {
    look: Look,
    contents: BTreeMap<std::path::PathBuf, Vec<u8>>,
    aliases: usize,
}

impl Before {
    fn of(place: &Place, way: &Way) -> Self {
        let look = look(&place.inside, way.inodes);
        Self { contents: contents(&look), aliases: aliases(place, &look), look }
    }

    fn is_right(&self, place: &Place, way: &Way) -> bool {
        look(&place.inside, way.inodes) == self.look && aliases(place, &self.look) == self.aliases
    }

    /// With what stands in the files, and in words.
    fn check(&self, place: &Place, way: &Way) -> Result<(), String> {
        let now = look(&place.inside, way.inodes);
        let different = differences(&self.look, &now);
        if !different.is_empty() {
            return Err(different.join("\n"));
        }
        if contents(&now) != self.contents {
            return Err("other content".to_owned());
        }
        if aliases(place, &self.look) != self.aliases {
            return Err("another name outside".to_owned());
        }
        Ok(())
    }
}

fn records_of<'a>(records: &'a [Value], place: &Place) -> Vec<&'a Value> {
    let (inside, outside) = (place.inside.display().to_string(), place.outside.display().to_string());
    let above = place.inside.parent().expect("above").display().to_string();
    let is_of = |record: &&Value| {
        record["path"].as_str().is_some_and(|path| {
            path == inside
                || path.starts_with(&format!("{inside}/"))
                || path.starts_with(&outside)
                || above.ends_with("/up") && path == above
        })
    };
    records.iter().filter(is_of).collect()
}

fn verdicts<'a>(records: &[&'a Value]) -> BTreeSet<&'a str> {
    records.iter().filter_map(|record| record["verdict"].as_str()).collect()
}

/// Tries one way at one place.
fn attempt(gate: &Gate<'_>, way: &Way, place: &Place, expected: Enforcement) -> Tried {
    std::thread::sleep(IDLE);
    let before = Before::of(place, way);
    // The attacker does it and goes.
    let (result, done) = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| ((way.run)(place), Instant::now()));
        attacker.join().expect("no panic")
    });
    let limit = if expected == Enforcement::Healed { HEALED_WITHIN } else { GIVEN_UP_AFTER };
    let mut seen = None;
    while seen.is_none() && done.elapsed() < limit {
        std::thread::sleep(LOOK_EVERY);
        let right = before.is_right(place, way);
        seen = right.then(|| done.elapsed());
        // Content behind an unchanged length and time is put back unseen.
        if right && before.check(place, way).is_err() {
            seen = None;
        }
    }
    let right = before.check(place, way);
    let wanted = match expected {
        Enforcement::Prevented => "deny",
        Enforcement::Healed => "healed",
        Enforcement::Detected => "detected",
        Enforcement::None => "",
    };
    let until = Instant::now() + GIVEN_UP_AFTER;
    let mut found = gate.records();
    while !verdicts(&records_of(&found, place)).contains(wanted) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
        found = gate.records();
    }
    let records = records_of(&found, place);
    let said = verdicts(&records);
    let paths_of = |verdict: &str| -> BTreeSet<_> {
        records
            .iter()
            .filter(|record| record["verdict"] == verdict)
            .map(|record| record["path"].to_string())
            .collect()
    };
    // What was refused needs no healing; what came before it may.
    let twice = paths_of("deny").intersection(&paths_of("healed")).next().is_some();
    let refused = result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
    let class = match &right {
        Ok(()) if refused && said.contains("deny") && !twice => Enforcement::Prevented,
        Ok(()) if said.contains("healed") => Enforcement::Healed,
        _ if said.contains("detected") || said.contains("healed") => Enforcement::Detected,
        _ => Enforcement::None,
    };
    let reasons: Vec<_> =
        records.iter().map(|record| (&record["verdict"], &record["path"], &record["reason"])).collect();
    let why = format!("{result:?}, {reasons:?}, {}", right.err().unwrap_or_default());
    Tried { class, seen, why }
}

/// The class of a way, from all tries, and how long healing took; or what went otherwise.
fn try_out(way: &'static Way, row: &Row, tries: usize) -> (Option<String>, Vec<Duration>) {
    let mut outcome = (None, Vec::new());
    let tries = match row.class {
        Enforcement::Healed => tries,
        Enforcement::Prevented => TRIES,
        Enforcement::Detected | Enforcement::None => TRIES_IN_VAIN,
    };
    in_lab(300, |lab| {
        let places = places(lab, way, tries);
        let gate = gate(lab, way, &places);
        gate.until(|| (gate.status()["healing"]["learning"] == false).then_some(()));
        let started = Instant::now();
        for (number, place) in places.iter().enumerate() {
            if number >= TRIES_ENOUGH && started.elapsed() > BUDGET {
                break;
            }
            let tried = attempt(&gate, way, place, row.class);
            techniques::unmount(place);
            if tried.class == row.class {
                outcome.1.extend(tried.seen);
            } else {
                let is = class_word(tried.class);
                outcome.0 = Some(format!(
                    "{}, {}: {is}, and not {}: {}",
                    way.row,
                    way.how,
                    class_word(row.class),
                    tried.why
                ));
                break;
            }
        }
        assert!(gate.status()["ready"] == true, "{}: the gate did not survive", way.how);
    });
    outcome
}

#[test]
fn what_becomes_of_each_way_is_what_the_table_says() {
    let features = Features::probe();
    let only = std::env::var("WRITEGATE_ONLY").ok();
    let tries = if is_blessing() { TRIES_FOR_THE_DOCUMENT } else { TRIES };
    let (mut wrong, mut times) = (Vec::new(), BTreeMap::<&str, Vec<Duration>>::new());
    for way in ways() {
        let row = row_of(way.row, &features).unwrap_or_else(|| panic!("no such row: {}", way.row));
        let is_wanted = only.as_ref().is_none_or(|only| way.row.contains(only.as_str()));
        if !is_wanted || !(way.possible)() || way.needs.is_some_and(|need| !features.has(need)) {
            continue;
        }
        let (failure, mut seen) = try_out(way, &row, tries);
        seen.sort();
        eprintln!("{:<9} {} / {}: {}", class_word(row.class), way.row, way.how, shown(&seen));
        wrong.extend(failure.inspect(|failure| eprintln!("WRONG: {failure}")));
        if row.class == Enforcement::Healed {
            times.entry(way.row).or_default().append(&mut seen);
        }
    }
    assert!(wrong.is_empty(), "{} of the table is not so:\n{}", wrong.len(), wrong.join("\n"));
    if is_blessing() && only.is_none() {
        std::fs::write(DOCUMENT, document(&coverage(&features), &mut times)).expect("the document");
    }
}

#[test]
fn the_document_is_the_table() {
    let everything =
        ["permission_events", "thread_ids", "notification_targets", "pre_access", "io_uring", "i386"];
    let document = std::fs::read_to_string(Path::new(DOCUMENT)).expect("the document");
    let lines = document.strip_prefix(HEAD).and_then(|text| text.strip_prefix(COLUMNS));
    let mut lines = lines.expect("the document has another head").lines();
    for row in coverage(&Features::of(&everything)) {
        let (before, after) = cells(&row);
        let line = lines.next().unwrap_or_default();
        let time = line.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after));
        let time = time.unwrap_or_else(|| panic!("docs/coverage.md is out of date: {line}"));
        assert_eq!(time.trim().is_empty(), row.class != Enforcement::Healed, "{line}");
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn every_row_is_tried() {
    let tried: BTreeSet<_> = ways().map(|way| way.row).chain(ELSEWHERE.iter().copied()).collect();
    let rows = coverage(&Features::of(&[]));
    let rows: BTreeSet<_> = rows.iter().map(|row| row.mutation).collect();
    assert_eq!(tried, rows);
}
