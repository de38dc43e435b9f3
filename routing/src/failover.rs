//! Which clusters of a backend are offered a request: health before pins before priority before weight.
//!
//! Pure ranking. Every cluster of a rule's plan gets a [`Rank`] from what the table counts there; the lowest rank is
//! offered the request, and weights decide among equals. The table's `pick` and `explain` both ask here. The
//! detector's verdicts on whole clusters, spill and capacity will be further parts of the rank.

use std::fmt;

use crate::id::{BackendId, ClusterId, NodeId, ZoneId};
use crate::model::{ClusterShare, Pin, PinMatch, Policy};
use crate::subject::Subject;
use crate::table::{EndpointKey, Pick};

/// How willingly endpoints of one kind are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Ready and not ejected.
    Ready,
    /// Terminating and not ejected: only where the whole backend has nothing better (KEP-1669).
    Terminating,
    /// Ejected: only where no permitted cluster has anything better. Refusing to try would be worse.
    Ejected,
}

/// All tiers, the best first.
pub(crate) const TIERS: [Tier; 3] = [Tier::Ready, Tier::Terminating, Tier::Ejected];

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

/// Where a cluster stands for one request. Lower is better; fields count in the order in which they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The best tier that has an endpoint.
    pub tier: Tier,
    /// Is one of those untried?
    pub untried: Untried,
    /// What the operator wants.
    pub standing: Standing,
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
            Tier::Ejected => f.write_str("every endpoint ejected")?,
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
    pub(crate) counts: [u32; 3],
    /// Of those, endpoints that this exchange has tried.
    pub(crate) tried: [u32; 3],
    pub(crate) implicated: Implicated,
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
    let tier = TIERS.into_iter().find(|tier| offer.counts[*tier as usize] > 0)?;
    let all_tried = offer.tried[tier as usize] >= offer.counts[tier as usize];
    let standing = match (offer.drain, weights, offer.share.weight.unwrap_or(0)) {
        (Drain::Drained, Weights::Given | Weights::ByEndpoints, _) => Standing::Drained,
        (Drain::Serving, Weights::Given, 0) => Standing::WeightZero,
        (Drain::Serving, Weights::Given | Weights::ByEndpoints, _) => Standing::Normal,
    };
    Some(Rank {
        tier,
        untried: if all_tried { Untried::None } else { Untried::Some },
        standing,
        implicated: offer.implicated,
        priority: offer.share.priority,
    })
}

/// The share of a cluster among those of equal rank.
pub(crate) fn weight(offer: &Offer, rank: Rank, weights: Weights) -> u64 {
    match (weights, offer.share.weight) {
        (Weights::Given, Some(weight)) if weight > 0 => u64::from(weight),
        // Where nothing has a weight, and where only clusters with weight 0 are left.
        (Weights::Given | Weights::ByEndpoints, _) => u64::from(offer.counts[rank.tier as usize]),
    }
}

/// Does a pin that is not strict hold for a cluster of this rank?
pub(crate) fn pin_holds(rank: Rank) -> bool {
    let healthy = match rank.tier {
        Tier::Ready | Tier::Terminating => true,
        Tier::Ejected => false,
    };
    healthy
        && rank.untried == Untried::Some
        && rank.standing != Standing::Drained
        && rank.implicated == Implicated::No
}

/// The first pin of `policy` that matches.
pub(crate) fn pin<'a>(policy: &'a Policy, subject: &Subject<'_>) -> Option<&'a Pin> {
    let view = subject.http();
    policy.pins.iter().find(|pin| match &pin.when {
        PinMatch::Header(name, value) => view.header(name.as_bytes()) == Some(value.as_bytes()),
        PinMatch::Cookie(name, value) => view.cookie(name.as_bytes()) == Some(value.as_bytes()),
        PinMatch::Query(name, value) => view.query_param(name.as_bytes()) == Some(value.as_bytes()),
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
