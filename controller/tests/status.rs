//! What the controller writes to the hub: conditions, addresses and Events, right after what they speak of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/apiserver.rs"]
mod apiserver;
#[path = "support/hostile.rs"]
mod made;
#[path = "support/real.rs"]
mod real;
#[path = "support/rig.rs"]
mod rig;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, CLOUD, GATEWAY_API, needs_ours};
use rig::{Rig, Temp, declared, hub_and_alpha, ingress, service, slice, writing};
use serde_json::{Value, json};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";
/// Within this time whoever wrote something that cannot be served knows why (S36–S41).
const TOLD_WITHIN: Duration = Duration::from_secs(1);

fn class() -> Value {
    json!({"apiVersion": GATEWAY, "kind": "GatewayClass", "metadata": {"name": "ringway"},
        "spec": {"controllerName": "ringway.dev/gateway"}})
}

fn gateway(name: &str, class: &str, listeners: Value) -> Value {
    json!({"apiVersion": GATEWAY, "kind": "Gateway", "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayClassName": class, "listeners": listeners}})
}

/// A route with one parent and one rule.
fn route(namespace: &str, name: &str, parent: Value, backend: Value) -> Value {
    json!({"apiVersion": GATEWAY, "kind": "HTTPRoute", "metadata": {"name": name, "namespace": namespace},
        "spec": {"parentRefs": [parent], "hostnames": [format!("{name}.example")],
            "rules": [{"backendRefs": [backend]}]}})
}

fn web() -> Value {
    json!({"name": "web", "port": 80})
}

fn public() -> Value {
    json!({"name": "public", "namespace": "default"})
}

/// A hub with the Gateway API, a Gateway `public` for all namespaces, and a member `alpha` with the Service `web` in
/// two namespaces.
fn world() -> (ApiServer, ApiServer) {
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.install(&GATEWAY_API);
    hub.put(class());
    let all = json!({"namespaces": {"from": "All"}});
    hub.put(gateway(
        "public",
        "ringway",
        json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": all}]),
    ));
    let mut other = service();
    other["metadata"]["namespace"] = "shop".into();
    alpha.put(other);
    (hub, alpha)
}

/// "Type=Status/Reason" of each condition.
fn told(conditions: &Value) -> Vec<String> {
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or("?").to_owned();
    let one = |c: &Value| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"));
    conditions.as_array().into_iter().flatten().map(one).collect()
}

/// The conditions of the first entry that is ours.
fn parent(hub: &ApiServer, namespace: &str, name: &str) -> Vec<String> {
    let Some(route) = hub.object("httproutes", namespace, name) else { return Vec::new() };
    let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
    let ours = parents.iter().find(|entry| entry["controllerName"] == "ringway.dev/gateway");
    ours.map(|entry| told(&entry["conditions"])).unwrap_or_default()
}

fn events(hub: &ApiServer) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let about = |event: &Value| {
        let regarding = &event["regarding"];
        let object = format!(
            "{} {}/{}",
            text(&regarding["kind"]),
            text(&regarding["namespace"]),
            text(&regarding["name"])
        );
        (object, text(&event["reason"]), text(&event["note"]))
    };
    hub.objects("events").iter().map(about).collect()
}

