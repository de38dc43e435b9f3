//! Text to typed objects, one by one: a document that is wrong costs itself only.
//!
//! A file is parsed into documents first (YAML or JSON); when that fails, the whole file has failed and its last
//! good content stays. Each document is then decoded on its own. Nothing here panics, whatever the bytes are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use routing::model::{Carrier, Condition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::compile::context::MCS_GROUP;
use crate::compile::filters::EDITS_MAX;
use crate::object::{
    AppProtocol, FleetConfigMap, FleetSecret, Kind, MemberNode, MemberService, MemberServicePort,
    MemberSlice, Object, ObjectId, Role, SliceEndpoint, Source, Spec,
};
use crate::text::VALUE_CHARS_MAX;
use crate::verdict::{Note, Notes, Severity};
use crate::watch::{Remains, kinds, profile};

/// Documents of one file, and items of one List.
pub const DOCUMENTS_MAX: usize = 100_000;
/// Nodes of one file's YAML tree.
const YAML_NODES_MAX: usize = 4_000_000;
/// Characters of a name (RFC 1123 subdomain).
const NAME_CHARS_MAX: usize = 253;
/// Unknown fields named of one object.
const UNKNOWN_FIELDS_MAX: usize = 16;
/// Levels of lists of lists that are opened.
const LIST_DEPTH_MAX: usize = 4;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML, several documents.
    Yaml,
    /// JSON, one document.
    Json,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The objects that are used, in the order of the file.
    pub objects: Vec<(Object, Notes)>,
    /// What is wrong with the others.
    pub problems: Vec<(Option<ObjectId>, Note)>,
}

/// One object that an API server sent.
#[derive(Debug)]
pub enum One {
    /// It is used.
    Object(Box<Object>, Notes),
    /// It cannot be used.
    Refused(Option<ObjectId>, Note, Remains),
    /// Its kind is not used.
    Unused(ObjectId),
}

/// Decodes one object.
#[must_use]
pub fn decode_one(value: Value, source: &Source) -> One {
    match decode_object(value, source) {
        Ok((Object { id: id @ ObjectId { kind: Kind::Other(_), .. }, .. }, _)) => One::Unused(id),
        Ok((object, notes)) => One::Object(Box::new(object), notes),
        Err(refusal) => {
            let (id, note) = *refusal;
            One::Refused(id, note, Remains::default())
        }
    }
}

/// Decodes a file.
///
/// # Errors
/// What is wrong, when the text is not well-formed: then nothing of it may be used.
pub fn decode_text(text: &str, format: Format, source: &Source) -> Result<Decoded, String> {
    let documents: Vec<Value> = match format {
        Format::Json => vec![serde_json::from_str(text).map_err(|e| e.to_string())?],
        Format::Yaml => {
            let options = serde_saphyr::options! {
                budget: serde_saphyr::budget! {
                    max_documents: DOCUMENTS_MAX,
                    max_nodes: YAML_NODES_MAX,
                    max_events: 2 * YAML_NODES_MAX,
                },
                // YAML 1.2: `y`, `on` and `off` are strings, as those who write header values expect.
                strict_booleans: true,
                with_snippet: false,
            };
            serde_saphyr::from_multiple_with_options(text, options).map_err(|e| e.to_string())?
        }
    };
    let mut decoded = Decoded::default();
    for document in documents {
        decode_document(document, source, &mut decoded, LIST_DEPTH_MAX);
    }
    Ok(decoded)
}

fn decode_document(document: Value, source: &Source, decoded: &mut Decoded, depth: usize) {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    let is_list = kind.ends_with("List") && document.get("items").is_some_and(Value::is_array);
    if is_list && depth > 0 {
        let Value::Object(mut map) = document else { return };
        let Some(Value::Array(items)) = map.remove("items") else { return };
        let item_kind = kind_of_items(&map);
        for mut item in items {
            inherit_type(&mut item, item_kind.as_ref());
            decode_document(item, source, decoded, depth - 1);
        }
        return;
    }
    match decode_object(document, source) {
        Ok(found) => decoded.objects.push(found),
        Err(refusal) => decoded.problems.push(*refusal),
    }
}

