//! Records to test with.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use writegate::access::Access;
use writegate::audit::context::{Container, Context, Owner};
use writegate::audit::record::{Ancestor, Kind, Object, ObjectKind, Record, What};
use writegate::policy::model::{
    Action, Modification, Mounting, Origin, Policy, ProtectedPath, Response, Truncation,
};
use writegate::policy::snapshot::{CompiledPolicy, Snapshot, WriterMask};
use writegate::trie::PathTrie;
use writegate::verdict::Reason;

pub const CONTAINER: &str = "b75628d4225b8071d5795da342cf2a5c03b1d67b22b40016697fcd17a0db20e4";

pub fn snapshot(generation: u64) -> Arc<Snapshot> {
    let policy = Policy {
        name: "harden-mysql-file-integrity-monitoring".to_owned(),
        action: Action::Block,
        paths: vec![ProtectedPath { path: PathBuf::from("/usr/bin"), tree: true }],
        recursive: true,
        modification: Modification::Never,
        truncate: Truncation::Refuse,
        create: false,
        read: true,
        response: Response::Restore,
        mount: Mounting::Report,
        writers: Vec::new(),
        severity: 1,
        tags: vec!["NIST".to_owned(), "NIST_800-53_AU-2".to_owned()],
        message: "Detected and prevented compromise to File integrity".to_owned(),
        origin: Origin { file: "test.toml".into(), line: 1 },
    };
    Arc::new(Snapshot {
        generation,
        trie: PathTrie::default(),
        rules: Vec::new(),
        policies: vec![CompiledPolicy { policy, writers: WriterMask::NONE }],
        writers: Vec::new(),
        everybody_reads: true,
        ..Snapshot::default()
    })
}

pub fn fill(record: &mut Record, snapshot: &Arc<Snapshot>) {
    record.kind = Kind::Deny;
    record.time_ns = 1_696_316_210_829_165_004;
    record.latency_ns = 41_250;
    record.what = What::Access(Access::Create);
    record.reason = Some(Reason::Create);
    record.snapshot = Some(Arc::clone(snapshot));
    record.policy = Some(0);
    record.path = record.push_text(b"/usr/sbin/file");
    record.object = Object { dev: 64_769, ino: 1_234, kind: ObjectKind::File };
    record.subject.pid = 16_462;
    record.subject.tid = 16_463;
    record.subject.ppid = 16_435;
    record.subject.uid = 0;
    record.subject.auid = 4_294_967_295;
    record.subject.exe = record.push_text(b"/usr/bin/touch");
    record.subject.comm = record.push_text(b"touch");
    record.subject.cmdline = record.push_text(b"touch\0file\0");
    record.subject.cwd = record.push_text(b"/usr/sbin");
    record.subject.parent_exe = record.push_text(b"/bin/bash");
    record.subject.ancestors[0] =
        Ancestor { pid: 16_435, comm: record.push_text(b"bash"), exe: record.subject.parent_exe };
    record.subject.ancestors_len = 1;
    record.syscall = libc::SYS_openat as i32;
    record.flags = Some((libc::O_WRONLY | libc::O_CREAT | libc::O_NOCTTY | libc::O_NONBLOCK) as u64);
    record.rolled_back = Some(true);
}

pub fn host() -> Context {
    Context {
        boot_id: "8e0ad0ff-6d0f-4b59-9f4c-3a6e6e8a2b11".to_owned(),
        hostname: "aditya".to_owned(),
        ..Context::default()
    }
}

pub fn pod() -> Context {
    Context {
        cluster: "aditya".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "mysql".to_owned())]),
        container: Some(Container {
            id: CONTAINER.to_owned(),
            name: "mysql".to_owned(),
            image: "docker.io/library/mysql:5.6".to_owned(),
            pod: "mysql-74775b4bf4-65nqf".to_owned(),
            namespace: "wordpress-mysql".to_owned(),
            owner: Some(Owner { kind: "Deployment".to_owned(), name: "mysql".to_owned() }),
        }),
        ..host()
    }
}
