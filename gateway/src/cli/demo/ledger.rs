//! What was seen so far, and what it means: shares, rates, states, the cost of the fault. Pure: windows of the load
//! and readings of the gateway's statistics go in, nothing is measured here.
//!
//! Counts, shares and maxima are the client's. Latencies over a second or over the fault are the gateway's own
//! histograms, because they can be subtracted; they are known to 12.5 %. A cluster's state is what the two let one
//! know from outside:
//!
//! ```text
//! Healthy --attempts fail--> Suspect --no answers--> Down --answers--> Ramp --its old share--> Healthy
//! Idle: no answers and no failures (a standby)
//! ```

use std::time::Duration;

use gateway::observe::histogram::Snapshot;
use loadgen::Window;

/// Windows that make up "now" for rates, shares and latencies: one second.
const NOW_WINDOWS: usize = 10;
/// Windows that decide whether a cluster answers.
const ALIVE_WINDOWS: usize = 3;
/// Of its old share, what a returned cluster must reach to count as back. Below one, because shares vary by chance.
const RETURNED: f64 = 0.8;

/// The gateway's statistics at one moment, summed over its workers.
#[derive(Clone, Default)]
pub(super) struct Reading {
    /// From request head complete to response complete.
    pub latency: Snapshot,
    /// By member, in the plan's order.
    pub clusters: Vec<ClusterReading>,
    /// Attempts tried again elsewhere at the budget's expense.
    pub retries: u64,
    /// The same, free of charge: nothing had been sent.
    pub moves: u64,
    /// Endpoints ejected, counted by each worker for itself.
    pub ejections: u64,
}

/// The part of one cluster.
#[derive(Clone, Default)]
pub(super) struct ClusterReading {
    /// Attempts that failed before there was a response head.
    pub failures: u64,
    /// From an attempt's first byte sent to the response head.
    pub latency: Snapshot,
}

/// What can be known of a cluster's state from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No answers, no failures.
    Idle,
    /// It answers.
    Healthy,
    /// It answers, and attempts on it fail.
    Suspect,
    /// Attempts on it failed and it does not answer.
    Down,
    /// It answers again and has not got its old share yet.
    Ramp,
}

/// One cluster now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Its part of the answers of the last second, 0 to 1.
    pub share: f64,
    /// Answers per second.
    pub per_s: f64,
    /// Median, 99th and 99.9th percentile of the last second; `None` without answers.
    pub latency: [Option<Duration>; 3],
    /// Its state.
    pub state: State,
}

/// One window.
struct Cell {
    start: Duration,
    length: Duration,
    sent: u64,
    ok: u64,
    failed: u64,
    p99: Duration,
    max: Duration,
    /// Good answers by member.
    by_member: Vec<u64>,
    reading: Reading,
}

impl Cell {
    fn end(&self) -> Duration {
        self.start + self.length
    }

    fn failures(&self, member: usize) -> u64 {
        self.reading.clusters.get(member).map_or(0, |cluster| cluster.failures)
    }
}

/// The whole run.
pub(super) struct Ledger {
    members: Vec<String>,
    victim: usize,
    cells: Vec<Cell>,
    /// When the victim was killed and brought back.
    killed: Option<Duration>,
    back: Option<Duration>,
    first_again: Option<Duration>,
    returned: Option<Duration>,
}

/// Sums over the run so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Requests that became due.
    pub sent: u64,
    /// Good answers.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// [`Reading::retries`].
    pub retries: u64,
    /// [`Reading::moves`].
    pub moves: u64,
    /// [`Reading::ejections`].
    pub ejections: u64,
}

/// The part of the run in which the fault was felt: from the kill to the victim's old share, or to the last window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// When it began.
    pub from: Duration,
    /// When it was over.
    pub to: Duration,
    /// Median, 99th and 99.9th percentile.
    pub latency: [Duration; 3],
    /// The longest that the client saw.
    pub max: Duration,
}

impl Ledger {
    /// Nothing seen yet. `victim` is an index of `members`.
    pub(super) fn new(members: Vec<String>, victim: usize) -> Self {
        let (killed, back, first_again, returned) = (None, None, None, None);
        Self { members, victim, cells: Vec::new(), killed, back, first_again, returned }
    }

    /// The members' names, in the plan's order.
    pub(super) fn members(&self) -> &[String] {
        &self.members
    }

    /// Which of them is killed.
    pub(super) fn victim(&self) -> usize {
        self.victim
    }

    /// The victim was killed now.
    pub(super) fn killed(&mut self, at: Duration) {
        self.killed = Some(at);
    }

    /// The victim listens again now.
    pub(super) fn brought_back(&mut self, at: Duration) {
        self.back = Some(at);
    }

    /// The first request has reached the victim since it listens again.
    pub(super) fn reached_again(&mut self, at: Duration) {
        self.first_again = self.first_again.or(Some(at));
    }

    /// When the victim was killed.
    pub(super) fn killed_at(&self) -> Option<Duration> {
        self.killed
    }

