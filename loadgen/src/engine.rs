//! The open loop: requests become due at a constant rate and are sent as soon as a connection is free.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::connection::{Begun, Connection, Event, Reuse, Why, read_buffer};
use crate::record::{Asks, Outcome, Record, Texts};
use crate::tls::Tls;
use crate::window::{Recorder, Summary, WINDOW, Window};

/// Events taken per system call.
pub(crate) const EVENTS_MAX: usize = 1_024;
/// The longest wait, so that the stop flag is seen.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(20);
/// Bounds of [`Load::rate_per_s`] and [`Load::connections_max`].
const RATE_MAX: u32 = 1_000_000;
const CONNECTIONS_MAX: u32 = 50_000;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Where to connect.
    pub target: SocketAddr,
    /// The Host header.
    pub host: String,
    /// The request-target, beginning with `/`.
    pub path: String,
    /// Requests per second, evenly spaced; 1 to 1,000,000.
    pub rate_per_s: u32,
    /// Connections at once; 1 to 50,000. While all are busy, requests that are due wait, and their latency grows.
    pub connections_max: u32,
    /// How long requests become due; those on their way are then waited for, at most `timeout`.
    pub duration: Duration,
    /// How long a request may take from when it was due; not zero. Then it counts as failed, and its connection is
    /// closed.
    pub timeout: Duration,
    /// Further request headers, as they are.
    pub headers: Vec<(String, String)>,
    /// The response header whose values are counted one by one, for example `x-cluster`.
    pub count_header: Option<String>,
}

/// Why a load could not be run. Failures of requests are not errors: they are counted.
#[derive(Debug)]
pub enum LoadError {
    /// A field of [`Load`] is out of its bounds, or would break the request's framing.
    Invalid(&'static str),
    /// Epoll failed.
    Io(io::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(f, "invalid load: {what}"),
            Self::Io(cause) => write!(f, "load generator: {cause}"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Invalid(_) => None,
            Self::Io(cause) => Some(cause),
        }
    }
}

impl From<Errno> for LoadError {
    fn from(why: Errno) -> Self {
        Self::Io(why.into())
    }
}

/// Sends `load` on this thread and calls `on_tick` after every [`WINDOW`]; ends early when `stop` is set.
///
/// `on_tick` runs between two batches of events: what it takes longer than a millisecond shows up as latency.
///
/// # Errors
/// [`LoadError::Invalid`] before anything is sent; [`LoadError::Io`] when epoll fails.
pub fn run(load: &Load, stop: &AtomicBool, on_tick: impl FnMut(&Window)) -> Result<Summary, LoadError> {
    let mut engine = Engine::new(load, &Asks::default(), None, Instant::now(), Keep::Counts)?;
    engine.run(stop, on_tick, |_| {})
}

/// As [`run`], with requests that `asks` describes, and with `on_record` called once for every request at its end.
///
/// Times are counted from `start`, which must not lie in the future: others who know it can tell what a request met.
/// When `stop` is set, requests without an answer end as [`Outcome::Timeout`].
///
/// # Errors
/// As [`run`].
pub fn run_recorded(
    load: &Load,
    asks: &Asks,
    start: Instant,
    stop: &AtomicBool,
    on_record: impl FnMut(Record),
) -> Result<Summary, LoadError> {
    let mut engine = Engine::new(load, asks, None, start, Keep::Records)?;
    engine.run(stop, |_| {}, on_record)
}

/// As [`run_recorded`], over TLS. A latency begins when the request was due, so that of a new connection's first request
/// holds the handshake.
///
/// # Errors
/// As [`run`].
pub fn run_secured(
    load: &Load,
    asks: &Asks,
    tls: &Tls,
    start: Instant,
    stop: &AtomicBool,
    on_record: impl FnMut(Record),
) -> Result<Summary, LoadError> {
    let mut engine = Engine::new(load, asks, Some(tls), start, Keep::Records)?;
    engine.run(stop, |_| {}, on_record)
}

/// What is kept of each request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Counts,
    Records,
}

struct Engine<'a> {
    load: &'a Load,
    tls: Option<&'a Tls>,
    texts: Texts,
    keep: Keep,
    /// Ends of requests since the last batch of events; always empty with [`Keep::Counts`].
    records: Vec<Record>,
    epoll: OwnedFd,
    start: Instant,
    /// Requests that have become due so far.
    scheduled: u64,
    /// Requests that wait for a connection: number, and when due. Bounded by rate × timeout: older ones expire.
    waiting: VecDeque<(u64, Duration)>,
    slots: Vec<Slot>,
    /// Slots without a connection.
    free: Vec<usize>,
    /// Slots whose connection waits for a request; the last used is used first.
    idle: Vec<usize>,
    /// Requests on connections in the order in which they time out; those answered meanwhile are skipped.
    deadlines: VecDeque<Deadline>,
    busy: u64,
    opened: u64,
    current: Recorder,
    total: Recorder,
}

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// Tells a request of this slot from later ones.
    serial: u64,
    /// The request that the connection works on, or worked on last.
    number: u64,
    /// How long after it was due it was given to the connection.
    late: Duration,
    /// Its bytes.
    request: Vec<u8>,
}

