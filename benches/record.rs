//! What a denial costs a responder beyond its answer, and the logger per line.
#![allow(missing_docs, reason = "criterion's macros")]

#[path = "../tests/audit_support/mod.rs"]
mod audit_support;

use std::hint::black_box;

use audit_support::{fill, host, pod, snapshot};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use writegate::audit::logger::Format;
use writegate::audit::queue::audit_queue;
use writegate::audit::record::Record;

fn queue(c: &mut Criterion) {
    let (queue, drain) = audit_queue();
    let snapshot = snapshot(1);
    c.bench_function("record/take-fill-offer-recycle", |b| {
        b.iter(|| {
            if let Some(mut record) = queue.take(Some(0), 1) {
                fill(&mut record, &snapshot);
                queue.offer(record);
            }
            if let Some(record) = drain.try_next() {
                drain.recycle(black_box(record));
            }
        });
    });
    let held: Vec<_> = std::iter::from_fn(|| queue.pool().take()).collect();
    c.bench_function("record/lost", |b| b.iter(|| black_box(queue.take(Some(0), 1)).is_none()));
    drop(held);
}

fn encode(c: &mut Criterion) {
    let mut record = Record::default();
    fill(&mut record, &snapshot(1));
    let mut group = c.benchmark_group("encode");
    let formats = [("native", Format::Native, host()), ("kubearmor", Format::KubeArmor, pod())];
    for (name, format, context) in formats {
        let mut out = Vec::new();
        format.encode(&record, 1, &context, &mut out).unwrap_or_default();
        group.throughput(Throughput::Bytes(out.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                black_box(format.encode(&record, 1, &context, &mut out)).is_ok()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, queue, encode);
criterion_main!(benches);
