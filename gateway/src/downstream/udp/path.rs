//! The way from a flow to its endpoint: a connected socket, and what the failure detector may learn by it.
//!
//! A datagram owes nobody an answer, so silence is evidence only where answers are usual. What opens a path is a *question*
//! where the endpoints of its backend have answered most openings before ([`crate::downstream::habits`]); so is, of a flow that has got at
//! least as many datagrams as it sent, the next one that breaks a rest. QUIC acknowledges without being answered: of it only
//! the opening counts. A question that waits is an attempt that waits, as for HTTP; one without answer after a while is a
//! timeout of the endpoint if it opened the path, and nothing otherwise.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::id::BackendId;
use routing::model::{self, OutlierPolicy, Policy};
use routing::table::Pick;
use routing::time::MonoTime;

use super::Hosts;
use crate::exchange::{Asked, Held, note_health};
use crate::net::datagram::{DatagramSocket, Run};
use crate::observe::stats::Limit;
use crate::worker::established::Established;
use crate::worker::{Deadline, Worker};

/// How long a question waits for its answer where the policy has no `timeouts.attempt`.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Datagrams after which a path is set up for runs: by then it is no question and answer.
const BATCH_FROM: u64 = 32;

/// Something of a client that waits for an answer.
struct Question {
    since: MonoTime,
    /// Did it open the path? Then [`Held`] has its outcome to tell.
    opens: bool,
    /// The datagram, to be sent elsewhere when nobody can have got it.
    kept: Option<Kept>,
}

/// A datagram that was kept, counted by `limits.retry_bodies_bytes_max`.
pub(super) struct Kept {
    worker: Rc<Worker>,
    bytes: Box<[u8]>,
    /// Where it has been, if that is more than where it is.
    tried: Option<Box<Tried>>,
}

