//! What may not travel further: hop-by-hop fields, what Connection nominates, what only a trusted peer may say.
//!
//! The decoders ask while they build a head, the encoders while they write the next one. Source: RFC 9110 §7.6.1,
//! SECURITY S12, S16, S17.

use crate::head::{HeaderField, Known};

/// The header that `name`, a token, spells, compared without case, if the gateway acts on it.
#[must_use]
pub fn known(name: &[u8]) -> Known {
    match name.len() {
        2 if is(name, b"te") => Known::Te,
        3 if is(name, b"via") => Known::Via,
        4 if is(name, b"host") => Known::Host,
        4 if is(name, b"date") => Known::Date,
        6 if is(name, b"cookie") => Known::Cookie,
        6 if is(name, b"server") => Known::Server,
        6 if is(name, b"expect") => Known::Expect,
        7 if is(name, b"upgrade") => Known::Upgrade,
        7 if is(name, b"trailer") => Known::Trailer,
        9 if is(name, b"x-real-ip") => Known::XRealIp,
        9 if is(name, b"forwarded") => Known::Forwarded,
        10 if is(name, b"connection") => Known::Connection,
        10 if is(name, b"set-cookie") => Known::SetCookie,
        10 if is(name, b"keep-alive") => Known::KeepAlive,
        12 if is(name, b"x-request-id") => Known::XRequestId,
        14 if is(name, b"content-length") => Known::ContentLength,
        15 if is(name, b"x-forwarded-for") => Known::XForwardedFor,
        16 if is(name, b"x-forwarded-host") => Known::XForwardedHost,
        16 if is(name, b"x-forwarded-port") => Known::XForwardedPort,
        16 if is(name, b"proxy-connection") => Known::ProxyConnection,
        17 if is(name, b"x-forwarded-proto") => Known::XForwardedProto,
        17 if is(name, b"transfer-encoding") => Known::TransferEncoding,
        18 if is(name, b"proxy-authenticate") => Known::ProxyAuthenticate,
        19 if is(name, b"proxy-authorization") => Known::ProxyAuthorization,
        _ => Known::Other,
    }
}

/// Is the token `name` this one, compared without case? `lower` is in lower case.
///
/// The length is a constant and no byte ends it early, so that the comparison becomes a few wide operations instead of
/// a loop: every header of every head comes here. Setting bit 5 makes a letter small and leaves `-` and digits; what
/// else it turns into those are control bytes, which no token holds.
fn is<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    name.iter().zip(lower).fold(0, |difference, (byte, lower)| difference | ((byte | 0x20) ^ lower)) == 0
}

/// Does a field concern this hop only, whatever Connection says?
///
/// Content-Length and Transfer-Encoding are among them because the encoders frame every body themselves, Expect
/// because the gateway answers it (SECURITY S5). Trailer travels: it describes what travels with the body.
#[must_use]
pub fn is_hop_by_hop(known: Known, name: &[u8]) -> bool {
    match known {
        Known::Connection
        | Known::ContentLength
        | Known::Expect
        | Known::KeepAlive
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::Te
        | Known::TransferEncoding
        | Known::Upgrade => true,
        // Belongs to `Upgrade: h2c` (RFC 7540 §3.2.1), which is never honoured.
        Known::Other => is(name, b"http2-settings"),
        Known::Cookie
        | Known::Forwarded
        | Known::Host
        | Known::Trailer
        | Known::Via
        | Known::XForwardedFor
        | Known::XForwardedHost
        | Known::XForwardedPort
        | Known::XForwardedProto
        | Known::XRealIp
        | Known::XRequestId
        | Known::Date
        | Known::Server
        | Known::SetCookie => false,
    }
}

/// Fields that the gateway does not act on, but that no Connection field may take away: who asks, and what the
/// content is.
const END_TO_END: [&[u8]; 9] = [
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"origin",
    b"range",
    b"traceparent",
    b"www-authenticate",
];

/// May Connection nominate this field as hop-by-hop?
///
/// RFC 9110 §7.6.1 lets it nominate any; a client that nominates `X-Forwarded-For` or `Authorization` takes from the
/// backend what the gateway, or a proxy before it, vouches for. Those stay (SECURITY S16).
#[must_use]
pub fn may_be_nominated(known: Known, name: &[u8]) -> bool {
    match known {
        Known::Other => {
            !starts_with_ignore_case(name, b"x-forwarded-")
                && !END_TO_END.iter().any(|kept| name.eq_ignore_ascii_case(kept))
        }
        Known::Connection
        | Known::Expect
        | Known::KeepAlive
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::Te
        | Known::Trailer
        | Known::Upgrade => true,
        Known::ContentLength
        | Known::Cookie
        | Known::Forwarded
        | Known::Host
        | Known::TransferEncoding
        | Known::Via
        | Known::XForwardedFor
        | Known::XForwardedHost
        | Known::XForwardedPort
        | Known::XForwardedProto
        | Known::XRealIp
        | Known::XRequestId
        | Known::Date
        | Known::Server
        | Known::SetCookie => false,
    }
}

/// Marks the fields called `name` as hop-by-hop, if Connection may nominate them.
pub(crate) fn nominate(headers: &mut [HeaderField], bytes: &[u8], name: &[u8]) {
    for field in headers.iter_mut().filter(|field| usize::from(field.name.len) == name.len()) {
        if field.name.of(bytes).eq_ignore_ascii_case(name) && may_be_nominated(field.known, name) {
            field.hop_by_hop = true;
        }
    }
}

