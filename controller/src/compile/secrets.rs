//! TLS Secrets to certificates, and certificates to listeners by server name.
//!
//! Only Secrets that a Gateway's listener or an Ingress refers to are read; each is parsed once, here, whatever refers to
//! it, and its key never leaves this form again. A Secret that becomes unusable is reported, and its last good
//! certificate stays in use until the Secret is deleted; one that never was usable costs itself only.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use routing::id::ListenerId;
use routing::model::{
    Certificate, CertificateSet, HostPattern, ListenerSpec, ListenerTls, SigningKey, Staple, Terms,
    WildcardLabels,
};
use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock;
use crate::compile::context::{Context, SecretUse, Wanted};
use crate::compile::ocsp;
use crate::compile::route::RouteOutput;
use crate::dump;
use crate::object::{FleetSecret, Kind, Object, ObjectId, Source};
use crate::text;
use crate::verdict::{Note, Notes, Severity};
use crate::world::World;

/// Certificates of one chain.
const CHAIN_MAX: usize = 16;
/// A certificate that expires within this time is remarked on, in seconds.
const EXPIRES_SOON: i64 = 14 * 24 * 3600;
const CERTIFICATE: &str = "data[tls.crt]";
const KEY: &str = "data[tls.key]";

/// A Secret's namespace and name.
type SecretName = (Arc<str>, Arc<str>);

/// Every certificate in use, and what was said about Secrets.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// Must [`Secrets::compile`] look again?
    pub(super) stale: bool,
    loaded: HashMap<SecretName, Loaded>,
    /// The sets in use, by the certificates in them: each content once.
    sets: HashMap<Vec<usize>, Arc<CertificateSet>>,
    /// What each listener was last given.
    given: BTreeMap<ListenerId, Arc<ListenerTls>>,
    notes: HashMap<ObjectId, Notes>,
    notes_changed: bool,
    /// When time alone changes what is said of one of them, seconds since 1970.
    due: Option<i64>,
}

/// What a Secret was found to hold.
#[derive(Debug)]
struct Loaded {
    object: Arc<Object>,
    certificate: Option<Arc<Certificate>>,
    notes: Notes,
    /// When something else is to be said of it, seconds since 1970.
    due: Option<i64>,
}

/// The certificates of each name of one listener, while they are gathered.
#[derive(Default)]
struct Names(BTreeMap<HostPattern, Claim>);

struct Claim {
    /// Whose word counts for this name.
    namespace: Arc<str>,
    by: ObjectId,
    certificates: Vec<Arc<Certificate>>,
    /// What handshakes with it are made under.
    terms: Option<Arc<Terms>>,
}

impl Secrets {
    /// Every listener of the context with the certificates that it has now.
    pub(super) fn compile(
        &mut self,
        world: &World,
        context: &Context,
        routes: &BTreeMap<ObjectId, RouteOutput>,
    ) -> BTreeMap<ListenerId, Arc<ListenerSpec>> {
        let before = std::mem::take(&mut self.notes);
        let mut older = std::mem::take(&mut self.loaded);
        let ingresses = self.of_ingresses(world, routes, &mut older);
        let mut listeners = context.listeners.clone();
        let mut given = BTreeMap::new();
        for (id, wanted) in &context.secure {
            let tls = match wanted {
                Wanted::Ingress => self.by_name(ingresses.get(id)),
                Wanted::Gateway(secrets, terms) => {
                    self.of_gateway(world, secrets, terms.as_ref(), &mut older)
                }
            };
            let tls = match self.given.get(id) {
                // The same pointer: nothing to tell the workers.
                Some(before) if **before == tls => Arc::clone(before),
                Some(_) | None => Arc::new(tls),
            };
            if let Some(spec) = listeners.get_mut(id) {
                *spec = Arc::new(ListenerSpec { tls: Some(Arc::clone(&tls)), ..ListenerSpec::clone(spec) });
            }
            given.insert(*id, tls);
        }
        self.given = given;
        self.sets.retain(|_, set| Arc::strong_count(set) > 1);
        for loaded in self.loaded.values().filter(|loaded| !loaded.notes.is_empty()) {
            self.notes.insert(loaded.object.id.clone(), loaded.notes.clone());
        }
        self.due = self.loaded.values().filter_map(|loaded| loaded.due).min();
        self.notes_changed |= self.notes != before;
        listeners
    }

