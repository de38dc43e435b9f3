//! What attackers cost everybody else: another client's latency and the gateway's memory, in peace and under attack, in
//! turns (SECURITY, invariant I4: within 1.2 times of before); and how soon an attacker that floods is closed.
//!
//! One worker on one core; backend, attackers and the other client on the other core, the attackers as the least urgent
//! there, so that what is measured is what the gateway makes the client wait, not what they take from it themselves.

mod http2;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

use super::agree::median;
use super::case::Spec;
use super::ground::{Ground, Stand};
use super::machine::{self, Facts, Stop};
use super::process::Running;
use super::proxy::Proxy;
use super::{BenchError, Result, idle};

/// Which attacks, for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Times peace and attack are measured in turns; the table shows medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Repeatable or separated by commas. Default: all.
    #[arg(long = "attack", value_enum, value_delimiter = ',')]
    attacks: Vec<Attack>,
    /// Connections of an attack that holds them.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Attempts per second of an attack that makes them.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Connections per second that flood until they are closed, one after another (HTTP/2).
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    floods: u32,
    #[command(flatten)]
    stand: Stand,
}

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attack {
    /// Heads that come a byte a second (S19).
    SlowHeads,
    /// Requests that two servers could read differently, each on a connection of its own (S1).
    Smuggling,
    /// Connections that are opened and reset (S31).
    Reconnects,
    /// Streams of HTTP/2 that are reset as soon as they are opened (S21).
    RapidReset,
    /// Streams that we are made to reset (S22).
    MadeYouReset,
    /// A header block that never ends (S23).
    Continuations,
    /// Frames of a body that hold nothing of it (S23).
    EmptyData,
    /// PINGs (S24).
    Pings,
    /// SETTINGS (S24).
    Settings,
    /// Streams whose window stays closed (S20).
    ZeroWindow,
}

impl Attack {
    const ALL: [Self; 10] = [
        Self::SlowHeads,
        Self::Smuggling,
        Self::Reconnects,
        Self::RapidReset,
        Self::MadeYouReset,
        Self::Continuations,
        Self::EmptyData,
        Self::Pings,
        Self::Settings,
        Self::ZeroWindow,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SlowHeads => "slow-heads",
            Self::Smuggling => "smuggling",
            Self::Reconnects => "reconnects",
            Self::RapidReset => "rapid-reset",
            Self::MadeYouReset => "made-you-reset",
            Self::Continuations => "continuations",
            Self::EmptyData => "empty-data",
            Self::Pings => "pings",
            Self::Settings => "settings",
            Self::ZeroWindow => "zero-window",
        }
    }
}

/// Requests per second of the other client, on one connection.
const ASKED_PER_SECOND: u32 = 500;
/// What the row of SECURITY allows.
const WITHIN: f64 = 1.2;
/// Within this time an attacker that floods must be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// And memory may grow by this.
const GROWTH_MIB: f64 = 64.0;
/// How long an attack runs before its turn is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// One turn.
struct Turn {
    p50: Duration,
    p99: Duration,
    memory: u64,
    /// How long each attacker that floods took to be closed.
    closed: Vec<Duration>,
}

/// Runs the attacks and prints the table.
///
/// # Errors
/// A program cannot be started, the other client is not answered, or a signal came.
pub(crate) fn run(options: &Options) -> Result<()> {
    let case = case()?;
    Proxy::Ringway.check(&options.stand.ringway, &options.stand.envoy, case)?;
    let ground = Ground::new(&options.stand, Stop::on_signals()?)?;
    let _alone = machine::Turn::wait(&ground.stop)?;
    println!("{}\n", Facts::collect(&ground.cores, None));
    let attacks = if options.attacks.is_empty() { Attack::ALL.to_vec() } else { options.attacks.clone() };
    println!(
        "| attack | p50 in peace | under attack | p99 in peace | under attack | p99, times | memory, MiB | attackers closed |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for attack in attacks {
        // A gateway of its own for each: what one left in memory is not the next one's.
        let backend = ground.backend(case)?;
        let (gateway, _home) = ground.proxy(Proxy::Ringway, case, &backend)?;
        let mut pairs = Vec::new();
        for _ in 0..options.rounds {
            let peace = turn(options, None, &gateway, &ground)?;
            pairs.push((peace, turn(options, Some(attack), &gateway, &ground)?));
        }
        row(attack, &pairs);
    }
    Ok(())
}

fn row(attack: Attack, pairs: &[(Turn, Turn)]) {
    let of = |pick: &dyn Fn(&(Turn, Turn)) -> f64| median(pairs.iter().map(pick).collect());
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let times = of(&|(peace, attack)| micros(attack.p99) / micros(peace.p99).max(1.0));
    let grown = of(&|(peace, attack)| mebibytes(attack.memory) - mebibytes(peace.memory));
    let closed: Vec<Duration> = pairs.iter().flat_map(|(_, attack)| attack.closed.iter().copied()).collect();
    println!(
        "| {} | {:.0} µs | {:.0} µs | {:.0} µs | {:.0} µs | {times:.2} ({}) | {:.1} → {:.1} ({}) | {} |",
        attack.name(),
        of(&|(peace, _)| micros(peace.p50)),
        of(&|(_, attack)| micros(attack.p50)),
        of(&|(peace, _)| micros(peace.p99)),
        of(&|(_, attack)| micros(attack.p99)),
        verdict(times <= WITHIN),
        of(&|(peace, _)| mebibytes(peace.memory)),
        of(&|(_, attack)| mebibytes(attack.memory)),
        verdict(grown <= GROWTH_MIB),
        ended(&closed),
    );
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "exceeded" }
}