/// Names, or beginnings of names that end in `-`, with which a proxy vouches for something about the client: its
/// certificate, the original target, internal routing.
const VOUCHING: [&[u8]; 12] = [
    b"client-cert",
    b"client-cert-chain",
    b"ssl-client-",
    b"x-client-cert",
    b"x-client-cert-",
    b"x-client-verify",
    b"x-envoy-",
    b"x-forwarded-",
    b"x-original-",
    b"x-rewrite-url",
    b"x-ringway-",
    b"x-ssl-",
];

/// Is this a field that means something only when a trusted proxy wrote it? SECURITY S17.
///
/// The fields of [`Known`] that do are left to [`forwarded`](crate::h1::forwarded), except Forwarded and X-Real-IP.
#[must_use]
pub fn is_vouching(known: Known, name: &[u8]) -> bool {
    match known {
        Known::Other => match name.first() {
            Some(b'c' | b'C' | b's' | b'S' | b'x' | b'X') => VOUCHING.iter().any(|entry| names(entry, name)),
            Some(_) | None => false,
        },
        Known::Forwarded
        | Known::XForwardedFor
        | Known::XForwardedHost
        | Known::XForwardedPort
        | Known::XForwardedProto
        | Known::XRealIp => true,
        Known::Connection
        | Known::ContentLength
        | Known::Cookie
        | Known::Expect
        | Known::Host
        | Known::KeepAlive
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::Te
        | Known::Trailer
        | Known::TransferEncoding
        | Known::Upgrade
        | Known::Via
        | Known::XRequestId
        | Known::Date
        | Known::Server
        | Known::SetCookie => false,
    }
}

/// Fields that a trailer section may not hold: framing, routing, authentication, request modifiers, response control
/// and payload processing (RFC 9110 §6.5.1), besides what [`is_hop_by_hop`] and [`is_vouching`] name.
const NOT_IN_TRAILERS: [&[u8]; 32] = [
    b"accept-encoding",
    b"age",
    b"alt-svc",
    b"authentication-info",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-language",
    b"content-location",
    b"content-range",
    b"content-security-policy",
    b"content-type",
    b"expires",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"location",
    b"max-forwards",
    b"origin",
    b"pragma",
    b"proxy-authentication-info",
    b"proxy-status",
    b"range",
    b"referer",
    b"retry-after",
    b"set-cookie2",
    b"strict-transport-security",
    b"vary",
    b"warning",
    b"www-authenticate",
];

/// May a field of this name travel in a trailer section? SECURITY S12.
#[must_use]
pub fn may_be_trailer(name: &[u8]) -> bool {
    known(name) == Known::Other
        && !is_hop_by_hop(Known::Other, name)
        && !is_vouching(Known::Other, name)
        && !name.contains(&b'_')
        && !NOT_IN_TRAILERS.iter().any(|entry| name.eq_ignore_ascii_case(entry))
}

/// Is `name` this entry, or, for an entry that ends in `-`, does it begin with it?
fn names(entry: &[u8], name: &[u8]) -> bool {
    match entry.last() {
        Some(b'-') => starts_with_ignore_case(name, entry),
        Some(_) | None => name.eq_ignore_ascii_case(entry),
    }
}

fn starts_with_ignore_case(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_in_any_case_and_only_whole() {
        let names = [
            ("Connection", Known::Connection),
            ("Content-Length", Known::ContentLength),
            ("Cookie", Known::Cookie),
            ("Expect", Known::Expect),
            ("Forwarded", Known::Forwarded),
            ("Host", Known::Host),
            ("Keep-Alive", Known::KeepAlive),
            ("Proxy-Authenticate", Known::ProxyAuthenticate),
            ("Proxy-Authorization", Known::ProxyAuthorization),
            ("Proxy-Connection", Known::ProxyConnection),
            ("TE", Known::Te),
            ("Trailer", Known::Trailer),
            ("Transfer-Encoding", Known::TransferEncoding),
            ("Upgrade", Known::Upgrade),
            ("Via", Known::Via),
            ("X-Forwarded-For", Known::XForwardedFor),
            ("X-Forwarded-Host", Known::XForwardedHost),
            ("X-Forwarded-Port", Known::XForwardedPort),
            ("X-Forwarded-Proto", Known::XForwardedProto),
            ("X-Real-IP", Known::XRealIp),
            ("X-Request-Id", Known::XRequestId),
            ("Date", Known::Date),
            ("Server", Known::Server),
            ("Set-Cookie", Known::SetCookie),
        ];
        for (name, wanted) in names {
            for spelling in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                assert_eq!(known(spelling.as_bytes()), wanted, "{spelling}");
            }
            for at in 0..name.len() {
                let mut other = name.to_owned().into_bytes();
                other[at] = if other[at] == b'q' { b'z' } else { b'q' };
                assert_eq!(known(&other), Known::Other, "{name} {at}");
            }
            assert_eq!(known(&name.as_bytes()[1..]), Known::Other, "{name}");
            assert_eq!(
                known(name.replace('-', "_").as_bytes()) == Known::Other,
                name.contains('-'),
                "{name}"
            );
        }
        assert_eq!(known(b""), Known::Other);
    }

    #[test]
    fn entries_that_end_in_a_hyphen_name_all_that_begins_so() {
        for name in
            ["X-Forwarded-Ssl", "x-envoy-internal", "Client-Cert", "SSL-Client-Verify", "X-Original-URL"]
        {
            assert!(is_vouching(Known::Other, name.as_bytes()), "{name}");
        }
        for name in ["X-Forwarded", "Client-Certificate-Id", "X-Rewrite-URLs", "Accept", "x", ""] {
            assert!(!is_vouching(Known::Other, name.as_bytes()), "{name}");
        }
    }
}
