//! What an attempt in flight should do: stay, be hedged, or leave.

use std::time::Duration;

use super::{Live, unreachable};
use crate::failover::Tier;
use crate::health::action::{Advice, HedgeWhy};
use crate::health::board::Subject;
use crate::health::state::State;
use crate::model::{HedgeMode, Policy};
use crate::table::Pick;
use crate::table::live::Life;
use crate::table::world::World;
use crate::time::MonoTime;

/// A hedge that was not granted is asked for again after this.
const AGAIN: Duration = Duration::from_millis(5);
/// What nobody else could take is asked about again after this, for whoever is down or full may be back meanwhile: no
/// verdict wakes those that wait elsewhere.
const NOBODY_AGAIN: Duration = Duration::from_millis(50);

/// Where else an attempt could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    /// To another endpoint.
    Endpoint,
    /// To another cluster.
    Cluster,
}

impl Live {
    /// `others` = further attempts of the exchange, failed or in flight.
    pub(crate) fn advise(
        &mut self,
        world: &World,
        pick: &Pick,
        sent_at: MonoTime,
        now: MonoTime,
        policy: &Policy,
        others: usize,
    ) -> Advice {
        self.sync(now);
        let stay = Advice::Stay { again: None };
        let Some(slot) = self.slot(pick.endpoint) else { return stay };
        if others + 1 >= usize::from(policy.retry.attempts) {
            return stay;
        }
        let states = self.worst(slot);
        let [cluster, part, endpoint] = states;
        let is_wide = cluster != State::Healthy || part != State::Healthy;
        let apart = if is_wide { Apart::Cluster } else { Apart::Endpoint };
        let nobody = Some(now + NOBODY_AGAIN);
        let is_left = unreachable(states).filter(|_| !pick.panic);
        if let Some(reason) = is_left
            && self.has_other(world, pick, policy, apart)
        {
            return Advice::Leave { reason };
        }
        if policy.hedge == HedgeMode::Disabled {
            return Advice::Stay { again: nobody.filter(|_| is_left.is_some()) };
        }
        let (delay, stalled) = self.delays(pick, policy);
        let again = now + AGAIN;
        let why = [cluster, part, endpoint].into_iter().find_map(|state| match state {
            State::Suspect => Some(HedgeWhy::Suspect),
            State::Down(reason) => Some(HedgeWhy::Down(reason)),
            // A single request on probation is tied by whoever sends it.
            State::Healthy | State::Probation | State::Ramp => None,
        });
        if let Some(why) = why
            && self.has_other(world, pick, policy, apart)
        {
            return Advice::Hedge { why, again };
        }
        let age = now.since(sent_at);
        match [(stalled, HedgeWhy::Stalled), (delay, HedgeWhy::Delay)]
            .into_iter()
            .find(|(after, _)| after.is_some_and(|after| age >= after))
        {
            Some((_, why)) => {
                if why == HedgeWhy::Stalled {
                    self.doubt_stalled(pick, now);
                }
                if self.has_other(world, pick, policy, Apart::Endpoint) {
                    Advice::Hedge { why, again }
                } else {
                    Advice::Stay { again: nobody }
                }
            }
            None => {
                let next = [delay, stalled].into_iter().flatten().min().map(|after| sent_at + after);
                let nobody = nobody.filter(|_| why.is_some());
                Advice::Stay { again: [next, nobody].into_iter().flatten().min() }
            }
        }
    }

    /// After how long an attempt is hedged against the tail, and after how long it is stalled.
    fn delays(&self, pick: &Pick, policy: &Policy) -> (Option<Duration>, Option<Duration>) {
        let part = self.detector.part_of(&self.backends, pick.backend, pick.cluster);
        let Some(flow) = part.map(|at| &self.detector.parts[at as usize].flow) else { return (None, None) };
        let delays = flow.delays();
        match policy.hedge {
            HedgeMode::Always => (delays.hedge, delays.stalled),
            HedgeMode::Suspect | HedgeMode::Disabled => (None, delays.stalled),
        }
    }

    /// One connection stalls, or all of this endpoint: ask it, while others answer.
    fn doubt_stalled(&mut self, pick: &Pick, now: MonoTime) {
        let Some(slot) = self.slot(pick.endpoint).filter(|slot| slot.life == Life::Live) else { return };
        let subject = Subject::Endpoint(slot.id);
        let pulse = self.pulse(pick.endpoint.slot);
        // An endpoint that has answered others meanwhile lives.
        if now.since(pulse.heard) >= self.endpoint_threshold(pick.endpoint.slot).suspicious {
            let since = self.pulse(pick.endpoint.slot).links.since;
            self.inquire(subject, since, now);
        }
    }

    /// Could another attempt go somewhere that is not in doubt?
    fn has_other(&self, world: &World, pick: &Pick, policy: &Policy, apart: Apart) -> bool {
        let Some(entry) = self.backend(pick.backend) else { return false };
        policy.clusters.iter().any(|share| {
            let Some(group) = entry.group(share.cluster) else { return false };
            if world.cluster(share.cluster).is_none() {
                return false;
            }
            let verdict = self.detector.cluster(share.cluster).map(|entry| entry.verdict.state());
            let tier = Tier::of(verdict.unwrap_or_default()).max(Tier::of(group.word.state()));
            let good: u32 = group.counts[..=Tier::Terminating as usize].iter().sum();
            if tier > Tier::Terminating {
                return false;
            }
            if share.cluster != pick.cluster {
                return good > 0;
            }
            let here = self.slot(pick.endpoint).filter(|slot| slot.life == Life::Live);
            let own = here.is_some_and(|slot| slot.tier() <= Tier::Terminating);
            apart == Apart::Endpoint && good > u32::from(own)
        })
    }
}
