//! The controller against API servers: what they say arrives, what they do not say changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/apiserver.rs"]
mod apiserver;
#[path = "support/real.rs"]
mod real;
#[path = "support/rig.rs"]
mod rig;

use std::time::Duration;

use apiserver::{ApiServer, GATEWAY_API, OURS, needs_ours};
use controller::compile::Defaults;
use controller::plan::{Changes, Plan};
use controller::{ManifestSource, dump};
use rig::{
    Rig, Temp, declared, hub_and_alpha, ingress, member, secret, service, settings, slice, tuning, writing,
};
use serde_json::json;

#[test]
fn an_endpoint_change_of_a_member_arrives_at_the_worker() {
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080"));
    alpha.put(slice("web-1", &["10.1.0.1", "10.1.0.2"]));
    rig.until("the new endpoint", |rig| rig.serves("10.1.0.2:8080"));
    alpha.delete("endpointslices", "default", "web-1");
    rig.until("a single deletion is believed at once", |rig| !rig.serves("10.1.0"));
    let timed = |rig: &mut Rig| rig.sources().lags.get("alpha").is_some_and(|lag| lag.count >= 2);
    rig.until("event to last worker is timed for each cluster", timed);
}

#[test]
fn a_crd_that_is_installed_later_is_picked_up() {
    if needs_ours("CRDs that come later") {
        return;
    }
    let hub = ApiServer::start();
    hub.put(ingress("web"));
    let alpha = ApiServer::start();
    alpha.put(service());
    alpha.put(slice("web-1", &["10.1.0.1"]));
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("it serves without our CRDs", |rig| rig.sources().synced);
    assert!(!rig.serves("10.1.0.1"));
    hub.install(&OURS);
    hub.install(&GATEWAY_API);
    declared(&hub, "alpha", &alpha.kubeconfig("alpha"));
    rig.until("the member is found", |rig| rig.serves("10.1.0.1:8080"));
    hub.put(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "ringway"}, "spec": {"controllerName": "ringway.dev/gateway"}}));
    rig.until("the Gateway API is found", |rig| rig.sources().objects.contains_key("GatewayClass"));
}

#[test]
fn a_storm_of_410_gone_changes_nothing_and_loses_nothing() {
    if needs_ours("410 on demand") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080"));
    for n in 2..12 {
        let name = format!("web-{n}");
        alpha.put(slice(&name, &[&format!("10.1.0.{n}")]));
        alpha.expire();
        hub.expire();
        assert!(rig.serves("10.1.0.1:8080"));
    }
    rig.until("every endpoint is there", |rig| (1..12).all(|n| rig.serves(&format!("10.1.0.{n}:8080"))));
    let lists = alpha.requests().iter().filter(|r| r.contains("endpointslices?limit")).count();
    assert!(lists < 60, "{lists} lists in answer to ten times 410: the pauses grow");
}

#[test]
fn a_world_that_shrank_behind_a_fresh_list_is_held_until_a_second_list_says_the_same() {
    if needs_ours("a store that loses objects") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    for n in 2..5 {
        alpha.put(slice(&format!("web-{n}"), &[&format!("10.1.0.{n}")]));
    }
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.4:8080"));
    alpha.lose("endpointslices", 0);
    alpha.expire();
    rig.until("the list is doubted", |rig| {
        rig.reason("alpha").is_some_and(|reason| reason.contains("doubted"))
    });
    assert!((1..5).all(|n| rig.serves(&format!("10.1.0.{n}:8080"))), "nothing is lost meanwhile");
    rig.until("it is believed when it was said twice", |rig| !rig.serves("10.1.0"));
    alpha.put(slice("web-1", &["10.1.0.9"]));
    rig.until("the watch goes on", |rig| rig.serves("10.1.0.9:8080"));
}

