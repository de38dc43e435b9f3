//! Our own answers: the only place where an error becomes bytes.

use std::io;

use routing::model::GrpcCode;
use routing::retry::FailureKind;
use smallvec::SmallVec;
use wire::grpc::Content;
use wire::h1::encode::{SimpleResponse, simple_response};
use wire::head::{Persistence, RequestView};

use super::attempt::{Blame, Failed};
use crate::downstream::h1::Client;
use crate::exchange::grpc;
use crate::exchange::relay::copy_of;
use crate::worker::clock;

/// An answer of the gateway itself.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// Why, as one word: in the body, in `x-ringway-reason` and in the access log.
    pub reason: &'static str,
    /// Where to go instead.
    pub location: Option<&'a [u8]>,
    /// The realm of a challenge for name and password, ready to stand between quotes (RFC 7617 §2).
    pub realm: Option<&'a str>,
    /// Seconds after which to try again; 0 says nothing.
    pub retry_after: u8,
    /// May the connection carry another request?
    pub persistence: Persistence,
    /// The status that a client of gRPC gets instead; `None` = it is none, or what gRPC calls `status`.
    pub grpc: Option<GrpcCode>,
    /// And what it speaks, where that is gRPC-Web.
    pub web: Option<Content>,
    /// Type and content of the body, when it is not one line for people; no type = none is sent.
    pub content: Option<(&'a str, &'a [u8])>,
}

impl Default for Reply<'_> {
    fn default() -> Self {
        Self {
            status: 500,
            reason: "",
            location: None,
            realm: None,
            retry_after: 0,
            persistence: Persistence::KeepAlive,
            grpc: None,
            web: None,
            content: None,
        }
    }
}

impl Reply<'_> {
    /// An answer of this status for this reason.
    #[must_use]
    pub fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason, ..Self::default() }
    }

    /// 503 with Retry-After: the gateway, or what is behind it, has no room now.
    #[must_use]
    pub fn shed(reason: &'static str) -> Self {
        Self { retry_after: 1, ..Self::new(503, reason) }
    }
}

/// The answer when nothing is tried any more.
pub(super) fn given_up(failed: &Failed) -> Reply<'static> {
    match (failed.blame, failed.failure.kind) {
        (Blame::Gateway, _) => Reply::shed(failed.reason),
        (Blame::Endpoint | Blame::Nobody | Blame::Left, FailureKind::Timeout) => {
            Reply::new(504, failed.reason)
        }
        (Blame::Endpoint | Blame::Nobody | Blame::Left, FailureKind::Status(status)) => {
            Reply::new(status, failed.reason)
        }
        (
            Blame::Endpoint | Blame::Nobody | Blame::Left,
            FailureKind::Connect | FailureKind::Closed | FailureKind::Malformed,
        ) => Reply::new(502, failed.reason),
        (Blame::Endpoint | Blame::Nobody | Blame::Left, FailureKind::Grpc(code)) => {
            Reply { grpc: Some(code), ..Reply::new(code.http_status(), failed.reason) }
        }
    }
}

/// Sends it, with `more` fields. Returns how many bytes.
///
/// To a client of gRPC (`reply.grpc`) an error is a response that has trailers only: status 200, and what went wrong in `grpc-status`
/// and `grpc-message`. The log and the metrics keep the status that others would have seen.
///
/// # Errors
/// When the client is gone, or no buffer memory is left.
pub async fn send(
    client: &mut Client,
    view: &RequestView<'_>,
    reply: &Reply<'_>,
    more: &[(&str, &[u8])],
) -> io::Result<u64> {
    let head = view.head;
    let date = httpdate::fmt_http_date(clock::wall());
    let mut body = [0; 128];
    let body_len = text(reply, &mut body);
    let (mut retry_after, mut code) = (itoa::Buffer::new(), itoa::Buffer::new());
    let challenge = reply.realm.map(|realm| format!("Basic realm=\"{realm}\""));
    let (content_type, content) = reply.content.unwrap_or(("text/plain; charset=utf-8", &body[..body_len]));
    let message = body[..body_len].trim_ascii_end();
    let frame = reply.web.zip(reply.grpc).map(|(web, code)| (web, grpc::frame(web, code, message)));
    let (content_type, content) = match (reply.grpc, &frame) {
        (_, Some((web, frame))) => (web.media_type(), &frame[..]),
        (Some(_), None) => (Content::Grpc.media_type(), &[][..]),
        (None, None) => (content_type, content),
    };
    let mut headers: SmallVec<[(&str, &[u8]); 10]> = SmallVec::new();
    let mut add = |name, value| headers.push((name, value));
    if !content_type.is_empty() {
        add("Content-Type", content_type.as_bytes());
    }
    if let (Some(grpc), None) = (reply.grpc, &frame) {
        // One of our own words: nothing in it is to be escaped.
        add("grpc-status", code.format(grpc.number()).as_bytes());
        add("grpc-message", message);
    }
    add("x-ringway-reason", reply.reason.as_bytes());
    if reply.retry_after > 0 {
        add("Retry-After", retry_after.format(reply.retry_after).as_bytes());
    }
    if let Some(location) = reply.location {
        add("Location", location);
    }
    if let Some(challenge) = &challenge {
        headers.push(("WWW-Authenticate", challenge.as_bytes()));
    }
    headers.extend_from_slice(more);
    let mut out = Vec::with_capacity(512);
    simple_response(
        &mut out,
        &SimpleResponse {
            status: if reply.grpc.is_some() { 200 } else { reply.status },
            method: head.method,
            version: head.version,
            persistence: reply.persistence,
            date: date.as_bytes(),
            headers: &headers,
            body: content,
        },
    );
    client.flush().await?;
    let buf = copy_of(&out).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    client.conn.start_write(buf);
    Ok(out.len() as u64)
}

/// `503 Service Unavailable: reason`, for people.
fn text(reply: &Reply<'_>, out: &mut [u8; 128]) -> usize {
    use std::io::Write as _;
    let mut rest = out.as_mut_slice();
    let phrase = wire::h1::encode::reason(reply.status);
    let _ = writeln!(rest, "{} {}: {}", reply.status, phrase, reply.reason);
    128 - rest.len()
}

/// Tells a client that waits for it to send its body (RFC 9110 §10.1.1).
///
/// # Errors
/// When the client is gone.
pub(super) async fn interim_continue(client: &mut Client) -> io::Result<()> {
    client.flush().await?;
    let buf =
        copy_of(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    client.conn.start_write(buf);
    Ok(())
}

/// What is left to do for a connection when there is not even a buffer to read its request into.
///
/// # Errors
/// When the client is gone.
pub async fn without_buffer(client: &mut Client) -> io::Result<()> {
    client.flush().await?;
    client.conn.shutdown_write();
    Ok(())
}
