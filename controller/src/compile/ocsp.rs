//! OCSP responses (RFC 6960) that a Secret brings beside its certificate: shown to clients with it (RFC 6066 §8).
//!
//! Shape, whose certificate it is about, what it says of it and until when are read here. Its signature is the client's to
//! verify, which has the issuer's certificate; nobody is asked over the network.

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Where a Secret has it.
pub(super) const NAME: &str = "tls.ocsp-staple";
/// `data[…]` of it, for reports.
pub(super) const FIELD: &str = "data[tls.ocsp-staple]";
/// Bytes of one response. Real ones have 500 to 4,000, each handshake carries it.
const BYTES_MAX: usize = 16 * 1024;
/// By how much the responder's clock may be ahead of ours, in seconds.
const SKEW: i64 = 300;
/// `id-pkix-ocsp-basic`: the only kind of response that there is.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const TIME: u8 = 0x18;
const EXPLICIT_0: u8 = 0xa0;

/// What a response says of a certificate that it calls good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Good {
    /// Until when, seconds since 1970.
    pub next_update: i64,
    /// The same for people.
    pub shown: String,
}

/// Reads the response about `leaf`.
///
/// # Errors
/// Why it cannot be shown to clients.
pub(super) fn read(der: &[u8], leaf: &X509Certificate<'_>, now: i64) -> Result<Good, String> {
    if der.len() > BYTES_MAX {
        return Err(format!("{} bytes; allowed: up to {BYTES_MAX}", der.len()));
    }
    if der.starts_with(b"-----") {
        return Err("PEM; allowed: DER, as `openssl ocsp -respout` writes it".to_owned());
    }
    let responses = responses(der)?;
    let single = about(responses, leaf)?;
    until(single, now)
}

/// The single responses of a whole one.
fn responses(der: &[u8]) -> Result<&[u8], String> {
    let bad = || "no OCSP response in DER (RFC 6960 §4.2.1)".to_owned();
    let mut whole = Reader(der);
    let mut response = whole.inside(SEQUENCE).ok_or_else(bad)?;
    if !whole.0.is_empty() {
        return Err(bad());
    }
    match response.take(ENUMERATED).ok_or_else(bad)? {
        [0] => {}
        [status] => return Err(format!("the responder's answer was error {status} (RFC 6960 §4.2.1)")),
        _ => return Err(bad()),
    }
    let basic = (|| {
        let mut bytes = response.inside(EXPLICIT_0)?.inside(SEQUENCE)?;
        let kind = bytes.take(OID)?;
        let mut data = Reader(bytes.take(OCTETS)?).inside(SEQUENCE)?.inside(SEQUENCE)?;
        // The version, where it is not the first; who answers; when.
        if data.0.first() == Some(&EXPLICIT_0) {
            data.take(EXPLICIT_0)?;
        }
        data.any()?;
        data.take(TIME)?;
        Some((kind, data.take(SEQUENCE)?))
    })();
    match basic.ok_or_else(bad)? {
        (BASIC, responses) => Ok(responses),
        _ => Err("not a basic OCSP response (RFC 6960 §4.2.1)".to_owned()),
    }
}

/// The single response about `leaf`, from its status on.
fn about<'a>(responses: &'a [u8], leaf: &X509Certificate<'_>) -> Result<Reader<'a>, String> {
    let bad = || "a single response that cannot be read (RFC 6960 §4.2.1)".to_owned();
    let mut responses = Reader(responses);
    while !responses.0.is_empty() {
        let mut single = responses.inside(SEQUENCE).ok_or_else(bad)?;
        let id = (|| {
            let mut id = single.inside(SEQUENCE)?;
            let hash = id.inside(SEQUENCE)?.take(OID)?;
            let (issuer, _key) = (id.take(OCTETS)?, id.take(OCTETS)?);
            Some((hash, issuer, id.take(INTEGER)?))
        })();
        let (hash, issuer, serial) = id.ok_or_else(bad)?;
        if serial != leaf.raw_serial() {
            continue;
        }
        let algorithm = match hash {
            [0x2b, 0x0e, 0x03, 0x02, 0x1a] => &SHA1_FOR_LEGACY_USE_ONLY,
            [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01] => &SHA256,
            [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02] => &SHA384,
            [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03] => &SHA512,
            _ => return Err("its hash is not known; allowed: SHA-1, SHA-256, SHA-384, SHA-512".to_owned()),
        };
        if digest::digest(algorithm, leaf.issuer().as_raw()).as_ref() == issuer {
            return Ok(single);
        }
    }
    Err("it is not about the certificate in tls.crt".to_owned())
}

/// What a single response says, and until when.
fn until(mut single: Reader<'_>, now: i64) -> Result<Good, String> {
    let bad = || "a single response that cannot be read (RFC 6960 §4.2.1)".to_owned();
    match single.any().ok_or_else(bad)? {
        (0x80, _) => {}
        (0xa1, _) => return Err("it says that the certificate is revoked".to_owned()),
        (0x82, _) => return Err("it says that the certificate is not known to the responder".to_owned()),
        _ => return Err(bad()),
    }
    let from = time(&mut single).ok_or_else(bad)?;
    if from.timestamp() > now.saturating_add(SKEW) {
        return Err(format!("thisUpdate {from} is yet to come"));
    }
    if single.0.first() != Some(&EXPLICIT_0) {
        return Err("it has no nextUpdate: until when it may be shown is not known".to_owned());
    }
    let next = single.inside(EXPLICIT_0).and_then(|mut next| time(&mut next)).ok_or_else(bad)?;
    Ok(Good { next_update: next.timestamp(), shown: next.to_string() })
}

fn time(reader: &mut Reader<'_>) -> Option<ASN1Time> {
    let (rest, time) = ASN1Time::from_der(reader.0).ok()?;
    reader.0 = rest;
    Some(time)
}

/// Elements of DER, one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element, whatever it is: its tag and contents.
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let octets = usize::from(first & 0x7f);
            // Longer than any response may be, or of indefinite length, which is not DER.
            if !(1..=3).contains(&octets) {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(octets)?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = after;
        }
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, contents))
    }

    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }

    fn inside(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }
}
