//! One run of our own generator, open loop, as a process of its own on its own core.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use loadgen::{Asks, Call, Http2, Load, Outcome, Record, Tls};

use super::case::{Case, Speech, Transport};
use super::machine::Stop;
use super::process::{Child, Cores, first_on};
use super::report::Offered;
use super::{BenchError, Result};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at most: as many as requests can be on their way.
const CONNECTIONS_MAX: u32 = 10_000;
/// Connections and streams at most of a case's load over HTTP/2: within what every proxy allows by default.
const HTTP2_CONNECTIONS: u32 = 4;
const HTTP2_STREAMS: u32 = 100;

/// What `loadtest open` sends.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to.
    #[arg(long)]
    target: SocketAddr,
    /// The Host header, and the server name of TLS.
    #[arg(long, default_value = "bench.example")]
    host: String,
    /// Requests per second, evenly spaced, whatever the answers do.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Over TLS; certificates are not verified.
    #[arg(long)]
    tls: bool,
    /// A new connection for each request.
    #[arg(long, conflicts_with_all = ["http2", "grpc"])]
    fresh: bool,
    /// HTTP/2: with prior knowledge, or by ALPN over TLS.
    #[arg(long)]
    http2: bool,
    /// Unary calls of gRPC (HTTP/2) with a message of that many bytes; good is `grpc-status: 0`.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    grpc: Option<u32>,
    /// The path, of a call of gRPC /SERVICE/METHOD.
    #[arg(long, default_value = "/")]
    path: String,
    /// Connections at most: while all are busy requests wait, and their latency grows. Default: 10000, over HTTP/2 4.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    connections: Option<u32>,
    /// Streams at once on a connection of HTTP/2.
    #[arg(long, default_value_t = HTTP2_STREAMS, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Also tell how many answers had which value of this header, a line each.
    #[arg(long)]
    count_header: Option<String>,
}

/// Sends it and prints one line: requests, failed, requests per second, and p50, p99, p99.9, p99.99 in microseconds,
/// each counted from when its request was due.
///
/// # Errors
/// The load is out of its bounds, or the generator cannot run.
pub(crate) fn main(options: &Options) -> std::result::Result<(), String> {
    let load = load(options);
    let (stop, begin, mut records) = (AtomicBool::new(false), Instant::now(), Vec::new());
    let keep = |record| records.push(record);
    let body = options.grpc.map(|bytes| vec![b'x'; bytes as usize]).unwrap_or_default();
    let (asks, call) = (Asks { body, ..Asks::default() }, call(options));
    let tls = options.tls.then(|| Tls::to(&options.host)).transpose().map_err(|why| why.to_string())?;
    let ran = match (call, &tls) {
        (Some(call), _) => {
            let http2 = Http2 { streams_max: options.streams, call };
            loadgen::run_http2(&load, &asks, http2, tls.as_ref(), begin, &stop, keep)
        }
        (None, Some(tls)) => loadgen::run_secured(&load, &asks, tls, begin, &stop, keep),
        (None, None) => loadgen::run_recorded(&load, &asks, begin, &stop, keep),
    };
    ran.map_err(|why| why.to_string())?;
    let offered = summary(&records, begin.elapsed());
    let (p999, p9999) = offered.tail.unwrap_or_default();
    let micros = [offered.p50, offered.p99, p999, p9999].map(|time| time.as_micros().to_string());
    println!("{} {} {:.1} {}", offered.requests, offered.errors, offered.rate, micros.join(" "));
    if let Some(header) = &options.count_header {
        for (value, (count, longest)) in values(&records) {
            println!("{header} {value}: {count} answers, the slowest took {} ms", longest.as_millis());
        }
    }
    Ok(())
}

fn call(options: &Options) -> Option<Call> {
    match (options.grpc, options.http2) {
        (Some(_), _) => Some(Call::Grpc),
        (None, true) => Some(Call::Http),
        (None, false) => None,
    }
}

