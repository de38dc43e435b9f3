//! Who is trusted to vouch for a backend, and with what we vouch for ourselves: CA bundles of ConfigMaps and Secrets, the
//! system's bundle, client certificates. Each is parsed once for each content.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use routing::model::Certificate;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::clock;
use crate::compile::secrets;
use crate::object::{Kind, Object, ObjectId, Source};
use crate::verdict::Notes;
use crate::world::World;

/// Certificates of one CA bundle.
const BUNDLE_MAX: usize = 1_000;
/// Bytes of the system's bundle that are read.
const SYSTEM_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The key of a ConfigMap or Secret that holds a CA bundle (Gateway API: `ca.crt`).
const CA: &str = "ca.crt";
/// Where systems keep whom they trust; the first that exists is read. `SSL_CERT_FILE` comes before them all.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Trusted authorities.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    /// For people: `ConfigMap default/ca`, `System`.
    pub(super) name: Arc<str>,
    /// Tells them from all others.
    pub(super) digest: [u8; 32],
    /// For the TLS library.
    pub(super) store: Arc<RootCertStore>,
}

/// Whose word counts for a backend.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// That of these authorities.
    In(Roots),
    /// Nothing is verified.
    Everybody,
}

/// What was read of an object, or why it cannot be, with the object that it was read from.
type Read<T> = (Arc<Object>, Result<Arc<T>, String>);

/// What is known of authorities.
#[derive(Debug, Default)]
pub(super) struct Authorities {
    system: Option<Result<Roots, String>>,
    bundles: HashMap<ObjectId, Read<Bundle>>,
    certificates: HashMap<ObjectId, Read<Certificate>>,
}

#[derive(Debug)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// The system's bundle, read when it is first needed.
    pub(super) fn system(&mut self) -> Result<Roots, String> {
        self.system.get_or_insert_with(system).clone()
    }

    /// The CA bundles of these objects together.
    ///
    /// # Errors
    /// Which of them is wrong, and why: one that is not there must not leave the others to vouch alone, or everybody.
    pub(super) fn bundle(
        &mut self,
        wanted: &[(Kind, Arc<str>, Arc<str>)],
        world: &World,
    ) -> Result<Roots, (usize, String)> {
        let mut all: Vec<CertificateDer<'static>> = Vec::new();
        let mut names = Vec::new();
        for (index, (kind, namespace, name)) in wanted.iter().enumerate() {
            let id = fleet_id(kind.clone(), namespace, name);
            let bundle = self.one(&id, world).map_err(|reason| (index, reason))?;
            all.extend(bundle.certificates.iter().cloned());
            names.push(id.to_string());
        }
        roots(&names.join(", "), all).map_err(|reason| (0, reason))
    }

    fn one(&mut self, id: &ObjectId, world: &World) -> Result<Arc<Bundle>, String> {
        let Some(object) = world.get(id) else {
            self.bundles.remove(id);
            return Err(format!("no such {} on the Fleet", id.kind.as_str()));
        };
        if let Some((_, known)) = self.bundles.get(id).filter(|(seen, _)| Arc::ptr_eq(seen, object)) {
            return known.clone();
        }
        let bundle = read_bundle(object).map(Arc::new);
        self.bundles.insert(id.clone(), (Arc::clone(object), bundle.clone()));
        bundle
    }

    /// The certificate that a Secret holds.
    pub(super) fn certificate(
        &mut self,
        (namespace, name): &(Arc<str>, Arc<str>),
        world: &World,
    ) -> Result<Arc<Certificate>, String> {
        let id = fleet_id(Kind::Secret, namespace, name);
        let Some(object) = world.get(&id) else {
            self.certificates.remove(&id);
            return Err("no such Secret on the Fleet".to_owned());
        };
        if let Some((_, known)) = self.certificates.get(&id).filter(|(seen, _)| Arc::ptr_eq(seen, object)) {
            return known.clone();
        }
        let shown = Arc::from(format!("{namespace}/{name}"));
        let read = match object.spec.secret() {
            Some(secret) => secrets::parse(secret, &shown, clock::wall_seconds(), &mut Notes::default())
                .map(Arc::new)
                .map_err(|note| format!("{}: {}", note.field, note.reason)),
            None => Err("no Secret".to_owned()),
        };
        self.certificates.insert(id, (Arc::clone(object), read.clone()));
        read
    }

    /// What `proxy-ssl-secret` names: our certificate and whom to trust, either of which may be missing.
    pub(super) fn mutual(
        &mut self,
        secret: &(Arc<str>, Arc<str>),
        world: &World,
    ) -> Result<(Option<Arc<Certificate>>, Option<Roots>), String> {
        let id = fleet_id(Kind::Secret, &secret.0, &secret.1);
        let found = world.get(&id).ok_or("no such Secret on the Fleet")?;
        let contents = found.spec.secret().ok_or("no Secret")?;
        let (has_own, has_ca) =
            (!contents.certificate.is_empty() || !contents.key.is_empty(), contents.others.contains_key(CA));
        if !has_own && !has_ca {
            return Err("holds neither tls.crt and tls.key nor ca.crt".to_owned());
        }
        let own = if has_own { Some(self.certificate(secret, world)?) } else { None };
        let wanted = [(Kind::Secret, Arc::clone(&secret.0), Arc::clone(&secret.1))];
        let ca = if has_ca { Some(self.bundle(&wanted, world).map_err(|(_, reason)| reason)?) } else { None };
        Ok((own, ca))
    }
}

