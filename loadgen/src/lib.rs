//! Open-loop HTTP/1.1 load and a small real backend: for `ringway demo`, for tests and for failover measurements.
//!
//! [`run`] sends requests at a constant rate, whatever the answers do, and counts each latency from the moment at
//! which the request was due. A closed loop would stop asking while the system under test stands still, and so hide
//! exactly what is looked for (coordinated omission).
//!
//! [`Backend`] answers with the names of its cluster and endpoint, can be slow, and can be killed and restarted.
//!
//! Both are one thread with epoll and nonblocking sockets, and know nothing of the gateway.

mod backend;
mod connection;
mod engine;
mod message;
mod window;

pub use backend::{Backend, BackendOptions, Latency};
pub use engine::{Load, LoadError, run};
pub use window::{Failures, Summary, VALUES_MAX, ValueWindow, WINDOW, Window};
