//! One HTTP/2 connection of the generator and its streams, and the socket as the framing library wants it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{Begun, connect};
use crate::http2::{Call, Requests};
use crate::record::Outcome;
use crate::socket::Socket;
use crate::tls::Tls;

/// Bytes of one answer, and of all of a connection, that the peer may send ahead: so much that windows never make a
/// request wait.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 26;

/// A request that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) number: u64,
    pub(crate) due: Duration,
    /// How long after that it was given to a connection.
    pub(crate) late: Duration,
}

/// A request that ended: with an outcome and the value of the counted header, or without an answer.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ask: Ask,
    pub(crate) how: Result<(Outcome, Option<String>), Outcome>,
}

type Opened = (SendRequest<Bytes>, h2::client::Connection<Io, Bytes>);

enum State {
    /// TCP, TLS, and our preface.
    Opening(Pin<Box<dyn Future<Output = Result<Opened, h2::Error>>>>),
    Open(Box<Opened>),
    Over,
}

/// A connection with the requests that it was given.
pub(crate) struct Connection {
    state: State,
    call: Call,
    /// Name of the header whose value is kept.
    wanted: Option<String>,
    /// It finishes what it has and takes nothing new.
    retiring: bool,
    /// Given, and not yet a stream.
    held: VecDeque<Ask>,
    streams: Vec<Stream>,
    /// What the peer did not process.
    refused: Vec<Ask>,
}

struct Stream {
    ask: Ask,
    /// Kept so that the stream can be reset.
    sending: SendStream<Bytes>,
    phase: Phase,
}

enum Phase {
    Head(ResponseFuture),
    Body { head: http::response::Parts, body: RecvStream, bytes: u64 },
}

/// How a stream is over.
enum Over {
    Answer { head: http::response::Parts, bytes: u64, trailers: Option<HeaderMap> },
    Refused,
    Broken(Begun),
}

