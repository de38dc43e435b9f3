//! One run of wrk, and what it printed. Its latencies are of a closed loop: while a response is late, the connection asks
//! for nothing.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::case::{Case, Reuse, SECURED_HOST, Transport};
use super::machine::Stop;
use super::process::{Child, Cores, first_on};
use super::report::Offered;
use super::{BenchError, Result};

/// Loads `target` for so many seconds.
pub(crate) fn run(
    cores: &Cores,
    target: SocketAddr,
    case: Case,
    (connections, reuse): (u32, Reuse),
    seconds: u32,
    stop: &Stop,
) -> Result<Offered> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(first_on(&cores.loads(case.workers)));
    command.args(["wrk", "--latency"]);
    command.args([
        format!("-t{}", case.workers),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        "--timeout".to_owned(),
        "10s".to_owned(),
    ]);
    match reuse {
        Reuse::KeepAlive => {}
        Reuse::Never => drop(command.args(["-H", "Connection: close"])),
    }
    let url = match case.transport {
        Transport::Plain => format!("http://{target}/"),
        Transport::Tls => format!("https://{SECURED_HOST}:{}/", target.port()),
    };
    command.args(["-H", &format!("Host: {}", case.host())]);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = Child::spawn("wrk", &mut command)?;
    // wrk ends by itself; twenty seconds cover a proxy that stopped answering.
    let output = child.output(Duration::from_secs(u64::from(seconds) + 20), stop)?;
    parse(&output)
        .ok_or_else(|| BenchError::failed("wrk", format!("printed what is not understood:\n{output}")))
}

fn parse(output: &str) -> Option<Offered> {
    let lines = || output.lines().map(str::trim);
    let after = |name: &str| lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let requests = lines().find(|line| line.contains(" requests in "))?.split(' ').next()?.parse().ok()?;
    let numbers =
        |text: &str| -> u64 { text.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum() };
    let socket_errors = after("Socket errors:").map_or(0, numbers);
    let bad_statuses = after("Non-2xx or 3xx responses:").map_or(0, numbers);
    Some(Offered {
        requests,
        errors: socket_errors + bad_statuses,
        rate: after("Requests/sec:")?.parse().ok()?,
        p50: time(after("50%")?)?,
        p99: time(after("99%")?)?,
        tail: None,
    })
}

/// wrk's times: `812.00us`, `1.25ms`, `1.02s`, `1.10m`.
fn time(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let value: f64 = text[..split].parse().ok()?;
    let scale = match &text[split..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(value * scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Running 3s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.71ms  812.00us  11.73ms   75.23%
    Req/Sec    37.31k     2.11k   41.80k    70.00%
  Latency Distribution
     50%    1.66ms
     75%    2.06ms
     90%    2.55ms
     99%    4.43ms
  111482 requests in 3.00s, 25.09MB read
";

    #[test]
    fn a_good_run_is_read() {
        let result = parse(&format!("{OUTPUT}Requests/sec:  37127.55\nTransfer/sec:      8.36MB\n")).unwrap();
        assert_eq!((result.requests, result.errors), (111_482, 0));
        assert_eq!((result.p50, result.p99), (Duration::from_micros(1_660), Duration::from_micros(4_430)));
        assert!((result.rate - 37_127.55).abs() < 1e-6);
    }

    #[test]
    fn errors_of_both_kinds_are_counted() {
        let more = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 100\nRequests/sec: 1.0\n";
        assert_eq!(parse(&format!("{OUTPUT}{more}")).unwrap().errors, 110);
    }

    #[test]
    fn something_else_is_not_a_result() {
        assert_eq!(parse("unable to connect to 127.0.0.1:1 Connection refused\n"), None);
        assert_eq!(parse(OUTPUT), None);
    }
}