/// Items of a typed list (`IngressList`) may leave out their own type, as the API server does.
fn kind_of_items(list: &serde_json::Map<String, Value>) -> Option<(String, String)> {
    let kind = list.get("kind")?.as_str()?.strip_suffix("List").filter(|kind| !kind.is_empty())?;
    Some((list.get("apiVersion")?.as_str()?.to_owned(), kind.to_owned()))
}

fn inherit_type(item: &mut Value, inherited: Option<&(String, String)>) {
    if let (Value::Object(map), Some((api_version, kind))) = (item, inherited) {
        map.entry("apiVersion").or_insert_with(|| api_version.clone().into());
        map.entry("kind").or_insert_with(|| kind.clone().into());
    }
}

pub(super) type Refusal = Box<(Option<ObjectId>, Note)>;

fn refusal(id: Option<ObjectId>, field: &str, value: impl std::fmt::Display, reason: &str) -> Refusal {
    Box::new((id, Note::new(Severity::Refused, field, value, reason)))
}

fn decode_object(value: Value, source: &Source) -> Result<(Object, Notes), Refusal> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let Some(api_version) = text("/apiVersion") else {
        return Err(refusal(None, "apiVersion", "", "missing: a Kubernetes object has apiVersion and kind"));
    };
    let Some(kind_name) = text("/kind") else {
        return Err(refusal(None, "kind", "", "missing: a Kubernetes object has apiVersion and kind"));
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (kind, versions) = kind_of(group, version, kind_name);
    let name = text("/metadata/name").unwrap_or_default();
    let namespace = match (kind.is_cluster_scoped(), text("/metadata/namespace")) {
        (true, _) => "",
        (false, None | Some("")) => "default",
        (false, Some(namespace)) => namespace,
    };
    let id =
        ObjectId { source: source.clone(), kind, namespace: Arc::from(namespace), name: Arc::from(name) };
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    for (field, text) in [("metadata.name", name), ("metadata.namespace", namespace)] {
        let may_be_empty = field == "metadata.namespace";
        if (text.is_empty() && !may_be_empty)
            || text.len() > NAME_CHARS_MAX
            || !text.chars().all(is_name_char)
        {
            let id = Some(ObjectId { name: Arc::from("?"), namespace: Arc::from(""), ..id });
            return Err(refusal(id, field, text, "1 to 253 letters, digits, '-', '.'"));
        }
    }
    decode_spec(value, id, versions)
}

/// The kind, if it is read; else, of a kind that is read in other versions, those.
fn kind_of(group: &str, version: &str, name: &str) -> (Kind, Option<String>) {
    let other = || Kind::Other(Arc::from(name));
    match kinds::find(group, name) {
        None => (other(), None),
        Some(resource) if !resource.versions.contains(&version) => {
            (other(), Some(format!("{group}/{}", resource.versions.join(" or "))))
        }
        Some(_) => (Kind::USED.into_iter().find(|kind| kind.as_str() == name).unwrap_or_else(other), None),
    }
}

fn decode_spec(value: Value, id: ObjectId, versions: Option<String>) -> Result<(Object, Notes), Refusal> {
    let mut notes = Notes::default();
    if let Some(place) = misplaced(&id) {
        notes.ignored("kind", id.kind.as_str(), format!("not used here: this kind is read from {place}"));
        return Ok((plain(id, Spec::Other, i64::MAX), notes));
    }
    match id.kind {
        Kind::Ingress => fleet(&value, id, Spec::Ingress),
        Kind::IngressClass => fleet(&value, id, Spec::IngressClass),
        Kind::Gateway => fleet(&value, id, Spec::Gateway),
        Kind::GatewayClass => fleet(&value, id, Spec::GatewayClass),
        Kind::HttpRoute => fleet(&value, id, Spec::HttpRoute),
        Kind::GrpcRoute => fleet(&value, id, Spec::GrpcRoute),
        Kind::TcpRoute => fleet(&value, id, Spec::TcpRoute),
        Kind::TlsRoute => fleet(&with_hostnames(value), id, Spec::TlsRoute),
        Kind::UdpRoute => fleet(&value, id, Spec::UdpRoute),
        Kind::ReferenceGrant => fleet(&value, id, Spec::ReferenceGrant),
        Kind::BackendTlsPolicy => fleet(&value, id, Spec::BackendTlsPolicy),
        Kind::ConfigMap => member(value, id, notes, config_map),
        Kind::ClusterProfile => profile::read(&value, id, notes),
        Kind::MemberCluster => fleet(&value, id, Spec::MemberCluster),
        Kind::GatewayConfig => fleet(&value, id, Spec::GatewayConfig),
        Kind::AlbConfig => untyped(&value, id, Spec::AlbConfig),
        Kind::MseIngressConfig => untyped(&value, id, Spec::MseIngressConfig),
        Kind::FailoverPolicy => fleet(&value, id, Spec::FailoverPolicy),
        Kind::Namespace => member(value, id, notes, namespace),
        Kind::Secret => member(value, id, notes, secret),
        Kind::Service => member(value, id, notes, service),
        Kind::EndpointSlice => member(value, id, notes, slice),
        Kind::Node => member(value, id, notes, node),
        Kind::Other(_) => {
            let is_import = value
                .get("apiVersion")
                .and_then(Value::as_str)
                .is_some_and(|version| version.split_once('/').is_some_and(|(group, _)| group == MCS_GROUP));
            match versions {
                None if is_import => {
                    let reason =
                        "needs no object: its name stands for the Services of that name in all members";
                    notes.info("kind", id.kind.as_str(), reason);
                }
                Some(allowed) => notes.refused("apiVersion", "", format!("this kind is read as {allowed}")),
                None => notes.ignored("kind", id.kind.as_str(), "this kind is not used"),
            }
            Ok((plain(id, Spec::Other, i64::MAX), notes))
        }
    }
}

