//! `ringway rbac`: what the hub and the members must allow.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::table;

/// Settings of `rbac`.
#[derive(Args)]
pub struct RbacArgs {
    /// For which side.
    #[arg(value_enum)]
    side: Side,
    /// The namespace of the service account; on the hub, `fleet.namespace`.
    #[arg(long, value_name = "NAMESPACE", default_value = "ringway-system")]
    namespace: String,
    /// On the hub: a namespace whose Secrets are read as well (`fleet.secret_namespaces`, and those of certificates
    /// that Ingresses and Gateways name); may be given several times.
    #[arg(long, value_name = "NAMESPACE")]
    secrets_in: Vec<String>,
}

/// Which API server.
#[derive(Clone, Copy, ValueEnum)]
enum Side {
    /// The Fleet.
    Hub,
    /// Each member cluster.
    Member,
}

/// Prints the objects of one side, as one YAML stream.
pub fn main(args: &RbacArgs) -> Result<ExitCode, String> {
    let objects = match args.side {
        Side::Hub => controller::rbac::hub(&args.namespace, &args.secrets_in),
        Side::Member => controller::rbac::member(&args.namespace),
    };
    table::print(&controller::rbac::yaml(&objects)).map(|()| ExitCode::SUCCESS)
}
