//! One request of HTTP/2: the exchange at one end of a pipe, the client's stream at the other.
//!
//! One task for each, which polls both until neither moves. The request was written as an HTTP/1.1 head before
//! ([`wire::h2`]); its body goes into the pipe as the exchange takes it, and only then is the client given window for
//! more. The response comes out of the pipe as HTTP/1.1, is taken apart by `wire`, and goes to the client as its window
//! allows. What waits on the way is one small buffer here and one in the pipe.
//!
//! Never a silent end: a response that the exchange cut is RST_STREAM with INTERNAL_ERROR; a client that resets its
//! stream resets the pipe, and the exchange lets go of its endpoint.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use routing::time::MonoTime;
use wire::body::{BodyDecoder, Progress, TrailerPolicy};
use wire::h1::chunked::{self, PREFIX_BYTES_MAX};
use wire::h1::decode::{self, Decoded};
use wire::h1::limits::HeadLimits;
use wire::h2::Body;
use wire::head::{BodyLength, Method, ResponseHead, ResponseView, Version};

use super::{Connection, InFlight};
use crate::downstream::h1::Client;
use crate::exchange::{self, After, Exchange};
use crate::net::pipe::{End, pipe};
use crate::net::{Buf, Class, acquire, with_room};
use crate::observe::stats::Limit;
use crate::tls::Stream;
use crate::worker::{Deadline, Worker, clock};

/// Room in front of body data that the exchange asks for: then a piece changes hands without a copy.
const HEADROOM: usize = 32;

/// Bytes of a request's body in one piece: a small buffer with the framing of a chunk.
const PIECE_BYTES: usize = Class::Small.bytes() - HEADROOM - PREFIX_BYTES_MAX - 128;

/// A piece of a response's body on its way through the framing library.
pub(super) struct Piece(Option<Buf>);

impl bytes::Buf for Piece {
    fn remaining(&self) -> usize {
        self.0.as_ref().map_or(0, Buf::len)
    }

    fn chunk(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Buf::bytes)
    }

    fn advance(&mut self, n: usize) {
        if let Some(buf) = &mut self.0 {
            buf.consume(n);
        }
    }
}

/// A request as it came, with its head in the form that the exchange reads.
pub(super) struct Incoming {
    pub(super) head: Buf,
    pub(super) body: Body,
    pub(super) method: Method,
    pub(super) data: RecvStream,
    pub(super) respond: SendResponse<Piece>,
}

/// Serves one request, from its head to the end of its stream.
pub(super) async fn serve(worker: Rc<Worker>, connection: Rc<Connection>, incoming: Incoming) {
    let in_flight = InFlight::enter(&worker, &connection);
    let (ours, theirs) = pipe();
    let conn = Stream::piped(theirs, Rc::clone(&connection.origin));
    let client = Box::new(Client::of_request(&worker, &connection.facts, conn));
    let mut bridge =
        Bridge::new(&worker, ours, incoming.body, incoming.method, incoming.data, incoming.respond);
    let mut runner = worker.take_runner();
    let joint = bridge.end.joint();
    {
        let mut exchange = pin!(runner.exchange(client, incoming.head));
        let mut is_over = false;
        let mut stall: Option<(Deadline, MonoTime)> = None;
        poll_fn(|cx| {
            joint.turn(|| {
                if !is_over && exchange.as_mut().poll(cx).is_ready() {
                    is_over = true;
                }
                let bridged = bridge.poll(cx);
                if !is_over {
                    return Poll::Pending;
                }
                if bridged.is_ready() {
                    return Poll::Ready(());
                }
                // The exchange is done and nobody else looks at the clock: what is left is for the client to take.
                let moved = bridge.take_moved() || stall.is_none();
                let (stall, due) = stall.get_or_insert_with(|| (worker.deadline(), MonoTime::ZERO));
                if moved {
                    *due = clock::now() + worker.settings().write_stall;
                }
                let is_late = clock::now() >= *due;
                if !is_late && !worker.is_stopping() {
                    stall.set(*due);
                    return stall.poll(cx);
                }
                if is_late {
                    worker.stats.hit(Limit::WriteStall);
                }
                bridge.cut(Reason::CANCEL);
                Poll::Ready(())
            })
        })
        .await;
    }
    worker.put_runner(runner);
    if bridge.was_cancelled {
        worker.stats.http2_resets_total.inc();
        if !bridge.has_answered {
            connection.cancelled();
        }
    }
    drop((bridge, in_flight));
}

