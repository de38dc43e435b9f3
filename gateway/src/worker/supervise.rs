//! A worker's thread: pins itself, builds the ring, runs the worker, and starts it anew when it panicked.

use std::cell::OnceCell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use config::Config;
use crossbeam_channel::Sender;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use routing::delta::Report;
use routing::id::Generation;
use routing::table::{Table, TableSettings};

use super::binds::Binds;
use super::finding::Finding;
use super::inbox::Inbox;
use super::peers::Peers;
use super::settings::Settings;
use super::{Parts, Worker, clock, rebalance};
use crate::net::runtime::{self, RingFlags};
use crate::net::wake::{Doorbell, Timer};
use crate::observe::access_log::LogWriter;
use crate::observe::decisions::{Batch, Decisions};
use crate::observe::recorder::Recorder;
use crate::observe::recording::Window;
use crate::observe::stats::WorkerStats;
use crate::upstream::dial;

/// How long a worker rests that panicked within this time of its start.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// How long the connections of a worker that panicked have to end.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Everything that a worker's thread is started with.
pub struct Charter {
    /// Its number, from 0.
    pub id: u16,
    /// The core to pin to, if any.
    pub core: Option<usize>,
    /// The configuration at boot.
    pub config: Arc<Config>,
    /// Where its mail arrives.
    pub inbox: Inbox,
    /// What wakes it.
    pub bell: OwnedFd,
    /// The other workers.
    pub peers: Arc<Peers>,
    /// Its statistics; they survive a restart.
    pub stats: Arc<WorkerStats>,
    /// To the controller.
    pub reports: Sender<Report>,
    /// To the admin thread.
    pub findings: Sender<Finding>,
    /// To the admin thread: samples of the last minute's decisions.
    pub samples: Sender<Batch>,
    /// To the thread that writes recordings; `None` = no recorder.
    pub windows: Option<Sender<Window>>,
    /// Makes its part of the access log.
    pub log: Box<dyn Fn() -> LogWriter + Send>,
}

/// Runs a worker until the process has drained or stops.
///
/// # Errors
/// When the ring cannot be built: the kernel has no io_uring, or does not allow it.
pub fn run(charter: &Charter) -> io::Result<()> {
    pin(charter.core);
    let binds = Binds::new(charter.config.worker.backlog);
    let mut first = true;
    loop {
        let began = clock::now();
        let ended = catch_unwind(AssertUnwindSafe(|| run_once(charter, &binds, first)));
        match ended {
            Ok(result) => return result,
            Err(_panic) => {
                charter.stats.restarts_total.inc();
                charter.stats.connections_open.set(0);
                charter.stats.in_flight.set(0);
                charter.stats.tunnels_open.set(0);
                charter.stats.layer4.connections_open.set(0);
                charter.stats.layer4.flows_open.set(0);
                charter.stats.generation.set(0);
                tracing::error!(worker = charter.id, "worker panicked; starting it anew");
                first = false;
                if clock::now().since(began) < RESTART_PAUSE {
                    // It dies of what it finds when it starts: no busy loop.
                    std::thread::park_timeout(RESTART_PAUSE);
                }
            }
        }
    }
}

fn run_once(charter: &Charter, binds: &Binds, first: bool) -> io::Result<()> {
    let settings = &charter.config.worker;
    let wanted = match settings.ring_flags {
        config::RingFlags::Coop => RingFlags::Coop,
        config::RingFlags::Defer => RingFlags::Defer,
        config::RingFlags::Default => RingFlags::Default,
    };
    let ring = runtime::build(wanted, settings.ring_entries, settings.cq_entries)?;
    if ring.flags != wanted {
        tracing::warn!(worker = charter.id, ?wanted, got = ?ring.flags, "the kernel refused the ring's flags");
    }
    charter.stats.ring_flags_refused.set(u64::from(ring.flags != wanted));
    let life = OnceCell::new();
    ring.run(serve(charter, binds, first, &life), || end(life.get()))
}

/// Cuts the connections of a worker that panicked: a client that sees its connection end can try again, one that
/// waits for a leaked socket cannot.
async fn end(worker: Option<&Rc<Worker>>) {
    let Some(worker) = worker else { return };
    worker.abandon();
    last_words(&worker.stats).await;
}

/// Gives connections that were told to end a moment to do so, and the ring another turn behind the last of them: what they
/// left it to do, the closing of their sockets, is handed to the kernel only when the loop waits.
async fn last_words(stats: &WorkerStats) {
    let Ok(timer) = Timer::new() else { return };
    let due = clock::now() + LAST_WORDS;
    loop {
        let are_left = stats.connections_open.get() > 0 && clock::now() < due;
        let turn = timer.arm(Duration::from_millis(1));
        if turn.is_err() || timer.wait().await.is_err() || !are_left {
            return;
        }
    }
}

