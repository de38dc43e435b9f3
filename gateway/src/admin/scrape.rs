//! Puts together what `/metrics` shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::health::state::State;
use routing::id::ClusterId;
use routing::model::StatSlot;

use super::names::{self, backend_sum, cluster_base, has_counters, route_sum};
use super::room::Room;
use crate::observe::metrics::{ClusterSeries, OTHER, Scrape, StateCounts, TallySum};
use crate::observe::stats::CLUSTERS_MAX;

/// Certificates with a series of their own.
const CERTIFICATES_SHOWN_MAX: usize = 1_000;

/// A Secret, and when what it holds expires, seconds since 1970.
type Expiry = (Arc<str>, i64);

impl Room {
    /// Everything that is counted, at this moment.
    pub(super) fn scrape(&self) -> Scrape {
        let facts = self.facts();
        let (certificates, staples) = self.certificates();
        Scrape {
            version: env!("CARGO_PKG_VERSION"),
            ready: self.not_ready(&facts).is_none(),
            workers: self.sources.stats.clone(),
            clusters: self.cluster_series(),
            routes: self.route_series(),
            backends: self.backend_series(),
            certificates,
            staples,
            controller: facts,
        }
    }

    /// The certificates of all listeners by Secret, and their OCSP responses: those that expire first, up to a bound.
    fn certificates(&self) -> (Vec<Expiry>, Vec<Expiry>) {
        let (mut expiry, mut staples) = (BTreeMap::new(), BTreeMap::new());
        for view in self.table.listeners() {
            for (_, _, set) in view.spec.tls.iter().flat_map(|tls| tls.iter()) {
                for certificate in &set.certificates {
                    expiry.insert(Arc::clone(&certificate.secret), certificate.not_after);
                    if let Some(staple) = &certificate.staple {
                        staples.insert(Arc::clone(&certificate.secret), staple.not_after);
                    }
                }
            }
        }
        let first = |all: BTreeMap<Arc<str>, i64>| {
            let mut all: Vec<Expiry> = all.into_iter().collect();
            all.sort_by_key(|(_, not_after)| *not_after);
            all.truncate(CERTIFICATES_SHOWN_MAX);
            all
        };
        (first(expiry), first(staples))
    }

    /// Every cluster of the table; those above the bound share one series.
    pub(super) fn cluster_series(&self) -> Vec<ClusterSeries> {
        let workers = &self.sources.stats;
        let mut all = Vec::new();
        let mut other: Option<ClusterSeries> = None;
        let mut parts = self.part_states();
        for view in self.table.clusters() {
            let backends = parts.remove(&view.id).unwrap_or_default();
            let (ready, terminating) =
                (u64::from(view.endpoints.ready), u64::from(view.endpoints.terminating));
            if !has_counters(view.id) {
                let shared = other.get_or_insert_with(|| {
                    let last = ClusterId(u16::try_from(CLUSTERS_MAX - 1).unwrap_or(u16::MAX));
                    let sum = cluster_base(workers, last);
                    let in_flight = workers.iter().map(|stats| stats.cluster(last).in_flight.get()).sum();
                    ClusterSeries {
                        name: OTHER.into(),
                        tally: sum.tally,
                        latency: sum.latency,
                        in_flight,
                        ready: 0,
                        terminating: 0,
                        drained: false,
                        states: StateCounts::default(),
                        backends: StateCounts::default(),
                    }
                });
                shared.ready += ready;
                shared.terminating += terminating;
                shared.states.add(view.verdict.state);
                backends.into_iter().for_each(|state| shared.backends.add(state));
                continue;
            }
            let names::ClusterBase { tally, latency } = cluster_base(workers, view.id);
            let base = self.names.cluster_base(view.id);
            let states = counts([view.verdict.state]);
            all.push(ClusterSeries {
                name: view.name,
                tally: tally.since(&base.tally),
                latency: latency.since(&base.latency),
                in_flight: workers.iter().map(|stats| stats.cluster(view.id).in_flight.get()).sum(),
                ready,
                terminating,
                drained: view.drain_percent == 100,
                states,
                backends: counts(backends),
            });
        }
        all.extend(other);
        all
    }

    /// The states of each cluster's backends.
    fn part_states(&self) -> BTreeMap<ClusterId, Vec<State>> {
        let mut all: BTreeMap<ClusterId, Vec<State>> = BTreeMap::new();
        for view in self.table.backends() {
            for ((cluster, _), verdict) in view.clusters.iter().zip(&view.verdicts) {
                all.entry(*cluster).or_default().push(verdict.state);
            }
        }
        all
    }

    fn route_series(&self) -> Vec<(Arc<str>, TallySum)> {
        let workers = &self.sources.stats;
        let own = self.names.routes();
        let own = own.map(|(slot, name, base)| (Arc::clone(name), route_sum(workers, slot).since(base)));
        let shared = (Arc::from(OTHER), route_sum(workers, StatSlot(0)));
        own.chain([shared]).collect()
    }

    fn backend_series(&self) -> Vec<(Arc<str>, Arc<str>, TallySum)> {
        let workers = &self.sources.stats;
        let own = self.names.backends().map(|(slot, (backend, cluster), base)| {
            (Arc::clone(backend), Arc::clone(cluster), backend_sum(workers, slot).since(base))
        });
        let shared = (Arc::from(OTHER), Arc::from(OTHER), backend_sum(workers, StatSlot(0)));
        own.chain([shared]).collect()
    }
}

fn counts(states: impl IntoIterator<Item = State>) -> StateCounts {
    let mut counts = StateCounts::default();
    states.into_iter().for_each(|state| counts.add(state));
    counts
}
