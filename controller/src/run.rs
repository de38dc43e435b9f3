//! The loop: events in, updates out, reports back.
//!
//! It waits only when there is nothing to do. A panic in here is a bug of ours: the loop starts again from the disk
//! or from the API servers, and the last good table keeps serving meanwhile. What is seen comes from a directory, which
//! the loop reads itself, or from the fleet's thread ([`crate::watch::fleet`]), in batches.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select, tick};
use routing::delta::{Report, RouteTable};
use routing::model::Protocol;
use tracing::{error, info, warn};

use crate::broadcast::{Broadcaster, Mailbox};
use crate::canary::Canary;
use crate::canary::desk::Desk;
use crate::clock;
use crate::compile::{Compiler, CompilerSettings, Defaults};
use crate::finding::Board;
use crate::merge::Loopback;
use crate::object::Source;
use crate::operator::Command;
use crate::operator::store::Store;
use crate::snapshot::seal::StateKey;
use crate::snapshot::{self, Writer};
use crate::unbound::Unbound;
use crate::verdict::Outcome;
use crate::view::SharedView;
use crate::watch::Observation;
use crate::watch::events::{Events, FileEvent};
use crate::watch::files::Directory;
use crate::watch::fleet::{Batch, FleetSettings, FleetWatch};
use crate::world::World;

/// How often everything is looked at although nothing was heard: inotify may be out of watches.
const RESCAN_INTERVAL: Duration = Duration::from_secs(10);
/// A new folder is looked at again after this: files may have come before it was watched.
const SETTLE: Duration = Duration::from_millis(50);
/// How often a full inbox is tried again.
const FLUSH_INTERVAL: Duration = Duration::from_millis(1);
/// The pause before the loop starts again after a panic.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How often the lag and the workers' generations are published while nothing else is, and a table on trial is judged.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Batches of the fleet that are handled as one change.
const BATCHES_TOGETHER_MAX: usize = 64;
/// Verdicts logged at once; the rest is counted. `ringway check` shows all of them.
const VERDICTS_LOGGED_MAX: usize = 20;

/// Verdicts cost all objects: so many times as long as that took, the loop does other things.
const VERDICTS_REST: u32 = 10;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum ManifestSource {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A hub and its members, by their APIs.
    Fleet(FleetSettings),
}

/// What the controller is told at boot.
#[derive(Clone, Debug)]
pub struct ControllerSettings {
    /// Where the configuration comes from.
    pub source: ManifestSource,
    /// Where Ingress rules are served unless their class says otherwise.
    pub listen: Vec<(SocketAddr, Protocol)>,
    /// `observe.metrics_series_max`: statistics slots of routes and (backend, cluster) pairs.
    pub series_max: u32,
    /// What holds where no policy says otherwise.
    pub defaults: Defaults,
    /// Where operators' words are kept, so that they outlive the process, and the last world of a fleet, so that a start
    /// without the hub serves it; `None` = nowhere.
    pub state_dir: Option<PathBuf>,
    /// What Secrets are sealed with there; `None` = they are left out.
    pub state_key: Option<StateKey>,
}

/// What the controller listens to besides its source of configuration.
#[derive(Debug)]
pub struct Inputs {
    /// What workers report.
    pub reports: Receiver<Report>,
    /// What operators want.
    pub orders: Receiver<Command>,
    /// What holds from now on where no policy says otherwise: gateway.toml was read again.
    pub defaults: Receiver<Defaults>,
    /// Who wants to see the table.
    pub lookers: Receiver<Looker>,
    /// How changed tables are tried on one worker first; `None` = they go to all at once.
    pub canary: Option<Canary>,
    /// The end.
    pub stop: Receiver<()>,
}

/// Sees the newest table that was compiled, on the controller's thread: to be brief.
pub type Looker = Box<dyn FnOnce(&RouteTable) + Send>;

