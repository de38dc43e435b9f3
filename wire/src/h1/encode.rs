//! Heads to bytes: the head of the next hop, written anew from the fields of the last one.
//!
//! Nothing is copied through (SECURITY I3): what leaves is what was understood. Framing and connection fields are
//! always ours, from [`BodyLength`] and [`Persistence`]; the peer's own are never written. One pass over the fields,
//! no allocation and no formatting machinery. The caller answers for its edits and overrides: they come from
//! configuration that was checked when it was compiled, and hold no control bytes.

use super::forwarded::{ForwardedFields, ForwardedFor, PeerTrust};
use super::sink::Sink;
use crate::head::{BodyLength, HeaderField, Known, Method, Persistence, RequestView, ResponseView, Version};
use crate::hop;

mod own;

pub use self::own::{SimpleResponse, reason, simple_response};

/// Header changes in the order remove, set, add, borrowed from whoever owns them (`HTTPHeaderFilter`).
///
/// Names are compared without case. Changes to framing, Host and hop-by-hop fields are ignored.
#[derive(Debug)]
pub struct Edits<'a, S> {
    /// Replace the field, or add it when absent.
    pub set: &'a [(S, S)],
    /// Add a line, whatever is there.
    pub add: &'a [(S, S)],
    /// Remove every line of this name.
    pub remove: &'a [S],
}

impl<S> Clone for Edits<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Edits<'_, S> {}

impl<S> Default for Edits<'_, S> {
    fn default() -> Self {
        Self { set: &[], add: &[], remove: &[] }
    }
}

impl<S: AsRef<str>> Edits<'_, S> {
    /// Is there nothing to change?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Do these edits take a field of this name away, to replace it or for good?
    fn takes(&self, name: &[u8]) -> bool {
        let is = |entry: &S| entry.as_ref().as_bytes().eq_ignore_ascii_case(name);
        self.set.iter().any(|(entry, _)| is(entry)) || self.remove.iter().any(is)
    }
}

/// What becomes of the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryEdit<'a> {
    /// As sent.
    #[default]
    Keep,
    /// No query.
    Remove,
    /// This one, without its `?`.
    Set(&'a [u8]),
}

/// What becomes of `Expect: 100-continue`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// The gateway answers it itself.
    #[default]
    Strip,
    /// The next hop is asked.
    Forward,
}

/// What the request to the next hop differs in. `S` is whatever holds the edits' strings.
#[derive(Debug)]
pub struct RequestEdit<'a, S> {
    /// Host, when not as sent. Needed for HTTP/1.0 requests without one, or Host is written empty.
    pub authority: Option<&'a [u8]>,
    /// The whole path, when not [`RequestView::path`]; without the query.
    pub path: Option<&'a [u8]>,
    /// The query.
    pub query: QueryEdit<'a>,
    /// How the body is framed. [`BodyLength::UntilClose`] does not exist for requests and frames nothing.
    pub body: BodyLength,
    /// `Close` asks the next hop to close after its response.
    pub persistence: Persistence,
    /// Header changes, the rule's and then the backend's.
    pub headers: [Edits<'a, S>; 2],
    /// What is said about the client. The edits win over it.
    pub forwarded: ForwardedFields<'a>,
    /// The protocols of an Upgrade that travels on: writes Connection and Upgrade.
    pub upgrade: Option<&'a [u8]>,
    /// `Expect: 100-continue`.
    pub expect: Expect,
    /// Fields of the gateway's own; they replace those of the same name.
    pub own: &'a [(&'a str, &'a [u8])],
}

impl<S> Default for RequestEdit<'_, S> {
    fn default() -> Self {
        Self {
            authority: None,
            path: None,
            query: QueryEdit::Keep,
            body: BodyLength::None,
            persistence: Persistence::KeepAlive,
            headers: [Edits::default(), Edits::default()],
            forwarded: ForwardedFields::default(),
            upgrade: None,
            expect: Expect::Strip,
            own: &[],
        }
    }
}

/// What the response to the client differs in. `S` is whatever holds the edits' strings.
#[derive(Debug)]
pub struct ResponseEdit<'a, S> {
    /// The client's version: HTTP/1.0 clients are told when the connection stays open.
    pub version: Version,
    /// How the body is framed towards the client; see [`client_framing`].
    pub body: BodyLength,
    /// `Close` tells the client that this is the last response.
    pub persistence: Persistence,
    /// Header changes, the rule's and then the backend's.
    pub headers: [Edits<'a, S>; 2],
    /// The value of one more Set-Cookie line.
    pub set_cookie: Option<&'a [u8]>,
    /// Adds a Via line `1.1 <this>`.
    pub via: Option<&'a str>,
    /// The protocol of a 101 that travels on: writes Connection and Upgrade.
    pub upgrade: Option<&'a [u8]>,
    /// Fields of the gateway's own; they replace those of the same name, but for Vary and Set-Cookie, which
    /// get one more line.
    pub own: &'a [(&'a str, &'a [u8])],
    /// Do the cookies of `own` stand for those of the peer?
    pub replaces_cookies: bool,
}

