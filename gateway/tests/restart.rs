//! A worker that panics: what its clients see, and what the worker is that takes its place.
//!
//! The product has no way to make a worker panic. But it logs a listener that it cannot open, from the worker's own
//! main task, so a log subscriber that panics at that line stands for the bug. Alone in its process, for the
//! subscriber is the process's.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use config::ViaPolicy;
use support::backend::{Backend, respond};
use support::client::{Client, Cut};
use support::fleet::{Fleet, ingress, service};
use support::{PATIENCE, config, until};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Stops the first thread that logs "cannot listen", until it is told to go on, and lets it panic.
struct Saboteur {
    armed: AtomicBool,
    reached: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Saboteur {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if message.0.starts_with("cannot listen") && self.armed.swap(false, Ordering::SeqCst) {
            self.reached.lock().unwrap().send(()).unwrap();
            self.go_on.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            panic!("this worker is made to panic");
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_worker_that_panics_is_replaced_by_one_with_its_queue_the_current_table_and_the_current_settings() {
    let (reached, is_reached) = channel();
    let (go_on, told) = channel();
    let saboteur =
        Saboteur { armed: AtomicBool::new(true), reached: Mutex::new(reached), go_on: Mutex::new(told) };
    tracing::subscriber::set_global_default(saboteur).unwrap();

    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let backend = Backend::start(move |request, stream| {
        if request.target() == "/a/hold" {
            until("the gate opens", || opened.load(Ordering::SeqCst));
        }
        respond(stream, b"ok")
    });
    let fleet = Fleet::start(
        config(),
        &[("fleet/a.yaml", &ingress("a", "/a")), ("clusters/one/web.yaml", &service(&[backend.addr]))],
    );
    let stats = Arc::clone(&fleet.node().stats[0]);

    // Settings that are not those of the boot.
    let mut reloaded = config();
    reloaded.forward.via = ViaPolicy::Both;
    fleet.node().reload(&Arc::new(reloaded));
    until("the new settings are in force", || Client::connect(fleet.addr).get("/a").one("via").is_some());

    let mut idle = Client::connect(fleet.addr);
    assert_eq!(idle.get("/a").status, 200);
    let mut busy = Client::connect(fleet.addr);
    busy.send("GET /a/hold HTTP/1.1\r\nHost: a\r\n\r\n");
    until("one is in flight", || stats.in_flight.get() == 1);

    // One edit: a new route, and a listener on a port that somebody else holds.
    let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\n\
         spec: {{controllerName: ringway.dev/gateway}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public}}\n\
         spec: {{gatewayClassName: ringway, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}\n---\n"
    );
    fleet.write("fleet/b.yaml", &(gateway + &ingress("b", "/b")));
    is_reached.recv_timeout(PATIENCE).expect("the worker tries to listen");

    // The worker stands still: what connects now waits in its listener's queue.
    let mut queued: Vec<_> = (0..20).map(|_| Client::connect(fleet.addr)).collect();
    for client in &mut queued {
        client.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert_eq!(stats.restarts_total.get(), 0);
    go_on.send(()).unwrap();

    for client in &mut queued {
        let response = client.response();
        assert_eq!(response.status, 200, "its replacement serves what was queued, by the edited table");
        assert!(response.one("via").is_some(), "with the settings that came after the boot");
    }
    assert_eq!(stats.restarts_total.get(), 1, "the panic is counted");
    until("the replacement runs the newest table", || fleet.is_settled());
    // What the panic cut is visibly cut: no client waits for a worker that is no more.
    assert_ne!(idle.rest().1, Cut::Late, "the idle connection is closed");
    let (bytes, cut) = busy.rest();
    assert!(bytes.is_empty() && cut != Cut::Late, "the exchange in flight is cut: {cut:?}");
    gate.store(true, Ordering::SeqCst);
    drop(queued);
    until("the counts are right again", || stats.connections_open.get() == 0 && stats.in_flight.get() == 0);
    // It goes on as before: edits arrive, requests are served.
    fleet.write("fleet/c.yaml", &ingress("c", "/c"));
    until("the next edit arrives", || Client::connect(fleet.addr).get("/c").status == 200);
    assert!(Client::connect(fleet.addr).is_silent(Duration::from_millis(20)));
    assert_eq!((stats.restarts_total.get(), stats.panics_total.get()), (1, 0));
}
