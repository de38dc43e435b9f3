//! A backend that speaks TLS, records every byte of its connections, and takes a protocol for what it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::PATIENCE;
use super::backend::find;
use super::tls::{Ca, Leaf, certified, provider};

/// What it saw.
#[derive(Default)]
pub struct Seen {
    /// Every byte, as it came, of every connection.
    pub raw: Mutex<Vec<u8>>,
    /// Heads of requests, probes included, decrypted.
    pub heads: Mutex<Vec<String>>,
    /// Server names that were asked for; empty = none was.
    pub names: Mutex<Vec<String>>,
    /// Handshakes that ended well, and how many of them by a ticket.
    pub handshakes: AtomicU64,
    pub resumed: AtomicU64,
    /// Connections that showed a certificate.
    pub certified: AtomicU64,
}

/// The backend.
pub struct Secure {
    pub addr: SocketAddr,
    pub seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
}

impl Secure {
    /// Answers `body` with this certificate.
    pub fn start(leaf: &Leaf, body: &'static str, after: After) -> Self {
        Self::with(leaf, None, None, body, after)
    }

    /// Only for clients that have a certificate of this authority.
    pub fn mutual(leaf: &Leaf, clients: &Ca, body: &'static str) -> Self {
        Self::with(leaf, Some(clients), None, body, After::Keep)
    }

    /// Only for clients that ask for this name.
    pub fn named(leaf: &Leaf, name: &'static str, body: &'static str) -> Self {
        Self::with(leaf, None, Some(name), body, After::Keep)
    }

    fn with(
        leaf: &Leaf,
        clients: Option<&Ca>,
        only: Option<&'static str>,
        body: &'static str,
        after: After,
    ) -> Self {
        let seen: Arc<Seen> = Arc::default();
        let chosen = Chosen { key: certified(leaf), only, seen: Arc::clone(&seen) };
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(ca.root().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(chosen));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let stop: Arc<AtomicBool> = Arc::default();
        let (own, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (seen, config) = (Arc::clone(&own), Arc::clone(&config));
                std::thread::spawn(move || serve(stream, &seen, config, body, after));
            }
        });
        Self { addr, seen, stop, acceptor: Some(acceptor) }
    }

    /// Did anything come that is no TLS record? Handshake, data, alert and change of cipher are.
    pub fn saw_plaintext(&self) -> bool {
        let raw = self.seen.raw.lock().unwrap();
        find(&raw, b"HTTP/1.1").is_some() || find(&raw, b"shop.example").is_some()
    }

    pub fn requests(&self) -> usize {
        let heads = self.seen.heads.lock().unwrap();
        heads.iter().filter(|head| !head.contains("ringway-probe")).count()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

#[derive(Debug)]
struct Chosen {
    key: Arc<CertifiedKey>,
    only: Option<&'static str>,
    seen: Arc<Seen>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default();
        self.seen.names.lock().unwrap().push(name.to_owned());
        self.only.is_none_or(|only| only == name).then(|| Arc::clone(&self.key))
    }
}

/// A socket that keeps what was read from it.
struct Recorded<'a> {
    stream: TcpStream,
    seen: &'a Seen,
}

impl Read for Recorded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.stream.read(buf)?;
        self.seen.raw.lock().unwrap().extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

impl Write for Recorded<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

fn serve(stream: TcpStream, seen: &Seen, config: Arc<ServerConfig>, body: &str, after: After) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut stream = Recorded { stream, seen };
    let mut tls = ServerConnection::new(config).unwrap();
    while tls.is_handshaking() {
        if tls.complete_io(&mut stream).is_err() {
            // The alert that says why, and what the other side sends all the same.
            while tls.wants_write() && tls.write_tls(&mut stream).is_ok() {}
            let _ = stream.read(&mut [0; 1024]);
            return;
        }
    }
    seen.handshakes.fetch_add(1, Ordering::SeqCst);
    if tls.handshake_kind() == Some(HandshakeKind::Resumed) {
        seen.resumed.fetch_add(1, Ordering::SeqCst);
    }
    if tls.peer_certificates().is_some() {
        seen.certified.fetch_add(1, Ordering::SeqCst);
    }
    let mut stream = StreamOwned::new(tls, stream);
    let mut pending = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = find(&pending, b"\r\n\r\n") {
                break end + 4;
            }
            let mut buf = [0; 16 * 1024];
            match stream.read(&mut buf) {
                Ok(0) | Err(_) => return,
                Ok(n) => pending.extend_from_slice(&buf[..n]),
            }
        };
        let head: Vec<u8> = pending.drain(..end).collect();
        seen.heads.lock().unwrap().push(String::from_utf8(head).unwrap());
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
        if after == After::Close {
            stream.conn.send_close_notify();
            let _ = stream.flush();
            return;
        }
    }
}
