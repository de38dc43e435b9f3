//! Drills where they meet the node: its counters, its workers, its table.

use std::time::Duration;

use axum::http::StatusCode;

use super::drill::{DrillState, Figures, Plan, Sample, Step};
use super::room::Room;
use super::window::Count;
use crate::worker::clock;

/// How often a drill is looked at.
pub(super) const INTERVAL: Duration = Duration::from_millis(20);

impl Room {
    /// Begins a drill on every worker.
    pub(super) fn start_drill(&self, plan: Plan) -> Result<DrillState, (StatusCode, String)> {
        let clusters = self.table.clusters();
        let Some(cluster) = clusters.iter().find(|cluster| *cluster.name == *plan.cluster) else {
            let names: Vec<&str> = clusters.iter().take(16).map(|cluster| &*cluster.name).collect();
            let reason = format!("no such member cluster; there are: {}", names.join(", "));
            return Err((StatusCode::NOT_FOUND, reason));
        };
        let recent = self.recent();
        let before = Figures::new(&recent.node, recent.span);
        let now = (self.sample(), unix_ms());
        let begun = self.drills.borrow_mut().start(plan, cluster.id, now, before);
        let drill = begun.map_err(|reason| (StatusCode::CONFLICT, reason))?;
        self.sources.drills.put(Some(drill));
        tracing::warn!(cluster = %cluster.name, fault = %drill.fault, share = %drill.share, "a drill begins");
        Ok(self.drill_state())
    }

    /// Ends the drill that runs. `None`: none does.
    pub(super) fn stop_drill(&self) -> Option<DrillState> {
        let step = self.drills.borrow_mut().stop("stopped by an operator".to_owned(), self.sample())?;
        self.take_step(step);
        Some(self.drill_state())
    }

    pub(super) fn drill_state(&self) -> DrillState {
        self.drills.borrow().state(clock::now())
    }

    /// To be called every [`INTERVAL`] while there is a drill.
    pub(super) fn step_drill(&self) {
        let gone = self.drills.borrow().running_on().filter(|id| self.table.cluster_name(*id).is_empty());
        let now = self.sample();
        let mut drills = self.drills.borrow_mut();
        let step = match gone {
            Some(_) => drills.stop("its cluster has left the table".to_owned(), now),
            None => drills.tick(&now),
        };
        drop(drills);
        if let Some(step) = step {
            self.take_step(step);
        }
    }

    fn take_step(&self, step: Step) {
        match step {
            Step::End => {
                self.sources.drills.put(None);
                tracing::warn!("the drill has ended");
            }
            Step::Keep(report) => match self.reports.keep(&report) {
                Ok(path) => {
                    let kept = path.map(|path| path.display().to_string()).unwrap_or_default();
                    tracing::info!(outcome = ?report.outcome, reason = report.reason, kept, "drill report");
                }
                Err(error) => {
                    tracing::warn!(%error, "a drill report is not kept in admin.state_dir; the API has it until the next");
                }
            },
        }
    }

    fn sample(&self) -> Sample {
        let mut sample = Sample { at: clock::now(), ..Sample::default() };
        for stats in &self.sources.stats {
            let Count { tally, latency } = &mut sample.node;
            tally.add(&stats.responses);
            stats.latency.read(latency);
            sample.retries += stats.retries_total.get();
            sample.moves += stats.moves_total.get();
            sample.hedges += stats.hedges_total.get();
            sample.faults += stats.drill_faults_total.get();
            sample.verdicts += stats.ejections_total.get() + stats.verdicts_total.get();
        }
        sample
    }
}

fn unix_ms() -> u64 {
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
