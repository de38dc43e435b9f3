//! What annotations make of answers end to end: inner names in Location and cookies, fields of ConfigMaps, what a fallback
//! is told, cookies of sessions over TLS, and which answer to a check of ALB is a good one.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use support::backend::{Backend, Then, respond};
use support::client::Response;
use support::fleet::{Fleet, localhost};
use support::manifests::{A, N, get, ingress, one, services, with};
use support::tls::{Ca, connect};
use support::{config, until};

/// Answers with the lines that the request's field `x-says` holds, `|` between them.
fn saying() -> Backend {
    Backend::start(|request, stream| {
        let lines = request.one("x-says").unwrap_or("X-Plain: 1").replace('|', "\r\n");
        let _ = stream
            .write_all(format!("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n{lines}\r\n\r\n").as_bytes());
        Then::Keep
    })
}

fn said(fleet: &Fleet, lines: &str) -> Response {
    get(fleet, "/a;b?c=d", &format!("X-Says: {lines}\n"))
}

// ---------------------------------------------------------------- inner names

#[test]
fn a_location_loses_the_name_of_an_inner_host() {
    let web = saying();
    for (from, to, given, wanted) in [
        (
            "http://inner.example/",
            "https://outer.example/",
            "http://inner.example/x?y",
            "https://outer.example/x?y",
        ),
        (
            "http://inner.example/",
            "https://outer.example/",
            "http://other.example/x",
            "http://other.example/x",
        ),
        ("http://inner.example/", "https://outer.example/", "/x", "/x"),
        ("http://inner.example/", "/", "http://inner.example/x", "/x"),
        ("http://inner.example", "$scheme://$http_host", "http://inner.example/x", "http://shop.example/x"),
        ("~^http://([a-z]+)\\.inner(/.*)$", "https://$1.outer${2}", "http://a.inner/x", "https://a.outer/x"),
        ("~*INNER", "/away", "http://a.inner/x", "/away"),
        ("~INNER", "/away", "http://a.inner/x", "http://a.inner/x"),
        ("off", "https://outer.example/", "http://inner.example/", "http://inner.example/"),
        ("default", "https://outer.example/", "http://inner.example/", "http://inner.example/"),
        ("http://inner.example/", "off", "http://inner.example/", "http://inner.example/"),
        // What cannot be read changes nothing.
        ("~(", "/away", "http://inner.example/", "http://inner.example/"),
        ("http://inner.example/", "$pid", "http://inner.example/", "http://inner.example/"),
        ("http://inner.example/", "/a;b", "http://inner.example/", "http://inner.example/"),
    ] {
        let fleet = one("/", &[(N, "proxy-redirect-from", from), (N, "proxy-redirect-to", to)], &web);
        let response = said(&fleet, &format!("Location: {given}"));
        assert_eq!((response.status, response.one("location")), (302, Some(wanted)), "{from} {to}");
        assert_eq!(said(&fleet, "X-None: 1").one("location"), None);
    }
}

#[test]
fn cookies_lose_inner_hosts_and_paths_and_keep_everything_else() {
    let web = saying();
    let rewrites = [
        (N, "proxy-cookie-domain", "inner.example .outer.example"),
        (N, "proxy-cookie-path", "/one/ /"),
        (N, "affinity", "cookie"),
    ];
    let fleet = one("/", &rewrites, &web);
    let cookies = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("Set-Cookie: {line}")).collect();
        let all = said(&fleet, &lines.join("|"));
        let kept = all.all("set-cookie").into_iter().filter(|line| !line.starts_with("INGRESSCOOKIE"));
        kept.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        cookies(&[
            "a=path=/one/; Domain=.INNER.example; Path=/one/two; HttpOnly",
            "b=2;path=/one/",
            "c=3; Domain=x.inner.example; Path=/two; Secure",
            "d=Domain=inner.example",
        ]),
        [
            "a=path=/one/; Domain=outer.example; Path=/two; HttpOnly",
            "b=2;path=/",
            "c=3; Domain=x.inner.example; Path=/two; Secure",
            "d=Domain=inner.example",
        ]
    );
    assert_eq!(cookies(&[]).len(), 0);
    let regex = one("/", &[(N, "proxy-cookie-path", "~^/([a-z]+)/.*$ /out/$1")], &web);
    assert_eq!(said(&regex, "Set-Cookie: a=1; Path=/one/two").one("set-cookie"), Some("a=1; Path=/out/one"));
    for bad in ["/one/", "/one/ $uri", "/one/ /;Secure", "~( /"] {
        let fleet = one("/", &[(N, "proxy-cookie-path", bad)], &web);
        let line = "a=1; Path=/one/";
        assert_eq!(said(&fleet, &format!("Set-Cookie: {line}")).one("set-cookie"), Some(line), "{bad}");
    }
    // A rule that takes cookies away takes them away.
    let taken = [
        (N, "proxy-cookie-path", "/one/ /"),
        (support::manifests::M, "response-header-control-remove", "set-cookie"),
    ];
    let fleet = one("/", &taken, &web);
    assert_eq!(said(&fleet, "Set-Cookie: a=1; Path=/one/").one("set-cookie"), None);
}

