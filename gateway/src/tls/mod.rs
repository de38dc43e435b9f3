//! TLS over rustls. Towards clients: certificates by server name, tickets, records in pooled buffers.
//!
//! [`accept`] runs a handshake on a connection, whose [`Stream`] is the same to everything above from then on:
//! [`session`] turns records into plaintext and back. Certificates come with the table (`routing::model::ListenerTls`),
//! their keys parsed by the controller: a worker only signs. A handshake keeps the certificates that it began with; a new
//! one takes what the newest table has. [`tickets`] holds the keys for resumption.
//!
//! Towards backends: [`connect`] runs the handshake, with settings that come with the table, too
//! (`routing::model::BackendTls`).
//!
//! Versions 1.2 and 1.3; no 0-RTT (a replay would be executed twice), no renegotiation (the library has none), no
//! session cache on our side. ALPN offers [`ALPN`]; what was agreed is told apart by [`Facts::alpn`].

pub mod accept;
pub mod carrier;
pub mod client;
pub mod connect;
pub mod session;
pub mod stream;
pub mod tickets;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use routing::id::ListenerId;
use routing::model::{Application, Certificate, CertificateSet, Terms, TlsVersion};
use routing::time::MonoTime;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ResolvesServerCertUsingSni, ServerConfig,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ProtocolVersion, SupportedCipherSuite};

pub use self::stream::{Origin, Stream};
use self::tickets::{Epoch, Keyring, Now};
use crate::observe::stats::WorkerStats;

/// The protocols that are offered, the preferred one first; the first only where `http2.tls` says so.
pub const ALPN: &[&[u8]] = &[HTTP2, HTTP1];
/// HTTP/2 (RFC 9113 §3.1).
const HTTP2: &[u8] = b"h2";
/// RFC 7301 §6.
const HTTP1: &[u8] = b"http/1.1";

/// What a handshake agreed on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The listener that the server name selected.
    pub listener: ListenerId,
    /// The server name, in lower case; empty when the client sent none.
    pub server_name: Box<str>,
    /// What the client has shown, where its name asks for a certificate.
    pub shown: Option<Arc<client::Shown>>,
    version: Option<ProtocolVersion>,
    suite: Option<SupportedCipherSuite>,
    /// What is spoken inside.
    pub alpn: Alpn,
}

/// What is said of the protocol inside, when a client asks (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// [`ALPN`], or what the name's terms say; a client that speaks none of it is refused.
    Http,
    /// Nothing: what is inside is not ours.
    Nothing,
}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1, by agreement or because the client named nothing.
    Http1,
    /// HTTP/2, by agreement.
    Http2,
}

impl Alpn {
    fn of(name: Option<&[u8]>) -> Self {
        if name == Some(HTTP2) { Self::Http2 } else { Self::Http1 }
    }
}

impl Facts {
    /// `TLSv1.3`, for the access log.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.version.and_then(|version| version.as_str()).unwrap_or("unknown").trim_start_matches("_")
    }

    /// `TLS13_AES_256_GCM_SHA384`, for the access log.
    #[must_use]
    pub fn cipher(&self) -> &'static str {
        self.suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown")
    }
}

/// How a handshake ended: the label `result` of `ringway_tls_handshakes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ended {
    /// In full, with a signature.
    Full,
    /// By a ticket.
    Resumed,
    /// The client left.
    ClientGone,
    /// It took longer than `timeouts.tls_handshake`.
    Timeout,
    /// `limits.handshakes_max` were in flight.
    Limit,
    /// No certificate for the server name: alert unrecognized_name.
    UnknownName,
    /// Nothing in common in ALPN: alert no_application_protocol.
    NoProtocol,
    /// Something else that is wrong with what the client sent, or that it says is wrong with us.
    Refused,
}

impl Ended {
    /// All of them with the label's value, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Full, "full"),
        (Self::Resumed, "resumed"),
        (Self::ClientGone, "client_gone"),
        (Self::Timeout, "timeout"),
        (Self::Limit, "limit"),
        (Self::UnknownName, "unknown_name"),
        (Self::NoProtocol, "no_protocol"),
        (Self::Refused, "refused"),
    ];

    /// Is there a connection now?
    #[must_use]
    pub fn is_established(self) -> bool {
        match self {
            Self::Full | Self::Resumed => true,
            Self::ClientGone
            | Self::Timeout
            | Self::Limit
            | Self::UnknownName
            | Self::NoProtocol
            | Self::Refused => false,
        }
    }
}

/// What one worker needs to accept TLS.
pub struct Terminator {
    provider: Arc<CryptoProvider>,
    /// What handshakes have in common in an epoch, with HTTP/2 offered or not.
    base: RefCell<Option<(Option<Epoch>, bool, ServerConfig)>>,
    in_flight: Cell<u32>,
}

impl Default for Terminator {
    fn default() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            base: RefCell::default(),
            in_flight: Cell::new(0),
        }
    }
}

