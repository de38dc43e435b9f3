//! Cases of the Gateway API's conformance suite that Ringway once did not meet, said anew: what a Gateway is told of what
//! cannot be served as it is written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/apiserver.rs"]
mod apiserver;
#[path = "support/real.rs"]
mod real;
#[path = "support/rig.rs"]
mod rig;

use apiserver::{ApiServer, GATEWAY_API};
use rig::{Rig, Temp, hub_and_alpha, writing};
use serde_json::{Value, json};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";

/// A hub with the Gateway API and a class of ours.
fn world() -> (ApiServer, ApiServer) {
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.install(&GATEWAY_API);
    hub.put(json!({"apiVersion": GATEWAY, "kind": "GatewayClass", "metadata": {"name": "ringway"},
        "spec": {"controllerName": "ringway.dev/gateway"}}));
    (hub, alpha)
}

fn gateway(name: &str, listeners: Value, more: &[(&str, Value)]) -> Value {
    let mut spec = json!({"gatewayClassName": "ringway", "listeners": listeners});
    for (field, value) in more {
        spec[*field] = value.clone();
    }
    json!({"apiVersion": GATEWAY, "kind": "Gateway", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn status(hub: &ApiServer, name: &str) -> Value {
    hub.object("gateways", "default", name).unwrap()["status"].clone()
}

/// Is the condition there, as "Type=Status/Reason"?
fn says(conditions: &Value, wanted: &str) -> bool {
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or("?").to_owned();
    let one = |c: &Value| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"));
    conditions.as_array().into_iter().flatten().any(|condition| one(condition) == wanted)
}

fn listener(hub: &ApiServer, gateway: &str, name: &str) -> Value {
    let listeners = status(hub, gateway)["listeners"].as_array().cloned().unwrap_or_default();
    listeners.into_iter().find(|one| one["name"] == name).unwrap_or_default()["conditions"].clone()
}

#[test]
fn a_gateway_with_parameters_that_are_not_known_is_refused_and_not_served() {
    let (hub, _alpha) = world();
    let listeners = || json!([{"name": "http", "port": 8091, "protocol": "HTTP"}]);
    let parameters = json!({"parametersRef": {"group": "example.com", "kind": "Settings", "name": "some"}});
    hub.put(gateway("strange", listeners(), &[("infrastructure", parameters)]));
    let labels = json!({"labels": {"team": "shop"}});
    let other = json!([{"name": "http", "port": 8092, "protocol": "HTTP"}]);
    hub.put(gateway("labelled", other, &[("infrastructure", labels)]));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("it is refused", |_| {
        says(&status(&hub, "strange")["conditions"], "Accepted=False/InvalidParameters")
    });
    rig.until("labels cost nothing", |_| {
        says(&status(&hub, "labelled")["conditions"], "Accepted=True/Accepted")
    });
    let text = rig.text();
    assert!(!text.contains(":8091") && text.contains(":8092"), "{text}");
}

#[test]
fn of_listeners_of_one_gateway_that_conflict_none_is_served() {
    let (hub, _alpha) = world();
    let terminate = json!({"certificateRefs": [{"name": "nobody"}]});
    let listeners = json!([
        {"name": "ends", "port": 8443, "protocol": "TLS", "hostname": "ends.example", "tls": terminate},
        {"name": "passes", "port": 8443, "protocol": "TLS", "hostname": "passes.example", "tls": {"mode": "Passthrough"}},
        {"name": "web", "port": 8093, "protocol": "HTTP"},
        {"name": "bytes", "port": 8093, "protocol": "TCP"},
        {"name": "datagrams", "port": 8093, "protocol": "UDP"},
        {"name": "alone", "port": 8094, "protocol": "HTTP"}
    ]);
    hub.put(gateway("mixed", listeners, &[]));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    for name in ["ends", "passes", "web", "bytes"] {
        for wanted in ["Accepted=False/ProtocolConflict", "Conflicted=True/ProtocolConflict"] {
            rig.until(&format!("{name}: {wanted}"), |_| says(&listener(&hub, "mixed", name), wanted));
        }
    }
    for name in ["datagrams", "alone"] {
        rig.until(name, |_| says(&listener(&hub, "mixed", name), "Programmed=True/Programmed"));
    }
    let text = rig.text();
    assert!(!text.contains(":8443") && !text.contains(":8093/tcp") && !text.contains(":8093/http"), "{text}");
    assert!(text.contains(":8093/udp") && text.contains(":8094/http"), "{text}");
}

#[test]
fn a_gateway_that_asks_clients_for_certificates_is_not_served_without_asking() {
    let (hub, _alpha) = world();
    let tls = || json!({"certificateRefs": [{"name": "nobody"}]});
    let listeners = json!([
        {"name": "https", "port": 8444, "protocol": "HTTPS", "tls": tls()},
        {"name": "free", "port": 8445, "protocol": "HTTPS", "tls": tls()},
        {"name": "http", "port": 8095, "protocol": "HTTP"}
    ]);
    let ca = json!([{"group": "", "kind": "ConfigMap", "name": "clients"}]);
    let asked = json!({"frontend": {"default": {"validation": {"caCertificateRefs": ca}}, "perPort": [{"port": 8445, "tls": {}}]}});
    hub.put(gateway("asking", listeners, &[("tls", asked)]));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("it is refused", |_| {
        says(&listener(&hub, "asking", "https"), "Accepted=False/UnsupportedValue")
    });
    rig.until("its port asks for none", |_| {
        says(&listener(&hub, "asking", "free"), "Accepted=True/Accepted")
    });
    let text = rig.text();
    assert!(!text.contains(":8444") && text.contains(":8445") && text.contains(":8095"), "{text}");
}
