//! The failure detector end to end: a cluster that stops answering, what its clients feel of it, and what the admin API
//! says of it meanwhile.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::Config;
use gateway::admin::api::{BackendState, Backends, Clusters, HealthState, Standing};
use gateway::admin::explain::Answer;
use gateway::admin::operate::{Answer as Answered, Order, OrderRefused};
use gateway::admin::{Admin, Controller, Facts, VerdictFact};
use gateway::observe::recording::{Line, Recording};
use gateway::observe::stats::Limit;
use routing::delta::{Change, Mail, Update, snapshot};
use routing::id::Generation;
use serde::de::DeserializeOwned;
use support::backend::{Backend, respond};
use support::client::Client;
use support::load::{Load, Stop};
use support::table::World;
use support::{Gateway, PATIENCE, config, until};

/// Clients that send GETs without pause: enough to have several in flight when silence begins.
const CLIENTS: usize = 6;
/// GETs of a phase in which nothing is to happen.
const HEALTHY: u64 = 300;

// ---------------------------------------------------------------- hanging

#[test]
fn a_standby_answers_every_get_while_the_active_cluster_hangs_and_gives_the_traffic_back() {
    hangs_and_heals(1, 1);
}

#[test]
fn the_other_active_cluster_answers_every_get_while_one_hangs_whatever_the_worker() {
    hangs_and_heals(0, 2);
}

fn hangs_and_heals(priority_of_other: u8, workers: u32) {
    let hangs = Arc::new(AtomicBool::new(false));
    let sick = [hanging(&hangs), hanging(&hangs)];
    let well = [Backend::named("well"), Backend::named("well")];
    let world = World::new()
        .cluster(0, &[sick[0].addr, sick[1].addr])
        .cluster(priority_of_other, &[well[0].addr, well[1].addr]);
    let mut config = quiet_config();
    config.worker.count = workers;
    let node = Watched::start(config, world);
    let load = Load::default();
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(|| load.run(node.gateway.addr))));
        let _stop = Stop(&load, &hangs);
        load.more(HEALTHY);
        let healthy = load.slowest();
        // On a busy machine even a healthy cluster may be in doubt for a moment.
        until("it is up", || node.health(0).state == "up");

        // The cluster hangs from the moment that a POST has reached it.
        let post = scope.spawn(|| hang_by_post(node.gateway.addr));
        until("the cluster hangs", || hangs.load(Ordering::SeqCst));
        // Slow is what it looks like until a probe has gone unanswered, too.
        let health = node.down(&["hang", "silent"]);
        assert!(health.since_seconds.is_some_and(|since| since < PATIENCE.as_secs_f64()), "{health:?}");
        load.more(HEALTHY);
        assert!(!post.is_finished(), "a POST waits where it was sent");
        node.shows_the_verdict();

        let before = gets(&sick);
        hangs.store(false, Ordering::SeqCst);
        until("it is shown up again", || node.health(0).state == "up");
        until("its share is back", || gets(&sick) > before + 50);
        assert_eq!(post.join().unwrap(), 200, "answered by whom it was sent to");

        assert_eq!(load.wrong.load(Ordering::SeqCst), 0, "every GET is answered 200");
        let (slowest, bound) = (load.slowest(), healthy * 10 + Duration::from_millis(500));
        assert!(slowest < bound, "{slowest:?} with {healthy:?} in health");
    });
    assert!(node.gateway.sum(|stats| stats.verdicts_total.get()) > 0);
    assert!(node.gateway.sum(|stats| stats.hedges_total.get()) > 0);
    // On a busy machine it may have been in doubt again meanwhile, and ramps up once more.
    until("its metric says healthy", || {
        node.text("/metrics").contains("ringway_cluster_state{cluster=\"cluster-0\",state=\"healthy\"} 1\n")
    });
    let mut posts = BTreeMap::<String, u64>::new();
    for request in sick.iter().chain(&well).flat_map(|backend| backend.requests()) {
        if request.head.starts_with("POST") {
            *posts.entry(request.target().to_owned()).or_default() += 1;
        }
    }
    assert!(posts.values().all(|executions| *executions == 1), "{posts:?}");
}

/// Answers, except while `hangs`; a POST makes it hang.
fn hanging(hangs: &Arc<AtomicBool>) -> Backend {
    let hangs = Arc::clone(hangs);
    Backend::raw(move |peer| {
        while let Some(request) = peer.request() {
            if request.head.starts_with("POST") {
                hangs.store(true, Ordering::SeqCst);
            }
            while hangs.load(Ordering::SeqCst) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            respond(&mut peer.stream, b"sick");
        }
    })
}

