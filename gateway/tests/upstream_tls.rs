//! TLS towards backends: whom the gateway believes, what it shows, and that it never speaks in clear instead (SECURITY S29).
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::sync::atomic::Ordering;

use gateway::tls::connect::Ended;
use support::backend::Backend;
use support::client::Client;
use support::fleet::{Fleet, ingress, service};
use support::h2_backend::{Do, H2Backend};
use support::secure::{After, Secure};
use support::tls::{Ca, Leaf};
use support::{config, until};

/// The name that the policy of these tests asks for.
const NAME: &str = "web.internal";

/// A `BackendTLSPolicy` on Service `web` with this `validation`.
fn policy(validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: web}}\nspec:\n  targetRefs: \
         [{{group: \"\", kind: Service, name: web}}]\n  validation: {validation}\n"
    )
}

/// The policy that trusts ConfigMap `ca`.
fn trusting_map() -> String {
    policy(&format!("{{hostname: {NAME}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]}}"))
}

fn annotated(annotations: &[(&str, &str)]) -> String {
    let lines: String = annotations
        .iter()
        .map(|(name, value)| format!("    nginx.ingress.kubernetes.io/{name}: \"{value}\"\n"))
        .collect();
    ingress("web", "/")
        .replace("metadata: {name: web}\n", &format!("metadata:\n  name: web\n  annotations:\n{lines}"))
}

/// A node that serves `web` with these further files.
fn node(backends: &[std::net::SocketAddr], files: &[(&str, &str)]) -> Fleet {
    let (web, service) = (ingress("web", "/"), service(backends));
    let mut all = vec![("fleet/web.yaml", web.as_str()), ("clusters/alpha/web.yaml", service.as_str())];
    all.retain(|(path, _)| files.iter().all(|(other, _)| other != path));
    all.extend_from_slice(files);
    Fleet::start(config(), &all)
}

fn handshakes(fleet: &Fleet, ended: Ended) -> u64 {
    fleet.node().stats.iter().map(|stats| stats.upstream_handshakes[ended as usize].get()).sum()
}

fn get(fleet: &Fleet) -> (u16, String, String) {
    let response = Client::connect(fleet.addr).get("/");
    (response.status, response.reason().to_owned(), response.text())
}

#[test]
fn a_backend_that_an_authority_vouches_for_is_spoken_to_over_tls_and_connections_are_kept() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.leaf(&[NAME]), "secured", After::Keep);
    let fleet =
        node(&[backend.addr], &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &ca.config_map("ca"))]);
    let mut client = Client::connect(fleet.addr);
    for _ in 0..10 {
        let response = client.get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "secured"), "{}", response.head);
    }
    assert_eq!(handshakes(&fleet, Ended::Full), 1, "one connection carries all of them");
    assert_eq!(*backend.seen.names.lock().unwrap(), [NAME]);
    assert_eq!(backend.requests(), 10);
    assert!(!backend.saw_plaintext());
}

/// What a backend shows, and what comes of it.
struct Wrong {
    what: &'static str,
    leaf: Leaf,
    ended: Ended,
}

#[test]
fn what_nobody_vouches_for_is_a_502_with_its_reason_and_sees_no_request() {
    let ca = Ca::new();
    let cases = [
        Wrong { what: "another name", leaf: ca.leaf(&["other.internal"]), ended: Ended::WrongName },
        Wrong { what: "expired", leaf: ca.expired(&[NAME]), ended: Ended::Expired },
        Wrong { what: "not valid yet", leaf: ca.future(&[NAME]), ended: Ended::NotYetValid },
        Wrong { what: "self-signed", leaf: Ca::self_signed(&[NAME]), ended: Ended::UnknownAuthority },
        Wrong { what: "unknown CA", leaf: Ca::new().leaf(&[NAME]), ended: Ended::UnknownAuthority },
    ];
    for Wrong { what, leaf, ended } in cases {
        let backend = Secure::start(&leaf, "never", After::Keep);
        let fleet = node(
            &[backend.addr],
            &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &ca.config_map("ca"))],
        );
        assert_eq!(get(&fleet).0, 502, "{what}");
        assert_eq!(get(&fleet).1, ended.reason(), "{what}");
        assert!(handshakes(&fleet, ended) >= 1, "{what}");
        assert_eq!(backend.seen.handshakes.load(Ordering::SeqCst), 0, "{what}");
        assert!(!backend.saw_plaintext(), "{what}");
    }
}

