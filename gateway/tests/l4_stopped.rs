//! A process that stands still under layer 4: its kernel accepts and acknowledges, nobody answers. Found from traffic; and
//! traffic that is not answered by nature is left alone.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use config::Period;
use gateway::observe::layer4::Ended;
use routing::model::{Policy, Protocol};
use support::client::Client;
use support::table::World;
use support::{Gateway, PATIENCE, config, pass, until};

/// A process whose threads can be made to stand still, as SIGSTOP does: what it has not accepted its kernel accepts.
struct Process {
    addr: SocketAddr,
    still: Arc<(Mutex<bool>, Condvar)>,
}

type Serve = dyn Fn(&mut TcpStream, &dyn Fn()) + Send + Sync;

impl Process {
    /// `serve` calls what it is given before everything that it does.
    fn start(serve: impl Fn(&mut TcpStream, &dyn Fn()) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let still: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let (gate, serve): (_, Arc<Serve>) = (Arc::clone(&still), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                wait(&gate);
                let (gate, serve, mut stream) = (Arc::clone(&gate), Arc::clone(&serve), stream.unwrap());
                std::thread::spawn(move || serve(&mut stream, &|| wait(&gate)));
            }
        });
        Self { addr, still }
    }

    /// Answers what it is asked with its name.
    fn named(name: &'static str) -> Self {
        Self::start(move |stream, runs| {
            let mut bytes = [0; 256];
            loop {
                let read = stream.read(&mut bytes);
                runs();
                match read {
                    Ok(n) if n > 0 => drop(stream.write_all(name.as_bytes())),
                    _ => return,
                }
            }
        })
    }

    fn stop(&self) {
        *self.still.0.lock().unwrap() = true;
    }

    fn go_on(&self) {
        *self.still.0.lock().unwrap() = false;
        self.still.1.notify_all();
    }
}

fn wait(gate: &(Mutex<bool>, Condvar)) {
    drop(gate.1.wait_while(gate.0.lock().unwrap(), |still| *still).unwrap());
}

/// A gateway before two clusters; the second is a standby.
fn before(first: &Process, second: &Process, edit: impl FnOnce(&mut Policy)) -> Gateway {
    let clusters = World::new().cluster(0, &[first.addr]).cluster(1, &[second.addr]).policy(edit);
    Gateway::start(config(), |on| clusters.layer4(Protocol::Tcp, |_| {}).on(on))
}

/// Asks on a connection of its own.
fn ask(on: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(on)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who is there?")?;
    let mut answer = [0; 16];
    let n = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
}

fn verdicts(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.verdicts_total.get())
}

fn suspicions(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.suspicions_total.get())
}

/// So many connections that it is known that they are answered, and in what time.
fn learn(gateway: &Gateway, name: &str) {
    for _ in 0..64 {
        assert_eq!(ask(gateway.addr).unwrap(), name);
    }
    until("all have ended", || gateway.sum(|stats| stats.layer4.connections_open.get()) == 0);
}

/// Clients that ask and ask, each question on a connection of its own.
struct Crowd {
    over: Arc<AtomicBool>,
    reset: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Crowd {
    fn before(gateway: &Gateway, count: usize) -> Self {
        let (over, reset, answered) = (Arc::default(), Arc::default(), Arc::default());
        let mut crowd = Self { over, reset, answered, threads: Vec::new() };
        for _ in 0..count {
            let (over, reset, answered, on) =
                (crowd.over.clone(), crowd.reset.clone(), crowd.answered.clone(), gateway.addr);
            crowd.threads.push(std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    match ask(on) {
                        Ok(name) if !name.is_empty() => answered.fetch_add(1, Ordering::SeqCst),
                        Ok(_) => panic!("an end is no answer"),
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                            reset.fetch_add(1, Ordering::SeqCst)
                        }
                        Err(error) => panic!("{error}"),
                    };
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            }));
        }
        crowd
    }

    fn ends(self) -> (u64, u64) {
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        (self.answered.load(Ordering::SeqCst), self.reset.load(Ordering::SeqCst))
    }
}

