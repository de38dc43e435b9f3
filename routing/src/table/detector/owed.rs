//! Answers that are owed on connections of which only the bytes are known (layer 4).
//!
//! A client's bytes that are usually answered are evidence as a request of HTTP is, with two differences. How long an
//! answer takes is the affair of whoever asked: a long query, a wait for the next message. So what is slow is never down
//! for it. And a connection that was sent elsewhere stays there: so no suspicion is raised by what is owed, only by connects
//! that are not accepted. Silence makes the detector ask, and only together with an application that does not answer, while
//! its traffic is still silent, is it a verdict: two proofs, and nothing before.

use std::time::Duration;

use super::events::Site;
use super::{Live, NEVER_COUNTED};
use crate::health::board::Subject;
use crate::health::endpoint::Outcome;
use crate::health::evidence::OUTSTANDING_MIN;
use crate::model::OutlierPolicy;
use crate::table::{EndpointKey, HealthEvent};
use crate::time::MonoTime;

/// How an answer that was owed came not to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nothing was owed after all, or not yet.
    Withdrawn,
    /// Nobody waits for it any longer.
    GivenUp,
}

impl Live {
    /// A connect was accepted where answers are usual. That a kernel accepts is no sign of life, and no answer.
    pub(crate) fn on_accepted(
        &mut self,
        key: EndpointKey,
        began: MonoTime,
        now: MonoTime,
        policy: &OutlierPolicy,
    ) -> Option<HealthEvent> {
        self.restore_due(now);
        self.sync(now);
        let site = self.site(key)?;
        self.detector.ended(site, Some(began), false, now);
        self.eject(key, Outcome::Success, now, policy)
    }

    pub(crate) fn on_asked(&mut self, key: EndpointKey, now: MonoTime) {
        self.on_sent(key, now);
        if let Some(site) = self.site(key) {
            self.owe(site, 1);
            if let Some(at) = site.part {
                self.detector.parts[at as usize].is_opaque = true;
            }
        }
    }

    pub(crate) fn on_replied(&mut self, key: EndpointKey, asked: MonoTime, now: MonoTime) {
        if let Some(site) = self.site(key) {
            self.owe(site, -1);
        }
        self.sync(now);
        self.learn(key, Outcome::Success, Some(now.since(asked)), now);
    }

    pub(crate) fn on_unanswered(
        &mut self,
        key: EndpointKey,
        asked: MonoTime,
        why: Unanswered,
        now: MonoTime,
    ) {
        let Some(site) = self.site(key) else { return };
        self.owe(site, -1);
        match why {
            Unanswered::Withdrawn => self.detector.ended(site, Some(asked), false, now),
            Unanswered::GivenUp => {
                let age: Duration = now.since(asked);
                self.learn(key, Outcome::Abandoned, Some(age), now);
            }
        }
    }

    /// An endpoint leaves: its backend neither owes nor waits for what is asked of it, whose ends it will not hear of. Its
    /// cluster does until they come.
    pub(crate) fn forget_owed(&mut self, slot: u32, now: MonoTime) {
        let pulse = self.pulse(slot);
        let (owed, outstanding, uncounted) = (pulse.owed, pulse.outstanding, pulse.uncounted);
        let Some(site) = self.site(self.key(slot)).filter(|_| outstanding > 0) else { return };
        self.owe_here(site, -i32::try_from(owed).unwrap_or(i32::MAX));
        if let Some(at) = site.part.filter(|_| uncounted != NEVER_COUNTED) {
            let detector = &mut self.detector;
            let waiting = &mut detector.parts[at as usize].flow.waiting;
            (0..outstanding).for_each(|_| waiting.ended(None, now));
            if waiting.total() == 0 {
                detector.quiet_parts.remove(&mut detector.parts, at);
            }
        }
    }

    fn owe(&mut self, site: Site, count: i32) {
        self.owe_here(site, count);
        // Of one that has left, too: what is sent there waits in its cluster all the same.
        if let Some(entry) = self.detector.clusters.get_mut(site.cluster.index()) {
            entry.owed = entry.owed.saturating_add_signed(count);
        }
    }

    /// By an endpoint, and by its backend where it is.
    fn owe_here(&mut self, site: Site, count: i32) {
        if site.is_live && site.pulse != 0 {
            let pulse = &mut self.detector.pulses[site.pulse as usize];
            pulse.owed = pulse.owed.saturating_add_signed(count);
        }
        if let Some(at) = site.part {
            let part = &mut self.detector.parts[at as usize];
            part.owed = part.owed.saturating_add_signed(count);
        }
    }

    /// Does enough wait there that is not an answer on a connection, so that silence may raise a suspicion?
    pub(super) fn may_doubt(&mut self, subject: Subject, now: MonoTime) -> bool {
        let (waits, owed) = match subject {
            Subject::Cluster(cluster) => {
                let Some(entry) = self.detector.clusters.get_mut(cluster.index()) else { return false };
                (entry.flow.waiting.count(now), entry.owed)
            }
            Subject::Backend(backend, cluster) => {
                let Some(at) = self.detector.part_of(&self.backends, backend, cluster) else { return false };
                let part = &mut self.detector.parts[at as usize];
                let waits = part.flow.waiting.count(now);
                if waits == 0 {
                    // What its cluster waits for waits at endpoints that have left, or with other workers.
                    return false;
                }
                (waits, part.owed)
            }
            Subject::Endpoint(id) => {
                let Some(slot) = self.slot_of(id) else { return false };
                (self.pulse(slot).outstanding, self.pulse(slot).owed)
            }
        };
        // What other workers wait for they judge themselves.
        owed == 0 || waits.saturating_sub(owed) >= OUTSTANDING_MIN
    }

    /// Is only the speech of its connections known, so that slowness says nothing?
    pub(super) fn is_opaque(&self, subject: Subject) -> bool {
        let (backend, cluster) = match subject {
            Subject::Cluster(_) => return false,
            Subject::Backend(backend, cluster) => (backend, cluster),
            Subject::Endpoint(id) => match self.slot_of(id).map(|slot| &self.slots[slot as usize]) {
                Some(slot) => (slot.backend, slot.cluster),
                None => return false,
            },
        };
        let part = self.detector.part_of(&self.backends, backend, cluster);
        part.is_some_and(|at| self.detector.parts[at as usize].is_opaque)
    }
}
