//! An HTTP/1 connection of a client, from accept to close; one that turns out to be HTTP/2 goes on in [`h2`].
//!
//! Two states. *Active*: a [`Runner`] from the worker's pool reads heads and runs exchanges. *Idle*: after a little
//! while without a byte the runner and the read buffer go back to their pools, and what remains is a small future
//! that waits for readability. An idle connection is what most connections are most of the time.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use routing::delta::{Handoff, Mail};
use routing::id::BindId;
use routing::model::Protocol;
use routing::time::MonoTime;
use wire::error::WireError;
use wire::h1::decode::{self, Decoded};
use wire::h1::forwarded::IpText;

use super::h2;
use crate::exchange::{self, After, Exchange, reply};
use crate::net::conn::Conn;
use crate::net::{Buf, Class, acquire, joined, with_room};
use crate::observe::stats::Limit;
use crate::sys::prefetch::{self, Place, Places, prefetch};
use crate::tls::{self, Stream};
use crate::worker::rebalance::ConnRate;
use crate::worker::settings::Settings;
use crate::worker::{Deadline, Worker, clock, supervise};

/// What belongs to a client's connection, wherever it is served. Boxed: it moves between the idle and the active
/// future as a pointer, and neither holds it twice.
pub struct Client {
    /// The connection.
    pub conn: Stream,
    /// Where it was accepted.
    pub bind: BindId,
    /// Its deadline on the worker's wheel.
    pub deadline: Deadline,
    /// The peer's address as text, made once.
    pub peer_text: IpText,
    /// Is the peer one whose forwarding headers are believed?
    pub trusted: bool,
    /// Did nothing come that was understood yet? Then it may still turn out to be HTTP/2.
    is_new: bool,
    rate: ConnRate,
    counted: Counted,
}

/// What the requests of one connection have from it.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    bind: BindId,
    peer_text: IpText,
    trusted: bool,
    source: std::net::IpAddr,
}

impl Client {
    /// What requests have from this connection that share it.
    pub(super) fn facts(&self) -> Facts {
        let Self { bind, peer_text, trusted, counted, .. } = self;
        Facts { bind: *bind, peer_text: *peer_text, trusted: *trusted, source: counted.source }
    }

    /// One request of a connection that carries several: a client of its own to the exchange, and no connection that
    /// counts.
    pub(super) fn of_request(worker: &Rc<Worker>, facts: &Facts, conn: Stream) -> Self {
        let Facts { bind, peer_text, trusted, source } = *facts;
        let counts = Counts::Nothing;
        Self {
            conn,
            bind,
            deadline: worker.deadline(),
            peer_text,
            trusted,
            is_new: false,
            rate: ConnRate::default(),
            counted: Counted { worker: Rc::clone(worker), source, counts },
        }
    }

    /// The task that is polled now looks at this client when it is woken, and at its upstream connection, if any.
    pub(crate) fn expect(&self, upstream: Option<&Stream>) {
        let [conn, work] = self.conn.places();
        let [up, up_work] = upstream.map(Stream::places).unwrap_or_default();
        prefetch::expect([Place::of(self), conn, work, up, up_work]);
    }

    /// Waits until what was written is out, but no longer than `timeouts.write_stall`. Uses the deadline.
    ///
    /// # Errors
    /// The client is gone, or takes nothing.
    pub async fn flush(&mut self) -> io::Result<()> {
        // Nearly always it went out long ago, and only its buffer is to be collected.
        if let Poll::Ready(result) = self.conn.poll_flush(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
        let worker = Rc::clone(&self.counted.worker);
        let due = clock::now() + worker.settings().write_stall;
        loop {
            self.deadline.set(due);
            let (conn, deadline) = (&mut self.conn, &self.deadline);
            let first = poll_fn(|cx| match conn.poll_flush(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => deadline.poll(cx).map(|()| None),
            });
            match first.await {
                Some(result) => return result,
                None if worker.is_stopping() => return Err(io::ErrorKind::Interrupted.into()),
                None if clock::now() >= due => {
                    worker.stats.hit(Limit::WriteStall);
                    return Err(io::ErrorKind::TimedOut.into());
                }
                // A call to attention: the process drains, and what is being written is part of that.
                None => {}
            }
        }
    }
}

/// Counts a connection while it exists.
pub(super) struct Counted {
    worker: Rc<Worker>,
    source: std::net::IpAddr,
    counts: Counts,
}

/// What ends with a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// A request; its connection counts.
    Nothing,
    /// A connection.
    Connection,
    /// A connection of a source that may have so many.
    OfSource,
}

