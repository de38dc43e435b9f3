//! One pick: backend by weight, pin, cluster by verdict, rank and weight, then cookie, hash or balancer.
//!
//! While nothing is wrong anywhere, the verdicts cost one comparison (`Detector::wide`).

use rand::RngCore;
use rand::rngs::SmallRng;

use super::group::Group;
use super::live::{BackendEntry, Life, Live};
use super::shed::Shares;
use super::world::{DrainLot, World};
use super::{EndpointKey, NoEndpoint, OverloadBound, Pick};
use crate::balance::weighted::Reservoir;
use crate::balance::{hash, p2c, sticky};
use crate::failover::{self, Counts, Offer, Panic, Rank, Spilled, Tier, Tried, Weights};
use crate::health::board::Word;
use crate::health::state::{Reason, State};
use crate::id::{BackendId, ClusterId};
use crate::model::{
    AcrossBackends, BackendLimits, Balance, ClusterShare, HashKey, Policy, WeightedBackend, WriteFence,
};
use crate::subject::Subject;
use crate::time::MonoTime;

/// Endpoints that a choice looks at when the balancer's first choice is full or was tried.
///
/// More than `failover::TRIED_MAX`: among so many neighbours one is untried, if any is.
const WINDOW: usize = 16;

/// Points of a ring that a key walks over before the balancer chooses instead. With 15 of 16 endpoints ejected
/// one key in 10^14 gets so far.
const RING_WALK_MAX: usize = 512;

const _: () = assert!(WINDOW > failover::TRIED_MAX);

/// Clusters that a choice may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every cluster of the plan.
    All,
    /// Only this one.
    Only(ClusterId),
}

/// One question, as every step of the answer needs it.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) world: &'a World,
    pub(crate) policy: &'a Policy,
    pub(crate) weights: Weights,
    pub(crate) subject: &'a Subject<'a>,
    pub(crate) tried: &'a Tried,
    pub(crate) lot: DrainLot,
    pub(crate) now: MonoTime,
    /// Thrown once for the whole pick, and only while something ramps up or may spill: (ramp, spill).
    pub(crate) coins: (u32, u32),
    /// The priority above which clusters that are not promoted take no part: writes do not follow a failover.
    pub(crate) fence: Option<u8>,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(
        world: &'a World,
        policy: &'a Policy,
        subject: &'a Subject<'a>,
        tried: &'a Tried,
        lot: DrainLot,
        now: MonoTime,
    ) -> Self {
        let fence = match policy.write_fence {
            WriteFence::UntilPromoted if !subject.is_safe() => {
                policy.clusters.iter().map(|share| share.priority).min()
            }
            WriteFence::UntilPromoted | WriteFence::Disabled => None,
        };
        let weights = Weights::of(policy);
        Self { world, policy, weights, subject, tried, lot, now, coins: (0, 0), fence }
    }

    /// Does the fence keep this request out of a cluster of the plan?
    pub(crate) fn is_fenced(&self, share: &ClusterShare) -> bool {
        let is_promoted = || self.world.cluster(share.cluster).is_some_and(|entry| entry.promoted);
        self.fence.is_some_and(|home| share.priority > home && !is_promoted())
    }
}

/// A cluster that a choice leaves out because every endpoint that it saw there is full. Indexes of the plan.
#[derive(Clone, Copy, Default)]
pub(super) struct Full(u64);

impl Full {
    pub(super) fn contains(self, index: usize) -> bool {
        index < 64 && self.0 & 1 << index != 0
    }

    pub(super) fn add(&mut self, index: usize) {
        self.0 |= 1u64.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
    }
}

