//! A check in gRPC: `grpc.health.v1.Health/Check` (the gRPC health checking protocol).
//!
//! Good is an answer with grpc-status 0 that says SERVING, or one with another code where the check takes that for good.
//! Spoken over a stream of HTTP/2 in the form that the pipe has.

use std::io;

use wire::body::{BodyDecoder, Progress, TrailerPolicy};
use wire::h1::decode::{self, Decoded};
use wire::h1::limits::HeadLimits;
use wire::head::{Method, ResponseHead, ResponseView};

use crate::net::{Buf, Class, acquire};
use crate::tls::Stream;

/// Bytes of a service's name; a length of one byte says so.
pub const SERVICE_BYTES_MAX: usize = 120;
/// Bytes of an answer: its message has two.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// `HealthCheckResponse { status: SERVING }`.
const SERVING: [u8; 2] = [0x08, 0x01];
/// Not compressed, and four bytes of length.
const PREFIX: usize = 5;

/// The request for `service` (empty = the whole server), with `host` as its authority.
pub(super) fn request(service: &str, host: &str) -> Option<Buf> {
    let mut message = Vec::with_capacity(PREFIX + 2 + service.len());
    if !service.is_empty() {
        // Field 1, a string.
        message.extend_from_slice(&[0x0a, u8::try_from(service.len()).ok()?]);
        message.extend_from_slice(service.as_bytes());
    }
    let mut bytes = format!(
        "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ringway-probe\r\nContent-Type: \
         application/grpc\r\nContent-Length: {}\r\n\r\n",
        PREFIX + message.len()
    )
    .into_bytes();
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(message.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&message);
    let mut buf = acquire(Class::Small, 0)?;
    (buf.append(&bytes) == bytes.len()).then_some(buf)
}

/// What an endpoint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// That it serves.
    Serving,
    /// A code of gRPC, and not that it serves.
    Code(u8),
    /// Nothing of gRPC.
    Nothing,
}

/// Sends the request; what the endpoint says.
///
/// # Errors
/// No answer, or one that is none of gRPC.
pub(super) async fn check(conn: &mut Stream, request: Buf) -> io::Result<Said> {
    conn.start_write(request);
    conn.flush().await?;
    let mut bytes = Vec::new();
    loop {
        conn.start_read(acquire(Class::Small, 0).ok_or(io::ErrorKind::OutOfMemory)?);
        let (result, buf) = conn.finish_read().await;
        let is_over = result? == 0;
        bytes.extend_from_slice(buf.bytes());
        match verdict(&bytes) {
            Some(verdict) => return verdict,
            None if is_over || bytes.len() > ANSWER_BYTES_MAX => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            None => {}
        }
    }
}

/// What an answer says; `None` when it is not complete.
fn verdict(bytes: &[u8]) -> Option<io::Result<Said>> {
    let wrong = || Some(Err(io::ErrorKind::InvalidData.into()));
    let mut head = ResponseHead::default();
    match decode::response(bytes, &HeadLimits::default(), Method::Post, &mut head) {
        Ok(Decoded::Partial) => return None,
        Ok(Decoded::Complete) if head.status == 200 => {}
        Ok(Decoded::Complete) => return Some(Ok(Said::Nothing)),
        Err(_) => return wrong(),
    }
    let mut decoder = BodyDecoder::new(head.body, TrailerPolicy::Forward);
    let mut body = bytes[head.head_len..].to_vec();
    let Ok(step) = decoder.step(&mut body) else { return wrong() };
    let in_head = ResponseView { head: &head, bytes }.header(b"grpc-status");
    if step.progress != Progress::Done && !head.body.is_empty() {
        return None;
    }
    let code = in_head.map(wire::grpc::status).or_else(|| wire::grpc::status_of(decoder.trailers()));
    Some(Ok(match code {
        Some(0) if body.get(PREFIX..step.data) == Some(&SERVING[..]) => Said::Serving,
        Some(code) => Said::Code(code),
        None => Said::Nothing,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(message: &[u8], status: &str) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        bytes.extend_from_slice(format!("{:x}\r\n", PREFIX + message.len()).as_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()]);
        bytes.extend_from_slice(message);
        bytes.extend_from_slice(format!("\r\n0\r\ngrpc-status: {status}\r\n\r\n").as_bytes());
        bytes
    }

    #[test]
    fn only_serving_is_good() {
        let said = |bytes: &[u8]| verdict(bytes).map(|verdict| verdict.map_err(|error| error.kind()));
        assert_eq!(said(&answer(&SERVING, "0")), Some(Ok(Said::Serving)));
        assert_eq!(said(&answer(&[8, 2], "0")), Some(Ok(Said::Code(0))), "NOT_SERVING");
        assert_eq!(said(&answer(&[], "0")), Some(Ok(Said::Code(0))), "UNKNOWN");
        assert_eq!(said(&answer(&SERVING, "5")), Some(Ok(Said::Code(5))), "no such service");
        let only = b"HTTP/1.1 200 OK\r\ngrpc-status: 12\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(said(only), Some(Ok(Said::Code(12))), "trailers only");
        let whole = answer(&SERVING, "0");
        for end in 0..whole.len() {
            assert_eq!(said(&whole[..end]), None, "{end} bytes");
        }
        assert_eq!(said(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), Some(Ok(Said::Nothing)));
    }
}
