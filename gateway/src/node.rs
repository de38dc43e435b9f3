//! The data plane of one process: its workers, their mailboxes and the access log's thread.
//!
//! Whoever starts it (the binary, a test) feeds it `routing::delta` mail and reads its reports.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use config::{AccessLog, Config};
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use routing::delta::{Mail, Report};

use crate::net::wake;
use crate::observe::access_log::{LogChannel, LogWriter};
use crate::observe::decisions::{BATCHES_CAP, Batch};
use crate::observe::recording::{Shelf, WINDOWS_CAP, Window};
use crate::observe::stats::WorkerStats;
use crate::passwords::Passwords;
use crate::tls::tickets::Secrets;
use crate::worker::drill::Drill;
use crate::worker::finding::{FINDINGS_CAP, Finding};
use crate::worker::inbox::Inbox;
use crate::worker::peers::{Peers, Postbox};
use crate::worker::supervise::{self, Charter};

/// Letters that a worker's mailbox holds. Beyond it the controller coalesces; see its broadcast.
pub const INBOX_CAP: usize = 256;
/// Reports that wait for the controller, all workers together. Beyond it they are dropped and counted.
pub const REPORTS_CAP: usize = 4_096;
/// Size of one batch of the access log, for the bound on its memory.
const LOG_BATCH_BYTES: usize = 32 * 1024;

/// Running workers.
pub struct Node {
    /// What the workers share.
    pub peers: Arc<Peers>,
    /// Each worker's statistics.
    pub stats: Vec<Arc<WorkerStats>>,
    /// What the workers report.
    pub reports: Receiver<Report>,
    reporter: Sender<Report>,
    findings: Receiver<Finding>,
    samples: Receiver<Batch>,
    mailboxes: Vec<(Sender<Mail>, OwnedFd)>,
    configs: Vec<Sender<Arc<Config>>>,
    drills: Vec<Sender<Option<Drill>>>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    log: Option<LogThread>,
    recorder: Option<RecorderThread>,
    passwords: PasswordThread,
}

struct LogThread {
    thread: JoinHandle<()>,
    /// Dropped when the last line has been sent. The workers' ends do not tell: a worker's runtime is leaked with
    /// everything in it.
    ended: Sender<()>,
    reopen: Arc<AtomicBool>,
}

/// Compares passwords for all workers.
struct PasswordThread {
    thread: JoinHandle<()>,
    /// Dropped when no worker asks any more.
    ended: Sender<()>,
}

struct RecorderThread {
    thread: JoinHandle<()>,
    /// Dropped when the last window has been sent; as of the access log.
    ended: Sender<()>,
}

