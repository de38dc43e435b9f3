//! Members from the `ClusterProfile` objects of a cluster inventory (KEP-4322).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/apiserver.rs"]
mod apiserver;
#[path = "support/real.rs"]
mod real;
#[path = "support/rig.rs"]
mod rig;

use apiserver::{ApiServer, needs_ours};
use rig::{Rig, Temp, hub_and_alpha, member, secret, service, settings, slice, writing};
use serde_json::{Value, json};

const CRD: [(&str, &str, &str); 1] =
    [("multicluster.x-k8s.io/v1alpha1", "clusterprofiles", "ClusterProfile")];

fn profile(namespace: &str, name: &str, status: &Value) -> Value {
    json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterManager": {"name": "manager"}}, "status": status})
}

/// A profile whose credentials are in a kubeconfig of this Secret; empty = the profile's own namespace.
fn by_secret(server: &str, namespace: &str, name: &str) -> Value {
    json!({"accessProviders": [
        {"name": "google", "cluster": {"server": "https://192.0.2.1"}},
        {"name": "kubeconfig-secretreader", "cluster": {"server": server, "extensions": [
            {"name": "client.authentication.k8s.io/exec",
             "extension": {"name": name, "key": "value", "namespace": namespace}}]}}]})
}

fn by_token(server: &str, name: &str) -> Value {
    json!({"accessProviders": [{"name": "secretreader", "cluster": {"server": server, "extensions": [
        {"name": "client.authentication.k8s.io/exec", "extension": {"clusterName": name}}]}}],
        "properties": [{"name": "topology.kubernetes.io/region", "value": "eu"}]})
}

fn cluster(address: &str) -> (ApiServer, String) {
    let server = ApiServer::start();
    server.put(service());
    server.put(slice("web-1", &[address]));
    let at = format!("http://{}", server.addr);
    (server, at)
}

#[test]
fn a_profile_makes_a_member_whose_credentials_change_and_that_goes_without_a_restart() {
    if needs_ours("the CRD of ClusterProfile, which comes later") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    let (beta, at) = cluster("10.2.0.1");
    beta.accept_only("first");
    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("it serves without the CRD", |rig| rig.serves("10.1.0.1:8080"));
    // The Secret's own server is another one: where the cluster is, is the profile's to say.
    let elsewhere = |token: &str| beta.kubeconfig(token).replace(&beta.addr.to_string(), "127.0.0.1:1");
    let label = [("x-k8s.io/cluster-profile", "beta")];
    hub.put(secret("ringway-system", "beta", &label, &[("value", &elsewhere("first"))]));
    hub.install(&CRD);
    hub.put(profile("ringway-system", "beta", &by_secret(&at, "", "beta")));
    rig.until("the member is found", |rig| rig.serves("10.2.0.1:8080"));

    beta.accept_only("second");
    rig.until("its credentials are refused", |rig| {
        rig.reason("beta").is_some_and(|reason| reason.contains("401") || reason.contains("Unauthorized"))
    });
    beta.put(slice("web-1", &["10.2.0.2"]));
    assert!(rig.serves("10.2.0.1:8080"), "what it said stays");
    hub.put(secret("ringway-system", "beta", &label, &[("value", &elsewhere("second"))]));
    rig.until("the new ones are used", |rig| rig.serves("10.2.0.2:8080"));

    let (gamma, at) = cluster("10.3.0.1");
    gamma.accept_only("second");
    hub.put(profile("ringway-system", "beta", &by_secret(&at, "", "beta")));
    rig.until("it moves to another server", |rig| rig.serves("10.3.0.1:8080"));
    hub.delete("clusterprofiles", "ringway-system", "beta");
    rig.until("it is gone", |rig| !rig.serves("10.3.0") && rig.reason("beta").is_none());
    assert!(rig.serves("10.1.0.1:8080"));
}

