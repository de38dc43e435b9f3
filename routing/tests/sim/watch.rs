//! What must hold at every step, and counts of what happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use routing::health::action::{Origin, ProbeToken, Transition};
use routing::health::board::Board;
use routing::health::state::{Reason, State};
use routing::id::BackendId;
use routing::model::{Target, WriteFence};
use routing::retry::{Charge, Failure, GiveUp, Sent};
use routing::table::{BackendView, EndpointView, NoEndpoint, OverloadBound, Pick, Table};

use crate::exchange::End;
use crate::world::{Kind, MS, Plan, Time, US, Where};

/// What is shorter is no silence, whatever else is known: 4 ms by FAILOVER's table, less the clock's reads.
const SILENCE_MIN: Duration = Duration::from_micros(3_500);

/// What a request adds to its backend's budget, in retries: 20 %, less what a second of memory costs in ten.
const DEPOSIT: f64 = 0.2 * 10.0 / 11.0;

/// An invariant does not hold.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

/// Why a second attempt was started beside a first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// Of a trial.
    Tie,
    /// Paid by the budget.
    Hedge,
    /// Away from what answers nothing.
    Leave,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) requests: u64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) no_endpoint: BTreeMap<&'static str, u64>,
    pub(crate) gave_up: BTreeMap<&'static str, u64>,
    pub(crate) hedges: u64,
    pub(crate) hedges_refused: u64,
    pub(crate) ties: u64,
    pub(crate) leaves: u64,
    pub(crate) retries: u64,
    pub(crate) moves: u64,
    pub(crate) trials: u64,
    pub(crate) suspicions: u64,
    pub(crate) cleared: u64,
    pub(crate) verdicts: BTreeMap<String, u64>,
    pub(crate) stalls: u64,
    pub(crate) longest_return_ms: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        let counts = [
            (&mut self.requests, other.requests),
            (&mut self.answered, other.answered),
            (&mut self.failed, other.failed),
            (&mut self.hedges, other.hedges),
            (&mut self.hedges_refused, other.hedges_refused),
            (&mut self.ties, other.ties),
            (&mut self.leaves, other.leaves),
            (&mut self.retries, other.retries),
            (&mut self.moves, other.moves),
            (&mut self.trials, other.trials),
            (&mut self.suspicions, other.suspicions),
            (&mut self.cleared, other.cleared),
            (&mut self.stalls, other.stalls),
        ];
        counts.into_iter().for_each(|(sum, count)| *sum += count);
        self.longest_return_ms = self.longest_return_ms.max(other.longest_return_ms);
        for (name, count) in &other.no_endpoint {
            *self.no_endpoint.entry(name).or_default() += count;
        }
        for (name, count) in &other.gave_up {
            *self.gave_up.entry(name).or_default() += count;
        }
        for (name, count) in &other.verdicts {
            *self.verdicts.entry(name.clone()).or_default() += count;
        }
    }
}

/// What one backend's budget in one worker may have granted: never less than the real one, by another road. A request
/// deposits ten elevenths of a fifth; the reserve is counted beside it, although it is only a floor.
#[derive(Clone, Debug, Default)]
struct Ledger {
    now: Mark,
    marks: VecDeque<Mark>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at: Time,
    /// Deposits, fading by e in a second.
    share: f64,
    deposits: f64,
    spent: f64,
    hedges: f64,
}

impl Ledger {
    fn advance(&mut self, now: Time) {
        if self.marks.back().is_none_or(|mark| now - mark.at >= 50 * MS) {
            self.marks.push_back(self.now);
        }
        if self.marks.len() > 64 {
            self.marks.pop_front();
        }
        self.now.share *= (-((now - self.now.at) as f64) / 1e9).exp();
        self.now.at = now;
    }

    fn check(&self, workers: u16) -> Result<(), Failed> {
        let rate = 10.0 / f64::from(workers);
        let reserve = rate.max(2.0);
        for mark in &self.marks {
            let seconds = (self.now.at - mark.at + 2 * MS) as f64 / 1e9;
            let deposits = mark.share * 1.01 + self.now.deposits - mark.deposits;
            let (spent, hedges) = (self.now.spent - mark.spent, self.now.hedges - mark.hedges);
            let allowed = deposits + reserve + rate * seconds + 0.5;
            let allowed_hedges = deposits / 2.0 + (reserve / 2.0).max(1.0) + rate / 2.0 * seconds + 0.5;
            if spent > allowed || hedges > allowed_hedges {
                return Err(Failed(format!(
                    "budget exceeded: in {seconds:.3} s {spent} of {allowed:.1}, hedges {hedges} of {allowed_hedges:.1}"
                )));
            }
        }
        Ok(())
    }
}