impl Node {
    /// Starts as many workers as `config` says, with empty tables and no listeners.
    ///
    /// # Errors
    /// When descriptors or threads run out, the access log cannot be opened, or `tls.ticket_secrets` be used. A worker whose ring cannot be built
    /// ends at once: [`Node::join`] says why.
    pub fn start(config: &Arc<Config>) -> io::Result<Self> {
        let cores = allowed_cores();
        let count = match config.worker.count {
            0 => cores.len().max(1),
            count => count as usize,
        };
        let (reports_in, reports) = bounded(REPORTS_CAP);
        let (findings_in, findings) = bounded(FINDINGS_CAP);
        let (samples_in, samples) = bounded(BATCHES_CAP);
        let mut mailboxes = Vec::with_capacity(count);
        let mut inboxes = Vec::with_capacity(count);
        let mut configs = Vec::with_capacity(count);
        let mut drills = Vec::with_capacity(count);
        for _ in 0..count {
            let (mail_in, mail) = bounded(INBOX_CAP);
            let (config_in, config) = unbounded();
            mailboxes.push((mail_in, wake::doorbell()?));
            let (drill_in, drill) = unbounded();
            configs.push(config_in);
            drills.push(drill_in);
            inboxes.push(Inbox::new(mail, config, drill));
        }
        let boxes =
            mailboxes.iter().map(|(sender, bell)| Ok(Postbox::new(sender.clone(), bell.try_clone()?)));
        let password_checks_max = config.limits.password_checks_max as usize;
        let peers = Peers::new(boxes.collect::<io::Result<Vec<_>>>()?, password_checks_max);
        peers.tickets.share(&Secrets::read(&config.tls.ticket_secrets).map_err(io::Error::other)?);
        let (ended, has_ended) = bounded::<()>(0);
        let passwords = PasswordThread { thread: Passwords::start(&peers, has_ended)?, ended };
        let (log, log_batches) = start_log(config, count)?;
        let (recorder, windows) = start_recorder(config)?;
        let mut node = Self {
            peers,
            stats: Vec::new(),
            reports,
            reporter: reports_in.clone(),
            findings,
            samples,
            mailboxes,
            configs,
            drills,
            workers: Vec::new(),
            log,
            recorder,
            passwords,
        };
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let stats = Arc::new(WorkerStats::new(config.observe.metrics_series_max as usize + 1));
            node.stats.push(Arc::clone(&stats));
            let charter = Charter {
                id: u16::try_from(index).unwrap_or(u16::MAX),
                core: config.worker.pin.then(|| cores.get(index % cores.len().max(1)).copied()).flatten(),
                config: Arc::clone(config),
                inbox,
                bell: node.mailboxes[index].1.try_clone()?,
                peers: Arc::clone(&node.peers),
                stats: Arc::clone(&stats),
                reports: reports_in.clone(),
                findings: findings_in.clone(),
                samples: samples_in.clone(),
                windows: windows.clone(),
                log: log_maker(log_batches.as_ref(), stats),
            };
            let name = format!("worker-{index}");
            node.workers
                .push(std::thread::Builder::new().name(name).spawn(move || supervise::run(&charter))?);
        }
        Ok(node)
    }

    /// For the controller's broadcast: where each worker's mail is put, and what wakes it.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn mailboxes(&self) -> io::Result<Vec<(Sender<Mail>, OwnedFd)>> {
        self.mailboxes.iter().map(|(sender, bell)| Ok((sender.clone(), bell.try_clone()?))).collect()
    }

    /// For another subscriber of the broadcast (the admin thread): where it reports like a worker.
    #[must_use]
    pub fn reporter(&self) -> Sender<Report> {
        self.reporter.clone()
    }

    /// For the admin thread: what the workers found out, with the numbers that led to it. One reader: a finding is
    /// read once.
    #[must_use]
    pub fn findings(&self) -> Receiver<Finding> {
        self.findings.clone()
    }

    /// For the admin thread: samples of what the workers decided. One reader, as of [`Node::findings`].
    #[must_use]
    pub fn samples(&self) -> Receiver<Batch> {
        self.samples.clone()
    }

    /// Puts the live keys of a configuration in force. Secrets that cannot be read leave those that are in force.
    pub fn reload(&self, config: &Arc<Config>) {
        match Secrets::read(&config.tls.ticket_secrets) {
            Ok(secrets) => self.peers.tickets.share(&secrets),
            Err(error) => tracing::error!("secrets of session tickets not changed: {error}"),
        }
        for sender in &self.configs {
            // An ended worker needs no settings.
            let _ = sender.send(Arc::clone(config));
        }
        self.peers.boxes.iter().for_each(Postbox::ring);
    }

    /// Where drills are begun and ended.
    #[must_use]
    pub fn drill_board(&self) -> DrillBoard {
        DrillBoard { workers: self.drills.clone(), peers: Arc::clone(&self.peers) }
    }

    /// Opens the access log's file anew, after it was rotated.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.log {
            log.reopen.store(true, Ordering::Relaxed);
        }
    }

    /// Has every worker ended?
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Has any worker ended on its own?
    #[must_use]
    pub fn has_lost_a_worker(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Waits for every worker and for the last line of the access log.
    ///
    /// # Errors
    /// What ended a worker: io_uring is not there, or not allowed.
    pub fn join(self) -> io::Result<()> {
        let Self { workers, log, recorder, passwords, mailboxes, configs, .. } = self;
        drop((mailboxes, configs));
        let mut result = Ok(());
        for worker in workers {
            let ended = worker.join().unwrap_or_else(|_| Err(io::Error::other("a worker's thread panicked")));
            result = result.and(ended);
        }
        drop(passwords.ended);
        // A panic there has cost comparisons and nothing else.
        let _ = passwords.thread.join();
        if let Some(log) = log {
            drop(log.ended);
            // A panic there has lost lines and nothing else.
            let _ = log.thread.join();
        }
        if let Some(recorder) = recorder {
            drop(recorder.ended);
            let _ = recorder.thread.join();
        }
        result
    }
}

