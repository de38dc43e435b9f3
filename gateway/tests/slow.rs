//! Slow clients by the thousand: SECURITY S19 and S20 with invariant I4. Alone in its process, for it counts the
//! process's memory and descriptors. The others' p99 on an idle machine is not judged here.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::{ByteSize, Config, Period};
use gateway::observe::stats::Limit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::backend::{Backend, respond};
use support::client::Client;
use support::table::world;
use support::{Gateway, PATIENCE, config, pass, until};

/// Slow clients of S19.
const SLOW: u64 = 5_000;
/// Clients of S20 that read nothing.
struct Stalled {
    /// Each holds what the sockets of both hops take, up to 8 MiB.
    count: u64,
    /// `timeouts.write_stall`
    write_stall: Period,
}

/// Both tests count the process's descriptors and memory: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Room for two descriptors per slow client, both ends being in this process.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let needed = 2 * SLOW + 500;
    assert!(limit.maximum.is_none_or(|maximum| maximum >= needed), "ulimit -Hn must be {needed} or more");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn start(backend: &Backend, change: impl FnOnce(&mut Config)) -> Gateway {
    let addr = backend.addr;
    let mut config = config();
    config.limits.connections_per_source_max = 0;
    change(&mut config);
    Gateway::start(config, |on| world(&[addr]).on(on))
}

/// Asks until told to stop, a request every few milliseconds; every answer must be 200. The times, sorted.
fn ask(gateway: &Gateway, stop: &AtomicBool) -> Vec<Duration> {
    let mut client = Client::connect(gateway.addr);
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        assert_eq!(client.get("/fast").status, 200);
        times.push(began.elapsed());
        pass(Duration::from_millis(3));
    }
    times.sort_unstable();
    times
}

/// Stops the other client even when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The median time of another client while `attack` runs.
fn median_during(gateway: &Gateway, attack: impl FnOnce()) -> Duration {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(gateway, &stop));
        {
            let _stop = Stop(&stop);
            attack();
        }
        let times = asking.join().unwrap();
        times[times.len() / 2]
    })
}

/// Five thousand clients each send a byte of their head now and then. Each is answered 408 in time, the others do not
/// notice, and what they held is given back.
#[test]
fn s19_five_thousand_slow_heads_cost_nobody_else_anything() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    raise_descriptors();
    let backend = Backend::named("ok");
    let gateway = start(&backend, |config| config.timeouts.header = Period::millis(1_500));
    let quiet = median_during(&gateway, || pass(Duration::from_millis(300)));
    let (descriptors_before, memory_before) = (descriptors(), resident());

    let mut peak = 0;
    let busy = median_during(&gateway, || {
        let mut slow: Vec<_> = (0..SLOW).map(|_| Client::connect(gateway.addr)).collect();
        for byte in b"GET /slow HTTP/1.1\r\nHost: shop.example\r\nX-Slow: aaaaaaaaaa".chunks(8) {
            slow.iter_mut().for_each(|client| drop(client.try_send(byte)));
            pass(Duration::from_millis(100));
            peak = peak.max(resident());
        }
        until("each was answered", || gateway.hits(Limit::HeaderTimeout) == SLOW);
    });
    assert_eq!(gateway.sum(|stats| stats.requests_total.get()), backend.count(), "no half head is a request");
    until("the descriptors are back", || descriptors() <= descriptors_before + 4);

    let each = peak.saturating_sub(memory_before) / SLOW;
    println!(
        "{SLOW} slow heads: {each} bytes of memory each (both ends); median elsewhere {quiet:?} became {busy:?}"
    );
    // A head that has begun holds a buffer of 4 KiB and a Runner.
    assert!(each < 16 << 10, "{each} bytes for each slow client");
    // I4's 1.2 times cannot be judged here: clients, gateway and backend share two cores with other tests.
    assert!(busy < quiet * 5 + Duration::from_millis(5), "{quiet:?} became {busy:?}");
    assert!(backend.requests().iter().all(|request| request.target() == "/fast"));
}

