//! ACK One's gateways as they are written: `AlbConfig` and `MseIngressConfig`, as what an `IngressClass` names.
//!
//! What a gateway of ours has too is honoured: clusters, listeners, source ranges, time limits. What only a cloud can
//! do is named as ignored, field by field; what would be less protected than it was written is not served.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use routing::id::ListenerId;
use routing::model::{Access, Protocol};
use serde_json::Value;

use crate::compile::annotations::ranges;
use crate::compile::context::{Class, Context, any_address};
use crate::compile::ids::Ids;
use crate::compile::listen::{Listen, Taken};
use crate::compile::policy::{Part, Permitted};
use crate::object::{Kind, Object, ObjectId, Source, Spec};
use crate::text;
use crate::verdict::Notes;
use crate::world::World;

/// What is said of fields that only a cloud can honour.
const CLOUD: &str = "ignored: cloud provisioning";
/// The names of the annotations that list the member clusters.
const REMOTE_CLUSTERS: [(Kind, &str); 2] = [
    (Kind::AlbConfig, "alb.ingress.kubernetes.io/remote-clusters"),
    (Kind::MseIngressConfig, "mse.alibabacloud.com/remote-clusters"),
];
/// ALB's own limit of a request, where a listener says nothing.
const ALB_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What a listener of an `AlbConfig` adds to its class.
#[derive(Default)]
struct AlbListeners {
    ids: Vec<ListenerId>,
    allow: Option<Vec<IpNet>>,
    deny: Vec<IpNet>,
    request: Option<Duration>,
    gzip: bool,
}

impl Context {
    /// The class that `kind` `name` describes.
    pub(super) fn cloud_class(
        &mut self,
        world: &World,
        (kind, name): (Kind, &str),
        taken: &mut Taken,
        ids: &mut Ids,
        notes: &mut Notes,
    ) -> Class {
        let id = ObjectId { source: Source::Fleet, kind, namespace: Arc::from(""), name: Arc::from(name) };
        let Some(object) = world.get(&id) else {
            let reason = "no such object on the Fleet: the class is served on --listen by all clusters";
            notes.refused_part("spec.parameters.name", name, reason);
            return self.classless.clone();
        };
        let mut own = Notes::default();
        let mut class = Class { permitted: self.remote_clusters(object, &mut own), ..self.classless.clone() };
        match &object.spec {
            Spec::AlbConfig(spec) => {
                self.alb(spec, &mut class, taken, ids, &mut own);
                let specs = class.listeners.iter().filter_map(|id| self.listeners.get(id));
                let served = specs.map(|spec| Listen { addr: spec.addr, protocol: spec.protocol }).collect();
                self.alb_listeners.insert(id.name.clone(), served);
            }
            Spec::MseIngressConfig(spec) => mse(spec, &mut class, &mut own),
            Spec::Ingress(_)
            | Spec::IngressClass(_)
            | Spec::Gateway(_)
            | Spec::GatewayClass(_)
            | Spec::HttpRoute(_)
            | Spec::GrpcRoute(_)
            | Spec::TcpRoute(_)
            | Spec::TlsRoute(_)
            | Spec::UdpRoute(_)
            | Spec::ReferenceGrant(_)
            | Spec::BackendTlsPolicy(_)
            | Spec::ConfigMap(_)
            | Spec::ClusterProfile(_)
            | Spec::MemberCluster(_)
            | Spec::GatewayConfig(_)
            | Spec::FailoverPolicy(_)
            | Spec::Namespace(_)
            | Spec::Secret(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_)
            | Spec::Node(_)
            | Spec::Other => {}
        }
        // One that two classes share is remarked on once.
        self.notes.insert(id, own);
        class
    }

    fn remote_clusters(&self, object: &Object, notes: &mut Notes) -> Permitted {
        let of_kind = REMOTE_CLUSTERS.iter().find(|(kind, _)| *kind == object.id.kind);
        let name = of_kind.map_or("", |(_, name)| name);
        let field = format!("metadata.annotations[{name}]");
        let Some(list) = object.annotations.get(name) else {
            notes.info(field, "", "absent: every member cluster serves");
            return Permitted::All;
        };
        let mut permitted = BTreeSet::new();
        for cluster in list.split(',').map(str::trim).filter(|cluster| !cluster.is_empty()) {
            if !self.members.contains_key(cluster) {
                notes.ignored(&field, cluster, "no such member cluster");
            }
            permitted.insert(Arc::from(cluster));
        }
        Permitted::Only(permitted)
    }

