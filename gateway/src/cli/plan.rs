//! `ringway plan DIR`: what would be different if DIR were served.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use controller::plan::Plan;

use super::check::{self, OfflineArgs, existing};
use super::{run, table};

/// What is compared.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Rules are told by listener, host and match; endpoints by backend, cluster and address:
  +  would come        -  would go        ~  would be different        >  would pass from one backend to another

Exit status: 0 when every object of DIR is accepted or partly ignored; 1 when any is refused (`ringway check DIR` says which).

Examples:
  ringway plan next/ --against config/examples/quickstart
  git worktree add /tmp/next main && ringway plan /tmp/next/manifests --config /etc/ringway/gateway.toml")]
pub struct PlanArgs {
    /// The directory that would be served: DIR/fleet/*.yaml and DIR/clusters/NAME/*.yaml.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The directory that is served now. Default: `manifests` of the configuration file.
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// Compares.
pub fn main(args: &PlanArgs) -> Result<ExitCode, String> {
    let config = args.offline.load()?;
    let served = args.against.clone().unwrap_or_else(|| config.manifests.path().to_path_buf());
    let (listen, defaults) = (check::listeners(&config), run::defaults(&config));
    let (before, _) = controller::compile_dir(existing(&served)?, &listen, &defaults);
    let (after, report) = controller::compile_dir(existing(&args.dir)?, &listen, &defaults);
    let mut text = Plan::between(&before, &after).to_string();
    if report.refused() {
        text.push_str("some objects are refused, wholly or partly: ringway check says which\n");
    }
    table::print(&text)?;
    Ok(if report.refused() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
