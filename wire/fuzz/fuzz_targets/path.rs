//! Any bytes as a path: no panic, never longer, no dot segment, and normalising twice changes nothing. The first byte
//! chooses the policy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::path::{EncodedSlashes, PathPolicy, RepeatedSlashes, normalise};

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let policy = PathPolicy {
        encoded_slashes: match first % 3 {
            0 => EncodedSlashes::Keep,
            1 => EncodedSlashes::Decode,
            _ => EncodedSlashes::Refuse,
        },
        repeated_slashes: if first & 0x80 == 0 { RepeatedSlashes::Keep } else { RepeatedSlashes::Merge },
    };
    let path = [b"/", rest].concat();
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    if normalise(&path, policy, &mut once).is_err() {
        return;
    }
    assert!(once.starts_with(b"/") && once.len() <= path.len());
    assert!(!once.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b".."));
    assert_eq!(normalise(&once, policy, &mut twice), Ok(()));
    assert_eq!(once, twice);
});