#[test]
fn a_backend_that_does_not_know_the_name_says_so_by_an_alert() {
    let ca = Ca::new();
    let backend = Secure::named(&ca.leaf(&[NAME, "other.internal"]), "other.internal", "never");
    let fleet =
        node(&[backend.addr], &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &ca.config_map("ca"))]);
    let (status, reason, _) = get(&fleet);
    assert_eq!((status, reason.as_str()), (502, Ended::Alert.reason()));
    assert!(!backend.saw_plaintext());
}

#[test]
fn a_backend_without_tls_gets_a_handshake_and_nothing_in_clear() {
    let ca = Ca::new();
    // It answers whatever comes, as a server of plain HTTP does with a ClientHello.
    let backend = Backend::raw(|peer| {
        let _ = peer.more();
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let fleet =
        node(&[backend.addr], &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &ca.config_map("ca"))]);
    let (status, reason, _) = get(&fleet);
    assert_eq!((status, reason.as_str()), (502, Ended::NotTls.reason()));
    for connection in backend.log() {
        // Content type handshake, or the alert that ends it: never a request.
        assert!(connection.raw.first().is_none_or(|first| [21, 22].contains(first)), "{connection:?}");
        assert!(support::backend::find(&connection.raw, b"HTTP/1.1").is_none());
    }
}

#[test]
fn a_handshake_that_fails_moves_the_request_to_the_next_endpoint() {
    let ca = Ca::new();
    let good = Secure::start(&ca.leaf(&[NAME]), "good", After::Close);
    let bad = Secure::start(&Ca::self_signed(&[NAME]), "bad", After::Close);
    let fleet = node(
        &[bad.addr, good.addr],
        &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &ca.config_map("ca"))],
    );
    // POST: nothing was sent, so that it may move whatever its method.
    let mut client = Client::connect(fleet.addr);
    until("the bad endpoint is tried", || {
        let response =
            client.send("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nhi").response();
        assert_eq!((response.status, response.text().as_str()), (200, "good"));
        handshakes(&fleet, Ended::UnknownAuthority) > 0
    });
    assert!(!bad.saw_plaintext());
}

#[test]
fn names_may_be_listed_and_the_hostname_is_then_only_asked_for() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.with_uri("spiffe://fleet/web"), "spiffe", After::Close);
    let with = |names: &str| {
        policy(&format!(
            "{{hostname: {NAME}, caCertificateRefs: [{{group: \"\", kind: Secret, name: ca}}], subjectAltNames: [{names}]}}"
        ))
    };
    let fleet = node(
        &[backend.addr],
        &[
            ("fleet/p.yaml", &with("{type: URI, uri: \"spiffe://fleet/web\"}")),
            ("fleet/ca.yaml", &ca.secret("ca")),
        ],
    );
    assert_eq!(get(&fleet), (200, String::new(), "spiffe".to_owned()));
    fleet.write("fleet/p.yaml", &with("{type: URI, uri: \"spiffe://fleet/other\"}"));
    until("another URI is refused", || get(&fleet).1 == Ended::WrongName.reason());
    // The name that is asked for is none of those that are listed.
    fleet.write("fleet/p.yaml", &with("{type: Hostname, hostname: other.internal}"));
    until("a name that it is not for is refused", || {
        fleet.is_settled() && get(&fleet).1 == Ended::WrongName.reason()
    });
}

#[test]
fn a_changed_authority_counts_at_once_for_kept_connections_too() {
    let (old, new) = (Ca::new(), Ca::new());
    let backend = Secure::start(&old.leaf(&[NAME]), "old", After::Keep);
    let fleet =
        node(&[backend.addr], &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &old.config_map("ca"))]);
    assert_eq!(get(&fleet).0, 200);
    fleet.write("fleet/ca.yaml", &new.config_map("ca"));
    until("nobody vouches for it", || get(&fleet).1 == Ended::UnknownAuthority.reason());
    for _ in 0..5 {
        assert_eq!(get(&fleet).0, 502, "the connection from before is not used");
    }
    fleet.write("fleet/ca.yaml", &old.config_map("ca"));
    until("it is vouched for again", || get(&fleet).0 == 200);
}

#[test]
fn an_authority_that_is_not_there_closes_the_backend() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.leaf(&[NAME]), "served", After::Keep);
    let fleet = node(&[backend.addr], &[("fleet/p.yaml", &trusting_map())]);
    let (status, reason, _) = get(&fleet);
    assert_eq!((status, reason.as_str()), (503, "upstream_tls_settings"));
    assert_eq!(backend.seen.raw.lock().unwrap().len(), 0, "not even a handshake");
    fleet.write("fleet/ca.yaml", &ca.config_map("ca"));
    until("the ConfigMap came", || get(&fleet).0 == 200);
}