    /// Has something expired, or come near to it, that nothing is said of yet?
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= clock::wall_seconds())
    }

    /// What is to be said of Secrets and of those that refer to them.
    pub(super) fn notes(&self) -> &HashMap<ObjectId, Notes> {
        &self.notes
    }

    /// Has [`Secrets::notes`] changed since it was last asked?
    pub(super) fn take_notes_changed(&mut self) -> bool {
        std::mem::take(&mut self.notes_changed)
    }

    /// The names of each listener that Ingresses are served on: the older Ingress is asked first, and others of its
    /// namespace may add certificates to a name of its.
    fn of_ingresses(
        &mut self,
        world: &World,
        routes: &BTreeMap<ObjectId, RouteOutput>,
        older: &mut HashMap<SecretName, Loaded>,
    ) -> BTreeMap<ListenerId, Names> {
        let asks = |route: &RouteOutput| !route.tls.is_empty() || route.terms.is_some();
        let mut with_tls: Vec<_> = routes.iter().filter(|(_, route)| asks(route)).collect();
        with_tls.sort_by_key(|(id, route)| (route.created, *id));
        let mut listeners: BTreeMap<ListenerId, Names> = BTreeMap::new();
        for (_, route) in &with_tls {
            for wanted in &route.tls {
                let Some(certificate) = self.certificate(world, wanted, older) else { continue };
                self.compare_names(wanted, &certificate);
                let mut refused = BTreeMap::new();
                for listener in &route.secure {
                    listeners.entry(*listener).or_default().claim(wanted, &certificate, &mut refused);
                }
                for (host, winner) in refused {
                    let reason = format!("{winner} of another namespace has this host and comes first");
                    self.remark(&wanted.by, Severity::RefusedPart, &wanted.field, &host, reason);
                }
            }
        }
        for (id, route) in &with_tls {
            let Some((hosts, terms)) = &route.terms else { continue };
            for host in hosts {
                let mut refused = None;
                for listener in &route.secure {
                    let names = listeners.entry(*listener).or_default();
                    refused = refused.or(names.bind(host, terms, &id.namespace).err());
                }
                if let Some(reason) = refused {
                    let field = "metadata.annotations";
                    self.remark(id, Severity::RefusedPart, field, &name_text(host), reason.to_owned());
                }
            }
        }
        listeners
    }

    fn by_name(&mut self, names: Option<&Names>) -> ListenerTls {
        let mut tls = ListenerTls::default();
        for (name, claim) in names.into_iter().flat_map(|names| &names.0) {
            let set = self.set(&claim.certificates, claim.terms.as_ref());
            tls.add(name, &set);
        }
        tls
    }

    /// A Gateway's listener: each certificate for the names that it is for, all of them for every other name of the
    /// listener. Which names those are is the listener's hostname; without one, it is all.
    fn of_gateway(
        &mut self,
        world: &World,
        secrets: &Arc<[SecretUse]>,
        terms: Option<&Arc<Terms>>,
        older: &mut HashMap<SecretName, Loaded>,
    ) -> ListenerTls {
        let mut all = Vec::new();
        for wanted in secrets.iter() {
            if let Some(certificate) = self.certificate(world, wanted, older) {
                self.compare_names(wanted, &certificate);
                all.push(certificate);
            }
        }
        let mut names: BTreeMap<&HostPattern, Vec<Arc<Certificate>>> = BTreeMap::new();
        for certificate in &all {
            for name in &certificate.names {
                names.entry(name).or_default().push(Arc::clone(certificate));
            }
        }
        let mut tls = ListenerTls::default();
        for (name, certificates) in names {
            let set = self.set(&certificates, terms);
            tls.add(name, &set);
        }
        if !all.is_empty() {
            let set = self.set(&all, terms);
            tls.add(&HostPattern::Any, &set);
        }
        tls
    }

    fn set(&mut self, certificates: &[Arc<Certificate>], terms: Option<&Arc<Terms>>) -> Arc<CertificateSet> {
        let mut ordered: Vec<&Arc<Certificate>> = Vec::new();
        for certificate in certificates {
            if !ordered.iter().any(|other| Arc::ptr_eq(other, certificate)) {
                ordered.push(certificate);
            }
        }
        // The cheaper to sign with first.
        ordered.sort_by_key(|certificate| is_rsa(certificate));
        // What a set holds on to keeps its address.
        let addresses = ordered.iter().map(|certificate| Arc::as_ptr(certificate).addr());
        let key = addresses.chain(terms.map(|terms| Arc::as_ptr(terms).addr())).collect();
        let set = self.sets.entry(key).or_insert_with(|| {
            let certificates = ordered.into_iter().cloned().collect();
            Arc::new(CertificateSet { certificates, terms: terms.cloned() })
        });
        Arc::clone(set)
    }

    /// What the Secret that is referred to holds; parsed when it is not known yet or has changed.
    fn certificate(
        &mut self,
        world: &World,
        wanted: &SecretUse,
        older: &mut HashMap<SecretName, Loaded>,
    ) -> Option<Arc<Certificate>> {
        let (namespace, name) = &wanted.secret;
        if !self.loaded.contains_key(&wanted.secret) {
            let id = ObjectId {
                source: Source::Fleet,
                kind: Kind::Secret,
                namespace: Arc::clone(namespace),
                name: Arc::clone(name),
            };
            let before = older.remove(&wanted.secret);
            let Some(object) = world.get(&id) else {
                let shown = format!("{namespace}/{name}");
                let reason = "no such Secret on the Fleet".to_owned();
                self.remark(&wanted.by, Severity::RefusedPart, &wanted.field, &shown, reason);
                return None;
            };
            let loaded = Loaded::refresh(object, before);
            self.loaded.insert(wanted.secret.clone(), loaded);
        }
        let certificate = self.loaded.get(&wanted.secret).and_then(|loaded| loaded.certificate.clone());
        if certificate.is_none() {
            let shown = format!("{namespace}/{name}");
            let reason = "InvalidCertificateRef: the Secret holds no usable certificate".to_owned();
            self.remark(&wanted.by, Severity::RefusedPart, &wanted.field, &shown, reason);
        }
        certificate
    }

    /// Remarks on hosts that the certificate is not for: clients will refuse it there.
    fn compare_names(&mut self, wanted: &SecretUse, certificate: &Certificate) {
        let covered = |host: &HostPattern| certificate.names.iter().any(|name| covers(name, host));
        for host in wanted.hosts.iter().filter(|host| **host != HostPattern::Any && !covered(host)) {
            let names: Vec<String> = certificate.names.iter().take(8).map(name_text).collect();
            let reason = format!(
                "Secret {} is not for this host, clients will refuse it; it is for: {}",
                certificate.secret,
                if names.is_empty() { "no DNS name".to_owned() } else { names.join(", ") }
            );
            self.remark(&wanted.by, Severity::Info, &wanted.field, &name_text(host), reason);
        }
    }

    fn remark(&mut self, id: &ObjectId, severity: Severity, field: &str, value: &str, reason: String) {
        self.notes.entry(id.clone()).or_default().push(Note::new(severity, field, value, reason));
    }
}

