//! What a backend is told about the client, what a client is told by a rule, and what travels no further.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use config::{AccessLog, Config, RequestIdPolicy, ViaPolicy};
use routing::model::{
    COOKIE_ATTRIBUTES, CookieAffinity, HeaderEdits, PathMatch, PathRewrite, Redirect, RuleAction, Target,
};
use support::backend::{Backend, Request, Then};
use support::client::{Client, Response};
use support::table::{World, world};
use support::{Gateway, config, until};

/// Sends one request with these header lines; what the backend saw, and the answer.
fn seen(
    config: Config,
    edit: impl FnOnce(&mut RuleAction),
    target: &str,
    fields: &str,
) -> (Request, Response) {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nServer: nginx\r\nX-Old: 1\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         Via: 1.0 inner\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\n\r\nok",
        Then::Keep,
    );
    let addr = backend.addr;
    let gateway = Gateway::start(config, |on| world(&[addr]).action(edit).on(on));
    let mut client = Client::connect(gateway.addr);
    let response =
        client.send(format!("GET {target} HTTP/1.1\r\nHost: shop.example:80\r\n{fields}\r\n")).response();
    assert_eq!(response.status, 200, "{}", response.head);
    (backend.only_request(), response)
}

fn plain(fields: &str) -> Request {
    seen(config(), |_| {}, "/", fields).0
}

fn trusting() -> Config {
    let mut config = config();
    config.forward.trusted_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

const VOUCHED: &str = "X-Forwarded-For: 203.0.113.9, 198.51.100.1\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: public.example\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 203.0.113.9\r\n\
    Forwarded: for=203.0.113.9\r\nX-Request-Id: from-the-edge\r\nX-Client-Cert: abc\r\nSSL-Client-Verify: SUCCESS\r\n\
    X-Envoy-Internal: true\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n";

#[test]
fn s17_an_untrusted_peer_vouches_for_nothing() {
    let request = plain(VOUCHED);
    assert_eq!(request.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.one("x-forwarded-proto"), Some("http"));
    assert_eq!(request.one("x-forwarded-host"), Some("shop.example:80"));
    assert_eq!(request.one("x-real-ip"), Some("127.0.0.1"));
    assert_ne!(request.one("x-request-id"), Some("from-the-edge"));
    let gone = ["forwarded", "x-forwarded-port", "x-client-cert", "ssl-client-verify", "x-envoy-internal"];
    for name in gone.iter().chain(&["x-original-url", "x-rewrite-url"]) {
        assert_eq!(request.one(name), None, "{name}");
    }
}

/// However often and in whichever spelling it is said.
#[test]
fn s17_repeated_and_oddly_spelt_fields_are_replaced_alike() {
    let request = plain(
        "x-forwarded-for: 6.6.6.6\r\nX-FORWARDED-FOR: 7.7.7.7\r\nX-Forwarded-For:\r\nx-real-ip: 6.6.6.6\r\nX-Real-Ip: 7.7.7.7\r\n",
    );
    assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.all("x-real-ip"), ["127.0.0.1"]);
}

#[test]
fn s17_a_trusted_peer_is_believed_and_extended() {
    let (request, _) = seen(trusting(), |_| {}, "/", VOUCHED);
    assert_eq!(request.one("x-forwarded-for"), Some("203.0.113.9, 198.51.100.1, 127.0.0.1"));
    assert_eq!(request.one("x-forwarded-proto"), Some("https"));
    assert_eq!(request.one("x-forwarded-host"), Some("public.example"));
    assert_eq!(request.one("x-forwarded-port"), Some("443"));
    assert_eq!(request.one("x-real-ip"), Some("203.0.113.9"));
    assert_eq!(request.one("x-request-id"), Some("from-the-edge"));
    assert_eq!(request.one("forwarded"), Some("for=203.0.113.9"));
    // What it does not say is added.
    let (request, _) = seen(trusting(), |_| {}, "/", "");
    assert_eq!(request.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.one("x-forwarded-proto"), Some("http"));
    assert_eq!(request.one("x-request-id").map(str::len), Some(32));
}