#[test]
fn a_route_is_told_what_became_of_it_at_each_parent() {
    let (hub, _alpha) = world();
    hub.put(gateway(
        "own",
        "ringway",
        json!([{"name": "http", "port": 81, "protocol": "HTTP", "hostname": "*.shop.test"}]),
    ));
    hub.put(route("default", "good", public(), web()));
    hub.put(route("default", "section", json!({"name": "public", "sectionName": "nowhere"}), web()));
    hub.put(route("default", "hostname", json!({"name": "own"}), web()));
    hub.put(route("shop", "namespace", json!({"name": "own", "namespace": "default"}), web()));
    hub.put(route("default", "missing", public(), json!({"name": "nobody", "port": 80})));
    hub.put(route("default", "port", public(), json!({"name": "web", "port": 81})));
    let far = json!({"name": "web", "namespace": "shop", "port": 80});
    hub.put(route("default", "far", public(), far));
    let kind = json!({"group": "example.com", "kind": "Bucket", "name": "web", "port": 80});
    hub.put(route("default", "kind", public(), kind));
    let mut partly = route("default", "partly", public(), web());
    partly["spec"]["rules"] = json!([
        {"backendRefs": [web()]},
        {"backendRefs": [web()], "matches": [{"path": {"type": "RegularExpression", "value": "(("}}]}
    ]);
    hub.put(partly);
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let resolved = "ResolvedRefs=True/ResolvedRefs";
    let accepted = "Accepted=True/Accepted";
    let expected = [
        ("default", "good", vec![accepted, resolved]),
        ("default", "section", vec!["Accepted=False/NoMatchingParent", resolved]),
        ("default", "hostname", vec!["Accepted=False/NoMatchingListenerHostname", resolved]),
        ("shop", "namespace", vec!["Accepted=False/NotAllowedByListeners", resolved]),
        ("default", "missing", vec![accepted, "ResolvedRefs=False/BackendNotFound"]),
        ("default", "port", vec![accepted, "ResolvedRefs=False/BackendNotFound"]),
        ("default", "far", vec![accepted, "ResolvedRefs=False/RefNotPermitted"]),
        ("default", "kind", vec![accepted, "ResolvedRefs=False/InvalidKind"]),
        ("default", "partly", vec![accepted, resolved, "PartiallyInvalid=True/UnsupportedValue"]),
    ];
    for (namespace, name, conditions) in expected {
        rig.until(&format!("{name}: {conditions:?}"), |_| parent(&hub, namespace, name) == conditions);
    }
    let good = hub.object("httproutes", "default", "good").unwrap();
    let entry = &good["status"]["parents"][0];
    assert_eq!(entry["parentRef"], good["spec"]["parentRefs"][0], "as it was written");
    assert_eq!(entry["conditions"][0]["observedGeneration"], good["metadata"]["generation"]);
    let since = entry["conditions"][0]["lastTransitionTime"].clone();

    let mut edited = good.clone();
    edited["spec"]["hostnames"] = json!(["other.example"]);
    let edited = hub.put(edited);
    rig.until("the new generation is told", |_| {
        let now = hub.object("httproutes", "default", "good").unwrap();
        now["status"]["parents"][0]["conditions"][0]["observedGeneration"] == edited["metadata"]["generation"]
    });
    let now = hub.object("httproutes", "default", "good").unwrap();
    assert_eq!(now["status"]["parents"][0]["conditions"][0]["lastTransitionTime"], since, "nothing changed");
}

