//! Boot-time settings of Ringway: `gateway.toml`, its defaults and their bounds.
//!
//! What this crate decides: which keys exist, what they default to, which values are allowed, and which of them a
//! running process may change ([`KEYS`]). What it never does: open a socket, watch a file, or know what a setting is
//! used for. Precedence is command line, then file, then defaults ([`Config::load`]).
//!
//! Routes, clusters and policies are not here: they are Kubernetes objects, read by the controller.

mod canary;
mod controller;
mod error;
mod forward;
mod gateway;
mod grpc;
mod http;
mod http2;
mod key;
mod limits;
mod listen;
mod node;
mod observe;
mod timeouts;
mod tls;
mod unit;
mod worker;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

pub use canary::Canary;
pub use controller::{Fleet, ManifestsDir};
pub use error::{ConfigError, Invalid};
pub use forward::{EncodedSlashPolicy, Forward, RequestIdPolicy, UnderscorePolicy, ViaPolicy};
pub use gateway::{AddressRange, Gateway, RangeError};
pub use grpc::Grpc;
pub use http::{HalfClose, Http};
pub use http2::Http2;
pub use key::{KEYS, Key, Range, Reload};
pub use limits::{Limits, Pool};
pub use listen::{ListenAddr, ListenError, Protocol};
pub use node::Node;
pub use observe::{AccessLog, AccessLogError, Admin, LogLevel, Observe};
pub use timeouts::Timeouts;
pub use tls::Tls;
pub use unit::{ByteSize, Period, UnitError};
pub use worker::{RingFlags, Worker};

/// The defaults as a file: complete and commented, what a package installs as `/etc/ringway/gateway.toml`.
pub const DEFAULT_TOML: &str = include_str!("../gateway.toml");

/// Everything that is set before the first connection is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where Ingress rules are served when their class names no listeners. Default `[::]:8080/http`; 1 to 256.
    pub listen: Vec<ListenAddr>,
    /// The directory of manifests.
    pub manifests: ManifestsDir,
    /// The hub cluster, in place of the directory.
    pub fleet: Fleet,
    /// How changes are tried before they go to all workers.
    pub canary: Canary,
    /// Workers and their rings.
    pub worker: Worker,
    /// Bounds of memory, connections and heads.
    pub limits: Limits,
    /// Connections to endpoints.
    pub pool: Pool,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What HTTP leaves to our choice.
    pub http: Http,
    /// HTTP/2 towards clients.
    pub http2: Http2,
    /// TLS towards clients.
    pub tls: Tls,
    /// Calls of gRPC.
    pub grpc: Grpc,
    /// What is added to, kept in and dropped from requests.
    pub forward: Forward,
    /// Name and place of this node.
    pub node: Node,
    /// Addresses of Gateways.
    pub gateway: Gateway,
    /// Where the admin thread listens.
    pub admin: Admin,
    /// Logs and metrics.
    pub observe: Observe,
}

/// What the command line sets; `None` leaves the file's value, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`, all of them: they replace the file's list, they do not add to it.
    pub listen: Option<Vec<ListenAddr>>,
    /// `--manifests`.
    pub manifests: Option<PathBuf>,
    /// `--fleet-kubeconfig`.
    pub fleet_kubeconfig: Option<PathBuf>,
    /// `--workers`.
    pub workers: Option<u32>,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
}

/// What a reload found.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The running configuration with every live key taken from the new one: what to run with from now on.
    pub config: Config,
    /// Keys that changed and were applied.
    pub applied: Vec<&'static Key>,
    /// Keys that changed and wait for the next start: to be logged by name.
    pub waiting: Vec<&'static Key>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr {
                addr: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 8_080)),
                protocol: Protocol::Http,
            }],
            manifests: ManifestsDir::default(),
            fleet: Fleet::default(),
            canary: Canary::default(),
            worker: Worker::default(),
            limits: Limits::default(),
            pool: Pool::default(),
            timeouts: Timeouts::default(),
            http: Http::default(),
            http2: Http2::default(),
            tls: Tls::default(),
            grpc: Grpc::default(),
            forward: Forward::default(),
            node: Node::default(),
            gateway: Gateway::default(),
            admin: Admin::default(),
            observe: Observe::default(),
        }
    }
}