    fn alb(&mut self, spec: &Value, class: &mut Class, taken: &mut Taken, ids: &mut Ids, notes: &mut Notes) {
        for (name, value) in fields(spec) {
            match name.as_str() {
                "config" => ignore_all(value, "spec.config", CLOUD, notes),
                "listeners" => {}
                other => notes.ignored(format!("spec.{other}"), "", "unknown field"),
            }
        }
        let mut found = AlbListeners::default();
        let listeners = spec.get("listeners").and_then(Value::as_array);
        for (index, listener) in listeners.into_iter().flatten().enumerate() {
            let field = format!("spec.listeners[{index}]");
            if let Some(listen) = alb_listener(listener, &field, &mut found, notes) {
                found.ids.extend(self.ingress_listener(listen, taken, ids));
            }
        }
        if listeners.is_some_and(|listeners| !listeners.is_empty()) {
            class.listeners = found.ids;
        }
        class.gzip = found.gzip;
        let allow = found.allow.unwrap_or_default().into();
        let access = Access { allow, deny: found.deny.into() };
        class.access = (access != Access::default()).then_some(access);
        class.default =
            Part { request: Some(found.request.unwrap_or(ALB_REQUEST_TIMEOUT)), ..class.default.clone() };
    }
}

/// Where the listener is served. `None` = it is not.
fn alb_listener(listener: &Value, field: &str, out: &mut AlbListeners, notes: &mut Notes) -> Option<Listen> {
    let port = listener.get("port").and_then(Value::as_i64).unwrap_or(0);
    let port = match text::bounded::<u16>(port, 1, 65_535) {
        Ok(port) => port,
        Err(allowed) => {
            notes.refused_part(format!("{field}.port"), port, format!("allowed: {allowed}"));
            return None;
        }
    };
    let protocol = match listener.get("protocol").and_then(Value::as_str).unwrap_or_default() {
        "HTTP" => Some(Protocol::Http),
        "HTTPS" => Some(Protocol::Https),
        protocol @ "QUIC" => {
            let reason = "not yet served: HTTP/3; the listener is not opened";
            notes.ignored(format!("{field}.protocol"), protocol, reason);
            None
        }
        other => {
            notes.refused_part(format!("{field}.protocol"), other, "allowed: HTTP, HTTPS, QUIC");
            None
        }
    };
    let mut is_served = protocol.is_some();
    for (name, value) in fields(listener) {
        let field = format!("{field}.{name}");
        match name.as_str() {
            "port" | "protocol" => {}
            "requestTimeout" => match text::bounded::<u32>(value.as_i64().unwrap_or(0), 1, 600) {
                Ok(seconds) => {
                    let timeout = Duration::from_secs(u64::from(seconds));
                    // One limit for the class: the longest keeps every promise.
                    out.request = Some(out.request.map_or(timeout, |before| before.max(timeout)));
                }
                Err(allowed) => notes.refused_part(field, value, format!("allowed: {allowed} (seconds)")),
            },
            "aclConfig" => is_served &= acl(value, &field, out, notes),
            "xForwardedForConfig" => forwarded(value, &field, notes),
            "idleTimeout" => {
                notes.ignored(
                    field,
                    value,
                    "ignored: idle clients are bounded by [timeouts] in gateway.toml",
                );
            }
            "caEnabled" if value.as_bool() == Some(true) => {
                let reason = "clients' certificates are not asked for yet: the listener is not opened";
                notes.refused_part(field, value, reason);
                is_served = false;
            }
            "gzipEnabled" => out.gzip |= gzip(value, field, notes),
            "http2Enabled" => http2(value, field, notes),
            "quicConfig" => notes.ignored(field, "", "ignored: not yet served: HTTP/3"),
            "certificates" => {
                let reason = "ignored: certificates of the cloud cannot be read; those of spec.tls of the Ingresses are used";
                notes.ignored(field, "", reason);
            }
            "securityPolicyId" | "caEnabled" | "caCertificates" => {
                notes.ignored(field, "", "ignored: TLS 1.2 and 1.3 with safe ciphers, for every client");
            }
            "logConfig" => notes.ignored(field, "", "ignored: requests are not traced"),
            _ => notes.ignored(field, "", "unknown field"),
        }
    }
    protocol.filter(|_| is_served).map(|protocol| Listen { addr: any_address(port), protocol })
}

/// Does the listener ask for gzip?
fn gzip(value: &Value, field: String, notes: &mut Notes) -> bool {
    match value.as_bool() {
        Some(_) => {
            notes.info(field, value, "honoured with a difference: for all listeners of the class together");
        }
        None => notes.refused_part(field, value, "allowed: true, false"),
    }
    value.as_bool() == Some(true)
}

fn http2(value: &Value, field: String, notes: &mut Notes) {
    if value.as_bool() == Some(true) {
        notes.info(field, value, "honoured: http2.tls in gateway.toml, which is on unless it says otherwise");
    } else {
        notes.ignored(field, value, "ignored: http2.tls in gateway.toml decides for all listeners");
    }
}

