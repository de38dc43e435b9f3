//! A `gateway.toml` that nobody meant: never a panic, and what is refused is named.

use config::Config;
use proptest::prelude::*;

const GOOD: &str = include_str!("../gateway.toml");

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_of_the_defaults_panics_and_what_is_refused_is_named(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0..6_u8, any::<char>()), 1..6),
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (index, kind, other) in edits {
            if text.is_empty() {
                break;
            }
            let at = index.index(text.len());
            match kind {
                0 => text[at] = other,
                1 => text.insert(at, other),
                2 => drop(text.remove(at)),
                3 => text.truncate(at + 1),
                // Digits grow, signs come, quotes and brackets open.
                4 => text.insert(at, ['9', '-', '"', '[', '=', '\n'][u32::from(other) as usize % 6]),
                _ => text[at..].rotate_left(1),
            }
        }
        let text: String = text.into_iter().collect();
        // Ranges are parse's to judge, how values go together is validate's: a file may pass the first and not the second.
        if let Err(error) = Config::parse(&text).and_then(|config| config.validate()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
