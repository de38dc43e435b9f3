//! Annotations end to end, a test for each family: an Ingress as its users write it, a request, what the backend sees of
//! it, and what the client gets. The controller compiles the manifests; nothing is faked between file and socket.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gateway::observe::stats::Limit;
use support::backend::{Backend, Then, respond};
use support::client::{Client, To};
use support::fleet::Fleet;
use support::manifests::{A, M, N, get, ingress, one, send, services, with};
use support::{config, until};

fn hits(fleet: &Fleet, limit: Limit) -> u64 {
    fleet.node().stats.iter().map(|stats| stats.hits(limit)).sum()
}

#[test]
fn a_path_is_rewritten_by_its_captures_and_the_host_replaced() {
    let web = Backend::named("web");
    let fleet = one(
        "/something(/|$)(.*)",
        &[(N, "rewrite-target", "/$2"), (N, "upstream-vhost", "inner.example")],
        &web,
    );
    for (asked, seen) in [("/something", "/"), ("/something/new?x=1", "/new?x=1"), ("/SOMETHING/a/b", "/a/b")]
    {
        assert_eq!(get(&fleet, asked, "").text(), "web", "{asked}");
        let request = web.requests().pop().unwrap();
        assert_eq!((request.target(), request.one("host")), (seen, Some("inner.example")), "{asked}");
    }
    assert_eq!(get(&fleet, "/somethingelse", "").status, 404);
}

#[test]
fn redirects_leave_the_backend_alone() {
    let web = Backend::named("web");
    for (annotations, path, status, location) in [
        (&[(N, "permanent-redirect", "https://b.example/x")][..], "/a?y", 301, "https://b.example/x"),
        (&[(N, "temporal-redirect", "/there"), (N, "temporal-redirect-code", "307")], "/a", 307, "/there"),
        (&[(N, "force-ssl-redirect", "true")], "/a?y=1", 308, "https://shop.example/a?y=1"),
        (&[(N, "app-root", "/start")], "/", 302, "/start"),
        (
            &[(
                A,
                "actions.web",
                r#"[{"type":"Redirect","RedirectConfig":{"host":"b.example","path":"${path}","port":"8443","protocol":"HTTPS","query":"${query}","httpCode":"301"}}]"#,
            )],
            "/a?y=1",
            301,
            "https://b.example:8443/a?y=1",
        ),
    ] {
        let fleet = one("/", annotations, &web);
        let response = get(&fleet, path, "");
        assert_eq!((response.status, response.one("location")), (status, Some(location)), "{annotations:?}");
    }
    assert_eq!(web.count(), 0);
}

#[test]
fn aliases_serve_what_the_host_serves() {
    let web = Backend::named("web");
    let fleet =
        one("/", &[(N, "server-alias", "b.example,*.c.example"), (N, "from-to-www-redirect", "true")], &web);
    let status = |host: &str| send(&fleet, &format!("GET / HTTP/1.1\nHost: {host}\n\n"));
    for (host, expected) in
        [("shop.example", 200), ("b.example", 200), ("a.c.example", 200), ("d.example", 404)]
    {
        assert_eq!(status(host).status, expected, "{host}");
    }
    let www = status("www.shop.example");
    let home = format!("http://shop.example:{}/", fleet.addr.port());
    assert_eq!((www.status, www.one("location")), (308, Some(home.as_str())), "{}", www.head);
}

#[test]
fn sources_are_admitted_and_denied() {
    let web = Backend::named("web");
    for (name, ranges, status) in [
        ("whitelist-source-range", "10.0.0.0/8", 403),
        ("whitelist-source-range", "10.0.0.0/8,127.0.0.1", 200),
        ("denylist-source-range", "127.0.0.0/8", 403),
        ("denylist-source-range", "10.0.0.0/8", 200),
        ("whitelist-source-range", "a typo", 503),
    ] {
        let fleet = one("/", &[(N, name, ranges)], &web);
        assert_eq!(get(&fleet, "/", "").status, status, "{name} {ranges}");
        assert_eq!(hits(&fleet, Limit::Access), u64::from(status == 403));
    }
    assert_eq!(web.count(), 2);
}