impl Counted {
    /// `None` = its source has as many as it may.
    pub(super) fn enter(worker: &Rc<Worker>, source: std::net::IpAddr) -> Option<Self> {
        let per_source = worker.settings().connections_per_source_max;
        if !worker.source_enters(source, per_source) {
            worker.stats.hit(Limit::ConnectionsPerSource);
            return None;
        }
        worker.stats.connections_total.inc();
        worker.stats.connections_open.add(1);
        let counts = if per_source > 0 { Counts::OfSource } else { Counts::Connection };
        Some(Self { worker: Rc::clone(worker), source, counts })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        match self.counts {
            Counts::Nothing => return,
            Counts::Connection => {}
            Counts::OfSource => self.worker.source_leaves(self.source),
        }
        self.worker.stats.connections_open.sub(1);
        if self.worker.is_draining() && self.worker.stats.connections_open.get() == 0 {
            // The inbox waits for the last one.
            self.worker.peers.boxes[usize::from(self.worker.id)].ring();
        }
    }
}

/// Serves a connection in a task of its own.
pub fn spawn(worker: &Rc<Worker>, conn: Conn, bind: BindId) {
    let settings = worker.settings();
    let source = conn.peer().ip();
    let Some(counted) = Counted::enter(worker, source) else { return };
    let client = Box::new(Client {
        peer_text: IpText::new(source),
        trusted: settings.trusts(source),
        deadline: worker.deadline(),
        conn: Stream::plain(conn),
        bind,
        is_new: true,
        rate: ConnRate::default(),
        counted,
    });
    let protocol = worker.table.borrow().protocol(bind).unwrap_or(Protocol::Http);
    supervise::spawn_guarded(worker, serve(Rc::clone(worker), client, protocol));
}

/// The task of one connection. Its size is what an idle connection costs: see `idle_future_is_small`.
async fn serve(worker: Rc<Worker>, mut client: Box<Client>, protocol: Protocol) {
    match protocol {
        Protocol::Http => {}
        // Handed over by another worker while its address became one of layer 4.
        Protocol::Tcp | Protocol::TlsPassthrough | Protocol::TlsTerminate | Protocol::Udp => return,
        // Boxed: its memory is given back when it is over.
        Protocol::Https => {
            if !Box::pin(tls::accept::handshake(&worker, &mut client)).await.is_established() {
                return;
            }
        }
    }
    if client.conn.tls().is_some_and(|tls| tls.alpn == tls::Alpn::Http2) {
        return Box::pin(h2::serve(worker, client, None)).await;
    }
    loop {
        let mut runner = worker.take_runner();
        let ended = runner.run(Job::Connection(client)).await;
        worker.put_runner(runner);
        client = match ended {
            Ended::Idle(client) => client,
            Ended::Http2(client, first) => return Box::pin(h2::serve(worker, client, Some(first))).await,
            Ended::Closed => return,
        };
        if !wait_idle(&worker, &mut client).await {
            return;
        }
    }
}

