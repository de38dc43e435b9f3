//! A changed table goes to one worker first: is it worse than the others? Then it is taken back.
//!
//! What waits is rules and what belongs to them (`apart`); endpoints, rings, clusters and certificates go to every worker
//! at once, before, during and after a trial. The decision ([`Trial::rule`]) is made of figures and of the time that are
//! passed in; `desk` is the controller's hand.
//!
//! ```text
//! nothing apart --rules change--> trial --watched, not worse--> everywhere
//!                                 |  ^ rules change: the routes that changed are counted anew, the others on
//!                                 +--worse--> refused: base rules everywhere, until their source changes
//! ```

pub(crate) mod apart;
pub(crate) mod desk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use routing::model::StatSlot;
use routing::time::MonoTime;

/// Differences of the 99th percentile below this say nothing: histograms and schedulers are not finer.
const P99_FLOOR: Duration = Duration::from_millis(1);

/// gateway.toml's `[canary]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanaryPolicy {
    /// `canary.watch`
    pub watch: Duration,
    /// `canary.longest`
    pub longest: Duration,
    /// `canary.requests`
    pub requests: u64,
    /// `canary.errors_above`, percentage points.
    pub errors_above: u32,
    /// `canary.p99_above`, percent.
    pub p99_above: u32,
}

/// Requests of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered.
    pub answered: u64,
    /// Of these with a 5xx, or with a 404 because no rule matched.
    pub failed: u64,
}

/// What one worker has counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All requests.
    pub all: Tally,
    /// Those of the routes that were asked for, by their slots.
    pub routes: BTreeMap<u32, Tally>,
    /// Panics of its tasks and of itself.
    pub panics: u64,
    /// Requests by how long they took: upper bound in nanoseconds, count; in the order of the bounds.
    pub latency: Vec<(u64, u64)>,
}

/// Asks every worker, by number, for its figures; `routes` of those with these slots.
pub type Measure = Box<dyn Fn(&[StatSlot]) -> Vec<Figures> + Send>;

/// What a controller needs to try tables.
pub struct Canary {
    /// How they are judged.
    pub policy: CanaryPolicy,
    /// What of.
    pub measure: Measure,
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canary").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// A table on trial.
#[derive(Debug)]
pub struct Trial {
    canary: usize,
    /// When the first of its changes came.
    pub began: MonoTime,
    /// When the last did: the worker's figures count from here, those of a route from when it changed itself.
    pub watched_since: MonoTime,
    before: Vec<Figures>,
    /// Every changed route has a slot of its own: their figures are theirs alone.
    by_route: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// Nothing yet.
    Watch,
    /// It goes to all workers.
    Promote(Proof),
    /// It is taken back; why.
    RollBack(String),
}

/// Why a table goes to all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// `canary.requests` were compared.
    Compared,
    /// There were too few until `canary.longest` had passed.
    Unproven,
}

impl Trial {
    /// Begins, or begins anew at `began` when rules changed meanwhile. `canary` is the worker's number in `before`.
    #[must_use]
    pub fn new(canary: usize, began: MonoTime, now: MonoTime, before: Vec<Figures>, by_route: bool) -> Self {
        Self { canary, began, watched_since: now, before, by_route }
    }

    /// Its rules have changed: the routes with the slots that `changed` are counted anew, as is the worker as a whole.
    /// What else is on trial keeps its figures, and panics theirs, or whatever changes all the time would hide them.
    #[must_use]
    pub fn anew(
        self,
        now: MonoTime,
        mut figures: Vec<Figures>,
        changed: &BTreeSet<u32>,
        by_route: bool,
    ) -> Self {
        for (figures, before) in figures.iter_mut().zip(&self.before) {
            figures.panics = before.panics;
            for (slot, tally) in figures.routes.iter_mut().filter(|(slot, _)| !changed.contains(slot)) {
                *tally = before.routes.get(slot).copied().unwrap_or(*tally);
            }
        }
        Self { watched_since: now, before: figures, by_route, ..self }
    }

    /// Judges by what was counted since it began.
    #[must_use]
    pub fn rule(&self, now: MonoTime, figures: &[Figures], policy: &CanaryPolicy) -> Ruling {
        let Some((own, others)) = self.since(figures) else { return Ruling::Watch };
        if own.panics > 0 {
            return Ruling::RollBack(format!("{} panics of the worker that runs it", own.panics));
        }
        let pairs = [
            ("requests of the changed routes", own.of_routes(), others.of_routes()),
            ("requests", own.all, others.all),
        ];
        // With figures of their own only those count: whoever asks for what no rule matches has no say.
        let (first, rest) = if self.by_route { (0, 1) } else { (1, 2) };
        for (what, own, others) in &pairs[first..rest] {
            if let Some(reason) = worse_errors(what, *own, *others, policy) {
                return Ruling::RollBack(reason);
            }
        }
        let is_over = now.since(self.began) >= policy.longest;
        if !is_over && now.since(self.watched_since) < policy.watch {
            return Ruling::Watch;
        }
        if let Some(reason) = worse_p99(&own, &others, policy) {
            return Ruling::RollBack(reason);
        }
        match (pairs[first].1.answered >= policy.requests, is_over) {
            (true, _) => Ruling::Promote(Proof::Compared),
            (false, true) => Ruling::Promote(Proof::Unproven),
            (false, false) => Ruling::Watch,
        }
    }

