//! What a listener or a host asks of TLS handshakes, as people write it: versions, ciphers, ALPN.
//!
//! | `spec.listeners[].tls.options` of a Gateway | value |
//! |---|---|
//! | `ringway.dev/alpn` | `h2`, `http/1.1`, by comma, the preferred one first |
//! | `ringway.dev/tls-min-protocol-version` | `TLSv1.2`, `TLSv1.3` |
//! | `ringway.dev/tls-max-protocol-version` | the same |
//! | `ringway.dev/ssl-ciphers` | OpenSSL's names of cipher suites of TLS 1.2, by colon or comma |
//!
//! Ingresses say the same by annotation.

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::model::{Application, Protocol, Terms, TlsVersion};

use crate::verdict::Notes;

/// The cipher suites of TLS 1.2 that are spoken, by OpenSSL's name and IANA's number (RFC 5289, RFC 7905).
const CIPHERS: [(&str, u16); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", 0xc02b),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", 0xc02c),
    ("ECDHE-RSA-AES128-GCM-SHA256", 0xc02f),
    ("ECDHE-RSA-AES256-GCM-SHA384", 0xc030),
    ("ECDHE-RSA-CHACHA20-POLY1305", 0xcca8),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", 0xcca9),
];
/// The options of ours.
const OURS: &str = "alpn, tls-min-protocol-version, tls-max-protocol-version, ssl-ciphers";

/// A version; `Err` = what is allowed.
pub(super) fn version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "TLSv1.2" => Ok(TlsVersion::V12),
        "TLSv1.3" => Ok(TlsVersion::V13),
        _ => Err("TLSv1.2, TLSv1.3: older ones are not spoken (RFC 8996)".to_owned()),
    }
}

/// Cipher suites; those that are not spoken are left out, unless none is left.
pub(super) fn ciphers(text: &str) -> Result<Vec<u16>, String> {
    let found = text.split([':', ',', ' ']).filter_map(|name| CIPHERS.iter().find(|known| known.0 == name));
    let found: Vec<u16> = found.map(|(_, number)| *number).collect();
    let names = || CIPHERS.map(|(name, _)| name).join(", ");
    if found.is_empty() { Err(format!("{}; all of them are offered", names())) } else { Ok(found) }
}

/// The protocols that are offered, the preferred one first.
pub(super) fn alpn(text: &str) -> Result<Box<[Application]>, String> {
    let mut offered = Vec::new();
    for name in text.split(',').map(str::trim) {
        let protocol = match name {
            "h2" => Application::Http2,
            "http/1.1" => Application::Http1,
            _ => return Err("h2, http/1.1, or both by comma, the preferred one first".to_owned()),
        };
        if offered.contains(&protocol) {
            return Err("each protocol once".to_owned());
        }
        offered.push(protocol);
    }
    Ok(offered.into())
}

/// What the options of a Gateway's listener ask for; `None` = nothing. What is wrong is said and asks for nothing.
pub(super) fn options(
    options: Option<&BTreeMap<String, String>>,
    protocol: Protocol,
    field: &str,
    notes: &mut Notes,
) -> Option<Arc<Terms>> {
    let mut terms = Terms::default();
    for (name, value) in options.into_iter().flatten() {
        let field = format!("{field}.tls.options[{name}]");
        let Some(ours) = name.strip_prefix("ringway.dev/") else {
            notes.ignored(field, value, "another implementation's");
            continue;
        };
        let read = match ours {
            "tls-min-protocol-version" => version(value).map(|min| terms.min = min),
            "tls-max-protocol-version" => version(value).map(|max| terms.max = Some(max)),
            "ssl-ciphers" => ciphers(value).map(|found| terms.ciphers = found.into()),
            "alpn" if protocol == Protocol::Https => alpn(value).map(|offered| terms.alpn = offered),
            "alpn" => Err("on listeners of protocol HTTPS: what is inside is not ours here".to_owned()),
            _ => Err(format!("ringway.dev/ knows {OURS}")),
        };
        if let Err(allowed) = read {
            notes.refused_part(field, value, format!("allowed: {allowed}"));
        }
    }
    if terms.max.is_some_and(|max| max < terms.min) {
        let field = format!("{field}.tls.options[ringway.dev/tls-max-protocol-version]");
        notes.refused_part(field, "", "allowed: not less than ringway.dev/tls-min-protocol-version");
        terms.max = None;
    }
    (terms != Terms::default()).then(|| Arc::new(terms))
}
