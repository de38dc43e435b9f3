//! Backends that record every byte and find message boundaries by themselves.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{PATIENCE, until};

/// What came on one connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Everything, as it came.
    pub raw: Vec<u8>,
    /// What this backend takes for requests; a probe of the failure detector is answered as any other, and counted nowhere.
    pub requests: Vec<Request>,
}

/// One request as the backend reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// From the request line to the empty line.
    pub head: String,
    /// The body, decoded.
    pub body: Vec<u8>,
    /// The trailer section.
    pub trailers: String,
}

impl Request {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The target.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }

    /// The only value of a header.
    #[track_caller]
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is given more than once: {}", self.head);
        all.first().copied()
    }
}

/// Every value of a header of a head.
pub fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Keep,
    Close,
    Reset,
}

type Serve = dyn Fn(&mut Peer) + Send + Sync;

/// A backend on a port of the kernel's choice.
pub struct Backend {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    serve: Arc<Serve>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Vec<Connection>>,
    streams: Mutex<Vec<Option<TcpStream>>>,
    stop: AtomicBool,
    requests: AtomicU64,
}

impl Backend {
    /// Reads requests and answers each with `answer`.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        Self::raw(move |peer| {
            while let Some(request) = peer.request() {
                match answer(&request, &mut peer.stream) {
                    Then::Keep => {}
                    Then::Close => return,
                    Then::Reset => return peer.reset(),
                }
            }
        })
    }

    /// Answers everything 200 with `name` as the body.
    pub fn named(name: &'static str) -> Self {
        Self::start(move |_, stream| respond(stream, name.as_bytes()))
    }

    /// Answers 200 with `name` once the gate is open; `/free` at once.
    pub fn gated(name: &'static str) -> (Self, Arc<AtomicBool>) {
        let gate = Arc::<AtomicBool>::default();
        let opened = Arc::clone(&gate);
        let backend = Self::start(move |request, stream| {
            if request.target() != "/free" {
                until("the gate opens", || opened.load(Ordering::SeqCst));
            }
            respond(stream, name.as_bytes())
        });
        (backend, gate)
    }

    /// Answers every request with these bytes.
    pub fn answering(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        let bytes = bytes.into();
        Self::start(move |_, stream| {
            let _ = stream.write_all(&bytes);
            then
        })
    }

    /// Does what `serve` says with each connection.
    pub fn raw(serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut backend = Self { addr, shared: Arc::default(), serve: Arc::new(serve), acceptor: None };
        backend.accept(listener);
        backend
    }

    fn accept(&mut self, listener: TcpListener) {
        let (shared, serve) = (Arc::clone(&self.shared), Arc::clone(&self.serve));
        shared.stop.store(false, Ordering::SeqCst);
        self.acceptor = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                let number = {
                    let mut log = shared.log.lock().unwrap();
                    log.push(Connection::default());
                    shared.streams.lock().unwrap().push(stream.try_clone().ok());
                    log.len() - 1
                };
                let (shared, serve) = (Arc::clone(&shared), Arc::clone(&serve));
                std::thread::spawn(move || {
                    let mut peer = Peer { stream, number, shared, pending: Vec::new(), keeps_log: true };
                    serve(&mut peer);
                    peer.shared.streams.lock().unwrap()[number] = None;
                });
            }
        }));
    }

    /// What came so far, by connection.
    pub fn log(&self) -> Vec<Connection> {
        self.shared.log.lock().unwrap().clone()
    }

    /// All requests, in the order of connections.
    pub fn requests(&self) -> Vec<Request> {
        self.log().into_iter().flat_map(|connection| connection.requests).collect()
    }

    /// The only request.
    #[track_caller]
    pub fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// How many requests came.
    pub fn count(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many connections came that anything was sent on, probes apart.
    pub fn connections(&self) -> usize {
        let log = self.shared.log.lock().unwrap();
        // By what came: one that has just come is not known for a probe yet.
        let is_probe = |raw: &[u8]| raw.windows(13).any(|word| word == b"ringway-probe");
        log.iter().filter(|connection| !connection.raw.is_empty() && !is_probe(&connection.raw)).count()
    }

    /// How many bytes came.
    pub fn bytes(&self) -> usize {
        self.shared.log.lock().unwrap().iter().map(|connection| connection.raw.len()).sum()
    }

    /// Resets every connection and refuses new ones.
    pub fn kill(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(self.addr);
        let _ = acceptor.join();
        for stream in self.shared.streams.lock().unwrap().iter().flatten() {
            let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again where it did.
    pub fn revive(&mut self) {
        let listener = TcpListener::bind(self.addr).unwrap();
        self.accept(listener);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A connection of the gateway.
pub struct Peer {
    pub stream: TcpStream,
    pub number: usize,
    shared: Arc<Shared>,
    pending: Vec<u8>,
    keeps_log: bool,
}

impl Peer {
    /// The next request, or the end of the connection.
    pub fn request(&mut self) -> Option<Request> {
        let mut request = self.any_head()?;
        if let Some(length) = request.one("content-length") {
            request.body = self.exactly(length.parse().ok()?)?;
        } else if request.one("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
                if size == 0 {
                    break;
                }
                let chunk = self.exactly(size)?;
                request.body.extend_from_slice(&chunk);
                assert_eq!(self.line()?, "", "a chunk ends in CRLF");
            }
            loop {
                let line = self.line()?;
                if line.is_empty() {
                    break;
                }
                request.trailers += &line;
                request.trailers += "\n";
            }
        }
        if request.one("user-agent") != Some("ringway-probe") {
            self.shared.log.lock().unwrap()[self.number].requests.push(request.clone());
            self.shared.requests.fetch_add(1, Ordering::SeqCst);
        }
        Some(request)
    }

    /// The next request's head; its body is left on the connection, and it is not counted. A probe is answered here.
    pub fn head(&mut self) -> Option<Request> {
        self.head_while(|| false)
    }

    /// The same of one that does nothing while it `hangs`, not even for a probe.
    pub fn head_while(&mut self, hangs: impl Fn() -> bool) -> Option<Request> {
        let head = self.any_head()?;
        if head.one("user-agent") == Some("ringway-probe") {
            while hangs() {
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
            respond(&mut self.stream, b"");
            return None;
        }
        Some(head)
    }

    fn any_head(&mut self) -> Option<Request> {
        loop {
            if let Some(end) = find(&self.pending, b"\r\n\r\n") {
                let head: Vec<u8> = self.pending.drain(..end + 4).collect();
                return Some(Request {
                    head: String::from_utf8_lossy(&head).into_owned(),
                    ..Request::default()
                });
            }
            self.more()?;
        }
    }

    /// No more bytes are recorded: for large bodies.
    pub fn stop_recording(&mut self) {
        self.keeps_log = false;
    }

    /// Bytes that were read and not taken yet.
    pub fn take_pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.pending, b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more()?;
        }
    }

    pub fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.pending.len() < count {
            self.more()?;
        }
        Some(self.pending.drain(..count).collect())
    }

    /// Reads once; `None` at the end of the connection.
    pub fn more(&mut self) -> Option<()> {
        let mut buf = [0; 64 * 1024];
        match self.stream.read(&mut buf) {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                if self.keeps_log {
                    self.shared.log.lock().unwrap()[self.number].raw.extend_from_slice(&buf[..n]);
                }
                self.pending.extend_from_slice(&buf[..n]);
                Some(())
            }
        }
    }

    /// Sends; the other side may be gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Waits until the other side has closed.
    pub fn drained(&mut self) {
        while self.more().is_some() {
            self.pending.clear();
        }
    }

    /// Ends the connection with a reset.
    pub fn reset(&mut self) {
        self.shared.streams.lock().unwrap()[self.number] = None;
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// Answers 200 with a body of known length.
pub fn respond(stream: &mut impl Write, body: &[u8]) -> Then {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let sent: io::Result<()> = stream.write_all(&[head.as_bytes(), body].concat());
    if sent.is_ok() { Then::Keep } else { Then::Close }
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
