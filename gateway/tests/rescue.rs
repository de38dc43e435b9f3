//! Requests that are moved while their first attempt waits: uploads that are still on their way, and what a second
//! attempt's answer looks like to the client.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway::observe::stats::Limit;
use support::backend::{Backend, Then, respond};
use support::client::Client;
use support::load::{Load, Stop};
use support::table::World;
use support::{Gateway, PATIENCE, config, pass, until};

/// Clients that send GETs without pause: what the detector learns from.
const CLIENTS: usize = 6;
/// GETs of a phase in which nothing is to happen.
const HEALTHY: u64 = 300;
/// The beginning of an upload.
const CHUNKED: &str = "PUT /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";

// ---------------------------------------------------------------- uploads

/// An endpoint that waits for the rest of a request owes no answer: whoever uploads slowly raises no doubt about it.
#[test]
fn slow_uploads_are_no_silence() {
    let (active, standby) = (Backend::named("active"), Backend::named("standby"));
    let world = World::new().cluster(0, &[active.addr]).cluster(1, &[standby.addr]);
    let gateway = Gateway::start(config(), |on| world.on(on));
    let mut warm = Client::connect(gateway.addr);
    (0..50).for_each(|_| assert_eq!(warm.get("/").text(), "active"));
    let mut uploads: Vec<Client> = (0..6).map(|_| Client::connect(gateway.addr)).collect();
    for (number, client) in uploads.iter_mut().enumerate() {
        let method = if number % 2 == 0 { "POST" } else { "PUT" };
        client.send(format!("{method} /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha"));
    }
    pass(Duration::from_millis(600));
    assert_eq!(gateway.sum(|stats| stats.suspicions_total.get() + stats.verdicts_total.get()), 0);
    for client in &mut uploads {
        let response = client.send("lf").response();
        assert_eq!((response.status, response.text().as_str()), (200, "active"));
    }
    assert_eq!(gateway.sum(|stats| stats.hedges_total.get() + stats.moves_total.get()), 0);
    // The rest came: from here on they are waited for.
    assert_eq!(warm.get("/").text(), "active");
}

#[test]
fn an_upload_moves_with_what_came_of_it_when_its_cluster_goes_down() {
    let site = Site::new(respond_with_length);
    let gateway = site.gateway(|world| world.policy(|policy| policy.retry.body_bytes_max = 10_000));
    let load = Load::default();
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(|| load.run(gateway.addr))));
        let _stop = Stop(&load, &site.hangs);
        load.more(HEALTHY);
        let mut put = site.begin(&gateway, "PUT", "/put", 9_000, 3_000);
        let mut post = site.begin(&gateway, "POST", "/post", 4, 2);
        let mut large = site.begin(&gateway, "PUT", "/large", 12_000, 3_000);
        let mut chunked = site.begin_with(&gateway, "/chunked", CHUNKED);

        let before = gateway.sum(|stats| stats.moves_total.get());
        site.hangs.store(true, Ordering::SeqCst);
        until("both move", || gateway.sum(|stats| stats.moves_total.get()) >= before + 2);
        // The second half comes after the move.
        let response = put.send("x".repeat(6_000)).response();
        assert_eq!((response.status, response.text().as_str()), (200, "well 9000"));
        chunked.send("4\r\nhalf\r\n0\r\nX-T: 1\r\n\r\n");
        assert_eq!(chunked.response().text(), "well 8");
        let all = site.well.requests();
        let moved = all.iter().find(|request| request.target() == "/chunked").unwrap();
        assert_eq!((moved.body.as_slice(), moved.trailers.as_str()), (&b"halfhalf"[..], "X-T: 1\n"));

        // Neither what may not be sent twice nor what is not kept.
        post.send("st");
        large.send("x".repeat(9_000));
        site.hangs.store(false, Ordering::SeqCst);
        assert_eq!(post.response().text(), "sick");
        assert_eq!(large.response().text(), "sick");
        assert!(all.iter().all(|request| request.target() != "/post" && request.target() != "/large"));
    });
    assert_eq!(load.wrong.load(Ordering::SeqCst), 0, "every GET is answered 200");
    assert!(gateway.hits(Limit::RetryBodyBytes) > 0);
}

