//! `demo`: a scratch tree, real attacks on it, what became of each.
//!
//! Every attack runs in a process of its own, so that the trail names it, on a directory of its own, so that one
//! that works does not hide what the next one does.
#![forbid(unsafe_code)]

mod attacks;
mod gate;
mod tree;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::report::{Exit, Failure, Report, counted, shown};
use crate::doctor::class_word;
use crate::doctor::coverage::row_of;
use crate::doctor::features::Features;
use crate::policy::explain::Enforcement;
use crate::preflight::preflight;
use crate::scratch::Scratch;
use crate::sys::child;
use attacks::{
    ATTACKS, Attack, FILE, HOLDER, NEW_DIRECTORY, ORIGINAL, Place, WORKER_KILLED, clear_flags, write_to,
};
use gate::Gate;
use tree::{Same, Tree};

/// After this the gate is ended, whatever is left to do.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// A single attack takes a millisecond; one that hangs is ended.
const ATTACK_WITHIN: Duration = Duration::from_secs(5);
/// A killed worker is replaced in some ten milliseconds.
const READY_AGAIN_WITHIN: Duration = Duration::from_secs(3);
/// What is reported is put back within a millisecond; what only the patrol finds, within two of its looks.
const HEALED_WITHIN: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_millis(2);

/// What became of an attack.
#[derive(Debug, Serialize)]
struct Outcome {
    technique: &'static str,
    /// What should become of it here.
    class: Enforcement,
    /// What the attacker was told.
    saw: String,
    /// It could not be tried, and `saw` says why.
    skipped: bool,
    /// In the protected tree.
    changes: Vec<String>,
    /// Of the attacker, in the trail.
    records: Vec<u64>,
    /// From the notification to the last thing put back, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    healed_ms: Option<f64>,
    /// It is what it should be.
    ok: bool,
    #[serde(skip)]
    inside: PathBuf,
    #[serde(skip)]
    pid: u32,
    #[serde(skip)]
    worked: bool,
}

/// One attack, in the process that was started for it.
pub fn attack(name: &str, scratch: &Path) -> Result<Report, Failure> {
    let Some(attack) = ATTACKS.iter().find(|attack| attack.name == name) else {
        return Err(Failure::new(Exit::Usage, "no such attack", "run `writegate demo`"));
    };
    Ok(match (attack.run)(&Place::new(scratch, name)) {
        Ok(()) => Report::text(String::new(), Exit::Done),
        Err(error) => Report::text(plain(&error), Exit::Finding),
    })
}

/// What perror(3) says.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// All of it.
pub fn demo(keep: bool, json: bool) -> Result<Report, Failure> {
    preflight()?;
    let until = Instant::now() + TIME_LIMIT;
    let features = Features::probe();
    let own_mounts = private_mounts();
    let mut scratch = Scratch::new("demo").map_err(|error| cannot("make a scratch directory", &error))?;
    if keep {
        scratch.keep();
    }
    let holder = prepare(scratch.path()).map_err(|error| cannot("prepare the scratch directory", &error))?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&stop));
        registered.map_err(|error| cannot("wait for signals", &error))?;
    }
    let gate = Gate::start(scratch.path(), until)?;
    let mut holder = Some(holder);
    let mut outcomes = Vec::new();
    for attack in ATTACKS {
        if Instant::now() >= until || stop.load(Ordering::Relaxed) {
            break;
        }
        if attack.name == WORKER_KILLED {
            wait_for_records(&gate, &outcomes);
        }
        if attack.name == WORKER_KILLED && !gate.kill_worker() {
            break;
        }
        outcomes.push(try_out(attack, scratch.path(), &features, own_mounts, until, &mut holder));
    }
    let alive = gate.is_ready_by(Instant::now() + READY_AGAIN_WITHIN);
    judge(&mut outcomes, &gate.stop());
    clear_flags(scratch.path());
    for attack in ATTACKS.iter().filter(|attack| attack.mounts) {
        let place = Place::new(scratch.path(), attack.name);
        // Most are not mounted.
        let _ = umount2(&place.other(), MntFlags::MNT_DETACH);
        let _ = umount2(&place.file(), MntFlags::MNT_DETACH);
    }
    let whole = outcomes.len() == ATTACKS.len() && alive;
    let exit = if whole && outcomes.iter().all(|outcome| outcome.ok) { Exit::Done } else { Exit::Finding };
    let kept = keep.then(|| scratch.path());
    let report = if json {
        Report::json(
            &serde_json::json!({ "ok": exit == Exit::Done, "attacks": outcomes, "kept": kept }),
            exit,
        )?
    } else {
        Report::text(text(&outcomes, kept), exit)
    };
    let failure = (!whole).then(|| {
        let what = match (stop.load(Ordering::Relaxed), alive) {
            (true, _) => "interrupted",
            (false, true) => "not every attack was tried in time",
            (false, false) => "the gate did not survive",
        };
        Failure::new(Exit::Finding, what, "run it again with --keep and look at the gate's messages there")
    });
    Ok(Report { failure, ..report })
}

