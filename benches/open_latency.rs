//! What the gate adds to an open: the real binary on a real tree, against nothing and against the least that
//! can answer, interleaved.
//!
//! ```text
//! cargo bench --bench open_latency -- [--rounds N] [--dir DIRECTORY] [--docs DIRECTORY]
//!                                     [--peer NAME=DIRECTORY=PID]...
//! ```
//!
//! Each round first opens with no gate anywhere on the filesystem, then starts both floors and the gate, each on
//! a directory of its own, and takes one slice of every scenario in a shuffled order, each with fresh openers.
//! Ratios are taken within a round; their median over the rounds counts. Needs root, and a filesystem on which
//! nobody else places permission marks (`scripts/bench` makes one).
#![allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "figures for people")]

mod lab;

use std::fs;
use std::path::{Path, PathBuf};

use lab::clock;
use lab::gate::Gate;
use lab::opener::{Deed, Expect, Opener};
use lab::options::{Options, Peer};
use lab::report::{self, Criterion};
use lab::responder::{Floor, Work};
use lab::stats::{Buckets, Metric, Series, ratio, spread};
use lab::{svg, tree};
use serde_json::json;

const OPENERS: usize = 8;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Nobody on this filesystem.
    Nobody,
    /// Nobody for this directory.
    Unprotected,
    Floor,
    LeaseFloor,
    Gate,
    /// The gate, in a tree that has a trusted writer.
    Writers,
    /// Somebody else's daemon.
    Peer(usize),
}

struct Scenario {
    by: By,
    deed: Deed,
    count: usize,
    openers: usize,
    expect: Expect,
    series: Series,
}

impl Scenario {
    fn new(key: &'static str, title: &'static str, by: By, deed: Deed, count: usize) -> Self {
        Self { by, deed, count, openers: 1, expect: Expect::Allowed, series: Series::new(key, title) }
    }

    const fn denied(mut self) -> Self {
        self.expect = Expect::Denied;
        self
    }

    const fn with_openers(mut self, openers: usize) -> Self {
        self.openers = openers;
        self
    }
}

fn scenarios(peers: &[Peer]) -> Vec<Scenario> {
    use By::{Floor, Gate, LeaseFloor, Nobody, Unprotected, Writers};
    use Deed::{Create, Read, ReadAnew, Spawn, Write};
    let mut all = vec![
        Scenario::new("none", "no gate, read", Nobody, Read, 30_000),
        Scenario::new("none_anew", "no gate, read, new process each", Nobody, ReadAnew, 300),
        Scenario::new("none_spawn", "no gate, fork+exec", Nobody, Spawn, 60),
        Scenario::new("unprotected", "gate up, unprotected read", Unprotected, Read, 30_000),
        Scenario::new("floor", "floor, read", Floor, Read, 2_000),
        Scenario::new("lease", "floor with lease probe, read", LeaseFloor, Read, 2_000),
        Scenario::new("read", "writegate, read", Gate, Read, 2_000),
        Scenario::new("floor_anew", "floor, new process each", Floor, ReadAnew, 300),
        Scenario::new("lease_anew", "floor with lease probe, new process each", LeaseFloor, ReadAnew, 300),
        Scenario::new("read_anew", "writegate, read, new process each", Gate, ReadAnew, 300),
        Scenario::new("floor_write", "floor, write", Floor, Write, 1_000),
        Scenario::new("denied_write", "writegate, denied write", Gate, Write, 1_000).denied(),
        Scenario::new("floor_create", "floor, create", Floor, Create, 300),
        Scenario::new("denied_create", "writegate, denied create", Gate, Create, 300).denied(),
        Scenario::new("trusted_write", "writegate, trusted writer", Writers, Write, 500),
        Scenario::new("floor_spawn", "floor, fork+exec", Floor, Spawn, 60),
        Scenario::new("spawn", "writegate, fork+exec", Gate, Spawn, 60),
        Scenario::new("floor_8", "floor, 8 openers", Floor, Read, 1_000).with_openers(OPENERS),
        Scenario::new("read_8", "writegate, 8 openers", Gate, Read, 1_000).with_openers(OPENERS),
    ];
    for (number, peer) in peers.iter().enumerate() {
        let title: &'static str = format!("{}, read", peer.name).leak();
        let title_8: &'static str = format!("{}, 8 openers", peer.name).leak();
        let by = By::Peer(number);
        all.push(Scenario::new(peer.name, title, by, Read, peer.count));
        let key_8 = format!("{}_8", peer.name).leak();
        all.push(Scenario::new(key_8, title_8, by, Read, peer.count / 2).with_openers(OPENERS));
    }
    all
}

/// Directories of one run.
struct Lab {
    root: PathBuf,
    trusted: PathBuf,
    policy: String,
}

