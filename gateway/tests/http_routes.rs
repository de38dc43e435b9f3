//! Every filter and field of an `HTTPRoute`, over sockets: the rule, a request, what the backends see, what the client gets.
//! As the Gateway API says it, to the letter where it says more than one thing could be meant.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::backend::{Backend, Request, Then, values};
use support::client::{Client, Response};
use support::fleet::Fleet;
use support::manifests::services;
use support::{Port, config, until};

/// A rule for a path, and what becomes of requests.
struct Case {
    /// Its matches are by this prefix.
    path: &'static str,
    /// The rule's other fields.
    rule: &'static str,
    steps: &'static [Step],
}

struct Step {
    /// `GET /a`, and header lines.
    ask: &'static str,
    status: u16,
    /// Lines of the response's head: `name: value` (all values of it, by `|`), `!name` for what is not there.
    says: &'static [&'static str],
    /// The same of what `web` sees; a request line stands for itself. Empty = `web` sees nothing.
    sees: &'static [&'static str],
}

const fn case(path: &'static str, rule: &'static str, steps: &'static [Step]) -> Case {
    Case { path, rule, steps }
}

const fn gets(ask: &'static str, status: u16, says: &'static [&'static str]) -> Step {
    Step { ask, status, says, sees: &[] }
}

const fn sees(ask: &'static str, sees: &'static [&'static str]) -> Step {
    Step { ask, status: 200, says: &[], sees }
}

const fn via(ask: &'static str, says: &'static [&'static str]) -> Step {
    Step { ask, status: 200, says, sees: &["!never"] }
}

/// What a rule has beside its filters when it says nothing of backends.
const WEB: &str = "backendRefs: [{name: web, port: 80}]";
const CASES: &[Case] = &[
    // ------------------------------------------------ header changes
    case(
        "/request-headers",
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}], \
         add: [{name: X-Add, value: \"bar,baz\"}], remove: [x-gone]}}]",
        &[
            sees(
                "GET /request-headers\nx-set: a\nX-Set: b\nX-Add: foo\nX-Gone: 1\nx-gone: 2",
                &["x-set: new", "x-add: foo|bar,baz", "!x-gone"],
            ),
            sees("GET /request-headers", &["x-set: new", "x-add: bar,baz"]),
        ],
    ),
    case(
        "/response-headers",
        "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Kind, value: new}], \
         add: [{name: x-more, value: \"2\"}], remove: [X-Secret]}}]",
        &[via("GET /response-headers", &["x-kind: new", "x-more: 1|2", "!x-secret"])],
    ),
    case(
        "/names",
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: first}, \
         {name: x-a, value: second}]}}]",
        &[sees("GET /names", &["x-a: first"])],
    ),
    // ------------------------------------------------ redirects
    case(
        "/redirect",
        "filters: [{type: RequestRedirect, requestRedirect: {}}]",
        &[gets("GET /redirect/a?b=c", 302, &["location: http://shop.example:PORT/redirect/a?b=c"])],
    ),
    case(
        "/redirect-https",
        "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]",
        &[gets("GET /redirect-https", 301, &["location: https://shop.example/redirect-https"])],
    ),
    case(
        "/redirect-http",
        "filters: [{type: RequestRedirect, requestRedirect: {scheme: http, hostname: b.example}}]",
        &[gets("GET /redirect-http", 302, &["location: http://b.example/redirect-http"])],
    ),
    case(
        "/redirect-port",
        "filters: [{type: RequestRedirect, requestRedirect: {port: 80, statusCode: 307}}]",
        &[gets("GET /redirect-port", 307, &["location: http://shop.example/redirect-port"])],
    ),
    case(
        "/redirect-8443",
        "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 308}}]",
        &[gets("GET /redirect-8443", 308, &["location: https://shop.example:8443/redirect-8443"])],
    ),
    case(
        "/redirect-full",
        "filters: [{type: RequestRedirect, requestRedirect: {port: 80, statusCode: 303, \
         path: {type: ReplaceFullPath, replaceFullPath: /full}}}]",
        &[gets("GET /redirect-full/a?b=c", 303, &["location: http://shop.example/full?b=c"])],
    ),
    case(
        "/redirect-prefix",
        "filters: [{type: RequestRedirect, requestRedirect: {port: 80, path: {type: ReplacePrefixMatch, \
         replacePrefixMatch: /new/}}}]",
        &[
            gets("GET /redirect-prefix/a", 302, &["location: http://shop.example/new/a"]),
            gets("GET /redirect-prefix", 302, &["location: http://shop.example/new"]),
            gets("GET /redirect-prefix/", 302, &["location: http://shop.example/new/"]),
        ],
    ),
    // ------------------------------------------------ rewrites
    case(
        "/rewrite",
        "filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, \
         replacePrefixMatch: /}}}]",
        &[
            sees("GET /rewrite/a?b=c", &["GET /a?b=c HTTP/1.1", "host: inner.example"]),
            sees("GET /rewrite", &["GET / HTTP/1.1"]),
        ],
    ),
    case(
        "/rewrite-full",
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]",
        &[sees("GET /rewrite-full/a?b=c", &["GET /one?b=c HTTP/1.1", "host: shop.example"])],
    ),
    case(
        "/all",
        "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-kind, value: r}]}}, \
         {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}, \
         {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: q}]}}, \
         {type: CORS, cors: {allowOrigins: [\"*\"]}}]",
        &[Step {
            ask: "GET /all/b\nOrigin: https://a.example",
            status: 200,
            says: &["x-kind: r", "access-control-allow-origin: *"],
            sees: &["GET /x/b HTTP/1.1", "x-a: q"],
        }],
    ),
    // ------------------------------------------------ requests of other origins
    case(
        "/cors",
        "filters: [{type: CORS, cors: {allowOrigins: [\"https://a.example:443\", \"http://*.b.example:8080\"], \
         allowMethods: [PUT, DELETE], allowHeaders: [x-a, x-b], exposeHeaders: [x-total], allowCredentials: true, maxAge: 60}}]",
        &[
            gets(
                "OPTIONS /cors\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT",
                204,
                &[
                    "access-control-allow-origin: https://a.example",
                    "access-control-allow-methods: PUT, DELETE",
                    "access-control-allow-headers: x-a, x-b",
                    "access-control-allow-credentials: true",
                    "access-control-max-age: 60",
                    "access-control-expose-headers: x-total",
                    "vary: Origin",
                ],
            ),
            via(
                "GET /cors\nOrigin: http://x.y.b.example:8080",
                &[
                    "access-control-allow-origin: http://x.y.b.example:8080",
                    "access-control-expose-headers: x-total",
                    "access-control-allow-credentials: true",
                    "!access-control-allow-methods",
                ],
            ),
            via(
                "GET /cors\nOrigin: http://b.example:8080",
                &["!access-control-allow-origin", "vary: Origin"],
            ),
            gets(
                "OPTIONS /cors\nOrigin: https://c.example\nAccess-Control-Request-Method: PUT",
                204,
                &["!access-control-allow-origin", "!access-control-allow-methods"],
            ),
            // Not a preflight: it is the backend's.
            via(
                "OPTIONS /cors\nOrigin: https://a.example",
                &["access-control-allow-origin: https://a.example"],
            ),
        ],
    ),
    case(
        "/cors-least",
        "filters: [{type: CORS, cors: {allowOrigins: [\"*\"]}}]",
        &[
            gets(
                "OPTIONS /cors-least\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: x-a",
                204,
                &[
                    "access-control-allow-origin: *",
                    "access-control-max-age: 5",
                    "!access-control-allow-methods",
                    "!access-control-allow-headers",
                    "!access-control-allow-credentials",
                ],
            ),
            via("GET /cors-least", &["access-control-allow-origin: *", "!vary"]),
        ],
    ),
    case(
        "/cors-credentials",
        "filters: [{type: CORS, cors: {allowOrigins: [\"*\"], allowMethods: [\"*\"], allowHeaders: [\"*\"], \
         exposeHeaders: [\"*\"], allowCredentials: true}}]",
        &[
            gets(
                "OPTIONS /cors-credentials\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: x-a, x-b",
                204,
                &[
                    "access-control-allow-origin: https://a.example",
                    "access-control-allow-methods: PUT",
                    "access-control-allow-headers: x-a, x-b",
                    "access-control-allow-credentials: true",
                    "vary: Origin",
                ],
            ),
            gets(
                "OPTIONS /cors-credentials\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT",
                204,
                &["access-control-allow-methods: PUT", "!access-control-allow-headers"],
            ),
            via(
                "GET /cors-credentials\nOrigin: https://b.example",
                &[
                    "access-control-allow-origin: https://b.example",
                    "access-control-allow-credentials: true",
                    "!access-control-expose-headers",
                ],
            ),
            via("GET /cors-credentials", &["!access-control-allow-origin", "vary: Origin"]),
        ],
    ),
    case(
        "/cors-every-host",
        "filters: [{type: CORS, cors: {allowOrigins: [\"https://*\"]}}]",
        &[
            via(
                "GET /cors-every-host\nOrigin: https://a.b.example",
                &["access-control-allow-origin: https://a.b.example"],
            ),
            via("GET /cors-every-host\nOrigin: http://a.b.example", &["!access-control-allow-origin"]),
        ],
    ),
    case(
        "/cors-nobody",
        "filters: [{type: CORS, cors: {allowMethods: [PUT]}}]",
        &[via("GET /cors-nobody\nOrigin: https://a.example", &["!access-control-allow-origin"])],
    ),
    // ------------------------------------------------ filters of one backend
    case(
        "/own",
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: rule}, \
         {name: x-b, value: rule}]}}]\n    backendRefs: [{name: web, port: 80, filters: [{type: RequestHeaderModifier, \
         requestHeaderModifier: {set: [{name: x-a, value: own}]}}, {type: ResponseHeaderModifier, \
         responseHeaderModifier: {set: [{name: x-kind, value: own}]}}]}]",
        &[Step { ask: "GET /own", status: 200, says: &["x-kind: own"], sees: &["x-a: own", "x-b: rule"] }],
    ),
    case(
        "/own-rewrite",
        "backendRefs: [{name: web, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}}]}]",
        &[gets("GET /own-rewrite", 500, &[])],
    ),
    // ------------------------------------------------ what cannot be honoured is never skipped
    case(
        "/twice",
        "filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}}, {type: URLRewrite, urlRewrite: {hostname: b.example}}]",
        &[gets("GET /twice", 500, &[])],
    ),
    case(
        "/cors-twice",
        "filters: [{type: CORS, cors: {allowOrigins: [\"*\"]}}, {type: CORS, cors: {allowOrigins: [\"https://a.example\"]}}]",
        &[gets("GET /cors-twice", 500, &[])],
    ),
    case(
        "/both",
        "filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: b.example}}]",
        &[gets("GET /both", 500, &[])],
    ),
    case(
        "/extension",
        "filters: [{type: ExtensionRef, extensionRef: {group: example.net, kind: Plugin, name: p}}]",
        &[gets("GET /extension", 500, &[])],
    ),
    case(
        "/external",
        "filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: other, port: 80}}}]",
        &[gets("GET /external", 500, &[])],
    ),
    // ------------------------------------------------ retries
    case(
        "/flaky",
        "retry: {attempts: 1, codes: [503]}",
        &[sees("GET /flaky/once", &["GET /flaky/once HTTP/1.1"])],
    ),
    case(
        "/steady",
        "retry: {attempts: 0, codes: [503]}",
        &[Step { status: 503, ..sees("GET /steady/503", &["!never"]) }],
    ),
    // ------------------------------------------------ sessions
    case(
        "/session",
        "sessionPersistence: {sessionName: sess, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}",
        &[via(
            "GET /session",
            &["set-cookie~ sess=", "set-cookie~ ; Max-Age=3600", "set-cookie~ ; Path=/session;"],
        )],
    ),
    case(
        "/session-of-browser",
        "sessionPersistence: {sessionName: sess, cookieConfig: {lifetimeType: Permanent}}",
        &[via("GET /session-of-browser", &["set-cookie~ sess=", "set-cookie!~ Max-Age"])],
    ),
    case(
        "/session-header",
        "sessionPersistence: {type: Header}",
        &[via("GET /session-header", &["!set-cookie"])],
    ),
];

