//! One TLS handshake with a client: its ClientHello selects listener and certificates, the library does the rest.
//!
//! Bounded by `timeouts.tls_handshake` as a whole and by `limits.handshakes_max` in number. Called by `downstream` before
//! anything else is read; leaves the client's [`Stream`](super::Stream) secured, or says why not.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use routing::id::{BindId, ListenerId};
use routing::model::CertificateSet;
use routing::time::MonoTime;
use rustls::HandshakeKind;
use rustls::server::{Acceptor, UnbufferedServerConnection};

use super::session::{Broken, Session, Side, Sink, Step, drain, one_more_record, step};
use super::stream::Agreed;
use super::{Alpn, Ended, Facts, Offer, Stream};
use crate::downstream::h1::Client;
use crate::net::{Buf, Class, acquire, with_room};
use crate::observe::stats::Limit;
use crate::worker::{Deadline, Worker, clock};

/// Bytes of handshake that are held undigested; a client's certificate chain is the longest there is.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// A fatal alert unrecognized_name (RFC 6066 §3), in clear: nothing is agreed on yet.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection that is to be secured.
pub struct Incoming<'a> {
    /// The connection.
    pub conn: &'a mut Stream,
    /// Where it was accepted.
    pub bind: BindId,
    /// Its deadline on the worker's wheel.
    pub deadline: &'a Deadline,
    /// What was read already, behind a PROXY header.
    pub first: Option<Buf>,
    /// What is said of the protocol inside.
    pub offer: Offer,
}

/// Secures a client's connection that nothing was read from. Counts how it ended.
pub async fn handshake(worker: &Rc<Worker>, client: &mut Client) -> Ended {
    let Client { conn, bind, deadline, .. } = client;
    secure(worker, Incoming { conn, bind: *bind, deadline, first: None, offer: Offer::Http }).await
}

/// Secures a connection. Counts how it ended.
pub async fn secure(worker: &Rc<Worker>, mut client: Incoming<'_>) -> Ended {
    let began = clock::now();
    let ended = match InFlight::enter(worker) {
        None => {
            worker.stats.hit(Limit::Handshakes);
            Ended::Limit
        }
        Some(_in_flight) => {
            let settings = worker.settings();
            let due = began + settings.tls_handshake;
            let incoming = client.first.take();
            let mut handshake = Handshake { worker, client, due, incoming, out: Vec::new() };
            match handshake.run().await {
                Ok(ended) | Err(ended) => ended,
            }
        }
    };
    if ended == Ended::Timeout {
        worker.stats.hit(Limit::HandshakeTimeout);
    }
    worker.stats.handshakes[ended as usize].inc();
    if let Ended::Full | Ended::Resumed = ended {
        worker.stats.handshake_latency.record(clock::now().since(began));
    }
    ended
}

/// Counts a handshake while it lasts.
struct InFlight<'a>(&'a Worker);

impl<'a> InFlight<'a> {
    fn enter(worker: &'a Worker) -> Option<Self> {
        let count = &worker.tls.in_flight;
        if u64::from(count.get()) >= worker.settings().handshakes_max {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(worker))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let count = &self.0.tls.in_flight;
        count.set(count.get() - 1);
    }
}

struct Handshake<'a> {
    worker: &'a Rc<Worker>,
    client: Incoming<'a>,
    due: MonoTime,
    incoming: Option<Buf>,
    /// What is to be sent.
    out: Vec<u8>,
}

