//! Who may come in by a layer-4 listener: access lists, connections at once, new connections per second.
//!
//! Counted per worker, by listener and source: IPv4 address or IPv6 /64, for that is what one customer has. The table
//! of sources is bounded; where it is full a new source is served uncounted, for a full table says nothing about who
//! comes next. Pure but for its own table.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use routing::id::BindId;
use routing::model::Layer4;
use routing::time::MonoTime;

use crate::observe::layer4::Ended;
use crate::observe::stats::{Limit, WorkerStats};
use crate::worker::Worker;

/// The window of `source_rate_max`.
const SECOND_NS: u64 = 1_000_000_000;
/// The table of sources is swept at most this often: a sweep looks at all of them.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// What one worker counts.
#[derive(Default)]
pub struct Door {
    /// The standard maps: the peers choose their keys, so their hashing is randomised.
    binds: RefCell<HashMap<BindId, u32>>,
    sources: RefCell<HashMap<(BindId, IpAddr), Source>>,
    swept: Cell<MonoTime>,
}

#[derive(Default)]
struct Source {
    open: u32,
    /// When its bucket is full again: what it came beyond its rate, in time.
    full_at: u64,
}

/// A connection that was let in by one of the two counts, while this lives.
pub struct Admitted {
    worker: Rc<Worker>,
    bind: BindId,
    /// `None` = counted by its listener; otherwise by this source.
    source: Option<IpAddr>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.worker.door.leave(self.bind, self.source);
    }
}

impl Door {
    /// Counts a connection by its listener, if that is bounded.
    ///
    /// # Errors
    /// [`Ended::Limited`].
    pub fn enter_listener(
        worker: &Rc<Worker>,
        bind: BindId,
        rules: &Layer4,
    ) -> Result<Option<Admitted>, Ended> {
        if rules.connections_max == 0 {
            return Ok(None);
        }
        let mut binds = worker.door.binds.borrow_mut();
        let open = binds.entry(bind).or_default();
        if *open >= rules.connections_max {
            worker.stats.hit(Limit::ListenerConnections);
            return Err(Ended::Limited);
        }
        *open += 1;
        Ok(Some(Admitted { worker: Rc::clone(worker), bind, source: None }))
    }

    /// Asks the access lists, and counts a connection by its source, if that is bounded.
    ///
    /// # Errors
    /// [`Ended::Denied`], [`Ended::Limited`].
    pub fn enter_source(
        worker: &Rc<Worker>,
        bind: BindId,
        rules: &Layer4,
        source: IpAddr,
        now: MonoTime,
    ) -> Result<Option<Admitted>, Ended> {
        let is_in = |ranges: &[ipnet::IpNet]| ranges.iter().any(|range| range.contains(&source));
        if is_in(&rules.deny) || !(rules.allow.is_empty() || is_in(&rules.allow)) {
            return Err(Ended::Denied);
        }
        if rules.source_connections_max == 0 && rules.source_rate_max == 0 {
            return Ok(None);
        }
        let (source, max) = (network(source), worker.settings().connection_sources_max);
        if worker.door.count(&worker.stats, (bind, source), rules, max, now)? {
            return Ok(Some(Admitted { worker: Rc::clone(worker), bind, source: Some(source) }));
        }
        Ok(None)
    }

    /// `false` = there is no room to count it.
    fn count(
        &self,
        stats: &WorkerStats,
        key: (BindId, IpAddr),
        rules: &Layer4,
        max: usize,
        now: MonoTime,
    ) -> Result<bool, Ended> {
        let mut sources = self.sources.borrow_mut();
        if sources.len() >= max && !sources.contains_key(&key) {
            if now.since(self.swept.get()) >= SWEEP_INTERVAL {
                self.swept.set(now);
                sources.retain(|_, source| source.open > 0 || source.full_at > now.0);
            }
            if sources.len() >= max {
                stats.hit(Limit::ConnectionSources);
                return Ok(false);
            }
        }
        let source = sources.entry(key).or_default();
        if rules.source_connections_max > 0 && source.open >= rules.source_connections_max {
            stats.hit(Limit::SourceConnections);
            return Err(Ended::Limited);
        }
        if let Some(interval) = SECOND_NS.checked_div(u64::from(rules.source_rate_max)) {
            // A token bucket told as time: each connection moves the moment at which it is full again.
            let full_at = source.full_at.max(now.0) + interval;
            if full_at > now.0 + SECOND_NS {
                stats.hit(Limit::SourceRate);
                return Err(Ended::Limited);
            }
            source.full_at = full_at;
        }
        source.open += 1;
        Ok(true)
    }

    fn leave(&self, bind: BindId, source: Option<IpAddr>) {
        match source {
            None => {
                let mut binds = self.binds.borrow_mut();
                if let Some(open) = binds.get_mut(&bind) {
                    *open -= 1;
                    if *open == 0 {
                        binds.remove(&bind);
                    }
                }
            }
            Some(source) => {
                let mut sources = self.sources.borrow_mut();
                if let Some(entry) = sources.get_mut(&(bind, source)) {
                    entry.open -= 1;
                    // Its bucket is not known to be full: without a rate there is none, with one a sweep looks.
                    if entry.open == 0 && entry.full_at == 0 {
                        sources.remove(&(bind, source));
                    }
                }
            }
        }
    }
}

/// What counts as one source.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[8..].fill(0);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> (BindId, IpAddr) {
        (BindId(0), IpAddr::V4(std::net::Ipv4Addr::from(n)))
    }

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let (door, stats) = (Door::default(), WorkerStats::new(1));
        let rules = Layer4 { source_rate_max: 10, ..Layer4::default() };
        let mut now = MonoTime(5);
        let enter = |now| door.count(&stats, source(1), &rules, 100, now).is_ok();
        assert_eq!((0..20).filter(|_| enter(now)).count(), 10, "one second's worth at once");
        let mut let_in = 0;
        for _ in 0..2_000 {
            now = now + Duration::from_millis(1);
            let_in += u32::from(enter(now));
        }
        assert!((19..=20).contains(&let_in), "{let_in} in two seconds");
    }

    #[test]
    fn the_table_of_sources_is_bounded_and_a_full_one_turns_nobody_away() {
        let (door, stats) = (Door::default(), WorkerStats::new(1));
        let rules = Layer4 { source_rate_max: 1, ..Layer4::default() };
        let now = MonoTime(1 << 40);
        let counted = (0..50).filter(|n| door.count(&stats, source(*n), &rules, 20, now) == Ok(true)).count();
        assert_eq!((counted, door.sources.borrow().len()), (20, 20));
        assert_eq!(stats.hits(Limit::ConnectionSources), 30);
        (0..20).for_each(|n| door.leave(BindId(0), Some(source(n).1)));
        let later = now + Duration::from_secs(2);
        assert_eq!(door.count(&stats, source(99), &rules, 20, later), Ok(true));
        assert_eq!(door.sources.borrow().len(), 1, "whoever has left and whose bucket is full is forgotten");
    }

    #[test]
    fn a_source_of_ipv6_is_its_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
