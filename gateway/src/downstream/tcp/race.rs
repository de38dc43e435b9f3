//! Connecting a layer-4 connection: endpoint after endpoint, and beside each other where one is in doubt.
//!
//! Until an endpoint has accepted, nothing has been sent: whatever the protocol, the next one may be tried, free of
//! charge, up to `retry.attempts`. Who accepts first gets the connection. To the failure detector a connect is an
//! attempt that ends when it is accepted or fails; that it is accepted is a good answer only where nothing better is to be
//! expected (`owed`). An established connection that says nothing waits for nothing.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use routing::failover::Tried;
use routing::health::action::Advice;
use routing::health::endpoint::Outcome;
use routing::retry::{Charge, FailureKind};
use routing::table::{EndpointKey, NoEndpoint, OverloadBound, Pick, RuleRef};
use routing::time::MonoTime;

use super::{Failure, Session};
use crate::accept::is_out_of_descriptors;
use crate::exchange::{Asked, Held};
use crate::net;
use crate::net::conn::{Cancel, Conn};
use crate::observe::layer4::Ended;
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;
use crate::worker::drill::Fault;
use crate::worker::{Worker, clock, supervise};

/// How long a connect that lost, and whose end is evidence, is waited for.
const LATE: Duration = Duration::from_secs(1);

type Connecting = Pin<Box<dyn Future<Output = io::Result<Conn>>>>;

/// One connect under way.
struct Racer {
    /// Before `held`: the endpoint may be gone once that is dropped.
    _pending: Pending,
    held: Held,
    connecting: Connecting,
    due: Option<MonoTime>,
    /// When the detector wants to be asked again.
    again: Option<MonoTime>,
    /// Has another one been started because of this one?
    doubted: bool,
}

/// A place among the connects of an endpoint that are under way (`pool.pending_per_endpoint_max`).
struct Pending {
    worker: Rc<Worker>,
    endpoint: EndpointKey,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.worker.pool.connect_ends(self.endpoint);
    }
}

struct Race<'a> {
    session: &'a mut Session,
    rule: &'a RuleRef,
    racers: Vec<Racer>,
    tried: Tried,
    /// Why the last one failed.
    reason: &'static str,
}

enum Event {
    Ended(usize, io::Result<Conn>),
    Deadline,
}

/// Connects; the endpoint stays held until the connection ends. `from` = where it comes from, if it was connected before.
pub(super) async fn run(
    session: &mut Session,
    rule: &RuleRef,
    from: Option<Pick>,
) -> Result<(Conn, Held), Failure> {
    let mut race = Race { session, rule, racers: Vec::new(), tried: Tried::new(), reason: "" };
    if let Some(from) = from {
        race.tried.note(&from);
    }
    race.start(clock::now())?;
    loop {
        race.consider(clock::now());
        race.set_deadline();
        match race.next().await {
            Event::Ended(nth, Ok(conn)) => return Ok(race.won(nth, conn)),
            Event::Ended(nth, Err(error)) => race.lost(nth, &error)?,
            Event::Deadline => race.look()?,
        }
    }
}

