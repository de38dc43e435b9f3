//! One request: what the exchange writes into the pipe becomes a stream's frames, and what comes back HTTP/1.1 in the pipe.
//!
//! One task, both directions at once. The endpoint gets window for what the exchange has read, and no sooner; the exchange
//! writes what the endpoint has window for: back-pressure both ways. A stream that was refused (REFUSED_STREAM, or above
//! the last that a GOAWAY names) was not processed (RFC 9113 §8.7): the pipe is refused, which tells the exchange that
//! nothing was sent. Any other failure resets the pipe. An exchange that lets go resets the stream (CANCEL).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Response, StatusCode};
use wire::body::{BodyDecoder, Progress, TrailerPolicy};
use wire::h1::chunked::{self, PREFIX_BYTES_MAX};
use wire::h1::decode::{self, Decoded};
use wire::h1::limits::HeadLimits;
use wire::head::{BodyLength, Method, RequestHead, RequestView};

use super::{Carries, convert, tunnel};
use crate::net::conn::Done;
use crate::net::pipe::End;
use crate::net::{Buf, Class, acquire, with_room};
use crate::upstream::probe;
use crate::worker::{Deadline, Worker, clock};

/// Bytes of a response's body in one piece, with room for the framing of a chunk.
pub(super) const PIECE_BYTES: usize = 8 * 1024;
const _: () = assert!(PIECE_BYTES + PREFIX_BYTES_MAX + chunked::CRLF.len() <= Class::Small.bytes());

/// How long the end of a stream is waited for whose response is complete by its length.
const LINGER: Duration = Duration::from_secs(1);

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// As it should.
    Well,
    /// The exchange is gone, or wrote what is no request.
    Gone,
    /// The endpoint did not process the request, and says so.
    Refused,
    /// The endpoint failed it.
    Failed,
}

impl From<h2::Error> for Ended {
    fn from(error: h2::Error) -> Self {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        // The library gives streams at or below the last that a GOAWAY names their own end.
        if error.is_remote() && (refused || error.is_go_away()) { Self::Refused } else { Self::Failed }
    }
}

/// The pipe's end, of which one direction reads and the other writes.
pub(super) struct Pipe {
    pub(super) end: RefCell<End>,
    /// Has the exchange all that it waits for, although the stream has not ended yet?
    delivered: Cell<bool>,
}

impl Pipe {
    /// Until there is something to read, or the end. Holds no buffer.
    pub(super) async fn readable(&self) {
        self.end.borrow_mut().start_watch();
        // Neither fails: what it was shows when it is read.
        let _ = poll_fn(|cx| self.end.borrow_mut().poll_watch(cx)).await;
    }

    pub(super) async fn read(&self, buf: Buf) -> Done<usize> {
        self.end.borrow_mut().start_read(buf);
        poll_fn(|cx| self.end.borrow_mut().poll_read(cx)).await
    }

    async fn write(&self, buf: Buf) -> Result<(), Ended> {
        self.end.borrow_mut().start_write(buf);
        let (result, _buf) = poll_fn(|cx| self.end.borrow_mut().poll_write(cx)).await;
        result.map_err(|_| Ended::Gone)
    }

    pub(super) async fn write_bytes(&self, mut bytes: &[u8]) -> Result<(), Ended> {
        while !bytes.is_empty() {
            // Heads are longer at times; a piece of a body never is, with its framing.
            let class = if bytes.len() <= Class::Small.bytes() { Class::Small } else { Class::Bulk };
            let mut buf = acquire(class, 0).ok_or(Ended::Failed)?;
            let n = buf.append(bytes);
            bytes = &bytes[n..];
            self.write(buf).await?;
        }
        Ok(())
    }
}

/// What is left of the request behind its head.
struct Rest {
    decoder: BodyDecoder,
    buf: Buf,
}

/// How a request is carried.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) is_secure: bool,
    pub(super) carries: Carries,
}

/// Carries one request from its head to the end of its response.
pub(super) async fn serve(
    worker: &Worker,
    deadline: &Deadline,
    end: End,
    send: SendRequest<Bytes>,
    how: How,
) {
    let pipe = Pipe { end: RefCell::new(end), delivered: Cell::new(false) };
    let ended = carry(worker, deadline, &pipe, send, how).await;
    let end = pipe.end.borrow();
    match ended {
        Ended::Well => end.shutdown_write(),
        Ended::Refused => end.refuse(),
        Ended::Gone | Ended::Failed => end.reset(),
    }
}

