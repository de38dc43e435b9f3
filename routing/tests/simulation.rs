//! Random life of a table: picks, outcomes, releases, time and changes in any order, with the invariants checked
//! after every step.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::id::{BackendId, ClusterId, EndpointId};
use routing::model::*;
use routing::table::{EndpointView, NoEndpoint, Pick};
use routing::time::MonoTime;

#[derive(Clone, Debug)]
enum Step {
    /// Pick with so many earlier tries of the same exchange, up to what is in flight.
    Pick {
        retries: usize,
    },
    Outcome {
        of: usize,
        good: bool,
    },
    Release {
        of: usize,
    },
    Advance {
        ms: u64,
    },
    Add {
        id: u32,
        cluster: u16,
        n: u32,
        ready: bool,
    },
    Remove {
        id: u32,
    },
    Replan {
        balance: u8,
        weights: bool,
        standby: bool,
        panic: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..4).prop_map(|retries| Step::Pick { retries }),
        8 => (0usize..64, prop::bool::weighted(0.3)).prop_map(|(of, good)| Step::Outcome { of, good }),
        4 => (0usize..64).prop_map(|of| Step::Release { of }),
        2 => (1u64..900).prop_map(|ms| Step::Advance { ms }),
        4 => (0u32..10, 0u16..3, 0u32..30, prop::bool::weighted(0.8))
            .prop_map(|(id, cluster, n, ready)| Step::Add { id, cluster, n, ready }),
        2 => (0u32..10).prop_map(|id| Step::Remove { id }),
        1 => (0u8..4, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(balance, weights, standby, panic)| Step::Replan { balance, weights, standby, panic }),
    ]
}

fn policy(balance: u8, weights: bool, standby: bool, panic: bool) -> Policy {
    let weight = |weight| weights.then_some(weight);
    let balance = match balance {
        0 => Balance::LeastRequest,
        1 => Balance::RoundRobin,
        2 => Balance::Random,
        _ => Balance::ConsistentHash(HashKey::Source),
    };
    let outlier = OutlierPolicy { consecutive_failures: 2, ..Policy::default().outlier };
    let shares = plan(&[(0, 0, weight(3)), (1, 0, weight(1)), (2, u8::from(standby), weight(0))]);
    Policy { balance, outlier, panic_percent: if panic { 50 } else { 0 }, ..shares }
}

struct Life {
    worker: Worker,
    now: MonoTime,
    in_flight: Vec<Pick>,
    policy: Policy,
    rng: rand::rngs::SmallRng,
}