impl Config {
    /// Defaults, then the file at `path` if there is one, then the command line; validated.
    ///
    /// # Errors
    /// The file cannot be read, is not understood, or holds values that are not allowed: see [`ConfigError`].
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config = match path {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
                Self::parse(&text).map_err(|error| error.of_file(path))?
            }
        };
        config.apply(overrides);
        config.validate()?;
        Ok(config)
    }

    /// Reads a file's text over the defaults, without validating across keys: the command line may still change them.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] for what is not TOML, unknown keys and wrong types; [`ConfigError::Invalid`] with every
    /// value that is out of its key's range.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let table: Table =
            text.parse().map_err(|why: toml::de::Error| ConfigError::Syntax(why.to_string()))?;
        // Ranges first, on the raw table: "a whole number from 0 to 1024" helps more than "expected u32".
        let invalid = out_of_range(&table);
        if !invalid.is_empty() {
            return Err(ConfigError::Invalid(invalid));
        }
        toml::from_str(text).map_err(|why| ConfigError::Syntax(why.to_string()))
    }

    /// Puts what the command line says over what is there.
    pub fn apply(&mut self, overrides: &Overrides) {
        let Overrides { listen, manifests, fleet_kubeconfig, workers, admin } = overrides;
        if let Some(listen) = listen {
            self.listen.clone_from(listen);
        }
        if let Some(manifests) = manifests {
            self.manifests = manifests.clone().into();
            // Asked for by name, it beats a hub that the file names.
            self.fleet.kubeconfig = PathBuf::new();
        }
        if let Some(kubeconfig) = fleet_kubeconfig {
            self.fleet.kubeconfig.clone_from(kubeconfig);
        }
        if let Some(workers) = workers {
            self.worker.count = *workers;
        }
        if let Some(admin) = admin {
            self.admin.listen = *admin;
        }
    }

    /// Checks every key's range and what must hold between keys.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong, in the order of [`KEYS`], then across keys.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_paths()?;
        let mut invalid = out_of_range(&self.table());
        self.check_listeners(&mut invalid);
        self.check_relations(&mut invalid);
        if invalid.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(invalid)) }
    }

    /// What a running process with this configuration does when the file now says `new`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when the live keys of `new` do not fit the others of the running configuration; the
    /// running configuration stays.
    pub fn reload(&self, new: &Self) -> Result<Reloaded, ConfigError> {
        self.check_paths()?;
        new.check_paths()?;
        let (mut merged, wanted) = (self.table(), new.table());
        let (mut applied, mut waiting) = (Vec::new(), Vec::new());
        for key in KEYS {
            let Some(value) = key.find(&wanted).filter(|value| key.find(&merged) != Some(value)) else {
                continue;
            };
            match key.reload {
                Reload::Live => {
                    applied.push(key);
                    key.put(&mut merged, value.clone());
                }
                Reload::Restart => waiting.push(key),
            }
        }
        let config: Self = merged.try_into().map_err(|why| ConfigError::Syntax(format!("{why}")))?;
        config.validate()?;
        Ok(Reloaded { config, applied, waiting })
    }

    /// This configuration as a TOML table, every key present.
    ///
    /// # Panics
    /// A path is not UTF-8: [`Self::check_paths`] comes first.
    fn table(&self) -> Table {
        Table::try_from(self).expect("paths are UTF-8, and nothing else here can be unserialisable")
    }

    fn check_listeners(&self, invalid: &mut Vec<Invalid>) {
        for (index, listen) in self.listen.iter().enumerate() {
            let repeated = (listen.addr.port() != 0
                && self.listen.iter().take(index).any(|other| other.addr == listen.addr))
            .then_some("each address once");
            if let Some(allowed) = repeated {
                invalid.push(Invalid {
                    key: "listen",
                    value: listen.to_string(),
                    allowed: allowed.to_owned(),
                });
            }
        }
    }

    /// Before everything else, and alone: a path that is not UTF-8 (only the command line can give one) has no place
    /// in the table that the other checks read.
    fn check_paths(&self) -> Result<(), ConfigError> {
        let mut invalid = Vec::new();
        let may_be_empty = |key: &str| key != "manifests";
        for (key, path) in [
            ("manifests", self.manifests.path()),
            ("fleet.kubeconfig", &self.fleet.kubeconfig),
            ("admin.socket", &self.admin.socket),
            ("admin.state_dir", &self.admin.state_dir),
            ("admin.state_key", &self.admin.state_key),
            ("observe.recorder_dir", &self.observe.recorder_dir),
            ("tls.ticket_secrets", &self.tls.ticket_secrets),
        ] {
            if path.to_str().is_none_or(|path| path.is_empty() && !may_be_empty(key)) {
                let empty = if may_be_empty(key) { "or empty: none" } else { "not empty" };
                let allowed = format!("a path in UTF-8, {empty}");
                invalid.push(Invalid { key, value: format!("{path:?}"), allowed });
            }
        }
        if invalid.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(invalid)) }
    }

    fn check_relations(&self, invalid: &mut Vec<Invalid>) {
        let mut need = |holds: bool, key: &'static str, value: String, allowed: String| {
            if !holds {
                invalid.push(Invalid { key, value, allowed });
            }
        };
        let Worker { ring_entries, cq_entries, .. } = self.worker;
        for (key, value) in [("worker.ring_entries", ring_entries), ("worker.cq_entries", cq_entries)] {
            need(value.is_power_of_two(), key, value.to_string(), "a power of two".to_owned());
        }
        let at_least_ring = format!("at least worker.ring_entries ({ring_entries})");
        need(cq_entries >= ring_entries, "worker.cq_entries", cq_entries.to_string(), at_least_ring);

        for address in &self.fleet.addresses {
            let is_name = address.len() <= 253
                && address.split('.').all(|label| {
                    let is_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                    let edges = label.starts_with('-') || label.ends_with('-');
                    (1..=63).contains(&label.len()) && label.chars().all(is_char) && !edges
                });
            let is_address = address.parse::<std::net::IpAddr>().is_ok() || is_name;
            need(
                is_address,
                "fleet.addresses",
                format!("{address:?}"),
                "an IP address or a DNS name".to_owned(),
            );
        }
        let pool = &self.gateway.address_pool;
        for (index, range) in pool.iter().enumerate() {
            let overlaps = pool[..index].iter().any(|other| other.overlaps(range));
            let value = format!("\"{range}\"");
            need(!overlaps, "gateway.address_pool", value, "ranges that do not overlap".to_owned());
        }
        let Canary { watch, longest, .. } = self.canary;
        let allowed = format!("at least canary.watch (\"{watch}\")");
        need(longest >= watch, "canary.longest", format!("\"{longest}\""), allowed);
        let limits = &self.limits;
        let head = limits.head_bytes_max;
        for (key, value) in [
            ("limits.header_line_bytes_max", limits.header_line_bytes_max),
            ("limits.uri_bytes_max", limits.uri_bytes_max),
        ] {
            let allowed = format!("at most limits.head_bytes_max (\"{head}\")");
            need(value <= head, key, format!("\"{value}\""), allowed);
        }
        let (body, bodies) = (limits.retry_body_bytes_max, limits.retry_bodies_bytes_max);
        let allowed = format!("at least limits.retry_body_bytes_max (\"{body}\")");
        need(bodies >= body, "limits.retry_bodies_bytes_max", format!("\"{bodies}\""), allowed);
    }
}

fn out_of_range(table: &Table) -> Vec<Invalid> {
    KEYS.iter().filter_map(|key| key.check(table).err()).collect()
}