async fn carry(
    worker: &Worker,
    deadline: &Deadline,
    pipe: &Pipe,
    send: SendRequest<Bytes>,
    how: How,
) -> Ended {
    let (head, mut rest) = match head(pipe).await {
        Ok(read) => read,
        Err(ended) => return ended,
    };
    let view = RequestView { head: &head, bytes: rest.buf.bytes() };
    let key = wire::h2::websocket_key(&view).filter(|_| how.carries == Carries::Tunnel);
    let accept = key.map(tunnel::accept);
    let request = match &accept {
        Some(_) => convert::connect(&view, how.is_secure),
        None => convert::request(&view, how.is_secure),
    };
    let Some(request) = request else { return Ended::Failed };
    rest.buf.consume(head.head_len);
    let Ok(mut send) = send.ready().await else { return Ended::Refused };
    let ends = head.body.is_empty() && accept.is_none();
    let (response, stream) = match send.send_request(request, ends) {
        Ok(opened) => opened,
        // Not a frame of it was written: the connection takes no more streams.
        Err(_closing) => return Ended::Refused,
    };
    drop(send);
    if let Some(accept) = accept {
        return Box::pin(tunnel::carry(pipe, rest.buf, &accept, response, stream)).await;
    }
    let mut up = pin!(upload(pipe, rest, stream, ends));
    let mut down = pin!(download(pipe, response, head.method == Method::Head));
    let mut is_up = true;
    let ended = poll_fn(|cx| {
        if is_up && let Poll::Ready(ended) = up.as_mut().poll(cx) {
            is_up = false;
            if ended == Ended::Gone {
                return Poll::Ready(Ended::Gone);
            }
        }
        down.as_mut().poll(cx)
    })
    .await;
    if ended == Ended::Gone && pipe.delivered.get() {
        // All that is missing is END_STREAM: to cancel what is complete would look like an attack.
        let due = clock::now() + LINGER;
        return probe::within(worker, deadline, due, down).await.unwrap_or(ended);
    }
    ended
}

/// Reads the head that the exchange wrote.
async fn head(pipe: &Pipe) -> Result<(RequestHead, Rest), Ended> {
    let limits = HeadLimits::of_own_heads();
    let mut head = RequestHead::default();
    let mut held = None;
    loop {
        let (result, read) = pipe.read(with_room(held).ok_or(Ended::Gone)?).await;
        if !result.is_ok_and(|n| n > 0) {
            return Err(Ended::Gone);
        }
        match decode::request(read.bytes(), &limits, &mut head).map_err(|_| Ended::Failed)? {
            Decoded::Complete => {
                let decoder = BodyDecoder::new(head.body, TrailerPolicy::Forward);
                return Ok((head, Rest { decoder, buf: read }));
            }
            Decoded::Partial => held = Some(read),
        }
    }
}

/// Sends the body, and then waits for the exchange to let go.
async fn upload(pipe: &Pipe, mut rest: Rest, mut stream: SendStream<Bytes>, ends: bool) -> Ended {
    let mut done = ends;
    while !done {
        let Ok(step) = rest.decoder.step(rest.buf.bytes_mut()) else { return Ended::Gone };
        if step.data > 0 && send_data(&mut stream, &rest.buf.bytes()[..step.data]).await.is_err() {
            // The response says why, or is the failure itself; the exchange may go on writing into a pipe that drains.
            return drained(pipe, rest.buf).await;
        }
        rest.buf.consume(step.consumed);
        done = step.progress == Progress::Done;
        if !done {
            let Some(buf) = acquire(Class::Small, 0) else { return Ended::Failed };
            match pipe.read(buf).await {
                (Ok(n), buf) if n > 0 => rest.buf = buf,
                (Ok(_) | Err(_), _) => return Ended::Gone,
            }
        }
        if done {
            let lines = rest.decoder.trailers();
            let _ = match lines.is_empty() {
                true => stream.send_data(Bytes::new(), true),
                false => stream.send_trailers(convert::trailer_map(lines)),
            };
        }
    }
    drop(stream);
    drained(pipe, rest.buf).await
}

