//! Every key: its range, whether a reload may change it, and the limit it stands for. The one table from which
//! validation, SIGHUP and the comments of `gateway.toml` (through a test) are held together.

use std::fmt;
use std::time::Duration;

use toml::{Table, Value};

use crate::error::Invalid;
use crate::unit::{ByteSize, Period};

/// What is known about one key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key with its section: `limits.headers_max`.
    pub name: &'static str,
    /// What values it takes.
    pub range: Range,
    /// Whether SIGHUP applies a change to a running process.
    pub reload: Reload,
    /// The value of the label `limit` of `ringway_limit_hits_total` that counts how often it was reached.
    pub limit: Option<&'static str>,
}

/// What a reload does with a changed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Applied to what begins after the reload.
    Live,
    /// Reported, and applied by the next start.
    Restart,
}

/// The values that a key takes. Bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// A whole number.
    Number(u64, u64),
    /// A [`ByteSize`].
    Size(ByteSize, ByteSize),
    /// A [`Period`].
    Time(Period, Period),
    /// A list of so many entries, whose form the type decides.
    List(usize, usize),
    /// A text of so many bytes: letters, digits, `.`, `-` and `_`.
    Word(usize, usize),
    /// Whatever the type reads: switches, addresses, paths, names of variants.
    Typed,
}

const fn number(name: &'static str, min: u64, max: u64, reload: Reload, limit: Option<&'static str>) -> Key {
    Key { name, range: Range::Number(min, max), reload, limit }
}

const fn size(name: &'static str, min: u64, max: u64, reload: Reload, limit: Option<&'static str>) -> Key {
    Key { name, range: Range::Size(ByteSize::new(min), ByteSize::new(max)), reload, limit }
}

const fn time(name: &'static str, min_ms: u64, max_ms: u64, limit: Option<&'static str>) -> Key {
    Key {
        name,
        range: Range::Time(Period::millis(min_ms), Period::millis(max_ms)),
        reload: Reload::Live,
        limit,
    }
}

const fn typed(name: &'static str, reload: Reload) -> Key {
    Key { name, range: Range::Typed, reload, limit: None }
}

