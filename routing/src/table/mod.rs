//! One worker's route table: built from deltas, asked for every request.
//!
//! [`Table::route`] says which rule, [`Table::pick`] which endpoint, [`Table::on_outcome`] takes what was learned,
//! [`Table::release`] ends an attempt. All take `&self`, none allocates, none asks for the time. A table belongs to
//! one thread; payloads are shared with the other workers' tables and never reference-counted for a request.
//!
//! The table's halves: `world` and `hosts` (specs and rules; only `apply` changes them) and `live` (endpoints with
//! health and load; every request changes them).

mod apply;
mod detect;
mod detector;
mod explain;
mod group;
mod hosts;
mod live;
mod looks;
mod pick;
mod shed;
mod slice;
mod view;
mod world;

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use wire::head::Method;

pub use self::apply::{Applied, OpenedBind, OutOfStep};
pub use self::detect::Unanswered;
pub use self::explain::{
    BackendCandidate, ClusterCandidate, EXPLAIN_ITEMS_MAX, EndpointCandidate, Explanation, RuleCandidate,
    Strictness, Why,
};
pub use self::looks::{LOOKS_RULES_MAX, Look, Seen};
pub use self::slice::{Applying, ENTRIES_PER_LOOK, Progress};
pub use self::view::{
    BackendView, ClusterView, EndpointView, HealthCounts, HostView, ListenerView, VerdictView,
};

use self::apply::Retired;
use self::hosts::HostEntry;
use self::live::{Life, Live};
use self::pick::Ask;
use self::world::{DrainLot, World};
use crate::delta::{Change, Update};
use crate::failover::Tried;
use crate::health::board::Board;
use crate::health::endpoint::Outcome;
use crate::id::{BackendId, BindId, ClusterId, EndpointId, Generation, ListenerId, NodeId, ZoneId};
use crate::model::{
    CertificateSet, Layer4, OutlierPolicy, Policy, Protocol, RetryPolicy, RuleAction, RuleMatch, Speech,
    StatSlot, Target, Transport, WeightedBackend,
};
use crate::retry::{self, Decision, Failure};
use crate::subject::Subject;
use crate::time::MonoTime;

/// What a table is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// How many workers share the node: divides what is granted per node. 0 counts as 1.
    pub workers: u16,
    /// Which of them this is.
    pub worker: u16,
    /// The node's region (`[node] region`), empty = unknown.
    pub node_region: Arc<str>,
    /// The node's zone (`[node] zone`), empty = unknown.
    pub node_zone: Arc<str>,
    /// What the node's workers share. The default is a board of its own: for a table that has no peers.
    pub board: Arc<Board>,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            workers: 1,
            worker: 0,
            node_region: "".into(),
            node_zone: "".into(),
            board: Arc::new(Board::default()),
        }
    }
}

/// One worker's table. See the module.
#[derive(Debug)]
pub struct Table {
    settings: TableSettings,
    generation: Generation,
    world: World,
    live: RefCell<Live>,
    retired: RefCell<Retired>,
}

/// Names one endpoint of one table, for as long as an attempt or a connection needs it.
///
/// A slot that is used again gets another turn: a key of the endpoint that was there before names nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// The slot; dense, so that connection pools can be indexed by it.
    pub slot: u32,
    /// How often the slot was given out before.
    pub turn: u32,
}

/// The rule of a request, frozen with its policy until the request ends. Cheap to clone: not atomic.
#[derive(Clone)]
pub struct RuleRef {
    entry: Rc<HostEntry>,
    rule: u32,
}

impl RuleRef {
    /// What the rule does.
    #[must_use]
    pub fn action(&self) -> &RuleAction {
        &self.entry.rules.rules[self.rule as usize].action
    }

    /// Weights, retries, timeouts, balancing.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.action().policy
    }

    /// The conditions that held.
    #[must_use]
    pub fn matches(&self) -> &RuleMatch {
        &self.entry.rules.rules[self.rule as usize].matches
    }

    /// Index among the rules of its host.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.rule
    }
}

impl fmt::Debug for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules[{}]", self.action().route, self.action().rule_index)
    }
}

/// No rule matches: 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoRoute {
    /// No listener of the bind owns the host.
    Listener,
    /// The listener has no rules for the host.
    Host,
    /// The host has rules, none matches the path or the other conditions.
    Rule,
}

