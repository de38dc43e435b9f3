//! A scenario for every annotation that is honoured: manifest, request, what the backend sees, what the client gets.
//! Replayed over sockets without a cluster, by the controller and the data plane as they are. A test walks the registry
//! and fails where an annotation has none.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use controller::compile::annotations::registry::{ENTRIES, Fate};
use support::backend::{Backend, Request, Then, respond};
use support::client::{Client, Response, To};
use support::config;
use support::fleet::Fleet;

const N: &str = "nginx.ingress.kubernetes.io/";
const M: &str = "mse.ingress.kubernetes.io/";
const A: &str = "alb.ingress.kubernetes.io/";
const H: &str = "higress.io/";

type Given = &'static [(&'static str, &'static str, &'static str)];

/// Where the annotations stand, and what there is beside them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On the only Ingress, of host shop.example, path `/`, Service `web`; Service `other` is there, too.
    One,
    /// The same on this path.
    On(&'static str),
    /// On a second Ingress of the same host and path, with Service `other`.
    Canary,
    /// On the only Ingress; Service `web` is in clusters `one` (backend `web`) and `two` (backend `other`).
    Clusters,
    /// On the only Ingress; Service `web` has no endpoint.
    Empty,
}

struct Scenario {
    /// The annotations that it shows.
    of: &'static [&'static str],
    stage: Stage,
    given: Given,
    steps: &'static [Step],
}

/// A request, and what becomes of it.
struct Step {
    /// `GET /a`, and header lines.
    ask: &'static str,
    /// Which backend sees it; empty = none.
    by: &'static str,
    /// Request lines, `name: value`, `!name` for what is not there.
    sees: &'static [&'static str],
    status: u16,
    /// The same of the response.
    says: &'static [&'static str],
}

const fn to(ask: &'static str, by: &'static str, sees: &'static [&'static str]) -> Step {
    Step { ask, by, sees, status: 200, says: &[] }
}

const fn gets(ask: &'static str, status: u16, says: &'static [&'static str]) -> Step {
    Step { ask, by: "", sees: &[], status, says }
}

const fn via(ask: &'static str, says: &'static [&'static str]) -> Step {
    Step { ask, by: "web", sees: &[], status: 200, says }
}

const fn one(of: &'static [&'static str], given: Given, steps: &'static [Step]) -> Scenario {
    Scenario { of, stage: Stage::One, given, steps }
}

const fn on(
    path: &'static str,
    of: &'static [&'static str],
    given: Given,
    steps: &'static [Step],
) -> Scenario {
    Scenario { of, stage: Stage::On(path), given, steps }
}

const fn canary(of: &'static [&'static str], given: Given, steps: &'static [Step]) -> Scenario {
    Scenario { of, stage: Stage::Canary, given, steps }
}

const fn staged(stage: Stage, of: &'static [&'static str], given: Given, steps: &'static [Step]) -> Scenario {
    Scenario { of, stage, given, steps }
}

const ORIGIN: &str = "GET /\nOrigin: https://a.example";
const PREFLIGHT: &str = "OPTIONS /\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: x-a";

