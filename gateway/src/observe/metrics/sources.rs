//! Samples of the API servers that the controller watches.

use super::{Row, Scrape, Value, row, seconds};
use crate::admin::Lag;

/// The values of the label `state`.
const STATES: [&str; 5] = ["waiting", "watching", "missing", "doubting", "failing"];

impl Scrape {
    pub(super) fn of_sources(&self, name: &str) -> Option<Vec<Row<'_>>> {
        let sources = &self.controller.sources;
        Some(match name {
            "ringway_fleet_ready" => sources
                .iter()
                .map(|source| row([("cluster", &*source.cluster)], u64::from(source.ready)))
                .collect(),
            "ringway_fleet_answered_age_seconds" => sources
                .iter()
                .filter_map(|source| Some(row([("cluster", &*source.cluster)], source.answered_seconds?)))
                .collect(),
            "ringway_fleet_event_age_seconds" => sources
                .iter()
                .filter_map(|source| Some(row([("cluster", &*source.cluster)], source.event_seconds?)))
                .collect(),
            "ringway_fleet_watches" => sources
                .iter()
                .flat_map(|source| {
                    STATES.iter().map(|state| {
                        let count = source.watches.iter().filter(|watch| watch.state == *state).count();
                        row([("cluster", &*source.cluster), ("state", *state)], count as u64)
                    })
                })
                .collect(),
            "ringway_fleet_lists_total" => self.of_watches(|watch| watch.lists_total),
            "ringway_fleet_lists_doubted_total" => self.of_watches(|watch| watch.doubted_total),
            "ringway_fleet_watch_failures_total" => self.of_watches(|watch| watch.failures_total),
            "ringway_fleet_status_writes_total" => {
                let (done, failed) = self.controller.status_writes;
                vec![row([("outcome", "written")], done), row([("outcome", "failed")], failed)]
            }
            "ringway_fleet_status_deferred_total" => {
                vec![row([], self.controller.status_deferred)]
            }
            "ringway_gateway_addresses" => vec![row([], self.controller.gateway_addresses.0)],
            "ringway_gateways_without_address" => vec![row([], self.controller.gateway_addresses.1)],
            "ringway_fleet_propagation_seconds" => self
                .controller
                .lags
                .iter()
                .map(|(cluster, one)| Row {
                    labels: vec![("cluster", cluster.as_str().into())],
                    value: lag(one),
                })
                .collect(),
            _ => return None,
        })
    }

    /// Sums over the watches of each cluster.
    fn of_watches(&self, of: fn(&crate::admin::WatchFact) -> u64) -> Vec<Row<'_>> {
        let sources = self.controller.sources.iter();
        let sum = |source: &crate::admin::SourceFact| source.watches.iter().map(of).sum();
        sources.map(|source| row([("cluster", &*source.cluster)], sum(source))).collect()
    }
}

/// A histogram as it is shown.
pub(super) fn lag(lag: &Lag) -> Value {
    let bounds = lag.bounds_ns.iter().map(|bound| seconds(*bound));
    let buckets = bounds.chain([f64::INFINITY]).zip(lag.buckets.iter().copied()).collect();
    Value::Histogram { sum: seconds(lag.sum_ns), count: lag.count, buckets }
}

/// One API server with one watch, for a test that wants a sample of every metric.
#[cfg(test)]
pub(super) fn add_sample(facts: &mut crate::admin::Facts) {
    use crate::admin::{SourceFact, WatchFact};
    facts.sources.push(SourceFact {
        cluster: "alpha".to_owned(),
        ready: true,
        answered_seconds: Some(1),
        event_seconds: Some(2),
        watches: vec![WatchFact { kind: "Service", state: "watching", ..WatchFact::default() }],
    });
    facts.lags.push(("alpha".to_owned(), Lag::default()));
    facts.canary.verdicts.insert("promoted".into(), 1);
}