impl Life {
    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Pick { retries } => return self.pick(retries),
            Step::Outcome { of, good } => {
                if let Some(pick) = self.in_flight.get(of) {
                    let outcome = if good { Outcome::Success } else { Outcome::Closed };
                    self.worker.table.on_outcome(
                        pick.endpoint,
                        outcome,
                        None,
                        self.now,
                        &self.policy.outlier,
                    );
                }
            }
            Step::Release { of } => {
                if of < self.in_flight.len() {
                    self.worker.table.release(self.in_flight.swap_remove(of).endpoint);
                }
            }
            Step::Advance { ms } => self.now = self.now + Duration::from_millis(ms),
            Step::Add { .. } | Step::Remove { .. } | Step::Replan { .. } => return self.change(step),
        }
        Ok(())
    }

    fn change(&mut self, step: &Step) -> Result<(), TestCaseError> {
        // Nothing may be over at `now` that was not over before the change.
        while self.worker.table.next_event(self.now).is_some() {}
        let before = self.views();
        let mut world = self.worker.world.clone();
        match *step {
            Step::Add { id, cluster, n, ready } => {
                let condition = if ready { Condition::Ready } else { Condition::Terminating };
                let spec = EndpointSpec { condition, ..endpoint(0, cluster, n) };
                world.endpoints.insert(EndpointId(id), spec);
            }
            Step::Remove { id } => drop(world.endpoints.remove(&EndpointId(id))),
            Step::Replan { balance, weights, standby, panic } => {
                self.policy = policy(balance, weights, standby, panic);
                let action = action("r", 0, forward(&[(0, 1)]), Arc::new(self.policy.clone()));
                let rules = HostRules::new([Rule { matches: prefix("/"), action }]);
                world.hosts.insert(key(0, HostPattern::Any), Arc::new(rules));
            }
            Step::Pick { .. } | Step::Outcome { .. } | Step::Release { .. } | Step::Advance { .. } => {}
        }
        self.worker.move_to(&world, self.now);
        let after = self.views();
        for (id, spec) in &world.endpoints {
            let view = after.get(id).expect("every endpoint is in the table");
            prop_assert_eq!(
                (view.addr, view.cluster, view.condition),
                (spec.addr, spec.cluster, spec.condition)
            );
            match before.get(id).filter(|old| (old.addr, old.cluster) == (spec.addr, spec.cluster)) {
                Some(old) => prop_assert_eq!(
                    (view.key, view.health, view.in_flight),
                    (old.key, old.health, old.in_flight)
                ),
                None => prop_assert_eq!((view.health, view.in_flight), Default::default()),
            }
        }
        prop_assert_eq!(after.len(), world.endpoints.len());
        Ok(())
    }

    fn pick(&mut self, retries: usize) -> Result<(), TestCaseError> {
        let request = Request::get("h", "/");
        let rule = self.worker.table.route(&request.subject()).expect("one rule for everything");
        let mut tried = Tried::new();
        self.in_flight.iter().take(retries).for_each(|pick| tried.note(pick));
        let picked = self.worker.table.pick(&rule, &request.subject(), &tried, self.now, &mut self.rng);
        let views = self.views();
        let priority = |cluster: ClusterId| {
            self.policy.clusters.iter().find(|share| share.cluster == cluster).expect("planned").priority
        };
        match picked {
            Err(none) => {
                prop_assert_eq!(none, NoEndpoint::NoUsableEndpoint);
                prop_assert!(views.is_empty(), "refused while an endpoint exists");
            }
            Ok(pick) => {
                let view = views[&pick.id];
                let same_priority =
                    || views.values().filter(|other| priority(other.cluster) == priority(pick.cluster));
                let usable = views.values().filter(|view| !view.health.is_ejected()).count();
                let panics = usable * 100 < views.len() * usize::from(self.policy.panic_percent);
                if pick.trial || panics && tried.is_empty() {
                    // A single request on trial, or all are tried because too few are left.
                    prop_assert!(!pick.trial || view.health.is_ejected());
                    self.in_flight.push(pick);
                    return Ok(());
                }
                if view.health.is_ejected() {
                    prop_assert!(views.values().all(|other| other.health.is_ejected()));
                    prop_assert!(pick.panic);
                }
                if view.condition == Condition::Terminating {
                    let better = |other: &&EndpointView| {
                        other.condition == Condition::Ready && !other.health.is_ejected()
                    };
                    prop_assert!(!same_priority().any(|other| better(&other)));
                }
                if tried.is_empty() && priority(pick.cluster) > 0 && !view.health.is_ejected() {
                    let active = |other: &&EndpointView| {
                        let weight = self.policy.clusters[other.cluster.index()].weight;
                        priority(other.cluster) == 0
                            && weight != Some(0)
                            && other.condition == view.condition
                            && !other.health.is_ejected()
                    };
                    prop_assert!(!views.values().any(|other| active(&other)), "standby before active");
                }
                self.in_flight.push(pick);
            }
        }
        Ok(())
    }

    fn views(&self) -> BTreeMap<EndpointId, EndpointView> {
        self.worker.table.endpoints(BackendId(0)).into_iter().map(|view| (view.id, view)).collect()
    }

    /// Load is exactly what was picked and not released.
    fn check_load(&self) -> Result<(), TestCaseError> {
        for view in self.views().values() {
            let held = self.in_flight.iter().filter(|pick| pick.endpoint == view.key).count();
            prop_assert_eq!(view.in_flight as usize, held);
        }
        for pick in &self.in_flight {
            let view = self.worker.table.endpoint(pick.endpoint).expect("an attempt is in flight");
            prop_assert_eq!(view.addr, pick.addr);
        }
        let listed = self.views().values().map(|view| view.in_flight).sum::<u32>();
        let shown = self.worker.table.backends().first().map_or(0, |backend| backend.in_flight);
        prop_assert_eq!(shown, listed);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn invariants_hold_whatever_happens(steps in vec(step(), 1..300), seed in any::<u64>()) {
        let policy = policy(0, false, true, true);
        let start = world(&["alpha", "beta", "gamma"], &[(0, 1)], policy.clone());
        let worker = Worker::new(&start);
        let mut life =
            Life { worker, now: MonoTime::ZERO, in_flight: Vec::new(), policy, rng: rng(seed) };
        for step in &steps {
            life.run(step)?;
            life.check_load()?;
        }
        while let Some(pick) = life.in_flight.pop() {
            life.worker.table.release(pick.endpoint);
            life.check_load()?;
        }
        prop_assert_eq!(life.worker.table.events_lost(), 0);
    }
}