/// What is only recorded is on record before the worker that saw it is killed.
fn wait_for_records(gate: &Gate, outcomes: &[Outcome]) {
    let until = Instant::now() + HEALED_WITHIN;
    let seen = |trail: &[Value]| {
        let mut detected = outcomes.iter().filter(|one| one.class == Enforcement::Detected && !one.skipped);
        detected.all(|one| trail.iter().any(|record| is_of(record, one)))
    };
    while !seen(&gate.trail()) && Instant::now() < until {
        std::thread::sleep(POLL_EVERY);
    }
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    let help = "look at $TMPDIR: it must be a directory that root can write, with room";
    Failure::new(Exit::Unavailable, format!("cannot {what}: {error}"), help)
}

/// Mounts made from here on are nobody else's.
fn private_mounts() -> bool {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .is_ok()
}

/// A directory for each attack; the descriptor from before the start.
fn prepare(scratch: &Path) -> io::Result<File> {
    for attack in ATTACKS {
        let place = Place::new(scratch, attack.name);
        fs::create_dir_all(&place.inside)?;
        fs::create_dir_all(&place.outside)?;
        fs::write(place.file(), ORIGINAL)?;
        (attack.prepare)(&place)?;
    }
    File::options().append(true).open(Place::new(scratch, HOLDER).file())
}

fn try_out(
    attack: &'static Attack,
    scratch: &Path,
    features: &Features,
    own_mounts: bool,
    until: Instant,
    holder: &mut Option<File>,
) -> Outcome {
    let row = row_of(attack.mutation, features);
    let place = Place::new(scratch, attack.name);
    let mut outcome = Outcome {
        technique: attack.technique,
        class: row.map_or(Enforcement::None, |row| row.class),
        saw: String::new(),
        skipped: true,
        changes: Vec::new(),
        records: Vec::new(),
        healed_ms: None,
        ok: true,
        inside: place.inside.clone(),
        pid: 0,
        worked: false,
    };
    if let Some(need) = attack.needs.filter(|need| !features.has(need)) {
        outcome.saw = format!("not tried: no {need} here");
        return outcome;
    }
    if attack.mounts && !own_mounts {
        "not tried: no mount namespace of its own".clone_into(&mut outcome.saw);
        return outcome;
    }
    outcome.skipped = false;
    let before = Tree::of(&place.inside);
    match holder.take_if(|_| attack.name == HOLDER) {
        Some(file) => {
            outcome.pid = std::process::id();
            outcome.told(write_to(file).map_err(|error| plain(&error)));
        }
        None => match run_apart(attack, scratch, until) {
            Ok((pid, told)) => {
                outcome.pid = pid;
                outcome.told(told);
            }
            Err(error) => outcome.told(Err(format!("could not be run: {}", plain(&error)))),
        },
    }
    // One attack is about what is in a directory, and may make that.
    let expected = Path::new(if attack.name == "new-directory" { NEW_DIRECTORY } else { "" });
    let same = if outcome.class == Enforcement::Healed { Same::Restored } else { Same::Untouched };
    let look = || match (&before, Tree::of(&place.inside)) {
        (Ok(before), Ok(after)) => before.changes(&after, expected, same),
        _ => vec![format!("{FILE} cannot be looked at")],
    };
    outcome.changes = look();
    let until = until.min(Instant::now() + HEALED_WITHIN);
    while same == Same::Restored && !outcome.changes.is_empty() && Instant::now() < until {
        std::thread::sleep(POLL_EVERY);
        outcome.changes = look();
    }
    outcome
}

impl Outcome {
    fn told(&mut self, told: Result<(), String>) {
        self.worked = told.is_ok();
        self.saw = told.err().unwrap_or_else(|| "it worked".to_owned());
    }
}

