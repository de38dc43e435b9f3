//! One TLS handshake with a backend, as its client.
//!
//! Whoever dials bounds it in time and drops it when it takes too long: the connection goes with it. It ends with a
//! [`Stream`] that is secured, or with a reason: never with a connection in clear. The library verifies with the
//! settings that the controller made (`routing::model::BackendTls`); a worker keeps its own sessions for resumption.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, HandshakeKind};

use super::session::{Broken, Library, Session, Side, Sink, Step, drain, one_more_record, step};
use super::stream::{Agreed, Stream};
use crate::net::conn::Conn;
use crate::net::{Buf, Class, acquire, with_room};
use crate::observe::stats::Counter;

/// Bytes of handshake that are held undigested: a server's certificate chain is the longest there is.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// How a handshake with a backend ended: the label `result` of `ringway_upstream_tls_handshakes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ended {
    /// In full: the certificate was verified, or the settings say that it is not to be.
    Full,
    /// By a ticket of an earlier session.
    Resumed,
    /// It was given up before its end: `timeouts.connect`, or another attempt won.
    Abandoned,
    /// The certificate is signed by nobody that is trusted (a self-signed one included).
    UnknownAuthority,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate is for other names.
    WrongName,
    /// Something else is wrong with the certificate or its signature.
    BadCertificate,
    /// The backend said by an alert that something is wrong with us: no certificate of ours, an unknown server name.
    Alert,
    /// What it sent is no TLS.
    NotTls,
    /// It refused the protocol that is offered (ALPN).
    NoProtocol,
    /// It closed the connection.
    Closed,
    /// It speaks no version or cipher of ours, or broke the rules.
    Incompatible,
    /// A bound of the gateway's own: no buffer memory.
    Buffers,
}

impl Ended {
    /// All of them with the label's value and the reason of a request that failed for it, in the order of their numbers.
    pub const ALL: [(Self, &'static str, &'static str); 14] = [
        (Self::Full, "full", ""),
        (Self::Resumed, "resumed", ""),
        (Self::Abandoned, "abandoned", "upstream_tls_abandoned"),
        (Self::UnknownAuthority, "unknown_ca", "upstream_tls_unknown_ca"),
        (Self::Expired, "expired", "upstream_tls_expired"),
        (Self::NotYetValid, "not_yet_valid", "upstream_tls_not_yet_valid"),
        (Self::WrongName, "wrong_name", "upstream_tls_wrong_name"),
        (Self::BadCertificate, "bad_certificate", "upstream_tls_bad_certificate"),
        (Self::Alert, "alert", "upstream_tls_alert"),
        (Self::NotTls, "not_tls", "upstream_not_tls"),
        (Self::NoProtocol, "no_protocol", "upstream_tls_no_protocol"),
        (Self::Closed, "closed", "upstream_tls_closed"),
        (Self::Incompatible, "incompatible", "upstream_tls_incompatible"),
        (Self::Buffers, "buffers", "buffers_bytes_max"),
    ];

    /// The reason of a request that failed for it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        Self::ALL[self as usize].2
    }
}

/// Secures a connection that nothing was sent on. Counts how that ended in `counters`, also when it is dropped before.
///
/// # Errors
/// Why there is no session; the backend has seen nothing but a handshake.
pub async fn handshake(
    mut conn: Conn,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    fingerprint: u64,
    counters: &[Counter; Ended::ALL.len()],
) -> Result<Stream, Ended> {
    let mut counted = Counted { counters, ended: Ended::Abandoned };
    let tls = match UnbufferedClientConnection::new(config, name) {
        Ok(tls) => Box::new(tls),
        Err(error) => return Err(counted.as_ended(of(&error))),
    };
    let mut handshake = Handshake { conn: &mut conn, tls, incoming: None, out: Vec::new() };
    if let Err(ended) = handshake.run().await {
        return Err(counted.as_ended(ended));
    }
    let Handshake { tls, incoming, .. } = handshake;
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    counted.as_ended(if resumed { Ended::Resumed } else { Ended::Full });
    let mut stream = Stream::plain(conn);
    stream.secure(Session::new(Side::Client(*tls), incoming), Agreed::Backend { fingerprint });
    Ok(stream)
}

/// Counts a handshake once, however it ends.
struct Counted<'a> {
    counters: &'a [Counter; Ended::ALL.len()],
    ended: Ended,
}

