//! Where everything that is shown lies: the admin thread's own table, its mail, the counters, the window.
//!
//! One task owns the [`Room`]; connections ask it through a [`Desk`], one question at a time. So there is no lock,
//! and a table that cannot leave its thread does not have to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use std::sync::Arc;

use routing::delta::{Mail, Report};
use routing::health::action::Evidence;
use routing::health::state::State;
use routing::id::ClusterId;
use routing::table::{Table, TableSettings};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use wire::h1::limits::HeadLimits;

use super::drill::{Machine, Reports};
use super::drills;
use super::names::Names;
use super::tables::Samples;
use super::window::{INTERVAL, Recent, Window};
use super::{Facts, Sources};
use crate::observe::stats::WorkerStats;
use crate::worker::clock;
use crate::worker::finding::Whose;
use crate::worker::settings::Settings;

/// Questions that wait; as many connections may be open.
pub(super) const QUESTIONS_MAX: usize = super::server::CONNECTIONS_MAX;
/// A worker that has not come round for this long is hung.
const HUNG_AFTER_MS: u64 = 5_000;

/// Verdicts whose evidence is kept. Beyond it a verdict is shown without.
const EVIDENCE_MAX: usize = 4_096;

type Question = Box<dyn FnOnce(&Room) + Send>;

/// Asks the [`Room`].
#[derive(Clone)]
pub(super) struct Desk(mpsc::Sender<Question>);

impl Desk {
    /// What `question` answers. `None` when the room has ended or the question panicked: our bug, logged.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Room) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |room| {
            // Nobody waits any more: the client has left.
            let _ = answer.send(question(room));
        });
        self.0.send(question).await.ok()?;
        answered.await.ok()
    }
}

/// See the module.
pub(super) struct Room {
    pub(super) sources: Sources,
    pub(super) table: Table,
    pub(super) names: Names,
    pub(super) head_limits: HeadLimits,
    pub(super) drills: RefCell<Machine>,
    pub(super) reports: Reports,
    /// The evidence of verdicts that stand; at most [`EVIDENCE_MAX`].
    pub(super) evidence: BTreeMap<Whose, (State, Evidence)>,
    /// The last minute's requests, as far as they were sampled.
    pub(super) samples: Samples,
    window: Window,
}

impl Room {
    pub(super) fn new(sources: Sources) -> Self {
        let node = &sources.config.node;
        let settings = TableSettings {
            node_region: node.region.as_str().into(),
            node_zone: node.zone.as_str().into(),
            board: Arc::clone(&sources.peers.board),
            ..TableSettings::default()
        };
        let head_limits = Settings::new(&sources.config).head;
        let mut room = Self {
            table: Table::new(settings),
            names: Names::default(),
            head_limits,
            drills: RefCell::default(),
            reports: Reports::new(&sources.config.admin.state_dir, sources.config.admin.drill_reports_kept),
            evidence: BTreeMap::new(),
            samples: Samples::default(),
            window: Window::default(),
            sources,
        };
        room.note();
        room
    }

