//! What a run is made of: the clusters, the policy, the faults, and what becomes of what is sent into them.
//!
//! All of it is a function of the seed and of time, so that nothing needs to be undone when a fault ends.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use routing::delta::RouteTable;
use routing::id::{BackendId, ClusterId, EndpointId, NodeId, ZoneId};
use routing::model::*;

use crate::common;

/// Nanoseconds of simulated time; workers read clocks that are a little behind it.
pub(crate) type Time = u64;

pub(crate) const US: Time = 1_000;
pub(crate) const MS: Time = 1_000_000;

pub(crate) fn duration(ns: Time) -> Duration {
    Duration::from_nanos(ns)
}

/// What is wrong somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Killed: connections break, connects are refused.
    Refuse,
    /// Packets are dropped both ways.
    Silent,
    /// The kernel accepts, the application does not answer.
    Hang,
    /// Every request is answered 503, probes are answered.
    Errors,
    /// Requests take this many milliseconds longer, probes do not.
    Slow(u64),
    /// Only probes are dropped.
    DeafToProbes,
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Cluster(u16),
    Backend(u32, u16),
    Endpoint(u32),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) at: Where,
    pub(crate) from: Time,
    pub(crate) to: Time,
}

/// One endpoint, as the world sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) id: u32,
    pub(crate) backend: u32,
    pub(crate) cluster: u16,
}

impl Where {
    pub(crate) fn holds(self, site: Site) -> bool {
        match self {
            Self::Cluster(cluster) => site.cluster == cluster,
            Self::Backend(backend, cluster) => site.backend == backend && site.cluster == cluster,
            Self::Endpoint(id) => site.id == id,
        }
    }

    /// Is all of `inner` a part of this, and not the whole?
    pub(crate) fn contains(self, plan: &Plan, inner: Self) -> bool {
        self != inner && plan.sites.iter().all(|site| self.holds(*site) || !inner.holds(*site))
    }
}

/// Everything that a seed decides before time begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workers: u16,
    pub(crate) clusters: u16,
    pub(crate) backends: u32,
    pub(crate) sites: Vec<Site>,
    pub(crate) policy: Policy,
    /// `in_flight_max` of every cluster but the first.
    pub(crate) capacity: u32,
    pub(crate) promoted: bool,
    pub(crate) faults: Vec<Fault>,
    /// Mean time between two requests of the whole node.
    pub(crate) gap: Time,
    /// Mean time between two stalls of one worker; 0 = none.
    pub(crate) stall_gap: Time,
    /// A worker stands still right after it sent a probe, and sees its timers first: the worst moment.
    pub(crate) stall_at_probes: bool,
    /// Share of requests that may not be repeated, in percent.
    pub(crate) posts: u32,
    /// One idle connection in so many closes as it is used; 0 = none.
    pub(crate) races: u32,
    /// Every endpoint is checked.
    pub(crate) checked: bool,
    /// Endpoints that leave the table and come back, between two times.
    pub(crate) absences: Vec<(u32, Time, Time)>,
    /// Requests are sent until then.
    pub(crate) until: Time,
    /// Everything must be well again this long after the last fault.
    pub(crate) return_bound: Time,
    /// Answers take this long, and one in a hundred takes this long.
    pub(crate) service: (Time, Time),
    pub(crate) tail: (Time, Time),
}

impl Plan {
    /// Two clusters of two endpoints, active and standby, healthy, one worker, 2,000 requests a second.
    pub(crate) fn quiet() -> Self {
        let policy = Policy {
            retry: RetryPolicy { statuses: [503].into(), ..Policy::default().retry },
            timeouts: Timeouts { request: duration(3_000 * MS), ..Policy::default().timeouts },
            ..common::plan(&[(0, 0, None), (1, 1, None)])
        };
        let mut plan = Self {
            workers: 1,
            clusters: 2,
            backends: 1,
            sites: Vec::new(),
            policy,
            capacity: 0,
            promoted: false,
            faults: Vec::new(),
            gap: MS / 2,
            stall_gap: 0,
            stall_at_probes: false,
            posts: 0,
            races: 0,
            checked: false,
            absences: Vec::new(),
            until: 1_000 * MS,
            return_bound: 6_000 * MS,
            service: (MS, 3 * MS),
            tail: (20 * MS, 40 * MS),
        };
        plan.fill(|_, _| 2);
        plan
    }

