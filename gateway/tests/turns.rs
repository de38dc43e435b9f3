//! A worker serves while it applies a large update.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use config::Period;
use gateway::observe::stats::Limit;
use routing::delta::{Change, Mail, RouteTable, TableDelta, Update, diff};
use routing::id::{BackendId, ClusterId, EndpointId, Generation};
use routing::model::BackendSpec;
use support::backend::Backend;
use support::client::Client;
use support::table::{spec_of, world};
use support::{Gateway, config, until};

/// A hundred thousand endpoints of a Service that no rule leads to.
fn crowd() -> TableDelta {
    let mut table = RouteTable::default();
    let spec = BackendSpec { name: "default/crowd:80".into(), ..BackendSpec::default() };
    table.backends.insert(BackendId(1), Arc::new(spec));
    for n in 0..100_000_u32 {
        let addr = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 8080));
        let spec = routing::model::EndpointSpec { backend: BackendId(1), ..spec_of(ClusterId(0), addr) };
        table.endpoints.insert(EndpointId(100 + n), spec);
    }
    diff(&RouteTable::default(), &table)
}

#[test]
fn requests_are_answered_between_the_slices_of_a_large_update_and_it_counts_as_applied_when_it_is_whole() {
    let mut settings = config();
    settings.limits.apply_turn = Period::new(Duration::from_micros(10));
    let backend = Backend::named("hello");
    let gateway = Gateway::start(settings, |on| world(&[backend.addr]).on(on));
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.get("/").status, 200);
    let stats = &gateway.node().stats[0];
    let before = gateway.hits(Limit::ApplyTurn);
    let update = Update {
        generation: Generation(2),
        base_generation: Generation(1),
        observed_ns: 0,
        change: Change::Table(crowd()),
    };
    gateway.node().peers.boxes[0].send(Mail::Update(Arc::new(update))).unwrap();
    until("it has begun", || gateway.hits(Limit::ApplyTurn) > before);
    let mut answered = 0;
    while stats.generation.get() == 1 {
        assert_eq!(client.get("/").text(), "hello");
        answered += u32::from(stats.generation.get() == 1);
    }
    // In one piece the first answer would come behind it.
    assert!(answered > 2, "{answered} answers while it was applied");
    assert_eq!(stats.generation.get(), 2);
    let turns = gateway.hits(Limit::ApplyTurn) - before;
    assert!(turns > 100, "{turns} turns");
    let mut figures = gateway::observe::histogram::Snapshot::default();
    stats.apply_turn.read(&mut figures);
    assert!(figures.count() > turns, "every turn is in the histogram");
    assert!(stats.apply_longest_ns.get() > 0);
}