/// A probe that was not answered.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    worker: usize,
    endpoint: u32,
    app: bool,
    sent: Time,
    at: Time,
    timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) summary: Summary,
    /// When each worker last heard each endpoint.
    heard: Vec<Vec<Time>>,
    stalls: Vec<Vec<(Time, Time)>>,
    unanswered: Vec<Unanswered>,
    results: Vec<BTreeSet<ProbeToken>>,
    /// When the silence began that made it a suspect.
    suspects: Vec<(Where, Time)>,
    /// What went down, and when: it takes what waits there out of the silence of what is above it.
    downs: Vec<(Where, Time)>,
    ledgers: BTreeMap<(usize, u32), Ledger>,
    refused_hedges: u64,
}

impl Watch {
    pub(crate) fn new(plan: &Plan) -> Self {
        let workers = usize::from(plan.workers);
        Self {
            summary: Summary::default(),
            heard: vec![vec![0; plan.sites.len()]; workers],
            stalls: vec![Vec::new(); workers],
            unanswered: Vec::new(),
            results: vec![BTreeSet::new(); workers],
            suspects: Vec::new(),
            downs: Vec::new(),
            ledgers: BTreeMap::new(),
            refused_hedges: 0,
        }
    }

    // ------------------------------------------------------------ what the driver reports

    pub(crate) fn byte(&mut self, worker: usize, endpoint: u32, now: Time) {
        self.heard[worker][endpoint as usize] = now;
    }

    pub(crate) fn stalled(&mut self, worker: usize, from: Time, to: Time) {
        self.stalls[worker].push((from, to));
        self.summary.stalls += 1;
    }

    pub(crate) fn first_result(&mut self, worker: usize, token: ProbeToken) -> bool {
        self.results[worker].insert(token)
    }

    pub(crate) fn unanswered(
        &mut self,
        worker: usize,
        endpoint: u32,
        app: bool,
        (sent, at): (Time, Time),
        timeout: Duration,
    ) {
        self.unanswered.push(Unanswered { worker, endpoint, app, sent, at, timeout });
    }

    pub(crate) fn requested(&mut self, worker: usize, backend: u32, now: Time) {
        let ledger = self.ledgers.entry((worker, backend)).or_default();
        ledger.advance(now);
        ledger.now.share += DEPOSIT;
        ledger.now.deposits += DEPOSIT;
    }

    pub(crate) fn started(&mut self, why: Extra) {
        match why {
            Extra::Tie => self.summary.ties += 1,
            Extra::Hedge => self.summary.hedges += 1,
            Extra::Leave => self.summary.leaves += 1,
        }
    }

    pub(crate) fn gave_up(&mut self, reason: GiveUp) {
        *self.summary.gave_up.entry(reason.name()).or_default() += 1;
    }

    pub(crate) fn ended(&mut self, end: End) {
        match end {
            End::Answered(_) => self.summary.answered += 1,
            End::Failed => self.summary.failed += 1,
            End::NoEndpoint => {}
        }
    }

    // ------------------------------------------------------------ budget

    /// The budget has granted this.
    pub(crate) fn spent(&mut self, worker: usize, backend: u32, why: Extra, now: Time) -> Result<(), Failed> {
        let workers = u16::try_from(self.heard.len()).unwrap();
        let ledger = self.ledgers.entry((worker, backend)).or_default();
        ledger.advance(now);
        ledger.now.spent += 1.0;
        ledger.now.hedges += if why == Extra::Hedge { 1.0 } else { 0.0 };
        ledger.check(workers)
    }

    /// A failed attempt is followed by another.
    pub(crate) fn again(
        &mut self,
        worker: usize,
        backend: u32,
        charge: Charge,
        failure: &Failure,
        now: Time,
    ) -> Result<(), Failed> {
        match charge {
            Charge::Budget => {
                self.summary.retries += 1;
                self.spent(worker, backend, Extra::Leave, now)
            }
            Charge::Free if failure.sent == Sent::Nothing => {
                self.summary.moves += 1;
                Ok(())
            }
            Charge::Free => Err(Failed(format!("free of charge: {failure:?}"))),
        }
    }

