//! A responder answers real events without allocating or freeing anything.
#![cfg(target_arch = "x86_64")]

mod counting;
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use counting::calls;
use io_uring::squeue::Flags;
use libc::{O_CREAT, O_EXCL, O_RDONLY, O_TRUNC, O_WRONLY};
use support::actor::{self, errno};
use support::{Lab, in_lab, raw, refused};
use writegate::audit::context::Context;
use writegate::audit::logger::{Format, Logger, LoggerConfig};
use writegate::audit::queue::audit_queue;
use writegate::gate::{Creations, InForce, InForceCell, Opened, Responder, Shared, Starting, Stream};
use writegate::marks::{Groups, MarkTable, Marker};
use writegate::policy::choice;
use writegate::policy::kubearmor::Labels;
use writegate::subject::TrustedWriters;
use writegate::sys::shared::SharedPage;

const POLICY: &str = "[[policy]]\nname = 'tree'\npaths = ['@/tree/']\nwriters = ['writer']\n\
                      [[policy]]\nname = 'secret'\npaths = ['@/secret/']\nread = false\n\
                      [[policy]]\nname = 'look'\naction = 'audit'\npaths = ['@/look/']\n\
                      [[writer]]\nname = 'writer'\nexe = ['@/tree/writer']\ndescendants = true\n";

/// What the responder thread has done.
#[derive(Default)]
struct Tally {
    events: AtomicU64,
    calls: AtomicU64,
}

/// Everything that a worker gives its responders.
fn shared(lab: &Lab) -> Arc<Shared> {
    lab.write_policy(POLICY);
    let built = choice::build(&[lab.path("run/policy.toml")], &[], &Labels::default(), 1);
    let snapshot = Arc::new(built.snapshot.unwrap_or_else(|| panic!("{:?}", built.diagnostics)));
    let (writers, problems) = TrustedWriters::of(&snapshot, Arc::default());
    assert!(problems.is_empty(), "{problems:?}");
    let (audit, drain) = audit_queue();
    let config = LoggerConfig {
        path: lab.path("run/audit.jsonl"),
        format: Format::Native,
        context: Context::default(),
    };
    // Its thread ends with the process.
    std::mem::forget(Logger::spawn(config, drain, || {}).unwrap());
    let page = SharedPage::map().unwrap();
    let shared = Arc::new(Shared {
        page,
        groups: Groups::enforcing().unwrap(),
        in_force: InForceCell::new(InForce { snapshot: Arc::clone(&snapshot), writers }),
        table: MarkTable::default(),
        creations: Creations::new(page),
        audit,
        notes: Arc::default(),
        starting: Starting::default(),
        stream: Stream::default(),
        opened: Opened::default(),
    });
    let marker = Marker { groups: &shared.groups, table: &shared.table, snapshot: &snapshot, walk: 1 };
    assert!(marker.mark_all().unmarked.is_empty());
    shared
}

#[test]
fn no_event_allocates_or_frees() {
    assert_eq!(calls(|| drop(std::hint::black_box(Box::new(1)))), 2, "the counter must count");
    in_lab(60, |lab| {
        let data = lab.file("tree/data", "as it was");
        let secret = lab.file("secret/data", "as it was");
        let look = lab.file("look/data", "as it was");
        let writer = lab.path("tree/writer");
        actor::build(&writer, &[]);
        let shared = shared(lab);
        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        std::thread::spawn(move || {
            shared.audit.warm_thread();
            let mut responder = Responder::new(shared, 0).unwrap();
            loop {
                let made = calls(|| responder.answer_next().expect("the group is usable"));
                counted.calls.fetch_add(made, Ordering::Relaxed);
                counted.events.fetch_add(1, Ordering::Release);
            }
        });
        let scene = |name: &str, act: &dyn Fn(u32)| {
            let (events, calls) = (tally.events.load(Ordering::Acquire), tally.calls.load(Ordering::Relaxed));
            for round in 0..50 {
                act(round);
            }
            // The opener goes on a moment before the responder has queued its record.
            std::thread::sleep(Duration::from_millis(50));
            let events = tally.events.load(Ordering::Acquire) - events;
            let calls = tally.calls.load(Ordering::Relaxed) - calls;
            eprintln!("{name}: {events} events, {calls} allocations and frees");
            assert!(events >= 50, "{name}: only {events} events");
            assert_eq!(calls, 0, "{name}: {events} events");
        };
        let new = lab.path("tree/new");
        scene("allowed reads", &|_| drop(raw::openat(&data, O_RDONLY).unwrap()));
        scene("reads through openat2", &|_| drop(raw::openat2(&data, O_RDONLY).unwrap()));
        scene("denied writes", &|_| refused(raw::openat(&data, O_WRONLY)));
        scene("denied truncations", &|_| refused(raw::openat(&data, O_RDONLY | O_TRUNC)));
        scene("denied truncations by path", &|_| refused(raw::truncate(&data, 1)));
        let open = File::open(&data).unwrap();
        scene("reads of an open file", &|_| assert_eq!(open.read_at(&mut [0; 2], 0).unwrap(), 2));
        scene("denied io_uring writes", &|_| refused(raw::open_uring(&data, O_WRONLY, Flags::empty())));
        scene("denied reads", &|_| refused(raw::openat(&secret, O_RDONLY)));
        scene("audited writes", &|_| drop(raw::openat(&look, O_WRONLY).unwrap()));
        scene("creates taken back", &|_| refused(raw::openat(&new, O_CREAT | O_WRONLY)));
        scene("exclusive creates taken back", &|_| refused(raw::openat(&new, O_CREAT | O_EXCL | O_WRONLY)));
        assert!(!new.exists());
        let write = |program: &Path| errno(program, &[Path::new("write"), &data]);
        scene("a trusted writer's writes", &|_| assert_eq!(write(&writer), 0));
        let child = [Path::new("run"), Path::new("/bin/sh"), Path::new("-c")];
        let script = format!(": <>{}; echo $?", data.display());
        let arguments = [child[0], child[1], child[2], Path::new(&script)];
        scene("a descendant's writes", &|_| assert_eq!(errno(&writer, &arguments), 0));
        scene("creates by a trusted writer", &|round| {
            let path = lab.path("tree").join(round.to_string());
            assert_eq!(errno(&writer, &[Path::new("create"), &path]), 0);
        });
    });
}
