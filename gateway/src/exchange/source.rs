//! Whose request it is: what lists of sources, limits by source, conditions on the source and hashes of it go by.
//!
//! The peer's address; behind peers of `forward.trusted_cidrs` what they say in X-Forwarded-For, read from its end: each entry
//! was written by the hop behind it, so that the first one that is no trusted peer's is as far as anybody is believed.
//! What the client itself wrote stands before it and counts for nothing.

use std::net::{IpAddr, SocketAddr};

use wire::head::{Known, RequestView};

use crate::downstream::h1::Client;
use crate::worker::settings::Settings;

/// Hops that are followed back.
const HOPS_MAX: usize = 32;

/// The address of the client of trusted peers. `None` = the peer's own: nobody vouches for another.
pub(super) fn forwarded_by(
    settings: &Settings,
    client: &Client,
    view: &RequestView<'_>,
) -> Option<SocketAddr> {
    if !client.trusted {
        return None;
    }
    let lines = view.head.headers.iter().rev().filter(|field| field.known == Known::XForwardedFor);
    let entries = lines.flat_map(|field| field.value.of(view.bytes).rsplit(|byte| *byte == b','));
    // What cannot be read ends it: who wrote it is the last that is known.
    let hops = entries.take(HOPS_MAX).map_while(address);
    let mut found = None;
    for hop in hops {
        found = Some(hop);
        if !settings.trusts(hop) {
            break;
        }
    }
    found.map(|ip| SocketAddr::new(ip, 0))
}

/// One entry: an address, perhaps with a port (and then IPv6 in brackets).
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().or_else(|_| text.parse().map(|addr: SocketAddr| addr.ip()));
    parsed.map(|ip| ip.to_canonical()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_an_address_with_or_without_a_port() {
        for (entry, wanted) in [
            (" 192.0.2.1 ", Some("192.0.2.1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("unknown", None),
            ("", None),
            ("192.0.2.1 192.0.2.2", None),
        ] {
            assert_eq!(address(entry.as_bytes()), wanted.map(|text| text.parse().unwrap()), "{entry:?}");
        }
    }
}
