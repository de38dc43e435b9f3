//! The cases: what is asked of a proxy, and what the peers are known to cost in each.

use clap::ValueEnum;

use super::proxy::Proxy;

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// HTTP/1.1, 128-byte bodies, 64 connections.
    #[value(name = "h1-64")]
    H1x64,
    /// HTTP/1.1, 128-byte bodies, 1,000 connections.
    #[value(name = "h1-1000")]
    H1x1000,
    /// HTTP/1.1, 128-byte bodies, one connection.
    #[value(name = "h1-1")]
    H1x1,
    /// 10,000-byte bodies, 64 connections.
    #[value(name = "body-10k")]
    Body10k,
    /// 1 MiB bodies, 64 connections.
    #[value(name = "body-1m")]
    Body1m,
    /// A new client connection per request, 64 at once.
    #[value(name = "new-connections")]
    NewConnections,
    /// Memory of idle keep-alive connections after one request each.
    #[value(name = "idle-memory")]
    IdleMemory,
    /// Bytes passed on as they are: 128-byte bodies and their requests, 64 connections. Two messages a request.
    #[value(name = "l4-64")]
    L4x64,
    /// Bytes passed on as they are: 1 MiB bodies, 64 connections.
    #[value(name = "l4-1m")]
    L4Bulk,
    /// Memory of idle relayed connections, both sides, after one request each.
    #[value(name = "l4-idle")]
    L4Idle,
}

/// What a proxy understands of what it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// HTTP.
    Seven,
    /// Bytes.
    Four,
}

/// How a case is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// With wrk.
    Load {
        /// Connections at once.
        connections: u32,
        /// Whether a connection serves more than one request.
        reuse: Reuse,
    },
    /// By opening connections and looking at memory.
    Idle,
}

/// Whether a client's connection serves more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Keep-alive.
    KeepAlive,
    /// `Connection: close` on every request.
    Never,
}

/// Bytes of the body where the case is not about it.
const SMALL: usize = 128;

/// A run in which a peer's ratio to the floor is more than this off what is known is void.
pub(crate) const TOLERANCE: f64 = 0.15;

impl Case {
    /// All cases, the most telling first.
    pub(crate) const ALL: [Self; 10] = [
        Self::H1x64,
        Self::H1x1000,
        Self::H1x1,
        Self::Body10k,
        Self::Body1m,
        Self::NewConnections,
        Self::IdleMemory,
        Self::L4x64,
        Self::L4Bulk,
        Self::L4Idle,
    ];

    /// The name on the command line and in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1x64 => "h1-64",
            Self::H1x1000 => "h1-1000",
            Self::H1x1 => "h1-1",
            Self::Body10k => "body-10k",
            Self::Body1m => "body-1m",
            Self::NewConnections => "new-connections",
            Self::IdleMemory => "idle-memory",
            Self::L4x64 => "l4-64",
            Self::L4Bulk => "l4-1m",
            Self::L4Idle => "l4-idle",
        }
    }

    /// How it is measured.
    pub(crate) fn kind(self) -> Kind {
        let keep = |connections| Kind::Load { connections, reuse: Reuse::KeepAlive };
        match self {
            Self::H1x64 | Self::Body10k | Self::Body1m | Self::L4x64 | Self::L4Bulk => keep(64),
            Self::H1x1000 => keep(1_000),
            Self::H1x1 => keep(1),
            Self::NewConnections => Kind::Load { connections: 64, reuse: Reuse::Never },
            Self::IdleMemory | Self::L4Idle => Kind::Idle,
        }
    }

    /// What the proxies are set up to understand.
    pub(crate) fn layer(self) -> Layer {
        match self {
            Self::L4x64 | Self::L4Bulk | Self::L4Idle => Layer::Four,
            Self::H1x64
            | Self::H1x1000
            | Self::H1x1
            | Self::Body10k
            | Self::Body1m
            | Self::NewConnections
            | Self::IdleMemory => Layer::Seven,
        }
    }

    /// Whether it needs the load generator.
    pub(crate) fn is_load(self) -> bool {
        match self.kind() {
            Kind::Load { .. } => true,
            Kind::Idle => false,
        }
    }

    /// Bytes of a response's body.
    pub(crate) fn body(self) -> usize {
        match self {
            Self::H1x64
            | Self::H1x1000
            | Self::H1x1
            | Self::NewConnections
            | Self::IdleMemory
            | Self::L4x64
            | Self::L4Idle => SMALL,
            Self::Body10k => 10_000,
            Self::Body1m | Self::L4Bulk => 1 << 20,
        }
    }

    /// Whether the proxy can be compared in this case. The floor opens an upstream connection for each of its
    /// clients, which no proxy does: per connection it is another thing.
    pub(crate) fn takes(self, proxy: Proxy) -> bool {
        match self {
            Self::H1x64
            | Self::H1x1000
            | Self::H1x1
            | Self::Body10k
            | Self::Body1m
            | Self::L4x64
            | Self::L4Bulk => true,
            Self::NewConnections | Self::IdleMemory | Self::L4Idle => proxy != Proxy::Floor,
        }
    }

    /// What a peer's CPU per request is known to be, lowest and highest, as a multiple of the floor's in the same run.
    ///
    /// Measured on two machines' worth of interleaved rounds with a floor written in C: HAProxy 2.6, nginx 1.31 (1.22
    /// is within its range).
    pub(crate) fn known_ratio(self, proxy: Proxy) -> Option<(f64, f64)> {
        match (self, proxy) {
            (Self::H1x64, Proxy::Haproxy) => Some((1.63, 1.63)),
            (Self::H1x1000, Proxy::Haproxy) => Some((1.71, 1.71)),
            (Self::H1x1, Proxy::Haproxy) => Some((1.56, 1.56)),
            (Self::H1x64, Proxy::Nginx) => Some((1.56, 1.82)),
            (Self::H1x1000, Proxy::Nginx) => Some((1.56, 1.75)),
            (Self::H1x1, Proxy::Nginx) => Some((2.0, 2.0)),
            (
                Self::Body10k
                | Self::Body1m
                | Self::NewConnections
                | Self::IdleMemory
                | Self::L4x64
                | Self::L4Bulk
                | Self::L4Idle,
                _,
            )
            | (_, Proxy::Floor | Proxy::Ringway) => None,
        }
    }
}