/// Runs the exchange of a request: what a [`Runner`](crate::downstream::h1::Runner) does with it.
pub(in crate::downstream) async fn run(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    mut client: Box<Client>,
    head: Buf,
) {
    let settings = worker.settings();
    let client = &mut *client;
    let after = match decode::request(head.bytes(), &settings.head, &mut exchange.request) {
        Ok(Decoded::Complete) => {
            exchange.request.version = Version::H2;
            exchange::run(worker, &settings, exchange, client, head, clock::now()).await
        }
        Ok(Decoded::Partial) => refuse(worker, exchange, client, wire::error::WireError::HeadTooLong).await,
        Err(error) => refuse(worker, exchange, client, error).await,
    };
    match after {
        // The last bytes may still wait for the client's window: as long as for any client.
        After::KeepAlive { .. } | After::Close => match client.flush().await {
            Ok(()) => client.conn.shutdown_write(),
            Err(_) => client.conn.reset(),
        },
        After::Abort => client.conn.reset(),
    }
}

async fn refuse(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    client: &mut Client,
    error: wire::error::WireError,
) -> After {
    worker.stats.refused(error);
    exchange.request.clear();
    exchange::refuse(worker, exchange, client, error.status(), error.name()).await;
    After::Close
}

/// How far the request's body is.
enum Upload {
    /// Pieces come: what is left of the last one, and how many bytes of the one in the pipe are to be given back to
    /// the client's window.
    Data { rest: Bytes, in_pipe: usize },
    /// The data has ended; trailers may follow.
    Trailers,
    /// The exchange takes no more, or there is none.
    Over,
}

/// How far the response is.
enum Download {
    /// Its head comes.
    Head { respond: SendResponse<Piece> },
    /// Its body comes. Has its end been decoded?
    Body { send: SendStream<Piece>, ended: bool },
    /// It is with the framing library, or was cut.
    Over,
}

/// The client's end of a request.
struct Bridge {
    end: End,
    body: Body,
    data: RecvStream,
    upload: Upload,
    download: Download,
    /// Response bytes that are decoded and wait for the client's window.
    ready: Option<Buf>,
    /// Response bytes that are not decoded yet.
    raw: Option<Buf>,
    decoder: BodyDecoder,
    method: Method,
    /// Did anything go to the client since the last look?
    moved: bool,
    has_answered: bool,
    was_cancelled: bool,
    stats: std::sync::Arc<crate::observe::stats::WorkerStats>,
}

impl Bridge {
    fn new(
        worker: &Worker,
        end: End,
        body: Body,
        method: Method,
        data: RecvStream,
        respond: SendResponse<Piece>,
    ) -> Self {
        let upload = match body {
            Body::None => Upload::Over,
            Body::Exact(_) | Body::Chunked | Body::Tunnel => Upload::Data { rest: Bytes::new(), in_pipe: 0 },
        };
        Self {
            end,
            body,
            data,
            upload,
            download: Download::Head { respond },
            ready: None,
            raw: None,
            decoder: BodyDecoder::new(BodyLength::None, TrailerPolicy::Forward),
            method,
            moved: false,
            has_answered: false,
            was_cancelled: false,
            stats: std::sync::Arc::clone(&worker.stats),
        }
    }

