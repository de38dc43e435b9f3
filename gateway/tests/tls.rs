//! TLS towards clients: certificates by name, their exchange, resumption, bounds, and everything of HTTP/1 inside.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use config::{Config, Period};
use gateway::observe::stats::{Limit, WorkerStats};
use gateway::tls::Ended;
use rustls::version::TLS12;
use rustls::{ClientConfig, ProtocolVersion};
use support::backend::{Backend, respond};
use support::fleet::{Fleet, service};
use support::tls::{Ca, Key, Secure, connect};
use support::{PATIENCE, config, until};
use tungstenite::Message;

/// An Ingress with these hosts and `spec.tls` entries `(hosts, Secret)`.
fn ingress(hosts: &[&str], tls: &[(&[&str], &str)]) -> String {
    let path = "{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}";
    let rules: String =
        hosts.iter().map(|host| format!("  - {{host: \"{host}\", http: {{paths: [{path}]}}}}\n")).collect();
    let tls: String = tls
        .iter()
        .map(|(hosts, secret)| format!("  - {{hosts: {hosts:?}, secretName: {secret}}}\n"))
        .collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web}}\nspec:\n  rules:\n{rules}  tls:\n{tls}"
    )
}

/// A node that serves `shop.example` with a certificate of `ca`, on `backend`.
fn shop(config: Config, ca: &Ca, backend: &Backend) -> Fleet {
    Fleet::start(
        config,
        &[
            ("fleet/a.yaml", &ingress(&["shop.example"], &[(&["shop.example"], "shop")])),
            ("fleet/s.yaml", &ca.leaf(&["shop.example"]).secret("shop")),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    )
}

fn count(fleet: &Fleet, figure: impl Fn(&WorkerStats) -> u64) -> u64 {
    fleet.node().stats.iter().map(|stats| figure(stats)).sum()
}

fn handshakes(fleet: &Fleet, ended: Ended) -> u64 {
    count(fleet, |stats| stats.handshakes[ended as usize].get())
}

/// Waits until so many handshakes have ended this way: the client may know before it is counted.
fn await_handshakes(fleet: &Fleet, ended: Ended, expected: u64) {
    until(&format!("{expected} handshakes that end {ended:?}"), || handshakes(fleet, ended) == expected);
}

fn no_panics(fleet: &Fleet) {
    assert_eq!(count(fleet, |stats| stats.panics_total.get() + stats.restarts_total.get()), 0);
}

#[test]
fn the_certificate_is_the_one_of_the_name_and_an_unknown_name_gets_an_alert() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let (exact, wildcard) = (ca.leaf(&["a.shop.example"]), ca.leaf(&["*.shop.example"]));
    let hosts: [&[&str]; 2] = [&["a.shop.example"], &["*.shop.example"]];
    let fleet = Fleet::start(
        config(),
        &[
            (
                "fleet/a.yaml",
                &ingress(
                    &["a.shop.example", "*.shop.example"],
                    &[(hosts[0], "exact"), (hosts[1], "wildcard")],
                ),
            ),
            ("fleet/s.yaml", &[exact.secret("exact"), wildcard.secret("wildcard")].join("---\n")),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    );
    let trust = Arc::new(ca.trust());
    for (name, leaf) in
        [("a.shop.example", &exact), ("A.Shop.Example", &exact), ("b.shop.example", &wildcard)]
    {
        let mut client = connect(fleet.tls, name, &trust).unwrap();
        assert_eq!(client.certificate(), leaf.der, "{name}");
        assert_eq!(client.stream.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(client.get(name, "/").0, 200, "{name}");
    }
    let request = backend.requests().pop().unwrap();
    assert_eq!(request.one("x-forwarded-proto"), Some("https"));
    // One label only; another domain; no name at all (an address is none).
    for name in ["x.a.shop.example", "other.example", "127.0.0.1"] {
        let refused = connect(fleet.tls, name, &trust).err().expect(name);
        assert!(refused.contains("UnrecognisedName"), "{name}: {refused}");
    }
    await_handshakes(&fleet, Ended::UnknownName, 3);
    // A name is the same in any case: the second client resumes the first one's session.
    assert_eq!((handshakes(&fleet, Ended::Full), handshakes(&fleet, Ended::Resumed)), (2, 1));
    // The clear port serves the same hosts in clear.
    let mut clear = support::client::Client::connect(fleet.addr);
    assert_eq!(clear.send("GET / HTTP/1.1\r\nHost: b.shop.example\r\n\r\n").response().status, 200);
    assert_eq!(backend.requests().pop().unwrap().one("x-forwarded-proto"), Some("http"));
    no_panics(&fleet);
}

#[test]
fn of_two_certificates_of_a_name_the_client_gets_one_that_it_can_verify() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let (ecdsa, rsa) = (ca.leaf(&["shop.example"]), ca.leaf_with(&["shop.example"], Key::Rsa));
    let hosts: &[&str] = &["shop.example"];
    let fleet = Fleet::start(
        config(),
        &[
            ("fleet/a.yaml", &ingress(hosts, &[(hosts, "rsa"), (hosts, "ecdsa")])),
            ("fleet/s.yaml", &[ecdsa.secret("ecdsa"), rsa.secret("rsa")].join("---\n")),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    );
    let modern = connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    assert_eq!(modern.certificate(), ecdsa.der);
    let old = connect(fleet.tls, "shop.example", &Arc::new(Ca::rsa_only())).unwrap();
    assert_eq!(old.certificate(), rsa.der);
    no_panics(&fleet);
}

#[test]
fn a_changed_secret_changes_the_certificate_without_a_failed_request() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let config = Config { worker: config::Worker { count: 2, ..config().worker }, ..config() };
    let fleet = shop(config, &ca, &backend);
    let trust = Arc::new(ca.trust());
    let mut old = connect(fleet.tls, "shop.example", &trust).unwrap();
    let first = old.certificate();
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let addr = fleet.tls;
    std::thread::scope(|scope| {
        for keeps in [true, false] {
            let (mut trust, stop, served) = (ca.trust(), &stop, &served);
            trust.resumption = rustls::client::Resumption::disabled();
            scope.spawn(move || {
                let trust = Arc::new(trust);
                let mut client = connect(addr, "shop.example", &trust).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if !keeps {
                        client = connect(addr, "shop.example", &trust).unwrap();
                    }
                    assert_eq!(client.get("shop.example", "/").0, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut seen = vec![first];
        for _ in 0..5 {
            let next = ca.leaf(&["shop.example"]);
            fleet.write("fleet/s.yaml", &next.secret("shop"));
            let full = Arc::new(ca.trust());
            until("new connections get the new certificate", || {
                connect(addr, "shop.example", &full).unwrap().certificate() == next.der
            });
            let so_far = served.load(Ordering::Relaxed);
            until("load goes on", || served.load(Ordering::Relaxed) > so_far + 50);
            assert!(!seen.contains(&next.der));
            seen.push(next.der);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(old.get("shop.example", "/").0, 200, "a connection of the first certificate lives on");
    // One that cannot be used changes nothing.
    fleet.write(
        "fleet/s.yaml",
        &ca.leaf(&["shop.example"]).secret("shop").replace("BEGIN PRIVATE", "BEGIN PIRATE"),
    );
    until("the broken Secret is reported", || {
        let refused = |verdict: &controller::verdict::Verdict| {
            verdict.notes.iter().any(|note| note.reason.contains("last good certificate stays in use"))
        };
        fleet.view.read().verdicts.iter().any(refused)
    });
    assert_eq!(connect(addr, "shop.example", &trust).unwrap().get("shop.example", "/").0, 200);
    no_panics(&fleet);
}

/// Resumes sessions of `trust` until every worker has done so once.
fn resume_everywhere(fleet: &Fleet, trust: &Arc<ClientConfig>, what: &str) {
    let resumed = |stats: &WorkerStats| stats.handshakes[Ended::Resumed as usize].get();
    let before: Vec<u64> = fleet.node().stats.iter().map(|stats| resumed(stats)).collect();
    until(what, || {
        let mut client = connect(fleet.tls, "shop.example", trust).unwrap();
        assert_eq!(client.get("shop.example", "/").0, 200);
        assert!(client.is_resumed(), "{what}: every handshake after the first is by a ticket");
        fleet.node().stats.iter().zip(&before).all(|(stats, before)| resumed(stats) > *before)
    });
}

#[test]
fn sessions_resume_on_every_worker_and_across_a_change_of_the_certificate() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let config = Config { worker: config::Worker { count: 2, ..config().worker }, ..config() };
    let fleet = shop(config, &ca, &backend);
    let tls12 = {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS12]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.root().clone()).unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    for (version, trust) in [("1.3", ca.trust()), ("1.2", tls12)] {
        let trust = Arc::new(trust);
        let mut first = connect(fleet.tls, "shop.example", &trust).unwrap();
        assert!(!first.is_resumed());
        // The ticket of 1.3 comes behind the handshake.
        assert_eq!(first.get("shop.example", "/").0, 200);
        resume_everywhere(&fleet, &trust, &format!("{version}: resumed on both workers"));
        let next = ca.leaf(&["shop.example"]);
        fleet.write("fleet/s.yaml", &next.secret("shop"));
        let fresh =
            || connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap().certificate() == next.der;
        until("the new certificate is everywhere", || (0..8).all(|_| fresh()));
        resume_everywhere(&fleet, &trust, &format!("{version}: resumed after the change"));
    }
    no_panics(&fleet);
}

/// A ClientHello of TLS 1.1, as a client of 2010 sent it.
fn hello_of_tls11() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend_from_slice(&[7; 32]);
    // No session, one suite (RSA with AES-128-CBC-SHA), no compression, server_name the only extension.
    body.extend_from_slice(&[0, 0, 2, 0, 0x2f, 1, 0, 0, 21, 0, 0, 0, 17, 0, 15, 0, 0, 12]);
    body.extend_from_slice(b"shop.example");
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.append(&mut body);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.append(&mut message);
    record
}

fn answer_to(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The gateway need not read all of it before it answers.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // A reset after the alert is as good an end.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn old_versions_clear_text_and_garbage_are_refused() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let fleet = shop(config(), &ca, &backend);
    let alert = answer_to(fleet.tls, &hello_of_tls11());
    assert_eq!(alert.first(), Some(&21), "an alert: {alert:?}");
    // The library misses the signature algorithms, which are of 1.2, before it looks at the version.
    assert!(matches!(alert[5..], [2, 40 | 70]), "fatal, handshake_failure or protocol_version: {alert:?}");
    for bytes in [&b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"[..], &[0; 64], &[22, 3, 1, 255, 255, 1]] {
        let mut bytes = bytes.to_vec();
        bytes.resize(70_000, 1);
        let answer = answer_to(fleet.tls, &bytes);
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    await_handshakes(&fleet, Ended::Refused, 4);
    assert_eq!(backend.count(), 0);
    assert_eq!(
        connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap().get("shop.example", "/").0,
        200
    );
    no_panics(&fleet);
}

/// A ClientHello of TLS 1.2 with one suite that nobody has, and in its record the beginning of another message.
fn hello_with_more_behind_it() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0, 0x2f, 1, 0, 0, 43, 0, 0, 0, 17, 0, 15, 0, 0, 12]);
    body.extend_from_slice(b"shop.example");
    // Signature algorithms, groups, point formats.
    body.extend_from_slice(&[0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0]);
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.append(&mut body);
    message.extend_from_slice(&[16, 0, 0, 4, 1, 2, 3, 4]);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.append(&mut message);
    record
}

#[test]
fn what_is_broken_while_the_library_holds_more_gets_an_alert_and_costs_nobody_else() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let fleet = shop(config(), &ca, &backend);
    // In the handshake: what is behind the message that fails is with the library still.
    let alert = answer_to(fleet.tls, &hello_with_more_behind_it());
    assert!(matches!(alert[..], [21, 3, _, 0, 2, 2, _]), "an alert that is fatal: {alert:?}");
    await_handshakes(&fleet, Ended::Refused, 1);
    // Behind it: a record that nobody sealed.
    let mut client = connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    assert_eq!(client.get("shop.example", "/").0, 200);
    client.stream.sock.write_all(&[&[23, 3, 3, 0, 64][..], &[7; 64]].concat()).unwrap();
    let ended = client.response().unwrap_err();
    assert!(ended.to_string().contains("BadRecordMac"), "{ended}");
    no_panics(&fleet);
}

#[test]
fn alpn_agrees_on_http_1_1_or_on_nothing_where_http_2_is_off() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let mut config = config();
    config.http2.tls = false;
    let fleet = shop(config, &ca, &backend);
    for (offers, agreed) in
        [(&[][..], Some(None)), (&["h2", "http/1.1"][..], Some(Some("http/1.1"))), (&["h2"][..], None)]
    {
        let mut trust = ca.trust();
        trust.alpn_protocols = offers.iter().map(|name| name.as_bytes().to_vec()).collect();
        match (connect(fleet.tls, "shop.example", &Arc::new(trust)), agreed) {
            (Ok(mut client), Some(agreed)) => {
                assert_eq!(client.stream.conn.alpn_protocol(), agreed.map(str::as_bytes));
                assert_eq!(client.get("shop.example", "/").0, 200);
            }
            (Err(why), None) => assert!(why.contains("NoApplicationProtocol"), "{why}"),
            (Ok(_), None) => panic!("{offers:?} was accepted"),
            (Err(why), Some(_)) => panic!("{offers:?}: {why}"),
        }
    }
    await_handshakes(&fleet, Ended::NoProtocol, 1);
    no_panics(&fleet);
}

#[test]
fn slow_handshakes_are_ended_and_bounded_in_number() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let mut settings = config();
    settings.limits.handshakes_max = 2;
    settings.timeouts.tls_handshake = Period::millis(700);
    let fleet = shop(settings, &ca, &backend);
    let idle = || {
        let mut stream = TcpStream::connect(fleet.tls).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[22, 3, 1]).unwrap();
        stream
    };
    let mut first = [idle(), idle()];
    until("two handshakes are in flight", || count(&fleet, |stats| stats.connections_open.get()) == 2);
    // The third is closed at once, while the two wait.
    assert!(connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).is_err());
    await_handshakes(&fleet, Ended::Limit, 1);
    assert_eq!(count(&fleet, |stats| stats.hits(Limit::Handshakes)), 1);
    assert_eq!(handshakes(&fleet, Ended::Timeout), 0, "the first two are still there");
    for stream in &mut first {
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)), "closed by the gateway");
    }
    until("both are counted", || count(&fleet, |stats| stats.hits(Limit::HandshakeTimeout)) == 2);
    let mut client = connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    assert_eq!(client.get("shop.example", "/").0, 200, "there is room again");
    no_panics(&fleet);
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from((n * 31 + n / 257) % 251).unwrap()).collect()
}

