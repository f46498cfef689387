//! What reading the policies again costs, apart from walking trees.
#![allow(missing_docs, reason = "criterion's macros")]

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use writegate::policy::check;
use writegate::policy::choice;
use writegate::policy::filesystem::Filesystem;
use writegate::policy::kubearmor::Labels;

fn reload(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut group = c.benchmark_group("reload");
    group.sample_size(10);
    for count in [10, 1_000, 100_000] {
        let mut text = String::new();
        for policy in 0..count / 10 {
            let _ = write!(text, "[[policy]]\nname = \"p{policy}\"\naction = \"block\"\npaths = [");
            for path in 0..10 {
                let _ = write!(text, "\"/srv/tree{policy}/directory/file-{path}\", ");
            }
            text.push_str("]\n");
        }
        let file = scratch.path().join(format!("{count}.toml"));
        fs::write(&file, text).expect("a policy file");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let (sources, _) = choice::sources(black_box(std::slice::from_ref(&file)), &[]);
                let built = check::build(&sources, &Labels::default(), None, 1, &Filesystem);
                assert!(built.snapshot.is_some(), "{:?}", built.diagnostics);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reload);
criterion_main!(benches);
