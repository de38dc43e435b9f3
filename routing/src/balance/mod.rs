//! Which of several, once it is known who may serve: by weight, by load, by hash, by cookie.
//!
//! Nothing here knows health or priorities: `failover` decides who is offered.

pub mod hash;
pub(crate) mod p2c;
pub mod sticky;
pub(crate) mod weighted;