async fn serve(charter: &Charter, binds: &Binds, first: bool, life: &OnceCell<Rc<Worker>>) -> io::Result<()> {
    let worker = Worker::new(Parts {
        id: charter.id,
        table: Table::new(TableSettings {
            workers: u16::try_from(charter.peers.boxes.len()).unwrap_or(u16::MAX),
            worker: charter.id,
            node_region: charter.config.node.region.as_str().into(),
            node_zone: charter.config.node.zone.as_str().into(),
            board: Arc::clone(&charter.peers.board),
        }),
        rng: SmallRng::from_os_rng(),
        stats: Arc::clone(&charter.stats),
        peers: Arc::clone(&charter.peers),
        log: (charter.log)(),
        settings: Settings::new(&charter.inbox.config_in_force(&charter.config)),
        reports: charter.reports.clone(),
        findings: charter.findings.clone(),
        recorder: Recorder::new(charter.config.observe.recorder_entries, charter.windows.clone()),
        decisions: Decisions::new(
            charter.config.observe.decisions_max,
            u32::try_from(charter.peers.boxes.len()).unwrap_or(u32::MAX),
            Some(charter.samples.clone()),
        ),
    })?;
    let _ = life.set(Rc::clone(&worker));
    // Not guarded: a worker without time or housekeeping is not one; its panic restarts the worker.
    runtime::spawn({
        let worker = Rc::clone(&worker);
        async move { worker.keep_time().await }
    });
    runtime::spawn({
        let worker = Rc::clone(&worker);
        async move { worker.keep_watch().await }
    });
    runtime::spawn(keep_house(Rc::clone(&worker)));
    if !first {
        binds.inherit();
        // The empty table asks for the whole world.
        worker.report(Report::OutOfStep { worker: worker.id, generation: Generation(0) });
    }
    let bell = Doorbell::new(charter.bell.try_clone()?)?;
    let ended = charter.inbox.serve(&worker, binds, &bell).await;
    if worker.is_stopping() {
        // What is cut is reset by its own task: the end of the process would close it as if it were complete.
        worker.wake_all();
        last_words(&worker.stats).await;
    }
    // Nobody keeps house any more: the last lines go now.
    worker.log.borrow_mut().flush();
    worker.record();
    ended
}

/// Regular work: load figures, idle upstream connections, memory, the access log.
async fn keep_house(worker: Rc<Worker>) {
    let Ok(timer) = Timer::new() else { return };
    let period = Duration::from_millis(rebalance::WINDOW_MS);
    let mut turns = 0_u32;
    loop {
        if timer.arm(period).is_err() || timer.wait().await.is_err() {
            return;
        }
        turns = turns.wrapping_add(1);
        let now = clock::now();
        let in_flight = u32::try_from(worker.stats.in_flight.get()).unwrap_or(u32::MAX);
        worker.rebalance.turn(worker.id, in_flight, &worker.peers, now);
        worker.log.borrow_mut().flush();
        worker.record_if_due(now);
        loop {
            let event = worker.table.borrow().next_event(now);
            let Some(event) = event else { break };
            crate::exchange::note_health(&worker, event);
        }
        if let Some(spent) = worker.table.borrow().take_spent() {
            worker.report(Report::Spent(spent));
        }
        if turns.is_multiple_of(4) {
            worker.decisions.second(now, &worker.stats);
            let left = worker.pool.sweep(now, worker.settings().pool_idle_timeout);
            worker.stats.idle_upstream.set(left);
            worker.stats.http2_upstream_connections.set(worker.h2.count());
            worker.dialer.sweep(|backend| dial::is_secure(&worker.table.borrow(), backend));
            worker.stats.buffer_bytes.set(crate::sys::buf::bytes_held() as u64);
            crate::sys::buf::trim();
            worker.trim_runners();
            if worker.stats.listeners_failing.get() > 0 {
                // Whoever reads the mail has the listeners, and tries again.
                worker.peers.boxes[usize::from(worker.id)].ring();
            }
        }
    }
}

/// Starts a task whose panic is counted and ends only itself.
pub fn spawn_guarded(worker: &Rc<Worker>, task: impl Future<Output = ()> + 'static) {
    runtime::spawn(Guarded { stats: Arc::clone(&worker.stats), task });
}

pin_project_lite::pin_project! {
    /// A task and its guard. Not an `async` block around the task: that would hold the task twice, and its size is
    /// what an idle connection costs.
    struct Guarded<F> {
        stats: Arc<WorkerStats>,
        #[pin]
        task: F,
    }
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.task.poll(cx))) {
            Ok(poll) => poll,
            Err(_panic) => {
                this.stats.panics_total.inc();
                Poll::Ready(())
            }
        }
    }
}

fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "cannot pin a worker; it runs where the kernel puts it");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::conn::{Cancel, Conn};

    /// Whoever waited for them has nothing left to wait for, and the ring has not closed their sockets yet.
    #[test]
    fn what_ended_last_is_closed_and_not_left_to_a_ring_that_turns_no_more() {
        let stats = WorkerStats::new(1);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, addr) = listener.accept().unwrap();
        let ring = runtime::build(RingFlags::Coop, 64, 256).unwrap();
        ring.run(
            async {
                drop(Conn::adopt(ours.into(), addr, Cancel::Never).unwrap());
                last_words(&stats).await;
            },
            || std::future::ready(()),
        );
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "its peer sees the end");
    }
}
