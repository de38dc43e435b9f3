//! One run of h2load, and what it printed. As with wrk, a closed loop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::case::{Case, SECURED_HOST, Speech, Transport};
use super::machine::Stop;
use super::process::{Child, Cores, WorkDir, first_on};
use super::report::Offered;
use super::{BenchError, Result};

/// Loads `target` for so many seconds.
pub(crate) fn run(
    cores: &Cores,
    target: SocketAddr,
    case: Case,
    (connections, streams): (u32, u32),
    seconds: u32,
    (dir, stop): (&WorkDir, &Stop),
) -> Result<Offered> {
    let home = dir.fresh("h2load")?;
    let log = home.join("requests.log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(first_on(&cores.loads(case.workers)));
    command.args(arguments(target, case, (connections, streams), seconds, &home)?);
    command.arg(format!("--log-file={}", log.display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = Child::spawn("h2load", &mut command)?;
    let output = child.output(Duration::from_secs(u64::from(seconds) + 20), stop)?;
    let times = std::fs::read_to_string(&log).map_err(BenchError::io(format!("read {}", log.display())))?;
    parse(&output, &times)
        .ok_or_else(|| BenchError::failed("h2load", format!("printed what is not understood:\n{output}")))
}

/// Its command line.
fn arguments(
    target: SocketAddr,
    case: Case,
    (connections, streams): (u32, u32),
    seconds: u32,
    home: &Path,
) -> Result<Vec<String>> {
    let mut line = vec!["h2load".to_owned(), "-t1".to_owned()];
    line.extend([format!("-c{connections}"), format!("-m{streams}"), format!("-D{seconds}")]);
    // So large that windows never make a request wait: bits of bytes, a stream's and a connection's.
    line.extend(["-w20", "-W26"].map(str::to_owned));
    if case.speech == Speech::Grpc {
        let message = write_message(home, case.body)?;
        line.extend(["-d".to_owned(), message.display().to_string()]);
        line.extend(["-H", "content-type: application/grpc", "-H", "te: trailers"].map(str::to_owned));
    }
    line.push(match case.transport {
        Transport::Plain => format!("http://{target}/"),
        Transport::Tls => format!("https://{SECURED_HOST}:{}/", target.port()),
    });
    Ok(line)
}

/// A message of gRPC of that many bytes, in a file.
fn write_message(home: &Path, bytes: usize) -> Result<PathBuf> {
    let path = home.join("message");
    let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let message = [&[0], length.as_slice(), &vec![b'x'; bytes]].concat();
    std::fs::write(&path, message).map_err(BenchError::io(format!("write {}", path.display())))?;
    Ok(path)
}

/// From what it printed, and from its log: a line for each request, its end, status and microseconds.
fn parse(output: &str, log: &str) -> Option<Offered> {
    let line = |name: &str| output.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let number = |text: &str| text.split(' ').next()?.parse::<u64>().ok();
    // "requests: N total, N started, N done, N succeeded, N failed, N errored, N timeout"
    let counts: Vec<u64> = line("requests:")?.split(", ").filter_map(number).collect();
    let [_, _, done, succeeded, failed, errored, timed_out] = counts.as_slice() else { return None };
    let rate = line("finished in")?.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()?;
    let mut times: Vec<u64> = log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    times.sort_unstable();
    let at = |share: usize| {
        let index = (times.len() * share).div_ceil(10_000).max(1) - 1;
        times.get(index).copied().map(Duration::from_micros)
    };
    Some(Offered {
        requests: *succeeded,
        errors: (failed + errored + timed_out).max(done.saturating_sub(*succeeded)),
        rate,
        p50: at(5_000)?,
        p99: at(9_900)?,
        tail: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
finished in 1.01s, 53724.00 req/s, 3.64MB/s
requests: 53725 total, 53788 started, 53725 done, 53724 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 53725 2xx, 0 3xx, 0 4xx, 0 5xx
";

    #[test]
    fn a_run_is_read_with_its_failures_and_percentiles() {
        let log: String = (1..=1_000).rev().map(|n| format!("1796072603791096\t200\t{n}\n")).collect();
        let offered = parse(OUTPUT, &log).unwrap();
        assert_eq!((offered.requests, offered.errors), (53_724, 1));
        assert!((offered.rate - 53_724.0).abs() < 1e-6);
        assert_eq!((offered.p50, offered.p99), (Duration::from_micros(500), Duration::from_micros(990)));
    }

    #[test]
    fn something_else_is_not_a_result() {
        assert_eq!(parse("", ""), None);
        assert_eq!(parse(OUTPUT, ""), None, "nothing was answered");
    }
}