struct Deadline {
    due: Duration,
    slot: usize,
    serial: u64,
}

impl<'a> Engine<'a> {
    fn new(
        load: &'a Load,
        asks: &Asks,
        tls: Option<&'a Tls>,
        start: Instant,
        keep: Keep,
    ) -> Result<Self, LoadError> {
        check(load)?;
        Ok(Self {
            load,
            tls,
            texts: Texts::new(load, asks)?,
            keep,
            records: Vec::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            start,
            scheduled: 0,
            waiting: VecDeque::new(),
            slots: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            deadlines: VecDeque::new(),
            busy: 0,
            opened: 0,
            current: Recorder::new(),
            total: Recorder::new(),
        })
    }

    fn run(
        &mut self,
        stop: &AtomicBool,
        mut on_tick: impl FnMut(&Window),
        mut on_record: impl FnMut(Record),
    ) -> Result<Summary, LoadError> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let mut buffer = read_buffer();
        let mut window_start = Duration::ZERO;
        loop {
            let now = self.now();
            self.schedule(now);
            self.assign();
            self.expire(now);
            self.records.drain(..).for_each(&mut on_record);
            if now >= window_start + WINDOW {
                on_tick(&self.tick(window_start, now - window_start));
                window_start = now;
            }
            let finished = now >= self.load.duration && self.in_flight() == 0;
            if finished || stop.load(Ordering::Relaxed) {
                break;
            }
            let timeout = self.wait_time(window_start + WINDOW);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(why) => return Err(why.into()),
            }
            for event in &events {
                let slot = usize::try_from(event.data.u64()).expect("tokens are slots");
                self.ready(slot, &mut buffer);
            }
        }
        let now = self.now();
        if now > window_start {
            on_tick(&self.tick(window_start, now - window_start));
        }
        let total = self.total.window(Duration::ZERO, now, self.in_flight());
        self.abandon(now);
        self.records.drain(..).for_each(on_record);
        Ok(Summary { total, connections: self.opened })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// When request number `n` is due.
    fn due(&self, n: u64) -> Duration {
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(self.load.rate_per_s);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn in_flight(&self) -> u64 {
        self.busy + self.waiting.len() as u64
    }

    fn schedule(&mut self, now: Duration) {
        loop {
            let due = self.due(self.scheduled);
            if due > now || due >= self.load.duration {
                return;
            }
            self.waiting.push_back((self.scheduled, due));
            self.scheduled += 1;
            self.current.sent += 1;
            self.total.sent += 1;
        }
    }

    /// Gives waiting requests to idle connections, then to new ones.
    fn assign(&mut self) {
        while let Some((number, due)) = self.waiting.front().copied() {
            if let Some(slot) = self.idle.pop() {
                self.waiting.pop_front();
                self.begin(slot, number, due);
                let Slot { connection, request, .. } = &mut self.slots[slot];
                let connection = connection.as_mut().expect("an idle slot has a connection");
                let event = connection.send(due, request);
                self.handle(slot, event);
            } else if self.slots.len() - self.free.len() < self.load.connections_max as usize {
                self.waiting.pop_front();
                self.open(number, due);
            } else {
                return;
            }
        }
    }

    fn open(&mut self, number: u64, due: Duration) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let wanted = self.load.count_header.as_deref();
        let opened = Connection::open(self.load.target, due, wanted, self.tls).and_then(|connection| {
            // Edge-triggered, both directions, once: no system call per change of interest.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&self.epoll, connection.socket(), epoll::EventData::new_u64(slot as u64), flags)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                self.slots[slot].connection = Some(connection);
                self.opened += 1;
                self.begin(slot, number, due);
            }
            Err(_) => {
                self.free.push(slot);
                self.fail(|failed| &mut failed.connect);
                self.record(number, due, None, Outcome::Connect, None);
            }
        }
    }

    fn begin(&mut self, slot: usize, number: u64, due: Duration) {
        let late = self.now().saturating_sub(due);
        self.busy += 1;
        let place = &mut self.slots[slot];
        place.serial += 1;
        place.number = number;
        place.late = late;
        self.texts.write(number, &mut place.request);
        self.deadlines.push_back(Deadline { due, slot, serial: place.serial });
    }

    fn ready(&mut self, slot: usize, buffer: &mut [u8]) {
        // It may have been dropped by an earlier event of the same batch.
        let Slot { connection, request, .. } = &mut self.slots[slot];
        let Some(connection) = connection.as_mut() else { return };
        let event = connection.ready(request, buffer);
        self.handle(slot, event);
    }

    fn handle(&mut self, slot: usize, event: Event) {
        match event {
            Event::Pending => {}
            Event::Answered { due, info, reuse } => {
                self.busy -= 1;
                self.slots[slot].serial += 1;
                let outcome = Outcome::Answered { status: info.status, body: info.body };
                self.record_of(slot, due, outcome, info.value.clone());
                if info.status < 400 {
                    let latency = self.now().saturating_sub(due);
                    self.current.ok(latency, info.value.as_deref());
                    self.total.ok(latency, info.value.as_deref());
                } else {
                    self.fail(|failed| &mut failed.status);
                }
                match reuse {
                    Reuse::Yes => self.idle.push(slot),
                    Reuse::No => self.drop_connection(slot),
                }
            }
            Event::Over { due, why, begun } => {
                match due {
                    Some(due) => {
                        self.busy -= 1;
                        self.slots[slot].serial += 1;
                        self.record_of(slot, due, Outcome::of(why, begun), None);
                        match why {
                            Why::Connect => self.fail(|failed| &mut failed.connect),
                            Why::Closed => self.fail(|failed| &mut failed.closed),
                            Why::Malformed => self.fail(|failed| &mut failed.malformed),
                        }
                    }
                    None => self.idle.retain(|idle| *idle != slot),
                }
                self.drop_connection(slot);
            }
        }
    }

    /// Ends what has taken too long, on connections and in the queue.
    fn expire(&mut self, now: Duration) {
        let Some(oldest) = now.checked_sub(self.load.timeout) else { return };
        while let Some((number, due)) = self.waiting.front().copied().filter(|(_, due)| *due <= oldest) {
            self.waiting.pop_front();
            self.fail(|failed| &mut failed.timeout);
            self.record(number, due, None, Outcome::Timeout(Begun::No), None);
        }
        while let Some(deadline) = self.deadlines.front() {
            let (slot, due) = (deadline.slot, deadline.due);
            let is_current = self.slots[slot].serial == deadline.serial;
            if is_current && due > oldest {
                return;
            }
            self.deadlines.pop_front();
            if is_current {
                self.busy -= 1;
                self.slots[slot].serial += 1;
                self.fail(|failed| &mut failed.timeout);
                let begun = self.slots[slot].connection.as_ref().map_or(Begun::No, Connection::begun);
                self.record_of(slot, due, Outcome::Timeout(begun), None);
                self.drop_connection(slot);
            }
        }
    }

    /// What is not answered when the load is stopped.
    fn abandon(&mut self, now: Duration) {
        while let Some((number, due)) = self.waiting.pop_front() {
            self.record(number, due, None, Outcome::Timeout(Begun::No), None);
        }
        for slot in 0..self.slots.len() {
            let Some(connection) = &self.slots[slot].connection else { continue };
            let (due, begun) = (connection.due(), connection.begun());
            if let Some(due) = due.filter(|due| *due <= now) {
                self.record_of(slot, due, Outcome::Timeout(begun), None);
            }
        }
    }

    fn record_of(&mut self, slot: usize, due: Duration, outcome: Outcome, value: Option<String>) {
        let Slot { number, late, .. } = self.slots[slot];
        self.record(number, due, Some(late), outcome, value);
    }

    fn record(
        &mut self,
        number: u64,
        due: Duration,
        late: Option<Duration>,
        outcome: Outcome,
        value: Option<String>,
    ) {
        if self.keep == Keep::Records {
            let latency = self.now().saturating_sub(due);
            self.records.push(Record { number, due, late, latency, outcome, value });
        }
    }

    fn drop_connection(&mut self, slot: usize) {
        // Closing the descriptor takes it out of the epoll set.
        self.slots[slot].connection = None;
        self.free.push(slot);
    }

    fn fail(&mut self, kind: impl Fn(&mut crate::window::Failures) -> &mut u64) {
        *kind(&mut self.current.failed) += 1;
        *kind(&mut self.total.failed) += 1;
    }

    fn tick(&mut self, start: Duration, length: Duration) -> Window {
        let window = self.current.window(start, length, self.in_flight());
        self.current.clear();
        window
    }

    /// How long to wait for events: until the next request is due or the window ends.
    fn wait_time(&self, window_end: Duration) -> Timespec {
        let due = self.due(self.scheduled);
        let next = if due < self.load.duration { due.min(window_end) } else { window_end };
        let wait = next.saturating_sub(self.now()).min(WAIT_MAX);
        Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) }
    }
}

/// Refuses what is out of bounds.
pub(crate) fn check(load: &Load) -> Result<(), LoadError> {
    let within = |value: u32, max: u32| (1..=max).contains(&value);
    let wrong = [
        (!within(load.rate_per_s, RATE_MAX), "rate_per_s must be 1 to 1000000"),
        (!within(load.connections_max, CONNECTIONS_MAX), "connections_max must be 1 to 50000"),
        (load.timeout.is_zero(), "timeout must not be zero"),
    ];
    match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
        Some((_, what)) => Err(LoadError::Invalid(what)),
        None => Ok(()),
    }
}
