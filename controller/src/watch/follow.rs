//! One watch, for ever: list, watch, renew, list again when the server says so, wait when it does not answer.
//!
//! What is seen goes to a [`Handler`], which believes a list or doubts it. A resource that the server does not know
//! (a CRD that is not installed) counts as an empty list and is asked for again.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Error, Event};

use crate::clock;
use crate::watch::client::{WATCH_SECONDS, chain, is_absent};
use crate::watch::known::List;

/// Objects in one page of a list.
const PAGE_SIZE: u32 = 500;
/// Events handed on together.
const EVENTS_MAX: usize = 512;
/// Everything is listed again after this time, whatever the watch says.
const RESYNC: Duration = Duration::from_secs(600);

/// Times that tests make shorter.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// `fleet.confirm_after`
    pub confirm_after: Duration,
    /// How often a resource that the server does not know is asked for. Default 10 s.
    pub rediscover: Duration,
    /// The longest pause between two tries of a server that does not answer. Default 10 s; the first is a 40th of it.
    pub pause_max: Duration,
    /// A watch that was interrupted is listed again after this. Default 30 s.
    pub relist_after: Duration,
    /// How often the Lease is renewed; it lasts three times as long. Default 5 s.
    pub renew: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            confirm_after: Duration::from_secs(5),
            rediscover: Duration::from_secs(10),
            pause_max: Duration::from_secs(10),
            relist_after: Duration::from_secs(30),
            renew: Duration::from_secs(5),
        }
    }
}

/// An event of a watch.
#[derive(Debug)]
pub enum Change<T> {
    /// It is there.
    Apply(T),
    /// It is gone.
    Delete(T),
}

/// Is a list believed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It is.
    Believed,
    /// Ask again.
    Doubted,
}

/// How a watch is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Its list was believed, or an event came.
    Watching,
    /// The server does not know the resource.
    Missing,
    /// Its list is doubted.
    Doubting,
    /// The server said no, or nothing.
    Failing {
        /// What it said.
        reason: String,
        /// The server answered, and will not let us list: it makes no sense to wait for it.
        forbidden: bool,
    },
}

/// What is done with what one watch sees.
pub trait Handler<K> {
    /// What is kept of an object while a list is under way.
    type Item;
    /// Reduces an object of this API version.
    fn read(&self, version: &str, object: K) -> Self::Item;
    /// A complete list.
    fn list(&mut self, items: Vec<Self::Item>, which: List, observed_ns: u64) -> Belief;
    /// Events, in their order.
    fn changes(&mut self, changes: Vec<Change<Self::Item>>, observed_ns: u64);
    /// How it is doing has changed.
    fn doing(&mut self, doing: Doing);
}

/// A watch's events, as the client gives them.
pub type Events<K> = BoxStream<'static, Result<Event<K>, Error>>;

enum End {
    Missing,
    Doubted,
    Resync,
}

/// How every watch is asked for.
#[must_use]
pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE_SIZE)
}

