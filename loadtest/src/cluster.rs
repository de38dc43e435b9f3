//! `loadtest cluster`: endpoints of one cluster that say who they are, for labs that people play with.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use loadgen::{Backend, BackendOptions, Latency};

use crate::bench::machine::Stop;
use crate::bench::{BenchError, Result};

/// Which endpoints.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The cluster's name, sent as `x-cluster`.
    #[arg(long)]
    name: String,
    /// Where an endpoint listens, sent as `x-endpoint`; repeatable.
    #[arg(long = "listen", required = true)]
    listen: Vec<SocketAddr>,
    /// Milliseconds between a request and its answer: the way to a far region and back.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
}

/// How often signals are looked for.
const ROUND: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be bound.
pub(crate) fn run(options: &Options) -> Result<()> {
    let stop = Stop::on_signals()?;
    let start = |addr: &SocketAddr| {
        let identity = BackendOptions {
            cluster: options.name.clone(),
            endpoint: addr.to_string(),
            latency: Latency::fixed(Duration::from_millis(options.latency_ms)),
        };
        Backend::start(*addr, identity).map_err(BenchError::io(format!("listen on {addr}")))
    };
    let endpoints = options.listen.iter().map(start).collect::<Result<Vec<_>>>()?;
    for endpoint in &endpoints {
        println!("listening on {}", endpoint.addr());
    }
    loop {
        match stop.pause(ROUND) {
            Ok(()) => {}
            Err(BenchError::Stopped) => return Ok(()),
            Err(other) => return Err(other),
        }
    }
}
