//! Which share of real requests would go elsewhere. Pure: a sample and a table in, figures out.

use std::collections::BTreeMap;
use std::fmt;

use gateway::admin::replay::{Choice, Place};
use gateway::admin::tables::Decisions;
use routing::table::Table;
use routing::time::MonoTime;
use wire::h1::limits::HeadLimits;

/// Ways from one place to another that are printed; the rest is counted.
const WAYS_MAX: usize = 20;

/// Requests of the sample by what would become of them, as shares of all that were answered.
#[derive(Debug, Default)]
pub struct Shares {
    window_seconds: f64,
    answered: u64,
    sampled: usize,
    /// By another rule.
    rule: f64,
    /// To another backend, or to something else than a backend.
    backend: f64,
    /// To another cluster.
    cluster: f64,
    /// Any of the last two.
    elsewhere: f64,
    /// Rules ask for something that is not known of them.
    unknown: f64,
    asked: BTreeMap<String, f64>,
    ways: BTreeMap<(String, String), Way>,
}

/// Requests that would go another way.
#[derive(Debug, Default)]
struct Way {
    share: f64,
    example: String,
}

impl Shares {
    /// Of a sample, when `table` would be served.
    #[must_use]
    pub fn of(sample: &Decisions, table: &Table, limits: &HeadLimits, now: MonoTime) -> Self {
        let total: f64 = sample.decisions.iter().map(|decision| decision.weight).sum();
        let mut shares = Self {
            window_seconds: sample.window_seconds,
            answered: sample.answered,
            sampled: sample.decisions.len(),
            ..Self::default()
        };
        for decision in &sample.decisions {
            let part = decision.weight / total;
            let (before, after) = (&decision.would, decision.replay(table, limits, now));
            if !after.unknown.is_empty() || !before.unknown.is_empty() {
                shares.unknown += part;
                for name in after.unknown.iter().chain(&before.unknown) {
                    *shares.asked.entry(name.clone()).or_default() += part;
                }
                continue;
            }
            if before.rule != after.rule {
                shares.rule += part;
            }
            shares.backend += part * before.gains(&after, |place| &place.to).values().sum::<f64>();
            shares.cluster += part * before.gains(&after, |place| &place.cluster).values().sum::<f64>();
            shares.note(before, &after, part, &decision.line());
        }
        shares
    }

    /// Adds what moves of this part to the ways, in proportion to where it would come from and go to.
    fn note(&mut self, before: &Choice, after: &Choice, part: f64, example: &str) {
        let (leaves, comes) = (after.gains(before, whole), before.gains(after, whole));
        let (all_leave, all_come): (f64, f64) = (leaves.values().sum(), comes.values().sum());
        let share = part * all_come;
        self.elsewhere += share;
        for ((from, left), (to, come)) in
            leaves.iter().flat_map(|leaves| comes.iter().map(move |comes| (leaves, comes)))
        {
            let way = self.ways.entry((name(*from), name(*to))).or_default();
            way.share += share * left / all_leave * come / all_come;
            if way.example.is_empty() {
                example.clone_into(&mut way.example);
            }
        }
    }
}

fn whole(place: &Place) -> (&str, &str) {
    (&place.to, &place.cluster)
}

fn name((to, cluster): (&str, &str)) -> String {
    if cluster.is_empty() { to.to_owned() } else { format!("{to} in {cluster}") }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        if self.sampled == 0 {
            return writeln!(
                f,
                "decisions of the last {:.0} s: none was remembered (no traffic, or observe.decisions_max = 0)",
                self.window_seconds
            );
        }
        writeln!(
            f,
            "decisions of the last {:.0} s: {} requests, {} of them at random replayed",
            self.window_seconds, self.answered, self.sampled
        )?;
        writeln!(f, "  {} would go elsewhere", percent(self.elsewhere))?;
        for (share, what) in [
            (self.cluster, "to another cluster"),
            (self.backend, "to another backend"),
            (self.rule, "by another rule"),
        ] {
            writeln!(f, "    {} {what}", percent(share))?;
        }
        if self.unknown > 0.0 {
            let names = self.asked.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            writeln!(
                f,
                "  {} cannot be told: a rule asks for what was not remembered of them ({names})",
                percent(self.unknown)
            )?;
        }
        let mut ways: Vec<_> = self.ways.iter().filter(|(_, way)| way.share > 0.0).collect();
        ways.sort_by(|(_, a), (_, b)| b.share.total_cmp(&a.share));
        for ((from, to), way) in ways.iter().take(WAYS_MAX) {
            writeln!(f, "  > {} {from} → {to}, such as {}", percent(way.share), way.example)?;
        }
        if ways.len() > WAYS_MAX {
            writeln!(f, "  … and {} more ways", ways.len() - WAYS_MAX)?;
        }
        Ok(())
    }
}