#[test]
fn large_bodies_and_small_records_pass_unchanged_in_both_directions() {
    let ca = Ca::new();
    let backend = Backend::start(|request, stream| respond(stream, &request.body));
    let fleet = shop(config(), &ca, &backend);
    let mut client = connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    for len in [0, 1, 4_096, 16_383, 16_384, 16_385, 131_072, 5_000_000] {
        let body = pattern(len);
        let head = format!("POST /echo HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {len}\r\n\r\n");
        let mut tls = [head.as_bytes(), &body].concat();
        if len == 4_096 {
            // A record for every seventh byte.
            for part in tls.chunks(7) {
                client.stream.write_all(part).unwrap();
                client.stream.flush().unwrap();
            }
        } else {
            client.send(std::mem::take(&mut tls));
        }
        let (status, _, echoed) = client.response().unwrap();
        assert!(status == 200 && echoed == body, "{len} bytes: {status}, {} came back", echoed.len());
    }
    assert_eq!(handshakes(&fleet, Ended::Full), 1, "all on one connection");
    no_panics(&fleet);
}

#[test]
fn pipelined_requests_and_idle_pauses_keep_their_order() {
    let ca = Ca::new();
    let backend = Backend::start(|request, stream| respond(stream, request.target().as_bytes()));
    let mut settings = config();
    settings.timeouts.buffer_idle = Period::millis(10);
    let fleet = shop(settings, &ca, &backend);
    let mut client = connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    for round in 0..5 {
        let requests: String =
            (0..20).map(|n| format!("GET /{round}/{n} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).collect();
        client.send(requests);
        for n in 0..20 {
            let (_, _, body) = client.response().unwrap();
            assert_eq!(String::from_utf8(body).unwrap(), format!("/{round}/{n}"));
        }
        // Idle: the read is called back, the buffers go, and a request that comes then is served.
        support::pass(Duration::from_millis(60));
        // In two records, with a pause between: a head that is not complete is kept.
        client.send(format!("GET /{round}/late HTTP/1.1\r\nHo"));
        support::pass(Duration::from_millis(30));
        client.send("st: shop.example\r\n\r\n");
        assert_eq!(client.response().unwrap().2, format!("/{round}/late").into_bytes());
    }
    assert_eq!(handshakes(&fleet, Ended::Full), 1);
    no_panics(&fleet);
}

#[test]
fn an_end_without_close_notify_is_not_the_end_of_a_body() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let fleet = shop(config(), &ca, &backend);
    let trust = Arc::new(ca.trust());
    let cut = |head: &str| {
        let mut client = connect(fleet.tls, "shop.example", &trust).unwrap();
        client.send(format!("POST / HTTP/1.1\r\nHost: shop.example\r\n{head}"));
        // The FIN of an attacker: no close_notify before it.
        client.stream.sock.shutdown(Shutdown::Write).unwrap();
        client.response().is_ok()
    };
    assert!(!cut("Content-Length: 10\r\n\r\n12345"));
    assert!(!cut("Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"));
    assert_eq!(backend.count(), 0, "no complete request reached the backend");
    // And ours: what we close, we close with a close_notify.
    let mut client = connect(fleet.tls, "shop.example", &trust).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().unwrap().0, 200);
    assert!(client.ends_cleanly());
    no_panics(&fleet);
}