/// Reads on until the exchange lets go: its end is what cancels the stream.
async fn drained(pipe: &Pipe, mut buf: Buf) -> Ended {
    loop {
        buf.reset(0);
        match pipe.read(buf).await {
            (Ok(n), read) if n > 0 => buf = read,
            (Ok(_) | Err(_), _) => return Ended::Gone,
        }
    }
}

/// Sends bytes as the endpoint gives window for them.
pub(super) async fn send_data(stream: &mut SendStream<Bytes>, mut bytes: &[u8]) -> Result<(), Ended> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = poll_fn(|cx| match stream.capacity() {
            0 => stream.poll_capacity(cx),
            n => Poll::Ready(Some(Ok(n))),
        });
        let n = match capacity.await {
            Some(Ok(n)) => n.min(bytes.len()),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Ended::Failed),
        };
        stream.send_data(Bytes::copy_from_slice(&bytes[..n]), false)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

pub(super) enum Head {
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

/// The next head of a response. The library drops interim ones that nobody asks for before the final one.
pub(super) async fn next_head(response: &mut ResponseFuture) -> Result<Head, h2::Error> {
    poll_fn(|cx| match response.poll_informational(cx) {
        Poll::Ready(Some(interim)) => Poll::Ready(interim.map(Head::Interim)),
        Poll::Ready(None) | Poll::Pending => pin!(&mut *response).poll(cx).map_ok(Head::Final),
    })
    .await
}

/// Writes the response into the pipe.
async fn download(pipe: &Pipe, mut response: ResponseFuture, is_head: bool) -> Ended {
    let mut out = Vec::new();
    let response = loop {
        match next_head(&mut response).await {
            Ok(Head::Final(response)) => break response,
            // There is no switching of protocols in HTTP/2 (RFC 9113 §8.6).
            Ok(Head::Interim(interim)) if interim.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Ended::Failed;
            }
            Ok(Head::Interim(interim)) => {
                out.clear();
                if convert::response(&interim, false, is_head, &mut out).is_err() {
                    return Ended::Failed;
                }
                if let Err(ended) = pipe.write_bytes(&out).await {
                    return ended;
                }
            }
            Err(error) => return error.into(),
        }
    };
    ordinary(pipe, response, is_head).await
}

/// Writes a final response into the pipe, and its body.
pub(super) async fn ordinary(pipe: &Pipe, response: Response<RecvStream>, is_head: bool) -> Ended {
    let mut out = Vec::with_capacity(1024);
    let ends = response.body().is_end_stream();
    let Ok(length) = convert::response(&response, ends, is_head, &mut out) else { return Ended::Failed };
    if let Err(ended) = pipe.write_bytes(&out).await {
        return ended;
    }
    match body(pipe, response.into_body(), length).await {
        Ok(()) => Ended::Well,
        // It was processed: the response has begun.
        Err(Ended::Refused) => Ended::Failed,
        Err(ended) => ended,
    }
}

async fn body(pipe: &Pipe, mut data: RecvStream, length: BodyLength) -> Result<(), Ended> {
    let (mut out, mut prefix) = (Vec::new(), [0; PREFIX_BYTES_MAX]);
    let is_chunked = length == BodyLength::Chunked;
    let mut came = 0;
    while let Some(piece) = poll_fn(|cx| data.poll_data(cx)).await {
        let piece = piece?;
        for part in piece.chunks(PIECE_BYTES) {
            if is_chunked {
                out.clear();
                let n = chunked::chunk_prefix(part.len(), &mut prefix);
                out.extend_from_slice(&prefix[..n]);
                out.extend_from_slice(part);
                out.extend_from_slice(chunked::CRLF);
                pipe.write_bytes(&out).await?;
            } else {
                pipe.write_bytes(part).await?;
            }
        }
        came += piece.len() as u64;
        pipe.delivered.set(length == BodyLength::Exact(came));
        // Only now may as much more come.
        data.flow_control().release_capacity(piece.len())?;
    }
    let trailers = poll_fn(|cx| data.poll_trailers(cx)).await?;
    if is_chunked {
        out.clear();
        wire::h2::last_chunk(&mut out, trailers.iter().flat_map(convert::bytes));
        pipe.write_bytes(&out).await?;
    }
    Ok(())
}
