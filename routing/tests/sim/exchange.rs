//! Requests: attempts one after the other and beside each other, as `gateway/src/exchange` makes them.

use rand::Rng;
use routing::failover::Tried;
use routing::health::action::Advice;
use routing::health::endpoint::Outcome;
use routing::retry::{Body, Decision, Failure, FailureKind, Response, Sent};
use routing::table::{Pick, RuleRef};
use routing::time::MonoTime;
use wire::head::Method;

use crate::common::Request;
use crate::node::{Event, Sim};
use crate::watch::{Extra, Failed};
use crate::world::{Kind, MS, Reply, US, path_of};

/// How long a loser is listened to.
const LISTEN: u64 = 1_000 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Sent,
    Ended,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) exchange: usize,
    pub(crate) pick: Pick,
    since: MonoTime,
    /// To be woken.
    pub(crate) waits: bool,
    told: bool,
    stage: Stage,
    is_lane: bool,
    /// Given up and only listened to.
    detached: bool,
}

#[derive(Debug)]
pub(crate) struct Exchange {
    worker: usize,
    request: Request,
    rule: RuleRef,
    began: MonoTime,
    seen: MonoTime,
    response_by: MonoTime,
    tried: Tried,
    attempt: u8,
    /// The attempt whose answer is, or will be, the client's.
    held: usize,
    first: bool,
    lanes: Vec<usize>,
    /// Number of the deadline that is set.
    deadline: u64,
    /// Attempts whose head was sent.
    sent: u32,
    post: bool,
    pub(crate) done: bool,
}

/// How an exchange ended, for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answered(u16),
    /// 502 or 504.
    Failed,
    /// No endpoint: the reason was counted.
    NoEndpoint,
}

fn failure(kind: FailureKind, sent: Sent) -> Failure {
    Failure { kind, sent, response: Response::NotBegun, body: Body::Replayable }
}

impl Sim {
    pub(crate) fn begin(&mut self, worker: usize, backend: u32, post: bool) -> Result<(), Failed> {
        let began = self.read(worker);
        let method = if post { Method::Post } else { Method::Get };
        let request = Request::get("h", &path_of(backend)).method(method);
        let rule = self.nodes[worker].table.route(&request.subject()).expect("every path has a rule");
        let response_by = began + rule.policy().timeouts.request;
        self.exchanges.push(Exchange {
            worker,
            request,
            rule,
            began,
            seen: began,
            response_by,
            tried: Tried::new(),
            attempt: 1,
            held: 0,
            first: true,
            lanes: Vec::new(),
            deadline: 0,
            sent: 0,
            post,
            done: false,
        });
        self.attempt(self.exchanges.len() - 1)
    }

    fn pick(&mut self, at: usize, now: MonoTime, is_hedge: bool) -> Result<Option<Pick>, Failed> {
        let exchange = &self.exchanges[at];
        let node = &mut self.nodes[exchange.worker];
        let subject = exchange.request.subject();
        let picked = node.table.pick(&exchange.rule, &subject, &exchange.tried, now, &mut node.rng);
        let (tried, post) = (exchange.tried.len(), exchange.post);
        let (table, board) = (&node.table, &*self.board);
        let backend = exchange.rule.action().target.clone();
        match picked {
            Ok(pick) => {
                self.watch.picked(&self.plan, board, table, &pick, (tried, post))?;
                Ok(Some(pick))
            }
            Err(none) => {
                self.watch.none(&self.plan, table, (&backend, none, post), is_hedge)?;
                self.note(|| format!("x{at} {}", none.name()));
                Ok(None)
            }
        }
    }

    /// The next attempt, after none or after failed ones.
    fn attempt(&mut self, at: usize) -> Result<(), Failed> {
        let (began, seen) = (self.exchanges[at].began, self.exchanges[at].seen);
        let Some(pick) = self.pick(at, began, false)? else { return self.finish(at, End::NoEndpoint) };
        let exchange = &self.exchanges[at];
        let (worker, number) = (exchange.worker, exchange.attempt);
        if number == 1 {
            let policy = &exchange.rule.policy().retry;
            self.nodes[worker].table.on_request(pick.backend, policy, began);
            self.watch.requested(worker, pick.backend.0, self.now);
        }
        let attempt = self.hold(at, pick, seen, false)?;
        (self.exchanges[at].held, self.exchanges[at].first) = (attempt, true);
        self.open(attempt)?;
        if self.attempts[attempt].stage == Stage::Connecting {
            return self.advised(at, seen);
        }
        Ok(())
    }