/// Waits without a buffer. `false` when the connection is to be closed.
async fn wait_idle(worker: &Rc<Worker>, client: &mut Client) -> bool {
    client.conn.start_watch();
    // The drain may have begun while the last response was on its way: nobody calls again.
    client.deadline.set(worker.idle_until(clock::now() + worker.settings().idle_client));
    client.deadline.enter_idle();
    let readable = loop {
        let first = poll_fn(|cx| {
            if client.conn.poll_watch(cx).is_ready() {
                return Poll::Ready(true);
            }
            client.deadline.poll(cx).map(|()| false)
        });
        let readable = first.await;
        let until = worker.idle_until(MonoTime::ZERO);
        if readable || clock::now() >= until {
            break readable;
        }
        // The drain begins: what is on its way to us is still served.
        client.deadline.set(until);
    };
    let still_listed = client.deadline.leave_idle();
    client.deadline.clear();
    readable && still_listed
}

/// Where a connection's active phase left it.
enum Ended {
    /// Nothing came for a while: it waits without a buffer now.
    Idle(Box<Client>),
    /// It begins as HTTP/2 does.
    Http2(Box<Client>, Buf),
    /// It is closed, or somebody else's.
    Closed,
}

/// A place to run exchanges in, used by one active connection after the other so that none allocates.
pub struct Runner {
    jobs: Pin<Box<dyn Future<Output = ()>>>,
    /// What it looks at when it is polled next.
    next: Places,
}

/// What a runner does next.
enum Job {
    /// The requests of a connection.
    Connection(Box<Client>),
    /// One request of a connection that carries several, with its head.
    Request(Box<Client>, Buf),
}

thread_local! {
    /// A runner's next job, and the end of its last: each is put down and taken up within one poll, so that one
    /// place does for all runners and stays in the cache.
    static JOB: Cell<Option<Job>> = const { Cell::new(None) };
    static ENDED: Cell<Option<Ended>> = const { Cell::new(None) };
}

impl Runner {
    /// A new place: one allocation of a few kilobytes, used again and again.
    #[must_use]
    pub fn new(worker: Rc<Worker>) -> Self {
        Self { jobs: Box::pin(run_jobs(worker)), next: Places::default() }
    }

    /// One request of a connection that carries several.
    pub(super) async fn exchange(&mut self, client: Box<Client>, head: Buf) {
        self.run(Job::Request(client, head)).await;
    }