#[test]
fn certificates_that_vanish_behind_a_fresh_list_are_held_as_everything_else_is() {
    if needs_ours("a store that loses objects") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    let made = rcgen::generate_simple_self_signed(["web.example".to_owned()]).unwrap();
    let data = [("tls.crt", &*made.cert.pem()), ("tls.key", &*made.signing_key.serialize_pem())];
    hub.put(secret("default", "web-tls", &[], &data));
    let mut web = ingress("web");
    web["spec"]["tls"] = json!([{"hosts": ["web.example"], "secretName": "web-tls"}]);
    hub.put(web);
    let temp = Temp::new();
    let mut settings = settings(&hub, &temp.0);
    settings
        .listen
        .push((std::net::SocketAddr::from(([127, 0, 0, 1], 443)), routing::model::Protocol::Https));
    let mut rig = Rig::start(settings);
    rig.until("its certificate", |rig| rig.serves("certificate web.example: default/web-tls"));
    let lists = || {
        let path = "GET /api/v1/namespaces/default/secrets?limit";
        hub.requests().iter().filter(|one| one.starts_with(path)).count()
    };
    let before = lists();
    hub.lose("secrets", 0);
    hub.expire();
    while lists() == before {
        assert!(rig.serves("default/web-tls"), "it is held");
    }
    rig.stays("it is held", tuning().confirm_after / 2, |rig| rig.serves("default/web-tls"));
    rig.until("it is believed when it was said twice", |rig| !rig.serves("default/web-tls"));
    assert!(lists() >= before + 2);
}

#[test]
fn a_store_that_was_made_anew_under_a_running_node_is_seen_although_its_versions_are_lower() {
    if needs_ours("a store that is wiped") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    for _ in 0..50 {
        hub.put(ingress("web"));
        alpha.put(service());
    }
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080") && rig.serves("web.example"));
    for server in [&hub, &alpha] {
        server.wipe();
    }
    declared(&hub, "alpha", &alpha.kubeconfig("alpha"));
    hub.put(ingress("web"));
    hub.put(ingress("shop"));
    alpha.put(service());
    alpha.put(slice("web-1", &["10.1.0.2"]));
    rig.until("the new ones", |rig| rig.serves("10.1.0.2:8080") && rig.serves("shop.example"));
    rig.until("and no old one", |rig| !rig.serves("10.1.0.1:8080"));
    hub.put(ingress("late"));
    rig.until("the watch goes on", |rig| rig.serves("late.example"));
}

#[test]
fn a_hub_that_is_lost_changes_nothing_and_what_it_says_afterwards_arrives() {
    if needs_ours("a server that goes down") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("web.example") && rig.serves("10.1.0.1"));
    hub.go_down();
    rig.until("it is noticed", |rig| rig.reason("fleet").is_some_and(|reason| !reason.is_empty()));
    alpha.put(slice("web-1", &["10.1.0.2"]));
    rig.until("members are still heard", |rig| rig.serves("10.1.0.2:8080"));
    assert!(rig.serves("web.example"));
    hub.put(ingress("shop"));
    hub.come_up();
    rig.until("the hub is heard again", |rig| rig.serves("shop.example") && rig.serves("web.example"));
    rig.until("and said to be well", |rig| rig.reason("fleet").is_some_and(|reason| reason.is_empty()));
}

#[test]
fn a_member_whose_api_is_lost_keeps_its_endpoints() {
    if needs_ours("a server that goes down") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080"));
    alpha.go_down();
    rig.until("it is noticed", |rig| rig.reason("alpha").is_some_and(|reason| !reason.is_empty()));
    rig.stays("the endpoint", Duration::from_millis(500), |rig| rig.serves("10.1.0.1:8080"));
    alpha.put(slice("web-1", &["10.1.0.7"]));
    alpha.come_up();
    rig.until("it is heard again", |rig| rig.serves("10.1.0.7:8080"));
}

#[test]
fn members_come_change_their_credentials_and_go_without_a_restart() {
    if needs_ours("a token that is refused") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let beta = ApiServer::start();
    beta.put(service());
    beta.put(slice("web-1", &["10.2.0.1"]));
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080"));
    declared(&hub, "beta", &beta.kubeconfig("old"));
    rig.until("beta is there", |rig| rig.serves("10.2.0.1:8080"));

    beta.accept_only("new");
    rig.until("its credentials are refused", |rig| {
        rig.reason("beta").is_some_and(|reason| reason.contains("401") || reason.contains("Unauthorized"))
    });
    beta.put(slice("web-1", &["10.2.0.2"]));
    assert!(rig.serves("10.2.0.1:8080"), "what it said stays");
    declared(&hub, "beta", &beta.kubeconfig("new"));
    rig.until("the new ones are used", |rig| rig.serves("10.2.0.2:8080"));

    hub.delete("memberclusters", "", "beta");
    rig.until("beta is gone", |rig| !rig.serves("10.2.0") && rig.reason("beta").is_none());
    assert!(rig.serves("10.1.0.1:8080"));
    alpha.put(slice("web-1", &["10.1.0.5"]));
    rig.until("alpha goes on", |rig| rig.serves("10.1.0.5:8080"));
}