impl Lab {
    fn new(root: &Path) -> Self {
        for name in ["open", "floor", "lease", "gate", "writers"] {
            tree::fill(&root.join(name));
        }
        let tools = root.join("tools");
        fs::create_dir_all(&tools).expect("a directory");
        let trusted = tools.join("opener");
        fs::copy(std::env::current_exe().expect("own path"), &trusted).expect("a copy of this program");
        let shown = root.display();
        // As the built-in set says of programs: what is measured are opens and what follows from them.
        let policy = format!(
            "[[policy]]\nname = \"gate\"\naction = \"block\"\npaths = [\"{shown}/gate/\"]\nmodification = \"never\"\n\
             truncate = \"restore\"\n\n\
             [[policy]]\nname = \"writers\"\naction = \"block\"\npaths = [\"{shown}/writers/\", \"{shown}/tools/\"]\n\
             modification = \"never\"\nwriters = [\"opener\"]\n\n\
             [[writer]]\nname = \"opener\"\nexe = [\"{}\"]\n",
            trusted.display()
        );
        Self { root: root.to_owned(), trusted, policy }
    }

    fn directory(&self, by: By, peers: &[Peer]) -> PathBuf {
        match by {
            By::Nobody | By::Unprotected => self.root.join("open"),
            By::Floor => self.root.join("floor"),
            By::LeaseFloor => self.root.join("lease"),
            By::Gate => self.root.join("gate"),
            By::Writers => self.root.join("writers"),
            By::Peer(number) => peers[number].directory.clone(),
        }
    }

    fn slice(
        &self,
        scenario: &mut Scenario,
        round: usize,
        responder: Option<i32>,
        mut told: impl FnMut() -> Option<Buckets>,
        peers: &[Peer],
    ) {
        let own = std::env::current_exe().expect("own path");
        let program = if scenario.by == By::Writers { &self.trusted } else { &own };
        let directory = self.directory(scenario.by, peers);
        let Scenario { deed, count, openers, expect, .. } = *scenario;
        let mut openers: Vec<_> =
            (0..openers).map(|_| Opener::prepare(program, deed, count, &directory, expect)).collect();
        let buckets = told();
        let before = responder.map(clock::cpu_ns);
        openers.iter_mut().for_each(Opener::begin);
        let seen: Vec<_> = openers.into_iter().map(Opener::finish).collect();
        // The clock also counts the few opens of the warm-up, which do the same work.
        let used = responder.map(|pid| clock::cpu_ns(pid) - before.unwrap_or(0));
        let work = told().zip(buckets).map_or(f64::NAN, |(after, before)| after.median_since(&before));
        let begun = seen.iter().map(|one| one.started_ns).min().unwrap_or(0);
        let ended = seen.iter().map(|one| one.ended_ns).max().unwrap_or(0);
        let latencies = seen.into_iter().flat_map(|one| one.latencies).collect();
        scenario.series.add(round, latencies, used, work, ended - begun);
    }
}

/// xorshift64*: another order each round, the same in each run.
struct Random(u64);

impl Random {
    fn shuffle(&mut self, places: &mut [usize]) {
        for last in (1..places.len()).rev() {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            places.swap(last, (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % (last + 1));
        }
    }
}

fn run(options: &Options) -> Vec<Scenario> {
    let scratch = match &options.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    }
    .expect("a scratch directory");
    let root = scratch.path().canonicalize().expect("its canonical path");
    let lab = Lab::new(&root);
    let state = tempfile::tempdir().expect("a directory for state");
    let peers = &options.peers;
    for peer in peers {
        tree::fill(&peer.directory);
    }
    let more: Vec<&str> = options.threads.iter().flat_map(|n| ["--threads", n.as_str()]).collect();
    let mut scenarios = scenarios(peers);
    scenarios.retain(|one| options.only.is_empty() || options.only.iter().any(|key| key == one.series.key));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..scenarios.len()).collect();
        random.shuffle(&mut order);
        let (alone, gated): (Vec<_>, Vec<_>) =
            order.into_iter().partition(|&place| scenarios[place].by == By::Nobody);
        for place in alone {
            lab.slice(&mut scenarios[place], round, None, || None, peers);
        }
        let mut floor = Floor::start(Work::None, &root.join("floor"));
        let mut lease = Floor::start(Work::Lease, &root.join("lease"));
        let gate = Gate::start(state.path(), &lab.policy, &more);
        for place in gated {
            let responder = match scenarios[place].by {
                By::Nobody | By::Unprotected => None,
                By::Floor => Some(floor.pid),
                By::LeaseFloor => Some(lease.pid),
                By::Gate | By::Writers => Some(gate.worker),
                By::Peer(number) => Some(peers[number].pid),
            };
            let by = scenarios[place].by;
            let told = || match by {
                By::Floor => Some(floor.buckets()),
                By::LeaseFloor => Some(lease.buckets()),
                By::Gate | By::Writers => Some(Buckets::of_status(&gate.status())),
                By::Nobody | By::Unprotected | By::Peer(_) => None,
            };
            lab.slice(&mut scenarios[place], round, responder, told, peers);
        }
        assert_eq!(gate.status()["restarts"], 0, "a worker died during the run");
        drop((gate, lease, floor));
        eprint!("\rround {} of {}", round + 1, options.rounds);
    }
    eprintln!();
    scenarios
}

