//! Endpoints and clients that speak UDP.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use quinn_udp::{Transmit, UdpSocketState};

use super::PATIENCE;

/// An endpoint that answers each datagram with its name and what it got.
pub struct Server {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    silent: AtomicBool,
    count: AtomicU64,
    /// Who sent something, and how it began.
    peers: Mutex<BTreeSet<(SocketAddr, Vec<u8>)>>,
}

/// So much of what a peer sent is remembered.
const BEGINNING: usize = 9;

impl Server {
    pub fn named(name: &'static str) -> Self {
        Self::on("127.0.0.1".parse().unwrap(), move |bytes| [name.as_bytes(), b":", bytes].concat())
    }

    pub fn on(ip: IpAddr, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut buf = vec![0; 1 << 16];
            while !seen.stop.load(Ordering::Relaxed) {
                let Ok((len, peer)) = socket.recv_from(&mut buf) else { continue };
                // Probes of the failure detector say nothing.
                if len == 0 {
                    continue;
                }
                seen.count.fetch_add(1, Ordering::Relaxed);
                let beginning = buf[..len.min(BEGINNING)].to_vec();
                seen.peers.lock().unwrap().insert((peer, beginning));
                if !seen.silent.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&answer(&buf[..len]), peer);
                }
            }
        });
        Self { addr, shared, thread: Some(thread) }
    }

    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// How many sources it has seen.
    pub fn paths(&self) -> usize {
        self.sources(|_| true)
    }

    /// How many sources it has seen whose datagrams begin like this.
    pub fn paths_of(&self, beginning: &[u8]) -> usize {
        self.sources(|seen| seen.starts_with(beginning))
    }

    fn sources(&self, is_meant: impl Fn(&[u8]) -> bool) -> usize {
        let peers = self.shared.peers.lock().unwrap();
        let meant = peers.iter().filter(|(_, beginning)| is_meant(beginning)).map(|(peer, _)| peer);
        meant.collect::<BTreeSet<_>>().len()
    }

    /// From now on it answers nothing.
    pub fn silence(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    /// Closes its socket: from now on its host says that nobody listens.
    pub fn leave(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A client with a port of its own.
pub struct Client(pub UdpSocket);

impl Client {
    pub fn of(addr: SocketAddr) -> Self {
        let any: IpAddr = if addr.is_ipv6() { "::1".parse().unwrap() } else { "127.0.0.1".parse().unwrap() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes.as_ref()).unwrap();
    }

    /// Sends datagrams of this size as one piece, as the kernel cuts it.
    pub fn send_run(&self, bytes: &[u8], size: usize) {
        let state = UdpSocketState::new((&self.0).into()).unwrap();
        let destination = self.0.peer_addr().unwrap();
        let transmit =
            Transmit { destination, ecn: None, contents: bytes, segment_size: Some(size), src_ip: None };
        state.try_send((&self.0).into(), &transmit).unwrap();
        self.0.set_nonblocking(false).unwrap();
    }

    pub fn receive(&self) -> Vec<u8> {
        let mut buf = vec![0; 1 << 16];
        let len = self.0.recv(&mut buf).expect("an answer");
        buf.truncate(len);
        buf
    }

    /// Sends, and returns the text of the answer.
    #[track_caller]
    pub fn ask(&self, text: &str) -> String {
        self.send(text);
        String::from_utf8(self.receive()).unwrap()
    }

    /// Sends, and is answered within `wait` or not at all.
    pub fn ask_within(&self, text: &str, wait: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(wait)).unwrap();
        self.send(text);
        let mut buf = vec![0; 1 << 16];
        let len = self.0.recv(&mut buf).ok()?;
        Some(String::from_utf8_lossy(&buf[..len]).into_owned())
    }
}

/// An address of loopback where nobody takes datagrams.
pub fn nobody() -> SocketAddr {
    UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}
