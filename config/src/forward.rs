//! `[forward]`: what is added to, kept in and dropped from a request on its way to an endpoint.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How requests are changed when they are passed on. All live: a change holds for new requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forward {
    /// Peers whose `X-Forwarded-*`, `Forwarded`, `X-Real-IP` and `X-Request-Id` are believed and extended. From
    /// everybody else they are replaced. Lists of sources, limits by source and hashes of it then go by the last address
    /// in `X-Forwarded-For` that is none of these. Default none; at most 1,024.
    pub trusted_cidrs: Vec<IpNet>,
    /// Which messages get a `Via` entry. Default [`ViaPolicy::Request`].
    pub via: ViaPolicy,
    /// Where `X-Request-Id` comes from. Default [`RequestIdPolicy::Generate`].
    pub x_request_id: RequestIdPolicy,
    /// What becomes of header names with an underscore. Default [`UnderscorePolicy::Drop`].
    pub underscores: UnderscorePolicy,
    /// What becomes of `%2f` and `%5c` in a path. Default [`EncodedSlashPolicy::Keep`].
    pub encoded_slash: EncodedSlashPolicy,
}

/// Which messages get a `Via` entry (RFC 9110 §7.6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ViaPolicy {
    /// None. The RFC asks for one on requests; some backends turn compression off when they see it.
    Off,
    /// Requests only, as the RFC demands of a gateway.
    #[default]
    Request,
    /// Requests and responses.
    Both,
}

/// Where `X-Request-Id` comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestIdPolicy {
    /// Made here, unless a trusted peer sent one.
    #[default]
    Generate,
    /// The client's when it sent one (printable, at most 128 bytes), else made here.
    Keep,
    /// Neither made nor touched.
    Off,
}

/// What becomes of header names with an underscore: `X_Forwarded_For` reads as `X-Forwarded-For` in CGI-like backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnderscorePolicy {
    /// Not passed on.
    #[default]
    Drop,
    /// Passed on.
    Keep,
    /// The request is answered 400.
    Reject,
}

/// What becomes of `%2f` and `%5c` in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlashPolicy {
    /// Kept encoded, matched as data.
    #[default]
    Keep,
    /// Decoded before matching, and forwarded decoded.
    Decode,
    /// The request is answered 400.
    Reject,
}
