//! A change costs what changed, whatever else there is. The times are printed for the README:
//! `cargo test --release -p ringway-controller --test scale -- --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller::compile::{Compiler, CompilerSettings, Defaults};
use controller::merge::Loopback;
use controller::object::{
    Kind, MemberService, MemberServicePort, MemberSlice, Object, ObjectId, SliceEndpoint, Source, Spec,
};
use controller::verdict::Notes;
use controller::watch::decode::{Format, decode_text};
use controller::watch::{Observation, Presence};
use controller::world::World;
use routing::delta::TableDelta;
use routing::model::Carrier;
use routing::model::Condition;

fn object(cluster: &str, kind: Kind, name: &str, spec: Spec) -> Observation {
    let source = Source::Member(Arc::from(cluster));
    let id = ObjectId { source, kind, namespace: Arc::from("default"), name: Arc::from(name) };
    let object = Object {
        id,
        created: i64::MAX,
        generation: 0,
        uid: Arc::from(""),
        annotations: BTreeMap::new(),
        spec,
    };
    Observation::Upsert { object: Box::new(object), origin: Arc::from(""), notes: Notes::default() }
}

fn slice(cluster: &str, service: u32, pods: u32) -> Observation {
    let base =
        u32::from(Ipv4Addr::new(10, 0, 0, 0)) + service * 256 + if cluster == "beta" { 128 } else { 0 };
    let endpoint = |pod| SliceEndpoint {
        ip: IpAddr::V4(Ipv4Addr::from(base + pod)),
        condition: Some(Condition::Ready),
        zone: Arc::from("z1"),
        node: Arc::from(format!("node-{}", pod % 7)),
    };
    let spec = MemberSlice {
        service: Arc::from(format!("s{service}")),
        ports: vec![(Arc::from("http"), Carrier::Tcp, 8080)],
        endpoints: (0..pods).map(endpoint).collect(),
    };
    object(cluster, Kind::EndpointSlice, &format!("s{service}-1"), Spec::EndpointSlice(spec))
}

fn ingress(host: u32, service: u32) -> Vec<Observation> {
    let text = format!(
        r#"{{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {{"name": "i{host}"}}, "spec": {{"rules": [
            {{"host": "h{host}.example", "http": {{"paths": [{{"path": "/", "pathType": "Prefix",
              "backend": {{"service": {{"name": "s{service}", "port": {{"number": 80}}}}}}}}]}}}}]}}}}"#
    );
    let decoded = decode_text(&text, Format::Json, &Source::Fleet).unwrap();
    assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
    let upsert =
        |(object, notes)| Observation::Upsert { object: Box::new(object), origin: Arc::from(""), notes };
    decoded.objects.into_iter().map(upsert).collect()
}

/// `services` routes, each to its own Service with `pods` endpoints in each of two clusters.
fn world(services: u32, pods: u32) -> World {
    let mut world = World::default();
    for cluster in ["alpha", "beta"] {
        world.observe(Observation::Member { name: Arc::from(cluster), presence: Presence::Present });
        for service in 0..services {
            let port =
                MemberServicePort { name: Arc::from("http"), port: 80, ..MemberServicePort::default() };
            let spec = MemberService { ports: vec![port], ..MemberService::default() };
            world.observe(object(cluster, Kind::Service, &format!("s{service}"), Spec::Service(spec)));
            world.observe(slice(cluster, service, pods));
        }
    }
    for host in 0..services {
        ingress(host, host).into_iter().for_each(|observation| world.observe(observation));
    }
    world.observe(Observation::Synced);
    world
}

fn compile(compiler: &mut Compiler, world: &mut World, change: Vec<Observation>) -> (TableDelta, Duration) {
    change.into_iter().for_each(|observation| world.observe(observation));
    let started = Instant::now();
    let delta = compiler.compile(world);
    (delta, started.elapsed())
}

