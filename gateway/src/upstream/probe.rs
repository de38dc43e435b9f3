//! Probes: what the failure detector asks an endpoint, on a connection of its own, or of datagrams by a socket of its own.

use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use routing::health::action::{Probe, ProbeKind, ProbeResult};
use routing::model::{Application, Speech};
use routing::time::MonoTime;

use crate::accept::is_out_of_descriptors;
use crate::downstream::udp;
use crate::net::datagram::DatagramSocket;
use crate::net::{self, Buf, Class, acquire};
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;
use crate::tls::Stream;
use crate::tls::connect::Ended;
use crate::upstream::dial::NoConnection;
use crate::upstream::health::Said;
use crate::upstream::{dial, endings, h2, health};
use crate::worker::drill::Fault;
use crate::worker::{Deadline, Worker, clock, supervise};

/// How an endpoint's word that it does not serve is shown: as 503 Service Unavailable.
const NOT_SERVING: u16 = 503;

/// Sends a probe in a task of its own; its result goes to the table.
pub fn send(worker: &Rc<Worker>, probe: Probe) {
    worker.stats.probes_total.inc();
    let Some(place) = Place::take(worker) else {
        let now = clock::now();
        return worker.table.borrow().on_probe(probe.token, unknown(now, now), now);
    };
    let owner = Rc::clone(worker);
    supervise::spawn_guarded(worker, async move {
        // Boxed: a handshake may be part of it, and few of these tasks need that much.
        let result = Box::pin(ask(&owner, &probe)).await;
        drop(place);
        let now = clock::now();
        let whom = Whom { endpoint: Some(probe.endpoint), ..Whom::default() };
        owner.recorder.note(now, whom, What::Probe { result });
        owner.table.borrow().on_probe(probe.token, result, now);
        owner.heed();
    });
}

/// One of the probes that a worker may have in flight (`limits.probes_max`), while this lives.
pub(crate) struct Place(Rc<Worker>);