    /// What the canary, and all others together, have counted since it began.
    fn since(&self, figures: &[Figures]) -> Option<(Figures, Figures)> {
        let mut others = Figures::default();
        let mut own = None;
        for (number, (now, before)) in figures.iter().zip(&self.before).enumerate() {
            let grown = minus(now, before);
            if number == self.canary { own = Some(grown) } else { add(&mut others, &grown) }
        }
        Some((own?, others))
    }

    /// Its requests so far, as they are judged.
    #[must_use]
    pub fn tally(&self, figures: &[Figures]) -> Tally {
        let own = self.since(figures).map(|(own, _)| own).unwrap_or_default();
        if self.by_route { own.of_routes() } else { own.all }
    }
}

impl Figures {
    fn of_routes(&self) -> Tally {
        let mut sum = Tally::default();
        self.routes.values().for_each(|tally| sum.add(*tally));
        sum
    }
}

impl Tally {
    fn add(&mut self, more: Self) {
        self.answered += more.answered;
        self.failed += more.failed;
    }
}

fn minus(now: &Figures, before: &Figures) -> Figures {
    let tally = |now: Tally, before: Tally| Tally {
        answered: now.answered.saturating_sub(before.answered),
        failed: now.failed.saturating_sub(before.failed),
    };
    let routes = now.routes.iter().filter_map(|(slot, now)| {
        // What was not counted at the beginning says nothing.
        Some((*slot, tally(*now, *before.routes.get(slot)?)))
    });
    let mut latency = now.latency.clone();
    for (bucket, before) in latency.iter_mut().zip(&before.latency) {
        bucket.1 = bucket.1.saturating_sub(before.1);
    }
    Figures {
        all: tally(now.all, before.all),
        routes: routes.collect(),
        panics: now.panics.saturating_sub(before.panics),
        latency,
    }
}

fn add(sum: &mut Figures, more: &Figures) {
    sum.all.add(more.all);
    for (slot, more) in &more.routes {
        sum.routes.entry(*slot).or_default().add(*more);
    }
    sum.panics += more.panics;
    if sum.latency.is_empty() {
        sum.latency.clone_from(&more.latency);
    } else {
        sum.latency.iter_mut().zip(&more.latency).for_each(|(sum, more)| sum.1 += more.1);
    }
}

/// Too many more failures than with the others, whose share counts as 0 while they have none of these requests.
fn worse_errors(what: &str, own: Tally, others: Tally, policy: &CanaryPolicy) -> Option<String> {
    if own.answered < policy.requests {
        return None;
    }
    let (own_share, others_share) = (percent(own), percent(others));
    (own_share > others_share + f64::from(policy.errors_above)).then(|| {
        format!(
            "{own_share:.1} % of {} {what} failed, {others_share:.1} % with the other workers (canary.errors_above is {})",
            own.answered, policy.errors_above
        )
    })
}

fn worse_p99(own: &Figures, others: &Figures, policy: &CanaryPolicy) -> Option<String> {
    let (own, others) = (p99(own, policy)?, p99(others, policy)?);
    let bound = others.mul_f64(1.0 + f64::from(policy.p99_above) / 100.0) + P99_FLOOR;
    (own > bound).then(|| {
        format!(
            "p99 is {own:?}, {others:?} with the other workers (canary.p99_above is {})",
            policy.p99_above
        )
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share for people and for a bound in whole percent")]
fn percent(tally: Tally) -> f64 {
    tally.failed as f64 * 100.0 / tally.answered.max(1) as f64
}

/// The bound below which 99 of 100 requests lie; `None` while there are too few.
fn p99(figures: &Figures, policy: &CanaryPolicy) -> Option<Duration> {
    let count: u64 = figures.latency.iter().map(|(_, count)| count).sum();
    if count < policy.requests.max(1) {
        return None;
    }
    let rank = count - count / 100;
    let mut seen = 0;
    figures.latency.iter().find_map(|(bound, count)| {
        seen += count;
        (seen >= rank).then(|| Duration::from_nanos(*bound))
    })
}

#[cfg(test)]
mod tests;
