//! A client that sends raw bytes and reads responses strictly.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;
use super::backend::{find, values};

/// A connection to the gateway. Reads have a deadline.
pub struct Client {
    pub stream: TcpStream,
    pending: Vec<u8>,
}

/// One response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
    /// Heads of the interim responses before it.
    pub interim: Vec<String>,
}

/// Why there is no (complete) response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection ended in an orderly way.
    Closed,
    /// The connection was reset.
    Reset,
    /// Nothing came within the deadline.
    Late,
}

/// Whether the response belongs to a HEAD request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum To {
    Get,
    Head,
}

impl Response {
    pub fn all(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }

    #[track_caller]
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is given more than once: {}", self.head);
        all.first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn reason(&self) -> &str {
        self.one("x-ringway-reason").unwrap_or_default()
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).unwrap()
    }

    pub fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, pending: Vec::new() })
    }

    /// A client on a connection that is there already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, pending: Vec::new() }
    }

    /// How the connection has ended, if it has.
    pub fn ended(&mut self) -> Option<Cut> {
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let ended = self.more().err().filter(|cut| *cut != Cut::Late);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        ended
    }

    /// A client that takes a few kilobytes at a time.
    pub fn connect_narrow(addr: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&addr.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, pending: Vec::new() }
    }

    /// Sends; panics when the gateway does not take it.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Sends as far as the gateway takes it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).response()
    }

    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response(To::Get).unwrap()
    }

    pub fn try_get(&mut self, path: &str) -> Result<Response, Cut> {
        let sent = self.try_send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        sent.map_err(|_| Cut::Reset)?;
        self.try_response(To::Get)
    }

    /// Reads one response, interim ones before it included.
    pub fn try_response(&mut self, to: To) -> Result<Response, Cut> {
        let mut interim = Vec::new();
        loop {
            let head = self.head()?;
            let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            if (100..200).contains(&status) && status != 101 {
                interim.push(head);
                continue;
            }
            let mut response = Response { status, head, interim, ..Response::default() };
            if to == To::Get && !matches!(status, 101 | 204 | 304) {
                self.body(&mut response)?;
            }
            return Ok(response);
        }
    }

    fn body(&mut self, response: &mut Response) -> Result<(), Cut> {
        if response.one("transfer-encoding") == Some("chunked") {
            assert_eq!(response.one("content-length"), None, "one framing: {}", response.head);
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).expect("a chunk's size");
                if size == 0 {
                    break;
                }
                let chunk = self.exactly(size)?;
                response.body.extend_from_slice(&chunk);
                assert_eq!(self.line()?, "", "a chunk ends in CRLF");
            }
            loop {
                let line = self.line()?;
                if line.is_empty() {
                    return Ok(());
                }
                response.trailers += &line;
                response.trailers += "\n";
            }
        }
        if let Some(length) = response.one("content-length") {
            response.body = self.exactly(length.parse().unwrap())?;
            return Ok(());
        }
        match self.rest() {
            (body, Cut::Closed) => response.body = body,
            (_, cut) => return Err(cut),
        }
        Ok(())
    }

    /// The next head, up to and with the empty line.
    pub fn head(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(end) = find(&self.pending, b"\r\n\r\n") {
                let head: Vec<u8> = self.pending.drain(..end + 4).collect();
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            self.more()?;
        }
    }

    fn line(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(end) = find(&self.pending, b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more()?;
        }
    }

    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Cut> {
        while self.pending.len() < count {
            self.more()?;
        }
        Ok(self.pending.drain(..count).collect())
    }

    /// Reads and forgets `count` bytes.
    pub fn skip(&mut self, count: u64) -> Result<(), Cut> {
        let mut left = count;
        loop {
            let here = left.min(self.pending.len() as u64);
            self.pending.drain(..usize::try_from(here).unwrap());
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), Cut> {
        let mut buf = [0; 64 * 1024];
        match self.stream.read(&mut buf) {
            Ok(0) => Err(Cut::Closed),
            Ok(n) => {
                self.pending.extend_from_slice(&buf[..n]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Cut::Late)
            }
            Err(_) => Err(Cut::Reset),
        }
    }

    /// Everything until the connection ends, and how it ends.
    pub fn rest(&mut self) -> (Vec<u8>, Cut) {
        loop {
            if let Err(cut) = self.more() {
                return (std::mem::take(&mut self.pending), cut);
            }
        }
    }

    /// Has the gateway nothing to say within `time`?
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let silent = self.pending.is_empty() && self.more() == Err(Cut::Late);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) -> &mut Self {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self
    }

    /// Leaves with a reset.
    pub fn abort(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