/// POSTs until one has met the cluster that it stops; its answer.
fn hang_by_post(gateway: SocketAddr) -> u16 {
    let mut client = Client::connect(gateway);
    client.stream.set_read_timeout(Some(PATIENCE * 6)).unwrap();
    for number in 0.. {
        client.send(format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
        let response = client.response();
        if response.text() == "sick" {
            return response.status;
        }
    }
    unreachable!("each turn may meet the cluster")
}

fn gets(backends: &[Backend]) -> u64 {
    let requests = backends.iter().flat_map(|backend| backend.requests());
    requests.filter(|request| request.head.starts_with("GET")).count() as u64
}

// ---------------------------------------------------------------- recorded

#[test]
fn a_failover_leaves_its_timeline_from_the_first_doubt_to_the_last_request_that_was_moved() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("detector-recordings");
    let _ = fs::remove_dir_all(&dir);
    let hangs = Arc::new(AtomicBool::new(false));
    let (sick, well) = ([hanging(&hangs)], Backend::named("well"));
    let mut config = quiet_config();
    config.observe.recorder_dir = dir.clone();
    config.node.name = "edge-1".to_owned();
    let world = World::new().cluster(0, &[sick[0].addr]).cluster(1, &[well.addr]);
    let gateway = Gateway::start(config, |on| world.on(on));
    let load = Load::default();
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(|| load.run(gateway.addr))));
        let _stop = Stop(&load, &hangs);
        load.more(HEALTHY);
        hangs.store(true, Ordering::SeqCst);
        until("a recording is handed over", || gateway.sum(|stats| stats.recordings_total.get()) > 0);
    });
    assert_eq!(gateway.hits(Limit::Recordings), 0);
    // On a busy machine a verdict on something else may have come before: the one that is meant is looked for.
    let is_meant = |recording: &Recording| {
        let verdict = &recording.verdicts[0];
        verdict.place.cluster.as_deref() == Some("cluster-0") && verdict.to.starts_with("down (")
    };
    until("the recording is written", || recordings(&dir).iter().any(is_meant));
    let recording = recordings(&dir).into_iter().find(is_meant).unwrap();
    assert_eq!((recording.node.as_str(), recording.worker), ("edge-1", 0));
    assert!(recording.verdicts[0].ms.abs() < 1e-9);
    let timeline = &recording.timeline;
    assert!(timeline.is_sorted_by(|a, b| a.ms <= b.ms), "in order");
    let first = |what: &str, is: &dyn Fn(&Line) -> bool| {
        timeline.iter().position(is).unwrap_or_else(|| panic!("no {what}: {timeline:#?}"))
    };
    let of = |line: &Line, cluster: &str| line.place.cluster.as_deref() == Some(cluster);
    let served =
        first("answer before", &|l| l.kind == "outcome" && l.detail == "answered" && of(l, "cluster-0"));
    let down = first("verdict", &|l| l.kind == "down" && of(l, "cluster-0"));
    // The first after the last answer: on a busy machine an earlier one may have been cleared, and what is suspected
    // later (its endpoint after its cluster) finds every request moved already.
    let answered = |l: &Line| l.kind == "outcome" && l.detail == "answered" && of(l, "cluster-0");
    let last = timeline[..down].iter().rposition(answered).unwrap();
    // A suspicion, or what asks without one: where few requests wait, a probe or a stalled request comes first, and with
    // silence and a failed probe the verdict needs no suspicion any more.
    let sick_addr = sick[0].addr.to_string();
    let doubts = |l: &Line| match l.kind.as_str() {
        "suspect" | "probe" => of(l, "cluster-0"),
        "hedge" => l.detail.ends_with(&sick_addr),
        _ => false,
    };
    let suspect = timeline[last..down].iter().position(doubts);
    let suspect = last + suspect.unwrap_or_else(|| panic!("no doubt before it: {timeline:#?}"));
    assert!(served < down, "{timeline:#?}");
    let later = |from: usize, what: &str, is: &dyn Fn(&Line) -> bool| {
        let found = timeline[from..].iter().position(is);
        from + found.unwrap_or_else(|| panic!("no {what} after {from}: {timeline:#?}"))
    };
    let moved = later(suspect, "second attempt", &|l| {
        ["hedge", "leave"].contains(&l.kind.as_str()) && of(l, "cluster-1")
    });
    later(moved, "answer elsewhere", &|l| {
        l.kind == "outcome" && l.detail == "answered" && of(l, "cluster-1") && l.took_ms.is_some()
    });
    let endpoint = sick[0].addr.to_string();
    assert!(timeline[moved].detail.ends_with(&endpoint), "it says beside what: {:?}", timeline[moved]);
    drop(gateway);
    fs::remove_dir_all(&dir).unwrap();
}

/// Every file, parsed.
fn recordings(dir: &Path) -> Vec<Recording> {
    let Ok(files) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
}

// ---------------------------------------------------------------- refusing