/// Where objects of this kind are read from, if this one is elsewhere.
fn misplaced(id: &ObjectId) -> Option<&'static str> {
    if id.kind.role() == Role::Unused {
        return None;
    }
    let is_of_members = kinds::MEMBER.iter().any(|resource| resource.kind == id.kind.as_str());
    match (&id.source, is_of_members) {
        (Source::Fleet, true) => Some("clusters/NAME/"),
        (Source::Member(_), false) => Some("fleet/"),
        (Source::Fleet, false) | (Source::Member(_), true) => None,
    }
}

/// Hostnames of a `TLSRoute` may be left out in the API's earlier versions: then it has those of its listeners.
fn with_hostnames(mut value: Value) -> Value {
    if let Some(Value::Object(spec)) = value.get_mut("spec") {
        spec.entry("hostnames").or_insert_with(|| Value::Array(Vec::new()));
    }
    value
}

fn plain(id: ObjectId, spec: Spec, created: i64) -> Object {
    Object { id, created, generation: 0, uid: Arc::from(""), annotations: BTreeMap::new(), spec }
}

fn typed<T: DeserializeOwned>(value: Value, id: &ObjectId) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        refusal(Some(id.clone()), path.trim_start_matches('.'), "", &error.inner().to_string())
    })
}

fn fleet<T>(value: &Value, id: ObjectId, wrap: fn(Box<T>) -> Spec) -> Result<(Object, Notes), Refusal>
where
    T: DeserializeOwned + Serialize,
{
    let mut notes = Notes::default();
    let meta = meta(value, &id)?;
    let object: T = typed(value.clone(), &id)?;
    if let Ok(known) = serde_json::to_value(&object) {
        let mut unknown = Vec::new();
        unknown_fields(value, &known, String::new(), &mut unknown);
        for field in unknown {
            notes.ignored(field, "", "unknown field");
        }
    }
    Ok((with_meta(id, meta, wrap(Box::new(object))), notes))
}

/// An object of another product, kept as it is written: who compiles it names each field.
fn untyped(value: &Value, id: ObjectId, wrap: fn(Box<Value>) -> Spec) -> Result<(Object, Notes), Refusal> {
    let meta = meta(value, &id)?;
    let spec = value.get("spec").cloned().unwrap_or_default();
    if !spec.is_object() {
        return Err(refusal(Some(id), "spec", "", "missing: an object"));
    }
    Ok((with_meta(id, meta, wrap(Box::new(spec))), Notes::default()))
}

pub(super) fn meta(value: &Value, id: &ObjectId) -> Result<ObjectMeta, Refusal> {
    value.get("metadata").map_or_else(|| Ok(ObjectMeta::default()), |meta| typed(meta.clone(), id))
}

pub(super) fn with_meta(id: ObjectId, meta: ObjectMeta, spec: Spec) -> Object {
    let created = meta.creation_timestamp.map_or(i64::MAX, |time| time.0.as_second());
    let generation = meta.generation.unwrap_or(0);
    let uid = Arc::from(meta.uid.unwrap_or_default());
    Object { id, created, generation, uid, annotations: meta.annotations.unwrap_or_default(), spec }
}

