//! What was seen: in each window of a tenth of a second, and altogether.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Length of one window.
pub const WINDOW: Duration = Duration::from_millis(100);

/// Different values of the counted header; what comes beyond is counted under `other`.
pub const VALUES_MAX: usize = 64;

/// The name under which values beyond [`VALUES_MAX`] are counted.
const OTHER: &str = "other";

/// The longest latency that is told apart, microseconds: 10 minutes.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Requests that got no good answer, by what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// The connection was refused or could not be opened.
    pub connect: u64,
    /// The connection was closed or reset before the response was complete.
    pub closed: u64,
    /// No complete response within the timeout, counted from when the request was due.
    pub timeout: u64,
    /// A complete response with a status of 400 or above.
    pub status: u64,
    /// What came is not HTTP/1.1.
    pub malformed: u64,
}

/// What happened in one window. Latencies are of good responses (status below 400), counted from when the request was
/// due, not from when it was sent; zero when there were none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// When it began, since the start of the load.
    pub start: Duration,
    /// Its length: [`WINDOW`], more when this machine was late.
    pub length: Duration,
    /// Requests that became due.
    pub sent: u64,
    /// Good responses.
    pub ok: u64,
    /// Requests that failed.
    pub failed: Failures,
    /// Requests without an answer at the window's end.
    pub in_flight: u64,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// 99.9th percentile.
    pub p999: Duration,
    /// Longest.
    pub max: Duration,
    /// The same per value of the counted header, in the order of first appearance since the start; values that did
    /// not appear in this window stand there with zeros.
    pub values: Vec<ValueWindow>,
}

/// Good responses with one value of the counted header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueWindow {
    /// The value.
    pub value: String,
    /// Good responses.
    pub ok: u64,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// 99.9th percentile.
    pub p999: Duration,
}

/// The whole load as one window, and what it did not finish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Everything; `in_flight` is what was abandoned when the stop flag was set.
    pub total: Window,
    /// Connections opened.
    pub connections: u64,
}

impl Failures {
    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { connect, closed, timeout, status, malformed } = self;
        connect + closed + timeout + status + malformed
    }
}

/// Counts until it is asked for a window.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) sent: u64,
    pub(crate) failed: Failures,
    all: Histogram<u64>,
    values: Vec<(String, Histogram<u64>)>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { sent: 0, failed: Failures::default(), all: histogram(), values: Vec::new() }
    }

    /// A good response.
    pub(crate) fn ok(&mut self, latency: Duration, value: Option<&str>) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US).clamp(1, LATENCY_MAX_US);
        self.all += micros;
        if let Some(value) = value {
            *self.histogram_of(value) += micros;
        }
    }

    fn histogram_of(&mut self, value: &str) -> &mut Histogram<u64> {
        let known = self.values.iter().position(|(name, _)| name == value);
        let index = match known {
            Some(index) => index,
            None if self.values.len() < VALUES_MAX => self.add(value),
            None => self.values.iter().position(|(name, _)| name == OTHER).unwrap_or_else(|| self.add(OTHER)),
        };
        &mut self.values[index].1
    }

    fn add(&mut self, value: &str) -> usize {
        self.values.push((value.to_owned(), histogram()));
        self.values.len() - 1
    }

    /// What was counted.
    pub(crate) fn window(&self, start: Duration, length: Duration, in_flight: u64) -> Window {
        let values = self.values.iter().map(|(value, histogram)| ValueWindow {
            value: value.clone(),
            ok: histogram.len(),
            p50: quantile(histogram, 0.5),
            p99: quantile(histogram, 0.99),
            p999: quantile(histogram, 0.999),
        });
        Window {
            start,
            length,
            sent: self.sent,
            ok: self.all.len(),
            failed: self.failed,
            in_flight,
            p50: quantile(&self.all, 0.5),
            p99: quantile(&self.all, 0.99),
            p999: quantile(&self.all, 0.999),
            max: quantile(&self.all, 1.0),
            values: values.collect(),
        }
    }

    /// Begins a new window; the values seen so far keep their places.
    pub(crate) fn clear(&mut self) {
        self.sent = 0;
        self.failed = Failures::default();
        self.all.reset();
        for (_, histogram) in &mut self.values {
            histogram.reset();
        }
    }
}

fn histogram() -> Histogram<u64> {
    // Three digits: 0.1 % of a latency is far below what any machine repeats.
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
        .expect("the bounds are constants that hdrhistogram accepts")
}

fn quantile(histogram: &Histogram<u64>, quantile: f64) -> Duration {
    if histogram.is_empty() {
        Duration::ZERO
    } else {
        Duration::from_micros(histogram.value_at_quantile(quantile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_all_good_responses_and_of_each_value() {
        let mut recorder = Recorder::new();
        for millis in 1..=1_000 {
            let value = if millis % 4 == 0 { "beta" } else { "alpha" };
            recorder.ok(Duration::from_millis(millis), Some(value));
        }
        let window = recorder.window(Duration::ZERO, WINDOW, 0);
        let near = |found: Duration, millis: u64| found.as_millis().abs_diff(u128::from(millis)) <= 1;
        assert_eq!(window.ok, 1_000);
        assert!(near(window.p50, 500) && near(window.p99, 990) && near(window.p999, 999), "{window:?}");
        let shares: Vec<_> = window.values.iter().map(|value| (value.value.as_str(), value.ok)).collect();
        assert_eq!(shares, [("alpha", 750), ("beta", 250)]);

        recorder.clear();
        let empty = recorder.window(WINDOW, WINDOW, 0);
        assert_eq!((empty.ok, empty.p999, empty.values.len()), (0, Duration::ZERO, 2));
    }

    #[test]
    fn values_without_end_are_summed_under_other() {
        let mut recorder = Recorder::new();
        for number in 0..1_000 {
            recorder.ok(Duration::from_millis(1), Some(&number.to_string()));
        }
        let window = recorder.window(Duration::ZERO, WINDOW, 0);
        assert_eq!(window.values.len(), VALUES_MAX + 1);
        assert_eq!(window.values.last().map(|last| (last.value.as_str(), last.ok)), Some(("other", 936)));
    }
}
