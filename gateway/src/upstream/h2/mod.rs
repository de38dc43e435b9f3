//! HTTP/2 to endpoints: a few connections of each worker to each endpoint, with several requests on each of them.
//!
//! The only place on this side that knows the framing library. [`open`] gives the exchange the end of a pipe; it writes and
//! reads HTTP/1.1 there as on any connection, and a task ([`stream`]) carries that to a stream and back. So retries,
//! second attempts and relaying are what they are elsewhere; an exchange that lets go of its end resets the stream.
//!
//! A connection takes as many streams as its peer allows, and at most [`STREAMS_MAX`]. When all are full another is opened,
//! up to `pool.http2_connections_max`. After a GOAWAY it takes no more. One with streams open is asked
//! every `pool.http2_ping` (PING, RFC 9113 §6.7); without an answer within the same time it is closed, and each of its
//! streams fails as one whose endpoint has closed it.
//!
//! A WebSocket ([`tunnel`]) needs a peer that announces extended CONNECT (RFC 8441 §3). Its settings are the first thing that
//! it says: what it has not announced when it answers a PING it does not take, and [`open`] says so before anything is sent.

mod convert;
mod stream;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use foldhash::fast::FixedState;
use h2::Ping;
use h2::client::{Builder, Connection, SendRequest};
use routing::id::BackendId;
use routing::table::{EndpointKey, Pick};
use routing::time::MonoTime;

use crate::net::pipe::pipe;
use crate::observe::stats::Limit;
use crate::tls::carrier::{Carrier, Io};
use crate::tls::{Origin, Stream};
use crate::upstream::dial::{self, NoConnection};
use crate::worker::{Worker, clock, supervise};

/// Streams on one connection, whatever its peer allows: RFC 9113 §6.5.2 asks peers to allow no fewer.
pub const STREAMS_MAX: usize = 100;
/// Bytes of one response that the endpoint may send ahead of the client: the window that every peer begins with.
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
/// The same of all responses of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response's fields, names and values (SETTINGS_MAX_HEADER_LIST_SIZE).
const HEADER_LIST_BYTES: u32 = 32 * 1024;
/// Bytes of request bodies that wait in the library for one connection.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

type Framed = Connection<Io<Stream>, Bytes>;

/// One connection.
struct Session {
    send: SendRequest<Bytes>,
    origin: Rc<Origin>,
    fingerprint: u64,
    streams: Cell<usize>,
    /// Since when it has had no stream.
    idle_since: Cell<MonoTime>,
    /// Takes no more streams.
    is_closing: Cell<bool>,
    /// Its task, for when it is to look whether it is still needed, or to ask.
    driver: RefCell<Option<Waker>>,
    /// Are the peer's settings known?
    is_greeted: Cell<bool>,
    has_ended: Cell<bool>,
    /// Who waits to know whether it takes tunnels. Each has a place.
    asking: RefCell<Vec<Waker>>,
}

/// What a stream is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A request and its response.
    Request,
    /// The same, or a WebSocket when the response agrees.
    Tunnel,
}

#[derive(Default)]
struct PerEndpoint {
    sessions: Vec<Rc<Session>>,
    /// Is a connection being opened? Others wait for it: it may have room for them all.
    is_dialing: bool,
    waiting: Vec<Waker>,
}

/// The connections of one worker.
#[derive(Default)]
pub struct Sessions {
    endpoints: RefCell<HashMap<EndpointKey, PerEndpoint, FixedState>>,
}

/// A stream on a connection, counted while it exists.
struct Place {
    session: Rc<Session>,
}

impl Place {
    fn take(session: &Rc<Session>) -> Self {
        session.streams.set(session.streams.get() + 1);
        Self { session: Rc::clone(session) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let session = &self.session;
        session.streams.set(session.streams.get() - 1);
        session.idle_since.set(clock::now());
        if session.is_closing.get() {
            session.wake();
        }
    }
}

impl Session {
    /// Takes no more streams; ends with the last that it has.
    fn close(&self) {
        self.is_closing.set(true);
        self.wake();
    }

