//! Medians and percentiles, and how they are written.

use std::time::Duration;

/// Measurements of one thing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// In seconds.
    pub(crate) fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64());
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// Of fewer than a hundred samples there is none.
    pub(crate) fn p99(&self) -> f64 {
        if self.0.len() < 100 { f64::NAN } else { self.percentile(99.0) }
    }

    /// The smallest sample that at least `percent` of them do not exceed; not a number if there are none.
    fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.percentile(100.0)
    }
}

/// Three figures and a unit: `41.3 µs`.
pub(crate) fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s.is_nan() => return "–".into(),
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}
