//! Spreading load over workers by requests, not by connections.
//!
//! The kernel spreads connections by hash; a few busy keep-alive connections can still pile up on one core. Four
//! times a second each worker publishes its request rate; one that stands clearly above the least loaded gives some
//! of its connections away, between two requests, until half of the difference is gone. Pure but for the lines.

use std::cell::Cell;

use routing::time::MonoTime;

use super::peers::Peers;

/// Milliseconds between two looks at the other workers.
pub const WINDOW_MS: u64 = 250;
/// Windows in a second.
const WINDOWS_PER_SECOND: u32 = 4;
const _: () = assert!(WINDOWS_PER_SECOND as u64 * WINDOW_MS == 1_000);
/// Below this rate (requests per second) nothing is given away: a connection's own rate is noise.
const RATE_MIN: u32 = 400;
/// How far above the least loaded a worker must stand, in percent, before it gives away.
const EXCESS_PERCENT: u32 = 10;

/// What a worker knows of its load.
#[derive(Default)]
pub struct Rebalance {
    /// Number of the current window.
    window: Cell<u32>,
    /// Requests begun in it.
    begun: Cell<u32>,
    /// Requests per window that may still be given away in it.
    allowance: Cell<u32>,
    target: Cell<u16>,
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
        self.allowance.set(0);
        let others = peers.lines.iter().enumerate().filter(|(index, _)| *index != usize::from(me));
        let Some((target, least)) =
            others.map(|(index, line)| (index, line.rate())).min_by_key(|(_, rate)| *rate)
        else {
            return;
        };
        if rate >= RATE_MIN && rate > least + least / 100 * EXCESS_PERCENT {
            self.target.set(u16::try_from(target).unwrap_or(0));
            self.allowance.set((rate - least) / 2 / WINDOWS_PER_SECOND);
        }
    }

    /// Should this connection, now between two requests, go to another worker? Which?
    pub fn give_away(&self, rate: &ConnRate) -> Option<u16> {
        let allowance = self.allowance.get();
        // A connection that is new in this window is not known yet.
        if allowance == 0 || rate.last == 0 || rate.last > allowance {
            return None;
        }
        self.allowance.set(allowance - rate.last);
        Some(self.target.get())
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
}
