//! `ringway drill CLUSTER`: a fault on purpose, watched to its end.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::Receiver;
use gateway::admin::drill::{self, AbortRules, DrillState, Outcome, Phase, Report};
use gateway::worker::drill::{Fault, Share};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::SocketArgs;
use super::operate::encoded;
use super::{run, table};

/// How often the node is asked how it goes.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Which fault, for whom, and when to stop.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A share of the attempts on the cluster gets the fault, on every worker of the node; nothing is done to the cluster
itself. The drill ends after --for, when an abort rule holds, on Ctrl-C, or when this command is killed: after --for
in any case. One drill at a time. What clients saw before, during and after is printed and kept in admin.state_dir.

Faults:
  blackhole        sent, and nothing ever comes back
  refuse           the connect is refused
  latency=200ms    the answer comes so much later; up to 60s
  errors=503       the endpoint answers with this status, 500 to 599

Abort rules, joined by commas; the first that holds ends the drill:
  failed=1         so many requests were answered 5xx since it began
  p99.9=200ms      p50, p90, p99 or p99.9 of the node's latency since it began is higher (once there are enough
                   responses: 20, 50, 100, 1000)

Exit status: 0 when it lasted as long as it was to; 1 when it was aborted or refused.

Examples:
  ringway drill alpha --fault blackhole --share 10% --for 30s
  ringway drill alpha --fault latency=200ms --share 50% --for 1m --abort-on p99.9=200ms,failed=1")]
pub struct DrillArgs {
    /// The member cluster.
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// blackhole, refuse, latency=TIME or errors=STATUS.
    #[arg(long, value_name = "FAULT")]
    pub fault: Fault,
    /// Which part of the attempts on the cluster: 0.01% to 100%.
    #[arg(long, value_name = "PERCENT")]
    pub share: Share,
    /// For how long: 1s to 1h.
    #[arg(long = "for", value_name = "TIME", value_parser = lasts)]
    pub lasts: config::Period,
    /// What ends it early.
    #[arg(long, value_name = "RULES", default_value_t)]
    pub abort_on: AbortRules,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub socket: SocketArgs,
}

fn lasts(text: &str) -> Result<config::Period, String> {
    drill::parse_lasts(text).map(config::Period::new)
}

/// Begins it, watches it, prints what it found.
pub fn main(args: &DrillArgs) -> Result<ExitCode, String> {
    let signals = run::watch_signals()?;
    let value = |text: String| utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
    let begun: DrillState = args.socket.post(&format!(
        "/api/v1/clusters/{}/drill?fault={}&share={}&for={}&abort-on={}",
        encoded(&args.cluster),
        value(args.fault.to_string()),
        value(args.share.to_string()),
        value(args.lasts.to_string()),
        value(args.abort_on.to_string()),
    ))?;
    let began = begun.began_unix_ms.ok_or("the node has begun no drill")?;
    let report = watch(args, began, &signals)?;
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        table::print(&format!("{json}\n"))?;
    } else {
        table::print(&drill::render(&report))?;
    }
    Ok(match report.outcome {
        Outcome::Finished => ExitCode::SUCCESS,
        Outcome::Aborted => ExitCode::FAILURE,
    })
}

/// Asks until the report of the drill that began then is there.
fn watch(args: &DrillArgs, began: u64, signals: &Receiver<i32>) -> Result<Report, String> {
    let live = std::io::stderr().is_terminal();
    loop {
        let state: DrillState = args.socket.get("/api/v1/drill")?;
        if let Some(report) = state.report.filter(|report| report.began_unix_ms == began) {
            if live {
                eprint!("\r\x1b[K");
            }
            return Ok(report);
        }
        if state.began_unix_ms != Some(began) {
            return Err("the node no longer knows of the drill: it was started anew".to_owned());
        }
        if live {
            let doing = match state.phase {
                Phase::Running => "running",
                Phase::Measuring => "over, measuring",
                Phase::Idle => "over",
            };
            eprint!("\r\x1b[K{doing}, {:.0} s", state.elapsed_seconds.unwrap_or(0.0));
            let _ = std::io::stderr().flush();
        }
        if signals.recv_timeout(ASK_INTERVAL).is_ok() {
            // It may have ended this very moment: then there is nothing to stop.
            let _ = args.socket.post::<DrillState>("/api/v1/drill/stop");
        }
    }
}
