//! From what was seen in a run to its figures.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use loadgen::{Begun, Execution, Outcome, Record};

use super::claims::{Figures, Metric};
use super::row::{Kind, Row, Scope};
use super::verdict::Told;

/// Connections are opened and caches warm after this.
const WARM_UP: Duration = Duration::from_millis(300);
/// A service's own slow answers (see [`super::pod::Options`]) are drawn above this.
const RARE: Duration = Duration::from_millis(40);
/// How the return of the full share is looked for: windows of this length …
const SHARE_WINDOW: Duration = Duration::from_millis(50);
/// … or longer where they would hold fewer requests than this …
const SHARE_REQUESTS: u32 = 20;
/// … in these steps.
const SHARE_STEP: Duration = Duration::from_millis(5);
/// What the full share is.
const SHARE: f64 = 0.95;
/// A verdict on the fault cannot be earlier than this before it: clocks of log and load are read one after the other.
const CLOCK_SLACK: Duration = Duration::from_millis(2);
/// How long after a suspicion no pick may ignore it, whichever worker makes it …
const KNOWN_AFTER: Duration = Duration::from_millis(1);
/// … and how long before its end a request is due that was certainly picked while it lasted.
const PICKED_WITHIN: Duration = Duration::from_millis(5);
/// How long a fault is in the making: every endpoint of a cluster is told in its turn.
const MADE_AFTER: Duration = Duration::from_millis(20);
/// A cluster's share under a fault is looked at this long after it began.
const SHARE_AFTER: Duration = Duration::from_millis(100);

/// Everything that was seen in one run. Times are counted from the start of the load.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Every request.
    pub(crate) records: Vec<Record>,
    /// Every execution in any endpoint.
    pub(crate) executions: Vec<Execution>,
    /// The requests that cluster a executed, by number.
    pub(crate) by_active: HashSet<u64>,
    /// Just before the fault was made.
    pub(crate) fault: Duration,
    /// Just before it was ended.
    pub(crate) heal_begun: Duration,
    /// When it had ended.
    pub(crate) healed: Duration,
    /// What the proxy said.
    pub(crate) verdicts: Option<Vec<Told>>,
    /// From when until when it said that cluster a, or a backend in it, was suspected or down.
    pub(crate) doubts: Vec<(Duration, Duration)>,
    /// How many verdicts it counted.
    pub(crate) downs: Option<u64>,
    /// Its resident bytes just before the fault and just before healing.
    pub(crate) memory: (u64, u64),
    /// Time that the hypervisor gave to others.
    pub(crate) steal_percent: f64,
}

/// When a request met the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It was due during the warm-up.
    WarmUp,
    /// It ended before the fault.
    Before,
    /// It was due before the healing, and not over when the fault came.
    Fault,
    /// It was due after the healing had begun.
    After,
}

impl Seen {
    /// When a request met the run.
    pub(crate) fn phase(&self, record: &Record) -> Phase {
        if record.due < WARM_UP {
            Phase::WarmUp
        } else if record.due >= self.heal_begun {
            Phase::After
        } else if record.due + record.latency < self.fault {
            Phase::Before
        } else {
            Phase::Fault
        }
    }
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn number(count: usize) -> f64 {
    count as f64
}

/// What a run was looked at with.
struct View<'a> {
    row: &'a Row,
    seen: &'a Seen,
    /// How often each request was executed, and the longest latency that a service drew for it.
    executed: HashMap<u64, (usize, Duration)>,
}

/// The figures of a run.
pub(crate) fn figures(row: &Row, seen: &Seen) -> Figures {
    let mut executed: HashMap<u64, (usize, Duration)> = HashMap::new();
    for execution in &seen.executions {
        let (count, drawn) = executed.entry(execution.number).or_default();
        *count += 1;
        *drawn = execution.drawn.max(*drawn);
    }
    let view = View { row, seen, executed };
    let mut figures = Figures::new();
    view.whole_run(&mut figures);
    view.fault(&mut figures);
    if !matches!(row.kind, Kind::Nothing | Kind::GatewayPauses) {
        view.verdict(&mut figures);
        view.late_picks(&mut figures);
        view.healing(&mut figures);
    }
    if row.bulk > 0 {
        view.large(&mut figures);
    }
    figures
}

