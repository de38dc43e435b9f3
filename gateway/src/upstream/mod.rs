//! The pods' side: idle connections by endpoint, and probes. New ones are made by `exchange`, which has the deadline.

pub mod dial;
pub mod endings;
pub mod h2;
pub mod health;
pub mod pool;
pub mod probe;