    // ------------------------------------------------------------ picks

    /// No pick into what is suspected while another permitted cluster is well.
    pub(crate) fn picked(
        &mut self,
        plan: &Plan,
        board: &Board,
        table: &Table,
        pick: &Pick,
        (tried, post): (usize, bool),
    ) -> Result<(), Failed> {
        self.summary.trials += u64::from(pick.trial);
        let state = board.cluster(pick.cluster).0;
        let in_doubt = match state {
            State::Suspect | State::Down(_) | State::Probation => !pick.trial,
            State::Healthy | State::Ramp => false,
        };
        if !in_doubt {
            return Ok(());
        }
        let view = Choice::new(plan, table, pick.backend, post);
        if tried == 0 && view.is_panic() {
            return Ok(());
        }
        let better = plan.policy.clusters.iter().find(|share| {
            let id = share.cluster;
            let capped = plan.capacity > 0 && id.0 > 0;
            id != pick.cluster && board.cluster(id).0 == State::Healthy && !capped && view.is_well(id.0)
        });
        match better {
            Some(better) => Err(Failed(format!(
                "pick into c{} ({state}) while c{} is well (tried {tried})",
                pick.cluster.0, better.cluster.0
            ))),
            None => Ok(()),
        }
    }

    /// Never 503 while a permitted endpoint is usable.
    pub(crate) fn none(
        &mut self,
        plan: &Plan,
        table: &Table,
        (target, none, post): (&Target, NoEndpoint, bool),
        is_hedge: bool,
    ) -> Result<(), Failed> {
        if is_hedge {
            self.refused_hedges += 1;
        } else {
            *self.summary.no_endpoint.entry(none.name()).or_default() += 1;
        }
        let backend = match target {
            Target::Forward(refs) => refs[0].backend.unwrap(),
            Target::Redirect(_) | Target::Reply { .. } | Target::Fixed(_) => return Ok(()),
        };
        let view = Choice::new(plan, table, backend, post);
        let free =
            |cluster: u16| plan.capacity == 0 || cluster == 0 || view.in_flight(cluster) < plan.capacity;
        let usable = (0..plan.clusters).find(|cluster| free(*cluster) && view.is_well(*cluster));
        let is_allowed = match none {
            NoEndpoint::Overloaded { bound: OverloadBound::ClusterCapacity } => plan.capacity > 0,
            NoEndpoint::Fenced { cluster } => {
                post && !plan.promoted
                    && cluster.0 > 0
                    && plan.policy.write_fence == WriteFence::UntilPromoted
            }
            NoEndpoint::NoBackend
            | NoEndpoint::NoUsableEndpoint
            | NoEndpoint::PinnedClusterUnavailable { .. }
            | NoEndpoint::Overloaded {
                bound: OverloadBound::EndpointInFlight | OverloadBound::BackendInFlight,
            } => false,
        };
        match usable {
            None if is_allowed => Ok(()),
            _ => Err(Failed(format!("{} although c{usable:?} is usable", none.name()))),
        }
    }

    // ------------------------------------------------------------ verdicts

    pub(crate) fn changed(
        &mut self,
        plan: &Plan,
        worker: usize,
        at: Option<Where>,
        change: &Transition,
        now: Time,
    ) -> Result<(), Failed> {
        let Some(at) = at else { return Ok(()) };
        if change.origin == Origin::Peer {
            return Ok(());
        }
        match (change.from, change.to) {
            (State::Healthy, State::Suspect) => {
                self.summary.suspicions += 1;
                self.suspects.retain(|(other, _)| *other != at);
                self.suspects.push((at, now.saturating_sub(change.evidence.silence.as_nanos() as Time)));
            }
            (State::Suspect, State::Healthy) => {
                self.summary.cleared += 1;
                let since =
                    self.suspects.iter().find(|(other, _)| *other == at).map_or(0, |(_, since)| *since);
                // A worker's clock is behind by up to 0.3 ms.
                let is_explained =
                    self.downs.iter().any(|(inner, when)| *when >= since && at.contains(plan, *inner));
                if !is_explained && self.latest(plan, at, 0..self.heard.len()) + MS / 2 < since {
                    return Err(Failed(format!("{at:?} cleared without a byte from it")));
                }
            }
            (_, State::Down(reason)) => {
                let count = self.summary.verdicts.entry(format!("{reason} {}", scope_name(at))).or_default();
                *count += 1;
                self.downs.push((at, now));
                return self.down(plan, (worker, at), reason, change.evidence.silence, now);
            }
            _ => {}
        }
        Ok(())
    }