impl<S> Default for ResponseEdit<'_, S> {
    fn default() -> Self {
        Self {
            version: Version::Http11,
            body: BodyLength::None,
            persistence: Persistence::KeepAlive,
            headers: [Edits::default(), Edits::default()],
            set_cookie: None,
            via: None,
            upgrade: None,
            own: &[],
            replaces_cookies: false,
        }
    }
}

/// How a body that has this length upstream is framed towards a client, and what that does to the connection.
///
/// An HTTP/1.0 client knows no chunks: such a body lasts until the connection closes. Towards HTTP/1.1 a body that
/// ended with the upstream connection becomes chunks, so that the client's connection survives.
#[must_use]
pub fn client_framing(upstream: BodyLength, client: Version) -> (BodyLength, Persistence) {
    match upstream {
        BodyLength::None | BodyLength::Exact(_) => (upstream, Persistence::KeepAlive),
        BodyLength::Chunked | BodyLength::UntilClose => match client {
            Version::Http10 => (BodyLength::UntilClose, Persistence::Close),
            Version::Http11 | Version::H2 | Version::H3 => (BodyLength::Chunked, Persistence::KeepAlive),
        },
    }
}

/// A set of [`Known`] names.
#[derive(Clone, Copy)]
struct KnownSet(u32);

impl KnownSet {
    const fn of(names: &[Known]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < names.len() {
            set |= 1 << names[at] as u32;
            at += 1;
        }
        Self(set)
    }

    fn with_if(self, known: Known, present: bool) -> Self {
        Self(self.0 | u32::from(present) << known as u32)
    }

    fn has(self, known: Known) -> bool {
        self.0 >> known as u32 & 1 != 0
    }
}

/// Fields that the encoders write themselves or not at all, whoever marked them or not.
const OURS: KnownSet = KnownSet::of(&[
    Known::Connection,
    Known::ContentLength,
    Known::Expect,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::TransferEncoding,
    Known::Upgrade,
]);

/// Writes the request head for the next hop.
///
/// A request without a body whose method is defined to have one says `Content-Length: 0`, so that no backend
/// has to guess (SECURITY S4). The cookie lines of HTTP/2 and HTTP/3 become one (RFC 9113 §8.2.3). Of TE, `trailers`
/// is said to the next hop, too: some backends, of gRPC above all, send none to who does not ask.
pub fn request<S: AsRef<str>>(sink: &mut impl Sink, view: &RequestView<'_>, edit: &RequestEdit<'_, S>) {
    let head = view.head;
    sink.put(view.method_name());
    sink.put(b" ");
    sink.put(edit.path.unwrap_or_else(|| view.path()));
    let query = match edit.query {
        QueryEdit::Keep => view.query(),
        QueryEdit::Remove => None,
        QueryEdit::Set(query) => Some(query),
    };
    if let Some(query) = query {
        sink.put(b"?");
        sink.put(query);
    }
    sink.put(b" HTTP/1.1\r\n");
    sink.field(b"Host", edit.authority.unwrap_or_else(|| view.authority()));

    let edits = Rewriting::of(&edit.headers);
    let forwarded = &edit.forwarded;
    let crumbs = matches!(head.version, Version::H2 | Version::H3);
    let dropped = dropped_by(forwarded).with_if(Known::Cookie, crumbs);
    let mut takes_trailers = false;
    for field in &head.headers {
        if field.hop_by_hop || dropped.has(field.known) {
            takes_trailers |= field.known == Known::Te && has_trailers(field.value.of(view.bytes));
            continue;
        }
        let name = field.name.of(view.bytes);
        let vouches = forwarded.trust == PeerTrust::Untrusted && hop::is_vouching(field.known, name);
        if !vouches && !edits.take(name) && !replaces(edit.own, name) {
            sink.field(name, field.value.of(view.bytes));
        }
    }
    if crumbs && !edits.take(b"cookie") {
        joined(sink, b"cookie", b"; ", values(&head.headers, view.bytes, Known::Cookie), None);
    }
    write_forwarded(sink, view, forwarded, edits);
    edits.write_own(sink);
    for (name, value) in edit.own {
        sink.field(name.as_bytes(), value);
    }
    if edit.expect == Expect::Forward && head.expects_continue {
        sink.put(b"Expect: 100-continue\r\n");
    }
    match edit.body {
        BodyLength::None if matches!(head.method, Method::Post | Method::Put | Method::Patch) => {
            write_length(sink, 0);
        }
        BodyLength::Exact(length) => write_length(sink, length),
        BodyLength::Chunked => sink.put(b"Transfer-Encoding: chunked\r\n"),
        BodyLength::None | BodyLength::UntilClose => {}
    }
    // RFC 9110 §10.1.4: our own word, for trailers pass through us both ways.
    let takes_trailers = takes_trailers && edit.upgrade.is_none();
    if takes_trailers {
        sink.put(b"TE: trailers\r\n");
    }
    match (edit.upgrade, edit.persistence) {
        (Some(protocols), _) => write_upgrade(sink, protocols),
        (None, Persistence::Close) if takes_trailers => sink.put(b"Connection: TE, close\r\n"),
        (None, Persistence::Close) => sink.put(b"Connection: close\r\n"),
        (None, Persistence::KeepAlive) if takes_trailers => sink.put(b"Connection: TE\r\n"),
        (None, Persistence::KeepAlive) => {}
    }
    sink.put(b"\r\n");
}

