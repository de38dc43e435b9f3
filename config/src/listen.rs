//! Where Ingress rules are served when their class names no listeners of its own: `[::]:8080/http`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::unit::as_string;

/// An address to accept on and what is spoken there, written `ADDR:PORT[/http|https]`.
///
/// `[::]:8080` accepts IPv4 and IPv6 alike. Without a protocol, HTTP is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    /// The address and port; port 0 lets the kernel choose (tests).
    pub addr: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 in clear.
    Http,
    /// HTTP/1.1 over TLS, with the certificates of `spec.tls` of the Ingresses.
    Https,
}

/// Why an address to listen on was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenError {
    /// Not of the form `ADDR:PORT`; host names are not resolved.
    Address,
    /// The part after the slash is neither `http` nor `https`.
    Protocol,
}

impl Protocol {
    /// The name as written after the slash.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl FromStr for ListenAddr {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let (addr, protocol) = match text.split_once('/') {
            None => (text, Protocol::Http),
            Some((addr, "http")) => (addr, Protocol::Http),
            Some((addr, "https")) => (addr, Protocol::Https),
            Some(_) => return Err(ListenError::Protocol),
        };
        let addr = addr.parse().map_err(|_| ListenError::Address)?;
        Ok(Self { addr, protocol })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.protocol.name())
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "expected ADDR:PORT, such as 0.0.0.0:8080 or [::]:8080",
            Self::Protocol => "the protocol after the slash must be http or https",
        })
    }
}

impl std::error::Error for ListenError {}

as_string!(ListenAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_protocol() {
        let plain: ListenAddr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(plain.protocol, Protocol::Http);
        assert_eq!(plain.to_string(), "127.0.0.1:80/http");
        let tls: ListenAddr = "[::]:443/https".parse().unwrap();
        assert_eq!((tls.addr.port(), tls.protocol), (443, Protocol::Https));
        assert_eq!(tls.to_string().parse(), Ok(tls));
    }

    #[test]
    fn names_and_unknown_protocols_are_refused() {
        for text in ["localhost:80", ":80", "80", "1.2.3.4", "::80", ""] {
            assert_eq!(text.parse::<ListenAddr>(), Err(ListenError::Address), "{text:?}");
        }
        for text in ["[::]:80/", "[::]:80/h2", "[::]:80/HTTP"] {
            assert_eq!(text.parse::<ListenAddr>(), Err(ListenError::Protocol), "{text:?}");
        }
    }
}
