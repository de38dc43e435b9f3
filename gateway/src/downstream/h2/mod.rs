//! An HTTP/2 connection of a client, from its preface to its end. The only place downstream that knows the framing
//! library (`h2`).
//!
//! One task drives the connection (the library reads and writes through a [`Carrier`]) and looks after its age; each
//! request has a task of its own ([`stream`]), which meets the exchange through a pipe. A task never wakes itself.
//!
//! A connection *serves*, then *leaves*: idle for too long, old, with many requests behind it, or because the process
//! drains. Leaving is GOAWAY; its requests are served to their end. One that breaks the rules, or whose client takes
//! nothing for `timeouts.write_stall`, is closed at once. Source: RFC 9113; SECURITY S20 to S26.

mod stream;

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::Reason;
use h2::ext::Protocol;
use h2::server::{Builder, SendResponse};
use http::Request;
use rand::{Rng, RngCore};
use routing::time::MonoTime;
use wire::error::WireError;
use wire::h2::{Body, Follows, Pseudo, WEBSOCKET_KEY_BYTES};
use wire::head::Method;

pub(super) use self::stream::run;
use self::stream::{Incoming, Piece};
use super::h1::{self, Client, Facts};
use crate::net::{Buf, Class, acquire};
use crate::observe::stats::Limit;
use crate::tls::carrier::{Carrier, Io, Owner};
use crate::tls::{Origin, Stream};
use crate::worker::settings::Settings;
use crate::worker::{Worker, clock, supervise};

/// What a client that knows that we speak HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much of it tells it from every request of HTTP/1: its first line.
const PREFACE_LINE: usize = 16;

/// Is this the beginning of HTTP/2? Of fewer bytes than decide it: could it be?
#[must_use]
pub(super) fn is_preface(bytes: &[u8]) -> bool {
    let n = bytes.len().min(PREFACE_LINE);
    n >= 3 && bytes[..n] == PREFACE[..n]
}

/// Bytes of one stream's response that wait in the framing library at most.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// How long a client that abuses its connection has to take what it is told.
const ENDING: Duration = Duration::from_millis(250);
/// How long a connection that was asked to leave, and has no requests, is waited for.
const LEAVING: Duration = Duration::from_secs(1);

impl Owner for Box<Client> {
    fn conn(&mut self) -> &mut Stream {
        &mut self.conn
    }

    /// The end is sent by [`serve`], which reads on behind it.
    fn finished(&mut self) {}
}

type Shared = Rc<RefCell<Carrier<Box<Client>>>>;
type Framed = h2::server::Connection<Io<Box<Client>>, Piece>;

/// What the requests of one connection share.
struct Connection {
    facts: Facts,
    origin: Rc<Origin>,
    /// Requests in flight.
    streams: Cell<u32>,
    /// Requests taken back before their response began.
    cancelled: Cell<u32>,
    /// The connection's task: it is told when its last request has ended.
    task: RefCell<Option<Waker>>,
}

impl Connection {
    fn cancelled(&self) {
        self.cancelled.set(self.cancelled.get().saturating_add(1));
        self.wake();
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Wakes this task when a request ends.
    fn watch(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }
}

/// Counts a request while it exists.
struct InFlight {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
}

impl InFlight {
    fn enter(worker: &Rc<Worker>, connection: &Rc<Connection>) -> Self {
        worker.stats.http2_streams_open.add(1);
        Self { worker: Rc::clone(worker), connection: Rc::clone(connection) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.worker.stats.http2_streams_open.sub(1);
        let streams = &self.connection.streams;
        streams.set(streams.get() - 1);
        if streams.get() == 0 {
            self.connection.wake();
        }
    }
}

/// Serves a connection of which `first` came already.
pub(super) async fn serve(worker: Rc<Worker>, client: Box<Client>, first: Option<Buf>) {
    let settings = worker.settings();
    worker.stats.http2_connections_total.inc();
    let any = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0));
    let origin = Origin {
        peer: client.conn.peer(),
        local: client.conn.local_addr().unwrap_or(any),
        tls: client.conn.tls().cloned(),
    };
    let connection = Rc::new(Connection {
        facts: client.facts(),
        origin: Rc::new(origin),
        streams: Cell::new(0),
        cancelled: Cell::new(0),
        task: RefCell::default(),
    });
    let shared = Rc::new(RefCell::new(Carrier::watched(client, first)));
    if let Some(framed) = begin(&worker, &settings, &shared).await {
        let mut life = Life::new(&worker, &settings, connection, Rc::clone(&shared));
        life.run(framed).await;
        life.wait_for_requests().await;
    }
    // The library's half is gone: what it had to say last is out, or never will be.
    let Some(shared) = Rc::into_inner(shared) else { return };
    let client = shared.into_inner().owner;
    if client.conn.is_writing() {
        client.conn.reset();
    } else {
        h1::close(&worker, client).await;
    }
}