/// Runs until `stop` gets a message or is disconnected, or nobody can report any more. Give it a thread of its own.
///
/// The first snapshot goes out as soon as the directory has been read once; [`SharedView`] says `synced` then.
pub fn run(settings: &ControllerSettings, mailboxes: Vec<Mailbox>, inputs: &Inputs, view: &SharedView) {
    let mut broadcaster = Broadcaster::new(mailboxes);
    let mut store = Store::new(settings.state_dir.clone());
    broadcaster.resume(store.load(clock::monotonic_ns()));
    // Outlives a panic, as the workers' settings do.
    let mut defaults = settings.defaults.clone();
    let mut unbound = Unbound::default();
    loop {
        let one_life = || {
            let mut life = Life::new(settings, (&mut defaults, &mut unbound), view);
            life.desk = Desk::new(inputs.canary.as_ref(), broadcaster.worker_count(), &mut life.compiler);
            life.run(&mut broadcaster, &mut store, inputs)
        };
        match catch_unwind(AssertUnwindSafe(one_life)) {
            Ok(End::Stopped) => return,
            ended @ (Ok(End::Again) | Err(_)) => {
                view.update(|view| view.restarts_total += 1);
                let what =
                    if ended.is_ok() { "the fleet's watches ended" } else { "the controller panicked" };
                error!("{what}; the controller starts again, the last good table keeps serving");
                if inputs.stop.recv_timeout(RESTART_PAUSE)
                    != Err(crossbeam_channel::RecvTimeoutError::Timeout)
                {
                    return;
                }
            }
        }
    }
}

/// Where the world comes from.
enum Feed {
    Directory(Directory),
    /// Or why there is none.
    Fleet(Result<FleetWatch, String>),
}

/// The controller from one start to the next.
struct Life<'a> {
    feed: Feed,
    world: World,
    compiler: Compiler,
    /// Tables on trial.
    desk: Desk<'a>,
    defaults: &'a mut Defaults,
    /// What workers cannot listen on.
    unbound: &'a mut Unbound,
    view: &'a SharedView,
    /// A table has gone out.
    is_serving: bool,
    /// What the disk holds of the world before the API servers have said anything; empty = nothing.
    resumed: Vec<Observation>,
    /// Keeps the world for the next start; `None` for a directory, which is on the disk already.
    writer: Option<Writer>,
    /// Verdicts are not made again before this moment.
    verdicts_after: Instant,
    /// Where the hub's writer finds what there is to say; `None` = nobody writes.
    board: Option<Board>,
    /// The world has changed since it was saved.
    unsaved: bool,
    /// What the view knows of the compiler's count, which begins anew with it.
    series_told: u64,
}

/// How a life ended.
enum End {
    Stopped,
    Again,
}

impl<'a> Life<'a> {
    fn new(
        settings: &ControllerSettings,
        (defaults, unbound): (&'a mut Defaults, &'a mut Unbound),
        view: &'a SharedView,
    ) -> Self {
        let mut resumed = Vec::new();
        let (feed, loopback) = match &settings.source {
            ManifestSource::Manifests(root) => (Feed::Directory(Directory::new(root)), Loopback::Allowed),
            ManifestSource::Fleet(fleet) => {
                let key = settings.state_key.as_ref();
                let before = settings.state_dir.as_deref().and_then(|dir| snapshot::load(dir, key));
                view.update(|view| view.resumed_from = before.as_ref().map(|(_, written)| *written));
                let before = before.map(|(before, _)| before).unwrap_or_default();
                resumed = snapshot::observations(&before);
                let started = FleetWatch::start(fleet.clone(), before, view.clone());
                (Feed::Fleet(started), Loopback::Refused)
            }
        };
        let board = match &settings.source {
            ManifestSource::Manifests(_) => None,
            ManifestSource::Fleet(fleet) => fleet.writer.as_ref().map(|writing| writing.board.clone()),
        };
        let compiler = CompilerSettings {
            listen: settings.listen.iter().map(|listen| (*listen).into()).collect(),
            series_max: settings.series_max,
            loopback,
            defaults: defaults.clone(),
        };
        let world = World::default();
        let writer = match &feed {
            Feed::Directory(_) => None,
            Feed::Fleet(_) => {
                let key = settings.state_key.clone();
                settings.state_dir.clone().and_then(|dir| Writer::start(dir, key).ok())
            }
        };
        let mut compiler = Compiler::new(compiler);
        compiler.set_unbound(unbound);
        if let Some(board) = &board {
            board.clear();
            compiler.want_findings();
        }
        let desk = Desk::new(None, 0, &mut compiler);
        let (is_serving, unsaved, verdicts_after) = (false, false, Instant::now());
        Self {
            feed,
            world,
            compiler,
            desk,
            defaults,
            unbound,
            view,
            is_serving,
            resumed,
            writer,
            verdicts_after,
            board,
            unsaved,
            series_told: 0,
        }
    }

