//! The states of a drill. Pure: time and counters go in, what is to be done comes out.

use std::time::Duration;

use routing::id::ClusterId;
use routing::time::MonoTime;

use super::report::{DrillState, Figures, Outcome, Phase, Report};
use super::{AbortRule, Plan};
use crate::admin::window::Count;
use crate::worker::drill::Drill;

/// How long after the fault has ended is measured what came of it.
pub const AFTER: Duration = Duration::from_secs(5);

/// What all workers' counters stand at.
#[derive(Clone, Default)]
pub(in crate::admin) struct Sample {
    pub(in crate::admin) at: MonoTime,
    /// Answers to clients.
    pub(in crate::admin) node: Count,
    /// Attempts tried again elsewhere, paid from the budget.
    pub(in crate::admin) retries: u64,
    /// Attempts tried again elsewhere for free.
    pub(in crate::admin) moves: u64,
    /// Attempts that got the fault.
    pub(in crate::admin) faults: u64,
    /// Verdicts against endpoints of any cluster.
    pub(in crate::admin) verdicts: u64,
    /// Second attempts so far.
    pub(in crate::admin) hedges: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(in crate::admin) enum Step {
    /// Take the fault away from every worker.
    End,
    /// Keep this report.
    Keep(Box<Report>),
}

/// A drill that runs, or whose end is being measured.
struct Current {
    plan: Plan,
    cluster: ClusterId,
    began: Sample,
    began_unix_ms: u64,
    before: Figures,
    detected: Option<Duration>,
    /// What stood when the fault was taken away, and why it was.
    ended: Option<(Sample, Outcome, String)>,
}

/// The drills of a node: at most one at a time.
#[derive(Default)]
pub(in crate::admin) struct Machine {
    /// Boxed: it holds whole histograms.
    current: Option<Box<Current>>,
    last: Option<Report>,
}

impl Machine {
    /// Begins a drill: what the workers are to be told.
    ///
    /// # Errors
    /// When there is one already: it runs, or its end is being measured.
    pub(in crate::admin) fn start(
        &mut self,
        plan: Plan,
        cluster: ClusterId,
        (now, unix_ms): (Sample, u64),
        before: Figures,
    ) -> Result<Drill, String> {
        if let Some(current) = &self.current {
            let doing =
                if current.ended.is_some() { "has just ended and is being measured" } else { "is running" };
            return Err(format!(
                "one drill at a time: one of {} on {} {doing}",
                current.plan.fault, current.plan.cluster
            ));
        }
        let until = now.at + plan.lasts;
        let drill = Drill { cluster, fault: plan.fault, share: plan.share, until };
        self.current = Some(Box::new(Current {
            plan,
            cluster,
            began: now,
            began_unix_ms: unix_ms,
            before,
            detected: None,
            ended: None,
        }));
        Ok(drill)
    }

    /// Is there anything to be done as time goes on?
    pub(in crate::admin) fn is_active(&self) -> bool {
        self.current.is_some()
    }

    /// The cluster whose attempts get faults now.
    pub(in crate::admin) fn running_on(&self) -> Option<ClusterId> {
        self.current.as_ref().filter(|current| current.ended.is_none()).map(|current| current.cluster)
    }

    /// Ends a drill that runs. `None`: none does.
    pub(in crate::admin) fn stop(&mut self, why: String, now: Sample) -> Option<Step> {
        let current = self.current.as_mut().filter(|current| current.ended.is_none())?;
        current.ended = Some((now, Outcome::Aborted, why));
        Some(Step::End)
    }

    /// Time has gone on.
    pub(in crate::admin) fn tick(&mut self, now: &Sample) -> Option<Step> {
        let current = self.current.as_mut()?;
        match &current.ended {
            None => {
                current.ended = current.judge(now);
                current.ended.is_some().then_some(Step::End)
            }
            Some((ended, ..)) if now.at.since(ended.at) >= AFTER => {
                let report = self.current.take()?.report(now)?;
                self.last = Some(report.clone());
                Some(Step::Keep(Box::new(report)))
            }
            Some(_) => None,
        }
    }

