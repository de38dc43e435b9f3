//! Open-loop HTTP/1.1 load and a small real backend: for `ringway demo`, for tests and for failover measurements.
//!
//! [`run`] sends requests at a constant rate, whatever the answers do, and counts each latency from the moment at
//! which the request was due. A closed loop would stop asking while the system under test stands still, and so hide
//! exactly what is looked for (coordinated omission).
//!
//! [`Backend`] answers with the names of its cluster and endpoint, can be slow, and can be killed and restarted; its
//! [`Journal`] tells afterwards which request was executed how often.
//!
//! Both are one thread with epoll and nonblocking sockets, and know nothing of the gateway.

mod answer;
mod backend;
mod behaviour;
mod connection;
mod engine;
mod journal;
mod message;
mod record;
mod socket;
mod tls;
mod window;

pub use backend::{Backend, BackendOptions};
pub use behaviour::{Behaviour, Bulk, Health, Latency};
pub use connection::Begun;
pub use engine::{Load, LoadError, run, run_recorded, run_secured};
pub use journal::{Execution, Journal, now};
pub use record::{Asks, Method, Outcome, Record};
pub use tls::Tls;
pub use window::{Failures, Summary, VALUES_MAX, ValueWindow, WINDOW, Window};