    /// Does its peer take tunnels? `None` = that is not known yet.
    fn takes_tunnels(&self) -> Option<bool> {
        if self.send.is_extended_connect_protocol_enabled() {
            return Some(true);
        }
        self.is_greeted.get().then_some(false)
    }

    /// Waits until it is known whether its peer takes tunnels.
    async fn tunnels(&self) -> Result<(), NoConnection> {
        poll_fn(|cx| {
            match self.takes_tunnels() {
                Some(true) => return Poll::Ready(Ok(())),
                Some(false) => return Poll::Ready(Err(NoConnection::Tunnels)),
                None if self.has_ended.get() => return Poll::Ready(Err(NoConnection::Failed)),
                None => {}
            }
            let mut asking = self.asking.borrow_mut();
            if !asking.iter().any(|waker| waker.will_wake(cx.waker())) {
                asking.push(cx.waker().clone());
            }
            self.wake();
            Poll::Pending
        })
        .await
    }

    /// Tells who waits.
    fn tell(&self) {
        self.asking.take().into_iter().for_each(Waker::wake);
    }

    fn wake(&self) {
        if let Some(driver) = self.driver.borrow_mut().take() {
            driver.wake();
        }
    }

    /// Does it take another stream? The library is asked whether it has heard a GOAWAY, or of an end.
    fn has_room(&self, fingerprint: u64) -> bool {
        if self.is_closing.get() {
            return false;
        }
        if self.fingerprint != fingerprint {
            // Made with settings that hold no longer.
            self.close();
            return false;
        }
        let mut send = self.send.clone();
        if let Poll::Ready(Err(_closing)) = send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            self.is_closing.set(true);
            return false;
        }
        self.streams.get() < self.send.current_max_send_streams().min(STREAMS_MAX)
    }
}

/// What [`open`] found.
pub struct Opened {
    /// The exchange's end.
    pub stream: Stream,
    /// Was the connection there before?
    pub reused: bool,
}

/// What there is for one more stream.
enum Found {
    Place(Place),
    /// Nothing: whoever asked is to open a connection now.
    Dial,
    Full,
}

impl Sessions {
    /// Pending while a connection is being opened.
    fn find(&self, endpoint: EndpointKey, fingerprint: u64, max: u32, cx: &Context<'_>) -> Poll<Found> {
        let mut endpoints = self.endpoints.borrow_mut();
        let entry = endpoints.entry(endpoint).or_default();
        // The busiest that has room: the others may become idle.
        let usable = entry.sessions.iter().filter(|session| session.has_room(fingerprint));
        if let Some(session) = usable.max_by_key(|session| session.streams.get()) {
            return Poll::Ready(Found::Place(Place::take(session)));
        }
        if entry.is_dialing {
            entry.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        let open = entry.sessions.iter().filter(|session| !session.is_closing.get()).count();
        if open >= max as usize {
            return Poll::Ready(Found::Full);
        }
        entry.is_dialing = true;
        Poll::Ready(Found::Dial)
    }

    fn dialed(&self, endpoint: EndpointKey, session: Option<&Rc<Session>>) {
        let mut endpoints = self.endpoints.borrow_mut();
        let entry = endpoints.entry(endpoint).or_default();
        entry.is_dialing = false;
        entry.sessions.extend(session.cloned());
        entry.waiting.drain(..).for_each(Waker::wake);
    }

    fn remove(&self, endpoint: EndpointKey, session: &Rc<Session>) {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(entry) = endpoints.get_mut(&endpoint) {
            entry.sessions.retain(|other| !Rc::ptr_eq(other, session));
            if entry.sessions.is_empty() && !entry.is_dialing {
                endpoints.remove(&endpoint);
            }
        }
    }

    /// Connections open now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.endpoints.borrow().values().map(|entry| entry.sessions.len() as u64).sum()
    }

