//! Certificates by server name: what a TLS listener answers with.
//!
//! Immutable and shared by all workers. The private key is parsed once, by the controller, and is opaque here: this
//! crate does no cryptography, and no second copy of a key's bytes is kept anywhere.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::{Application, HostPattern};

/// One certificate chain with its key: what one `kubernetes.io/tls` Secret holds.
///
/// Equal when chain and key are.
#[derive(Clone)]
pub struct Certificate {
    /// `namespace/name` of its Secret.
    pub secret: Arc<str>,
    /// Tells its contents from every other's.
    pub digest: [u8; 32],
    /// The DNS names that it is for (SAN; a wildcard stands for one label).
    pub names: Box<[HostPattern]>,
    /// When it expires, seconds since 1970.
    pub not_after: i64,
    /// Chain and key in the form that the data plane signs with.
    pub key: SigningKey,
    /// The same with an OCSP response, where its Secret has one.
    pub staple: Option<Staple>,
}

/// A certificate together with an OCSP response for it (RFC 6066 §8).
#[derive(Clone, Debug)]
pub struct Staple {
    /// Chain, key and response. The chain is a second copy, the key is the same one.
    pub key: SigningKey,
    /// Until when the response holds (its nextUpdate), seconds since 1970; from then on it is left out.
    pub not_after: i64,
}

/// A parsed private key with its chain, made by the controller and used by the data plane. Nothing is known of it here,
/// and it prints nothing.
#[derive(Clone)]
pub struct SigningKey(Arc<dyn Any + Send + Sync>);

impl SigningKey {
    /// Wraps what the TLS library signs with.
    #[must_use]
    pub fn new<K: Any + Send + Sync>(key: Arc<K>) -> Self {
        Self(key)
    }

    /// The key, if it is of the type that the caller signs with.
    #[must_use]
    pub fn get<K: Any + Send + Sync>(&self) -> Option<Arc<K>> {
        Arc::clone(&self.0).downcast().ok()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("secret", &self.secret)
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.secret == other.secret
    }
}

impl Eq for Certificate {}

/// The certificates of one name, in order of preference: the first whose key the client can verify is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSet {
    /// At least one; ECDSA before RSA.
    pub certificates: Box<[Arc<Certificate>]>,
    /// What the name asks of handshakes, where it asks for anything.
    pub terms: Option<Arc<Terms>>,
}

/// What a name asks of handshakes. Sessions of clients that are asked for a certificate are not resumed: what was proven
/// once is proven each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The lowest version.
    pub min: TlsVersion,
    /// The highest version. Default: there is no higher one than 1.3.
    pub max: Option<TlsVersion>,
    /// Cipher suites of TLS 1.2 by their IANA numbers, the preferred one first; empty = all that are safe.
    pub ciphers: Box<[u16]>,
    /// The protocols that are offered in place of the node's own choice (ALPN), the preferred one first; empty = that.
    pub alpn: Box<[Application]>,
    /// Is the client asked for a certificate?
    pub client: Option<Arc<ClientAuth>>,
}

/// The versions that are spoken (RFC 8996 retires those before).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V12,
    /// RFC 8446.
    V13,
}

/// Whose certificates prove a client. Equal when the authorities are.
#[derive(Clone)]
pub struct ClientAuth {
    /// `namespace/name` of the Secret with the authorities.
    pub secret: Arc<str>,
    /// Tells authorities, revocations and depth from every other's.
    pub digest: [u8; 32],
    /// Authorities that may stand between a client's certificate and one of those that are trusted.
    pub depth: u8,
    /// The trusted authorities and what they have revoked, in the form that the data plane verifies with.
    pub authorities: Authorities,
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("secret", &self.secret).field("depth", &self.depth).finish()
    }
}

impl PartialEq for ClientAuth {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.secret == other.secret
    }
}

impl Eq for ClientAuth {}

/// Parsed authorities, made by the controller and used by the data plane. Nothing is known of them here.
#[derive(Clone)]
pub struct Authorities(Arc<dyn Any + Send + Sync>);

impl Authorities {
    /// Wraps what the TLS library verifies with.
    #[must_use]
    pub fn new<A: Any + Send + Sync>(authorities: Arc<A>) -> Self {
        Self(authorities)
    }

    /// Them, if they are of the type that the caller verifies with.
    #[must_use]
    pub fn get<A: Any + Send + Sync>(&self) -> Option<&A> {
        self.0.downcast_ref()
    }
}

