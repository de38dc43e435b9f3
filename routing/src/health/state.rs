//! The states of a cluster, of a backend in a cluster and of an endpoint, and what leads from one to the next.
//!
//! ```text
//! Healthy --Doubt--> Suspect --Proof--> Down --Returned--> Probation --Trusted--> Ramp --Ramped--> Healthy
//!    ^-----Answer------'  `- only traffic clears it  ^---------Proof-----'---Proof---'
//! ```
//!
//! Suspect is cheap and reversible: new requests go elsewhere, those in flight are hedged, probes are sent. Down
//! needs proof. Pure: [`State::next`] is the whole automaton; who may raise which signal is the detector's say.

use std::fmt;

/// What is known about a cluster, a backend in a cluster, or an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Takes its share.
    #[default]
    Healthy,
    /// Traffic says that something is wrong. New requests go elsewhere while they can.
    Suspect,
    /// Proven. Takes no request while another can.
    Down(Reason),
    /// Probes are answered again; single real requests decide.
    Probation,
    /// Takes a share that grows over `failback.ramp`.
    Ramp,
}

/// Why something is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nobody listens: connections are refused.
    Refused,
    /// Not one byte, and connects are not answered.
    Silent,
    /// Not one byte, connects are answered by the kernel, the application does not answer.
    Hang,
    /// Too large a share of answers are failures.
    Errors,
    /// Probes are answered, requests are not in time.
    Slow,
    /// Its active check fails.
    Check,
}

impl Reason {
    /// All of them, in the order of [`Reason::name`]'s documentation.
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::Silent, Self::Hang, Self::Errors, Self::Slow, Self::Check];

    /// A short name for logs and metrics: `refused`, `silent`, `hang`, `errors`, `slow`, `check`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Hang => "hang",
            Self::Errors => "errors",
            Self::Slow => "slow",
            Self::Check => "check",
        }
    }

    /// Does nothing there answer at all? What is in flight there moves, exempt from the budget.
    #[must_use]
    pub fn is_unreachable(self) -> bool {
        match self {
            Self::Refused | Self::Silent | Self::Hang => true,
            Self::Errors | Self::Slow | Self::Check => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happened, as far as a [`State`] is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Traffic raised a suspicion: silence, hedges.
    Doubt,
    /// A real request was answered.
    Answer,
    /// What is needed for this verdict has come together.
    Proof(Reason),
    /// Enough probes in a row were answered, the hold-off and `failback.delay` are over.
    Returned,
    /// Enough real requests in a row were answered well, or a suspicion came to nothing.
    Trusted,
    /// `failback.ramp` is over.
    Ramped,
}

impl State {
    /// The state after `signal`.
    #[must_use]
    pub fn next(self, signal: Signal) -> Self {
        match (self, signal) {
            (Self::Healthy, Signal::Doubt) => Self::Suspect,
            (Self::Healthy, Signal::Proof(reason)) => Self::Down(reason),
            (Self::Healthy, Signal::Answer | Signal::Returned | Signal::Trusted | Signal::Ramped) => {
                Self::Healthy
            }
            (Self::Suspect, Signal::Answer) => Self::Healthy,
            (Self::Suspect, Signal::Proof(reason)) => Self::Down(reason),
            // Neither proof nor an answer in a long time: its own traffic decides, a growing share of it.
            (Self::Suspect, Signal::Trusted) => Self::Ramp,
            // Answered probes never clear what traffic raised.
            (Self::Suspect, Signal::Doubt | Signal::Returned | Signal::Ramped) => Self::Suspect,
            (Self::Down(was), Signal::Proof(reason)) => Self::Down(was.with(reason)),
            (Self::Down(_), Signal::Returned) => Self::Probation,
            // An answer may be of a request sent before; only probes lead out.
            (Self::Down(was), Signal::Doubt | Signal::Answer | Signal::Trusted | Signal::Ramped) => {
                Self::Down(was)
            }
            // Failures and slow answers of single requests are what probation is for: they only end a streak.
            (Self::Probation, Signal::Proof(Reason::Errors | Reason::Slow)) => Self::Probation,
            (
                Self::Probation,
                Signal::Proof(reason @ (Reason::Refused | Reason::Silent | Reason::Hang | Reason::Check)),
            ) => Self::Down(reason),
            (Self::Probation, Signal::Trusted) => Self::Ramp,
            (Self::Probation, Signal::Doubt | Signal::Answer | Signal::Returned | Signal::Ramped) => {
                Self::Probation
            }
            (Self::Ramp, Signal::Proof(reason)) => Self::Down(reason),
            (Self::Ramp, Signal::Ramped) => Self::Healthy,
            (Self::Ramp, Signal::Doubt | Signal::Answer | Signal::Returned | Signal::Trusted) => Self::Ramp,
        }
    }

    /// A short name for logs and metrics: `healthy`, `suspect`, `down`, `probation`, `ramp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Down(_) => "down",
            Self::Probation => "probation",
            Self::Ramp => "ramp",
        }
    }

    /// Why it is down, if it is.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Down(reason) => Some(reason),
            Self::Healthy | Self::Suspect | Self::Probation | Self::Ramp => None,
        }
    }

    /// The four bits that stand for it in a shared word.
    pub(crate) fn code(self) -> u64 {
        match self {
            Self::Healthy => 0,
            Self::Suspect => 1,
            Self::Down(Reason::Refused) => 2,
            Self::Down(Reason::Silent) => 3,
            Self::Down(Reason::Hang) => 4,
            Self::Down(Reason::Errors) => 5,
            Self::Down(Reason::Slow) => 6,
            Self::Down(Reason::Check) => 7,
            Self::Probation => 8,
            Self::Ramp => 9,
        }
    }

    /// Reads the lowest four bits of `word`; what no state writes reads as healthy.
    pub(crate) fn of_code(word: u64) -> Self {
        match word & 0xF {
            1 => Self::Suspect,
            2 => Self::Down(Reason::Refused),
            3 => Self::Down(Reason::Silent),
            4 => Self::Down(Reason::Hang),
            5 => Self::Down(Reason::Errors),
            6 => Self::Down(Reason::Slow),
            7 => Self::Down(Reason::Check),
            8 => Self::Probation,
            9 => Self::Ramp,
            _ => Self::Healthy,
        }
    }
}