/// The endpoint of one attempt, already counted as in flight: every pick is followed by one [`Table::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Names the endpoint for `on_outcome` and `release`, and its connection pool.
    pub endpoint: EndpointKey,
    /// The endpoint as the controller numbers it.
    pub id: EndpointId,
    /// Where to connect.
    pub addr: SocketAddr,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its backend.
    pub backend: BackendId,
    /// Its zone.
    pub zone: ZoneId,
    /// Its node.
    pub node: NodeId,
    /// Index into the rule's [`Target::Forward`], for that reference's header changes.
    pub backend_ref: u16,
    /// Counters of this (backend, cluster).
    pub stat: StatSlot,
    /// The affinity cookie to set on the response: see [`sticky::format`](crate::balance::sticky::format).
    pub set_cookie: Option<u64>,
    /// Too few endpoints are usable, and this one need not be: all are tried (`panic_percent`).
    pub panic: bool,
    /// A single request that finds out whether its endpoint, backend or cluster may come back. Tie it: start a
    /// second attempt at once, elsewhere; the client gets the better answer, this one's outcome is reported all the
    /// same.
    pub trial: bool,
}

/// No endpoint can be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoEndpoint {
    /// The share of a reference that cannot be resolved, or every weight is 0: 500.
    NoBackend,
    /// The backend has no endpoint in any permitted cluster: 503.
    NoUsableEndpoint,
    /// The request is pinned strictly to a cluster that cannot serve it: 503.
    PinnedClusterUnavailable {
        /// Which cluster.
        cluster: ClusterId,
    },
    /// A bound of this worker is reached: 503 with Retry-After.
    Overloaded {
        /// Which bound.
        bound: OverloadBound,
    },
    /// The method is not safe, and the cluster that would serve it is a standby that is not promoted
    /// ([`WriteFence`](crate::model::WriteFence)): 503 with Retry-After.
    Fenced {
        /// Which cluster.
        cluster: ClusterId,
    },
}

/// A bound that sheds load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OverloadBound {
    /// `endpoint_in_flight_max`, on every endpoint that was looked at.
    EndpointInFlight,
    /// `backend_in_flight_max`.
    BackendInFlight,
    /// A cluster's `in_flight_max`: what another cluster could not serve is more than this one may take.
    ClusterCapacity,
}

impl NoEndpoint {
    /// The status that the client gets.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::NoBackend => 500,
            Self::NoUsableEndpoint
            | Self::PinnedClusterUnavailable { .. }
            | Self::Overloaded { .. }
            | Self::Fenced { .. } => 503,
        }
    }

    /// A short name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::NoUsableEndpoint => "no_usable_endpoint",
            Self::PinnedClusterUnavailable { .. } => "pinned_cluster_unavailable",
            Self::Overloaded { bound: OverloadBound::EndpointInFlight } => "endpoint_in_flight_max",
            Self::Overloaded { bound: OverloadBound::BackendInFlight } => "backend_in_flight_max",
            Self::Overloaded { bound: OverloadBound::ClusterCapacity } => "cluster_in_flight_max",
            Self::Fenced { .. } => "write_fenced",
        }
    }
}

/// A change of an endpoint's health that others may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthEvent {
    /// It takes no requests for a while.
    Ejected {
        /// Which endpoint.
        endpoint: EndpointId,
        /// For how long.
        lasts: Duration,
    },
    /// It takes requests again.
    Restored {
        /// Which endpoint.
        endpoint: EndpointId,
    },
}