/// No health check: what proves it is that nobody is answered, and that the endpoint does not even see a connection end.
#[test]
fn a_stopped_process_is_found_from_traffic_and_later_connections_never_fail() {
    let (active, standby) = (Process::named("active"), Process::named("standby"));
    let gateway = before(&active, &standby, |_| {});
    learn(&gateway, "active");
    let crowd = Crowd::before(&gateway, 4);
    until("they are served", || crowd.answered.load(Ordering::SeqCst) > 100);
    assert_eq!(verdicts(&gateway), 0);
    let stopped = Instant::now();
    active.stop();
    until("there is a verdict", || verdicts(&gateway) > 0);
    println!("verdict after {:?}", stopped.elapsed());
    for _ in 0..50 {
        assert_eq!(ask(gateway.addr).unwrap(), "standby");
    }
    let (_, reset) = crowd.ends();
    // One for each that waited when it came to the verdict, and none after.
    assert!(reset <= 4, "{reset} were reset");
    assert!(gateway.sum(|stats| stats.layer4.ended(Ended::Down)) >= reset);
    active.go_on();
    until("it is used again", || ask(gateway.addr).is_ok_and(|name| name == "active"));
}

/// One client, and one question at a time: at a low rate the first that is overdue begins it.
#[test]
fn one_waiting_client_is_enough_to_find_it() {
    let (active, standby) = (Process::named("active"), Process::named("standby"));
    let gateway = before(&active, &standby, |_| {});
    learn(&gateway, "active");
    active.stop();
    assert_eq!(ask(gateway.addr).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(ask(gateway.addr).unwrap(), "standby");
}

#[test]
fn a_client_that_has_said_nothing_is_moved_and_notices_nothing() {
    let (active, standby) = (Process::named("active"), Process::named("standby"));
    let gateway = before(&active, &standby, |_| {});
    learn(&gateway, "active");
    let mut quiet = Client::connect(gateway.addr);
    until("it is connected", || gateway.sum(|stats| stats.layer4.connections_open.get()) == 1);
    active.stop();
    assert_eq!(ask(gateway.addr).unwrap_err().kind(), ErrorKind::ConnectionReset);
    quiet.send("who is there?");
    assert_eq!(quiet.exactly(7).unwrap(), b"standby");
    assert_eq!(gateway.sum(|stats| stats.layer4.ended(Ended::Down)), 1, "only the one that had asked");
}

/// A connection that has asked and been answered.
fn talking(gateway: &Gateway) -> Client {
    let mut client = Client::connect(gateway.addr);
    client.send("who is there?");
    assert_eq!(client.exactly(6).unwrap(), b"active");
    client
}

/// A collection of garbage, a slow script: whoever comes is sent elsewhere, whoever has a connection keeps it.
#[test]
fn a_pause_is_noticed_and_resets_nobody() {
    let (active, standby) = (Process::named("active"), Process::named("standby"));
    let gateway = before(&active, &standby, |_| {});
    learn(&gateway, "active");
    let mut clients: Vec<_> = (0..8).map(|_| talking(&gateway)).collect();
    active.stop();
    let stopped = Instant::now();
    for client in &mut clients {
        client.send("again");
    }
    until("there is a verdict", || verdicts(&gateway) > 0);
    assert_eq!(ask(gateway.addr).unwrap(), "standby");
    pass(Duration::from_millis(50).saturating_sub(stopped.elapsed()));
    active.go_on();
    for client in &mut clients {
        assert_eq!(client.exactly(6).unwrap(), b"active");
    }
    until("it is used again", || ask(gateway.addr).is_ok_and(|name| name == "active"));
    assert!(clients.iter_mut().all(|client| client.ended().is_none()));
    assert_eq!(gateway.sum(|stats| stats.layer4.ended(Ended::Down)), 0);
}

#[test]
fn what_stands_still_for_longer_loses_its_connections_after_the_hold() {
    const HOLD: Duration = Duration::from_millis(300);
    let (active, standby) = (Process::named("active"), Process::named("standby"));
    let mut config = config();
    config.timeouts.tcp_hang = Period::millis(300);
    let clusters = World::new().cluster(0, &[active.addr]).cluster(1, &[standby.addr]);
    let gateway = Gateway::start(config, |on| clusters.layer4(Protocol::Tcp, |_| {}).on(on));
    learn(&gateway, "active");
    let mut client = talking(&gateway);
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    active.stop();
    let stopped = Instant::now();
    client.send("again");
    let error = client.stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(stopped.elapsed() >= HOLD, "{:?}", stopped.elapsed());
    until("it is counted", || gateway.sum(|stats| stats.layer4.ended(Ended::Down)) == 1);
}

#[test]
fn what_nobody_else_could_take_is_kept_however_long_it_hangs() {
    let active = Process::named("active");
    let mut config = config();
    config.timeouts.tcp_hang = Period::millis(20);
    let alone = World::new().cluster(0, &[active.addr]);
    let gateway = Gateway::start(config, |on| alone.layer4(Protocol::Tcp, |_| {}).on(on));
    learn(&gateway, "active");
    let (mut client, mut quiet) = (talking(&gateway), Client::connect(gateway.addr));
    until("both are connected", || gateway.sum(|stats| stats.layer4.connections_open.get()) == 2);
    active.stop();
    client.send("again");
    until("there is a verdict", || verdicts(&gateway) > 0);
    pass(Duration::from_millis(400));
    active.go_on();
    quiet.send("who is there?");
    assert_eq!(client.exactly(6).unwrap(), b"active");
    assert_eq!(quiet.exactly(6).unwrap(), b"active");
    assert_eq!(gateway.sum(|stats| stats.layer4.ended(Ended::Down)), 0);
}

#[test]
fn what_a_stopped_process_may_have_got_is_sent_again_only_where_the_policy_says_so() {
    let (active, standby) = (Process::named("active"), Process::named("standby"));
    let gateway = before(&active, &standby, |policy| policy.retry.non_idempotent = true);
    learn(&gateway, "active");
    let mut talking = Client::connect(gateway.addr);
    talking.send("who is there?");
    assert_eq!(talking.exactly(6).unwrap(), b"active");
    active.stop();
    assert_eq!(ask(gateway.addr).unwrap(), "standby");
    let mut rest = Vec::new();
    let error = talking.stream.read_to_end(&mut rest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "what was answered before is nobody else's");
}

/// Answers the first thing that it is told, and then only what it likes.
fn subscriptions() -> Process {
    Process::start(|stream, _| {
        let mut bytes = [0; 256];
        let mut first = true;
        while stream.read(&mut bytes).is_ok_and(|n| n > 0) {
            if std::mem::take(&mut first) {
                stream.write_all(b"welcome").unwrap();
            }
        }
    })
}

#[test]
fn clients_that_wait_for_what_does_not_come_raise_neither_suspicion_nor_verdict() {
    let (active, standby) = (subscriptions(), Process::named("standby"));
    let gateway = before(&active, &standby, |_| {});
    learn(&gateway, "welcome");
    let mut waiting: Vec<Client> = (0..16).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut waiting {
        client.send("hello");
        assert_eq!(client.exactly(7).unwrap(), b"welcome");
    }
    // All at once, where nothing else is to be heard: as a silent cluster would look.
    for _ in 0..3 {
        for client in &mut waiting {
            client.send("wait for the next message");
        }
        pass(Duration::from_millis(400));
    }
    assert!(gateway.sum(|stats| stats.probes_total.get()) > 1, "it was asked");
    assert_eq!((suspicions(&gateway), verdicts(&gateway)), (0, 0));
    assert!(waiting.iter_mut().all(|client| client.ended().is_none()));
}

/// Also those that never take notice of the end of a connection: nothing is known of them, and nothing is held against them.
#[test]
fn servers_that_ignore_the_end_of_a_connection_are_not_judged_by_it() {
    let active = Process::start(|stream, _| {
        let mut bytes = [0; 256];
        let mut first = true;
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => std::thread::park_timeout(Duration::from_secs(2)),
                Ok(_) if std::mem::take(&mut first) => stream.write_all(b"welcome").unwrap(),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    let standby = Process::named("standby");
    let gateway = before(&active, &standby, |_| {});
    for _ in 0..64 {
        let mut client = Client::connect(gateway.addr);
        client.send("hello");
        assert_eq!(client.exactly(7).unwrap(), b"welcome");
    }
    let mut waiting: Vec<Client> = (0..16).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut waiting {
        client.send("hello");
        assert_eq!(client.exactly(7).unwrap(), b"welcome");
        client.send("wait for the next message");
    }
    pass(Duration::from_millis(600));
    assert_eq!((suspicions(&gateway), verdicts(&gateway)), (0, 0));
    assert!(waiting.iter_mut().all(|client| client.ended().is_none()));
}

/// Nobody is ever answered: then silence is what is usual, and nobody is asked.
#[test]
fn a_stream_one_way_asks_nothing() {
    let active = Process::start(|stream, _| {
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).is_ok_and(|n| n > 0) {}
    });
    let standby = Process::named("standby");
    let gateway = before(&active, &standby, |_| {});
    let mut streams: Vec<TcpStream> = Vec::new();
    for round in 0..40 {
        let mut stream = TcpStream::connect(gateway.addr).unwrap();
        stream.write_all(b"a line of a log\n").unwrap();
        if round % 2 == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        streams.push(stream);
    }
    pass(Duration::from_millis(300));
    let probes = gateway.sum(|stats| stats.probes_total.get());
    assert_eq!((probes, suspicions(&gateway), verdicts(&gateway)), (0, 0, 0));
}
