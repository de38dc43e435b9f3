//! What is measured in a run, what is claimed of it, and whether several runs together hold a claim.

use std::collections::BTreeMap;

/// One figure of one run. The "fault" is the time from just before a fault to just before it is healed; requests
/// under way when it comes belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// Requests that were due after the warm-up.
    Requests,
    /// Of these: no complete answer, or a status of 400 or above.
    Failed,
    /// Requests of the fault that failed or took longer than the healthy maximum.
    Affected,
    /// When the last of them was due, milliseconds after the fault.
    LastAffectedMs,
    /// Latencies of the fault's requests, milliseconds from when they were due.
    P50Ms,
    P99Ms,
    P999Ms,
    MaxMs,
    /// Executions in all endpoints per request of the fault.
    Executions,
    /// Requests of the whole run that were executed more than once, and their share in percent.
    Twice,
    TwicePercent,
    /// From the fault to the proxy's own verdict; for silent faults from the last answer before it.
    VerdictMs,
    /// Requests that were given to cluster a later than 1 ms after it was suspected, by whichever worker.
    LatePicks,
    /// Verdicts against a cluster or an endpoint in the whole run, where the proxy counts them.
    Downs,
    /// Answers with status 500 or above that reached the client.
    Forwarded5xx,
    /// Failed requests that no endpoint has ever seen.
    NeverExecutedFailed,
    /// Failed requests that were due when the fault had been made: where each has a connection of its own, connections
    /// that the fault did not find there.
    NewFailed,
    /// After healing: until the first answer of cluster a, and until it has 95 % of the traffic again.
    FirstBackMs,
    FullShareMs,
    /// Failed or slow requests that were due after healing.
    ReturnAffected,
    /// After healing: until the last failed or slow request ended.
    RecoveredMs,
    /// Share of cluster a in the good answers of the fault (of the healthy backend, where only one is broken).
    SharePercentA,
    /// Answers of the standby in the whole run.
    StandbyAnswers,
    /// Large answers: whole ones of the wrong length; begun ones that neither ended nor were cut within the client's
    /// time; those that were cut so that the client sees it; those that failed before they had begun.
    CutSilently,
    Stuck,
    CutVisibly,
    LostBeforeBegun,
    /// Growth of the proxy's resident memory over the fault.
    MemoryGrowthPercent,
    /// Hedge mode Always beside Suspect: ratio of the 99.9th percentiles, and executions beyond one per request.
    P999Ratio,
    ExtraExecutionsPercent,
    /// Noise: failed or slow requests before the fault; the longest that the generator itself was late; time that
    /// the hypervisor took from this machine, percent.
    BeforeAffected,
    LateMs,
    StealPercent,
}

impl Metric {
    /// All of them, in the order of the CSV file.
    pub(crate) const ALL: [Self; 33] = [
        Self::Requests,
        Self::Failed,
        Self::Affected,
        Self::LastAffectedMs,
        Self::P50Ms,
        Self::P99Ms,
        Self::P999Ms,
        Self::MaxMs,
        Self::Executions,
        Self::Twice,
        Self::TwicePercent,
        Self::VerdictMs,
        Self::LatePicks,
        Self::Downs,
        Self::Forwarded5xx,
        Self::NeverExecutedFailed,
        Self::NewFailed,
        Self::FirstBackMs,
        Self::FullShareMs,
        Self::ReturnAffected,
        Self::RecoveredMs,
        Self::SharePercentA,
        Self::StandbyAnswers,
        Self::CutSilently,
        Self::Stuck,
        Self::CutVisibly,
        Self::LostBeforeBegun,
        Self::MemoryGrowthPercent,
        Self::P999Ratio,
        Self::ExtraExecutionsPercent,
        Self::BeforeAffected,
        Self::LateMs,
        Self::StealPercent,
    ];