    /// The connections of an endpoint that was removed take no more streams, and end with their last one.
    pub fn forget(&self, endpoint: EndpointKey) {
        if let Some(entry) = self.endpoints.borrow().get(&endpoint) {
            entry.sessions.iter().for_each(|session| session.close());
        }
    }

    /// The same of all of them.
    pub fn clear(&self) {
        self.endpoints
            .borrow()
            .values()
            .flat_map(|entry| &entry.sessions)
            .for_each(|session| session.close());
    }
}

/// An endpoint to connect to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Whose it is.
    pub backend: BackendId,
    /// Which.
    pub endpoint: EndpointKey,
    /// Where it is.
    pub addr: SocketAddr,
}

impl From<&Pick> for Target {
    fn from(pick: &Pick) -> Self {
        Self { backend: pick.backend, endpoint: pick.endpoint, addr: pick.addr }
    }
}

/// A stream to an endpoint, on a connection that is there or on a new one.
///
/// # Errors
/// [`NoConnection`]; nothing was sent.
pub async fn open(worker: &Rc<Worker>, to: Target, carries: Carries) -> Result<Opened, NoConnection> {
    let max = worker.settings().http2_connections_max;
    let found = poll_fn(|cx| {
        // Asked again each time: the settings may have changed while another one dialed.
        let fingerprint = dial::spoken(worker, to.backend).fingerprint;
        worker.h2.find(to.endpoint, fingerprint, max, cx)
    });
    let (place, reused) = match found.await {
        Found::Place(place) => (place, true),
        Found::Dial => (dial_one(worker, to).await?, false),
        Found::Full => {
            worker.stats.hit(Limit::Http2Connections);
            return Err(NoConnection::Streams);
        }
    };
    if carries == Carries::Tunnel {
        place.session.tunnels().await?;
    }
    Ok(Opened { stream: begin(worker, place, carries), reused })
}

/// Whoever dials may be dropped at any time: then another one of those that wait does.
struct Dialing<'a> {
    worker: &'a Worker,
    endpoint: EndpointKey,
    session: Option<Rc<Session>>,
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.worker.h2.dialed(self.endpoint, self.session.as_ref());
    }
}

async fn dial_one(worker: &Rc<Worker>, to: Target) -> Result<Place, NoConnection> {
    let mut dialing = Dialing { worker, endpoint: to.endpoint, session: None };
    let conn = dial::dial(worker, to.backend, to.addr).await?;
    let fingerprint = conn.fingerprint();
    let local = conn.local_addr().unwrap_or(to.addr);
    let origin = Rc::new(Origin { peer: to.addr, local, tls: None });
    let (send, connection) = begin_connection(conn).await?;
    let session = Rc::new(Session {
        send,
        origin,
        fingerprint,
        streams: Cell::new(0),
        idle_since: Cell::new(clock::now()),
        is_closing: Cell::new(false),
        driver: RefCell::new(None),
        is_greeted: Cell::new(false),
        has_ended: Cell::new(false),
        asking: RefCell::default(),
    });
    let place = Place::take(&session);
    let task = drive(Rc::clone(worker), to.endpoint, Rc::clone(&session), connection);
    supervise::spawn_guarded(worker, task);
    dialing.session = Some(session);
    Ok(place)
}

/// Sends the preface and our settings; the peer's are not waited for (RFC 9113 §3.4).
async fn begin_connection(conn: Stream) -> Result<(SendRequest<Bytes>, Framed), NoConnection> {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .initial_max_send_streams(STREAMS_MAX);
    let io = Io(Rc::new(RefCell::new(Carrier::new(conn, None))));
    builder.handshake(io).await.map_err(|_| NoConnection::Failed)
}

