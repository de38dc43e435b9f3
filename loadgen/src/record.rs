//! Requests that differ, and what became of each of them.

use std::time::Duration;

use crate::connection::{Begun, Why};
use crate::engine::{Load, LoadError};

/// Bytes of [`Asks::body`] at most.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Digits of a request's number: as many as a `u64` can have, so that every request has the same length.
const NUMBER_DIGITS: usize = 20;

/// How the requests of a [`Load`] look, beyond what is the same for all. The default: GET of [`Load::path`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// The method.
    pub method: Method,
    /// Request-targets that take turns; none: [`Load::path`] always.
    pub paths: Vec<String>,
    /// The body, at most 1 MiB; sent with Content-Length when it is not empty.
    pub body: Vec<u8>,
    /// A header that carries the request's number (see [`Record::number`]), 20 decimal digits.
    pub number_header: Option<String>,
}

/// The methods that a load can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Idempotent: may be tried again by whoever stands between.
    #[default]
    Get,
    /// Not idempotent (RFC 9110 §9.2.2): must not be executed twice.
    Post,
}

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counted from 0 in the order in which requests become due.
    pub number: u64,
    /// When it was due, since the start of the load.
    pub due: Duration,
    /// How long after that it was given to a connection: the generator's own lateness, or the wait for a free
    /// connection. `None`: it never was.
    pub late: Option<Duration>,
    /// From when it was due to its end.
    pub latency: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The value of the counted header ([`Load::count_header`]); `None` also when there was no complete response.
    pub value: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete response.
    Answered {
        /// Its status.
        status: u16,
        /// Bytes of its body.
        body: u64,
    },
    /// The connection was refused or could not be opened.
    Connect,
    /// The connection was closed or reset before the response was complete.
    Closed(Begun),
    /// No complete response within [`Load::timeout`], or before the load was stopped.
    Timeout(Begun),
    /// What came is not HTTP of the version that was asked for.
    Malformed,
    /// A complete response to a call of gRPC whose `grpc-status` is this, not 0; `None`: it had none.
    Grpc(Option<u32>),
}

impl Outcome {
    pub(crate) fn of(why: Why, begun: Begun) -> Self {
        match why {
            Why::Connect => Self::Connect,
            Why::Closed => Self::Closed(begun),
            Why::Malformed => Self::Malformed,
        }
    }

    /// A complete response with a status below 400.
    #[must_use]
    pub fn is_good(self) -> bool {
        match self {
            Self::Answered { status, .. } => status < 400,
            Self::Connect | Self::Closed(_) | Self::Timeout(_) | Self::Malformed | Self::Grpc(_) => false,
        }
    }
}

/// The bytes of requests: one text per path, into which the number is written.
#[derive(Debug)]
pub(crate) struct Texts {
    texts: Vec<Text>,
}

#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    number_at: Option<usize>,
}

impl Texts {
    pub(crate) fn new(load: &Load, asks: &Asks) -> Result<Self, LoadError> {
        let paths = if asks.paths.is_empty() { std::slice::from_ref(&load.path) } else { &asks.paths };
        let is_clean = |text: &String| !text.bytes().any(|byte| byte.is_ascii_control());
        let headers = load.headers.iter().flat_map(|(name, value)| [name, value]);
        let mut texts = paths.iter().chain([&load.host]).chain(headers).chain(&asks.number_header);
        let wrong = [
            (
                !paths.iter().all(|path| path.starts_with('/') && !path.contains(' ')),
                "path must begin with / and hold no space",
            ),
            (!texts.all(is_clean), "host, path and headers must hold no control bytes"),
            (asks.body.len() > BODY_BYTES_MAX, "body must be at most 1 MiB"),
        ];
        if let Some((_, what)) = wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            return Err(LoadError::Invalid(what));
        }
        Ok(Self { texts: paths.iter().map(|path| Text::new(load, asks, path)).collect() })
    }

    /// Puts the bytes of one request into `request`.
    pub(crate) fn write(&self, number: u64, request: &mut Vec<u8>) {
        let turn = usize::try_from(number % self.texts.len() as u64).expect("less than a length");
        let text = &self.texts[turn];
        request.clear();
        request.extend_from_slice(&text.bytes);
        if let Some(at) = text.number_at {
            let digits = format!("{number:0width$}", width = NUMBER_DIGITS);
            request[at..at + NUMBER_DIGITS].copy_from_slice(digits.as_bytes());
        }
    }
}

impl Text {
    fn new(load: &Load, asks: &Asks, path: &str) -> Self {
        let method = match asks.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", load.host);
        for (name, value) in &load.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        if !asks.body.is_empty() || asks.method == Method::Post {
            text.push_str(&format!("Content-Length: {}\r\n", asks.body.len()));
        }
        let number_at = asks.number_header.as_ref().map(|name| {
            text.extend([name, ": "]);
            let at = text.len();
            text.push_str(&"0".repeat(NUMBER_DIGITS));
            text.push_str("\r\n");
            at
        });
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&asks.body);
        Self { bytes, number_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load {
            target: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            host: "h".into(),
            path: "/".into(),
            rate_per_s: 1,
            connections_max: 1,
            duration: Duration::ZERO,
            timeout: Duration::ZERO,
            headers: Vec::new(),
            count_header: None,
        }
    }

    #[test]
    fn paths_take_turns_and_each_request_carries_its_number() {
        let asks = Asks {
            method: Method::Post,
            paths: vec!["/a".into(), "/b".into()],
            body: b"hi".to_vec(),
            number_header: Some("n".into()),
        };
        let texts = Texts::new(&load(), &asks).unwrap();
        let mut request = Vec::new();
        texts.write(7, &mut request);
        let expected =
            "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nn: 00000000000000000007\r\n\r\nhi";
        assert_eq!(String::from_utf8_lossy(&request), expected);
        texts.write(u64::MAX - 1, &mut request);
        assert!(String::from_utf8_lossy(&request).contains("POST /a ") && request.len() == expected.len());
    }

    #[test]
    fn what_would_break_the_framing_is_refused() {
        let cases = [
            Asks { paths: vec!["a".into()], ..Asks::default() },
            Asks { paths: vec!["/a b".into()], ..Asks::default() },
            Asks { number_header: Some("x\r\ny".into()), ..Asks::default() },
            Asks { body: vec![0; BODY_BYTES_MAX + 1], ..Asks::default() },
        ];
        for asks in cases {
            assert!(matches!(Texts::new(&load(), &asks), Err(LoadError::Invalid(_))), "{:?}", asks.paths);
        }
    }
}
