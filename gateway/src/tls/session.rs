//! The record layer of one connection after its handshake: ciphertext in, plaintext out, and back. No I/O.
//!
//! Ciphertext lies in pooled buffers and is decrypted record by record, only as far as the reader has room; plaintext
//! is encrypted straight into the buffer that is sent. Between two requests a session holds no buffer.

use std::io;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};

use crate::net::{Buf, Class, acquire};

/// Content type, version, length.
const HEADER: usize = 5;
/// The largest record body that any version allows (RFC 5246 §6.2.3: 2^14 + 2048).
const BODY_MAX: usize = 16_384 + 2_048;
/// The largest fragment of plaintext in one record.
const FRAGMENT: usize = 16_384;
/// Most that a record adds to its plaintext: header, explicit nonce, content type and tag.
const OVERHEAD: usize = 32;
/// Plaintext that is sealed into one buffer at most: whole records.
const SEAL_MAX: usize = 7 * FRAGMENT;
/// Answers to the peer's control messages that wait to be sent, in bytes.
const CONTROL_MAX: usize = 4 * 1024;

/// What the peer has said about the end of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inbound {
    /// More may come.
    Open,
    /// A close_notify: they were complete.
    Closed,
    /// Something was wrong: nothing more is believed.
    Broken,
}

/// One side of TLS in the library: each has a type of its own, and both are driven in the same way.
pub(super) trait Library {
    /// What tells the sides apart in the library's types.
    type Data;

    /// Shows it records that came.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Does it want anything sent?
    fn has_output(&self) -> bool;
}

impl Library for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_output(&self) -> bool {
        (**self).wants_write()
    }
}

impl Library for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_output(&self) -> bool {
        (**self).wants_write()
    }
}

/// Which side of the session we are.
pub enum Side {
    /// Towards a client.
    Server(UnbufferedServerConnection),
    /// Towards a backend.
    Client(UnbufferedClientConnection),
}

impl Side {
    fn open(&mut self, records: &mut [u8], sink: &mut Sink<'_>) -> (usize, Result<Step, Broken>) {
        match self {
            Self::Server(tls) => step(tls.process(records), sink),
            Self::Client(tls) => step(tls.process(records), sink),
        }
    }

    fn drain(&mut self, control: &mut Vec<u8>) {
        match self {
            Self::Server(tls) => drain(tls, control),
            Self::Client(tls) => drain(tls, control),
        }
    }

    fn settle(&mut self, control: &mut Vec<u8>) -> io::Result<Inbound> {
        match self {
            Self::Server(tls) => settle(tls, control),
            Self::Client(tls) => settle(tls, control),
        }
    }

    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Server(tls) => encrypt(tls, plain, out),
            Self::Client(tls) => encrypt(tls, plain, out),
        }
    }

    fn close_notify(&mut self, out: &mut [u8]) -> usize {
        match self {
            Self::Server(tls) => close_notify(tls, out),
            Self::Client(tls) => close_notify(tls, out),
        }
    }
}

/// One session.
pub struct Session {
    tls: Side,
    /// Ciphertext that is not decrypted yet.
    incoming: Option<Buf>,
    /// Plaintext that found no room with the reader.
    plain: Option<Buf>,
    /// Records of our own (answers to key updates) that go out before the next data.
    control: Vec<u8>,
    inbound: Inbound,
}

impl Session {
    /// Goes on after a handshake; `incoming` came behind it.
    #[must_use]
    pub fn new(tls: Side, incoming: Option<Buf>) -> Self {
        let incoming = incoming.filter(|buf| !buf.is_empty());
        Self { tls, incoming, plain: None, control: Vec::new(), inbound: Inbound::Open }
    }

