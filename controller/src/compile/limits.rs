//! State of limits that outlives a compile: an edit of an Ingress does not forget who has come how often.

use std::collections::HashMap;
use std::sync::Arc;

use routing::limit::{InFlight, Rate, RateState, Shared};
use routing::model::RateKey;

/// Names one limit: the route, the rule (`None` = all of them), what asked for it.
type Key = (Arc<str>, Option<usize>, &'static str);

/// Entries after which those that nobody uses any more are looked for.
const TIDY_EACH: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub struct Limits {
    rates: HashMap<(Key, Rate, RateKey), Shared<RateState>>,
    flights: HashMap<(Key, RateKey), Shared<InFlight>>,
}

impl Limits {
    /// The state of a rate limit.
    pub fn rate(&mut self, key: Key, rate: Rate, of: RateKey) -> Shared<RateState> {
        if self.rates.len() % TIDY_EACH == TIDY_EACH - 1 {
            self.rates.retain(|_, state| state.is_shared());
        }
        let fresh = || {
            Shared::new(match of {
                RateKey::All => RateState::default(),
                RateKey::Source => RateState::by_source(),
            })
        };
        self.rates.entry((key, rate, of)).or_insert_with(fresh).clone()
    }

    /// The state of a bound of requests at once.
    pub fn in_flight(&mut self, key: Key, of: RateKey) -> Shared<InFlight> {
        if self.flights.len() % TIDY_EACH == TIDY_EACH - 1 {
            self.flights.retain(|_, state| state.is_shared());
        }
        let fresh = || {
            Shared::new(match of {
                RateKey::All => InFlight::default(),
                RateKey::Source => InFlight::by_source(),
            })
        };
        self.flights.entry((key, of)).or_insert_with(fresh).clone()
    }
}
