//! What is counted of layer-4 connections, and why they end.

use super::histogram::Histogram;
use super::stats::Counter;

/// Why a layer-4 connection ended: the label `reason` and the access log's `ended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ended {
    /// Both sides closed; the client did so first.
    ClientClosed,
    /// Both sides closed; the endpoint did so first.
    UpstreamClosed,
    /// The client reset the connection, or could not be written to.
    ClientReset,
    /// The endpoint reset the connection, or could not be written to.
    UpstreamReset,
    /// `timeouts.tcp_idle`
    Idle,
    /// `timeouts.tcp_lifetime`
    Lifetime,
    /// Its cluster, backend or endpoint was found to answer nothing (`established: Reset`).
    Down,
    /// The drain's deadline, or the worker's end.
    Stopped,
    /// `limits.buffers_bytes_max`
    Buffers,
    /// Its peer may not speak for a client, or its source is not served.
    Denied,
    /// A bound of its listener.
    Limited,
    /// It does not begin with what its listener asks for: a PROXY header, a ClientHello.
    Malformed,
    /// What it is to begin with did not come within `timeouts.header`, or the client left before.
    Unbegun,
    /// No rule for it.
    NoRoute,
    /// Nobody to connect to.
    NoEndpoint,
    /// No endpoint that was tried accepted it.
    ConnectFailed,
}

impl Ended {
    /// All of them with the label's value, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::ClientClosed, "client_closed"),
        (Self::UpstreamClosed, "upstream_closed"),
        (Self::ClientReset, "client_reset"),
        (Self::UpstreamReset, "upstream_reset"),
        (Self::Idle, "idle"),
        (Self::Lifetime, "lifetime"),
        (Self::Down, "down"),
        (Self::Stopped, "stopped"),
        (Self::Buffers, "buffers"),
        (Self::Denied, "denied"),
        (Self::Limited, "limited"),
        (Self::Malformed, "malformed"),
        (Self::Unbegun, "unbegun"),
        (Self::NoRoute, "no_route"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::ConnectFailed, "connect_failed"),
    ];

    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What one worker counts of layer-4 connections.
#[derive(Default)]
pub struct Layer4Stats {
    /// Accepted.
    pub connections_total: Counter,
    /// Open now.
    pub connections_open: Counter,
    /// Bytes of clients that endpoints were sent.
    pub received_bytes_total: Counter,
    /// Bytes of endpoints that clients were sent.
    pub sent_bytes_total: Counter,
    /// From accepted to connected, what the client had to send first included.
    pub connect: Histogram,
    ended: [Counter; Ended::ALL.len()],
}

impl Layer4Stats {
    /// Counts a connection that ended.
    pub fn end(&self, why: Ended) {
        self.ended[why as usize].inc();
    }

    /// How many ended so.
    #[must_use]
    pub fn ended(&self, why: Ended) -> u64 {
        self.ended[why as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_number() {
        assert!(Ended::ALL.iter().enumerate().all(|(number, (why, _))| *why as usize == number));
    }
}
