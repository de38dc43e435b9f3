//! What a listener or a host adds to its handshakes: OCSP responses, protocols, versions, ciphers.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gateway::tls::Ended;
use rustls::version::TLS12;
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use support::backend::Backend;
use support::fleet::{Fleet, service};
use support::hands::{is_installed, run_in};
use support::tls::{Ca, connect, provider};
use support::{Port, config, until};

/// A Gateway with one HTTPS listener for `host`, of these options, and a route.
fn gateway_of(port: u16, host: &str, options: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\n\
         spec: {{controllerName: ringway.dev/gateway}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public}}\nspec:\n  \
         gatewayClassName: ringway\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n  \
         - {{name: l, port: {port}, protocol: HTTPS, hostname: {host}, \
         tls: {{certificateRefs: [{{name: shop}}], options: {{{options}}}}}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all}}\n\
         spec:\n  parentRefs: [{{name: public}}]\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
    )
}

/// A node with such a Gateway for `shop.example`.
fn node(ca: &Ca, backend: &Backend, options: &str) -> (Fleet, Port) {
    let port = Port::reserve();
    let fleet = Fleet::start(
        config(),
        &[
            ("fleet/g.yaml", &gateway_of(port.addr.port(), "shop.example", options)),
            ("fleet/s.yaml", &ca.leaf(&["shop.example"]).secret("shop")),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    );
    (fleet, port)
}

/// A client that offers these protocols.
fn offering(ca: &Ca, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut trust = ca.trust();
    trust.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(trust)
}

/// What a client that offers these protocols agrees on with a node; `Err` = the alert.
fn agreed(port: &Port, ca: &Ca, protocols: &[&str]) -> Result<Option<String>, String> {
    let client = connect(port.addr, "shop.example", &offering(ca, protocols))?;
    Ok(client.stream.conn.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap()))
}

fn name(text: &str) -> Result<Option<String>, String> {
    Ok(Some(text.to_owned()))
}

#[test]
fn a_gateway_s_listener_says_which_protocols_it_offers_and_prefers() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let both = ["http/1.1", "h2"];
    let (_fleet, port) = node(&ca, &backend, "");
    assert_eq!(agreed(&port, &ca, &both), name("h2"), "the node's own choice");
    let (_fleet, port) = node(&ca, &backend, "ringway.dev/alpn: http/1.1");
    assert_eq!(agreed(&port, &ca, &both), name("http/1.1"));
    assert!(agreed(&port, &ca, &["h2"]).unwrap_err().contains("NoApplicationProtocol"));
    assert_eq!(agreed(&port, &ca, &[]), Ok(None), "who names nothing speaks HTTP/1.1");
    let (_fleet, port) = node(&ca, &backend, "ringway.dev/alpn: 'http/1.1,h2'");
    assert_eq!(agreed(&port, &ca, &["h2", "http/1.1"]), name("http/1.1"), "in the listener's order");
    assert_eq!(agreed(&port, &ca, &["h2"]), name("h2"));
    let (fleet, port) = node(&ca, &backend, "ringway.dev/alpn: h2");
    assert!(agreed(&port, &ca, &["http/1.1"]).unwrap_err().contains("NoApplicationProtocol"));
    // A choice of protocols alone leaves resumption as it is.
    let trust = offering(&ca, &[]);
    let mut first = connect(port.addr, "shop.example", &trust).unwrap();
    assert_eq!(first.get("shop.example", "/").0, 200);
    assert!(connect(port.addr, "shop.example", &trust).unwrap().is_resumed());
    // The choice changes while the node serves.
    fleet.write("fleet/g.yaml", &gateway_of(port.addr.port(), "shop.example", "ringway.dev/alpn: http/1.1"));
    until("the listener offers HTTP/1.1", || agreed(&port, &ca, &both) == name("http/1.1"));
    assert_eq!(first.get("shop.example", "/").0, 200, "a connection of before lives on");
}

