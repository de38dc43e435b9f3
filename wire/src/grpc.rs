//! What gRPC says in fields of HTTP: what speaks it, how a call ended, how long it may take.
//!
//! Called by the gateway for requests that are calls; nothing here knows messages. Source: "gRPC over HTTP2" and "gRPC Web"
//! of gRPC's documentation.

pub mod web;

use std::time::Duration;

use self::web::Form;

/// What a Content-Type says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `application/grpc`
    Grpc,
    /// `application/grpc-web`
    Web,
    /// `application/grpc-web-text`: the same in base64.
    WebText,
}

const GRPC: &[u8] = b"application/grpc";

impl Content {
    /// What `value` says, and what follows the type: `+proto` and the like, or parameters. `None` = nothing of gRPC.
    #[must_use]
    pub fn of(value: &[u8]) -> Option<(Self, &[u8])> {
        let rest = strip(value, GRPC)?;
        let (content, rest) = match strip(rest, b"-web") {
            None => (Self::Grpc, rest),
            Some(rest) => match strip(rest, b"-text") {
                None => (Self::Web, rest),
                Some(rest) => (Self::WebText, rest),
            },
        };
        matches!(rest.first(), None | Some(b'+' | b';' | b' ')).then_some((content, rest))
    }

    /// How bodies of gRPC-Web are written; `None` = it is gRPC itself.
    #[must_use]
    pub fn form(self) -> Option<Form> {
        match self {
            Self::Grpc => None,
            Self::Web => Some(Form::Binary),
            Self::WebText => Some(Form::Text),
        }
    }

    /// The type without what follows it.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Grpc => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        }
    }
}

/// What follows `prefix`, compared without case.
fn strip<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The value of `grpc-status`. What is no number is `u8::MAX`, which is no code either.
#[must_use]
pub fn status(value: &[u8]) -> u8 {
    let number = match value {
        [] => None,
        digits => digits.iter().try_fold(0u8, |number, digit| {
            let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
            number.checked_mul(10)?.checked_add(digit)
        }),
    };
    number.unwrap_or(u8::MAX)
}

/// The status in a trailer section as [`BodyDecoder::trailers`](crate::body::BodyDecoder::trailers) gives it.
#[must_use]
pub fn status_of(trailers: &[u8]) -> Option<u8> {
    let mut fields = crate::h2::trailer_fields(trailers);
    fields.find(|(name, _)| name.eq_ignore_ascii_case(b"grpc-status")).map(|(_, value)| status(value))
}

/// Digits of a timeout at most.
const TIMEOUT_DIGITS: usize = 8;

/// The units of a timeout by their nanoseconds, the smallest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The value of `grpc-timeout`: one to eight digits and a unit. `None` = it is none.
#[must_use]
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit)?;
    let is_number = (1..=TIMEOUT_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !is_number {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    // Eight digits of hours do not fit into 64 bits of nanoseconds: some hundred years are as good as that.
    Some(Duration::from_nanos(number.saturating_mul(*nanos)))
}

/// A timeout ready to be sent: never longer than what was asked for, and shorter by a part in 100,000 or a microsecond at
/// most.
#[derive(Clone, Copy, Debug)]
pub struct TimeoutText {
    bytes: [u8; 9],
    len: usize,
}

impl TimeoutText {
    /// The text of that time.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        const MAX: u64 = 99_999_999;
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Microseconds at least: nobody's clock tells less.
        let fits = UNITS[1..].iter().find(|(_, unit)| nanos / unit <= MAX);
        let (name, unit) = *fits.unwrap_or(&UNITS[5]);
        let mut digits = itoa::Buffer::new();
        let digits = digits.format((nanos / unit).min(MAX)).as_bytes();
        let mut bytes = [0; 9];
        bytes[..digits.len()].copy_from_slice(digits);
        bytes[digits.len()] = name;
        Self { bytes, len: digits.len() + 1 }
    }

    /// As it is sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_content_type() {
        let of = |value: &'static str| Content::of(value.as_bytes());
        for (value, wanted) in [
            ("application/grpc", Some((Content::Grpc, ""))),
            ("application/grpc+proto", Some((Content::Grpc, "+proto"))),
            ("Application/gRPC;charset=utf-8", Some((Content::Grpc, ";charset=utf-8"))),
            ("application/grpc-web", Some((Content::Web, ""))),
            ("application/grpc-web+proto", Some((Content::Web, "+proto"))),
            ("application/grpc-web-text", Some((Content::WebText, ""))),
            ("application/GRPC-Web-Text+json", Some((Content::WebText, "+json"))),
            ("application/grpc-webs", None),
            ("application/grpcx", None),
            ("application/grpc-web-texts", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(of(value), wanted.map(|(content, rest)| (content, rest.as_bytes())), "{value}");
        }
    }

    #[test]
    fn a_timeout_is_one_to_eight_digits_and_a_unit() {
        for (value, wanted) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("30S", Some(Duration::from_secs(30))),
            ("250m", Some(Duration::from_millis(250))),
            ("00000007u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0S", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_nanos(u64::MAX))),
            ("100000000S", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("1 S", None),
            (" 1S", None),
            ("", None),
        ] {
            assert_eq!(timeout(value.as_bytes()), wanted, "{value:?}");
        }
    }

    #[test]
    fn a_timeout_that_is_passed_on_is_never_longer_and_hardly_shorter() {
        let mut nanos = 1u64;
        while nanos < 3_600_000_000_000 * 24 * 365 {
            for nanos in [nanos, nanos + 1, nanos * 9 / 7] {
                let text = TimeoutText::new(Duration::from_nanos(nanos));
                let again = timeout(text.as_bytes()).unwrap();
                let lost = Duration::from_nanos(nanos).checked_sub(again).expect("not longer");
                assert!(lost < Duration::from_nanos(1_000.max(nanos / 99_999)), "{nanos} {lost:?}");
            }
            nanos = nanos * 3 / 2 + 1;
        }
        assert_eq!(TimeoutText::new(Duration::from_millis(1_500)).as_bytes(), b"1500000u");
        assert_eq!(TimeoutText::new(Duration::from_nanos(999)).as_bytes(), b"0u");
        assert_eq!(TimeoutText::new(Duration::MAX).as_bytes(), b"5124095H");
    }

    #[test]
    fn a_status_is_a_number_and_nothing_else() {
        for (value, wanted) in
            [("0", 0), ("14", 14), ("014", 14), ("", 255), ("x", 255), ("-1", 255), ("300", 255)]
        {
            assert_eq!(status(value.as_bytes()), wanted, "{value:?}");
        }
        assert_eq!(status_of(b"x: 1\r\nGrpc-Status: 7\r\ngrpc-message: no\r\n"), Some(7));
        assert_eq!(status_of(b"grpc-message: no\r\n"), None);
    }
}