/// The mirrors of a rule, each with its share.
const MIRRORS: &str = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}}}, \
                       {type: RequestMirror, requestMirror: {backendRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: third, port: 80}, percent: 100}}, \
                       {type: RequestMirror, requestMirror: {backendRef: {name: never, port: 80}, fraction: {numerator: 0, denominator: 7}}}, \
                       {type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}}]";

fn route(port: u16, rules: &[(&str, &str)]) -> String {
    let rules: String = rules
        .iter()
        .map(|(path, rule)| {
            let answers = rule.contains("requestRedirect") || rule.contains("backendRefs");
            let backends = if answers { String::new() } else { format!("    {WEB}\n") };
            format!("  - matches: [{{path: {{value: {path}}}}}]\n    {rule}\n{backends}")
        })
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\n\
         spec: {{controllerName: ringway.dev/gateway}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public}}\nspec:\n  \
         gatewayClassName: ringway\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n  \
         - {{name: l, port: {port}, protocol: HTTP}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all}}\n\
         spec:\n  parentRefs: [{{name: public}}]\n  rules:\n{rules}"
    )
}

fn fleet(rules: &[(&str, &str)], backends: &[(&str, &Backend)]) -> (Fleet, Port) {
    let port = Port::reserve();
    let addrs: Vec<_> = backends.iter().map(|(name, backend)| (*name, [backend.addr])).collect();
    let all: Vec<_> = addrs.iter().map(|(name, addrs)| (*name, &addrs[..])).collect();
    let fleet = Fleet::start(
        config(),
        &[("fleet/all.yaml", &route(port.addr.port(), rules)), ("clusters/one/all.yaml", &services(&all))],
    );
    (fleet, port)
}