/// Fields of `given` that did not survive decoding: they are unknown to the type.
fn unknown_fields(given: &Value, known: &Value, path: String, unknown: &mut Vec<String>) {
    if unknown.len() >= UNKNOWN_FIELDS_MAX || path == "status" || path == "metadata.managedFields" {
        return;
    }
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match known.get(name) {
                    Some(known) => unknown_fields(value, known, field, unknown),
                    None if value.is_null() || is_empty(value) || name == "status" => {}
                    None if unknown.len() < UNKNOWN_FIELDS_MAX => unknown.push(field),
                    None => {}
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                unknown_fields(given, known, format!("{path}[{index}]"), unknown);
            }
        }
        (
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_),
            _,
        ) => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn member<T: DeserializeOwned>(
    value: Value,
    id: ObjectId,
    mut notes: Notes,
    reduce: fn(T, &mut Notes) -> Spec,
) -> Result<(Object, Notes), Refusal> {
    let object: T = typed(value, &id)?;
    let spec = reduce(object, &mut notes);
    Ok((plain(id, spec, i64::MAX), notes))
}

fn namespace(object: Namespace, _: &mut Notes) -> Spec {
    Spec::Namespace(object.metadata.labels.unwrap_or_default())
}

/// `stringData` beats `data`, as in the API server.
fn secret(object: Secret, _notes: &mut Notes) -> Spec {
    let data = object.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    let text = object.string_data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    let mut others: BTreeMap<String, Vec<u8>> = data.chain(text).collect();
    let mut take = |name: &str| others.remove(name).unwrap_or_default();
    let (certificate, key) = (take("tls.crt"), take("tls.key"));
    Spec::Secret(FleetSecret { certificate, key, others })
}

/// Keeps the CA bundle, if it holds one, and the rest where it reads as fields of HTTP.
fn config_map(object: ConfigMap, _notes: &mut Notes) -> Spec {
    let mut data = object.data.unwrap_or_default();
    let authorities = data.remove("ca.crt");
    let is_field = |name: &str, value: &str| {
        let name_fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let value_fits = value.len() <= VALUE_CHARS_MAX && !value.chars().any(char::is_control);
        name_fits && value_fits
    };
    let odd = data.iter().find(|(name, value)| !is_field(name, value)).map(|(name, _)| name);
    let unfit = odd.or_else(|| data.keys().nth(EDITS_MAX)).map(|name| Arc::from(name.as_str()));
    let kept = if unfit.is_some() { BTreeMap::new() } else { data };
    let fields = kept.into_iter().map(|(name, value)| (Arc::from(name), Arc::from(value))).collect();
    Spec::ConfigMap(FleetConfigMap { authorities, fields, unfit })
}

/// The protocol of a port; `None` for one that is not served (SCTP).
fn carrier(protocol: Option<&str>) -> Option<Carrier> {
    match protocol {
        None | Some("" | "TCP") => Some(Carrier::Tcp),
        Some("UDP") => Some(Carrier::Udp),
        Some(_) => None,
    }
}

fn service(object: Service, notes: &mut Notes) -> Spec {
    let mut out = MemberService::default();
    let spec = object.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        out.external_name = Some(spec.external_name.unwrap_or_default());
        notes.ignored("spec.type", "ExternalName", "has no endpoints; requests to it find no backend");
    }
    for (index, port) in spec.ports.unwrap_or_default().into_iter().enumerate() {
        let Some(carrier) = carrier(port.protocol.as_deref()) else {
            let protocol = port.protocol.unwrap_or_default();
            notes.ignored(
                format!("spec.ports[{index}].protocol"),
                protocol,
                "only TCP and UDP ports are used",
            );
            continue;
        };
        let number = u16::try_from(port.port).ok().filter(|port| *port > 0);
        let node_port = u16::try_from(port.node_port.unwrap_or(0));
        let (Some(number), Ok(node_port)) = (number, node_port) else {
            notes.refused_part(format!("spec.ports[{index}]"), port.port, "ports are 1 to 65535");
            continue;
        };
        let name = Arc::from(port.name.unwrap_or_default());
        let app_protocol = AppProtocol::read(port.app_protocol.as_deref());
        out.ports.push(MemberServicePort { name, port: number, carrier, node_port, app_protocol });
    }
    let status = object.status.and_then(|status| status.load_balancer).and_then(|lb| lb.ingress);
    for (index, ingress) in status.unwrap_or_default().into_iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        match ingress.ip.as_deref().map(str::parse) {
            Some(Ok(ip)) => out.load_balancer.push(ip),
            Some(Err(_)) => notes.refused_part(field, ingress.ip.unwrap_or_default(), "an IP address"),
            None => notes.ignored(field, ingress.hostname.unwrap_or_default(), "only IP addresses are used"),
        }
    }
    Spec::Service(out)
}

