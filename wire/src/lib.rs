//! Bytes to messages and back. Sans-io: nothing here reads a socket, a clock or a random number.
//!
//! Modules in the order in which a request meets them:
//! [`head`] is the one form that HTTP/1, HTTP/2 and HTTP/3 heads become; [`h1`] reads and writes it, [`h2`] writes
//! requests of HTTP/2 in its form; [`grpc`] reads what calls of gRPC say in it;
//! [`authority`] and [`path`] say which host and which path a request is for; [`body`] knows how the end of a body
//! is found; [`hop`] knows what may not travel further; [`client_hello`] and [`proxy_protocol`] read what a layer-4
//! connection begins with, [`quic`] what a packet shows; [`error`] names everything that can be wrong with a peer's
//! bytes and what it costs.
#![forbid(unsafe_code)]

pub mod authority;
pub mod body;
pub mod client_hello;
pub mod error;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod head;
pub mod hop;
pub mod path;
pub mod proxy_protocol;
pub mod quic;