impl Table {
    /// The empty table, generation 0.
    #[must_use]
    pub fn new(settings: TableSettings) -> Self {
        let board = Arc::clone(&settings.board);
        let live = Live::new(board, settings.worker, settings.workers);
        Self {
            settings,
            generation: Generation(0),
            world: World::default(),
            live: RefCell::new(live),
            retired: RefCell::new(Retired::default()),
        }
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &TableSettings {
        &self.settings
    }

    /// The generation that it runs.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Applies one update in time proportional to what it changes.
    ///
    /// Endpoints that survive keep health, load and slot. `now` ends ejections that are over. Fails, and changes
    /// nothing, when a [`Change::Table`] was computed against another generation; [`Change::Snapshot`] and
    /// [`Change::Health`] are always accepted. In one piece: a worker uses [`Table::begin`] and [`Table::advance`].
    pub fn apply(&mut self, update: &Update, now: MonoTime) -> Result<Applied, OutOfStep> {
        let mut applying = self.begin(update, now)?;
        let _whole = self.advance(&mut applying, update, now, || true);
        Ok(applying.into_applied())
    }

    /// Payloads that this table has let go of and no request holds any more, as an update to be sent home with
    /// [`Report::Spent`](crate::delta::Report::Spent): a worker never runs their destructors.
    ///
    /// To be asked after every `apply` and now and then; cheap when there is nothing.
    #[must_use]
    pub fn take_spent(&self) -> Option<Arc<Update>> {
        let mut retired = self.retired.borrow_mut();
        if retired.is_empty() {
            return None;
        }
        let delta = retired.take();
        (!delta.is_empty()).then(|| {
            Arc::new(Update {
                generation: self.generation,
                base_generation: self.generation,
                observed_ns: 0,
                change: Change::Table(delta),
            })
        })
    }

    /// The first rule that matches, on the listener that owns the request's host.
    ///
    /// Rules of the most specific host pattern come first; when none of them matches, those of the next.
    pub fn route(&self, subject: &Subject<'_>) -> Result<RuleRef, NoRoute> {
        let mut none = NoRoute::Listener;
        for listener in self.world.hosts.owners(subject.bind, subject.host()) {
            none = none.max_of(NoRoute::Host);
            let found = self.world.hosts.first(*listener, subject.host(), |entry| {
                none = NoRoute::Rule;
                let rule = entry.find(subject)?;
                Some(RuleRef { entry: Rc::clone(entry), rule })
            });
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(none)
    }

    /// What is spoken on a bind; `None` for one that has no listener (any more).
    #[must_use]
    pub fn protocol(&self, bind: BindId) -> Option<Protocol> {
        self.world.hosts.served(bind).map(|(_, protocol)| protocol)
    }

    /// The listener that a TLS client's server name (in lower case) selects on a bind, and its certificates for that
    /// name. `None`: no listener has any, and the handshake is refused.
    #[must_use]
    pub fn certificates(
        &self,
        bind: BindId,
        server_name: Option<&str>,
    ) -> Option<(ListenerId, &Arc<CertificateSet>)> {
        let owners = self.world.hosts.owners(bind, server_name.unwrap_or_default().as_bytes());
        owners.iter().find_map(|id| {
            let set = self.world.hosts.listener(*id)?.tls.as_ref()?.find(server_name)?;
            Some((*id, set))
        })
    }

    /// Does `listener` serve this host? A request for another listener's host on a connection whose server name
    /// selected this one is answered 421 (Gateway API, listener isolation).
    #[must_use]
    pub fn serves(&self, bind: BindId, listener: ListenerId, host: &[u8]) -> bool {
        self.world.hosts.owners(bind, host).contains(&listener)
    }

    /// An endpoint for the next attempt. It is in flight from now on.
    ///
    /// `tried` holds what this exchange has tried and seen fail.
    pub fn pick(
        &self,
        rule: &RuleRef,
        subject: &Subject<'_>,
        tried: &Tried,
        now: MonoTime,
        rng: &mut SmallRng,
    ) -> Result<Pick, NoEndpoint> {
        let Target::Forward(refs) = &rule.action().target else { return Err(NoEndpoint::NoBackend) };
        self.pick_among(refs, rule, subject, tried, now, rng)
    }

    /// The same among other backends than the rule's own: those of its fallback or its mirror.
    pub fn pick_among(
        &self,
        refs: &[WeightedBackend],
        rule: &RuleRef,
        subject: &Subject<'_>,
        tried: &Tried,
        now: MonoTime,
        rng: &mut SmallRng,
    ) -> Result<Pick, NoEndpoint> {
        let mut live = self.live.borrow_mut();
        live.restore_due(now);
        live.sync(now);
        let lot = DrainLot::draw(&self.world, rng);
        live.pick(&mut Ask::new(&self.world, rule.policy(), subject, tried, lot, now), refs, rng)
    }

    /// This endpoint once more, for another flow of the same connection: a client that changed its address (RFC 9000 §9).
    /// In flight from now on, as by [`Table::pick`]. `None` when it has left the table, when the rule does not lead to its
    /// backend, or when it refuses; one that is only silent gets it all the same, for it alone knows the connection.
    #[must_use]
    pub fn pick_at(
        &self,
        endpoint: EndpointKey,
        rule: &RuleRef,
        subject: &Subject<'_>,
        now: MonoTime,
        rng: &mut SmallRng,
    ) -> Option<Pick> {
        let Target::Forward(refs) = &rule.action().target else { return None };
        let mut live = self.live.borrow_mut();
        live.restore_due(now);
        live.sync(now);
        let (lot, tried) = (DrainLot::draw(&self.world, rng), Tried::new());
        live.pick_at(&Ask::new(&self.world, rule.policy(), subject, &tried, lot, now), refs, endpoint)
    }

    /// Is the endpoint in the table? One that has left it stays known to who holds it, but takes nothing new.
    #[must_use]
    pub fn is_listed(&self, endpoint: EndpointKey) -> bool {
        self.live.borrow().slot(endpoint).is_some_and(|slot| slot.life == Life::Live)
    }

    /// What the layer-4 listeners of a bind ask of connections; `None` where they ask nothing.
    #[must_use]
    pub fn layer4(&self, bind: BindId) -> Option<&Arc<Layer4>> {
        self.world.hosts.layer4(bind)
    }

    /// What is spoken to the endpoints of a backend.
    #[must_use]
    pub fn speech(&self, backend: BackendId) -> Speech {
        self.world.backend(backend).map(|spec| spec.speech).unwrap_or_default()
    }

    /// How the endpoints of a backend are spoken to; `None` when there is no such backend any more.
    #[must_use]
    pub fn transport(&self, backend: BackendId) -> Option<&Transport> {
        self.world.backend(backend).map(|spec| &spec.transport)
    }

    /// What an attempt taught about its endpoint. Nothing, when the endpoint has left the table.
    ///
    /// Exactly once for each `on_sent`, as soon as it is known: at the response head, not at the body's end.
    /// `latency` is the time since `on_sent`; for [`Outcome::Abandoned`] it is how long nothing had come.
    pub fn on_outcome(
        &self,
        endpoint: EndpointKey,
        outcome: Outcome,
        latency: Option<Duration>,
        now: MonoTime,
        policy: &OutlierPolicy,
    ) -> Option<HealthEvent> {
        self.live.borrow_mut().on_outcome(endpoint, outcome, latency, now, policy)
    }

    /// The end of an attempt: exactly once for each pick. Frees the slot of a removed endpoint at its last one.
    pub fn release(&self, endpoint: EndpointKey) {
        self.live.borrow_mut().release(endpoint);
    }

    /// A request of `backend` has been started: deposits its share of the retry budget.
    pub fn on_request(&self, backend: BackendId, policy: &RetryPolicy, now: MonoTime) {
        let mut live = self.live.borrow_mut();
        let entry = live.backends.get_mut(backend.index());
        if let Some(budget) = entry.and_then(|entry| entry.budget.as_mut()) {
            budget.deposit(policy.budget_percent, now);
        }
    }

    /// Is a failed attempt tried again? What that costs is taken from the backend's budget.
    ///
    /// `attempt` is the number of the attempt that failed; the first is 1. A backend that has left the table has
    /// no budget: only free moves are granted.
    pub fn retry(
        &self,
        backend: BackendId,
        attempt: u8,
        policy: &RetryPolicy,
        failure: &Failure,
        method: Method,
        now: MonoTime,
    ) -> Decision {
        let mut live = self.live.borrow_mut();
        let entry = live.backends.get_mut(backend.index());
        match entry.and_then(|entry| entry.budget.as_mut()) {
            Some(budget) => retry::decide(attempt, policy, failure, method, budget, now),
            None => retry::decide(attempt, policy, failure, method, &mut retry::Budget::empty(), now),
        }
    }

    /// Ends the ejections that are over at `now` and tells of one of those that ended since the last call.
    ///
    /// `pick` ends them too: ask until `None`, after a deadline of [`Table::next_return`] or now and then.
    pub fn next_event(&self, now: MonoTime) -> Option<HealthEvent> {
        let mut live = self.live.borrow_mut();
        live.restore_due(now);
        live.events.pop_front()
    }

    /// Restorations that nobody was told of because more than 256 were waiting.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.live.borrow().events_lost
    }

    /// When the next ejection ends.
    #[must_use]
    pub fn next_return(&self) -> Option<MonoTime> {
        self.live.borrow().next_return()
    }
}

impl NoRoute {
    /// The reason that came further.
    fn max_of(self, other: Self) -> Self {
        match (self, other) {
            (Self::Rule, _) | (_, Self::Rule) => Self::Rule,
            (Self::Host, _) | (_, Self::Host) => Self::Host,
            (Self::Listener, Self::Listener) => Self::Listener,
        }
    }
}