#[test]
fn a_websocket_runs_over_tls_and_ends_with_it() {
    let ca = Ca::new();
    let backend = Backend::raw(|peer| {
        let Ok(mut socket) = tungstenite::accept(peer.stream.try_clone().unwrap()) else { return };
        while let Ok(message) = socket.read() {
            if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                return;
            }
        }
    });
    let fleet = shop(config(), &ca, &backend);
    let Secure { stream, .. } = connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    let (mut socket, response) = tungstenite::client("wss://shop.example/chat", stream).unwrap();
    assert_eq!(response.status(), 101);
    for len in [0, 5, 70_000, 400_000] {
        let message = Message::binary(pattern(len));
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    until("the tunnel ends", || count(&fleet, |stats| stats.tunnels_open.get()) == 0);
    no_panics(&fleet);
}

#[test]
fn tls_is_served_on_ipv6() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let fleet = Fleet::start_on(
        Ipv6Addr::LOCALHOST.into(),
        config(),
        &[
            ("fleet/a.yaml", &ingress(&["shop.example"], &[(&[], "shop")])),
            ("fleet/s.yaml", &ca.leaf(&["shop.example"]).secret("shop")),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    );
    assert!(fleet.tls.is_ipv6());
    let mut client = connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    assert_eq!(client.get("shop.example", "/").0, 200);
    no_panics(&fleet);
}

