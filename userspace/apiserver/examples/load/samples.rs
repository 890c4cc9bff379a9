//! Latencies and their summary.

use std::time::Duration;

use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(crate) fn merge(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Requests per second over `time`, and latencies in milliseconds.
    pub(crate) fn report(mut self, time: Duration) -> Value {
        self.0.sort_unstable();
        let at = |share: f64| {
            let index = (self.0.len().saturating_sub(1) as f64 * share) as usize;
            self.0.get(index).map_or(0.0, |sample| sample.as_secs_f64() * 1e3)
        };
        json!({
            "count": self.len(), "rate": self.len() as f64 / time.as_secs_f64(),
            "p50": at(0.5), "p99": at(0.99), "max": at(1.0),
        })
    }
}
