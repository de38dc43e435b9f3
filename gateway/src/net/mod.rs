//! Every call into the runtime. Nothing outside this module names `monoio`, so that the runtime can be swapped.
//!
//! [`runtime`] builds the ring of a worker; [`listen`] opens and accepts; [`conn`] is one TCP connection with at
//! most one read and one write in flight; [`pipe`] is the same between two ends in one worker; [`datagram`] sends and
//! receives batches over UDP; [`wake`] waits for eventfds and timers.

pub mod conn;
pub mod datagram;
pub mod listen;
pub mod pipe;
pub mod runtime;
pub mod wake;

pub use crate::sys::buf::{Buf, Class, acquire};

/// Puts the bytes of `second` behind those of `first`, in a larger buffer where they do not fit.
///
/// `None` when the largest holds no more, or no buffer memory is left.
#[must_use]
pub fn joined(mut first: Buf, second: &Buf) -> Option<Buf> {
    if first.readroom() < second.len() {
        let mut large = acquire(Class::Bulk, 0)?;
        large.append(first.bytes());
        first = large;
    }
    (first.append(second.bytes()) == second.len()).then_some(first)
}
