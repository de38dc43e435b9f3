//! What was measured, as a table and as JSON, and whether it may be believed.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::case::Case;
use super::machine::Facts;
use super::process::Memory;
use super::proxy::Proxy;
use super::ratios;

/// A run is void when others take more of the proxy's core than this: their caches and wake-ups become its cost.
const FOREIGN_MAX: f64 = 0.10;

/// A run is void when one round costs more than so many times the median: something stood still.
const UNSTEADY: f64 = 2.0;

/// What a run of the load generator saw.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offered {
    /// Responses received.
    pub(crate) requests: u64,
    /// Responses that were not 2xx or 3xx, and socket errors of any kind.
    pub(crate) errors: u64,
    /// Responses per second.
    pub(crate) rate: f64,
    /// Median latency.
    pub(crate) p50: Duration,
    /// 99th percentile of latency.
    pub(crate) p99: Duration,
    /// 99.9th and 99.99th, where the generator knows them.
    pub(crate) tail: Option<(Duration, Duration)>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// CPU time of the proxy per completed request, microseconds.
    pub(crate) cpu_us: f64,
    /// Completed requests per second.
    pub(crate) rate: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: f64,
    /// 99.9th percentile, microseconds; of an open loop only.
    pub(crate) p999_us: Option<f64>,
    /// 99.99th percentile, microseconds; of an open loop only.
    pub(crate) p9999_us: Option<f64>,
    /// Share of the proxy's core that others took meanwhile.
    pub(crate) foreign: f64,
}

/// Lowest, middle and highest of a figure's samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Lowest.
    pub(crate) min: f64,
    /// Middle; of an even number, the mean of the two in the middle.
    pub(crate) median: f64,
    /// Highest.
    pub(crate) max: f64,
}

/// One proxy's figures in one case under load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    proxy: Proxy,
    cpu_us: Spread,
    rate: Spread,
    p50_us: Spread,
    p99_us: Spread,
    p999_us: Option<Spread>,
    p9999_us: Option<Spread>,
    foreign: Spread,
    syscalls_per_request: Option<f64>,
    samples: Vec<Sample>,
}

/// One proxy's memory with idle connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleRow {
    case: &'static str,
    proxy: Proxy,
    connections: u32,
    before: Memory,
    after: Memory,
}

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    machine: Facts,
    rounds: u32,
    seconds: u32,
    load: Vec<LoadCase>,
    idle: Vec<IdleRow>,
    void: Vec<String>,
    /// What was measured otherwise than asked for, or not at all, and why.
    notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct LoadCase {
    case: &'static str,
    about: &'static str,
    rows: Vec<Row>,
    #[serde(skip)]
    spec: Option<Case>,
}

impl Sample {
    /// From the CPU time of a run, the share of the core that others had, and what the load generator saw.
    pub(crate) fn new(cpu: Duration, foreign: f64, result: &Offered) -> Self {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        #[expect(clippy::cast_precision_loss, reason = "requests of a few seconds are far below 2^52")]
        let requests = result.requests.max(1) as f64;
        Self {
            cpu_us: micros(cpu) / requests,
            rate: result.rate,
            p50_us: micros(result.p50),
            p99_us: micros(result.p99),
            p999_us: result.tail.map(|(p999, _)| micros(p999)),
            p9999_us: result.tail.map(|(_, p9999)| micros(p9999)),
            foreign,
        }
    }
}

impl Spread {
    fn of(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Self {
        let mut values: Vec<f64> = samples.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
        Self { min: at(0), median: f64::midpoint(at(low), at(high)), max: at(values.len().saturating_sub(1)) }
    }
}

impl Spread {
    /// In whole numbers.
    fn whole(self) -> String {
        format!("{:.0}–{:.0}–{:.0}", self.min, self.median, self.max)
    }