#[test]
fn a_port_that_says_https_is_verified_against_the_system() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.leaf(&["web.default.svc"]), "never", After::Keep);
    let service = service(&[backend.addr])
        .replace("{name: http, port: 80}]}\n", "{name: http, port: 80, appProtocol: https}]}\n");
    let fleet = node(&[backend.addr], &[("clusters/alpha/web.yaml", &service)]);
    let (status, reason, _) = get(&fleet);
    // Where the system has no bundle at all, nothing is connected to.
    let refused = [(502, Ended::UnknownAuthority.reason()), (503, "upstream_tls_settings")];
    assert!(refused.contains(&(status, reason.as_str())), "{status} {reason}");
    assert!(!backend.saw_plaintext());
    assert_eq!(backend.requests(), 0);
}

#[test]
fn annotations_of_ingress_nginx_verify_where_they_say_so() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.leaf(&["web.default.svc"]), "annotated", After::Close);
    let fleet = node(
        &[backend.addr],
        &[
            ("fleet/web.yaml", &annotated(&[("backend-protocol", "HTTPS")])),
            ("fleet/ca.yaml", &Ca::new().secret("other")),
        ],
    );
    assert_eq!(get(&fleet), (200, String::new(), "annotated".to_owned()), "not verified, as there");
    assert_eq!(*backend.seen.names.lock().unwrap(), [""], "no name is sent, as there");
    let verified = [("backend-protocol", "HTTPS"), ("proxy-ssl-verify", "on"), ("proxy-ssl-secret", "other")];
    fleet.write("fleet/web.yaml", &annotated(&verified));
    until("it is verified against another CA", || get(&fleet).1 == Ended::UnknownAuthority.reason());
    fleet.write("fleet/ca.yaml", &ca.secret("other"));
    until("it is verified against its own", || get(&fleet).0 == 200);
    let named = [&verified[..], &[("proxy-ssl-server-name", "on"), ("proxy-ssl-name", "a.example")]].concat();
    fleet.write("fleet/web.yaml", &annotated(&named));
    until("the name is asked for, and verified", || get(&fleet).1 == Ended::WrongName.reason());
    assert_eq!(backend.seen.names.lock().unwrap().last().unwrap(), "a.example");
    assert!(!backend.saw_plaintext());
}

#[test]
fn a_backend_that_asks_for_a_certificate_gets_ours() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let backend = Secure::mutual(&ca.leaf(&["web.default.svc"]), &clients, "mutual");
    let own = clients.leaf(&["gateway.internal"]);
    let fleet = node(
        &[backend.addr],
        &[
            (
                "fleet/web.yaml",
                &annotated(&[("backend-protocol", "HTTPS"), ("proxy-ssl-secret", "default/own")]),
            ),
            ("fleet/own.yaml", &own.secret("own")),
        ],
    );
    assert_eq!(get(&fleet), (200, String::new(), "mutual".to_owned()));
    assert_eq!(backend.seen.certified.load(Ordering::SeqCst), 1);
    // Without one it is refused.
    fleet.write("fleet/web.yaml", &annotated(&[("backend-protocol", "HTTPS")]));
    until("it is refused", || get(&fleet).0 == 502);
    assert!(!backend.saw_plaintext());
}

#[test]
fn a_secret_of_another_namespace_needs_a_grant() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let backend = Secure::mutual(&ca.leaf(&["web.default.svc"]), &clients, "granted");
    let own = clients.leaf(&["gateway.internal"]);
    let fleet = node(
        &[backend.addr],
        &[
            (
                "fleet/web.yaml",
                &annotated(&[("backend-protocol", "HTTPS"), ("proxy-ssl-secret", "vault/own")]),
            ),
            ("fleet/own.yaml", &own.secret_in("vault", "own")),
        ],
    );
    assert_eq!(get(&fleet).1, "upstream_tls_settings");
    assert_eq!(backend.seen.raw.lock().unwrap().len(), 0);
    fleet.write(
        "fleet/grant.yaml",
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: own, namespace: vault}\n\
         spec:\n  from: [{group: networking.k8s.io, kind: Ingress, namespace: default}]\n  to: [{group: \"\", kind: Secret}]\n",
    );
    until("it is granted", || get(&fleet).0 == 200);
}

#[test]
fn sessions_are_resumed() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.leaf(&[NAME]), "resumed", After::Close);
    let fleet =
        node(&[backend.addr], &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &ca.config_map("ca"))]);
    until("a handshake by ticket", || {
        assert_eq!(get(&fleet).0, 200);
        backend.seen.resumed.load(Ordering::SeqCst) > 0
    });
    assert!(handshakes(&fleet, Ended::Resumed) > 0);
    assert!(handshakes(&fleet, Ended::Full) > 0);
}