/// How many good answers each value of the counted header had, and the longest of their latencies.
fn values(records: &[Record]) -> BTreeMap<&str, (u64, Duration)> {
    let mut values: BTreeMap<&str, (u64, Duration)> = BTreeMap::new();
    for record in records.iter().filter(|record| record.outcome.is_good()) {
        let seen = values.entry(record.value.as_deref().unwrap_or("(none)")).or_default();
        *seen = (seen.0 + 1, seen.1.max(record.latency));
    }
    values
}

fn load(options: &Options) -> Load {
    Load {
        target: options.target,
        host: options.host.clone(),
        path: options.path.clone(),
        rate_per_s: options.rate,
        connections_max: options.connections.unwrap_or_else(|| connections_max(call(options).is_some())),
        duration: Duration::from_secs(u64::from(options.seconds)),
        timeout: TIMEOUT,
        headers: if options.fresh { vec![("Connection".to_owned(), "close".to_owned())] } else { Vec::new() },
        count_header: options.count_header.clone(),
    }
}

fn summary(records: &[Record], took: Duration) -> Offered {
    let mut latencies: Vec<Duration> =
        records.iter().filter(|record| record.outcome.is_good()).map(|record| record.latency).collect();
    latencies.sort_unstable();
    // The smallest latency that so many ten-thousandths are not above.
    let at = |share: usize| {
        let index = (latencies.len() * share).div_ceil(10_000).max(1) - 1;
        latencies.get(index).copied().unwrap_or_default()
    };
    #[expect(clippy::cast_precision_loss, reason = "requests of a run")]
    let rate = latencies.len() as f64 / took.as_secs_f64().max(1e-9);
    Offered {
        requests: latencies.len() as u64,
        errors: (records.len() - latencies.len()) as u64,
        rate,
        p50: at(5_000),
        p99: at(9_900),
        tail: Some((at(9_990), at(9_999))),
    }
}

/// Connections at most where nobody says how many.
fn connections_max(is_http2: bool) -> u32 {
    if is_http2 { HTTP2_CONNECTIONS } else { CONNECTIONS_MAX }
}

/// How much is sent, on how many connections of how many streams at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) rate: u32,
    pub(crate) connections: u32,
    pub(crate) streams: u32,
}

impl Shape {
    /// Of a case with that rate: as much at once as it takes.
    pub(crate) fn of(case: Case, rate: u32) -> Self {
        let connections = connections_max(case.speech != Speech::Http1);
        Self { rate, connections, streams: HTTP2_STREAMS }
    }
}

