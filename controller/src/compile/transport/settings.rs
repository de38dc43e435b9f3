//! What the TLS library connects to a backend with: versions, whom it believes, our certificate, ALPN.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use routing::model::{Application, BackendTls, Certificate, TlsSettings, Verification};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::authorities::Trust;

/// What is asked of connections to a backend.
#[derive(Debug)]
pub(super) struct Ask {
    /// What asks for it.
    pub(super) source: Arc<str>,
    /// The name that is asked for.
    pub(super) server_name: Arc<str>,
    /// Is it sent (SNI)?
    pub(super) sends_name: bool,
    /// Who may vouch for the backend.
    pub(super) trust: Trust,
    /// What its certificate must be for.
    pub(super) names: Names,
    /// Our certificate, if it asks for one.
    pub(super) client: Option<Arc<Certificate>>,
    /// What is spoken inside.
    pub(super) protocol: Application,
}

/// What a certificate must be for.
#[derive(Clone, Debug)]
pub(super) enum Names {
    /// The name that was asked for.
    Asked,
    /// One of these (`subjectAltNames`); the name that was asked for is none of them unless it is listed.
    Any(Box<[Name]>),
}

/// One name of a certificate.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// A DNS name.
    Dns(Arc<str>),
    /// A URI (SPIFFE).
    Uri(Arc<str>),
}

/// The settings in use: each content once.
#[derive(Default)]
pub(super) struct Made {
    provider: Option<Arc<CryptoProvider>>,
    all: HashMap<(u64, Arc<str>), Arc<BackendTls>>,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Made({})", self.all.len())
    }
}

impl Made {
    /// The settings that these amount to.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn make(&mut self, ask: &Ask) -> Result<Arc<BackendTls>, String> {
        let key = (fingerprint(ask), Arc::clone(&ask.source));
        if let Some(made) = self.all.get(&key) {
            return Ok(Arc::clone(made));
        }
        let new = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let provider = Arc::clone(self.provider.get_or_insert_with(new));
        let config = config(ask, provider).map_err(|error| error.to_string())?;
        ServerName::try_from(&*ask.server_name).map_err(|_| "not a DNS name".to_owned())?;
        let made = Arc::new(BackendTls {
            source: Arc::clone(&ask.source),
            server_name: Arc::clone(&ask.server_name),
            verification: match &ask.trust {
                Trust::In(roots) => Verification::Against(Arc::clone(&roots.name)),
                Trust::Everybody => Verification::Off,
            },
            fingerprint: key.0,
            settings: TlsSettings::new(Arc::new(config)),
        });
        self.all.insert(key, Arc::clone(&made));
        Ok(made)
    }

    /// Forgets what nobody holds any more.
    pub(super) fn tidy(&mut self) {
        self.all.retain(|_, made| Arc::strong_count(made) > 1);
    }
}

/// Neither 0 nor the largest, which stand for no TLS and for no connection.
fn fingerprint(ask: &Ask) -> u64 {
    let mut hash = digest::Context::new(&SHA256);
    let mut put = |bytes: &[u8]| {
        hash.update(&bytes.len().to_le_bytes());
        hash.update(bytes);
    };
    put(ask.server_name.as_bytes());
    put(&[u8::from(ask.sends_name), u8::from(ask.protocol == Application::Http2)]);
    match &ask.trust {
        Trust::In(roots) => put(&roots.digest),
        Trust::Everybody => put(b""),
    }
    if let Names::Any(names) = &ask.names {
        for name in names {
            match name {
                Name::Dns(name) => put(format!("dns {name}").as_bytes()),
                Name::Uri(uri) => put(format!("uri {uri}").as_bytes()),
            }
        }
    }
    if let Some(client) = &ask.client {
        put(&client.digest);
    }
    let digest = hash.finish();
    let first = digest.as_ref().first_chunk::<8>().map_or(1, |first| u64::from_le_bytes(*first));
    first.clamp(1, u64::MAX - 1)
}

fn config(ask: &Ask, provider: Arc<CryptoProvider>) -> Result<ClientConfig, Error> {
    let verifier = Verifier {
        provider: Arc::clone(&provider),
        trust: ask.trust.clone(),
        names: match &ask.names {
            Names::Asked => None,
            Names::Any(names) => Some(names.clone()),
        },
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let own = ask.client.as_ref().and_then(|client| client.key.get::<CertifiedKey>());
    let mut config = match own {
        Some(own) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&own))))
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = ask.sends_name;
    config.alpn_protocols = match ask.protocol {
        Application::Http1 => vec![b"http/1.1".to_vec()],
        Application::Http2 => vec![b"h2".to_vec()],
    };
    Ok(config)
}

/// Verifies a backend's certificate: its chain, its time, and its names.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
    names: Option<Box<[Name]>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.trust {
            Trust::In(roots) => &roots.store,
            Trust::Everybody => return Ok(ServerCertVerified::assertion()),
        };
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        match &self.names {
            None => verify_server_name(&parsed, server_name)?,
            Some(names) if names.iter().any(|name| is_for(leaf, &parsed, name)) => {}
            Some(_) => return Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_for(leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>, name: &Name) -> bool {
    match name {
        Name::Dns(name) => {
            ServerName::try_from(&**name).is_ok_and(|name| verify_server_name(parsed, &name).is_ok())
        }
        Name::Uri(uri) => X509Certificate::from_der(leaf).is_ok_and(|(_, certificate)| {
            let names = certificate.subject_alternative_name().ok().flatten();
            names
                .into_iter()
                .flat_map(|extension| &extension.value.general_names)
                .any(|name| matches!(name, GeneralName::URI(found) if *found == &**uri))
        }),
    }
}