    /// Its name in the CSV file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Failed => "failed",
            Self::Affected => "affected",
            Self::LastAffectedMs => "last_affected_ms",
            Self::P50Ms => "p50_ms",
            Self::P99Ms => "p99_ms",
            Self::P999Ms => "p999_ms",
            Self::MaxMs => "max_ms",
            Self::Executions => "executions_per_request",
            Self::Twice => "executed_twice",
            Self::TwicePercent => "executed_twice_percent",
            Self::VerdictMs => "verdict_ms",
            Self::LatePicks => "picked_while_suspected",
            Self::Downs => "down_verdicts",
            Self::Forwarded5xx => "forwarded_5xx",
            Self::NeverExecutedFailed => "failed_never_executed",
            Self::NewFailed => "failed_new",
            Self::FirstBackMs => "first_back_ms",
            Self::FullShareMs => "full_share_ms",
            Self::ReturnAffected => "affected_after_healing",
            Self::RecoveredMs => "recovered_ms",
            Self::SharePercentA => "share_of_a_percent",
            Self::StandbyAnswers => "standby_answers",
            Self::CutSilently => "cut_silently",
            Self::Stuck => "begun_and_stuck",
            Self::CutVisibly => "cut_visibly",
            Self::LostBeforeBegun => "failed_before_begun",
            Self::MemoryGrowthPercent => "memory_growth_percent",
            Self::P999Ratio => "p999_always_to_suspect",
            Self::ExtraExecutionsPercent => "extra_executions_percent",
            Self::BeforeAffected => "affected_before_fault",
            Self::LateMs => "generator_late_ms",
            Self::StealPercent => "steal_percent",
        }
    }

    /// A value as people read it.
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Self::Executions | Self::P999Ratio | Self::ExtraExecutionsPercent | Self::TwicePercent => {
                format!("{value:.2}")
            }
            Self::P50Ms | Self::VerdictMs | Self::StealPercent => format!("{value:.1}"),
            Self::Requests
            | Self::Failed
            | Self::Affected
            | Self::LastAffectedMs
            | Self::P99Ms
            | Self::P999Ms
            | Self::MaxMs
            | Self::Twice
            | Self::LatePicks
            | Self::Downs
            | Self::Forwarded5xx
            | Self::NeverExecutedFailed
            | Self::NewFailed
            | Self::FirstBackMs
            | Self::FullShareMs
            | Self::ReturnAffected
            | Self::RecoveredMs
            | Self::SharePercentA
            | Self::StandbyAnswers
            | Self::CutSilently
            | Self::Stuck
            | Self::CutVisibly
            | Self::LostBeforeBegun
            | Self::MemoryGrowthPercent
            | Self::BeforeAffected
            | Self::LateMs => format!("{value:.0}"),
        }
    }
}

/// The figures of one run; what could not be measured is not there.
pub(crate) type Figures = BTreeMap<Metric, f64>;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// Which of several runs must hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Their median; the worst is told beside it.
    Median,
    /// Each one.
    Every,
}

/// Something that must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Claim {
    /// Of which figure.
    pub(crate) metric: Metric,
    /// What it must be.
    pub(crate) bound: Bound,
    /// Where it should go: told, not demanded.
    pub(crate) aim: Option<f64>,
    /// In which runs.
    pub(crate) over: Over,
}

/// What several runs say of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It holds, or it does not.
    Judged {
        /// Which of the two.
        holds: bool,
        /// The median of the runs.
        median: f64,
        /// The run that is furthest from holding.
        worst: f64,
    },
    /// The figure is missing in at least one run: the proxy does not tell, or it never happened.
    Missing {
        /// In how many runs.
        runs: usize,
        /// Of how many.
        of: usize,
    },
}

impl Claim {
    /// The median is at most `bound`.
    pub(crate) const fn at_most(metric: Metric, bound: f64) -> Self {
        Self { metric, bound: Bound::AtMost(bound), aim: None, over: Over::Median }
    }

    /// The median is at least `bound`.
    pub(crate) const fn at_least(metric: Metric, bound: f64) -> Self {
        Self { metric, bound: Bound::AtLeast(bound), aim: None, over: Over::Median }
    }

    /// There is none of it in any run.
    pub(crate) const fn never(metric: Metric) -> Self {
        Self { metric, bound: Bound::AtMost(0.0), aim: None, over: Over::Every }
    }

    /// With a better value that is worked towards.
    pub(crate) const fn aiming_at(mut self, aim: f64) -> Self {
        self.aim = Some(aim);
        self
    }

