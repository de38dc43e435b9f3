//! Spreading load over workers by requests, not by connections.
//!
//! The kernel spreads connections by hash; a few busy keep-alive connections can still pile up on one core, and so can
//! long ones (downloads, tunnels). Four times a second each worker publishes its request rate and its requests in flight.
//! One that stands clearly above the least loaded gives away what it has above the average: connections between two
//! requests by their rate, and connections that it has just accepted by what is in flight. All workers read the same
//! lines and come to the same plan, in which no two of them fill the same gap. Pure but for the lines.

use std::cell::Cell;

use routing::time::MonoTime;

use super::peers::{Line, Peers};

/// Milliseconds between two looks at the other workers.
pub const WINDOW_MS: u64 = 250;
/// Windows in a second.
const WINDOWS_PER_SECOND: u32 = 4;
const _: () = assert!(WINDOWS_PER_SECOND as u64 * WINDOW_MS == 1_000);
/// Below this rate (requests per second) nothing is given away: a connection's own rate is noise.
const RATE_MIN: u32 = 400;
/// Below this number of exchanges in flight no accepted connection is given away.
const IN_FLIGHT_MIN: u32 = 16;
/// How far above the least loaded a worker must stand, in percent, before it gives away.
const EXCESS_PERCENT: u32 = 10;

/// What a worker knows of its load.
#[derive(Default)]
pub struct Rebalance {
    /// Number of the current window.
    window: Cell<u32>,
    /// Requests begun in it.
    begun: Cell<u32>,
    /// What may still be given away in it, in requests per window.
    rate: Share,
    /// What may still be given away in it, in connections just accepted.
    accepts: Share,
    /// Was a connection too large to be given away in this window?
    refused: Cell<bool>,
    /// Was every connection that came by in the last window?
    stuck: Cell<bool>,
}

/// A worker's part in the plan.
#[derive(Default)]
struct Share {
    target: Cell<u16>,
    allowance: Cell<u32>,
    planned: Cell<u32>,
}

impl Share {
    fn set(&self, part: Option<(u16, u32)>) {
        let (target, allowance) = part.unwrap_or_default();
        self.target.set(target);
        self.allowance.set(allowance);
        self.planned.set(allowance);
    }

    fn is_untouched(&self) -> bool {
        self.planned.get() > 0 && self.allowance.get() == self.planned.get()
    }
}

/// Whom does worker `me` give how much to, when the workers have these loads? `None` = it keeps what it has.
///
/// Those above the average have a surplus, those below it a gap. Surpluses and gaps are laid side by side in the order of
/// the workers, and a worker gives to the gap that it overlaps most: as much as the overlap.
fn plan(me: u16, loads: impl Iterator<Item = u32> + Clone, load_min: u32) -> Option<(u16, u32)> {
    let (sum, count) =
        loads.clone().fold((0_u64, 0_u64), |(sum, count), load| (sum + u64::from(load), count + 1));
    let average = u32::try_from(sum.checked_div(count)?).unwrap_or(u32::MAX);
    let mine = loads.clone().nth(usize::from(me))?;
    let least = loads.clone().min()?;
    let excess = u64::from(least) * u64::from(EXCESS_PERCENT) / 100;
    if mine < load_min || u64::from(mine) <= u64::from(least) + excess {
        return None;
    }
    let above = |load: u32| u64::from(load.saturating_sub(average));
    let from: u64 = loads.clone().take(usize::from(me)).map(above).sum();
    let to = from + above(mine);
    let (mut at, mut best) = (0_u64, None);
    for (index, load) in loads.enumerate() {
        let end = at + u64::from(average.saturating_sub(load));
        let overlap = end.min(to).saturating_sub(at.max(from));
        if overlap > best.map_or(0, |(_, overlap)| overlap) {
            best = Some((index, overlap));
        }
        at = end;
    }
    let (index, overlap) = best?;
    Some((u16::try_from(index).ok()?, u32::try_from(overlap).ok()?))
}