#[test]
#[allow(clippy::too_many_lines, reason = "one Gateway, and all that is said of it")]
fn a_gateway_is_told_what_became_of_its_listeners_and_how_many_routes_they_have() {
    let (hub, _alpha) = world();
    let listeners = json!([
        {"name": "http", "port": 8080, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}, {"kind": "UDPRoute"}]}},
        {"name": "conflict", "port": 8085, "protocol": "TCP"},
        {"name": "rival", "port": 8085, "protocol": "HTTP"},
        {"name": "tls", "port": 8443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "nobody"}]}},
        {"name": "far", "port": 8444, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c", "namespace": "shop"}]}},
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "own", "port": 54, "protocol": "example.com/own"},
        {"name": "tcp", "port": 9000, "protocol": "TCP"}
    ]);
    hub.put(gateway("many", "ringway", listeners));
    hub.put(gateway("younger", "ringway", json!([{"name": "same", "port": 8080, "protocol": "HTTP"}])));
    let mut bound = gateway("bound", "ringway", json!([{"name": "http", "port": 8080, "protocol": "HTTP"}]));
    bound["spec"]["addresses"] = json!([{"type": "IPAddress", "value": "127.0.0.9"}]);
    hub.put(bound);
    let mut named = gateway("named", "ringway", json!([{"name": "http", "port": 8090, "protocol": "HTTP"}]));
    named["spec"]["addresses"] = json!([{"type": "Hostname", "value": "x.example"}]);
    hub.put(named);
    for name in ["a", "b", "c"] {
        hub.put(route("default", name, json!({"name": "many", "sectionName": "http"}), web()));
    }
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let status = |name: &str| hub.object("gateways", "default", name).unwrap()["status"].clone();
    let listener = |name: &str| {
        let gateway = if name == "same" { "younger" } else { "many" };
        let listeners = status(gateway)["listeners"].as_array().cloned().unwrap_or_default();
        listeners.into_iter().find(|one| one["name"] == name).unwrap_or_default()
    };
    let says = |name: &str, wanted: &str| told(&listener(name)["conditions"]).iter().any(|one| one == wanted);
    rig.until("three routes", |_| listener("http")["attachedRoutes"] == 3);
    for (name, wanted) in [
        ("http", "Accepted=True/Accepted"),
        ("http", "Programmed=True/Programmed"),
        ("http", "ResolvedRefs=False/InvalidRouteKinds"),
        ("conflict", "Conflicted=True/ProtocolConflict"),
        ("rival", "Conflicted=True/ProtocolConflict"),
        ("rival", "Programmed=False/Invalid"),
        ("conflict", "Programmed=False/Invalid"),
        ("same", "Conflicted=True/HostnameConflict"),
        ("tls", "ResolvedRefs=False/InvalidCertificateRef"),
        ("tls", "Programmed=False/Invalid"),
        ("far", "ResolvedRefs=False/RefNotPermitted"),
        ("udp", "Programmed=True/Programmed"),
        ("own", "Accepted=False/UnsupportedProtocol"),
        ("tcp", "Programmed=True/Programmed"),
        ("tcp", "Conflicted=False/NoConflicts"),
    ] {
        rig.until(&format!("{name}: {wanted}"), |_| says(name, wanted));
    }
    assert_eq!(
        listener("http")["supportedKinds"],
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}])
    );
    assert_eq!(listener("tcp")["supportedKinds"][0]["kind"], "TCPRoute");
    assert_eq!(listener("own")["supportedKinds"], json!([]), "of a protocol that nobody knows");
    assert_eq!(
        told(&status("many")["conditions"]),
        ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]
    );
    let named = [
        json!({"type": "IPAddress", "value": "203.0.113.7"}),
        json!({"type": "Hostname", "value": "gw.example"}),
    ];
    assert_eq!(status("many")["addresses"], json!(named));
    rig.until("its own address", |_| {
        status("bound")["addresses"] == json!([{"type": "IPAddress", "value": "127.0.0.9"}])
    });
    assert!(
        rig.text().contains("127.0.0.9:8080"),
        "two Gateways share a port, each at its address\n{}",
        rig.text()
    );
    rig.until("an address that is none", |_| {
        told(&status("named")["conditions"])
            .first()
            .is_some_and(|one| one == "Accepted=False/UnsupportedAddress")
    });

    hub.delete("httproutes", "default", "b");
    rig.until("two routes", |_| listener("http")["attachedRoutes"] == 2);
    let mut fewer = hub.object("gateways", "default", "many").unwrap();
    let listeners = fewer["spec"]["listeners"].as_array().unwrap()[..1].to_vec();
    fewer["spec"]["listeners"] = json!(listeners);
    hub.put(fewer);
    rig.until("a listener that is gone is not spoken of", |_| {
        status("many")["listeners"].as_array().is_some_and(|listeners| listeners.len() == 1)
    });
}

#[test]
fn a_grant_that_is_revoked_takes_the_reference_with_it() {
    let (hub, _alpha) = world();
    hub.put(route("default", "far", public(), json!({"name": "web", "namespace": "shop", "port": 80})));
    let grant = json!({"apiVersion": GATEWAY, "kind": "ReferenceGrant",
        "metadata": {"name": "allow", "namespace": "shop"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "default"}],
            "to": [{"group": "", "kind": "Service"}]}});
    hub.put(grant.clone());
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let resolved = |wanted: &str| parent(&hub, "default", "far").get(1).is_some_and(|one| one == wanted);
    rig.until("it is granted", |_| resolved("ResolvedRefs=True/ResolvedRefs"));
    assert!(!rig.text().contains("reply 500"), "{}", rig.text());
    for _ in 0..3 {
        let began = Instant::now();
        hub.delete("referencegrants", "shop", "allow");
        rig.until("the worker answers 500", |rig| rig.text().contains("reply 500"));
        let at_worker = began.elapsed();
        rig.until("and it is told", |_| resolved("ResolvedRefs=False/RefNotPermitted"));
        println!("revoked: at the worker after {at_worker:?}, told after {:?}", began.elapsed());
        hub.put(grant.clone());
        rig.until("granted again", |rig| !rig.text().contains("reply 500"));
        rig.until("and told", |_| resolved("ResolvedRefs=True/ResolvedRefs"));
    }
}

