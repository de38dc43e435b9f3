//! The PROXY protocol, versions 1 and 2: who the client was, as the proxy in front of us tells it, and as we tell it.
//!
//! Sans-io over a prefix of the stream. Whether the peer may say such a thing at all is the caller's decision, and
//! comes first: a header from anybody else is a lie about who is there. Source: the PROXY protocol specification of
//! HAProxy, sections 2.1 and 2.2. Called by the gateway's layer-4 listeners.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1 with its line end (section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is read: addresses and TLVs. The length field would allow 64 KiB; certificates
/// and tokens that some senders add fit in 4 KiB.
pub const V2_BYTES_MAX: usize = 4096;
/// TLVs of one header.
pub const TLVS_MAX: usize = 64;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// Types of TLVs that we write (section 2.2).
pub mod tlv {
    /// The application protocol that was negotiated or offered.
    pub const ALPN: u8 = 0x01;
    /// The host name that the client asked for (SNI).
    pub const AUTHORITY: u8 = 0x02;
}

/// Why these bytes are no header. The connection is closed: nothing behind it can be trusted to be what it seems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The stream does not begin with a header of either version.
    Missing,
    /// An address, a port, a family or a line end is not what the version asks for.
    Malformed,
    /// It is longer than [`V1_BYTES_MAX`] or [`V2_BYTES_MAX`].
    TooLong,
    /// A TLV's length points beyond the header, or there are more than [`TLVS_MAX`].
    Tlv,
}

impl ProxyError {
    /// A short name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "proxy_header_missing",
            Self::Malformed => "proxy_header_malformed",
            Self::TooLong => "proxy_header_too_long",
            Self::Tlv => "proxy_header_tlv",
        }
    }
}

/// Which version is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One line of text; no TLVs.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its length: the payload begins behind it.
    pub len: usize,
    /// Source and destination; `None` = the sender speaks for itself (`LOCAL`, `UNKNOWN`, or addresses that are not
    /// of the Internet): the connection's own addresses hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    tlvs: &'a [u8],
}

impl<'a> Header<'a> {
    /// Type and value of each TLV, in order.
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.tlvs;
        std::iter::from_fn(move || {
            let (kind, value, behind) = next_tlv(rest)?;
            rest = behind;
            Some((kind, value))
        })
    }
}

/// Looks at the beginning of a stream. `Ok(None)` = more bytes are needed.
///
/// # Errors
/// [`ProxyError`] as soon as the bytes cannot become a header, whatever follows.
pub fn decode(stream: &[u8]) -> Result<Option<Header<'_>>, ProxyError> {
    if is_prefix(stream, SIGNATURE) {
        return decode_v2(stream);
    }
    if is_prefix(stream, b"PROXY ") {
        return decode_v1(stream);
    }
    Err(ProxyError::Missing)
}

/// Does the stream begin with `wanted`, as far as it goes?
fn is_prefix(stream: &[u8], wanted: &[u8]) -> bool {
    let common = stream.len().min(wanted.len());
    stream[..common] == wanted[..common]
}

fn decode_v1(stream: &[u8]) -> Result<Option<Header<'_>>, ProxyError> {
    let looked_at = &stream[..stream.len().min(V1_BYTES_MAX)];
    let Some(end) = looked_at.windows(2).position(|pair| pair == b"\r\n") else {
        return if looked_at.len() == V1_BYTES_MAX { Err(ProxyError::TooLong) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&looked_at[..end]).map_err(|_| ProxyError::Malformed)?;
    let mut fields = line.split(' ').skip(1);
    let mut field = || fields.next().ok_or(ProxyError::Malformed);
    let addresses = match field()? {
        // What follows is to be ignored (section 2.1).
        "UNKNOWN" => None,
        family @ ("TCP4" | "TCP6") => {
            let (source, destination) = (address(family, field()?)?, address(family, field()?)?);
            let (from, to) = (port(field()?)?, port(field()?)?);
            if fields.next().is_some() {
                return Err(ProxyError::Malformed);
            }
            Some((SocketAddr::new(source, from), SocketAddr::new(destination, to)))
        }
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(Header { len: end + 2, addresses, tlvs: &[] }))
}