impl Live {
    pub(crate) fn pick(
        &mut self,
        ask: &mut Ask<'_>,
        refs: &[WeightedBackend],
        rng: &mut SmallRng,
    ) -> Result<Pick, NoEndpoint> {
        if self.detector.ramps > 0 || ask.policy.spill_percent > 0 {
            ask.coins = (rng.next_u32(), rng.next_u32());
        }
        let ask = &*ask;
        let pin = failover::pin(ask.policy, ask.subject);
        let strict = match pin {
            Some(pin) if pin.strict => Scope::Only(pin.cluster),
            Some(_) | None => Scope::All,
        };
        let pinned = pin.map(|pin| pin.cluster);
        let across = ask.policy.affinity.as_ref().map(|affinity| affinity.across);
        if across == Some(AcrossBackends::Stay)
            && let Some(pick) = self.pick_by_cookie(ask, refs, None, (pinned, strict))
        {
            return Ok(pick);
        }
        let index = self.choose_ref(ask, refs, strict, rng).ok_or(NoEndpoint::NoBackend)?;
        if across == Some(AcrossBackends::Anew)
            && let Some(pick) = self.pick_by_cookie(ask, refs, Some(index), (pinned, strict))
        {
            return Ok(pick);
        }
        let backend = refs[index].backend.ok_or(NoEndpoint::NoBackend)?;
        let pinned = pinned.or(refs[index].cluster);
        let scope = self.scope(ask, backend, pinned, strict);
        if !(self.detector.probation.is_empty() && self.detector.ejected.is_empty())
            && let Some(slot) = self.trial(ask, backend, scope, rng)
        {
            return Ok(Pick { trial: true, panic: false, ..self.begin_pick(ask, slot, index, Tier::Ready) });
        }
        let (slot, verdict) = self.choose_endpoint(ask, backend, scope, rng).map_err(|none| match none {
            NoEndpoint::NoUsableEndpoint => match strict {
                Scope::Only(cluster) => NoEndpoint::PinnedClusterUnavailable { cluster },
                Scope::All => NoEndpoint::NoUsableEndpoint,
            },
            NoEndpoint::NoBackend
            | NoEndpoint::PinnedClusterUnavailable { .. }
            | NoEndpoint::Overloaded { .. }
            | NoEndpoint::Fenced { .. } => none,
        })?;
        Ok(self.begin_pick(ask, slot, index, verdict))
    }

    /// See [`Table::pick_at`](super::Table::pick_at).
    pub(crate) fn pick_at(
        &mut self,
        ask: &Ask<'_>,
        refs: &[WeightedBackend],
        key: EndpointKey,
    ) -> Option<Pick> {
        let slot = self.slot(key).filter(|slot| slot.life == Life::Live)?;
        let index = refs.iter().position(|weighted| weighted.backend == Some(slot.backend))?;
        if self.worst(slot).contains(&State::Down(Reason::Refused)) {
            return None;
        }
        Some(Pick { set_cookie: None, ..self.begin_pick(ask, key.slot, index, Tier::Ready) })
    }

    /// `verdict` = where its cluster's verdicts put it.
    fn begin_pick(&mut self, ask: &Ask<'_>, index: u32, backend_ref: usize, verdict: Tier) -> Pick {
        self.begin(index);
        let tier = self.tier_of(index).max(verdict);
        let slot = &self.slots[index as usize];
        let group = self.backends[slot.backend.index()].group(slot.cluster);
        Pick {
            endpoint: self.key(index),
            id: slot.id,
            addr: slot.addr,
            cluster: slot.cluster,
            backend: slot.backend,
            zone: slot.zone,
            node: slot.node,
            backend_ref: u16::try_from(backend_ref).unwrap_or(u16::MAX),
            stat: group.map(|group| group.stat).unwrap_or_default(),
            set_cookie: ask.policy.affinity.is_some().then_some(slot.affinity),
            panic: !tier.is_usable(),
            trial: false,
        }
    }

    // ------------------------------------------------------------ which backend

    /// By weight among those that can serve; a retry stays with its backend while that is so.
    fn choose_ref(
        &self,
        ask: &Ask<'_>,
        refs: &[WeightedBackend],
        scope: Scope,
        rng: &mut SmallRng,
    ) -> Option<usize> {
        if let [only] = refs {
            return (only.weight > 0).then_some(0);
        }
        let best = self.best_ability(ask, refs, scope);
        let mut choice = Reservoir::new();
        for (index, weighted) in refs.iter().enumerate().filter(|(_, weighted)| weighted.weight > 0) {
            if self.takes_part(ask, weighted, scope, best) {
                if ask.tried.backend_ref().is_some_and(|tried| usize::from(tried) == index) {
                    return Some(index);
                }
                choice.offer((), u64::from(weighted.weight), index, rng);
            }
        }
        choice.take().map(|((), index)| index)
    }