    /// For people.
    pub(in crate::admin) fn state(&self, now: MonoTime) -> DrillState {
        let phase = match &self.current {
            None => Phase::Idle,
            Some(current) if current.ended.is_none() => Phase::Running,
            Some(_) => Phase::Measuring,
        };
        let current = self.current.as_ref();
        DrillState {
            phase,
            cluster: current.map(|current| current.plan.cluster.clone()),
            fault: current.map(|current| current.plan.fault.to_string()),
            began_unix_ms: current.map(|current| current.began_unix_ms),
            elapsed_seconds: current.map(|current| now.since(current.began.at).as_secs_f64()),
            report: self.last.clone(),
        }
    }
}

impl Current {
    /// Is it over?
    fn judge(&mut self, now: &Sample) -> Option<(Sample, Outcome, String)> {
        let lasted = now.at.since(self.began.at);
        if self.detected.is_none() && now.verdicts > self.began.verdicts {
            self.detected = Some(lasted);
        }
        let count = now.node.since(&self.began.node);
        let failed = count.tally.classes[4];
        for rule in &self.plan.abort_on.0 {
            let broken = match rule {
                AbortRule::Failed(max) => (failed >= *max).then(|| format!("{failed} requests failed")),
                AbortRule::Slow { quantile, limit } => {
                    let enough = count.latency.count() >= quantile.from;
                    let latency = if enough { count.latency.quantile(quantile.at) } else { Duration::ZERO };
                    (latency > *limit).then(|| format!("{} is {latency:.1?}, above {limit:?}", quantile.name))
                }
            };
            if let Some(why) = broken {
                return Some((now.clone(), Outcome::Aborted, why));
            }
        }
        (lasted >= self.plan.lasts).then(|| (now.clone(), Outcome::Finished, String::new()))
    }

