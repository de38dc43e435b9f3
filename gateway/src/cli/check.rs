//! `ringway check DIR`: every object of a directory, and what would become of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use config::ListenAddr;

use routing::model::Protocol;

use super::{RunArgs, run, table};

/// What to judge, and for which listeners.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Every object is listed under its file with what becomes of it:
  accepted         all of it is in force
  partly ignored   valid, but some of it is not used (each field with the reason)
  partly refused   some of it is wrong and not served; the rest is
  refused          nothing of it is used

Exit status: 0 when no object is refused, wholly or partly; 1 otherwise.

Examples:
  ringway check config/examples/quickstart
  kubectl get ingress,svc,endpointslices -A -o yaml > dir/clusters/alpha/all.yaml && ringway check dir")]
pub struct CheckArgs {
    /// The directory: DIR/fleet/*.yaml and DIR/clusters/NAME/*.yaml.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// Settings of a node that bear on how manifests are read.
#[derive(Args, Clone, Debug, Default)]
pub struct OfflineArgs {
    /// The configuration file of the node that would serve. Without it every key has its default.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where Ingress rules would be served: ADDR:PORT[/http|https]; may be given several times. Default `[::]:8080/http`.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<ListenAddr>,
}

impl OfflineArgs {
    /// The node's configuration.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn load(&self) -> Result<config::Config, String> {
        let args = RunArgs { config: self.config.clone(), listen: self.listen.clone(), ..RunArgs::default() };
        args.load()
    }
}

/// Where Ingress rules are served.
pub fn listeners(config: &config::Config) -> Vec<(SocketAddr, Protocol)> {
    config.listen.iter().map(|listen| (listen.addr, run::protocol(listen.protocol))).collect()
}

/// A directory that is there.
///
/// # Errors
/// Says what a directory of manifests looks like.
pub fn existing(dir: &Path) -> Result<&Path, String> {
    let message = || {
        format!("{}: not a directory (expected DIR/fleet/*.yaml and DIR/clusters/NAME/*.yaml)", dir.display())
    };
    dir.is_dir().then_some(dir).ok_or_else(message)
}

/// Judges.
pub fn main(args: &CheckArgs) -> Result<ExitCode, String> {
    let config = args.offline.load()?;
    let report = controller::check_dir(existing(&args.dir)?, &listeners(&config));
    table::print(&report.to_string())?;
    Ok(if report.refused() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