    async fn run(&mut self, job: Job) -> Ended {
        let mut job = Some(job);
        poll_fn(|cx| {
            prefetch(&*self.jobs);
            self.next.into_iter().for_each(Place::prefetch);
            if let Some(job) = job.take() {
                JOB.set(Some(job));
            }
            let _never_ends = self.jobs.as_mut().poll(cx);
            self.next = prefetch::expected();
            ENDED.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

async fn run_jobs(worker: Rc<Worker>) {
    let mut exchange = Exchange::default();
    loop {
        let job = poll_fn(|_| JOB.take().map_or(Poll::Pending, Poll::Ready)).await;
        let ended = match job {
            Job::Connection(client) => active(&worker, &mut exchange, client).await,
            Job::Request(client, head) => {
                h2::run(&worker, &mut exchange, client, head).await;
                Ended::Closed
            }
        };
        exchange.shrink();
        ENDED.set(Some(ended));
    }
}

/// Reads heads and runs exchanges until the connection is idle or closed.
async fn active(worker: &Rc<Worker>, exchange: &mut Exchange, mut client: Box<Client>) -> Ended {
    let mut rest: Option<Buf> = None;
    let mut since = clock::now();
    loop {
        let settings = worker.settings();
        match read_head(worker, &settings, exchange, &mut client, rest.take(), since).await {
            Head::Complete(buf, at) => {
                client.is_new = false;
                worker.rebalance.count(&mut client.rate);
                match exchange::run(worker, &settings, exchange, &mut client, buf, at).await {
                    After::KeepAlive { next, ended } => {
                        rest = next;
                        since = ended;
                    }
                    After::Close => return closed(worker, client).await,
                    After::Abort => {
                        client.conn.reset();
                        return Ended::Closed;
                    }
                }
                if settings.rebalance
                    && rest.is_none()
                    // A TLS session stays where its keys are.
                    && client.conn.tls().is_none()
                    && let Some(target) = worker.rebalance.give_away(&client.rate)
                {
                    match hand_over(worker, client, target).await {
                        HandOver::Gone => return Ended::Closed,
                        HandOver::Stays(back, bytes) => {
                            client = back;
                            rest = bytes;
                        }
                    }
                }
            }
            Head::Http2(buf) => return Ended::Http2(client, buf),
            Head::Idle => {
                // An idle connection holds no buffer, not even that of its last response.
                if client.flush().await.is_err() {
                    client.conn.reset();
                    return Ended::Closed;
                }
                return Ended::Idle(client);
            }
            // The last response may still be on its way.
            Head::Closed if client.conn.is_writing() => return closed(worker, client).await,
            Head::Closed => return Ended::Closed,
            Head::Refused(error) => {
                worker.stats.refused(error);
                exchange::refuse(worker, exchange, &mut client, error.status(), error.name()).await;
                return closed(worker, client).await;
            }
            Head::Late => {
                worker.stats.hit(Limit::HeaderTimeout);
                exchange::refuse(worker, exchange, &mut client, 408, "header_timeout").await;
                return closed(worker, client).await;
            }
            Head::NoBuffer => {
                worker.stats.hit(Limit::BuffersBytes);
                let _ = reply::without_buffer(&mut client).await;
                return Ended::Closed;
            }
        }
    }
}

// ---------------------------------------------------------------- heads

/// What reading a head came to.
enum Head {
    /// The buffer starts with a complete head, whose last bytes came at that time.
    Complete(Buf, MonoTime),
    /// Not a byte for `timeouts.buffer_idle`.
    Idle,
    /// The client closed, or the process wants it closed.
    Closed,
    /// It is the beginning of HTTP/2.
    Http2(Buf),
    /// It is not a head.
    Refused(WireError),
    /// It took longer than `timeouts.header`.
    Late,
    /// The bound on buffer memory is reached.
    NoBuffer,
}

/// Reads until a head is complete. `rest` is what came behind the last request, which ended at `since`.
async fn read_head(
    worker: &Rc<Worker>,
    settings: &Settings,
    exchange: &mut Exchange,
    client: &mut Client,
    rest: Option<Buf>,
    since: MonoTime,
) -> Head {
    let (mut begun, mut seen) = (since, since);
    let mut held = rest.filter(|buf| !buf.is_empty());
    let mut partial = held.is_some();
    let mut cancelled = false;
    loop {
        if let Some(buf) = held.take() {
            match decode::request(buf.bytes(), &settings.head, &mut exchange.request) {
                Ok(Decoded::Complete) => return Head::Complete(buf, seen),
                Ok(Decoded::Partial) => held = Some(buf),
                Err(_) if speaks_http2(settings, client, &buf) => return Head::Http2(buf),
                Err(error) => return Head::Refused(error),
            }
        }
        // The last exchange may have left a read behind, in a buffer of its own.
        if !client.conn.is_reading() {
            let Some(buf) = with_room(held.take()) else { return Head::NoBuffer };
            client.conn.start_read(buf);
        }
        let due = match partial {
            true => begun + settings.header_timeout,
            false => worker.idle_until(begun + settings.buffer_idle),
        };
        match wait_read(client, due).await {
            Waited::Read(Ok(0), _) => return Head::Closed,
            Waited::Read(Ok(n), buf) => {
                worker.stats.received_bytes_total.add(n as u64);
                seen = clock::now();
                if !partial {
                    begun = seen;
                }
                partial = true;
                let whole = match held.take() {
                    None => Some(buf),
                    Some(first) => joined(first, &buf),
                };
                let Some(whole) = whole else { return Head::NoBuffer };
                held = Some(whole);
            }
            Waited::Read(Err(_), _) if cancelled && !partial => return Head::Idle,
            Waited::Read(Err(_), _) => return Head::Closed,
            Waited::Deadline if partial => {
                if clock::now() >= due {
                    return Head::Late;
                }
            }
            // The drain begins: what is on its way to us is still served.
            Waited::Deadline if clock::now() < worker.idle_until(due) => {}
            Waited::Deadline => {
                cancelled = true;
                client.conn.cancel_read();
            }
        }
    }
}

/// Is this HTTP/2 with prior knowledge, where that is spoken? With TLS it is agreed on before.
fn speaks_http2(settings: &Settings, client: &Client, buf: &Buf) -> bool {
    settings.http2.cleartext && client.is_new && client.conn.tls().is_none() && h2::is_preface(buf.bytes())
}

enum Waited {
    Read(io::Result<usize>, Buf),
    Deadline,
}

/// Waits for the read in flight, or until `due` (or a call to attention) if that comes first.
async fn wait_read(client: &mut Client, due: MonoTime) -> Waited {
    client.deadline.set(due);
    poll_fn(|cx| {
        client.expect(None);
        if let Poll::Ready((result, buf)) = client.conn.poll_read(cx) {
            return Poll::Ready(Waited::Read(result, buf));
        }
        client.deadline.poll(cx).map(|()| Waited::Deadline)
    })
    .await
}

// ---------------------------------------------------------------- ends

/// How long, and for how many bytes, a closing connection is read so that the client sees the answer and not a
/// reset (RFC 9112 §9.6).
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 256 * 1024;

async fn closed(worker: &Worker, client: Box<Client>) -> Ended {
    close(worker, client).await;
    Ended::Closed
}

/// Closes after our last response: flush, FIN, and read what the client still sends, within bounds.
pub(super) async fn close(worker: &Worker, mut client: Box<Client>) {
    if client.flush().await.is_err() {
        // The response is not all out: no clean end.
        client.conn.reset();
        return;
    }
    client.conn.shutdown_write();
    let due = clock::now() + LINGER;
    let mut seen = 0;
    while seen < LINGER_BYTES_MAX && !worker.is_stopping() {
        if !client.conn.is_reading() {
            let Some(buf) = acquire(Class::Head, 0) else { break };
            client.conn.start_read(buf);
        }
        match wait_read(&mut client, due).await {
            Waited::Read(Ok(n), _) if n > 0 => seen += n as u64,
            Waited::Read(..) => break,
            Waited::Deadline if clock::now() >= due => break,
            // A call to attention: closing is what the process wants.
            Waited::Deadline => {}
        }
    }
}

/// Where a connection is that was to be handed over.
enum HandOver {
    /// With another worker.
    Gone,
    /// Here: bytes came first, or the other worker has no room.
    Stays(Box<Client>, Option<Buf>),
}

/// Gives a connection that is between two requests to another worker.
async fn hand_over(worker: &Rc<Worker>, mut client: Box<Client>, target: u16) -> HandOver {
    if client.flush().await.is_err() {
        client.conn.reset();
        return HandOver::Gone;
    }
    if client.conn.is_reading() {
        client.conn.cancel_read();
        match client.conn.finish_read().await {
            (Ok(0), _) => return HandOver::Gone,
            (Ok(_), buf) => return HandOver::Stays(client, Some(buf)),
            (Err(_cancelled), _) => {}
        }
    }
    let Client { conn, bind, deadline, counted, .. } = *client;
    drop(deadline);
    let peer = conn.peer();
    let Some(socket) = conn.into_socket() else { return HandOver::Gone };
    let handoff = Mail::Adopt(Handoff { socket, bind, peer });
    match worker.peers.boxes[usize::from(target)].send(handoff) {
        Ok(()) => worker.stats.handed_over_total.inc(),
        Err(Mail::Adopt(Handoff { socket, .. })) => {
            if let Ok(conn) = Conn::adopt(socket, peer, crate::net::conn::Cancel::Allowed) {
                spawn(worker, conn, bind);
            }
        }
        Err(Mail::Update(_) | Mail::Wake) => {}
    }
    drop(counted);
    HandOver::Gone
}

#[cfg(test)]
mod tests;