    /// Serves until `stopped`.
    pub(super) async fn serve(
        mut self,
        bell: OwnedFd,
        mut questions: mpsc::Receiver<Question>,
        mut stopped: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        // An eventfd, of which the runtime only ever asks whether it is readable: any type of descriptor will do.
        let bell = UnixDatagram::from_std(bell.into())?;
        let mut second = interval(INTERVAL);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = interval(drills::INTERVAL);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let drilling = self.drills.borrow().is_active();
            tokio::select! {
                rung = bell.readable() => {
                    rung?;
                    // The bell is taken before the mail: what arrives in between rings again.
                    let take = || Ok(rustix::io::read(&bell, &mut [0; 8])?);
                    let _ = bell.try_io(Interest::READABLE, take);
                    self.read_mail();
                }
                question = questions.recv() => {
                    let Some(question) = question else { return Ok(()) };
                    self.read_mail();
                    if catch_unwind(AssertUnwindSafe(|| question(&self))).is_err() {
                        tracing::error!("an admin request panicked");
                    }
                }
                _ = second.tick() => {
                    self.note();
                    self.read_samples();
                }
                _ = step.tick(), if drilling => {
                    self.read_mail();
                    self.step_drill();
                }
                _ = &mut stopped => {
                    // Its workers may live on for a while, without anybody who would abort it.
                    self.sources.drills.put(None);
                    return Ok(());
                }
            }
        }
    }

    fn read_mail(&mut self) {
        let mut changed = false;
        // Bounded: the sender fills the box at most once while it is read.
        let letters: Vec<Mail> = self.sources.mail.try_iter().collect();
        for letter in letters {
            match letter {
                Mail::Update(update) => {
                    changed = true;
                    self.apply(&update);
                }
                // Nobody hands connections to this thread; closing one that came is all that is left.
                Mail::Adopt(_) | Mail::Wake => {}
            }
        }
        if changed {
            self.names.refresh(&self.table, &self.sources.stats);
        }
        self.read_verdicts();
        self.read_samples();
    }

    fn read_samples(&mut self) {
        let max = self.sources.config.observe.decisions_max;
        self.samples.take_in(self.sources.samples.try_iter(), max);
    }

    /// Copies what the workers decided. This table decides nothing by itself: it sees no traffic and is never ticked.
    fn read_verdicts(&mut self) {
        self.table.look(clock::now());
        // Waking, ringing and probing are the workers'.
        while self.table.next_action().is_some() {}
        for finding in self.sources.findings.try_iter() {
            match finding.state {
                State::Healthy => drop(self.evidence.remove(&finding.whose)),
                state @ (State::Suspect | State::Down(_) | State::Probation | State::Ramp) => {
                    self.evidence.insert(finding.whose, (state, finding.evidence));
                }
            }
        }
        if self.evidence.len() > EVIDENCE_MAX {
            self.forget_evidence();
        }
        if self.evidence.len() > EVIDENCE_MAX {
            self.evidence.clear();
        }
    }

    /// What has left the table has no state any more, and nobody says that it is healthy.
    fn forget_evidence(&mut self) {
        let clusters: BTreeSet<_> = self.table.clusters().iter().map(|view| view.id).collect();
        let backends = self.table.backends();
        let parts: BTreeSet<_> = backends
            .iter()
            .flat_map(|view| view.clusters.iter().map(|(cluster, _)| (view.id, *cluster)))
            .collect();
        let endpoints: BTreeSet<_> =
            backends.iter().flat_map(|view| self.table.endpoints(view.id)).map(|view| view.id).collect();
        self.evidence.retain(|whose, _| match whose {
            Whose::Cluster(cluster) => clusters.contains(cluster),
            Whose::Backend(backend, cluster) => parts.contains(&(*backend, *cluster)),
            Whose::Endpoint(endpoint) => endpoints.contains(endpoint),
        });
    }

    fn apply(&mut self, update: &routing::delta::Update) {
        let worker = u16::try_from(self.sources.stats.len()).unwrap_or(u16::MAX);
        let now = clock::now();
        let report = match self.table.apply(update, now) {
            Ok(_) => {
                self.names.note(&update.change);
                Report::Applied { worker, generation: update.generation, at_ns: now.0 }
            }
            Err(out) => Report::OutOfStep { worker, generation: out.have },
        };
        // No worker's thread: what the table let go of may be freed here.
        drop(self.table.take_spent());
        // A full channel costs a hint; an old table costs truth, but the next update asks again.
        let _ = self.sources.reports.try_send(report);
    }

    fn note(&mut self) {
        let clusters = self.cluster_ids();
        self.window.note(clock::now(), &self.sources.stats, &clusters);
    }

    pub(super) fn recent(&self) -> Recent {
        self.window.recent(clock::now(), &self.sources.stats, &self.cluster_ids())
    }

    fn cluster_ids(&self) -> Vec<ClusterId> {
        self.table.clusters().iter().map(|cluster| cluster.id).collect()
    }

    pub(super) fn facts(&self) -> Facts {
        self.sources.controller.facts()
    }

    /// Why the node is not to be sent traffic; `None` when it is ready.
    pub(super) fn not_ready(&self, facts: &Facts) -> Option<String> {
        if self.sources.draining.load(Ordering::Relaxed) || self.sources.peers.is_draining() {
            return Some("draining".to_owned());
        }
        if !facts.synced {
            return Some("the first table is still being made".to_owned());
        }
        let without = self.sources.stats.iter().filter(|stats| stats.generation.get() == 0).count();
        let workers = self.sources.stats.len();
        if without > 0 {
            return Some(format!("{without} of {workers} workers have no table yet"));
        }
        let deaf = |stats: &WorkerStats| stats.listeners_open.get() == 0 && stats.listeners_failing.get() > 0;
        let deaf = self.sources.stats.iter().filter(|stats| deaf(stats)).count();
        (deaf > 0).then(|| format!("{deaf} of {workers} workers cannot listen on any address: see the log"))
    }

    /// What a node that is ready should say of itself all the same.
    pub(super) fn remarks(&self, facts: &Facts) -> Vec<String> {
        let failing = self.sources.stats.iter().map(|stats| stats.listeners_failing.get()).max().unwrap_or(0);
        let of_listeners =
            (failing > 0).then(|| format!("{failing} addresses cannot be listened on: see the log"));
        facts.remarks.iter().cloned().chain(of_listeners).collect()
    }

    /// Why the process is to be restarted; `None` when it is alive.
    pub(super) fn not_healthy(&self) -> Option<String> {
        let now = clock::now().0;
        self.sources.peers.lines.iter().enumerate().find_map(|(worker, line)| {
            // 0: it has not begun yet.
            let silent_ms = match line.alive_ns() {
                0 => 0,
                alive => now.saturating_sub(alive) / 1_000_000,
            };
            (silent_ms >= HUNG_AFTER_MS)
                .then(|| format!("worker {worker} has not come round for {silent_ms} ms"))
        })
    }
}

/// A desk, and the questions that are asked at it.
pub(super) fn desk() -> (Desk, mpsc::Receiver<Question>) {
    let (sender, questions) = mpsc::channel(QUESTIONS_MAX);
    (Desk(sender), questions)
}