fn address(family: &str, text: &str) -> Result<IpAddr, ProxyError> {
    let parsed = match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        _ => text.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
    };
    parsed.map(|ip| ip.to_canonical()).ok_or(ProxyError::Malformed)
}

/// Decimal digits without a sign or leading zeros (section 2.1).
fn port(text: &str) -> Result<u16, ProxyError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(ProxyError::Malformed)
}

fn decode_v2(stream: &[u8]) -> Result<Option<Header<'_>>, ProxyError> {
    let Some(fixed) = stream.first_chunk::<V2_FIXED>() else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if command >> 4 != 2 || command & 15 > 1 {
        return Err(ProxyError::Malformed);
    }
    let len = V2_FIXED + rest;
    if len > V2_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    // High nibble: unspecified, IPv4, IPv6, Unix. Low nibble: unspecified, stream; datagrams do not come by TCP.
    let addresses_len = match family {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(ProxyError::Malformed),
    };
    if rest < addresses_len {
        return Err(ProxyError::Malformed);
    }
    let Some(body) = stream.get(V2_FIXED..len) else { return Ok(None) };
    let (addresses, tlvs) = body.split_at(addresses_len);
    // With an unspecified family the receiver skips what follows; it need not be TLVs.
    let tlvs = if family == 0 { &[] } else { tlvs };
    check_tlvs(tlvs)?;
    let addresses = if command & 15 == 0 { None } else { v2_addresses(addresses) };
    Ok(Some(Header { len, addresses, tlvs }))
}

fn v2_addresses(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    match bytes.len() {
        12 => {
            let ip = |at: usize| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<4>()?));
            Some((SocketAddr::new(ip(0)?, port(8)?), SocketAddr::new(ip(4)?, port(10)?)))
        }
        36 => {
            let ip = |at: usize| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<16>()?).to_canonical());
            Some((SocketAddr::new(ip(0)?, port(32)?), SocketAddr::new(ip(16)?, port(34)?)))
        }
        _ => None,
    }
}

fn check_tlvs(mut tlvs: &[u8]) -> Result<(), ProxyError> {
    let mut count = 0;
    while !tlvs.is_empty() {
        count += 1;
        let (_, _, behind) = next_tlv(tlvs).filter(|_| count <= TLVS_MAX).ok_or(ProxyError::Tlv)?;
        tlvs = behind;
    }
    Ok(())
}

fn next_tlv(tlvs: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, high, low], rest) = tlvs.split_first_chunk()?;
    let (value, behind) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((kind, value, behind))
}

/// Appends a header for a connection from `source` to `destination`. Version 1 has no room for `tlvs`.
///
/// Addresses of two families become IPv6 both (IPv4-mapped). TLVs beyond [`V2_BYTES_MAX`] are left out.
pub fn encode(
    out: &mut Vec<u8>,
    version: Version,
    source: SocketAddr,
    destination: SocketAddr,
    tlvs: &[(u8, &[u8])],
) {
    let (source, destination) = same_family(source, destination);
    match version {
        Version::V1 => encode_v1(out, source, destination),
        Version::V2 => encode_v2(out, source, destination, tlvs),
    }
}

fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let wide = |addr: SocketAddr| {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        SocketAddr::new(IpAddr::V6(ip), addr.port())
    };
    (wide(source), wide(destination))
}

fn encode_v1(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    // Writing into a vector cannot fail.
    let _ = write!(out, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
}

fn encode_v2(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr, tlvs: &[(u8, &[u8])]) {
    let start = out.len();
    out.extend_from_slice(SIGNATURE);
    out.push(0x21);
    out.push(if source.is_ipv4() { 0x11 } else { 0x21 });
    out.extend_from_slice(&[0, 0]);
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    for (kind, value) in tlvs {
        let Ok(len) = u16::try_from(value.len()) else { continue };
        if out.len() - start + 3 + value.len() > V2_BYTES_MAX {
            continue;
        }
        out.push(*kind);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(value);
    }
    let rest = u16::try_from(out.len() - start - V2_FIXED).unwrap_or(u16::MAX);
    out[start + 14..start + 16].copy_from_slice(&rest.to_be_bytes());
}
