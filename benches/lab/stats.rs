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

    /// Adds a slice: latencies, the responder's CPU and the wall time, all in nanoseconds.
    pub fn add(&mut self, round: usize, mut latencies: Vec<u32>, cpu_ns: Option<u64>, wall_ns: u64) {
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
            "events_per_s": finite(self.median_of(Metric::Rate)),
            "rounds": self.slices.iter().map(|s| json!({
                "round": s.round, "p50_ns": s.p50, "p99_ns": s.p99, "cpu_ns": finite(s.cpu), "rate": s.rate,
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
}

impl Metric {
    /// Of a slice.
    pub const fn of(self, slice: &Slice) -> f64 {
        match self {
            Self::P50 => slice.p50,
            Self::P99 => slice.p99,
            Self::Cpu => slice.cpu,
            Self::Rate => slice.rate,
        }
    }
}

/// The quartiles of the ratios of the two in each round: 25 %, median, 75 %.
pub fn ratio(of: &Series, to: &Series, metric: Metric) -> [f64; 3] {
    let ratios = of.slices.iter().filter_map(|slice| {
        let other = to.slices.iter().find(|other| other.round == slice.round)?;
        Some(metric.of(slice) / metric.of(other))
    });
    quartiles(ratios.filter(|ratio| ratio.is_finite()).collect())
}

/// 25 %, median, 75 %.
pub fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|part| {
        if values.is_empty() { f64::NAN } else { values[((values.len() - 1) as f64 * part).round() as usize] }
    })
}

/// Of the two in each round, the median difference.
pub fn difference(of: &Series, to: &Series, metric: Metric) -> f64 {
    let pairs = of.slices.iter().filter_map(|slice| {
        let other = to.slices.iter().find(|other| other.round == slice.round)?;
        Some(metric.of(slice) - metric.of(other))
    });
    median(pairs.filter(|d| !d.is_nan()).collect())
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    if values.is_empty() { f64::NAN } else { values[values.len() / 2] }
}