impl Place {
    /// `None` = there is no room; counted.
    pub(crate) fn take(worker: &Rc<Worker>) -> Option<Self> {
        let probes = &worker.detect.probes;
        if probes.get() >= worker.settings().probes_max {
            worker.stats.hit(Limit::Probes);
            return None;
        }
        probes.set(probes.get() + 1);
        Some(Self(Rc::clone(worker)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let probes = &self.0.detect.probes;
        probes.set(probes.get() - 1);
    }
}

/// Standstills of our own for which one probe is given more time; whoever stands still more often learns nothing by it.
const MORE_TIMES_MAX: u32 = 8;

/// Why an endpoint gave no good answer.
enum NoAnswer {
    /// This is what it gave.
    Given(ProbeResult),
    /// It could not be asked, for want of something of our own: that says nothing about it.
    Shortage(Limit),
}

impl From<ProbeResult> for NoAnswer {
    fn from(result: ProbeResult) -> Self {
        Self::Given(result)
    }
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        if is_out_of_descriptors(&error) {
            Self::Shortage(Limit::Descriptors)
        } else if error.kind() == io::ErrorKind::OutOfMemory {
            Self::Shortage(Limit::BuffersBytes)
        } else {
            Self::Given(ProbeResult::Refused)
        }
    }
}

impl From<NoConnection> for NoAnswer {
    fn from(none: NoConnection) -> Self {
        match none {
            NoConnection::Descriptors => Self::Shortage(Limit::Descriptors),
            NoConnection::Tls(Ended::Buffers) => Self::Shortage(Limit::BuffersBytes),
            NoConnection::Refused
            | NoConnection::Failed
            | NoConnection::Tls(_)
            | NoConnection::Settings
            | NoConnection::Streams
            | NoConnection::Tunnels => Self::Given(ProbeResult::Refused),
        }
    }
}

/// What is told where nothing was found out: an unknown state means "keep using it".
fn unknown(begun: MonoTime, now: MonoTime) -> ProbeResult {
    ProbeResult::Answered { latency: now.since(begun) }
}

/// Asks, and waits for the answer for as long as a probe may take while this worker is running: an answer that came while
/// it stood still could not be heard, and one that is overdue by our own fault says nothing.
async fn ask(worker: &Rc<Worker>, probe: &Probe) -> ProbeResult {
    let begun = clock::now();
    let deadline = worker.deadline();
    let mut answer = pin!(answer(worker, probe));
    let timeout = probe.timeout.max(closing(worker, probe).unwrap_or_default() * 4);
    let mut due = begun + timeout;
    for _ in 0..MORE_TIMES_MAX {
        match within(worker, &deadline, due, answer.as_mut()).await {
            Some(Ok(())) => return ProbeResult::Answered { latency: clock::now().since(begun) },
            Some(Err(NoAnswer::Given(result))) => return result,
            Some(Err(NoAnswer::Shortage(limit))) => {
                worker.stats.hit(limit);
                return unknown(begun, clock::now());
            }
            None => {}
        }
        let now = clock::now();
        let missing = timeout.saturating_sub(worker.awake(begun, now));
        if missing.is_zero() {
            // The silence of a host that is not known to answer says nothing.
            return match is_datagrams(worker, probe) && !worker.flows.hosts.answers(probe.endpoint) {
                true => unknown(begun, now),
                false => ProbeResult::TimedOut,
            };
        }
        if worker.is_stopping() {
            break;
        }
        due = now + missing;
    }
    unknown(begun, clock::now())
}

/// Comes back when the endpoint has said something, or refused to; for ever silent when it is.
async fn answer(worker: &Rc<Worker>, probe: &Probe) -> Result<(), NoAnswer> {
    drilled(worker, probe).await?;
    if is_datagrams(worker, probe) {
        return ask_host(worker, probe).await;
    }
    let Some(request) = request(probe).filter(|_| !is_opaque(worker, probe)) else {
        let conn = net::listen::connect(probe.addr).await?;
        if closing(worker, probe).is_some() && !endings::closes(conn).await? {
            std::future::pending::<()>().await;
        }
        return Ok(());
    };
    let backend = worker.table.borrow().endpoint(probe.endpoint).map(|endpoint| endpoint.backend);
    let backend = backend.ok_or(ProbeResult::Refused)?;
    let is_grpc = matches!(probe.kind, ProbeKind::Grpc { .. });
    let of_h2 = is_grpc
        || !is_elsewhere(worker, probe) && dial::spoken(worker, backend).protocol == Application::Http2;
    if of_h2 && probe.kind == ProbeKind::Ping {
        // What HTTP/2 has for it, and no request that an application would have to answer.
        return Ok(Box::pin(h2::ping(worker, backend, probe.addr)).await?);
    }
    let to = h2::Target { backend, endpoint: probe.endpoint, addr: probe.addr };
    let in_clear = matches!(probe.kind, ProbeKind::Http { asks, .. } if asks.in_clear);
    let connected = match of_h2 {
        false if in_clear => Ok(Stream::plain(net::listen::connect(probe.addr).await?)),
        false => dial::dial(worker, backend, probe.addr).await,
        true => Box::pin(h2::open(worker, to, h2::Carries::Request)).await.map(|opened| opened.stream),
    };
    let mut conn = connected?;
    if let ProbeKind::Grpc { good, .. } = probe.kind {
        return match health::check(&mut conn, request).await? {
            Said::Serving => Ok(()),
            // That it does not serve is its own word, whatever codes are good.
            Said::Code(code) if code != 0 && good.contains(code) => Ok(()),
            Said::Code(_) | Said::Nothing => Err(ProbeResult::BadStatus(NOT_SERVING).into()),
        };
    }
    let status = exchange(&mut conn, request).await?;
    match probe.kind {
        ProbeKind::Http { asks, .. } if !asks.good.contains(status) => {
            Err(ProbeResult::BadStatus(status).into())
        }
        ProbeKind::Connect | ProbeKind::Ping | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => Ok(()),
    }
}

/// What a drill makes of a probe: to the detector a drilled cluster looks as a broken one does.
async fn drilled(worker: &Worker, probe: &Probe) -> Result<(), ProbeResult> {
    let cluster = worker.table.borrow().endpoint(probe.endpoint).map(|endpoint| endpoint.cluster);
    match cluster.and_then(|cluster| worker.drill_fault(cluster)) {
        Some(Fault::Refuse) => Err(ProbeResult::Refused),
        Some(Fault::Blackhole) => std::future::pending().await,
        // Its kernel accepts, and its health answers: it is requests that fail.
        Some(Fault::Latency(_) | Fault::Status(_)) | None => Ok(()),
    }
}

/// Is a port asked that is not the endpoint's own? What the backend speaks says nothing of that.
fn is_elsewhere(worker: &Worker, probe: &Probe) -> bool {
    let table = worker.table.borrow();
    table.endpoint(probe.endpoint).is_some_and(|endpoint| endpoint.addr != probe.addr)
}

/// Does the endpoint take datagrams, and is its host all that can be asked?
fn is_datagrams(worker: &Worker, probe: &Probe) -> bool {
    let of_app = matches!(probe.kind, ProbeKind::Http { .. } | ProbeKind::Grpc { .. });
    !of_app && speech(worker, probe) == Speech::Datagrams
}

/// How long the endpoint takes to close a connection that ends, where that is what is asked.
fn closing(worker: &Worker, probe: &Probe) -> Option<Duration> {
    worker.usual.endings.usual(probe.endpoint).filter(|_| is_opaque(worker, probe))
}

/// Is the question one of HTTP, and the endpoint's speech another? What a database makes of a request is no sign of its
/// health: then that it closes what has ended is all that can be asked, and that it accepts where not even that is known.
fn is_opaque(worker: &Worker, probe: &Probe) -> bool {
    match probe.kind {
        ProbeKind::Connect | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => false,
        ProbeKind::Ping => speech(worker, probe) == Speech::Opaque,
    }
}

fn speech(worker: &Worker, probe: &Probe) -> Speech {
    let table = worker.table.borrow();
    let backend = table.endpoint(probe.endpoint).map(|endpoint| endpoint.backend);
    backend.map(|backend| table.speech(backend)).unwrap_or_default()
}

/// Asks for an endpoint that takes datagrams: an empty one, which a host answers with ICMP where nobody listens, and a
/// connect, which a host that lives answers either way. Neither asks the application anything.
async fn ask_host(worker: &Rc<Worker>, probe: &Probe) -> Result<(), NoAnswer> {
    let socket = DatagramSocket::connected(probe.addr)?;
    let refused = |result: &io::Result<()>| match result {
        Ok(()) => false,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    if refused(&socket.send_one(&[])) {
        return Err(ProbeResult::Refused.into());
    }
    let mut connect = pin!(net::listen::connect(probe.addr));
    let mut readable = pin!(socket.readable());
    let first = poll_fn(|cx| match readable.as_mut().poll(cx) {
        Poll::Ready(_told_by_the_receive) => Poll::Ready(None),
        Poll::Pending => connect.as_mut().poll(cx).map(Some),
    });
    match first.await {
        // Something came: an answer, or ICMP.
        None => {}
        Some(connected) if udp::is_answer(&connected) => worker.flows.hosts.note(probe.endpoint),
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(_)) => {}
    }
    // The datagram went first: what ICMP has to say of it has come before what the connect came to.
    if refused(&socket.look()) { Err(ProbeResult::Refused.into()) } else { Ok(()) }
}

/// The bytes to send, if the connect alone is not the question.
fn request(probe: &Probe) -> Option<Buf> {
    let mut bytes = Vec::with_capacity(256);
    let addr = probe.addr;
    let written = match &probe.kind {
        ProbeKind::Connect => return None,
        ProbeKind::Grpc { service, host, .. } if host.is_empty() => {
            return health::request(service, &addr.to_string());
        }
        ProbeKind::Grpc { service, host, .. } => return health::request(service, host),
        ProbeKind::Ping => write!(bytes, "OPTIONS * HTTP/1.1\r\nHost: {addr}\r\n"),
        ProbeKind::Http { path, host, asks } => {
            let own = addr.to_string();
            let host = if host.is_empty() { &*own } else { host };
            write!(bytes, "{} {path} {}\r\nHost: {host}\r\n", asks.method.as_str(), asks.version.as_str())
        }
    };
    written.ok()?;
    bytes.extend_from_slice(b"User-Agent: ringway-probe\r\nConnection: close\r\n\r\n");
    let mut buf = acquire(Class::Head, 0)?;
    (buf.append(&bytes) == bytes.len()).then_some(buf)
}

/// Sends the request; the status of the answer. An answer that is no HTTP counts as a status of 0.
async fn exchange(conn: &mut Stream, request: Buf) -> io::Result<u16> {
    conn.start_write(request);
    conn.flush().await?;
    let buf = acquire(Class::Head, 0).ok_or(io::ErrorKind::OutOfMemory)?;
    conn.start_read(buf);
    let (result, buf) = conn.finish_read().await;
    if result? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let digits = buf.bytes().get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    Ok(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0))
}

