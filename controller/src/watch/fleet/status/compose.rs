//! A [`Finding`] as the status of a Kubernetes object: what is to be applied, if anything is not so already.
//!
//! Pure. What others wrote stays: conditions are told apart by their type, a Gateway's listeners by their name. The
//! `parents` of a route are one value to the API server (`x-kubernetes-list-type: atomic`): they are taken as they
//! are read, with our entries in place of ours, and applied only to the version that was read.
//! Sources: Gateway API (`RouteParentStatus`, `ListenerStatus`), KEP-1623 (conditions).

use serde_json::{Value, json};

use crate::compile::context::GATEWAY_CONTROLLER;
use crate::compile::gateway_api::GROUP as GATEWAY_GROUP;
use crate::finding::{AncestorStanding, Finding, ListenerStanding, ParentStanding, Standing};
use crate::verdict::{Code, Note, Severity};

/// Characters of a condition's message. The API's own bound is 32768.
const MESSAGE_CHARS_MAX: usize = 1024;
/// Entries of a route's `parents` (Gateway API: 32).
const PARENTS_MAX: usize = 32;
/// Entries of a policy's `ancestors` (Gateway API: 16).
const ANCESTORS_MAX: usize = 16;
/// Entries of `status.addresses` (Gateway API: 16).
const ADDRESSES_MAX: usize = 16;
/// What of the Gateway API is served beyond its core, as `supportedFeatures` names it, in alphabetical order.
pub(super) const FEATURES: [&str; 38] = [
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "GRPCRouteRequestHeaderModifier",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "UDPRoute",
];

/// Why something does not hold.
type Problem = Option<(&'static str, String)>;

/// Conditions of one list, with what is there already: a condition that stays as it is keeps its time.
struct Conditions<'a> {
    live: &'a Value,
    generation: i64,
    now: &'a str,
    list: Vec<Value>,
}

impl<'a> Conditions<'a> {
    fn new(live: &'a Value, generation: i64, now: &'a str) -> Self {
        Self { live, generation, now, list: Vec::new() }
    }

    fn add(&mut self, kind: &str, holds: bool, reason: &str, message: &str) {
        let status = if holds { "True" } else { "False" };
        let mut live = self.live.as_array().into_iter().flatten();
        let before = live.find(|live| live["type"] == kind && live["status"] == status);
        let since = before.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(self.now);
        self.list.push(json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": self.generation, "lastTransitionTime": since,
        }));
    }

    /// Holds unless there is a problem.
    fn unless(&mut self, kind: &str, problem: &Problem, (reason, message): (&str, &str)) {
        match problem {
            None => self.add(kind, true, reason, message),
            Some((reason, message)) => self.add(kind, false, reason, message),
        }
    }
}

/// What is to be applied to an object's status; `None` = what is there says so already.
///
/// `addresses`: where the nodes are reached, IP addresses or names. `now`: the time of what changes now.
pub(super) fn status(finding: &Finding, live: &Value, addresses: &[String], now: &str) -> Option<Value> {
    let generation = finding.generation;
    let of_object = || Conditions::new(&live["conditions"], generation, now);
    let wanted = match &finding.standing {
        Standing::Remarks => return None,
        Standing::Nothing => return taken_back(live),
        Standing::Route { parents, serves } => {
            let entry = |parent| entry(parent, *serves, finding, live, now);
            return entries_of(("parents", PARENTS_MAX), live, parents.iter().map(entry).collect());
        }
        Standing::Backing(ancestors) => {
            let entry = |ancestor| backing(ancestor, finding, live, now);
            let entries = ancestors.iter().map(entry).collect();
            return entries_of(("ancestors", ANCESTORS_MAX), live, entries);
        }
        Standing::Gateway { listeners, addresses: asked } => {
            let addresses = match asked {
                Some(asked) => asked.iter().take(ADDRESSES_MAX).map(ToString::to_string).collect(),
                None => reached(&[], addresses),
            };
            gateway((finding, listeners), live, &addresses, now)
        }
        Standing::Class => {
            let wrong = finding.notes.iter().find(|note| note.code == Some(Code::InvalidParameters));
            let wrong = wrong.map(|note| (Code::InvalidParameters.as_str(), said(note)));
            let mut conditions = of_object();
            conditions.unless("Accepted", &wrong, ("Accepted", "served by Ringway"));
            let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
            json!({"conditions": conditions.list, "supportedFeatures": features})
        }
        Standing::Policy => {
            let mut conditions = of_object();
            judged(&mut conditions, &finding.notes);
            json!({"conditions": conditions.list})
        }
        Standing::Ingress(asked) => {
            let entry = |address: &String| match is_ip(address) {
                true => json!({"ip": address}),
                false => json!({"hostname": address}),
            };
            let entries: Vec<Value> = reached(asked, addresses).iter().map(entry).collect();
            json!({"loadBalancer": {"ingress": entries}})
        }
        Standing::Alb(listeners) => {
            let name = addresses.iter().find(|address| !is_ip(address)).or(addresses.first());
            let listeners: Vec<Value> =
                listeners.iter().map(|listener| json!({"portAndProtocol": listener})).collect();
            json!({"loadBalancer": {"dnsname": name.cloned().unwrap_or_default(), "listeners": listeners}})
        }
        Standing::Mse => json!({"phase": "Listening"}),
    };
    (!says(live, &wanted, "")).then_some(wanted)
}

