//! `ringway plan`: what would be different, by name, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use controller::compile::Defaults;
use controller::plan::Plan;
use routing::delta::RouteTable;

fn dir(name: &str, files: &[(&str, String)]) -> PathBuf {
    let root = std::env::temp_dir().join(format!("ringway-plan-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn compile(root: &Path) -> RouteTable {
    let listen: std::net::SocketAddr = "[::]:8080".parse().unwrap();
    let (table, report) = controller::compile_dir(root, &[listen], &Defaults::default());
    assert!(!report.refused(), "{report}");
    fs::remove_dir_all(root).unwrap();
    table
}

fn ingress(name: &str, path: &str, service: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec: {{rules: [{{host: shop.example, http: {{paths: \
         [{{path: {path}, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}}}]}}\n"
    )
}

fn service(name: &str, addresses: &[&str]) -> String {
    let endpoints: Vec<String> = addresses.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn world(name: &str, fleet: &[String], members: &[String]) -> RouteTable {
    let files = [("fleet/all.yaml", fleet.concat()), ("clusters/alpha/all.yaml", members.concat())];
    compile(&dir(name, &files))
}

#[test]
fn every_difference_is_named_and_nothing_else_is() {
    let before = world(
        "before",
        &[ingress("web", "/", "web"), ingress("old", "/old", "web"), ingress("api", "/api", "web")],
        &[service("web", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]), service("api", &["10.1.1.1"])],
    );
    // Another order, and so other numbers: names decide.
    let after = world(
        "after",
        &[ingress("api", "/api", "api"), ingress("new", "/new", "web"), ingress("web", "/", "web")],
        &[service("api", &["10.1.0.3", "10.1.1.2"]), service("web", &["10.1.0.2", "10.1.0.4"])],
    );
    let plan = Plan::between(&before, &after);
    let matches = |names: Vec<&(String, String, String)>| {
        names.iter().map(|name| format!("{} {}", name.1, name.2)).collect::<Vec<_>>()
    };
    assert_eq!(matches(plan.rules_added.keys().collect()), ["shop.example prefix /new"]);
    assert_eq!(matches(plan.rules_removed.keys().collect()), ["shop.example prefix /old"]);
    assert_eq!(matches(plan.rules_changed.keys().collect()), ["shop.example prefix /api"]);
    let (old, new) = plan.rules_changed.values().next().unwrap();
    assert!(old.contains("default/web:80") && new.contains("default/api:80"), "{plan}");
    let addresses = |names: Vec<&(String, String, String)>| {
        names.iter().map(|name| format!("{} {} {}", name.0, name.1, name.2)).collect::<Vec<_>>()
    };
    // Nobody referred to the Service api before: its endpoints are new but the one that web had.
    assert_eq!(
        addresses(plan.endpoints_added.keys().collect()),
        ["default/api:80 alpha 10.1.1.2:8080", "default/web:80 alpha 10.1.0.4:8080"]
    );
    assert_eq!(addresses(plan.endpoints_removed.keys().collect()), ["default/web:80 alpha 10.1.0.1:8080"]);
    assert_eq!(
        plan.endpoints_moved.iter().collect::<Vec<_>>(),
        [(
            &("alpha".to_owned(), "10.1.0.3:8080".to_owned()),
            &("default/web:80".to_owned(), "default/api:80".to_owned())
        )]
    );
    assert!(plan.listeners_added.is_empty() && plan.listeners_removed.is_empty());
}

#[test]
fn the_same_objects_in_another_order_change_nothing() {
    let fleet = [ingress("web", "/", "web"), ingress("api", "/api", "api")];
    let members = [service("web", &["10.1.0.1", "10.1.0.2"]), service("api", &["10.1.1.1"])];
    let before = world("one", &fleet, &members);
    let turned = |all: &[String]| all.iter().rev().cloned().collect::<Vec<_>>();
    let after = world("two", &turned(&fleet), &turned(&members));
    let plan = Plan::between(&before, &after);
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.to_string(), "nothing would change\n");
}