    pub(crate) fn fill(&mut self, mut count: impl FnMut(u32, u16) -> u32) {
        self.sites.clear();
        for cluster in 0..self.clusters {
            for backend in 0..self.backends {
                for _ in 0..count(backend, cluster) {
                    let id = u32::try_from(self.sites.len()).unwrap();
                    self.sites.push(Site { id, backend, cluster });
                }
            }
        }
    }

    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let mut plan = Self::quiet();
        plan.workers = rng.random_range(1..=4);
        plan.clusters = rng.random_range(2..=3);
        plan.backends = rng.random_range(1..=2);
        plan.fill(|_, _| rng.random_range(1..=4));
        let standby = rng.random_bool(0.6);
        let shares: Vec<_> = (0..plan.clusters)
            .map(|cluster| (cluster, if standby { cluster.min(1) as u8 } else { 0 }, None))
            .collect();
        let hedge = match rng.random_range(0..10) {
            0 => HedgeMode::Disabled,
            1 | 2 => HedgeMode::Always,
            _ => HedgeMode::Suspect,
        };
        let fenced = rng.random_bool(0.2);
        plan.policy = Policy {
            clusters: common::plan(&shares).clusters,
            hedge,
            spill_percent: if rng.random_bool(0.2) { 70 } else { 0 },
            write_fence: if fenced { WriteFence::UntilPromoted } else { WriteFence::Disabled },
            balance: if rng.random_bool(0.3) { Balance::RoundRobin } else { Balance::LeastRequest },
            ..plan.policy
        };
        plan.capacity = if rng.random_bool(0.2) { rng.random_range(2..20) } else { 0 };
        plan.promoted = rng.random_bool(0.3);
        plan.gap = 1_000 * MS / [60, 300, 600, 900, 1_200][rng.random_range(0..5)];
        plan.stall_gap = if rng.random_bool(0.7) { rng.random_range(60..400) * MS } else { 0 };
        plan.posts = rng.random_range(5..40);
        plan.until = 400 * MS;
        let faults = if seed.is_multiple_of(8) { 0 } else { rng.random_range(1..=2) };
        for _ in 0..faults {
            let fault = plan.random_fault(rng);
            plan.until = fault.to + 100 * MS;
            plan.faults.push(fault);
        }
        plan.until += 300 * MS;
        plan
    }

    /// The same with what goes on beside: active checks, idle connections that close as they are used, endpoints that
    /// leave the table and come back.
    pub(crate) fn restless(seed: u64) -> Self {
        let mut plan = Self::random(seed);
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x00AB_5E4C);
        plan.races = if rng.random_bool(0.5) { rng.random_range(50..500) } else { 0 };
        plan.checked = rng.random_bool(0.5);
        for _ in 0..rng.random_range(0..4) {
            let (from, lasts) = (rng.random_range(100 * MS..plan.until), rng.random_range(1..200) * MS);
            plan.absences.push((rng.random_range(0..plan.sites.len()) as u32, from, from + lasts));
        }
        plan
    }

    /// Has an endpoint left the table at that time?
    fn is_absent(&self, endpoint: u32, at: Time) -> bool {
        self.absences.iter().any(|(absent, from, to)| *absent == endpoint && (*from..*to).contains(&at))
    }

    fn random_fault(&self, rng: &mut SmallRng) -> Fault {
        let kind = match rng.random_range(0..10) {
            0 | 1 => Kind::Refuse,
            2 | 3 => Kind::Silent,
            4 | 5 => Kind::Hang,
            6 | 7 => Kind::Errors,
            8 => Kind::Slow(rng.random_range(50..500)),
            _ => Kind::DeafToProbes,
        };
        let cluster = rng.random_range(0..self.clusters);
        let at = match rng.random_range(0..4) {
            0 | 1 => Where::Cluster(cluster),
            2 => Where::Backend(rng.random_range(0..self.backends), cluster),
            _ => Where::Endpoint(rng.random_range(0..self.sites.len()) as u32),
        };
        let from = self.until + rng.random_range(0..50 * MS);
        Fault { kind, at, from, to: from + rng.random_range(10..400) * MS }
    }

    fn detection(&self) -> Detection {
        let check = HealthCheck {
            probe: CheckProbe::Http { path: "/healthz".into(), host: "".into(), asks: Default::default() },
            port: None,
            interval: duration(20 * MS),
            timeout: duration(15 * MS),
            unhealthy_threshold: 2,
            healthy_threshold: 3,
        };
        Detection { check: self.checked.then(|| Arc::new(check)), ..Detection::default() }
    }

    /// The same as the table that every worker runs at that time.
    pub(crate) fn table(&self, at: Time) -> RouteTable {
        let names: Vec<String> = (0..self.clusters).map(|n| format!("cluster-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut table = common::world(&names, &[(0, 1)], self.policy.clone());
        for backend in 0..self.backends {
            let name = format!("default/b{backend}:80").as_str().into();
            let spec = BackendSpec { name, detection: self.detection(), ..BackendSpec::default() };
            table.backends.insert(BackendId(backend), Arc::new(spec));
        }
        let rules = (0..self.backends).rev().map(|backend| {
            let target = common::forward(&[(backend, 1)]);
            let action = common::action("Ingress default/web", 0, target, Arc::new(self.policy.clone()));
            Rule { matches: common::prefix(&path_of(backend)), action }
        });
        let rules: Vec<Rule> = rules.collect();
        table.hosts.insert(common::key(0, HostPattern::Any), Arc::new(HostRules::new(rules)));
        for cluster in 1..self.clusters {
            let spec = ClusterSpec {
                name: format!("cluster-{cluster}").into(),
                in_flight_max: self.capacity,
                promoted: self.promoted,
                ..ClusterSpec::default()
            };
            table.clusters.insert(ClusterId(cluster), Arc::new(spec));
        }
        for site in self.sites.iter().filter(|site| !self.is_absent(site.id, at)) {
            let spec = EndpointSpec {
                zone: ZoneId(site.cluster * 2 + 1 + (site.id % 2) as u16),
                node: NodeId(site.id + 1),
                ..common::endpoint(site.backend, site.cluster, site.id)
            };
            table.endpoints.insert(EndpointId(site.id), spec);
        }
        table
    }

    pub(crate) fn healed(&self) -> Time {
        self.faults.iter().map(|fault| fault.to).max().unwrap_or(0)
    }

    pub(crate) fn fault(&self, endpoint: u32, at: Time) -> Option<Fault> {
        let site = self.sites[endpoint as usize];
        self.faults.iter().copied().find(|fault| fault.from <= at && at < fault.to && fault.at.holds(site))
    }

    /// Was one of these at work in `at`, or in a part of it, during that time?
    pub(crate) fn any_fault(&self, at: Where, from: Time, to: Time, is: impl Fn(Kind) -> bool) -> bool {
        let inside = self.sites.iter().filter(|site| at.holds(**site));
        inside.into_iter().any(|site| {
            let here = |fault: &&Fault| fault.at.holds(*site) && is(fault.kind);
            self.faults.iter().filter(here).any(|fault| fault.from <= to && from < fault.to)
        })
    }

    fn kind(&self, endpoint: u32, at: Time) -> Option<Kind> {
        self.fault(endpoint, at).map(|fault| fault.kind)
    }

    /// When an endpoint is killed between two times.
    fn killed(&self, endpoint: u32, from: Time, to: Time) -> Option<Time> {
        let site = self.sites[endpoint as usize];
        let kills = self.faults.iter().filter(|fault| fault.kind == Kind::Refuse && fault.at.holds(site));
        kills.map(|fault| fault.from).filter(|at| from < *at && *at <= to).min()
    }

    // ------------------------------------------------------------ what becomes of it

    /// A connect: how it ends, and when.
    pub(crate) fn connect(&self, endpoint: u32, at: Time, rng: &mut SmallRng) -> (Time, Reply) {
        let way = way(rng);
        match self.kind(endpoint, at + way) {
            Some(Kind::Refuse) => (at + 2 * way, Reply::Refused),
            // The SYN is sent again after a second: too late.
            Some(Kind::Silent) => (at + 1_000 * MS, Reply::Lost),
            Some(Kind::Hang | Kind::Errors | Kind::Slow(_) | Kind::DeafToProbes) | None => {
                (at + 2 * way, Reply::Connected)
            }
        }
    }

    /// A request on a connection: how it ends, and when. Dead sockets are given up after 500 ms (TCP_USER_TIMEOUT).
    pub(crate) fn request(&self, endpoint: u32, at: Time, rng: &mut SmallRng) -> (Time, Reply) {
        const GIVEN_UP: Time = 500 * MS;
        let range = if rng.random_bool(0.01) { self.tail } else { self.service };
        let service = rng.random_range(range.0..range.1);
        let (mut arrives, mut status) = (at + way(rng), 200);
        let done = match self.fault(endpoint, arrives).map(|fault| (fault.kind, fault.to)) {
            None | Some((Kind::DeafToProbes, _)) => arrives + service,
            Some((Kind::Errors, _)) => {
                status = 503;
                arrives + MS
            }
            Some((Kind::Slow(ms), _)) => arrives + service + ms * MS,
            Some((Kind::Refuse, _)) => return (arrives + way(rng), Reply::Closed),
            Some((Kind::Hang, to)) => to + rng.random_range(0..5 * MS) + service,
            Some((Kind::Silent, to)) if to < at + GIVEN_UP - 200 * MS => {
                arrives = to + rng.random_range(0..200 * MS);
                arrives + service
            }
            Some((Kind::Silent, _)) => return (at + GIVEN_UP, Reply::Closed),
        };
        if let Some(killed) = self.killed(endpoint, arrives, done) {
            return (killed + way(rng), Reply::Closed);
        }
        let leaves = match self.fault(endpoint, done).map(|fault| (fault.kind, fault.to)) {
            Some((Kind::Hang, to)) => to + rng.random_range(0..5 * MS),
            Some((Kind::Silent, to)) if to < done + GIVEN_UP - 200 * MS => to + rng.random_range(0..200 * MS),
            Some((Kind::Silent, _)) => return (done + GIVEN_UP, Reply::Closed),
            Some((Kind::Refuse, _)) => return (done + way(rng), Reply::Closed),
            Some((Kind::Errors | Kind::Slow(_) | Kind::DeafToProbes, _)) | None => done,
        };
        (leaves + way(rng), Reply::Status(status))
    }

    /// A probe: how it ends, and when. Only of the application when `app`.
    pub(crate) fn probe(&self, endpoint: u32, app: bool, at: Time, rng: &mut SmallRng) -> (Time, Reply) {
        let way = way(rng);
        let think = if app { rng.random_range(100 * US..800 * US) } else { 0 };
        match self.kind(endpoint, at + way) {
            Some(Kind::Refuse) => (at + 2 * way, Reply::Refused),
            Some(Kind::Silent | Kind::DeafToProbes) => (at, Reply::Lost),
            Some(Kind::Hang) if app => (at, Reply::Lost),
            Some(Kind::Hang | Kind::Errors | Kind::Slow(_)) | None => {
                (at + 2 * way + think, Reply::Connected)
            }
        }
    }
}

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Connected,
    Refused,
    /// Nothing: the time is when whoever waits gives up.
    Lost,
    Closed,
    Status(u16),
}

/// One way through the network: messages overtake each other.
fn way(rng: &mut SmallRng) -> Time {
    if rng.random_bool(0.01) {
        rng.random_range(100 * US..600 * US)
    } else {
        rng.random_range(30 * US..120 * US)
    }
}

pub(crate) fn path_of(backend: u32) -> String {
    format!("/b{backend}")
}