/// Asks an endpoint for a sign of life, by a PING on a connection of its own.
///
/// # Errors
/// [`NoConnection`]: it does not accept, or does not speak HTTP/2.
pub async fn ping(worker: &Worker, backend: BackendId, addr: SocketAddr) -> Result<(), NoConnection> {
    let conn = dial::dial(worker, backend, addr).await?;
    let (_send, mut connection) = begin_connection(conn).await?;
    let Some(mut pings) = connection.ping_pong() else { return Err(NoConnection::Failed) };
    pings.send_ping(Ping::opaque()).map_err(|_| NoConnection::Failed)?;
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(NoConnection::Failed));
        }
        pings.poll_pong(cx).map(|pong| pong.map(|_| ()).map_err(|_| NoConnection::Failed))
    })
    .await
}

/// Starts the task of one request.
fn begin(worker: &Rc<Worker>, place: Place, carries: Carries) -> Stream {
    let (ours, theirs) = pipe();
    let stream = Stream::piped(theirs, Rc::clone(&place.session.origin));
    let send = place.session.send.clone();
    let how = stream::How { is_secure: place.session.fingerprint != 0, carries };
    worker.stats.http2_upstream_streams_total.inc();
    let owner = Rc::clone(worker);
    supervise::spawn_guarded(worker, async move {
        let deadline = owner.deadline();
        stream::serve(&owner, &deadline, ours, send, how).await;
        drop(place);
    });
    stream
}

/// What a connection's task waits for.
enum Event {
    Ended,
    Pong,
    /// Somebody waits for what its peer announces.
    Asked,
    Deadline,
    Closing,
}

/// Moves a connection's frames until it ends, asks a silent one for a sign of life, and lets go of one that nobody needs.
async fn drive(worker: Rc<Worker>, endpoint: EndpointKey, session: Rc<Session>, mut connection: Framed) {
    let mut pings = connection.ping_pong();
    let deadline = worker.deadline();
    let mut asked = None;
    let mut connection = pin!(connection);
    loop {
        let settings = worker.settings();
        let (ping, idle) = (settings.http2_ping, settings.pool_idle_timeout);
        drop(settings);
        deadline.set(clock::now() + if session.streams.get() == 0 { idle.min(ping) } else { ping });
        let event = poll_fn(|cx| {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Ended);
            }
            if asked.is_some()
                && let Some(pings) = &mut pings
                && pings.poll_pong(cx).is_ready()
            {
                return Poll::Ready(Event::Pong);
            }
            if !session.asking.borrow().is_empty() {
                if session.takes_tunnels().is_some() {
                    session.tell();
                } else if asked.is_none() {
                    return Poll::Ready(Event::Asked);
                }
            }
            if session.is_closing.get() && session.streams.get() == 0 {
                return Poll::Ready(Event::Closing);
            }
            *session.driver.borrow_mut() = Some(cx.waker().clone());
            deadline.poll(cx).map(|()| Event::Deadline)
        })
        .await;
        let now = clock::now();
        match event {
            Event::Ended | Event::Closing => break,
            Event::Pong => {
                asked = None;
                session.is_greeted.set(true);
            }
            Event::Asked => match pings.as_mut().map(|pings| pings.send_ping(Ping::opaque())) {
                Some(Ok(())) => asked = Some(now),
                // It is ending.
                Some(Err(_)) | None => break,
            },
            Event::Deadline if worker.is_stopping() => break,
            Event::Deadline if session.streams.get() == 0 => {
                if now.since(session.idle_since.get()) >= idle {
                    break;
                }
            }
            Event::Deadline => match (&mut pings, asked) {
                (Some(pings), None) => asked = pings.send_ping(Ping::opaque()).ok().map(|()| now),
                (Some(_), Some(since)) if now.since(since) >= ping => {
                    worker.stats.hit(Limit::Http2Ping);
                    break;
                }
                (Some(_) | None, _) => {}
            },
        }
    }
    session.is_closing.set(true);
    session.has_ended.set(true);
    session.tell();
    worker.h2.remove(endpoint, &session);
}
