//! What is counted of layer-4 connections and flows of datagrams, and why they end.

use super::histogram::Histogram;
use super::stats::Counter;

/// Why a layer-4 connection or a flow ended: the label `reason` and the access log's `ended`.
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
    /// `timeouts.tcp_idle`, `timeouts.udp_idle`
    Idle,
    /// `timeouts.tcp_lifetime`
    Lifetime,
    /// Its cluster, backend or endpoint was found to answer nothing (`established: Reset`).
    Down,
    /// The drain's deadline, the worker's end, or of a flow that of its listener.
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
    /// `limits.flows_max`: it was quiet longest when another flow came.
    Evicted,
    /// The TLS handshake that its listener asks for came to no good end: `ringway_tls_handshakes_total` says which.
    Handshake,
}

/// Why datagrams were dropped: the label `reason` of `ringway_layer4_datagrams_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Dropped {
    /// Their source is not served.
    Denied,
    /// A bound of their listener.
    Limited,
    /// `limits.flows_max`, and no flow is quiet.
    Full,
    /// No rule for them.
    NoRoute,
    /// No endpoint for them, or none that was tried listens.
    NoEndpoint,
    /// The socket that they were to leave by has no room.
    Busy,
    /// Larger than the way out takes.
    TooLarge,
    /// A new flow while the process drains.
    Draining,
    /// Their flow has just ended.
    Ended,
}

impl Dropped {
    /// All of them with the label's value, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Denied, "denied"),
        (Self::Limited, "limited"),
        (Self::Full, "full"),
        (Self::NoRoute, "no_route"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::Busy, "busy"),
        (Self::TooLarge, "too_large"),
        (Self::Draining, "draining"),
        (Self::Ended, "ended"),
    ];
}

impl Ended {
    /// All of them with the label's value, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 18] = [
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
        (Self::Evicted, "evicted"),
        (Self::Handshake, "handshake"),
    ];

    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What one worker counts of layer-4 connections and flows.
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
    /// Flows of datagrams begun.
    pub flows_total: Counter,
    /// Flows now.
    pub flows_open: Counter,
    /// Flows that went on with another endpoint.
    pub flows_moved_total: Counter,
    /// Datagrams of clients that belong to a flow.
    pub datagrams_received_total: Counter,
    /// Datagrams of endpoints that clients were sent.
    pub datagrams_sent_total: Counter,
    dropped: [Counter; Dropped::ALL.len()],
    ended: [Counter; Ended::ALL.len()],
}

impl Layer4Stats {
    /// Counts a connection that ended.
    pub fn end(&self, why: Ended) {
        self.ended[why as usize].inc();
    }

    /// Counts datagrams that were dropped.
    pub fn drop_datagrams(&self, why: Dropped, count: u64) {
        self.dropped[why as usize].add(count);
    }

    /// How many datagrams were dropped so.
    #[must_use]
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize].get()
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
        assert!(Dropped::ALL.iter().enumerate().all(|(number, (why, _))| *why as usize == number));
    }
}
