//! What the next hop is told about the client: X-Forwarded-*, X-Real-IP, X-Request-Id, Via.
//!
//! The gateway decides whom it trusts; the encoder obeys: what is replaced is dropped in every form in which the
//! client sent it. Source: SECURITY S17, RFC 9110 §7.6.3.

use std::io::Write as _;
use std::net::IpAddr;

/// Text of an IP address, made once for a connection so that no request formats it again.
///
/// An IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`) is written as IPv4.
#[derive(Clone, Copy, Debug)]
pub struct IpText {
    text: [u8; 45],
    len: u8,
}

impl IpText {
    /// The text of `address`, at most 45 bytes.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let mut text = [0; 45];
        let mut rest = text.as_mut_slice();
        // An IPv6 address takes at most 39 bytes, 45 with an embedded IPv4 one: the write always fits.
        let written = write!(rest, "{}", address.to_canonical()).map(|()| 45 - rest.len()).unwrap_or(0);
        Self { text, len: u8::try_from(written).unwrap_or(0) }
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

/// What becomes of X-Forwarded-For.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedFor<'a> {
    /// As the client sent it.
    #[default]
    Keep,
    /// One line with this address only: the client is not trusted.
    Replace(&'a [u8]),
    /// One line: everything that the client sent, in order, then this address. From an untrusted peer it replaces.
    Append(&'a [u8]),
}

/// Whether the peer may say who its own client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerTrust {
    /// Every field with which only a proxy may vouch is dropped: [`is_vouching`](crate::hop::is_vouching).
    #[default]
    Untrusted,
    /// They pass, unless replaced by name.
    Trusted,
}

/// What a request tells the next hop about the client. `None` leaves a field as the client sent it, within `trust`.
///
/// The default trusts nobody and adds nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardedFields<'a> {
    /// May the peer vouch?
    pub trust: PeerTrust,
    /// X-Forwarded-For.
    pub x_forwarded_for: ForwardedFor<'a>,
    /// X-Forwarded-Proto: `http` or `https`.
    pub proto: Option<&'a [u8]>,
    /// X-Forwarded-Host.
    pub host: Option<&'a [u8]>,
    /// X-Forwarded-Port.
    pub port: Option<u16>,
    /// X-Real-IP, as [`IpText`] writes it.
    pub x_real_ip: Option<&'a [u8]>,
    /// X-Request-Id.
    pub x_request_id: Option<&'a [u8]>,
    /// Adds a Via line `1.1 <this>` behind the client's own.
    pub via: Option<&'a str>,
}