    fn latest(&self, plan: &Plan, at: Where, workers: std::ops::Range<usize>) -> Time {
        let inside = plan.sites.iter().filter(|site| at.holds(**site));
        inside
            .flat_map(|site| workers.clone().map(move |worker| (worker, site.id)))
            .map(|(worker, id)| self.heard[worker][id as usize])
            .max()
            .unwrap_or(0)
    }

    fn down(
        &self,
        plan: &Plan,
        (worker, at): (usize, Where),
        reason: Reason,
        silence: Duration,
        now: Time,
    ) -> Result<(), Failed> {
        let recently = now.saturating_sub(300 * MS);
        let is_real = |is: fn(Kind) -> bool| plan.any_fault(at, recently, now, is);
        if !plan.any_fault(at, now.saturating_sub(2_000 * MS), now, |_| true) {
            return Err(Failed(format!("{at:?} is down ({reason}), and nothing was ever wrong there")));
        }
        let app = match reason {
            Reason::Errors | Reason::Slow | Reason::Check => return Ok(()),
            Reason::Refused if is_real(|kind| kind == Kind::Refuse) => return Ok(()),
            Reason::Refused => return Err(Failed(format!("{at:?} is down (refused) and is not"))),
            Reason::Silent => false,
            Reason::Hang => true,
        };
        // Few requests that all take long, and probes that are dropped: no gateway can tell.
        let looks_so = silence >= SILENCE_MIN && is_real(|kind| kind == Kind::DeafToProbes);
        if !looks_so && !is_real(|kind| matches!(kind, Kind::Silent | Kind::Hang)) {
            return Err(Failed(format!("{at:?} is down ({reason}) after {silence:?} and is not")));
        }
        // The latest probe that failed, and that we were awake for.
        let inside = |one: &&Unanswered| {
            let site = plan.sites[one.endpoint as usize];
            one.worker == worker && one.app == app && at.holds(site) && one.at + 1_000 * MS > now
        };
        let awake = |one: &&Unanswered| {
            let spans = self.stalls[worker].iter();
            let asleep: Time =
                spans.map(|(from, to)| (*to).min(one.at).saturating_sub((*from).max(one.sent))).sum();
            (one.at - one.sent).saturating_sub(asleep) + 2 * MS >= one.timeout.as_nanos() as Time
        };
        let probes = self.unanswered.iter().rev();
        let Some(probe) = probes.filter(inside).find(awake) else {
            return Err(Failed(format!("{at:?} is down ({reason}) without a failed probe")));
        };
        // Not a byte since it was sent, as far as this worker can know.
        let own = self.latest(plan, at, worker..worker + 1);
        let is_cluster = matches!(at, Where::Cluster(_));
        let peers = (0..self.heard.len()).filter(|peer| is_cluster && *peer != worker);
        let told = peers.map(|peer| (peer, self.latest(plan, at, peer..peer + 1))).filter(|(peer, heard)| {
            let soon = heard + 1_500 * US;
            let stood_still = self.stalls[*peer].iter().any(|(from, to)| *from < soon && *heard < *to);
            soon < now && !stood_still
        });
        let heard = told.map(|(_, heard)| heard).chain([own]).max().unwrap_or(0);
        if heard > probe.sent {
            let ago = (now - heard) as f64 / MS as f64;
            return Err(Failed(format!("{at:?} is down ({reason}) though heard {ago:.2} ms ago")));
        }
        Ok(())
    }

    // ------------------------------------------------------------ the end

    /// What is not well, in words.
    pub(crate) fn ill(plan: &Plan, table: &Table) -> Option<String> {
        let worker = table.settings().worker;
        for cluster in table.clusters() {
            if cluster.verdict.state != State::Healthy {
                return Some(format!("w{worker}: cluster {} {}", cluster.name, cluster.verdict.state));
            }
        }
        for backend in table.backends() {
            let ill = backend.verdicts.iter().find(|verdict| verdict.state != State::Healthy);
            if let Some(ill) = ill {
                return Some(format!("w{worker}: backend {} {}", backend.name, ill.state));
            }
        }
        (0..plan.backends).flat_map(|backend| table.endpoints(BackendId(backend))).find_map(|view| {
            let is_well = view.verdict.state == State::Healthy && !view.health.is_ejected();
            (!is_well).then(|| format!("w{worker}: e{} {} {}", view.id.0, view.verdict.state, view.health))
        })
    }

