//! The logger thread against disks that stall, fill up and are rotated away.

mod audit_support;

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use audit_support::{fill, host, snapshot};
use serde_json::Value;
use writegate::audit::logger::{Format, Logger, LoggerConfig, LoggerError, LoggerHandle};
use writegate::audit::queue::{AuditQueue, audit_queue_with};
use writegate::policy::snapshot::Snapshot;

const RECORDS: usize = 64;
const SOON: Duration = Duration::from_secs(10);

fn start(path: &Path) -> (AuditQueue, LoggerHandle) {
    let (queue, drain) = audit_queue_with(RECORDS);
    let config = LoggerConfig { path: path.to_owned(), format: Format::Native, context: host() };
    (queue, Logger::spawn(config, drain, || {}).unwrap())
}

fn offer(queue: &AuditQueue, snapshot: &Arc<Snapshot>) -> bool {
    let Some(mut record) = queue.take(Some(0), snapshot.generation) else { return false };
    fill(&mut record, snapshot);
    queue.offer(record)
}

fn parse(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn records(path: &Path) -> Vec<Value> {
    parse(&fs::read_to_string(path).unwrap())
}

fn verdicts(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["verdict"].as_str().unwrap()).collect()
}

fn assert_consecutive(records: &[Value], first: u64) {
    for (seq, record) in (first..).zip(records) {
        assert_eq!(record["seq"], seq);
    }
}

/// Denials in the trail plus those that `lost` records stand for.
fn accounted(records: &[Value]) -> u64 {
    let of = |record: &Value| match record["verdict"].as_str() {
        Some("deny") => 1,
        Some("lost") => record["count"].as_u64().unwrap(),
        _ => 0,
    };
    records.iter().map(of).sum()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_life_from_started_to_stopped_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/audit.jsonl");
    let called = Arc::new(AtomicBool::new(false));
    let (queue, drain) = audit_queue_with(RECORDS);
    let config = LoggerConfig { path: path.clone(), format: Format::Native, context: host() };
    let flag = Arc::clone(&called);
    let logger = Logger::spawn(config, drain, move || flag.store(true, Ordering::SeqCst)).unwrap();
    let snapshot = snapshot(1);
    logger.started(&snapshot, "generation 1: 1 policy");
    assert!(logger.flush(SOON));
    assert!(called.load(Ordering::SeqCst));
    for _ in 0..10 {
        assert!(offer(&queue, &snapshot));
    }
    logger.reload_failed("a.toml:3: unknown key; generation 1 stays in force");
    assert!(logger.flush(SOON));
    assert_eq!(records(&path).len(), 12);
    let stopped = logger.stop("SIGTERM", SOON);
    assert!(stopped.complete && stopped.unwritten == 0);
    assert_eq!((queue.gauge().written, queue.gauge().lost, queue.gauge().pool_free), (13, 0, RECORDS));
    // The snapshot was dropped with the records.
    assert_eq!(Arc::strong_count(&snapshot), 1);

    let (queue, logger) = start(&path);
    assert!(offer(&queue, &snapshot));
    assert!(logger.stop("SIGTERM", SOON).complete);
    let records = records(&path);
    assert_consecutive(&records, 1);
    let verdicts = verdicts(&records);
    assert_eq!(
        (verdicts[0], verdicts[12], verdicts[13], verdicts[14]),
        ("started", "stopped", "deny", "stopped")
    );
    assert_eq!(records[12]["reason"], "SIGTERM");
}

#[test]
fn a_torn_line_is_completed_and_noted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "{\"seq\":41,\"verdict\":\"deny\"}\n{\"seq\":42,\"verd").unwrap();
    let (_queue, logger) = start(&path);
    assert!(logger.stop("done", SOON).complete);
    let text = fs::read_to_string(&path).unwrap();
    let rest = text.strip_prefix("{\"seq\":41,\"verdict\":\"deny\"}\n{\"seq\":42,\"verd\n").unwrap();
    let records = parse(rest);
    assert_consecutive(&records, 42);
    assert_eq!(verdicts(&records), ["lost", "stopped"]);
    assert_eq!(records[0]["count"], 1);
    assert!(records[0]["reason"].as_str().unwrap().contains("without a newline"));
}

