//! The pods' side: idle connections by endpoint, and new ones.

pub mod connect;
pub mod pool;
