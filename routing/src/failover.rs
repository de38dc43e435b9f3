//! Which clusters of a backend are offered a request: health before pins before priority before weight.
//!
//! Pure ranking. Every cluster of a rule's plan gets a [`Rank`] from what the table counts there and from the
//! detector's verdicts on it; the lowest rank is offered the request, and weights decide among equals. The table's
//! `pick` and `explain` both ask here.
//!
//! Two rules bend this. *Spill*: a priority with too few usable endpoints gives part of its load to the next.
//! *Panic*: with too few usable endpoints over all clusters, first attempts are spread over all that may answer, by
//! weight, so that what is left is not crushed; retries and hedges still go where it is best.

use std::fmt;

use crate::health::state::State;
use crate::id::{BackendId, ClusterId, NodeId, ZoneId};
use crate::model::{ClusterShare, Pin, PinMatch, Policy};
use crate::subject::Subject;
use crate::table::{EndpointKey, Pick};

/// How willingly endpoints of one kind are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Ready and nothing is wrong.
    Ready,
    /// Terminating: only where the whole backend has nothing better (KEP-1669).
    Terminating,
    /// Suspected: it may be well.
    Suspect,
    /// It was proven not to be well, and is not trusted again yet: single requests are for finding out, and the share of
    /// what ramps up. All the rest goes there only before what is known to be worse.
    Probation,
    /// Ejected, or down but answering: only where no permitted cluster has anything better. Refusing to try would be
    /// worse.
    Ejected,
    /// Proven to answer nothing: only where there is nothing else at all.
    Unreachable,
}

/// All tiers, the best first.
pub(crate) const TIERS: [Tier; 6] =
    [Tier::Ready, Tier::Terminating, Tier::Suspect, Tier::Probation, Tier::Ejected, Tier::Unreachable];

/// Endpoints in each of [`TIERS`].
pub(crate) type Counts = [u32; TIERS.len()];

impl Tier {
    /// Where a verdict puts what it is about. A share that still ramps up is the caller's to decide.
    pub(crate) fn of(state: State) -> Self {
        match state {
            State::Healthy | State::Ramp => Self::Ready,
            State::Suspect => Self::Suspect,
            State::Probation => Self::Probation,
            State::Down(reason) if reason.is_unreachable() => Self::Unreachable,
            State::Down(_) => Self::Ejected,
        }
    }

    /// May requests go there without anybody calling it an emergency?
    pub(crate) fn is_usable(self) -> bool {
        match self {
            Self::Ready | Self::Terminating | Self::Suspect | Self::Probation => true,
            Self::Ejected | Self::Unreachable => false,
        }
    }
}

/// Does the best tier of a cluster hold an endpoint that this exchange has not tried?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Untried {
    /// Yes.
    Some,
    /// No: this exchange has seen them all fail.
    None,
}

/// What the operator wants of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Takes its share.
    Normal,
    /// Weight 0: takes nothing while another cluster of the plan can serve.
    WeightZero,
    /// Drained: the same, and even then after those with weight 0.
    Drained,
}

/// Has this exchange failed in a cluster often enough to leave it?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Implicated {
    /// No.
    No,
    /// Yes: two tries are spent, one of them here.
    Yes,
}

/// Does a cluster give this request to the next priority?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spilled {
    /// No.
    No,
    /// Yes: too few of its priority's endpoints are usable for all requests (`spill_percent`).
    Yes,
}

/// Where a cluster stands for one request. Lower is better; fields count in the order in which they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The best tier that has an endpoint, or where a verdict on the cluster puts them all.
    pub tier: Tier,
    /// Is one of those untried?
    pub untried: Untried,
    /// What the operator wants.
    pub standing: Standing,
    /// Does it give this request away?
    pub spilled: Spilled,
    /// Did this exchange fail here?
    pub implicated: Implicated,
    /// The plan's priority.
    pub priority: u8,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tier {
            Tier::Ready => f.write_str("ready")?,
            Tier::Terminating => f.write_str("only terminating endpoints")?,
            Tier::Suspect => f.write_str("suspect")?,
            Tier::Probation => f.write_str("not yet trusted again")?,
            Tier::Ejected => f.write_str("every endpoint ejected or down")?,
            Tier::Unreachable => f.write_str("unreachable")?,
        }
        match self.untried {
            Untried::Some => {}
            Untried::None => f.write_str(", every endpoint tried")?,
        }
        match self.standing {
            Standing::Normal => {}
            Standing::WeightZero => f.write_str(", weight 0")?,
            Standing::Drained => f.write_str(", drained")?,
        }
        match self.spilled {
            Spilled::No => {}
            Spilled::Yes => f.write_str(", spilled")?,
        }
        match self.implicated {
            Implicated::No => {}
            Implicated::Yes => f.write_str(", tried before")?,
        }
        write!(f, ", priority {}", self.priority)
    }
}

