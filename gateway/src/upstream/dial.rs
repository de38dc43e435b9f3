//! New connections to endpoints: TCP, and TLS where the backend asks for it.
//!
//! Attempts, second attempts and probes all come through here, so that none of them can speak to a backend of TLS in
//! clear. Whoever dials sets the time limit; it covers the handshake as well as the connect.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use routing::id::BackendId;
use routing::model::{Application, BackendTls, Security, Transport};
use routing::table::{Pick, Table};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::accept::is_out_of_descriptors;
use crate::net;
use crate::net::conn::Conn;
use crate::tls::Stream;
use crate::tls::connect::{self, Ended};
use crate::upstream::h2::{self, Carries};
use crate::worker::Worker;

/// Server names whose sessions a worker keeps for one backend: it has one.
const SESSIONS: usize = 1;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoConnection {
    /// The gateway is out of descriptors.
    Descriptors,
    /// Nobody listens there.
    Refused,
    /// Another failure of the connect.
    Failed,
    /// The handshake failed.
    Tls(Ended),
    /// The backend is to be spoken to over TLS with settings that cannot be used.
    Settings,
    /// As many connections of HTTP/2 as there may be, and all of them full.
    Streams,
    /// Its endpoint does not announce that it takes tunnels (RFC 8441 §3).
    Tunnels,
}

/// Whose failure it is that there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The endpoint's.
    Endpoint,
    /// The gateway's, or that of what it was told.
    Gateway,
    /// Nobody's: it is there, and does not offer what this request needs.
    Nobody,
}

/// The reason of a connect that was refused: nobody listens there.
pub const REFUSED: &str = "connect_refused";

impl NoConnection {
    /// For people: in the reply, the access log.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Refused => REFUSED,
            Self::Failed => "connect_failed",
            Self::Tls(ended) => ended.reason(),
            Self::Settings => "upstream_tls_settings",
            Self::Streams => "http2_connections_max",
            Self::Tunnels => "upstream_no_websocket",
        }
    }

    /// Whose failure it is.
    #[must_use]
    pub fn fault(self) -> Fault {
        match self {
            Self::Descriptors | Self::Settings | Self::Streams | Self::Tls(Ended::Buffers) => Fault::Gateway,
            Self::Refused | Self::Failed | Self::Tls(_) => Fault::Endpoint,
            Self::Tunnels => Fault::Nobody,
        }
    }

    fn of(error: &io::Error) -> Self {
        if is_out_of_descriptors(error) {
            Self::Descriptors
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            Self::Refused
        } else {
            Self::Failed
        }
    }
}

/// A backend's settings as a worker connects with them: with the worker's own sessions.
struct Own {
    fingerprint: u64,
    config: Arc<ClientConfig>,
}

/// What a worker keeps to connect over TLS.
#[derive(Default)]
pub struct Dialer {
    /// At most one for each backend.
    configs: RefCell<HashMap<BackendId, Own, FixedState>>,
}

impl Dialer {
    /// The worker's settings for a backend; made anew when the backend's have changed, and its sessions with them: a
    /// session that was agreed under another authority is not resumed.
    fn config(&self, backend: BackendId, tls: &BackendTls) -> Option<Arc<ClientConfig>> {
        let mut configs = self.configs.borrow_mut();
        if let Some(own) = configs.get(&backend).filter(|own| own.fingerprint == tls.fingerprint) {
            return Some(Arc::clone(&own.config));
        }
        let shared = tls.settings.get::<ClientConfig>()?;
        // A copy holds references only; the cache is this worker's alone, so that its lock is never waited for.
        let mut config = ClientConfig::clone(&shared);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        configs.insert(backend, Own { fingerprint: tls.fingerprint, config: Arc::clone(&config) });
        Some(config)
    }

    /// Lets go of what was kept for backends that are not spoken to over TLS, or are not there any more.
    pub fn sweep(&self, is_secure: impl Fn(BackendId) -> bool) {
        self.configs.borrow_mut().retain(|backend, _| is_secure(*backend));
    }
}