/// Does TE name trailers?
fn has_trailers(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Writes a response head for the client: interim (1xx), switching (101) or final.
///
/// Where the body is [`BodyLength::None`] because of the request's method (HEAD) or the status (304), the
/// backend's Content-Length is passed on: it describes what a GET would bring (RFC 9110 §8.6).
pub fn response<S: AsRef<str>>(sink: &mut impl Sink, view: &ResponseView<'_>, edit: &ResponseEdit<'_, S>) {
    let head = view.head;
    status_line(sink, head.status, head.reason.of(view.bytes));
    let edits = Rewriting::of(&edit.headers);
    let dropped = OURS.with_if(Known::SetCookie, edit.replaces_cookies);
    for field in &head.headers {
        if field.hop_by_hop || dropped.has(field.known) {
            continue;
        }
        let name = field.name.of(view.bytes);
        if !edits.take(name) && !replaces(edit.own, name) {
            sink.field(name, field.value.of(view.bytes));
        }
    }
    for (name, value) in edit.own {
        sink.field(name.as_bytes(), value);
    }
    if let Some(cookie) = edit.set_cookie {
        sink.field(b"Set-Cookie", cookie);
    }
    if let Some(name) = edit.via {
        write_via(sink, name);
    }
    edits.write_own(sink);
    if head.status < 200 {
        // RFC 9112 §6.3: an interim response has no body and says nothing about the connection, except 101.
        if let Some(protocol) = edit.upgrade {
            write_upgrade(sink, protocol);
        }
        sink.put(b"\r\n");
        return;
    }
    match edit.body {
        BodyLength::None if head.status != 204 => {
            for value in values(&head.headers, view.bytes, Known::ContentLength) {
                sink.field(b"Content-Length", value);
            }
        }
        BodyLength::Exact(length) => write_length(sink, length),
        BodyLength::Chunked => sink.put(b"Transfer-Encoding: chunked\r\n"),
        BodyLength::None | BodyLength::UntilClose => {}
    }
    let closes = edit.persistence == Persistence::Close || edit.body == BodyLength::UntilClose;
    write_connection(sink, edit.version, if closes { Persistence::Close } else { Persistence::KeepAlive });
    sink.put(b"\r\n");
}

/// The edits of a rule and of a backend, applied one after the other.
struct Rewriting<'e, 'a, S> {
    edits: Option<&'e [Edits<'a, S>; 2]>,
}

impl<S> Clone for Rewriting<'_, '_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Rewriting<'_, '_, S> {}

impl<'e, 'a, S: AsRef<str>> Rewriting<'e, 'a, S> {
    fn of(edits: &'e [Edits<'a, S>; 2]) -> Self {
        Self { edits: edits.iter().any(|edit| !edit.is_empty()).then_some(edits) }
    }

    /// Is a field of this name that is there before the edits gone after them?
    fn take(self, name: &[u8]) -> bool {
        self.edits.is_some_and(|edits| edits.iter().any(|edit| edit.takes(name)))
    }

    /// Writes the lines that the edits set and add: the rule's unless the backend's take them, then the backend's.
    fn write_own(self, sink: &mut impl Sink) {
        let Some([first, second]) = self.edits else { return };
        for (edits, later) in [(first, Some(second)), (second, None)] {
            for (name, value) in edits.set.iter().chain(edits.add) {
                let name = name.as_ref().as_bytes();
                let known = hop::known(name);
                let ours = known == Known::Host || OURS.has(known);
                if !ours && !later.is_some_and(|later| later.takes(name)) {
                    sink.field(name, value.as_ref().as_bytes());
                }
            }
        }
    }
}

/// Does one of the gateway's own fields stand in for this one?
fn replaces(own: &[(&str, &[u8])], name: &[u8]) -> bool {
    own.iter().any(|(own, _)| own.as_bytes().eq_ignore_ascii_case(name))
        && !name.eq_ignore_ascii_case(b"vary")
        && !name.eq_ignore_ascii_case(b"set-cookie")
}

