//! How the end of a body is found, and its coding taken off, in place.
//!
//! One [`BodyDecoder`] per direction of a connection, [`reset`](BodyDecoder::reset) for each message. It never
//! buffers body bytes: it is given what was read and says which of it is data, so that a relay needs one buffer
//! whatever the size of the body. After an error every further step fails alike.

use crate::error::WireError;
use crate::h1::chunked::{ChunkDecoder, Trailers};
use crate::head::BodyLength;

/// Whether more of a body is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Read more.
    More,
    /// The body is complete; what was not consumed belongs to the next message.
    Done,
}

/// What one step found in a buffer. Always `data <= consumed <= buf.len()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyStep {
    /// Bytes of input used up, framing included. The rest belongs to the next message; it is empty unless the body
    /// is done.
    pub consumed: usize,
    /// Bytes of body data, now at the start of the buffer.
    pub data: usize,
    /// Is the body complete?
    pub progress: Progress,
}

/// What becomes of trailer fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrailerPolicy {
    /// Those that [`may_be_trailer`](crate::hop::may_be_trailer) travel on (SECURITY S12).
    #[default]
    Forward,
    /// None does. They are parsed and bounded all the same.
    Drop,
}

#[derive(Debug)]
enum State {
    Exact { remaining: u64 },
    Chunked(ChunkDecoder),
    UntilClose,
    Done,
    Failed(WireError),
}

/// Finds the end of one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    trailers: Trailers,
    policy: TrailerPolicy,
}

impl BodyDecoder {
    /// A decoder for a body of this length. Allocates nothing until a trailer comes.
    #[must_use]
    pub fn new(length: BodyLength, policy: TrailerPolicy) -> Self {
        Self { state: State::of(length), trailers: Trailers::default(), policy }
    }

    /// Forgets the last body and keeps the allocations.
    pub fn reset(&mut self, length: BodyLength) {
        self.state = State::of(length);
        self.trailers.clear();
    }

    /// Finds body data in `buf`, the bytes that follow those of the last step, and moves it to the front.
    ///
    /// Afterwards `buf[..step.data]` is body data and `buf[step.consumed..]` belongs to the next message. Bodies
    /// without a coding are neither moved nor looked at.
    ///
    /// # Errors
    /// [`WireError::Chunk`] and [`WireError::Trailer`]; the message cannot be completed and the connection is lost.
    /// `buf` holds no usable data then.
    pub fn step(&mut self, buf: &mut [u8]) -> Result<BodyStep, WireError> {
        let step = match &mut self.state {
            State::Done => BodyStep { consumed: 0, data: 0, progress: Progress::Done },
            State::UntilClose => BodyStep { consumed: buf.len(), data: buf.len(), progress: Progress::More },
            State::Failed(error) => return Err(*error),
            State::Exact { remaining } => {
                let here = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buf.len());
                *remaining -= here as u64;
                let progress = if *remaining == 0 { Progress::Done } else { Progress::More };
                BodyStep { consumed: here, data: here, progress }
            }
            State::Chunked(chunks) => match chunks.step(buf, &mut self.trailers, self.policy) {
                Ok(step) => step,
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            },
        };
        if step.progress == Progress::Done {
            self.state = State::Done;
        }
        Ok(step)
    }

    /// Bytes of a body of known length that are still to come; 0 of any other.
    #[must_use]
    pub fn known_rest(&self) -> u64 {
        match self.state {
            State::Exact { remaining } => remaining,
            State::Chunked(_) | State::UntilClose | State::Done | State::Failed(_) => 0,
        }
    }

    /// So many bytes of a body of known length have gone by unseen: fewer than are [known](Self::known_rest) to come.
    pub fn skip(&mut self, bytes: u64) {
        debug_assert!(bytes < self.known_rest(), "the last byte is seen");
        if let State::Exact { remaining } = &mut self.state {
            *remaining -= bytes;
        }
    }

    /// Is the body complete?
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The peer has closed: was the body complete?
    ///
    /// # Errors
    /// [`WireError::Truncated`] when its length says that more was to come (RFC 9112 §8), or the error of the step
    /// that failed.
    pub fn finish_on_close(&self) -> Result<(), WireError> {
        match &self.state {
            State::Done | State::UntilClose => Ok(()),
            State::Exact { .. } | State::Chunked(_) => Err(WireError::Truncated),
            State::Failed(error) => Err(*error),
        }
    }

    /// The trailer fields that travel on, as `name: value` lines each with its CRLF. Empty until the body is done.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers.kept
    }
}

impl State {
    fn of(length: BodyLength) -> Self {
        match length {
            BodyLength::None | BodyLength::Exact(0) => Self::Done,
            BodyLength::Exact(remaining) => Self::Exact { remaining },
            BodyLength::Chunked => Self::Chunked(ChunkDecoder::new()),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }
}

#[cfg(test)]
mod tests;