    /// Of a figure that the generator may not know.
    fn of_some(samples: &[Sample], figure: impl Fn(&Sample) -> Option<f64>) -> Option<Self> {
        let is_known = !samples.is_empty() && samples.iter().all(|sample| figure(sample).is_some());
        is_known.then(|| Self::of(samples, |sample| figure(sample).unwrap_or(f64::NAN)))
    }
}

impl Row {
    /// Whose.
    pub(super) fn proxy(&self) -> Proxy {
        self.proxy
    }

    /// CPU time per request, microseconds.
    pub(super) fn cpu_us(&self) -> Spread {
        self.cpu_us
    }

    /// Latency at p50, p99, p99.9 and p99.99, microseconds; of an open loop only.
    pub(super) fn percentiles(&self) -> Option<[Spread; 4]> {
        Some([self.p50_us, self.p99_us, self.p999_us?, self.p9999_us?])
    }

    /// Of one proxy's samples.
    pub(crate) fn new(proxy: Proxy, samples: &[Sample], syscalls_per_request: Option<f64>) -> Self {
        Self {
            proxy,
            cpu_us: Spread::of(samples, |sample| sample.cpu_us),
            rate: Spread::of(samples, |sample| sample.rate),
            p50_us: Spread::of(samples, |sample| sample.p50_us),
            p99_us: Spread::of(samples, |sample| sample.p99_us),
            p999_us: Spread::of_some(samples, |sample| sample.p999_us),
            p9999_us: Spread::of_some(samples, |sample| sample.p9999_us),
            foreign: Spread::of(samples, |sample| sample.foreign),
            syscalls_per_request,
            samples: samples.to_vec(),
        }
    }
}

impl IdleRow {
    /// Of one proxy before and after its connections were opened.
    pub(crate) fn new(case: Case, proxy: Proxy, connections: u32, before: Memory, after: Memory) -> Self {
        Self { case: case.name, proxy, connections, before, after }
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^52")]
    fn bytes_each(&self) -> f64 {
        (self.after.pss as f64 - self.before.pss as f64) / f64::from(self.connections)
    }
}

impl Report {
    /// An empty one.
    pub(crate) fn new(machine: Facts, rounds: u32, seconds: u32) -> Self {
        Self {
            machine,
            rounds,
            seconds,
            load: Vec::new(),
            idle: Vec::new(),
            void: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Why the run must not be believed; empty when it may.
    pub(crate) fn void_reasons(&self) -> &[String] {
        &self.void
    }

    /// Takes what a reader must know of a case that was not measured as asked for; returns it as a line.
    pub(crate) fn add_note(&mut self, case: Case, note: &str) -> String {
        let line = format!("{}: {note}", case.name);
        self.notes.push(line.clone());
        line
    }

    /// Takes one case's rows and returns them as a table.
    pub(crate) fn add_load(&mut self, case: Case, rows: Vec<Row>) -> String {
        self.void.extend(void(case, &rows));
        let table = load_table(case, &rows);
        self.load.push(LoadCase { case: case.name, about: case.about, rows, spec: Some(case) });
        table
    }

    /// Takes the rows of idle connections and returns them as a table.
    pub(crate) fn add_idle(&mut self, case: Case, rows: Vec<IdleRow>) -> String {
        let table = idle_table(case, &rows);
        self.idle.extend(rows);
        table
    }
}

impl Report {
    /// Every case under load with its rows.
    pub(super) fn load(&self) -> impl Iterator<Item = (Case, &[Row])> {
        self.load.iter().filter_map(|load| Some((load.spec?, load.rows.as_slice())))
    }

    /// The machine and its noise, in a line.
    pub(super) fn conditions(&self) -> String {
        let rows = self.load.iter().flat_map(|load| &load.rows);
        let worst = rows.map(|row| row.foreign.max).fold(0.0, f64::max);
        let void = if self.void.is_empty() { "" } else { "; VOID, see bench.json" };
        format!(
            "{}, Linux {}; {} of {} s, others took at most {:.0} % of the core{void}",
            self.machine.cpu,
            self.machine.kernel,
            if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) },
            self.seconds,
            worst * 100.0
        )
    }