    fn run(&mut self, broadcaster: &mut Broadcaster, store: &mut Store, inputs: &Inputs) -> End {
        // Listening starts before looking: what changes in between is seen twice rather than never.
        let mut events = self.listen();
        let Some(batches) = self.batches() else { return End::Again };
        self.read_disk(broadcaster);
        let rescan = self.rescan();
        let save = tick(snapshot::INTERVAL);
        let publish = tick(PUBLISH_INTERVAL);
        let mut settle = never();
        let (mut orders, mut defaults) = (inputs.orders.clone(), inputs.defaults.clone());
        let mut lookers = inputs.lookers.clone();
        loop {
            let heard = events.as_ref().map_or_else(never, |events| events.receiver().clone());
            let retry = if broadcaster.is_behind() { after(FLUSH_INTERVAL) } else { never() };
            let step = next_step(broadcaster);
            select! {
                recv(heard) -> event => match event {
                    Ok(event) => {
                        if event.is_folder {
                            settle = after(SETTLE);
                        }
                        self.heard(event, &heard, broadcaster);
                    }
                    Err(_) => events = None,
                },
                recv(batches) -> batch => match batch {
                    Ok(batch) => self.told(batch, &batches, broadcaster),
                    Err(_) => return End::Again,
                },
                recv(orders) -> command => match command {
                    Ok(command) => self.obey(command, broadcaster, store),
                    // Nobody can give orders any more; what serves goes on.
                    Err(_) => orders = never(),
                },
                recv(defaults) -> fresh => match fresh {
                    Ok(fresh) => self.take_defaults(fresh, broadcaster),
                    Err(_) => defaults = never(),
                },
                recv(lookers) -> looker => match looker {
                    Ok(looker) => looker(self.compiler.table()),
                    Err(_) => lookers = never(),
                },
                recv(step) -> _ => {
                    broadcaster.step(clock::monotonic_ns(), self.compiler.table());
                    store.save(broadcaster.words());
                }
                recv(inputs.reports) -> report => match report {
                    Ok(report) => self.hear(report, broadcaster),
                    Err(_) => return End::Stopped,
                },
                recv(settle) -> _ => {
                    settle = never();
                    self.look(broadcaster);
                }
                recv(rescan) -> _ => {
                    if events.is_none() {
                        events = self.listen();
                    }
                    self.look(broadcaster);
                }
                recv(retry) -> _ => broadcaster.flush(self.compiler.table()),
                recv(publish) -> _ => self.round(broadcaster, store),
                recv(save) -> _ => self.save(),
                recv(inputs.stop) -> _ => {
                    self.save();
                    return End::Stopped;
                }
            }
            if events.as_ref().is_some_and(Events::take_overflow) {
                self.look(broadcaster);
            }
        }
    }

    /// What the fleet's watches see; `None` when they cannot begin.
    fn batches(&self) -> Option<Receiver<Batch>> {
        match &self.feed {
            Feed::Directory(_) => Some(never()),
            Feed::Fleet(Ok(fleet)) => Some(fleet.receiver().clone()),
            Feed::Fleet(Err(reason)) => {
                error!(reason, "the fleet cannot be watched");
                None
            }
        }
    }

    fn obey(&self, command: Command, broadcaster: &mut Broadcaster, store: &mut Store) {
        let Command { cluster, order, done } = command;
        let now_ns = clock::monotonic_ns();
        let result = broadcaster.order(&cluster, order, now_ns, self.compiler.table());
        match &result {
            Ok(standing) => {
                info!(%cluster, ?order, drain_percent = standing.drain_percent, promoted = standing.promoted, "an operator's order");
                store.save(broadcaster.words());
            }
            Err(reason) => warn!(%cluster, ?order, %reason, "an operator's order is refused"),
        }
        self.publish_progress(broadcaster);
        done(result);
    }

    /// A worker may have said that it cannot listen.
    fn hear(&mut self, report: Report, broadcaster: &mut Broadcaster) {
        if self.unbound.note(&report) {
            self.compiler.set_unbound(self.unbound);
            self.post();
        }
        broadcaster.report(report, self.compiler.table());
    }

