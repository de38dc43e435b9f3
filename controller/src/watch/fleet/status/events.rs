//! What is refused or not used, as an Event (`events.k8s.io/v1`) on its object.
//!
//! One Event says all there is to say of an object. Its name is made of the object and the text: what was said before
//! is refused by the API server as already there, whoever said it, so that nothing is said twice while an Event lives.

use aws_lc_rs::digest::{self, SHA256};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use super::compose::said;
use crate::compile::context::GATEWAY_CONTROLLER;
use crate::finding::{Finding, Standing};
use crate::object::ObjectId;
use crate::verdict::Severity;

/// Bytes of an Event's note (the API's bound is 1024 bytes).
const NOTE_BYTES_MAX: usize = 1024;
/// Characters of the object's name in the Event's.
const NAME_CHARS_MAX: usize = 200;

/// The Event about an object; `None` = there is nothing to say.
pub(super) fn event(
    id: &ObjectId,
    finding: &Finding,
    (api_version, uid): (&str, Option<&str>),
    identity: &str,
) -> Option<Event> {
    if finding.standing == Standing::Nothing {
        return None;
    }
    let worst = finding.notes.iter().map(|note| note.severity).max()?;
    let (reason, kind) = match worst {
        Severity::Info => return None,
        Severity::Ignored => ("PartlyIgnored", "Normal"),
        Severity::RefusedPart => ("PartlyRefused", "Warning"),
        Severity::Refused => ("Refused", "Warning"),
    };
    let mut notes: Vec<_> = finding.notes.iter().filter(|note| note.severity > Severity::Info).collect();
    notes.sort_by_key(|note| std::cmp::Reverse(note.severity));
    let text = cut(&notes.into_iter().map(said).collect::<Vec<_>>().join("; "));
    let namespace = if id.namespace.is_empty() { "default" } else { &id.namespace };
    let hashed = digest::digest(&SHA256, format!("{id} {uid:?} {reason} {text}").as_bytes());
    let hashed: String = hashed.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let name: String = id.name.chars().take(NAME_CHARS_MAX).collect();
    let regarding = ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(id.kind.as_str().to_owned()),
        namespace: (!id.namespace.is_empty()).then(|| id.namespace.to_string()),
        name: Some(id.name.to_string()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    };
    Some(Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{hashed}")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        action: Some("Compile".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(text),
        reason: Some(reason.to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(GATEWAY_CONTROLLER.to_owned()),
        reporting_instance: Some(identity.chars().take(128).collect()),
        type_: Some(kind.to_owned()),
        ..Event::default()
    })
}

fn cut(text: &str) -> String {
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= NOTE_BYTES_MAX;
    text.char_indices().take_while(fits).map(|(_, c)| c).collect()
}