impl View<'_> {
    fn of(&self, phase: Phase) -> impl Iterator<Item = &Record> + Clone {
        self.seen.records.iter().filter(move |record| self.seen.phase(record) == phase)
    }

    fn measured(&self) -> impl Iterator<Item = &Record> + Clone {
        self.seen.records.iter().filter(|record| self.seen.phase(record) != Phase::WarmUp)
    }

    fn executions(&self, record: &Record) -> usize {
        self.executed.get(&record.number).map_or(0, |(count, _)| *count)
    }

    /// The service itself chose to take a second: that is not the proxy's doing.
    fn is_excused(&self, record: &Record) -> bool {
        let drawn = self.executed.get(&record.number).map_or(Duration::ZERO, |(_, drawn)| *drawn);
        record.outcome.is_good() && drawn > RARE
    }

    fn is_affected(&self, record: &Record) -> bool {
        let is_slow = record.latency > self.row.slow && !self.is_excused(record);
        !record.outcome.is_good() || is_slow
    }

    fn whole_run(&self, figures: &mut Figures) {
        let requests = self.measured().count();
        let failed = self.measured().filter(|record| !record.outcome.is_good());
        let twice = number(self.measured().filter(|record| self.executions(record) > 1).count());
        let is_5xx = |record: &&Record| matches!(record.outcome, Outcome::Answered { status: 500.., .. });
        let late = self.measured().filter_map(|record| record.late).max().unwrap_or_default();
        let by_standby = |record: &&Record| record.value.as_deref() == Some("b");
        let unexecuted = failed.clone().filter(|record| self.executions(record) == 0);
        let new = failed.clone().filter(|record| record.due >= self.seen.fault + MADE_AFTER);
        figures.extend([
            (Metric::Requests, number(requests)),
            (Metric::NeverExecutedFailed, number(unexecuted.count())),
            (Metric::NewFailed, number(new.count())),
            (Metric::Failed, number(failed.count())),
            (Metric::Twice, twice),
            (Metric::TwicePercent, 100.0 * twice / number(requests.max(1))),
            (Metric::Forwarded5xx, number(self.measured().filter(is_5xx).count())),
            (Metric::StandbyAnswers, number(self.measured().filter(by_standby).count())),
            (
                Metric::BeforeAffected,
                number(self.of(Phase::Before).filter(|record| self.is_affected(record)).count()),
            ),
            (Metric::LateMs, ms(late)),
            (Metric::StealPercent, self.seen.steal_percent),
        ]);
        #[expect(clippy::cast_precision_loss, reason = "a few verdicts")]
        figures.extend(self.seen.downs.map(|downs| (Metric::Downs, downs as f64)));
    }

    fn fault(&self, figures: &mut Figures) {
        let requests = self.of(Phase::Fault).count().max(1);
        let affected = self.of(Phase::Fault).filter(|record| self.is_affected(record));
        let last = affected.clone().map(|record| record.due.saturating_sub(self.seen.fault)).max();
        figures.extend([
            (Metric::Affected, number(affected.count())),
            (Metric::LastAffectedMs, ms(last.unwrap_or_default())),
        ]);
        let mut good: Vec<Duration> = self
            .of(Phase::Fault)
            .filter(|record| record.outcome.is_good() && !self.is_excused(record))
            .map(|record| record.latency)
            .collect();
        good.sort_unstable();
        let quantiles = [(Metric::P50Ms, 500), (Metric::P99Ms, 990), (Metric::P999Ms, 999)];
        figures.extend(
            quantiles
                .into_iter()
                .filter_map(|(metric, permille)| Some((metric, ms(quantile(&good, permille)?)))),
        );
        let longest =
            self.of(Phase::Fault).filter(|record| !self.is_excused(record)).map(|record| record.latency);
        figures.extend(longest.max().map(|longest| (Metric::MaxMs, ms(longest))));
        let executions: usize = self.of(Phase::Fault).map(|record| self.executions(record)).sum();
        figures.insert(Metric::Executions, number(executions) / number(requests));
        let (before, after) = self.seen.memory;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a process are far below 2^52")]
        figures.insert(Metric::MemoryGrowthPercent, 100.0 * (after as f64 / before.max(1) as f64 - 1.0));
        let settled = self.seen.fault + SHARE_AFTER;
        let shared = self.of(Phase::Fault).filter(|record| {
            // Paths take turns: with two backends the healthy first one has the even numbers.
            let is_healthy_backend = self.row.scope != Scope::Backend || record.number % 2 == 0;
            record.outcome.is_good() && record.due >= settled && is_healthy_backend
        });
        let of_a = shared.clone().filter(|record| record.value.as_deref() == Some("a")).count();
        figures.insert(Metric::SharePercentA, 100.0 * number(of_a) / number(shared.count().max(1)));
    }

    /// From the fault, or from the last answer where silence is all that there is.
    fn verdict(&self, figures: &mut Figures) {
        let earliest = self.seen.fault.saturating_sub(CLOCK_SLACK);
        let verdicts = self.seen.verdicts.iter().flatten().map(|told| told.at);
        let Some(at) = verdicts.filter(|at| (earliest..self.seen.heal_begun).contains(at)).min() else {
            return;
        };
        let is_silence = matches!(self.row.kind, Kind::Drop | Kind::LinkDown | Kind::Stop);
        let last_answer = self
            .measured()
            .filter(|record| record.value.as_deref() == Some("a"))
            .map(|record| record.due + record.latency)
            .filter(|end| *end <= at)
            .max();
        let from = last_answer.filter(|_| is_silence).unwrap_or(self.seen.fault);
        figures.insert(Metric::VerdictMs, ms(at.saturating_sub(from)));
    }

    /// Requests that were due while cluster a was known to be in doubt, and were given to it all the same. A request is
    /// never picked for before it is due; a stopped endpoint executes what it was given when it goes on, so that even this
    /// is seen.
    fn late_picks(&self, figures: &mut Figures) {
        if self.seen.doubts.is_empty() {
            return;
        }
        let is_known = |record: &Record| {
            self.seen.doubts.iter().any(|(since, until)| {
                record.due >= *since + KNOWN_AFTER && record.due + PICKED_WITHIN < *until
            })
        };
        let late = self.of(Phase::Fault).filter(|record| self.seen.by_active.contains(&record.number));
        figures.insert(Metric::LatePicks, number(late.filter(|record| is_known(record)).count()));
    }

    fn healing(&self, figures: &mut Figures) {
        let healed = self.seen.healed;
        let end = |record: &Record| record.due + record.latency;
        let affected = self.of(Phase::After).filter(|record| self.is_affected(record)).count();
        let first = self
            .measured()
            .filter(|record| record.outcome.is_good() && record.value.as_deref() == Some("a"))
            .map(end)
            .filter(|end| *end >= self.seen.heal_begun)
            .min();
        let recovered = self.of(Phase::After).filter(|record| self.is_affected(record)).map(end).max();
        figures.insert(Metric::ReturnAffected, number(affected));
        figures.insert(Metric::RecoveredMs, ms(recovered.unwrap_or_default().saturating_sub(healed)));
        figures.extend(first.map(|first| (Metric::FirstBackMs, ms(first.saturating_sub(healed)))));
        figures.extend(self.full_share().map(|time| (Metric::FullShareMs, ms(time))));
    }

    /// How long after healing the first window begins in which cluster a has its full share.
    fn full_share(&self) -> Option<Duration> {
        let healed = self.seen.healed;
        let mut due: Vec<(Duration, bool)> = self
            .of(Phase::After)
            .map(|record| (record.due, record.outcome.is_good() && record.value.as_deref() == Some("a")))
            .collect();
        due.sort_unstable();
        let last = due.last()?.0;
        let window = SHARE_WINDOW.max(Duration::from_secs(1) * SHARE_REQUESTS / self.row.rate.max(1));
        let mut start = healed;
        while start + window <= last {
            let from = due.partition_point(|(due, _)| *due < start);
            let to = due.partition_point(|(due, _)| *due < start + window);
            let of_a = due[from..to].iter().filter(|(_, is_a)| *is_a).count();
            if to > from && number(of_a) >= SHARE * number(to - from) {
                return Some(start - healed);
            }
            start += SHARE_STEP;
        }
        None
    }

    fn large(&self, figures: &mut Figures) {
        let (mut silently, mut stuck, mut visibly, mut lost) = (0, 0, 0, 0);
        for record in self.measured() {
            match record.outcome {
                Outcome::Answered { status: 200, body } if body == self.row.bulk as u64 => {}
                Outcome::Answered { status: 200, .. } => silently += 1,
                Outcome::Closed(Begun::Yes(_)) => visibly += 1,
                Outcome::Timeout(Begun::Yes(_)) => stuck += 1,
                Outcome::Answered { .. }
                | Outcome::Connect
                | Outcome::Closed(Begun::No)
                | Outcome::Timeout(Begun::No)
                | Outcome::Malformed
                | Outcome::Grpc(_) => lost += 1,
            }
        }
        figures.extend([
            (Metric::CutSilently, number(silently)),
            (Metric::Stuck, number(stuck)),
            (Metric::CutVisibly, number(visibly)),
            (Metric::LostBeforeBegun, number(lost)),
        ]);
    }
}