/// What the project promises, from the figures of this run.
fn judge(scenarios: &[Scenario], peers: &[Peer]) -> Vec<Criterion> {
    let none = Series::new("", "");
    let of = |key: &str| scenarios.iter().find(|one| one.series.key == key).map_or(&none, |one| &one.series);
    let at_most = |what: &str, a: &str, b: &str, metric, limit| Criterion {
        what: what.to_owned(),
        found: ratio(of(a), of(b), metric),
        limit,
        at_least: false,
        unit: "×",
    };
    let work = |what: &str, key: &str, limit| {
        let found = spread(of(key), Metric::Work).map(|ns| ns / 1000.0);
        Criterion { what: what.to_owned(), found, limit, at_least: false, unit: " µs" }
    };
    let mut all = vec![
        work("protected read: read to answer on the responder, thread known", "read", 3.0),
        work("protected read: read to answer on the responder, thread new", "read_anew", 7.0),
        at_most("protected read: p50 to the floor with lease probe", "read", "lease", Metric::P50, 1.15),
        at_most("protected read: p50 to the bare floor", "read", "floor", Metric::P50, 1.6),
        at_most("protected read: p99 to the bare floor", "read", "floor", Metric::P99, 2.0),
        at_most("protected read: CPU to the bare floor", "read", "floor", Metric::Cpu, 1.6),
        at_most("new process each: p50 to the bare floor", "read_anew", "floor_anew", Metric::P50, 1.6),
        at_most("new process each: CPU to the bare floor", "read_anew", "floor_anew", Metric::Cpu, 1.6),
        at_most("unprotected read: p50 to no gate", "unprotected", "none", Metric::P50, 1.03),
        at_most("denied write: p50 to the floor's write", "denied_write", "floor_write", Metric::P50, 6.0),
        at_most(
            "denied create: p50 to the floor's create",
            "denied_create",
            "floor_create",
            Metric::P50,
            8.0,
        ),
        at_most("fork+exec, all files protected: p50 to no gate", "spawn", "none_spawn", Metric::P50, 1.05),
        Criterion {
            what: "8 openers: opens per second to the floor's".to_owned(),
            found: ratio(of("read_8"), of("floor_8"), Metric::Rate),
            limit: 0.85,
            at_least: true,
            unit: "×",
        },
    ];
    for peer in peers {
        let name = peer.name;
        all.push(at_most(&format!("read: CPU to {name}"), "read", name, Metric::Cpu, 0.4));
        all.push(at_most(&format!("read: p50 to {name}"), "read", name, Metric::P50, 1.0));
        let (ours, theirs) = (of("read"), of(name));
        let wins = ours.slices.iter().zip(&theirs.slices).filter(|(a, b)| a.p50 < b.p50).count();
        all.push(Criterion {
            what: format!("read: part of the rounds with p50 below {name}'s"),
            found: [wins as f64 / ours.slices.len() as f64; 3],
            limit: 1.0,
            at_least: true,
            unit: "",
        });
    }
    all
}

fn main() {
    let Some(arguments) = lab::begin("open_latency") else { return };
    let options = Options::parse(&arguments);
    let scenarios = run(&options);
    let mut criteria = judge(&scenarios, &options.peers);
    // Of scenarios that were left out.
    criteria.retain(|one| !one.found[1].is_nan());
    let series: Vec<&Series> = scenarios.iter().map(|one| &one.series).collect();
    let (latencies, verdict) = (report::latencies(&series), report::criteria(&criteria));
    let about = format!("{}; {} rounds.", report::machine(), options.rounds);
    println!("{about}\n\n{latencies}\n{verdict}");
    let value = json!({
        "machine": report::machine(),
        "rounds": options.rounds,
        "scenarios": series.iter().map(|one| (one.key.to_owned(), one.json()))
            .collect::<serde_json::Map<_, _>>(),
        "criteria": report::criteria_json(&criteria),
    });
    if let Some(docs) = &options.docs {
        report::publish(docs, &options.section, &format!("{about}\n\n{latencies}\n{verdict}"), value);
        let drawn: Vec<&Series> = series
            .iter()
            .copied()
            .filter(|one| {
                [
                    "none",
                    "floor",
                    "lease",
                    "read",
                    "read_anew",
                    "denied_write",
                    "denied_create",
                    "trusted_write",
                ]
                .contains(&one.key)
                    || options.peers.iter().any(|peer| peer.name == one.key)
            })
            .collect();
        let file = if options.peers.is_empty() { "latency.svg" } else { "peers.svg" };
        fs::write(docs.join(file), svg::distributions(&drawn, "Latency of open(2), all rounds"))
            .expect("written");
    }
}