    /// The best that any resolved backend with a weight can do.
    pub(crate) fn best_ability(&self, ask: &Ask<'_>, refs: &[WeightedBackend], scope: Scope) -> Ability {
        let offered = refs.iter().filter(|weighted| weighted.weight > 0);
        let resolved = offered.filter_map(|weighted| weighted.backend);
        resolved.map(|backend| self.ability(ask, backend, scope)).min().unwrap_or(Ability::None)
    }

    /// Does a backend take its share? A reference that cannot be resolved always does, and no more than that: its
    /// share is answered with 500.
    pub(crate) fn takes_part(
        &self,
        ask: &Ask<'_>,
        weighted: &WeightedBackend,
        scope: Scope,
        best: Ability,
    ) -> bool {
        weighted.weight > 0
            && weighted.backend.is_none_or(|backend| self.ability(ask, backend, scope) == best)
    }

    /// How well a backend can serve; lower is better.
    pub(crate) fn ability(&self, ask: &Ask<'_>, backend: BackendId, scope: Scope) -> Ability {
        match self.best_rank(ask, backend, scope).map(|rank| rank.tier) {
            Some(Tier::Ready | Tier::Terminating | Tier::Suspect | Tier::Probation) => Ability::Healthy,
            Some(Tier::Ejected | Tier::Unreachable) => Ability::Ejected,
            None => Ability::None,
        }
    }

    // ------------------------------------------------------------ which cluster

    pub(crate) fn backend(&self, backend: BackendId) -> Option<&BackendEntry> {
        self.backends.get(backend.index()).filter(|entry| entry.spec.is_some())
    }

    /// What one cluster of the plan has to offer.
    pub(crate) fn offer(&self, ask: &Ask<'_>, backend: BackendId, share: &ClusterShare) -> Option<Offer> {
        let group = self.backend(backend)?.group(share.cluster)?;
        let drain = ask.world.drain(share.cluster, ask.lot)?;
        let tried = if ask.tried.is_empty() {
            Counts::default()
        } else {
            self.tried_in(backend, share.cluster, ask.tried)
        };
        let implicated = ask.tried.implicates(share.cluster);
        let verdict =
            if self.detector.wide == 0 { Tier::Ready } else { self.verdict_tier(ask, backend, group) };
        let spilled = Spilled::No;
        Some(Offer { share: *share, drain, counts: group.counts, tried, implicated, verdict, spilled })
    }

    /// Where the verdicts on a cluster and on a backend there put all its endpoints, for this request.
    fn verdict_tier(&self, ask: &Ask<'_>, backend: BackendId, group: &Group) -> Tier {
        let cluster =
            self.detector.cluster(group.cluster).map(|entry| entry.verdict.word).unwrap_or_default();
        let tier = |word: Word| {
            let is_held = word.state() == State::Ramp && !self.is_ramped(ask, backend, word);
            if is_held { Tier::Probation } else { Tier::of(word.state()) }
        };
        tier(cluster).max(tier(group.word))
    }

    /// Has the share of something that ramps up grown so far that this request is in it?
    pub(super) fn is_ramped(&self, ask: &Ask<'_>, backend: BackendId, word: Word) -> bool {
        let spec = self.backends.get(backend.index()).and_then(|entry| entry.spec.as_ref());
        let ramp = spec.map(|spec| spec.detection.failback.ramp).unwrap_or_default();
        let grown = ask.now.since(word.since()).as_nanos() << 32;
        grown >= ramp.as_nanos() * u128::from(ask.coins.0)
    }