/// The process id of the attacker, and what it was told.
fn run_apart(attack: &Attack, scratch: &Path, until: Instant) -> io::Result<(u32, Result<(), String>)> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["demo", "--attack", attack.name]).arg(scratch);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    child::ends_with_parent(&mut command, libc::SIGKILL);
    let mut attacker = command.spawn()?;
    let pid = attacker.id();
    let until = until.min(Instant::now() + ATTACK_WITHIN);
    let told = match end_of(&mut attacker, until)? {
        None => Err("it hangs".to_owned()),
        Some(status) => {
            let mut text = String::new();
            // A line at most: it fits the pipe.
            if let Some(mut stdout) = attacker.stdout.take() {
                stdout.read_to_string(&mut text)?;
            }
            match status.code() {
                Some(0) => Ok(()),
                Some(_) => Err(text),
                None => Err(status.to_string()),
            }
        }
    };
    Ok((pid, told))
}

/// `None`: it had to be ended.
fn end_of(attacker: &mut Child, until: Instant) -> io::Result<Option<std::process::ExitStatus>> {
    while Instant::now() < until {
        if let Some(status) = attacker.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(POLL_EVERY);
    }
    attacker.kill()?;
    attacker.wait()?;
    Ok(None)
}

/// What should be prevented was refused, changed nothing and is on record; what should be healed was put back and is
/// on record as that; what should be detected is on record.
fn judge(outcomes: &mut [Outcome], trail: &[Value]) {
    for outcome in outcomes.iter_mut().filter(|outcome| !outcome.skipped) {
        let own: Vec<_> = trail.iter().filter(|record| is_of(record, outcome)).collect();
        outcome.records = own.iter().filter_map(|record| record["seq"].as_u64()).collect();
        let times = own.iter().filter_map(|record| record["response"]["healed_us"].as_f64());
        outcome.healed_ms = times.map(|us| us / 1000.0).reduce(f64::max);
        let recorded = !outcome.records.is_empty();
        outcome.ok = match outcome.class {
            Enforcement::Prevented => !outcome.worked && outcome.changes.is_empty() && recorded,
            Enforcement::Healed => outcome.changes.is_empty() && outcome.healed_ms.is_some(),
            Enforcement::Detected => recorded,
            Enforcement::None => true,
        };
    }
}

/// By its attacker, who has one thread, or, where nobody was seen doing it, by its directory.
fn is_of(record: &Value, outcome: &Outcome) -> bool {
    let subject = &record["subject"];
    let by_nobody =
        || record["path"].as_str().is_some_and(|path| Path::new(path).starts_with(&outcome.inside));
    subject["pid"] == outcome.pid || subject["tid"] == outcome.pid || subject.is_null() && by_nobody()
}

fn text(outcomes: &[Outcome], kept: Option<&Path>) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<11}  {:<44}  {:<25}  {:<22}  audit trail",
        "should be", "attack", "the attacker saw", "protected tree"
    );
    for outcome in outcomes {
        let tree = match outcome.changes.as_slice() {
            _ if outcome.skipped => "-".to_owned(),
            [] => {
                outcome.healed_ms.map_or_else(|| "unchanged".to_owned(), |ms| format!("back in {ms:.2} ms"))
            }
            changes => changes.join(", "),
        };
        let records: Vec<_> = outcome.records.iter().map(|seq| format!("#{seq}")).collect();
        let records = match records.as_slice() {
            _ if outcome.skipped => "-".to_owned(),
            [] => "no record".to_owned(),
            records => records.join(" "),
        };
        let failed = if outcome.ok { "" } else { "  <-- FAILED" };
        let _ = writeln!(
            text,
            "{:<11}  {:<44}  {:<25}  {:<22}  {records}{failed}",
            class_word(outcome.class),
            outcome.technique,
            shown(&outcome.saw),
            shown(&tree)
        );
    }
    text.push('\n');
    for class in [Enforcement::Prevented, Enforcement::Healed, Enforcement::Detected, Enforcement::None] {
        let tried: Vec<_> =
            outcomes.iter().filter(|outcome| outcome.class == class && !outcome.skipped).collect();
        if tried.is_empty() {
            continue;
        }
        let attacks = counted(tried.len(), "attack", "attacks");
        let as_promised = tried.iter().filter(|outcome| outcome.ok).count();
        let word = class_word(class);
        let _ = match class {
            Enforcement::None => {
                writeln!(
                    text,
                    "{attacks} of kinds that this release does not cover: `writegate doctor` says why"
                )
            }
            _ => writeln!(text, "{word}: {as_promised} of {attacks} that should be"),
        };
    }
    if let Some(kept) = kept {
        let _ = writeln!(text, "kept: {} (audit trail: audit.jsonl)", kept.display());
    }
    text
}
