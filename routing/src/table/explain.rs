//! Why a request goes where it goes: the same table, the same functions, with the reasons kept.
//!
//! [`Table::explain`] asks `route` for the rule and `failover::rank` for every cluster, as `pick` does, and changes
//! nothing. Its answer is plain data: public fields for JSON, `Display` for people.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::live::Live;
use super::pick::{Ability, Ask, Scope};
use super::world::DrainLot;
use super::{NoRoute, RuleRef, Table};
use crate::failover::{self, Rank, TIERS, Tier, Tried};
use crate::health::endpoint::Health;
use crate::health::state::State;
use crate::id::{BackendId, ClusterId, Generation};
use crate::matcher::{self, Mismatch};
use crate::model::{ClusterShare, Target, WeightedBackend};
use crate::subject::Subject;
use crate::time::MonoTime;

/// Most rules, and most endpoints of one cluster, that an explanation lists; what is beyond is counted.
pub const EXPLAIN_ITEMS_MAX: usize = 100;

/// Which rule, which candidates, and why the others lost.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The table that was asked.
    pub generation: Generation,
    /// The listeners that own the host.
    pub listeners: Vec<Arc<str>>,
    /// The rule that was chosen.
    pub rule: Result<RuleRef, NoRoute>,
    /// The rules of the host patterns that cover the host, in order; at most [`EXPLAIN_ITEMS_MAX`].
    pub rules: Vec<RuleCandidate>,
    /// Rules beyond those listed.
    pub rules_left_out: usize,
    /// The cluster that the request is pinned to, and whether the pin is strict.
    pub pin: Option<(Arc<str>, Strictness)>,
    /// The rule's backends.
    pub backends: Vec<BackendCandidate>,
}

/// Does a pin allow another cluster?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// All clusters, when the pinned one cannot serve.
    FallsBack,
    /// None.
    Strict,
}

/// Did a candidate win?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is chosen, or takes part in the choice.
    Chosen,
    /// It is not, for this reason.
    Lost(String),
}

/// One rule.
#[derive(Clone, Debug)]
pub struct RuleCandidate {
    /// Its route.
    pub route: Arc<str>,
    /// Index in its route.
    pub rule_index: u16,
    /// Did it win?
    pub why: Why,
}

/// One backend of the rule.
#[derive(Clone, Debug)]
pub struct BackendCandidate {
    /// `namespace/service:port`; empty for a reference that cannot be resolved.
    pub name: Arc<str>,
    /// Its weight in the rule.
    pub weight: u32,
    /// Probability that a first attempt goes here, 0 to 1.
    pub probability: f64,
    /// Does it take part?
    pub why: Why,
    /// The clusters of the plan.
    pub clusters: Vec<ClusterCandidate>,
}

/// One cluster of a backend.
#[derive(Clone, Debug)]
pub struct ClusterCandidate {
    /// Its name.
    pub name: Arc<str>,
    /// Its priority in the plan.
    pub priority: u8,
    /// Its weight in the plan.
    pub weight: Option<u32>,
    /// Ready, terminating and other endpoints: suspected, ejected or unreachable.
    pub counts: [u32; 3],
    /// What the detector says of the cluster, and of the backend there.
    pub states: (State, State),
    /// Where it stands; `None` without an endpoint. Lower is better.
    pub rank: Option<Rank>,
    /// Probability within its backend, 0 to 1.
    pub probability: f64,
    /// Does it take part?
    pub why: Why,
    /// Its endpoints; at most [`EXPLAIN_ITEMS_MAX`].
    pub endpoints: Vec<EndpointCandidate>,
    /// Endpoints beyond those listed.
    pub endpoints_left_out: usize,
}

/// One endpoint of a cluster.
#[derive(Clone, Debug)]
pub struct EndpointCandidate {
    /// Where it is reached.
    pub addr: SocketAddr,
    /// What its attempts say.
    pub health: Health,
    /// What the detector says.
    pub state: State,
    /// Its load, the balancer's score: attempts in flight from this worker.
    pub in_flight: u32,
    /// Does it take part?
    pub why: Why,
}

