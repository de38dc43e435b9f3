//! What an Ingress's rules take from ConfigMaps: fields of responses (`custom-headers`) and of questions
//! (`auth-proxy-set-headers`). One that cannot be used makes the rules answer 503, as ingress-nginx does: a field of a
//! response may be what protects a page.

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::model::{HeaderEdits, UrlTemplate};

use super::protect::field_of;
use crate::compile::annotations;
use crate::compile::filters::EDITS_MAX;
use crate::compile::route::Builder;
use crate::object::{Kind, ObjectId, Source};
use crate::text::{self, VALUE_CHARS_MAX};

/// Fields of a question, by name in lower case.
pub(super) type QuestionFields = Box<[(Arc<str>, UrlTemplate)]>;
/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

/// The fields of `custom-headers`: they are set on every response. `$` means nothing in them.
pub(super) fn of_responses(builder: &mut Builder<'_, '_>, name: &Name) -> Option<HeaderEdits> {
    let set = fields(builder, name, "custom-headers", text::value)?;
    Some(HeaderEdits { set: set.into(), ..HeaderEdits::default() })
}

/// The fields of `auth-proxy-set-headers`, with nginx's variables as in `auth-url`.
pub(super) fn question(builder: &mut Builder<'_, '_>, name: &Name) -> Option<QuestionFields> {
    fields(builder, name, "auth-proxy-set-headers", annotations::field_value).map(Vec::into)
}

fn fields<T>(
    builder: &mut Builder<'_, '_>,
    name: &Name,
    annotation: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<(Arc<str>, T)>> {
    let field = field_of(builder, annotation);
    let shown = format!("{}/{}", name.0, name.1);
    let read = found(builder, name).and_then(|fields| {
        let one = |(name, value): (Arc<str>, Arc<str>)| {
            let at = |allowed: String| format!("data[{name}]: allowed: {allowed}");
            Ok((text::edited_header(&name).map_err(at)?, parse(&value).map_err(at)?))
        };
        fields.into_iter().map(one).collect()
    });
    match read {
        Ok(fields) => Some(fields),
        Err(reason) => {
            builder.out.notes.refused_part(field, shown, format!("{reason}: the rules answer 503"));
            None
        }
    }
}

/// What a ConfigMap holds: one of the Ingress's own namespace, or of one that grants it.
fn found(builder: &mut Builder<'_, '_>, name: &Name) -> Result<BTreeMap<Arc<str>, Arc<str>>, String> {
    let (namespace, own) = (&name.0, builder.object.id.namespace.clone());
    let id = ObjectId {
        source: Source::Fleet,
        kind: Kind::ConfigMap,
        namespace: namespace.clone(),
        name: name.1.clone(),
    };
    builder.out.contents.insert(id.clone());
    let from = ("networking.k8s.io", "Ingress", &*own);
    if *namespace != own && !builder.env.context.is_granted(from, namespace, ("", "ConfigMap", &name.1)) {
        return Err(format!("no ReferenceGrant in {namespace} lets Ingresses of {own} use it"));
    }
    let object = builder.env.world.get(&id);
    let map = object.and_then(|object| object.spec.config_map());
    let map = map.ok_or("no such ConfigMap on the Fleet")?;
    match &map.unfit {
        Some(key) => Err(format!(
            "data[{key}]: allowed: up to {EDITS_MAX} names of letters, digits, '-' and '_', with values of one line, up to \
             {VALUE_CHARS_MAX} bytes"
        )),
        None => Ok(map.fields.clone()),
    }
}