    fn hold(&mut self, at: usize, pick: Pick, since: MonoTime, is_lane: bool) -> Result<usize, Failed> {
        let worker = self.exchanges[at].worker;
        let attempt = self.attempts.len();
        self.attempts.push(Attempt {
            exchange: at,
            pick,
            since,
            waits: true,
            told: false,
            stage: Stage::Connecting,
            is_lane,
            detached: false,
        });
        self.nodes[worker].active.push(attempt);
        self.nodes[worker].table.on_sent(&pick, since);
        self.note(|| {
            let kind = if pick.trial { " trial" } else { "" };
            format!("x{at} a{attempt} w{worker} -> e{} c{}{kind} lane {is_lane}", pick.id.0, pick.cluster.0)
        });
        self.heed(worker)?;
        Ok(attempt)
    }

    /// A connection: from the pool, or a new one.
    fn open(&mut self, attempt: usize) -> Result<(), Failed> {
        let Attempt { exchange, pick, is_lane, .. } = &self.attempts[attempt];
        let (worker, endpoint, is_lane) = (self.exchanges[*exchange].worker, pick.id.0, *is_lane);
        let dead = self.plan.fault(endpoint, self.now).is_some_and(|fault| fault.kind == Kind::Refuse);
        if !dead && self.rng.random_bool(0.8) {
            let races = self.plan.races > 0 && self.rng.random_ratio(1, self.plan.races);
            return self.send(attempt, races);
        }
        let (at, reply) = self.plan.connect(endpoint, self.now, &mut self.rng);
        // A second attempt has no connect timeout of its own.
        if reply != Reply::Lost || !is_lane {
            self.push(at, worker, Event::Attempt { attempt, reply });
        }
        Ok(())
    }

    /// `races`: the endpoint closes the connection, idle for too long, as the request is on its way.
    fn send(&mut self, attempt: usize, races: bool) -> Result<(), Failed> {
        self.attempts[attempt].stage = Stage::Sent;
        let Attempt { exchange: at, pick, is_lane, .. } = self.attempts[attempt];
        let worker = self.exchanges[at].worker;
        let exchange = &mut self.exchanges[at];
        exchange.sent += 1;
        if exchange.post && exchange.sent > 1 {
            return Err(Failed(format!("x{at}: a request that may have been processed was sent again")));
        }
        let (due, reply) = if races {
            (self.now + self.rng.random_range(30 * US..120 * US), Reply::Closed)
        } else {
            self.plan.request(pick.id.0, self.now, &mut self.rng)
        };
        self.push(due, worker, Event::Attempt { attempt, reply });
        if is_lane {
            return Ok(());
        }
        let seen = self.exchanges[at].seen;
        if pick.trial && self.may_repeat(at) {
            self.start(at, &pick, seen, Extra::Tie)?;
        }
        self.consider(at, seen)
    }

    /// Asks whether to go on connecting.
    fn advised(&mut self, at: usize, now: MonoTime) -> Result<(), Failed> {
        let exchange = &self.exchanges[at];
        let (held, policy) = (&self.attempts[exchange.held], exchange.rule.policy());
        let (pick, since) = (held.pick, held.since);
        let table = &self.nodes[exchange.worker].table;
        match table.advise(&pick, since, now, policy, &exchange.tried) {
            Advice::Stay { again } => {
                self.set_deadline(at, again);
                Ok(())
            }
            Advice::Hedge { .. } | Advice::Leave { .. } if exchange.attempt < policy.retry.attempts => {
                self.first_failed(at, failure(FailureKind::Connect, Sent::Nothing), None)
            }
            Advice::Hedge { .. } | Advice::Leave { .. } => {
                self.set_deadline(at, None);
                Ok(())
            }
        }
    }