impl Table {
    /// Explains what `route` and a first `pick` would do at `now`.
    pub fn explain(&self, subject: &Subject<'_>, now: MonoTime) -> Explanation {
        let rule = self.route(subject);
        let owners = self.world.hosts.owners(subject.bind, subject.host());
        let listeners = owners.iter().filter_map(|id| self.world.hosts.listener(*id));
        let (rules, rules_left_out) = self.explain_rules(subject, rule.as_ref().ok());
        let mut explanation = Explanation {
            generation: self.generation,
            listeners: listeners.map(|spec| Arc::clone(&spec.name)).collect(),
            rule,
            rules,
            rules_left_out,
            pin: None,
            backends: Vec::new(),
        };
        let Ok(rule) = &explanation.rule else { return explanation };
        let Target::Forward(refs) = &rule.action().target else { return explanation };
        let mut live = self.live.borrow_mut();
        live.restore_due(now);
        let tried = Tried::new();
        live.sync(now);
        let ask = Ask::new(&self.world, rule.policy(), subject, &tried, DrainLot::HIGHEST, now);
        let pin = failover::pin(rule.policy(), subject);
        let strict = match pin {
            Some(pin) if pin.strict => Scope::Only(pin.cluster),
            Some(_) | None => Scope::All,
        };
        let backends = self.explain_backends(&live, &ask, refs, pin.map(|pin| pin.cluster), strict);
        explanation.pin = pin.map(|pin| {
            let strictness = if pin.strict { Strictness::Strict } else { Strictness::FallsBack };
            (self.world.cluster_name(pin.cluster).into(), strictness)
        });
        explanation.backends = backends;
        explanation
    }

    fn explain_rules(&self, subject: &Subject<'_>, chosen: Option<&RuleRef>) -> (Vec<RuleCandidate>, usize) {
        let mut rules = Vec::new();
        let mut left_out = 0;
        let mut decided = Decided::NotYet;
        for listener in self.world.hosts.owners(subject.bind, subject.host()) {
            let none: Option<()> = self.world.hosts.first(*listener, subject.host(), |entry| {
                for (index, rule) in (0u32..).zip(&entry.rules.rules) {
                    let is_chosen = chosen.is_some_and(|chosen| {
                        std::rc::Rc::ptr_eq(&chosen.entry, entry) && chosen.rule == index
                    });
                    let mismatch = matcher::mismatch(&rule.matches, subject);
                    let why = if is_chosen { Why::Chosen } else { Why::Lost(lost(mismatch, decided)) };
                    if is_chosen {
                        decided = Decided::Earlier;
                    }
                    if rules.len() < EXPLAIN_ITEMS_MAX || is_chosen {
                        let (route, rule_index) = (Arc::clone(&rule.action.route), rule.action.rule_index);
                        rules.push(RuleCandidate { route, rule_index, why });
                    } else {
                        left_out += 1;
                    }
                }
                None
            });
            debug_assert!(none.is_none(), "nothing ends this walk");
        }
        (rules, left_out)
    }