    /// Has the peer said that it sends nothing more?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inbound == Inbound::Closed && self.plain.is_none()
    }

    /// Would [`Session::read`] get on without more ciphertext?
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.plain.is_some()
            || self.inbound != Inbound::Open
            || self.incoming.as_ref().is_some_and(|buf| record(buf.bytes()) != Ok(None))
    }

    /// Appends plaintext to `into` as far as there is room. 0: more ciphertext is needed, or the peer has closed.
    ///
    /// # Errors
    /// Bytes that are no TLS, or were changed on the way; an alert to the peer is in [`Session::take_control`].
    pub fn read(&mut self, into: &mut Buf) -> io::Result<usize> {
        let before = into.len();
        self.take_plain(into);
        while self.inbound == Inbound::Open && self.plain.is_none() {
            let Some(incoming) = &mut self.incoming else { break };
            let Some(len) = record(incoming.bytes()).inspect_err(|_| self.inbound = Inbound::Broken)? else {
                break;
            };
            if into.len() > before && into.readroom() < len - HEADER {
                break;
            }
            self.open(len, into)?;
        }
        if self.incoming.as_ref().is_some_and(Buf::is_empty) {
            self.incoming = None;
        }
        Ok(into.len() - before)
    }

    fn take_plain(&mut self, into: &mut Buf) {
        if let Some(plain) = &mut self.plain {
            let n = plain.len().min(into.readroom());
            into.append(&plain.bytes()[..n]);
            plain.consume(n);
            if plain.is_empty() {
                self.plain = None;
            }
        }
    }

    /// Decrypts the record that `incoming` starts with.
    fn open(&mut self, len: usize, into: &mut Buf) -> io::Result<()> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let mut left = len;
        loop {
            let mut sink = Sink { data: Some((&mut *into, &mut self.plain)), control: &mut self.control };
            let (used, step) = self.tls.open(&mut incoming.bytes_mut()[..left], &mut sink);
            incoming.consume(used);
            left -= used.min(left);
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Data) if left == 0 => return Ok(()),
                Ok(Step::Data) => {}
                Ok(Step::Closed) => {
                    // What comes behind a close_notify is nobody's (RFC 8446 §6.1).
                    self.inbound = Inbound::Closed;
                    self.incoming = None;
                    return Ok(());
                }
                Ok(Step::Settled) if left == 0 => return Ok(()),
                // A part of a message between the requests of a session: no client needs that.
                Ok(Step::Settled) => return Err(self.broken(Broken::Fragmented)),
                Err(broken) => return Err(self.broken(broken)),
            }
            if self.control.len() > CONTROL_MAX {
                return Err(self.broken(Broken::Flood));
            }
        }
    }

    /// Nothing more is believed, and the library is not shown anything again.
    fn broken(&mut self, broken: Broken) -> io::Error {
        self.inbound = Inbound::Broken;
        self.incoming = None;
        if let Broken::Tls(_) = broken {
            // The alert that says so.
            self.tls.drain(&mut self.control);
        }
        broken.into()
    }

    /// A buffer to read ciphertext into, with what is there already in front. `class` is that of the reader's buffer.
    #[must_use]
    pub fn read_buffer(&mut self, class: Class) -> Option<Buf> {
        let Some(held) = self.incoming.take() else { return acquire(class, 0) };
        let bytes = held.bytes();
        let needed = match bytes.first_chunk::<HEADER>() {
            Some(header) => HEADER + body_len(header) - bytes.len().min(HEADER + body_len(header)),
            None => HEADER,
        };
        if held.readroom() >= needed.max(HEADER) {
            return Some(held);
        }
        let fits = |class: Class| class.bytes() > bytes.len() + needed + crate::sys::buf::TAIL_RESERVE;
        let class = if fits(class) { class } else { Class::Bulk };
        let mut larger = acquire(class, 0)?;
        larger.append(bytes);
        Some(larger)
    }

    /// Takes a buffer of [`Session::read_buffer`] back, with what was read into it.
    pub fn put(&mut self, buf: Buf) {
        self.incoming = Some(buf).filter(|buf| !buf.is_empty());
    }

    /// Encrypts (the first part of) `plain` into a buffer to be sent, control records first. What is left in `plain`
    /// is for the next call.
    ///
    /// # Errors
    /// No buffer memory, or a session that may not send any more.
    pub fn seal(&mut self, plain: &mut Buf) -> io::Result<Buf> {
        if self.inbound == Inbound::Broken {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if self.tls.settle(&mut self.control)? == Inbound::Closed {
            self.inbound = Inbound::Closed;
        }
        let n = plain.len().min(SEAL_MAX);
        // One record more than the data needs: the library may put a key update first.
        let room = self.control.len() + n + (n.div_ceil(FRAGMENT) + 2) * OVERHEAD;
        let class = [Class::Head, Class::Small, Class::Bulk].into_iter().find(|class| class.bytes() >= room);
        let out = class.and_then(|class| acquire(class, 0));
        let mut out = out.ok_or(io::ErrorKind::OutOfMemory)?;
        out.append(&self.control);
        self.control.clear();
        if n > 0 {
            let sealed = self.tls.encrypt(&plain.bytes()[..n], out.tail_mut())?;
            out.grow(sealed);
            plain.consume(n);
        }
        Ok(out)
    }

    /// Are there records of our own that nobody asked for yet?
    #[must_use]
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Records of our own: answers to key updates, an alert.
    pub fn take_control(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.control)
    }

    /// A close_notify, to be sent behind everything else (RFC 8446 §6.1). Empty when it was sent before.
    pub fn close_notify(&mut self) -> Vec<u8> {
        let mut out = self.take_control();
        let mut alert = [0; 64];
        if self.inbound == Inbound::Broken {
            // Its alert has said more.
            return out;
        }
        let n = self.tls.close_notify(&mut alert);
        out.extend_from_slice(&alert[..n]);
        out
    }
}

/// Length of the first record, header included; `None` when it is not complete.
fn record(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let body = body_len(header);
    if body > BODY_MAX {
        return Err(Broken::Oversized);
    }
    Ok((bytes.len() >= HEADER + body).then_some(HEADER + body))
}

