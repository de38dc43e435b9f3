//! One direction of a body: decode as it comes, frame anew, hand on. Back-pressure by construction.
//!
//! A [`Pump`] holds at most one buffer that waits for its destination, and asks for more only when it holds none.
//! Pure but for the buffers; the caller moves bytes between pumps and connections.

use std::collections::VecDeque;

use wire::body::{BodyDecoder, Progress};
use wire::error::WireError;
use wire::grpc::web::{self, Form, Messages};
use wire::h1::chunked;
use wire::head::BodyLength;

use super::gzip::{Gzip, Piece};
use crate::net::{Buf, Class, acquire};

/// Room in front of body data, where the size of a chunk is put.
pub(super) const BODY_HEADROOM: usize = 32;

/// A body of which so many bytes came with its head is read into large buffers from the first read on.
const STREAMS_FROM: u64 = 8 * 1024;

/// Room in the destination's socket from which on large buffers are read, in bytes of the kernel's own count.
///
/// The buffer that is on its way and the next one both fit then, with the kernel's overhead on top. So what a peer that
/// has stopped reading leaves in our hands are small buffers, two at most (SECURITY S20: 64 KiB for a stream); what was
/// read into large ones lies in its socket. Only where the kernel takes socket memory away from all connections at once
/// (`net.ipv4.tcp_mem`) may large ones be left, within `limits.buffers_bytes_max`.
pub(super) const BULK_ROOM: usize = 2 * Class::Bulk.bytes() + Class::Bulk.bytes() / 2;

/// Kept bytes that are sent again in one piece: less than a large buffer holds with its framing.
const RESEND_BYTES: usize = 96 * 1024;

/// Bytes that become one piece of base64: whole groups, and a small buffer holds what they become.
const TEXT_PIECE_BYTES: usize = 9 * 1024;

/// Ends a line of a trailer section, and the section.
const CRLF: &[u8] = b"\r\n";

/// Why a pump cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PumpError {
    /// The source sent something that is not the body it announced.
    Wire(WireError),
    /// No buffer memory is left.
    Buffers,
}

impl From<WireError> for PumpError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// What becomes of data between its source's framing and its destination's.
#[derive(Default)]
enum Coder {
    /// It stays as it is.
    #[default]
    None,
    /// It is compressed.
    Gzip(Box<Gzip>),
    /// It becomes a body of gRPC-Web, whose messages have come so far.
    Web(Form, Messages),
}

/// One direction of a body.
pub(super) struct Pump {
    decoder: BodyDecoder,
    framing: BodyLength,
    /// Framed, waiting for the destination.
    ready: Option<Buf>,
    /// Come behind `ready`: what one piece became that was compressed. Bounded by the buffer that it came in.
    more: VecDeque<Buf>,
    /// What becomes of what is taken in.
    coder: Coder,
    /// Takes base64 off what is taken in.
    base64: Option<web::Decoder>,
    /// Comes behind `ready`: trailers that did not fit.
    behind: Option<Buf>,
    /// Has the end of the body been framed?
    ended: bool,
    /// Body bytes taken in, without framing.
    taken: u64,
    /// What the next read is likely to fill.
    class: Class,
    /// Was the last buffer handed out by [`Pump::read_buffer`], so that what came into it says something of the next?
    asked: bool,
    /// Has anything been handed out to the present destination?
    given: bool,
    /// From where on the kept bytes are still to be handed out again.
    resend: Option<usize>,
}

