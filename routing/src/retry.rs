//! Is a failed attempt tried again, and what does that cost?
//!
//! RFC 9110 §9.2.2: what may have been processed is sent again only when its method is idempotent, or the policy
//! says so. What was provably never sent may always move on: exempt from the method rule and from the budget,
//! bounded by `retry.attempts`. One [`Budget`] per backend and worker pays for everything else, so that an outage
//! never becomes a storm: over ten seconds or more of it, executions stay within `1 + retry.budget_percent` of what was
//! asked. Called by the table's `retry`; never sends anything itself.

use std::fmt;
use std::num::NonZeroU16;

use wire::head::Method;

use crate::model::{GrpcCode, RetryPolicy};
use crate::time::MonoTime;

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// How much of the request has left us.
    pub sent: Sent,
    /// Has the client seen part of a response?
    pub response: Response,
    /// Can the request's body be sent again?
    pub body: Body,
}

/// What went wrong with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection.
    Connect,
    /// Reset or closed before a response head.
    Closed,
    /// No response head within `timeouts.attempt`.
    Timeout,
    /// Something that is not HTTP.
    Malformed,
    /// A complete response head with this status.
    Status(u16),
    /// A complete response of gRPC that says only this.
    Grpc(GrpcCode),
}

/// How much of a request has left us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte was accepted by a connection, or the peer said that it processed nothing (RFC 9113 §8.7).
    Nothing,
    /// Part of the head: no server can have acted on it.
    HeadPartly,
    /// The head at least: it may have been processed.
    Head,
}

/// Has the client seen part of a response?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Not one byte of a final response.
    NotBegun,
    /// The head is on its way: what follows cannot be taken back.
    Begun,
}

/// Can the request's body be sent again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none, or all that was read of it is kept (`retry.body_bytes_max`).
    Replayable,
    /// Part of it is gone.
    Gone,
}

/// What to do with a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Pick again and send again.
    Again {
        /// What it cost. Already paid.
        charge: Charge,
    },
    /// Reply with the failure.
    GiveUp {
        /// Why, for the access log.
        reason: GiveUp,
    },
}

/// Who pays for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The backend's budget: one retry.
    Budget,
    /// Nobody: it was never sent.
    Free,
}

/// Why an attempt is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// The client has seen part of a response.
    ResponseBegun,
    /// `retry.attempts` are spent.
    AttemptsSpent,
    /// `retry.statuses` or `retry.grpcCodes` does not list it: the response is the answer.
    StatusNotListed,
    /// The body cannot be sent again.
    BodyGone,
    /// It may have been processed, and its method is not idempotent.
    NotIdempotent,
    /// The backend's budget is spent.
    BudgetSpent,
}

impl GiveUp {
    /// A short name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ResponseBegun => "response_begun",
            Self::AttemptsSpent => "attempts_spent",
            Self::StatusNotListed => "status_not_listed",
            Self::BodyGone => "body_gone",
            Self::NotIdempotent => "not_idempotent",
            Self::BudgetSpent => "budget_spent",
        }
    }
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Decides, and takes from `budget` what the decision costs.
///
/// `attempt` is the number of the attempt that failed; the first is 1.
pub fn decide(
    attempt: u8,
    policy: &RetryPolicy,
    failure: &Failure,
    method: Method,
    budget: &mut Budget,
    now: MonoTime,
) -> Decision {
    match price(attempt, policy, failure, method) {
        Err(reason) => Decision::GiveUp { reason },
        Ok(Charge::Free) => Decision::Again { charge: Charge::Free },
        Ok(Charge::Budget) => match budget.spend(now) {
            Spend::Paid => Decision::Again { charge: Charge::Budget },
            Spend::Refused => Decision::GiveUp { reason: GiveUp::BudgetSpent },
        },
    }
}