#[test]
fn a_silent_backend_costs_the_connect_timeout() {
    let ca = Ca::new();
    let backend = Backend::raw(support::backend::Peer::drained);
    let fleet =
        node(&[backend.addr], &[("fleet/p.yaml", &trusting_map()), ("fleet/ca.yaml", &ca.config_map("ca"))]);
    let (status, reason, _) = get(&fleet);
    assert_eq!(status, 502, "{reason}");
    assert!(handshakes(&fleet, Ended::Abandoned) >= 1);
}

#[test]
fn checks_of_a_backend_over_tls_speak_tls() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.leaf(&[NAME]), "checked", After::Close);
    let check = "apiVersion: ringway.dev/v1alpha1\nkind: FailoverPolicy\nmetadata: {name: web}\nspec:\n  targetRefs: \
                 [{group: \"\", kind: Service, name: web}]\n  healthCheck: {path: /ready, interval: 100ms}\n";
    let fleet = node(
        &[backend.addr],
        &[
            ("fleet/p.yaml", &trusting_map()),
            ("fleet/ca.yaml", &ca.config_map("ca")),
            ("fleet/check.yaml", check),
        ],
    );
    until("a check over TLS", || {
        backend.seen.heads.lock().unwrap().iter().any(|head| head.starts_with("GET /ready "))
    });
    assert!(!backend.saw_plaintext());
    drop(fleet);
}

#[test]
fn a_backend_may_turn_to_tls_while_it_is_served() {
    let ca = Ca::new();
    let plain = Backend::start(|_, stream| support::backend::respond(stream, b"clear"));
    let fleet = node(&[plain.addr], &[("fleet/ca.yaml", &ca.config_map("ca"))]);
    assert_eq!(get(&fleet).2, "clear");
    let before = plain.count();
    fleet.write("fleet/p.yaml", &trusting_map());
    until("it is not spoken to in clear any more", || get(&fleet).0 == 502);
    let after = plain.count();
    for _ in 0..5 {
        assert_eq!(get(&fleet).0, 502);
    }
    assert!(after >= before);
    assert_eq!(plain.count(), after, "no kept connection in clear is used");
}

/// Calls over TLS, verified against Secret `ca`.
fn grpcs() -> String {
    annotated(&[("backend-protocol", "GRPCS"), ("proxy-ssl-verify", "on"), ("proxy-ssl-secret", "ca")])
}

#[test]
fn http_2_over_tls_is_agreed_on_by_alpn_and_its_authority_counts_for_open_connections() {
    let (old, new) = (Ca::new(), Ca::new());
    let backend = H2Backend::secure(&old.leaf(&["web.default.svc"]), |_| {
        Do::Answer("called", vec![("grpc-status", "0")])
    });
    let fleet = node(&[backend.addr], &[("fleet/web.yaml", &grpcs()), ("fleet/ca.yaml", &old.secret("ca"))]);
    let mut client = Client::connect(fleet.addr);
    for _ in 0..10 {
        let response = client.get("/shop.Web/Get");
        assert_eq!((response.status, response.text().as_str()), (200, "called"), "{}", response.head);
        assert!(response.trailers.contains("grpc-status: 0"), "{}", response.trailers);
    }
    let asked = backend.asked();
    assert_eq!((asked.len(), backend.connections(), handshakes(&fleet, Ended::Full)), (10, 1, 1));
    assert!(asked[0].uri.starts_with("https://"), "{}", asked[0].uri);
    fleet.write("fleet/ca.yaml", &new.secret("ca"));
    until("nobody vouches for it", || get(&fleet).1 == Ended::UnknownAuthority.reason());
    let before = backend.asked().len();
    assert_eq!(get(&fleet).0, 502, "the connection from before is not used");
    assert_eq!(backend.asked().len(), before);
}

#[test]
fn a_backend_over_tls_without_http_2_says_so_by_an_alert() {
    let ca = Ca::new();
    let backend = Secure::start(&ca.leaf(&["web.default.svc"]), "never", After::Keep);
    let fleet = node(&[backend.addr], &[("fleet/web.yaml", &grpcs()), ("fleet/ca.yaml", &ca.secret("ca"))]);
    let (status, reason, _) = get(&fleet);
    assert_eq!((status, reason.as_str()), (502, Ended::NoProtocol.reason()));
    assert!(handshakes(&fleet, Ended::NoProtocol) >= 1);
    assert_eq!(handshakes(&fleet, Ended::Alert), 0);
    assert_eq!(backend.requests(), 0);
}