fn body_len(header: &[u8; HEADER]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

/// Number of bytes at the start that are whole records, one more than `seen` if there is another.
pub(super) fn one_more_record(bytes: &[u8], seen: usize) -> Result<Option<usize>, Broken> {
    Ok(record(&bytes[seen..])?.map(|len| seen + len))
}

/// Where what comes out of a record goes.
pub(super) struct Sink<'a> {
    /// The reader's buffer, and what finds no room there; `None` = no data may come.
    pub data: Option<(&'a mut Buf, &'a mut Option<Buf>)>,
    /// Records to be sent.
    pub control: &'a mut Vec<u8>,
}

/// What one look at the library's state came to.
pub(super) enum Step {
    /// Something was put in the sink's `control`: look again.
    Again,
    /// Plaintext came out.
    Data,
    /// The peer closed.
    Closed,
    /// Nothing more to do with these bytes.
    Settled,
}

/// Why a session ended.
#[derive(Debug, PartialEq)]
pub(super) enum Broken {
    /// The library says so.
    Tls(rustls::Error),
    /// A record longer than any may be.
    Oversized,
    /// A message in parts, after the handshake.
    Fragmented,
    /// More control messages than are answered.
    Flood,
    /// No buffer memory.
    Memory,
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Tls(error) => Self::new(io::ErrorKind::InvalidData, error),
            Broken::Memory => io::ErrorKind::OutOfMemory.into(),
            Broken::Oversized | Broken::Fragmented | Broken::Flood => io::ErrorKind::InvalidData.into(),
        }
    }
}

/// Handles one state of either side of TLS. Returns how many bytes of input are done with.
pub(super) fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    sink: &mut Sink<'_>,
) -> (usize, Result<Step, Broken>) {
    let mut used = status.discard;
    let step = match status.state {
        Err(error) => Err(Broken::Tls(error)),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Data),
                Some(Err(error)) => break Err(Broken::Tls(error)),
                Some(Ok(record)) => {
                    used += record.discard;
                    if let Err(broken) = sink.put(record.payload) {
                        break Err(broken);
                    }
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(&mut data, sink.control);
            Ok(Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Closed),
        Ok(_blocked_or_ready) => Ok(Step::Settled),
    };
    (used, step)
}

impl Sink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let Some((into, overflow)) = &mut self.data else { return Err(Broken::Fragmented) };
        let n = if overflow.is_none() { bytes.len().min(into.readroom()) } else { 0 };
        into.append(&bytes[..n]);
        let rest = &bytes[n..];
        if rest.is_empty() {
            return Ok(());
        }
        if overflow.is_none() {
            let class = if rest.len() <= Class::Small.bytes() { Class::Small } else { Class::Bulk };
            **overflow = acquire(class, 0);
        }
        let stored = overflow.as_mut().map_or(0, |plain| plain.append(rest));
        if stored == rest.len() { Ok(()) } else { Err(Broken::Memory) }
    }
}

/// Everything that the library wants sent, although it has failed: the alert.
///
/// It gives that before it looks at records, and is asked for nothing else: were it asked once more, it would go on with
/// what it has failed at, and panics where that is gone, or fails at it again.
pub(super) fn drain<L: Library>(tls: &mut L, control: &mut Vec<u8>) {
    while tls.has_output() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = tls.process(&mut []).state else { return };
        encode(&mut data, control);
    }
}

/// Collects what the library wants sent before data. [`Inbound::Closed`] when the peer has closed.
fn settle<L: Library>(tls: &mut L, control: &mut Vec<u8>) -> io::Result<Inbound> {
    let mut inbound = Inbound::Open;
    loop {
        match tls.process(&mut []).state {
            Ok(ConnectionState::WriteTraffic(_)) => return Ok(inbound),
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, control),
            Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
            Ok(ConnectionState::PeerClosed) => inbound = Inbound::Closed,
            Ok(_) => return Err(io::ErrorKind::NotConnected.into()),
            Err(error) => return Err(Broken::Tls(error).into()),
        }
    }
}

/// Encrypts `plain` into `out`, which has room for it. Returns how many bytes that is.
fn encrypt<L: Library>(tls: &mut L, plain: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let Ok(ConnectionState::WriteTraffic(mut traffic)) = tls.process(&mut []).state else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    traffic.encrypt(plain, out).map_err(|error| exhausted(&error))
}

fn close_notify<L: Library>(tls: &mut L, out: &mut [u8]) -> usize {
    match tls.process(&mut []).state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.queue_close_notify(out).unwrap_or(0),
        Ok(_) | Err(_) => 0,
    }
}

/// Appends one record of the library's to `out`.
fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) {
    let start = out.len();
    let needed = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return,
    };
    out.resize(start + needed, 0);
    // Just the size that it asked for.
    let written = data.encode(&mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

fn exhausted(error: &EncryptError) -> io::Error {
    match error {
        EncryptError::InsufficientSize(_) => io::ErrorKind::OutOfMemory.into(),
        EncryptError::EncryptExhausted => io::ErrorKind::BrokenPipe.into(),
    }
}
