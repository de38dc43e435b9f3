//! Probes: what the failure detector asks an endpoint, on a connection of its own, or of datagrams by a socket of its own.

use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use routing::health::action::{Probe, ProbeKind, ProbeResult};
use routing::model::{Application, Speech};
use routing::time::MonoTime;

use crate::downstream::udp;
use crate::net::datagram::DatagramSocket;
use crate::net::{self, Buf, Class, acquire};
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;
use crate::tls::Stream;
use crate::upstream::{dial, h2, health};
use crate::worker::drill::Fault;
use crate::worker::{Deadline, Worker, clock, supervise};

/// How an endpoint's word that it does not serve is shown: as 503 Service Unavailable.
const NOT_SERVING: u16 = 503;

/// Sends a probe in a task of its own; its result goes to the table.
pub fn send(worker: &Rc<Worker>, probe: Probe) {
    worker.stats.probes_total.inc();
    let Some(place) = Place::take(worker) else {
        // An unknown state means "keep using it".
        worker.table.borrow().on_probe(
            probe.token,
            ProbeResult::Answered { latency: std::time::Duration::ZERO },
            clock::now(),
        );
        return;
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

async fn ask(worker: &Rc<Worker>, probe: &Probe) -> ProbeResult {
    let begun = clock::now();
    let deadline = worker.deadline();
    let due = begun + probe.timeout;
    if let Some(result) = drilled(worker, &deadline, probe, due).await {
        return result;
    }
    let answered = || ProbeResult::Answered { latency: clock::now().since(begun) };
    let of_app = matches!(probe.kind, ProbeKind::Http { .. } | ProbeKind::Grpc { .. });
    if speech(worker, probe) == Speech::Datagrams && !of_app {
        return match ask_host(worker, &deadline, probe, due).await {
            Ok(()) => answered(),
            Err(result) => result,
        };
    }
    let Some(request) = request(probe).filter(|_| !is_opaque(worker, probe)) else {
        return match within(worker, &deadline, due, net::listen::connect(probe.addr)).await {
            None => ProbeResult::TimedOut,
            Some(Err(_)) => ProbeResult::Refused,
            Some(Ok(_conn)) => answered(),
        };
    };
    let Some(backend) = worker.table.borrow().endpoint(probe.endpoint).map(|endpoint| endpoint.backend)
    else {
        return ProbeResult::Refused;
    };
    let is_grpc = matches!(probe.kind, ProbeKind::Grpc { .. });
    let of_h2 = is_grpc || dial::spoken(worker, backend).protocol == Application::Http2;
    if of_h2 && probe.kind == ProbeKind::Ping {
        // What HTTP/2 has for it, and no request that an application would have to answer.
        let pinged = Box::pin(h2::ping(worker, backend, probe.addr));
        return match within(worker, &deadline, due, pinged).await {
            None => ProbeResult::TimedOut,
            Some(Err(_)) => ProbeResult::Refused,
            Some(Ok(())) => answered(),
        };
    }
    let connected = async {
        let to = h2::Target { backend, endpoint: probe.endpoint, addr: probe.addr };
        match of_h2 {
            false => dial::dial(worker, backend, probe.addr).await,
            true => Box::pin(h2::open(worker, to)).await.map(|opened| opened.stream),
        }
    };
    let mut conn = match within(worker, &deadline, due, connected).await {
        None => return ProbeResult::TimedOut,
        Some(Err(_)) => return ProbeResult::Refused,
        Some(Ok(conn)) => conn,
    };
    if is_grpc {
        return match within(worker, &deadline, due, health::check(&mut conn, request)).await {
            None => ProbeResult::TimedOut,
            Some(Err(_)) => ProbeResult::Refused,
            Some(Ok(true)) => answered(),
            Some(Ok(false)) => ProbeResult::BadStatus(NOT_SERVING),
        };
    }
    match within(worker, &deadline, due, exchange(&mut conn, request)).await {
        None => ProbeResult::TimedOut,
        Some(Err(_)) => ProbeResult::Refused,
        Some(Ok(status)) => match probe.kind {
            ProbeKind::Http { .. } if !(200..400).contains(&status) => ProbeResult::BadStatus(status),
            ProbeKind::Connect | ProbeKind::Ping | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => {
                answered()
            }
        },
    }
}

/// What a drill makes of a probe: to the detector a drilled cluster looks as a broken one does.
async fn drilled(
    worker: &Rc<Worker>,
    deadline: &Deadline,
    probe: &Probe,
    due: MonoTime,
) -> Option<ProbeResult> {
    let cluster = worker.table.borrow().endpoint(probe.endpoint)?.cluster;
    match worker.drill_fault(cluster)? {
        Fault::Refuse => Some(ProbeResult::Refused),
        Fault::Blackhole => {
            within(worker, deadline, due, std::future::pending::<()>()).await;
            Some(ProbeResult::TimedOut)
        }
        // Its kernel accepts, and its health answers: it is requests that fail.
        Fault::Latency(_) | Fault::Status(_) => None,
    }
}

/// Is the question one of HTTP, and the endpoint's speech another? Then that it accepts is all that can be asked: what a
/// database makes of a request is no sign of its health.
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
/// connect, which a host that lives answers either way. Neither asks the application anything; where the host is not known
/// to answer connects, silence says nothing ("an unknown state means keep using it").
async fn ask_host(
    worker: &Rc<Worker>,
    deadline: &Deadline,
    probe: &Probe,
    due: MonoTime,
) -> Result<(), ProbeResult> {
    let socket = DatagramSocket::connected(probe.addr).map_err(|_unreachable| ProbeResult::Refused)?;
    let refused = |result: &io::Result<()>| match result {
        Ok(()) => false,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    if refused(&socket.send_one(&[])) {
        return Err(ProbeResult::Refused);
    }
    let hosts = &worker.flows.hosts;
    let both = async {
        let mut connect = pin!(net::listen::connect(probe.addr));
        let mut readable = pin!(socket.readable());
        poll_fn(|cx| match readable.as_mut().poll(cx) {
            Poll::Ready(_told_by_the_receive) => Poll::Ready(None),
            Poll::Pending => connect.as_mut().poll(cx).map(Some),
        })
        .await
    };
    match within(worker, deadline, due, both).await {
        None if hosts.answers(probe.addr.ip()) => return Err(ProbeResult::TimedOut),
        // Something came: an answer, or ICMP.
        None | Some(None) => {}
        Some(Some(connected)) if udp::is_answer(&connected) => hosts.note(probe.addr.ip()),
        Some(Some(_unreachable)) => return Err(ProbeResult::Refused),
    }
    // The datagram went first: what ICMP has to say of it has come before what the connect came to.
    if refused(&socket.look()) { Err(ProbeResult::Refused) } else { Ok(()) }
}

/// The bytes to send, if the connect alone is not the question.
fn request(probe: &Probe) -> Option<Buf> {
    let mut bytes = Vec::with_capacity(256);
    let addr = probe.addr;
    let written = match &probe.kind {
        ProbeKind::Connect => return None,
        ProbeKind::Grpc { service, host } if host.is_empty() => {
            return health::request(service, &addr.to_string());
        }
        ProbeKind::Grpc { service, host } => return health::request(service, host),
        ProbeKind::Ping => write!(bytes, "OPTIONS * HTTP/1.1\r\nHost: {addr}\r\n"),
        ProbeKind::Http { path, host } if host.is_empty() => {
            write!(bytes, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n")
        }
        ProbeKind::Http { path, host } => write!(bytes, "GET {path} HTTP/1.1\r\nHost: {host}\r\n"),
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
