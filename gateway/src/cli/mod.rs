//! The command line: one module for each command.

mod boot;
mod canary;
mod check;
mod client;
mod completions;
mod crds;
mod demo;
mod drill;
mod explain;
mod facts;
mod import;
mod manager;
mod operate;
mod plan;
mod rbac;
mod run;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use config::{Config, ListenAddr, Overrides};

/// A multi-cluster Kubernetes gateway: rules from one hub, pods in many clusters, failover in milliseconds.
#[derive(Parser)]
#[command(name = "ringway", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run(RunArgs),
    /// Judge a directory of manifests without serving it: what is accepted, refused or partly ignored, and why.
    Check(check::CheckArgs),
    /// Say what a change would do: what would come, go or be different, and which share of real requests would go elsewhere.
    Plan(plan::PlanArgs),
    /// Read Ingresses of ingress-nginx, ALB, MSE or Higress: a verdict on each annotation, or Gateway API objects.
    Import(import::ImportArgs),
    /// Say where a request would go: which rule, which backend, cluster and endpoints, and why the others lost.
    Explain(explain::ExplainArgs),
    /// Show a running node: its clusters with share, rate, latency and state.
    Status(status::StatusArgs),
    /// Send a cluster's requests elsewhere, at once or little by little.
    Drain(operate::DrainArgs),
    /// Give a drained cluster its share again.
    Undrain(operate::UndrainArgs),
    /// Let a standby take writes.
    Promote(operate::PromoteArgs),
    /// Let a standby take no writes until it is promoted.
    Fence(operate::PromoteArgs),
    /// Break a share of a cluster's attempts on purpose, and see what clients notice.
    Drill(drill::DrillArgs),
    /// Print the CustomResourceDefinitions as YAML, for `kubectl apply -f -`.
    Crds,
    /// Print what the hub or a member must allow (RBAC) as YAML, for `kubectl apply -f -`.
    Rbac(rbac::RbacArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Watch a cluster die and lose nothing: two member clusters, real load, a live view, a report.
    Demo(demo::DemoArgs),
}

/// Settings of `run`; each is also a key of gateway.toml, and wins over it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    /// The configuration file. Without it every key has its default.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The directory of manifests: DIR/fleet/*.yaml and DIR/clusters/NAME/*.yaml; watched for changes.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// The hub's kubeconfig, or "in-cluster": watch Kubernetes APIs in place of a directory of manifests.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub fleet_kubeconfig: Option<PathBuf>,
    /// How many workers. Default: one for each core of the process's affinity mask.
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Where Ingress rules are served: ADDR:PORT[/http|https]; may be given several times. Default `[::]:8080/http`.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<ListenAddr>,
    /// Where the admin API listens. Default 127.0.0.1:9901.
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<std::net::SocketAddr>,
    /// The operators' Unix socket; "" = none. Default /run/ringway/admin.sock.
    #[arg(long, value_name = "PATH", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub socket: Option<PathBuf>,
}

impl RunArgs {
    /// Defaults, file and command line together.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub(crate) fn load(&self) -> Result<Config, String> {
        let overrides = Overrides {
            listen: (!self.listen.is_empty()).then(|| self.listen.clone()),
            manifests: self.manifests.clone(),
            fleet_kubeconfig: self.fleet_kubeconfig.clone(),
            workers: self.workers,
            admin: self.admin,
        };
        let load = || {
            let mut config = Config::load(self.config.as_deref(), &overrides)?;
            if let Some(socket) = &self.socket {
                config.admin.socket.clone_from(socket);
                config.validate()?;
            }
            Ok(config)
        };
        load().map_err(|error: config::ConfigError| error.to_string())
    }
}

/// Runs the command that was asked for.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Plan(args) => plan::main(&args),
        Command::Import(args) => import::main(&args),
        Command::Explain(args) => explain::main(&args),
        Command::Status(args) => status::main(&args),
        Command::Drain(args) => operate::drain(&args),
        Command::Undrain(args) => operate::undrain(&args),
        Command::Promote(args) => operate::promote(&args),
        Command::Fence(args) => operate::fence(&args),
        Command::Drill(args) => drill::main(&args),
        Command::Crds => crds::main(),
        Command::Rbac(args) => rbac::main(&args),
        Command::Completions(args) => completions::main(&args),
        Command::Demo(args) => demo::main(&args),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("ringway: {message}");
            ExitCode::FAILURE
        }
    }
}