/// The certificates of one TLS listener, by server name.
///
/// One entry however many workers and addresses share it; a listener of 10,000 names is replaced by one pointer.
#[derive(Clone, Debug, Default)]
pub struct ListenerTls {
    exact: HashMap<Box<str>, Arc<CertificateSet>, FixedState>,
    /// By suffix: one label may stand before it (RFC 6125 §6.4.3).
    wildcard: HashMap<Box<str>, Arc<CertificateSet>, FixedState>,
    default: Option<Arc<CertificateSet>>,
}

impl ListenerTls {
    /// Uses `set` for a name; of two for one name the first stays. `Any` is what is used for names that nothing else
    /// covers, and for clients that send no name.
    pub fn add(&mut self, name: &HostPattern, set: &Arc<CertificateSet>) {
        let place = match name {
            HostPattern::Exact(name) => self.exact.entry((**name).into()),
            HostPattern::Wildcard { suffix, .. } => self.wildcard.entry((**suffix).into()),
            HostPattern::Any => {
                self.default.get_or_insert_with(|| Arc::clone(set));
                return;
            }
        };
        place.or_insert_with(|| Arc::clone(set));
    }

    /// The certificates for a name that a client asked for, in lower case: exact, then wildcard, then the default if
    /// there is one.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<CertificateSet>> {
        let Some(name) = name else { return self.default.as_ref() };
        let by_suffix = || {
            let (label, suffix) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(suffix) }
        };
        self.exact.get(name).or_else(by_suffix).or(self.default.as_ref())
    }

    /// Is there no certificate at all? Then every handshake is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.default.is_none()
    }

    /// Every set with its name, in no order; the default's name is `Any`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, NameKind, &Arc<CertificateSet>)> {
        let exact = self.exact.iter().map(|(name, set)| (&**name, NameKind::Exact, set));
        let wildcard = self.wildcard.iter().map(|(name, set)| (&**name, NameKind::Wildcard, set));
        exact.chain(wildcard).chain(self.default.iter().map(|set| ("", NameKind::Default, set)))
    }
}

/// How a name of [`ListenerTls::iter`] is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameKind {
    /// Exactly this name.
    Exact,
    /// One label and this suffix.
    Wildcard,
    /// Every other name.
    Default,
}

impl PartialEq for ListenerTls {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<CertificateSet>, b: &Arc<CertificateSet>| Arc::ptr_eq(a, b) || a == b;
        let all = |a: &HashMap<Box<str>, Arc<CertificateSet>, FixedState>, b: &HashMap<_, _, _>| {
            a.len() == b.len() && a.iter().all(|(name, set)| b.get(name).is_some_and(|b| same(set, b)))
        };
        all(&self.exact, &other.exact)
            && all(&self.wildcard, &other.wildcard)
            && self.default == other.default
    }
}

impl Eq for ListenerTls {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WildcardLabels;

    fn set(secret: &str) -> Arc<CertificateSet> {
        let certificate = Certificate {
            secret: secret.into(),
            digest: [0; 32],
            names: Box::default(),
            not_after: 0,
            key: SigningKey::new(Arc::new(())),
            staple: None,
        };
        Arc::new(CertificateSet { certificates: Box::new([Arc::new(certificate)]), terms: None })
    }

    fn found<'a>(tls: &'a ListenerTls, name: Option<&str>) -> Option<&'a str> {
        tls.find(name).map(|set| &*set.certificates[0].secret)
    }

    #[test]
    fn exact_comes_before_wildcard_and_a_default_only_where_there_is_one() {
        let mut tls = ListenerTls::default();
        tls.add(&HostPattern::Exact("a.shop.example".into()), &set("exact"));
        let shop = HostPattern::Wildcard { suffix: "shop.example".into(), labels: WildcardLabels::One };
        tls.add(&shop, &set("wildcard"));
        tls.add(&shop, &set("late"));
        assert_eq!(found(&tls, Some("a.shop.example")), Some("exact"));
        assert_eq!(found(&tls, Some("b.shop.example")), Some("wildcard"));
        for unknown in [Some("x.b.shop.example"), Some("shop.example"), Some(".shop.example"), Some(""), None]
        {
            assert_eq!(found(&tls, unknown), None, "{unknown:?}");
        }
        tls.add(&HostPattern::Any, &set("default"));
        assert_eq!(found(&tls, Some("x.b.shop.example")), Some("default"));
        assert_eq!(found(&tls, None), Some("default"));
        assert_eq!(found(&tls, Some("b.shop.example")), Some("wildcard"));
    }
}