/// Source ranges. `false` = they cannot be read, and the listener must not be open to everybody.
fn acl(config: &Value, field: &str, out: &mut AlbListeners, notes: &mut Notes) -> bool {
    let entry = |value: &Value| value.as_str().or_else(|| value.get("entry")?.as_str()).map(str::to_owned);
    let entries = config.get("aclEntries").and_then(Value::as_array).into_iter().flatten();
    let entries: Vec<String> = entries.filter_map(entry).collect();
    let has_ids = config.get("aclIds").and_then(Value::as_array).is_some_and(|ids| !ids.is_empty());
    if has_ids {
        notes.refused_part(
            format!("{field}.aclIds"),
            "",
            "lists of the cloud cannot be read: the listener is not opened",
        );
        return false;
    }
    let list = match ranges(&entries.join(",")) {
        Ok(list) => list,
        Err(allowed) => {
            let reason = format!("allowed: {allowed}; the listener is not opened");
            notes.refused_part(format!("{field}.aclEntries"), entries.join(","), reason);
            return false;
        }
    };
    match config.get("aclType").and_then(Value::as_str).unwrap_or_default() {
        "White" => {
            let allow = out.allow.get_or_insert_default();
            if !allow.is_empty() && *allow != list {
                let reason =
                    "honoured with a difference: the lists of all listeners hold together for the class";
                notes.info(format!("{field}.aclEntries"), "", reason);
            }
            allow.extend(list);
        }
        "Black" => out.deny.extend(list),
        other => {
            let reason = "allowed: White, Black; the listener is not opened";
            notes.refused_part(format!("{field}.aclType"), other, reason);
            return false;
        }
    }
    true
}

/// What backends are told about clients: always the address, the protocol and the host.
fn forwarded(config: &Value, field: &str, notes: &mut Notes) {
    for (name, value) in fields(config) {
        let field = format!("{field}.{name}");
        let asks = value.as_bool() == Some(true);
        match (name.to_ascii_lowercase().as_str(), asks) {
            ("xforwardedforenabled" | "xforwardedforprotoenabled", true) => {
                notes.info(field, value, "honoured")
            }
            ("xforwardedforenabled" | "xforwardedforprotoenabled", false) => {
                notes.ignored(field, value, "ignored: X-Forwarded-For and X-Forwarded-Proto are always sent");
            }
            (_, true) => notes.ignored(field, value, "ignored: this header is not sent"),
            (_, false) => {}
        }
    }
}

fn mse(spec: &Value, class: &mut Class, notes: &mut Notes) {
    for (name, value) in fields(spec) {
        let field = format!("spec.{name}");
        match name.as_str() {
            "id" | "override" | "name" => notes.ignored(field, value, CLOUD),
            "common" => ignore_all(value, &field, CLOUD, notes),
            "monitor" => {
                ignore_all(value, &field, "ignored: logs and metrics are set up in gateway.toml", notes)
            }
            "ingress" => {
                let reason = "ignored: the IngressClass that names this object decides";
                ignore_all(value, &field, reason, notes);
            }
            "global" => mse_global(value, class, notes),
            _ => notes.ignored(field, "", "unknown field"),
        }
    }
}

fn mse_global(global: &Value, class: &mut Class, notes: &mut Notes) {
    for (name, value) in fields(global) {
        match name.as_str() {
            "tls" => ignore_all(
                value,
                "spec.global.tls",
                "ignored: cloud provisioning; TLS is served without it",
                notes,
            ),
            "ipAccessControl" => {
                let mut access = Access::default();
                for (list, into) in [("whitelist", &mut access.allow), ("blacklist", &mut access.deny)] {
                    let entries = value.get(list).and_then(Value::as_array).into_iter().flatten();
                    let entries: Vec<&str> = entries.filter_map(Value::as_str).collect();
                    if entries.is_empty() {
                        continue;
                    }
                    match ranges(&entries.join(",")) {
                        Ok(ranges) => *into = ranges.into(),
                        Err(allowed) => {
                            let field = format!("spec.global.ipAccessControl.{list}");
                            let reason = format!("allowed: {allowed}; the class is served nowhere");
                            notes.refused_part(field, entries.join(","), reason);
                            class.listeners.clear();
                        }
                    }
                }
                class.access = (access != Access::default()).then_some(access);
            }
            other => notes.ignored(format!("spec.global.{other}"), "", "unknown field"),
        }
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Names each field of an object.
fn ignore_all(value: &Value, field: &str, reason: &str, notes: &mut Notes) {
    for (name, value) in fields(value) {
        let nested = value.is_object() || value.is_array();
        let plain = if nested { String::new() } else { value.to_string() };
        let shown = value.as_str().map_or(plain, str::to_owned);
        notes.ignored(format!("{field}.{name}"), shown, reason);
    }
}