/// Two gateways in a row: the second trusts the first.
#[test]
fn s17_over_two_hops_the_backend_learns_the_first_peer() {
    let backend = Backend::named("ok");
    let addr = backend.addr;
    let inner = Gateway::start(trusting(), |on| world(&[addr]).on(on));
    let inner_addr = inner.addr;
    let outer = Gateway::start(config(), |on| world(&[inner_addr]).on(on));
    let mut client = Client::connect(outer.addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let request = backend.only_request();
    assert_eq!(request.one("x-forwarded-for"), Some("127.0.0.1, 127.0.0.1"));
    assert_eq!(request.all("via").join(", "), "1.1 ringway, 1.1 ringway");
}

#[test]
fn request_ids_are_made_kept_or_left_alone() {
    let backend = Backend::named("ok");
    let addr = backend.addr;
    let mut ids = HashSet::new();
    let gateway = Gateway::start(config(), |on| world(&[addr]).on(on));
    let mut client = Client::connect(gateway.addr);
    for _ in 0..50 {
        client.get("/");
    }
    for request in backend.requests() {
        let id = request.one("x-request-id").unwrap().to_owned();
        assert!(id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 50, "each has its own");

    let with = |policy, fields: &str| {
        let mut config = config();
        config.forward.x_request_id = policy;
        seen(config, |_| {}, "/", fields).0.one("x-request-id").map(str::to_owned)
    };
    assert_eq!(with(RequestIdPolicy::Keep, "X-Request-Id: mine\r\n").as_deref(), Some("mine"));
    assert_eq!(with(RequestIdPolicy::Keep, "").map(|id| id.len()), Some(32));
    let long = "x".repeat(200);
    assert_eq!(
        with(RequestIdPolicy::Keep, &format!("X-Request-Id: {long}\r\n")).map(|id| id.len()),
        Some(32)
    );
    assert_eq!(with(RequestIdPolicy::Off, "X-Request-Id: mine\r\n").as_deref(), Some("mine"));
    assert_eq!(with(RequestIdPolicy::Off, ""), None);
}

/// What a backend logs and what the access log says must be the same request, whatever the client sent and however often
/// it was tried.
#[test]
fn all_attempts_and_the_access_log_carry_the_same_request_id() {
    let (resets, answers) = (Backend::start(|_, _| Then::Reset), Backend::named("ok"));
    let addrs = [resets.addr, answers.addr];
    let log = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("request-id.log");
    let _ = std::fs::remove_file(&log);
    let mut config = config();
    config.observe.access_log = AccessLog::File(log.clone());
    let gateway = Gateway::start(config, |on| world(&addrs).on(on));
    let mut client = Client::connect(gateway.addr);
    until("the one that resets is tried first", || {
        let response = client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: forged\r\n\r\n").response();
        assert_eq!(response.status, 200);
        resets.count() > 0
    });
    let id = |backend: &Backend| backend.requests().last().unwrap().one("x-request-id").unwrap().to_owned();
    assert_eq!(id(&resets), id(&answers));
    let line = format!("\"request_id\":\"{}\"", id(&answers));
    until("it is logged", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&line)));
    assert!(!std::fs::read_to_string(&log).unwrap().contains("forged"));
}

#[test]
fn via_follows_its_policy() {
    let with = |policy| {
        let mut config = config();
        config.forward.via = policy;
        let (request, response) = seen(config, |_| {}, "/", "Via: 1.0 fred\r\n");
        (request.all("via").join(", "), response.all("via").join(", "))
    };
    assert_eq!(with(ViaPolicy::Request), ("1.0 fred, 1.1 ringway".into(), "1.0 inner".into()));
    assert_eq!(with(ViaPolicy::Both), ("1.0 fred, 1.1 ringway".into(), "1.0 inner, 1.1 ringway".into()));
    assert_eq!(with(ViaPolicy::Off), ("1.0 fred".into(), "1.0 inner".into()));
}

#[test]
fn hop_by_hop_fields_of_a_response_go_no_further() {
    let (_, response) = seen(config(), |_| {}, "/", "");
    for name in ["connection", "x-hop", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(response.one(name), None, "{name}: {}", response.head);
    }
    assert_eq!(response.all("set-cookie"), ["a=1", "b=2"], "and everything else does, in order");
    assert_eq!(response.one("server"), Some("nginx"));
}

fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    HeaderEdits {
        set: pairs(set),
        add: pairs(add),
        remove: remove.iter().map(|name| (*name).into()).collect(),
    }
}

#[test]
fn header_filters_change_requests_and_responses() {
    let (request, response) = seen(
        config(),
        |action| {
            action.request_headers = edits(&[("x-env", "prod")], &[("x-tag", "two")], &["x-secret"]);
            action.response_headers = edits(&[("server", "ringway")], &[("x-new", "1")], &["x-old"]);
        },
        "/",
        "X-Env: dev\r\nX-Env: test\r\nX-Tag: one\r\nX-Secret: 1\r\n",
    );
    assert_eq!(request.all("x-env"), ["prod"]);
    assert_eq!(request.all("x-tag"), ["one", "two"]);
    assert_eq!(request.one("x-secret"), None);
    assert_eq!(response.all("server"), ["ringway"]);
    assert_eq!((response.one("x-new"), response.one("x-old")), (Some("1"), None));
}

