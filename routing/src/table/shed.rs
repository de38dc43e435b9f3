//! What bends the order of clusters: spill, panic, the capacity of those that help out, the write fence, and the
//! single requests that find out whether something may come back.

use std::time::Duration;

use rand::rngs::SmallRng;

use super::NoEndpoint;
use super::live::Live;
use super::pick::{Ask, Choice, Scope};
use crate::failover::{self, Drain, Offer, Panic, Rank, Spilled, Standing, Tier};
use crate::health::board::Subject;
use crate::id::BackendId;
use crate::model::ClusterShare;
use crate::time::MonoTime;

/// How long a route's priority counts for the share of a capacity that lower ones may not fill.
const PRIORITY_MEMORY: Duration = Duration::from_secs(1);

/// At most one pick of so many is a single request on probation…
const TRIAL_PICKS: u32 = 10;

/// …unless so much time has passed since the last.
const TRIAL_REST: Duration = Duration::from_millis(250);

/// Things on probation that one pick looks at.
const TRIAL_LOOKS: usize = 8;

/// How many endpoints of a plan may be used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    usable: u32,
    /// Not usable, but they answer.
    answering: u32,
    total: u32,
}

impl Shares {
    pub(super) fn add(&mut self, offer: &Offer) {
        // What an operator drains is neither there nor missing.
        if offer.drain == Drain::Drained {
            return;
        }
        self.usable += offer.usable();
        self.total += offer.total();
        if offer.verdict != Tier::Unreachable {
            self.answering += failover::panic_count(offer, Panic::Answering) - offer.usable();
        }
    }
}

/// Single requests of this worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    picks: u32,
    last: MonoTime,
}

impl Live {
    // ------------------------------------------------------------ spill and panic

    /// The priority that gives this request to the next one, if any: the lower its usable share, the more of them.
    pub(super) fn spilled(&self, ask: &Ask<'_>, backend: BackendId) -> Option<u8> {
        let offers = || {
            let shares = ask.policy.clusters.iter().filter(|share| !ask.is_fenced(share));
            let offers = shares.filter_map(|share| self.offer(ask, backend, share));
            offers.filter(|offer| failover::standing(offer, ask.weights) == Standing::Normal)
        };
        let priority = offers().filter(|offer| offer.usable() > 0).map(|offer| offer.share.priority).min()?;
        let (mut usable, mut total) = (0u64, 0u64);
        for offer in offers().filter(|offer| offer.share.priority == priority) {
            usable += u64::from(offer.usable());
            total += u64::from(offer.total());
        }
        let enough = total * u64::from(ask.policy.spill_percent);
        let kept = usable * 100;
        let is_kept = kept >= enough || u128::from(ask.coins.1) * u128::from(enough) < u128::from(kept) << 32;
        (!is_kept).then_some(priority)
    }

    /// Are too few endpoints usable, and who takes part then?
    ///
    /// First attempts only: what is tried again goes where it is best.
    pub(super) fn panic(&mut self, ask: &Ask<'_>, backend: BackendId, scope: Scope, shares: Shares) -> Panic {
        if ask.policy.panic_percent == 0 || !ask.tried.is_empty() || scope != Scope::All || shares.total == 0
        {
            return Panic::No;
        }
        let Some(entry) = self.backends.get_mut(backend.index()) else { return Panic::No };
        let enough = u64::from(shares.total) * u64::from(ask.policy.panic_percent);
        if u64::from(shares.usable) * 100 >= enough {
            entry.outage = false;
            return Panic::No;
        }
        entry.outage |= shares.usable == 0;
        if entry.outage && shares.answering == 0 { Panic::All } else { Panic::Answering }
    }

    // ------------------------------------------------------------ capacity and fence

    /// Is a cluster full of what should have been served elsewhere? Its own load is never shed here.
    pub(super) fn is_over_capacity(&mut self, ask: &Ask<'_>, backend: BackendId, offer: &Offer) -> bool {
        let cluster = offer.share.cluster;
        let max = ask.world.cluster(cluster).map_or(0, |entry| entry.spec.in_flight_max);
        if max == 0 || !self.is_foreign(ask, backend, &offer.share) {
            return false;
        }
        let Some(entry) = self.detector.clusters.get_mut(cluster.index()) else { return false };
        let own = ask.policy.route_priority;
        let (highest, seen) = entry.highest;
        if own >= highest || ask.now.since(seen) > PRIORITY_MEMORY {
            entry.highest = (own, ask.now);
        }
        entry.in_flight >= failover::capacity(max, own, entry.highest.0)
    }