/// What the table counts for one cluster of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) share: ClusterShare,
    pub(crate) drain: Drain,
    /// Endpoints in each of [`TIERS`].
    pub(crate) counts: Counts,
    /// Of those, endpoints that this exchange has tried.
    pub(crate) tried: Counts,
    pub(crate) implicated: Implicated,
    /// Where the verdicts on the cluster and on the backend there put all of them.
    pub(crate) verdict: Tier,
    pub(crate) spilled: Spilled,
}

impl Offer {
    /// The best tier that has an endpoint.
    pub(crate) fn members(&self) -> Option<Tier> {
        TIERS.into_iter().find(|tier| self.counts[*tier as usize] > 0)
    }

    pub(crate) fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Endpoints that may take requests without anybody calling it an emergency.
    pub(crate) fn usable(&self) -> u32 {
        if !self.verdict.is_usable() {
            return 0;
        }
        TIERS.into_iter().filter(|tier| tier.is_usable()).map(|tier| self.counts[tier as usize]).sum()
    }
}

/// Who takes part when too few endpoints are usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Panic {
    /// It is not so: ranks decide.
    No,
    /// All that answer, though badly: what is proven to answer nothing would take no load off the others.
    Answering,
    /// All: nothing was usable, and the first that comes back must not be given everything.
    All,
}

impl Panic {
    /// Does a cluster, or an endpoint, of this tier take part?
    pub(crate) fn includes(self, tier: Tier) -> bool {
        match self {
            Self::No => false,
            Self::Answering => tier != Tier::Unreachable,
            Self::All => true,
        }
    }
}

/// Has an operator drained a cluster?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    Serving,
    Drained,
}

/// Does any cluster of a plan have a weight?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Yes: pure ratio. A cluster without one counts as weight 0.
    Given,
    /// No: in proportion to usable endpoints.
    ByEndpoints,
}

impl Weights {
    pub(crate) fn of(policy: &Policy) -> Self {
        if policy.clusters.iter().any(|share| share.weight.is_some()) {
            Self::Given
        } else {
            Self::ByEndpoints
        }
    }
}

/// The rank of a cluster; `None` when it has no endpoint at all.
pub(crate) fn rank(offer: &Offer, weights: Weights) -> Option<Rank> {
    let members = offer.members()?;
    let all_tried = offer.tried[members as usize] >= offer.counts[members as usize];
    Some(Rank {
        tier: members.max(offer.verdict),
        untried: if all_tried { Untried::None } else { Untried::Some },
        standing: standing(offer, weights),
        spilled: offer.spilled,
        implicated: offer.implicated,
        priority: offer.share.priority,
    })
}

/// The rank of a cluster in a panic: all alike, except for what the operator wants. `None` when none of its endpoints
/// takes part.
pub(crate) fn panic_rank(offer: &Offer, weights: Weights, panic: Panic) -> Option<Rank> {
    if !panic.includes(offer.verdict) || panic_count(offer, panic) == 0 {
        return None;
    }
    Some(Rank {
        tier: Tier::Ready,
        untried: Untried::Some,
        standing: standing(offer, weights),
        spilled: Spilled::No,
        implicated: Implicated::No,
        priority: 0,
    })
}

/// Endpoints of a cluster that take part in a panic.
pub(crate) fn panic_count(offer: &Offer, panic: Panic) -> u32 {
    TIERS.into_iter().filter(|tier| panic.includes(*tier)).map(|tier| offer.counts[tier as usize]).sum()
}

pub(crate) fn standing(offer: &Offer, weights: Weights) -> Standing {
    match (offer.drain, weights, offer.share.weight.unwrap_or(0)) {
        (Drain::Drained, Weights::Given | Weights::ByEndpoints, _) => Standing::Drained,
        (Drain::Serving, Weights::Given, 0) => Standing::WeightZero,
        (Drain::Serving, Weights::Given | Weights::ByEndpoints, _) => Standing::Normal,
    }
}