    /// Ready when the client has, or will have, everything; or was told that it will not.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_cancelled(cx) {
            self.was_cancelled = true;
            self.cut(Reason::CANCEL);
            return Poll::Ready(());
        }
        self.poll_upload(cx);
        if self.end.is_reset() {
            // The exchange cannot go on; what waits here for the client's window would not make it whole.
            self.cut(Reason::INTERNAL_ERROR);
        }
        loop {
            if let Download::Over = self.download {
                return Poll::Ready(());
            }
            match self.poll_download(cx) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => return Poll::Pending,
                Err(reason) => self.cut(reason),
            }
        }
    }

    fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Did the client take its request back, or go away?
    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.download {
            Download::Head { respond } => respond.poll_reset(cx).is_ready(),
            Download::Body { send, .. } => send.poll_reset(cx).is_ready(),
            Download::Over => false,
        }
    }

    /// Ends both sides with an error.
    fn cut(&mut self, reason: Reason) {
        self.end.reset();
        match std::mem::replace(&mut self.download, Download::Over) {
            Download::Head { mut respond } => respond.send_reset(reason),
            Download::Body { mut send, .. } => send.send_reset(reason),
            Download::Over => {}
        }
        self.upload = Upload::Over;
        self.ready = None;
        self.raw = None;
    }

    // ------------------------------------------------------------ request

    /// Moves the request's body into the pipe as far as both sides let it.
    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        loop {
            if self.end.is_writing() {
                let Poll::Ready((result, _buf)) = self.end.poll_write(cx) else { return };
                if let Upload::Data { in_pipe, .. } = &mut self.upload {
                    // The client may send as much again. Fails only when the stream is gone, which shows elsewhere.
                    let _ = self.data.flow_control().release_capacity(std::mem::take(in_pipe));
                }
                if result.is_err() {
                    self.upload = Upload::Over;
                }
            }
            let next = match &mut self.upload {
                Upload::Over => return,
                Upload::Trailers => self.poll_trailers(cx),
                Upload::Data { rest, .. } if rest.is_empty() => self.poll_data(cx),
                Upload::Data { .. } => self.write_piece(),
            };
            match next {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => return self.cut(reason),
                Poll::Pending => return,
            }
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        match ready!(self.data.poll_data(cx)) {
            Some(Ok(bytes)) => {
                if let Upload::Data { rest, .. } = &mut self.upload {
                    *rest = bytes;
                }
            }
            Some(Err(error)) => {
                self.was_cancelled = true;
                return Poll::Ready(Err(error.reason().unwrap_or(Reason::CANCEL)));
            }
            None => match self.body {
                Body::Tunnel => {
                    self.end.shutdown_write();
                    self.upload = Upload::Over;
                }
                Body::Chunked => self.upload = Upload::Trailers,
                Body::None | Body::Exact(_) => self.upload = Upload::Over,
            },
        }
        Poll::Ready(Ok(()))
    }

    fn write_piece(&mut self) -> Poll<Result<(), Reason>> {
        let Upload::Data { rest, in_pipe } = &mut self.upload else { return Poll::Pending };
        let Some(mut buf) = acquire(Class::Small, HEADROOM) else {
            self.stats.hit(Limit::BuffersBytes);
            return Poll::Ready(Err(Reason::INTERNAL_ERROR));
        };
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        if self.body == Body::Chunked {
            let mut prefix = [0; PREFIX_BYTES_MAX];
            let len = chunked::chunk_prefix(piece.len(), &mut prefix);
            buf.append(&prefix[..len]);
        }
        buf.append(&piece);
        if self.body == Body::Chunked {
            buf.append(chunked::CRLF);
        }
        *in_pipe = piece.len();
        self.end.start_write(buf);
        Poll::Ready(Ok(()))
    }

    /// The end of a chunked body, with what trailers there are.
    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let trailers = match ready!(self.data.poll_trailers(cx)) {
            Ok(trailers) => trailers,
            Err(error) => {
                self.was_cancelled = true;
                return Poll::Ready(Err(error.reason().unwrap_or(Reason::CANCEL)));
            }
        };
        let Some(mut buf) = acquire(Class::Small, HEADROOM) else {
            self.stats.hit(Limit::BuffersBytes);
            return Poll::Ready(Err(Reason::INTERNAL_ERROR));
        };
        buf.append(chunked::LAST_CHUNK_WITH_TRAILERS);
        for (name, value) in trailers.iter().flatten() {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            if !wire::h2::is_trailer(name, value) {
                return Poll::Ready(Err(Reason::PROTOCOL_ERROR));
            }
            let line = [name, b": ", value, chunked::CRLF].concat();
            if line.len() + chunked::CRLF.len() > buf.tailroom() {
                return Poll::Ready(Err(Reason::ENHANCE_YOUR_CALM));
            }
            buf.append(&line);
        }
        buf.append(chunked::CRLF);
        self.upload = Upload::Over;
        self.end.start_write(buf);
        Poll::Ready(Ok(()))
    }

    // ------------------------------------------------------------ response

    /// One step of the response. `Err` = it cannot be completed.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Reason> {
        if self.ready.is_some() {
            return self.poll_send(cx);
        }
        if let Download::Body { ended: true, .. } = self.download {
            return self.finish().map(Poll::Ready);
        }
        if let Some(raw) = self.raw.take_if(|raw| !raw.is_empty()) {
            return match &self.download {
                Download::Head { .. } => self.take_head(raw, cx),
                Download::Body { .. } => self.take_body(raw).map(Poll::Ready),
                Download::Over => Ok(Poll::Ready(())),
            };
        }
        self.poll_read(cx)
    }

    /// Reads from the pipe. Waits without a buffer.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Reason> {
        if !self.end.is_reading() {
            if !self.end.is_watching() {
                self.end.start_watch();
            }
            if self.end.poll_watch(cx).is_pending() {
                return Ok(Poll::Pending);
            }
            let Some(buf) = acquire(Class::Small, 0) else {
                self.stats.hit(Limit::BuffersBytes);
                return Err(Reason::INTERNAL_ERROR);
            };
            self.end.start_read(buf);
        }
        let Poll::Ready((result, buf)) = self.end.poll_read(cx) else { return Ok(Poll::Pending) };
        match result {
            Ok(0) => self.ended(),
            Ok(_) => {
                self.raw = Some(buf);
                Ok(Poll::Ready(()))
            }
            Err(_) => Err(Reason::INTERNAL_ERROR),
        }
    }

    /// The exchange wrote its last byte.
    fn ended(&mut self) -> Result<Poll<()>, Reason> {
        let Download::Body { ended, .. } = &mut self.download else { return Err(Reason::INTERNAL_ERROR) };
        self.decoder.finish_on_close().map_err(|_| Reason::INTERNAL_ERROR)?;
        *ended = true;
        Ok(Poll::Ready(()))
    }

    /// Decodes a head: interim ones are passed on, the final one begins the response.
    fn take_head(&mut self, mut raw: Buf, cx: &mut Context<'_>) -> Result<Poll<()>, Reason> {
        let mut head = ResponseHead::default();
        match decode::response(raw.bytes(), &HeadLimits::of_own_heads(), self.method, &mut head) {
            Ok(Decoded::Complete) => {}
            Ok(Decoded::Partial) => return self.read_on(raw, cx),
            Err(_) => return Err(Reason::INTERNAL_ERROR),
        }
        let is_tunnel = head.status == 101 && self.body == Body::Tunnel;
        let response = response(&ResponseView { head: &head, bytes: raw.bytes() }, is_tunnel)
            .ok_or(Reason::INTERNAL_ERROR)?;
        let head_len = head.head_len;
        let Download::Head { mut respond } = std::mem::replace(&mut self.download, Download::Over) else {
            return Err(Reason::INTERNAL_ERROR);
        };
        raw.consume(head_len);
        self.moved = true;
        if head.status < 200 && !is_tunnel {
            // A client that is gone is seen by who asks for its reset.
            let _ = respond.send_informational(response);
            self.download = Download::Head { respond };
            self.raw = Some(raw);
            return Ok(Poll::Ready(()));
        }
        let length = if is_tunnel { BodyLength::UntilClose } else { head.body };
        let is_whole = length.is_empty();
        let Ok(send) = respond.send_response(response, is_whole) else { return Ok(Poll::Ready(())) };
        self.has_answered = true;
        if !is_whole {
            self.decoder.reset(length);
            self.download = Download::Body { send, ended: false };
            self.raw = Some(raw);
        }
        Ok(Poll::Ready(()))
    }

    /// The head is longer than what was read of it.
    fn read_on(&mut self, raw: Buf, cx: &mut Context<'_>) -> Result<Poll<()>, Reason> {
        let buf = with_room(Some(raw)).ok_or(Reason::INTERNAL_ERROR)?;
        self.end.start_read(buf);
        self.poll_read(cx)
    }

    fn take_body(&mut self, mut raw: Buf) -> Result<(), Reason> {
        let Download::Body { ended, .. } = &mut self.download else { return Err(Reason::INTERNAL_ERROR) };
        let step = self.decoder.step(raw.bytes_mut()).map_err(|_| Reason::INTERNAL_ERROR)?;
        *ended = step.progress == Progress::Done;
        raw.truncate(step.data);
        self.ready = Some(raw).filter(|ready| !ready.is_empty());
        Ok(())
    }

    /// Gives decoded bytes to the framing library, as many as the client has window for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Reason> {
        let (Some(mut ready), Download::Body { send, ended }) = (self.ready.take(), &mut self.download)
        else {
            return Ok(Poll::Ready(()));
        };
        send.reserve_capacity(ready.len());
        let mut capacity = send.capacity();
        if capacity == 0 {
            match send.poll_capacity(cx) {
                Poll::Pending => {
                    self.ready = Some(ready);
                    return Ok(Poll::Pending);
                }
                Poll::Ready(Some(Ok(more))) => capacity = more,
                // Its stream is gone, which shows as a reset.
                Poll::Ready(Some(Err(_)) | None) => return Err(Reason::CANCEL),
            }
        }
        let piece = if capacity >= ready.len() {
            ready
        } else {
            let mut part = acquire(Class::Small, 0).ok_or(Reason::INTERNAL_ERROR)?;
            let n = part.append(&ready.bytes()[..capacity]);
            ready.consume(n);
            self.ready = Some(ready);
            part
        };
        self.moved = true;
        let is_last = *ended && self.ready.is_none() && self.decoder.trailers().is_empty();
        send.send_data(Piece(Some(piece)), is_last).map_err(|_| Reason::CANCEL)?;
        if is_last {
            self.download = Download::Over;
        }
        Ok(Poll::Ready(()))
    }

    /// Behind the last byte of the body.
    fn finish(&mut self) -> Result<(), Reason> {
        let Download::Body { mut send, .. } = std::mem::replace(&mut self.download, Download::Over) else {
            return Ok(());
        };
        let lines = self.decoder.trailers();
        if lines.is_empty() {
            return send.send_data(Piece(None), true).map_err(|_| Reason::CANCEL);
        }
        let mut trailers = HeaderMap::new();
        for (name, value) in wire::h2::trailer_fields(lines) {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                trailers.append(name, value);
            }
        }
        send.send_trailers(trailers).map_err(|_| Reason::CANCEL)
    }
}

/// The head in the library's form. `None` when it cannot be: SECURITY S11, the other way.
fn response(view: &ResponseView<'_>, is_tunnel: bool) -> Option<Response<()>> {
    let mut response = Response::new(());
    // RFC 8441 §5: what HTTP/1.1 calls switching is success here.
    *response.status_mut() =
        if is_tunnel { StatusCode::OK } else { StatusCode::from_u16(view.head.status).ok()? };
    let headers = response.headers_mut();
    headers.try_reserve(view.head.headers.len()).ok()?;
    for (name, value) in wire::h2::response_fields(view) {
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(response)
}