/// Follows a resource; never returns. `open` starts a watch of one of the `versions`.
pub async fn follow<K: Send + 'static, H: Handler<K>>(
    versions: &[&'static str],
    open: impl Fn(&'static str) -> Events<K>,
    handler: &mut H,
    tuning: Tuning,
) {
    let mut which = List::First;
    let mut index = 0;
    loop {
        let version = versions[index % versions.len()];
        match once(version, open(version), handler, which, tuning).await {
            End::Resync => which = List::First,
            End::Doubted => {
                handler.doing(Doing::Doubting);
                tokio::time::sleep(tuning.confirm_after).await;
                which = List::Second;
            }
            End::Missing => {
                index += 1;
                if index % versions.len() != 0 {
                    continue;
                }
                which = match handler.list(Vec::new(), which, clock::monotonic_ns()) {
                    Belief::Doubted => {
                        handler.doing(Doing::Doubting);
                        tokio::time::sleep(tuning.confirm_after).await;
                        List::Second
                    }
                    Belief::Believed => {
                        handler.doing(Doing::Missing);
                        tokio::time::sleep(tuning.rediscover).await;
                        List::First
                    }
                };
            }
        }
    }
}

async fn once<K: Send + 'static, H: Handler<K>>(
    version: &'static str,
    events: Events<K>,
    handler: &mut H,
    mut which: List,
    tuning: Tuning,
) -> End {
    let resync = tokio::time::sleep(RESYNC);
    tokio::pin!(resync);
    let events = events.backoff(Pace::new(tuning.pause_max)).ready_chunks(EVENTS_MAX);
    tokio::pin!(events);
    let mut fresh = Vec::new();
    loop {
        let chunk = tokio::select! {
            () = &mut resync => return End::Resync,
            chunk = events.next() => chunk,
        };
        // The stream of a watcher has no end.
        let Some(chunk) = chunk else { return End::Resync };
        let observed_ns = clock::monotonic_ns();
        let mut changes = Vec::new();
        for event in chunk {
            match event {
                Ok(Event::Init) => fresh.clear(),
                Ok(Event::InitApply(object)) => fresh.push(handler.read(version, object)),
                Ok(Event::InitDone) => {
                    flush(handler, &mut changes, observed_ns);
                    match handler.list(std::mem::take(&mut fresh), which, observed_ns) {
                        Belief::Believed => which = List::First,
                        Belief::Doubted => return End::Doubted,
                    }
                    handler.doing(Doing::Watching);
                }
                Ok(Event::Apply(object)) => changes.push(Change::Apply(handler.read(version, object))),
                Ok(Event::Delete(object)) => changes.push(Change::Delete(handler.read(version, object))),
                Err(error) => {
                    flush(handler, &mut changes, observed_ns);
                    if is_missing(&error) {
                        return End::Missing;
                    }
                    if is_interruption(&error) {
                        // Whoever answers next may be another server, or have another store, that counts from a lower
                        // version: a watch from the one that we know would be silent until it has caught up.
                        let soon = tokio::time::Instant::now() + spread(tuning.relist_after);
                        let due = resync.deadline().min(soon);
                        resync.as_mut().reset(due);
                    }
                    handler.doing(failing(&error));
                }
            }
        }
        flush(handler, &mut changes, observed_ns);
    }
}

fn flush<K, H: Handler<K>>(handler: &mut H, changes: &mut Vec<Change<H::Item>>, observed_ns: u64) {
    if !changes.is_empty() {
        handler.changes(std::mem::take(changes), observed_ns);
        handler.doing(Doing::Watching);
    }
}

fn is_missing(error: &Error) -> bool {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) => is_absent(error),
        Error::WatchError(_) | Error::WatchFailed(_) | Error::NoResourceVersion => false,
    }
}

/// Has the connection of a watch been lost? A list has no version to go on from.
fn is_interruption(error: &Error) -> bool {
    match error {
        Error::WatchStartFailed(_) | Error::WatchFailed(_) => true,
        Error::InitialListFailed(_) | Error::WatchError(_) | Error::NoResourceVersion => false,
    }
}

fn failing(error: &Error) -> Doing {
    let forbidden = match error {
        Error::InitialListFailed(kube::Error::Api(status)) => status.code == 403,
        Error::InitialListFailed(_)
        | Error::WatchStartFailed(_)
        | Error::WatchError(_)
        | Error::WatchFailed(_)
        | Error::NoResourceVersion => false,
    };
    Doing::Failing { reason: chain(error), forbidden }
}

/// Pauses between tries: each twice as long as the one before, up to a bound, and never quite the same on two nodes.
struct Pace {
    next: Duration,
    max: Duration,
}

/// The first pause is this part of the longest.
const PAUSE_FIRST_DIVISOR: u32 = 40;

impl Pace {
    fn new(max: Duration) -> Self {
        Self { next: max / PAUSE_FIRST_DIVISOR, max }
    }
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        Some(spread(pause))
    }
}

/// A quarter less at most, from the clock's finest digits: good enough to spread nodes.
fn spread(pause: Duration) -> Duration {
    let less = u32::try_from(clock::monotonic_ns() % 256).unwrap_or(0);
    pause - pause / 1024 * less
}

impl Backoff for Pace {
    fn reset(&mut self) {
        self.next = self.max / PAUSE_FIRST_DIVISOR;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_anew_after_success() {
        let max = Duration::from_secs(10);
        let mut pace = Pace::new(max);
        let pauses: Vec<Duration> = pace.by_ref().take(12).collect();
        assert!(pauses[0] <= max / 40 && pauses[0] >= max / 40 * 3 / 4, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= max) && pauses[11] >= max * 3 / 4, "{pauses:?}");
        pace.reset();
        assert!(pace.next().is_some_and(|pause| pause <= max / 40));
    }
}