/// One connection's requests, counted by window.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnRate {
    window: u32,
    count: u32,
    last: u32,
}

impl Rebalance {
    /// Counts a request on a connection.
    pub fn count(&self, rate: &mut ConnRate) {
        self.begun.set(self.begun.get() + 1);
        let window = self.window.get();
        if rate.window != window {
            rate.last = if rate.window.wrapping_add(1) == window { rate.count } else { 0 };
            rate.window = window;
            rate.count = 0;
        }
        rate.count += 1;
    }

    /// Ends a window: publishes what was counted and decides what may be given away in the next one.
    pub fn turn(&self, me: u16, in_flight: u32, peers: &Peers, now: MonoTime) {
        let rate = self.begun.replace(0) * WINDOWS_PER_SECOND;
        self.window.set(self.window.get().wrapping_add(1));
        peers.lines[usize::from(me)].publish(rate, in_flight, now.0);
        self.stuck.set(self.refused.take() && self.rate.is_untouched());
        let part = plan(me, peers.lines.iter().map(Line::rate), RATE_MIN);
        self.rate.set(part.map(|(target, rate)| (target, rate / WINDOWS_PER_SECOND)));
        self.accepts.set(plan(me, peers.lines.iter().map(Line::in_flight), IN_FLIGHT_MIN));
    }

    /// Should this connection, now between two requests, go to another worker? Which?
    pub fn give_away(&self, rate: &ConnRate) -> Option<u16> {
        let allowance = self.rate.allowance.get();
        // Where no connection is small enough, one that is too large by half still leaves things more even.
        let fits = if self.stuck.get() { allowance + allowance / 2 } else { allowance };
        // A connection that is new in this window is not known yet.
        if allowance == 0 || rate.last == 0 {
            return None;
        }
        if rate.last > fits {
            self.refused.set(true);
            return None;
        }
        self.rate.allowance.set(allowance.saturating_sub(rate.last));
        Some(self.rate.target.get())
    }