#[test]
fn labelled_secrets_make_members_where_that_is_meant_and_nowhere_else() {
    if needs_ours("a log of requests") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let others: Vec<ApiServer> = (2..6)
        .map(|n| {
            let server = ApiServer::start();
            server.put(service());
            server.put(slice("web-1", &[&format!("10.{n}.0.1")]));
            server
        })
        .collect();
    let kubeconfigs: Vec<String> = others.iter().map(|server| server.kubeconfig("t")).collect();
    hub.put(secret(
        "ringway-system",
        "own",
        &[("ringway.dev/member", "own")],
        &[("kubeconfig", &kubeconfigs[0])],
    ));
    hub.put(secret(
        "ringway-system",
        "istio",
        &[("istio/multiCluster", "true")],
        &[("mesh", &kubeconfigs[1])],
    ));
    let server = format!("http://{}", others[2].addr);
    let data = [("name", "argo"), ("server", server.as_str()), ("config", r#"{"bearerToken": "t"}"#)];
    hub.put(secret("argocd", "argo", &[("argocd.argoproj.io/secret-type", "cluster")], &data));
    hub.put(secret("tenant", "evil", &[("ringway.dev/member", "evil")], &[("kubeconfig", &kubeconfigs[3])]));
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("all members", |rig| {
        ["10.1.0.1", "10.2.0.1", "10.3.0.1", "10.4.0.1"].iter().all(|a| rig.serves(a))
    });
    assert!(!rig.serves("10.5.0.1") && rig.reason("evil").is_none(), "a tenant's Secret makes no member");
    assert!(
        hub.requests().iter().all(|request| !request.contains("tenant")),
        "nor is its namespace looked at"
    );
    hub.delete("secrets", "ringway-system", "own");
    rig.until("a Secret that is deleted takes its member with it", |rig| !rig.serves("10.2.0.1"));
    drop(alpha);
}

#[test]
fn only_secrets_that_something_refers_to_are_read() {
    if needs_ours("a log of requests") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.put(secret("ringway-system", "unrelated", &[], &[("password", "hunter2")]));
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080"));
    let read: Vec<String> =
        hub.requests().into_iter().filter(|request| request.contains("/secrets/")).collect();
    assert_eq!(read, ["GET /api/v1/namespaces/ringway-system/secrets/alpha?"]);
}

#[test]
fn a_kubeconfig_that_asks_for_more_than_a_member_may_is_refused_by_name() {
    if needs_ours("a log of requests") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    let beta = ApiServer::start();
    beta.put(service());
    beta.put(slice("web-1", &["10.2.0.1"]));
    let good = beta.kubeconfig("t");
    let cases = [
        (
            "exec",
            good.replace("token: t", "exec: {apiVersion: client.authentication.k8s.io/v1, command: touch}"),
        ),
        ("auth-provider", good.replace("token: t", "auth-provider: {name: gcp}")),
        ("tokenFile", good.replace("token: t", "tokenFile: /etc/passwd")),
        ("proxy-url", good.replace("server:", "proxy-url: \"http://10.9.9.9\", server:")),
        ("insecure-skip-tls-verify", good.replace("server:", "insecure-skip-tls-verify: true, server:")),
    ];
    for (name, (_, kubeconfig)) in cases.iter().enumerate() {
        declared(&hub, &format!("beta-{name}"), kubeconfig);
    }
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the others serve", |rig| rig.serves("10.1.0.1:8080"));
    for (name, (field, _)) in cases.iter().enumerate() {
        rig.until(field, |rig| {
            rig.reason(&format!("beta-{name}")).is_some_and(|reason| reason.contains(field))
        });
    }
    assert!(beta.requests().is_empty(), "its API is not used");
}

#[test]
fn hostile_endpoints_of_a_member_are_refused_and_named() {
    if needs_ours("endpoints that a real server refuses") {
        return;
    }
    let (hub, alpha) =
        hub_and_alpha(&["10.1.0.1", "127.0.0.1", "169.254.169.254", "169.254.3.4", "192.0.2.9"]);
    let reference = json!({"kubeconfigSecretRef": {"namespace": "ringway-system", "name": "alpha"},
        "allowedCIDRs": ["10.1.0.0/16", "127.0.0.0/8", "169.254.0.0/16"]});
    hub.put(member("alpha", reference));
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the good one", |rig| rig.serves("10.1.0.1:8080"));
    for refused in ["127.0.0.1:8080", "169.254.169.254:8080", "169.254.3.4:8080", "192.0.2.9:8080"] {
        assert!(!rig.serves(refused), "{refused}");
    }
    let view = rig.sources();
    let notes: Vec<String> =
        view.verdicts.iter().flat_map(|verdict| verdict.notes.iter().map(|n| n.value.clone())).collect();
    for refused in ["127.0.0.1", "169.254.169.254", "169.254.3.4", "192.0.2.9"] {
        assert!(notes.iter().any(|value| value == refused), "{refused}: {notes:?}");
    }
    drop(alpha);
}

#[test]
fn one_object_that_cannot_be_read_costs_itself_only() {
    if needs_ours("objects that a real server refuses") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    let mut bad = ingress("bad");
    bad["spec"]["rules"] = json!("nonsense");
    hub.put(bad);
    hub.put(ingress("good"));
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the good one", |rig| rig.serves("good.example") && rig.serves("web.example"));
    let is_bad = |rig: &mut Rig| {
        let view = rig.sources();
        view.verdicts.iter().any(|v| v.object.as_ref().is_some_and(|id| &*id.name == "bad"))
    };
    rig.until("the bad one is named", is_bad);
    hub.put(ingress("bad"));
    rig.until("once it is mended it serves", |rig| rig.serves("bad.example"));
}

#[test]
fn a_member_that_never_answers_does_not_keep_the_others_waiting() {
    if needs_ours("requests that are refused") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let dead = ApiServer::start();
    declared(&hub, "dead", &dead.kubeconfig("t"));
    dead.refuse("/api", 403);
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the others serve", |rig| rig.serves("10.1.0.1:8080"));
    rig.until("it is named", |rig| rig.reason("dead").is_some_and(|reason| reason.contains("orbidden")));
    assert!(tuning().pause_max < Duration::from_secs(1));
    drop(alpha);
}

#[test]
fn a_start_without_any_api_server_serves_what_was_there_and_says_so() {
    if needs_ours("a server that goes down") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.put(ingress("shop"));
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080") && rig.serves("shop.example"));
    drop(rig);
    hub.go_down();
    alpha.go_down();
    hub.delete("ingresses", "default", "shop");
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the last world", |rig| rig.serves("10.1.0.1:8080") && rig.serves("shop.example"));
    let view = rig.sources();
    assert!(view.synced && view.resumed_from.is_some(), "{view:?}");
    let state = std::fs::read_to_string(temp.0.join("state/world.jsonl")).unwrap();
    assert!(
        !state.contains("kubeconfig\"") && !state.contains("current-context"),
        "no Secret rests on the disk"
    );

    hub.come_up();
    rig.until("what is gone meanwhile goes", |rig| !rig.serves("shop.example"));
    rig.until("it is said no longer", |rig| rig.sources().resumed_from.is_none());
    rig.stays("alpha keeps its endpoints", Duration::from_millis(300), |rig| rig.serves("10.1.0.1:8080"));
    alpha.put(slice("web-1", &["10.1.0.3"]));
    alpha.come_up();
    rig.until("alpha is heard again", |rig| rig.serves("10.1.0.3:8080"));
}

#[test]
fn without_the_hub_and_without_a_snapshot_there_is_no_table_until_the_hub_answers() {
    if needs_ours("a server that goes down") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.go_down();
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("it is noticed", |rig| rig.reason("fleet").is_some_and(|reason| !reason.is_empty()));
    assert!(!rig.sources().synced, "an unknown world is not an empty one");
    hub.come_up();
    rig.until("the first table", |rig| rig.serves("10.1.0.1:8080"));
}

fn leader(hub: &ApiServer) -> Option<String> {
    let lease = hub.object("leases", "ringway-system", "ringway")?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

fn ready(hub: &ApiServer, name: &str) -> Option<(String, serde_json::Value)> {
    let status = hub.object("memberclusters", "", name)?["status"].clone();
    let condition = status["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?.clone();
    Some((condition["status"].as_str()?.to_owned(), status))
}

#[test]
fn status_is_written_by_the_holder_of_the_lease_only_and_passes_to_the_next() {
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1", "10.1.0.2"]);
    let (one, two) = (Temp::new(), Temp::new());
    let mut first = Rig::start(writing(&hub, &one.0, "first"));
    first.until("status", |_| ready(&hub, "alpha").is_some_and(|(ready, _)| ready == "True"));
    assert_eq!(leader(&hub).as_deref(), Some("first"));
    first.until("endpoints", |_| ready(&hub, "alpha").is_some_and(|(_, status)| status["endpoints"] == 2));
    let (_, status) = ready(&hub, "alpha").unwrap();
    assert!(status["lastSeenTime"].as_str().is_some_and(|time| time.ends_with(":00Z")), "{status}");
    let generation = hub.object("memberclusters", "", "alpha").unwrap()["metadata"]["generation"].clone();
    let conditions = status["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 3, "Accepted, PartiallyInvalid, Ready: {status}");
    assert!(conditions.iter().all(|one| one["observedGeneration"] == generation), "{status}");

    let mut second = Rig::start(writing(&hub, &two.0, "second"));
    second.until("it serves", |rig| rig.serves("10.1.0.1:8080"));
    alpha.put(slice("web-1", &["10.1.0.1"]));
    first.until("the change is told", |_| ready(&hub, "alpha").is_some_and(|(_, s)| s["endpoints"] == 1));
    second.stays("not by it", Duration::from_millis(600), |rig| rig.sources().status_writes_total == 0);
    assert_eq!(leader(&hub).as_deref(), Some("first"));
    drop(first);
    alpha.put(slice("web-1", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]));
    second.until("the other one takes over", |_| leader(&hub).as_deref() == Some("second"));
    second.until("and writes", |_| ready(&hub, "alpha").is_some_and(|(_, status)| status["endpoints"] == 3));
}

#[test]
fn a_member_that_is_lost_is_told_to_be_not_ready() {
    if needs_ours("a server that goes down") {
        return;
    }
    let (hub, alpha) = hub_and_alpha(&["10.1.0.1"]);
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("status", |_| ready(&hub, "alpha").is_some_and(|(ready, _)| ready == "True"));
    alpha.go_down();
    rig.until("the loss is told", |_| ready(&hub, "alpha").is_some_and(|(ready, _)| ready == "False"));
    alpha.come_up();
    rig.until("and its end", |_| ready(&hub, "alpha").is_some_and(|(ready, _)| ready == "True"));
}

#[test]
fn what_others_wrote_into_a_status_stays_and_nothing_is_written_twice() {
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.install(&GATEWAY_API);
    let theirs = json!({"type": "Audited", "status": "True", "reason": "Ok", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    hub.put(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "ours"}, "spec": {"controllerName": "ringway.dev/gateway"},
        "status": {"conditions": [theirs]}}));
    hub.put(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "foreign"}, "spec": {"controllerName": "example.com/other"}}));
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    let conditions = |name: &str| {
        let class = hub.object("gatewayclasses", "", name).unwrap();
        let conditions = class["status"]["conditions"].as_array().cloned().unwrap_or_default();
        // What a real server puts there by default speaks for nobody.
        let known = conditions.iter().filter(|c| c["status"] != "Unknown");
        let mut texts: Vec<String> =
            known.map(|c| format!("{}={}", c["type"], c["status"]).replace('"', "")).collect();
        texts.sort();
        texts
    };
    rig.until("ours is accepted", |_| conditions("ours") == ["Accepted=True", "Audited=True"]);
    let class = hub.object("gatewayclasses", "", "ours").unwrap();
    let features = class["status"]["supportedFeatures"].as_array().cloned().unwrap_or_default();
    assert!(features.contains(&json!({"name": "HTTPRoute"})), "{class}");
    rig.until("the endpoints are told", |_| ready(&hub, "alpha").is_some_and(|(_, s)| s["endpoints"] == 1));
    rig.until("the Ingress is told", |_| {
        hub.object("ingresses", "default", "web").unwrap()["status"]["loadBalancer"]["ingress"].is_array()
    });
    let before = rig.sources().status_writes_total;
    // At the turn of a minute `lastSeenTime` moves on: one write. Another one may just be counted.
    rig.stays("quiet", Duration::from_millis(700), |rig| rig.sources().status_writes_total <= before + 2);
    assert!(conditions("foreign").is_empty(), "another controller's class is not ours to speak of");
}