#[test]
fn entries_of_other_controllers_stay_whatever_happens() {
    let (hub, _alpha) = world();
    hub.put(json!({"apiVersion": GATEWAY, "kind": "GatewayClass", "metadata": {"name": "foreign"},
        "spec": {"controllerName": "example.com/other"}}));
    hub.put(gateway("theirs", "foreign", json!([{"name": "http", "port": 80, "protocol": "HTTP"}])));
    let theirs = json!({"parentRef": {"name": "theirs"}, "controllerName": "example.com/other",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let mut both = route("default", "both", public(), web());
    both["spec"]["parentRefs"] = json!([{"name": "theirs"}, public()]);
    both["status"] = json!({"parents": [theirs]});
    hub.put(both);
    hub.put(route("default", "foreign", json!({"name": "theirs"}), json!({"name": "nobody", "port": 80})));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let entries = |name: &str| {
        let route = hub.object("httproutes", "default", name).unwrap();
        route["status"]["parents"].as_array().cloned().unwrap_or_default()
    };
    rig.until("ours stands beside theirs", |_| entries("both").len() == 2);
    assert_eq!(entries("both")[0]["controllerName"], theirs["controllerName"]);
    assert_eq!(entries("both")[0]["conditions"], theirs["conditions"]);
    // The other one writes; what it wrote must not be lost to what we read before.
    let mut object = hub.object("httproutes", "default", "both").unwrap();
    object["status"]["parents"][0]["conditions"][0]["reason"] = "Changed".into();
    object["spec"]["hostnames"] = json!(["new.example"]);
    let object = hub.put(object);
    rig.until("the new generation is told", |_| {
        entries("both")[1]["conditions"][0]["observedGeneration"] == object["metadata"]["generation"]
    });
    assert_eq!(entries("both")[0]["conditions"][0]["reason"], "Changed");
    let mut object = hub.object("httproutes", "default", "both").unwrap();
    object["spec"]["parentRefs"] = json!([{"name": "theirs"}]);
    hub.put(object);
    rig.until("ours goes, theirs stays", |_| {
        let now = entries("both");
        now.len() == 1 && now[0]["controllerName"] == "example.com/other"
    });
    assert!(entries("foreign").is_empty(), "a route without a parent of ours is not ours to speak of");
    let events = events(&hub);
    assert!(
        events.iter().all(|(object, ..)| !object.contains("foreign") && !object.contains("theirs")),
        "{events:?}"
    );
    let gateway = hub.object("gateways", "default", "theirs").unwrap();
    // What a real server puts there by default is `Unknown`, and speaks for nobody.
    let said = told(&gateway["status"]["conditions"]);
    assert!(
        gateway["status"]["listeners"].is_null() && said.iter().all(|c| c.contains("Unknown")),
        "{gateway}"
    );
}

#[test]
fn ingresses_and_cloud_configs_are_told_where_they_are_served() {
    let (hub, _alpha) = world();
    hub.install(&CLOUD);
    let own = |name: &str, group: &str, kind: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name},
            "spec": {"controller": "ringway.dev/gateway", "parameters": {"apiGroup": group, "kind": kind, "name": name}}})
    };
    hub.put(own("alb", "alibabacloud.com", "AlbConfig"));
    hub.put(own("mse", "mse.alibabacloud.com", "MseIngressConfig"));
    hub.put(json!({"apiVersion": "alibabacloud.com/v1", "kind": "AlbConfig", "metadata": {"name": "alb"},
        "spec": {"config": {}, "listeners": [{"port": 80, "protocol": "HTTP"}]}}));
    hub.put(json!({"apiVersion": "mse.alibabacloud.com/v1alpha1", "kind": "MseIngressConfig",
        "metadata": {"name": "mse"}, "spec": {"name": "mse"}}));
    let mut shop = ingress("shop");
    shop["spec"]["ingressClassName"] = "alb".into();
    hub.put(shop);
    let mut foreign = ingress("foreign");
    foreign["spec"]["ingressClassName"] = "nginx".into();
    hub.put(foreign);
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let balancer = |plural: &str, namespace: &str, name: &str| {
        hub.object(plural, namespace, name).unwrap()["status"]["loadBalancer"].clone()
    };
    rig.until("the nodes' addresses", |_| {
        balancer("ingresses", "default", "shop")["ingress"]
            == json!([{"ip": "203.0.113.7"}, {"hostname": "gw.example"}])
    });
    rig.until("the address it is bound to", |_| {
        balancer("ingresses", "default", "web")["ingress"] == json!([{"ip": "127.0.0.1"}])
    });
    rig.until("AlbConfig", |_| {
        balancer("albconfigs", "", "alb")
            == json!({"dnsname": "gw.example", "listeners": [{"portAndProtocol": "80/HTTP"}]})
    });
    rig.until("MseIngressConfig", |_| {
        hub.object("mseingressconfigs", "", "mse").unwrap()["status"]["phase"] == "Listening"
    });
    let foreign = balancer("ingresses", "default", "foreign");
    assert!(foreign["ingress"].is_null(), "a class that we do not know is not ours: {foreign}");
    assert!(events(&hub).iter().all(|(object, ..)| object != "Ingress default/foreign"));

    let mut web = hub.object("ingresses", "default", "web").unwrap();
    web["spec"]["ingressClassName"] = "nginx".into();
    hub.put(web);
    rig.until("who passes to another controller loses our address", |_| {
        balancer("ingresses", "default", "web").as_object().is_none_or(|b| b.get("ingress").is_none())
    });
}