    fn explain_backends(
        &self,
        live: &Live,
        ask: &Ask<'_>,
        refs: &[WeightedBackend],
        pinned: Option<ClusterId>,
        strict: Scope,
    ) -> Vec<BackendCandidate> {
        let best = live.best_ability(ask, refs, strict);
        let takes_part = |weighted: &&WeightedBackend| live.takes_part(ask, weighted, strict, best);
        let total: u64 = refs.iter().filter(takes_part).map(|weighted| u64::from(weighted.weight)).sum();
        let candidates = refs.iter().map(|weighted| {
            let ability = weighted.backend.map(|backend| live.ability(ask, backend, strict));
            let why = match ability {
                _ if takes_part(&weighted) => Why::Chosen,
                _ if weighted.weight == 0 => Why::Lost("weight 0".into()),
                Some(Ability::Ejected) => Why::Lost("every endpoint ejected".into()),
                Some(Ability::Healthy | Ability::None) | None => Why::Lost("no endpoint".into()),
            };
            let clusters = weighted.backend.map(|backend| {
                let scope = live.scope(ask, backend, pinned.or(weighted.cluster), strict);
                self.explain_clusters(live, ask, backend, scope)
            });
            BackendCandidate {
                name: weighted.backend.map_or("", |id| self.world.backend_name(id)).into(),
                weight: weighted.weight,
                probability: if why == Why::Chosen { part(u64::from(weighted.weight), total) } else { 0.0 },
                why,
                clusters: clusters.unwrap_or_default(),
            }
        });
        candidates.collect()
    }

    fn explain_clusters(
        &self,
        live: &Live,
        ask: &Ask<'_>,
        backend: BackendId,
        scope: Scope,
    ) -> Vec<ClusterCandidate> {
        let best = live.best_rank(ask, backend, scope);
        let judge = |share: &ClusterShare| {
            let offer = live.offer(ask, backend, share)?;
            let rank = failover::rank(&offer, ask.weights)?;
            let endpoints = offer.members().map_or(0, |tier| offer.counts[tier as usize]);
            Some((rank, failover::weight(&offer.share, endpoints, ask.weights)))
        };
        let in_scope = |share: &ClusterShare| scope == Scope::All || scope == Scope::Only(share.cluster);
        let wins = |share: &ClusterShare| match judge(share) {
            Some((rank, weight)) if in_scope(share) && !ask.is_fenced(share) && Some(rank) == best => {
                Some(weight)
            }
            Some(_) | None => None,
        };
        let total: u64 = ask.policy.clusters.iter().filter_map(wins).sum();
        let candidates = ask.policy.clusters.iter().map(|share| {
            let judged = judge(share);
            let states = live.states(backend, share.cluster);
            let why = match (wins(share), judged) {
                (Some(_), _) => Why::Chosen,
                (None, None) => Why::Lost("no endpoint".into()),
                (None, Some(_)) if !in_scope(share) => Why::Lost("pinned elsewhere".into()),
                (None, Some(_)) if ask.is_fenced(share) => {
                    Why::Lost("a standby that is not promoted: writes do not follow".into())
                }
                (None, Some((rank, _))) => {
                    Why::Lost(format!("{}{rank}: another cluster ranks higher", verdicts(states)))
                }
            };
            let tier = judged.filter(|_| why == Why::Chosen).map(|(rank, _)| rank.tier);
            let (counts, endpoints) = explain_endpoints(live, backend, share, tier);
            let listed = endpoints.len();
            ClusterCandidate {
                name: self.world.cluster_name(share.cluster).into(),
                priority: share.priority,
                weight: share.weight,
                counts,
                states,
                rank: judged.map(|(rank, _)| rank),
                probability: wins(share).map_or(0.0, |weight| part(weight, total)),
                why,
                endpoints,
                endpoints_left_out: counts.iter().sum::<u32>() as usize - listed,
            }
        });
        candidates.collect()
    }
}

fn explain_endpoints(
    live: &Live,
    backend: BackendId,
    share: &ClusterShare,
    chosen: Option<Tier>,
) -> ([u32; 3], Vec<EndpointCandidate>) {
    let Some(group) = live.backend(backend).and_then(|entry| entry.group(share.cluster)) else {
        return ([0; 3], Vec::new());
    };
    let members = TIERS.into_iter().flat_map(|tier| group.tier(tier).iter().map(move |slot| (tier, *slot)));
    let endpoints = members.take(EXPLAIN_ITEMS_MAX).map(|(tier, slot)| {
        let slot = &live.slots[slot as usize];
        let why = match (chosen, tier) {
            (Some(chosen), tier) if chosen == tier => Why::Chosen,
            (None, _) => Why::Lost("its cluster is not chosen".into()),
            (Some(_), Tier::Terminating) => Why::Lost("terminating".into()),
            (Some(_), Tier::Ready | Tier::Suspect | Tier::Probation | Tier::Ejected | Tier::Unreachable) => {
                let state = slot.state;
                Why::Lost(if state == State::Healthy { slot.health.to_string() } else { state.to_string() })
            }
        };
        let state = slot.state;
        EndpointCandidate { addr: slot.addr, health: slot.health, state, in_flight: slot.in_flight, why }
    });
    let [ready, terminating, suspect, probation, ejected, unreachable] = group.counts;
    ([ready, terminating, suspect + probation + ejected + unreachable], endpoints.collect())
}