impl Connection {
    /// Begins to connect; `watch` sees the socket before anything else.
    pub(crate) fn open(
        target: SocketAddr,
        tls: Option<&Tls>,
        call: Call,
        wanted: Option<&str>,
        watch: impl FnOnce(&TcpStream) -> rustix::io::Result<()>,
    ) -> io::Result<Self> {
        let socket = Socket::new(connect(target)?, tls.map(Tls::begin).transpose()?);
        watch(socket.tcp())?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        builder.enable_push(false);
        let opening = async move { builder.handshake(Io(socket)).await };
        Ok(Self {
            state: State::Opening(Box::pin(opening)),
            call,
            wanted: wanted.map(str::to_ascii_lowercase),
            retiring: false,
            held: VecDeque::new(),
            streams: Vec::new(),
            refused: Vec::new(),
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.held.len() + self.streams.len()
    }

    pub(crate) fn takes_more(&self) -> bool {
        !self.retiring
    }

    pub(crate) fn is_over(&self) -> bool {
        let is_done = self.retiring && self.in_flight() == 0;
        (matches!(self.state, State::Over) || is_done) && self.refused.is_empty()
    }

    pub(crate) fn give(&mut self, ask: Ask) {
        self.held.push_back(ask);
    }

    /// A request that was given to this connection and must be given to another.
    pub(crate) fn take_back(&mut self) -> Option<Ask> {
        self.refused.pop()
    }

    /// Goes as far as possible now.
    pub(crate) fn pump(&mut self, context: &mut Context<'_>, requests: &Requests, ended: &mut Vec<Ended>) {
        if let State::Opening(opening) = &mut self.state {
            match opening.as_mut().poll(context) {
                Poll::Pending => return,
                Poll::Ready(Ok(opened)) => self.state = State::Open(Box::new(opened)),
                Poll::Ready(Err(why)) => return self.fail(Outcome::of_opening(&why), ended),
            }
        }
        loop {
            let State::Open(open) = &mut self.state else { return };
            let is_over = Pin::new(&mut open.1).poll(context).is_ready();
            let sent = !is_over && self.send(context, requests);
            let moved = self.collect(context, ended);
            if is_over {
                return self.fail(Outcome::Closed(Begun::No), ended);
            }
            // Something new is to be written: requests, resets, or windows that were read empty.
            if !sent && !moved {
                return;
            }
        }
    }

    /// Makes streams of what was given; whether there was any.
    fn send(&mut self, context: &mut Context<'_>, requests: &Requests) -> bool {
        let State::Open(open) = &mut self.state else { return false };
        let mut sent = false;
        while let Some(ask) = self.held.front().copied() {
            match open.0.poll_ready(context) {
                Poll::Pending => return sent,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    // The peer said goodbye: nothing of this was sent.
                    self.retiring = true;
                    self.refused.extend(self.held.drain(..).rev());
                    return sent;
                }
            }
            self.held.pop_front();
            let (request, body) = requests.of(ask.number);
            match open.0.send_request(request, body.is_empty()) {
                Ok((answer, mut sending)) => {
                    if !body.is_empty() && sending.send_data(body, true).is_err() {
                        self.refused.push(ask);
                        continue;
                    }
                    sent = true;
                    self.streams.push(Stream { ask, sending, phase: Phase::Head(answer) });
                }
                Err(_) => {
                    self.retiring = true;
                    self.refused.push(ask);
                }
            }
        }
        sent
    }

    /// Takes what has come; whether any stream moved.
    fn collect(&mut self, context: &mut Context<'_>, ended: &mut Vec<Ended>) -> bool {
        let (mut at, mut moved) = (0, false);
        while let Some(stream) = self.streams.get_mut(at) {
            let Poll::Ready(over) = stream.poll(context, &mut moved) else {
                at += 1;
                continue;
            };
            moved = true;
            let ask = self.streams.swap_remove(at).ask;
            match over {
                Over::Refused => self.refused.push(ask),
                Over::Broken(begun) => ended.push(Ended { ask, how: Err(Outcome::Closed(begun)) }),
                Over::Answer { head, bytes, trailers } => {
                    let wanted = self.wanted.as_deref().and_then(|name| head.headers.get(name));
                    let value = wanted.and_then(|value| value.to_str().ok()).map(str::to_owned);
                    let outcome = outcome(self.call, &head, bytes, trailers.as_ref());
                    ended.push(Ended { ask, how: Ok((outcome, value)) });
                }
            }
        }
        moved
    }

    /// The connection is over, and everything that it was given with it.
    fn fail(&mut self, how: Outcome, ended: &mut Vec<Ended>) {
        self.state = State::Over;
        self.retiring = true;
        let asks = self.held.drain(..).chain(self.streams.drain(..).map(|stream| stream.ask));
        ended.extend(asks.map(|ask| Ended { ask, how: Err(how) }));
    }

    /// Resets the streams of requests that were due then or before.
    pub(crate) fn expire(&mut self, oldest: Duration, ended: &mut Vec<Ended>) {
        let timeout = |ask, begun| Ended { ask, how: Err(Outcome::Timeout(begun)) };
        while let Some(ask) = self.held.front().copied().filter(|ask| ask.due <= oldest) {
            self.held.pop_front();
            ended.push(timeout(ask, Begun::No));
        }
        self.streams.retain_mut(|stream| {
            let is_late = stream.ask.due <= oldest;
            if is_late {
                stream.sending.send_reset(Reason::CANCEL);
                let begun = match &stream.phase {
                    Phase::Head(_) => Begun::No,
                    Phase::Body { bytes, .. } => Begun::Yes(*bytes),
                };
                ended.push(timeout(stream.ask, begun));
            }
            !is_late
        });
    }
}

impl Outcome {
    /// Of a request whose connection did not come about.
    fn of_opening(why: &h2::Error) -> Self {
        match why.get_io() {
            Some(io) if io.kind() == io::ErrorKind::ConnectionRefused => Self::Connect,
            Some(_) => Self::Closed(Begun::No),
            None => Self::Malformed,
        }
    }
}

fn outcome(call: Call, head: &http::response::Parts, body: u64, trailers: Option<&HeaderMap>) -> Outcome {
    let status = head.status.as_u16();
    let answered = Outcome::Answered { status, body };
    match call {
        Call::Http => answered,
        Call::Grpc if status != 200 => answered,
        Call::Grpc => {
            // A call that failed at once has its status in the head.
            let said = trailers.and_then(|map| map.get("grpc-status")).or(head.headers.get("grpc-status"));
            match said.and_then(|value| value.to_str().ok()?.parse().ok()) {
                Some(0) => answered,
                code => Outcome::Grpc(code),
            }
        }
    }
}

impl Stream {
    fn poll(&mut self, context: &mut Context<'_>, moved: &mut bool) -> Poll<Over> {
        if let Phase::Head(answer) = &mut self.phase {
            match std::task::ready!(Pin::new(answer).poll(context)) {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    self.phase = Phase::Body { head, body, bytes: 0 };
                }
                Err(why) if is_refusal(&why) => return Poll::Ready(Over::Refused),
                Err(_) => return Poll::Ready(Over::Broken(Begun::No)),
            }
        }
        let Phase::Body { head, body, bytes } = &mut self.phase else { return Poll::Pending };
        loop {
            match std::task::ready!(body.poll_data(context)) {
                Some(Ok(data)) => {
                    *moved = true;
                    *bytes += data.len() as u64;
                    // Fails only when the stream is gone, which the next call tells.
                    let _ = body.flow_control().release_capacity(data.len());
                }
                Some(Err(_)) => return Poll::Ready(Over::Broken(Begun::Yes(*bytes))),
                None => break,
            }
        }
        let Ok(trailers) = std::task::ready!(body.poll_trailers(context)) else {
            return Poll::Ready(Over::Broken(Begun::Yes(*bytes)));
        };
        let (head, bytes) = (std::mem::replace(head, http::Response::new(()).into_parts().0), *bytes);
        Poll::Ready(Over::Answer { head, bytes, trailers })
    }
}

/// Whether the peer says that it did nothing (RFC 9113 §8.7).
fn is_refusal(why: &h2::Error) -> bool {
    why.is_remote() && (why.is_go_away() || why.reason() == Some(Reason::REFUSED_STREAM))
}

/// A nonblocking socket: whoever polls it asks again when epoll says so.
struct Io(Socket);

fn poll<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
            Poll::Pending
        }
        done => Poll::Ready(done),
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        poll(self.0.read(into.initialize_unfilled())).map_ok(|length| into.advance(length))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.0.write(bytes) {
            // TLS holds as much as it may.
            Ok(0) if !bytes.is_empty() => Poll::Pending,
            result => poll(result),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll(self.0.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