/// What another attempt would cost, or why there must be none.
fn price(attempt: u8, policy: &RetryPolicy, failure: &Failure, method: Method) -> Result<Charge, GiveUp> {
    if failure.response == Response::Begun {
        return Err(GiveUp::ResponseBegun);
    }
    let is_listed = match failure.kind {
        FailureKind::Status(status) => policy.statuses.contains(&status),
        FailureKind::Grpc(code) => policy.grpc.contains(code),
        FailureKind::Connect | FailureKind::Closed | FailureKind::Timeout | FailureKind::Malformed => true,
    };
    if !is_listed {
        return Err(GiveUp::StatusNotListed);
    }
    if attempt >= policy.attempts {
        return Err(GiveUp::AttemptsSpent);
    }
    if failure.body == Body::Gone {
        return Err(GiveUp::BodyGone);
    }
    match failure.sent {
        Sent::Nothing => Ok(Charge::Free),
        Sent::HeadPartly => Ok(Charge::Budget),
        Sent::Head if method.is_idempotent() || policy.non_idempotent => Ok(Charge::Budget),
        // Every call of gRPC is a POST: who lists a code says that calls which end so may be repeated.
        Sent::Head if matches!(failure.kind, FailureKind::Grpc(_)) => Ok(Charge::Budget),
        Sent::Head => Err(GiveUp::NotIdempotent),
    }
}

// ---------------------------------------------------------------- budget

/// Retries per second that a node grants every backend at least, divided over the workers: for those whose share of
/// requests would be less. Where the share is more, it is all there is.
pub const RESERVE_PER_SECOND: u32 = 10;

/// Retries that a worker can always make after a quiet while: all tries but the first of one default exchange.
const RESERVE_MIN: u32 = 2;

/// Time after which what was deposited and not spent is gone, in nanoseconds.
///
/// One second of traffic: long enough for everything that is in flight when a cluster dies, short enough that
/// an hour of peace does not pay for a storm.
const MEMORY_NS: u64 = 1_000_000_000;

/// Windows of at least so many seconds never cost more than `retry.budget_percent` says.
///
/// What was remembered when a window began is spent in it beside what is deposited in it. So deposits are less than that
/// share, by as much as makes room in such a window for one [`MEMORY_NS`] of them: `10 / 11` of it.
pub const PROMISED_OVER_SECONDS: u32 = 10;

/// Decay and refill are applied in steps of at least this, in nanoseconds, so that rounding does not lose them.
const STEP_NS: u64 = 1_000_000;

/// One retry.
const RETRY: u32 = 1_000_000;

/// What one request deposits for each percent of the policy's share: see [`PROMISED_OVER_SECONDS`].
const DEPOSIT: u32 = RETRY / 100 * PROMISED_OVER_SECONDS / (PROMISED_OVER_SECONDS + 1);

/// What one backend may spend on retries in one worker: a share of its requests, or a small reserve over time,
/// whichever is more.
///
/// Two buckets in virtual time. The share grows with every request, by ten elevenths of `budget_percent` hundredths of a
/// retry ([`PROMISED_OVER_SECONDS`]), and fades over a second; the reserve grows by 10 per second and node, up to one
/// second's worth, less what the share grows by.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Millionths of a retry: of all retries, and of those of them that are hedges, which get half of what goes in.
    shares: [u64; 2],
    reserves: [u32; 2],
    at: MonoTime,
    workers: NonZeroU16,
}

const ALL: usize = 0;
const HEDGES: usize = 1;

/// Was a retry paid for?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spend {
    /// Yes.
    Paid,
    /// The budget is empty.
    Refused,
}

impl Budget {
    /// A full reserve and no share, for one of `workers` workers (0 counts as 1).
    #[must_use]
    pub fn new(workers: u16) -> Self {
        let workers = NonZeroU16::new(workers).unwrap_or(NonZeroU16::MIN);
        let reserves = [ALL, HEDGES].map(|part| reserve_max(workers, part));
        Self { shares: [0; 2], reserves, at: MonoTime::ZERO, workers }
    }

    /// Grants nothing, ever: for a backend that has left the table.
    #[must_use]
    pub fn empty() -> Self {
        let at = MonoTime(u64::MAX);
        Self { shares: [0; 2], reserves: [0; 2], at, workers: NonZeroU16::MIN }
    }

    /// One request has been started: its share goes in.
    pub fn deposit(&mut self, percent: u8, now: MonoTime) {
        self.advance(now);
        let deposit = u32::from(percent) * DEPOSIT;
        for (part, deposit) in [(ALL, deposit), (HEDGES, deposit / 2)] {
            self.shares[part] = self.shares[part].saturating_add(deposit.into());
            // The reserve is a floor, not an addition.
            self.reserves[part] = self.reserves[part].saturating_sub(deposit);
        }
    }

