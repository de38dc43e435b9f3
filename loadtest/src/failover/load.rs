//! The load: on a thread in the client's namespace, before everything else on its core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use loadgen::{Asks, Load, LoadError, Method, Record};

use super::pod::NUMBER_HEADER;
use super::row::{Layer, Row};
use super::template::Backend;
use super::topology::{Host, Plan, enter};
use crate::bench::{BenchError, Result};

/// How long the client waits for an answer.
pub(crate) const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// More than can be on their way at once: rate × timeout, so that no request ever waits for a connection.
const CONNECTIONS_MAX: u32 = 12_000;
/// The body of a POST.
const BODY_BYTES: usize = 512;
/// As urgent as the proxies: a generator that is late would be counted as theirs.
const NICENESS: i32 = -20;

/// A load that runs; stopped and joined when dropped.
pub(crate) struct Running {
    /// Its time zero, on three clocks at the same moment.
    pub(crate) start: Instant,
    /// See [`Self::start`].
    pub(crate) wall: SystemTime,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::result::Result<Vec<Record>, LoadError>>>,
}

/// Starts a row's load for so long.
pub(crate) fn start(row: &Row, plan: &Plan, duration: Duration) -> Result<Running> {
    let paths = (0..row.backends).map(|index| Backend::new(index, row.pods).path).collect();
    let body = match row.method {
        Method::Get => Vec::new(),
        Method::Post => vec![b'x'; BODY_BYTES],
    };
    let asks = Asks { method: row.method, paths, body, number_header: Some(NUMBER_HEADER.to_owned()) };
    let load = Load {
        target: Plan::listen(),
        host: "shop.example".to_owned(),
        path: "/".to_owned(),
        rate_per_s: row.rate,
        connections_max: CONNECTIONS_MAX,
        duration,
        timeout: CLIENT_TIMEOUT,
        headers: match row.layer {
            Layer::Seven => Vec::new(),
            Layer::Four => vec![("Connection".to_owned(), "close".to_owned())],
        },
        count_header: Some("x-cluster".to_owned()),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, namespace) = (Arc::clone(&stop), plan.namespace(Host::Client));
    let (ready, started) = sync_channel(1);
    let work = move || {
        let entered = enter(&namespace);
        let is_inside = entered.is_ok();
        // Refused without the right: then the report shows how late the generator was.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
        let (start, wall) = (Instant::now(), SystemTime::now());
        // Nobody waits any more only when the run has ended.
        let _ = ready.send(entered.map(|()| (start, wall)));
        let mut records = Vec::new();
        if is_inside {
            loadgen::run_recorded(&load, &asks, start, &seen, |record| records.push(record))?;
        }
        Ok(records)
    };
    let thread = std::thread::Builder::new()
        .name("load".into())
        .spawn(work)
        .map_err(BenchError::io("start a thread"))?;
    let (start, wall) = started.recv().map_err(|_| BenchError::failed("load", "its thread has ended"))??;
    Ok(Running { start, wall, stop, thread: Some(thread) })
}

impl Running {
    /// Waits for the last answer.
    pub(crate) fn finish(mut self) -> Result<Vec<Record>> {
        self.join(false)
    }

    fn join(&mut self, early: bool) -> Result<Vec<Record>> {
        self.stop.store(early, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        match thread.join() {
            Ok(records) => records.map_err(|why| BenchError::failed("load", why.to_string())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by its hook.
            let _ = thread.join();
        }
    }
}