/// What of the client's own is not written because it is replaced or ours.
fn dropped_by(forwarded: &ForwardedFields<'_>) -> KnownSet {
    OURS.with_if(Known::Host, true)
        .with_if(Known::XForwardedFor, forwarded.x_forwarded_for != ForwardedFor::Keep)
        .with_if(Known::XForwardedProto, forwarded.proto.is_some())
        .with_if(Known::XForwardedHost, forwarded.host.is_some())
        .with_if(Known::XForwardedPort, forwarded.port.is_some())
        .with_if(Known::XRealIp, forwarded.x_real_ip.is_some())
        .with_if(Known::XRequestId, forwarded.x_request_id.is_some())
}

fn write_forwarded<S: AsRef<str>>(
    sink: &mut impl Sink,
    view: &RequestView<'_>,
    forwarded: &ForwardedFields<'_>,
    edits: Rewriting<'_, '_, S>,
) {
    if !edits.take(b"x-forwarded-for") {
        match (forwarded.x_forwarded_for, forwarded.trust) {
            (ForwardedFor::Keep, _) => {}
            (ForwardedFor::Replace(peer), _) | (ForwardedFor::Append(peer), PeerTrust::Untrusted) => {
                sink.field(b"X-Forwarded-For", peer);
            }
            (ForwardedFor::Append(peer), PeerTrust::Trusted) => {
                let sent = values(&view.head.headers, view.bytes, Known::XForwardedFor);
                joined(sink, b"X-Forwarded-For", b", ", sent, Some(peer));
            }
        }
    }
    let mut port = itoa::Buffer::new();
    let port = forwarded.port.map(|number| port.format(number).as_bytes());
    let fields: [(&[u8], _); 5] = [
        (b"X-Forwarded-Proto", forwarded.proto),
        (b"X-Forwarded-Host", forwarded.host),
        (b"X-Forwarded-Port", port),
        (b"X-Real-IP", forwarded.x_real_ip),
        (b"X-Request-Id", forwarded.x_request_id),
    ];
    for (name, value) in fields {
        if let Some(value) = value
            && !edits.take(name)
        {
            sink.field(name, value);
        }
    }
    if let Some(name) = forwarded.via {
        write_via(sink, name);
    }
}

/// The values of a field, in order, without empty ones.
fn values<'a>(headers: &'a [HeaderField], bytes: &'a [u8], known: Known) -> impl Iterator<Item = &'a [u8]> {
    let fields = headers.iter().filter(move |field| field.known == known);
    fields.map(move |field| field.value.of(bytes)).filter(|value| !value.is_empty())
}

/// Writes all `values` and `last` as one field, or nothing when there is none.
fn joined<'a>(
    sink: &mut impl Sink,
    name: &[u8],
    separator: &[u8],
    values: impl Iterator<Item = &'a [u8]>,
    last: Option<&'a [u8]>,
) {
    let mut before: &[u8] = b": ";
    for value in values.chain(last) {
        if before == b": " {
            sink.put(name);
        }
        sink.put(before);
        sink.put(value);
        before = separator;
    }
    if before != b": " {
        sink.put(b"\r\n");
    }
}

fn status_line(sink: &mut impl Sink, status: u16, sent_reason: &[u8]) {
    // The gateway speaks for itself on each hop (RFC 9110 §2.5), to HTTP/1.0 clients too.
    sink.put(b"HTTP/1.1 ");
    sink.put(itoa::Buffer::new().format(status).as_bytes());
    sink.put(b" ");
    sink.put(if sent_reason.is_empty() { reason(status).as_bytes() } else { sent_reason });
    sink.put(b"\r\n");
}

fn write_length(sink: &mut impl Sink, length: u64) {
    sink.field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
}

fn write_upgrade(sink: &mut impl Sink, protocols: &[u8]) {
    sink.put(b"Connection: upgrade\r\n");
    sink.field(b"Upgrade", protocols);
}

fn write_via(sink: &mut impl Sink, name: &str) {
    sink.put(b"Via: 1.1 ");
    sink.put(name.as_bytes());
    sink.put(b"\r\n");
}

/// Each version has its default (RFC 9112 §9.3); only what differs from it is said.
fn write_connection(sink: &mut impl Sink, version: Version, persistence: Persistence) {
    match (persistence, version) {
        (Persistence::Close, _) => sink.put(b"Connection: close\r\n"),
        (Persistence::KeepAlive, Version::Http10) => sink.put(b"Connection: keep-alive\r\n"),
        (Persistence::KeepAlive, Version::Http11 | Version::H2 | Version::H3) => {}
    }
}

#[cfg(test)]
mod tests;