const SCENARIOS: &[Scenario] = &[
    // ------------------------------------------------ where to
    on(
        "/shop(/|$)(.*)",
        &["rewrite-target", "use-regex"],
        &[(N, "rewrite-target", "/v2/$2"), (N, "use-regex", "true")],
        &[
            to("GET /shop/cart?x=1", "web", &["GET /v2/cart?x=1 HTTP/1.1"]),
            to("GET /SHOP", "web", &["GET /v2/ HTTP/1.1"]),
            gets("GET /shopping", 404, &[]),
        ],
    ),
    on(
        "/api",
        &["rewrite-target"],
        &[(A, "rewrite-target", "/fixed")],
        &[to("GET /api/a", "web", &["GET /fixed HTTP/1.1"])],
    ),
    on(
        "/v[12]/a",
        &["use-regex"],
        &[(M, "use-regex", "true")],
        &[
            to("GET /v2/ab", "web", &["GET /v2/ab HTTP/1.1"]),
            gets("GET /V2/a", 404, &[]),
            gets("GET /v3/a", 404, &[]),
        ],
    ),
    on(
        "/v.",
        &["use-regex"],
        &[(N, "use-regex", "false")],
        &[gets("GET /v1", 404, &[]), to("GET /v.", "web", &[])],
    ),
    on(
        "/item/[0-9]+",
        &["full-path-regex"],
        &[(H, "full-path-regex", "true")],
        &[to("GET /item/12", "web", &[]), gets("GET /item/12/more", 404, &[])],
    ),
    on(
        "/Cart",
        &["ignore-path-case"],
        &[(H, "ignore-path-case", "true")],
        &[to("GET /cART/1", "web", &["GET /cART/1 HTTP/1.1"]), gets("GET /cartoon", 404, &[])],
    ),
    on(
        "/old",
        &["rewrite-path"],
        &[(H, "rewrite-path", "/new")],
        &[to("GET /old/a", "web", &["GET /new/a HTTP/1.1"])],
    ),
    one(
        &["upstream-vhost"],
        &[(N, "upstream-vhost", "inner.example")],
        &[to("GET /", "web", &["host: inner.example"])],
    ),
    one(
        &["app-root"],
        &[(N, "app-root", "/start")],
        &[gets("GET /", 302, &["location: /start"]), to("GET /other", "web", &[])],
    ),
    one(
        &["server-alias"],
        &[(N, "server-alias", "b.example,*.c.example")],
        &[
            to("GET /\nHost: b.example", "web", &[]),
            to("GET /\nHost: x.c.example", "web", &[]),
            gets("GET /\nHost: d.example", 404, &[]),
        ],
    ),
    one(
        &["permanent-redirect"],
        &[(N, "permanent-redirect", "https://b.example/x")],
        &[gets("GET /a?y", 301, &["location: https://b.example/x"])],
    ),
    one(
        &["relative-redirects"],
        &[(N, "permanent-redirect", "/x"), (N, "relative-redirects", "true")],
        &[gets("GET /", 301, &["location: /x"])],
    ),
    one(
        &["permanent-redirect-code"],
        &[(N, "permanent-redirect", "/x"), (N, "permanent-redirect-code", "308")],
        &[gets("GET /", 308, &["location: /x"])],
    ),
    one(
        &["temporal-redirect"],
        &[(N, "temporal-redirect", "/there")],
        &[gets("GET /", 302, &["location: /there"])],
    ),
    one(
        &["temporal-redirect-code"],
        &[(N, "temporal-redirect", "/there"), (N, "temporal-redirect-code", "303")],
        &[gets("GET /", 303, &["location: /there"])],
    ),
    one(
        &["ssl-redirect"],
        &[(A, "ssl-redirect", "true")],
        &[gets("GET /a?y=1", 308, &["location: https://shop.example/a?y=1"])],
    ),
    one(&["ssl-redirect"], &[(N, "ssl-redirect", "true")], &[to("GET /", "web", &[])]),
    one(
        &["force-ssl-redirect"],
        &[(N, "force-ssl-redirect", "true")],
        &[gets("GET /", 308, &["location: https://shop.example/"])],
    ),
    one(&["force-ssl-redirect"], &[(N, "force-ssl-redirect", "false")], &[to("GET /", "web", &[])]),
    one(
        &["from-to-www-redirect"],
        &[(N, "from-to-www-redirect", "true")],
        &[
            gets("GET /a\nHost: www.shop.example", 308, &["location~ http://shop.example:"]),
            to("GET /", "web", &[]),
        ],
    ),
    canary(&["order"], &[(A, "order", "1")], &[to("GET /", "other", &[])]),
    canary(&["order"], &[(A, "order", "1000")], &[to("GET /", "web", &[])]),
    one(&["listen-ports"], &[(A, "listen-ports", r#"[{"HTTP":80}]"#)], &[to("GET /", "web", &[])]),
    one(
        &["conditions.*"],
        &[(A, "conditions.web", r#"[{"type":"Method","methodConfig":{"values":["POST"]}}]"#)],
        &[gets("GET /", 404, &[]), to("POST /\nContent-Length: 0", "web", &[])],
    ),
    one(
        &["conditions.*"],
        &[(
            A,
            "conditions.web",
            r#"[{"type":"QueryString","queryStringConfig":{"values":[{"key":"v","value":"2"}]}}]"#,
        )],
        &[gets("GET /?v=1", 404, &[]), to("GET /?a=b&v=2", "web", &[])],
    ),
    one(
        &["conditions.*"],
        &[(
            A,
            "conditions.web",
            r#"[{"type":"Cookie","cookieConfig":{"values":[{"key":"k","value":"a*"}]}}]"#,
        )],
        &[gets("GET /\nCookie: k=b", 404, &[]), to("GET /\nCookie: j=1; k=ab", "web", &[])],
    ),
    one(
        &["conditions.*"],
        &[(A, "conditions.web", r#"[{"type":"SourceIp","sourceIpConfig":{"values":["10.0.0.0/8"]}}]"#)],
        &[gets("GET /", 404, &[])],
    ),
    one(
        &["actions.*"],
        &[(
            A,
            "actions.web",
            r#"[{"type":"FixedResponse","FixedResponseConfig":{"contentType":"text/plain","httpCode":"418","content":"tea"}}]"#,
        )],
        &[gets("GET /", 418, &["content-type: text/plain", "body: tea"])],
    ),
    one(
        &["actions.*", "rule-direction.*"],
        &[
            (
                A,
                "actions.web",
                r#"[{"type":"InsertHeader","InsertHeaderConfig":{"key":"x-a","value":"1","valueType":"UserDefined"}},{"type":"RemoveHeader","RemoveHeaderConfig":{"key":"x-b"}}]"#,
            ),
            (A, "rule-direction.web", "Request"),
        ],
        &[to("GET /\nX-B: 2", "web", &["x-a: 1", "!x-b"])],
    ),
    one(
        &["actions.*"],
        &[(A, "actions.web", r#"[{"type":"Rewrite","RewriteConfig":{"Host":"inner.example","Path":"/n"}}]"#)],
        &[to("GET /a", "web", &["GET /n HTTP/1.1", "host: inner.example"])],
    ),
    one(
        &["match-method"],
        &[(H, "match-method", "GET HEAD")],
        &[to("GET /", "web", &[]), gets("POST /\nContent-Length: 0", 404, &[])],
    ),
    one(
        &["exact-match-header-*"],
        &[(H, "exact-match-header-x-v", "2")],
        &[to("GET /\nX-V: 2", "web", &[]), gets("GET /\nX-V: 22", 404, &[])],
    ),
    one(
        &["prefix-match-header-*"],
        &[(H, "prefix-match-header-x-v", "2")],
        &[to("GET /\nX-V: 22", "web", &[]), gets("GET /\nX-V: 12", 404, &[])],
    ),
    one(
        &["regex-match-header-*"],
        &[(H, "regex-match-header-x-v", "[ab]+")],
        &[to("GET /\nX-V: abba", "web", &[]), gets("GET /\nX-V: abc", 404, &[])],
    ),
    one(
        &["exact-match-query-*"],
        &[(H, "exact-match-query-v", "2")],
        &[to("GET /?v=2", "web", &[]), gets("GET /?v=22", 404, &[])],
    ),
    one(
        &["prefix-match-query-*"],
        &[(H, "prefix-match-query-v", "2")],
        &[to("GET /?v=22", "web", &[]), gets("GET /?v=12", 404, &[])],
    ),
    one(
        &["regex-match-query-*"],
        &[(H, "regex-match-query-v", "[ab]+")],
        &[to("GET /?v=abba", "web", &[]), gets("GET /?v=abc", 404, &[])],
    ),
    // ------------------------------------------------ which backend, which cluster
    canary(
        &["canary", "canary-by-header"],
        &[(N, "canary", "true"), (N, "canary-by-header", "x-c")],
        &[
            to("GET /\nX-C: always", "other", &[]),
            to("GET /\nX-C: never", "web", &[]),
            to("GET /\nX-C: 1", "web", &[]),
            to("GET /", "web", &[]),
        ],
    ),
    canary(&["canary"], &[(N, "canary", "false")], &[to("GET /", "web", &[])]),
    canary(
        &["canary-by-header-value"],
        &[(N, "canary", "true"), (N, "canary-by-header", "x-c"), (N, "canary-by-header-value", "eu")],
        &[to("GET /\nX-C: eu", "other", &[]), to("GET /\nX-C: always", "web", &[])],
    ),
    canary(
        &["canary-by-header-pattern"],
        &[(M, "canary", "true"), (M, "canary-by-header", "x-c"), (M, "canary-by-header-pattern", "v[12]")],
        &[to("GET /\nX-C: v2", "other", &[]), to("GET /\nX-C: v22", "web", &[])],
    ),
    canary(
        &["canary-by-cookie"],
        &[(A, "canary", "true"), (A, "canary-by-cookie", "c")],
        &[to("GET /\nCookie: c=always", "other", &[]), to("GET /\nCookie: c=never", "web", &[])],
    ),
    canary(
        &["canary-by-cookie-value"],
        &[(M, "canary", "true"), (M, "canary-by-cookie", "c"), (M, "canary-by-cookie-value", "7")],
        &[to("GET /\nCookie: a=b; c=7", "other", &[]), to("GET /\nCookie: c=always", "web", &[])],
    ),
    canary(
        &["canary-by-query"],
        &[(M, "canary", "true"), (M, "canary-by-query", "q")],
        &[to("GET /?q=always", "other", &[]), to("GET /?q=never", "web", &[])],
    ),
    canary(
        &["canary-by-query-value"],
        &[(M, "canary", "true"), (M, "canary-by-query", "q"), (M, "canary-by-query-value", "7")],
        &[to("GET /?a=1&q=7", "other", &[]), to("GET /?q=8", "web", &[])],
    ),
    canary(
        &["canary-by-query-pattern"],
        &[(M, "canary", "true"), (M, "canary-by-query", "q"), (M, "canary-by-query-pattern", "[0-9]{2}")],
        &[to("GET /?q=42", "other", &[]), to("GET /?q=421", "web", &[])],
    ),
    canary(
        &["canary-weight"],
        &[(N, "canary", "true"), (N, "canary-weight", "100")],
        &[to("GET /", "other", &[])],
    ),
    canary(
        &["canary-weight"],
        &[(N, "canary", "true"), (N, "canary-weight", "0")],
        &[to("GET /", "web", &[])],
    ),
    canary(
        &["canary-weight-total"],
        &[(N, "canary", "true"), (N, "canary-weight", "1000"), (N, "canary-weight-total", "1000")],
        &[to("GET /", "other", &[])],
    ),
    staged(
        Stage::Clusters,
        &["cluster-weight.*"],
        &[(A, "cluster-weight.one", "0"), (A, "cluster-weight.two", "100")],
        &[to("GET /", "other", &[]), to("GET /", "other", &[])],
    ),
    staged(
        Stage::Clusters,
        &["service-subset", "subset-labels"],
        &[(M, "service-subset", "b"), (M, "subset-labels", "topology.istio.io/cluster two")],
        &[to("GET /", "other", &[]), to("GET /", "other", &[])],
    ),
    one(
        &["destination"],
        &[(M, "destination", "100% other.default.svc.cluster.local:80")],
        &[to("GET /", "other", &[]), to("GET /", "other", &[])],
    ),
    staged(
        Stage::Empty,
        &["default-backend"],
        &[(N, "default-backend", "other")],
        &[to("GET /a", "other", &["GET /a HTTP/1.1"])],
    ),
    one(
        &["default-backend", "custom-http-errors"],
        &[(N, "default-backend", "other"), (N, "custom-http-errors", "404,503")],
        &[
            to("GET /status/503", "other", &["GET / HTTP/1.1", "x-code: 503"]),
            Step { status: 500, ..via("GET /status/500", &["!x-code"]) },
        ],
    ),
    // ------------------------------------------------ headers
    one(
        &["request-header-control-add", "request-header-control-update", "request-header-control-remove"],
        &[
            (M, "request-header-control-add", "x-a 1\nx-d \"two words\""),
            (M, "request-header-control-update", "x-b 2"),
            (M, "request-header-control-remove", "x-c,x-e"),
        ],
        &[to(
            "GET /\nX-B: 1\nX-C: 3\nX-E: 5",
            "web",
            &["x-a: 1", "x-d: two words", "x-b: 2", "!x-c", "!x-e"],
        )],
    ),
    one(
        &["response-header-control-add", "response-header-control-update", "response-header-control-remove"],
        &[
            (M, "response-header-control-add", "x-a 1"),
            (M, "response-header-control-update", "x-kind text"),
            (M, "response-header-control-remove", "x-secret"),
        ],
        &[via("GET /", &["x-a: 1", "x-kind: text", "!x-secret"])],
    ),
    one(
        &["x-forwarded-prefix"],
        &[(N, "x-forwarded-prefix", "/app")],
        &[to("GET /\nX-Forwarded-Prefix: /evil", "web", &["x-forwarded-prefix: /app"])],
    ),
    // ------------------------------------------------ CORS
    one(
        &["enable-cors"],
        &[(N, "enable-cors", "true")],
        &[
            via(ORIGIN, &["access-control-allow-origin: *", "!access-control-allow-credentials"]),
            gets(PREFLIGHT, 204, &["access-control-allow-origin: *"]),
        ],
    ),
    one(&["enable-cors"], &[(N, "enable-cors", "false")], &[via(ORIGIN, &["!access-control-allow-origin"])]),
    one(
        &["cors-allow-origin", "cors-allow-credentials"],
        &[
            (N, "enable-cors", "true"),
            (N, "cors-allow-origin", "https://*.example"),
            (N, "cors-allow-credentials", "false"),
        ],
        &[
            via(
                ORIGIN,
                &["access-control-allow-origin: https://a.example", "!access-control-allow-credentials"],
            ),
            via("GET /\nOrigin: https://a.evil", &["!access-control-allow-origin"]),
        ],
    ),
    one(
        &["cors-allow-methods", "cors-allow-headers", "cors-max-age", "cors-allow-credentials"],
        &[
            (A, "enable-cors", "true"),
            (A, "cors-allow-origin", "https://a.example"),
            (A, "cors-allow-methods", "GET, PUT"),
            (A, "cors-allow-headers", "x-a, x-b"),
            (A, "cors-allow-credentials", "true"),
            (A, "cors-max-age", "600"),
        ],
        &[gets(
            PREFLIGHT,
            204,
            &[
                "access-control-allow-methods: GET, PUT",
                "access-control-allow-headers: x-a, x-b",
                "access-control-allow-credentials: true",
                "access-control-max-age: 600",
            ],
        )],
    ),
    one(
        &["cors-expose-headers"],
        &[(N, "enable-cors", "true"), (N, "cors-expose-headers", "x-total")],
        &[via(ORIGIN, &["access-control-expose-headers: x-total"])],
    ),
    // ------------------------------------------------ time and tries
    one(
        &["timeout"],
        &[(M, "timeout", "1")],
        &[Step { status: 504, ..via("GET /hang", &[]) }, via("GET /", &[])],
    ),
    one(
        &["proxy-read-timeout", "proxy-next-upstream-tries"],
        &[(N, "proxy-read-timeout", "1"), (N, "proxy-next-upstream-tries", "1")],
        &[Step { status: 504, ..via("GET /hang", &[]) }, via("GET /", &[])],
    ),
    one(
        &["proxy-next-upstream", "proxy-next-upstream-tries"],
        &[(N, "proxy-next-upstream", "error http_503"), (N, "proxy-next-upstream-tries", "2")],
        &[Step { sees: &["count: 2"], ..via("GET /flaky", &["body: again"]) }],
    ),
    one(
        &["proxy-next-upstream"],
        &[(N, "proxy-next-upstream", "off")],
        &[Step { status: 503, sees: &["count: 1"], ..via("GET /flaky", &[]) }],
    ),
    one(
        &["proxy-next-upstream-timeout"],
        &[(N, "proxy-next-upstream", "http_503"), (N, "proxy-next-upstream-timeout", "1")],
        &[Step { status: 503, sees: &["count: 1"], ..via("GET /slow-503", &[]) }],
    ),
    // ------------------------------------------------ sessions
    one(
        &[
            "affinity",
            "session-cookie-name",
            "session-cookie-path",
            "session-cookie-max-age",
            "session-cookie-samesite",
            "session-cookie-secure",
            "session-cookie-domain",
        ],
        &[
            (N, "affinity", "cookie"),
            (N, "session-cookie-name", "route"),
            (N, "session-cookie-path", "/p"),
            (N, "session-cookie-max-age", "60"),
            (N, "session-cookie-samesite", "None"),
            (N, "session-cookie-domain", "shop.example"),
            (N, "session-cookie-secure", "true"),
        ],
        &[via(
            "GET /",
            &[
                "set-cookie~ route=",
                "set-cookie~ ; Path=/p; Max-Age=60; Domain=shop.example; Secure; HttpOnly; SameSite=None",
            ],
        )],
    ),
    one(
        &["affinity", "affinity-mode", "session-cookie-expires"],
        &[(N, "affinity", "cookie"), (N, "affinity-mode", "balanced"), (N, "session-cookie-expires", "90")],
        &[via("GET /", &["set-cookie~ INGRESSCOOKIE=", "set-cookie~ Expires="])],
    ),
    one(
        &["affinity-mode"],
        &[(N, "affinity", "cookie"), (N, "affinity-mode", "persistent")],
        &[via("GET /", &["set-cookie~ INGRESSCOOKIE="])],
    ),
    one(
        &["sticky-session", "sticky-session-type", "cookie-timeout"],
        &[(A, "sticky-session", "true"), (A, "sticky-session-type", "Insert"), (A, "cookie-timeout", "77")],
        &[via("GET /", &["set-cookie~ SERVERID=", "set-cookie~ Max-Age=77"])],
    ),
    one(
        &["sticky-session-type"],
        &[(A, "sticky-session", "true"), (A, "sticky-session-type", "Server")],
        &[via("GET /", &["set-cookie~ SERVERID="])],
    ),
    one(&["sticky-session"], &[(A, "sticky-session", "false")], &[via("GET /", &["!set-cookie"])]),
    // ------------------------------------------------ which endpoint
    one(&["load-balance"], &[(N, "load-balance", "round_robin")], &[via("GET /", &[])]),
    one(&["load-balance"], &[(N, "load-balance", "ewma")], &[via("GET /", &[])]),
    one(&["load-balance"], &[(M, "load-balance", "least_conn")], &[via("GET /", &[])]),
    one(&["load-balance"], &[(M, "load-balance", "random")], &[via("GET /", &[])]),
    one(&["upstream-hash-by"], &[(N, "upstream-hash-by", "$remote_addr")], &[via("GET /", &[])]),
    one(&["upstream-hash-by"], &[(N, "upstream-hash-by", "$arg_user")], &[via("GET /?user=1", &[])]),
    one(&["backend-scheduler"], &[(A, "backend-scheduler", "sch")], &[via("GET /", &[])]),
    one(
        &["backend-scheduler", "backend-scheduler-uch-value"],
        &[(A, "backend-scheduler", "uch"), (A, "backend-scheduler-uch-value", "user")],
        &[via("GET /?user=1", &[])],
    ),
    one(&["backend-protocol"], &[(N, "backend-protocol", "HTTP")], &[via("GET /", &[])]),
    // ------------------------------------------------ who may come, and how much
    one(
        &["whitelist-source-range"],
        &[(N, "whitelist-source-range", "10.0.0.0/8")],
        &[gets("GET /", 403, &[])],
    ),
    one(
        &["whitelist-source-range"],
        &[(N, "whitelist-source-range", "10.0.0.0/8,127.0.0.1")],
        &[via("GET /", &[])],
    ),
    one(&["whitelist-source-range"], &[(N, "whitelist-source-range", "typo")], &[gets("GET /", 503, &[])]),
    one(
        &["allowlist-source-range"],
        &[(N, "allowlist-source-range", "192.0.2.0/24")],
        &[gets("GET /", 403, &[])],
    ),
    one(
        &["denylist-source-range"],
        &[(N, "denylist-source-range", "127.0.0.0/8")],
        &[gets("GET /", 403, &[])],
    ),
    one(
        &["blacklist-source-range"],
        &[(M, "blacklist-source-range", "127.0.0.0/8")],
        &[gets("GET /", 403, &[])],
    ),
    canary(
        &["domain-whitelist-source-range"],
        &[(M, "domain-whitelist-source-range", "10.0.0.0/8"), (A, "order", "1000")],
        &[gets("GET /", 403, &[])],
    ),
    canary(
        &["domain-blacklist-source-range"],
        &[(M, "domain-blacklist-source-range", "127.0.0.0/8"), (A, "order", "1000")],
        &[gets("GET /", 403, &[])],
    ),
    one(
        &["limit-rps", "limit-burst-multiplier"],
        &[(N, "limit-rps", "1"), (N, "limit-burst-multiplier", "1")],
        &[via("GET /", &[]), via("GET /", &[]), gets("GET /", 503, &[])],
    ),
    one(
        &["limit-rpm", "limit-burst-multiplier"],
        &[(N, "limit-rpm", "1"), (N, "limit-burst-multiplier", "1")],
        &[via("GET /", &[]), via("GET /", &[]), gets("GET /", 503, &[])],
    ),
    one(
        &["limit-whitelist"],
        &[(N, "limit-rpm", "1"), (N, "limit-burst-multiplier", "1"), (N, "limit-whitelist", "127.0.0.0/8")],
        &[via("GET /", &[]), via("GET /", &[]), via("GET /", &[])],
    ),
    one(
        &["limit-allowlist"],
        &[(N, "limit-rpm", "1"), (N, "limit-burst-multiplier", "1"), (N, "limit-allowlist", "127.0.0.0/8")],
        &[via("GET /", &[]), via("GET /", &[]), via("GET /", &[])],
    ),
    one(
        &["route-limit-rps", "route-limit-burst-multiplier"],
        &[(M, "route-limit-rps", "1"), (M, "route-limit-burst-multiplier", "1")],
        &[via("GET /", &[]), gets("GET /", 429, &["body: local_rate_limited"])],
    ),
    one(
        &["route-limit-rpm"],
        &[(M, "route-limit-rpm", "1"), (M, "route-limit-burst-multiplier", "1")],
        &[via("GET /", &[]), gets("GET /", 429, &["body: local_rate_limited"])],
    ),
    one(
        &["rate-limit"],
        &[(M, "rate-limit", "1")],
        &[
            via("GET /", &[]),
            gets("GET /", 429, &["content-type: text/plain; charset=UTF-8", "body: sentinel rate limited"]),
        ],
    ),
    one(
        &["mirror-target-service"],
        &[(M, "mirror-target-service", "other")],
        &[Step { sees: &["copied: GET /a HTTP/1.1"], ..via("GET /a", &[]) }],
    ),
    one(
        &["affinity"],
        &[(M, "affinity", "cookie"), (M, "session-cookie-name", "mse")],
        &[via("GET /a", &["set-cookie~ mse=", "set-cookie~ Path=/;"])],
    ),
    one(
        &[
            "rate-limit-fallback-custom-response-code",
            "rate-limit-fallback-custom-response-body-type",
            "rate-limit-fallback-custom-response-body",
        ],
        &[
            (M, "rate-limit", "1"),
            (M, "rate-limit-fallback-custom-response-code", "418"),
            (M, "rate-limit-fallback-custom-response-body-type", "json"),
            (M, "rate-limit-fallback-custom-response-body", "{}"),
        ],
        &[
            via("GET /", &[]),
            gets("GET /", 418, &["content-type: application/json; charset=UTF-8", "body: {}"]),
        ],
    ),
    one(
        &["rate-limit-fallback-redirect-url"],
        &[(M, "rate-limit", "1"), (M, "rate-limit-fallback-redirect-url", "https://busy.example/")],
        &[via("GET /", &[]), gets("GET /", 302, &["location: https://busy.example/"])],
    ),
    one(
        &["traffic-limit-qps"],
        &[(A, "traffic-limit-qps", "1")],
        &[via("GET /", &[]), gets("GET /", 503, &[])],
    ),
    one(
        &["traffic-limit-ip-qps"],
        &[(A, "traffic-limit-ip-qps", "1")],
        &[via("GET /", &[]), gets("GET /", 503, &[])],
    ),
    one(
        &["proxy-body-size"],
        &[(N, "proxy-body-size", "1")],
        &[via("POST /\nContent-Length: 0", &[]), gets("POST /\nContent-Length: 2", 413, &[])],
    ),
    // ------------------------------------------------ names and passwords, codings, mirrors
    one(
        &["auth-type", "auth-secret", "auth-secret-type", "auth-realm"],
        &[
            (N, "auth-type", "basic"),
            (N, "auth-secret", "staff"),
            (N, "auth-secret-type", "auth-map"),
            (N, "auth-realm", "Staff"),
        ],
        &[
            gets("GET /", 401, &["www-authenticate: Basic realm=\"Staff\""]),
            gets("GET /\nAuthorization: Basic YW5uOndyb25n", 401, &[]),
            to("GET /\nAuthorization: Basic YW5uOnNlY3JldA==", "web", &["!authorization"]),
        ],
    ),
    one(
        &["auth-type", "auth-secret"],
        &[(M, "auth-type", "basic"), (M, "auth-secret", "default/nobody")],
        &[gets("GET /\nAuthorization: Basic YW5uOnNlY3JldA==", 503, &[])],
    ),
    one(
        &["auth-secret-type"],
        &[(N, "auth-type", "basic"), (N, "auth-secret", "file"), (N, "auth-secret-type", "auth-file")],
        &[via("GET /\nAuthorization: Basic YW5uOnNlY3JldA==", &[])],
    ),
    one(
        &["auth-type"],
        &[(N, "auth-type", "digest"), (N, "auth-secret", "file")],
        &[gets("GET /", 503, &[])],
    ),
    one(&["auth-tls-secret"], &[(N, "auth-tls-secret", "file")], &[gets("GET /", 503, &[])]),
    one(
        &["enable-gzip"],
        &[(N, "enable-gzip", "true")],
        &[
            via("GET /text\nAccept-Encoding: gzip", &["content-encoding: gzip", "vary: Accept-Encoding"]),
            via("GET /text", &["!content-encoding", "vary: Accept-Encoding"]),
        ],
    ),
    one(
        &["enable-gzip"],
        &[(N, "enable-gzip", "false")],
        &[via("GET /text\nAccept-Encoding: gzip", &["!content-encoding", "!vary"])],
    ),
    one(
        &["mirror-target-service", "mirror-percentage"],
        &[(M, "mirror-target-service", "default/other:80"), (M, "mirror-percentage", "100")],
        &[Step { sees: &["copied: GET /a?x=1 HTTP/1.1"], ..via("GET /a?x=1", &[]) }],
    ),
    // ------------------------------------------------ what ingress-nginx's own end-to-end cases ask, in our words
    one(
        &["cors-allow-origin"],
        &[
            (N, "enable-cors", "true"),
            (
                N,
                "cors-allow-origin",
                "https://a.example:8443, ,shop.example:80,https://b.example,http://*.c.example:81,",
            ),
        ],
        &[
            via(
                "GET /\nOrigin: https://a.example:8443",
                &["access-control-allow-origin: https://a.example:8443"],
            ),
            via("GET /\nOrigin: https://b.example", &["access-control-allow-origin: https://b.example"]),
            via(
                "GET /\nOrigin: http://x-1.c.example:81",
                &["access-control-allow-origin: http://x-1.c.example:81"],
            ),
            via("GET /\nOrigin: http://x.y.c.example:81", &["!access-control-allow-origin"]),
            via("GET /\nOrigin: http://x.c.example", &["!access-control-allow-origin"]),
            via("GET /\nOrigin: https://a.example", &["!access-control-allow-origin"]),
            via("GET /\nOrigin: https://b.example:8443", &["!access-control-allow-origin"]),
            via("GET /\nOrigin: shop.example:80", &["!access-control-allow-origin"]),
            via("GET /\nOrigin: https://bxexample", &["!access-control-allow-origin"]),
            via("GET /", &["!access-control-allow-origin", "vary: Origin"]),
        ],
    ),
    one(
        &["cors-allow-origin"],
        &[(N, "enable-cors", "true"), (N, "cors-allow-origin", "*, b.example")],
        &[
            via("GET /", &["access-control-allow-origin: *"]),
            via(ORIGIN, &["access-control-allow-origin: *"]),
        ],
    ),
    one(
        &["cors-allow-origin"],
        &[(N, "enable-cors", "true"), (N, "cors-allow-origin", "   ")],
        &[via(ORIGIN, &["access-control-allow-origin: *"])],
    ),
    one(
        &["auth-type", "enable-cors"],
        &[(N, "auth-type", "basic"), (N, "auth-secret", "file"), (N, "enable-cors", "true")],
        &[gets(ORIGIN, 401, &["access-control-allow-origin: *"])],
    ),
    one(
        &["auth-secret"],
        &[(N, "auth-type", "basic"), (N, "auth-secret", "junk")],
        &[gets("GET /\nAuthorization: Basic YW5uOnNlY3JldA==", 401, &[])],
    ),
    on(
        "/a/[0-9]+",
        &["affinity", "session-cookie-path", "server-alias"],
        &[
            (N, "affinity", "cookie"),
            (N, "use-regex", "true"),
            (N, "session-cookie-path", "/a"),
            (N, "server-alias", "b.example"),
        ],
        &[
            via("GET /a/1", &["set-cookie~ Path=/a", "set-cookie~ INGRESSCOOKIE="]),
            via("GET /a/2\nHost: b.example", &["set-cookie~ INGRESSCOOKIE="]),
        ],
    ),
    one(
        &["satisfy"],
        &[
            (N, "satisfy", "any"),
            (N, "whitelist-source-range", "127.0.0.0/8"),
            (N, "auth-type", "basic"),
            (N, "auth-secret", "file"),
        ],
        &[to("GET /", "web", &[])],
    ),
    one(
        &["satisfy"],
        &[
            (N, "satisfy", "all"),
            (N, "whitelist-source-range", "127.0.0.0/8"),
            (N, "auth-type", "basic"),
            (N, "auth-secret", "file"),
        ],
        &[gets("GET /", 401, &[])],
    ),
    one(
        &["denylist-source-range", "whitelist-source-range"],
        &[(N, "whitelist-source-range", "127.0.0.0/8"), (N, "denylist-source-range", "127.0.0.1")],
        &[gets("GET /", 403, &[])],
    ),
    one(
        &["x-forwarded-prefix"],
        &[(N, "x-forwarded-prefix", "")],
        &[to("GET /", "web", &["!x-forwarded-prefix"])],
    ),
    canary(
        &["canary-by-header-pattern"],
        &[(N, "canary", "true"), (N, "canary-by-header", "x-c"), (N, "canary-by-header-pattern", "[")],
        &[to("GET /\nX-C: [", "web", &[]), to("GET /\nX-C: always", "web", &[])],
    ),
];

/// Annotations whose scenario needs more than requests and answers: the test that shows them.
const ELSEWHERE: &[(&str, &str, &[&str])] = &[
    (
        "annotations.rs",
        "a_session_stays_with_its_side_of_a_canary_unless_it_is_to_be_chosen_anew",
        &["affinity-canary-behavior"],
    ),
    ("external_auth.rs", "only_a_yes_lets_a_request_through", &["auth-url"]),
    (
        "answers.rs",
        "a_location_loses_the_name_of_an_inner_host",
        &["proxy-redirect-from", "proxy-redirect-to"],
    ),
    (
        "answers.rs",
        "cookies_lose_inner_hosts_and_paths_and_keep_everything_else",
        &["proxy-cookie-domain", "proxy-cookie-path"],
    ),
    (
        "answers.rs",
        "fields_of_a_config_map_are_set_on_responses_and_one_that_cannot_be_used_closes",
        &["custom-headers"],
    ),
    ("answers.rs", "a_question_carries_the_fields_of_a_config_map", &["auth-proxy-set-headers"]),
    (
        "answers.rs",
        "a_check_of_alb_asks_as_it_is_told_and_knows_a_good_answer",
        &[
            "healthcheck-path",
            "healthcheck-method",
            "healthcheck-httpversion",
            "healthcheck-httpcode",
            "healthcheck-code",
        ],
    ),
    ("answers.rs", "a_rule_of_alb_about_responses_changes_those_and_serves_nothing", &["rule-direction.*"]),
    ("answers.rs", "a_check_of_alb_goes_to_the_port_that_it_names", &["healthcheck-connect-port"]),
    (
        "external_auth.rs",
        "questions_use_connections_again_and_have_the_method_and_the_target_that_were_asked_for",
        &["auth-method", "auth-request-redirect"],
    ),
    (
        "external_auth.rs",
        "who_is_not_known_is_sent_to_sign_in_and_told_where_to_come_back_to",
        &["auth-signin", "auth-signin-redirect-param"],
    ),
    (
        "external_auth.rs",
        "a_request_goes_on_with_what_the_answer_says_and_nothing_that_the_client_says_in_its_place",
        &["auth-response-headers"],
    ),
    (
        "external_auth.rs",
        "cookies_of_the_answer_are_for_good_responses_unless_they_are_always",
        &["auth-always-set-cookie"],
    ),
    (
        "upstream_tls.rs",
        "annotations_of_ingress_nginx_verify_where_they_say_so",
        &["backend-protocol", "proxy-ssl-name", "proxy-ssl-server-name", "proxy-ssl-verify"],
    ),
    ("upstream_tls.rs", "a_backend_that_asks_for_a_certificate_gets_ours", &["proxy-ssl-secret"]),
    (
        "annotations.rs",
        "requests_at_once_are_bounded_and_their_places_given_back",
        &["concurrency-limit", "concurrency-limit-fallback-custom-response-body"],
    ),
    (
        "annotations.rs",
        "the_answers_of_a_full_rule_are_the_annotations_own",
        &[
            "concurrency-limit-fallback-custom-response-code",
            "concurrency-limit-fallback-custom-response-body-type",
            "concurrency-limit-fallback-redirect-url",
        ],
    ),
    (
        "annotations.rs",
        "requests_of_one_source_at_once_are_bounded_and_their_places_given_back",
        &["limit-connections"],
    ),
    (
        "annotations.rs",
        "connections_to_endpoints_are_bounded_and_carry_so_many_requests",
        &[
            "connection-policy-tcp-max-connection",
            "connection-policy-tcp-max-connection-per-endpoint",
            "connection-policy-http-max-request-per-connection",
        ],
    ),
    (
        "client_certificates.rs",
        "the_annotations_say_what_follows",
        &[
            "auth-tls-verify-client",
            "auth-tls-error-page",
            "auth-tls-match-cn",
            "auth-tls-pass-certificate-to-upstream",
        ],
    ),
    (
        "client_certificates.rs",
        "chains_have_a_depth_and_authorities_take_back_what_they_gave",
        &["auth-tls-verify-depth"],
    ),
    (
        "client_certificates.rs",
        "versions_and_ciphers_are_a_host_s_own",
        &["tls-min-protocol-version", "tls-max-protocol-version", "ssl-cipher", "ssl-ciphers"],
    ),
    (
        "../../controller/tests/annotations.rs",
        "annotations_become_rows_backends_and_filters",
        &[
            "proxy-connect-timeout",
            "warmup",
            "healthcheck-*",
            "healthy-threshold-count",
            "unhealthy-threshold-count",
        ],
    ),
];

// ---------------------------------------------------------------- how they are replayed

fn ingress(name: &str, path: &str, service: &str, given: Given) -> String {
    let lines: String =
        given.iter().map(|(of, name, value)| format!("    {of}{name}: {value:?}\n")).collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n    x: y\n{lines}\
         spec:\n  rules:\n  - host: shop.example\n    http:\n      paths:\n      - {{path: {path:?}, pathType: Prefix, \
         backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}\n"
    )
}

fn secret(name: &str, key: &str, value: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{key}: {value:?}}}\n"
    )
}

fn services(all: &[(&str, Option<SocketAddr>)]) -> String {
    let mut text = String::new();
    for (name, endpoint) in all {
        write!(text, "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n").unwrap();
        if let Some(endpoint) = endpoint {
            write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
                 {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints:\n- \
                 {{addresses: [\"{}\"]}}\n",
                endpoint.port(),
                endpoint.ip()
            )
            .unwrap();
        }
    }
    text
}

/// Answers what the path asks for.
fn backend(name: &'static str) -> Backend {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    Backend::start(move |request, stream| {
        let path = request.target();
        if let Some(status) = path.strip_prefix("/status/") {
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            return Then::Keep;
        }
        match path {
            "/hang" => {
                let _ = std::io::Read::read(stream, &mut [0; 1]);
                Then::Close
            }
            "/flaky" if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => {
                let _ = stream.write_all(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
                Then::Keep
            }
            "/slow-503" => {
                support::pass(std::time::Duration::from_millis(1100));
                let _ = stream.write_all(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
                Then::Keep
            }
            "/flaky" => respond(stream, b"again"),
            "/text" => {
                let body = "text ".repeat(200);
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                Then::Keep
            }
            _ => {
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nX-Kind: old\r\nX-Secret: 1\r\nContent-Length: {}\r\n\r\n{name}",
                    name.len()
                );
                Then::Keep
            }
        }
    })
}

fn start(scenario: &Scenario, web: &Backend, other: &Backend) -> Fleet {
    let (mut fleet, mut one) = (String::new(), vec![("web", Some(web.addr)), ("other", Some(other.addr))]);
    let mut two = Vec::new();
    match scenario.stage {
        Stage::One => fleet += &ingress("web", "/", "web", scenario.given),
        Stage::On(path) => fleet += &ingress("web", path, "web", scenario.given),
        Stage::Canary => {
            fleet += &ingress("web", "/", "web", &[]);
            fleet += &ingress("xtra", "/", "other", scenario.given);
        }
        Stage::Clusters => {
            fleet += &ingress("web", "/", "web", scenario.given);
            two.push(("web", Some(other.addr)));
        }
        Stage::Empty => {
            fleet += &ingress("web", "/", "web", scenario.given);
            one[0].1 = None;
        }
    }
    fleet += &secret("staff", "ann", "{PLAIN}secret");
    fleet += &secret("file", "auth", "ann:{PLAIN}secret\n");
    fleet += &secret("junk", "auth", "no password file\n");
    let (one, two) = (services(&one), services(&two));
    let mut files = vec![("fleet/all.yaml", fleet.as_str()), ("clusters/one/all.yaml", one.as_str())];
    if scenario.stage == Stage::Clusters {
        files.push(("clusters/two/all.yaml", two.as_str()));
    }
    Fleet::start(config(), &files)
}

fn ask(fleet: &Fleet, ask: &str) -> Response {
    let mut lines = ask.lines();
    let line = lines.next().unwrap();
    let fields: Vec<&str> = lines.collect();
    let mut text = format!("{line} HTTP/1.1\r\n");
    if !fields.iter().any(|field| field.starts_with("Host:")) {
        text += "Host: shop.example\r\n";
    }
    fields.iter().for_each(|field| text += &format!("{field}\r\n"));
    let length = fields
        .iter()
        .find_map(|field| field.strip_prefix("Content-Length: "))
        .map_or(0, |n| n.parse().unwrap());
    text += "\r\n";
    text += &"x".repeat(length);
    Client::connect(fleet.addr).send(text).try_response(To::Get).unwrap()
}

/// What does not hold of a head.
fn misses(head: &str, wanted: &str) -> bool {
    let values = |name: &str| support::backend::values(head, name).join("|");
    if let Some(name) = wanted.strip_prefix('!') {
        return !values(name).is_empty();
    }
    if let Some((name, part)) = wanted.split_once("~ ") {
        return !values(name).contains(part);
    }
    match wanted.split_once(": ") {
        Some((name, value)) => values(name) != value,
        None => head.lines().next() != Some(wanted),
    }
}

fn check(scenario: &Scenario, wrong: &mut String) {
    let (web, other) = (backend("web"), backend("other"));
    let fleet = start(scenario, &web, &other);
    for step in scenario.steps {
        let before = (web.requests().len(), other.requests().len());
        let response = ask(&fleet, step.ask);
        let mut fail = |what: &str| {
            writeln!(wrong, "{:?} {:?}: {what}\n{}", scenario.given, step.ask, response.head).unwrap()
        };
        if response.status != step.status {
            fail(&format!("status {}, not {}", response.status, step.status));
        }
        for wanted in step.says {
            let holds = match wanted.strip_prefix("body: ") {
                Some(body) => response.body == body.as_bytes(),
                None => !misses(&response.head, wanted),
            };
            if !holds {
                fail(&format!("the client does not get {wanted:?}"));
            }
        }
        let copied = step.sees.iter().find_map(|wanted| wanted.strip_prefix("copied: "));
        if let Some(line) = copied {
            support::until("the copy arrives", || other.requests().len() > before.1);
            if other.requests().last().is_none_or(|copy| copy.line() != line) {
                fail("another copy");
            }
            continue;
        }
        let new: [Vec<Request>; 2] =
            [web.requests().split_off(before.0), other.requests().split_off(before.1)];
        let expected = [step.by == "web", step.by == "other"];
        if [!new[0].is_empty(), !new[1].is_empty()] != expected
            && !(step.by == "other" && step.sees.iter().any(|s| s.starts_with("x-code")))
        {
            fail(&format!("web saw {}, other {}, not by {:?}", new[0].len(), new[1].len(), step.by));
        }
        let seen = if step.by == "other" { &new[1] } else { &new[0] };
        for wanted in step.sees {
            let holds = match wanted.strip_prefix("count: ") {
                Some(count) => seen.len() == count.parse::<usize>().unwrap(),
                None => seen.last().is_some_and(|request| !misses(&request.head, wanted)),
            };
            if !holds {
                fail(&format!("the backend does not see {wanted:?}: {seen:?}"));
            }
        }
    }
}

#[test]
fn every_scenario_holds() {
    let mut wrong = String::new();
    for scenario in SCENARIOS {
        check(scenario, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_annotation_that_is_honoured_has_a_scenario() {
    let mut shown: BTreeSet<&str> = SCENARIOS.iter().flat_map(|scenario| scenario.of).copied().collect();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (file, test, names) in ELSEWHERE {
        let text = std::fs::read_to_string(tests.join(file)).unwrap();
        assert!(text.contains(&format!("#[test]\nfn {test}()")), "{names:?}: no {test} in {file}");
        shown.extend(*names);
    }
    let is_shown = |name: &str| {
        shown.contains(name)
            || shown.iter().any(|shown| shown.strip_suffix('*').is_some_and(|start| name.starts_with(start)))
    };
    let missing: Vec<&str> = ENTRIES
        .iter()
        .filter(|entry| matches!(entry.fate, Fate::Honoured | Fate::Differs(_)) && !is_shown(entry.name))
        .map(|entry| entry.name)
        .collect();
    assert!(missing.is_empty(), "no scenario: {missing:?}");
    let unknown: Vec<&&str> = shown
        .iter()
        .filter(|name| !name.ends_with("-*") && !ENTRIES.iter().any(|entry| entry.name == **name))
        .collect();
    assert!(unknown.is_empty(), "no such annotation: {unknown:?}");
}