    pub(super) fn ranks<'b>(
        &'b self,
        ask: &'b Ask<'_>,
        backend: BackendId,
        scope: Scope,
    ) -> impl Iterator<Item = (usize, Offer, Rank)> + 'b {
        let shares = ask.policy.clusters.iter().enumerate();
        let in_scope = shares.filter(move |(_, share)| match scope {
            Scope::All => true,
            Scope::Only(cluster) => share.cluster == cluster,
        });
        let spilled = if ask.policy.spill_percent == 0 { None } else { self.spilled(ask, backend) };
        in_scope.filter(|(_, share)| !ask.is_fenced(share)).filter_map(move |(index, share)| {
            let mut offer = self.offer(ask, backend, share)?;
            if spilled.is_some_and(|priority| share.priority <= priority) {
                offer.spilled = Spilled::Yes;
            }
            Some((index, offer, failover::rank(&offer, ask.weights)?))
        })
    }

    pub(crate) fn best_rank(&self, ask: &Ask<'_>, backend: BackendId, scope: Scope) -> Option<Rank> {
        self.ranks(ask, backend, scope).map(|(_, _, rank)| rank).min()
    }

    /// Where a pinned request may go: to its cluster while that can serve, unless the pin is strict.
    pub(crate) fn scope(
        &self,
        ask: &Ask<'_>,
        backend: BackendId,
        pinned: Option<ClusterId>,
        strict: Scope,
    ) -> Scope {
        match (strict, pinned) {
            (Scope::Only(_), _) => strict,
            (Scope::All, None) => Scope::All,
            (Scope::All, Some(cluster)) => {
                let pinned = Scope::Only(cluster);
                match self.best_rank(ask, backend, pinned) {
                    Some(rank) if failover::pin_holds(rank) => pinned,
                    Some(_) | None => Scope::All,
                }
            }
        }
    }

    /// The endpoint, and where its cluster's verdicts put it.
    fn choose_endpoint(
        &mut self,
        ask: &Ask<'_>,
        backend: BackendId,
        scope: Scope,
        rng: &mut SmallRng,
    ) -> Result<(u32, Tier), NoEndpoint> {
        let entry = self.backend(backend).ok_or(NoEndpoint::NoUsableEndpoint)?;
        let limits = entry.limits();
        if limits.backend_in_flight_max != 0 && entry.in_flight >= limits.backend_in_flight_max {
            return Err(NoEndpoint::Overloaded { bound: OverloadBound::BackendInFlight });
        }
        if ask.fence.is_some() {
            self.check_fence(ask, backend, scope)?;
        }
        let cap = endpoint_cap(limits, ask.policy, self.detector.workers);
        let (mut full, mut none, mut panic) = (Full::default(), NoEndpoint::NoUsableEndpoint, None);
        // Each round leaves one cluster out; the last 64 of a longer plan would be asked twice, not for ever. One round
        // more where a panic begins.
        for _ in 0..=ask.policy.clusters.len().min(64) + 1 {
            let mut choice = Reservoir::new();
            let mut shares = Shares::default();
            for (index, offer, rank) in self.ranks(ask, backend, scope) {
                shares.add(&offer);
                let is_shed = none == OVER_CAPACITY && !rank.tier.is_usable();
                if !full.contains(index) && !is_shed {
                    self.offer_cluster(ask, panic, (index, offer, rank), &mut choice, rng);
                }
            }
            if panic.is_none() {
                let decided = self.panic(ask, backend, scope, shares);
                panic = Some(decided);
                if decided != Panic::No {
                    continue;
                }
            }
            let Some((_, (index, offer))) = choice.take() else { break };
            let members = match panic.unwrap_or(Panic::No) {
                Panic::No => offer.members().map(|tier| (tier, tier)),
                Panic::Answering => Some((Tier::Ready, Tier::Ejected)),
                Panic::All => Some((Tier::Ready, Tier::Unreachable)),
            };
            let Some(members) = members else { break };
            full.add(index);
            if self.is_over_capacity(ask, backend, &offer) {
                none = OVER_CAPACITY;
                continue;
            }
            let chosen = Choice { ask, backend, cluster: offer.share.cluster, members, cap };
            if let Some(slot) = chosen.slot(self, rng) {
                return Ok((slot, offer.verdict));
            }
            none = NoEndpoint::Overloaded { bound: OverloadBound::EndpointInFlight };
        }
        Err(none)
    }

    fn offer_cluster(
        &self,
        ask: &Ask<'_>,
        panic: Option<Panic>,
        (index, offer, rank): (usize, Offer, Rank),
        choice: &mut Reservoir<Rank, (usize, Offer)>,
        rng: &mut SmallRng,
    ) {
        let panic = panic.unwrap_or(Panic::No);
        let (rank, endpoints) = match panic {
            Panic::No => {
                let members = offer.members().map_or(0, |tier| offer.counts[tier as usize]);
                (Some(rank), members)
            }
            Panic::Answering | Panic::All => {
                let rank = failover::panic_rank(&offer, ask.weights, panic);
                (rank, failover::panic_count(&offer, panic))
            }
        };
        if let Some(rank) = rank {
            let weight = failover::weight(&offer.share, endpoints, ask.weights);
            choice.offer(rank, weight, (index, offer), rng);
        }
    }

    // ------------------------------------------------------------ cookie

    /// The endpoint that the request's cookie names, if a request without cookie could have got it.
    ///
    /// Asked before any weight: a session stays with its backend and its cluster whatever their weights; unless the backend
    /// is chosen anew each time, then of that `only` one. A retry asks nothing here, the endpoint of the cookie has just failed.
    fn pick_by_cookie(
        &mut self,
        ask: &Ask<'_>,
        refs: &[WeightedBackend],
        only: Option<usize>,
        (pinned, strict): (Option<ClusterId>, Scope),
    ) -> Option<Pick> {
        let affinity = ask.policy.affinity.as_ref().filter(|_| ask.tried.is_empty())?;
        let value = sticky::parse(ask.subject.http()?.cookie(affinity.cookie.as_bytes())?)?;
        let offered = refs.iter().enumerate().filter(|(_, backend)| backend.weight > 0);
        for (index, weighted) in offered.filter(|(index, _)| only.is_none_or(|only| only == *index)) {
            let Some(backend) = weighted.backend else { continue };
            let Some(slot) = self.find_affinity(backend, value) else { continue };
            let (cluster, in_flight) =
                (self.slots[slot as usize].cluster, self.slots[slot as usize].in_flight);
            let scope = self.scope(ask, backend, pinned.or(weighted.cluster), strict);
            let best = self.best_rank(ask, backend, scope)?;
            let in_scope = scope == Scope::All || scope == Scope::Only(cluster);
            let own = self.best_rank(ask, backend, Scope::Only(cluster));
            let limits = self.backend(backend)?.limits();
            let in_flight_all = self.backends[backend.index()].in_flight;
            let full = in_flight >= endpoint_cap(limits, ask.policy, self.detector.workers)
                || limits.backend_in_flight_max != 0 && in_flight_all >= limits.backend_in_flight_max;
            if in_scope && own == Some(best) && self.tier_of(slot) <= best.tier && !full {
                return Some(Pick { set_cookie: None, ..self.begin_pick(ask, slot, index, best.tier) });
            }
        }
        None
    }
}