/// Behind a proxy that is trusted it is the proxy's client that is judged: the last address that no trusted peer wrote of
/// another. What the client writes of itself is before that, and changes nothing; without trust nothing of it is read.
#[test]
fn behind_trusted_proxies_it_is_their_client_that_lists_and_limits_see() {
    let web = Backend::named("web");
    let start = |trusted: &[&str], annotations: &[(&str, &str, &str)]| {
        let mut config = config();
        config.forward.trusted_cidrs = trusted.iter().map(|range| range.parse().unwrap()).collect();
        let files = [ingress("web", "/", "web", annotations), services(&[("web", &[web.addr])])];
        Fleet::start(config, &[("fleet/web.yaml", &files[0]), ("clusters/one/all.yaml", &files[1])])
    };
    let allow = [(N, "whitelist-source-range", "192.0.2.0/24")];
    let behind = start(&["127.0.0.0/8", "10.0.0.0/8"], &allow);
    for (fields, status) in [
        ("X-Forwarded-For: 192.0.2.7\n", 200),
        ("X-Forwarded-For: 198.51.100.1, 192.0.2.7\n", 200),
        ("X-Forwarded-For: 192.0.2.7, 198.51.100.1\n", 403),
        ("X-Forwarded-For: 192.0.2.7, 10.0.0.3\n", 200),
        ("X-Forwarded-For: 192.0.2.7:4711, 10.0.0.3:80\n", 200),
        ("X-Forwarded-For: 192.0.2.7\nX-Forwarded-For: 198.51.100.1\n", 403),
        ("X-Forwarded-For: 198.51.100.1\nX-Forwarded-For: 192.0.2.7, 10.1.1.1\n", 200),
        ("X-Forwarded-For: 192.0.2.7, unknown\n", 403),
        ("X-Real-IP: 192.0.2.7\n", 403),
        ("", 403),
    ] {
        assert_eq!(get(&behind, "/", fields).status, status, "{fields:?}");
    }
    for trusted in [&[][..], &["10.0.0.0/8"]] {
        let alone = start(trusted, &allow);
        assert_eq!(get(&alone, "/", "X-Forwarded-For: 192.0.2.7\n").status, 403, "{trusted:?}");
    }
    let deny = start(&["127.0.0.1/32"], &[(N, "denylist-source-range", "192.0.2.7")]);
    let from = |fleet: &Fleet, source: &str| get(fleet, "/", &format!("X-Forwarded-For: {source}\n")).status;
    assert_eq!((from(&deny, "192.0.2.7"), from(&deny, "192.0.2.8")), (403, 200));
    let limited = start(&["127.0.0.1/32"], &[(N, "limit-rpm", "1"), (N, "limit-burst-multiplier", "1")]);
    assert_eq!(
        ["192.0.2.1"; 3].map(|source| from(&limited, source)),
        [200, 200, 503],
        "one source, and its burst"
    );
    assert_eq!(from(&limited, "192.0.2.2"), 200, "another source");
}

#[test]
fn cross_origin_requests_get_what_their_origin_may_have() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nAccess-Control-Allow-Origin: https://wrong.example\r\nVary: Accept\r\n\r\nweb";
    let web = Backend::answering(answer, Then::Keep);
    let listed = [
        (N, "enable-cors", "true"),
        (N, "cors-allow-origin", "https://a.example, https://*.b.example"),
        (N, "cors-allow-methods", "GET, PUT"),
        (N, "cors-expose-headers", "x-total"),
        (N, "cors-max-age", "600"),
    ];
    let fleet = one("/", &listed, &web);
    let asks = "Origin: https://x.b.example\nAccess-Control-Request-Method: PUT\n";
    let preflight = send(&fleet, &format!("OPTIONS / HTTP/1.1\nHost: shop.example\n{asks}\n"));
    assert_eq!((preflight.status, web.count()), (204, 0));
    for (name, value) in [
        ("access-control-allow-origin", "https://x.b.example"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(preflight.one(name), Some(value), "{}", preflight.head);
    }
    let response = get(&fleet, "/", "Origin: https://a.example\n");
    assert_eq!(response.one("access-control-allow-origin"), Some("https://a.example"), "{}", response.head);
    assert_eq!(response.one("access-control-expose-headers"), Some("x-total"));
    assert_eq!(response.all("vary"), ["Accept", "Origin"]);
    let other = get(&fleet, "/", "Origin: https://evil.example\n");
    assert_eq!((other.status, other.one("access-control-allow-credentials")), (200, None), "{}", other.head);
    // What is not asked across origins by a preflight goes to the backend.
    send(&fleet, "OPTIONS / HTTP/1.1\nHost: shop.example\n\n");
    assert_eq!(web.count(), 3);
    let any = one("/", &[(N, "enable-cors", "true")], &web);
    let response = get(&any, "/", "Origin: https://evil.example\n");
    assert_eq!(response.one("access-control-allow-origin"), Some("*"));
    assert_eq!(response.one("access-control-allow-credentials"), None, "never any page's cookies");
}