    /// Asks whether to go on waiting, and starts another attempt where that is advised.
    fn consider(&mut self, at: usize, now: MonoTime) -> Result<(), Failed> {
        let exchange = &self.exchanges[at];
        let worker = exchange.worker;
        let latest = &self.attempts[exchange.lanes.last().copied().unwrap_or(exchange.held)];
        let (pick, since, policy) = (latest.pick, latest.since, exchange.rule.policy());
        let advice = self.nodes[worker].table.advise(&pick, since, now, policy, &exchange.tried);
        let again = match advice {
            Advice::Stay { again } => again,
            Advice::Hedge { again, .. } if !self.may_repeat(at) => Some(again),
            Advice::Hedge { again, .. } => {
                let policy = self.exchanges[at].rule.policy();
                if !self.nodes[worker].table.may_hedge(pick.backend, policy, now) {
                    self.watch.summary.hedges_refused += 1;
                    Some(again)
                } else {
                    self.watch.spent(worker, pick.backend.0, Extra::Hedge, self.now)?;
                    if self.start(at, &pick, now, Extra::Hedge)? { None } else { Some(again) }
                }
            }
            Advice::Leave { reason } => {
                if !reason.is_unreachable() {
                    return Err(Failed(format!("x{at} leaves what answers: {reason}")));
                }
                if self.may_repeat(at) {
                    self.start(at, &pick, now, Extra::Leave)?;
                }
                None
            }
        };
        self.heed(worker)?;
        self.set_deadline(at, again);
        Ok(())
    }

    fn may_repeat(&self, at: usize) -> bool {
        let exchange = &self.exchanges[at];
        exchange.attempt < exchange.rule.policy().retry.attempts && !exchange.post
    }

    /// Starts an attempt beside another one.
    fn start(&mut self, at: usize, beside: &Pick, now: MonoTime, why: Extra) -> Result<bool, Failed> {
        self.exchanges[at].tried.note(beside);
        let Some(pick) = self.pick(at, now, true)? else { return Ok(false) };
        let worker = self.exchanges[at].worker;
        let lanes = &self.exchanges[at].lanes;
        let same = pick.endpoint == beside.endpoint
            || lanes.iter().any(|lane| self.attempts[*lane].pick.endpoint == pick.endpoint);
        if same {
            self.nodes[worker].table.release(pick.endpoint);
            return Ok(false);
        }
        let lane = self.hold(at, pick, now, true)?;
        self.nodes[worker].table.on_hedge(beside, now);
        self.watch.started(why);
        self.exchanges[at].attempt += 1;
        self.exchanges[at].lanes.push(lane);
        self.open(lane)?;
        Ok(true)
    }

    fn set_deadline(&mut self, at: usize, again: Option<MonoTime>) {
        let exchange = &mut self.exchanges[at];
        exchange.deadline += 1;
        let number = Some(exchange.deadline);
        let due = again.map_or(exchange.response_by, |again| again.min(exchange.response_by));
        let worker = exchange.worker;
        let event = Event::Ask { exchange: at, number };
        let due = self.when(worker, due).max(self.now);
        let late = self.rng.random_range(25_000..100_000);
        self.push(due + late, worker, event);
    }

    pub(crate) fn ask(&mut self, at: usize, number: Option<u64>) -> Result<(), Failed> {
        let exchange = &self.exchanges[at];
        let is_old = number.is_some_and(|number| number != exchange.deadline);
        if exchange.done || is_old {
            return Ok(());
        }
        let worker = exchange.worker;
        let now = self.read(worker);
        let exchange = &self.exchanges[at];
        let is_connecting = exchange.first && self.attempts[exchange.held].stage == Stage::Connecting;
        if now >= exchange.response_by {
            let sent = if is_connecting { Sent::Nothing } else { Sent::Head };
            let outcome = exchange.first.then_some(Outcome::Timeout);
            return self.first_failed(at, failure(FailureKind::Timeout, sent), outcome);
        }
        if is_connecting { self.advised(at, now) } else { self.consider(at, now) }
    }

    // ------------------------------------------------------------ answers

    pub(crate) fn answer(&mut self, attempt: usize, reply: Reply) -> Result<(), Failed> {
        let Attempt { exchange: at, stage, is_lane, pick, since, detached, .. } = self.attempts[attempt];
        let worker = self.exchanges[at].worker;
        if stage == Stage::Ended {
            return Ok(());
        }
        let now = self.read(worker);
        self.note(|| format!("x{at} a{attempt} w{worker} <- e{} {reply:?}", pick.id.0));
        let kind = match reply {
            Reply::Connected => {
                self.nodes[worker].table.on_connected(pick.endpoint, now.since(since), now);
                if !is_lane {
                    self.exchanges[at].seen = now;
                }
                return self.send(attempt, false);
            }
            Reply::Status(status) => {
                self.heard(worker, pick.endpoint, now);
                self.watch.byte(worker, pick.id.0, self.now);
                let outcome = Outcome::of_status(status, &self.exchanges[at].rule.policy().retry);
                self.tell(attempt, outcome, now)?;
                if detached {
                    return self.release(attempt, now);
                }
                return self.answered(at, attempt, status, outcome);
            }
            Reply::Refused | Reply::Lost => FailureKind::Connect,
            Reply::Closed => FailureKind::Closed,
        };
        let outcome = match reply {
            Reply::Refused if !is_lane => Outcome::Refused,
            Reply::Closed => {
                self.watch.byte(worker, pick.id.0, self.now);
                Outcome::Closed
            }
            Reply::Refused | Reply::Lost | Reply::Connected | Reply::Status(_) => Outcome::ConnectFailed,
        };
        if detached {
            self.tell(attempt, outcome, now)?;
            return self.release(attempt, now);
        }
        if is_lane && self.exchanges[at].held != attempt {
            return self.lane_failed(at, attempt, kind, outcome);
        }
        let sent = if stage == Stage::Sent { Sent::Head } else { Sent::Nothing };
        self.first_failed(at, failure(kind, sent), Some(outcome))
    }