    /// Takes one hedge out: it costs what a retry costs, and all hedges together get at most half.
    pub fn spend_hedge(&mut self, now: MonoTime) -> Spend {
        self.advance(now);
        if !self.has_one(HEDGES) || self.take(ALL) == Spend::Refused {
            return Spend::Refused;
        }
        self.take(HEDGES)
    }

    /// Takes one retry out.
    pub fn spend(&mut self, now: MonoTime) -> Spend {
        self.advance(now);
        self.take(ALL)
    }

    /// Whole retries left, for the admin API.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.shares[ALL] / u64::from(RETRY) + u64::from(self.reserves[ALL] / RETRY)
    }

    fn has_one(&self, part: usize) -> bool {
        self.shares[part] >= RETRY.into() || self.reserves[part] >= RETRY
    }

    fn take(&mut self, part: usize) -> Spend {
        if self.shares[part] >= RETRY.into() {
            self.shares[part] -= u64::from(RETRY);
        } else if self.reserves[part] >= RETRY {
            self.reserves[part] -= RETRY;
        } else {
            return Spend::Refused;
        }
        Spend::Paid
    }

    fn advance(&mut self, now: MonoTime) {
        let passed = now.0.saturating_sub(self.at.0);
        if passed < STEP_NS {
            return;
        }
        self.at = now;
        let passed = passed.min(MEMORY_NS * 10);
        for part in [ALL, HEDGES] {
            let share = self.shares[part];
            let faded = u128::from(share) * u128::from(passed) / u128::from(MEMORY_NS);
            self.shares[part] = share.saturating_sub(u64::try_from(faded).unwrap_or(u64::MAX));
            let grown = u64::from(reserve_per_second(self.workers, part)) * (passed / 1_000) / 1_000_000;
            let reserve = u64::from(self.reserves[part]) + grown;
            let max = reserve_max(self.workers, part);
            self.reserves[part] = u32::try_from(reserve).map_or(max, |reserve| reserve.min(max));
        }
    }
}

fn reserve_per_second(workers: NonZeroU16, part: usize) -> u32 {
    let all = RESERVE_PER_SECOND * RETRY / u32::from(workers.get());
    if part == HEDGES { all / 2 } else { all }
}

