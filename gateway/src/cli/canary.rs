//! `[canary]`: how tables are tried, and where the figures come from. Tests that run a node with a controller use it, too.

use controller::canary::{Canary, CanaryPolicy, Figures, Tally};
use gateway::node::Node;
use gateway::observe::stats::WorkerStats;
use routing::model::StatSlot;

/// What the controller needs to try tables on the workers of `node`.
pub(crate) fn of(settings: &config::Canary, node: &Node) -> Canary {
    let stats = node.stats.clone();
    Canary {
        policy: CanaryPolicy {
            watch: settings.watch.get(),
            longest: settings.longest.get(),
            requests: u64::from(settings.requests),
            errors_above: settings.errors_above,
            p99_above: settings.p99_above,
        },
        measure: Box::new(move |slots| stats.iter().map(|one| figures(one, slots)).collect()),
    }
}

fn figures(stats: &WorkerStats, slots: &[StatSlot]) -> Figures {
    let figures = stats.compared(slots);
    let tally = |(answered, failed)| Tally { answered, failed };
    Figures {
        all: tally(figures.all),
        routes: slots.iter().map(|slot| slot.0).zip(figures.routes.into_iter().map(tally)).collect(),
        panics: figures.panics,
        latency: figures.latency,
    }
}