/// A Gateway with a listener for each name on one port, and a route for both.
fn gateway_of(port: u16, names: &[(&str, &str)]) -> String {
    let listeners: String = names
        .iter()
        .enumerate()
        .map(|(n, (host, secret))| {
            format!(
                "  - {{name: l{n}, port: {port}, protocol: HTTPS, hostname: \"{host}\", tls: {{certificateRefs: [{{name: {secret}}}]}}}}\n"
            )
        })
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\n\
         spec: {{controllerName: ringway.dev/gateway}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public}}\nspec:\n  \
         gatewayClassName: ringway\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n{listeners}---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all}}\n\
         spec:\n  parentRefs: [{{name: public}}]\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
    )
}

#[test]
fn a_host_of_another_listener_than_the_names_is_misdirected() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let port = support::Port::reserve();
    let secrets = [ca.leaf(&["a.example"]).secret("a"), ca.leaf(&["*.b.example", "b.example"]).secret("b")];
    let fleet = Fleet::start(
        config(),
        &[
            ("fleet/a.yaml", &gateway_of(port.addr.port(), &[("a.example", "a"), ("*.b.example", "b")])),
            ("fleet/s.yaml", &secrets.join("---\n")),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    );
    let trust = Arc::new(ca.trust());
    let mut a = connect(port.addr, "a.example", &trust).unwrap();
    let mut b = connect(port.addr, "x.b.example", &trust).unwrap();
    assert_eq!(a.get("a.example", "/").0, 200);
    assert_eq!(b.get("x.b.example", "/").0, 200);
    assert_eq!(b.get("y.b.example", "/").0, 200, "the same listener");
    for (client, host) in [(&mut a, "x.b.example"), (&mut b, "a.example")] {
        let (status, head, _) = client.get(host, "/");
        assert_eq!(status, 421, "{host}: {head}");
    }
    assert_eq!(a.get("c.example", "/").0, 421, "nobody's host");
    assert_eq!(a.get("a.example", "/").0, 200, "the connection goes on");
    assert!(connect(port.addr, "b.example", &trust).is_err(), "no listener has this name");
    assert_eq!(backend.count(), 4);
    // The same of every stream on a connection of HTTP/2.
    let mut both = ca.trust();
    both.alpn_protocols = vec![b"h2".to_vec()];
    support::h2::run(async {
        let mut client =
            Box::pin(support::h2::Client::connect_tls(port.addr, "a.example", &Arc::new(both))).await;
        for (host, status) in
            [("a.example", 200), ("x.b.example", 421), ("c.example", 421), ("a.example", 200)]
        {
            let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
            assert_eq!(client.ask(request).await.unwrap().status, status, "{host}");
        }
    });
    assert_eq!(backend.count(), 6);
    no_panics(&fleet);
}

