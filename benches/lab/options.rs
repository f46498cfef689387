//! The command line of the bench.

use std::path::PathBuf;

/// Rounds where nothing else is said.
const ROUNDS: usize = 30;

/// A daemon that somebody else has started and that gates its own directory.
pub struct Peer {
    /// Whose figures these are.
    pub name: &'static str,
    /// What it gates.
    pub directory: PathBuf,
    /// Its process.
    pub pid: i32,
    /// Opens in a slice.
    pub count: usize,
}

impl Peer {
    fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.split('=').collect();
        let [name, directory, pid, rest @ ..] = &parts[..] else {
            panic!("--peer NAME=DIRECTORY=PID[=COUNT]")
        };
        let count = rest.first().map_or(1_000, |count| count.parse().expect("a count"));
        let name = name.to_string().leak();
        Self { name, directory: directory.into(), pid: pid.parse().expect("a pid"), count }
    }
}

pub struct Options {
    /// How many rounds.
    pub rounds: usize,
    /// Where the trees are made; otherwise among the temporary files.
    pub directory: Option<PathBuf>,
    /// Where the figures are published, if they are.
    pub docs: Option<PathBuf>,
    /// Between which markers.
    pub section: String,
    /// Who is compared too.
    pub peers: Vec<Peer>,
    /// Responders of the gate.
    pub threads: Option<String>,
    /// Keys of the scenarios to run; empty: all.
    pub only: Vec<String>,
}

impl Options {
    /// Of the command line.
    pub fn parse(arguments: &[String]) -> Self {
        let mut options = Self {
            rounds: ROUNDS,
            directory: None,
            docs: None,
            section: "latency".to_owned(),
            peers: Vec::new(),
            threads: None,
            only: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().unwrap_or_else(|| panic!("{argument} wants a value")).clone();
            match argument.as_str() {
                "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
                "--dir" => options.directory = Some(value().into()),
                "--docs" => options.docs = Some(value().into()),
                "--section" => options.section = value(),
                "--peer" => options.peers.push(Peer::parse(&value())),
                "--threads" => options.threads = Some(value()),
                "--only" => options.only = value().split(',').map(str::to_owned).collect(),
                // What cargo adds, and filters meant for other benches.
                _ => {}
            }
        }
        options
    }
}