/// `/…/once` fails once, `/…/503` always; the rest is answered at once, with a few fields.
fn web() -> Backend {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    Backend::start(move |request: &Request, stream| {
        let target = request.target();
        let first = || asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        if target.ends_with("/503") || target.ends_with("/once") && first() {
            let _ = stream.write_all(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
            return Then::Keep;
        }
        if target.ends_with("/hang") {
            let _ = stream.read(&mut [0; 1]);
            return Then::Close;
        }
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nX-Kind: old\r\nX-More: 1\r\nX-Secret: s\r\nContent-Length: 3\r\n\r\nweb",
        );
        Then::Keep
    })
}

fn ask(port: &Port, ask: &str) -> Response {
    let (line, fields) = ask.split_once('\n').unwrap_or((ask, ""));
    let fields: String = fields.lines().map(|field| format!("{field}\r\n")).collect();
    let text = format!("{line} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n");
    Client::connect(port.addr).send(text).response()
}

fn holds(head: &str, wanted: &str) -> bool {
    let joined = |name: &str| values(head, name).join("|");
    if let Some((name, part)) = wanted.split_once("!~ ") {
        return !joined(name).contains(part);
    }
    if let Some(name) = wanted.strip_prefix('!') {
        return joined(name).is_empty();
    }
    if let Some((name, part)) = wanted.split_once("~ ") {
        return joined(name).contains(part);
    }
    match wanted.split_once(": ") {
        Some((name, value)) => joined(name) == value,
        None => head.lines().next() == Some(wanted),
    }
}