/// Runs it as a child on the load's core.
pub(crate) fn run(
    cores: &Cores,
    target: SocketAddr,
    case: Case,
    shape: Shape,
    seconds: u32,
    stop: &Stop,
) -> Result<Offered> {
    let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(first_on(&cores.loads(case.workers))).arg(own).arg("open");
    command.args(["--target", &target.to_string(), "--host", &case.host()]);
    command.args(["--rate", &shape.rate.to_string(), "--seconds", &seconds.to_string()]);
    command.args(["--connections", &shape.connections.to_string()]);
    if case.transport == Transport::Tls {
        command.arg("--tls");
    }
    if case.speech != Speech::Http1 {
        command.args(["--http2", "--streams", &shape.streams.to_string()]);
    }
    if case.speech == Speech::Grpc {
        command.args(["--grpc", &case.body.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = Child::spawn("loadtest open", &mut command)?;
    let output = child.output(Duration::from_secs(u64::from(seconds) + 20), stop)?;
    parse(&output).ok_or_else(|| {
        BenchError::failed("loadtest open", format!("printed what is not understood:\n{output}"))
    })
}

fn parse(output: &str) -> Option<Offered> {
    let words: Vec<&str> = output.lines().next()?.split_whitespace().collect();
    let [requests, errors, rate, p50, p99, p999, p9999] = words.as_slice() else { return None };
    let micros = |word: &str| word.parse().map(Duration::from_micros).ok();
    Some(Offered {
        requests: requests.parse().ok()?,
        errors: errors.parse().ok()?,
        rate: rate.parse().ok()?,
        p50: micros(p50)?,
        p99: micros(p99)?,
        tail: Some((micros(p999)?, micros(p9999)?)),
    })
}

/// One request, over TLS or over HTTP/2: bytes of the body that a good answer has.
pub(crate) fn ask(
    target: SocketAddr,
    host: &str,
    speech: Speech,
    how: Transport,
) -> std::result::Result<u64, String> {
    let load = Load {
        target,
        host: host.to_owned(),
        path: "/".to_owned(),
        rate_per_s: 10,
        connections_max: 1,
        duration: Duration::from_millis(50),
        timeout: Duration::from_secs(1),
        headers: Vec::new(),
        count_header: None,
    };
    let tls = (how == Transport::Tls).then(|| Tls::to(host)).transpose().map_err(|why| why.to_string())?;
    let (asks, start, stop) = (Asks::default(), Instant::now(), AtomicBool::new(false));
    let mut seen = None;
    let keep = |record: Record| seen = Some(record.outcome);
    let http2 = |call| Http2 { streams_max: 1, call };
    let ran = match (speech, &tls) {
        (Speech::Http1, None) => loadgen::run_recorded(&load, &asks, start, &stop, keep),
        (Speech::Http1, Some(tls)) => loadgen::run_secured(&load, &asks, tls, start, &stop, keep),
        (Speech::Http2, tls) => {
            loadgen::run_http2(&load, &asks, http2(Call::Http), tls.as_ref(), start, &stop, keep)
        }
        (Speech::Grpc, tls) => {
            loadgen::run_http2(&load, &asks, http2(Call::Grpc), tls.as_ref(), start, &stop, keep)
        }
    };
    ran.map_err(|why| why.to_string())?;
    match seen {
        Some(Outcome::Answered { status: 200, body }) => Ok(body),
        other => Err(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_http2_are_few_unless_somebody_says_how_many() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            options: Options,
        }
        let connections = |words: &str| {
            let line = format!("open --target 127.0.0.1:80 {words}");
            let cli: Cli = clap::Parser::try_parse_from(line.split_whitespace()).unwrap();
            load(&cli.options).connections_max
        };
        assert_eq!((connections(""), connections("--tls")), (CONNECTIONS_MAX, CONNECTIONS_MAX));
        assert_eq!((connections("--http2"), connections("--grpc 5")), (HTTP2_CONNECTIONS, HTTP2_CONNECTIONS));
        assert_eq!((connections("--http2 --connections 9"), connections("--connections 9")), (9, 9));
    }

    #[test]
    fn what_is_printed_is_read() {
        let offered = parse("14999 1 4999.7 96 2892 3100 4000\n").unwrap();
        assert_eq!((offered.requests, offered.errors), (14_999, 1));
        assert_eq!(offered.tail, Some((Duration::from_micros(3_100), Duration::from_micros(4_000))));
        assert!(parse("14999 1 4999.7 96 2892\n").is_none() && parse("a b c d e f g").is_none());
    }

    #[test]
    fn percentiles_are_of_good_answers_and_failures_are_errors() {
        let record = |n: u64, status| Record {
            number: n,
            due: Duration::ZERO,
            late: None,
            latency: Duration::from_micros(n),
            outcome: loadgen::Outcome::Answered { status, body: 0 },
            value: None,
        };
        let mut records: Vec<Record> = (1..=10_000).rev().map(|n| record(n, 200)).collect();
        records.push(record(1, 503));
        let offered = summary(&records, Duration::from_secs(2));
        assert_eq!((offered.requests, offered.errors), (10_000, 1));
        let micros = [offered.p50, offered.p99, offered.tail.unwrap().0, offered.tail.unwrap().1];
        assert_eq!(micros.map(|time| time.as_micros()), [5_000, 9_900, 9_990, 9_999]);
        assert!((offered.rate - 5_000.0).abs() < 1e-6);
        assert_eq!(summary(&[], Duration::ZERO).requests, 0);
        records[0].value = Some("alpha".to_owned());
        let values = values(&records);
        assert_eq!(values["alpha"], (1, Duration::from_micros(10_000)));
        assert_eq!(values["(none)"].0, 9_999);
    }
}