fn sizes(delta: &TableDelta) -> [usize; 6] {
    [
        delta.clusters.len(),
        delta.backends.len(),
        delta.endpoints.len(),
        delta.rings.len(),
        delta.listeners.len(),
        delta.hosts.len(),
    ]
}

#[test]
fn a_change_costs_what_changed() {
    let mut small_and_large = Vec::new();
    for services in [100, 10_000] {
        let mut world = world(services, 5);
        let listen: SocketAddr = "[::]:8080".parse().unwrap();
        let settings = CompilerSettings {
            listen: vec![listen.into()],
            series_max: 10_000,
            loopback: Loopback::Allowed,
            defaults: Defaults::default(),
        };
        let mut compiler = Compiler::new(settings);
        let (all, first) = compile(&mut compiler, &mut world, Vec::new());
        assert_eq!(all.hosts.len(), services as usize);
        assert_eq!(all.endpoints.len(), services as usize * 10);
        let mut best = [Duration::MAX; 2];
        for round in 0..20 {
            let pods = 5 + (round + 1) % 2;
            let (delta, took) = compile(&mut compiler, &mut world, vec![slice("alpha", 7, pods)]);
            assert_eq!(sizes(&delta), [0, 0, 1, 0, 0, 0], "one endpoint came or went");
            best[0] = best[0].min(took);
            let (delta, took) = compile(&mut compiler, &mut world, ingress(9, 10 + round % 2));
            assert_eq!(delta.hosts.len(), 1, "one host changed");
            best[1] = best[1].min(took);
        }
        let (endpoints, routes) = (services * 10, services);
        println!(
            "{routes} routes, {endpoints} endpoints: all {first:?}, one endpoint {:?}, one route {:?}",
            best[0], best[1]
        );
        small_and_large.push(best);
    }
    // Trees are deeper and caches colder at 100 times the size; in proportion to it would be 100 times.
    for (small, large) in small_and_large[0].iter().zip(small_and_large[1]) {
        assert!(large < *small * 20 + Duration::from_millis(1), "{small:?} became {large:?}");
    }
}

/// A thousand routes of one host are put together anew with each edit of one of them: that, too, is to be quick.
#[test]
fn an_edit_among_many_routes_of_one_host_costs_little() {
    let mut world = world(1, 5);
    let route = |n: u32, to: u32| {
        let text = format!(
            r#"{{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {{"name": "p{n}"}}, "spec": {{"rules": [
                {{"host": "one.example", "http": {{"paths": [{{"path": "/{n}/{to}", "pathType": "Prefix",
                  "backend": {{"service": {{"name": "s0", "port": {{"number": 80}}}}}}}}]}}}}]}}}}"#
        );
        let decoded = decode_text(&text, Format::Json, &Source::Fleet).unwrap();
        let upsert =
            |(object, notes)| Observation::Upsert { object: Box::new(object), origin: Arc::from(""), notes };
        decoded.objects.into_iter().map(upsert).collect::<Vec<_>>()
    };
    let settings = CompilerSettings {
        listen: vec!["[::]:8080".parse::<std::net::SocketAddr>().unwrap().into()],
        series_max: 10_000,
        loopback: Loopback::Allowed,
        defaults: Defaults::default(),
    };
    let mut compiler = Compiler::new(settings);
    let all = (0..1_000).flat_map(|n| route(n, 0)).collect();
    let _ = compile(&mut compiler, &mut world, all);
    let mut best = Duration::MAX;
    for round in 1..20 {
        let (delta, took) = compile(&mut compiler, &mut world, route(500, round));
        assert_eq!(sizes(&delta), [0, 0, 0, 0, 0, 1]);
        best = best.min(took);
    }
    println!("1,000 routes on one host: an edit of one {best:?}");
    // 5 ms from the file's event to the last worker are promised; debug builds are ten times slower.
    assert!(best < Duration::from_millis(30), "{best:?}");
}