/// `Accepted`, and whether a part was refused: of a policy or a member.
pub(super) fn judge(notes: &[Note], live: &Value, generation: i64, now: &str) -> Vec<Value> {
    let mut conditions = Conditions::new(live, generation, now);
    judged(&mut conditions, notes);
    conditions.list
}

/// One condition.
pub(super) fn condition(
    (kind, holds, reason, message): (&str, bool, &str, &str),
    live: &Value,
    generation: i64,
    now: &str,
) -> Value {
    let mut conditions = Conditions::new(live, generation, now);
    conditions.add(kind, holds, reason, message);
    conditions.list.pop().unwrap_or_default()
}

fn judged(conditions: &mut Conditions<'_>, notes: &[Note]) {
    let refused = notes.iter().find(|note| note.severity == Severity::Refused);
    let refused = refused.map(|note| ("Invalid", said(note)));
    conditions.unless("Accepted", &refused, ("Accepted", "in force"));
    match parts(notes, |_| true) {
        Some(message) => conditions.add("PartiallyInvalid", true, "UnsupportedValue", &message),
        None => conditions.add("PartiallyInvalid", false, "Valid", "every field is in force"),
    }
}

/// An object that is another controller's now, or nobody's: what was ours goes.
fn taken_back(live: &Value) -> Option<Value> {
    match (live.get("parents"), live.get("ancestors")) {
        (Some(_), _) => entries_of(("parents", PARENTS_MAX), live, Vec::new()),
        (None, Some(_)) => entries_of(("ancestors", ANCESTORS_MAX), live, Vec::new()),
        // Applied, it removes what this field manager owns, and nothing else.
        (None, None) => live.as_object().filter(|live| !live.is_empty()).map(|_| json!({})),
    }
}

/// The entries of others as they are, then ours.
fn entries_of((list, max): (&str, usize), live: &Value, ours: Vec<Value>) -> Option<Value> {
    let there: &[Value] = live[list].as_array().map_or(&[], Vec::as_slice);
    let is_ours = |entry: &&Value| entry["controllerName"] == GATEWAY_CONTROLLER;
    let before: Vec<&Value> = there.iter().filter(is_ours).collect();
    let others = there.iter().filter(|entry| !is_ours(entry)).cloned();
    let room = max.saturating_sub(there.len() - before.len());
    let ours = &ours[..ours.len().min(room)];
    if before.len() == ours.len() && before.iter().all(|before| ours.iter().any(|ours| ours == *before)) {
        return None;
    }
    let all: Vec<Value> = others.chain(ours.iter().cloned()).collect();
    Some(json!({list: all}))
}