    fn report(self, now: &Sample) -> Option<Report> {
        let (ended, outcome, reason) = self.ended?;
        let during = ended.node.since(&self.began.node);
        Some(Report {
            cluster: self.plan.cluster,
            fault: self.plan.fault.to_string(),
            share_percent: self.plan.share.percent(),
            abort_on: self.plan.abort_on.to_string(),
            began_unix_ms: self.began_unix_ms,
            planned_seconds: self.plan.lasts.as_secs_f64(),
            outcome,
            reason,
            faults: ended.faults.saturating_sub(self.began.faults),
            detection_ms: self.detected.map(|detected| detected.as_secs_f64() * 1e3),
            moved: ended.moves.saturating_sub(self.began.moves),
            retried: ended.retries.saturating_sub(self.began.retries),
            hedged: ended.hedges.saturating_sub(self.began.hedges),
            before: self.before,
            during: Figures::new(&during, ended.at.since(self.began.at)),
            after: Figures::new(&now.node.since(&ended.node), now.at.since(ended.at)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::histogram::Histogram;

    fn plan(lasts: u64, abort_on: &str) -> Plan {
        Plan {
            cluster: "alpha".to_owned(),
            fault: "blackhole".parse().unwrap(),
            share: "10%".parse().unwrap(),
            lasts: Duration::from_secs(lasts),
            abort_on: abort_on.parse().unwrap(),
        }
    }

    /// A node under a virtual clock.
    #[derive(Default)]
    struct Node {
        machine: Machine,
        now: Sample,
        latency: Histogram,
        ends: Vec<u64>,
        reports: Vec<Report>,
    }

    impl Node {
        fn start(&mut self, plan: Plan) -> Result<Drill, String> {
            self.machine.start(plan, ClusterId(0), (self.now.clone(), 5), Figures::default())
        }

        /// `ok` good answers of one millisecond and `failed` bad ones, then so many milliseconds.
        fn pass(&mut self, ok: u64, failed: u64, ms: u64) {
            (0..ok + failed).for_each(|_| self.latency.record(Duration::from_millis(1)));
            self.now.node.tally.classes[1] += ok;
            self.now.node.tally.classes[4] += failed;
            self.go(ms);
        }

        fn go(&mut self, ms: u64) {
            self.now.node.latency = crate::observe::histogram::Snapshot::default();
            self.latency.read(&mut self.now.node.latency);
            self.now.at = self.now.at + Duration::from_millis(ms);
            match self.machine.tick(&self.now) {
                Some(Step::End) => self.ends.push(self.now.at.0 / 1_000_000),
                Some(Step::Keep(report)) => self.reports.push(*report),
                None => {}
            }
        }
    }

    #[test]
    fn a_drill_ends_at_its_time_and_is_measured_for_a_while() {
        let mut node = Node::default();
        node.pass(100, 3, 1_000);
        let drill = node.start(plan(2, "failed=1")).unwrap();
        assert_eq!((drill.until, drill.cluster), (MonoTime(3_000_000_000), ClusterId(0)));
        for _ in 0..19 {
            node.pass(10, 0, 100);
        }
        assert!(node.ends.is_empty() && node.machine.running_on().is_some());
        node.now.moves += 7;
        node.now.faults += 9;
        node.pass(10, 0, 100);
        assert_eq!(node.ends, [3_000]);
        assert_eq!(node.machine.running_on(), None, "no fault any more");
        node.pass(50, 2, 4_999);
        assert!(node.reports.is_empty());
        node.pass(0, 0, 1);
        let report = node.reports.pop().unwrap();
        assert_eq!(
            (report.outcome, report.during.requests, report.during.failed),
            (Outcome::Finished, 200, 0)
        );
        assert_eq!((report.moved, report.faults, report.detection_ms), (7, 9, None));
        assert_eq!((report.after.requests, report.after.failed), (52, 2), "what comes later aborts nothing");
        assert_eq!(node.machine.state(node.now.at).report, Some(report));
        assert!(!node.machine.is_active());
    }

    #[test]
    fn a_failed_request_ends_it_at_once_and_earlier_ones_do_not_count() {
        let mut node = Node::default();
        node.pass(10, 10, 1_000);
        node.start(plan(60, "failed=2")).unwrap();
        node.pass(100, 1, 100);
        assert!(node.ends.is_empty());
        node.now.verdicts += 1;
        node.pass(100, 1, 100);
        assert_eq!(node.ends, [1_200]);
        node.go(5_000);
        let report = &node.reports[0];
        assert_eq!((report.outcome, report.reason.as_str()), (Outcome::Aborted, "2 requests failed"));
        assert_eq!(report.detection_ms, Some(200.0));
    }

    #[test]
    fn a_quantile_is_judged_once_there_are_enough_responses() {
        let mut node = Node::default();
        node.start(plan(60, "p99=50ms")).unwrap();
        for _ in 0..99 {
            node.latency.record(Duration::from_millis(500));
        }
        node.go(100);
        assert!(node.ends.is_empty(), "99 responses say nothing of p99");
        node.latency.record(Duration::from_millis(500));
        node.go(100);
        assert_eq!(node.ends, [200]);
        node.go(5_000);
        assert!(node.reports[0].reason.starts_with("p99 is 5"), "{}", node.reports[0].reason);
    }

    #[test]
    fn there_is_never_a_second_one_and_a_stop_stops_once() {
        let mut node = Node::default();
        assert!(node.machine.stop("by hand".to_owned(), node.now.clone()).is_none());
        node.start(plan(60, "failed=1")).unwrap();
        assert!(node.start(plan(1, "failed=1")).unwrap_err().contains("is running"));
        assert!(matches!(node.machine.stop("by hand".to_owned(), node.now.clone()), Some(Step::End)));
        assert!(node.machine.stop("again".to_owned(), node.now.clone()).is_none());
        assert!(node.start(plan(1, "failed=1")).unwrap_err().contains("being measured"));
        node.go(5_000);
        assert_eq!(node.reports[0].reason, "by hand");
        assert!(node.start(plan(1, "failed=1")).is_ok());
    }

    #[test]
    fn a_drill_ends_however_late_it_is_looked_at() {
        let mut node = Node::default();
        node.start(plan(1, "failed=1")).unwrap();
        node.go(3_600_000);
        assert_eq!(node.ends.len(), 1);
        node.go(3_600_000);
        assert_eq!((node.reports.len(), node.machine.is_active()), (1, false));
    }
}
