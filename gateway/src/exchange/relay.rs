//! One direction of a body: decode as it comes, frame anew, hand on. Back-pressure by construction.
//!
//! A [`Pump`] holds at most one buffer that waits for its destination, and asks for more only when it holds none.
//! Pure but for the buffers; the caller moves bytes between pumps and connections.

use wire::body::{BodyDecoder, Progress};
use wire::error::WireError;
use wire::h1::chunked;
use wire::head::BodyLength;

use crate::net::{Buf, Class, acquire};

/// Room in front of body data, where the size of a chunk is put.
pub(super) const BODY_HEADROOM: usize = 32;

/// A body of which so many bytes have come is read into large buffers from then on.
const STREAMS_FROM: u64 = 8 * 1024;

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

/// One direction of a body.
pub(super) struct Pump {
    decoder: BodyDecoder,
    framing: BodyLength,
    /// Framed, waiting for the destination.
    ready: Option<Buf>,
    /// Comes behind `ready`: trailers that did not fit.
    behind: Option<Buf>,
    /// Has the end of the body been framed?
    ended: bool,
    /// Body bytes taken in, without framing.
    taken: u64,
}

impl Pump {
    /// A pump that carries nothing.
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            decoder: BodyDecoder::new(BodyLength::None, wire::body::TrailerPolicy::Forward),
            framing: BodyLength::None,
            ready: None,
            behind: None,
            ended: true,
            taken: 0,
        }
    }

    /// Starts over with a body of `source` length that is framed as `framing` on the other side.
    pub(super) fn reset(&mut self, source: BodyLength, framing: BodyLength) {
        self.decoder.reset(source);
        self.framing = framing;
        self.ready = None;
        self.behind = None;
        self.taken = 0;
        self.ended = source.is_empty();
    }

    /// Is more of the body to come from the source?
    #[must_use]
    pub(super) fn wants_more(&self) -> bool {
        !self.ended
    }

    /// Should a read be started? Not while something waits: that is the back-pressure.
    #[must_use]
    pub(super) fn wants_read(&self) -> bool {
        !self.ended && self.ready.is_none()
    }

    /// Has all of the body been handed out?
    #[must_use]
    pub(super) fn is_finished(&self) -> bool {
        self.ended && self.ready.is_none() && self.behind.is_none()
    }

    /// Body bytes taken in.
    #[must_use]
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// A buffer for the next read of this body: small first, large once it streams.
    #[must_use]
    pub(super) fn read_buffer(&self) -> Option<Buf> {
        let class = if self.taken >= STREAMS_FROM { Class::Bulk } else { Class::Small };
        acquire(class, BODY_HEADROOM)
    }

    /// Takes in what came from the source. `data` sees the decoded bytes (for a replay). Returns what lies behind
    /// the end of the body.
    ///
    /// # Errors
    /// [`PumpError`]; nothing of `buf` is handed on then.
    pub(super) fn take(&mut self, mut buf: Buf, data: impl FnOnce(&[u8])) -> Result<Option<Buf>, PumpError> {
        let step = self.decoder.step(buf.bytes_mut())?;
        let rest = match step.consumed < buf.len() {
            false => None,
            true => Some(copy_of(&buf.bytes()[step.consumed..])?),
        };
        buf.truncate(step.data);
        self.taken += step.data as u64;
        data(buf.bytes());
        let done = step.progress == Progress::Done;
        self.frame(buf, done)?;
        Ok(rest)
    }

    /// Starts over towards another destination with everything that was taken in so far.
    ///
    /// # Errors
    /// [`PumpError::Buffers`].
    pub(super) fn replay(&mut self, kept: &[u8]) -> Result<(), PumpError> {
        self.clear();
        if self.taken == 0 && !self.ended {
            return Ok(());
        }
        let buf = copy_of(kept)?;
        self.frame(buf, self.ended)
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
        self.frame(buf, true)
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
        let trailers = self.decoder.trailers();
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
        self.ready.take().or_else(|| self.behind.take())
    }

    /// Puts bytes back that were handed out and not sent.
    pub(super) fn put_back(&mut self, buf: Buf) {
        debug_assert!(self.ready.is_none(), "only what was handed out last");
        self.ready = Some(buf);
    }

    /// Gives up what waits.
    pub(super) fn clear(&mut self) {
        self.ready = None;
        self.behind = None;
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
