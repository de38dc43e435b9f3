//! A WebSocket on a stream (RFC 8441): what the exchange wrote as an opening handshake of HTTP/1.1 becomes an extended
//! CONNECT, a response that agrees becomes the 101 that the exchange waits for, and then bytes go both ways as they are.
//!
//! Each side may close its half, as END_STREAM says it there and the pipe's end here. A stream that is reset resets the
//! pipe, and an exchange that lets go of its end resets the stream (CANCEL). A response that does not agree is an ordinary one.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};

use super::convert;
use super::stream::{Ended, Head, PIECE_BYTES, Pipe, ordinary, send_data};
use crate::net::{Buf, Class, acquire};

/// What a server of WebSocket appends to the key (RFC 6455 §4.2.2).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What proves to a client that its opening handshake was understood. SHA-1 because the RFC says so; no secret depends on it.
pub(super) fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

/// Carries a tunnel from its CONNECT, which was sent, to the end of both directions.
pub(super) async fn carry(
    pipe: &Pipe,
    behind: Buf,
    accept: &str,
    response: ResponseFuture,
    stream: SendStream<Bytes>,
) -> Ended {
    let agreed = Cell::new(false);
    let mut up = pin!(upload(pipe, behind, stream));
    let mut down = pin!(download(pipe, accept, response, &agreed));
    let (mut is_up, mut is_down) = (true, true);
    poll_fn(|cx| {
        if is_up && let Poll::Ready(ended) = up.as_mut().poll(cx) {
            is_up = false;
            if ended != Ended::Well {
                return Poll::Ready(ended);
            }
        }
        if is_down && let Poll::Ready(ended) = down.as_mut().poll(cx) {
            is_down = false;
            if ended != Ended::Well || !agreed.get() {
                return Poll::Ready(ended);
            }
            pipe.end.borrow().shutdown_write();
        }
        if is_up || is_down { Poll::Pending } else { Poll::Ready(Ended::Well) }
    })
    .await
}

/// Sends what the exchange writes, until it has written its last.
async fn upload(pipe: &Pipe, mut buf: Buf, mut stream: SendStream<Bytes>) -> Ended {
    loop {
        // Where nothing is taken any more the other direction has ended, or will say why.
        if send_data(&mut stream, buf.bytes()).await.is_err() {
            return Ended::Well;
        }
        drop(buf);
        pipe.readable().await;
        let Some(free) = acquire(Class::Small, 0) else { return Ended::Failed };
        buf = match pipe.read(free).await {
            (Ok(0), _) => {
                let _ = stream.send_data(Bytes::new(), true);
                return Ended::Well;
            }
            (Ok(_), read) => read,
            (Err(_), _) => return Ended::Gone,
        };
    }
}

/// Writes the response into the pipe, and behind one that agrees what follows it.
async fn download(pipe: &Pipe, accept: &str, mut response: ResponseFuture, agreed: &Cell<bool>) -> Ended {
    let mut out = Vec::with_capacity(1024);
    let response = loop {
        match super::stream::next_head(&mut response).await {
            Ok(Head::Final(response)) => break response,
            // None of them means anything to an opening handshake.
            Ok(Head::Interim(_)) => {}
            Err(error) => return error.into(),
        }
    };
    if !response.status().is_success() {
        return ordinary(pipe, response, false).await;
    }
    wire::h2::switching(&mut out, accept.as_bytes(), convert::bytes(response.headers()));
    if let Err(ended) = pipe.write_bytes(&out).await {
        return ended;
    }
    agreed.set(true);
    match raw(pipe, response.into_body()).await {
        Ok(()) => Ended::Well,
        // It was processed: the response has begun.
        Err(Ended::Refused) => Ended::Failed,
        Err(ended) => ended,
    }
}

async fn raw(pipe: &Pipe, mut data: RecvStream) -> Result<(), Ended> {
    while let Some(piece) = poll_fn(|cx| data.poll_data(cx)).await {
        let piece = piece?;
        for part in piece.chunks(PIECE_BYTES) {
            pipe.write_bytes(part).await?;
        }
        // Only now may as much more come.
        data.flow_control().release_capacity(piece.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    /// RFC 6455 §1.3.
    #[test]
    fn a_key_is_answered_as_the_rfc_answers_it() {
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