/// How a backend is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// In what.
    pub protocol: Application,
    /// What connections must have been made with to be used for it: see `Transport::fingerprint`.
    pub fingerprint: u64,
}

/// How a backend is spoken to now.
#[must_use]
pub fn spoken(worker: &Worker, backend: BackendId) -> Spoken {
    let table = worker.table.borrow();
    let of =
        |transport: &Transport| Spoken { protocol: transport.protocol, fingerprint: transport.fingerprint() };
    table.transport(backend).map(of).unwrap_or_default()
}

/// Is a backend spoken to over TLS?
#[must_use]
pub fn is_secure(table: &Table, backend: BackendId) -> bool {
    matches!(table.transport(backend).map(|transport| &transport.security), Some(Security::Tls(_)))
}

/// A connection to an endpoint that a request can be written to, and whether it was there before.
///
/// # Errors
/// As [`dial`] and [`h2::open`].
pub async fn connect(
    worker: &Rc<Worker>,
    protocol: Application,
    pick: &Pick,
    carries: Carries,
) -> Result<(Stream, bool), NoConnection> {
    match protocol {
        Application::Http1 => dial(worker, pick.backend, pick.addr).await.map(|stream| (stream, false)),
        // Boxed, as a handshake is.
        Application::Http2 => {
            let opened = Box::pin(h2::open(worker, h2::Target::from(pick), carries)).await?;
            Ok((opened.stream, opened.reused))
        }
    }
}

/// Connects to an endpoint of a backend.
///
/// # Errors
/// [`NoConnection`]; no byte of a request was sent.
pub async fn dial(worker: &Worker, backend: BackendId, addr: SocketAddr) -> Result<Stream, NoConnection> {
    let tls = match worker.table.borrow().transport(backend).map(|transport| &transport.security) {
        Some(Security::Clear) | None => None,
        Some(Security::Tls(tls)) => Some(Arc::clone(tls)),
        Some(Security::Closed(_)) => return Err(NoConnection::Settings),
    };
    let conn = net::listen::connect(addr).await.map_err(|error| NoConnection::of(&error))?;
    match tls {
        None => Ok(Stream::plain(conn)),
        // Boxed: most connections are in clear, and every exchange's memory would be larger.
        Some(tls) => Box::pin(secure(worker, backend, conn, &tls)).await,
    }
}

async fn secure(
    worker: &Worker,
    backend: BackendId,
    conn: Conn,
    tls: &BackendTls,
) -> Result<Stream, NoConnection> {
    let name = ServerName::try_from(&*tls.server_name).map(|name| name.to_owned());
    let (Some(config), Ok(name)) = (worker.dialer.config(backend, tls), name) else {
        return Err(NoConnection::Settings);
    };
    let counters = &worker.stats.upstream_handshakes;
    let secured = connect::handshake(conn, config, name, tls.fingerprint, counters);
    secured.await.map_err(NoConnection::Tls)
}

#[cfg(test)]
mod tests {
    use routing::model::{TlsSettings, Verification};
    use rustls::RootCertStore;

    use super::*;

    fn tls(fingerprint: u64) -> BackendTls {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(RootCertStore::empty());
        BackendTls {
            server_name: "web".into(),
            source: "test".into(),
            verification: Verification::Off,
            settings: TlsSettings::new(Arc::new(builder.with_no_client_auth())),
            fingerprint,
        }
    }

    #[test]
    fn a_backend_keeps_its_sessions_while_its_settings_hold_and_it_is_there() {
        let dialer = Dialer::default();
        let [one, two] = [BackendId(1), BackendId(2)];
        let first = dialer.config(one, &tls(7)).unwrap();
        dialer.config(two, &tls(7)).unwrap();
        assert!(Arc::ptr_eq(&first, &dialer.config(one, &tls(7)).unwrap()));
        assert!(
            !Arc::ptr_eq(&first, &dialer.config(one, &tls(8)).unwrap()),
            "other settings, no old session"
        );
        dialer.sweep(|backend| backend == two);
        let left: Vec<_> = dialer.configs.borrow().keys().copied().collect();
        assert_eq!(left, [two]);
    }
}