/// The future's result, or `None` when it is not there by `due`. A future that is dropped closes its connection.
pub async fn within<T>(
    worker: &Worker,
    deadline: &Deadline,
    due: MonoTime,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    loop {
        deadline.set(due);
        let first = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => deadline.poll(cx).map(|()| None),
        });
        match first.await {
            Some(value) => return Some(value),
            None if clock::now() >= due || worker.is_stopping() => return None,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_ourselves_is_no_answer_of_an_endpoint() {
        let of = |errno| NoAnswer::from(io::Error::from_raw_os_error(errno));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            assert!(matches!(of(errno), NoAnswer::Shortage(Limit::Descriptors)), "{errno}");
        }
        let no_buffer = NoAnswer::from(io::Error::from(io::ErrorKind::OutOfMemory));
        assert!(matches!(no_buffer, NoAnswer::Shortage(Limit::BuffersBytes)));
        for errno in [libc::ECONNREFUSED, libc::ECONNRESET, libc::EHOSTUNREACH] {
            assert!(matches!(of(errno), NoAnswer::Given(ProbeResult::Refused)), "{errno}");
        }
        assert!(matches!(NoConnection::Descriptors.into(), NoAnswer::Shortage(Limit::Descriptors)));
        assert!(matches!(NoConnection::Refused.into(), NoAnswer::Given(ProbeResult::Refused)));
    }
}