/// The least value that so many of a thousand do not exceed.
fn quantile(sorted: &[Duration], permille: usize) -> Option<Duration> {
    let rank = (sorted.len() * permille).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied()
}

/// What a comparison of the two hedge modes adds: `always` beside `suspect`.
pub(crate) fn compare_hedging(suspect: &Figures, always: &Figures) -> Figures {
    let mut figures = always.clone();
    if let (Some(without), Some(with)) = (suspect.get(&Metric::P999Ms), always.get(&Metric::P999Ms)) {
        figures.insert(Metric::P999Ratio, with / without);
    }
    if let Some(executions) = always.get(&Metric::Executions) {
        figures.insert(Metric::ExtraExecutionsPercent, 100.0 * (executions - 1.0).max(0.0));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::row::Lengths;

    const MS: Duration = Duration::from_millis(1);

    fn row(name: &str) -> Row {
        let lengths = Lengths { false_alarms: Duration::ZERO, all_down: Duration::ZERO };
        Row::select(&[name.to_owned()], lengths).unwrap().remove(0)
    }

    /// One request per millisecond for ten seconds, 2 ms each, all by a; fault from 3 s to 6 s.
    fn healthy() -> Seen {
        let record = |number: u32| Record {
            number: u64::from(number),
            due: MS * number,
            late: Some(Duration::ZERO),
            latency: MS * 2,
            outcome: Outcome::Answered { status: 200, body: 9 },
            value: Some("a".into()),
        };
        let execution = |number: u32| Execution { number: u64::from(number), at: MS * number, drawn: MS * 2 };
        Seen {
            records: (0..10_000).map(record).collect(),
            executions: (0..10_000).map(execution).collect(),
            by_active: (0..10_000).collect(),
            fault: MS * 3_000,
            heal_begun: MS * 6_000,
            healed: MS * 6_010,
            verdicts: None,
            doubts: Vec::new(),
            downs: None,
            memory: (100, 100),
            steal_percent: 0.0,
        }
    }

    fn get(figures: &Figures, metric: Metric) -> f64 {
        figures[&metric]
    }

    #[test]
    fn a_run_without_harm_has_none() {
        let figures = figures(&row("drop"), &healthy());
        for metric in
            [Metric::Failed, Metric::Affected, Metric::Twice, Metric::ReturnAffected, Metric::RecoveredMs]
        {
            assert!(get(&figures, metric).abs() < 1e-9, "{metric:?}");
        }
        assert!((get(&figures, Metric::Requests) - 9_700.0).abs() < 1e-9, "the warm-up does not count");
        assert!((get(&figures, Metric::MaxMs) - 2.0).abs() < 1e-9);
        assert!((get(&figures, Metric::Executions) - 1.0).abs() < 1e-9);
        assert!(!figures.contains_key(&Metric::VerdictMs), "nobody said anything");
    }

    #[test]
    fn a_failed_request_is_new_when_the_fault_was_there_before_it() {
        let mut seen = healthy();
        for number in [2_990, 3_005, 4_000, 7_000] {
            seen.records[number].outcome = Outcome::Closed(Begun::No);
        }
        let figures = figures(&row("tcp-kill"), &seen);
        assert!((get(&figures, Metric::Failed) - 4.0).abs() < 1e-9);
        assert!((get(&figures, Metric::NewFailed) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn requests_under_way_when_the_fault_comes_belong_to_it() {
        let mut seen = healthy();
        seen.records[2_999].latency = MS * 100;
        seen.records[2_000].latency = MS * 100;
        let figures = figures(&row("drop"), &seen);
        assert!((get(&figures, Metric::Affected) - 1.0).abs() < 1e-9);
        assert!((get(&figures, Metric::MaxMs) - 100.0).abs() < 1e-9);
        assert!((get(&figures, Metric::BeforeAffected) - 1.0).abs() < 1e-9, "the other one was before it");
    }

    #[test]
    fn the_services_own_second_is_not_the_proxys_but_a_failure_always_is() {
        let mut seen = healthy();
        for number in [4_000, 4_001] {
            seen.records[number].latency = MS * 1_002;
            seen.executions[number].drawn = MS * 1_000;
        }
        seen.records[4_001].outcome = Outcome::Timeout(Begun::No);
        let figures = figures(&row("independence-drop"), &seen);
        assert!((get(&figures, Metric::Affected) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn executions_are_counted_by_request_wherever_they_happened() {
        let mut seen = healthy();
        for number in [3_500, 3_501, 3_501, 9_000] {
            seen.executions.push(Execution { number, at: Duration::ZERO, drawn: MS });
        }
        let figures = figures(&row("post-drop"), &seen);
        assert!((get(&figures, Metric::Twice) - 3.0).abs() < 1e-9);
        // 3,002 requests of the fault: those due from 2,998 ms on were not over at 3,000 ms.
        assert!((get(&figures, Metric::Executions) - (3_002.0 + 3.0) / 3_002.0).abs() < 1e-9);
    }

    #[test]
    fn a_silent_fault_is_judged_from_the_last_answer_and_a_loud_one_from_its_beginning() {
        let mut seen = healthy();
        for record in &mut seen.records[3_020..] {
            record.value = Some("b".into());
        }
        // The last answer of a ends at 3,019 + 2 ms.
        seen.verdicts = Some(vec![Told { at: MS * 100 }, Told { at: MS * 3_030 }, Told { at: MS * 7_000 }]);
        assert!((get(&figures(&row("stop"), &seen), Metric::VerdictMs) - 9.0).abs() < 1e-9);
        assert!((get(&figures(&row("brownout"), &seen), Metric::VerdictMs) - 30.0).abs() < 1e-9);
    }

    #[test]
    fn a_request_given_to_a_cluster_in_doubt_is_a_late_pick() {
        let mut seen = healthy();
        assert!(!figures(&row("stop"), &seen).contains_key(&Metric::LatePicks), "nobody was in doubt");
        // Known from 3,011 ms on, and until 3,095 ms.
        seen.doubts = vec![(MS * 3_010, MS * 3_100)];
        seen.by_active.retain(|number| !(3_011..3_100).contains(number));
        assert!(get(&figures(&row("stop"), &seen), Metric::LatePicks).abs() < 1e-9);
        seen.by_active.extend([3_011, 3_094, 3_095]);
        assert!((get(&figures(&row("stop"), &seen), Metric::LatePicks) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_return_is_complete_when_a_whole_window_is() {
        let mut seen = healthy();
        for record in &mut seen.records[3_000..6_200] {
            record.value = Some("b".into());
        }
        let figures = figures(&row("kill"), &seen);
        // Due at 6,200 ms, over 2 ms later, 192 ms after healing.
        assert!((get(&figures, Metric::FirstBackMs) - 192.0).abs() < 1e-9);
        // 48 of the 50 requests of the window from 6,200 - 2 ms on are a's.
        assert!((get(&figures, Metric::FullShareMs) - 190.0).abs() < 1e-9);
    }

    #[test]
    fn a_large_answer_of_the_wrong_length_is_a_silent_cut() {
        let row = row("large-answers");
        let mut seen = healthy();
        for record in &mut seen.records {
            record.outcome = Outcome::Answered { status: 200, body: 1_000_000 };
        }
        seen.records[4_000].outcome = Outcome::Answered { status: 200, body: 999_999 };
        seen.records[4_001].outcome = Outcome::Closed(Begun::Yes(5));
        seen.records[4_002].outcome = Outcome::Closed(Begun::No);
        seen.records[4_003].outcome = Outcome::Timeout(Begun::Yes(5));
        let figures = figures(&row, &seen);
        for metric in [Metric::CutSilently, Metric::CutVisibly, Metric::LostBeforeBegun, Metric::Stuck] {
            assert!((get(&figures, metric) - 1.0).abs() < 1e-9, "{metric:?}");
        }
    }

    #[test]
    fn hedging_is_compared_by_its_tail_and_its_cost() {
        let suspect = Figures::from([(Metric::P999Ms, 40.0), (Metric::Executions, 1.0)]);
        let always = Figures::from([(Metric::P999Ms, 10.0), (Metric::Executions, 1.02)]);
        let compared = compare_hedging(&suspect, &always);
        assert!((get(&compared, Metric::P999Ratio) - 0.25).abs() < 1e-9);
        assert!((get(&compared, Metric::ExtraExecutionsPercent) - 2.0).abs() < 1e-9);
    }
}
