//! `ringway plan`: what would be different, by name, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/temp.rs"]
mod temp;

use controller::compile::Defaults;
use controller::plan::{Changes, Plan};
use routing::delta::RouteTable;
use temp::Temp;

fn compile(files: &[(&str, &str)]) -> RouteTable {
    let listen: std::net::SocketAddr = "[::]:8080".parse().unwrap();
    let root = Temp::with(files);
    let (table, report) = controller::compile_dir(&root.0, &[listen], &Defaults::default());
    assert!(!report.refused(), "{report}");
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

fn world(fleet: &[String], members: &[String]) -> RouteTable {
    compile(&[("fleet/all.yaml", &fleet.concat()), ("clusters/alpha/all.yaml", &members.concat())])
}

#[test]
fn every_difference_is_named_and_nothing_else_is() {
    let before = world(
        &[ingress("web", "/", "web"), ingress("old", "/old", "web"), ingress("api", "/api", "web")],
        &[service("web", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]), service("api", &["10.1.1.1"])],
    );
    // Another order, and so other numbers: names decide.
    let after = world(
        &[ingress("api", "/api", "api"), ingress("new", "/new", "web"), ingress("web", "/", "web")],
        &[service("api", &["10.1.0.3", "10.1.1.2"]), service("web", &["10.1.0.2", "10.1.0.4"])],
    );
    let plan = Plan::between(&before, &after);
    let matches = |names: Vec<&(String, String, String)>| {
        names.iter().map(|name| format!("{} {}", name.1, name.2)).collect::<Vec<_>>()
    };
    assert_eq!(matches(plan.rules.added.keys().collect()), ["shop.example prefix /new"]);
    assert_eq!(matches(plan.rules.removed.keys().collect()), ["shop.example prefix /old"]);
    assert_eq!(matches(plan.rules.changed.keys().collect()), ["shop.example prefix /api"]);
    let (old, new) = plan.rules.changed.values().next().unwrap();
    assert!(old.contains("default/web:80") && new.contains("default/api:80"), "{plan}");
    let addresses = |names: Vec<&(String, String, String)>| {
        names.iter().map(|name| format!("{} {} {}", name.0, name.1, name.2)).collect::<Vec<_>>()
    };
    // Nobody referred to the Service api before: its endpoints are new but the one that web had.
    assert_eq!(
        addresses(plan.endpoints.added.keys().collect()),
        ["default/api:80 alpha 10.1.1.2:8080", "default/web:80 alpha 10.1.0.4:8080"]
    );
    assert_eq!(addresses(plan.endpoints.removed.keys().collect()), ["default/web:80 alpha 10.1.0.1:8080"]);
    assert_eq!(
        plan.endpoints_moved.iter().collect::<Vec<_>>(),
        [(
            &("alpha".to_owned(), "10.1.0.3:8080".to_owned()),
            &("default/web:80".to_owned(), "default/api:80".to_owned())
        )]
    );
    assert_eq!((&plan.clusters, &plan.listeners), (&Changes::default(), &Changes::default()));
    assert_eq!(plan.backends.added.keys().collect::<Vec<_>>(), ["default/api:80"]);
    assert!(plan.backends.removed.is_empty() && plan.backends.changed.is_empty(), "{plan}");
}

#[test]
fn the_same_objects_in_another_order_change_nothing() {
    let fleet = [ingress("web", "/", "web"), ingress("api", "/api", "api")];
    let members = [service("web", &["10.1.0.1", "10.1.0.2"]), service("api", &["10.1.1.1"])];
    let before = world(&fleet, &members);
    let turned = |all: &[String]| all.iter().rev().cloned().collect::<Vec<_>>();
    let after = world(&turned(&fleet), &turned(&members));
    let plan = Plan::between(&before, &after);
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.to_string(), "nothing would change\n");
}

/// What neither rules nor endpoints show: a drained cluster, a listener's protocol, how a backend is spoken to.
#[test]
fn a_difference_of_a_cluster_a_listener_or_a_backend_is_one() {
    let one = |drained: &str, protocol: &str, kind: &str, app: &str| {
        let fleet = format!(
            "---\napiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {{name: alpha}}\nspec: {{drained: {drained}}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: own}}\nspec: {{controllerName: ringway.dev/gateway}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public}}\n\
             spec: {{gatewayClassName: own, listeners: [{{name: it, port: 90, protocol: {protocol}}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: it}}\n\
             spec: {{parentRefs: [{{name: public}}], rules: [{{backendRefs: [{{name: api, port: 80}}]}}]}}\n"
        );
        let service =
            service("web", &["10.1.0.1"]).replace("port: 80}", &format!("port: 80, appProtocol: {app}}}"));
        world(&[fleet, ingress("web", "/", "web")], &[service, self::service("api", &["10.1.1.1"])])
    };
    let before = one("false", "HTTP", "HTTPRoute", "http");
    let says = |after: &RouteTable| Plan::between(&before, after).to_string();
    assert_eq!(says(&before), "nothing would change\n");
    assert_eq!(
        says(&one("true", "HTTP", "HTTPRoute", "http")),
        "clusters changed: 1\n  ~ alpha\n    - \n    + drained\n"
    );
    assert_eq!(
        says(&one("false", "HTTP", "HTTPRoute", "kubernetes.io/h2c")),
        "backends changed: 1\n  ~ default/web:80\n    - \n    + http2\n"
    );
    let plan = Plan::between(&before, &one("false", "TCP", "TCPRoute", "http"));
    assert_eq!(
        plan.listeners.changed["default/public/it [::]:90"],
        ("http hosts=*".to_owned(), "tcp hosts=*".to_owned()),
        "{plan}"
    );
    assert_eq!(plan.backends.changed["default/api:80"], (String::new(), "opaque".to_owned()), "{plan}");
}