#[test]
fn headers_are_changed_both_ways() {
    let web = Backend::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: old\r\nX-Keep: 1\r\n\r\n",
        Then::Keep,
    );
    let fleet = one(
        "/",
        &[
            (M, "request-header-control-update", "x-a 1\nx-b \"two words\""),
            (M, "request-header-control-remove", "x-secret"),
            (M, "response-header-control-add", "x-by ringway"),
            (M, "response-header-control-remove", "server"),
            (N, "x-forwarded-prefix", "/app"),
        ],
        &web,
    );
    let response = get(&fleet, "/", "X-A: client\nX-Secret: 1\n");
    assert_eq!(
        (response.one("server"), response.one("x-by"), response.one("x-keep")),
        (None, Some("ringway"), Some("1"))
    );
    let seen = web.only_request();
    assert_eq!(
        (seen.one("x-a"), seen.one("x-b"), seen.one("x-secret")),
        (Some("1"), Some("two words"), None)
    );
    assert_eq!(seen.one("x-forwarded-prefix"), Some("/app"));
}

#[test]
fn a_rate_is_answered_as_its_product_says() {
    let web = Backend::named("web");
    for (annotations, status, body) in [
        (
            &[(M, "route-limit-rpm", "1"), (M, "route-limit-burst-multiplier", "1")][..],
            429,
            "local_rate_limited",
        ),
        (&[(A, "traffic-limit-qps", "1")], 503, ""),
        (&[(A, "traffic-limit-ip-qps", "1")], 503, ""),
        (
            &[
                (M, "rate-limit", "1"),
                (M, "rate-limit-fallback-custom-response-code", "418"),
                (M, "rate-limit-fallback-custom-response-body-type", "json"),
                (M, "rate-limit-fallback-custom-response-body", "{}"),
            ],
            418,
            "{}",
        ),
    ] {
        let fleet = one("/", annotations, &web);
        assert_eq!(get(&fleet, "/", "").status, 200, "{annotations:?}");
        let refused = get(&fleet, "/", "");
        assert_eq!((refused.status, refused.text().as_str()), (status, body), "{annotations:?}");
        assert_eq!(hits(&fleet, Limit::Rate), 1);
    }
}

/// What came of asking too often.
struct Rush {
    began: Instant,
    /// When answers came, in order.
    answers: Vec<Instant>,
    ended: Instant,
    admitted: usize,
}

