//! A real QUIC stack through layer 4: handshakes, streams, and clients whose address changes.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use routing::model::Protocol;
use support::table::world;
use support::{Gateway, PATIENCE, config};

const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// The certificate of all servers, and its key.
fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["quic.example".to_owned()]).unwrap();
    (made.cert.der().clone(), made.signing_key.serialize_der().try_into().unwrap())
}

/// Answers each stream with its number and what was said on it, and a megabyte where that is asked for.
fn server(number: u8, certificate: &(CertificateDer<'static>, PrivateKeyDer<'static>)) -> Endpoint {
    let (chain, key) = (vec![certificate.0.clone()], certificate.1.clone_key());
    let endpoint =
        Endpoint::server(ServerConfig::with_single_cert(chain, key).unwrap(), LOCAL.into()).unwrap();
    let serving = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = serving.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let said = receive.read_to_end(1 << 16).await.unwrap();
                    let more = if said == b"bulk" { vec![number; 1 << 20] } else { Vec::new() };
                    send.write_all(&[&[number], &said[..], &more].concat()).await.unwrap();
                    send.finish().unwrap();
                }
            });
        }
    });
    endpoint
}

/// Says it on a stream of its own; who answered, and how long the answer is.
async fn say(connection: &Connection, what: &[u8]) -> (u8, usize) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(what).await.unwrap();
    send.finish().unwrap();
    let answer = receive.read_to_end(2 << 20).await.unwrap();
    assert_eq!(&answer[1..=what.len()], what);
    (answer[0], answer.len())
}

/// What is between a client and the world: the client knows one address, the world sees another, and a new one whenever
/// this has forgotten the client. The connection ID stays, for the client notices nothing (RFC 9000 §9.3).
struct Nat {
    inside: SocketAddr,
    forget: tokio::sync::mpsc::UnboundedSender<()>,
}

async fn nat(world: SocketAddr) -> Nat {
    let inside = tokio::net::UdpSocket::bind(LOCAL).await.unwrap();
    let addr = inside.local_addr().unwrap();
    let (forget, mut forgets) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut outside = tokio::net::UdpSocket::bind(LOCAL).await.unwrap();
        // A port is not given away while the gateway may remember it: the kernel would, one time in some twenty runs.
        let mut before = Vec::new();
        let (mut there, mut back) = (vec![0; 65_535], vec![0; 65_535]);
        let mut client = None;
        loop {
            tokio::select! {
                received = inside.recv_from(&mut there) => {
                    let (n, from) = received.unwrap();
                    client = Some(from);
                    outside.send_to(&there[..n], world).await.unwrap();
                }
                received = outside.recv_from(&mut back) => {
                    let Ok((n, _)) = received else { continue };
                    if let Some(client) = client {
                        inside.send_to(&back[..n], client).await.unwrap();
                    }
                }
                told = forgets.recv() => match told {
                    Some(()) => {
                        let other = tokio::net::UdpSocket::bind(LOCAL).await.unwrap();
                        before.push(std::mem::replace(&mut outside, other));
                    }
                    None => return,
                },
            }
        }
    });
    Nat { inside: addr, forget }
}

fn client(certificate: &CertificateDer<'static>) -> Endpoint {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut endpoint = Endpoint::client(LOCAL.into()).unwrap();
    endpoint.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots)).unwrap());
    endpoint
}

#[test]
fn connections_of_quic_keep_their_endpoint_wherever_their_clients_come_from() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async {
        let certificate = certificate();
        let servers: Vec<Endpoint> = (0..4).map(|number| server(number, &certificate)).collect();
        let addrs: Vec<SocketAddr> = servers.iter().map(|server| server.local_addr().unwrap()).collect();
        let gateway = Gateway::start(config(), |on| world(&addrs).layer4(Protocol::Udp, |_| {}).on(on));
        let mut used = [false; 4];
        let mut nats = Vec::new();
        for _ in 0..12 {
            let (client, nat) = (client(&certificate.0), nat(gateway.addr).await);
            let connection = client.connect(nat.inside, "quic.example").unwrap().await.unwrap();
            let (first, _) = say(&connection, b"hello").await;
            used[usize::from(first)] = true;
            for round in 0..3 {
                nat.forget.send(()).unwrap();
                assert_eq!(say(&connection, b"from elsewhere").await, (first, 15), "round {round}");
                assert_eq!(say(&connection, b"bulk").await, (first, 5 + (1 << 20)), "round {round}");
            }
            connection.close(0u8.into(), b"done");
            nats.push(nat);
        }
        assert!(used.iter().filter(|used| **used).count() > 1, "one endpoint has them all");
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 3, work).await.expect("all is answered") });
}
