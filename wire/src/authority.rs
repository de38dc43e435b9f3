//! Which host a request is for: the Host field or the authority of an absolute target, in one canonical form.
//!
//! Stricter than RFC 3986 §3.2.2 on purpose (SECURITY S14): no userinfo, no percent-encoding, no sub-delims, because
//! two parsers that disagree about such a name route to two places.

use std::net::Ipv6Addr;

use crate::error::WireError;

/// Longest host name in bytes (RFC 1035 §2.3.4), without the port.
pub const HOST_BYTES_MAX: usize = 253;

/// Appends the canonical host of `authority` to `out` and returns the port, when one is given.
///
/// Canonical is lower case, without a trailing dot; an IPv6 literal keeps its brackets. A name is labels of letters,
/// digits, `-`, `_` and single dots between them.
///
/// # Errors
/// [`WireError::Host`] for everything else: userinfo, an empty host or port, port 0, port above 65535, an IPv6 zone.
/// What was appended to `out` until then stays there.
pub fn canonical(authority: &[u8], out: &mut Vec<u8>) -> Result<Option<u16>, WireError> {
    if authority.first() == Some(&b'[') {
        return literal(authority, out);
    }
    let start = out.len();
    let mut port = None;
    for (at, byte) in authority.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => out.push(*byte),
            b'A'..=b'Z' => out.push(byte.to_ascii_lowercase()),
            b'.' if out.len() > start && out.last() != Some(&b'.') => out.push(b'.'),
            b':' => {
                port = Some(port_number(&authority[at + 1..])?);
                break;
            }
            _ => return Err(WireError::Host),
        }
    }
    if out.len() > start && out.last() == Some(&b'.') {
        out.pop();
    }
    match out.len() - start {
        1..=HOST_BYTES_MAX => Ok(port),
        _ => Err(WireError::Host),
    }
}

/// `[IPv6]` with an optional port.
fn literal(authority: &[u8], out: &mut Vec<u8>) -> Result<Option<u16>, WireError> {
    let end = memchr::memchr(b']', authority).ok_or(WireError::Host)?;
    let text = std::str::from_utf8(&authority[1..end]).map_err(|_| WireError::Host)?;
    text.parse::<Ipv6Addr>().map_err(|_| WireError::Host)?;
    out.extend(authority[..=end].iter().map(u8::to_ascii_lowercase));
    match authority[end + 1..].split_first() {
        None => Ok(None),
        Some((b':', digits)) => port_number(digits).map(Some),
        Some(_) => Err(WireError::Host),
    }
}

fn port_number(digits: &[u8]) -> Result<u16, WireError> {
    if !(1..=5).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(WireError::Host);
    }
    let value = digits.iter().fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    match u16::try_from(value) {
        Ok(0) | Err(_) => Err(WireError::Host),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(authority: &str) -> Result<(String, Option<u16>), WireError> {
        let mut out = Vec::new();
        let port = canonical(authority.as_bytes(), &mut out)?;
        Ok((String::from_utf8(out).unwrap(), port))
    }

    #[test]
    fn case_and_trailing_dot_do_not_make_another_host() {
        for spelling in ["shop.example", "Shop.EXAMPLE", "shop.example.", "SHOP.example."] {
            assert_eq!(parse(spelling), Ok(("shop.example".to_owned(), None)), "{spelling}");
        }
        assert_eq!(parse("shop.example.:8080"), Ok(("shop.example".to_owned(), Some(8080))));
        assert_eq!(parse("10.0.0.1:80"), Ok(("10.0.0.1".to_owned(), Some(80))));
        assert_eq!(parse("my_service"), Ok(("my_service".to_owned(), None)));
    }

    #[test]
    fn ipv6_literals_keep_their_brackets() {
        assert_eq!(parse("[::1]"), Ok(("[::1]".to_owned(), None)));
        assert_eq!(parse("[FE80::A]:65535"), Ok(("[fe80::a]".to_owned(), Some(65535))));
    }

    #[test]
    fn userinfo_and_junk_are_refused() {
        let bad = [
            "",
            ".",
            "..",
            "a..",
            "a.b..:80",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "user@a",
            "a@b:80",
            "a:",
            "a:0",
            "a:65536",
            "a:123456",
            "a:+80",
            "a:8o",
            "a:80:80",
            "a/b",
            "a%2eb",
            "a,b",
            "a?b",
            "a#b",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[::1%25eth0]",
            "[v1.a]",
            "[]",
            "::1",
            "a\u{e9}",
            "a;b",
            "a\\b",
            "*",
        ];
        for authority in bad {
            assert_eq!(parse(authority), Err(WireError::Host), "{authority:?}");
        }
        assert!(parse(&"a".repeat(253)).is_ok());
        assert_eq!(parse(&"a".repeat(254)), Err(WireError::Host));
    }
}
