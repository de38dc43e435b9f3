//! HTTP/1.0 and HTTP/1.1: bytes to heads and heads to bytes (RFC 9112).
//!
//! A head walks through [`limits`] (how much is accepted), [`decode`] (bytes to a
//! [`RequestHead`](crate::head::RequestHead) or [`ResponseHead`](crate::head::ResponseHead)) and [`encode`] (the
//! head of the next hop, written anew from the fields, never copied through). [`chunked`] is the chunked coding both
//! ways, [`forwarded`] what the next hop is told about the client, [`sink`] where encoded bytes go.
//!
//! Nothing here decides trust, routing or retries, and nothing allocates once the head's vectors have grown to the
//! largest head seen.

pub mod chunked;
pub mod decode;
pub mod encode;
mod fault;
pub(crate) mod fields;
pub mod forwarded;
pub mod limits;
pub mod sink;