#[test]
fn an_upload_that_is_complete_is_sent_a_second_time_beside_the_first() {
    let site = Site::new(respond_with_length);
    let gateway = site.gateway(|world| world);
    let load = Load::default();
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(|| load.run(gateway.addr))));
        let _stop = Stop(&load, &site.hangs);
        load.more(HEALTHY);
        let mut put = site.begin(&gateway, "PUT", "/put", 40_000, 20_000);
        let mut chunked = site.begin_with(&gateway, "/chunked", CHUNKED);
        site.hangs.store(true, Ordering::SeqCst);
        // Complete before anything can be known of the cluster, most of the time; moved if not.
        put.send("x".repeat(20_000));
        chunked.send("0\r\nX-T: 1\r\n\r\n");
        assert_eq!(put.response().text(), "well 40000");
        assert_eq!(chunked.response().text(), "well 4");
        let all = site.well.requests();
        let hedged = all.iter().find(|request| request.target() == "/chunked").unwrap();
        assert_eq!((hedged.body.as_slice(), hedged.trailers.as_str()), (&b"half"[..], "X-T: 1\n"));
    });
    assert_eq!(load.wrong.load(Ordering::SeqCst), 0, "every GET is answered 200");
}

// ---------------------------------------------------------------- the second answer

/// RFC 9110 §15.2: interim responses are the client's; HTTP/1.0 has none.
#[test]
fn interim_responses_of_the_attempt_that_wins_reach_the_client() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    let site = Site::new(move |target, _, stream| {
        if target == "/early" || target == "/old" {
            std::io::Write::write_all(stream, hints.repeat(2).as_bytes()).unwrap();
        }
        respond(stream, b"well")
    });
    let gateway = site.gateway(|world| world);
    site.while_hanging(&gateway, |_| {
        let early = site.hedged(&gateway, "GET /early HTTP/1.1\r\nHost: a\r\n\r\n", "/early");
        assert_eq!(early.interim.len(), 2, "{:?}", early.interim);
        let is_whole = |head: &String| head.starts_with("HTTP/1.1 103 ") && head.contains("rel=preload");
        assert!(early.interim.iter().all(is_whole), "{:?}", early.interim);
        let old = site.hedged(&gateway, "GET /old HTTP/1.0\r\nHost: a\r\n\r\n", "/old");
        assert_eq!((old.interim.len(), old.text().as_str()), (0, "well"));
    });
}