#[test]
fn every_filter_and_field_does_what_the_gateway_api_says() {
    let web = web();
    let rules: Vec<_> = CASES.iter().map(|case| (case.path, case.rule)).collect();
    let (_fleet, port) = fleet(&rules, &[("web", &web)]);
    let mut wrong = Vec::new();
    for step in CASES.iter().flat_map(|case| case.steps) {
        let before = web.requests().len();
        let response = ask(&port, step.ask);
        if response.status != step.status {
            wrong.push(format!("{}: status {}, not {}", step.ask, response.status, step.status));
        }
        for wanted in step.says {
            let wanted = wanted.replace("PORT", &port.addr.port().to_string());
            if !holds(&response.head, &wanted) {
                wrong.push(format!("{}: the client does not get {wanted:?}: {}", step.ask, response.head));
            }
        }
        let seen = web.requests().split_off(before);
        if seen.is_empty() != step.sees.is_empty() {
            wrong.push(format!("{}: web saw {}", step.ask, seen.len()));
        }
        for wanted in step.sees {
            if seen.last().is_some_and(|request| !holds(&request.head, wanted)) {
                wrong.push(format!("{}: web does not see {wanted:?}: {seen:?}", step.ask));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn copies_go_to_every_mirror_for_its_share_and_one_that_is_not_there_costs_nothing() {
    let (web, other, third, never) =
        (web(), Backend::named("other"), Backend::named("third"), Backend::named("never"));
    let backends = [("web", &web), ("other", &other), ("third", &third), ("never", &never)];
    let (_fleet, port) = fleet(&[("/", MIRRORS)], &backends);
    for n in 0..8 {
        assert_eq!(ask(&port, &format!("GET /copied/{n}?a=b")).text(), "web");
    }
    until("both mirrors have all copies", || other.requests().len() == 8 && third.requests().len() == 8);
    let mut lines: Vec<_> = third.requests().iter().map(|copy| copy.line().to_owned()).collect();
    lines.sort();
    assert_eq!(lines[7], "GET /copied/7?a=b HTTP/1.1");
    assert!(never.requests().is_empty());
}

#[test]
fn timeouts_end_attempts_and_requests_and_zero_is_no_limit() {
    let web = web();
    let rules = [
        ("/attempt", "timeouts: {request: 20s, backendRequest: 100ms}"),
        ("/request", "timeouts: {request: 100ms}"),
        ("/zero", "timeouts: {request: 0s, backendRequest: 0s}"),
        // More than the request's is none of its own.
        ("/more", "timeouts: {request: 100ms, backendRequest: 10s}"),
    ];
    let (fleet, port) = fleet(&rules, &[("web", &web)]);
    for path in ["/attempt/hang", "/request/hang", "/more/hang"] {
        let began = Instant::now();
        assert_eq!(ask(&port, &format!("POST {path}\nContent-Length: 0")).status, 504, "{path}");
        assert!(began.elapsed() >= Duration::from_millis(100), "{path}");
    }
    assert_eq!(ask(&port, "GET /zero").status, 200);
    let view = fleet.view.read();
    let told = view.verdicts.iter().flat_map(|verdict| &verdict.notes);
    let about = told.filter(|note| note.field == "spec.rules[3].timeouts.backendRequest");
    assert_eq!(about.count(), 1, "the one that is more is named");
}

/// A session of one rule stays where it is, whatever the balance.
#[test]
fn a_session_stays_with_its_endpoint() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let port = Port::reserve();
    let rules = [("/", "sessionPersistence: {sessionName: sess}")];
    let _fleet = Fleet::start(
        config(),
        &[
            ("fleet/all.yaml", &route(port.addr.port(), &rules)),
            ("clusters/one/all.yaml", &services(&[("web", &[one.addr, two.addr])])),
        ],
    );
    let first = ask(&port, "GET /");
    let cookie = first.one("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..16 {
        let again = ask(&port, &format!("GET /\nCookie: {cookie}"));
        assert_eq!((again.text(), again.one("set-cookie")), (first.text(), None));
    }
}
