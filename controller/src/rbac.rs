//! The least that an API server must allow: what `ringway rbac` prints.
//!
//! Made from the lists of what is watched, so that the two cannot differ. Written are the status of what is
//! served, Events about it, and one Lease; Secrets are never read for a whole cluster, only in the namespaces that are named.

use serde_json::{Value, json};

use crate::watch::kinds::{FLEET, MEMBER, Resource};

/// What is read, and no more.
const READ: [&str; 3] = ["get", "list", "watch"];
/// What holding a Lease takes.
const LEASE: [&str; 3] = ["get", "create", "update"];
/// Whose status is written: group and resource. Of the objects themselves nothing is ever changed.
const STATUS: [(&str, &str); 13] = [
    ("gateway.networking.k8s.io", "gatewayclasses"),
    ("gateway.networking.k8s.io", "gateways"),
    ("gateway.networking.k8s.io", "httproutes"),
    ("gateway.networking.k8s.io", "grpcroutes"),
    ("gateway.networking.k8s.io", "tcproutes"),
    ("gateway.networking.k8s.io", "tlsroutes"),
    ("gateway.networking.k8s.io", "udproutes"),
    ("gateway.networking.k8s.io", "backendtlspolicies"),
    ("networking.k8s.io", "ingresses"),
    ("ringway.dev", "memberclusters"),
    ("ringway.dev", "failoverpolicies"),
    ("alibabacloud.com", "albconfigs"),
    ("mse.alibabacloud.com", "mseingressconfigs"),
];
/// The name of everything on the hub.
const HUB: &str = "ringway-hub";
/// The name of everything on a member.
const MEMBER_NAME: &str = "ringway-member";
const RBAC: &str = "rbac.authorization.k8s.io";

/// Objects for the hub: a service account in `namespace`, what it may read, and Secrets of `namespace` and of each of
/// `secret_namespaces` (of the configuration, and those of certificates that Ingresses and Gateways name).
#[must_use]
pub fn hub(namespace: &str, secret_namespaces: &[String]) -> Vec<Value> {
    let mut objects = account(HUB, namespace, &FLEET);
    let mut rules: Vec<Value> = STATUS
        .iter()
        .map(|(group, name)| {
            json!({"apiGroups": [group], "resources": [format!("{name}/status")], "verbs": ["patch"]})
        })
        .collect();
    rules.push(json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}));
    let leases = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": LEASE}]);
    objects.extend(bound("ClusterRole", &format!("{HUB}-status"), None, &rules.into(), namespace));
    objects.extend(bound("Role", &format!("{HUB}-lease"), Some(namespace), &leases, namespace));
    let mut namespaces = vec![namespace];
    namespaces.extend(secret_namespaces.iter().map(String::as_str));
    namespaces.dedup();
    for secrets in namespaces {
        let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": READ}]);
        objects.extend(bound("Role", &format!("{HUB}-secrets"), Some(secrets), &rules, namespace));
    }
    objects
}

/// A role and its binding to the hub's service account; `within` a namespace, or for the whole cluster.
fn bound(kind: &str, name: &str, within: Option<&str>, rules: &Value, account: &str) -> [Value; 2] {
    let mut metadata = json!({"name": name});
    if let Some(namespace) = within {
        metadata["namespace"] = namespace.into();
    }
    [
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": HUB, "namespace": account}],
        }),
    ]
}

/// Objects for each member: a service account in `namespace` and what it may read.
#[must_use]
pub fn member(namespace: &str) -> Vec<Value> {
    account(MEMBER_NAME, namespace, &MEMBER)
}

fn account(name: &str, namespace: &str, resources: &[Resource]) -> Vec<Value> {
    let mut groups: Vec<&str> = resources.iter().map(|resource| resource.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let rule = |group: &&str| {
        let of_group = resources.iter().filter(|resource| resource.group == *group);
        let names: Vec<&str> = of_group.map(|resource| resource.plural).collect();
        json!({"apiGroups": [group], "resources": names, "verbs": READ})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
            "rules": groups.iter().map(rule).collect::<Vec<_>>(),
        }),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }),
    ]
}

/// Objects as one YAML stream.
///
/// # Panics
/// Never: they are ours, and a test prints them.
#[must_use]
pub fn yaml(objects: &[Value]) -> String {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object).expect("objects of ours serialise"));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(objects: &[Value], kind: &str) -> Vec<(Option<String>, Value)> {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        of_kind
            .flat_map(|object| {
                let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
                let rules = object["rules"].as_array().cloned().unwrap_or_default();
                rules.into_iter().map(move |rule| (namespace.clone(), rule))
            })
            .collect()
    }

    #[test]
    fn everything_that_is_watched_may_be_read_and_only_status_and_a_lease_may_be_written() {
        for (objects, resources) in [(hub("ns", &[]), &FLEET[..]), (member("ns"), &MEMBER[..])] {
            let all = [rules(&objects, "ClusterRole"), rules(&objects, "Role")].concat();
            for (namespace, rule) in &all {
                let resources: Vec<&str> =
                    rule["resources"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                let expected = match resources[..] {
                    ["leases"] => {
                        assert!(namespace.is_some(), "{rule}");
                        json!(LEASE)
                    }
                    [one] if one.ends_with("/status") => json!(["patch"]),
                    ["events"] => json!(["create"]),
                    _ => json!(READ),
                };
                assert_eq!(rule["verbs"], expected, "{rule}");
            }
            for resource in resources {
                let allows = |rule: &Value| {
                    rule["apiGroups"] == json!([resource.group])
                        && rule["resources"].as_array().unwrap().contains(&json!(resource.plural))
                };
                assert!(all.iter().any(|(_, rule)| allows(rule)), "{resource:?}");
            }
        }
    }

    #[test]
    fn secrets_are_read_in_named_namespaces_only() {
        let objects = hub("ringway-system", &["shop".to_owned()]);
        let names_secrets = |rule: &Value| rule["resources"].as_array().unwrap().contains(&json!("secrets"));
        assert!(rules(&objects, "ClusterRole").iter().all(|(_, rule)| !names_secrets(rule)));
        let roles = rules(&objects, "Role");
        let named: Vec<_> =
            roles.iter().filter(|(_, rule)| names_secrets(rule)).map(|(ns, _)| ns.clone()).collect();
        assert_eq!(named, [Some("ringway-system".to_owned()), Some("shop".to_owned())]);
        assert!(rules(&member("ns"), "ClusterRole").iter().all(|(_, rule)| !names_secrets(rule)));
    }

    #[test]
    fn what_is_printed_is_yaml_of_what_was_meant() {
        let objects = [hub("ns", &["other".to_owned()]), member("ns")].concat();
        let read: Vec<Value> = serde_saphyr::from_multiple(&yaml(&objects)).unwrap();
        assert_eq!(read, objects);
    }
}