// ---------------------------------------------------------------- ConfigMaps

fn config_map(name: &str, namespace: &str, data: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{{data}}}\n"
    )
}

#[test]
fn fields_of_a_config_map_are_set_on_responses_and_one_that_cannot_be_used_closes() {
    let web = Backend::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Frame-Options: ALLOW\r\n\r\n",
        Then::Keep,
    );
    let own = (support::manifests::M, "response-header-control-update", "x-own mine");
    let named = |name: &str| ingress("web", "/", "web", &[(N, "custom-headers", name), own]);
    let all = services(&[("web", &[web.addr])]);
    let fleet =
        Fleet::start(config(), &[("fleet/web.yaml", &named("fields")), ("clusters/one/all.yaml", &all)]);
    assert_eq!(get(&fleet, "/", "").status, 503, "there is no such ConfigMap");
    assert_eq!(web.count(), 0);
    fleet.write(
        "fleet/map.yaml",
        &config_map("fields", "default", "X-Frame-Options: DENY, X-From: $remote_addr, X-Own: theirs"),
    );
    until("its fields are set", || get(&fleet, "/", "").status == 200);
    let response = get(&fleet, "/", "");
    assert_eq!(response.all("x-own"), ["mine"], "the Ingress's own word comes later, and once");
    assert_eq!(
        (response.one("x-frame-options"), response.one("x-from")),
        (Some("DENY"), Some("$remote_addr"))
    );
    fleet.write("fleet/map.yaml", &config_map("fields", "default", "X-Frame-Options: SAMEORIGIN"));
    until("another value", || get(&fleet, "/", "").one("x-frame-options") == Some("SAMEORIGIN"));
    assert_eq!(get(&fleet, "/", "").one("x-from"), None);
    for bad in ["\"a b\": x", "Content-Length: \"7\"", "X-A: \"b\\nc\"", "app.conf: x"] {
        fleet.write("fleet/map.yaml", &config_map("fields", "default", bad));
        until(bad, || get(&fleet, "/", "").status == 503);
        fleet.write("fleet/map.yaml", &config_map("fields", "default", "X-A: b"));
        until("good again", || get(&fleet, "/", "").status == 200);
    }
    // Another namespace must agree.
    fleet.write("fleet/far.yaml", &config_map("far", "security", "X-Far: \"1\""));
    fleet.write("fleet/web.yaml", &named("security/far"));
    until("nobody has agreed", || get(&fleet, "/", "").status == 503);
    fleet.write(
        "fleet/grant.yaml",
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: web, namespace: security}\n\
         spec:\n  from: [{group: networking.k8s.io, kind: Ingress, namespace: default}]\n  to: [{group: \"\", kind: ConfigMap}]\n",
    );
    until("it agrees", || get(&fleet, "/", "").one("x-far") == Some("1"));
    fleet.write("fleet/web.yaml", &named("a/b/c"));
    until("that is no name", || get(&fleet, "/", "").status == 503);
}

#[test]
fn a_question_carries_the_fields_of_a_config_map() {
    let (auth, web) = (Backend::named("yes"), Backend::named("web"));
    let all = [
        (N, "auth-url", "http://auth.default.svc.cluster.local/check"),
        (N, "auth-proxy-set-headers", "fields"),
    ];
    let text = ingress("web", "/", "web", &all);
    let map = config_map(
        "fields",
        "default",
        "X-Realm: Staff only, X-Asked: $request_method $scheme://$host$request_uri, X-Original-URL: forged",
    );
    let found = services(&[("web", &[web.addr]), ("auth", &[auth.addr])]);
    let files = [("fleet/web.yaml", &*text), ("fleet/map.yaml", &*map), ("clusters/one/all.yaml", &*found)];
    let fleet = Fleet::start(config(), &files);
    assert_eq!(get(&fleet, "/a?b=c", "X-Realm: mine\n").status, 200);
    let asked = auth.only_request();
    assert_eq!(asked.one("x-realm"), Some("Staff only"));
    assert_eq!(asked.one("x-asked"), Some("GET http://shop.example/a?b=c"));
    assert_eq!(asked.one("x-original-url"), Some("http://shop.example/a?b=c"));
    for (bad, name) in [("X-A: $http_cookie", "fields"), ("Host: a", "fields"), ("X-A: b", "missing")] {
        fleet.write("fleet/map.yaml", &config_map("fields", "default", bad));
        fleet.write("fleet/web.yaml", &text.replace("fields", name));
        until(bad, || get(&fleet, "/", "").status == 503);
        fleet.write("fleet/web.yaml", &text);
        fleet.write("fleet/map.yaml", &config_map("fields", "default", "X-A: b"));
        until("good again", || get(&fleet, "/", "").status == 200);
    }
}

