//! The client's side: one module for each protocol.

pub mod h1;
mod h2;
pub mod tcp;
pub mod udp;
