//! `[node]`: who and where this gateway is.

use serde::{Deserialize, Serialize};

/// Name and place of this node. Not live: "nearest" must not move under running requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The name in logs, in `Via` and in status. Default empty = the host name. Letters, digits, `.`, `-`; at most
    /// 63 bytes.
    pub name: String,
    /// The region that "nearest" is counted from. Default empty = unknown: all clusters are equally near.
    pub region: String,
    /// The zone within the region. Default empty = unknown.
    pub zone: String,
}