/// Clients that ask for much and read nothing: the backend is held back, each is closed in time, the others are served.
/// What was read in large pieces lies in the client's socket when all stand still, and the row's bound for a stream holds.
/// Not so many that the kernel's own bound on TCP memory (`net.ipv4.tcp_mem`) is what stops them.
#[test]
fn s20_readers_that_stop_hold_bounded_memory_and_nobody_else() {
    // Long enough for the pool to give back twice what nobody needs any more.
    let held = Stalled { count: 40, write_stall: Period::millis(4_000) }.held();
    let each = held.still.unwrap() / 40;
    assert!(each <= 64 << 10, "{each} bytes of buffers for each stalled reader");
}

/// So many that the kernel may be short of memory for sockets, at any time: a relay fills one large buffer while the other
/// is sent, and no more.
#[test]
fn s20_two_hundred_readers_that_stop_never_hold_more_than_two_large_buffers_each() {
    let held = Stalled { count: 200, write_stall: Period::millis(1_000) }.held();
    let each = held.most / 200;
    assert!(each <= (2 * 128 + 32) << 10, "{each} bytes of buffers for each stalled reader");
}

/// Bytes of buffers that all of them hold.
struct HeldBytes {
    /// At most.
    most: u64,
    /// While they stand still: the least of what is seen from a while after the last has begun to when the first is closed. A
    /// slow machine may leave no time for a look between the two.
    still: Option<u64>,
}

impl Stalled {
    /// Until each was closed.
    fn held(&self) -> HeldBytes {
        const BODY: usize = 8 << 20;
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        raise_descriptors();
        let body = vec![b'x'; BODY];
        let backend = Backend::start(move |request, stream| match request.target() {
            "/fast" => respond(stream, b"ok"),
            _ => respond(stream, &body),
        });
        let gateway = start(&backend, |config| {
            config.timeouts.write_stall = self.write_stall;
            config.limits.buffers_bytes_max = ByteSize::mib(256);
            config.pool.pending_per_endpoint_max = 1_000;
        });
        let quiet = median_during(&gateway, || pass(Duration::from_millis(300)));
        let descriptors_before = descriptors();

        let mut held = HeldBytes { most: 0, still: None };
        let busy = median_during(&gateway, || held = self.watch(&gateway));
        until("nothing is left in flight", || gateway.sum(|stats| stats.in_flight.get()) == 0);
        until("the descriptors are back", || descriptors() <= descriptors_before + 4);

        let (count, HeldBytes { most, still }) = (self.count, &held);
        println!(
            "{count} stalled readers: {most} bytes of buffers at most, {still:?} at rest; median elsewhere {quiet:?} became {busy:?}"
        );
        assert!(busy < quiet * 5 + Duration::from_millis(20), "{quiet:?} became {busy:?}");
        held
    }

    fn watch(&self, gateway: &Gateway) -> HeldBytes {
        let count = self.count;
        let mut stalled: Vec<_> = (0..count).map(|_| Client::connect_narrow(gateway.addr)).collect();
        for client in &mut stalled {
            client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        let mut held = HeldBytes { most: 0, still: None };
        let (deadline, mut all_since) = (Instant::now() + 2 * PATIENCE, None::<Instant>);
        while gateway.hits(Limit::WriteStall) < count {
            let now = gateway.sum(|stats| stats.buffer_bytes.get());
            held.most = held.most.max(now);
            all_since = all_since
                .or_else(|| (gateway.sum(|stats| stats.in_flight.get()) >= count).then(Instant::now));
            let stand = all_since.is_some_and(|since| since.elapsed() > Duration::from_millis(1_500));
            if stand && (held.still.is_none() || gateway.hits(Limit::WriteStall) == 0) {
                held.still = Some(now.min(held.still.unwrap_or(u64::MAX)));
            }
            let (hits, open) =
                (gateway.hits(Limit::WriteStall), gateway.sum(|stats| stats.connections_open.get()));
            assert!(Instant::now() < deadline, "{hits} of {count} are closed, {open} connections are open");
            pass(Duration::from_millis(5));
        }
        held
    }
}
