//! Certificates of clients and the terms of handshakes end to end: who gets in, what the others are told, and what a
//! backend learns.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::sync::Arc;

use gateway::observe::stats::Limit;
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use support::backend::Backend;
use support::client::Client;
use support::fleet::{Fleet, service};
use support::tls::{Ca, Secure, connect};
use support::{config, until};

const N: &str = "nginx.ingress.kubernetes.io/";
const M: &str = "mse.ingress.kubernetes.io/";

fn ingress(name: &str, host: &str, secret: &str, annotations: &[(&str, &str, &str)]) -> String {
    let lines: String =
        annotations.iter().map(|(of, name, value)| format!("    {of}{name}: {value:?}\n")).collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n    x: y\n{lines}\
         spec:\n  tls: [{{hosts: [\"{host}\"], secretName: {secret}}}]\n  rules:\n  - host: \"{host}\"\n    http:\n      \
         paths:\n      - {{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
    )
}

fn authorities(name: &str, entries: &[(&str, &str)]) -> String {
    let data: String = entries
        .iter()
        .map(|(key, pem)| {
            let lines: String = pem.lines().map(|line| format!("\n    {line}")).collect();
            format!("  {key}: |{lines}\n")
        })
        .collect();
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n{data}")
}

/// What every test needs: an authority for servers and one for clients, a host that asks and one that does not.
struct Shop {
    servers: Ca,
    clients: Ca,
    web: Backend,
    fleet: Fleet,
}

impl Shop {
    fn new(annotations: &[(&str, &str, &str)]) -> Self {
        let (servers, clients, web) = (Ca::new(), Ca::new(), Backend::named("web"));
        let text = ingress("staff", "staff.example", "staff", annotations)
            + &ingress("open", "open.example", "open", &[]);
        let secrets = [
            servers.leaf(&["staff.example"]).secret("staff"),
            servers.leaf(&["open.example"]).secret("open"),
            authorities("staff-cacert", &[("ca.crt", &clients.pem)]),
        ];
        let fleet = Fleet::start(
            config(),
            &[
                ("fleet/web.yaml", &text),
                ("fleet/secrets.yaml", &secrets.join("---\n")),
                ("clusters/one/all.yaml", &service(&[web.addr])),
            ],
        );
        Self { servers, clients, web, fleet }
    }

    fn nobody(&self) -> Arc<ClientConfig> {
        Arc::new(self.servers.trust())
    }

    fn ask(&self, config: &Arc<ClientConfig>, fields: &str) -> (u16, String) {
        let mut client: Secure = connect(self.fleet.tls, "staff.example", config).unwrap();
        client.send(format!("GET / HTTP/1.1\r\nHost: staff.example\r\n{fields}\r\n"));
        let (status, head, _) = client.response().unwrap();
        (status, head)
    }

    fn hits(&self) -> u64 {
        self.fleet.node().stats.iter().map(|stats| stats.hits(Limit::ClientCertificate)).sum()
    }
}

/// The same as [`Ca::trust_showing`], but shown to servers of another authority.
fn showing(shop: &Shop, leaf: &support::tls::Leaf, more: &[&Ca]) -> Arc<ClientConfig> {
    Arc::new(shop.servers.trust_showing(leaf, more))
}

#[test]
fn only_a_certificate_of_the_authority_lets_in_and_the_backend_is_told() {
    let shop = Shop::new(&[(N, "auth-tls-secret", "staff-cacert")]);
    let ann = shop.clients.client("ann", 7);
    let known = showing(&shop, &ann, &[]);
    let forged =
        "ssl-client-verify: SUCCESS\r\nssl-client-cert: forged\r\nSSL-Client-Subject-DN: CN=root\r\n";
    assert_eq!(shop.ask(&known, forged).0, 200);
    let seen = shop.web.requests().pop().unwrap();
    assert_eq!(seen.one("ssl-client-verify"), Some("SUCCESS"));
    assert_eq!(seen.one("ssl-client-subject-dn"), Some("CN=ann,O=Shop\\, Inc"));
    let issuer = seen.one("ssl-client-issuer-dn").unwrap();
    assert!(issuer.starts_with("CN=authority "), "{issuer}");
    assert_eq!(seen.one("ssl-client-cert"), None, "not asked for, and not the client's own");
    let count = shop.web.count();
    assert_eq!(shop.ask(&shop.nobody(), forged).0, 400);
    let stranger = Ca::new().client("ann", 7);
    assert_eq!(shop.ask(&showing(&shop, &stranger, &[]), "").0, 400);
    // In clear nobody can show anything.
    let mut clear = Client::connect(shop.fleet.addr);
    clear.send(format!("GET / HTTP/1.1\r\nHost: staff.example\r\n{forged}\r\n"));
    assert_eq!(clear.response().status, 403);
    assert_eq!((shop.web.count(), shop.hits()), (count, 3));
    // By the name of the host beside, which asks nobody: another host's request does not pass there.
    for config in [&shop.nobody(), &known] {
        let mut beside = connect(shop.fleet.tls, "open.example", config).unwrap();
        assert_eq!(beside.get("open.example", "/").0, 200);
        assert_eq!(beside.get("staff.example", "/").0, 421);
    }
    // No session of before spares anybody the proof.
    for _ in 0..2 {
        assert!(!connect(shop.fleet.tls, "staff.example", &known).unwrap().is_resumed());
    }
}

#[test]
fn the_annotations_say_what_follows() {
    for (more, with, without, stranger) in [
        (&[(N, "auth-tls-verify-client", "optional")][..], 200, 200, 400),
        (&[(N, "auth-tls-verify-client", "optional_no_ca")], 200, 200, 200),
        (&[(N, "auth-tls-verify-client", "off")], 200, 200, 200),
        (&[(N, "auth-tls-error-page", "https://help.example/no")], 200, 302, 302),
        (&[(N, "auth-tls-match-cn", "CN=an+")], 200, 400, 400),
        (&[(N, "auth-tls-match-cn", "CN=bob")], 403, 400, 400),
    ] {
        let mut all = vec![(N, "auth-tls-secret", "default/staff-cacert")];
        all.extend_from_slice(more);
        let shop = Shop::new(&all);
        let known = showing(&shop, &shop.clients.client("ann", 7), &[]);
        let other = showing(&shop, &Ca::new().client("ann", 7), &[]);
        assert_eq!(shop.ask(&known, "").0, with, "{more:?}");
        let (status, head) = shop.ask(&shop.nobody(), "");
        assert_eq!(status, without, "{more:?}");
        assert_eq!(head.contains("Location: https://help.example/no"), without == 302, "{head}");
        if more == [(N, "auth-tls-verify-client", "optional_no_ca")] {
            assert_eq!(shop.web.requests().pop().unwrap().one("ssl-client-verify"), Some("NONE"));
        }
        assert_eq!(shop.ask(&other, "").0, stranger, "{more:?}");
        if stranger == 200 && more[0].2 == "optional_no_ca" {
            let seen = shop.web.requests().pop().unwrap();
            let verify = seen.one("ssl-client-verify").unwrap();
            assert!(verify.starts_with("FAILED:"), "{}", seen.head);
        }
    }
    let shop = Shop::new(&[
        (M, "auth-tls-secret", "staff-cacert"),
        (N, "auth-tls-pass-certificate-to-upstream", "true"),
    ]);
    let ann = shop.clients.client("ann", 7);
    assert_eq!(shop.ask(&showing(&shop, &ann, &[]), "").0, 200);
    let seen = shop.web.requests().pop().unwrap();
    let pem = seen.one("ssl-client-cert").unwrap();
    let decoded = percent_encoding::percent_decode_str(pem).decode_utf8().unwrap().replace("\r\n", "\n");
    assert_eq!(decoded, ann.chain.replace("\r\n", "\n"));
}

#[test]
fn chains_have_a_depth_and_authorities_take_back_what_they_gave() {
    for (depth, expected) in [("1", [200, 400]), ("2", [200, 200])] {
        let all = [(N, "auth-tls-secret", "staff-cacert"), (N, "auth-tls-verify-depth", depth)];
        let shop = Shop::new(&all);
        let first = shop.clients.under();
        let second = first.under();
        for (leaf, chain, expected) in [
            (first.client("ann", 1), &[&first][..], expected[0]),
            (second.client("ann", 2), &[&second, &first], expected[1]),
            (second.client("ann", 3), &[&second], 400),
        ] {
            assert_eq!(shop.ask(&showing(&shop, &leaf, chain), "").0, expected, "{depth}");
        }
    }
    let shop = Shop::new(&[(N, "auth-tls-secret", "lists")]);
    let (ann, bob) = (shop.clients.client("ann", 7), shop.clients.client("bob", 8));
    let (ann, bob) = (showing(&shop, &ann, &[]), showing(&shop, &bob, &[]));
    assert_eq!(shop.ask(&shop.nobody(), "").0, 503, "no such Secret");
    assert_eq!(shop.ask(&ann, "").0, 503, "no such Secret");
    let list = shop.clients.revokes(&[7]);
    let secret = authorities("lists", &[("ca.crt", &shop.clients.pem), ("ca.crl", &list)]);
    shop.fleet.write("fleet/lists.yaml", &secret);
    until("the Secret holds", || shop.ask(&bob, "").0 == 200);
    assert_eq!(shop.ask(&ann, "").0, 400, "revoked");
    shop.fleet.write("fleet/lists.yaml", &authorities("lists", &[("ca.crt", &shop.clients.pem)]));
    until("it is forgiven", || shop.ask(&ann, "").0 == 200);
    let broken = authorities("lists", &[("ca.crt", &shop.clients.pem), ("ca.crl", "nonsense")]);
    shop.fleet.write("fleet/lists.yaml", &broken);
    until("a list that cannot be read closes", || shop.ask(&bob, "").0 == 503);
}

#[test]
fn versions_and_ciphers_are_a_host_s_own() {
    let only = |ca: &Ca, versions: &[&'static rustls::SupportedProtocolVersion]| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.root().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    };
    let shop = Shop::new(&[(M, "tls-min-protocol-version", "TLSv1.3")]);
    let (old, new) = (only(&shop.servers, &[&TLS12]), only(&shop.servers, &[&TLS13]));
    assert!(connect(shop.fleet.tls, "staff.example", &old).is_err());
    assert!(connect(shop.fleet.tls, "open.example", &old).is_ok(), "the host beside has its own");
    assert_eq!(shop.ask(&new, "").0, 200);
    let shop = Shop::new(&[
        (M, "tls-max-protocol-version", "TLSv1.2"),
        (M, "ssl-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ]);
    let (old, new) = (only(&shop.servers, &[&TLS12]), only(&shop.servers, &[&TLS13]));
    assert!(connect(shop.fleet.tls, "staff.example", &new).is_err());
    let client = connect(shop.fleet.tls, "staff.example", &old).unwrap();
    let suite = client.stream.conn.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite.as_str(), Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"));
}