    pub(crate) fn settled(&self, plan: &Plan, table: &Table) -> Result<(), Failed> {
        let worker = table.settings().worker;
        if (table.actions_lost(), table.detector_overflows(), table.verdicts_local()) != (0, 0, 0) {
            return Err(Failed(format!("w{worker} lost actions, or had no room")));
        }
        for view in (0..plan.backends).flat_map(|backend| table.endpoints(BackendId(backend))) {
            if view.in_flight != 0 || view.verdict.evidence.outstanding != 0 {
                return Err(Failed(format!("w{worker}: something is left in flight at e{}", view.id.0)));
            }
        }
        Ok(())
    }

    /// Every request ended once, and each that got no endpoint with a counted reason.
    pub(crate) fn conserved(&self) -> Result<(), Failed> {
        let Summary { requests, answered, failed, no_endpoint, .. } = &self.summary;
        let none: u64 = no_endpoint.values().sum();
        if answered + failed + none == *requests {
            return Ok(());
        }
        Err(Failed(format!("{requests} requests, {answered} answered, {failed} failed, {no_endpoint:?}")))
    }
}

fn scope_name(at: Where) -> &'static str {
    match at {
        Where::Cluster(_) => "cluster",
        Where::Backend(..) => "backend",
        Where::Endpoint(_) => "endpoint",
    }
}

/// What a request of one backend could choose from, by the table's views.
struct Choice {
    endpoints: Vec<EndpointView>,
    /// Verdicts on each cluster and on the backend there, and whether a write may go there.
    clusters: Vec<(State, State, bool)>,
    /// Attempts in flight in each, of all backends.
    in_flight: Vec<u32>,
    enough: u64,
}

impl Choice {
    fn new(plan: &Plan, table: &Table, backend: BackendId, post: bool) -> Self {
        let views = table.backends();
        let own: &BackendView = views.iter().find(|view| view.id == backend).unwrap();
        let clusters = table.clusters();
        let of = |share: &routing::model::ClusterShare| {
            let cluster = clusters.iter().find(|view| view.id == share.cluster).unwrap();
            let place = own.clusters.iter().position(|(id, _)| *id == share.cluster).unwrap();
            let fenced = post
                && share.priority > 0
                && !plan.promoted
                && plan.policy.write_fence == WriteFence::UntilPromoted;
            (cluster.verdict.state, own.verdicts[place].state, !fenced)
        };
        Self {
            endpoints: table.endpoints(backend),
            clusters: plan.policy.clusters.iter().map(of).collect(),
            in_flight: clusters.iter().map(|view| view.endpoints.in_flight).collect(),
            enough: u64::from(plan.policy.panic_percent),
        }
    }

    fn is_usable(&self, view: &EndpointView) -> bool {
        let down = |state| matches!(state, State::Down(_));
        let (cluster, part, _) = self.clusters[view.cluster.index()];
        !view.health.is_ejected() && ![cluster, part, view.verdict.state].into_iter().any(down)
    }

    fn is_panic(&self) -> bool {
        let permitted = || self.endpoints.iter().filter(|view| self.clusters[view.cluster.index()].2);
        let (all, usable) =
            (permitted().count() as u64, permitted().filter(|view| self.is_usable(view)).count() as u64);
        usable * 100 < all * self.enough
    }

    /// Permitted, nothing is wrong there, and an endpoint of it is ready.
    fn is_well(&self, cluster: u16) -> bool {
        let (state, part, permitted) = self.clusters[usize::from(cluster)];
        let here = self.endpoints.iter().filter(|view| view.cluster.0 == cluster);
        (state, part, permitted) == (State::Healthy, State::Healthy, true)
            && here.into_iter().any(|view| view.verdict.state == State::Healthy && !view.health.is_ejected())
    }

    fn in_flight(&self, cluster: u16) -> u32 {
        self.in_flight[usize::from(cluster)]
    }
}
