//! Tells values apart by a hash of what they print, without building the text.

use std::fmt::{self, Debug, Write};
use std::hash::{BuildHasher, Hasher};

struct Sink<H>(H);

impl<H: Hasher> Write for Sink<H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// A digest of a value; the same within one process only.
pub(crate) fn of(value: &impl Debug) -> u64 {
    let mut sink = Sink(foldhash::fast::FixedState::default().build_hasher());
    // Writing to a hasher cannot fail.
    let _ = write!(sink, "{value:?}");
    sink.0.finish()
}