impl Handshake<'_> {
    async fn run(&mut self) -> Result<Ended, Ended> {
        let (server_name, listener, set) = self.select().await?;
        let now = clock::now();
        let (tickets, http2) = (&self.worker.peers.tickets, self.worker.settings().http2.tls);
        let config = self.worker.tls.config(&set, self.client.offer, tickets, now, http2, &self.worker.stats);
        let tls = config.and_then(UnbufferedServerConnection::new).map_err(|_| Ended::Refused)?;
        let mut tls = Box::new(tls);
        if let Err(broken) = self.drive(&mut tls).await {
            return Err(match broken {
                Stopped::Ended(ended) => ended,
                Stopped::Broken(broken) => self.give_up(&mut tls, &broken),
            });
        }
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let shown =
            set.terms.as_ref().and_then(|terms| self.worker.tls.shown(terms, tls.peer_certificates()));
        let facts = Facts {
            listener,
            server_name,
            shown,
            version: tls.protocol_version(),
            suite: tls.negotiated_cipher_suite(),
            alpn: Alpn::of(tls.alpn_protocol()),
        };
        let session = Session::new(Side::Server(*tls), self.incoming.take());
        self.client.conn.secure(session, Agreed::Client(facts));
        Ok(if resumed { Ended::Resumed } else { Ended::Full })
    }

    /// Reads the ClientHello and finds the listener that its server name selects.
    async fn select(&mut self) -> Result<(Box<str>, ListenerId, Arc<CertificateSet>), Ended> {
        let mut acceptor = Acceptor::default();
        let mut fed = 0;
        loop {
            if fed == self.incoming.as_ref().map_or(0, Buf::len) {
                self.read().await?;
            }
            let bytes = self.incoming.as_ref().map_or(&[][..], Buf::bytes);
            while fed < bytes.len() {
                fed += acceptor.read_tls(&mut &bytes[fed..]).map_err(|_| Ended::Refused)?;
                match acceptor.accept() {
                    Ok(None) => {}
                    Ok(Some(accepted)) => {
                        let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                        return self.look_up(name);
                    }
                    Err((_error, mut alert)) => {
                        // Writing into a vector cannot fail.
                        let _ = alert.write_all(&mut self.out);
                        self.send_now();
                        return Err(Ended::Refused);
                    }
                }
            }
        }
    }

    fn look_up(
        &mut self,
        name: Option<String>,
    ) -> Result<(Box<str>, ListenerId, Arc<CertificateSet>), Ended> {
        let table = self.worker.table.borrow();
        match table.certificates(self.client.bind, name.as_deref()) {
            Some((listener, set)) => Ok((name.unwrap_or_default().into(), listener, Arc::clone(set))),
            None => {
                self.out.extend_from_slice(&UNRECOGNIZED_NAME);
                self.send_now();
                Err(Ended::UnknownName)
            }
        }
    }

    /// Until the handshake is over. Records are shown to the library one by one: what is behind the last one is
    /// for the session.
    async fn drive(&mut self, tls: &mut UnbufferedServerConnection) -> Result<(), Stopped> {
        let mut visible = 0;
        loop {
            let incoming = self.incoming.as_mut().ok_or(Ended::Refused)?;
            // No data comes before the end of the handshake, which is where this stops.
            let mut sink = Sink { data: None, control: &mut self.out };
            let (used, step) = step(tls.process_tls_records(&mut incoming.bytes_mut()[..visible]), &mut sink);
            incoming.consume(used);
            visible -= used.min(visible);
            match step.map_err(Stopped::Broken)? {
                Step::Again => {}
                Step::Data => return Err(Stopped::Broken(Broken::Fragmented)),
                Step::Closed => return Err(Ended::ClientGone.into()),
                Step::Settled if !tls.is_handshaking() => {
                    self.start_write().await?;
                    return Ok(());
                }
                Step::Settled => {
                    self.start_write().await?;
                    visible = self.next_record(visible).await?;
                }
            }
        }
    }

    async fn next_record(&mut self, visible: usize) -> Result<usize, Stopped> {
        loop {
            if let Some(incoming) = &self.incoming
                && let Some(end) = one_more_record(incoming.bytes(), visible).map_err(Stopped::Broken)?
            {
                return Ok(end);
            }
            self.read().await?;
        }
    }

    /// Appends what comes next to `incoming`.
    async fn read(&mut self) -> Result<(), Ended> {
        if self.incoming.as_ref().is_some_and(|buf| buf.len() >= HANDSHAKE_BYTES_MAX) {
            return Err(Ended::Refused);
        }
        let buf = with_room(self.incoming.take()).ok_or(Ended::Refused)?;
        self.client.conn.conn().map_err(|_| Ended::Refused)?.start_read(buf);
        loop {
            self.client.deadline.set(self.due);
            let conn = self.client.conn.conn().map_err(|_| Ended::Refused)?;
            let deadline = &self.client.deadline;
            let done = poll_fn(|cx| match conn.poll_read(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => deadline.poll(cx).map(|()| None),
            });
            match done.await {
                Some((Ok(n), buf)) if n > 0 => {
                    self.incoming = Some(buf);
                    return Ok(());
                }
                Some(_gone) => return Err(Ended::ClientGone),
                None => self.attend()?,
            }
        }
    }

    /// Starts sending what the library has for the client; what was sent before is out then.
    async fn start_write(&mut self) -> Result<(), Ended> {
        let out = std::mem::take(&mut self.out);
        for part in out.chunks(Class::Bulk.bytes()) {
            self.flush().await?;
            let class = [Class::Head, Class::Small].into_iter().find(|class| class.bytes() >= part.len());
            let mut buf = acquire(class.unwrap_or(Class::Bulk), 0).ok_or(Ended::Refused)?;
            buf.append(part);
            self.client.conn.conn().map_err(|_| Ended::Refused)?.start_write(buf);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        loop {
            self.client.deadline.set(self.due);
            let conn = self.client.conn.conn().map_err(|_| Ended::Refused)?;
            let deadline = &self.client.deadline;
            let done = poll_fn(|cx| match conn.poll_flush(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => deadline.poll(cx).map(|()| None),
            });
            match done.await {
                Some(Ok(())) => return Ok(()),
                Some(Err(_gone)) => return Err(Ended::ClientGone),
                None => self.attend()?,
            }
        }
    }

    /// The deadline has passed, or the worker wants attention.
    fn attend(&self) -> Result<(), Ended> {
        if clock::now() >= self.due {
            return Err(Ended::Timeout);
        }
        if self.worker.is_stopping() { Err(Ended::ClientGone) } else { Ok(()) }
    }

    /// Sends what is to be sent, as far as the socket has room, if nothing else is on its way.
    fn send_now(&mut self) {
        if let Ok(conn) = self.client.conn.conn()
            && !conn.is_writing()
        {
            let _ = conn.send_now(&self.out);
        }
    }

    /// Tells the client why, as far as its socket has room.
    fn give_up(&mut self, tls: &mut UnbufferedServerConnection, broken: &Broken) -> Ended {
        drain(tls, &mut self.out);
        self.send_now();
        match broken {
            Broken::Tls(rustls::Error::NoApplicationProtocol) => Ended::NoProtocol,
            Broken::Tls(_) | Broken::Oversized | Broken::Fragmented | Broken::Flood | Broken::Memory => {
                Ended::Refused
            }
        }
    }
}

/// Why a handshake did not come to its end.
enum Stopped {
    Ended(Ended),
    Broken(Broken),
}

impl From<Ended> for Stopped {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}