/// The share of a cluster among those of equal rank, where `endpoints` of it take part.
pub(crate) fn weight(share: &ClusterShare, endpoints: u32, weights: Weights) -> u64 {
    match (weights, share.weight) {
        (Weights::Given, Some(weight)) if weight > 0 => u64::from(weight),
        // Where nothing has a weight, and where only clusters with weight 0 are left.
        (Weights::Given | Weights::ByEndpoints, _) => u64::from(endpoints),
    }
}

/// The part of a cluster's capacity, in requests, that routes of this priority may fill with load that comes from
/// elsewhere: all of it for the highest priority that is in use, four fifths for the lowest.
pub(crate) fn capacity(in_flight_max: u32, priority: u8, highest: u8) -> u32 {
    if priority >= highest {
        return in_flight_max;
    }
    let fifth = u64::from(in_flight_max) / 5;
    let kept = fifth * u64::from(highest - priority) / u64::from(highest);
    u32::try_from(u64::from(in_flight_max) - kept).unwrap_or(in_flight_max)
}

/// Does a pin that is not strict hold for a cluster of this rank?
pub(crate) fn pin_holds(rank: Rank) -> bool {
    rank.tier <= Tier::Terminating
        && rank.untried == Untried::Some
        && rank.standing != Standing::Drained
        && rank.implicated == Implicated::No
}

/// The first pin of `policy` that matches.
pub(crate) fn pin<'a>(policy: &'a Policy, subject: &Subject<'_>) -> Option<&'a Pin> {
    // What has no head matches no condition on one.
    let view = subject.http();
    policy.pins.iter().find(|pin| match &pin.when {
        PinMatch::Header(name, value) => {
            view.and_then(|view| view.header(name.as_bytes())) == Some(value.as_bytes())
        }
        PinMatch::Cookie(name, value) => {
            view.and_then(|view| view.cookie(name.as_bytes())) == Some(value.as_bytes())
        }
        PinMatch::Query(name, value) => {
            view.and_then(|view| view.query_param(name.as_bytes())) == Some(value.as_bytes())
        }
        PinMatch::SourceCidr(range) => range.contains(&subject.peer.ip().to_canonical()),
    })
}

// ---------------------------------------------------------------- what an exchange has tried

/// Most endpoints that one exchange remembers; `retry.attempts` is at most this.
pub const TRIED_MAX: usize = 10;

/// One endpoint that an exchange has tried, with its failure domains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TriedEndpoint {
    pub(crate) endpoint: EndpointKey,
    pub(crate) backend: BackendId,
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) zone: ZoneId,
}

/// What one exchange has tried so far. Empty for the first attempt; 210 bytes, no allocation.
///
/// The second attempt prefers another endpoint on another node in another zone; from the third on, another cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    endpoints: [TriedEndpoint; TRIED_MAX],
    len: u8,
    backend_ref: u16,
}

impl Tried {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all, in place: what was remembered is not touched.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Remembers a pick whose attempt failed. Beyond [`TRIED_MAX`] nothing more is remembered.
    pub fn note(&mut self, pick: &Pick) {
        let Some(place) = self.endpoints.get_mut(usize::from(self.len)) else { return };
        *place = TriedEndpoint {
            endpoint: pick.endpoint,
            backend: pick.backend,
            node: pick.node,
            cluster: pick.cluster,
            zone: pick.zone,
        };
        self.len += 1;
        self.backend_ref = pick.backend_ref;
    }

    /// How many attempts have failed.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Is this the first attempt?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Has this endpoint been tried?
    #[must_use]
    pub fn contains(&self, endpoint: EndpointKey) -> bool {
        self.endpoints().iter().any(|tried| tried.endpoint == endpoint)
    }

    pub(crate) fn endpoints(&self) -> &[TriedEndpoint] {
        &self.endpoints[..self.len()]
    }

    /// The `backendRef` of the latest attempt: retries stay with it while it can serve.
    pub(crate) fn backend_ref(&self) -> Option<u16> {
        (!self.is_empty()).then_some(self.backend_ref)
    }

    pub(crate) fn implicates(&self, cluster: ClusterId) -> Implicated {
        if self.len() >= 2 && self.endpoints().iter().any(|tried| tried.cluster == cluster) {
            Implicated::Yes
        } else {
            Implicated::No
        }
    }
}