// ---------------------------------------------------------------- fallbacks

#[test]
fn a_fallback_is_told_what_was_asked_for_and_of_which_rule() {
    let (web, other) = (
        Backend::answering("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Then::Keep),
        Backend::named("other"),
    );
    for (endpoints, code, target) in [(&[web.addr][..], "404", "/"), (&[], "503", "/a?b=c")] {
        let said = [(N, "default-backend", "other"), (N, "custom-http-errors", "404")];
        let fleet =
            with(&ingress("front", "/", "web", &said), &[("web", endpoints), ("other", &[other.addr])]);
        let fields = "Accept: text/html\nX-Code: 200\nX-Ingress-Name: forged\nX-Request-Id: id-1\n";
        assert_eq!(get(&fleet, "/a?b=c", fields).text(), "other");
        let seen = other.requests().pop().unwrap();
        // The query of an answered request is left as it was: pages for errors do not read it.
        assert!(seen.target().starts_with(target), "{}", seen.head);
        for (name, wanted) in [
            ("x-code", code),
            ("x-format", "text/html"),
            ("x-original-uri", "/a?b=c"),
            ("x-namespace", "default"),
            ("x-ingress-name", "front"),
            ("x-service-name", "web"),
            ("x-service-port", "80"),
        ] {
            assert_eq!(seen.one(name), Some(wanted), "{}", seen.head);
        }
        assert!(seen.one("x-request-id").is_some(), "{}", seen.head);
    }
    let own = with(
        &ingress("front", "/", "web", &[(N, "default-backend", "other")]),
        &[("web", &[other.addr]), ("other", &[web.addr])],
    );
    assert_eq!(get(&own, "/", "").text(), "other");
    assert_eq!(
        other.requests().pop().unwrap().one("x-service-name"),
        None,
        "its own backends are told nothing"
    );
}

// ---------------------------------------------------------------- sessions

#[test]
fn a_session_of_ingress_nginx_is_secure_where_it_came_by_tls() {
    let web = Backend::named("web");
    for (more, in_clear, over_tls) in [
        ("", false, true),
        (", nginx.ingress.kubernetes.io/session-cookie-secure: \"false\"", false, true),
        (", nginx.ingress.kubernetes.io/session-cookie-secure: \"true\"", true, true),
    ] {
        let ca = Ca::new();
        let fleet = localhost(&format!("nginx.ingress.kubernetes.io/affinity: cookie{more}"), web.addr, &ca);
        let clear = support::client::Client::connect(fleet.addr)
            .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .response();
        assert_eq!(clear.one("set-cookie").unwrap().contains("; Secure"), in_clear, "{more}");
        let mut client = connect(fleet.tls, "localhost", &Arc::new(ca.trust())).unwrap();
        let (status, head, _) = client.get("localhost", "/");
        let set = support::backend::values(&head, "set-cookie");
        assert_eq!(
            (status, set[0].matches("; Secure").count()),
            (200, usize::from(over_tls)),
            "{more}: {head}"
        );
    }
    for (of, secure) in
        [("mse.ingress.kubernetes.io/affinity: cookie", false), ("ringway.dev/affinity-cookie: s", true)]
    {
        let ca = Ca::new();
        let fleet = localhost(of, web.addr, &ca);
        let mut client = connect(fleet.tls, "localhost", &Arc::new(ca.trust())).unwrap();
        let (_, head, _) = client.get("localhost", "/");
        assert_eq!(support::backend::values(&head, "set-cookie")[0].contains("; Secure"), secure, "{of}");
    }
}

// ---------------------------------------------------------------- checks of ALB

/// Answers checks with `status`, and everything else with 200 and its name; notes the request lines of checks.
fn checked(name: &'static str, status: &'static str) -> (Backend, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&lines);
    let backend = Backend::start(move |request, stream| {
        if request.one("user-agent") != Some("ringway-probe") || request.line().starts_with("OPTIONS") {
            return respond(stream, name.as_bytes());
        }
        noted.lock().unwrap().push(request.line().to_owned());
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        Then::Close
    });
    (backend, lines)
}