#[test]
fn a_cluster_that_refuses_is_down_for_that_reason_until_it_listens_again() {
    let mut sick = Backend::named("sick");
    let well = Backend::named("well");
    let node = Watched::start(quiet_config(), World::new().cluster(0, &[sick.addr]).cluster(1, &[well.addr]));
    let (load, never) = (Load::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(|| load.run(node.gateway.addr))));
        let _stop = Stop(&load, &never);
        load.more(HEALTHY);
        until("its endpoint is up", || node.endpoint(sick.addr).state == "up");
        sick.kill();
        node.down(&["refused"]);
        load.more(HEALTHY);
        node.shows_the_verdict();
        let before = gets(std::slice::from_ref(&sick));
        sick.revive();
        until("it is shown up again", || node.health(0).state == "up");
        until("its share is back", || gets(std::slice::from_ref(&sick)) > before + 50);
        until("its endpoint is up", || node.endpoint(sick.addr).state == "up");
    });
    assert_eq!(load.wrong.load(Ordering::SeqCst), 0, "every GET is answered 200");
}

// ---------------------------------------------------------------- helpers

/// One worker; nothing outside of the process.
fn quiet_config() -> Config {
    let mut config = config();
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    config.admin.socket = PathBuf::new();
    config.admin.state_dir = PathBuf::new();
    config
}

/// A gateway with an admin API.
struct Watched {
    gateway: Gateway,
    admin: Option<Admin>,
}

impl Watched {
    fn start(config: Config, world: World) -> Self {
        let mut table = None;
        let gateway = Gateway::start(config.clone(), |on| table.insert(world.on(on)).clone());
        let admin = Admin::start(&Arc::new(config), gateway.node(), Arc::new(Synced)).unwrap();
        let update = Update {
            generation: Generation(1),
            base_generation: Generation(0),
            observed_ns: 0,
            change: Change::Snapshot(snapshot(&table.unwrap())),
        };
        let (mail, bell) = admin.mailbox().unwrap();
        mail.send(Mail::Update(Arc::new(update))).unwrap();
        rustix::io::write(&bell, &1_u64.to_ne_bytes()).unwrap();
        Self { gateway, admin: Some(admin) }
    }

    fn text(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin.as_ref().unwrap().addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_str(&self.text(path)).unwrap()
    }

    fn health(&self, cluster: usize) -> HealthState {
        self.json::<Clusters>("/api/v1/clusters").clusters.swap_remove(cluster).health
    }

    /// Waits until the first cluster is shown down for one of these reasons, with evidence.
    fn down(&self, reasons: &[&str]) -> HealthState {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let health = self.health(0);
            let is_known = health.state == "down" && reasons.contains(&health.reason.as_str());
            if is_known && health.evidence.contains("outstanding") {
                return health;
            }
            assert!(Instant::now() < deadline, "not down for {reasons:?}: {health:?}");
        }
    }

    fn backend(&self) -> BackendState {
        self.json::<Backends>("/api/v1/backends?name=default/web:80").backends.remove(0)
    }

    fn endpoint(&self, addr: SocketAddr) -> HealthState {
        let all = self.backend().endpoints.unwrap();
        all.into_iter().find(|endpoint| endpoint.addr == addr.to_string()).unwrap().health
    }

    /// What `status`, `explain` and `/metrics` say while the first cluster is down. Waited for: on a busy machine the
    /// second may be in doubt for a moment, too.
    fn shows_the_verdict(&self) {
        until("status and explain name the loser", || {
            let parts = self.backend().clusters;
            let answer: Answer = self.json(&format!("/api/v1/explain?url=http://{}/", self.gateway.addr));
            let [lost, chosen] = &answer.backends[0].clusters[..] else { panic!("{answer:?}") };
            let said = format!("{} {}", lost.cluster_state, lost.backend_state);
            parts[0].health.state == "down"
                && said.contains("down (")
                && lost.reason.contains("down (")
                && lost.percent < 1e-9
                && chosen.percent > 99.0
        });
        until("the metrics say so", || {
            let metrics = self.text("/metrics");
            let mut lines = metrics.lines().filter(|line| line.ends_with(" 1"));
            lines.any(|line| line.contains("{cluster=\"cluster-0\",state=\"down_"))
        });
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.admin.take().unwrap().stop();
    }
}

/// A controller that has nothing to say.
struct Synced;

impl Controller for Synced {
    fn facts(&self) -> Facts {
        Facts { synced: true, generation: 1, ..Facts::default() }
    }

    fn verdicts(&self) -> Vec<VerdictFact> {
        Vec::new()
    }

    fn standings(&self) -> Vec<Standing> {
        Vec::new()
    }

    fn order(&self, _order: Order, answer: Answered) {
        answer(Err(OrderRefused::Busy));
    }
}