/// Tells every worker of a drill.
pub struct DrillBoard {
    workers: Vec<Sender<Option<Drill>>>,
    peers: Arc<Peers>,
}

impl DrillBoard {
    /// A drill begins, in place of the one before; `None` = it ends.
    pub fn put(&self, drill: Option<Drill>) {
        for sender in &self.workers {
            // An ended worker runs no drills.
            let _ = sender.send(drill);
        }
        self.peers.boxes.iter().for_each(Postbox::ring);
    }
}

/// The cores of the process's own affinity mask.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
        Err(_) => vec![0],
    }
}

// ---------------------------------------------------------------- flight recorder

fn start_recorder(config: &Config) -> io::Result<(Option<RecorderThread>, Option<Sender<Window>>)> {
    let Some(shelf) = Shelf::new(config) else { return Ok((None, None)) };
    let (windows_in, windows) = bounded(WINDOWS_CAP);
    let (ended, has_ended) = bounded::<()>(0);
    let thread = std::thread::Builder::new()
        .name("recorder".into())
        .spawn(move || shelf.serve(&windows, &has_ended))?;
    Ok((Some(RecorderThread { thread, ended }), Some(windows_in)))
}

// ---------------------------------------------------------------- access log

type Batches = (Sender<Vec<u8>>, Receiver<Vec<u8>>);

fn log_maker(batches: Option<&Batches>, stats: Arc<WorkerStats>) -> Box<dyn Fn() -> LogWriter + Send> {
    let batches = batches.cloned();
    Box::new(move || {
        let channel = batches.clone().map(|(full, empty)| LogChannel { full, empty });
        LogWriter::new(channel, Arc::clone(&stats))
    })
}

fn start_log(config: &Config, workers: usize) -> io::Result<(Option<LogThread>, Option<Batches>)> {
    let target = config.observe.access_log.clone();
    if target == AccessLog::Off {
        return Ok((None, None));
    }
    let mut out = open_log(&target)?;
    let cap = (config.observe.access_log_bytes_max.bytes() / LOG_BATCH_BYTES).max(2) * workers;
    let (full_in, full) = bounded::<Vec<u8>>(cap);
    let (empty_in, empty) = bounded(cap);
    let reopen = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&reopen);
    let (ended, has_ended) = bounded::<()>(0);
    let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || {
        let mut phase = Phase::Open;
        while phase == Phase::Open {
            let first = select! {
                recv(full) -> batch => match batch {
                    Ok(batch) => Some(batch),
                    Err(_) => return,
                },
                recv(has_ended) -> _ => {
                    phase = Phase::Ended;
                    None
                }
                default(Duration::from_secs(1)) => None,
            };
            if asked.swap(false, Ordering::Relaxed) {
                match open_log(&target) {
                    Ok(fresh) => out = fresh,
                    Err(error) => {
                        tracing::error!(%error, "cannot reopen the access log; writing to the old one")
                    }
                }
            }
            for batch in first.into_iter().chain(full.try_iter()) {
                if let Err(error) = out.write_all(&batch) {
                    tracing::warn!(%error, "access-log lines are lost");
                }
                // Without room the memory is simply freed.
                let _ = empty_in.try_send(batch);
            }
        }
    })?;
    Ok((Some(LogThread { thread, ended, reopen }), Some((full_in, empty))))
}

/// Can more lines come?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Ended,
}

fn open_log(target: &AccessLog) -> io::Result<Box<dyn Write + Send>> {
    match target {
        AccessLog::Off | AccessLog::Stdout => Ok(Box::new(io::stdout())),
        AccessLog::File(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("observe.access_log {}: {error}", path.display()))
            };
            Ok(Box::new(file.map_err(named)?))
        }
    }
}
