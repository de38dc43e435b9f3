//! One flow: the datagrams of one client, on their way to its endpoint and back.
//!
//! Two tasks touch it. The one that serves the listener brings the client's datagrams ([`Flow::forward`]); the flow's own
//! hears its endpoint and keeps its time. Both run on one worker and neither waits while it holds the flow.
//!
//! ```text
//! no path --datagram: pick, connect--> path --ICMP unreachable | endpoint gone | verdict--> no path
//! ```
//! A flow without a path drops nothing but the datagrams that find no endpoint; it ends when it is quiet.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use routing::failover::Tried;
use routing::health::action::Advice;
use routing::health::endpoint::Outcome;
use routing::id::Generation;
use routing::model::Target;
use routing::subject::{Subject, SubjectKind};
use routing::table::{EndpointKey, NoEndpoint, OverloadBound, Pick, RuleRef};
use routing::time::MonoTime;

use super::Listening;
use super::flows::NOWHERE;
use super::path::{Kept, Path};
use super::quic::Connection;
use crate::downstream::tcp::Admitted;
use crate::net::datagram::{DatagramSocket, Run};
use crate::observe::access_log::Passed;
use crate::observe::layer4::{Dropped, Ended};
use crate::observe::stats::Limit;
use crate::worker::drill::Fault;
use crate::worker::{Deadline, Worker, clock};

/// Batches taken in one go; then other tasks have their turn.
const BATCHES_MAX: usize = 4;
/// While the worker drains, a flow ends when it has been quiet for this long.
const DRAIN_QUIET: Duration = Duration::from_secs(1);
/// A flow that finds no endpoint is remembered for this long.
const LOST_QUIET: Duration = Duration::from_secs(1);

/// Where a flow comes from and where it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) bind: routing::id::BindId,
    /// As the socket names it: answers go there.
    pub(super) peer: SocketAddr,
    /// The address of ours that the client knows, and that answers come from.
    pub(super) local: Option<IpAddr>,
}