/// The slowest of those that were closed.
fn ended(closed: &[Duration]) -> String {
    let Some(slowest) = closed.iter().max() else { return "–".to_owned() };
    let within = verdict(*slowest <= CLOSED_WITHIN);
    match *slowest == Duration::MAX {
        true => format!("never ({within})"),
        false => format!("{} within {:.0} ms ({within})", closed.len(), slowest.as_secs_f64() * 1e3),
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What the gateway is set up for: plain HTTP, one rule.
fn case() -> Result<&'static Spec> {
    Spec::named("h1-64").first().copied().ok_or_else(|| BenchError::failed("attack", "no case h1-64"))
}

/// Measures the other client, beside an attack if there is one.
fn turn(options: &Options, attack: Option<Attack>, gateway: &Running, ground: &Ground) -> Result<Turn> {
    let Ground { cores, stop, .. } = ground;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacker = attack.map(|attack| {
            let (over, at) = (&over, gateway.addr);
            scope.spawn(move || {
                settle_on(cores.load, 19);
                rage(attack, options, at, over)
            })
        });
        let asked = stop.pause(WARM_UP).and_then(|()| {
            scope
                .spawn(|| {
                    settle_on(cores.load, 0);
                    ask(gateway.addr, Duration::from_secs(options.seconds.into()), stop)
                })
                .join()
                .map_err(|_panic| BenchError::failed("attack", "the other client panicked"))?
        });
        let memory = gateway.memory();
        over.store(true, Ordering::Relaxed);
        let closed = attacker.map(std::thread::ScopedJoinHandle::join).transpose();
        let closed = closed.map_err(|_panic| BenchError::failed("attack", "an attacker panicked"))?;
        let mut times = asked?;
        times.sort_unstable();
        let at = |permille: usize| times.get(times.len() * permille / 1_000).copied().unwrap_or_default();
        Ok(Turn { p50: at(500), p99: at(990), memory: memory?.rss, closed: closed.unwrap_or_default() })
    })
}

/// Puts this thread on a core, as urgent as said. Best effort: without the right to, the figures are noisier.
fn settle_on(core: u32, nice: i32) {
    let mut set = CpuSet::new();
    set.set(core as usize);
    let _ = sched_setaffinity(None, &set);
    let _ = setpriority_process(Some(gettid()), nice);
}

/// The other client: evenly spaced requests on one connection, and how long each took.
fn ask(at: SocketAddr, time: Duration, stop: &Stop) -> Result<Vec<Duration>> {
    let mut connection = TcpStream::connect(at).map_err(BenchError::io("connect the other client"))?;
    connection.set_nodelay(true).map_err(BenchError::io("set an option"))?;
    let (mut times, mut next, end) = (Vec::new(), Instant::now(), Instant::now() + time);
    while Instant::now() < end {
        let began = Instant::now();
        idle::ask(&mut connection).map_err(BenchError::io("ask as the other client"))?;
        times.push(began.elapsed());
        next += Duration::from_secs(1) / ASKED_PER_SECOND;
        stop.pause(next.saturating_duration_since(Instant::now()))?;
    }
    Ok(times)
}

/// Attacks until it is over, and how long those that flood took to be closed. What the gateway does to an attacker's connection is
/// no error.
fn rage(attack: Attack, options: &Options, at: SocketAddr, over: &AtomicBool) -> Vec<Duration> {
    match attack {
        Attack::SlowHeads | Attack::Smuggling | Attack::Reconnects => {
            rage_http1(attack, options, at, over);
            Vec::new()
        }
        Attack::RapidReset
        | Attack::MadeYouReset
        | Attack::Continuations
        | Attack::EmptyData
        | Attack::Pings
        | Attack::Settings
        | Attack::ZeroWindow => http2::rage(attack, options.floods, at, over),
    }
}

fn rage_http1(attack: Attack, options: &Options, at: SocketAddr, over: &AtomicBool) {
    const SMUGGLED: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n\
        0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut held: Vec<Option<TcpStream>> = (0..options.connections).map(|_| None).collect();
    // A connection's turn comes once a second, or so often that the rate is met.
    let steps = if attack == Attack::SlowHeads { options.connections } else { options.rate };
    let mut next = Instant::now();
    for index in (0..held.len()).cycle() {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let slot = &mut held[index];
        if attack == Attack::SlowHeads {
            hold(slot, at, |to| to.write_all(b"a"));
        } else if attack == Attack::Smuggling {
            hold(slot, at, |to| {
                to.write_all(SMUGGLED)?;
                to.set_nonblocking(false)?;
                to.set_read_timeout(Some(Duration::from_millis(100)))?;
                to.read(&mut [0; 512]).map(|_| ())
            });
            *slot = None;
        } else {
            hold(slot, at, |to| socket2::SockRef::from(&*to).set_linger(Some(Duration::ZERO)));
            *slot = None;
        }
        next += Duration::from_secs(1) / steps;
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
}

/// Does something on a connection that is held; opens it anew when it is gone. A full socket buffer is not gone.
fn hold(
    slot: &mut Option<TcpStream>,
    at: SocketAddr,
    mut act: impl FnMut(&mut TcpStream) -> std::io::Result<()>,
) {
    if slot.is_none() {
        *slot = TcpStream::connect(at).ok();
        if let Some(connection) = slot {
            let _ = connection.set_nonblocking(true);
        }
    }
    let result = slot.as_mut().map(&mut act);
    if let Some(Err(why)) = result
        && why.kind() != std::io::ErrorKind::WouldBlock
    {
        *slot = None;
    }
}