/// The verdicts that are not "healthy", for a reason.
fn verdicts((cluster, backend): (State, State)) -> String {
    let mut text = String::new();
    for (of, state) in [("cluster", cluster), ("backend", backend)] {
        if state != State::Healthy {
            text.push_str(&format!("{of} {state}, "));
        }
    }
    text
}

/// Has an earlier rule won?
#[derive(Clone, Copy)]
enum Decided {
    NotYet,
    Earlier,
}

fn lost(mismatch: Option<Mismatch>, decided: Decided) -> String {
    match (mismatch, decided) {
        (Some(mismatch), Decided::NotYet | Decided::Earlier) => mismatch.to_string(),
        (None, Decided::Earlier | Decided::NotYet) => "matches, but an earlier rule comes first".into(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a share for people to read")]
fn part(weight: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { weight as f64 / total as f64 }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => f.write_str("chosen"),
            Self::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "no listener of this address owns the host",
            Self::Host => "the listener has no rules for the host",
            Self::Rule => "no rule of the host matches the request",
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "generation {}", self.generation.0)?;
        for listener in &self.listeners {
            writeln!(f, "listener {listener}")?;
        }
        match &self.rule {
            Ok(rule) => writeln!(f, "rule {rule:?}")?,
            Err(none) => writeln!(f, "no rule: {none}")?,
        }
        for rule in &self.rules {
            writeln!(f, "  {} rules[{}]: {}", rule.route, rule.rule_index, rule.why)?;
        }
        if self.rules_left_out > 0 {
            writeln!(f, "  … and {} more rules", self.rules_left_out)?;
        }
        match &self.pin {
            Some((cluster, Strictness::Strict)) => writeln!(f, "pinned to {cluster}, strictly")?,
            Some((cluster, Strictness::FallsBack)) => writeln!(f, "pinned to {cluster}")?,
            None => {}
        }
        for backend in &self.backends {
            write!(f, "{backend}")?;
        }
        Ok(())
    }
}

impl fmt::Display for BackendCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "(unresolved)" } else { &self.name };
        let percent = self.probability * 100.0;
        writeln!(f, "backend {name} weight {} ({percent:.1} %): {}", self.weight, self.why)?;
        self.clusters.iter().try_for_each(|cluster| write!(f, "{cluster}"))
    }
}

impl fmt::Display for ClusterCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ready, terminating, ejected] = self.counts;
        let percent = self.probability * 100.0;
        write!(f, "  cluster {} priority {}", self.name, self.priority)?;
        if let Some(weight) = self.weight {
            write!(f, " weight {weight}")?;
        }
        writeln!(
            f,
            " ({percent:.1} %), {ready} ready, {terminating} terminating, {ejected} out: {}",
            self.why
        )?;
        for endpoint in &self.endpoints {
            let EndpointCandidate { addr, health, state, in_flight, why } = endpoint;
            write!(f, "    {addr} {health}")?;
            if *state != State::Healthy {
                write!(f, ", {state}")?;
            }
            writeln!(f, ", {in_flight} in flight: {why}")?;
        }
        if self.endpoints_left_out > 0 {
            writeln!(f, "    … and {} more endpoints", self.endpoints_left_out)?;
        }
        Ok(())
    }
}
