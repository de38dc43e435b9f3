//! Power of two choices: two random candidates, of which the less busy one is taken.

use rand::RngCore;
use rand::rngs::SmallRng;

/// Two different positions below `count`; the same one twice when there is only one.
pub(crate) fn two(count: u32, rng: &mut SmallRng) -> (u32, u32) {
    let random = rng.next_u64();
    let first = scale(random, count);
    if count < 2 {
        return (first, first);
    }
    let second = scale(random >> 32, count - 1);
    (first, if second >= first { second + 1 } else { second })
}

/// One position below `count`.
pub(crate) fn one(count: u32, rng: &mut SmallRng) -> u32 {
    scale(u64::from(rng.next_u32()), count)
}

/// Maps the low 32 bits of `random` to `0..count` by multiplication (no division; the bias is below 2^-12 for a
/// million endpoints).
fn scale(random: u64, count: u32) -> u32 {
    let scaled = ((random & u64::from(u32::MAX)) * u64::from(count)) >> 32;
    u32::try_from(scaled).expect("below count, which is 32 bits")
}