fn fleet_id(kind: Kind, namespace: &Arc<str>, name: &Arc<str>) -> ObjectId {
    ObjectId { source: Source::Fleet, kind, namespace: Arc::clone(namespace), name: Arc::clone(name) }
}

fn read_bundle(object: &Object) -> Result<Bundle, String> {
    let map = object.spec.config_map().and_then(|map| map.authorities.as_deref());
    let secret = || Some(object.spec.secret()?.others.get(CA)?.as_slice());
    let pem = map.map(str::as_bytes).or_else(secret);
    parse(pem.ok_or("has no key ca.crt")?)
}

fn parse(pem: &[u8]) -> Result<Bundle, String> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .take(BUNDLE_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("ca.crt is not PEM: {error}"))?;
    if certificates.is_empty() || certificates.len() > BUNDLE_MAX {
        return Err(format!("ca.crt holds {} certificates: allowed: 1 to {BUNDLE_MAX}", certificates.len()));
    }
    Ok(Bundle { certificates })
}

fn roots(name: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Roots, String> {
    let mut hash = digest::Context::new(&SHA256);
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        hash.update(&certificate.len().to_le_bytes());
        hash.update(&certificate);
        store.add(certificate).map_err(|error| format!("ca.crt: not a CA certificate: {error}"))?;
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    Ok(Roots { name: Arc::from(name), digest, store: Arc::new(store) })
}

fn system() -> Result<Roots, String> {
    let own = std::env::var("SSL_CERT_FILE").ok();
    let mut places = own.iter().map(String::as_str).chain(SYSTEM);
    let Some(path) = places.find(|path| Path::new(path).is_file()) else {
        return Err("this system has no CA bundle; set SSL_CERT_FILE, or name a ConfigMap".to_owned());
    };
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    if size > SYSTEM_BYTES_MAX {
        return Err(format!("{path}: {size} bytes: at most {SYSTEM_BYTES_MAX} are read"));
    }
    let pem = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let bundle = parse(&pem).map_err(|reason| format!("{path}: {reason}"))?;
    let mut hash = digest::Context::new(&SHA256);
    hash.update(&pem);
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    let mut store = RootCertStore::empty();
    // One odd certificate among a hundred must not cost the others.
    store.add_parsable_certificates(bundle.certificates);
    Ok(Roots { name: Arc::from("System"), digest, store: Arc::new(store) })
}