#[test]
fn the_hosts_of_an_ingress_offer_what_its_annotation_says() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let of = |host: &str, alpn: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\n\
             metadata: {{name: {host}, annotations: {{{alpn}}}}}\nspec:\n  tls: [{{hosts: [{host}], secretName: shop}}]\n  \
             rules: [{{host: {host}, http: {{paths: [{{path: /, pathType: Prefix, \
             backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]\n"
        )
    };
    let objects = [
        of("old.example", "ringway.dev/alpn: http/1.1"),
        of("new.example", ""),
        ca.leaf(&["old.example", "new.example"]).secret("shop"),
    ];
    let fleet = Fleet::start(
        config(),
        &[("fleet/a.yaml", &objects.join("---\n")), ("clusters/alpha/web.yaml", &service(&[backend.addr]))],
    );
    let trust = offering(&ca, &["h2", "http/1.1"]);
    for (host, expected) in [("old.example", &b"http/1.1"[..]), ("new.example", b"h2")] {
        let client = connect(fleet.tls, host, &trust).unwrap();
        assert_eq!(client.stream.conn.alpn_protocol(), Some(expected), "{host}");
    }
    fleet.write("fleet/a.yaml", &objects.join("---\n").replace("alpn: http/1.1", "alpn: spdy/3"));
    until("a wrong value is named", || {
        fleet.view.read().verdicts.iter().flat_map(|verdict| &verdict.notes).any(|note| {
            note.field == "metadata.annotations[ringway.dev/alpn]"
                && note.value == "spdy/3"
                && note.reason.contains("allowed: h2, http/1.1")
        })
    });
}

#[test]
fn a_gateway_s_listener_has_versions_and_ciphers_of_its_own_and_resumes() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let only12 = {
        let mut roots = RootCertStore::empty();
        roots.add(ca.root().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS12]);
        Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth())
    };
    let resumes = |port: &Port, trust: &Arc<ClientConfig>| {
        for resumed in [false, true] {
            let mut client = connect(port.addr, "shop.example", trust).unwrap();
            assert_eq!(client.get("shop.example", "/").0, 200);
            assert_eq!(client.is_resumed(), resumed);
        }
    };
    let (_fleet, port) = node(&ca, &backend, "ringway.dev/tls-min-protocol-version: TLSv1.3");
    let refused = connect(port.addr, "shop.example", &only12).err().unwrap();
    assert!(refused.contains("ProtocolVersion"), "{refused}");
    resumes(&port, &Arc::new(ca.trust()));
    let options = "ringway.dev/tls-max-protocol-version: TLSv1.2, ringway.dev/ssl-ciphers: ECDHE-ECDSA-CHACHA20-POLY1305";
    let (fleet, port) = node(&ca, &backend, options);
    let client = connect(port.addr, "shop.example", &Arc::new(ca.trust())).unwrap();
    assert_eq!(client.stream.conn.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let suite = client.stream.conn.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite.as_str(), Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"));
    resumes(&port, &only12);
    // Of several the listener's order counts; this client's own begins with AES.
    let (_fleet, ordered) =
        node(&ca, &backend, &options.replace("POLY1305", "POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"));
    let client = connect(ordered.addr, "shop.example", &only12).unwrap();
    let suite = client.stream.conn.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite.as_str(), Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"));
    // A session of a suite that is allowed no more is none.
    let other = options.replace("CHACHA20-POLY1305", "AES128-GCM-SHA256");
    fleet.write("fleet/g.yaml", &gateway_of(port.addr.port(), "shop.example", &other));
    until("sessions of the old suite end", || {
        let client = connect(port.addr, "shop.example", &only12).unwrap();
        client.stream.conn.negotiated_cipher_suite().unwrap().suite().as_str()
            == Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
    });
}

/// Runs openssl in `dir`; what it printed.
fn openssl(dir: &Path, args: &str) -> String {
    run_in(dir, "openssl", &args.split(' ').collect::<Vec<_>>()).out
}

#[test]
fn openssl_sees_the_staple_while_it_holds_and_none_behind_that() {
    if !is_installed("openssl", "version") {
        return;
    }
    let dir = std::env::temp_dir().join(format!("ringway-staple-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -set_serial 77 -subj /CN=shop.example \
                -addext subjectAltName=DNS:shop.example -keyout key.pem -out cert.pem";
    openssl(&dir, &made.split_whitespace().collect::<Vec<_>>().join(" "));
    std::fs::write(dir.join("index.txt"), "V\t350101000000Z\t\t4D\tunknown\t/CN=shop.example\n").unwrap();
    let answered = openssl(
        &dir,
        "ocsp -index index.txt -rsigner cert.pem -rkey key.pem -CA cert.pem -issuer cert.pem -cert cert.pem -ndays 1 -respout staple.der -noverify",
    );
    let staple = std::fs::read(dir.join("staple.der")).unwrap_or_else(|_| panic!("{answered}"));
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let secret = |staple: &[u8]| {
        let leaf =
            support::tls::Leaf { der: Vec::new().into(), chain: text("cert.pem"), key: text("key.pem") };
        format!("{}data: {{tls.ocsp-staple: {}}}\n", leaf.secret("shop"), BASE64_STANDARD.encode(staple))
    };
    let backend = Backend::named("web");
    let ca = Ca::new();
    let (fleet, port) = node(&ca, &backend, "");
    fleet.write("fleet/s.yaml", &secret(&staple));
    let ask = |version: &str| {
        let args = format!(
            "s_client -connect {} -servername shop.example -status -CAfile cert.pem {version}",
            port.addr
        );
        openssl(&dir, &args)
    };
    until("the staple is shown", || ask("-tls1_3").contains("Cert Status: good"));
    for version in ["-tls1_3", "-tls1_2"] {
        let seen = ask(version);
        assert!(seen.contains("OCSP Response Status: successful (0x0)"), "{version}: {seen}");
        assert!(seen.contains("Verify return code: 0 (ok)"), "{version}: {seen}");
    }
    let expired_total =
        || fleet.node().stats.iter().map(|stats| stats.staples_expired_total.get()).sum::<u64>();
    assert_eq!(expired_total(), 0);
    // The last time in it is nextUpdate: one that was in 2020.
    let mut old = staple;
    let starts = |at: usize| old[at] == 0x18 && old.get(at + 2..at + 4).is_some_and(|year| year == b"20");
    let last = (0..old.len() - 17).filter(|at| starts(*at)).nth(2).unwrap();
    old[last + 2..last + 17].copy_from_slice(b"20200101000000Z");
    fleet.write("fleet/s.yaml", &secret(&old));
    until("the expired staple is left out", || ask("-tls1_3").contains("OCSP response: no response sent"));
    assert!(expired_total() > 0, "and counted");
    assert!(ask("-tls1_2").contains("OCSP response: no response sent"));
    let full = Ended::Full as usize;
    assert!(fleet.node().stats[0].handshakes[full].get() > 0, "the certificate is served all the same");
    until("the Secret's verdict says so", || {
        fleet
            .view
            .read()
            .verdicts
            .iter()
            .flat_map(|verdict| &verdict.notes)
            .any(|note| note.field == "data[tls.ocsp-staple]" && note.reason.starts_with("expired"))
    });
    let _ = std::fs::remove_dir_all(&dir);
}
