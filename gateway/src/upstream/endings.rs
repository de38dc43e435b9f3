//! Asking an application of which nothing is known whether it lives: by a connection that ends as soon as it is made.
//!
//! Whoever serves connections reads the end of one and closes it, or has spoken first: either way something comes back. A
//! kernel whose process is stopped, or never comes round to its connections, accepts and acknowledges, and nothing more.
//! No byte is sent, so nothing is asked that the application might do. Some servers keep such a connection until a time
//! limit of theirs, though. So each endpoint is asked once while it is well, when connections first show that its backend
//! answers; only where something came back does later silence count, and it is given four times as long.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use routing::table::EndpointKey;

use crate::net::conn::Conn;
use crate::net::{self, Class, acquire};
use crate::tls::Stream;
use crate::upstream::probe::{Place, within};
use crate::worker::{Worker, clock, supervise};

/// Endpoints that are known; of more than that nothing is assumed.
const ENDPOINTS_MAX: usize = 65_536;
/// How long an endpoint is listened to when it is asked for the first time: one that takes longer is not known.
const PATIENCE: Duration = Duration::from_millis(250);

/// What one worker knows of endpoints.
#[derive(Default)]
pub struct Endings {
    /// How long it took to close; `None` = asked, and nothing came.
    known: RefCell<HashMap<EndpointKey, Option<Duration>>>,
}

impl Endings {
    /// How long it takes this endpoint to close a connection that has ended, if that is known.
    #[must_use]
    pub fn usual(&self, endpoint: EndpointKey) -> Option<Duration> {
        self.known.borrow().get(&endpoint).copied().flatten()
    }

    /// A connection to this endpoint is made. Asks it, if that was not done yet.
    pub(crate) fn used(worker: &Rc<Worker>, endpoint: EndpointKey, addr: SocketAddr) {
        let mut known = worker.usual.endings.known.borrow_mut();
        if known.contains_key(&endpoint) || known.len() >= ENDPOINTS_MAX {
            return;
        }
        let Some(place) = Place::take(worker) else { return };
        known.insert(endpoint, None);
        drop(known);
        worker.stats.probes_total.inc();
        let owner = Rc::clone(worker);
        supervise::spawn_guarded(worker, async move {
            let deadline = owner.deadline();
            let began = clock::now();
            let closes = async {
                match net::listen::connect(addr).await {
                    Ok(conn) => closes(conn).await,
                    Err(_) => false,
                }
            };
            let result = within(&owner, &deadline, began + PATIENCE, closes).await;
            drop(place);
            if result == Some(true) {
                let took = clock::now().since(began);
                owner.usual.endings.known.borrow_mut().insert(endpoint, Some(took));
            }
        });
    }
}

/// Ends a connection; does its application take notice?
pub(super) async fn closes(conn: Conn) -> bool {
    let mut stream = Stream::plain(conn);
    stream.shutdown_write();
    let Some(buf) = acquire(Class::Head, 0) else { return false };
    stream.start_read(buf);
    match stream.finish_read().await.0 {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}
