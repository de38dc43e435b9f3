//! `ringway import DIR` or `--kubeconfig FILE`: Ingresses of another gateway, and what would become of each annotation.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::table;

/// What to read, and what to write.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Reads Ingresses of ingress-nginx, ALB, MSE and Higress; members, classes and Services need not be there.

Exit status: 0 when nothing is refused, 1 otherwise.

Examples:
  ringway import --kubeconfig ~/.kube/config --context production
  kubectl get ingress -A -o yaml > all.yaml && ringway import all.yaml
  ringway import config/examples/ingress-nginx/fleet --to gateway-api > routes.yaml")]
pub struct ImportArgs {
    /// A folder of YAML and JSON files, or one file.
    #[arg(value_name = "DIR", required_unless_present = "kubeconfig", conflicts_with = "kubeconfig")]
    pub path: Option<PathBuf>,
    /// Read a running cluster by this kubeconfig instead: every Ingress that it may list.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig, when not its current one.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// Write what they are in another form to standard output, in place of the verdicts.
    #[arg(long, value_name = "FORM")]
    pub to: Option<Form>,
    /// The Gateway that the routes attach to.
    #[arg(long, value_name = "NAME", default_value = "public")]
    pub gateway: String,
}

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// `HTTPRoute` objects, with what they cannot say as comments.
    GatewayApi,
}

/// Reads, and prints.
pub fn main(args: &ImportArgs) -> Result<ExitCode, String> {
    let import = match (&args.kubeconfig, &args.path) {
        (Some(file), _) => controller::import::live(file, args.context.as_deref())?,
        (None, Some(path)) => controller::import::import(path)?,
        (None, None) => return Err("either DIR or --kubeconfig".to_owned()),
    };
    match args.to {
        None => table::print(&import.to_string())?,
        Some(Form::GatewayApi) => table::print(&import.gateway_api(&args.gateway))?,
    }
    Ok(if import.refused() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
