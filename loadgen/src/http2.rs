//! Open-loop load over HTTP/2, in clear with prior knowledge or over TLS: each request is a stream, also a unary call of
//! gRPC.
//!
//! The same promise as over HTTP/1.1: requests become due at a constant rate whatever the answers do, and a latency
//! begins when its request was due. One thread with epoll; no task is ever woken here: when a socket is ready, or its
//! connection was given a request, the connection and its streams are asked how far they are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Uri};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::connection::Begun;
use crate::engine::{EVENTS_MAX, Load, LoadError, WAIT_MAX, check};
use crate::record::{Asks, Method, Outcome, Record, Texts};
use crate::stream::{Ask, Connection, Ended};
use crate::tls::Tls;
use crate::window::{Recorder, Summary};

/// How often requests that take too long are looked for: a timeout is late by at most this.
const EXPIRE_INTERVAL: Duration = Duration::from_millis(10);
/// Bounds of [`Http2::streams_max`].
const STREAMS_MAX: u32 = 10_000;

/// What a load over HTTP/2 has beyond others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Streams at once on a connection, 1 to 10,000. When all of [`Load::connections_max`] are full, requests that are
    /// due wait, and their latency grows.
    pub streams_max: u32,
    /// What a request is.
    pub call: Call,
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A request as [`Asks`] says.
    Http,
    /// A unary call of gRPC: POST of one message, [`Asks::body`]; good when `grpc-status` is 0.
    Grpc,
}

/// As [`crate::run_recorded`], over HTTP/2; with `tls`, by ALPN.
///
/// A connection that its peer retires (GOAWAY) finishes what it has while another takes its place; what the peer says it
/// did not process is asked again there, its latency still counted from when it was due.
///
/// # Errors
/// As [`crate::run_recorded`].
pub fn run_http2(
    load: &Load,
    asks: &Asks,
    http2: Http2,
    tls: Option<&Tls>,
    start: Instant,
    stop: &AtomicBool,
    mut on_record: impl FnMut(Record),
) -> Result<Summary, LoadError> {
    let mut engine = Engine::new(load, asks, http2, tls, start)?;
    engine.run(stop, &mut on_record)
}

struct Engine<'a> {
    load: &'a Load,
    http2: Http2,
    tls: Option<Tls>,
    requests: Requests,
    epoll: OwnedFd,
    start: Instant,
    scheduled: u64,
    /// Requests that wait for a stream. Bounded by rate × timeout: older ones expire.
    waiting: VecDeque<Ask>,
    connections: Vec<Option<Connection>>,
    expired_at: Duration,
    opened: u64,
    total: Recorder,
    ended: Vec<Ended>,
    records: Vec<Record>,
}

impl<'a> Engine<'a> {
    fn new(
        load: &'a Load,
        asks: &Asks,
        http2: Http2,
        tls: Option<&Tls>,
        start: Instant,
    ) -> Result<Self, LoadError> {
        check(load)?;
        if !(1..=STREAMS_MAX).contains(&http2.streams_max) {
            return Err(LoadError::Invalid("streams_max must be 1 to 10000"));
        }
        // The same bounds as those of requests of HTTP/1.1.
        Texts::new(load, asks)?;
        Ok(Self {
            load,
            http2,
            tls: tls.map(Tls::speaking_http2),
            requests: Requests::new(load, asks, http2.call, tls.is_some())?,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            start,
            scheduled: 0,
            waiting: VecDeque::new(),
            connections: Vec::new(),
            expired_at: Duration::ZERO,
            opened: 0,
            total: Recorder::new(),
            ended: Vec::new(),
            records: Vec::new(),
        })
    }

