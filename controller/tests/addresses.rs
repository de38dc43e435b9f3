//! Virtual IPs of Gateways, and what the hub is told when they, or their ports, cannot be had.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/apiserver.rs"]
mod apiserver;
#[path = "support/real.rs"]
mod real;
#[path = "support/rig.rs"]
mod rig;

use std::net::{IpAddr, SocketAddr};

use apiserver::{ApiServer, GATEWAY_API, OURS};
use controller::ControllerSettings;
use controller::compile::AddressPool;
use rig::{Rig, Temp, writing};
use routing::delta::Report;
use routing::model::Carrier;
use serde_json::{Value, json};

fn gateway(name: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|value| json!({"type": "IPAddress", "value": value})).collect();
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayClassName": "ringway", "addresses": addresses,
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}})
}

fn hub() -> ApiServer {
    let hub = ApiServer::start();
    hub.install(&OURS);
    hub.install(&GATEWAY_API);
    hub.put(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "ringway"}, "spec": {"controllerName": "ringway.dev/gateway"}}));
    hub
}

fn pooled(hub: &ApiServer, temp: &Temp, first: &str, last: &str) -> ControllerSettings {
    let mut settings = writing(hub, &temp.0, "one");
    settings.defaults.pool = AddressPool { ranges: vec![(first.parse().unwrap(), last.parse().unwrap())] };
    settings
}

fn live(hub: &ApiServer, name: &str) -> Value {
    hub.object("gateways", "default", name).unwrap_or_default()
}

fn addresses(hub: &ApiServer, name: &str) -> Vec<IpAddr> {
    let status = live(hub, name)["status"]["addresses"].clone();
    status
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| one["value"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// Status, reason and message of `Programmed` in this list.
fn programmed(conditions: &Value) -> (String, String, String) {
    let list = conditions.as_array().cloned().unwrap_or_default();
    let one = list.iter().find(|one| one["type"] == "Programmed").cloned().unwrap_or_default();
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

fn of_gateway(hub: &ApiServer, name: &str) -> (String, String, String) {
    programmed(&live(hub, name)["status"]["conditions"])
}

#[test]
fn gateways_share_a_port_by_addresses_of_their_own_that_survive_a_restart() {
    let hub = hub();
    for name in ["a", "b"] {
        hub.put(gateway(name, &[]));
    }
    let temp = Temp::new();
    let mut rig = Rig::start(pooled(&hub, &temp, "10.77.0.1", "10.77.0.9"));
    rig.until("both have one", |rig| {
        rig.text();
        ["a", "b"].iter().all(|name| addresses(&hub, name).len() == 1 && of_gateway(&hub, name).0 == "True")
    });
    let (a, b) = (addresses(&hub, "a"), addresses(&hub, "b"));
    assert_ne!(a, b);
    for ip in a.iter().chain(&b) {
        assert!(rig.serves(&format!("{ip}:80")), "{}", rig.text());
    }
    let view = rig.sources();
    assert_eq!((view.gateway_addresses.len(), view.gateways_without_address), (2, 0));
    drop(rig);

    // Its memory is the hub's: the pool has other addresses first now, and nobody moves.
    let mut settings = pooled(&hub, &temp, "10.66.0.1", "10.66.0.9");
    settings.defaults.pool.ranges.push(("10.77.0.1".parse().unwrap(), "10.77.0.9".parse().unwrap()));
    let mut rig = Rig::start(settings);
    rig.until("they are served again", |rig| a.iter().chain(&b).all(|ip| rig.serves(&format!("{ip}:80"))));
    hub.delete("gateways", "default", "a");
    rig.until("an address is let go of", |rig| !rig.serves(&format!("{}:80", a[0])));
    assert!(rig.serves(&format!("{}:80", b[0])));
    assert_eq!(addresses(&hub, "b"), b);
}

#[test]
fn a_gateway_without_an_address_is_told_why() {
    let hub = hub();
    hub.put(gateway("asks", &["10.77.0.1"]));
    let temp = Temp::new();
    let mut rig = Rig::start(pooled(&hub, &temp, "10.77.0.1", "10.77.0.1"));
    rig.until("the first", |rig| rig.serves("10.77.0.1:80") && of_gateway(&hub, "asks").0 == "True");
    hub.put(gateway("late", &[]));
    hub.put(gateway("outside", &["192.0.2.9"]));
    hub.put(gateway("same", &["10.77.0.1"]));
    for (name, reason, message) in [
        ("late", "AddressNotAssigned", "exhausted"),
        ("outside", "AddressNotUsable", "192.0.2.9"),
        ("same", "AddressNotUsable", "default/asks has it"),
    ] {
        rig.until(name, |rig| {
            rig.text();
            let (status, because, said) = of_gateway(&hub, name);
            status == "False" && because == reason && said.contains(message)
        });
        assert_eq!(addresses(&hub, name), [] as [IpAddr; 0], "not the node's either");
        let listener = live(&hub, name)["status"]["listeners"][0]["conditions"].clone();
        assert_eq!(programmed(&listener).0, "False", "{name}");
    }
    assert_eq!(rig.sources().gateways_without_address, 3);
    hub.delete("gateways", "default", "asks");
    rig.until("what is free is given", |rig| {
        rig.text();
        addresses(&hub, "same").len() == 1 && of_gateway(&hub, "same").0 == "True"
    });
}

#[test]
fn programmed_is_false_while_a_worker_cannot_listen() {
    let hub = hub();
    hub.put(gateway("web", &["10.77.0.5"]));
    hub.put(gateway("other", &["10.77.0.6"]));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("it is served", |rig| rig.serves("10.77.0.5:80") && of_gateway(&hub, "web").0 == "True");
    let addr: SocketAddr = "10.77.0.5:80".parse().unwrap();
    let say = |error| Report::Listening { worker: 0, addr, carrier: Carrier::Tcp, error };
    for (error, because) in [(98, "PortUnavailable"), (99, "AddressNotUsable")] {
        rig.report(say(Some(error)));
        rig.until(because, |rig| {
            rig.text();
            let listener = live(&hub, "web")["status"]["listeners"][0]["conditions"].clone();
            [of_gateway(&hub, "web"), programmed(&listener)].iter().all(|(status, reason, message)| {
                status == "False" && reason == because && message.contains("10.77.0.5:80")
            })
        });
        assert_eq!(of_gateway(&hub, "other").0, "True");
        rig.report(say(None));
        rig.until("it listens at last", |rig| {
            rig.text();
            of_gateway(&hub, "web").0 == "True"
        });
    }
    let ip = addr.ip();
    rig.report(Report::Address { ip, failure: Some("CAP_NET_ADMIN is missing".into()) });
    rig.until("an address that is not on its interface", |rig| {
        rig.text();
        let (status, reason, message) = of_gateway(&hub, "web");
        (&*status, &*reason) == ("False", "AddressNotUsable") && message.contains("CAP_NET_ADMIN")
    });
}