#[test]
fn what_is_refused_or_ignored_is_an_event_once() {
    let (hub, _alpha) = world();
    let mut second = ingress("younger");
    second["spec"]["rules"][0]["host"] = "web.example".into();
    // A real server counts ages in seconds: of two with one age the first by name comes first.
    second["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z".into();
    hub.put(second);
    let mut wrong = ingress("wrong");
    wrong["spec"]["rules"][0]["http"]["paths"][0]["path"] = "/no good".into();
    hub.put(wrong);
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let about =
        |object: &str| events(&hub).into_iter().filter(|(about, ..)| about == object).collect::<Vec<_>>();
    rig.until("the wrong path", |_| !about("Ingress default/wrong").is_empty());
    let (_, reason, note) = about("Ingress default/wrong").remove(0);
    assert_eq!(reason, "PartlyRefused");
    assert!(note.contains("spec.rules[0].http.paths[0].path") && note.contains("/no good"), "{note}");
    rig.until("the younger of two with one host", |_| !about("Ingress default/younger").is_empty());
    let (_, reason, note) = about("Ingress default/younger").remove(0);
    assert_eq!(reason, "PartlyIgnored");
    assert!(note.contains("Ingress default/web has the same match on this host and comes first"), "{note}");
    assert!(about("Ingress default/web").is_empty(), "nothing is wrong with the older one");
    // Away and back again: the same words are not said anew while the Event lives.
    for _ in 0..3 {
        let mut mended = hub.object("ingresses", "default", "wrong").unwrap();
        mended["spec"]["rules"][0]["http"]["paths"][0]["path"] = "/".into();
        hub.put(mended.clone());
        rig.until("mended", |rig| rig.serves("wrong.example"));
        mended["spec"]["rules"][0]["http"]["paths"][0]["path"] = "/no good".into();
        hub.put(mended);
        rig.until("wrong again", |rig| !rig.serves("wrong.example"));
    }
    rig.stays("one Event", Duration::from_millis(400), |_| about("Ingress default/wrong").len() == 1);
    let event = hub.objects("events").into_iter().find(|e| e["regarding"]["name"] == "wrong").unwrap();
    let uid = hub.object("ingresses", "default", "wrong").unwrap()["metadata"]["uid"].clone();
    assert_eq!(event["regarding"]["uid"], uid, "{event:#}");
    assert_eq!(event["metadata"]["namespace"], "default");
}

#[test]
fn a_policy_is_told_whether_it_is_in_force() {
    let (hub, _alpha) = world();
    let policy = |name: &str, spec: Value| {
        json!({"apiVersion": "ringway.dev/v1alpha1", "kind": "FailoverPolicy",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    };
    let target = json!([{"group": "networking.k8s.io", "kind": "Ingress", "name": "web"}]);
    hub.put(policy("good", json!({"targetRefs": target})));
    hub.put(policy(
        "partly",
        json!({"targetRefs": [{"group": "example.com", "kind": "Bucket", "name": "web"}]}),
    ));
    let is_taken = hub.try_put(policy("unreadable", json!({"clusters": "all"}))).is_ok();
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let conditions =
        |name: &str| told(&hub.object("failoverpolicies", "default", name).unwrap()["status"]["conditions"]);
    rig.until("good", |_| conditions("good") == ["Accepted=True/Accepted", "PartiallyInvalid=False/Valid"]);
    rig.until("partly", |_| {
        conditions("partly") == ["Accepted=True/Accepted", "PartiallyInvalid=True/UnsupportedValue"]
    });
    if !is_taken {
        // Its schema is ours: a real server holds to it.
        return;
    }
    rig.until("unreadable", |_| {
        conditions("unreadable").first().is_some_and(|c| c == "Accepted=False/Invalid")
    });
    hub.put(policy("unreadable", json!({})));
    rig.until("mended", |_| conditions("unreadable").first().is_some_and(|c| c == "Accepted=True/Accepted"));
}

#[test]
fn only_the_holder_of_the_lease_writes_and_the_next_one_repeats_nothing() {
    let (hub, _alpha) = world();
    hub.put(route("default", "good", public(), web()));
    let (one, two) = (Temp::new(), Temp::new());
    let mut first = Rig::start(writing(&hub, &one.0, "first"));
    first.until("status", |_| parent(&hub, "default", "good").len() == 2);
    let mut second = Rig::start(writing(&hub, &two.0, "second"));
    second.until("it serves", |rig| rig.serves("good.example"));
    hub.put(route("default", "more", public(), web()));
    first.until("more", |_| parent(&hub, "default", "more").len() == 2);
    second.stays("not by it", Duration::from_millis(400), |rig| {
        rig.sources().status_writes_total == 0 && rig.sources().status_failures_total == 0
    });
    first.until("all is said", |_| {
        hub.object("gateways", "default", "public").unwrap()["status"]["listeners"][0]["attachedRoutes"] == 2
    });
    if needs_ours("what was there is not written again: a log of requests") {
        return;
    }
    let patches =
        |path: &str| hub.requests().iter().filter(|r| r.starts_with("PATCH") && r.contains(path)).count();
    let before = patches("gateway.networking.k8s.io");
    drop(first);
    let holder =
        || hub.object("leases", "ringway-system", "ringway").unwrap()["spec"]["holderIdentity"].clone();
    second.until("it takes over", |_| holder() == "second");
    hub.put(route("default", "last", public(), web()));
    second.until("and writes what is new", |_| parent(&hub, "default", "last").len() == 2);
    second.until("to the Gateway, too", |_| {
        hub.object("gateways", "default", "public").unwrap()["status"]["listeners"][0]["attachedRoutes"] == 3
    });
    assert_eq!(patches("gateway.networking.k8s.io"), before + 2, "what was there is not written again");
}

/// GEP-1897: what becomes of a policy is told at each Gateway that has routes to what it names.
#[test]
fn a_policy_for_backends_is_told_at_each_gateway_that_uses_it() {
    let (hub, alpha) = world();
    for name in ["missing", "wrong"] {
        let mut service = service();
        service["metadata"]["name"] = name.into();
        alpha.put(service);
    }
    let policy = |name: &str, created: &str, service: &str, validation: Value| {
        let mut validation = validation;
        validation["hostname"] = "web.example".into();
        json!({"apiVersion": GATEWAY, "kind": "BackendTLSPolicy",
            "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": service}], "validation": validation}})
    };
    let (first, second) = ("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z");
    let system = json!({"wellKnownCACertificates": "System"});
    let missing = json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "nobody"}]});
    let wrong = json!({"caCertificateRefs": [{"group": "apps", "kind": "Deployment", "name": "web"}]});
    let mut holds = policy("holds", first, "web", system.clone());
    // A real server takes no entry without a condition.
    let said = json!([{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let theirs =
        json!({"ancestorRef": {"name": "theirs"}, "controllerName": "example.com/other", "conditions": said});
    holds["status"] = json!({"ancestors": [theirs]});
    hub.put(holds);
    hub.put(policy("late", second, "web", system));
    hub.put(policy("missing", first, "missing", missing));
    hub.put(policy("wrong", first, "wrong", wrong));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("the world is read", |rig| rig.sources().synced);
    let ancestors = |name: &str| -> Vec<Value> {
        let policy = hub.object("backendtlspolicies", "default", name).unwrap();
        policy["status"]["ancestors"].as_array().cloned().unwrap_or_default()
    };
    let ours = |name: &str| -> Option<(Value, Vec<String>)> {
        let found = ancestors(name).into_iter().find(|one| one["controllerName"] == "ringway.dev/gateway")?;
        Some((found["ancestorRef"]["name"].clone(), told(&found["conditions"])))
    };
    hub.put(route("default", "web", public(), web()));
    for service in ["missing", "wrong"] {
        hub.put(route("default", service, public(), json!({"name": service, "port": 80})));
    }
    for (name, accepted, resolved) in [
        ("holds", "Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"),
        ("late", "Accepted=False/Conflicted", "ResolvedRefs=True/ResolvedRefs"),
        ("missing", "Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidCACertificateRef"),
        ("wrong", "Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidKind"),
    ] {
        rig.until(&format!("{name}: {:?}", ours(name)), |rig| {
            rig.text();
            ours(name) == Some(("public".into(), vec![accepted.to_owned(), resolved.to_owned()]))
        });
    }
    assert_eq!(ancestors("holds").len(), 2, "theirs stays: {:?}", ancestors("holds"));
    hub.delete("httproutes", "default", "web");
    rig.until("nobody uses it any more", |rig| {
        rig.text();
        ours("holds").is_none() && ours("late").is_none()
    });
    assert_eq!(ancestors("holds").len(), 1);
}

/// S36: whoever writes what cannot be served is told so, and nothing of anybody else changes.
#[test]
fn two_hundred_hostile_objects_are_told_what_is_wrong_and_change_nothing_else() {
    let (hub, alpha) = world();
    hub.put(route("default", "good", public(), web()));
    for tenant in 0..4 {
        let mut service = service();
        service["metadata"]["namespace"] = format!("t{tenant}").into();
        alpha.put(service);
    }
    let beta = ApiServer::start();
    declared(&hub, "beta", &beta.kubeconfig("t"));
    beta.put(service());
    beta.put(slice("web-1", &["10.2.0.1"]));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("the good ones", |rig| rig.serves("good.example") && rig.serves("10.2.0.1"));
    rig.until("and told", |_| parent(&hub, "default", "good").len() == 2);
    let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let before = lines(rig.text());

    let mut put: Vec<Value> = Vec::new();
    for tenant in 0..4 {
        for (index, text) in made::hostile_fleet().iter().enumerate() {
            put.extend(hostile(text, tenant, index));
        }
    }
    assert!(put.len() >= 200, "{}", put.len());
    let began = Instant::now();
    let there = |object: Value| hub.try_put(object.clone()).is_ok().then(|| (object, Instant::now()));
    let put: Vec<(Value, Instant)> = put.into_iter().filter_map(there).collect();
    let taken = began.elapsed();
    let mut waiting: Vec<&(Value, Instant)> = put.iter().collect();
    let mut slowest = Duration::ZERO;
    while !waiting.is_empty() {
        assert!(began.elapsed() < rig::PATIENCE, "{} are not told: {:#}", waiting.len(), waiting[0].0);
        let looked = Instant::now();
        let events: BTreeSet<String> = events(&hub).into_iter().map(|(about, ..)| about).collect();
        waiting.retain(|(object, since)| {
            let told = is_told(&hub, object, &events);
            if told {
                slowest = slowest.max(looked.saturating_duration_since(*since));
            }
            !told
        });
        rig.text();
    }
    let count = put.len();
    println!("{count} hostile objects: all there after {taken:?}, the slowest was told after {slowest:?}");
    assert!(slowest <= TOLD_WITHIN, "one of {count} hostile objects was told only after {slowest:?}");
    let after = lines(rig.text());
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    assert_eq!(parent(&hub, "default", "good"), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);
    for object in hub.objects("events") {
        assert_eq!(
            object["metadata"]["namespace"],
            object["regarding"]["namespace"].as_str().unwrap_or("default")
        );
        assert!(!object["note"].as_str().unwrap().chars().any(char::is_control), "{object}");
    }
}

/// As a tenant could write it: an object of his own, in his namespace. `None` = no API server takes it.
fn hostile(text: &str, tenant: usize, index: usize) -> Option<Value> {
    let mut object: Value = serde_saphyr::from_str(text).ok().filter(Value::is_object)?;
    let name = object["metadata"]["name"].as_str()?;
    // What names itself so is refused by every API server, and so are the cluster-scoped ones to a tenant.
    if name != "bad" || object["metadata"].get("namespace").is_some() {
        return None;
    }
    // Annotations are strings to every API server.
    let annotations = object["metadata"]["annotations"].as_object();
    if annotations.is_some_and(|all| all.values().any(|value| !value.is_string())) {
        return None;
    }
    // A class that nobody has is another controller's.
    if object["spec"]["ingressClassName"].is_string() {
        return None;
    }
    object["metadata"]["name"] = format!("bad-{index}").into();
    object["metadata"]["namespace"] = format!("t{tenant}").into();
    if object["kind"] == "HTTPRoute" {
        object["spec"]["parentRefs"] = json!([public()]);
    }
    Some(object)
}

fn is_told(hub: &ApiServer, object: &Value, events: &BTreeSet<String>) -> bool {
    let text = |field: &str| object["metadata"][field].as_str().unwrap();
    let (namespace, name) = (text("namespace"), text("name"));
    match object["kind"].as_str().unwrap() {
        "HTTPRoute" => parent(hub, namespace, name)
            .iter()
            .any(|one| one.contains("=False/") || one == "PartiallyInvalid=True/UnsupportedValue"),
        "FailoverPolicy" => {
            let policy = hub.object("failoverpolicies", namespace, name).unwrap();
            let told = told(&policy["status"]["conditions"]);
            told.iter()
                .any(|one| one == "Accepted=False/Invalid" || one == "PartiallyInvalid=True/UnsupportedValue")
        }
        // The status of an Ingress has no conditions.
        "Ingress" => events.contains(&format!("Ingress {namespace}/{name}")),
        other => panic!("{other}"),
    }
}

/// The same objects, as another hub or other hands made them anew: what was told to the old ones, nobody has told to
/// these.
fn is_told_everything(hub: &ApiServer) -> bool {
    let said = |plural: &str, namespace: &str, name: &str| {
        let object = hub.object(plural, namespace, name).unwrap_or_default();
        told(&object["status"]["conditions"]).iter().any(|one| one == "Accepted=True/Accepted")
    };
    let web = hub.object("ingresses", "default", "web").unwrap_or_default();
    parent(hub, "default", "good").len() == 2
        && said("gatewayclasses", "", "ringway")
        && said("gateways", "default", "public")
        && said("memberclusters", "", "alpha")
        && web["status"]["loadBalancer"]["ingress"].is_array()
}

#[test]
fn objects_that_a_wiped_hub_gets_anew_are_told_by_a_node_that_started_from_a_snapshot_of_the_old_ones() {
    if needs_ours("a log of requests") {
        return;
    }
    let temp = Temp::new();
    let (hub, alpha) = world();
    hub.put(route("default", "good", public(), web()));
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("the old ones", |_| is_told_everything(&hub));
    drop(rig);
    let (old, hub) = (hub, ApiServer::start());
    hub.install(&apiserver::OURS);
    hub.install(&GATEWAY_API);
    let mut settings = writing(&hub, &temp.0, "two");
    let controller::ManifestSource::Fleet(fleet) = &mut settings.source else { panic!("it is one") };
    // What was known is held for longer than it takes to find that nothing of it is there.
    fleet.tuning.confirm_after = Duration::from_secs(3);
    let mut rig = Rig::start(settings);
    rig.until("the old world is served", |rig| rig.serves("good.example"));
    let looked_for =
        |what: &str| hub.requests().iter().any(|one| one.starts_with("GET") && one.contains(what));
    for object in ["/gatewayclasses/ringway?", "/gateways/public?", "/httproutes/good?", "/ingresses/web?"] {
        rig.until(&format!("nothing to be told at {object}"), |_| looked_for(object));
    }
    declared(&hub, "alpha", &alpha.kubeconfig("alpha"));
    hub.put(ingress("web"));
    hub.put(class());
    hub.put(old.object("gateways", "default", "public").map(fresh).unwrap());
    hub.put(route("default", "good", public(), web()));
    rig.until("they are told", |_| is_told_everything(&hub));
}

/// Without what a server gives, and without its status.
fn fresh(mut object: Value) -> Value {
    object["status"].take();
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| ["name", "namespace", "labels", "annotations"].contains(&field.as_str()));
    object
}

#[test]
fn an_object_that_is_deleted_and_made_anew_between_two_looks_is_told_again() {
    let (hub, _alpha) = world();
    hub.put(route("default", "good", public(), web()));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("the first ones", |_| is_told_everything(&hub));
    let objects = [
        ("httproutes", "default", "good"),
        ("gateways", "default", "public"),
        ("gatewayclasses", "", "ringway"),
        ("memberclusters", "", "alpha"),
        ("ingresses", "default", "web"),
    ];
    for (plural, namespace, name) in objects {
        let object = fresh(hub.object(plural, namespace, name).unwrap());
        if real::are_given() {
            hub.delete(plural, namespace, name);
        } else {
            // Nobody hears of it.
            hub.lose(plural, 0);
        }
        hub.put(object);
        rig.until(&format!("{plural} anew"), |_| is_told_everything(&hub));
    }
}