impl Race<'_> {
    /// Picks another endpoint and connects to it.
    fn start(&mut self, now: MonoTime) -> Result<(), Failure> {
        let worker = Rc::clone(&self.session.worker);
        let subject = self.session.subject();
        let picked = {
            let mut rng = worker.rng.borrow_mut();
            worker.table.borrow().pick(self.rule, &subject, &self.tried, now, &mut rng)
        };
        let pick = picked.map_err(|none| no_endpoint(&worker, none))?;
        self.session.attempts += 1;
        self.session.pick = Some(pick);
        let policy = self.rule.policy();
        let held = Held::new(&worker, pick, now, Asked::InFull, policy.outlier, &self.session.deadline);
        self.tried.note(&pick);
        if !worker.pool.connect_begins(pick.endpoint, worker.settings().pending_connects_max) {
            worker.stats.hit(Limit::EndpointPending);
            return self.another("pending_per_endpoint_max", now);
        }
        let fault = worker.drill_fault(pick.cluster);
        let timeout = policy.timeouts.connect;
        self.racers.push(Racer {
            _pending: Pending { worker: Rc::clone(&worker), endpoint: pick.endpoint },
            held,
            connecting: Box::pin(connect(pick.addr, fault)),
            due: (!timeout.is_zero()).then(|| now + timeout),
            again: None,
            doubted: false,
        });
        Ok(())
    }

    /// Starts another connect for each that is in doubt. Asked after everything that happens: what one connect teaches
    /// may put the others in doubt, too.
    fn consider(&mut self, now: MonoTime) {
        let mut nth = 0;
        while nth < self.racers.len() {
            if !self.racers[nth].doubted && self.is_doubted(nth, now) && self.may_start() {
                self.racers[nth].doubted = true;
                self.session.worker.stats.hedges_total.inc();
                // Nobody else to ask is no failure: this one is under way.
                let _ = self.start(now);
            }
            nth += 1;
        }
    }

    fn may_start(&self) -> bool {
        self.session.attempts < self.rule.policy().retry.attempts && !self.session.worker.is_stopping()
    }

    /// One has failed: another, if there may be one; otherwise those under way, if there are any.
    fn another(&mut self, reason: &'static str, now: MonoTime) -> Result<(), Failure> {
        self.reason = reason;
        let started = if self.may_start() {
            self.session.worker.stats.moves_total.inc();
            self.start(now)
        } else {
            Err(Failure::of(Ended::ConnectFailed, reason))
        };
        if self.racers.is_empty() { started } else { Ok(()) }
    }

    /// Asks the detector about this one. A single connect to what is on probation is always in doubt: another one runs
    /// beside it, so that it costs the client nothing.
    fn is_doubted(&mut self, nth: usize, now: MonoTime) -> bool {
        let worker = &self.session.worker;
        let racer = &mut self.racers[nth];
        // What else was tried, this one apart, is counted; which it was does not matter here.
        let mut others = Tried::new();
        (1..self.session.attempts).for_each(|_| others.note(&racer.held.pick));
        let policy = self.rule.policy();
        match worker.table.borrow().advise(&racer.held.pick, racer.held.since, now, policy, &others) {
            Advice::Stay { again } => {
                racer.again = again;
                racer.held.pick.trial
            }
            Advice::Hedge { .. } | Advice::Leave { .. } => {
                racer.again = None;
                true
            }
        }
    }

    fn set_deadline(&self) {
        let dues = self.racers.iter().flat_map(|racer| [racer.due, racer.again]).flatten();
        match dues.min() {
            Some(due) => self.session.deadline.set(due),
            None => self.session.deadline.clear(),
        }
        // After the deadline: what is woken now stays awake.
        self.session.worker.heed();
    }

    async fn next(&mut self) -> Event {
        let (racers, deadline) = (&mut self.racers, &self.session.deadline);
        poll_fn(|cx| {
            for (nth, racer) in racers.iter_mut().enumerate() {
                if let Poll::Ready(result) = racer.connecting.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(nth, result));
                }
            }
            deadline.poll(cx).map(|()| Event::Deadline)
        })
        .await
    }

    fn won(mut self, nth: usize, conn: Conn) -> (Conn, Held) {
        let now = clock::now();
        let Racer { mut held, .. } = self.racers.swap_remove(nth);
        let worker = &self.session.worker;
        worker.stats.connects_total.inc();
        worker.table.borrow().on_connected(held.pick.endpoint, now.since(held.since), now);
        accepted(worker, &mut held, now);
        self.session.pick = Some(held.pick);
        for racer in self.racers.drain(..) {
            let_go(worker, racer);
        }
        (conn, held)
    }

    /// One connect failed.
    fn lost(&mut self, nth: usize, error: &io::Error) -> Result<(), Failure> {
        let now = clock::now();
        let racer = self.racers.swap_remove(nth);
        let worker = &self.session.worker;
        if is_out_of_descriptors(error) {
            worker.stats.hit(Limit::Descriptors);
            return self.another("descriptors", now);
        }
        let (outcome, reason) = outcome_of(error);
        self.fail(racer, outcome, now);
        self.another(reason, now)
    }

    fn fail(&self, mut racer: Racer, outcome: Outcome, now: MonoTime) {
        let worker = &self.session.worker;
        worker.stats.connect_failures_total.inc();
        let what = What::Retry { failure: FailureKind::Connect, charge: Charge::Free };
        worker.recorder.note(now, Whom::from(&racer.held.pick), what);
        racer.held.tell(outcome, now);
    }

    /// The deadline fired: somebody is late, the detector has news (see `consider`), or everything is to end.
    fn look(&mut self) -> Result<(), Failure> {
        if self.session.worker.is_stopping() {
            return Err(Failure::of(Ended::Stopped, ""));
        }
        let now = clock::now();
        while let Some(nth) = self.racers.iter().position(|racer| racer.due.is_some_and(|due| now >= due)) {
            let racer = self.racers.swap_remove(nth);
            self.fail(racer, Outcome::ConnectFailed, now);
            self.another("connect_timeout", now)?;
        }
        Ok(())
    }
}

