//! The load: two open loops, each on a thread of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loadgen::{Asks, Load, LoadError, Record, Tls};

use super::gateway::HOST;
use crate::bench::{BenchError, Result};

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one loop at most.
const CONNECTIONS_MAX: u32 = 2_000;
/// One request on a new connection for so many on keep-alive connections.
const FRESH: u32 = 10;

/// What is sent.
pub(super) struct Plan {
    /// Where to.
    pub(super) target: SocketAddr,
    /// How it is secured, if it is.
    pub(super) tls: Option<Tls>,
    /// Requests per second on keep-alive connections.
    pub(super) rate: u32,
    /// For how long.
    pub(super) duration: Duration,
}

/// What came of it.
pub(super) struct Flow {
    /// On keep-alive connections.
    pub(super) kept: Vec<Record>,
    /// On a connection each.
    pub(super) fresh: Vec<Record>,
}

/// The load under way; stopped and joined when dropped.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<std::result::Result<Vec<Record>, LoadError>>>,
}

/// Starts both loops.
pub(super) fn start(plan: &Plan) -> Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = Running { stop: Arc::clone(&stop), threads: Vec::new() };
    let close = vec![("Connection".to_owned(), "close".to_owned())];
    // Handshakes are what a change of certificates is about: there half of the load is new connections.
    let fresh = if plan.tls.is_some() { plan.rate / 4 } else { plan.rate / FRESH };
    for (name, rate, headers) in [("kept", plan.rate, Vec::new()), ("fresh", fresh.max(1), close)] {
        let load = Load {
            target: plan.target,
            host: HOST.to_owned(),
            path: "/".to_owned(),
            rate_per_s: rate,
            connections_max: CONNECTIONS_MAX,
            duration: plan.duration,
            timeout: TIMEOUT,
            headers,
            count_header: None,
        };
        let (stop, tls) = (Arc::clone(&stop), plan.tls.clone());
        let work = move || {
            let (mut records, asks, now) = (Vec::new(), Asks::default(), Instant::now());
            let keep = |record| records.push(record);
            match &tls {
                Some(tls) => loadgen::run_secured(&load, &asks, tls, now, &stop, keep)?,
                None => loadgen::run_recorded(&load, &asks, now, &stop, keep)?,
            };
            Ok(records)
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        running.threads.push(thread.map_err(BenchError::io("start a thread"))?);
    }
    Ok(running)
}

impl Running {
    /// Waits for the last answers.
    pub(super) fn finish(mut self) -> Result<Flow> {
        let mut ended = std::mem::take(&mut self.threads).into_iter().map(|thread| match thread.join() {
            Ok(records) => records.map_err(|why| BenchError::failed("load", why.to_string())),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let mut next = || ended.next().unwrap_or_else(|| Ok(Vec::new()));
        Ok(Flow { kept: next()?, fresh: next()? })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed by its hook.
            let _ = thread.join();
        }
    }
}
