//! What it takes to know what a blocked opener wants: the responder's own work for a protected read.
#![allow(missing_docs, reason = "criterion's macros")]

use std::ffi::CString;
use std::fs;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc;

use criterion::{Criterion, criterion_group, criterion_main};
use writegate::classify::{asked, parse_line};
use writegate::gate::Looker;
use writegate::sys::proc::Proc;
use writegate::sys::{lease, thread};

const LINE: &[u8] = b"257 0xffffff9c 0x7ffd3c0f1a2b 0x80000 0x0 0x0 0x0 0x7ffd3c0f0d58 0x7f1234567890\n";

fn pure(c: &mut Criterion) {
    c.bench_function("classify/line", |b| b.iter(|| parse_line(black_box(LINE))));
    let writegate::classify::Line::In(call) = parse_line(LINE) else { return };
    c.bench_function("classify/asked", |b| b.iter(|| asked(black_box(&call))));
}

/// A thread that is blocked in `openat`, as an opener is: nobody opens the other end of its FIFO until the end.
fn look(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let fifo = CString::new(scratch.path().join("fifo").as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: `fifo` is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let (say, hear) = mpsc::channel();
    let path = fifo.clone();
    let blocked = std::thread::spawn(move || {
        let _ = say.send(thread::gettid());
        // SAFETY: `path` is NUL-terminated.
        unsafe { libc::close(libc::open(path.as_ptr(), libc::O_RDONLY)) };
    });
    let tid = hear.recv().expect("a thread id");
    let file = scratch.path().join("file");
    fs::write(&file, b"x").expect("a file");
    let file = fs::File::open(file).expect("opened");
    let proc = Proc::open().expect("/proc");
    let mut looker = Looker::default();
    let seen = looker.look(&proc, tid, file.as_fd());
    assert!(seen.only_reads(), "{seen:?}");
    c.bench_function("look/thread-known", |b| b.iter(|| looker.look(&proc, tid, file.as_fd())));
    c.bench_function("look/thread-new", |b| {
        b.iter_batched_ref(
            Looker::default,
            |looker| looker.look(&proc, tid, file.as_fd()),
            criterion::BatchSize::NumIterations(100),
        );
    });
    c.bench_function("look/lease-probe", |b| b.iter(|| lease::probe(file.as_fd())));
    // SAFETY: `fifo` is NUL-terminated.
    unsafe { libc::close(libc::open(fifo.as_ptr(), libc::O_WRONLY)) };
    let _ = blocked.join();
}

criterion_group!(benches, pure, look);
criterion_main!(benches);
