//! Faults on purpose: what a drill does to attempts, as plain data that every worker holds.
//!
//! The admin thread runs a drill ([`admin::drill`](crate::admin::drill)); a worker only asks [`Worker::drill_fault`] for
//! each attempt, after the pick and before a connection is taken: one load and one branch while no drill runs. A
//! drill ends by its own deadline whoever has died meanwhile.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use routing::id::ClusterId;
use routing::time::MonoTime;

use super::{Worker, clock};

/// The longest delay that a drill may add.
pub const LATENCY_MAX: Duration = Duration::from_secs(60);

/// What happens to an attempt that a drill has drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It counts as sent, and nothing ever comes back: not a byte, not an error. Its deadlines go on.
    Blackhole,
    /// Its connect is refused: nothing was sent.
    Refuse,
    /// Its response head comes so much later. At most [`LATENCY_MAX`].
    Latency(Duration),
    /// The endpoint answers at once with this status (500–599) and no body; nothing is sent to it.
    Status(u16),
}

/// What a fault may be, for messages.
const FAULTS: &str = "blackhole, refuse, latency=1ms to latency=60s, errors=500 to errors=599";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected one of {FAULTS}");
        match text.split_once('=') {
            None if text == "blackhole" => Ok(Self::Blackhole),
            None if text == "refuse" => Ok(Self::Refuse),
            Some(("latency", delay)) => {
                let delay = delay.parse::<config::Period>().map_err(|_| wrong())?.get();
                let allowed = Duration::from_millis(1)..=LATENCY_MAX;
                allowed.contains(&delay).then_some(Self::Latency(delay)).ok_or_else(wrong)
            }
            Some(("errors", status)) => match status.parse() {
                Ok(status @ 500..=599) => Ok(Self::Status(status)),
                Ok(_) | Err(_) => Err(wrong()),
            },
            None | Some(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blackhole => f.write_str("blackhole"),
            Self::Refuse => f.write_str("refuse"),
            Self::Latency(delay) => write!(f, "latency={delay:?}"),
            Self::Status(status) => write!(f, "errors={status}"),
        }
    }
}

/// Which part of a cluster's attempts a drill draws: hundredths of a percent, 1 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    const WHOLE: u16 = 10_000;

    /// For people.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked against its range"
        )]
        let share =
            percent.filter(|percent| (0.01..=100.0).contains(percent)).map(|p| (p * 100.0).round() as u16);
        share.map(Self).ok_or_else(|| "expected a share from 0.01% to 100%".to_owned())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

/// A drill as workers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drill {
    /// Whose attempts.
    pub cluster: ClusterId,
    /// What happens to them.
    pub fault: Fault,
    /// To which part of them.
    pub share: Share,
    /// When it is over, whatever else happens.
    pub until: MonoTime,
}

impl Drill {
    /// The fault of an attempt on `cluster`, drawn by chance; `None` = it goes its ordinary way.
    #[must_use]
    pub fn decide(&self, cluster: ClusterId, now: MonoTime, rng: &mut SmallRng) -> Option<Fault> {
        let mut drawn = || self.share.0 == Share::WHOLE || rng.random_range(0..Share::WHOLE) < self.share.0;
        (cluster == self.cluster && now < self.until && drawn()).then_some(self.fault)
    }
}

/// Where a worker keeps its drill.
#[derive(Debug, Default)]
pub struct DrillSlot(Cell<Option<Drill>>);

impl DrillSlot {
    /// A drill begins, or ends.
    pub fn set(&self, drill: Option<Drill>) {
        self.0.set(drill);
    }

    /// The drill that was set and is not over.
    #[must_use]
    pub fn running(&self, now: MonoTime) -> Option<Drill> {
        let drill = self.0.get()?;
        if now >= drill.until {
            self.0.set(None);
            return None;
        }
        Some(drill)
    }
}

impl Worker {
    /// The fault that a drill has in store for an attempt on `cluster`; counted.
    ///
    /// To be asked once for each attempt, when its endpoint is known and before a connection is taken from the pool or
    /// opened (`exchange::attempt`): hedges and retries are attempts like any other.
    #[must_use]
    pub fn drill_fault(&self, cluster: ClusterId) -> Option<Fault> {
        // The clock and the lots cost something only while a drill runs.
        self.drill.0.get()?;
        let now = clock::now();
        let fault = self.drill.running(now)?.decide(cluster, now, &mut self.rng.borrow_mut())?;
        self.stats.drill_faults_total.inc();
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn drill(share: &str) -> Drill {
        let share = share.parse().unwrap();
        Drill { cluster: ClusterId(3), fault: Fault::Refuse, share, until: MonoTime(1_000) }
    }

    #[test]
    fn a_share_of_one_clusters_attempts_is_drawn_and_nobody_elses() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut drawn = |drill: &Drill, cluster, now| {
            let all =
                (0..20_000).filter(|_| drill.decide(ClusterId(cluster), MonoTime(now), &mut rng).is_some());
            all.count()
        };
        assert!((1_800..2_200).contains(&drawn(&drill("10%"), 3, 0)));
        assert_eq!(drawn(&drill("100%"), 3, 999), 20_000);
        assert_eq!(drawn(&drill("100%"), 2, 0), 0, "another cluster");
        assert_eq!(drawn(&drill("100%"), 3, 1_000), 0, "it is over");
    }

    #[test]
    fn a_drill_that_nobody_ends_is_over_at_its_time() {
        let slot = DrillSlot::default();
        assert_eq!(slot.running(MonoTime(0)), None);
        slot.set(Some(drill("1%")));
        assert_eq!(slot.running(MonoTime(999)), Some(drill("1%")));
        assert_eq!(slot.running(MonoTime(1_000)), None);
        assert_eq!(slot.running(MonoTime(0)), None, "forgotten for good");
    }

    #[test]
    fn faults_and_shares_are_read_as_they_are_written_and_nothing_else_is() {
        for text in ["blackhole", "refuse", "latency=200ms", "errors=503"] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        let wrong = [
            "",
            "Blackhole",
            "latency",
            "latency=0s",
            "latency=61s",
            "latency=5",
            "errors=200",
            "errors=600",
            "a=b",
        ];
        for text in wrong {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
        for (text, shown) in [("10%", "10%"), ("0.01%", "0.01%"), ("100", "100%"), ("33.333%", "33.33%")] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), shown);
        }
        for text in ["", "%", "0%", "0.001%", "101%", "-1%", "NaN", "inf", "ten"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
