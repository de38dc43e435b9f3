//! Certificates of clients: asked for in the handshake, judged behind it.
//!
//! A handshake proves that the client has the key of what it shows, and no more: what the certificate is worth is found
//! out once, when it is over ([`judge`]), and a rule decides what follows (`exchange::filter`). So a client without a
//! certificate gets an answer that says so, as from ingress-nginx, and not a handshake that fails.

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use routing::model::ClientAuth;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// Trusted authorities and their revocations: what [`ClientAuth::authorities`] holds.
pub type Trusted = (Vec<TrustAnchor<'static>>, Vec<OwnedCertRevocationList>);

/// What is known of a client by its handshake.
#[derive(Debug)]
pub struct Shown {
    /// Under which terms: [`ClientAuth::digest`].
    pub by: [u8; 32],
    /// What it is worth.
    pub worth: Worth,
    /// Its certificate; `None` = it has shown none.
    pub certificate: Option<Certificate>,
}

/// What a client's certificate is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// There is none.
    Absent,
    /// A trusted authority vouches for it.
    Verified,
    /// None does: why.
    Refused(&'static str),
}

/// A certificate as backends are told of it.
#[derive(Debug)]
pub struct Certificate {
    /// Its subject (RFC 4514).
    pub subject: Box<str>,
    /// Its issuer (RFC 4514).
    pub issuer: Box<str>,
    /// PEM, percent-encoded.
    pub pem: Box<str>,
}

/// Judges what a client has shown, at `now`.
#[must_use]
pub fn judge(
    auth: &ClientAuth,
    shown: Option<&[CertificateDer<'_>]>,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Shown {
    let Some((leaf, rest)) = shown.and_then(<[_]>::split_first) else {
        return Shown { by: auth.digest, worth: Worth::Absent, certificate: None };
    };
    let worth = match verify(auth, leaf, rest, now, provider) {
        Ok(()) => Worth::Verified,
        Err(reason) => Worth::Refused(reason),
    };
    let names = X509Certificate::from_der(leaf)
        .ok()
        .map(|(_, certificate)| (rfc4514(certificate.subject()), rfc4514(certificate.issuer())));
    let (subject, issuer) = names.unwrap_or_default();
    let certificate =
        Certificate { subject: subject.into(), issuer: issuer.into(), pem: escaped_pem(leaf).into() };
    Shown { by: auth.digest, worth, certificate: Some(certificate) }
}

fn verify(
    auth: &ClientAuth,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), &'static str> {
    let (anchors, revoked) = auth.authorities.get::<Trusted>().ok_or("no authorities")?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| "not a certificate")?;
    let lists: Vec<CertRevocationList<'_>> = revoked.iter().cloned().map(CertRevocationList::from).collect();
    let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
    // A list that is too old still says who was revoked; who is on no list is not.
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        let options = options.with_depth(RevocationCheckDepth::Chain);
        options.with_status_policy(UnknownStatusPolicy::Allow).build()
    });
    let algorithms = provider.signature_verification_algorithms.all;
    let depth = usize::from(auth.depth);
    let short = |path: &webpki::VerifiedPath<'_>| match path.intermediate_certificates().count() {
        count if count <= depth => Ok(()),
        _ => Err(webpki::Error::MaximumPathDepthExceeded),
    };
    let usage = KeyUsage::client_auth();
    let found = leaf.verify_for_usage(algorithms, anchors, rest, now, usage, revocation, Some(&short));
    found.map(drop).map_err(|error| told(&error))
}

/// In OpenSSL's words, which applications that get them as a header know.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "closed by the library's own attribute: minor releases add variants"
)]
fn told(error: &webpki::Error) -> &'static str {
    match error {
        webpki::Error::CertExpired { .. } => "certificate has expired",
        webpki::Error::CertNotValidYet { .. } => "certificate is not yet valid",
        webpki::Error::CertRevoked => "certificate revoked",
        webpki::Error::MaximumPathDepthExceeded => "certificate chain too long",
        webpki::Error::UnknownIssuer => "unable to get local issuer certificate",
        _ => "certificate verify failed",
    }
}

/// The names of a distinguished name, the most specific first, as nginx writes them.
fn rfc4514(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    for part in parts {
        for (index, attribute) in part.iter().enumerate() {
            if !out.is_empty() {
                out.push(if index == 0 { ',' } else { '+' });
            }
            let oid = attribute.attr_type();
            match x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry()) {
                Ok(short) => out.push_str(short),
                Err(_) => out.push_str(&oid.to_id_string()),
            }
            out.push('=');
            escape(attribute.as_str().unwrap_or("#"), &mut out);
        }
    }
    out
}

/// RFC 4514 §2.4; what is no visible ASCII becomes its bytes in hexadecimal, so that it fits in a field of HTTP.
fn escape(value: &str, out: &mut String) {
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => out.extend(['\\', char::from(byte)]),
            b'#' if index == 0 => out.push_str("\\#"),
            b' ' if index == 0 || index + 1 == value.len() => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            // Writing into a string cannot fail.
            _ => drop(write!(out, "\\{byte:02X}")),
        }
    }
}

/// As nginx's `$ssl_client_escaped_cert`.
fn escaped_pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    percent_encoding::utf8_percent_encode(&pem, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Takes any certificate whose key the client has; see the module.
#[derive(Debug)]
pub(super) struct Asks {
    provider: Arc<CryptoProvider>,
    hints: Box<[DistinguishedName]>,
}

impl Asks {
    pub(super) fn new(auth: &ClientAuth, provider: &Arc<CryptoProvider>) -> Self {
        let anchors = auth.authorities.get::<Trusted>().map(|(anchors, _)| anchors.as_slice());
        let hints =
            anchors.unwrap_or_default().iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject));
        Self { provider: Arc::clone(provider), hints: hints.collect() }
    }
}

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_a_field() {
        let mut out = String::new();
        escape("#a, b+c=\"d\" \\ \u{e9}\r\n ", &mut out);
        assert_eq!(out, "\\#a\\, b\\+c=\\\"d\\\" \\\\ \\C3\\A9\\0D\\0A\\ ");
    }
}
