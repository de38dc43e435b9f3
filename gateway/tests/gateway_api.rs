//! Cases of the Gateway API's conformance suite that Ringway once did not meet, said anew: what a client sees.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use support::backend::Backend;
use support::client::{Client, Response};
use support::fleet::{Fleet, service};
use support::{Port, config};

/// A Gateway with one listener for HTTP, and a route with these rules to `web`.
fn serving(rules: &str, web: &Backend) -> (Fleet, Port) {
    let port = Port::reserve();
    let manifests = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\n\
         spec: {{controllerName: ringway.dev/gateway}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public}}\nspec:\n  \
         gatewayClassName: ringway\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n  \
         - {{name: http, port: {}, protocol: HTTP}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all}}\n\
         spec:\n  parentRefs: [{{name: public}}]\n  rules:\n{rules}",
        port.addr.port()
    );
    let endpoints = service(&[web.addr]);
    let files = [("fleet/all.yaml", manifests.as_str()), ("clusters/one/web.yaml", &endpoints)];
    (Fleet::start(config(), &files), port)
}

fn send(port: &Port, request: &str) -> Response {
    Client::connect(port.addr).send(request.replace('\n', "\r\n")).response()
}

#[test]
fn who_lets_any_page_send_cookies_names_the_page_and_what_it_asked_for() {
    let web = Backend::named("web");
    let rule = |path: &str, cors: &str| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    \
             filters: [{{type: CORS, cors: {{{cors}}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n"
        )
    };
    let any = "allowOrigins: [\"*\"], allowMethods: [\"*\"], allowHeaders: [\"*\"], exposeHeaders: [\"*\"]";
    let rules = rule("/any", &format!("{any}, allowCredentials: true"))
        + &rule("/plain", any)
        + &rule(
            "/listed",
            "allowOrigins: [\"https://a.example\"], exposeHeaders: [x-total], allowMethods: [GET]",
        );
    let (_fleet, port) = serving(&rules, &web);
    let asks = "Origin: https://x.example\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: x-a, x-b\n";
    let preflight = |path: &str, asks: &str| {
        send(&port, &format!("OPTIONS {path} HTTP/1.1\nHost: shop.example\n{asks}\n"))
    };
    let named = preflight("/any", asks);
    for (name, value) in [
        ("access-control-allow-origin", Some("https://x.example")),
        ("access-control-allow-credentials", Some("true")),
        ("access-control-allow-methods", Some("PUT")),
        ("access-control-allow-headers", Some("x-a, x-b")),
        ("access-control-expose-headers", None),
        ("vary", Some("Origin")),
    ] {
        assert_eq!(named.one(name), value, "{name}: {}", named.head);
    }
    let answer = send(&port, "GET /any HTTP/1.1\nHost: shop.example\nOrigin: https://x.example\n\n");
    assert_eq!(answer.one("access-control-allow-origin"), Some("https://x.example"), "{}", answer.head);
    assert_eq!(answer.one("access-control-allow-credentials"), Some("true"));
    let plain = preflight("/plain", asks);
    assert_eq!(plain.one("access-control-allow-origin"), Some("*"), "{}", plain.head);
    assert_eq!(plain.one("access-control-allow-credentials"), None);
    assert_eq!(plain.one("access-control-allow-methods"), Some("PUT"));
    let listed = preflight("/listed", "Origin: https://a.example\nAccess-Control-Request-Method: GET\n");
    assert_eq!(listed.one("access-control-expose-headers"), Some("x-total"), "{}", listed.head);
    assert_eq!(web.count(), 1, "a preflight is answered by the gateway");
}