    /// Should a connection that was just accepted go to another worker? Which?
    pub fn give_accepted(&self) -> Option<u16> {
        let left = self.accepts.allowance.get().checked_sub(1)?;
        self.accepts.allowance.set(left);
        Some(self.accepts.target.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::peers::Peers;

    fn peers(rates: &[u32]) -> std::sync::Arc<Peers> {
        let boxes = rates
            .iter()
            .map(|_| {
                let (sender, _) = crossbeam_channel::bounded(1);
                crate::worker::peers::Postbox::new(sender, crate::net::wake::doorbell().unwrap())
            })
            .collect();
        let peers = Peers::new(boxes, 1);
        for (line, rate) in peers.lines.iter().zip(rates) {
            line.publish(*rate, 0, 0);
        }
        peers
    }

    /// 64 connections of one worker, of which a few carry most of the load, against an empty second worker.
    #[test]
    fn gives_away_about_half_and_never_more_than_the_difference() {
        let balance = Rebalance::default();
        let peers = peers(&[0, 0]);
        let loads: Vec<u32> = (0..64).map(|index| if index < 4 { 200 } else { 5 }).collect();
        let mut rates = vec![ConnRate::default(); loads.len()];
        let round = |rates: &mut Vec<ConnRate>| {
            for (rate, load) in rates.iter_mut().zip(&loads) {
                (0..*load).for_each(|_| balance.count(rate));
            }
            balance.turn(0, 0, &peers, MonoTime::ZERO);
        };
        round(&mut rates);
        round(&mut rates);
        rates.iter_mut().for_each(|rate| balance.count(rate));
        let gone: u32 = rates
            .iter()
            .zip(&loads)
            .filter(|(rate, _)| balance.give_away(rate).is_some())
            .map(|(_, load)| load)
            .sum();
        let total: u32 = loads.iter().sum();
        assert!(gone * 2 <= total && gone * 2 >= total * 8 / 10, "{gone} of {total}");
    }

    #[test]
    fn an_even_load_moves_nothing() {
        let balance = Rebalance::default();
        let peers = peers(&[0, 4_000]);
        let mut rate = ConnRate::default();
        for _ in 0..2 {
            (0..1_000).for_each(|_| balance.count(&mut rate));
            balance.turn(0, 0, &peers, MonoTime::ZERO);
        }
        balance.count(&mut rate);
        assert_eq!(balance.give_away(&rate), None);
    }

    /// Windows until nobody gives anything away any more, and the loads by then.
    fn settled(mut workers: Vec<Vec<u32>>) -> (usize, Vec<u32>) {
        let balances: Vec<Rebalance> = workers.iter().map(|_| Rebalance::default()).collect();
        let loads =
            |workers: &[Vec<u32>]| workers.iter().map(|conns| conns.iter().sum()).collect::<Vec<u32>>();
        let shared = peers(&vec![0; workers.len()]);
        for window in 0..400 {
            for (me, (balance, load)) in balances.iter().zip(loads(&workers)).enumerate() {
                balance.begun.set(load);
                balance.turn(u16::try_from(me).unwrap(), 0, &shared, MonoTime::ZERO);
            }
            let mut given = Vec::new();
            for (conns, balance) in workers.iter_mut().zip(&balances) {
                conns.retain(|last| {
                    let to = balance.give_away(&ConnRate { last: *last, ..ConnRate::default() });
                    to.inspect(|to| given.push((*to, *last))).is_none()
                });
            }
            given.iter().for_each(|(to, load)| workers[usize::from(*to)].push(*load));
            let now = loads(&workers);
            let (most, least) = (now.iter().max().unwrap(), now.iter().min().unwrap());
            // The lines are a window old: of the last two, both must be even.
            if window > 1 && given.is_empty() && f64::from(*most) <= 1.25 * f64::from(*least) {
                return (window, now);
            }
        }
        (usize::MAX, loads(&workers))
    }

    /// All workers look at once and none knows what the others do: they must not all fill the same gap.
    #[test]
    fn many_workers_become_even_and_do_not_swing() {
        let hundred = vec![10; 100];
        let one_idle = |n: usize| {
            let mut workers = vec![hundred.clone(); n];
            workers[n / 2].clear();
            workers
        };
        let one_busy = |n: usize| {
            let mut workers = vec![Vec::new(); n];
            workers[n / 3] = vec![10; 100 * n];
            workers
        };
        for n in [2, 3, 8, 32] {
            for (what, workers) in [("idle", one_idle(n)), ("busy", one_busy(n))] {
                let (windows, loads) = settled(workers);
                assert!(windows < 12 + 8 * n, "one {what} of {n}: after {windows} windows {loads:?}");
            }
        }
    }

    /// Four of 64 connections carry 80 %, three of them on one of two workers: none of them is below half of the
    /// difference by much, and without one of them it stays as it is.
    #[test]
    fn a_connection_that_is_barely_too_large_is_moved_when_nothing_else_helps() {
        let light = vec![3_u32; 5];
        let busy: Vec<u32> = [400, 400, 400].into_iter().chain(light.clone()).collect();
        let (windows, loads) = settled(vec![busy, [390].into_iter().chain(light).collect()]);
        assert!(windows < 20, "after {windows} windows {loads:?}");
    }

    #[test]
    fn what_was_accepted_goes_where_less_is_in_flight_and_not_more_than_the_gap() {
        let (balance, peers) = (Rebalance::default(), peers(&[0, 0, 0]));
        peers.lines[1].publish(0, 10, 0);
        peers.lines[2].publish(0, 40, 0);
        balance.turn(0, 100, &peers, MonoTime::ZERO);
        let given: Vec<_> = std::iter::from_fn(|| balance.give_accepted()).collect();
        assert_eq!(given, [1; 40], "the average is 50; the gap of the second is 40");
        balance.turn(0, 8, &peers, MonoTime::ZERO);
        assert_eq!(balance.give_accepted(), None);
    }
}
