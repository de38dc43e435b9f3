//! `loadtest`: Ringway beside its peers and beside the least that a relay can cost.
//!
//! Sees only what a client sees: it knows the gateway's command line and HTTP, nothing else of it.
//! `floor` and `backend` are the two programs that a comparison needs and nobody ships; `bench` runs the comparison;
//! `failover` breaks clusters and tells what the clients saw; `hitless` changes everything and wants nobody to notice;
//! `attack` tells what attackers cost another client; `agree` compares our generator with those of others.

mod backend;
mod bench;
mod cluster;
mod failover;
mod floor;
mod hitless;
mod manifests;
mod page;
mod picture;
mod places;
mod ring;
mod socket;
mod streams;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of Ringway, its peers and the raw floor", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Relay bytes over io_uring and parse nothing: the least that a proxy can cost. One thread, until killed.
    Floor {
        /// Where clients connect; port 0 lets the kernel choose, and the address is printed.
        #[arg(long)]
        listen: SocketAddr,
        /// Where every client's connection is relayed to.
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Answer every HTTP/1.1 request without a body with the same response. One thread, until SIGTERM or SIGINT.
    Backend {
        /// Where to listen; port 0 lets the kernel choose, and the address is printed.
        #[arg(long)]
        listen: SocketAddr,
        /// Bytes of the response's body.
        #[arg(long, default_value_t = 128)]
        body: usize,
        /// Milliseconds between a request and its response.
        #[arg(long, default_value_t = 0)]
        latency_ms: u64,
        /// Speak HTTP/2 in clear instead (bodies up to 16,384 bytes); requests may have bodies.
        #[arg(long)]
        http2: bool,
        /// Answer as a unary call of gRPC, `grpc-status: 0`; implies --http2.
        #[arg(long)]
        grpc: bool,
    },
    /// Endpoints of one cluster that say who they are, until SIGTERM or SIGINT.
    Cluster(cluster::Options),
    /// Send requests at a constant rate and print what came of them.
    Open(bench::open::Options),
    /// Compare proxies by CPU per request, interleaved in rounds; prints a table.
    Bench(bench::Options),
    /// See that `open` measures what wrk and h2load measure, where they can measure the same; prints a table.
    Agree(bench::agree::Options),
    /// Attack the gateway and see what another client notices: latency and memory, in peace and under attack.
    Attack(bench::attack::Options),
    /// Break a cluster under load, with Ringway and its peers in network namespaces; prints a table (needs root).
    Failover(failover::Options),
    /// Reload, swap certificates, change tables and hand the port over under load: not one request may fail.
    Hitless(hitless::Options),
    /// Put results of the others together in one HTML file that needs nothing else.
    Page(page::Options),
    /// An endpoint of `failover`.
    #[command(hide = true)]
    Pod(failover::pod::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Hitless(options) => match hitless::run(&options) {
            Ok(true) => Ok(()),
            Ok(false) => Err("hitless: a claim does not hold".to_owned()),
            Err(why) => Err(format!("hitless: {why}")),
        },
        Command::Agree(options) => match bench::agree::run(&options) {
            Ok(true) => Ok(()),
            Ok(false) => Err("agree: the generators do not".to_owned()),
            Err(why) => Err(format!("agree: {why}")),
        },
        Command::Floor { listen, upstream } => {
            floor::run(listen, upstream).map_err(|why| format!("floor: {why}"))
        }
        Command::Backend { listen, body, latency_ms, http2, grpc } => {
            let latency = Duration::from_millis(latency_ms);
            let answer = if grpc { streams::Answer::Grpc } else { streams::Answer::Plain };
            let result = match http2 || grpc {
                true => streams::run(listen, body, latency, answer),
                false => backend::run(listen, body, latency),
            };
            result.map_err(|why| format!("backend: {why}"))
        }
        Command::Cluster(options) => cluster::run(&options).map_err(|why| format!("cluster: {why}")),
        Command::Page(options) => page::run(&options).map_err(|why| format!("page: {why}")),
        Command::Open(options) => bench::open::main(&options).map_err(|why| format!("open: {why}")),
        Command::Bench(options) => bench::run(&options).map_err(|why| format!("bench: {why}")),
        Command::Attack(options) => bench::attack::run(&options).map_err(|why| format!("attack: {why}")),
        Command::Failover(options) => failover::run(&options).map_err(|why| format!("failover: {why}")),
        Command::Pod(options) => failover::pod::serve(&options).map_err(|why| format!("pod: {why}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