#[test]
fn nodes_that_share_secrets_resume_each_other_s_sessions() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let path = std::env::temp_dir().join(format!("ringway-tickets-{}", std::process::id()));
    let (first, second) = ("a".repeat(32), "b".repeat(32));
    std::fs::write(&path, &first).unwrap();
    let shared = || {
        let mut config = config();
        config.tls.ticket_secrets = path.clone();
        config
    };
    let leaf = ca.leaf(&["shop.example"]).secret("shop");
    let node = |config: Config| {
        Fleet::start(
            config,
            &[
                ("fleet/a.yaml", &ingress(&["shop.example"], &[(&["shop.example"], "shop")])),
                ("fleet/s.yaml", &leaf),
                ("clusters/alpha/web.yaml", &service(&[backend.addr])),
            ],
        )
    };
    let (one, other, alone) = (node(shared()), node(shared()), node(config()));
    let resumed = |at: &Fleet, trust: &Arc<ClientConfig>| {
        let mut client = connect(at.tls, "shop.example", trust).unwrap();
        assert_eq!(client.get("shop.example", "/").0, 200);
        client.is_resumed()
    };
    let trust = Arc::new(ca.trust());
    assert!(!resumed(&one, &trust));
    assert!(resumed(&other, &trust), "the other node has the same keys");
    assert!(!resumed(&alone, &trust), "a node without the secret draws its own");
    // Rotation, step by step: brought to every node, then used, then alone.
    for (contents, keeps) in [
        (format!("{first}\n{second}"), true),
        (format!("{second}\n{first}"), true),
        (second.clone(), true),
        ("c".repeat(32), false),
    ] {
        let trust = Arc::new(ca.trust());
        assert!(!resumed(&one, &trust));
        std::fs::write(&path, &contents).unwrap();
        other.node().reload(&Arc::new(shared()));
        assert_eq!(resumed(&other, &trust), keeps, "{contents}");
        one.node().reload(&Arc::new(shared()));
    }
    // What cannot be read changes nothing.
    let trust = Arc::new(ca.trust());
    assert!(!resumed(&one, &trust));
    std::fs::write(&path, "short").unwrap();
    other.node().reload(&Arc::new(shared()));
    assert!(resumed(&other, &trust));
    let _ = std::fs::remove_file(&path);
}