impl Pump {
    /// A pump that carries nothing.
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            decoder: BodyDecoder::new(BodyLength::None, wire::body::TrailerPolicy::Forward),
            framing: BodyLength::None,
            ready: None,
            more: VecDeque::new(),
            coder: Coder::None,
            base64: None,
            behind: None,
            ended: true,
            taken: 0,
            class: Class::Small,
            asked: false,
            given: false,
            resend: None,
        }
    }

    /// Starts over with a body of `source` length that is framed as `framing` on the other side.
    pub(super) fn reset(&mut self, source: BodyLength, framing: BodyLength) {
        self.decoder.reset(source);
        self.framing = framing;
        self.ready = None;
        self.more.clear();
        self.coder = Coder::None;
        self.base64 = None;
        self.behind = None;
        self.taken = 0;
        self.class = Class::Small;
        self.asked = false;
        self.given = false;
        self.resend = None;
        self.ended = source.is_empty();
    }

    /// Compresses what is taken in from now on. The framing must be chunks.
    pub(super) fn compress(&mut self, gzip: Box<Gzip>) {
        debug_assert!(self.framing == BodyLength::Chunked, "nobody knows how long it becomes");
        self.coder = Coder::Gzip(gzip);
    }

    /// Writes what is taken in as gRPC-Web from now on. The framing must be chunks.
    pub(super) fn speak_web(&mut self, form: Form) {
        debug_assert!(self.framing == BodyLength::Chunked, "it becomes longer by its trailers");
        self.coder = Coder::Web(form, Messages::default());
    }

    /// What is taken in is in base64, and goes on without. The framing must be chunks.
    pub(super) fn take_base64(&mut self) {
        debug_assert!(self.framing == BodyLength::Chunked, "it becomes shorter");
        self.base64 = Some(web::Decoder::default());
    }

    /// How it is framed for the destination.
    #[must_use]
    pub(super) fn framing(&self) -> BodyLength {
        self.framing
    }

    /// Is more of the body to come from the source?
    #[must_use]
    pub(super) fn wants_more(&self) -> bool {
        !self.ended
    }

    /// The trailers that came behind the body, as lines.
    #[must_use]
    pub(super) fn trailers(&self) -> &[u8] {
        self.decoder.trailers()
    }

    /// Should a read be started? Not while something waits: that is the back-pressure.
    #[must_use]
    pub(super) fn wants_read(&self) -> bool {
        !self.ended && self.ready.is_none() && self.more.is_empty() && self.resend.is_none()
    }

    /// Has all of the body been handed out?
    #[must_use]
    pub(super) fn is_finished(&self) -> bool {
        let waits = self.ready.is_some() || !self.more.is_empty() || self.behind.is_some();
        self.ended && !waits && self.resend.is_none()
    }

    /// Has anything been handed out, so that another destination would miss it?
    #[must_use]
    pub(super) fn has_given(&self) -> bool {
        self.given
    }

    /// Body bytes taken in.
    #[must_use]
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The source is one that is silent most of the time (a tunnel): its first read gets the smallest buffer.
    pub(super) fn expect_little(&mut self) {
        self.class = Class::Head;
    }

    /// A buffer for the next read of this body: large while it streams, small when little comes at a time, because a
    /// source that is silent holds it for as long, and never larger than `largest`. `room` tells what the destination's socket takes at once, in bytes; it
    /// is asked only before a large read. `None` when the bound on buffer memory is reached.
    #[must_use]
    pub(super) fn read_buffer(&mut self, largest: Class, room: impl FnOnce() -> usize) -> Option<Buf> {
        self.asked = true;
        let class = match self.class {
            Class::Bulk if largest != Class::Bulk || room() < BULK_ROOM => Class::Small,
            class @ (Class::Head | Class::Small | Class::Bulk) => class,
        };
        acquire(class, BODY_HEADROOM).or_else(|| acquire(Class::Head, BODY_HEADROOM))
    }

    /// Is it likely to fill a large buffer next?
    #[must_use]
    pub(super) fn streams(&self) -> bool {
        self.class == Class::Bulk && !self.ended
    }

    /// Bytes that may pass unseen: all but the last of a body of known length that is framed as it was and stays as it is,
    /// while nothing of it waits here.
    #[must_use]
    pub(super) fn unseen(&self) -> u64 {
        let as_it_is = matches!(self.coder, Coder::None) && self.base64.is_none();
        if !as_it_is || !self.wants_read() || self.behind.is_some() {
            return 0;
        }
        match self.framing {
            BodyLength::Exact(_) => self.decoder.known_rest().saturating_sub(1),
            BodyLength::None | BodyLength::Chunked | BodyLength::UntilClose => 0,
        }
    }

    /// So many bytes have passed unseen.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.decoder.skip(bytes as u64);
        self.taken += bytes as u64;
        self.given = true;
    }

    /// Learns from what came how large the next read will be.
    fn learn(&mut self, buf: &Buf) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        let (n, filled) = (buf.len(), buf.readroom() == 0);
        self.class = match buf.class() {
            Class::Head if filled => Class::Small,
            Class::Small if filled => Class::Bulk,
            // Less than a small buffer holds: the next one will do with that.
            Class::Head | Class::Small | Class::Bulk if n < Class::Head.bytes() / 2 => Class::Head,
            Class::Head | Class::Small => Class::Small,
            Class::Bulk if n < Class::Small.bytes() / 2 => Class::Small,
            Class::Bulk => Class::Bulk,
        };
    }

    /// Takes in what came from the source. `data` sees the decoded bytes (for a replay). Returns what lies behind
    /// the end of the body.
    ///
    /// # Errors
    /// [`PumpError`]; nothing of `buf` is handed on then.
    pub(super) fn take(&mut self, mut buf: Buf, data: impl FnOnce(&[u8])) -> Result<Option<Buf>, PumpError> {
        let first = !self.asked;
        self.learn(&buf);
        let step = self.decoder.step(buf.bytes_mut())?;
        let rest = match step.consumed < buf.len() {
            false => None,
            true => Some(copy_of(&buf.bytes()[step.consumed..])?),
        };
        buf.truncate(step.data);
        self.taken += step.data as u64;
        if first && self.taken >= STREAMS_FROM {
            self.class = Class::Bulk;
        }
        let done = step.progress == Progress::Done;
        if let Some(base64) = &mut self.base64 {
            let len = base64.decode(buf.bytes_mut())?;
            buf.truncate(len);
            if done {
                base64.finish()?;
            }
        }
        data(buf.bytes());
        self.code_and_frame(buf, done)?;
        Ok(rest)
    }

    /// Starts over towards another destination. What was handed out comes again, from the kept bytes, by
    /// [`Pump::resend`]; what was not waits as before.
    pub(super) fn replay(&mut self) {
        if self.given {
            self.clear();
            self.given = false;
            self.resend = Some(0);
        }
    }

    /// Frames the next piece of the kept bytes, if they are to be handed out again and nothing else waits.
    ///
    /// # Errors
    /// [`PumpError::Buffers`].
    pub(super) fn resend(&mut self, kept: &[u8]) -> Result<(), PumpError> {
        let Some(from) = self.resend else { return Ok(()) };
        if self.ready.is_some() || self.behind.is_some() {
            return Ok(());
        }
        let end = kept.len().min(from + RESEND_BYTES);
        let last = end == kept.len();
        let buf = copy_of(&kept[from..end])?;
        self.resend = (!last).then_some(end);
        self.frame(buf, last && self.ended)
    }

    /// All of a body that has come to its end, framed once more for another destination beside the present one.
    ///
    /// # Errors
    /// [`PumpError::Buffers`].
    pub(super) fn copies(&self, kept: &[u8]) -> Result<Vec<Buf>, PumpError> {
        debug_assert!(self.ended, "what is still to come cannot be copied");
        let mut copies = Vec::new();
        if self.framing.is_empty() {
            return Ok(copies);
        }
        let mut again = Self { framing: self.framing, resend: Some(0), ..Self::new() };
        while !again.is_finished() {
            again.resend(kept)?;
            copies.extend(again.hand_out());
        }
        let trailers = self.decoder.trailers();
        if !trailers.is_empty()
            && let Some(last) = copies.last_mut()
        {
            last.truncate(last.len() - CRLF.len());
            copies.push(copy_of(&[trailers, CRLF].concat())?);
        }
        Ok(copies)
    }

    /// The source closed.
    ///
    /// # Errors
    /// When the body was not complete.
    pub(super) fn source_closed(&mut self) -> Result<(), PumpError> {
        if self.ended {
            return Ok(());
        }
        self.decoder.finish_on_close()?;
        let buf = acquire(Class::Head, BODY_HEADROOM).ok_or(PumpError::Buffers)?;
        self.code_and_frame(buf, true)
    }

    /// Codes it first, where that was asked for.
    fn code_and_frame(&mut self, buf: Buf, done: bool) -> Result<(), PumpError> {
        match std::mem::take(&mut self.coder) {
            Coder::None => self.frame(buf, done),
            Coder::Gzip(gzip) => self.compress_and_frame(buf, done, gzip),
            Coder::Web(form, mut messages) => {
                messages.pass(buf.bytes());
                self.coder = Coder::Web(form, messages);
                self.frame_for_web(buf, done, form)
            }
        }
    }

    fn compress_and_frame(&mut self, buf: Buf, done: bool, mut gzip: Box<Gzip>) -> Result<(), PumpError> {
        if buf.is_empty() && !done {
            self.coder = Coder::Gzip(gzip);
            return Ok(());
        }
        let piece = if done { Piece::Last } else { Piece::More };
        let mut pieces = VecDeque::new();
        gzip.push(buf.bytes(), piece, |buf| pieces.push_back(buf))?;
        drop(buf);
        // The state goes back as soon as it has said all.
        if !done {
            self.coder = Coder::Gzip(gzip);
        }
        while let Some(buf) = pieces.pop_front() {
            self.queue(buf, done && pieces.is_empty())?;
        }
        Ok(())
    }

    fn frame_for_web(&mut self, buf: Buf, done: bool, form: Form) -> Result<(), PumpError> {
        match form {
            Form::Binary if buf.is_empty() => {}
            Form::Binary => self.queue(buf, false)?,
            Form::Text => {
                for piece in buf.bytes().chunks(TEXT_PIECE_BYTES) {
                    let mut text = Vec::with_capacity(TEXT_PIECE_BYTES / 3 * 4);
                    web::encode(piece, &mut text);
                    self.queue(copy_of(&text)?, false)?;
                }
            }
        }
        if done {
            let lines = self.decoder.trailers().to_vec();
            self.end_for_web(&lines)?;
        }
        Ok(())
    }

    /// Ends a body of gRPC-Web with these trailer lines, as its last frame. Nothing where there are none: they are not ours
    /// to make up.
    pub(super) fn end_for_web(&mut self, lines: &[u8]) -> Result<(), PumpError> {
        let Coder::Web(form, _) = self.coder else { return Ok(()) };
        let mut last = Vec::new();
        if !lines.is_empty() {
            web::trailers(lines, form, &mut last);
        }
        self.queue(copy_of(&last)?, true)
    }

    /// Frames one piece of several.
    fn queue(&mut self, buf: Buf, done: bool) -> Result<(), PumpError> {
        // What was put back comes before all of them.
        let first = self.ready.take();
        self.frame(buf, done)?;
        self.more.extend(self.ready.take());
        self.ready = first;
        Ok(())
    }

    fn frame(&mut self, mut buf: Buf, done: bool) -> Result<(), PumpError> {
        self.ended |= done;
        if self.framing == BodyLength::Chunked {
            if !buf.is_empty() {
                let mut prefix = [0; chunked::PREFIX_BYTES_MAX];
                let len = chunked::chunk_prefix(buf.len(), &mut prefix);
                let fits = buf.prepend(&prefix[..len]);
                debug_assert!(fits, "every body buffer has BODY_HEADROOM");
                buf.append(b"\r\n");
            }
            if done {
                self.frame_end(&mut buf)?;
            }
        }
        if !buf.is_empty() {
            self.ready = Some(buf);
        }
        Ok(())
    }

    fn frame_end(&mut self, buf: &mut Buf) -> Result<(), PumpError> {
        let trailers = match self.coder {
            Coder::None | Coder::Gzip(_) => self.decoder.trailers(),
            // They are in the body.
            Coder::Web(..) => &[],
        };
        if trailers.is_empty() {
            buf.append(b"0\r\n\r\n");
            return Ok(());
        }
        let mut end = acquire(Class::Small, 0).ok_or(PumpError::Buffers)?;
        end.append(b"0\r\n");
        end.append(trailers);
        end.append(b"\r\n");
        if buf.is_empty() {
            *buf = end;
        } else {
            self.behind = Some(end);
        }
        Ok(())
    }

    /// The next bytes for the destination.
    pub(super) fn hand_out(&mut self) -> Option<Buf> {
        let next = self.ready.take().or_else(|| self.more.pop_front()).or_else(|| self.behind.take());
        self.given |= next.is_some();
        next
    }

    /// Puts bytes back that were handed out and not sent.
    pub(super) fn put_back(&mut self, buf: Buf) {
        debug_assert!(self.ready.is_none(), "only what was handed out last");
        self.ready = Some(buf);
    }

    /// Ends the body here, whatever was to come, with these trailer lines. `false` where its framing has no trailers. In the
    /// middle of a message of gRPC-Web they would be taken for bytes of that: it ends without them, and is seen to be cut.
    pub(super) fn end_with(&mut self, lines: &[u8]) -> Result<bool, PumpError> {
        if self.framing != BodyLength::Chunked || self.ended {
            return Ok(false);
        }
        match self.coder {
            Coder::None => self.behind = Some(copy_of(&[b"0\r\n", lines, CRLF].concat())?),
            Coder::Web(_, messages) => {
                self.end_for_web(if messages.is_between() { lines } else { &[] })?;
            }
            Coder::Gzip(_) => return Ok(false),
        }
        self.ended = true;
        Ok(true)
    }

    /// Gives up what waits.
    pub(super) fn clear(&mut self) {
        self.ready = None;
        self.more.clear();
        self.behind = None;
        self.resend = None;
    }
}

impl Default for Pump {
    fn default() -> Self {
        Self::new()
    }
}

/// A buffer that holds `bytes`.
///
/// # Errors
/// [`PumpError::Buffers`] when the bound on buffer memory is reached.
pub(super) fn copy_of(bytes: &[u8]) -> Result<Buf, PumpError> {
    let class = if bytes.len() + BODY_HEADROOM + 128 <= Class::Head.bytes() {
        Class::Head
    } else if bytes.len() + BODY_HEADROOM + 128 <= Class::Small.bytes() {
        Class::Small
    } else {
        Class::Bulk
    };
    let mut buf = acquire(class, BODY_HEADROOM).ok_or(PumpError::Buffers)?;
    buf.append(bytes);
    Ok(buf)
}
