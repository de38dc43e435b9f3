//! What is spoken to the endpoints of a backend, and through what.
//!
//! Plain data. What the TLS library connects with is made once, by the controller, and is opaque here: this crate does no
//! cryptography.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// How the endpoints of a backend are spoken to. Default: HTTP/1.1 in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// What is spoken.
    pub protocol: Application,
    /// Through what.
    pub security: Security,
}

/// What is spoken to a backend of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Application {
    /// HTTP/1.1, WebSocket included.
    #[default]
    Http1,
    /// HTTP/2: with prior knowledge in clear (RFC 9113 §3.3), by ALPN `h2` over TLS (§3.2).
    Http2,
}

/// What protects the connections to a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Nothing.
    #[default]
    Clear,
    /// TLS. A handshake that fails is a failure of the endpoint; nothing is ever sent in clear instead.
    Tls(Arc<BackendTls>),
    /// TLS is asked for with settings that cannot be used (a CA that is not there): no connection is made. Why.
    Closed(Arc<str>),
}

/// How a backend's endpoints are connected to over TLS. Equal when a connection that was made with one is as good as one
/// that was made with the other.
#[derive(Clone)]
pub struct BackendTls {
    /// What asks for it: `BackendTLSPolicy default/web`, `Ingress default/web`.
    pub source: Arc<str>,
    /// The name that is asked for (SNI) and, unless names are listed, the one that the certificate must be for.
    pub server_name: Arc<str>,
    /// Is the certificate verified?
    pub verification: Verification,
    /// Tells these settings from all others; never 0, which stands for no TLS at all.
    pub fingerprint: u64,
    /// What the data plane connects with.
    pub settings: TlsSettings,
}

/// Is the certificate of an endpoint verified?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Against these authorities: `ConfigMap default/ca`, `System`.
    Against(Arc<str>),
    /// Not at all: whoever can answer at the endpoint's address is believed. Only where an annotation of ingress-nginx says
    /// so, or leaves it at that product's default.
    Off,
}

/// What the TLS library connects with, made by the controller. Nothing is known of it here, and it prints nothing.
#[derive(Clone)]
pub struct TlsSettings(Arc<dyn Any + Send + Sync>);

impl TlsSettings {
    /// Wraps what the TLS library connects with.
    #[must_use]
    pub fn new<K: Any + Send + Sync>(settings: Arc<K>) -> Self {
        Self(settings)
    }

    /// The settings, if they are of the type that the caller connects with.
    #[must_use]
    pub fn get<K: Any + Send + Sync>(&self) -> Option<Arc<K>> {
        Arc::clone(&self.0).downcast().ok()
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSettings")
    }
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendTls")
            .field("source", &self.source)
            .field("server_name", &self.server_name)
            .field("verification", &self.verification)
            .finish_non_exhaustive()
    }
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.source == other.source
    }
}

impl Eq for BackendTls {}

impl Transport {
    /// Tells connections that were made with these settings from those that were not. 0 = in clear.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        match &self.security {
            Security::Clear => 0,
            Security::Tls(tls) => tls.fingerprint,
            // No connection has it.
            Security::Closed(_) => u64::MAX,
        }
    }
}
