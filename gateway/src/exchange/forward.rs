//! What the backend is told about the client: X-Forwarded-*, X-Real-IP, X-Request-Id, Via.

use std::cell::Cell;

use config::RequestIdPolicy;
use rand::RngCore;
use wire::h1::forwarded::{ForwardedFields, ForwardedFor, PeerTrust};
use wire::head::{Known, RequestView};

use crate::downstream::h1::Client;
use crate::worker::Worker;
use crate::worker::settings::Settings;

/// The name in our Via entries (RFC 9110 §7.6.3 allows a pseudonym).
pub(super) const VIA_NAME: &str = "ringway";

/// Longest request id of a client that is kept, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A request id of our own: 128 random bits as hexadecimal digits.
pub(super) type RequestId = [u8; 32];

/// The part that is made anew for a request; kept while its fields are borrowed.
pub(super) struct Forwarding {
    request_id: Option<RequestId>,
}

impl Forwarding {
    /// Decides on a request id. `own` remembers the one that is made here, for the attempts that follow and for the log.
    pub(super) fn new(
        worker: &Worker,
        settings: &Settings,
        client: &Client,
        view: &RequestView<'_>,
        own: &Cell<Option<RequestId>>,
    ) -> Self {
        let keeps = match settings.request_id {
            RequestIdPolicy::Generate => client.trusted && has_request_id(view),
            RequestIdPolicy::Keep => has_request_id(view),
            RequestIdPolicy::Off => true,
        };
        if !keeps && own.get().is_none() {
            own.set(Some(hex(&mut *worker.rng.borrow_mut())));
        }
        Self { request_id: own.get() }
    }

    /// All of it.
    pub(super) fn fields<'a>(
        &'a self,
        settings: &Settings,
        client: &'a Client,
        view: &RequestView<'a>,
    ) -> ForwardedFields<'a> {
        let peer = client.peer_text.as_bytes();
        // A trusted peer's own word stands; what it did not say is added.
        let missing = |known| !client.trusted || view.known(known).is_none();
        ForwardedFields {
            trust: if client.trusted { PeerTrust::Trusted } else { PeerTrust::Untrusted },
            x_forwarded_for: ForwardedFor::Append(peer),
            proto: missing(Known::XForwardedProto).then_some(if client.conn.tls().is_some() {
                b"https"
            } else {
                b"http"
            }),
            host: missing(Known::XForwardedHost).then(|| view.authority()),
            port: None,
            x_real_ip: missing(Known::XRealIp).then_some(peer),
            x_request_id: self.request_id.as_ref().map(<[u8; 32]>::as_slice),
            via: settings.via_requests.then_some(VIA_NAME),
        }
    }
}

fn has_request_id(view: &RequestView<'_>) -> bool {
    view.known(Known::XRequestId).is_some_and(|id| {
        !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.iter().all(u8::is_ascii_graphic)
    })
}

/// 128 random bits as hexadecimal digits.
fn hex(rng: &mut impl RngCore) -> RequestId {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 32];
    for half in out.chunks_exact_mut(16) {
        let mut bits = rng.next_u64();
        for digit in half {
            *digit = DIGITS[(bits & 15) as usize];
            bits >>= 4;
        }
    }
    out
}
