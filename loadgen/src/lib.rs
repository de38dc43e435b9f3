//! Open-loop load over HTTP/1.1, HTTP/2 and gRPC, in clear or over TLS, and a small real backend: for `ringway demo`, for tests and for failover measurements.
//!
//! [`run`] sends requests at a constant rate, whatever the answers do, and counts each latency from the moment at
//! which the request was due. A closed loop would stop asking while the system under test stands still, and so hide
//! exactly what is looked for (coordinated omission). [`run_http2`] does the same with streams.
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
mod http2;
mod journal;
mod message;
mod record;
mod socket;
mod stream;
mod tls;
mod window;

pub use backend::{Backend, BackendOptions};
pub use behaviour::{Behaviour, Bulk, Health, Latency};
pub use connection::Begun;
pub use engine::{Load, LoadError, run, run_recorded, run_secured};
pub use http2::{Call, Http2, run_http2};
pub use journal::{Execution, Journal, now};
pub use record::{Asks, Method, Outcome, Record};
pub use tls::{Secured, Tls};
pub use window::{Failures, Summary, VALUES_MAX, ValueWindow, WINDOW, Window};