    fn post(&mut self) {
        if let Some(board) = &self.board {
            board.post(self.compiler.take_findings(&self.world));
        }
    }

    fn take_defaults(&mut self, fresh: Defaults, broadcaster: &mut Broadcaster) {
        if *self.defaults == fresh {
            return;
        }
        self.compiler.set_defaults(fresh.clone());
        *self.defaults = fresh;
        self.world.mark_everything();
        self.recompile(clock::monotonic_ns(), broadcaster);
    }

    fn listen(&self) -> Option<Events> {
        let Feed::Directory(directory) = &self.feed else { return None };
        match Events::start(directory.root()) {
            Ok(events) => Some(events),
            Err(cause) => {
                let root = directory.root().display();
                warn!(%root, cause, "inotify is not available: changes are seen every {RESCAN_INTERVAL:?} only");
                None
            }
        }
    }

    /// Everything that the directory holds, or the snapshot, as the first table.
    fn read_disk(&mut self, broadcaster: &mut Broadcaster) {
        let started_ns = clock::monotonic_ns();
        let mut seen = std::mem::take(&mut self.resumed);
        if let Feed::Directory(directory) = &mut self.feed {
            seen = directory.scan();
            seen.push(Observation::Synced);
        }
        self.changed(seen, started_ns, broadcaster);
    }

    fn rescan(&self) -> Receiver<Instant> {
        match &self.feed {
            Feed::Directory(_) => tick(RESCAN_INTERVAL),
            Feed::Fleet(_) => never(),
        }
    }

    /// Handles what the fleet saw, and what waits behind it, as one change.
    fn told(&mut self, first: Batch, waiting: &Receiver<Batch>, broadcaster: &mut Broadcaster) {
        let observed_ns = first.observed_ns;
        let mut clusters = BTreeMap::new();
        let mut seen = Vec::new();
        for batch in std::iter::once(first).chain(waiting.try_iter().take(BATCHES_TOGETHER_MAX)) {
            if let Source::Member(cluster) = batch.source {
                clusters.entry(cluster).or_insert(batch.observed_ns);
            }
            seen.extend(batch.seen);
        }
        let before = broadcaster.generation();
        self.changed(seen, observed_ns, broadcaster);
        if broadcaster.generation() > before {
            clusters.iter().for_each(|(cluster, observed_ns)| broadcaster.attribute(cluster, *observed_ns));
        }
    }

    /// Handles this event and all that wait behind it as one change.
    fn heard(&mut self, first: FileEvent, waiting: &Receiver<FileEvent>, broadcaster: &mut Broadcaster) {
        let observed_ns = first.observed_ns;
        let mut paths = BTreeMap::new();
        let mut everything = false;
        for event in std::iter::once(first).chain(waiting.try_iter()) {
            match event.path {
                Some(path) => drop(paths.insert(path, ())),
                None => everything = true,
            }
        }
        let Feed::Directory(directory) = &mut self.feed else { return };
        let mut seen = Vec::new();
        if everything {
            seen = directory.scan();
        } else {
            for path in paths.keys() {
                seen.extend(directory.refresh(path));
            }
        }
        self.changed(seen, observed_ns, broadcaster);
    }

    fn look(&mut self, broadcaster: &mut Broadcaster) {
        let observed_ns = clock::monotonic_ns();
        let Feed::Directory(directory) = &mut self.feed else { return };
        let seen = directory.scan();
        self.changed(seen, observed_ns, broadcaster);
    }

    fn changed(&mut self, seen: Vec<Observation>, observed_ns: u64, broadcaster: &mut Broadcaster) {
        if seen.is_empty() {
            return;
        }
        self.observe(seen);
        self.unsaved = true;
        self.recompile(observed_ns, broadcaster);
    }

    /// What is done at every round, whether or not anything has come.
    fn round(&mut self, broadcaster: &mut Broadcaster, store: &mut Store) {
        if self.compiler.is_due() {
            self.recompile(clock::monotonic_ns(), broadcaster);
        }
        if self.desk.is_watching() {
            self.judge(broadcaster);
        }
        self.publish_progress(broadcaster);
        self.publish_verdicts();
        // A manifest may have made a word superfluous.
        store.save(broadcaster.words());
    }

