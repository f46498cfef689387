//! What a look-up costs a waiting opener, and what a load of policies costs to build.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use writegate::trie::{PathTrie, PathTrieBuilder, Reach, RuleId};

const PATH_BYTES: usize = 60;
const COUNTS: [usize; 3] = [10, 1_000, 100_000];
/// As many queries whatever the count, so that small sets are asked out of order too.
const QUERIES: usize = 100_000;
/// Entries that a host asks for again and again.
const WORKING_SET: usize = 1_000;

/// xorshift64*: the same paths in every run and no dependency.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// A path of exactly [`PATH_BYTES`] bytes: shared directories above, its own name below.
fn path(random: &mut Random, number: usize) -> Vec<u8> {
    const TOPS: [&str; 4] = ["/usr/lib", "/etc", "/opt/vendor", "/var/lib/app"];
    let top = TOPS[random.below(TOPS.len())];
    let (package, part) = (random.below(500), random.below(40));
    let mut path = format!("{top}/package{package:03}/part{part}/{number:06}-").into_bytes();
    while path.len() < PATH_BYTES {
        let slash = path.len() < PATH_BYTES - 8 && random.below(9) == 0 && path.last() != Some(&b'/');
        path.push(if slash { b'/' } else { b'a' + random.below(26) as u8 });
    }
    path
}

fn paths(count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(0x5eed);
    (0..count).map(|number| path(&mut random, number)).collect()
}

fn build(paths: &[Vec<u8>]) -> PathTrie {
    let mut builder = PathTrieBuilder::new();
    for (number, path) in paths.iter().enumerate() {
        builder.insert(path, [Reach::File, Reach::Tree][number % 2], RuleId(number as u32));
    }
    builder.build()
}

/// One query after the other in one piece of memory: in the daemon the path has just been written too, so what
/// is measured is the trie's cache misses, not the query's.
///
/// Each is drawn evenly from all of `paths`: no other distribution has more cache misses.
fn queries(paths: &[Vec<u8>], hit: bool) -> Vec<[u8; PATH_BYTES]> {
    let mut random = Random(0xa5c);
    let query = |_| {
        let mut query: [u8; PATH_BYTES] = paths[random.below(paths.len())][..].try_into().expect("60 bytes");
        if !hit {
            query[PATH_BYTES - 9] = b'#';
            // Not below any of them either: every one has its number in its last directories.
            let digit = query.iter().rposition(u8::is_ascii_digit).expect("has a number");
            query[digit] = b'#';
        }
        query
    };
    (0..QUERIES).map(query).collect()
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for count in COUNTS {
        let paths = paths(count);
        let trie = build(&paths);
        let working_set = &paths[..count.min(WORKING_SET)];
        for (name, among, hit) in
            [("hit", &paths[..], true), ("hit-working-set", working_set, true), ("miss", &paths[..], false)]
        {
            let queries = queries(among, hit);
            assert!(queries.iter().all(|query| trie.lookup(query).is_some() == hit));
            let mut next = queries.iter().cycle();
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| trie.lookup(black_box(next.next().expect("endless"))));
            });
        }
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for count in COUNTS {
        let paths = paths(count);
        eprintln!("{count} paths: {:?}", build(&paths));
        group.bench_function(BenchmarkId::from_parameter(count), |b| b.iter(|| build(black_box(&paths))));
    }
    group.finish();
}

criterion_group!(benches, lookup, load);
criterion_main!(benches);