impl Kept {
    fn new(worker: &Rc<Worker>, run: &Run<'_>, tried: &Tried, policy: &Policy) -> Option<Self> {
        let bytes = run.first();
        if bytes.len() > policy.retry.body_bytes_max as usize {
            return None;
        }
        let all = worker.replay_bytes.get() + bytes.len();
        if all > worker.settings().retry_bodies_bytes_max {
            worker.stats.hit(Limit::RetryBodiesBytes);
            return None;
        }
        worker.replay_bytes.set(all);
        let tried = (tried.len() > 1).then(|| Box::new(*tried));
        Some(Self { worker: Rc::clone(worker), bytes: bytes.into(), tried })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it has been, when it comes from there.
    pub(super) fn tried(&self, from: &Pick) -> Tried {
        let mut tried = self.tried.as_deref().copied().unwrap_or_default();
        if tried.is_empty() {
            tried.note(from);
        }
        tried
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.worker.replay_bytes.set(self.worker.replay_bytes.get().saturating_sub(self.bytes.len()));
    }
}

/// See the module.
pub(super) struct Path {
    worker: Rc<Worker>,
    pub(super) socket: Rc<DatagramSocket>,
    held: Held,
    established: Option<Established>,
    outlier: OutlierPolicy,
    question: Option<Question>,
    answer_wait: Duration,
    /// Are the openings of this backend usually answered?
    is_counted: bool,
    /// Has the opening's outcome been told?
    told: bool,
    asked: u64,
    answered: u64,
}

impl Path {
    /// Opens the way to a picked endpoint, for this run, which has been tried at these with it.
    ///
    /// # Errors
    /// Out of descriptors, or no route to the endpoint; what that says of the endpoint has been told.
    pub(super) fn open(
        worker: &Rc<Worker>,
        pick: Pick,
        (run, tried): (&Run<'_>, &Tried),
        policy: &Policy,
        deadline: &Deadline,
        now: MonoTime,
    ) -> io::Result<Self> {
        let is_counted = worker.flows.habits.answers(pick.backend);
        let asked = if is_counted { Asked::InFull } else { Asked::InPart };
        let mut held = Held::new(worker, pick, now, asked, policy.outlier, deadline);
        let socket = DatagramSocket::connected(pick.addr).inspect_err(|error| {
            let outcome = match crate::accept::is_out_of_descriptors(error) {
                true => Outcome::Abandoned,
                false => Outcome::ConnectFailed,
            };
            held.tell(outcome, now);
        })?;
        Hosts::used(worker, &pick);
        let kept = Kept::new(worker, run, tried, policy);
        let attempt = policy.timeouts.attempt;
        Ok(Self {
            worker: Rc::clone(worker),
            socket: Rc::new(socket),
            held,
            established: match policy.established {
                model::Established::Reset => Some(Established::new(worker, &pick, deadline)),
                model::Established::Keep => None,
            },
            outlier: policy.outlier,
            question: Some(Question { since: now, opens: true, kept }),
            answer_wait: if attempt.is_zero() { ANSWER_WAIT } else { attempt },
            is_counted,
            told: false,
            asked: 0,
            answered: 0,
        })
    }

    /// Where it leads.
    pub(super) fn pick(&self) -> &Pick {
        &self.held.pick
    }

    /// Was what it leads to found to answer nothing?
    pub(super) fn is_cut(&self) -> bool {
        self.established.as_ref().and_then(Established::verdict).is_some()
    }

    /// Has anything ever come back?
    pub(super) fn has_answered(&self) -> bool {
        self.answered > 0
    }

    /// When a question has waited long enough.
    pub(super) fn due(&self) -> Option<MonoTime> {
        self.question.as_ref().map(|question| question.since + self.answer_wait)
    }

    /// When the client first asked what still waits.
    pub(super) fn waits_since(&self) -> Option<MonoTime> {
        self.question.as_ref().map(|question| question.since)
    }

    /// A run of the client goes this way. Before it is sent.
    pub(super) fn asks(&mut self, run: &Run<'_>, is_quic: bool, policy: &Policy, now: MonoTime) {
        let alternates = !is_quic && self.answered >= self.asked;
        if self.told
            && self.question.is_none()
            && alternates
            && self.worker.flows.habits.answers(self.backend())
        {
            self.worker.table.borrow().on_sent(&self.held.pick, now);
            let kept = Kept::new(&self.worker, run, &Tried::new(), policy);
            self.question = Some(Question { since: now, opens: false, kept });
        }
    }

    /// The run is on its way.
    pub(super) fn sent(&mut self, run: &Run<'_>, policy: &Policy, now: MonoTime) {
        self.asked += run.count();
        // Of this one or of what waits: which it is that nobody has got, ICMP cannot say from now on. Unless the client
        // repeats itself, or all of it was sent at once.
        if let Some(question) = self.question.as_mut().filter(|question| question.since < now)
            && question.kept.as_ref().is_some_and(|kept| kept.bytes() != run.first())
            && !policy.retry.non_idempotent
        {
            question.kept = None;
        }
        self.consider_batching();
    }

    /// A run of the endpoint came.
    pub(super) fn answers(&mut self, run: &Run<'_>, now: MonoTime) {
        self.answered += run.count();
        let answered = self.end_question(Outcome::Success, now);
        if !answered {
            self.worker.heard(self.held.pick.endpoint, now);
        }
        self.consider_batching();
    }

    /// Nothing came for as long as an answer may take.
    pub(super) fn is_overdue(&mut self, now: MonoTime) {
        let opens = self.question.as_ref().is_some_and(|question| question.opens);
        let outcome = if opens && self.is_counted { Outcome::Timeout } else { Outcome::Abandoned };
        self.end_question(outcome, now);
    }

    /// Nobody listens at the endpoint: ICMP said so. What waits, if anything, has reached nobody and may go elsewhere.
    pub(super) fn refused(mut self, outcome: Outcome, now: MonoTime) -> Option<Kept> {
        let kept = self.take_kept();
        if !self.end_question(outcome, now) {
            // An attempt of its own: the one that opened the path has long been told.
            self.worker.table.borrow().on_sent(&self.held.pick, now);
            self.report(outcome, Duration::ZERO, now);
        }
        kept
    }

    /// The way is given up; what waits may have been received.
    pub(super) fn take_kept(&mut self) -> Option<Kept> {
        self.question.as_mut()?.kept.take()
    }

    fn backend(&self) -> BackendId {
        self.held.pick.backend
    }

    /// `false` = nothing waited.
    fn end_question(&mut self, outcome: Outcome, now: MonoTime) -> bool {
        let Some(question) = self.question.take() else { return false };
        if question.opens {
            self.told = true;
            self.worker.flows.habits.note(self.backend(), outcome == Outcome::Success);
            self.held.tell(outcome, now);
        } else {
            self.report(outcome, now.since(question.since), now);
        }
        true
    }

    fn report(&self, outcome: Outcome, latency: Duration, now: MonoTime) {
        let table = self.worker.table.borrow();
        let event = table.on_outcome(self.held.pick.endpoint, outcome, Some(latency), now, &self.outlier);
        drop(table);
        if let Some(event) = event {
            note_health(&self.worker, event);
        }
        self.worker.heed();
    }

    fn consider_batching(&self) {
        if self.asked + self.answered >= BATCH_FROM
            && let Err(error) = self.socket.batch()
        {
            tracing::debug!(worker = self.worker.id, %error, "datagrams go one by one");
        }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // A question beside the opening that nobody waits for any more; the opening's outcome is told by `Held`.
        if let Some(question) = self.question.take()
            && !question.opens
        {
            let now = crate::worker::clock::now();
            self.report(Outcome::Abandoned, now.since(question.since), now);
        }
    }
}