/// What becomes of a `BackendTLSPolicy` at one Gateway (GEP-1897).
fn backing(ancestor: &AncestorStanding, finding: &Finding, live: &Value, now: &str) -> Value {
    let (namespace, name) = &ancestor.gateway;
    let reference =
        json!({"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": &**namespace, "name": &**name});
    let there = live["ancestors"].as_array().into_iter().flatten();
    let is_same =
        |entry: &&Value| entry["controllerName"] == GATEWAY_CONTROLLER && entry["ancestorRef"] == reference;
    let before = there.clone().find(is_same).map_or(&Value::Null, |entry| &entry["conditions"]);
    let first = |counts: &dyn Fn(&Note) -> bool| finding.notes.iter().find(|note| counts(note));
    let of_code =
        |code: Option<Code>| matches!(code, Some(Code::InvalidKind | Code::InvalidCaCertificateRef));
    let reference_problem = first(&|note| of_code(note.code));
    let conflict = first(&|note| note.code == Some(Code::Conflicted)).filter(|_| ancestor.conflicted);
    let wrong = first(&|note| note.severity == Severity::Refused && !of_code(note.code));
    let refusal = (conflict.map(|note| (Code::Conflicted.as_str(), said(note))))
        .or_else(|| reference_problem.map(|note| ("NoValidCACertificate", said(note))))
        .or_else(|| wrong.map(|note| ("Invalid", said(note))));
    let unresolved = reference_problem
        .map(|note| (note.code.map_or(Code::InvalidKind.as_str(), Code::as_str), said(note)));
    let mut conditions = Conditions::new(before, finding.generation, now);
    conditions.unless("Accepted", &refusal, ("Accepted", "in force"));
    conditions.unless("ResolvedRefs", &unresolved, ("ResolvedRefs", "every reference is resolved"));
    json!({"ancestorRef": reference, "controllerName": GATEWAY_CONTROLLER, "conditions": conditions.list})
}

fn entry(parent: &ParentStanding, serves: bool, finding: &Finding, live: &Value, now: &str) -> Value {
    let reference = serde_json::to_value(&parent.reference).unwrap_or_default();
    let there = live["parents"].as_array().into_iter().flatten();
    // The API server fills in group and kind: what is compared is what was written.
    let is_same =
        |entry: &&Value| entry["controllerName"] == GATEWAY_CONTROLLER && entry["parentRef"] == reference;
    let before = there.clone().find(is_same).map_or(&Value::Null, |entry| &entry["conditions"]);
    let mut conditions = Conditions::new(before, finding.generation, now);
    let notes = &finding.notes;
    let worst = notes.iter().find(|note| note.severity == Severity::Refused);
    let refused_parts = parts(notes, |note| !note.code.is_some_and(is_reference));
    let refusal = match (&parent.refusal, worst, &refused_parts) {
        (Some((Code::UnsupportedValue, _)), Some(note), _) | (None, Some(note), _) => {
            Some((Code::UnsupportedValue.as_str(), said(note)))
        }
        (Some((code, reason)), _, _) => Some((code.as_str(), (*reason).to_owned())),
        (None, None, Some(message)) if !serves => Some((Code::UnsupportedValue.as_str(), message.clone())),
        (None, None, Some(_) | None) => None,
    };
    let sections = parent.sections.join(", ");
    let message = format!("attached to {sections}");
    conditions.unless("Accepted", &refusal, ("Accepted", &message));
    let reference_problem = notes.iter().find(|note| note.code.is_some_and(is_reference));
    let reference_problem = reference_problem
        .map(|note| (note.code.map_or(Code::InvalidKind.as_str(), Code::as_str), said(note)));
    conditions.unless("ResolvedRefs", &reference_problem, ("ResolvedRefs", "every reference is resolved"));
    // Gateway API: only where a part is dropped and the rest serves.
    if let (Some(message), None, true) = (refused_parts, &refusal, serves) {
        conditions.add("PartiallyInvalid", true, Code::UnsupportedValue.as_str(), &message);
    }
    json!({"parentRef": reference, "controllerName": GATEWAY_CONTROLLER, "conditions": conditions.list})
}