#[test]
fn tokens_and_labelled_secrets_are_understood_and_a_member_cluster_comes_first() {
    if needs_ours("the CRD of ClusterProfile") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.install(&CRD);
    let (by_a_token, at) = cluster("10.2.0.1");
    by_a_token.accept_only("t");
    let label = [("x-k8s.io/cluster-profile", "beta")];
    hub.put(secret("ringway-system", "token", &label, &[("token", "t\n")]));
    hub.put(profile("ringway-system", "beta", &by_token(&at, "token")));

    let (labelled, _) = cluster("10.3.0.1");
    let label = [("x-k8s.io/cluster-profile", "gamma")];
    let kubeconfig = labelled.kubeconfig("t");
    hub.put(secret("argocd", "gamma-credentials", &label, &[("Config", &kubeconfig)]));

    // A Secret of its own: not what the profile says.
    let (other, at) = cluster("10.9.0.1");
    let reference = json!({"kubeconfigSecretRef": {"namespace": "ringway-system", "name": "alpha"}});
    hub.put(member("alpha", reference));
    hub.put(profile("ringway-system", "alpha", &by_token(&at, "token")));

    let temp = Temp::new();
    let mut rig = Rig::start(settings(&hub, &temp.0));
    rig.until("the token", |rig| rig.serves("10.2.0.1:8080") && rig.serves("10.1.0.1:8080"));
    assert!(rig.text().contains("eu"), "its region is a property\n{}", rig.text());
    hub.put(profile("ringway-system", "beta", &json!({})));
    by_a_token.put(slice("web-1", &["10.2.0.2"]));
    rig.until("a status that is written anew takes nothing away", |rig| rig.serves("10.2.0.2:8080"));
    assert!(rig.reason("gamma").is_none(), "the Secret makes no member without its profile");
    hub.put(profile("argocd", "gamma", &json!({})));
    rig.until("the labelled Secret", |rig| rig.serves("10.3.0.1:8080"));
    assert!(!rig.serves("10.9.0.1") && other.requests().is_empty());
}

#[test]
fn a_profile_whose_access_cannot_be_used_is_told_why_and_makes_no_member() {
    if needs_ours("the CRD of ClusterProfile") {
        return;
    }
    let (hub, _alpha) = hub_and_alpha(&["10.1.0.1"]);
    hub.install(&CRD);
    let (beta, at) = cluster("10.2.0.1");
    let exec = beta
        .kubeconfig("t")
        .replace("token: t", "exec: {apiVersion: client.authentication.k8s.io/v1, command: touch}");
    let label = |name| [("x-k8s.io/cluster-profile", name)];
    hub.put(secret("ringway-system", "exec", &label("inside"), &[("value", &exec)]));
    hub.put(secret("ringway-system", "unmeant", &label("inside"), &[("value", &beta.kubeconfig("t"))]));
    hub.put(secret("tenant", "good", &label("foreign"), &[("value", &beta.kubeconfig("t"))]));
    // A namespace whose Secrets make members: a profile that stands elsewhere may not name them all the same.
    hub.put(secret("argocd", "good", &label("neighbour"), &[("value", &beta.kubeconfig("t"))]));
    let google = json!({"accessProviders": [{"name": "google", "cluster": {"server": at}}]});
    let proxied = json!({"accessProviders": [{"name": "secretreader",
        "cluster": {"server": at, "proxy-url": "http://10.0.0.1"}}]});
    let cases = [
        ("ringway-system", "plugin", google, "accessProviders[0].name: \\\"google\\\": an exec plugin"),
        ("ringway-system", "proxied", proxied, "proxy-url is refused"),
        ("ringway-system", "inside", by_secret(&at, "", "exec"), "exec is refused"),
        ("ringway-system", "missing", by_secret(&at, "", "nobody"), "no such Secret"),
        ("ringway-system", "foreign", by_secret(&at, "tenant", "good"), "of its own namespace"),
        ("ringway-system", "neighbour", by_secret(&at, "argocd", "good"), "of its own namespace"),
        ("argocd", "upward", by_secret(&at, "ringway-system", "exec"), "of its own namespace"),
        ("ringway-system", "unlabelled", by_secret(&at, "", "unmeant"), "has no label"),
        ("ringway-system", "bare", json!({}), "no access provider"),
        ("tenant", "stray", by_secret(&at, "tenant", "good"), "makes no member"),
    ];
    for (namespace, name, status, _) in &cases {
        hub.put(profile(namespace, name, status));
    }
    let temp = Temp::new();
    let mut rig = Rig::start(writing(&hub, &temp.0, "one"));
    rig.until("the others serve", |rig| rig.serves("10.1.0.1:8080"));
    for (namespace, name, _, reason) in &cases {
        let said = |event: &Value| {
            event["regarding"]["kind"] == "ClusterProfile"
                && event["regarding"]["name"] == *name
                && event["metadata"]["namespace"] == *namespace
                && event["note"].to_string().contains(reason)
        };
        rig.until(&format!("{name}: {reason}"), |rig| {
            rig.text();
            hub.objects("events").iter().any(said)
        });
    }
    let members = rig.sources().sources;
    for none in ["plugin", "proxied", "bare", "stray"] {
        assert!(!members.contains_key(none), "{none}: {members:?}");
    }
    assert!(rig.reason("inside").unwrap().contains("exec is refused"), "/readyz names it, too");
    assert!(beta.requests().is_empty(), "its API is not used");
    assert!(!rig.serves("10.2.0.1"));
}