    fn run(&mut self, stop: &AtomicBool, on_record: &mut impl FnMut(Record)) -> Result<Summary, LoadError> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        loop {
            let now = self.start.elapsed();
            self.schedule(now);
            self.assign();
            self.expire(now);
            self.records.drain(..).for_each(&mut *on_record);
            let finished = now >= self.load.duration && self.in_flight() == 0;
            if finished || stop.load(Ordering::Relaxed) {
                break;
            }
            let timeout = self.wait_time();
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(why) => return Err(why.into()),
            }
            for event in &events {
                self.pump(usize::try_from(event.data.u64()).expect("tokens are places"));
            }
        }
        let total = self.total.window(Duration::ZERO, self.start.elapsed(), self.in_flight());
        self.abandon();
        self.records.drain(..).for_each(on_record);
        Ok(Summary { total, connections: self.opened })
    }

    /// When request number `n` is due.
    fn due(&self, n: u64) -> Duration {
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(self.load.rate_per_s);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn in_flight(&self) -> u64 {
        let busy: usize = self.connections.iter().flatten().map(Connection::in_flight).sum();
        (busy + self.waiting.len()) as u64
    }

    fn schedule(&mut self, now: Duration) {
        loop {
            let due = self.due(self.scheduled);
            if due > now || due >= self.load.duration {
                return;
            }
            self.waiting.push_back(Ask { number: self.scheduled, due, late: Duration::ZERO });
            self.scheduled += 1;
            self.total.sent += 1;
        }
    }

    /// Gives waiting requests to the connection that has the fewest, opening all that are allowed first.
    fn assign(&mut self) {
        let mut touched = Vec::new();
        while !self.waiting.is_empty() {
            let taking = self.connections.iter().flatten().filter(|one| one.takes_more()).count();
            let place =
                if taking < self.load.connections_max as usize { self.open() } else { self.emptiest() };
            let Some(place) = place else { break };
            let Some(mut ask) = self.waiting.pop_front() else { break };
            ask.late = self.start.elapsed().saturating_sub(ask.due);
            match &mut self.connections[place] {
                Some(connection) => connection.give(ask),
                None => self.ended.push(Ended { ask, how: Err(Outcome::Connect) }),
            }
            if !touched.contains(&place) {
                touched.push(place);
            }
        }
        self.conclude();
        for place in touched {
            self.pump(place);
        }
    }

    fn emptiest(&self) -> Option<usize> {
        let streams = self.http2.streams_max as usize;
        let with_room = self.connections.iter().enumerate().filter_map(|(place, one)| {
            let one = one.as_ref().filter(|one| one.takes_more() && one.in_flight() < streams)?;
            Some((one.in_flight(), place))
        });
        with_room.min().map(|(_, place)| place)
    }

    /// A place with a connection that is being opened, or with none when that failed at once.
    fn open(&mut self) -> Option<usize> {
        let place = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let wanted = self.load.count_header.as_deref();
        self.connections[place] =
            Connection::open(self.load.target, self.tls.as_ref(), self.http2.call, wanted, |socket| {
                let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&self.epoll, socket, epoll::EventData::new_u64(place as u64), flags)
            })
            .ok();
        self.opened += u64::from(self.connections[place].is_some());
        Some(place)
    }

    /// Moves one connection on as far as it goes.
    fn pump(&mut self, place: usize) {
        // It may have ended by an earlier event of the same batch.
        let Some(connection) = self.connections[place].as_mut() else { return };
        let mut context = Context::from_waker(Waker::noop());
        connection.pump(&mut context, &self.requests, &mut self.ended);
        // First: a connection that is over may still hold what it did not process, which is asked again.
        self.conclude();
        // Closing the descriptor takes it out of the epoll set.
        self.connections[place].take_if(|connection| connection.is_over());
    }

    /// Counts what ended; what was not processed waits again, first in the queue.
    fn conclude(&mut self) {
        for Ended { ask, how } in std::mem::take(&mut self.ended) {
            let (outcome, value) = match how {
                Ok((outcome, value)) => (outcome, value),
                Err(outcome) => (outcome, None),
            };
            self.count(ask.due, outcome, value.as_deref());
            self.record(&ask, Some(ask.late), outcome, value);
        }
        for connection in self.connections.iter_mut().flatten() {
            while let Some(ask) = connection.take_back() {
                self.waiting.push_front(ask);
            }
        }
    }

    fn count(&mut self, due: Duration, outcome: Outcome, value: Option<&str>) {
        let failed = &mut self.total.failed;
        match outcome {
            _ if outcome.is_good() => self.total.ok(self.start.elapsed().saturating_sub(due), value),
            Outcome::Answered { .. } | Outcome::Grpc(_) => failed.status += 1,
            Outcome::Connect => failed.connect += 1,
            Outcome::Closed(_) => failed.closed += 1,
            Outcome::Timeout(_) => failed.timeout += 1,
            Outcome::Malformed => failed.malformed += 1,
        }
    }

    fn record(&mut self, ask: &Ask, late: Option<Duration>, outcome: Outcome, value: Option<String>) {
        let latency = self.start.elapsed().saturating_sub(ask.due);
        self.records.push(Record { number: ask.number, due: ask.due, late, latency, outcome, value });
    }

    /// Ends what has taken too long.
    fn expire(&mut self, now: Duration) {
        if now < self.expired_at + EXPIRE_INTERVAL {
            return;
        }
        self.expired_at = now;
        let Some(oldest) = now.checked_sub(self.load.timeout) else { return };
        while let Some(ask) = self.waiting.front().copied().filter(|ask| ask.due <= oldest) {
            self.waiting.pop_front();
            self.count(ask.due, Outcome::Timeout(Begun::No), None);
            self.record(&ask, None, Outcome::Timeout(Begun::No), None);
        }
        for place in 0..self.connections.len() {
            if let Some(connection) = &mut self.connections[place] {
                connection.expire(oldest, &mut self.ended);
            }
            if !self.ended.is_empty() {
                self.conclude();
                self.pump(place);
            }
        }
    }

    /// What is not answered when the load is stopped.
    fn abandon(&mut self) {
        while let Some(ask) = self.waiting.pop_front() {
            self.record(&ask, None, Outcome::Timeout(Begun::No), None);
        }
        let mut ended = Vec::new();
        for connection in self.connections.iter_mut().flatten() {
            connection.expire(Duration::MAX, &mut ended);
        }
        for Ended { ask, how } in ended {
            let outcome = how.map_or_else(|outcome| outcome, |(outcome, _)| outcome);
            self.record(&ask, Some(ask.late), outcome, None);
        }
    }

    /// How long to wait for events: until the next request is due.
    fn wait_time(&self) -> Timespec {
        let due = self.due(self.scheduled);
        let next = if due < self.load.duration { due } else { Duration::MAX };
        let wait = next.saturating_sub(self.start.elapsed()).min(WAIT_MAX);
        Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) }
    }
}