/// Reasons of `ResolvedRefs`, of routes.
fn is_reference(code: Code) -> bool {
    match code {
        Code::RefNotPermitted | Code::BackendNotFound | Code::InvalidKind | Code::UnsupportedProtocol => true,
        Code::NotAllowedByListeners
        | Code::NoMatchingParent
        | Code::NoMatchingListenerHostname
        | Code::InvalidCertificateRef
        | Code::InvalidRouteKinds
        | Code::InvalidParameters
        | Code::HostnameConflict
        | Code::ProtocolConflict
        | Code::UnsupportedAddress
        | Code::AddressNotUsable
        | Code::AddressNotAssigned
        | Code::InvalidCaCertificateRef
        | Code::Conflicted
        | Code::UnsupportedValue
        | Code::Foreign => false,
    }
}

/// What was refused of an object that is served, as one text. Attachment to parents has conditions of its own.
fn parts(notes: &[Note], counts: impl Fn(&Note) -> bool) -> Option<String> {
    let attaches = |note: &&Note| !note.field.starts_with("spec.parentRefs");
    let refused = notes.iter().filter(|note| note.severity == Severity::RefusedPart && counts(note));
    let texts: Vec<String> = refused.filter(attaches).map(said).collect();
    (!texts.is_empty()).then(|| cut(&texts.join("; ")))
}

/// A remark in one line: object, field and value are known to be free of control characters.
pub(super) fn said(note: &Note) -> String {
    let field = if note.field.is_empty() { String::new() } else { format!("{}: ", note.field) };
    let value = if note.value.is_empty() { String::new() } else { format!("\"{}\": ", note.value) };
    cut(&format!("{field}{value}{}", note.reason))
}

fn cut(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}

fn is_ip(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok()
}

/// Where it is reached: the addresses that it asked for, or those of the nodes.
fn reached(asked: &[std::net::IpAddr], addresses: &[String]) -> Vec<String> {
    match asked {
        [] => addresses.iter().take(ADDRESSES_MAX).cloned().collect(),
        asked => asked.iter().take(ADDRESSES_MAX).map(ToString::to_string).collect(),
    }
}

fn gateway(
    (finding, listeners): (&Finding, &[ListenerStanding]),
    live: &Value,
    addresses: &[String],
    now: &str,
) -> Value {
    let generation = finding.generation;
    let told: Vec<Listener> = listeners.iter().map(|one| Listener::judge(one, &finding.notes)).collect();
    let mut conditions = Conditions::new(&live["conditions"], generation, now);
    let address = finding.notes.iter().find(|note| note.code == Some(Code::UnsupportedAddress));
    let refused = finding.notes.iter().find(|note| note.severity == Severity::Refused);
    let accepted = told.iter().filter(|one| one.refusal.is_none()).count();
    let (holds, reason, message) = match (refused, address) {
        (Some(note), _) => (false, note.code.map_or("Invalid", Code::as_str), said(note)),
        (None, Some(note)) => (false, Code::UnsupportedAddress.as_str(), said(note)),
        (None, None) if accepted == told.len() => (true, "Accepted", "every listener is accepted".to_owned()),
        (None, None) => (
            accepted > 0,
            "ListenersNotValid",
            format!("{accepted} of {} listeners are accepted", told.len()),
        ),
    };
    conditions.add("Accepted", holds, reason, &message);
    let served = told.iter().filter(|one| one.programmed.is_none()).count();
    let address = finding.notes.iter().find_map(|note| {
        let code = note.code?;
        let concerns = matches!(code, Code::AddressNotUsable | Code::AddressNotAssigned);
        concerns.then(|| (code.as_str(), said(note)))
    });
    let unbound = listeners.iter().find_map(|one| one.unbound.clone());
    let none = (served == 0).then(|| ("Invalid", "no listener is served".to_owned()));
    conditions.unless(
        "Programmed",
        &address.or(unbound).or(none),
        ("Programmed", &format!("{served} listeners are served")),
    );
    let entries: Vec<Value> = told.iter().map(|one| one.entry(live, generation, now)).collect();
    let kind = |address: &String| if is_ip(address) { "IPAddress" } else { "Hostname" };
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": kind(address), "value": address})).collect();
    json!({"conditions": conditions.list, "listeners": entries, "addresses": addresses})
}

