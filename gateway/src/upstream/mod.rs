//! The pods' side: idle connections by endpoint. New ones are made by `exchange`, which has the deadline.

pub mod pool;
