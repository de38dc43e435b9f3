//! The admin API: what a node says of itself, on a thread of its own.
//!
//! Over TCP reads only: `/healthz`, `/readyz`, `/metrics`, `/api/v1/…` and a dashboard at `/`. What changes state
//! ([`operate`], [`drill`]) is served on a Unix socket, beside all of that. It subscribes to the broadcast like a worker and keeps its own copy of the table; of the workers it reads counters, of the controller what
//! [`Controller`] gives. It is never on the path of a request: when it hangs or dies, traffic does not notice.
//!
//! Verdicts of the failure detector are read from the board that all workers share, and are shown with the evidence of
//! the worker that decided. Ejections are each worker's own: they show in the counters only, which are summed over
//! the last [`window::SPAN`].
//!
//! ```text
//! server (connections, limits) -> guard (Host, method) -> pages (metrics, explain, JSON) -> Desk -> Room
//! socket (mode 0600)           -> guard (method)       -> pages, operate, tables ----------^        |
//!                                                         mail, reports, counters, facts -----------^
//! ```

pub mod api;
pub mod drill;
mod drills;
pub mod explain;
pub mod facts;
mod guard;
mod health;
mod names;
pub mod operate;
mod pages;
pub mod replay;
mod room;
mod scrape;
mod server;
mod socket;
pub mod tables;
pub mod window;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use config::Config;
use crossbeam_channel::{Receiver, Sender, bounded};
use routing::delta::{Mail, Report};
use tokio::sync::oneshot;

pub use self::facts::{CanaryFact, Controller, Facts, Lag, SourceFact, VerdictFact, VerdictNote, WatchFact};
use self::socket::Socket;

use crate::net::wake;
use crate::node::{DrillBoard, INBOX_CAP, Node};
use crate::observe::decisions::Batch;
use crate::observe::stats::WorkerStats;
use crate::worker::finding::Finding;
use crate::worker::peers::Peers;

/// How much nicer than a worker this thread is: a scrape must not take a core from traffic.
const NICENESS: i32 = 5;

/// The running admin thread.
pub struct Admin {
    addr: SocketAddr,
    mail: Sender<Mail>,
    bell: OwnedFd,
    draining: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Everything that the thread reads.
pub(crate) struct Sources {
    pub(crate) config: Arc<Config>,
    pub(crate) stats: Vec<Arc<WorkerStats>>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) mail: Receiver<Mail>,
    pub(crate) reports: Sender<Report>,
    pub(crate) drills: DrillBoard,
    pub(crate) findings: Receiver<Finding>,
    pub(crate) samples: Receiver<Batch>,
}

impl Admin {
    /// Listens on `admin.listen` and starts the thread. Not ready until the first table has been applied everywhere.
    ///
    /// # Errors
    /// When the address cannot be listened on (the message names it), or descriptors or threads run out.
    pub fn start(config: &Arc<Config>, node: &Node, controller: Arc<dyn Controller>) -> io::Result<Self> {
        let listen = config.admin.listen;
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("admin.listen {listen}: {error}"));
        let listener = TcpListener::bind(listen).map_err(named)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let (mail_in, mail) = bounded(INBOX_CAP);
        let bell = wake::doorbell()?;
        let draining = Arc::new(AtomicBool::new(false));
        let sources = Sources {
            config: Arc::clone(config),
            stats: node.stats.clone(),
            peers: Arc::clone(&node.peers),
            controller,
            draining: Arc::clone(&draining),
            mail,
            reports: node.reporter(),
            drills: node.drill_board(),
            findings: node.findings(),
            samples: node.samples(),
        };
        let socket = operators_socket(config);
        let (stop, stopped) = oneshot::channel();
        let ring = bell.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            yield_to_workers();
            if let Err(error) = runtime.block_on(server::run(sources, (listener, socket), ring, stopped)) {
                tracing::error!(%error, "the admin API has ended; traffic is not affected");
            }
        })?;
        Ok(Self { addr, mail: mail_in, bell, draining, stop, thread })
    }

    /// Where it listens: the port, when `admin.listen` asks for any.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For the controller's broadcast: where its mail is put, and what wakes it.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn mailbox(&self) -> io::Result<(Sender<Mail>, OwnedFd)> {
        Ok((self.mail.clone(), self.bell.try_clone()?))
    }

    /// Turns `/readyz` red: the node is about to drain.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends the thread. Connections that are open are cut.
    pub fn stop(self) {
        // An error means that it has ended already; a panic there was logged by the panic hook.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// The operators' socket. A node that cannot have one serves all the same, and says so: traffic comes first.
fn operators_socket(config: &Config) -> Option<Socket> {
    let path = &config.admin.socket;
    if path.as_os_str().is_empty() {
        return None;
    }
    match Socket::bind(path) {
        Ok(socket) => {
            tracing::info!(socket = %path.display(), "operators' socket");
            Some(socket)
        }
        Err(error) => {
            tracing::warn!(
                socket = %path.display(), %error,
                "no socket for operators: drain, promote and drill are not available (admin.socket)"
            );
            None
        }
    }
}

fn yield_to_workers() {
    // Refused by a sandbox: then it competes on equal terms.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
}