    /// All of it.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report is numbers and strings")
    }

    /// One line for each case and proxy.
    pub(crate) fn csv(&self) -> String {
        let mut csv = "case,proxy,cpu_us_min,cpu_us,cpu_us_max,to_floor,to_best_peer,requests_per_s,p50_us,p99_us,p999_us,p9999_us,syscalls,others,idle_bytes\n".to_owned();
        for LoadCase { case, rows, .. } in &self.load {
            let (floor, best) = (floor_of(rows), best_peer(rows));
            for row in rows {
                let cpu = row.cpu_us;
                let ratio = |to: Option<f64>| some(to.map(|to| cpu.median / to), 3);
                let tail = |spread: Option<Spread>| some(spread.map(|spread| spread.median), 0);
                writeln!(
                    csv,
                    "{case},{},{:.3},{:.3},{:.3},{},{},{:.0},{:.0},{:.0},{},{},{},{:.3},",
                    row.proxy.name(),
                    cpu.min,
                    cpu.median,
                    cpu.max,
                    ratio(floor),
                    ratio(best),
                    row.rate.median,
                    row.p50_us.median,
                    row.p99_us.median,
                    tail(row.p999_us),
                    tail(row.p9999_us),
                    some(row.syscalls_per_request, 2),
                    row.foreign.median
                )
                .expect("writing to a string");
            }
        }
        for row in &self.idle {
            writeln!(csv, "{},{},,,,,,,,,,,,,{:.0}", row.case, row.proxy.name(), row.bytes_each())
                .expect("writing to a string");
        }
        csv
    }
}

/// A figure that may not be known.
fn some(value: Option<f64>, digits: usize) -> String {
    value.map_or(String::new(), |value| format!("{value:.digits$}"))
}

fn best_peer(rows: &[Row]) -> Option<f64> {
    rows.iter().filter(|row| row.proxy.is_peer()).map(|row| row.cpu_us.median).min_by(f64::total_cmp)
}

fn floor_of(rows: &[Row]) -> Option<f64> {
    rows.iter().find(|row| row.proxy == Proxy::Floor).map(|row| row.cpu_us.median)
}

fn void(case: Case, rows: &[Row]) -> Vec<String> {
    let mut reasons: Vec<String> = rows.iter().filter_map(|row| noisy(case, row)).collect();
    reasons.extend(rows.iter().filter_map(|row| unsteady(case, row)));
    reasons.extend(ratios::verdicts(case, rows).iter().filter_map(ratios::Verdict::reason));
    reasons
}

fn noisy(case: Case, row: &Row) -> Option<String> {
    let share = row.foreign.median;
    (share > FOREIGN_MAX).then(|| {
        let (case, proxy) = (case.name, row.proxy.name());
        let (share, max) = (share * 100.0, FOREIGN_MAX * 100.0);
        format!("{case}: others took {share:.0} % of the proxy's core while {proxy} was measured, at most {max:.0} %")
    })
}

fn unsteady(case: Case, row: &Row) -> Option<String> {
    let Spread { median, max, .. } = row.cpu_us;
    // Written so that a figure which is not a number is unsteady, too.
    let is_steady = max <= median * UNSTEADY;
    (!is_steady).then(|| {
        let (case, proxy) = (case.name, row.proxy.name());
        format!(
            "{case}: a round of {proxy} cost {max:.1} µs, more than {UNSTEADY} × the median of {median:.1}"
        )
    })
}

fn load_table(case: Case, rows: &[Row]) -> String {
    let best_peer = best_peer(rows);
    let ratio =
        |row: &Row, to: Option<f64>| to.map_or("-".to_owned(), |to| format!("{:.2}", row.cpu_us.median / to));
    let floor = floor_of(rows);
    let mut table = format!(
        "\n{}, min–median–max\n{:<16} {:>24} {:>7} {:>7} {:>22} {:>20} {:>22} {:>8} {:>8}\n",
        case.about,
        case.name,
        "CPU µs/request",
        "÷floor",
        "÷peer",
        "requests/s",
        "p50 µs",
        "p99 µs",
        "syscalls",
        "others"
    );
    for row in rows {
        let Spread { min, median, max } = row.cpu_us;
        let syscalls = row.syscalls_per_request.map_or("-".to_owned(), |count| format!("{count:.2}"));
        writeln!(
            table,
            "{:<16} {:>24} {:>7} {:>7} {:>22} {:>20} {:>22} {:>8} {:>6.1} %",
            row.proxy.name(),
            format!("{min:.2}–{median:.2}–{max:.2}"),
            ratio(row, floor),
            ratio(row, best_peer),
            row.rate.whole(),
            row.p50_us.whole(),
            row.p99_us.whole(),
            syscalls,
            row.foreign.median * 100.0
        )
        .expect("writing to a string");
        if let Some([_, _, p999, p9999]) = row.percentiles() {
            writeln!(table, "{:<16} p99.9 {} µs, p99.99 {} µs", "", p999.whole(), p9999.whole())
                .expect("writing to a string");
        }
    }
    for verdict in ratios::verdicts(case, rows) {
        writeln!(table, "  {}", verdict.line()).expect("writing to a string");
    }
    table
}

fn idle_table(case: Case, rows: &[IdleRow]) -> String {
    let mut table = format!(
        "\n{:<16} {:>12} {:>14} {:>14} {:>12} {:>14}\n",
        case.name, "connections", "base PSS KiB", "with PSS KiB", "bytes each", "with RSS KiB"
    );
    for row in rows {
        writeln!(
            table,
            "{:<16} {:>12} {:>14} {:>14} {:>12.0} {:>14}",
            row.proxy.name(),
            row.connections,
            row.before.pss >> 10,
            row.after.pss >> 10,
            row.bytes_each(),
            row.after.rss >> 10
        )
        .expect("writing to a string");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> Case {
        super::super::case::Spec::named(name)[0]
    }

    fn row(proxy: Proxy, cpu_us: &[f64]) -> Row {
        busy_row(proxy, cpu_us, 0.0)
    }

    fn busy_row(proxy: Proxy, cpu_us: &[f64], foreign: f64) -> Row {
        let sample = |cpu_us: &f64| Sample {
            cpu_us: *cpu_us,
            rate: 1.0,
            p50_us: 1.0,
            p99_us: 1.0,
            p999_us: None,
            p9999_us: None,
            foreign,
        };
        Row::new(proxy, &cpu_us.iter().map(sample).collect::<Vec<_>>(), None)
    }

    #[test]
    fn a_run_is_void_when_a_round_stood_still() {
        assert_eq!(void(case("body-1m"), &[row(Proxy::Ringway, &[10.0, 11.0, 19.0])]), Vec::<String>::new());
        assert_eq!(void(case("body-1m"), &[row(Proxy::Ringway, &[10.0, 11.0, 33_460.0])]).len(), 1);
        assert_eq!(void(case("body-1m"), &[row(Proxy::Ringway, &[])]).len(), 1, "nothing was measured");
    }

    #[test]
    fn a_run_is_void_when_others_use_the_core() {
        assert_eq!(void(case("body-1m"), &[busy_row(Proxy::Ringway, &[1.0], 0.09)]), Vec::<String>::new());
        let found = void(case("body-1m"), &[busy_row(Proxy::Ringway, &[1.0], 0.30)]);
        assert!(found.len() == 1 && found[0].contains("30 %"), "{found:?}");
    }

    #[test]
    fn the_median_is_the_middle_and_one_wild_round_does_not_move_it() {
        assert_eq!(row(Proxy::Floor, &[3.0, 90.0, 1.0]).cpu_us, Spread { min: 1.0, median: 3.0, max: 90.0 });
        assert_eq!(row(Proxy::Floor, &[4.0, 2.0]).cpu_us, Spread { min: 2.0, median: 3.0, max: 4.0 });
    }

    #[test]
    fn a_run_is_void_when_a_peer_is_off_its_known_ratio_to_the_floor() {
        let floor = row(Proxy::Floor, &[10.0]);
        let good = [floor.clone(), row(Proxy::Haproxy, &[13.1]), row(Proxy::Nginx, &[13.0])];
        assert_eq!(void(case("h1-64"), &good), Vec::<String>::new());
        for cpu in [10.5, 15.5] {
            let found = void(case("h1-64"), &[floor.clone(), row(Proxy::Haproxy, &[cpu])]);
            assert_eq!(found.len(), 1);
            assert!(found[0].contains("haproxy") && found[0].contains("1.29 to 1.32"), "{}", found[0]);
        }
        // Without the yardstick, or for a case nothing is known of, there is nothing to hold it against.
        assert!(void(case("h1-64"), &[row(Proxy::Haproxy, &[1.0])]).is_empty());
        assert!(void(case("body-1m"), &[floor, row(Proxy::Haproxy, &[1.0])]).is_empty());
        // Where the floor takes no part, HAProxy is the yardstick.
        let tls = |cpu| [row(Proxy::Haproxy, &[37.0]), row(Proxy::Nginx, &[cpu])];
        assert!(void(case("tls-h1-64"), &tls(30.0)).is_empty());
        let found = void(case("tls-h1-64"), &tls(60.0));
        assert!(found.len() == 1 && found[0].contains("nginx costs 1.62 × haproxy"), "{found:?}");
    }

    #[test]
    fn ratios_in_the_table_are_to_the_floor_and_to_the_cheapest_peer() {
        let rows = [
            row(Proxy::Floor, &[10.0]),
            row(Proxy::Ringway, &[12.0]),
            row(Proxy::Nginx, &[14.0]),
            row(Proxy::Haproxy, &[13.0]),
        ];
        let table = load_table(case("h1-64"), &rows);
        assert!(table.contains("nginx 1.40 × floor, known 1.26 to 1.35: as known"), "{table}");
        let ringway = table.lines().find(|line| line.starts_with("ringway")).unwrap();
        assert!(ringway.contains(" 1.20 ") && ringway.contains(" 0.92 "), "{ringway}");
    }

    #[test]
    fn csv_has_a_value_or_nothing_for_every_column() {
        let facts =
            super::super::machine::Facts::collect(&super::super::process::Cores { proxy: 0, load: 1 }, None);
        let mut report = Report::new(facts, 1, 1);
        report.add_load(case("h1-64"), vec![row(Proxy::Floor, &[10.0]), row(Proxy::Nginx, &[17.0])]);
        let memory = |pss| Memory { rss: 0, pss };
        let idle = |name| IdleRow::new(case(name), Proxy::Nginx, 10, memory(1_000), memory(21_000));
        report.add_idle(case("tls-idle"), vec![idle("tls-idle")]);
        report.add_idle(case("h2-idle"), vec![idle("h2-idle")]);
        let (csv, commas) = (report.csv(), |line: &str| line.matches(',').count());
        let mut lines = csv.lines();
        let columns = commas(lines.next().unwrap());
        assert!(lines.clone().count() == 4 && lines.all(|line| commas(line) == columns), "{csv}");
        assert!(
            csv.contains("\ntls-idle,nginx,")
                && csv.lines().any(|line| line.starts_with("h2-idle,") && line.ends_with(",2000"))
        );
        assert!(csv.contains("h1-64,nginx,17.000,17.000,17.000,1.700,1.000,"), "{csv}");
    }
}
