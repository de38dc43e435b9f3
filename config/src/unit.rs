//! Sizes and times as people write them: `"16KiB"`, `"250ms"`.
//!
//! One number and one unit, nothing else: no fractions, no sums, no unit by default, so that a value can be read in
//! one way only. Printing gives back the largest unit that divides the value, which parses to the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written `"512B"`, `"16KiB"`, `"64MiB"` or `"1GiB"`.
///
/// Binary units only: a decimal `KB` would make two readers disagree by 2.4 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// A span of time, written `"500us"`, `"250ms"`, `"30s"`, `"5m"` or `"1h"`.
///
/// Zero is `"0s"`; what it means is said at each key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// Why a size or a time was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// There are no digits before the unit.
    Number,
    /// The unit is missing or is not one of those listed.
    Unit {
        /// The units that are understood, for the message.
        known: &'static str,
    },
    /// The value does not fit: more than 2^63 bytes or nanoseconds.
    TooLarge,
}

/// Bytes per unit, largest first: printing takes the first that divides.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Nanoseconds per unit, largest first.
const PERIODS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The largest value: TOML integers and `MonoTime` both stay clear of the sign bit.
const VALUE_MAX: u64 = i64::MAX as u64;

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1,024 bytes.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many times 1,048,576 bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as an in-memory length; on a 32-bit machine a larger value is the largest length.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Period {
    /// This span of time.
    #[must_use]
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    /// So many seconds.
    #[must_use]
    pub const fn secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The span as the standard library's type.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The span, or `None` for zero: for the keys where zero means "no limit".
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }

    fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(VALUE_MAX)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &SIZES, "B, KiB, MiB, GiB").map(Self)
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &PERIODS, "ns, us, ms, s, m, h").map(|nanos| Self(Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, &SIZES, "0B")
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.nanos(), &PERIODS, "0s")
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => f.write_str("a whole number is missing before the unit"),
            Self::Unit { known } => write!(f, "the unit must be one of {known}"),
            Self::TooLarge => f.write_str("the value is too large"),
        }
    }
}

impl std::error::Error for UnitError {}

macro_rules! as_string {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|why| serde::de::Error::custom(format!("{text:?}: {why}")))
            }
        }
    };
}
pub(crate) use as_string;

as_string!(ByteSize);
as_string!(Period);

fn parse(text: &str, units: &[(&str, u64)], known: &'static str) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::Number);
    }
    let (_, scale) = units.iter().find(|(name, _)| *name == unit).ok_or(UnitError::Unit { known })?;
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    number.checked_mul(*scale).filter(|value| *value <= VALUE_MAX).ok_or(UnitError::TooLarge)
}

fn print(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], zero: &str) -> fmt::Result {
    if value == 0 {
        return f.write_str(zero);
    }
    let (name, scale) = units
        .iter()
        .find(|(_, scale)| value.is_multiple_of(*scale))
        .expect("the last unit is 1, which divides all");
    write!(f, "{}{name}", value / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_with_their_unit() {
        assert_eq!("16KiB".parse(), Ok(ByteSize::new(16_384)));
        assert_eq!("1GiB".parse(), Ok(ByteSize::new(1 << 30)));
        assert_eq!("0B".parse(), Ok(ByteSize::new(0)));
        assert_eq!("250ms".parse(), Ok(Period::millis(250)));
        assert_eq!("1h".parse(), Ok(Period::secs(3_600)));
        assert_eq!("500us".parse(), Ok(Period::new(Duration::from_micros(500))));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in ["", "16", "KiB", "16KB", "16kib", "1.5MiB", "-1B", "16 KiB", " 16KiB", "1KiB1B", "١KiB"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?} was read as a size");
        }
        for text in ["", "5", "s", "1m30s", "1.5s", "-1s", "5 s", "5S", "5min", "99999999999999999999s"] {
            assert!(text.parse::<Period>().is_err(), "{text:?} was read as a time");
        }
        assert_eq!("9999999999GiB".parse::<ByteSize>(), Err(UnitError::TooLarge));
        assert_eq!("9999999h".parse::<Period>(), Err(UnitError::TooLarge));
    }

    #[test]
    fn printing_uses_the_largest_unit_and_reads_back_equal() {
        assert_eq!(ByteSize::kib(32).to_string(), "32KiB");
        assert_eq!(ByteSize::new(1_025).to_string(), "1025B");
        assert_eq!(Period::secs(60).to_string(), "1m");
        assert_eq!(Period::secs(61).to_string(), "61s");
        for value in [0, 1, 999, 1_000, 1_023, 1_024, 1_048_576, 3_600_000_000_000, VALUE_MAX] {
            let size = ByteSize::new(value);
            assert_eq!(size.to_string().parse(), Ok(size));
            let period = Period::new(Duration::from_nanos(value));
            assert_eq!(period.to_string().parse(), Ok(period));
        }
    }
}
