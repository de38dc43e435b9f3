//! What is known about who can serve. Today: each endpoint's own evidence.
//!
//! The detector's other levels (backend in a cluster, cluster) join here; they never change [`endpoint`].

pub mod endpoint;
