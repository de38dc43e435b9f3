//! Manifests as users write them, and requests to the fleets that serve them.

use std::net::SocketAddr;

use super::backend::Backend;
use super::client::{Client, Response};
use super::config;
use super::fleet::Fleet;

pub const N: &str = "nginx.ingress.kubernetes.io/";
pub const M: &str = "mse.ingress.kubernetes.io/";
pub const A: &str = "alb.ingress.kubernetes.io/";

pub fn services(all: &[(&str, &[SocketAddr])]) -> String {
    let mut text = String::new();
    for (name, endpoints) in all {
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
        );
        for (index, endpoint) in endpoints.iter().enumerate() {
            text += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{index}, labels: \
                 {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\n\
                 endpoints:\n- {{addresses: [\"{}\"]}}\n",
                endpoint.port(),
                endpoint.ip()
            );
        }
    }
    text
}

pub fn ingress(name: &str, path: &str, service: &str, annotations: &[(&str, &str, &str)]) -> String {
    let lines: String =
        annotations.iter().map(|(of, name, value)| format!("    {of}{name}: {value:?}\n")).collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n    x: y\n{lines}\
         spec:\n  rules:\n  - host: shop.example\n    http:\n      paths:\n      - {{path: {path:?}, pathType: Prefix, \
         backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}\n"
    )
}

/// One Ingress for everything, one backend.
pub fn one(path: &str, annotations: &[(&str, &str, &str)], web: &Backend) -> Fleet {
    with(&ingress("web", path, "web", annotations), &[("web", &[web.addr])])
}

pub fn with(fleet: &str, all: &[(&str, &[SocketAddr])]) -> Fleet {
    Fleet::start(config(), &[("fleet/web.yaml", fleet), ("clusters/one/all.yaml", &services(all))])
}

pub fn send(fleet: &Fleet, request: &str) -> Response {
    let mut client = Client::connect(fleet.addr);
    client.send(request.replace('\n', "\r\n")).response()
}

pub fn get(fleet: &Fleet, path: &str, fields: &str) -> Response {
    send(fleet, &format!("GET {path} HTTP/1.1\nHost: shop.example\n{fields}\n"))
}
