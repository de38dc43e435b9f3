//! Frames of HTTP/2 made by hand, and a connection that sends whatever it is told to (RFC 9113 §4, RFC 7541 §6.2).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals without indexing and without Huffman coding: any bytes at all.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, 7, 0, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

/// RFC 7541 §5.1.
pub fn integer(out: &mut Vec<u8>, bits: u8, first: u8, value: usize) {
    let max = (1_usize << bits) - 1;
    if value < max {
        return out.push(first | u8::try_from(value).unwrap());
    }
    out.push(first | u8::try_from(max).unwrap());
    let mut rest = value - max;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// The pseudo-header fields of an ordinary request, and some more.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", b"shop.example"),
        (b":path", path.as_bytes()),
    ];
    fields.extend(more.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    block(&fields)
}

/// A whole request without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &request("GET", path, &[]))
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

pub fn setting(number: u16, value: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// What the gateway did about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The stream was answered.
    Answered,
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was ended with this code.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
    /// Nothing came within the deadline.
    Silence,
}

/// A connection.
pub struct Raw {
    pub stream: TcpStream,
    pending: Vec<u8>,
}

impl Raw {
    /// Connects and sends preface and settings.
    pub fn connect(addr: SocketAddr, settings: &[u8]) -> Self {
        let mut raw = Self::bare(addr);
        assert!(raw.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()));
        raw
    }

    /// Connects and sends nothing.
    pub fn bare(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, pending: Vec::new() }
    }

    /// The same connection, for another thread to read.
    pub fn again(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), pending: Vec::new() }
    }

    /// `false` when the gateway takes no more.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The next frame; `Err(true)` at the end of the connection, `Err(false)` when nothing comes.
    pub fn next(&mut self) -> Result<Frame, bool> {
        loop {
            if let [a, b, c, kind, flags, d, e, f, g, ..] = self.pending[..] {
                let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.pending.len() >= end {
                    let payload = self.pending[9..end].to_vec();
                    self.pending.drain(..end);
                    let stream = u32::from_be_bytes([d, e, f, g]);
                    return Ok(Frame { kind, flags, stream, payload });
                }
            }
            let mut buf = [0; 16 * 1024];
            match self.stream.read(&mut buf) {
                Ok(0) => return Err(true),
                Ok(n) => self.pending.extend_from_slice(&buf[..n]),
                Err(error) => return Err(error.kind() != std::io::ErrorKind::WouldBlock),
            }
        }
    }

    /// What became of a stream: the first thing that says so. Interim responses are none.
    pub fn verdict(&mut self, stream: u32) -> Verdict {
        loop {
            match self.next() {
                Ok(frame) if frame.kind == GOAWAY => return Verdict::GoAway(frame.code()),
                Ok(frame) if frame.stream == stream && frame.kind == RST_STREAM => {
                    return Verdict::Reset(frame.code());
                }
                Ok(frame) if frame.stream == stream && frame.kind == HEADERS => return Verdict::Answered,
                Ok(_) => {}
                Err(true) => return Verdict::Closed,
                Err(false) => return Verdict::Silence,
            }
        }
    }

    /// How the connection ends.
    pub fn ending(&mut self) -> Verdict {
        let mut ending = Verdict::Closed;
        loop {
            match self.next() {
                Ok(frame) if frame.kind == GOAWAY => ending = Verdict::GoAway(frame.code()),
                Ok(_) => {}
                Err(true) => return ending,
                Err(false) => return Verdict::Silence,
            }
        }
    }

    /// Returns when everything that was sent before has been looked at.
    pub fn settle(&mut self) -> bool {
        if !self.send(frame(PING, 0, 0, b"settled?")) {
            return false;
        }
        loop {
            match self.next() {
                Ok(frame) if frame.kind == PING && frame.flags == ACK => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}
