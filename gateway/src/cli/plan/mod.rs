//! `ringway plan`: what would be different if DIR, or what the hub holds, were served; against a directory, or against
//! a running node and its last minute's requests.

mod shares;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use config::Config;
use controller::plan::{Described, Plan};
use gateway::admin::tables::Decisions;
use gateway::worker::clock;
use gateway::worker::settings::Settings;
use routing::delta::RouteTable;

use super::check::{self, OfflineArgs, existing};
use super::client::NodeAt;
use super::{explain, run, table};
use shares::Shares;

/// What is compared.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Rules are told by listener, host and match; endpoints by backend, cluster and address:
  +  would come        -  would go        ~  would be different        >  would pass from one backend to another

With --admin the table that a node serves is compared, and with its operators' socket also its last minute's requests are
sent through both tables: which share would go elsewhere, with every endpoint healthy and no cluster drained by command.

With --fleet the hub and the members are read as `ringway run` would read them; objects of DIR/fleet, if DIR is given, are
laid over those of the hub.

Exit status: 0 when every object is accepted or partly ignored; 1 when any is refused (`ringway check DIR` says which).

Examples:
  ringway plan next/ --against config/examples/quickstart
  ringway plan next/ --admin /run/ringway/admin.sock
  ringway plan change/ --fleet --config /etc/ringway/gateway.toml --admin /run/ringway/admin.sock
  git worktree add /tmp/next main && ringway plan /tmp/next/manifests --config /etc/ringway/gateway.toml")]
pub struct PlanArgs {
    /// The directory that would be served: DIR/fleet/*.yaml and DIR/clusters/NAME/*.yaml.
    #[arg(value_name = "DIR", required_unless_present = "fleet")]
    pub dir: Option<PathBuf>,
    /// The directory that is served now. Default: `manifests` of the configuration file.
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    pub against: Option<PathBuf>,
    /// The node that serves now: its admin API (http://ADDRESS:PORT), or its operators' socket (a path).
    #[arg(long, value_name = "URL|PATH")]
    pub admin: Option<NodeAt>,
    /// What would be served is what the hub and the members hold (`[fleet]` of the configuration file).
    #[arg(long)]
    pub fleet: bool,
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// Compares.
pub fn main(args: &PlanArgs) -> Result<ExitCode, String> {
    let config = args.offline.load()?;
    let (after, refused) = wanted(args, &config)?;
    let mut text = match &args.admin {
        Some(node) => against_node(node, &after, &config)?,
        None => {
            let served = args.against.clone().unwrap_or_else(|| config.manifests.path().to_path_buf());
            let listen = check::listeners(&config);
            let (before, _) = controller::compile_dir(existing(&served)?, &listen, &run::defaults(&config));
            Plan::between(&before, &after).to_string()
        }
    };
    if refused {
        text.push_str("some objects are refused, wholly or partly: ringway check says which\n");
    }
    table::print(&text)?;
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The table that would be served, and whether anything is refused.
fn wanted(args: &PlanArgs, config: &Config) -> Result<(RouteTable, bool), String> {
    let (listen, defaults) = (check::listeners(config), run::defaults(config));
    let dir = args.dir.as_deref().map(existing).transpose()?;
    let (after, report) = match (args.fleet, dir) {
        (false, Some(dir)) => controller::compile_dir(dir, &listen, &defaults),
        (false, None) => return Err("DIR is missing".to_owned()),
        (true, dir) => controller::compile_fleet(run::fleet(config)?, dir, &listen, &defaults)?,
    };
    Ok((after, report.refused()))
}

fn against_node(node: &NodeAt, after: &RouteTable, config: &Config) -> Result<String, String> {
    let before: Described = node.get("/api/v1/table")?;
    let mut text = Plan::of(before, Described::of(after)).to_string();
    match node {
        NodeAt::Url(_) => {
            text.push_str("decisions: a node tells them on its operators' socket only (--admin PATH)\n")
        }
        NodeAt::Socket(_) => {
            let sample: Decisions = node.get("/api/v1/decisions")?;
            let worker = explain::worker_table(after, config)?;
            let shares = Shares::of(&sample, &worker, &Settings::new(config).head, clock::now());
            text.push_str(&shares.to_string());
        }
    }
    Ok(text)
}
