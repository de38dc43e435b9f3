//! Asking an application of which nothing is known whether it lives: by a connection that ends as soon as it is made.
//!
//! Whoever serves connections reads the end of one and closes it, or has spoken first: either way something comes back. A
//! kernel whose process is stopped, or never comes round to its connections, accepts and acknowledges, and nothing more.
//! No byte is sent, so nothing is asked that the application might do. Some servers keep such a connection until a time
//! limit of theirs, though. So each endpoint is asked while it is well, when connections first show that its backend
//! answers; only where something came back does later silence count, and it is given four times as long. One that was cold
//! or busy then is asked again later. What is known goes with its endpoint.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use routing::table::EndpointKey;
use routing::time::MonoTime;

use crate::net::conn::Conn;
use crate::net::{self, Class, acquire};
use crate::tls::Stream;
use crate::upstream::probe::{Place, within};
use crate::worker::{Worker, clock, supervise};

/// How long it is before an endpoint is asked again of which nothing came.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How long an endpoint is listened to when it is asked for the first time: one that takes longer is not known.
const PATIENCE: Duration = Duration::from_millis(250);

/// What one worker knows of the endpoints that are in its table.
#[derive(Default)]
pub struct Endings {
    known: RefCell<HashMap<EndpointKey, Known>>,
}

#[derive(Clone, Copy)]
enum Known {
    /// How long it took to close.
    Closes(Duration),
    /// It was asked then, and nothing has come.
    Asked(MonoTime),
}

impl Endings {
    /// How long it takes this endpoint to close a connection that has ended, if that is known.
    #[must_use]
    pub fn usual(&self, endpoint: EndpointKey) -> Option<Duration> {
        match self.known.borrow().get(&endpoint)? {
            Known::Closes(took) => Some(*took),
            Known::Asked(_) => None,
        }
    }

    /// The endpoint has left the table.
    pub(crate) fn forget(&self, endpoint: EndpointKey) {
        self.known.borrow_mut().remove(&endpoint);
    }

    /// A connection to this endpoint is made. Asks it, if that was not done yet, or long ago and in vain.
    pub(crate) fn used(worker: &Rc<Worker>, endpoint: EndpointKey, addr: SocketAddr) {
        let now = clock::now();
        let mut known = worker.usual.endings.known.borrow_mut();
        match known.get(&endpoint) {
            Some(Known::Closes(_)) => return,
            Some(Known::Asked(at)) if now.since(*at) < ASK_AGAIN => return,
            Some(Known::Asked(_)) | None => {}
        }
        if !worker.table.borrow().is_listed(endpoint) {
            return;
        }
        let Some(place) = Place::take(worker) else { return };
        known.insert(endpoint, Known::Asked(now));
        drop(known);
        worker.stats.probes_total.inc();
        let owner = Rc::clone(worker);
        supervise::spawn_guarded(worker, async move {
            let deadline = owner.deadline();
            let closes = async { closes(net::listen::connect(addr).await?).await };
            let result = within(&owner, &deadline, now + PATIENCE, closes).await;
            drop(place);
            let mut known = owner.usual.endings.known.borrow_mut();
            if result.is_some_and(|result| result.unwrap_or(false))
                && let Some(known) = known.get_mut(&endpoint)
            {
                *known = Known::Closes(clock::now().since(now));
            }
        });
    }
}

/// Ends a connection; does its application take notice?
///
/// # Errors
/// There is no buffer to listen with: nobody has been asked.
pub(super) async fn closes(conn: Conn) -> io::Result<bool> {
    let mut stream = Stream::plain(conn);
    stream.shutdown_write();
    let buf = acquire(Class::Head, 0).ok_or(io::ErrorKind::OutOfMemory)?;
    stream.start_read(buf);
    Ok(match stream.finish_read().await.0 {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    })
}