/// The requests of a load, one for each path, into which the number is written.
pub(crate) struct Requests {
    heads: Vec<Request<()>>,
    number: Option<HeaderName>,
    body: Bytes,
}

impl Requests {
    fn new(load: &Load, asks: &Asks, call: Call, is_secured: bool) -> Result<Self, LoadError> {
        let paths = if asks.paths.is_empty() { std::slice::from_ref(&load.path) } else { &asks.paths };
        let scheme = if is_secured { "https" } else { "http" };
        let invalid = || LoadError::Invalid("host, path or a header is nothing that HTTP/2 can carry");
        let heads = paths.iter().map(|path| {
            let uri: Uri = format!("{scheme}://{}{path}", load.host).parse().map_err(|_| invalid())?;
            let method = match (call, asks.method) {
                (Call::Http, Method::Get) => http::Method::GET,
                (Call::Grpc, _) | (Call::Http, Method::Post) => http::Method::POST,
            };
            let mut request = Request::builder().version(http::Version::HTTP_2).method(method).uri(uri);
            if call == Call::Grpc {
                request = request.header("content-type", "application/grpc").header("te", "trailers");
            }
            for (name, value) in &load.headers {
                request = request.header(name, value);
            }
            request.body(()).map_err(|_| invalid())
        });
        let number =
            asks.number_header.as_deref().map(|name| name.parse().map_err(|_| invalid())).transpose()?;
        let body = match call {
            Call::Http => Bytes::copy_from_slice(&asks.body),
            Call::Grpc => message(&asks.body),
        };
        Ok(Self { heads: heads.collect::<Result<_, _>>()?, number, body })
    }

    /// Request number `number`, and its body.
    pub(crate) fn of(&self, number: u64) -> (Request<()>, Bytes) {
        let turn = usize::try_from(number % self.heads.len() as u64).expect("less than a length");
        let mut request = self.heads[turn].clone();
        if let Some(name) = &self.number {
            let digits = HeaderValue::try_from(format!("{number:020}")).expect("digits are a value");
            request.headers_mut().insert(name.clone(), digits);
        }
        (request, self.body.clone())
    }
}

/// A message of gRPC: not compressed, its length, itself.
fn message(bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).expect("at most 1 MiB");
    [&[0], length.to_be_bytes().as_slice(), bytes].concat().into()
}