/// Requests that this worker may have in flight on one endpoint for a rule.
fn endpoint_cap(limits: BackendLimits, policy: &Policy, workers: u16) -> u32 {
    let own = match policy.connections.endpoint_max {
        0 => u32::MAX,
        max => max.div_ceil(workers.into()),
    };
    match limits.endpoint_in_flight_max {
        0 => own,
        max => own.min(max),
    }
}

/// Can a backend serve?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ability {
    /// It has an endpoint that is not ejected.
    Healthy,
    /// Every endpoint is ejected.
    Ejected,
    /// It has no endpoint.
    None,
}

// ---------------------------------------------------------------- which endpoint

/// Is the target of a failover full?
const OVER_CAPACITY: NoEndpoint = NoEndpoint::Overloaded { bound: OverloadBound::ClusterCapacity };

/// The last step: an endpoint of these tiers in this cluster.
pub(super) struct Choice<'a> {
    pub(super) ask: &'a Ask<'a>,
    pub(super) backend: BackendId,
    pub(super) cluster: ClusterId,
    /// From the first to the second.
    pub(super) members: (Tier, Tier),
    /// Attempts in flight at which an endpoint is full.
    pub(super) cap: u32,
}

impl Choice<'_> {
    /// `None` when every endpoint that was looked at is full.
    pub(super) fn slot(&self, live: &mut Live, rng: &mut SmallRng) -> Option<u32> {
        let entry = live.backends.get(self.backend.index())?;
        let group = entry.group(self.cluster)?;
        let members = group.span(self.members.0, self.members.1);
        let count = u32::try_from(members.len()).ok().filter(|count| *count > 0)?;
        let load = |position: u32| live.slots[members[position as usize] as usize].in_flight;
        let first = match &self.ask.policy.balance {
            Balance::LeastRequest => {
                let (a, b) = p2c::two(count, rng);
                if load(b) < load(a) { b } else { a }
            }
            Balance::RoundRobin => group.cursor % count,
            Balance::Random => p2c::one(count, rng),
            Balance::ConsistentHash(key) => match self.on_ring(live, group, key) {
                Some(slot) => return Some(slot),
                None => p2c::one(count, rng),
            },
        };
        let is_held = live.detector.ramps > 0 && self.is_held(live, members[first as usize]);
        let chosen = if self.ask.tried.is_empty() && load(first) < self.cap && !is_held {
            Some(members[first as usize])
        } else {
            self.in_window(live, members, first as usize)
        };
        self.advance(live);
        chosen
    }

    fn advance(&self, live: &mut Live) {
        match &self.ask.policy.balance {
            Balance::RoundRobin => live.advance_cursor(self.backend, self.cluster),
            Balance::LeastRequest | Balance::Random | Balance::ConsistentHash(_) => {}
        }
    }

    /// The best of the neighbours of `first`: untried, on another node, in another zone, least busy.
    fn in_window(&self, live: &Live, members: &[u32], first: usize) -> Option<u32> {
        let window = members.iter().cycle().skip(first).take(WINDOW.min(members.len()));
        let free = window.copied().filter(|slot| live.slots[*slot as usize].in_flight < self.cap);
        free.min_by_key(|index| {
            let slot = &live.slots[*index as usize];
            let tried = self.ask.tried.endpoints();
            let same_cluster = || tried.iter().filter(|other| other.cluster == slot.cluster);
            (
                self.ask.tried.contains(live.key(*index)),
                slot.node.0 != 0 && same_cluster().any(|other| other.node == slot.node),
                slot.zone.0 != 0 && tried.iter().any(|other| other.zone == slot.zone),
                self.is_held(live, *index),
                slot.in_flight,
            )
        })
    }

    /// Does this endpoint ramp up, and is the request not in its share yet?
    fn is_held(&self, live: &Live, index: u32) -> bool {
        let slot = &live.slots[index as usize];
        slot.state == State::Ramp && !live.is_ramped(self.ask, self.backend, live.pulse_word(slot))
    }

    /// The first endpoint of this tier at or after the key's place on the ring that is neither full nor tried.
    fn on_ring(&self, live: &Live, group: &Group, key: &HashKey) -> Option<u32> {
        let ring = group.ring.as_ref()?;
        let key = hash_key(self.ask.subject, key)?;
        let start = ring.points.partition_point(|(point, _)| *point < key);
        let walk = ring.points[start..].iter().chain(&ring.points[..start]).take(RING_WALK_MAX);
        let slots = walk.filter_map(|(_, id)| live.slot_of(*id));
        slots.into_iter().find(|index| {
            let slot = &live.slots[*index as usize];
            // Rings travel apart from endpoints: an id may name another endpoint by now.
            slot.backend == self.backend
                && slot.cluster == self.cluster
                && (self.members.0..=self.members.1).contains(&live.tier_of(*index))
                && slot.in_flight < self.cap
                && !self.ask.tried.contains(live.key(*index))
        })
    }
}

/// The place of a request on a ring; `None` when it does not have what the hash is taken of.
fn hash_key(subject: &Subject<'_>, key: &HashKey) -> Option<u64> {
    let view = subject.http();
    match key {
        HashKey::Header(name) => view?.header(name.as_bytes()).map(hash::hash),
        HashKey::Cookie(name) => view?.cookie(name.as_bytes()).map(hash::hash),
        HashKey::Query(name) => view?.query_param(name.as_bytes()).map(hash::hash),
        HashKey::Path => Some(hash::hash(view?.path())),
        HashKey::Source => Some(hash::source(subject.peer)),
    }
}
