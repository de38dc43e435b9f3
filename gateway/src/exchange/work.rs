//! What the attempts of one request work with, and what one leaves to the next.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use routing::failover::Tried;
use routing::retry::Body;
use routing::time::MonoTime;
use wire::head::BodyLength;

use super::filter::Granted;
use super::forward::RequestId;
use super::grpc::Call;
use super::relay::Pump;
use super::scratch::Answer;
use crate::net::Buf;

/// What attempts work with.
#[derive(Default)]
pub(super) struct Work {
    pub(super) answer: Answer,
    pub(super) upload: Pump,
    pub(super) download: Pump,
    /// The request's body as far as it came, while it may have to be sent again.
    pub(super) kept: Vec<u8>,
    pub(super) keeps: bool,
    /// Bytes up to which it is kept.
    pub(super) keeps_max: usize,
    pub(super) tried: Tried,
    pub(super) next_request: Option<Buf>,
    pub(super) interim: u8,
    pub(super) sent: u64,
    pub(super) first_byte: Duration,
    /// The last time that was read from the clock: good enough for what happens in the same turn.
    pub(super) seen: MonoTime,
    pub(super) response_begun: bool,
    /// Has the client said that it sends nothing more?
    pub(super) client_ended: bool,
    /// Is the client read although it owes us nothing, to learn whether it left?
    pub(super) watches_client: bool,
    /// When the response head must be there, whatever is tried. None until the request is complete.
    pub(super) response_by: Option<MonoTime>,
    /// Was an idle connection closed under this request? Then no other idle one is tried.
    pub(super) raced: bool,
    /// What is known of it as a call of gRPC.
    pub(super) call: Call,
    /// Whose request it is, where a trusted peer speaks for somebody else.
    pub(super) source: Option<SocketAddr>,
    /// Why the rule's fallback is asked instead of its own backends.
    pub(super) fallen: Option<Fallen>,
    /// What external authentication said, where the rule asks for it.
    pub(super) granted: Option<Box<Granted>>,
    /// The request id that was made here, with the first attempt: all attempts carry the same.
    pub(super) request_id: Cell<Option<RequestId>>,
}

/// Why a request goes to its rule's fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallen {
    /// The rule's backends have no endpoint that could serve it.
    NoEndpoint,
    /// They answered with this status.
    Status(u16),
}

impl Fallen {
    /// What the fallback is told of it.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::NoEndpoint => 503,
            Self::Status(status) => status,
        }
    }
}

impl Work {
    pub(super) fn reset(&mut self) {
        self.kept.clear();
        self.keeps = false;
        self.tried.clear();
        self.next_request = None;
        self.interim = 0;
        self.sent = 0;
        self.first_byte = Duration::ZERO;
        self.response_begun = false;
        self.client_ended = false;
        self.watches_client = false;
        self.response_by = None;
        self.raced = false;
        self.call = Call::default();
        self.fallen = None;
        self.granted = None;
        self.source = None;
        self.request_id.set(None);
        self.upload.reset(BodyLength::None, BodyLength::None);
        self.download.reset(BodyLength::None, BodyLength::None);
    }

    /// Is there a copy of all that came of the body?
    pub(super) fn keeps_all(&self) -> bool {
        self.keeps || self.upload.taken() == 0
    }

    /// Can the request be sent again from its first byte?
    pub(super) fn replayable(&self) -> Body {
        let whole = self.keeps_all() || !self.upload.has_given();
        if whole { Body::Replayable } else { Body::Gone }
    }
}