const fn word(name: &'static str) -> Key {
    Key { name, range: Range::Word(0, 63), reload: Reload::Restart, limit: None }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
const U32: u64 = u32::MAX as u64;

use Reload::{Live, Restart};

/// Every key of `gateway.toml`, in its order.
pub const KEYS: &[Key] = &[
    // 256: each is a socket per worker, and the node's descriptors are finite.
    Key { name: "listen", range: Range::List(1, 256), reload: Restart, limit: None },
    typed("manifests", Restart),
    typed("fleet.kubeconfig", Restart),
    Key { name: "fleet.namespace", range: Range::Word(1, 63), reload: Restart, limit: None },
    Key { name: "fleet.secret_namespaces", range: Range::List(0, 32), reload: Restart, limit: None },
    Key {
        name: "fleet.confirm_after",
        range: Range::Time(Period::millis(100), Period::millis(HOUR)),
        reload: Restart,
        limit: None,
    },
    typed("fleet.write_status", Restart),
    Key { name: "fleet.addresses", range: Range::List(0, 16), reload: Restart, limit: None },
    number("fleet.status_burst", 1, 10_000, Restart, None),
    number("fleet.status_per_second", 1, 10_000, Restart, None),
    typed("canary.enabled", Restart),
    Key {
        name: "canary.watch",
        range: Range::Time(Period::millis(100), Period::millis(HOUR)),
        reload: Restart,
        limit: None,
    },
    Key {
        name: "canary.longest",
        range: Range::Time(Period::millis(100), Period::millis(DAY)),
        reload: Restart,
        limit: None,
    },
    number("canary.requests", 1, 1_000_000_000, Restart, None),
    number("canary.errors_above", 0, 100, Restart, None),
    number("canary.p99_above", 0, 100_000, Restart, None),
    number("worker.count", 0, 1_024, Restart, None),
    typed("worker.pin", Restart),
    // 32,768 and 65,536 are the kernel's own bounds (IORING_MAX_ENTRIES, IORING_MAX_CQ_ENTRIES).
    number("worker.ring_entries", 64, 32_768, Restart, None),
    number("worker.cq_entries", 64, 65_536, Restart, None),
    typed("worker.ring_flags", Restart),
    typed("worker.rebalance", Restart),
    typed("worker.splice", Restart),
    number("worker.backlog", 1, 65_535, Restart, None),
    number("limits.connections_max", 1, 10_000_000, Live, Some("connections")),
    number("limits.connections_per_source_max", 0, 10_000_000, Live, Some("connections_per_source")),
    number("limits.exchanges_max", 1, 10_000_000, Live, Some("exchanges")),
    // 1 MiB: offsets into a head fit in 32 bits many times over, and nobody sends more in good faith.
    size("limits.head_bytes_max", KIB, MIB, Live, Some("head_bytes")),
    size("limits.header_line_bytes_max", 256, MIB, Live, Some("header_line_bytes")),
    number("limits.headers_max", 1, 1_000, Live, Some("headers")),
    size("limits.uri_bytes_max", 64, MIB, Live, Some("uri_bytes")),
    // They lie in one buffer of 128 KiB.
    size("limits.pipeline_bytes_max", 0, 120 * KIB, Live, Some("pipeline_bytes")),
    size("limits.buffers_bytes_max", MIB, 1_024 * GIB, Live, Some("buffers_bytes")),
    size("limits.retry_body_bytes_max", 0, 16 * MIB, Live, Some("retry_body_bytes")),
    size("limits.retry_bodies_bytes_max", 0, 64 * GIB, Live, Some("retry_bodies_bytes")),
    number("limits.probes_max", 1, 65_536, Live, Some("probes")),
    number("limits.detached_max", 0, 65_536, Live, Some("detached")),
    number("limits.handshakes_max", 1, 1_000_000, Live, Some("handshakes")),
    number("limits.gzip_streams_max", 0, 65_536, Live, Some("gzip_streams")),
    number("limits.password_checks_max", 1, 65_536, Restart, Some("password_checks")),
    number("limits.auth_requests_max", 1, 1_000_000, Live, Some("auth_requests")),
    number("limits.connection_sources_max", 1, 10_000_000, Live, Some("connection_sources")),
    number("limits.flows_max", 1, 1_000_000, Live, Some("flows")),
    Key {
        name: "limits.apply_turn",
        range: Range::Time(Period::new(Duration::from_micros(10)), Period::millis(10)),
        reload: Live,
        limit: Some("apply_turn"),
    },
    number("pool.idle_per_endpoint_max", 0, 65_535, Live, Some("pool_idle")),
    number("pool.http2_connections_max", 1, 1_000, Live, Some("upstream_http2_connections")),
    time("pool.http2_ping", 10, HOUR, Some("upstream_http2_ping")),
    time("pool.idle_timeout", 1, DAY, None),
    number("pool.endpoint_in_flight_max", 0, U32, Live, Some("endpoint_in_flight")),
    number("pool.pending_per_endpoint_max", 0, 1_000_000, Live, Some("endpoint_pending")),
    number("pool.backend_in_flight_max", 0, U32, Live, Some("backend_in_flight")),
    time("timeouts.header", 100, HOUR, Some("header_timeout")),
    time("timeouts.tls_handshake", 100, 60 * SECOND, Some("handshake_timeout")),
    time("timeouts.idle_client", 10, DAY, None),
    size("timeouts.body_rate_min", 0, GIB, Live, Some("body_rate")),
    time("timeouts.body_rate_grace", SECOND, HOUR, None),
    time("timeouts.connect", 1, 10 * 60 * SECOND, None),
    time("timeouts.attempt", 0, DAY, None),
    time("timeouts.request", 0, DAY, None),
    time("timeouts.idle", 0, DAY, None),
    time("timeouts.auth_request", 1, HOUR, Some("auth_request_timeout")),
    time("timeouts.write_stall", 100, HOUR, Some("write_stall")),
    time("timeouts.tunnel_idle", 0, 7 * DAY, None),
    time("timeouts.tcp_idle", 0, 7 * DAY, None),
    time("timeouts.tcp_hang", 0, HOUR, None),
    time("timeouts.udp_idle", 100, DAY, None),
    time("timeouts.tcp_lifetime", 0, 30 * DAY, None),
    time("timeouts.drain", 0, HOUR, None),
    time("timeouts.drain_idle", 0, HOUR, None),
    time("timeouts.buffer_idle", 0, HOUR, None),
    typed("http.half_close", Live),
    typed("http2.tls", Live),
    typed("http2.cleartext", Live),
    number("http2.streams_max", 1, 10_000, Live, Some("http2_streams")),
    // 2^31-1 is the protocol's own bound; less than a frame would stall.
    size("http2.stream_window", 16 * KIB, 16 * MIB, Live, None),
    // RFC 9113 §6.9.2: it begins at 65,535 and cannot be made smaller.
    size("http2.connection_window", 64 * KIB, 64 * MIB, Live, None),
    number("http2.pending_resets_max", 1, 10_000, Live, Some("http2_resets")),
    number("http2.faults_max", 1, 10_000, Live, Some("http2_faults")),
    number("http2.cancels_max", 1, 1_000_000, Live, Some("http2_cancels")),
    size("http2.control_bytes_max", 4 * KIB, 16 * MIB, Live, Some("http2_control")),
    number("http2.requests_max", 1, 1_000_000_000, Live, Some("http2_requests")),
    time("http2.age", 0, 30 * DAY, None),
    typed("tls.ticket_secrets", Live),
    time("grpc.timeout_max", 0, 30 * DAY, Some("grpc_timeout")),
    typed("grpc.web", Live),
    Key { name: "forward.trusted_cidrs", range: Range::List(0, 1_024), reload: Live, limit: None },
    typed("forward.via", Live),
    typed("forward.x_request_id", Live),
    typed("forward.underscores", Live),
    typed("forward.encoded_slash", Live),
    word("node.name"),
    word("node.region"),
    word("node.zone"),
    Key { name: "gateway.address_pool", range: Range::List(0, 64), reload: Live, limit: None },
    // 15: what the kernel allows (IFNAMSIZ).
    Key { name: "gateway.interface", range: Range::Word(0, 15), reload: Restart, limit: None },
    typed("admin.listen", Restart),
    typed("admin.socket", Restart),
    typed("admin.state_dir", Restart),
    typed("admin.state_key", Restart),
    number("admin.drill_reports_kept", 1, 1_000, Restart, None),
    typed("observe.access_log", Restart),
    size("observe.access_log_bytes_max", 64 * KIB, GIB, Restart, Some("access_log_bytes")),
    number("observe.decisions_max", 0, 100_000, Restart, Some("decisions")),
    typed("observe.log_level", Live),
    number("observe.metrics_series_max", 1, 1_000_000, Restart, Some("metrics_series")),
    number("observe.recorder_entries", 0, 1_000_000, Restart, None),
    typed("observe.recorder_dir", Restart),
    number("observe.recorder_files", 1, 1_000, Restart, None),
];

impl Key {
    /// The key's value in a table, if it is there.
    pub(crate) fn find<'t>(&self, table: &'t Table) -> Option<&'t Value> {
        match self.name.split_once('.') {
            None => table.get(self.name),
            Some((section, key)) => table.get(section)?.as_table()?.get(key),
        }
    }

    /// Puts `value` where [`Self::find`] finds it.
    pub(crate) fn put(&self, table: &mut Table, value: Value) {
        match self.name.split_once('.') {
            None => drop(table.insert(self.name.to_owned(), value)),
            Some((section, key)) => {
                let section = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(section) = section {
                    section.insert(key.to_owned(), value);
                }
            }
        }
    }

    /// Refuses a value outside of the range. A value of another TOML type is left to the types, which say what they
    /// expect, except where the range can say more.
    pub(crate) fn check(&self, table: &Table) -> Result<(), Invalid> {
        let Some(value) = self.find(table) else { return Ok(()) };
        if self.range.holds(value) {
            return Ok(());
        }
        Err(Invalid { key: self.name, value: value.to_string(), allowed: self.range.to_string() })
    }
}