impl Reason {
    /// The reason that counts when `later` is proven, too: "nothing answers" is stronger than "answers badly".
    fn with(self, later: Self) -> Self {
        if later.is_unreachable() && !self.is_unreachable() { later } else { self }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(reason) => write!(f, "down ({reason})"),
            Self::Healthy | Self::Suspect | Self::Probation | Self::Ramp => f.write_str(self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: State = State::Down(Reason::Errors);
    const H: State = State::Healthy;
    const S: State = State::Suspect;
    const P: State = State::Probation;
    const R: State = State::Ramp;
    const X: State = State::Down(Reason::Silent);

    #[test]
    fn every_pair_of_state_and_signal_leads_where_the_table_says() {
        let signals = [
            Signal::Doubt,
            Signal::Answer,
            Signal::Proof(Reason::Silent),
            Signal::Returned,
            Signal::Trusted,
            Signal::Ramped,
        ];
        //         Doubt Answer Proof Returned Trusted Ramped
        let table = [
            (H, [S, H, X, H, H, H]),
            (S, [S, H, X, S, R, S]),
            (D, [D, D, X, P, D, D]),
            (P, [P, P, X, P, R, P]),
            (R, [R, R, X, R, R, H]),
        ];
        for (state, row) in table {
            for (signal, expected) in signals.into_iter().zip(row) {
                assert_eq!(state.next(signal), expected, "{state} {signal:?}");
            }
        }
    }

    #[test]
    fn probation_bears_failures_and_slowness_and_nothing_worse() {
        for reason in Reason::ALL {
            let stays = matches!(reason, Reason::Errors | Reason::Slow);
            let expected = if stays { P } else { State::Down(reason) };
            assert_eq!(P.next(Signal::Proof(reason)), expected, "{reason}");
        }
    }

    #[test]
    fn reason_of_a_verdict_only_grows_from_answers_badly_to_answers_nothing() {
        for was in Reason::ALL {
            for later in Reason::ALL {
                let expected = match (was.is_unreachable(), later.is_unreachable()) {
                    (false, true) => later,
                    (true | false, false) | (true, true) => was,
                };
                assert_eq!(State::Down(was).next(Signal::Proof(later)), State::Down(expected));
            }
        }
    }

    #[test]
    fn words_hold_every_state() {
        let states = [H, S, P, R].into_iter().chain(Reason::ALL.map(State::Down));
        for state in states {
            assert_eq!(State::of_code(0xABC0 | state.code()), state);
        }
        for code in 10..16 {
            assert_eq!(State::of_code(code), State::Healthy);
        }
    }
}
