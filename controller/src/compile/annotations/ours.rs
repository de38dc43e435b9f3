//! Our own annotations, of Ingresses and routes.
//!
//! | annotation | value |
//! |---|---|
//! | `ringway.dev/cluster-weight.CLUSTER` | share of that cluster, 0–1000000 |
//! | `ringway.dev/cluster-priority.CLUSTER` | 0 = active, higher = standby |
//! | `ringway.dev/cluster` | this cluster serves; the others only when it cannot |
//! | `ringway.dev/load-balance` | `least_request`, `round_robin`, `random`, `hash(…)` |
//! | `ringway.dev/affinity-cookie` | name of a cookie that keeps a client on its endpoint |
//! | `ringway.dev/alpn` | `h2`, `http/1.1`, or both by comma: what the Ingress's hosts offer over TLS (Ingress only) |
//! | `ringway.dev/retry-grpc-codes` | codes of gRPC that a call is tried again for, by comma |
//! | `ringway.dev/rewrite-prefix` | replaces the matched prefix of the path (Ingress only) |

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::model::{COOKIE_ATTRIBUTES, CookieAffinity};

use super::Annotations;
use crate::compile::handshake;
use crate::merge::Member;
use crate::text;
use crate::verdict::Notes;

/// What is known of ours, for reports.
const OURS: &str = "cluster-weight.CLUSTER, cluster-priority.CLUSTER, cluster, load-balance, affinity-cookie, \
                    alpn, retry-grpc-codes, rewrite-prefix";

/// Reads them. One that is wrong is reported and says nothing.
pub(super) fn read(
    annotations: &BTreeMap<String, String>,
    members: &BTreeMap<Arc<str>, Member>,
    out: &mut Annotations,
    notes: &mut Notes,
) {
    let (mut weights, mut priorities) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in annotations {
        let Some(ours) = name.strip_prefix("ringway.dev/") else { continue };
        if let Err(allowed) = read_one(ours, value, members, out, &mut weights, &mut priorities) {
            notes.refused_part(super::given::field(name), value, format!("allowed: {allowed}"));
        }
    }
    if !weights.is_empty() {
        out.part.weights = Some(weights);
    }
    if !priorities.is_empty() {
        out.part.priorities = Some(priorities);
    }
}

fn read_one(
    name: &str,
    value: &str,
    members: &BTreeMap<Arc<str>, Member>,
    out: &mut Annotations,
    weights: &mut BTreeMap<Arc<str>, u32>,
    priorities: &mut BTreeMap<Arc<str>, u8>,
) -> Result<(), String> {
    if let Some(cluster) = name.strip_prefix("cluster-weight.") {
        let (cluster, weight) = cluster_number(cluster, value, text::WEIGHT_MAX, members)?;
        weights.insert(cluster, weight);
    } else if let Some(cluster) = name.strip_prefix("cluster-priority.") {
        let (cluster, priority) = cluster_number(cluster, value, 255, members)?;
        priorities.insert(cluster, u8::try_from(priority).map_err(|_| "0 to 255")?);
    } else if name == "cluster" {
        let (cluster, _) = members.get_key_value(value).ok_or_else(|| names(members))?;
        // `or_insert`: an explicit cluster-priority is more telling.
        priorities.entry(cluster.clone()).or_insert(0);
    } else if name == "load-balance" {
        out.part.balance = Some(text::balance(value)?);
    } else if name == "affinity-cookie" {
        let cookie = text::cookie_name(value)?;
        let (path, attributes) = (Arc::from("/"), Arc::from(COOKIE_ATTRIBUTES));
        out.part.affinity = Some(CookieAffinity {
            cookie,
            path,
            max_age: None,
            expires: None,
            secure_over_tls: true,
            attributes,
            across: Default::default(),
        });
    } else if name == "alpn" {
        out.checks.alpn = handshake::alpn(value)?;
    } else if name == "retry-grpc-codes" {
        let codes = value.split(',').map(|code| text::grpc_code(code.trim()));
        out.part.grpc_codes = Some(codes.collect::<Result<_, _>>()?);
    } else if name == "rewrite-prefix" {
        text::path(value)?;
        out.rewrite_prefix = Some(Arc::from(value.trim_end_matches('/')));
    } else {
        return Err(format!("ringway.dev/ knows {OURS}"));
    }
    Ok(())
}

pub(super) fn cluster_number(
    cluster: &str,
    value: &str,
    max: i64,
    members: &BTreeMap<Arc<str>, Member>,
) -> Result<(Arc<str>, u32), String> {
    let (cluster, _) = members.get_key_value(cluster).ok_or_else(|| names(members))?;
    let number = value.parse::<i64>().map_err(|_| format!("0 to {max}"))?;
    Ok((cluster.clone(), text::bounded(number, 0, max)?))
}

pub(super) fn names(members: &BTreeMap<Arc<str>, Member>) -> String {
    let names: Vec<&str> = members.keys().take(16).map(|name| &**name).collect();
    format!("a member cluster: {}", names.join(", "))
}