    /// An attempt has its response head.
    fn answered(&mut self, at: usize, attempt: usize, status: u16, outcome: Outcome) -> Result<(), Failed> {
        let worker = self.exchanges[at].worker;
        let now = self.read(worker);
        self.exchanges[at].seen = now;
        if attempt == self.exchanges[at].held {
            self.attempts[attempt].stage = Stage::Ended;
            if !self.exchanges[at].lanes.is_empty() && outcome != Outcome::Success {
                self.exchanges[at].first = false;
                return Ok(());
            }
            self.let_lanes_go(at)?;
            return self.won(at, status);
        }
        self.exchanges[at].lanes.retain(|lane| *lane != attempt);
        let others = self.exchanges[at].first || !self.exchanges[at].lanes.is_empty();
        if others && outcome != Outcome::Success {
            return self.release(attempt, now);
        }
        self.attempts[attempt].stage = Stage::Ended;
        let loser = std::mem::replace(&mut self.exchanges[at].held, attempt);
        if self.exchanges[at].first {
            self.let_go(at, loser)?;
        } else {
            self.release(loser, now)?;
        }
        self.let_lanes_go(at)?;
        self.won(at, status)
    }

    /// The head that the client would get: unless it is a failure that may be tried again.
    fn won(&mut self, at: usize, status: u16) -> Result<(), Failed> {
        let exchange = &self.exchanges[at];
        let policy = &exchange.rule.policy().retry;
        if policy.statuses.contains(&status) && exchange.attempt < policy.attempts && !exchange.post {
            return self.after(at, &failure(FailureKind::Status(status), Sent::Head));
        }
        let (worker, held) = (exchange.worker, exchange.held);
        let now = self.read(worker);
        self.release(held, now)?;
        self.finish(at, End::Answered(status))
    }

    fn lane_failed(
        &mut self,
        at: usize,
        lane: usize,
        kind: FailureKind,
        outcome: Outcome,
    ) -> Result<(), Failed> {
        let worker = self.exchanges[at].worker;
        let now = self.read(worker);
        self.tell(lane, outcome, now)?;
        self.exchanges[at].seen = now;
        self.exchanges[at].lanes.retain(|other| *other != lane);
        if !self.exchanges[at].first && self.exchanges[at].lanes.is_empty() {
            self.attempts[lane].stage = Stage::Ended;
            let old = std::mem::replace(&mut self.exchanges[at].held, lane);
            self.release(old, now)?;
            return self.after(at, &failure(kind, Sent::Head));
        }
        self.release(lane, now)?;
        self.consider(at, now)
    }

    /// The first attempt failed: so has the exchange's try, unless others are under way.
    fn first_failed(&mut self, at: usize, failure: Failure, outcome: Option<Outcome>) -> Result<(), Failed> {
        let exchange = &self.exchanges[at];
        let (worker, held) = (exchange.worker, exchange.held);
        let now = self.read(worker);
        self.exchanges[at].seen = now;
        if let Some(outcome) = outcome.filter(|_| !self.attempts[held].told) {
            self.tell(held, outcome, now)?;
        }
        let is_over = failure.kind == FailureKind::Timeout;
        self.attempts[held].waits = false;
        if !self.exchanges[at].lanes.is_empty() && !is_over {
            self.attempts[held].stage = Stage::Ended;
            self.exchanges[at].first = false;
            return Ok(());
        }
        self.after(at, &failure)
    }