impl Rush {
    /// Asks until the limit was asked ten times as often as it lets through, for two seconds at least, and each worker has
    /// refused something: clients come anew again and again, so that they meet all of them.
    fn of(fleet: &Fleet, rate: f64) -> Self {
        let (admitted, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (began, answers) = (Instant::now(), Mutex::new(Vec::new()));
        let client = || {
            while !stop.load(Ordering::Relaxed) {
                let mut client = Client::connect(fleet.addr);
                for _ in 0..50 {
                    let status = client.get("/").status;
                    assert!(matches!(status, 200 | 429 | 503), "{status}");
                    answers.lock().unwrap().push(Instant::now());
                    admitted.fetch_add(usize::from(status == 200), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(client)));
            until("ten times the limit was asked for, and of every worker", || {
                let expected = rate * (1.0 + began.elapsed().as_secs_f64());
                began.elapsed() > Duration::from_secs(2)
                    && answers.lock().unwrap().len() as f64 > 10.0 * expected
                    && fleet.node().stats.iter().all(|stats| stats.hits(Limit::Rate) > 0)
            });
            stop.store(true, Ordering::Relaxed);
        });
        let mut answers = answers.into_inner().unwrap();
        answers.sort();
        Self { began, answers, ended: Instant::now(), admitted: admitted.into_inner() }
    }

    /// The least and the most that a limit of so many in a second with this burst lets through: while nobody got an answer
    /// for longer than the burst lasts, what it would have let through is lost.
    fn bounds(&self, rate: f64, burst: f64) -> (f64, f64) {
        let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
        let gaps = self.answers.windows(2).map(|pair| seconds(pair[0], pair[1]) - burst / rate);
        let silence: f64 = gaps.filter(|gap| *gap > 0.0).sum();
        let (first, last) = (self.answers[0], self.answers[self.answers.len() - 1]);
        (burst + rate * (seconds(first, last) - silence), burst + rate * seconds(self.began, self.ended))
    }
}

/// Many clients on four workers ask ten times as often as the limit lets them, whichever family it is of: what is let through
/// is the limit within 5 %. A machine that stands still changes nothing: see [`Rush::bounds`].
#[test]
fn a_rate_holds_over_all_workers_together() {
    let web = Backend::named("web");
    for (limit, burst) in [
        (&[(M, "route-limit-rps", "60"), (M, "route-limit-burst-multiplier", "1")][..], 60.0),
        (&[(N, "limit-rps", "60"), (N, "limit-burst-multiplier", "1")], 61.0),
        (&[(A, "traffic-limit-qps", "60")], 6.0),
    ] {
        let mut config = config();
        config.worker.count = 4;
        let text = ingress("web", "/", "web", limit);
        let found = services(&[("web", &[web.addr])]);
        let fleet = Fleet::start(config, &[("fleet/web.yaml", &text), ("clusters/one/all.yaml", &found)]);
        let rush = Rush::of(&fleet, 60.0);
        let (least, most) = rush.bounds(60.0, burst);
        let admitted = rush.admitted as f64;
        assert!(
            0.95 * least <= admitted && admitted <= 1.05 * most,
            "{limit:?}: {admitted} of {}, not {least} to {most}",
            rush.answers.len()
        );
    }
}

#[test]
fn requests_at_once_are_bounded_and_their_places_given_back() {
    let (web, gate) = Backend::gated("web");
    let fleet = one(
        "/",
        &[(M, "concurrency-limit", "1"), (M, "concurrency-limit-fallback-custom-response-body", "busy")],
        &web,
    );
    let mut first = Client::connect(fleet.addr);
    first.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    until("the first is with the backend", || web.count() == 1);
    let second = get(&fleet, "/", "");
    assert_eq!((second.status, second.text().as_str()), (429, "busy"));
    gate.store(true, Ordering::SeqCst);
    assert_eq!(first.response().status, 200);
    assert_eq!(get(&fleet, "/", "").status, 200, "its place is free again");
    assert_eq!(hits(&fleet, Limit::Concurrency), 1);
}

#[test]
fn the_answers_of_a_full_rule_are_the_annotations_own() {
    for (more, status, field, value, body) in [
        (
            &[
                (M, "concurrency-limit-fallback-custom-response-code", "418"),
                (M, "concurrency-limit-fallback-custom-response-body-type", "json"),
                (M, "concurrency-limit-fallback-custom-response-body", "{}"),
            ][..],
            418,
            "content-type",
            "application/json; charset=UTF-8",
            "{}",
        ),
        (
            &[(M, "concurrency-limit-fallback-redirect-url", "https://busy.example/")],
            302,
            "location",
            "https://busy.example/",
            "",
        ),
    ] {
        let (web, gate) = Backend::gated("web");
        let mut all = vec![(M, "concurrency-limit", "1")];
        all.extend_from_slice(more);
        let fleet = one("/", &all, &web);
        let mut first = Client::connect(fleet.addr);
        first.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        until("the first is with the backend", || web.count() == 1);
        let second = get(&fleet, "/", "");
        assert_eq!((second.status, second.one(field), second.text().as_str()), (status, Some(value), body));
        gate.store(true, Ordering::SeqCst);
        assert_eq!(first.response().status, 200);
    }
}

/// One source may have one request in flight; whoever is exempt is not counted.
#[test]
fn requests_of_one_source_at_once_are_bounded_and_their_places_given_back() {
    for (more, expected) in [(&[][..], 503), (&[(N, "limit-whitelist", "127.0.0.0/8")], 200)] {
        let (web, gate) = Backend::gated("web");
        let mut all = vec![(N, "limit-connections", "1")];
        all.extend_from_slice(more);
        let fleet = one("/", &all, &web);
        let (mut first, mut second) = (Client::connect(fleet.addr), Client::connect(fleet.addr));
        first.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        until("the first is with the backend", || web.count() == 1);
        second.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        if expected == 503 {
            assert_eq!(second.response().status, 503);
        }
        gate.store(true, Ordering::SeqCst);
        assert_eq!(first.response().status, 200);
        if expected == 200 {
            assert_eq!(second.response().status, 200);
        }
        assert_eq!(get(&fleet, "/", "").status, 200, "its place is free again");
        assert_eq!(hits(&fleet, Limit::Concurrency), u64::from(expected == 503));
    }
}

#[test]
fn connections_to_endpoints_are_bounded_and_carry_so_many_requests() {
    let web = Backend::named("web");
    let fleet = one("/", &[(M, "connection-policy-http-max-request-per-connection", "2")], &web);
    let mut client = Client::connect(fleet.addr);
    assert!((0..6).all(|_| client.get("/").status == 200));
    assert_eq!((web.count(), web.connections()), (6, 3));
    for (name, limit) in [
        ("connection-policy-tcp-max-connection", Limit::Concurrency),
        ("connection-policy-tcp-max-connection-per-endpoint", Limit::EndpointInFlight),
    ] {
        let (web, gate) = Backend::gated("web");
        let fleet = one("/", &[(M, name, "1")], &web);
        let mut first = Client::connect(fleet.addr);
        first.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        until("the first is with the backend", || web.count() == 1);
        assert_eq!(get(&fleet, "/", "").status, 503, "{name}");
        gate.store(true, Ordering::SeqCst);
        assert_eq!(first.response().status, 200);
        assert_eq!(get(&fleet, "/", "").status, 200, "its place is free again");
        assert_eq!(hits(&fleet, limit), 1, "{name}");
    }
}

#[test]
fn the_lists_of_a_domain_hold_for_other_ingresses_of_the_host() {
    let web = Backend::named("web");
    let text = ingress("web", "/", "web", &[])
        + &ingress("more", "/more", "web", &[(M, "domain-blacklist-source-range", "127.0.0.0/8")]);
    let fleet = with(&text, &[("web", &[web.addr])]);
    assert_eq!((get(&fleet, "/", "").status, get(&fleet, "/more", "").status), (403, 403));
    assert_eq!(web.count(), 0);
}

#[test]
fn a_body_that_is_too_large_is_refused_by_its_length() {
    let web = Backend::named("web");
    let fleet = one("/", &[(N, "proxy-body-size", "1k")], &web);
    let post = |length: usize| {
        let body = "x".repeat(length);
        send(&fleet, &format!("POST / HTTP/1.1\nHost: shop.example\nContent-Length: {length}\n\n{body}"))
    };
    assert_eq!((post(1024).status, post(1025).status), (200, 413));
    assert_eq!(web.count(), 1);
}

#[test]
fn fixed_responses_and_conditions_of_alb() {
    let web = Backend::named("web");
    let fixed = r#"[{"type":"FixedResponse","FixedResponseConfig":{"contentType":"application/json","httpCode":"503","content":"{\"a\":1}"}}]"#;
    let when = r#"[{"type":"Header","headerConfig":{"key":"x-part","values":["repairs*"]}},{"type":"SourceIp","sourceIpConfig":{"values":["127.0.0.0/8"]}}]"#;
    let repairs =
        ingress("repairs", "/", "repairs", &[(A, "actions.repairs", fixed), (A, "conditions.repairs", when)])
            .replace("number: 80", "name: use-annotation");
    let fleet = with(&format!("{repairs}{}", ingress("web", "/", "web", &[])), &[("web", &[web.addr])]);
    let answer = get(&fleet, "/", "X-Part: repairs-2\n");
    assert_eq!((answer.status, answer.text().as_str()), (503, r#"{"a":1}"#));
    assert_eq!(answer.one("content-type"), Some("application/json"));
    assert_eq!(get(&fleet, "/", "X-Part: sales\n").text(), "web");
}

#[test]
fn the_fallback_answers_when_nobody_can_or_with_an_error() {
    let other = Backend::named("other");
    let fallback = [(N, "default-backend", "other"), (N, "custom-http-errors", "503,404")];
    let fleet = with(&ingress("web", "/", "web", &fallback), &[("web", &[]), ("other", &[other.addr])]);
    assert_eq!(get(&fleet, "/a", "").text(), "other", "no endpoint");
    assert_eq!(other.only_request().target(), "/a");
    let web = Backend::start(|request, stream| match request.target() {
        "/fine" => respond(stream, b"web"),
        _ => {
            let _ = stream.write_all(b"HTTP/1.1 503 Broken\r\nContent-Length: 3\r\n\r\nbad");
            Then::Keep
        }
    });
    let fleet =
        with(&ingress("web", "/", "web", &fallback), &[("web", &[web.addr]), ("other", &[other.addr])]);
    assert_eq!(get(&fleet, "/fine", "").text(), "web");
    assert_eq!(get(&fleet, "/broken?x=1", "").text(), "other");
    let seen = other.requests().pop().unwrap();
    assert_eq!((seen.target(), seen.one("x-code")), ("/?x=1", Some("503")));
    let posted = send(&fleet, "POST /broken HTTP/1.1\nHost: shop.example\nContent-Length: 2\n\nhi");
    assert_eq!(posted.text(), "other", "its body was kept");
    assert_eq!(other.requests().pop().unwrap().body, b"hi");
}

#[test]
fn a_mirror_gets_a_copy_and_changes_nothing() {
    let (web, copy) = (Backend::named("web"), Backend::named("copy"));
    let mirror = [(M, "mirror-target-service", "copy:80")];
    let fleet = with(&ingress("web", "/", "web", &mirror), &[("web", &[web.addr]), ("copy", &[copy.addr])]);
    let body = send(&fleet, "POST /a?x=1 HTTP/1.1\nHost: shop.example\nContent-Length: 2\n\nhi").text();
    assert_eq!(body, "web");
    until("the copy arrives", || copy.count() == 1);
    let (original, copied) = (web.only_request(), copy.only_request());
    assert_eq!((original.line(), &original.body), (copied.line(), &copied.body));
    // A mirror that is down is nobody's concern.
    drop(copy);
    assert_eq!(get(&fleet, "/", "").text(), "web");
    let none = [(M, "mirror-target-service", "copy:80"), (M, "mirror-percentage", "0")];
    let copy = Backend::named("copy");
    let fleet = with(&ingress("web", "/", "web", &none), &[("web", &[web.addr]), ("copy", &[copy.addr])]);
    assert!((0..20).all(|_| get(&fleet, "/", "").text() == "web"));
    assert_eq!(copy.count(), 0);
}

#[test]
fn a_canary_is_chosen_by_header_then_query_then_cookie_then_weight() {
    let (web, gray) = (Backend::named("web"), Backend::named("gray"));
    let canary = |more: &[(&'static str, &'static str, &'static str)]| {
        let mut all = vec![(N, "canary", "true")];
        all.extend_from_slice(more);
        let text = ingress("web", "/", "web", &[]) + &ingress("gray", "/", "gray", &all);
        with(&text, &[("web", &[web.addr]), ("gray", &[gray.addr])])
    };
    let fleet =
        canary(&[(N, "canary-by-header", "x-c"), (N, "canary-by-cookie", "c"), (N, "canary-weight", "100")]);
    for (fields, expected) in [
        ("", "gray"),
        ("X-C: never\n", "web"),
        ("X-C: never\nCookie: c=always\n", "web"),
        ("X-C: always\nCookie: c=never\n", "gray"),
        ("X-C: other\nCookie: a=b; c=never\n", "web"),
    ] {
        assert_eq!(get(&fleet, "/", fields).text(), expected, "{fields:?}");
    }
    let fleet = canary(&[
        (N, "canary-by-header", "x-c"),
        (N, "canary-by-header-pattern", "v[12]"),
        (M, "canary-by-query", "q"),
        (M, "canary-by-query-value", "1"),
    ]);
    for (path, fields, expected) in [
        ("/", "X-C: v2\n", "gray"),
        ("/", "X-C: v22\n", "web"),
        ("/?a=2&q=1", "", "gray"),
        ("/?q=2", "", "web"),
        ("/", "", "web"),
    ] {
        assert_eq!(get(&fleet, path, fields).text(), expected, "{path} {fields:?}");
    }
    let fleet = canary(&[(N, "canary-weight", "250"), (N, "canary-weight-total", "1000")]);
    let mut client = Client::connect(fleet.addr);
    let share = (0..400).filter(|_| client.get("/").text() == "gray").count();
    assert!((60..=140).contains(&share), "{share} of 400, expected about 100");
}

#[test]
fn a_session_stays_with_its_side_of_a_canary_unless_it_is_to_be_chosen_anew() {
    let (web, gray) = (Backend::named("web"), Backend::named("gray"));
    let start = |more: &[(&'static str, &'static str, &'static str)]| {
        let mut canary =
            vec![(N, "canary", "true"), (N, "canary-by-header", "x-c"), (N, "canary-by-header-value", "yes")];
        canary.extend_from_slice(more);
        let text =
            ingress("web", "/", "web", &[(N, "affinity", "cookie")]) + &ingress("gray", "/", "gray", &canary);
        with(&text, &[("web", &[web.addr]), ("gray", &[gray.addr])])
    };
    let session = |fleet: &Fleet, fields: &str| {
        let response = get(fleet, "/", fields);
        let cookie = response.one("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        (response.text(), format!("Cookie: {cookie}\n"))
    };
    let share = |fleet: &Fleet, cookie: &str| {
        let mut client = Client::connect(fleet.addr);
        let request = format!("GET / HTTP/1.1\nHost: shop.example\n{cookie}\n").replace('\n', "\r\n");
        (0..200).filter(|_| client.send(&request).response().text() == "gray").count()
    };
    for weights in [
        &[(N, "canary-weight", "1")][..],
        &[(N, "canary-weight", "50"), (N, "affinity-canary-behavior", "sticky")],
    ] {
        let fleet = start(weights);
        let (body, cookie) = session(&fleet, "X-C: yes\n");
        assert_eq!((body.as_str(), share(&fleet, &cookie)), ("gray", 200), "{weights:?}");
    }
    // A session of the Ingress stays there, too.
    let fleet = start(&[(N, "canary-weight", "50")]);
    let (body, cookie) =
        std::iter::repeat_with(|| session(&fleet, "")).find(|(body, _)| body == "web").unwrap();
    assert_eq!((body.as_str(), share(&fleet, &cookie)), ("web", 0));
    let fleet = start(&[(N, "canary-weight", "50"), (N, "affinity-canary-behavior", "legacy")]);
    let (body, cookie) = session(&fleet, "X-C: yes\n");
    let share = share(&fleet, &cookie);
    assert!(body == "gray" && (60..=140).contains(&share), "{body}: {share} of 200, expected about 100");
}

#[test]
fn a_subset_of_a_cluster_falls_back_to_every_cluster() {
    let (alpha, mut beta) = (Backend::named("alpha"), Backend::named("beta"));
    let pinned = [(M, "service-subset", "b"), (M, "subset-labels", "topology.istio.io/cluster beta")];
    let fleet = Fleet::start(
        config(),
        &[
            ("fleet/web.yaml", &ingress("web", "/", "web", &pinned)),
            ("clusters/alpha/all.yaml", &services(&[("web", &[alpha.addr])])),
            ("clusters/beta/all.yaml", &services(&[("web", &[beta.addr])])),
        ],
    );
    assert!((0..20).all(|_| get(&fleet, "/", "").text() == "beta"));
    beta.kill();
    assert!((0..20).all(|_| get(&fleet, "/", "").text() == "alpha"), "no request is lost");
}

#[test]
fn a_session_has_the_attributes_that_were_asked_for() {
    let web = Backend::named("web");
    let fleet = one(
        "/",
        &[
            (N, "affinity", "cookie"),
            (N, "session-cookie-name", "route"),
            (N, "session-cookie-path", "/p"),
            (N, "session-cookie-max-age", "60"),
            (N, "session-cookie-samesite", "Strict"),
            (N, "session-cookie-secure", "true"),
        ],
        &web,
    );
    let cookie = get(&fleet, "/", "").one("set-cookie").unwrap().to_owned();
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert!(value.starts_with("route="), "{cookie}");
    assert_eq!(attributes, "Path=/p; Max-Age=60; Secure; HttpOnly; SameSite=Strict");
    assert_eq!(get(&fleet, "/", &format!("Cookie: {value}\n")).one("set-cookie"), None);
}

#[test]
fn a_listed_status_is_tried_again_elsewhere() {
    let bad = Backend::answering("HTTP/1.1 503 Broken\r\nContent-Length: 3\r\n\r\nbad", Then::Keep);
    let good = Backend::named("good");
    let again = [(N, "proxy-next-upstream", "error http_503"), (N, "proxy-next-upstream-tries", "2")];
    let fleet = with(&ingress("web", "/", "web", &again), &[("web", &[bad.addr, good.addr])]);
    assert!((0..10).all(|_| get(&fleet, "/", "").text() == "good"));
    let off = [(N, "proxy-next-upstream", "off")];
    let fleet = with(&ingress("web", "/", "web", &off), &[("web", &[bad.addr])]);
    assert_eq!(get(&fleet, "/", "").status, 503);
}

/// ACK One's own objects open their listener and choose their clusters; what the cloud would do is left out.
#[test]
fn an_alb_config_is_a_gateway() {
    let (alpha, beta) = (Backend::named("alpha"), Backend::named("beta"));
    let port = support::Port::reserve();
    let gateway = format!(
        "apiVersion: alibabacloud.com/v1\nkind: AlbConfig\nmetadata:\n  name: demo\n  annotations:\n    \
         alb.ingress.kubernetes.io/remote-clusters: beta\nspec:\n  config: {{name: demo, addressType: Internet}}\n  \
         listeners: [{{port: {}, protocol: HTTP, aclConfig: {{aclType: White, aclEntries: [127.0.0.0/8]}}}}]\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: alb}}\nspec:\n  controller: \
         ingress.k8s.alibabacloud/alb\n  parameters: {{apiGroup: alibabacloud.com, kind: AlbConfig, name: demo}}\n",
        port.addr.port()
    );
    let web =
        ingress("web", "/", "web", &[]).replace("spec:\n  rules", "spec:\n  ingressClassName: alb\n  rules");
    let fleet = Fleet::start(
        config(),
        &[
            ("fleet/gateway.yaml", &gateway),
            ("fleet/web.yaml", &web),
            ("clusters/alpha/all.yaml", &services(&[("web", &[alpha.addr])])),
            ("clusters/beta/all.yaml", &services(&[("web", &[beta.addr])])),
        ],
    );
    let ask = |addr| {
        Client::connect(addr).send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").try_response(To::Get)
    };
    until("its listener is open", || Client::try_connect(port.addr).is_ok());
    assert!((0..10).all(|_| ask(port.addr).unwrap().text() == "beta"));
    assert_eq!(ask(fleet.addr).unwrap().status, 404, "not on --listen");
    let closed = gateway.replace("127.0.0.0/8", "10.0.0.0/8");
    fleet.write("fleet/gateway.yaml", &closed);
    until("the list is in force", || ask(port.addr).is_ok_and(|response| response.status == 403));
}

/// Both have cookies of one name: each is for the path of its rule.
#[test]
fn sessions_of_two_services_of_one_host_do_not_meet() {
    let (a, b, c, d) = (Backend::named("a"), Backend::named("b"), Backend::named("c"), Backend::named("d"));
    let sticks = [(N, "affinity", "cookie")];
    let text = ingress("one", "/one", "one", &sticks) + &ingress("two", "/two", "two", &sticks);
    let fleet = with(&text, &[("one", &[a.addr, b.addr]), ("two", &[c.addr, d.addr])]);
    // As a browser keeps them: by name and path.
    let mut jar: BTreeMap<String, String> = BTreeMap::new();
    let mut answers = BTreeSet::new();
    for turn in 0..20 {
        let path = ["/one", "/two"][turn % 2];
        let cookie = jar.iter().find(|(of, _)| path.starts_with(of.as_str()));
        let field = cookie.map_or(String::new(), |(_, cookie)| format!("Cookie: {cookie}\n"));
        let response = get(&fleet, path, &field);
        answers.insert(response.text());
        if let Some(set) = response.one("set-cookie") {
            let mut parts = set.split("; ");
            let cookie = parts.next().unwrap().to_owned();
            let of = parts.find_map(|part| part.strip_prefix("Path=")).unwrap().to_owned();
            jar.insert(of, cookie);
        }
    }
    assert_eq!(answers.len(), 2, "each Service has one session: {answers:?}");
}

#[test]
fn a_source_of_the_list_or_a_password_is_enough_where_any_is() {
    let web = Backend::named("web");
    let asks_by = |kind: &'static str, list: &'static str| {
        let given =
            [(N, "satisfy", "any"), (N, kind, list), (N, "auth-type", "basic"), (N, "auth-secret", "staff")];
        let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: staff}\nstringData: {auth: 'ann:{PLAIN}secret'}\n";
        with(&(ingress("web", "/", "web", &given) + secret), &[("web", &[web.addr])])
    };
    let asks = |list| asks_by("whitelist-source-range", list);
    let password = "Authorization: Basic YW5uOnNlY3JldA==\n";
    let listed = asks("127.0.0.0/8");
    assert_eq!(get(&listed, "/", "").status, 200);
    let other = asks("192.0.2.0/24");
    assert_eq!((get(&other, "/", "").status, get(&other, "/", password).status), (401, 200));
    assert_eq!(get(&other, "/", "Authorization: Basic YW5uOndyb25n\n").status, 401);
    assert_eq!(web.requests().last().unwrap().one("authorization"), None, "the password is the gateway's");
    // A list that cannot be read is nobody's, and nothing else opens what it closes.
    assert_eq!(get(&asks("192.0.2.0/24, typo"), "/", password).status, 503);
    // Who is on no list of those that may not come is not vouched for by that.
    for denied in ["192.0.2.0/24", "127.0.0.0/8"] {
        let by = asks_by("denylist-source-range", denied);
        assert_eq!((get(&by, "/", "").status, get(&by, "/", password).status), (401, 200), "{denied}");
    }
}