impl Names {
    /// Puts a host that has a certificate under terms; those of an older Ingress come first, each kind by itself.
    fn bind(
        &mut self,
        host: &HostPattern,
        terms: &Arc<Terms>,
        namespace: &Arc<str>,
    ) -> Result<(), &'static str> {
        if !self.0.contains_key(host) {
            // A wildcard's certificate, under terms of the host's own.
            let found = self.0.iter().find(|(name, _)| covers(name, host)).map(|(_, claim)| claim);
            let claim = found
                .ok_or("no certificate for this host: it is not served over TLS, its terms mean nothing")?;
            let (by, certificates) = (claim.by.clone(), claim.certificates.clone());
            let claim = Claim { namespace: claim.namespace.clone(), by, certificates, terms: None };
            self.0.insert(host.clone(), claim);
        }
        let Some(claim) = self.0.get_mut(host) else { return Ok(()) };
        if claim.namespace != *namespace {
            return Err(
                "the host's certificate is another namespace's, whose Ingresses decide on handshakes",
            );
        }
        let Some(before) = claim.terms.take() else {
            claim.terms = Some(Arc::clone(terms));
            return Ok(());
        };
        let differs = before.client.is_some() && terms.client.is_some() && before.client != terms.client;
        let joined = Terms {
            min: before.min.max(terms.min),
            max: before.max.or(terms.max),
            ciphers: if before.ciphers.is_empty() { terms.ciphers.clone() } else { before.ciphers.clone() },
            alpn: if before.alpn.is_empty() { terms.alpn.clone() } else { before.alpn.clone() },
            client: before.client.clone().or_else(|| terms.client.clone()),
        };
        claim.terms = Some(if joined == *before { before } else { Arc::new(joined) });
        if differs {
            return Err(
                "an older Ingress asks clients of this host for other certificates: requests get 421",
            );
        }
        Ok(())
    }

    /// Adds a certificate to the names that it is wanted for; those that belong to another namespace go to `refused`.
    fn claim(
        &mut self,
        wanted: &SecretUse,
        certificate: &Arc<Certificate>,
        refused: &mut BTreeMap<String, ObjectId>,
    ) {
        for host in &wanted.hosts {
            let claim = self.0.entry(host.clone()).or_insert_with(|| Claim {
                namespace: Arc::clone(&wanted.by.namespace),
                by: wanted.by.clone(),
                certificates: Vec::new(),
                terms: None,
            });
            if claim.namespace == wanted.by.namespace {
                claim.certificates.push(Arc::clone(certificate));
            } else {
                refused.insert(name_text(host), claim.by.clone());
            }
        }
    }
}

