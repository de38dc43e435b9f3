//! What an Ingress's rules take from Secrets: who may come.

use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use routing::model::{Authorities, BasicAuth, ClientAuth, ClientCertificate};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::OwnedCertRevocationList;

use crate::compile::annotations::{BasicSpec, ClientSpec};
use crate::compile::htpasswd;
use crate::compile::route::Builder;
use crate::object::{FleetSecret, Kind, ObjectId, Source};

/// Authorities of one Secret, and lists of what they have revoked.
const AUTHORITIES_MAX: usize = 256;
/// Remarks on one Secret's lines; the rest is counted.
const REMARKS_MAX: usize = 8;

/// The names of the Secret. Where it is missing or may not be used nobody may come, and every request is told so by
/// 503: a Secret that comes late must not mean an hour of open doors.
pub(super) fn basic(builder: &mut Builder<'_, '_>, spec: &BasicSpec) -> BasicAuth {
    let field = field_of(builder, "auth-secret");
    let users = secret(builder, &spec.secret, &field).and_then(|found| {
        let shown = format!("{}/{}", spec.secret.0, spec.secret.1);
        let (users, wrong) = match htpasswd::users(&found, spec.form) {
            Ok(found) => found,
            Err(reason) => {
                builder.out.notes.refused_part(&field, &shown, format!("{reason}: the rules answer 503"));
                return None;
            }
        };
        for reason in wrong.iter().take(REMARKS_MAX) {
            builder.out.notes.refused_part(&field, &shown, reason.clone());
        }
        if wrong.len() > REMARKS_MAX {
            let reason = format!("and {} more of its lines", wrong.len() - REMARKS_MAX);
            builder.out.notes.refused_part(&field, &shown, reason);
        }
        if users.is_empty() {
            builder.out.notes.info(&field, &shown, "it names nobody: nobody may come");
        }
        Some(Arc::new(users))
    });
    BasicAuth { realm: spec.realm.clone(), users }
}

/// What the rules ask of clients' certificates, and what handshakes are to ask for.
pub(super) fn client(
    builder: &mut Builder<'_, '_>,
    spec: Option<&ClientSpec>,
) -> (Option<ClientCertificate>, Option<Arc<ClientAuth>>) {
    let Some(spec) = spec else { return (None, None) };
    let field = field_of(builder, "auth-tls-secret");
    let auth = secret(builder, &spec.secret, &field).and_then(|found| {
        let name = Arc::from(format!("{}/{}", spec.secret.0, spec.secret.1));
        match authorities(&found, &name, spec.depth) {
            Ok(auth) => Some(Arc::new(auth)),
            Err(reason) => {
                builder.out.notes.refused_part(&field, &name, format!("{reason}: the rules answer 503"));
                None
            }
        }
    });
    let wanted = ClientCertificate {
        by: auth.as_ref().map(|auth| auth.digest),
        demand: spec.demand,
        subject: spec.subject.clone(),
        error_page: spec.error_page.clone(),
        passes: spec.passes,
    };
    (Some(wanted), auth)
}

/// `ca.crt`, or `cacert` as Istio and MSE name it, and `ca.crl`.
fn authorities(secret: &FleetSecret, name: &Arc<str>, depth: u8) -> Result<ClientAuth, String> {
    let file = ["ca.crt", "cacert"].iter().find_map(|key| secret.others.get(*key));
    let file = file.ok_or("data[ca.crt] is missing: it holds the authorities, PEM")?;
    let mut hash = digest::Context::new(&SHA256);
    let mut anchors = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(file).take(AUTHORITIES_MAX + 1) {
        let certificate = certificate.map_err(|error| format!("data[ca.crt]: not PEM: {error}"))?;
        let anchor = webpki::anchor_from_trusted_cert(&certificate);
        anchors.push(anchor.map_err(|error| format!("data[ca.crt]: no authority: {error}"))?.to_owned());
        hash.update(&certificate);
    }
    if anchors.is_empty() || anchors.len() > AUTHORITIES_MAX {
        return Err(format!("data[ca.crt]: allowed: 1 to {AUTHORITIES_MAX} certificates, PEM"));
    }
    let mut revoked = Vec::new();
    let lists = secret.others.get("ca.crl").map_or(&[][..], Vec::as_slice);
    // What cannot be read must not count as empty: who was revoked would come in.
    for list in CertificateRevocationListDer::pem_slice_iter(lists).take(AUTHORITIES_MAX) {
        let list = list.map_err(|error| format!("data[ca.crl]: not PEM: {error}"))?;
        let parsed = OwnedCertRevocationList::from_der(&list);
        revoked.push(parsed.map_err(|error| format!("data[ca.crl]: no list of revoked ones: {error}"))?);
        hash.update(&list);
    }
    if !lists.is_empty() && revoked.is_empty() {
        return Err("data[ca.crl]: allowed: lists of revoked certificates, PEM".to_owned());
    }
    hash.update(&[depth]);
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    let authorities = Authorities::new(Arc::new((anchors, revoked)));
    Ok(ClientAuth { secret: Arc::clone(name), digest, depth, authorities })
}

/// A Secret of the Ingress's own namespace, or of one that grants it; otherwise that is remarked on.
pub(super) fn secret(
    builder: &mut Builder<'_, '_>,
    name: &(Arc<str>, Arc<str>),
    field: &str,
) -> Option<FleetSecret> {
    let (namespace, own) = (&name.0, builder.object.id.namespace.clone());
    let shown = format!("{}/{}", name.0, name.1);
    let id = ObjectId {
        source: Source::Fleet,
        kind: Kind::Secret,
        namespace: name.0.clone(),
        name: name.1.clone(),
    };
    builder.out.contents.insert(id.clone());
    let from = ("networking.k8s.io", "Ingress", &*own);
    if *namespace != own && !builder.env.context.is_granted(from, namespace, ("", "Secret", &name.1)) {
        let reason =
            format!("no ReferenceGrant in {namespace} lets Ingresses of {own} use it: the rules answer 503");
        builder.out.notes.refused_part(field, shown, reason);
        return None;
    }
    let found = builder.env.world.get(&id).and_then(|object| object.spec.secret());
    if found.is_none() {
        let reason = "no such Secret on the Fleet: the rules answer 503";
        builder.out.notes.refused_part(field, shown, reason);
    }
    found.cloned()
}

/// The annotation as it is written on this Ingress.
pub(super) fn field_of(builder: &Builder<'_, '_>, name: &str) -> String {
    let prefixes = crate::compile::annotations::registry::Family::PREFIXES;
    let mut full = prefixes.iter().map(|(prefix, _)| format!("{prefix}{name}"));
    let found = full.find(|full| builder.object.annotations.contains_key(full));
    format!("metadata.annotations[{}]", found.unwrap_or_else(|| name.to_owned()))
}