impl Counted<'_> {
    fn as_ended(&mut self, ended: Ended) -> Ended {
        self.ended = ended;
        ended
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.counters[self.ended as usize].inc();
    }
}

struct Handshake<'a> {
    conn: &'a mut Conn,
    tls: Box<UnbufferedClientConnection>,
    incoming: Option<Buf>,
    /// What is to be sent.
    out: Vec<u8>,
}

impl Handshake<'_> {
    /// Until the handshake is over and our last message is on its way. Records are shown to the library one by one: what
    /// is behind the last one is for the session.
    async fn run(&mut self) -> Result<(), Ended> {
        let mut visible = 0;
        loop {
            let mut none = [];
            let shown = match &mut self.incoming {
                Some(incoming) => &mut incoming.bytes_mut()[..visible],
                None => &mut none[..],
            };
            let mut sink = Sink { data: None, control: &mut self.out };
            let (used, step) = step(self.tls.process(shown), &mut sink);
            if let Some(incoming) = &mut self.incoming {
                incoming.consume(used);
            }
            visible -= used.min(visible);
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Settled) if !self.tls.is_handshaking() => return self.start_write().await,
                Ok(Step::Settled) => {
                    self.start_write().await?;
                    visible = self.next_record(visible).await?;
                }
                Ok(Step::Data) => return Err(Ended::Incompatible),
                Ok(Step::Closed) => return Err(Ended::Closed),
                Err(broken) => return Err(self.give_up(&broken)),
            }
        }
    }

    async fn next_record(&mut self, visible: usize) -> Result<usize, Ended> {
        loop {
            let bytes = self.incoming.as_ref().map_or(&[][..], Buf::bytes);
            match one_more_record(bytes, visible) {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => self.read().await?,
                Err(broken) => return Err(self.give_up(&broken)),
            }
        }
    }

    /// Appends what comes next to `incoming`.
    async fn read(&mut self) -> Result<(), Ended> {
        if self.incoming.as_ref().is_some_and(|buf| buf.len() >= HANDSHAKE_BYTES_MAX) {
            return Err(Ended::Incompatible);
        }
        let buf = with_room(self.incoming.take()).ok_or(Ended::Buffers)?;
        self.conn.start_read(buf);
        match self.conn.finish_read().await {
            (Ok(n), buf) if n > 0 => {
                self.incoming = Some(buf);
                Ok(())
            }
            (Ok(_) | Err(_), _) => Err(Ended::Closed),
        }
    }

    /// Starts sending what the library has for the backend; what was sent before is out then.
    async fn start_write(&mut self) -> Result<(), Ended> {
        let out = std::mem::take(&mut self.out);
        for part in out.chunks(Class::Bulk.bytes()) {
            self.conn.flush().await.map_err(|_| Ended::Closed)?;
            let class = [Class::Head, Class::Small].into_iter().find(|class| class.bytes() >= part.len());
            let mut buf = acquire(class.unwrap_or(Class::Bulk), 0).ok_or(Ended::Buffers)?;
            buf.append(part);
            self.conn.start_write(buf);
        }
        Ok(())
    }

    /// Tells the backend why, as far as its socket has room.
    fn give_up(&mut self, broken: &Broken) -> Ended {
        drain(&mut *self.tls, &mut self.out);
        if !self.conn.is_writing() {
            let _ = self.conn.send_now(&self.out);
        }
        match broken {
            Broken::Tls(error) => of(error),
            // A length that no record has: what came is another protocol.
            Broken::Oversized => Ended::NotTls,
            Broken::Fragmented | Broken::Flood => Ended::Incompatible,
            Broken::Memory => Ended::Buffers,
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "closed by the library's own attribute: minor releases add variants"
)]
fn of(error: &Error) -> Ended {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        // A server's to say (RFC 7301 §3.2): the library's own error of that name is for servers.
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Ended::NoProtocol,
        Error::AlertReceived(_) => Ended::Alert,
        Error::InvalidMessage(_) => Ended::NotTls,
        // What is left says that the two sides do not go together.
        _ => Ended::Incompatible,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "closed by the library's own attribute: minor releases add variants"
)]
fn of_certificate(error: &CertificateError) -> Ended {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Ended::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Ended::NotYetValid,
        CertificateError::UnknownIssuer => Ended::UnknownAuthority,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Ended::WrongName
        }
        _ => Ended::BadCertificate,
    }
}