    /// When it was brought back.
    pub(super) fn back_at(&self) -> Option<Duration> {
        self.back
    }

    /// From listening again to the first request.
    pub(super) fn time_to_first(&self) -> Option<Duration> {
        Some(self.first_again?.saturating_sub(self.back?))
    }

    /// Takes in one window of the load and the gateway's statistics at its end.
    pub(super) fn add(&mut self, window: &Window, reading: Reading) {
        let answers = |name: &String| {
            window.values.iter().find(|value| value.value == *name).map_or(0, |value| value.ok)
        };
        self.cells.push(Cell {
            start: window.start,
            length: window.length,
            sent: window.sent,
            ok: window.ok,
            failed: window.failed.total(),
            p99: window.p99,
            max: window.max,
            by_member: self.members.iter().map(answers).collect(),
            reading,
        });
        self.look_for_return();
    }

    /// When the last window ended.
    pub(super) fn now(&self) -> Duration {
        self.cells.last().map_or(Duration::ZERO, Cell::end)
    }

    /// Everything together.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for cell in &self.cells {
            sums.sent += cell.sent;
            sums.ok += cell.ok;
            sums.failed += cell.failed;
        }
        if let Some(Cell { reading, .. }) = self.cells.last() {
            (sums.retries, sums.moves, sums.ejections) = (reading.retries, reading.moves, reading.ejections);
        }
        sums
    }

    /// One cluster now.
    pub(super) fn row(&self, member: usize) -> Row {
        let recent = self.recent(NOW_WINDOWS);
        let seconds: f64 = recent.iter().map(|cell| cell.length.as_secs_f64()).sum();
        let answers: u64 = recent.iter().map(|cell| cell.by_member[member]).sum();
        let latency = self.latency_of(|reading| reading.clusters.get(member).map(|cluster| &cluster.latency));
        Row {
            share: self.share(recent, member),
            per_s: if seconds > 0.0 { answers as f64 / seconds } else { 0.0 },
            latency: if answers > 0 { latency } else { [None; 3] },
            state: self.state(member),
        }
    }

    /// Median, 99th and 99.9th percentile of all requests of the last second.
    pub(super) fn latency_now(&self) -> [Option<Duration>; 3] {
        self.latency_of(|reading| Some(&reading.latency))
    }

    /// Answers per second, of the last second.
    pub(super) fn per_s(&self) -> f64 {
        let recent = self.recent(NOW_WINDOWS);
        let seconds: f64 = recent.iter().map(|cell| cell.length.as_secs_f64()).sum();
        let answers: u64 = recent.iter().map(|cell| cell.ok).sum();
        if seconds > 0.0 { answers as f64 / seconds } else { 0.0 }
    }

    /// The longest latency of the last second, as the client saw it.
    pub(super) fn max_now(&self) -> Duration {
        longest(self.recent(NOW_WINDOWS))
    }

    /// The client's p99 over the whole run of length `end`, milliseconds, in `columns` pieces: the worst window of
    /// each piece. `None` where the run has not come to yet.
    pub(super) fn p99_columns(&self, columns: usize, end: Duration) -> Vec<Option<f64>> {
        let worst =
            |cells: &[&Cell]| cells.iter().map(|cell| cell.p99.as_secs_f64() * 1_000.0).fold(0.0, f64::max);
        self.pieces(columns, end, worst)
    }

    /// The share of a cluster in the same manner, 0 to 1.
    pub(super) fn share_columns(&self, member: usize, columns: usize, end: Duration) -> Vec<Option<f64>> {
        self.pieces(columns, end, |cells| {
            let all: u64 = cells.iter().map(|cell| cell.ok).sum();
            let its: u64 = cells.iter().map(|cell| cell.by_member[member]).sum();
            if all == 0 { 0.0 } else { its as f64 / all as f64 }
        })
    }

    /// From the kill until the victim's last answer had arrived, to the length of a window. `None`: not yet.
    pub(super) fn time_to_silence(&self) -> Option<Duration> {
        let killed = self.killed?;
        let silent =
            self.cells.iter().find(|cell| cell.end() > killed && cell.by_member[self.victim] == 0)?;
        Some(silent.start.saturating_sub(killed))
    }

    /// From listening again to its old share, to the length of a window. `None`: not yet, or it never had one.
    pub(super) fn time_to_return(&self) -> Option<Duration> {
        Some(self.returned?.saturating_sub(self.back?))
    }

    /// What the fault cost. `None` before the kill.
    pub(super) fn fault(&self) -> Option<Fault> {
        let from = self.killed?;
        let to = self.returned.unwrap_or(self.now()).max(from);
        let before = self.cells.iter().rfind(|cell| cell.end() <= from)?;
        let last = self.cells.iter().rfind(|cell| cell.end() <= to)?;
        let spent = last.reading.latency.since(&before.reading.latency);
        let during = self.cells.iter().filter(|cell| cell.end() > from && cell.end() <= to);
        let max = during.map(|cell| cell.max).max().unwrap_or_default();
        let latency = QUANTILES.map(|quantile| spent.quantile(quantile).min(max));
        Some(Fault { from, to, latency, max })
    }

    fn recent(&self, windows: usize) -> &[Cell] {
        &self.cells[self.cells.len().saturating_sub(windows)..]
    }

    /// Percentiles of what a histogram counted in the last second.
    fn latency_of<'a>(&'a self, of: impl Fn(&'a Reading) -> Option<&'a Snapshot>) -> [Option<Duration>; 3] {
        let (Some(last), before) = (self.cells.last(), self.before(NOW_WINDOWS)) else { return [None; 3] };
        let Some(now) = of(&last.reading) else { return [None; 3] };
        let spent =
            before.and_then(|cell| of(&cell.reading)).map_or_else(|| now.clone(), |then| now.since(then));
        if spent.count() == 0 {
            return [None; 3];
        }
        // A bucket's upper edge may lie above everything that was seen.
        let max = self.max_now();
        QUANTILES.map(|quantile| Some(spent.quantile(quantile).min(max)))
    }

    /// The window before the last `windows`.
    fn before(&self, windows: usize) -> Option<&Cell> {
        self.cells.len().checked_sub(windows + 1).map(|index| &self.cells[index])
    }

    fn share(&self, cells: &[Cell], member: usize) -> f64 {
        let all: u64 = cells.iter().map(|cell| cell.by_member.iter().sum::<u64>()).sum();
        let its: u64 = cells.iter().map(|cell| cell.by_member[member]).sum();
        if all == 0 { 0.0 } else { its as f64 / all as f64 }
    }

    fn state(&self, member: usize) -> State {
        let Some(last) = self.cells.last() else { return State::Idle };
        let failures_since = |cell: Option<&Cell>| {
            last.failures(member).saturating_sub(cell.map_or(0, |cell| cell.failures(member)))
        };
        let answers = self.recent(ALIVE_WINDOWS).iter().any(|cell| cell.by_member[member] > 0);
        if !answers {
            let last_answer = self.cells.iter().rposition(|cell| cell.by_member[member] > 0);
            // The window of its last answer is often that of its first failure, too.
            let before = last_answer.and_then(|index| index.checked_sub(1)).map(|index| &self.cells[index]);
            return if failures_since(before) > 0 { State::Down } else { State::Idle };
        }
        if failures_since(self.before(NOW_WINDOWS)) > 0 {
            return State::Suspect;
        }
        let returning = member == self.victim && self.back.is_some() && self.returned.is_none();
        if returning && self.share_before() > 0.0 { State::Ramp } else { State::Healthy }
    }

    /// The victim's share before it was killed.
    fn share_before(&self) -> f64 {
        let killed = self.killed.unwrap_or(Duration::MAX);
        let until = self.cells.partition_point(|cell| cell.end() <= killed);
        self.share(&self.cells[..until], self.victim)
    }

    fn look_for_return(&mut self) {
        let Some(back) = self.back.filter(|_| self.returned.is_none()) else { return };
        let before = self.share_before();
        let recent = self.recent(ALIVE_WINDOWS);
        let is_after = recent.first().is_some_and(|cell| cell.end() > back);
        if is_after && before > 0.0 && self.share(recent, self.victim) >= before * RETURNED {
            // It had its share from the first of these windows on.
            self.returned = recent.first().map(Cell::end);
        }
    }

    fn pieces(&self, columns: usize, end: Duration, of: impl Fn(&[&Cell]) -> f64) -> Vec<Option<f64>> {
        let mut pieces: Vec<Vec<&Cell>> = vec![Vec::new(); columns];
        for cell in &self.cells {
            if let Some(piece) = pieces.get_mut(column_of(cell.start, columns, end)) {
                piece.push(cell);
            }
        }
        let last = self.cells.last().map(|cell| column_of(cell.start, columns, end));
        let mut out: Vec<Option<f64>> = Vec::with_capacity(columns);
        for (index, cells) in pieces.iter().enumerate() {
            let is_past = last.is_some_and(|last| index < last);
            out.push(match (cells.is_empty(), is_past) {
                (false, _) => Some(of(cells)),
                // More columns than windows: the window lasts until the next one.
                (true, true) => out.last().copied().flatten(),
                (true, false) => None,
            });
        }
        out
    }
}

/// Median, 99th and 99.9th percentile.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// In which of `columns` a moment of a run of length `end` lies; `columns` when it lies beyond.
pub(super) fn column_of(at: Duration, columns: usize, end: Duration) -> usize {
    let at = at.as_millis() * columns as u128 / end.as_millis().max(1);
    usize::try_from(at).unwrap_or(columns).min(columns)
}

fn longest(cells: &[Cell]) -> Duration {
    cells.iter().map(|cell| cell.max).max().unwrap_or_default()
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
