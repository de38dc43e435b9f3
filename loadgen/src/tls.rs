//! Load over TLS: a client that trusts everybody and tells what it was shown.
//!
//! A load generator measures; whom it talks to is decided by the address it is given. So certificates are not
//! verified against any root, but signatures are, so that a handshake costs what it costs a browser. Sessions are
//! never resumed: every connection is a full handshake.

use std::collections::HashSet;
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::engine::LoadError;

/// Different certificates that are told apart; further ones are not counted.
const CERTIFICATES_MAX: usize = 100_000;

/// How connections of a load are secured. Clones share what they have seen.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    shown: Arc<Shown>,
}

impl Tls {
    /// For the server name `name`, TLS 1.3 or 1.2, full handshakes.
    ///
    /// # Errors
    /// [`LoadError::Invalid`] when `name` is neither a DNS name nor an address.
    pub fn to(name: &str) -> Result<Self, LoadError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| LoadError::Invalid("the server name is neither a DNS name nor an address"))?;
        let shown = Arc::new(Shown { provider: Arc::clone(&provider), certificates: Mutex::default() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| LoadError::Invalid("the TLS library has no protocol version"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&shown) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name, shown })
    }

    /// How many different certificates servers have shown so far.
    #[must_use]
    pub fn certificates_seen(&self) -> usize {
        self.shown.certificates.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The same, offering HTTP/2 and nothing else by ALPN.
    #[must_use]
    pub fn speaking_http2(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// A connection of its own, outside of any load: blocking, for whoever looks at few of them or only holds them.
    ///
    /// # Errors
    /// The handshake fails, or the other side took none of the protocols that are offered.
    pub fn connect(&self, mut socket: TcpStream) -> std::io::Result<Secured> {
        let mut tls = self.begin()?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        if !self.config.alpn_protocols.is_empty() && tls.alpn_protocol().is_none() {
            return Err(std::io::Error::other("no protocol was agreed on"));
        }
        Ok(Secured(StreamOwned::new(tls, socket)))
    }

    pub(crate) fn begin(&self) -> std::io::Result<ClientConnection> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(std::io::Error::other)
    }
}

/// One connection over TLS, its handshake done.
pub struct Secured(StreamOwned<ClientConnection, TcpStream>);

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").finish_non_exhaustive()
    }
}

impl Read for Secured {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Secured {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Accepts every certificate and remembers it.
struct Shown {
    provider: Arc<CryptoProvider>,
    certificates: Mutex<HashSet<Vec<u8>>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if certificates.len() < CERTIFICATES_MAX && !certificates.contains(end_entity.as_ref()) {
            certificates.insert(end_entity.to_vec());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
