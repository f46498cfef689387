//! Figures of one scenario over all rounds, and ratios of two.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// What one slice gave.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// Which round it belongs to.
    pub round: usize,
    /// Nanoseconds.
    pub p50: f64,
    /// Nanoseconds.
    pub p99: f64,
    /// CPU nanoseconds of the responder for each event; NaN where there is no responder.
    pub cpu: f64,
    /// Events per second over all openers.
    pub rate: f64,
    /// Nanoseconds from read to answer on the responder's own clock, the median; NaN of whoever does not tell.
    pub work: f64,
}

/// All slices of one scenario.
pub struct Series {
    /// Its key in the JSON.
    pub key: &'static str,
    /// For people.
    pub title: &'static str,
    /// Every latency, nanoseconds.
    pub all: Histogram<u64>,
    /// Per round.
    pub slices: Vec<Slice>,
}

impl Series {
    /// Without figures yet.
    pub fn new(key: &'static str, title: &'static str) -> Self {
        let all = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        Self { key, title, all, slices: Vec::new() }
    }

    /// Adds a slice: latencies, the responder's CPU, its work on an event and the wall time, all in nanoseconds.
    pub fn add(
        &mut self,
        round: usize,
        mut latencies: Vec<u32>,
        cpu_ns: Option<u64>,
        work_ns: f64,
        wall_ns: u64,
    ) {
        latencies.sort_unstable();
        let events = latencies.len();
        assert!(events > 0, "an empty slice");
        let at = |part: f64| f64::from(latencies[((events - 1) as f64 * part) as usize]);
        self.slices.push(Slice {
            round,
            p50: at(0.5),
            p99: at(0.99),
            cpu: cpu_ns.map_or(f64::NAN, |ns| ns as f64 / events as f64),
            rate: events as f64 * 1e9 / wall_ns as f64,
            work: work_ns,
        });
        for latency in latencies {
            self.all.saturating_record(u64::from(latency));
        }
    }

    /// A percentile over all rounds, microseconds.
    pub fn at(&self, percentile: f64) -> f64 {
        self.all.value_at_percentile(percentile) as f64 / 1000.0
    }

    /// The longest, microseconds.
    pub fn max(&self) -> f64 {
        self.all.max() as f64 / 1000.0
    }

    /// The median over the rounds.
    pub fn median_of(&self, metric: Metric) -> f64 {
        median(self.slices.iter().map(|slice| metric.of(slice)).filter(|v| !v.is_nan()).collect())
    }

    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "title": self.title,
            "events": self.all.len(),
            "us": {
                "p50": self.at(50.0), "p90": self.at(90.0), "p99": self.at(99.0), "p99.9": self.at(99.9),
                "max": self.max(),
            },
            "cpu_us_per_event": finite(self.median_of(Metric::Cpu) / 1000.0),
            "work_us": finite(self.median_of(Metric::Work) / 1000.0),
            "events_per_s": finite(self.median_of(Metric::Rate)),
            "rounds": self.slices.iter().map(|s| json!({
                "round": s.round, "p50_ns": s.p50, "p99_ns": s.p99, "cpu_ns": finite(s.cpu),
                "work_ns": finite(s.work), "rate": s.rate,
            })).collect::<Vec<_>>(),
        })
    }
}

/// JSON has no NaN.
pub fn finite(value: f64) -> Value {
    if value.is_finite() { json!((value * 1000.0).round() / 1000.0) } else { Value::Null }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Median latency.
    P50,
    /// 99th percentile.
    P99,
    /// CPU of the responder per event.
    Cpu,
    /// Events per second.
    Rate,
    /// Time from read to answer.
    Work,
}

impl Metric {
    /// Of a slice.
    pub const fn of(self, slice: &Slice) -> f64 {
        match self {
            Self::P50 => slice.p50,
            Self::P99 => slice.p99,
            Self::Cpu => slice.cpu,
            Self::Rate => slice.rate,
            Self::Work => slice.work,
        }
    }
}

/// The quartiles of the ratios of the two in each round: 25 %, median, 75 %.
pub fn ratio(of: &Series, to: &Series, metric: Metric) -> [f64; 3] {
    let ratios = of.slices.iter().filter_map(|slice| {
        let other = to.slices.iter().find(|other| other.round == slice.round)?;
        Some(metric.of(slice) / metric.of(other))
    });
    quartiles(ratios)
}

/// The quartiles over the rounds.
pub fn spread(of: &Series, metric: Metric) -> [f64; 3] {
    quartiles(of.slices.iter().map(|slice| metric.of(slice)))
}

/// 25 %, median, 75 %.
pub fn quartiles(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let at = |part: f64| {
        if values.is_empty() { f64::NAN } else { values[((values.len() - 1) as f64 * part).round() as usize] }
    };
    [at(0.25), at(0.5), at(0.75)]
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    if values.is_empty() { f64::NAN } else { values[values.len() / 2] }
}

/// Durations in buckets, as a gate's status tells them: upper end in nanoseconds, count.
#[derive(Debug, Clone, Default)]
pub struct Buckets(Vec<(u64, u64)>);

impl Buckets {
    /// Of the status of a gate.
    pub fn of_status(status: &Value) -> Self {
        Self(serde_json::from_value(status["latency"]["buckets"].clone()).expect("latencies in the status"))
    }

    /// As JSON.
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("buckets"))
    }

    /// The median of those that have come since `before`, to within a bucket's width, which is an eighth of it.
    pub fn median_since(&self, before: &Self) -> f64 {
        let old = |end: u64| before.0.iter().find(|entry| entry.0 == end).map_or(0, |entry| entry.1);
        let new: Vec<_> = self.0.iter().map(|&(end, count)| (end, count - old(end))).collect();
        let half = new.iter().map(|entry| entry.1).sum::<u64>() as f64 / 2.0;
        let mut below = 0.0;
        for (end, count) in new {
            let count = count as f64;
            if count > 0.0 && below + count >= half {
                return end as f64 * (1.0 - (1.0 - (half - below) / count) / 9.0);
            }
            below += count;
        }
        f64::NAN
    }
}
