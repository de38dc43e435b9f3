//! The client's side: one module for each protocol.

pub mod h1;
mod h2;
pub(crate) mod habits;
pub mod tcp;
pub mod udp;