impl Loaded {
    fn refresh(object: &Arc<Object>, before: Option<Self>) -> Self {
        let now = clock::wall_seconds();
        let before = match before {
            Some(same) if Arc::ptr_eq(&same.object, object) && same.due.is_none_or(|due| due > now) => {
                return same;
            }
            other => other.and_then(|before| before.certificate),
        };
        let mut notes = Notes::default();
        let name = Arc::from(format!("{}/{}", object.id.namespace, object.id.name));
        let contents = object.spec.secret().map(|secret| parse(secret, &name, now, &mut notes));
        let certificate = match (contents, before) {
            (Some(Ok(certificate)), Some(before)) if before.digest == certificate.digest => Some(before),
            (Some(Ok(certificate)), _) => Some(Arc::new(certificate)),
            (None, before) => before,
            (Some(Err(note)), None) => {
                notes.push(Note { severity: Severity::Refused, ..note });
                None
            }
            (Some(Err(note)), Some(before)) => {
                let reason = format!("{}; the last good certificate stays in use", note.reason);
                notes.push(Note { severity: Severity::RefusedPart, reason, ..note });
                Some(before)
            }
        };
        let due = certificate.as_ref().and_then(|certificate| {
            let staple = certificate.staple.as_ref().map(|staple| staple.not_after);
            let not_after = certificate.not_after;
            let times = [Some(not_after - EXPIRES_SOON), Some(not_after), staple];
            times.into_iter().flatten().filter(|time| *time > now).min()
        });
        Self { object: Arc::clone(object), certificate, notes, due }
    }
}

fn wrong(field: &str, reason: impl Into<String>) -> Note {
    // Never the value: it may be a key.
    Note::new(Severity::Refused, field, "", reason)
}