/// The preface and our settings, within `timeouts.header`.
async fn begin(worker: &Rc<Worker>, settings: &Settings, shared: &Shared) -> Option<Framed> {
    let http2 = &settings.http2;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(http2.streams_max)
        .initial_window_size(http2.stream_window)
        .initial_connection_window_size(http2.connection_window)
        .max_header_list_size(u32::try_from(settings.head.head_bytes()).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(http2.pending_resets_max)
        .max_local_error_reset_streams(Some(http2.faults_max))
        .enable_connect_protocol();
    let mut handshake = builder.handshake(Io(Rc::clone(shared)));
    let due = clock::now() + settings.header_timeout;
    loop {
        shared.borrow().owner.deadline.set(due);
        let first = poll_fn(|cx| {
            if let Poll::Ready(result) = std::pin::Pin::new(&mut handshake).poll(cx) {
                return Poll::Ready(Some(result));
            }
            shared.borrow().owner.deadline.poll(cx).map(|()| None)
        });
        match first.await {
            Some(Ok(framed)) => return Some(framed),
            // Whatever it is, it is not HTTP/2 (SECURITY S26).
            Some(Err(_)) => return None,
            None if worker.is_stopping() => return None,
            None if clock::now() >= due => {
                worker.stats.hit(Limit::HeaderTimeout);
                return None;
            }
            None => {}
        }
    }
}

/// What happened first.
#[expect(clippy::large_enum_variant, reason = "one at a time, from where it happens to who acts on it")]
enum Event {
    Request(Request<h2::RecvStream>, SendResponse<Piece>),
    /// The connection is over, perhaps for a reason.
    Over(Option<h2::Error>),
    /// The deadline passed, or a request ended, or the worker wants attention.
    Look,
}

/// How a connection stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    Serves,
    /// It was asked to leave.
    Leaves {
        since: MonoTime,
    },
    /// It was told to end at once; whether it takes that or not, it is closed.
    Ends {
        since: MonoTime,
    },
}

/// A connection's task.
struct Life<'a> {
    worker: &'a Rc<Worker>,
    settings: &'a Settings,
    connection: Rc<Connection>,
    shared: Shared,
    stand: Stand,
    requests: u32,
    requests_max: u32,
    /// When it is old.
    old_at: Option<MonoTime>,
    /// When in the course of a drain it is asked to leave, from 0 to 1.
    lot: f64,
    /// Since when it has no request.
    idle_since: Option<MonoTime>,
    /// Was its read buffer given back?
    rests: bool,
    /// Is it among the worker's idle connections, which may be shed?
    listed: bool,
}

