//! `status`: is the gate up, and how does it do?

use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::args::StatusArgs;
use super::report::{Exit, Failure, Report, counted, shown};
use crate::control::client::{self, ClientError};
use crate::control::protocol::{Command, Healing, StatusReply};

/// While it waits.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Of what is not covered, shown to people; JSON has all.
const UNMARKED_SHOWN: usize = 20;

pub(super) fn status(args: &StatusArgs) -> Result<Report, Failure> {
    let socket = &args.control.control;
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    loop {
        let last = deadline.is_none_or(|deadline| Instant::now() >= deadline);
        match client::ask(socket, Command::Status) {
            Ok(document) => {
                let reply: StatusReply = parsed(socket, &document)?;
                if reply.ready || last {
                    return report(args, &document, &reply);
                }
            }
            // Nobody yet: that is what --wait is for.
            Err(ClientError::NotUp { .. } | ClientError::NoAnswer { .. }) if !last => {}
            Err(error) => return Err(failure(&error)),
        }
        thread::sleep(POLL_EVERY);
    }
}

fn report(args: &StatusArgs, document: &[u8], reply: &StatusReply) -> Result<Report, Failure> {
    let exit = if reply.ready { Exit::Done } else { Exit::Finding };
    if args.json.json {
        // As the gate said it: it may know keys that this version does not.
        return Report::json(&parsed::<Value>(&args.control.control, document)?, exit);
    }
    Ok(Report::text(text(reply), exit))
}

/// The document of the gate that listens on `socket`.
pub(super) fn parsed<T: DeserializeOwned>(socket: &Path, document: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(document).map_err(|error| {
        let what = format!("the answer on {} is none of a gate: {error}", socket.display());
        Failure::new(Exit::Finding, what, "name the gate's own socket with --control")
    })
}

/// Why the gate did not answer, for people.
pub(super) fn failure(error: &ClientError) -> Failure {
    let what = match error {
        ClientError::Io { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    match error {
        ClientError::NotUp { .. } => Failure::new(
            Exit::Finding,
            what,
            "start one with `writegate run`, or name the socket of the one that runs with --control",
        ),
        ClientError::NotPermitted { .. } => {
            Failure::new(Exit::Unavailable, what, "its socket is for root only: run this as root")
        }
        ClientError::NoAnswer { .. } => Failure::new(
            Exit::Finding,
            what,
            "it may be marking a large tree: wait and ask again, then look at its messages",
        ),
        ClientError::Io { .. } => {
            Failure::new(Exit::Finding, what, "name the gate's own socket with --control")
        }
    }
}

fn text(reply: &StatusReply) -> String {
    let mut text = String::new();
    let state = if reply.ready { "up" } else { "not ready yet" };
    let _ = writeln!(text, "writegate is {state}: {}, for {}", shown(&reply.mode), duration(reply.uptime_s));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    let worker = if reply.worker_pid > 0 { reply.worker_pid.to_string() } else { "none".to_owned() };
    let restarts = counted(reply.restarts as usize, "restart", "restarts");
    line("processes", &format!("supervisor {}, worker {worker}, {restarts}", reply.supervisor_pid));
    line(
        "policies",
        &format!(
            "{} (generation {}), {}, {}",
            reply.policies,
            reply.generation,
            counted(reply.paths as usize, "path", "paths"),
            counted(reply.marks as usize, "mark", "marks")
        ),
    );
    line(
        "events",
        &format!(
            "{}: {} allowed, {} denied, {} healed",
            reply.events, reply.allowed, reply.denied, reply.healed
        ),
    );
    if !reply.latency.buckets.is_empty() {
        let us = |ns: u64| format!("{}.{} µs", ns / 1000, ns % 1000 / 100);
        let (p50, p99) = (us(reply.latency.p50_ns), us(reply.latency.p99_ns));
        line("latency", &format!("half of them below {p50}, 99 in 100 below {p99}, from read to answer"));
    }
    let Healing { names, learning, links, copies, quarantined, .. } = reply.healing;
    if names > 0 || learning {
        let names = counted(names as usize, "name", "names");
        let more = if learning { " so far, more are being learned" } else { "" };
        let held = format!(
            "{} and {}",
            counted(links as usize, "link", "links"),
            counted(copies as usize, "copy", "copies")
        );
        line("healing", &format!("{names}{more}; {held} in the vault, {quarantined} in quarantine"));
    }
    let waiting = counted(reply.queue_depth as usize, "record waits", "records wait");
    line("audit log", &format!("{}, {waiting}, {} lost", shown(&reply.audit_log), reply.lost));
    if let Some(loss) = &reply.last_loss {
        let lost = counted(loss.count as usize, "record", "records");
        line("last loss", &format!("{lost}, {}", shown(&loss.time)));
    }
    for inactive in &reply.inactive {
        line("inactive", &format!("{}: {}", shown(&inactive.name), shown(&inactive.reason)));
    }
    let lists = [
        ("UNCOVERED", &reply.unmarked, reply.unmarked.len(), "; --json shows all"),
        ("UNHELD", &reply.unheld, reply.healing.unheld as usize, ""),
    ];
    for (name, list, count, where_to_look) in lists {
        for one in list.iter().take(UNMARKED_SHOWN) {
            line(name, &format!("{}: {}", shown(&one.path), shown(&one.error)));
        }
        if let Some(more @ 1..) = count.checked_sub(UNMARKED_SHOWN.min(list.len())) {
            line(name, &format!("and {more} more{where_to_look}"));
        }
    }
    text
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Unmarked;

    #[test]
    fn what_is_not_covered_is_shown_and_counted() {
        let unmarked = Unmarked { path: "/a\u{1b}".to_owned(), error: "no".to_owned() };
        let reply = StatusReply { ready: true, unmarked: vec![unmarked; 23], ..StatusReply::default() };
        let text = text(&reply);
        assert!(text.starts_with("writegate is up"), "{text}");
        assert_eq!(text.matches("UNCOVERED").count(), 21);
        assert!(!text.contains("UNHELD") && !text.contains("healing"), "{text}");
        assert!(text.contains("and 3 more") && text.contains("/a\\u{1b}: no"), "{text}");
    }

    #[test]
    fn what_could_not_be_put_back_is_shown_and_counted() {
        let unheld = vec![Unmarked { path: "/large".to_owned(), error: "too large".to_owned() }];
        let healing = Healing { names: 2, links: 1, unheld: 7, ..Healing::default() };
        let text = text(&StatusReply { healing, unheld, ..StatusReply::default() });
        assert!(text.contains("2 names; 1 link and 0 copies in the vault, 0 in quarantine"), "{text}");
        assert!(text.contains("/large: too large") && text.contains("and 6 more"), "{text}");
    }

    #[test]
    fn durations() {
        assert_eq!([5, 65, 3720, 90_000].map(duration), ["5 s", "1 min 5 s", "1 h 2 min", "1 d 1 h"]);
    }
}