/// What is to be said of one listener.
struct Listener<'a> {
    standing: &'a ListenerStanding,
    conflict: Problem,
    refusal: Problem,
    references: Problem,
    programmed: Problem,
}

impl<'a> Listener<'a> {
    fn judge(standing: &'a ListenerStanding, notes: &[Note]) -> Self {
        let whole = format!("spec.listeners[{}]", standing.index);
        let within = format!("{whole}.");
        let tls = format!("{whole}.tls.");
        let own: Vec<&Note> =
            notes.iter().filter(|note| note.field == whole || note.field.starts_with(&within)).collect();
        let first = |counts: &dyn Fn(&Note) -> bool| own.iter().find(|note| counts(note)).copied();
        let told = |note: &Note, or: Code| (note.code.unwrap_or(or).as_str(), said(note));
        let conflict =
            first(&|note| matches!(note.code, Some(Code::HostnameConflict | Code::ProtocolConflict)))
                .map(|note| told(note, Code::HostnameConflict));
        let protocol = first(&|note| note.code == Some(Code::UnsupportedProtocol))
            .map(|note| told(note, Code::UnsupportedProtocol));
        let wrong = first(&|note| note.severity >= Severity::RefusedPart && !note.field.starts_with(&tls))
            .map(|note| told(note, Code::UnsupportedValue));
        let certificates =
            first(&|note| note.severity >= Severity::RefusedPart && note.field.starts_with(&tls))
                .map(|note| told(note, Code::InvalidCertificateRef));
        let kinds = first(&|note| note.code == Some(Code::InvalidRouteKinds))
            .map(|note| told(note, Code::InvalidRouteKinds));
        let refusal = conflict.clone().or(protocol).or(wrong);
        let programmed = match (&refusal, &certificates, standing.serves) {
            (None, None, true) => standing.unbound.clone(),
            (Some((_, message)), _, _) | (None, Some((_, message)), _) => Some(("Invalid", message.clone())),
            (None, None, false) => Some(("Invalid", "it is not served".to_owned())),
        };
        Self { standing, conflict, refusal, references: certificates.or(kinds), programmed }
    }

    fn entry(&self, live: &Value, generation: i64, now: &str) -> Value {
        let name = &*self.standing.name;
        let there = live["listeners"].as_array().into_iter().flatten();
        let before = there.clone().find(|live| live["name"] == name);
        let before = before.map_or(&Value::Null, |live| &live["conditions"]);
        let mut conditions = Conditions::new(before, generation, now);
        conditions.unless("Accepted", &self.refusal, ("Accepted", "it is valid"));
        match &self.conflict {
            Some((reason, message)) => conditions.add("Conflicted", true, reason, message),
            None => conditions.add("Conflicted", false, "NoConflicts", "nobody else asks for it"),
        }
        conditions.unless("Programmed", &self.programmed, ("Programmed", "it is served"));
        let resolved = ("ResolvedRefs", "every reference is resolved");
        conditions.unless("ResolvedRefs", &self.references, resolved);
        let kind = |kind: &&str| json!({"group": "gateway.networking.k8s.io", "kind": kind});
        json!({
            "name": name, "attachedRoutes": self.standing.attached, "conditions": conditions.list,
            "supportedKinds": self.standing.kinds.iter().map(kind).collect::<Vec<_>>(),
        })
    }
}

/// Does what is there say all of this? Conditions of others may stand beside ours.
fn says(live: &Value, wanted: &Value, field: &str) -> bool {
    match wanted {
        Value::Object(wanted) => wanted.iter().all(|(field, wanted)| says(&live[field], wanted, field)),
        Value::Array(wanted) => {
            let live: &[Value] = live.as_array().map_or(&[], Vec::as_slice);
            let key = |item: &Value| item.get("type").or(item.get("name")).map(Value::to_string);
            let is_there = |wanted: &Value| match key(wanted).filter(|_| field != "addresses") {
                Some(name) => {
                    live.iter().any(|live| key(live).as_ref() == Some(&name) && says(live, wanted, ""))
                }
                None => live.contains(wanted),
            };
            (field == "conditions" || live.len() == wanted.len()) && wanted.iter().all(is_there)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => live == wanted,
    }
}