    /// Does this request come from another cluster: one that the plan prefers, or uses as much, and that cannot?
    fn is_foreign(&self, ask: &Ask<'_>, backend: BackendId, share: &ClusterShare) -> bool {
        if ask.tried.endpoints().iter().any(|tried| tried.cluster != share.cluster) {
            return true;
        }
        self.ranks(ask, backend, Scope::All).any(|(_, offer, rank)| {
            offer.share.cluster != share.cluster
                && rank.standing == Standing::Normal
                && offer.share.priority <= share.priority
                && (rank.tier > Tier::Terminating || rank.spilled == Spilled::Yes)
        })
    }

    /// A write whose cluster cannot serve it, while a standby that is not promoted could, is refused.
    pub(super) fn check_fence(
        &self,
        ask: &Ask<'_>,
        backend: BackendId,
        scope: Scope,
    ) -> Result<(), NoEndpoint> {
        if self.best_rank(ask, backend, scope).is_some_and(|rank| rank.tier.is_usable()) {
            return Ok(());
        }
        let open = Ask { fence: None, ..*ask };
        let behind = self
            .ranks(&open, backend, scope)
            .filter(|(_, offer, rank)| ask.is_fenced(&offer.share) && rank.tier.is_usable());
        match behind.min_by_key(|(_, _, rank)| *rank) {
            Some((_, offer, _)) => Err(NoEndpoint::Fenced { cluster: offer.share.cluster }),
            None => Ok(()),
        }
    }

    // ------------------------------------------------------------ single requests

    /// An endpoint for a single real request on probation, if it is time for one and this request may be repeated.
    pub(super) fn trial(
        &mut self,
        ask: &Ask<'_>,
        backend: BackendId,
        scope: Scope,
        rng: &mut SmallRng,
    ) -> Option<u32> {
        if !ask.tried.is_empty() {
            return None;
        }
        let pace = &mut self.detector.pace;
        pace.picks += 1;
        let turn = pace.picks;
        if pace.picks < TRIAL_PICKS && ask.now.since(pace.last) < TRIAL_REST {
            return None;
        }
        // The client gets the other answer: without another there is nothing to try.
        let best = self.best_rank(ask, backend, scope).filter(|rank| rank.tier <= Tier::Terminating)?;
        let count = self.detector.probation.len();
        for nth in 0..count.min(TRIAL_LOOKS) {
            let subject = self.detector.probation[(turn as usize + nth) % count];
            let Some(slot) = self.try_one(ask, backend, scope, best, subject, rng) else { continue };
            self.detector.pace = Pace { picks: 0, last: ask.now };
            return Some(slot);
        }
        if !ask.subject.is_idempotent() {
            return None;
        }
        let slot = self.ejected_to_try(backend, turn as usize, ask.now)?;
        let only = Scope::Only(self.slots[slot as usize].cluster);
        if scope != Scope::All && scope != only {
            return None;
        }
        let (_, offer, rank) = self.ranks(ask, backend, only).next()?;
        if rank.standing != Standing::Normal || rank.priority > best.priority || !offer.verdict.is_usable() {
            return None;
        }
        self.detector.pace = Pace { picks: 0, last: ask.now };
        Some(slot)
    }

    fn try_one(
        &mut self,
        ask: &Ask<'_>,
        backend: BackendId,
        scope: Scope,
        best: Rank,
        subject: Subject,
        rng: &mut SmallRng,
    ) -> Option<u32> {
        let (cluster, endpoint) = match subject {
            Subject::Cluster(cluster) => (cluster, None),
            Subject::Backend(of, cluster) if of == backend => (cluster, None),
            Subject::Backend(..) => return None,
            Subject::Endpoint(id) => {
                let slot = self.slot_of(id)?;
                let entry = &self.slots[slot as usize];
                (entry.cluster, Some(slot).filter(|_| entry.backend == backend))
            }
        };
        if matches!(subject, Subject::Endpoint(_)) && endpoint.is_none() {
            return None;
        }
        let only = Scope::Only(cluster);
        if scope != Scope::All && scope != only {
            return None;
        }
        let (_, offer, rank) = self.ranks(ask, backend, only).next()?;
        // Nothing above it may be worse than on probation, and it must be one that would be used if it were well.
        if rank.standing != Standing::Normal || rank.priority > best.priority || !offer.verdict.is_usable() {
            return None;
        }
        let local = self.verdict(subject)?.local;
        let members = offer.members().filter(|tier| tier.is_usable())?;
        if !ask.subject.is_idempotent() {
            self.detector.decline(subject);
            return None;
        }
        if !self.detector.may_try(subject, local, ask.now) {
            return None;
        }
        if endpoint.is_some() {
            return endpoint;
        }
        Choice { ask, backend, cluster, members: (members, members), cap: u32::MAX }.slot(self, rng)
    }
}