#[test]
fn a_refused_write_is_tried_again_and_counted() {
    if needs_ours("requests that are refused") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.refuse("/apis/ringway.dev/v1alpha1/memberclusters/alpha/status", 409);
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("it was refused", |rig| rig.sources().status_failures_total > 0);
    rig.until("what serves does not depend on it", |rig| rig.serves("10.1.0.1:8080"));
    hub.refuse("/apis/ringway.dev/v1alpha1/memberclusters/alpha/status", 0);
    rig.until("status", |_| ready(&hub, "alpha").is_some_and(|(ready, _)| ready == "True"));
}

/// More Ingresses than one answer of the API server holds; by the context that is named, whichever is current.
#[test]
fn the_ingresses_of_a_running_cluster_are_imported() {
    let (wanted, other) = (ApiServer::start(), ApiServer::start());
    for n in 0..600 {
        let mut web = ingress(&format!("web-{n}"));
        web["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/limit-rps": "10"});
        wanted.put(web);
    }
    other.put(ingress("not-this-one"));
    let temp = Temp::new();
    std::fs::create_dir_all(&temp.0).unwrap();
    let file = temp.0.join("kubeconfig");
    let parts = |server: &ApiServer, name: &str| {
        let text = server.kubeconfig("token");
        let config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let rename = |list: &str| {
            let mut entry = config[list][0].clone();
            entry["name"] = name.into();
            entry
        };
        let context = json!({"name": name, "context": {"cluster": name, "user": name}});
        (rename("clusters"), rename("users"), context)
    };
    let ((a, b, c), (d, e, f)) = (parts(&other, "other"), parts(&wanted, "wanted"));
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "other",
        "clusters": [a, d], "users": [b, e], "contexts": [c, f]});
    std::fs::write(&file, config.to_string()).unwrap();
    let import = controller::import::live(&file, Some("wanted")).unwrap();
    let report = import.to_string();
    assert!(
        report.ends_with(
            "600 Ingresses: 600 annotations honoured, 0 with a difference, 0 ignored, 0 refused\n"
        ),
        "{report}"
    );
    assert!(!import.refused() && import.gateway_api("public").matches("kind: HTTPRoute").count() == 600);
    let import = controller::import::live(&file, None).unwrap().to_string();
    assert!(import.contains("Ingress default/not-this-one") && import.contains("1 Ingresses"), "{import}");
    let unknown = controller::import::live(&file, Some("typo")).err().unwrap();
    assert!(
        unknown.contains("--context typo: allowed, by") && unknown.contains("other, wanted"),
        "{unknown}"
    );
    if needs_ours("requests that are refused") {
        return;
    }
    wanted.refuse("/apis/networking.k8s.io", 403);
    let refused = controller::import::live(&file, Some("wanted")).err().unwrap();
    assert!(refused.contains("http") && !refused.contains("token"), "{refused}");
}