fn slice(object: EndpointSlice, notes: &mut Notes) -> Spec {
    let labels = object.metadata.labels.unwrap_or_default();
    let service = labels.get("kubernetes.io/service-name").cloned().unwrap_or_default();
    if service.is_empty() {
        notes.refused(
            "metadata.labels",
            "",
            "label kubernetes.io/service-name is missing: belongs to no Service",
        );
    }
    let mut out = MemberSlice { service: Arc::from(service), ..MemberSlice::default() };
    for (index, port) in object.ports.unwrap_or_default().into_iter().enumerate() {
        let Some(carrier) = carrier(port.protocol.as_deref()) else { continue };
        match u16::try_from(port.port.unwrap_or(0)) {
            Ok(number) if number > 0 => {
                out.ports.push((Arc::from(port.name.unwrap_or_default()), carrier, number));
            }
            Ok(_) | Err(_) => {
                let field = format!("ports[{index}].port");
                notes.refused_part(field, port.port.unwrap_or(0), "ports are 1 to 65535");
            }
        }
    }
    let ipv6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        other => {
            notes.refused("addressType", other, "IPv4 or IPv6");
            return Spec::EndpointSlice(out);
        }
    };
    for (index, endpoint) in object.endpoints.into_iter().enumerate() {
        let address = endpoint.addresses.first().cloned().unwrap_or_default();
        let ip: IpAddr = match address.parse() {
            Ok(ip) if IpAddr::is_ipv6(&ip) == ipv6 => ip,
            Ok(_) | Err(_) => {
                let field = format!("endpoints[{index}].addresses[0]");
                notes.refused_part(field, address, format!("an {} address", object.address_type));
                continue;
            }
        };
        let conditions = endpoint.conditions.unwrap_or_default();
        // The API: an absent `ready` means ready, an absent `serving` means what `ready` says.
        let ready = conditions.ready.unwrap_or(true);
        let terminating = conditions.terminating.unwrap_or(false);
        let serving = conditions.serving.unwrap_or(ready);
        let condition = match (terminating, ready, serving) {
            (false, true, _) => Some(Condition::Ready),
            (true, _, true) => Some(Condition::Terminating),
            (false, false, _) | (true, _, false) => None,
        };
        out.endpoints.push(SliceEndpoint {
            ip,
            condition,
            zone: Arc::from(endpoint.zone.unwrap_or_default()),
            node: Arc::from(endpoint.node_name.unwrap_or_default()),
        });
    }
    Spec::EndpointSlice(out)
}

fn node(object: Node, notes: &mut Notes) -> Spec {
    let status = object.status.unwrap_or_default();
    let of_type = |wanted: &str| -> Vec<IpAddr> {
        let listed = status.addresses.iter().flatten();
        listed.filter(|a| a.type_ == wanted).filter_map(|a| a.address.parse().ok()).collect()
    };
    let mut addresses = of_type("InternalIP");
    if addresses.is_empty() {
        addresses = of_type("ExternalIP");
    }
    if addresses.is_empty() {
        notes.ignored("status.addresses", "", "no InternalIP or ExternalIP: not reachable by NodePort");
    }
    let ready =
        status.conditions.iter().flatten().find(|c| c.type_ == "Ready").is_none_or(|c| c.status == "True");
    let labels = object.metadata.labels.unwrap_or_default();
    let zone = Arc::from(labels.get("topology.kubernetes.io/zone").map_or("", String::as_str));
    let excluded = labels.contains_key("node.kubernetes.io/exclude-from-external-load-balancers");
    Spec::Node(MemberNode { addresses, zone, ready: ready && !excluded })
}
