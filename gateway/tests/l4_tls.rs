//! TLS that ends here, for TCP: `TLSRoute` and `TCPRoute` on a listener of protocol `TLS` with `mode: Terminate`.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use gateway::observe::layer4::Ended;
use gateway::observe::stats::WorkerStats;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use support::backend::Backend;
use support::fleet::Fleet;
use support::tls::{Ca, Leaf, connect};
use support::{PATIENCE, Port, config, until};

/// Sends everything back; at the client's end says goodbye.
fn echo(name: &'static str) -> Backend {
    Backend::raw(move |peer| {
        peer.send(name);
        while peer.more().is_some() {
            let bytes = peer.take_pending();
            peer.send(bytes);
        }
        peer.send("bye");
    })
}

fn service(name: &str, addr: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 5432}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         ports: [{{port: {}}}]\nendpoints: [{{addresses: [\"{}\"]}}]\n",
        addr.port(),
        addr.ip()
    )
}

/// A node with a TLS listener: `db.example` goes to `named`, everything else that there is a certificate for to `rest`.
struct Ending {
    fleet: Fleet,
    port: Port,
}

/// With a certificate of `ca` for `db.example` and `other.example`.
fn ending(ca: &Ca, layer4: &str, named: &Backend, rest: &Backend) -> Ending {
    ending_with(&ca.leaf(&["db.example", "other.example"]), layer4, named, rest)
}

fn ending_with(leaf: &Leaf, layer4: &str, named: &Backend, rest: &Backend) -> Ending {
    let port = Port::reserve();
    let number = port.addr.port();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\n\
         spec: {{controllerName: ringway.dev/gateway, parametersRef: {{group: ringway.dev, kind: GatewayConfig, name: g}}}}\n\
         ---\napiVersion: ringway.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {{name: g}}\n\
         spec: {{listeners: [{{port: {number}, protocol: TLS, layer4: {{{layer4}}}}}]}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  gatewayClassName: ringway\n  \
         addresses: [{{type: IPAddress, value: 127.0.0.1}}]\n  listeners:\n  - {{name: tls, port: {number}, protocol: TLS, \
         hostname: \"*.example\", tls: {{mode: Terminate, certificateRefs: [{{name: both}}]}}}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1alpha3\nkind: TLSRoute\nmetadata: {{name: named}}\n\
         spec: {{parentRefs: [{{name: g}}], hostnames: [db.example], rules: [{{backendRefs: [{{name: named, port: 5432}}]}}]}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {{name: rest}}\n\
         spec: {{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{{name: rest, port: 5432}}]}}]}}\n"
    );
    let secret = leaf.secret("both");
    let services = [service("named", named.addr), service("rest", rest.addr)].join("---\n");
    let files = [
        ("fleet/gateway.yaml", &*gateway),
        ("fleet/secret.yaml", &*secret),
        ("clusters/alpha/services.yaml", &*services),
    ];
    let fleet = Fleet::start(config(), &files);
    Ending { fleet, port }
}

impl Ending {
    fn sum(&self, figure: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.fleet.node().stats.iter().map(|stats| figure(stats)).sum()
    }

    fn ended(&self, why: Ended) -> u64 {
        self.sum(|stats| stats.layer4.ended(why))
    }
}

fn exactly(client: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn tls_ends_here_and_what_is_inside_goes_by_the_name_that_was_asked_for() {
    let (named, rest) = (echo("named:"), echo("other:"));
    let ca = Ca::new();
    let ending = ending(&ca, "", &named, &rest);
    let trust = Arc::new(ca.trust());
    for (name, greeting) in [("db.example", "named:"), ("other.example", "other:"), ("DB.example", "named:")]
    {
        let mut client = connect(ending.port.addr, name, &trust).unwrap();
        assert_eq!(exactly(&mut client.stream, 6), greeting.as_bytes(), "{name}");
        client.send("in clear behind the gateway");
        assert_eq!(exactly(&mut client.stream, 27), b"in clear behind the gateway");
        // Each side closes its half: the endpoint hears the end, and its last words are complete.
        client.stream.conn.send_close_notify();
        client.stream.flush().unwrap();
        assert_eq!(exactly(&mut client.stream, 3), b"bye");
        assert!(client.ends_cleanly(), "{name}");
    }
    until("they are over", || ending.ended(Ended::ClientClosed) == 3);
    assert!(named.log().iter().all(|connection| connection.raw == b"in clear behind the gateway"));
    // A name without certificate gets an alert, and no endpoint hears of it.
    let refused = connect(ending.port.addr, "stranger.org", &trust).err().unwrap();
    assert!(refused.contains("UnrecognisedName"), "{refused}");
    until("it is counted", || {
        ending.sum(|stats| stats.handshakes[gateway::tls::Ended::UnknownName as usize].get()) == 1
            && ending.ended(Ended::Handshake) == 1
    });
    assert_eq!(named.connections() + rest.connections(), 3);
}

#[test]
fn bulk_both_ways_at_once_arrives_whole() {
    const BYTES: usize = 8 << 20;
    let (named, rest) = (echo(""), echo(""));
    let ca = Ca::new();
    let ending = ending(&ca, "", &named, &rest);
    let mut client = connect(ending.port.addr, "db.example", &Arc::new(ca.trust())).unwrap();
    for block in 0..u8::try_from(BYTES >> 20).unwrap() {
        // One block on its way at a time: the client is one thread.
        for piece in 0..16_u8 {
            let bytes = vec![block ^ piece; 64 << 10];
            client.send(&bytes);
            assert!(exactly(&mut client.stream, bytes.len()) == bytes, "block {block}, piece {piece}");
        }
    }
    assert_eq!(ending.sum(|stats| stats.layer4.received_bytes_total.get()), BYTES as u64);
}

/// What is not complete must not look complete: no close_notify where the endpoint was cut off.
#[test]
fn an_endpoint_that_resets_is_no_clean_end() {
    let cut = Backend::raw(|peer| {
        peer.send("half of an answ");
        peer.exactly(4);
        peer.reset();
    });
    let ca = Ca::new();
    let ending = ending(&ca, "", &cut, &cut);
    let mut client = connect(ending.port.addr, "db.example", &Arc::new(ca.trust())).unwrap();
    assert_eq!(exactly(&mut client.stream, 15), b"half of an answ");
    client.send("more");
    assert!(!client.ends_cleanly());
    until("it is counted", || ending.ended(Ended::UpstreamReset) == 1);
}

/// What is inside is not ours: a client may offer any protocol, and is told of none (RFC 7301 §3.2 lets a server ignore it).
#[test]
fn a_client_that_offers_a_protocol_of_its_own_is_served() {
    let backend = echo("");
    let ca = Ca::new();
    let ending = ending(&ca, "", &backend, &backend);
    let mut trust = ca.trust();
    trust.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut client = connect(ending.port.addr, "db.example", &Arc::new(trust)).unwrap();
    client.send("hello");
    assert_eq!(exactly(&mut client.stream, 5), b"hello");
    assert_eq!(client.stream.conn.alpn_protocol(), None);
}

#[test]
fn a_proxy_header_comes_before_the_handshake_and_one_is_sent_on_with_the_clients_address() {
    let backend = Backend::raw(|peer| {
        let header = peer.exactly(41 + 5).unwrap();
        peer.send(header);
        peer.drained();
    });
    let layer4 = "proxyProtocolFrom: [127.0.0.0/8], sendProxyProtocol: V2";
    let ca = Ca::new();
    let ending = ending(&ca, layer4, &backend, &backend);
    let mut stream = TcpStream::connect(ending.port.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("db.example").unwrap();
    let mut tls = ClientConnection::new(Arc::new(ca.trust()), name).unwrap();
    // Header and ClientHello in one segment.
    let mut first = b"PROXY TCP4 192.0.2.7 127.0.0.1 56324 443\r\n".to_vec();
    tls.write_tls(&mut first).unwrap();
    stream.write_all(&first).unwrap();
    let mut client = StreamOwned::new(tls, stream);
    client.write_all(b"hello").unwrap();
    client.flush().unwrap();
    let got = exactly(&mut client, 46);
    let read = wire::proxy_protocol::decode(&got).unwrap().unwrap();
    assert_eq!(read.addresses.unwrap().0, "192.0.2.7:56324".parse().unwrap());
    assert_eq!(read.tlvs().collect::<Vec<_>>(), [(2, &b"db.example"[..])]);
    assert_eq!(&got[41..], b"hello");
}

#[test]
fn openssl_verifies_the_certificate_and_talks_to_a_server_without_tls() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    let backend = Backend::raw(|peer| {
        if peer.exactly(6).is_some() {
            peer.send("in clear\n");
        }
    });
    let dir = std::env::temp_dir().join(format!("ringway-s_client-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (key, pem) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=db.example"])
        .args(["-addext", "subjectAltName=DNS:db.example", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&pem)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = |path| std::fs::read_to_string(path).unwrap();
    let leaf = Leaf { der: Vec::new().into(), chain: text(&pem), key: text(&key) };
    let ending = ending_with(&leaf, "", &backend, &backend);
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "db.example"])
        .args(["-servername", "db.example", "-connect", &ending.port.addr.to_string(), "-CAfile"])
        .arg(&pem)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut answer = [0; 9];
    let read = client.stdout.as_mut().unwrap().read_exact(&mut answer);
    let (_, _) = (client.kill(), client.wait());
    let _ = std::fs::remove_dir_all(&dir);
    read.unwrap();
    assert_eq!(&answer, b"in clear\n");
}