#[test]
fn a_second_answer_with_a_large_head_is_as_good_as_a_small_one() {
    let site = Site::new(|target, _, stream| {
        if target == "/large" {
            let value = "v".repeat(7_000);
            let head = format!(
                "HTTP/1.1 200 OK\r\nX-A: {value}\r\nX-B: {value}\r\nX-C: {value}\r\nContent-Length: 4\r\n\r\nwell"
            );
            return match std::io::Write::write_all(stream, head.as_bytes()) {
                Ok(()) => Then::Keep,
                Err(_) => Then::Close,
            };
        }
        respond(stream, b"well")
    });
    let gateway = site.gateway(|world| world);
    site.while_hanging(&gateway, |_| {
        let large = site.hedged(&gateway, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n", "/large");
        assert_eq!(large.text(), "well");
        assert_eq!(large.one("x-b").map(str::len), Some(7_000));
    });
}

// ---------------------------------------------------------------- an active cluster that hangs, and its standby

/// What the standby answers to a target and a body.
type Answer = dyn Fn(&str, &[u8], &mut std::net::TcpStream) -> Then + Send + Sync;

fn respond_with_length(_: &str, body: &[u8], stream: &mut std::net::TcpStream) -> Then {
    respond(stream, format!("well {}", body.len()).as_bytes())
}

struct Site {
    hangs: Arc<AtomicBool>,
    begun: Arc<Mutex<BTreeSet<String>>>,
    sick: Backend,
    well: Backend,
}

impl Site {
    fn new(answer: impl Fn(&str, &[u8], &mut std::net::TcpStream) -> Then + Send + Sync + 'static) -> Self {
        let hangs = Arc::<AtomicBool>::default();
        let begun = Arc::<Mutex<BTreeSet<String>>>::default();
        let (stops, notes) = (Arc::clone(&hangs), Arc::clone(&begun));
        let sick = Backend::raw(move |peer| {
            while let Some(head) = peer.head_while(|| stops.load(Ordering::SeqCst)) {
                notes.lock().unwrap().insert(head.target().to_owned());
                let length = head.one("content-length").map_or(0, |length| length.parse().unwrap());
                if peer.exactly(length).is_none() || head.one("transfer-encoding").is_some() {
                    // Chunked ones only ever begin here.
                    return peer.drained();
                }
                while stops.load(Ordering::SeqCst) {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                respond(&mut peer.stream, b"sick");
            }
        });
        let answer: Arc<Answer> = Arc::new(answer);
        let well = Backend::start(move |request, stream| answer(request.target(), &request.body, stream));
        Self { hangs, begun, sick, well }
    }

    fn gateway(&self, edit: impl FnOnce(World) -> World) -> Gateway {
        let world = World::new().cluster(0, &[self.sick.addr]).cluster(1, &[self.well.addr]);
        Gateway::start(config(), |on| edit(world).on(on))
    }

    fn has_begun(&self, target: &str) -> bool {
        self.begun.lock().unwrap().contains(target)
    }

    /// Sends a request but for the end of its body; returns when the active cluster has its head.
    fn begin(&self, gateway: &Gateway, method: &str, target: &str, length: usize, part: usize) -> Client {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        self.begin_with(gateway, target, &(head + &"x".repeat(part)))
    }

    fn begin_with(&self, gateway: &Gateway, target: &str, part: &str) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut client = Client::connect(gateway.addr);
            client.send(part);
            let again = Instant::now() + Duration::from_millis(300);
            while Instant::now() < again {
                if self.has_begun(target) {
                    return client;
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
            // On a busy machine the active cluster may be in doubt for a moment: the standby has it.
            assert!(Instant::now() < deadline, "{target} never reaches the active cluster");
        }
    }

    /// Runs `work` under load in a fleet that is well.
    fn while_hanging(&self, gateway: &Gateway, work: impl FnOnce(&Load)) {
        let load = Load::default();
        std::thread::scope(|scope| {
            (0..CLIENTS).for_each(|_| drop(scope.spawn(|| load.run(gateway.addr))));
            let _stop = Stop(&load, &self.hangs);
            load.more(HEALTHY);
            work(&load);
        });
        assert_eq!(load.wrong.load(Ordering::SeqCst), 0, "every GET is answered 200");
    }

    /// The answer to a request that the active cluster took before it hung.
    fn hedged(&self, gateway: &Gateway, request: &str, target: &str) -> support::client::Response {
        self.hangs.store(false, Ordering::SeqCst);
        let mut client = Client::connect(gateway.addr);
        loop {
            // Nobody else asks for it, so that it can be told whether the active cluster has it.
            self.begun.lock().unwrap().remove(target);
            let before = self.well.count();
            self.hangs.store(true, Ordering::SeqCst);
            client.send(request);
            let response = client.response();
            assert_eq!(response.status, 200);
            if self.has_begun(target) && response.text() == "well" && self.well.count() > before {
                return response;
            }
            // The standby served already: once more when the active cluster is back.
            self.hangs.store(false, Ordering::SeqCst);
            let back = self.sick.connections();
            until("the active cluster serves", || {
                Client::connect(gateway.addr).get("/").text() == "sick"
                    || self.sick.connections() > back + 1_000
            });
            client = Client::connect(gateway.addr);
        }
    }
}
