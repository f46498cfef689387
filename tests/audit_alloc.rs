//! A responder's part of the audit side never allocates or frees.

mod counting;

use std::sync::Arc;
use std::time::Duration;

use counting::calls;
use writegate::access::Access;
use writegate::audit::context::Context;
use writegate::audit::logger::{Format, Logger, LoggerConfig};
use writegate::audit::queue::audit_queue_with;
use writegate::audit::record::What;
use writegate::policy::snapshot::Snapshot;
use writegate::trie::PathTrie;

#[test]
fn taking_filling_offering_and_losing_allocate_nothing() {
    assert_eq!(calls(|| drop(std::hint::black_box(Box::new(1)))), 2, "the counter must count");

    let snapshot = Arc::new(Snapshot {
        generation: 1,
        trie: PathTrie::default(),
        rules: Vec::new(),
        policies: Vec::new(),
        writers: Vec::new(),
        everybody_reads: true,
        ..Snapshot::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let (queue, drain) = audit_queue_with(64);
    let config = LoggerConfig {
        path: dir.path().join("audit.jsonl"),
        format: Format::Native,
        context: Context::default(),
    };
    let logger = Logger::spawn(config, drain, || {}).unwrap();
    assert!(calls(|| queue.warm_thread()) > 0, "it is what the first wait for a lock would allocate");
    assert_eq!(calls(|| queue.warm_thread()), 0);
    let fill_and_offer = || {
        for round in 0..200 {
            // Now and then the logger sleeps: waking it must not allocate either.
            if round % 50 == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
            let Some(mut record) = queue.take(Some(0), 1) else { continue };
            record.snapshot = Some(Arc::clone(&snapshot));
            record.what = What::Access(Access::Write);
            record.path = record.push_text(b"/usr/bin/ls");
            assert!(queue.offer(record));
        }
    };
    assert_eq!(calls(fill_and_offer), 0);
    assert!(logger.stop("done", Duration::from_secs(10)).complete);
    let lost_before = queue.losses().total();

    // No logger any more: offers fail, then the pool is empty.
    let lose = || {
        for _ in 0..100 {
            if let Some(mut record) = queue.take(Some(0), 1) {
                record.policy = Some(0);
                record.snapshot = Some(Arc::clone(&snapshot));
                assert!(!queue.offer(record));
            }
        }
    };
    assert_eq!(calls(lose), 0);
    assert_eq!(queue.losses().total() - lost_before, 100);
}