/// See the module.
pub struct Flow {
    worker: Rc<Worker>,
    listening: Rc<Listening>,
    pub(super) key: Key,
    /// Its place among the flows of its worker.
    pub(super) place: Cell<u32>,
    /// The client, in its canonical form.
    source: SocketAddr,
    deadline: Deadline,
    began: MonoTime,
    /// The latest datagram, either way.
    pub(super) last: Cell<MonoTime>,
    rule: RefCell<RuleRef>,
    /// The table that the rule is of.
    generation: Cell<Generation>,
    path: RefCell<Option<Path>>,
    is_quic: bool,
    connection: RefCell<Option<Rc<Connection>>>,
    /// The endpoint that had it last.
    pick: Cell<Option<Pick>>,
    /// Endpoints that it was sent to.
    attempts: Cell<u8>,
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Why it cannot be passed on right now.
    lost: Cell<Option<(Ended, &'static str)>>,
    /// Was its path opened since its task looked?
    changed: Cell<bool>,
    ended: Cell<Option<(Ended, &'static str)>>,
    _admitted: [Option<Admitted>; 2],
}

/// What a flow begins with.
pub(super) struct Opening {
    pub(super) key: Key,
    pub(super) rule: RuleRef,
    pub(super) connection: Option<Rc<Connection>>,
    pub(super) is_quic: bool,
    pub(super) admitted: [Option<Admitted>; 2],
}

enum Event {
    Readable,
    /// The ring takes no wait.
    Deaf,
    /// Its deadline, a verdict, or the process wants something.
    Woken,
}

impl Flow {
    pub(super) fn new(
        worker: &Rc<Worker>,
        listening: &Rc<Listening>,
        opening: Opening,
        now: MonoTime,
    ) -> Rc<Self> {
        let Opening { key, rule, connection, is_quic, admitted } = opening;
        let stats = &worker.stats.layer4;
        stats.flows_total.inc();
        stats.flows_open.add(1);
        Rc::new(Self {
            worker: Rc::clone(worker),
            listening: Rc::clone(listening),
            key,
            place: Cell::new(NOWHERE),
            source: SocketAddr::new(key.peer.ip().to_canonical(), key.peer.port()),
            deadline: worker.deadline(),
            began: now,
            last: Cell::new(now),
            rule: RefCell::new(rule),
            generation: Cell::new(worker.table.borrow().generation()),
            path: RefCell::new(None),
            is_quic,
            connection: RefCell::new(connection),
            pick: Cell::new(None),
            attempts: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
            lost: Cell::new(None),
            changed: Cell::new(false),
            ended: Cell::new(None),
            _admitted: admitted,
        })
    }

    /// The flow's task: hears its endpoint until it ends.
    pub(super) async fn serve(self: Rc<Self>) {
        let flow = &*self;
        flow.set_deadline(flow.began);
        while flow.ended.get().is_none() {
            let socket = flow.path.borrow().as_ref().map(|path| Rc::clone(&path.socket));
            match socket {
                None => {
                    poll_fn(|cx| if flow.is_called(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
                    flow.tick(clock::now());
                }
                Some(socket) => flow.hear(&socket).await,
            }
        }
        flow.finish();
    }

    /// Hears one socket while it is the flow's. One wait for readability serves many wakes.
    async fn hear(&self, socket: &Rc<DatagramSocket>) {
        let mut readable = pin!(socket.readable());
        loop {
            let event = poll_fn(|cx| {
                if self.is_called(cx) {
                    return Poll::Ready(Event::Woken);
                }
                readable
                    .as_mut()
                    .poll(cx)
                    .map(|ready| if ready.is_ok() { Event::Readable } else { Event::Deaf })
            });
            match event.await {
                Event::Readable => return self.receive(socket, clock::now()),
                Event::Deaf => return self.end(Ended::ConnectFailed, "ring"),
                Event::Woken => self.tick(clock::now()),
            }
            let is_there = self.path.borrow().as_ref().is_some_and(|path| Rc::ptr_eq(&path.socket, socket));
            if !is_there || self.ended.get().is_some() {
                return;
            }
        }
    }

    /// Is there something for its task to see to? What calls it may set the deadline anew before the task runs: so whatever
    /// is not a matter of time is asked for itself.
    fn is_called(&self, cx: &mut Context<'_>) -> bool {
        self.deadline.poll(cx).is_ready()
            || self.changed.replace(false)
            || self.ended.get().is_some()
            || self.worker.is_stopping()
    }

    /// Its task is to look at the path anew.
    fn change(&self) {
        self.changed.set(true);
        self.deadline.fire();
    }

    /// It ends, for this reason; its task sees to it.
    pub(super) fn end(&self, why: Ended, detail: &'static str) {
        if self.ended.get().is_none() {
            self.ended.set(Some((why, detail)));
            self.deadline.fire();
        }
    }

    // ------------------------------------------------------------ from the client

    /// Passes a run of the client on.
    pub(super) fn forward(&self, run: &Run<'_>, now: MonoTime) {
        if self.ended.get().is_some() {
            return self.drop_run(run, Dropped::Ended);
        }
        self.touch(now);
        self.received.set(self.received.get() + run.bytes.len() as u64);
        let stats = &self.worker.stats.layer4;
        stats.received_bytes_total.add(run.bytes.len() as u64);
        stats.datagrams_received_total.add(run.count());
        if self.generation.get() != self.worker.table.borrow().generation() && !self.review() {
            return self.drop_run(run, Dropped::NoRoute);
        }
        if self.bound_to(run).is_none() {
            self.leave_if_dead(now);
            self.leave_if_doubted(now);
        }
        self.send(run, &mut Tried::new(), now);
    }

    /// Who has the connection of QUIC that a run goes on with. Nobody else could: so it stays there whatever is thought of
    /// that endpoint, until ICMP says that it is gone. What opens another connection is free.
    fn bound_to(&self, run: &Run<'_>) -> Option<EndpointKey> {
        let connection = self.connection.borrow();
        let connection = connection.as_ref().filter(|connection| connection.is_named())?;
        let opens = self.worker.flows.connections.is_opening(self.key.bind, run.first());
        (!opens).then(|| connection.endpoint())
    }

    /// Sends a run to the flow's endpoint, to another one where nobody listens, and so on.
    fn send(&self, run: &Run<'_>, tried: &mut Tried, now: MonoTime) {
        let rule = self.rule.borrow().clone();
        loop {
            let is_open = self.path.borrow().is_some();
            if !is_open && let Err(dropped) = self.connect(run, &rule, tried, now) {
                return self.drop_run(run, dropped);
            }
            let Err(error) = self.pass(run, &rule, now) else { return self.set_deadline(now) };
            let Some(outcome) = unreachable(&error) else { return self.drop_run(run, dropped_by(&error)) };
            // Of an earlier datagram: this one was not sent. Both go elsewhere, that one first.
            let Some((pick, kept)) = self.lose_path(outcome, now) else { continue };
            if !tried.contains(pick.endpoint) {
                tried.note(&pick);
            }
            if let Some(kept) = kept.filter(|kept| kept.bytes() != run.first()) {
                self.resend(&kept, &pick, now);
            }
        }
    }

    /// Sends what waited at an endpoint to another one. Wherever it has been counts, or it would go round for ever.
    fn resend(&self, kept: &Kept, from: &Pick, now: MonoTime) {
        self.send(&Run::single(kept.bytes(), self.key.peer), &mut kept.tried(from), now);
    }

    /// Sends a run by the path that is open, unless a drill does something else with it.
    fn pass(&self, run: &Run<'_>, rule: &RuleRef, now: MonoTime) -> io::Result<()> {
        let mut place = self.path.borrow_mut();
        let Some(path) = place.as_mut() else { return Err(io::ErrorKind::NotConnected.into()) };
        path.asks(run, self.is_quic, rule.policy(), now);
        match self.worker.drill_fault(path.pick().cluster) {
            Some(Fault::Blackhole) => {}
            Some(Fault::Refuse) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Fault::Latency(_) | Fault::Status(_)) | None => path.socket.send(run)?,
        }
        path.sent(run, rule.policy(), now);
        Ok(())
    }

    /// Picks an endpoint and opens a path to it.
    fn connect(
        &self,
        run: &Run<'_>,
        rule: &RuleRef,
        tried: &mut Tried,
        now: MonoTime,
    ) -> Result<(), Dropped> {
        let worker = &self.worker;
        let policy = rule.policy();
        loop {
            if tried.len() >= usize::from(policy.retry.attempts) {
                self.lost.set(Some((Ended::ConnectFailed, "connect_failed")));
                return Err(Dropped::NoEndpoint);
            }
            let pick = self.choose(run, rule, tried, now).map_err(|none| {
                if let NoEndpoint::Overloaded { bound } = none {
                    worker.stats.hit(match bound {
                        OverloadBound::EndpointInFlight => Limit::EndpointInFlight,
                        OverloadBound::BackendInFlight | OverloadBound::ClusterCapacity => {
                            Limit::BackendInFlight
                        }
                    });
                }
                self.lost.set(Some((Ended::NoEndpoint, none.name())));
                Dropped::NoEndpoint
            })?;
            if self.pick.get().is_some_and(|before| before.endpoint != pick.endpoint) {
                worker.stats.layer4.flows_moved_total.inc();
            }
            self.pick.set(Some(pick));
            self.attempts.set(self.attempts.get().saturating_add(1));
            tried.note(&pick);
            match Path::open(worker, pick, (run, tried), policy, &self.deadline, now) {
                Ok(path) => {
                    worker.stats.connects_total.inc();
                    self.lost.set(None);
                    self.learn_endpoint(&pick);
                    *self.path.borrow_mut() = Some(path);
                    // Its task waits for another socket, or for none.
                    self.change();
                    return Ok(());
                }
                Err(error) if crate::accept::is_out_of_descriptors(&error) => {
                    worker.stats.hit(Limit::Descriptors);
                    self.lost.set(Some((Ended::ConnectFailed, "descriptors")));
                    return Err(Dropped::NoEndpoint);
                }
                Err(_unreachable) => worker.stats.connect_failures_total.inc(),
            }
        }
    }

    /// The endpoint that the connection has already, or a new one.
    fn choose(
        &self,
        run: &Run<'_>,
        rule: &RuleRef,
        tried: &Tried,
        now: MonoTime,
    ) -> Result<Pick, NoEndpoint> {
        let (table, mut rng) = (self.worker.table.borrow(), self.worker.rng.borrow_mut());
        let subject = self.subject();
        if let Some(endpoint) = self.bound_to(run).filter(|_| tried.is_empty())
            && let Some(pick) = table.pick_at(endpoint, rule, &subject, now, &mut rng)
        {
            return Ok(pick);
        }
        table.pick(rule, &subject, tried, now, &mut rng)
    }

    /// From now on the connection is this endpoint's.
    fn learn_endpoint(&self, pick: &Pick) {
        if !self.is_quic {
            return;
        }
        let mut connection = self.connection.borrow_mut();
        if connection.as_ref().is_none_or(|connection| connection.endpoint() != pick.endpoint) {
            self.worker.flows.let_go(&mut connection);
            *connection = Some(Connection::new(self.key.bind, pick.endpoint));
        }
    }

    /// The client asks again while the endpoint is in doubt: that goes elsewhere. It is the client's own repetition.
    fn leave_if_doubted(&self, now: MonoTime) {
        let mut place = self.path.borrow_mut();
        let Some(path) = place.as_ref() else { return };
        let Some(since) = path.waits_since().filter(|since| *since < now && !path.has_answered()) else {
            return;
        };
        let table = self.worker.table.borrow();
        let rule = self.rule.borrow();
        let advice = table.advise(path.pick(), since, now, rule.policy(), &Tried::new());
        drop(table);
        match advice {
            Advice::Stay { .. } => {}
            Advice::Hedge { .. } | Advice::Leave { .. } => {
                *place = None;
                self.change();
            }
        }
    }

    // ------------------------------------------------------------ from the endpoint

    /// Passes on what the endpoint sent.
    fn receive(&self, socket: &Rc<DatagramSocket>, now: MonoTime) {
        for _ in 0..BATCHES_MAX {
            let mut batch = self.worker.flows.batch.borrow_mut();
            match socket.receive(&mut batch) {
                Ok(()) => batch.runs().for_each(|run| self.answer(&run, now)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    drop(batch);
                    let outcome = unreachable(&error).unwrap_or(Outcome::ConnectFailed);
                    return self.move_on(outcome, now);
                }
            }
        }
    }

    fn answer(&self, run: &Run<'_>, now: MonoTime) {
        let mut place = self.path.borrow_mut();
        let Some(path) = place.as_mut() else { return };
        path.answers(run, now);
        drop(place);
        self.touch(now);
        if self.is_quic
            && let Some(connection) = &*self.connection.borrow()
        {
            self.worker.flows.connections.learn(connection, run.first());
        }
        match self.listening.socket.send_to(run, self.key.peer, self.key.local) {
            Ok(()) => {
                self.sent.set(self.sent.get() + run.bytes.len() as u64);
                let stats = &self.worker.stats.layer4;
                stats.sent_bytes_total.add(run.bytes.len() as u64);
                stats.datagrams_sent_total.add(run.count());
            }
            Err(error) => self.drop_run(run, dropped_by(&error)),
        }
    }

    /// Nobody listens at the endpoint. What it cannot have got goes elsewhere at once.
    fn move_on(&self, outcome: Outcome, now: MonoTime) {
        if let Some((pick, Some(kept))) = self.lose_path(outcome, now) {
            self.resend(&kept, &pick, now);
        }
    }

    fn lose_path(&self, outcome: Outcome, now: MonoTime) -> Option<(Pick, Option<Kept>)> {
        let path = self.path.borrow_mut().take()?;
        self.change();
        self.worker.stats.connect_failures_total.inc();
        Some((*path.pick(), path.refused(outcome, now)))
    }

    // ------------------------------------------------------------ time, verdicts, tables

    fn tick(&self, now: MonoTime) {
        if self.worker.is_stopping() {
            return self.end(Ended::Stopped, "");
        }
        let is_bound = self.connection.borrow().as_ref().is_some_and(|connection| connection.is_named());
        if !is_bound {
            self.leave_if_dead(now);
        }
        if let Some(path) = &mut *self.path.borrow_mut()
            && path.due().is_some_and(|due| now >= due)
        {
            path.is_overdue(now);
        }
        if now >= self.quiet_at() {
            let (why, detail) = self.lost.get().unwrap_or((Ended::Idle, ""));
            return self.end(why, detail);
        }
        self.set_deadline(now);
    }

    /// Its endpoint was found to answer nothing. The next datagram goes elsewhere; one that waits does so at once where the
    /// policy says that it may be processed twice.
    fn leave_if_dead(&self, now: MonoTime) {
        let Some(mut path) = self.path.borrow_mut().take_if(|path| path.is_cut()) else { return };
        let (pick, kept) = (*path.pick(), path.take_kept());
        drop(path);
        self.change();
        let may_repeat = self.rule.borrow().policy().retry.non_idempotent;
        if let Some(kept) = kept.filter(|_| may_repeat) {
            self.resend(&kept, &pick, now);
        }
    }

    /// The table has changed: is there still a rule, and does it lead to the flow's endpoint? `false` = the flow ends.
    fn review(&self) -> bool {
        let table = self.worker.table.borrow();
        self.generation.set(table.generation());
        let Ok(rule) = table.route(&self.subject()) else {
            drop(table);
            self.end(Ended::NoRoute, "");
            return false;
        };
        let leads_there = self.path.borrow().as_ref().is_none_or(|path| {
            let Target::Forward(refs) = &rule.action().target else { return false };
            let pick = path.pick();
            refs.iter().any(|one| one.backend == Some(pick.backend) && one.weight > 0)
                && table.is_listed(pick.endpoint)
        });
        drop(table);
        *self.rule.borrow_mut() = rule;
        if !leads_there {
            *self.path.borrow_mut() = None;
            self.change();
        }
        true
    }

    fn subject(&self) -> Subject<'static> {
        Subject { bind: self.key.bind, peer: self.source, kind: SubjectKind::Udp }
    }

    fn touch(&self, now: MonoTime) {
        self.last.set(now);
        self.worker.flows.touch(self);
    }

    /// When it has been quiet for long enough to end.
    fn quiet_at(&self) -> MonoTime {
        let mut quiet = self.worker.settings().udp_idle;
        if self.lost.get().is_some() {
            quiet = quiet.min(LOST_QUIET);
        }
        if self.worker.is_draining() {
            quiet = quiet.min(DRAIN_QUIET);
        }
        self.last.get() + quiet
    }

    fn set_deadline(&self, now: MonoTime) {
        let due = self.path.borrow().as_ref().and_then(Path::due);
        let quiet = self.quiet_at();
        self.deadline.set(due.map_or(quiet, |due| due.min(quiet)).max(now));
    }

    fn drop_run(&self, run: &Run<'_>, why: Dropped) {
        self.worker.stats.layer4.drop_datagrams(why, run.count());
    }

    /// Counts and logs.
    fn finish(&self) {
        let (ended, detail) = self.ended.get().unwrap_or((Ended::Stopped, ""));
        *self.path.borrow_mut() = None;
        self.worker.stats.layer4.end(ended);
        let mut log = self.worker.log.borrow_mut();
        if log.is_on() {
            let rule = self.rule.borrow();
            let passed = Passed {
                source: self.source,
                peer: self.source,
                protocol: if self.is_quic { "quic" } else { "udp" },
                sni: None,
                alpn: None,
                rule: Some(&rule),
                pick: self.pick.get(),
                attempts: self.attempts.get(),
                ended,
                detail,
                received: self.received.get(),
                sent: self.sent.get(),
                connect_us: None,
                began: self.began,
            };
            log.layer4(&passed, &self.worker.table.borrow());
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.worker.flows.let_go(self.connection.get_mut());
        self.worker.stats.layer4.flows_open.sub(1);
    }
}

/// Says a socket's error that the endpoint cannot be reached, and how?
fn unreachable(error: &io::Error) -> Option<Outcome> {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Some(Outcome::Refused),
        None if error.kind() == io::ErrorKind::ConnectionRefused => Some(Outcome::Refused),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => {
            Some(Outcome::ConnectFailed)
        }
        Some(_) | None => None,
    }
}

fn dropped_by(error: &io::Error) -> Dropped {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Dropped::TooLarge,
        Some(_) | None => Dropped::Busy,
    }
}