#[test]
fn a_trail_that_cannot_be_opened_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (_queue, drain) = audit_queue_with(1);
    let config = LoggerConfig { path: file.join("audit.jsonl"), format: Format::Native, context: host() };
    assert!(matches!(Logger::spawn(config, drain, || {}), Err(LoggerError::Open { .. })));
}

#[test]
fn a_full_disk_costs_counted_records_and_no_time() {
    let snapshot = snapshot(3);
    let (queue, logger) = start(Path::new("/dev/full"));
    logger.started(&snapshot, "");
    wait_for("the stall", || queue.gauge().stalled);
    let start = Instant::now();
    let accepted = (0..10_000).filter(|_| offer(&queue, &snapshot)).count();
    assert!(start.elapsed() < Duration::from_secs(5), "responders must not wait for the disk");
    assert_eq!(accepted, RECORDS);
    assert!(!logger.flush(Duration::from_millis(50)));
    let stopped = logger.stop("SIGTERM", Duration::from_millis(200));
    assert!(!stopped.complete);
    assert_eq!(stopped.unwritten, 10_001);
    let gauge = queue.gauge();
    assert!(gauge.write_errors >= 2 && gauge.lost == 10_000 - RECORDS as u64 && gauge.last_loss_ns.is_some());
}

/// A FIFO whose reader sleeps is a disk that hangs; when it reads on, everything is there or accounted for.
#[test]
fn a_slow_disk_loses_nothing_unaccounted() {
    const OFFERED: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let (queue, logger) = start(&path);
    let snapshot = snapshot(1);
    logger.started(&snapshot, "");
    for _ in 0..OFFERED {
        offer(&queue, &snapshot);
        std::thread::sleep(Duration::from_micros(50));
    }
    wait_for("the stall", || queue.gauge().stalled);
    let mut text = Vec::new();
    let mut chunk = vec![0; 65_536];
    let deadline = Instant::now() + SOON;
    let stopper = std::thread::spawn(move || logger.stop("done", SOON));
    while !stopper.is_finished() {
        assert!(Instant::now() < deadline);
        match reader.read(&mut chunk) {
            Ok(length) => text.extend_from_slice(&chunk[..length]),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(stopper.join().unwrap().complete);
    reader.read_to_end(&mut text).unwrap();
    let records = parse(std::str::from_utf8(&text).unwrap());
    assert_consecutive(&records, 1);
    assert_eq!(accounted(&records), OFFERED);
    let lost: Vec<_> = records.iter().filter(|record| record["verdict"] == "lost").collect();
    assert!(!lost.is_empty());
    for record in lost {
        assert_eq!(record["policy"], "harden-mysql-file-integrity-monitoring");
        assert!(record["since"].as_str() <= record["time"].as_str());
    }
    assert!(queue.gauge().last_loss_count > 0 && !queue.gauge().stalled);
}

#[test]
fn rotation_goes_on_in_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let old = dir.path().join("audit.jsonl.1");
    let (queue, logger) = start(&path);
    let snapshot = snapshot(1);
    assert!(offer(&queue, &snapshot));
    assert!(logger.flush(SOON));
    fs::rename(&path, &old).unwrap();
    assert!(offer(&queue, &snapshot));
    wait_for("the new file", || path.exists());
    assert!(offer(&queue, &snapshot));
    assert!(logger.stop("done", SOON).complete);
    let mut all = records(&old);
    all.extend(records(&path));
    assert_consecutive(&all, 1);
    assert_eq!(verdicts(&all), ["deny", "deny", "deny", "stopped"]);
}

#[test]
fn a_dropped_handle_ends_the_thread_with_everything_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (queue, logger) = start(&path);
    let snapshot = snapshot(1);
    for _ in 0..5 {
        assert!(offer(&queue, &snapshot));
    }
    drop(logger);
    wait_for("the end of the thread", || !offer(&queue, &snapshot));
    assert!(records(&path).len() >= 5);
}
