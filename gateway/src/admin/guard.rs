//! Who may ask, and how: before anything is looked up.
//!
//! Over TCP the API has no authentication; what protects it is where it listens. A browser on the same machine must
//! not be made to read it for a foreign page (DNS rebinding), so the name that was asked for is checked; nothing there
//! changes state, so there is nothing to forge (SECURITY S34). The operators' socket is protected by its file's mode,
//! and no browser can be made to open it: only there POST is served.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};

/// A request that is refused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not GET or HEAD.
    Method,
    /// Not GET, HEAD or POST.
    OperatorMethod,
    /// No Host, two, or one that is not ours.
    Host,
    /// There is a body.
    Body,
}

impl Refusal {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Method | Self::OperatorMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Method => "only GET and HEAD are served here; what changes state is served on admin.socket",
            Self::OperatorMethod => "only GET, HEAD and POST are served here",
            Self::Host => {
                "the Host field must name localhost, a loopback address or the admin address itself"
            }
            Self::Body => "requests have no body here",
        }
    }
}

/// Judges a request that arrived at the local address `at`.
pub(crate) fn check<B>(request: &Request<B>, at: SocketAddr) -> Result<(), Refusal> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Refusal::Method);
    }
    if !names_us(request.uri(), request.headers(), at.ip()) {
        return Err(Refusal::Host);
    }
    has_no_body(request)
}

/// Judges an operator's request.
pub(crate) fn check_operator<B>(request: &Request<B>) -> Result<(), Refusal> {
    match *request.method() {
        Method::GET | Method::HEAD | Method::POST => has_no_body(request),
        _ => Err(Refusal::OperatorMethod),
    }
}

fn has_no_body<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    let has_length = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_length || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::Body);
    }
    Ok(())
}

/// Exactly one Host that is ours, and the same for the authority of an absolute-form target.
fn names_us(uri: &Uri, headers: &HeaderMap, at: IpAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let target = uri.authority().is_none_or(|authority| is_ours(authority.as_str(), at));
    target && host.to_str().is_ok_and(|host| is_ours(host, at))
}

/// Is `host[:port]` a name of this very listener? The port is not compared: tunnels change it, rebinding does not
/// need to.
fn is_ours(authority: &str, at: IpAddr) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some("0"))),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("0")),
        },
    };
    if port.is_none_or(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return true;
    }
    let Ok(ip) = host.parse::<IpAddr>() else { return false };
    // An address in the Host field was typed, not resolved: it cannot be rebound. It must be ours all the same.
    ip.to_canonical().is_loopback() || ip.to_canonical() == at.to_canonical()
}

/// For messages: where a listener on the unspecified address is reached from this machine.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_and_the_address_itself_are_ours() {
        let at: IpAddr = "192.0.2.7".parse().unwrap();
        for ours in [
            "localhost",
            "LOCALHOST:9901",
            "localhost.",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:9901",
            "192.0.2.7:80",
            "[::ffff:192.0.2.7]:80",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_ours(ours, at), "{ours}");
        }
        for foreign in [
            "",
            ":9901",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.8",
            "127.0.0.1:x",
            "127.0.0.1:",
            "127.0.0.1:99999",
            "[::1",
            "[::1]x",
            "::1",
            "[::2]",
            "evil@127.0.0.1",
            "2130706433",
        ] {
            assert!(!is_ours(foreign, at), "{foreign}");
        }
    }
}