    /// An attempt ended without an answer for the client: is there another one?
    fn after(&mut self, at: usize, failure: &Failure) -> Result<(), Failed> {
        let (worker, held) = (self.exchanges[at].worker, self.exchanges[at].held);
        let now = self.read(worker);
        let pick = self.attempts[held].pick;
        self.release(held, now)?;
        for lane in std::mem::take(&mut self.exchanges[at].lanes) {
            self.release(lane, now)?;
        }
        self.exchanges[at].seen = now;
        if now >= self.exchanges[at].response_by {
            return self.finish(at, End::Failed);
        }
        let exchange = &self.exchanges[at];
        let (policy, method) = (&exchange.rule.policy().retry, exchange.request.view().head.method);
        let table = &self.nodes[worker].table;
        let decision = table.retry(pick.backend, exchange.attempt, policy, failure, method, now);
        self.note(|| format!("x{at} {:?} {decision:?}", failure.kind));
        match decision {
            Decision::Again { charge } => {
                self.watch.again(worker, pick.backend.0, charge, failure, self.now)?;
                self.exchanges[at].tried.note(&pick);
                self.exchanges[at].attempt += 1;
                self.attempt(at)
            }
            Decision::GiveUp { reason } => {
                self.watch.gave_up(reason);
                self.finish(at, End::Failed)
            }
        }
    }

    fn finish(&mut self, at: usize, end: End) -> Result<(), Failed> {
        let exchange = &mut self.exchanges[at];
        if std::mem::replace(&mut exchange.done, true) {
            return Err(Failed(format!("x{at} ended twice")));
        }
        self.note(|| format!("x{at} {end:?}"));
        self.watch.ended(end);
        Ok(())
    }

    // ------------------------------------------------------------ losers

    fn let_lanes_go(&mut self, at: usize) -> Result<(), Failed> {
        for lane in std::mem::take(&mut self.exchanges[at].lanes) {
            self.let_go(at, lane)?;
        }
        Ok(())
    }

    /// Closed, or listened to where its late answer is evidence.
    fn let_go(&mut self, at: usize, attempt: usize) -> Result<(), Failed> {
        let worker = self.exchanges[at].worker;
        let now = self.read(worker);
        let Attempt { pick, since, stage, .. } = self.attempts[attempt];
        let exchange = &self.exchanges[at];
        let policy = exchange.rule.policy();
        let in_doubt = pick.trial
            || match self.nodes[worker].table.advise(&pick, since, now, policy, &exchange.tried) {
                Advice::Stay { .. } => false,
                Advice::Hedge { .. } | Advice::Leave { .. } => true,
            };
        if !in_doubt || stage == Stage::Ended {
            return self.release(attempt, now);
        }
        self.attempts[attempt].waits = false;
        self.attempts[attempt].detached = true;
        self.push(self.now + LISTEN, worker, Event::Listened { attempt });
        Ok(())
    }

    pub(crate) fn listened(&mut self, attempt: usize) -> Result<(), Failed> {
        if self.attempts[attempt].stage == Stage::Ended {
            return Ok(());
        }
        let now = self.read(self.exchanges[self.attempts[attempt].exchange].worker);
        self.release(attempt, now)
    }

    // ------------------------------------------------------------ what the table learns

    fn tell(&mut self, attempt: usize, outcome: Outcome, now: MonoTime) -> Result<(), Failed> {
        let Attempt { exchange, pick, since, told, .. } = self.attempts[attempt];
        if told {
            return Err(Failed(format!("a{attempt}: two outcomes")));
        }
        self.attempts[attempt].told = true;
        self.attempts[attempt].waits = false;
        let exchange = &self.exchanges[exchange];
        let (worker, outlier) = (exchange.worker, exchange.rule.policy().outlier);
        let latency = Some(now.since(since));
        self.nodes[worker].table.on_outcome(pick.endpoint, outcome, latency, now, &outlier);
        self.heed(worker)
    }

    /// The attempt is over, whatever became of it.
    fn release(&mut self, attempt: usize, now: MonoTime) -> Result<(), Failed> {
        if !self.attempts[attempt].told {
            self.tell(attempt, Outcome::Abandoned, now)?;
        }
        self.attempts[attempt].stage = Stage::Ended;
        let Attempt { exchange, pick, .. } = self.attempts[attempt];
        let node = &mut self.nodes[self.exchanges[exchange].worker];
        let place = node.active.iter().position(|other| *other == attempt);
        let Some(place) = place else { return Err(Failed(format!("a{attempt} released twice"))) };
        node.active.swap_remove(place);
        node.table.release(pick.endpoint);
        Ok(())
    }
}
