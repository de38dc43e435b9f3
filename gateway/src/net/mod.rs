//! Every call into the runtime. Nothing outside this module names `monoio`, so that the runtime can be swapped.
//!
//! [`runtime`] builds the ring of a worker; [`listen`] opens and accepts; [`conn`] is one TCP connection with at
//! most one read and one write in flight; [`wake`] waits for eventfds and timers.

pub mod conn;
pub mod listen;
pub mod runtime;
pub mod wake;

pub use crate::sys::buf::{Buf, Class, acquire};