/// One second's worth, or what one exchange needs; of hedges half of that, and at least one.
fn reserve_max(workers: NonZeroU16, part: usize) -> u32 {
    let all = reserve_per_second(workers, ALL).max(RESERVE_MIN * RETRY);
    if part == HEDGES { (all / 2).max(RETRY) } else { all }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Policy;

    fn policy() -> RetryPolicy {
        RetryPolicy { statuses: [503].into(), ..Policy::default().retry }
    }

    fn failure(kind: FailureKind, sent: Sent) -> Failure {
        Failure { kind, sent, response: Response::NotBegun, body: Body::Replayable }
    }

    fn decided(attempt: u8, failure: Failure, method: Method) -> Decision {
        decide(attempt, &policy(), &failure, method, &mut Budget::new(1), MonoTime::ZERO)
    }

    const FREE: Decision = Decision::Again { charge: Charge::Free };
    const PAID: Decision = Decision::Again { charge: Charge::Budget };

    #[test]
    fn what_was_never_sent_moves_on_free_of_charge_whatever_the_method() {
        let mut budget = Budget::new(1);
        while budget.spend(MonoTime::ZERO) == Spend::Paid {}
        for method in [Method::Get, Method::Post, Method::Other] {
            let failure = failure(FailureKind::Connect, Sent::Nothing);
            assert_eq!(decide(2, &policy(), &failure, method, &mut budget, MonoTime::ZERO), FREE);
        }
    }

    #[test]
    fn what_may_have_been_processed_is_replayed_only_when_idempotent_or_allowed() {
        let cut = failure(FailureKind::Closed, Sent::Head);
        assert_eq!(decided(1, cut, Method::Put), PAID);
        assert_eq!(decided(1, cut, Method::Post), Decision::GiveUp { reason: GiveUp::NotIdempotent });
        assert_eq!(decided(1, failure(FailureKind::Closed, Sent::HeadPartly), Method::Post), PAID);
        let allowed = RetryPolicy { non_idempotent: true, ..policy() };
        let mut budget = Budget::new(1);
        assert_eq!(decide(1, &allowed, &cut, Method::Post, &mut budget, MonoTime::ZERO), PAID);
    }

    #[test]
    fn attempts_bound_even_free_moves() {
        let refused = failure(FailureKind::Connect, Sent::Nothing);
        assert_eq!(decided(3, refused, Method::Get), Decision::GiveUp { reason: GiveUp::AttemptsSpent });
    }

    #[test]
    fn begun_response_lost_body_and_unlisted_status_are_final() {
        let cut = failure(FailureKind::Closed, Sent::Head);
        let begun = Failure { response: Response::Begun, ..cut };
        assert_eq!(decided(1, begun, Method::Get), Decision::GiveUp { reason: GiveUp::ResponseBegun });
        let gone = Failure { body: Body::Gone, ..cut };
        assert_eq!(decided(1, gone, Method::Put), Decision::GiveUp { reason: GiveUp::BodyGone });
        let status = |status| failure(FailureKind::Status(status), Sent::Head);
        assert_eq!(
            decided(1, status(500), Method::Get),
            Decision::GiveUp { reason: GiveUp::StatusNotListed }
        );
        assert_eq!(decided(1, status(503), Method::Get), PAID);
    }

    #[test]
    fn a_code_of_grpc_that_is_listed_is_tried_again_although_every_call_is_a_post() {
        let listed = RetryPolicy { grpc: [GrpcCode::UNAVAILABLE].into_iter().collect(), ..policy() };
        let decided = |code, failure: Failure| {
            let failure = Failure { kind: FailureKind::Grpc(code), ..failure };
            decide(1, &listed, &failure, Method::Post, &mut Budget::new(1), MonoTime::ZERO)
        };
        let ended = failure(FailureKind::Closed, Sent::Head);
        assert_eq!(decided(GrpcCode::UNAVAILABLE, ended), PAID);
        assert_eq!(decided(GrpcCode::INTERNAL, ended), Decision::GiveUp { reason: GiveUp::StatusNotListed });
        let gone = Failure { body: Body::Gone, ..ended };
        assert_eq!(decided(GrpcCode::UNAVAILABLE, gone), Decision::GiveUp { reason: GiveUp::BodyGone });
        let cut = decide(1, &listed, &ended, Method::Post, &mut Budget::new(1), MonoTime::ZERO);
        assert_eq!(
            cut,
            Decision::GiveUp { reason: GiveUp::NotIdempotent },
            "a cut says nothing of what was done"
        );
    }

    /// 2,000 requests a second, all failing, each asking twice: the storm stays within its bound.
    #[test]
    fn outage_never_becomes_a_storm() {
        let mut budget = Budget::new(1);
        let mut now = MonoTime::ZERO;
        let (mut requests, mut retries) = (0u64, 0u64);
        for _ in 0..60_000 {
            now = now + Duration::from_micros(500);
            requests += 1;
            budget.deposit(20, now);
            for _ in 0..2 {
                retries += u64::from(budget.spend(now) == Spend::Paid);
            }
        }
        assert!(retries * 100 <= requests * 20, "{retries} retries of {requests}");
        assert!(retries * 100 >= requests * 18, "{retries} retries of {requests}");
    }

    /// Whatever was saved before, whenever failures begin, pause and end, over workers at any rate.
    #[test]
    fn no_window_of_ten_seconds_costs_more_than_the_share_or_where_that_is_less_the_reserve() {
        use rand::{Rng, SeedableRng};

        for seed in 0..256 {
            let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
            let workers = rng.random_range(1..=4u16);
            let rate = 10f64.powf(rng.random_range(0.3..4.0));
            let gap = Duration::from_secs_f64(1.0 / rate);
            let mut budget = Budget::new(workers);
            let (mut now, mut fails, mut turns) = (MonoTime(7_000_000_000), false, now_and_then(&mut rng));
            // (when, retries so far) after each request.
            let mut spent = vec![(now, 0u32)];
            let end = now + Duration::from_secs(60);
            while spent.len() <= 60_000 && now < end {
                now = now + gap;
                turns = turns.saturating_sub(gap);
                if turns.is_zero() {
                    (fails, turns) = (!fails, now_and_then(&mut rng));
                }
                budget.deposit(20, now);
                let hedges = rng.random_bool(0.3);
                let tries = if fails { 2 } else { 0 };
                let paid = (0..tries).filter(|_| {
                    let spend = if hedges { budget.spend_hedge(now) } else { budget.spend(now) };
                    spend == Spend::Paid
                });
                let paid = u32::try_from(paid.count()).unwrap();
                spent.push((now, spent.last().unwrap().1 + paid));
            }
            let window = Duration::from_secs(PROMISED_OVER_SECONDS.into());
            let last = spent.last().unwrap().0;
            for (from, (began, before)) in spent.iter().enumerate() {
                if last.since(*began) < window {
                    break;
                }
                let to = spent.partition_point(|(at, _)| at.since(*began) <= window);
                let (ended, after) = spent[to - 1];
                let (requests, seconds) = ((to - 1 - from) as f64, ended.since(*began).as_secs_f64());
                let floor = f64::from(RESERVE_PER_SECOND) / f64::from(workers);
                let share = requests * 0.2;
                // Where the two are about as much, what the reserve held at first comes on top.
                let is_share = rate * 0.18 > floor * 2.0;
                let held = floor + floor.max(f64::from(RESERVE_MIN));
                let allowed = if is_share { share } else { share.max(floor * seconds) + held };
                let retries = f64::from(after - before);
                assert!(
                    retries <= allowed + 1.0,
                    "seed {seed}, {rate:.1}/s, {workers} workers: {retries} of {allowed:.1} in {seconds} s"
                );
            }
        }
    }

    fn now_and_then(rng: &mut rand::rngs::SmallRng) -> Duration {
        rand::Rng::random_range(rng, Duration::from_millis(5)..Duration::from_secs(8))
    }

    #[test]
    fn a_second_of_traffic_pays_for_what_is_in_flight_when_a_cluster_dies_and_then_fades() {
        let mut budget = Budget::new(4);
        let mut now = MonoTime::ZERO;
        for _ in 0..50_000 {
            now = now + Duration::from_micros(100);
            budget.deposit(20, now);
        }
        assert!((1_780..=1_830).contains(&budget.left()), "{}", budget.left());
        budget.deposit(0, now + Duration::from_secs(2));
        assert_eq!(budget.left(), 2, "only the reserve of a quarter node is left");
    }

    #[test]
    fn hedges_get_half_and_leave_the_rest_to_retries() {
        let mut budget = Budget::new(1);
        let mut now = MonoTime::ZERO;
        for _ in 0..2_000 {
            now = now + Duration::from_micros(500);
            budget.deposit(20, now);
        }
        let before = budget.left();
        let mut hedges = 0;
        while budget.spend_hedge(now) == Spend::Paid {
            hedges += 1;
        }
        assert!(hedges * 2 <= before && hedges * 2 >= before * 8 / 10, "{hedges} of {before}");
        assert_eq!(budget.left(), before - hedges);
        assert_eq!(budget.spend(now), Spend::Paid);
    }

    #[test]
    fn hedges_in_a_long_storm_stay_below_half_of_the_share() {
        let mut budget = Budget::new(1);
        let (mut now, mut hedges) = (MonoTime::ZERO, 0u64);
        for _ in 0..60_000 {
            now = now + Duration::from_micros(500);
            budget.deposit(20, now);
            hedges += u64::from(budget.spend_hedge(now) == Spend::Paid);
        }
        assert!(hedges * 100 <= 60_000 * 10 + 100 * (5 * 30 + 10), "{hedges}");
        assert!(hedges * 1_000 >= 60_000 * 88, "{hedges}");
    }

    #[test]
    fn hedges_of_a_quiet_backend_get_half_of_the_reserve() {
        let mut budget = Budget::new(1);
        let (mut now, mut hedges) = (MonoTime::ZERO, 0);
        for _ in 0..3_000 {
            now = now + Duration::from_millis(10);
            hedges += u32::from(budget.spend_hedge(now) == Spend::Paid);
        }
        // Five that were there and five a second, less what the first step could not add to a full reserve.
        assert_eq!(hedges, 154);
    }

    #[test]
    fn idle_worker_of_many_can_still_retry_one_exchange() {
        let mut budget = Budget::new(64);
        assert_eq!(budget.spend(MonoTime::ZERO), Spend::Paid);
        assert_eq!(budget.spend(MonoTime::ZERO), Spend::Paid);
        assert_eq!(budget.spend(MonoTime::ZERO), Spend::Refused);
        assert_eq!(budget.spend(MonoTime::ZERO + Duration::from_secs(7)), Spend::Paid);
    }
}
