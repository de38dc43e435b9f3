//! A certificate authority of the test's own, Secrets with its certificates, and a TLS client that says why not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, RsaKeySize,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
    StreamOwned,
};

use super::PATIENCE;
use super::backend::{find, values};

/// Which key a certificate has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Ecdsa,
    Rsa,
}

/// A certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
pub struct Leaf {
    pub der: CertificateDer<'static>,
    pub chain: String,
    pub key: String,
}

impl Leaf {
    /// As a Secret of namespace `default`.
    pub fn secret(&self, name: &str) -> String {
        self.secret_in("default", name)
    }

    pub fn secret_in(&self, namespace: &str, name: &str) -> String {
        let block = |pem: &str| pem.lines().map(|line| format!("\n    {line}")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             stringData:\n  tls.crt: |{}\n  tls.key: |{}\n",
            block(&self.chain),
            block(&self.key)
        )
    }
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name would be told apart by their signatures only.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (root, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), root, pem }
    }

    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, Key::Ecdsa)
    }

    pub fn leaf_with(&self, names: &[&str], key: Key) -> Leaf {
        let key = match key {
            Key::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Key::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        let key = key.unwrap();
        let params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { der: certificate.der().clone(), chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// One whose time is over.
    pub fn expired(&self, names: &[&str]) -> Leaf {
        self.made(params(names), |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    /// One whose time has not come.
    pub fn future(&self, names: &[&str]) -> Leaf {
        self.made(params(names), |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1))
    }

    /// One that is for a URI and no name.
    pub fn with_uri(&self, uri: &str) -> Leaf {
        self.made(params(&[]), |params| {
            params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        })
    }

    /// One that vouches for itself.
    pub fn self_signed(names: &[&str]) -> Leaf {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = params(names);
        params.distinguished_name.push(DnType::CommonName, "myself");
        let certificate = params.self_signed(&key).unwrap();
        Leaf { der: certificate.der().clone(), chain: certificate.pem(), key: key.serialize_pem() }
    }

    fn made(&self, mut params: CertificateParams, edit: impl FnOnce(&mut CertificateParams)) -> Leaf {
        edit(&mut params);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { der: certificate.der().clone(), chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// Its root as `ca.crt` of a ConfigMap of namespace `default`.
    pub fn config_map(&self, name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |{}\n",
            self.block()
        )
    }

    /// The same of a Secret.
    pub fn secret(&self, name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n  ca.crt: |{}\n",
            self.block()
        )
    }

    fn block(&self) -> String {
        self.pem.lines().map(|line| format!("\n    {line}")).collect()
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What a client that trusts this authority, and nobody else, is made with.
    pub fn trust(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        builder.unwrap().with_root_certificates(roots).with_no_client_auth()
    }

    /// A client that verifies nothing and takes only RSA signatures.
    pub fn rsa_only() -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.unwrap().dangerous().with_custom_certificate_verifier(Arc::new(RsaOnly));
        builder.with_no_client_auth()
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// Chain and key as a server signs with.
pub fn certified(leaf: &Leaf) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(vec![leaf.der.clone()], key))
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[derive(Debug)]
struct RsaOnly;

impl ServerCertVerifier for RsaOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256]
    }
}

/// A client's TLS connection, its handshake done.
pub struct Secure {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    pending: Vec<u8>,
}

/// Connects to `addr` and asks for `name`.
///
/// # Errors
/// Why there was no handshake: an alert as `rustls` prints it, or an I/O error.
pub fn connect(addr: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Result<Secure, String> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).map_err(|error| error.to_string())?;
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).map_err(|error| error.to_string())?;
    }
    Ok(Secure { stream: StreamOwned::new(tls, stream), pending: Vec::new() })
}

impl Secure {
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self.stream.flush().unwrap();
        self
    }

    pub fn get(&mut self, host: &str, path: &str) -> (u16, String, Vec<u8>) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.response().unwrap()
    }

    /// One response with a Content-Length: status, head, body.
    ///
    /// # Errors
    /// How the connection ended before it was complete.
    pub fn response(&mut self) -> Result<(u16, String, Vec<u8>), std::io::Error> {
        let end = loop {
            match find(&self.pending, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more()?,
            }
        };
        let head = String::from_utf8(self.pending.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = values(&head, "content-length").first().map_or(0, |length| length.parse().unwrap());
        while self.pending.len() < length {
            self.more()?;
        }
        Ok((status, head, self.pending.drain(..length).collect()))
    }

    fn more(&mut self) -> std::io::Result<()> {
        let mut buf = [0; 32 * 1024];
        let n = self.stream.read(&mut buf)?;
        if n == 0 {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        self.pending.extend_from_slice(&buf[..n]);
        Ok(())
    }

    /// Waits for the end: `true` when a close_notify came before it.
    pub fn ends_cleanly(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0))
    }
}