impl Range {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Number(min, max) => value
                .as_integer()
                .and_then(|n| u64::try_from(n).ok())
                .is_some_and(|n| (*min..=*max).contains(&n)),
            Self::Size(min, max) => value
                .as_str()
                .and_then(|text| text.parse().ok())
                .is_some_and(|size| (*min..=*max).contains(&size)),
            Self::Time(min, max) => value
                .as_str()
                .and_then(|text| text.parse().ok())
                .is_some_and(|time| (*min..=*max).contains(&time)),
            Self::List(min, max) => value.as_array().is_none_or(|list| (*min..=*max).contains(&list.len())),
            Self::Word(min, max) => value.as_str().is_none_or(|text| {
                (*min..=*max).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            }),
            Self::Typed => true,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(min, max) => write!(f, "a whole number from {min} to {max}"),
            Self::Size(min, max) => write!(f, "a size from \"{min}\" to \"{max}\" (units B, KiB, MiB, GiB)"),
            Self::Time(min, max) => write!(f, "a time from \"{min}\" to \"{max}\" (units us, ms, s, m, h)"),
            Self::List(min, max) => write!(f, "a list of {min} to {max} entries"),
            Self::Word(min, max) => write!(f, "{min} to {max} letters, digits, '.', '-' or '_'"),
            Self::Typed => f.write_str("what the type reads"),
        }
    }
}