#[test]
fn rewrites_change_what_the_backend_sees() {
    let with = |path: Option<PathRewrite>, host: Option<&str>, target: &str| {
        let host = host.map(Into::into);
        let (request, _) = seen(
            config(),
            |action| {
                action.rewrite.path = path;
                action.rewrite.hostname = host;
            },
            target,
            "",
        );
        (request.target().to_owned(), request.one("host").unwrap().to_owned())
    };
    let prefix = |to: &str| Some(PathRewrite::Prefix { matched: "/api".into(), replacement: to.into() });
    assert_eq!(with(prefix("/v2"), None, "/api/cart?x=1").0, "/v2/cart?x=1");
    assert_eq!(with(prefix("/"), None, "/api").0, "/");
    assert_eq!(with(Some(PathRewrite::Full("/only".into())), None, "/api/cart?x=1").0, "/only?x=1");
    assert_eq!(with(None, Some("inner.local"), "/a"), ("/a".into(), "inner.local".into()));
    // The rewritten path is made of the normalised one.
    assert_eq!(with(prefix("/v2"), None, "/x/../api/./cart").0, "/v2/cart");
}

#[test]
fn redirects_are_answered_here() {
    let backend = Backend::named("never");
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| {
        world(&[addr])
            .rule(PathMatch::Prefix("/old".into()), |action| {
                let path = Some(PathRewrite::Prefix { matched: "/old".into(), replacement: "/new".into() });
                action.target = Target::Redirect(Redirect {
                    scheme: Some("https".into()),
                    hostname: Some("shop.example".into()),
                    path,
                    port: None,
                    status: 308,
                });
            })
            .on(on)
    });
    let mut client = Client::connect(gateway.addr);
    let response = client.get("/old/cart?x=1");
    assert_eq!((response.status, response.one("location")), (308, Some("https://shop.example/new/cart?x=1")));
    // With a body, the connection cannot go on unless the body was read.
    client.send("POST /old HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.response().status, 308);
    assert_eq!(client.get("/old").status, 308);
    assert_eq!(backend.count(), 0);
}

#[test]
fn an_affinity_cookie_sticks_and_survives_its_endpoint() {
    let mut backends = [Backend::named("0"), Backend::named("1"), Backend::named("2")];
    let addrs: Vec<_> = backends.iter().map(|backend| backend.addr).collect();
    let affinity = CookieAffinity {
        cookie: "ring".into(),
        path: "/".into(),
        max_age: Some(Duration::from_secs(60)),
        expires: None,
        secure_over_tls: false,
        attributes: COOKIE_ATTRIBUTES.into(),
        across: Default::default(),
    };
    let gateway = Gateway::start(config(), |on| {
        World::new()
            .cluster(0, &addrs[..2])
            .cluster(1, &addrs[2..])
            .policy(|policy| policy.affinity = Some(affinity))
            .on(on)
    });
    let mut client = Client::connect(gateway.addr);
    let first = client.get("/");
    let cookie = first.one("set-cookie").unwrap().to_owned();
    assert!(
        cookie.starts_with("ring=") && cookie.contains("Max-Age=60") && cookie.contains("HttpOnly"),
        "{cookie}"
    );
    let value = cookie.split(';').next().unwrap().to_owned();
    let mut with_cookie = |value: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; {value}; z=w\r\n\r\n")).response()
    };
    for _ in 0..20 {
        let response = with_cookie(&value);
        assert_eq!(response.text(), first.text(), "the cookie names the endpoint");
        assert_eq!(response.one("set-cookie"), None, "it is not set again");
    }
    let home: usize = first.text().parse().unwrap();
    backends[home].kill();
    let moved = with_cookie(&value);
    assert_eq!(moved.status, 200, "the request survives its endpoint");
    assert_ne!(moved.text(), first.text());
    let fresh = moved.one("set-cookie").expect("a new cookie for the new endpoint").to_owned();
    let fresh = fresh.split(';').next().unwrap();
    until("the new cookie sticks", || (0..10).all(|_| with_cookie(fresh).text() == moved.text()));
    // A forged cookie chooses nothing that is not allowed.
    assert_eq!(with_cookie("ring=0123456789abcdef").status, 200);
}