impl Terminator {
    /// The settings for one handshake with one of these certificates.
    ///
    /// # Errors
    /// Never with the library that we build with: it has the versions that we ask for.
    fn config(
        &self,
        set: &Arc<CertificateSet>,
        offer: Offer,
        ring: &Keyring,
        now: MonoTime,
        http2: bool,
        stats: &Arc<WorkerStats>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut base = self.base.borrow_mut();
        let epoch = ring.epoch(Now { monotonic: now, wall: UnixTime::now().as_secs() });
        if base.as_ref().is_none_or(|(before, offered, _)| *before != Some(epoch) || *offered != http2) {
            let (made_of, fresh) = self.fresh(ring, epoch, http2)?;
            *base = Some((made_of, http2, fresh));
        }
        let Some((_, _, base)) = &*base else { return Err(rustls::Error::EncryptError) };
        // A copy holds references only; beside a signature its price does not show.
        let mut config = base.clone();
        config.cert_resolver = Arc::new(Chosen { set: Arc::clone(set), stats: Arc::clone(stats) });
        match (offer, &set.terms) {
            (Offer::Http, Some(terms)) if !terms.alpn.is_empty() => {
                config.alpn_protocols =
                    terms.alpn.iter().map(|protocol| wire_name(*protocol).to_vec()).collect();
            }
            (Offer::Http, Some(_) | None) => {}
            (Offer::Nothing, _) => config.alpn_protocols = Vec::new(),
        }
        match &set.terms {
            Some(terms) if restricts(terms) => Ok(Arc::new(self.under(terms, &config)?)),
            Some(_) | None => Ok(Arc::new(config)),
        }
    }

    /// The same under a name's own terms.
    fn under(&self, terms: &Terms, config: &ServerConfig) -> Result<ServerConfig, rustls::Error> {
        let mut provider = CryptoProvider::clone(&self.provider);
        if !terms.ciphers.is_empty() {
            let known = |number: &u16| {
                let suites = self.provider.cipher_suites.iter();
                suites.copied().find(|suite| u16::from(suite.suite()) == *number)
            };
            let later = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_some()).copied();
            provider.cipher_suites = later.chain(terms.ciphers.iter().filter_map(known)).collect();
        }
        let has_order = !terms.ciphers.is_empty();
        let spoken: Vec<_> = [(TlsVersion::V13, &TLS13), (TlsVersion::V12, &TLS12)]
            .into_iter()
            .filter(|(version, _)| *version >= terms.min && terms.max.is_none_or(|max| *version <= max))
            .map(|(_, version)| version)
            .collect();
        let provider = Arc::new(provider);
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&spoken)?;
        let builder = match &terms.client {
            Some(auth) => builder.with_client_cert_verifier(Arc::new(client::Asks::new(auth, &provider))),
            None => builder.with_no_client_auth(),
        };
        let mut own = builder.with_cert_resolver(Arc::clone(&config.cert_resolver));
        own.session_storage = Arc::new(NoServerSessionStorage {});
        own.send_tls13_tickets = 0;
        // Who names suites means their order. Else the client's counts: all are strong, and it knows its own hardware.
        own.ignore_client_order = has_order;
        if terms.client.is_none() {
            // The library resumes only what has the version and the suite that are agreed on here.
            own.ticketer = Arc::clone(&config.ticketer);
            own.send_tls13_tickets = config.send_tls13_tickets;
        }
        own.alpn_protocols.clone_from(&config.alpn_protocols);
        Ok(own)
    }

    /// What a client has shown, under these terms.
    fn shown(
        &self,
        terms: &Terms,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Option<Arc<client::Shown>> {
        let auth = terms.client.as_ref()?;
        Some(Arc::new(client::judge(auth, certificates, UnixTime::now(), &self.provider)))
    }

    /// With the period that its tickets are of; without tickets it is of none, and made anew for the next handshake.
    fn fresh(
        &self,
        ring: &Keyring,
        epoch: Epoch,
        http2: bool,
    ) -> Result<(Option<Epoch>, ServerConfig), rustls::Error> {
        let random = |bytes: &mut [u8]| {
            // The library's own source; without one there is no TLS at all.
            let _ = self.provider.secure_random.fill(bytes);
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 1;
        config.alpn_protocols =
            ALPN.iter().filter(|name| http2 || **name != HTTP2).map(|name| name.to_vec()).collect();
        let tickets = ring.tickets(epoch, random);
        let made_of = tickets.map(|(epoch, tickets)| {
            config.ticketer = Arc::new(tickets);
            epoch
        });
        Ok((made_of, config))
    }
}

/// Do these terms ask for more than a choice of protocols?
fn restricts(terms: &Terms) -> bool {
    terms.min != TlsVersion::default()
        || terms.max.is_some()
        || !terms.ciphers.is_empty()
        || terms.client.is_some()
}

/// As ALPN has it.
fn wire_name(protocol: Application) -> &'static [u8] {
    match protocol {
        Application::Http1 => HTTP1,
        Application::Http2 => HTTP2,
    }
}

/// Of the certificates of one name, the first that the client can verify.
struct Chosen {
    set: Arc<CertificateSet>,
    stats: Arc<WorkerStats>,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set.fmt(f)
    }
}

impl Chosen {
    /// With its OCSP response while that holds.
    fn key(&self, certificate: &Certificate, plain: Arc<CertifiedKey>) -> Arc<CertifiedKey> {
        let Some(staple) = &certificate.staple else { return plain };
        if UnixTime::now().as_secs() < u64::try_from(staple.not_after).unwrap_or(0) {
            return staple.key.get().unwrap_or(plain);
        }
        self.stats.staples_expired_total.inc();
        plain
    }
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.set.certificates.iter().find_map(|certificate| {
            let key = certificate.key.get::<CertifiedKey>()?;
            key.key.choose_scheme(hello.signature_schemes())?;
            Some(self.key(certificate, key))
        })
    }
}