#[test]
fn what_the_fleet_holds_is_compiled_without_a_node_and_a_directory_is_laid_over_it() {
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    let over = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec: {rules: [{host: web.example, http: {paths: \
                [{path: /only, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}\n";
    let temp = Temp::with(&[("over/fleet/web.yaml", over)]);
    let settings = settings(&hub, &temp.0);
    let ManifestSource::Fleet(fleet) = settings.source else { panic!("it is one") };
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let compile = |over: Option<&std::path::Path>| {
        controller::compile_fleet(fleet.clone(), over, &[listen], &Defaults::default()).unwrap().0
    };
    let before = compile(None);
    assert!(dump::table(&before).contains("10.1.0.1:8080"), "{}", dump::table(&before));
    let plan = Plan::between(&before, &compile(Some(&temp.0.join("over"))));
    let paths =
        |names: Vec<&(String, String, String)>| names.iter().map(|name| name.2.clone()).collect::<Vec<_>>();
    assert_eq!(paths(plan.rules.added.keys().collect()), ["prefix /only"], "{plan}");
    assert_eq!(paths(plan.rules.removed.keys().collect()), ["prefix /"], "{plan}");
    assert_eq!((&plan.endpoints, plan.endpoints_moved.len()), (&Changes::default(), 0), "{plan}");
}