/// The certificate of a Secret; what is odd about it goes to `notes`.
pub(super) fn parse(
    secret: &FleetSecret,
    name: &Arc<str>,
    now: i64,
    notes: &mut Notes,
) -> Result<Certificate, Note> {
    if secret.certificate.is_empty() {
        return Err(wrong(CERTIFICATE, "missing: a TLS Secret has tls.crt and tls.key"));
    }
    if secret.key.is_empty() {
        return Err(wrong(KEY, "missing: a TLS Secret has tls.crt and tls.key"));
    }
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&secret.certificate)
        .take(CHAIN_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(CERTIFICATE, format!("not PEM: {error}")))?;
    if chain.is_empty() || chain.len() > CHAIN_MAX {
        let reason = format!("{} certificates: allowed: 1 to {CHAIN_MAX}, the leaf first", chain.len());
        return Err(wrong(CERTIFICATE, reason));
    }
    let key = PrivateKeyDer::from_pem_slice(&secret.key)
        .map_err(|error| wrong(KEY, format!("no private key in PEM: {error}")))?;
    let key = any_supported_type(&key).map_err(|_| {
        wrong(KEY, "not supported: allowed: RSA of 2048 to 8192 bits, ECDSA P-256, P-384, P-521, Ed25519")
    })?;
    let (_, leaf) = X509Certificate::from_der(&chain[0])
        .map_err(|error| wrong(CERTIFICATE, format!("not a certificate: {error}")))?;
    let (names, not_after) = read_leaf(&leaf, now, notes);
    let staple = secret.others.get(ocsp::NAME).and_then(|der| {
        let good = staple_of(der, &leaf, now, notes)?;
        Some((der, good.next_update))
    });
    let mut hash = digest::Context::new(&SHA256);
    chain.iter().for_each(|certificate| hash.update(certificate));
    if let Some((der, _)) = staple {
        hash.update(der);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| wrong(KEY, "does not belong to the certificate in tls.crt"))?;
    let staple = staple.map(|(der, not_after)| {
        let with = CertifiedKey { ocsp: Some(der.clone()), ..certified.clone() };
        Staple { key: SigningKey::new(Arc::new(with)), not_after }
    });
    let key = SigningKey::new(Arc::new(certified));
    Ok(Certificate { secret: Arc::clone(name), digest, names, not_after, key, staple })
}

/// What an OCSP response is worth. One whose time is over stays with the certificate, so that metrics name it; workers
/// leave it out.
fn staple_of(der: &[u8], leaf: &X509Certificate<'_>, now: i64, notes: &mut Notes) -> Option<ocsp::Good> {
    match ocsp::read(der, leaf, now) {
        Ok(good) => {
            if good.next_update <= now {
                let reason = "expired: the certificate is served without it";
                notes.refused_part(ocsp::FIELD, format!("nextUpdate {}", good.shown), reason);
            }
            Some(good)
        }
        Err(reason) => {
            let reason = format!("{reason}; the certificate is served without it");
            notes.refused_part(ocsp::FIELD, "", reason);
            None
        }
    }
}

/// The DNS names of a certificate and when it expires.
fn read_leaf(certificate: &X509Certificate<'_>, now: i64, notes: &mut Notes) -> (Box<[HostPattern]>, i64) {
    let mut names = Vec::new();
    let alternative = certificate.subject_alternative_name().ok().flatten();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) = name
            && let Ok(pattern) = text::host(&name.to_ascii_lowercase(), WildcardLabels::One)
        {
            names.push(pattern);
        }
    }
    let validity = certificate.validity();
    let not_after = validity.not_after.timestamp();
    if not_after <= now {
        let reason = "expired: still served, clients refuse it";
        notes.refused_part(CERTIFICATE, format!("notAfter {}", validity.not_after), reason);
    } else if not_after - now < EXPIRES_SOON {
        notes.info(CERTIFICATE, format!("notAfter {}", validity.not_after), "expires within 14 days");
    }
    if validity.not_before.timestamp() > now {
        notes.info(CERTIFICATE, format!("notBefore {}", validity.not_before), "not valid yet");
    }
    (names.into(), not_after)
}

fn is_rsa(certificate: &Certificate) -> bool {
    let key = certificate.key.get::<CertifiedKey>();
    key.is_some_and(|key| key.key.algorithm() == SignatureAlgorithm::RSA)
}

/// Is a certificate for `name` good for `host`?
fn covers(name: &HostPattern, host: &HostPattern) -> bool {
    match (name, host) {
        (HostPattern::Exact(name), HostPattern::Exact(host)) => name == host,
        (HostPattern::Wildcard { suffix, .. }, HostPattern::Exact(host)) => {
            host.split_once('.').is_some_and(|(_, rest)| *rest == **suffix)
        }
        (HostPattern::Wildcard { suffix, .. }, HostPattern::Wildcard { suffix: host, .. }) => suffix == host,
        (HostPattern::Exact(_), HostPattern::Wildcard { .. } | HostPattern::Any)
        | (HostPattern::Wildcard { .. }, HostPattern::Any)
        | (HostPattern::Any, _) => false,
    }
}

fn name_text(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Wildcard { suffix, .. } => format!("*.{suffix}"),
        HostPattern::Exact(_) | HostPattern::Any => dump::host(pattern),
    }
}