    /// As people read it.
    pub(crate) fn text(&self) -> String {
        let (sign, bound) = match self.bound {
            Bound::AtMost(bound) => ("≤", bound),
            Bound::AtLeast(bound) => ("≥", bound),
        };
        let aim = self.aim.map_or(String::new(), |aim| format!(" (aim {})", self.metric.text(aim)));
        let over = match self.over {
            Over::Median => "",
            Over::Every => " in every run",
        };
        format!("{} {sign} {}{aim}{over}", self.metric.name().replace('_', " "), self.metric.text(bound))
    }

    /// Judges the runs.
    pub(crate) fn judge(&self, runs: &[Figures]) -> Verdict {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(&self.metric).copied()).collect();
        if values.len() < runs.len() || values.is_empty() {
            return Verdict::Missing { runs: runs.len() - values.len(), of: runs.len() };
        }
        values.sort_by(f64::total_cmp);
        let worst = match self.bound {
            Bound::AtMost(_) => values[values.len() - 1],
            Bound::AtLeast(_) => values[0],
        };
        let median = median(&values);
        let decisive = match self.over {
            Over::Median => median,
            Over::Every => worst,
        };
        let holds = match self.bound {
            Bound::AtMost(bound) => decisive <= bound,
            Bound::AtLeast(bound) => decisive >= bound,
        };
        Verdict::Judged { holds, median, worst }
    }
}

/// The middle of sorted values; of an even number the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

/// Least, median and greatest of a figure over runs; `None` where no run has it.
pub(crate) fn spread(metric: Metric, runs: &[Figures]) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(&metric).copied()).collect();
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, median(&values), *values.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(metric: Metric, values: &[f64]) -> Vec<Figures> {
        values.iter().map(|value| Figures::from([(metric, *value)])).collect()
    }

    fn judged(holds: bool, median: f64, worst: f64) -> Verdict {
        Verdict::Judged { holds, median, worst }
    }

    #[test]
    fn a_median_claim_survives_one_bad_run_and_tells_of_it() {
        let claim = Claim::at_most(Metric::Affected, 2.0);
        assert_eq!(claim.judge(&runs(Metric::Affected, &[0.0, 9.0, 2.0])), judged(true, 2.0, 9.0));
        assert_eq!(claim.judge(&runs(Metric::Affected, &[0.0, 9.0, 3.0])), judged(false, 3.0, 9.0));
        assert_eq!(claim.judge(&runs(Metric::Affected, &[2.0, 3.0])), judged(false, 2.5, 3.0));
    }

    #[test]
    fn a_claim_over_every_run_does_not() {
        let claim = Claim::never(Metric::Failed);
        assert_eq!(claim.judge(&runs(Metric::Failed, &[0.0, 0.0, 0.0])), judged(true, 0.0, 0.0));
        assert_eq!(claim.judge(&runs(Metric::Failed, &[0.0, 1.0, 0.0])), judged(false, 0.0, 1.0));
    }

    #[test]
    fn the_worst_of_a_lower_bound_is_the_least() {
        let claim = Claim::at_least(Metric::SharePercentA, 95.0);
        let values = runs(Metric::SharePercentA, &[99.0, 80.0, 97.0]);
        assert_eq!(claim.judge(&values), judged(true, 97.0, 80.0));
    }

    #[test]
    fn what_is_not_measured_is_never_said_to_hold() {
        let claim = Claim::at_most(Metric::VerdictMs, 10.0);
        let mut some = runs(Metric::VerdictMs, &[1.0, 2.0]);
        some.push(Figures::new());
        assert_eq!(claim.judge(&some), Verdict::Missing { runs: 1, of: 3 });
        assert_eq!(claim.judge(&[]), Verdict::Missing { runs: 0, of: 0 });
        assert_eq!(spread(Metric::VerdictMs, &some), Some((1.0, 1.5, 2.0)));
        assert_eq!(spread(Metric::Failed, &some), None);
    }

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        let claim = Claim::at_most(Metric::Executions, 1.1).aiming_at(1.05);
        assert_eq!(claim.text(), "executions per request ≤ 1.10 (aim 1.05)");
        assert_eq!(Claim::never(Metric::Failed).text(), "failed ≤ 0 in every run");
    }
}
