//! The part of the model that is about connections and datagrams that are passed on as they are.

use ipnet::IpNet;

/// What a layer-4 listener asks of connections, and what it tells endpoints about them. The default asks nothing.
///
/// Of UDP a flow counts as a connection; PROXY headers are not for datagrams. Bounds hold per worker, 0 = unlimited. Sources are IPv4 addresses and IPv6 /64 networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer4 {
    /// Peers that speak for their clients: from them a PROXY header (version 1 or 2) must come first, and any other
    /// peer is refused. Empty = nobody does, and a PROXY header is payload.
    pub proxy_from: Box<[IpNet]>,
    /// Which PROXY header the endpoint gets.
    pub send_proxy: SendProxy,
    /// Sources that are served. Empty = all but `deny`.
    pub allow: Box<[IpNet]>,
    /// Sources that are not served, whatever `allow` says.
    pub deny: Box<[IpNet]>,
    /// Connections at once.
    pub connections_max: u32,
    /// Connections of one source at once.
    pub source_connections_max: u32,
    /// New connections of one source per second, and at once after a quiet second.
    pub source_rate_max: u32,
}

/// Which PROXY header an endpoint gets in front of the client's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SendProxy {
    /// None. The default.
    #[default]
    Disabled,
    /// Version 1, text.
    V1,
    /// Version 2, binary, with the client's server name and protocol where they are known.
    V2,
}

/// What becomes of established layer-4 connections to a cluster that is found to answer nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Established {
    /// They are reset at once: a client that sees its connection end can open another. The default.
    #[default]
    Reset,
    /// They are left alone.
    Keep,
}

/// What is spoken to the endpoints of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Speech {
    /// HTTP: a probe may ask a question, and an endpoint that accepts and says nothing hangs. The default.
    #[default]
    Http,
    /// Something else: a probe only connects.
    Opaque,
    /// Datagrams: a probe asks the host, for there is nothing to connect to.
    Datagrams,
}
