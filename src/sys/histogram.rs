//! Durations counted in buckets that lie in memory shared by processes: cheap to add to, and good enough for
//! percentiles.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Buckets to each doubling: what is read back is at most a seventh off.
const PER_OCTAVE: usize = 8;
/// Everything below 2^8 = 256 ns, less than one system call takes, shares a bucket.
const FIRST_OCTAVE: usize = 8;
/// Everything from 2^30 ns on, after which a worker counts as stuck, shares the last.
const LAST_OCTAVE: usize = 30;
/// Buckets of a histogram.
pub const BUCKETS: usize = (LAST_OCTAVE - FIRST_OCTAVE) * PER_OCTAVE + 1;

/// Written by one thread, read by any.
#[repr(C)]
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn add(&self, ns: u64) {
        let count = &self.counts[bucket_of(ns)];
        // Only one thread writes, so no read-modify-write cycle is needed.
        count.store(count.load(Relaxed) + 1, Relaxed);
    }
}

/// What several histograms have counted together: for each bucket that is not empty, its upper end in nanoseconds and
/// its count.
pub fn sum<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Vec<(u64, u64)> {
    let mut counts = [0; BUCKETS];
    for histogram in histograms {
        for (count, add) in counts.iter_mut().zip(&histogram.counts) {
            *count += add.load(Relaxed);
        }
    }
    (0..BUCKETS).map(|bucket| (end_of(bucket), counts[bucket])).filter(|&(_, count)| count > 0).collect()
}

/// The duration that the given part of those in `buckets` do not exceed, as [`sum`] gives them; 0 of none.
pub fn percentile(buckets: &[(u64, u64)], percent: u64) -> u64 {
    let all: u64 = buckets.iter().map(|&(_, count)| count).sum();
    let wanted = (all * percent).div_ceil(100);
    let mut seen = 0;
    let found = buckets.iter().find(|&&(_, count)| {
        seen += count;
        seen >= wanted
    });
    found.map_or(0, |&(end, _)| end)
}

fn bucket_of(ns: u64) -> usize {
    let octave = (ns | 1).ilog2() as usize;
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let part = (ns >> (octave - PER_OCTAVE.ilog2() as usize)) as usize % PER_OCTAVE;
    ((octave - FIRST_OCTAVE) * PER_OCTAVE + part + 1).min(BUCKETS - 1)
}

/// The first duration that is too long for the bucket.
fn end_of(bucket: usize) -> u64 {
    let part = (bucket % PER_OCTAVE + PER_OCTAVE) as u64;
    part << (FIRST_OCTAVE + bucket / PER_OCTAVE - PER_OCTAVE.ilog2() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_lies_below_the_end_of_its_bucket_and_not_far() {
        for ns in (0..100_000).chain((17..30).map(|power| 1 << power)).chain((17..30).map(|p| (1 << p) - 1)) {
            let end = end_of(bucket_of(ns));
            assert!(ns < end, "{ns} {end}");
            assert!(ns < 256 || end - ns <= ns / 7, "{ns} {end}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles() {
        let histogram = Histogram::default();
        assert_eq!(percentile(&sum([&histogram].into_iter()), 50), 0);
        (0..99).for_each(|_| histogram.add(1000));
        histogram.add(1_000_000);
        let buckets = sum([&histogram, &Histogram::default()].into_iter());
        assert_eq!(buckets.len(), 2);
        assert_eq!((percentile(&buckets, 50), percentile(&buckets, 99)), (1024, 1024));
        assert!(percentile(&buckets, 100) > 1_000_000);
    }
}