const EVERY_SECOND: [(&str, &str, &str); 4] = [
    (A, "healthcheck-enabled", "true"),
    (A, "healthcheck-interval-seconds", "1"),
    (A, "unhealthy-threshold-count", "2"),
    (A, "healthcheck-path", "/h"),
];

/// A fleet whose Service has these two endpoints.
fn pair(more: &[(&'static str, &'static str, &'static str)], both: [&Backend; 2]) -> Fleet {
    let said: Vec<_> = EVERY_SECOND.iter().chain(more).copied().collect();
    with(&ingress("web", "/", "web", &said), &[("web", &both.map(|backend| backend.addr))])
}

fn answered_by(fleet: &Fleet) -> Vec<String> {
    (0..20).map(|_| get(fleet, "/", "").text()).collect()
}

#[test]
fn a_check_of_alb_asks_as_it_is_told_and_knows_a_good_answer() {
    let (good, _) = checked("good", "200 OK");
    let (odd, asked) = checked("odd", "404 No");
    let strict = pair(&[(A, "healthcheck-httpversion", "HTTP1.0")], [&good, &odd]);
    until("404 is no 2xx", || answered_by(&strict).iter().all(|name| name == "good"));
    assert!(asked.lock().unwrap().iter().all(|line| line == "HEAD /h HTTP/1.0"), "{asked:?}");
    drop(strict);
    for (name, wrong) in
        [("healthcheck-code", "http_9xx"), ("healthcheck-method", "PUT"), ("healthcheck-protocol", "ICMP")]
    {
        asked.lock().unwrap().clear();
        let fleet = pair(&[(A, name, wrong)], [&good, &odd]);
        until("both serve", || answered_by(&fleet).iter().any(|name| name == "odd"));
        let other = pair(&[], [&good, &good]);
        drop(other);
        assert!(asked.lock().unwrap().is_empty(), "a check that is not understood is not made: {name}");
    }
    asked.lock().unwrap().clear();
    let lax = [(A, "healthcheck-httpcode", "http_2xx,http_4xx"), (A, "healthcheck-method", "GET")];
    let lax = pair(&lax, [&good, &odd]);
    until("it is checked", || asked.lock().unwrap().len() >= 4);
    assert!(asked.lock().unwrap().iter().all(|line| line == "GET /h HTTP/1.1"), "{asked:?}");
    assert!(answered_by(&lax).iter().any(|name| name == "odd"), "404 is as good as 200 here");
}

#[test]
fn a_check_of_alb_goes_to_the_port_that_it_names() {
    let (web, own) = checked("web", "503 No");
    let checks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&checks);
    let health = Backend::start(move |request, stream| {
        counted.fetch_add(u64::from(request.line() == "HEAD /h HTTP/1.1"), Ordering::SeqCst);
        let _ = stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n");
        Then::Close
    });
    let port: &'static str = Box::leak(health.addr.port().to_string().into_boxed_str());
    let (spare, _) = checked("spare", "200 OK");
    let fleet = pair(&[(A, "healthcheck-connect-port", port)], [&web, &spare]);
    until("the port is asked for both", || checks.load(Ordering::SeqCst) >= 6);
    assert!(own.lock().unwrap().is_empty(), "the endpoint's own port is not: {own:?}");
    assert!(answered_by(&fleet).iter().any(|name| name == "web"));
}

// ---------------------------------------------------------------- rules of ALB about responses

/// An Ingress of ALB whose path `/a` is about responses: conditions and actions of Service `rule`.
fn about_responses(namespace: &str, conditions: &str, actions: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: rule\n  namespace: {namespace}\n  annotations:\n    \
         {A}rule-direction.rule: Response\n    {A}conditions.rule: '{conditions}'\n    {A}actions.rule: '{actions}'\nspec:\n  \
         rules:\n  - host: shop.example\n    http:\n      paths:\n      - {{path: /a, pathType: Prefix, backend: {{service: \
         {{name: rule, port: {{name: use-annotation}}}}}}}}\n"
    )
}

const EDITS: &str = r#"[{"type":"InsertHeader","InsertHeaderConfig":{"key":"x-told","value":"yes","valueType":"UserDefined"}},{"type":"RemoveHeader","RemoveHeaderConfig":{"key":"x-inner"}}]"#;

