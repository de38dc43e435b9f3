//! Every call into the runtime. Nothing outside this module names `monoio`, so that the runtime can be swapped.
//!
//! [`runtime`] builds the ring of a worker; [`listen`] opens and accepts; [`conn`] is one TCP connection with at
//! most one read and one write in flight; [`pipe`] is the same between two ends in one worker; [`splice`] moves bytes
//! from one connection to another inside the kernel; [`datagram`] sends and receives batches over UDP; [`wake`] waits
//! for eventfds and timers.

pub mod conn;
pub mod datagram;
pub mod listen;
pub mod pipe;
pub mod runtime;
pub mod splice;
pub mod wake;

pub use crate::sys::buf::{Buf, Class, acquire};

/// A buffer to read (the rest of) a message's head into, with what is held of it in front: a larger one where that is full.
///
/// `None` when the largest is full, or no buffer memory is left.
#[must_use]
pub fn with_room(held: Option<Buf>) -> Option<Buf> {
    match held {
        None => acquire(Class::Head, 0),
        Some(buf) if buf.readroom() > 0 => Some(buf),
        Some(buf) if buf.class() == Class::Bulk => None,
        Some(buf) => {
            let mut large = acquire(Class::Bulk, 0)?;
            large.append(buf.bytes());
            Some(large)
        }
    }
}

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
