//! External authentication (`auth-url`) end to end: what the service that is asked sees, what its answer does to the request
//! and its response, and that nothing but its yes lets a request through.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use config::Period;
use gateway::observe::stats::Limit;
use support::backend::{Backend, Request, Then, respond};
use support::client::{Client, Response};
use support::fleet::Fleet;
use support::manifests::{N, get, ingress, send, services, with};
use support::{config, until};

const ASK: (&str, &str, &str) = (N, "auth-url", "http://auth.default.svc.cluster.local/check?a=b");

fn answer(stream: &mut TcpStream, head: &str) -> Then {
    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nContent-Length: 2\r\n\r\nno").as_bytes());
    Then::Keep
}

/// Answers as the request's cookie `as` says: a status line with fields behind it; 200 without one.
fn obeying() -> Backend {
    Backend::start(|request: &Request, stream| match request.one("x-as") {
        None => respond(stream, b""),
        Some(head) => answer(stream, &head.replace('|', "\r\n")),
    })
}

/// Everything below `/` asks `auth` and goes to `web`.
fn asking(more: &[(&'static str, &'static str, &'static str)], auth: &Backend, web: &Backend) -> Fleet {
    let all: Vec<_> = [ASK].into_iter().chain(more.iter().copied()).collect();
    with(&ingress("web", "/", "web", &all), &[("web", &[web.addr]), ("auth", &[auth.addr])])
}

fn verdicts(fleet: &Fleet) -> [u64; 3] {
    let of = |at: usize| fleet.node().stats.iter().map(|stats| stats.auth_requests_total[at].get()).sum();
    [of(0), of(1), of(2)]
}

fn hits(fleet: &Fleet, limit: Limit) -> u64 {
    fleet.node().stats.iter().map(|stats| stats.hits(limit)).sum()
}

fn outcome(response: &Response) -> (u16, &str) {
    (response.status, response.reason())
}

#[test]
fn a_request_goes_on_with_what_the_answer_says_and_nothing_that_the_client_says_in_its_place() {
    let (auth, web) = (obeying(), Backend::named("web"));
    let fleet = asking(&[(N, "auth-response-headers", "X-User, X-Groups,X-None")], &auth, &web);
    let response = send(
        &fleet,
        "POST /a/../b?c=d HTTP/1.1\nHost: shop.example:80\nContent-Length: 4\nCookie: s=1\nX-User: root\n\
         X-None: forged\nX-Original-URL: forged\nX-As: 202 Fine|X-User: ann|x-groups: a|X-Groups: b|X-Other: no|Set-Cookie: s=2|Set-Cookie: t=3\n\nbody",
    );
    assert_eq!((response.status, response.text().as_str()), (200, "web"));
    assert_eq!(response.all("set-cookie"), ["s=2", "t=3"]);
    let asked = auth.only_request();
    assert_eq!(asked.line(), "GET /check?a=b HTTP/1.1");
    assert_eq!(
        (asked.body.len(), asked.one("content-length"), asked.one("transfer-encoding")),
        (0, None, None)
    );
    for (name, value) in [
        ("host", "auth.default.svc.cluster.local"),
        ("cookie", "s=1"),
        ("x-original-url", "http://shop.example:80/a/../b?c=d"),
        ("x-original-method", "POST"),
        ("x-auth-request-redirect", "/a/../b?c=d"),
        ("x-sent-from", "ringway"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.example:80"),
    ] {
        assert_eq!(asked.one(name), Some(value), "{name}: {}", asked.head);
    }
    let seen = web.only_request();
    assert_eq!((seen.line(), &*seen.body), ("POST /b?c=d HTTP/1.1", b"body".as_slice()));
    assert_eq!((seen.one("x-user"), seen.all("x-groups")), (Some("ann"), vec!["a", "b"]));
    assert_eq!((seen.one("x-none"), seen.one("x-other")), (None, None), "{}", seen.head);
    assert_eq!(seen.one("x-request-id"), asked.one("x-request-id"));
    assert_eq!(verdicts(&fleet), [1, 0, 0]);
}

#[test]
fn only_a_yes_lets_a_request_through() {
    let (auth, web) = (obeying(), Backend::named("web"));
    let fleet = asking(&[], &auth, &web);
    for (said, expected) in [
        ("401 No|WWW-Authenticate: Bearer realm=\"x\"|Set-Cookie: s=2", (401, "not_authorised")),
        ("403 No", (403, "not_authorised")),
        ("404 What", (500, "auth_failed")),
        ("302 There|Location: /in", (500, "auth_failed")),
        ("500 Broken", (500, "auth_failed")),
    ] {
        let response = get(&fleet, "/", &format!("X-As: {said}\n"));
        assert_eq!(outcome(&response), expected, "{said}");
        let challenge = (expected.0 == 401).then_some("Bearer realm=\"x\"");
        assert_eq!(
            (response.one("www-authenticate"), response.one("set-cookie")),
            (challenge, None),
            "{said}"
        );
    }
    assert_eq!((web.count(), verdicts(&fleet), hits(&fleet, Limit::External)), (0, [0, 2, 3], 2));
    // The connection that a refused body is still on is not used again.
    let mut client = Client::connect(fleet.addr);
    client.send("POST / HTTP/1.1\r\nHost: shop.example\r\nX-As: 403 No\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(client.response().one("connection"), Some("close"));
    assert_eq!(get(&fleet, "/", "").text(), "web");
}

#[test]
fn who_is_not_known_is_sent_to_sign_in_and_told_where_to_come_back_to() {
    let (auth, web) = (obeying(), Backend::named("web"));
    for (page, parameter, location) in [
        ("http://$host/in", "rd", "http://shop.example/in?rd=http://shop.example:81%2Fa%3Fb%3Dc%26d"),
        ("http://$host/in?x=y", "to", "http://shop.example/in?x=y&to=http://shop.example:81%2Fa%3Fb%3Dc%26d"),
        ("/in?rd=$escaped_request_uri", "rd", "/in?rd=%2Fa%3Fb%3Dc%26d"),
        (
            "$scheme://in.example$request_uri",
            "rd",
            "http://in.example/a?b=c&d?rd=http://shop.example:81%2Fa%3Fb%3Dc%26d",
        ),
    ] {
        let fleet =
            asking(&[(N, "auth-signin", page), (N, "auth-signin-redirect-param", parameter)], &auth, &web);
        let asks = |said: &str| {
            send(&fleet, &format!("GET /a?b=c&d HTTP/1.1\nHost: shop.example:81\nX-As: {said}\n\n"))
        };
        let sent = asks("401 Who|Set-Cookie: csrf=1");
        assert_eq!(
            (sent.status, sent.one("location"), sent.one("set-cookie")),
            (302, Some(location), Some("csrf=1"))
        );
        assert_eq!(asks("403 No").status, 403, "who is known and may not is not asked to sign in");
    }
    assert_eq!(web.count(), 0);
}

#[test]
fn cookies_of_the_answer_are_for_good_responses_unless_they_are_always() {
    let auth = obeying();
    let web = Backend::start(|request, stream| {
        answer(stream, &request.one("x-status").unwrap().replace('|', "\r\n"))
    });
    let says = |fleet: &Fleet, status: &str, said: &str| {
        let fields = format!("X-As: {said}|Set-Cookie: a=1\nX-Status: {status}|Set-Cookie: b=2\n");
        let response = get(fleet, "/", &fields);
        (response.status, response.all("set-cookie").join(" "))
    };
    let usual = asking(&[], &auth, &web);
    assert_eq!(says(&usual, "200 OK", "200 OK"), (200, "b=2 a=1".to_owned()));
    assert_eq!(says(&usual, "404 X", "200 OK"), (404, "b=2".to_owned()));
    assert_eq!(says(&usual, "200 OK", "403 No"), (403, String::new()));
    let always = asking(&[(N, "auth-always-set-cookie", "true")], &auth, &web);
    assert_eq!(says(&always, "404 X", "200 OK"), (404, "b=2 a=1".to_owned()));
    assert_eq!(says(&always, "200 OK", "403 No"), (403, "a=1".to_owned()));
}

#[test]
fn an_authoriser_that_says_nothing_is_a_no_within_its_time() {
    let web = Backend::named("web");
    let (auth, gate) = Backend::gated("yes");
    let mut short = config();
    short.timeouts.auth_request = Period::millis(50);
    short.limits.auth_requests_max = 1;
    let start = |config, endpoints: &[std::net::SocketAddr]| {
        let files = [
            ("fleet/web.yaml", ingress("web", "/", "web", &[ASK])),
            ("clusters/one/all.yaml", services(&[("web", &[web.addr]), ("auth", endpoints)])),
        ];
        Fleet::start(config, &files.each_ref().map(|(path, text)| (*path, text.as_str())))
    };
    let fleet = start(short, &[auth.addr]);
    assert_eq!(outcome(&get(&fleet, "/", "")), (500, "auth_request_timeout"));
    assert_eq!(hits(&fleet, Limit::AuthRequestTimeout), 1);

    let mut narrow = config();
    narrow.limits.auth_requests_max = 1;
    let fleet = start(narrow, &[auth.addr]);
    let before = auth.count();
    let mut first = Client::connect(fleet.addr);
    first.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    until("the first question is out", || auth.count() > before);
    let second = get(&fleet, "/", "");
    assert_eq!((outcome(&second), second.one("retry-after")), ((503, "auth_requests_max"), Some("1")));
    gate.store(true, Ordering::SeqCst);
    assert_eq!(first.response().text(), "web");
    assert_eq!(get(&fleet, "/", "").text(), "web", "its place is free again");
    assert_eq!(hits(&fleet, Limit::AuthRequests), 1);

    assert_eq!(outcome(&get(&start(config(), &[]), "/", "")), (500, "auth_no_endpoint"));
    let mut gone = Backend::named("gone");
    gone.kill();
    let fleet = start(config(), &[gone.addr]);
    assert_eq!(get(&fleet, "/", "").status, 500);
    // One of two endpoints is enough, whatever the method of the request that waits.
    let fleet = start(config(), &[gone.addr, auth.addr]);
    for _ in 0..20 {
        let posted = send(&fleet, "POST / HTTP/1.1\nHost: shop.example\nContent-Length: 2\n\nhi");
        assert_eq!(posted.text(), "web", "{}", posted.head);
    }
}

#[test]
fn questions_use_connections_again_and_have_the_method_and_the_target_that_were_asked_for() {
    let (auth, web) = (obeying(), Backend::named("web"));
    let url = "http://auth.default.svc$uri/for?method=$request_method&$args";
    let back = (N, "auth-request-redirect", "https://$host/back$uri");
    let text = ingress("web", "/", "web", &[(N, "auth-url", url), (N, "auth-method", "POST"), back]);
    let fleet = with(&text, &[("web", &[web.addr]), ("auth", &[auth.addr])]);
    for _ in 0..5 {
        assert_eq!(get(&fleet, "/a?x=1", "").text(), "web");
    }
    assert_eq!((auth.count(), auth.connections()), (5, 1));
    for asked in auth.requests() {
        assert_eq!(asked.line(), "POST /a/for?method=GET&x=1 HTTP/1.1");
        assert_eq!(asked.one("content-length"), Some("0"));
        assert_eq!(asked.one("x-auth-request-redirect"), Some("https://shop.example/back/a"));
    }
}

/// A host in place of a Service is served by the rule that serves it here. What guards that rule is not passed by.
#[test]
fn a_host_of_the_gateway_is_asked_by_its_own_rule_unless_that_is_guarded() {
    let (auth, web) = (obeying(), Backend::named("web"));
    let at = |host: &str,
              name: &str,
              path: &str,
              service: &str,
              all: &[(&'static str, &'static str, &'static str)]| {
        ingress(name, path, service, all).replace("shop.example", host)
    };
    let own = [(N, "auth-url", "https://$host/oauth2/auth")];
    let other = [(N, "auth-url", "http://in.example/x/check")];
    let rewritten = [(N, "rewrite-target", "/inner/$1")];
    let world = [
        at("shop.example", "web", "/", "web", &own),
        at("shop.example", "proxy", "/oauth2", "auth", &[]),
        at("b.example", "b", "/", "web", &other),
        at("in.example", "in", "/x/(.*)", "auth", &rewritten),
        at("c.example", "c", "/", "web", &[(N, "auth-url", "http://c.example/deep")]),
        at("d.example", "d", "/", "web", &[(N, "auth-url", "http://closed.example/")]),
        at("closed.example", "closed", "/", "auth", &[(N, "whitelist-source-range", "10.0.0.0/8")]),
        at("e.example", "e", "/", "web", &[(N, "auth-url", "http://nowhere.example/")]),
        at("f.example", "f", "/", "web", &[(N, "auth-url", "http://locked.example/")]),
        at("g.example", "g", "/", "web", &[(N, "auth-url", "http://few.example/")]),
        at("few.example", "few", "/", "auth", &[(N, "limit-connections", "1")]),
        at("locked.example", "locked", "/", "auth", &[(N, "auth-type", "basic"), (N, "auth-secret", "none")]),
    ]
    .concat();
    let fleet = with(&world, &[("web", &[web.addr]), ("auth", &[auth.addr])]);
    let from = |host: &str| send(&fleet, &format!("GET / HTTP/1.1\nHost: {host}\n\n"));
    assert_eq!((from("shop.example").text(), from("b.example").text()), ("web".to_owned(), "web".to_owned()));
    let asked: Vec<(String, Option<String>)> = auth
        .requests()
        .iter()
        .map(|request| (request.target().to_owned(), request.one("host").map(str::to_owned)))
        .collect();
    let wanted = [("/oauth2/auth", "shop.example"), ("/inner/check", "in.example")];
    assert_eq!(asked, wanted.map(|(target, host)| (target.to_owned(), Some(host.to_owned()))));
    for (host, reason) in [
        ("c.example", "auth_rule_guarded"),
        ("d.example", "auth_rule_refuses"),
        ("e.example", "auth_no_route"),
        ("f.example", "auth_rule_guarded"),
        ("g.example", "auth_rule_guarded"),
    ] {
        assert_eq!(outcome(&from(host)), (500, reason), "{host}");
    }
    assert_eq!((auth.count(), web.count()), (2, 2));
}

#[test]
fn a_url_that_cannot_be_honoured_closes_the_rules() {
    let (auth, web) = (obeying(), Backend::named("web"));
    for (name, value) in [
        ("auth-url", "http://169.254.169.254/latest"),
        ("auth-url", "http://auth.other.svc/check"),
        ("auth-method", "CONNECT"),
        ("auth-response-headers", "Content-Length"),
        ("auth-snippet", "proxy_set_header X-A b;"),
    ] {
        let mut all = vec![(N, name, value)];
        all.extend((name != "auth-url").then_some(ASK));
        let fleet = with(&ingress("web", "/", "web", &all), &[("web", &[web.addr]), ("auth", &[auth.addr])]);
        assert_eq!(get(&fleet, "/", "").status, 503, "{name}: {value}");
    }
    assert_eq!((auth.count(), web.count()), (0, 0));
}

/// The Service of another namespace is asked where a grant of that namespace allows it; how the Ingress speaks to its own
/// backends says nothing of how the question is asked.
#[test]
fn another_namespace_is_asked_with_its_grant() {
    let (auth, web) = (obeying(), Backend::named("web"));
    let text = ingress("web", "/", "web", &[(N, "auth-url", "http://auth.sso.svc:80/")]);
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: sso}\n\
                 spec:\n  from: [{group: networking.k8s.io, kind: Ingress, namespace: default}]\n  to: [{group: \"\", kind: Service}]\n";
    let there =
        services(&[("auth", &[auth.addr])]).replace("metadata: {name", "metadata: {namespace: sso, name");
    let all = services(&[("web", &[web.addr])]) + &there;
    let fleet = Fleet::start(config(), &[("fleet/web.yaml", &text), ("clusters/one/all.yaml", &all)]);
    assert_eq!(outcome(&get(&fleet, "/", "")), (503, "auth_service_unusable"));
    fleet.write("fleet/grant.yaml", grant);
    until("the grant is in force", || get(&fleet, "/", "").status == 200);
}

#[test]
fn a_request_at_its_limits_is_asked_about_like_any_other() {
    let (auth, web) = (obeying(), Backend::named("web"));
    let fleet = asking(&[], &auth, &web);
    let target = format!("/{}?b=c", "a".repeat(8_100));
    let fields: String = (0..90).map(|n| format!("X-Field-{n}: {n}\n")).collect();
    for (target, fields) in [(&*target, ""), ("/", &*fields), (&*target, &*fields)] {
        let response = get(&fleet, target, fields);
        assert_eq!((response.status, response.text().as_str()), (200, "web"), "{}", response.head);
        let url = format!("http://shop.example{target}");
        assert_eq!(auth.requests().pop().unwrap().one("x-original-url"), Some(&*url));
    }
}

#[test]
fn a_call_is_asked_about_no_longer_than_it_may_take() {
    let (auth, web) = (Backend::raw(|peer| drop((peer.head(), peer.drained()))), Backend::named("web"));
    let fleet = asking(&[], &auth, &web);
    let response = send(
        &fleet,
        "POST / HTTP/1.1\nHost: shop.example\nContent-Type: application/grpc\ngrpc-timeout: 200m\nContent-Length: 0\n\n",
    );
    assert_eq!(
        (response.one("grpc-status"), response.reason()),
        (Some("4"), "grpc_timeout"),
        "{}",
        response.head
    );
    assert_eq!((web.count(), verdicts(&fleet), hits(&fleet, Limit::AuthRequestTimeout)), (0, [0, 0, 1], 0));
}