fn no_endpoint(worker: &Worker, none: NoEndpoint) -> Failure {
    if let NoEndpoint::Overloaded { bound } = none {
        worker.stats.hit(match bound {
            OverloadBound::EndpointInFlight => Limit::EndpointInFlight,
            OverloadBound::BackendInFlight | OverloadBound::ClusterCapacity => Limit::BackendInFlight,
        });
    }
    Failure::of(Ended::NoEndpoint, none.name())
}

fn outcome_of(error: &io::Error) -> (Outcome, &'static str) {
    match error.kind() == io::ErrorKind::ConnectionRefused {
        true => (Outcome::Refused, "connect_refused"),
        false => (Outcome::ConnectFailed, "connect_failed"),
    }
}

/// A drill refuses or swallows connects; what it does to answers does not concern a connection without any.
async fn connect(addr: SocketAddr, fault: Option<Fault>) -> io::Result<Conn> {
    match fault {
        Some(Fault::Refuse) => Err(io::ErrorKind::ConnectionRefused.into()),
        Some(Fault::Blackhole) => std::future::pending().await,
        Some(Fault::Latency(_) | Fault::Status(_)) | None => {
            net::listen::connect_with(addr, Cancel::Allowed).await
        }
    }
}

/// A kernel has accepted. Where connections are answered that is no sign of life of what answers them. A single request on
/// probation ends here all the same: its connection may never ask anything.
fn accepted(worker: &Rc<Worker>, held: &mut Held, now: MonoTime) {
    let pick = held.pick;
    if !worker.usual.is_answering(pick.backend) {
        return held.tell(Outcome::Success, now);
    }
    if pick.trial { held.tell(Outcome::Success, now) } else { held.accepted(now) }
}

/// A connect that lost. Where its end says something it is waited for, a little while and within `limits.detached_max`.
fn let_go(worker: &Rc<Worker>, mut racer: Racer) {
    if !worker.table.borrow().listens_on(&racer.held.pick) {
        return;
    }
    if worker.detect.detached.get() >= worker.settings().detached_max {
        worker.stats.hit(Limit::Detached);
        return;
    }
    worker.detect.detached.set(worker.detect.detached.get() + 1);
    worker.stats.detached_total.inc();
    racer.held.waits_no_more();
    let owner = Rc::clone(worker);
    supervise::spawn_guarded(worker, async move {
        let deadline = owner.deadline();
        deadline.set(clock::now() + LATE);
        let connecting = &mut racer.connecting;
        let poll = |cx: &mut Context<'_>| match connecting.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => deadline.poll(cx).map(|()| None),
        };
        let ended = poll_fn(poll).await;
        let now = clock::now();
        match ended {
            Some(Ok(_closed_at_once)) => accepted(&owner, &mut racer.held, now),
            Some(Err(error)) if is_out_of_descriptors(&error) => racer.held.tell(Outcome::Abandoned, now),
            Some(Err(error)) => racer.held.tell(outcome_of(&error).0, now),
            None => racer.held.tell(Outcome::Abandoned, now),
        }
        owner.detect.detached.set(owner.detect.detached.get() - 1);
    });
}
