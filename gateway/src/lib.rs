//! The data plane of Ringway, in the order in which a request meets its modules:
//!
//! [`accept`] → ([`tls`]) → [`downstream`] → [`exchange`] (route, pick, attempt, relay, retry, reply) → [`upstream`] →
//! [`observe`]. Each [`worker`] runs all of it on its own thread. [`net`] holds every call into the runtime, [`sys`]
//! everything `unsafe`.
//!
//! This library knows nothing of Kubernetes: the route table comes as `routing::delta` updates through a mailbox.

pub mod accept;
pub mod addresses;
pub mod admin;
pub mod downstream;
pub mod exchange;
pub mod net;
pub mod node;
pub mod observe;
pub mod passwords;
pub mod sys;
pub mod tls;
pub mod upstream;
pub mod worker;
