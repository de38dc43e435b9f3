//! Addresses that are served, and which of those that ask for one come first.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use routing::model::{Carrier, HostPattern, Protocol};

/// An address that Ingress rules are served on, and what is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address and port.
    pub addr: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, protocol: Protocol::Http }
    }
}

impl From<(SocketAddr, Protocol)> for Listen {
    fn from((addr, protocol): (SocketAddr, Protocol)) -> Self {
        Self { addr, protocol }
    }
}

/// Addresses with the hostnames that are served on them, and what is spoken there. The ports of TCP and of UDP are not the
/// same.
#[derive(Debug, Default)]
pub(super) struct Taken {
    sections: HashSet<(SocketAddr, Carrier, HostPattern)>,
    protocols: HashMap<(SocketAddr, Carrier), Protocol>,
}

/// Why a listener cannot be served beside those that came first.
pub(super) enum Conflict {
    /// Another one has its address, port and hostname.
    Hostname,
    /// This other protocol is spoken on its address and port.
    Protocol(Protocol),
}

impl Taken {
    pub(super) fn claim(
        &mut self,
        addr: SocketAddr,
        hostname: &HostPattern,
        protocol: Protocol,
    ) -> Result<(), Conflict> {
        let carrier = protocol.carrier();
        let first = *self.protocols.entry((addr, carrier)).or_insert(protocol);
        if first != protocol {
            return Err(Conflict::Protocol(first));
        }
        if self.sections.insert((addr, carrier, hostname.clone())) { Ok(()) } else { Err(Conflict::Hostname) }
    }
}
