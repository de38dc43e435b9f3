//! When what happens: everything goes well, a cluster is killed, it comes back, the end.

use std::time::Duration;

/// Parts of a thousand of the whole at which the cluster is killed and brought back.
const KILL_PERMILLE: u32 = 350;
const BACK_PERMILLE: u32 = 600;
/// The first tenth of the run, and never more than this, is called warm-up. Its requests count like all others.
const WARM_UP_MAX: Duration = Duration::from_secs(1);

/// The moments of one run, since its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    /// The cluster is killed.
    pub kill: Duration,
    /// It is brought back.
    pub back: Duration,
    /// The last request becomes due.
    pub end: Duration,
}

/// Where in its run the demo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Connections are being opened.
    WarmUp,
    /// Every cluster serves.
    Steady,
    /// One is killed.
    Down,
    /// It listens again.
    Back,
    /// No more requests become due.
    Over,
}

impl Timeline {
    /// For a run of this length.
    pub(super) fn of(end: Duration) -> Self {
        Self { kill: end * KILL_PERMILLE / 1_000, back: end * BACK_PERMILLE / 1_000, end }
    }

    /// The phase at `now`.
    pub(super) fn phase(&self, now: Duration) -> Phase {
        if now >= self.end {
            Phase::Over
        } else if now >= self.back {
            Phase::Back
        } else if now >= self.kill {
            Phase::Down
        } else if now >= WARM_UP_MAX.min(self.end / 10) {
            Phase::Steady
        } else {
            Phase::WarmUp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_scale_with_the_run() {
        let millis = Duration::from_millis;
        let long = Timeline::of(Duration::from_secs(20));
        let at = |now| long.phase(millis(now));
        assert_eq!((long.kill, long.back), (millis(7_000), millis(12_000)));
        assert_eq!((at(0), at(999), at(1_000)), (Phase::WarmUp, Phase::WarmUp, Phase::Steady));
        assert_eq!((at(6_999), at(7_000), at(12_000)), (Phase::Steady, Phase::Down, Phase::Back));
        assert_eq!(at(20_000), Phase::Over);
        let short = Timeline::of(Duration::from_secs(3));
        assert_eq!(short.phase(millis(299)), Phase::WarmUp);
        assert_eq!(short.phase(millis(1_050)), Phase::Down);
        assert_eq!(Timeline::of(Duration::ZERO).phase(Duration::ZERO), Phase::Over);
    }
}
