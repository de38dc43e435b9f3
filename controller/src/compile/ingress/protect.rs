//! What an Ingress's rules take from Secrets: who may come.

use std::sync::Arc;

use routing::model::BasicAuth;

use crate::compile::annotations::BasicSpec;
use crate::compile::htpasswd;
use crate::compile::route::Builder;
use crate::object::{FleetSecret, Kind, ObjectId, Source};

/// Remarks on one Secret's lines; the rest is counted.
const REMARKS_MAX: usize = 8;

/// The names of the Secret. Where it is missing or may not be used nobody may come, and every request is told so by
/// 503: a Secret that comes late must not mean an hour of open doors.
pub(super) fn basic(builder: &mut Builder<'_, '_>, spec: &BasicSpec) -> BasicAuth {
    let field = field_of(builder, "auth-secret");
    let users = secret(builder, &spec.secret, &field).and_then(|found| {
        let (users, wrong) = htpasswd::users(&found, spec.form);
        let shown = format!("{}/{}", spec.secret.0, spec.secret.1);
        for reason in wrong.iter().take(REMARKS_MAX) {
            builder.out.notes.refused_part(&field, &shown, reason.clone());
        }
        if wrong.len() > REMARKS_MAX {
            let reason = format!("and {} more of its lines", wrong.len() - REMARKS_MAX);
            builder.out.notes.refused_part(&field, &shown, reason);
        }
        if users.is_empty() {
            let reason = "nobody may come by this Secret: the rules answer 503";
            builder.out.notes.refused_part(&field, &shown, reason);
            return None;
        }
        Some(Arc::new(users))
    });
    BasicAuth { realm: spec.realm.clone(), users }
}

/// A Secret of the Ingress's own namespace, or of one that grants it; otherwise that is remarked on.
pub(super) fn secret(
    builder: &mut Builder<'_, '_>,
    name: &(Arc<str>, Arc<str>),
    field: &str,
) -> Option<FleetSecret> {
    let (namespace, own) = (&name.0, builder.object.id.namespace.clone());
    let shown = format!("{}/{}", name.0, name.1);
    builder.out.secrets.insert(name.clone());
    let from = ("networking.k8s.io", "Ingress", &*own);
    if *namespace != own && !builder.env.context.is_granted(from, namespace, ("", "Secret", &name.1)) {
        let reason =
            format!("no ReferenceGrant in {namespace} lets Ingresses of {own} use it: the rules answer 503");
        builder.out.notes.refused_part(field, shown, reason);
        return None;
    }
    let id = ObjectId {
        source: Source::Fleet,
        kind: Kind::Secret,
        namespace: name.0.clone(),
        name: name.1.clone(),
    };
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