#[test]
fn a_rule_of_alb_about_responses_changes_those_and_serves_nothing() {
    let web = Backend::start(|request, stream| {
        let status = request.one("x-status").unwrap_or("200 OK");
        let kind = request.one("x-kind").unwrap_or("plain");
        let _ = stream.write_all(
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nX-Inner: 7\r\nX-Kind: {kind}\r\n\r\n")
                .as_bytes(),
        );
        Then::Keep
    });
    let own = ingress("web", "/", "web", &[]);
    let found = services(&[("web", &[web.addr])]);
    let start = |rule: &str| {
        Fleet::start(
            config(),
            &[("fleet/web.yaml", &*own), ("fleet/rule.yaml", rule), ("clusters/one/all.yaml", &*found)],
        )
    };
    let told = |fleet: &Fleet, path: &str, fields: &str| {
        let response = get(fleet, path, fields);
        (response.one("x-told").is_some(), response.one("x-inner").is_none())
    };
    let conditions = r#"[{"type":"ResponseStatusCode","responseStatusCodeConfig":{"values":["400","404"]}},{"type":"ResponseHeader","responseHeaderConfig":{"key":"x-kind","values":["html","json*"]}},{"type":"Method","methodConfig":{"values":["GET"]}}]"#;
    let fleet = start(&about_responses("default", conditions, EDITS));
    for (path, fields, changed) in [
        ("/a", "X-Status: 404 No\nX-Kind: html\n", true),
        ("/a/b", "X-Status: 400 No\nX-Kind: json5\n", true),
        ("/a", "X-Status: 404 No\n", false),
        ("/a", "X-Kind: html\n", false),
        ("/b", "X-Status: 404 No\nX-Kind: html\n", false),
        ("/ab", "X-Status: 404 No\nX-Kind: html\n", false),
    ] {
        assert_eq!(told(&fleet, path, fields), (changed, changed), "{path} {fields}");
    }
    let post = "POST /a HTTP/1.1\nHost: shop.example\nContent-Length: 0\nX-Status: 404 No\nX-Kind: html\n\n";
    assert_eq!(support::manifests::send(&fleet, post).one("x-told"), None, "only GET");
    // What cannot be read changes nothing, and takes nothing away.
    for (conditions, actions) in [
        (r#"[{"type":"ResponseStatusCode","responseStatusCodeConfig":{"values":["many"]}}]"#, EDITS),
        (r#"[{"type":"ResponseStatusCode","responseStatusCodeConfig":{"values":["200"]}}]"#, "[{}]"),
        (
            r#"[{"type":"ResponseStatusCode","responseStatusCodeConfig":{"values":["200"]}}]"#,
            r#"[{"type":"FixedResponse","FixedResponseConfig":{"httpCode":"200"}}]"#,
        ),
    ] {
        let fleet = start(&about_responses("default", conditions, actions));
        assert_eq!(get(&fleet, "/a", "").status, 200, "{conditions} {actions}");
        assert_eq!(told(&fleet, "/a", ""), (false, false), "{conditions} {actions}");
    }
    // Another namespace has no say in these.
    let any = r#"[{"type":"ResponseStatusCode","responseStatusCodeConfig":{"values":["200"]}}]"#;
    assert_eq!(told(&start(&about_responses("default", any, EDITS)), "/a", ""), (true, true));
    assert_eq!(told(&start(&about_responses("other", any, EDITS)), "/a", ""), (false, false));
}

#[test]
fn changes_of_responses_of_a_service_are_for_those_that_its_conditions_name() {
    let web = Backend::start(|request, stream| {
        let status = request.one("x-status").unwrap_or("200 OK");
        let _ = stream
            .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nX-Inner: 7\r\n\r\n").as_bytes());
        Then::Keep
    });
    let said = [
        (A, "rule-direction.web", "Response"),
        (
            A,
            "conditions.web",
            r#"[{"type":"ResponseStatusCode","responseStatusCodeConfig":{"values":["404"]}}]"#,
        ),
        (A, "actions.web", EDITS),
    ];
    let fleet = one("/", &said, &web);
    for (fields, told) in [("", None), ("X-Status: 404 No\n", Some("yes"))] {
        assert_eq!(get(&fleet, "/", fields).one("x-told"), told, "{fields}");
    }
    let always = one("/", &[said[0], said[2]], &web);
    assert_eq!(get(&always, "/", "").one("x-told"), Some("yes"));
}