    fn recompile(&mut self, observed_ns: u64, broadcaster: &mut Broadcaster) {
        if !self.world.is_synced() {
            // Half a world is worse than the last good table, or none.
            return;
        }
        let delta = self.compiler.compile(&mut self.world);
        if !self.is_serving {
            self.is_serving = true;
            broadcaster.everything(observed_ns, self.compiler.table());
            self.desk.everything(&mut self.compiler);
            self.publish_verdicts();
            self.save();
        } else {
            self.desk.send(delta, observed_ns, &mut self.compiler, broadcaster);
        }
        self.post();
        self.publish(broadcaster);
    }

    fn judge(&mut self, broadcaster: &mut Broadcaster) {
        self.desk.judge(&mut self.compiler, broadcaster);
        self.post();
        self.publish(broadcaster);
    }

    /// Saves the world if it has changed; a writer that is busy is asked again at the next tick.
    fn save(&mut self) {
        if let (true, true, Some(writer)) = (self.unsaved, self.is_serving, &self.writer) {
            self.unsaved = !writer.save(&self.world);
        }
    }

    fn observe(&mut self, seen: Vec<Observation>) {
        seen.into_iter().for_each(|observation| self.world.observe(observation));
    }

    fn publish(&mut self, broadcaster: &Broadcaster) {
        self.view.update(|view| {
            view.routes = self.compiler.route_count();
            view.backends = self.compiler.backend_count();
            view.endpoints = self.compiler.endpoint_counts();
            view.synced = self.world.is_synced();
            view.series_refused_total += self.compiler.series_refused() - self.series_told;
            (view.gateway_addresses, view.gateways_without_address) = self.compiler.pool_addresses();
        });
        self.series_told = self.compiler.series_refused();
        self.publish_progress(broadcaster);
    }

    /// What became of every object, if that has changed: it costs all objects, so it waits for a tick, and for ten
    /// times as long as it took the last time.
    fn publish_verdicts(&mut self) {
        let started = Instant::now();
        if started < self.verdicts_after || !self.compiler.take_reports_changed() {
            return;
        }
        let verdicts: Arc<[_]> = self.compiler.verdicts(&self.world).into();
        log_refused(&verdicts);
        let mut objects = BTreeMap::<String, usize>::new();
        for (id, _) in self.world.objects() {
            *objects.entry(id.kind.as_str().to_owned()).or_default() += 1;
        }
        self.view.update(|view| (view.verdicts, view.objects) = (verdicts, objects));
        self.verdicts_after = Instant::now() + started.elapsed() * VERDICTS_REST;
    }

    fn publish_progress(&self, broadcaster: &Broadcaster) {
        self.view.update(|view| {
            view.generation = broadcaster.generation();
            view.applied = broadcaster.applied();
            view.lag.clone_from(&broadcaster.lag);
            view.coalesced_total = broadcaster.coalesced_total;
            view.snapshots_total = broadcaster.snapshots_total;
            view.ejections_total = broadcaster.ejections_total;
            view.lags.clone_from(&broadcaster.lags);
            view.canary = self.desk.view();
            view.standings = broadcaster.words().standings(self.compiler.table());
        });
    }
}

/// Fires when a drain has its next step.
fn next_step(broadcaster: &Broadcaster) -> Receiver<Instant> {
    let now_ns = clock::monotonic_ns();
    match broadcaster.words().next_step_ns(now_ns) {
        Some(at_ns) => after(Duration::from_nanos(at_ns.saturating_sub(now_ns))),
        None => never(),
    }
}

fn log_refused(verdicts: &[crate::verdict::Verdict]) {
    let refused: Vec<_> = verdicts.iter().filter(|v| v.outcome >= Outcome::PartlyRefused).collect();
    for verdict in refused.iter().take(VERDICTS_LOGGED_MAX) {
        let object = verdict.object.as_ref().map(ToString::to_string).unwrap_or_default();
        let worst = verdict.notes.iter().max_by_key(|note| note.severity);
        let (field, reason) = worst.map_or(("", ""), |note| (note.field.as_str(), note.reason.as_str()));
        warn!(file = &*verdict.origin, object, field, reason, outcome = %verdict.outcome, "object refused");
    }
    info!(objects = verdicts.len(), refused = refused.len(), "manifests read");
}
