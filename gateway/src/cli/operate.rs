//! `ringway drain`, `undrain`, `promote`, `fence`: what an operator wants of a member cluster.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use gateway::admin::api::{Origin, Standing};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::SocketArgs;
use super::table;

/// Which cluster, and how gently.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A drained cluster gets no new requests while another cluster of a route can serve them, whatever priorities and
weights say. With --over its part goes elsewhere little by little: after half of the time, half of it; tunnels
(WebSocket) are closed at that pace, too. Otherwise requests and tunnels that are in flight end by themselves.

The word of an operator beats spec.drained of the MemberCluster until `ringway undrain`. It outlives an edit, a
restarted worker and (with admin.state_dir) the process.

Exit status: 0 when the order has been sent to every worker; 1 otherwise.

Examples:
  ringway drain alpha --over 30s
  ringway drain alpha --socket /run/ringway/admin.sock
  ringway status")]
pub struct DrainArgs {
    /// The member cluster.
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// How long it takes until the whole share is elsewhere: 100ms, 30s, 10m; at most 24h.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub over: config::Period,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Which cluster, and how gently.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The cluster gets its share again: at once, or little by little with --over. When its MemberCluster says
spec.drained, the operator's word beats it until the MemberCluster says so no longer.

Exit status: 0 when the order has been sent to every worker; 1 otherwise.

Examples:
  ringway undrain alpha
  ringway undrain alpha --over 5m")]
pub struct UndrainArgs {
    /// The member cluster.
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// How long it takes until it has its whole share: 100ms, 30s, 10m; at most 24h.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub over: config::Period,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Which cluster.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Where a FailoverPolicy says writeFence: UntilPromoted, a standby that has taken over answers requests whose method
is not safe (POST, PUT, DELETE …) with 503 and Retry-After until it is promoted. Promote it when its data may be
written: two clusters must not both take writes.

The annotation ringway.dev/promoted: \"true\" on the MemberCluster does the same; an operator's word beats it.

Exit status: 0 when the order has been sent to every worker; 1 otherwise.

Examples:
  ringway promote beta
  ringway fence beta")]
pub struct PromoteArgs {
    /// The member cluster.
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `ringway drain`
pub fn drain(args: &DrainArgs) -> Result<ExitCode, String> {
    order(&args.socket, &args.cluster, &format!("drain?over={}", args.over))
}

/// `ringway undrain`
pub fn undrain(args: &UndrainArgs) -> Result<ExitCode, String> {
    order(&args.socket, &args.cluster, &format!("undrain?over={}", args.over))
}

/// `ringway promote`
pub fn promote(args: &PromoteArgs) -> Result<ExitCode, String> {
    order(&args.socket, &args.cluster, "promote")
}

/// `ringway fence`
pub fn fence(args: &PromoteArgs) -> Result<ExitCode, String> {
    order(&args.socket, &args.cluster, "fence")
}

fn order(socket: &SocketArgs, cluster: &str, what: &str) -> Result<ExitCode, String> {
    let standing: Standing = socket.post(&format!("/api/v1/clusters/{}/{what}", encoded(cluster)))?;
    table::print(&format!("{}\n", line(&standing))).map(|()| ExitCode::SUCCESS)
}

/// A cluster's name as part of a path.
pub fn encoded(cluster: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(cluster, NON_ALPHANUMERIC)
}

/// `alpha: drained (by an operator, for 3 s), promoted (by its MemberCluster)`
pub fn line(standing: &Standing) -> String {
    let drain = match (standing.drain_percent, standing.drain_target) {
        (0, 0) => "serves".to_owned(),
        (100, 100) => "drained".to_owned(),
        (percent, target) if target > percent => format!("{percent} % drained, on its way to {target} %"),
        (percent, target) if target < percent => {
            format!("{percent} % drained, on its way back to {target} %")
        }
        (percent, _) => format!("{percent} % drained"),
    };
    let mut out = format!("{}: {drain}", standing.cluster);
    let is_plain = standing.drain_percent == 0 && standing.drain_target == 0;
    if !is_plain || standing.drain_origin == Origin::Operator {
        out.push_str(&by(standing.drain_origin, standing.drain_since_seconds));
    }
    if standing.promoted || standing.promoted_origin == Origin::Operator {
        out.push_str(if standing.promoted { ", promoted" } else { ", fenced" });
        out.push_str(&by(standing.promoted_origin, standing.promoted_since_seconds));
    }
    out
}

fn by(origin: Origin, since_seconds: Option<f64>) -> String {
    match (origin, since_seconds) {
        (Origin::Manifest, _) => " (by its MemberCluster)".to_owned(),
        (Origin::Operator, None) => " (by an operator)".to_owned(),
        (Origin::Operator, Some(seconds)) => format!(" (by an operator, for {})", age(seconds)),
    }
}

/// A time for people: whole seconds, minutes, hours or days.
pub fn age(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_is_said_in_one_line_with_its_origin() {
        let plain = Standing { cluster: "alpha".to_owned(), ..Standing::default() };
        assert_eq!(line(&plain), "alpha: serves");
        let manifest = Standing { drain_percent: 100, drain_target: 100, promoted: true, ..plain.clone() };
        assert_eq!(line(&manifest), "alpha: drained (by its MemberCluster), promoted (by its MemberCluster)");
        let operator = Standing {
            drain_percent: 40,
            drain_target: 100,
            drain_origin: Origin::Operator,
            drain_since_seconds: Some(150.0),
            promoted_origin: Origin::Operator,
            ..plain
        };
        assert_eq!(
            line(&operator),
            "alpha: 40 % drained, on its way to 100 % (by an operator, for 2 min), fenced (by an operator)"
        );
    }
}