impl<'a> Life<'a> {
    fn new(
        worker: &'a Rc<Worker>,
        settings: &'a Settings,
        connection: Rc<Connection>,
        shared: Shared,
    ) -> Self {
        let http2 = &settings.http2;
        let now = clock::now();
        // A tenth less or more.
        let lot: f64 = worker.rng.borrow_mut().random_range(0.9..1.1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of the size of the one that it is made of; it saturates"
        )]
        let requests_max = (f64::from(http2.requests_max) * lot) as u32;
        Self {
            worker,
            settings,
            connection,
            shared,
            stand: Stand::Serves,
            requests: 0,
            requests_max: requests_max.max(1),
            old_at: (!http2.age.is_zero()).then(|| now + http2.age.mul_f64(lot)),
            lot: worker.rng.borrow_mut().random_range(0.0..1.0),
            idle_since: Some(now),
            rests: false,
            listed: false,
        }
    }

    async fn run(&mut self, mut framed: Framed) {
        loop {
            match self.next(&mut framed).await {
                Event::Request(request, respond) => self.admit(request, respond, &mut framed),
                Event::Over(error) => return self.note(error.as_ref()),
                Event::Look => {
                    if !self.look(&mut framed) {
                        return;
                    }
                }
            }
            let received = self.shared.borrow_mut().take_received();
            self.worker.stats.received_bytes_total.add(received);
        }
    }

    async fn next(&mut self, framed: &mut Framed) -> Event {
        let (was_idle, due) = (self.idle_since.is_some(), self.due());
        // Forgets that an earlier one has passed.
        self.set_deadline(due);
        poll_fn(|cx| {
            match framed.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    return Poll::Ready(Event::Request(request, respond));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Over(Some(error))),
                Poll::Ready(None) => return Poll::Ready(Event::Over(None)),
                Poll::Pending => {}
            }
            self.connection.watch(cx);
            let is_idle = self.connection.streams.get() == 0;
            // What is being written has a deadline, too, and so has who asks for too much.
            if is_idle != was_idle || self.abuses().is_some() {
                return Poll::Ready(Event::Look);
            }
            // Before it is set: that forgets a call for attention.
            if self.shared.borrow().owner.deadline.poll(cx).is_ready() {
                return Poll::Ready(Event::Look);
            }
            let writing_since = self.shared.borrow().writing_since();
            let stalled = writing_since.map(|since| since + self.settings.write_stall);
            self.set_deadline([due, stalled].into_iter().flatten().min());
            Poll::Pending
        })
        .await
    }

    fn set_deadline(&self, due: Option<MonoTime>) {
        let deadline = &self.shared.borrow().owner.deadline;
        match due {
            Some(due) => deadline.set(due),
            None => deadline.clear(),
        }
    }

    /// When it is to be looked at, whatever happens.
    fn due(&self) -> Option<MonoTime> {
        let idle_at = self.idle_since.map(|since| {
            since + if self.rests { self.settings.idle_client } else { self.settings.buffer_idle }
        });
        match self.stand {
            // It may have begun before there was anything to leave.
            Stand::Serves if self.worker.is_draining() => Some(self.worker.leaves_at(self.lot)),
            Stand::Serves => [idle_at, self.old_at].into_iter().flatten().min(),
            Stand::Leaves { .. } => Some(clock::now() + LEAVING),
            Stand::Ends { since } => Some(since + ENDING),
        }
    }

    /// Looks at clock, worker and requests. `false` when the connection is to be closed now.
    fn look(&mut self, framed: &mut Framed) -> bool {
        let now = clock::now();
        if let Some(limit) = self.abuses() {
            self.worker.stats.hit(limit);
            framed.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.stand = Stand::Ends { since: now };
            // In a stop it is not waited for.
            return !self.worker.is_stopping();
        }
        let is_idle = self.connection.streams.get() == 0;
        if let Stand::Ends { since } = self.stand {
            self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
            return now < since + ENDING;
        }
        if self.worker.is_stopping() {
            return self.speaks_last(framed, now);
        }
        let writing_since = self.shared.borrow().writing_since();
        if writing_since.is_some_and(|since| now >= since + self.settings.write_stall) {
            self.worker.stats.hit(Limit::WriteStall);
            return false;
        }
        let is_shed = !self.unlist();
        self.idle_since = if is_idle { self.idle_since.or(Some(now)) } else { None };
        let Some(idle_since) = self.idle_since else {
            self.rests = false;
            return self.leave_if_due(framed, now);
        };
        if let Stand::Leaves { since } = self.stand {
            return now < since.max(idle_since) + LEAVING;
        }
        if is_shed || now >= idle_since + self.settings.idle_client {
            self.leave(framed, now);
        } else if !self.rests && now >= idle_since + self.settings.buffer_idle {
            self.rests = true;
            self.shared.borrow_mut().rest();
        }
        self.listed = true;
        self.shared.borrow().owner.deadline.enter_idle();
        self.leave_if_due(framed, now)
    }

    /// What its requests say last goes out; the worker waits a moment for that. `false` when nothing is left to say.
    fn speaks_last(&mut self, framed: &mut Framed, now: MonoTime) -> bool {
        if self.stand == Stand::Serves {
            self.leave(framed, now);
        }
        let is_idle = self.connection.streams.get() == 0;
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
        !is_idle || self.shared.borrow().writing_since().is_some()
    }

    /// Takes it from the list of idle connections. `false` when it was shed meanwhile.
    fn unlist(&mut self) -> bool {
        !std::mem::take(&mut self.listed) || self.shared.borrow().owner.deadline.leave_idle()
    }

    fn leave_if_due(&mut self, framed: &mut Framed, now: MonoTime) -> bool {
        if self.stand == Stand::Serves {
            let is_old = self.old_at.is_some_and(|at| now >= at);
            if is_old {
                self.worker.stats.http2_retired_total.inc();
            }
            if is_old || (self.worker.is_draining() && now >= self.worker.leaves_at(self.lot)) {
                self.leave(framed, now);
            }
        }
        true
    }

    fn leave(&mut self, framed: &mut Framed, now: MonoTime) {
        framed.graceful_shutdown();
        self.stand = Stand::Leaves { since: now };
    }

    /// Does the client take back more than it asks for (SECURITY S21), or send more that carries nothing than it may (S23,
    /// S24)? Which bound it was; none twice.
    fn abuses(&self) -> Option<Limit> {
        if let Stand::Ends { .. } = self.stand {
            return None;
        }
        let (http2, cancelled) = (&self.settings.http2, self.connection.cancelled.get());
        if cancelled > http2.cancels_max && cancelled > self.requests / 2 {
            return Some(Limit::Http2Cancels);
        }
        self.shared.borrow_mut().floods(http2.control_bytes_max).then_some(Limit::Http2Control)
    }

    /// Begins to serve a request.
    fn admit(
        &mut self,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Piece>,
        framed: &mut Framed,
    ) {
        if self.idle_since.take().is_some() {
            // One that was shed a moment ago is not idle any more.
            let _ = self.unlist();
            self.rests = false;
        }
        self.requests = self.requests.saturating_add(1);
        let connection = Rc::clone(&self.connection);
        let streams = &connection.streams;
        streams.set(streams.get() + 1);
        if streams.get() >= self.settings.http2.streams_max {
            self.worker.stats.hit(Limit::Http2Streams);
        }
        if self.requests == self.requests_max && self.stand == Stand::Serves {
            self.worker.stats.hit(Limit::Http2Requests);
            self.worker.stats.http2_retired_total.inc();
            self.leave(framed, clock::now());
        }
        match incoming(self.worker, request) {
            Ok((head, body, method, data)) => {
                let incoming = Incoming { head, body, method, data, respond };
                let (worker, connection) = (Rc::clone(self.worker), Rc::clone(&self.connection));
                supervise::spawn_guarded(self.worker, stream::serve(worker, connection, incoming));
            }
            Err(refusal) => {
                refusal.answer(self.worker, &mut respond);
                streams.set(streams.get() - 1);
                if streams.get() == 0 {
                    self.idle_since = Some(clock::now());
                }
            }
        }
    }

    /// Counts what the connection ended for.
    fn note(&self, error: Option<&h2::Error>) {
        let Some(error) = error.filter(|error| error.is_go_away() && error.is_library()) else { return };
        if error.reason() != Some(Reason::ENHANCE_YOUR_CALM) {
            return;
        }
        // The library says which of its bounds it was in the frame's debug data only.
        let text = error.to_string();
        self.worker.stats.hit(if text.contains("too_many_internal_resets") {
            Limit::Http2Faults
        } else if text.contains("too_many_resets") {
            Limit::Http2Resets
        } else {
            Limit::Http2Floods
        });
    }

    /// Until every request has seen that the connection is gone.
    async fn wait_for_requests(&self) {
        poll_fn(|cx| {
            self.connection.watch(cx);
            if self.connection.streams.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Why a request is not served.
enum Refusal {
    /// It is not one (SECURITY S11).
    Wire(WireError),
    /// No buffer memory is left.
    Buffers,
}

impl Refusal {
    /// What is wrong with the form of its framing is a stream error; the rest has a status.
    fn answer(self, worker: &Worker, respond: &mut SendResponse<Piece>) {
        let error = match self {
            Self::Wire(error) => error,
            Self::Buffers => {
                worker.stats.hit(Limit::BuffersBytes);
                // Nothing of it was looked at: it may be sent again.
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
        };
        worker.stats.refused(error);
        let mut response = http::Response::new(());
        match http::StatusCode::from_u16(error.status()) {
            Ok(status) if error != WireError::HeaderName && error != WireError::HeaderValue => {
                *response.status_mut() = status;
                worker.stats.responses.response(error.status());
                // A client that is gone needs no answer.
                let _ = respond.send_response(response, true);
            }
            Ok(_) | Err(_) => respond.send_reset(Reason::PROTOCOL_ERROR),
        }
    }
}

type Taken = (Buf, Body, Method, h2::RecvStream);

/// A request with its head in the form that the exchange reads.
fn incoming(worker: &Worker, request: Request<h2::RecvStream>) -> Result<Taken, Refusal> {
    let (parts, data) = request.into_parts();
    let uri = &parts.uri;
    let pseudo = Pseudo {
        method: parts.method.as_str().as_bytes(),
        scheme: uri.scheme_str().map(str::as_bytes),
        authority: uri.authority().map(|authority| authority.as_str().as_bytes()),
        path: uri.path_and_query().map(|path| path.as_str().as_bytes()),
        protocol: parts.extensions.get::<Protocol>().map(|protocol| protocol.as_str().as_bytes()),
    };
    let fields = || parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let follows = if data.is_end_stream() { Follows::Nothing } else { Follows::Data };
    let key = if pseudo.protocol.is_some() { websocket_key(worker) } else { [b'='; WEBSOCKET_KEY_BYTES] };
    let mut scratch = worker.scratch.borrow_mut();
    let out = scratch.head_out();
    let body = wire::h2::request(out, &pseudo, fields, follows, &key).map_err(Refusal::Wire)?;
    let class = [Class::Head, Class::Small].into_iter().find(|class| class.bytes() >= out.len() + 128);
    let mut head = acquire(class.unwrap_or(Class::Bulk), 0).ok_or(Refusal::Buffers)?;
    if head.append(out) < out.len() {
        return Err(Refusal::Wire(WireError::HeadTooLong));
    }
    let method = match body {
        Body::Tunnel => Method::Get,
        Body::None | Body::Exact(_) | Body::Chunked => Method::from_bytes(pseudo.method),
    };
    Ok((head, body, method, data))
}

/// 16 random bytes in base64 (RFC 6455 §4.1). Nobody relies on their being a secret.
fn websocket_key(worker: &Worker) -> [u8; WEBSOCKET_KEY_BYTES] {
    let mut bytes = [0; 16];
    worker.rng.borrow_mut().fill_bytes(&mut bytes);
    let mut key = [b'='; WEBSOCKET_KEY_BYTES];
    let written = STANDARD.encode_slice(bytes, &mut key);
    debug_assert_eq!(written.ok(), Some(WEBSOCKET_KEY_BYTES));
    key
}
