//! The one form that HTTP/1, HTTP/2 and HTTP/3 message heads become.
//!
//! A head is a list of [`Span`]s into the bytes it was read from: no header map, no copies, no allocation once
//! the vectors have grown to the size of the largest head seen. A head and its bytes travel together as a
//! [`RequestView`] or a [`ResponseView`]; the decoders fill heads, `routing` and the encoders read views.

/// A range of the head's bytes. Heads are bounded to 64 KiB, so 16 bits each are enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u16,
    /// Number of bytes.
    pub len: u16,
}

impl Span {
    /// The bytes that this span names in `bytes`.
    ///
    /// Empty when the span does not lie inside `bytes`: a wrong pairing of head and bytes shows as an absent
    /// value, never as a panic on the request path.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        let start = usize::from(self.start);
        bytes.get(start..start + usize::from(self.len)).unwrap_or_default()
    }
}

/// Request methods (RFC 9110 §9). [`Method::Other`] keeps an extension method's name in [`RequestHead::method_span`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// RFC 9110 §9.3.1
    #[default]
    Get,
    /// RFC 9110 §9.3.2
    Head,
    /// RFC 9110 §9.3.3
    Post,
    /// RFC 9110 §9.3.4
    Put,
    /// RFC 9110 §9.3.5
    Delete,
    /// RFC 9110 §9.3.6
    Connect,
    /// RFC 9110 §9.3.7
    Options,
    /// RFC 9110 §9.3.8
    Trace,
    /// RFC 5789
    Patch,
    /// Any other token.
    Other,
}

impl Method {
    /// May a request with this method be sent twice with the effect of once? RFC 9110 §9.2.2.
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace => true,
            Self::Post | Self::Connect | Self::Patch | Self::Other => false,
        }
    }

    /// Is this method defined to change nothing on the server? RFC 9110 §9.2.1.
    #[must_use]
    pub fn is_safe(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Options | Self::Trace => true,
            Self::Post | Self::Put | Self::Delete | Self::Connect | Self::Patch | Self::Other => false,
        }
    }

    /// Its name; empty for [`Method::Other`], whose name only the head knows.
    #[must_use]
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Get => b"GET",
            Self::Head => b"HEAD",
            Self::Post => b"POST",
            Self::Put => b"PUT",
            Self::Delete => b"DELETE",
            Self::Connect => b"CONNECT",
            Self::Options => b"OPTIONS",
            Self::Trace => b"TRACE",
            Self::Patch => b"PATCH",
            Self::Other => b"",
        }
    }

    /// The method that these bytes spell (methods are case-sensitive, RFC 9110 §9.1).
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }
}

/// Protocol version of one hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    H2,
    /// HTTP/3
    H3,
}

/// Header names that a gateway acts on, recognised once while the head is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the header of that name")]
pub enum Known {
    /// Any name that is not in this list.
    #[default]
    Other,
    Connection,
    ContentLength,
    Cookie,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    XRealIp,
    XRequestId,
    Date,
    Server,
    SetCookie,
}

/// One header line. The name keeps the peer's spelling; compare it without case (RFC 9110 §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderField {
    /// The field name, as spelled by the peer.
    pub name: Span,
    /// The field value without surrounding white space (RFC 9112 §5.1).
    pub value: Span,
    /// The name, if it is one that the gateway acts on.
    pub known: Known,
    /// Set by the decoder for fields that concern this hop only and must not travel further
    /// (RFC 9110 §7.6.1: Connection, what Connection names, and the framing fields).
    pub hop_by_hop: bool,
}

/// How the end of a message body is known (RFC 9112 §6.3, RFC 9113 §8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    #[default]
    None,
    /// Exactly so many bytes; zero is written as `Exact(0)` when Content-Length said so.
    Exact(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// Until the connection closes (responses only).
    UntilClose,
}

impl BodyLength {
    /// Does no byte of body follow the head?
    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Exact(0))
    }
}

/// What a sender wants of the connection after this message (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// The connection may carry another message.
    #[default]
    KeepAlive,
    /// The sender closes after this message.
    Close,
}

/// A decoded request head. Reused from request to request: [`RequestHead::clear`] keeps the capacity.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The method's name as sent; needed to forward [`Method::Other`].
    pub method_span: Span,
    /// The version of the hop it came over.
    pub version: Version,
    /// The request-target's path as sent, always starting with `/` (or `*` for OPTIONS).
    pub path_span: Span,
    /// The query, without `?`. `None` when there is no `?` in the target.
    pub query_span: Option<Span>,
    /// The path that is matched and forwarded, when it differs from the path as sent: dot segments removed
    /// (RFC 3986 §5.2.4), repeated rules of `SECURITY` S15 applied. Empty when the path stands as sent.
    pub path_normalised: Vec<u8>,
    /// Host without port, in lower case, without a trailing dot. IPv6 literals keep their brackets.
    pub host: Vec<u8>,
    /// The port of the authority, when given.
    pub port: Option<u16>,
    /// Value of the Host field (or `:authority`) as sent, for forwarding.
    pub authority_span: Span,
    /// All header lines in order, including Host and the hop-by-hop ones, but not those that the limits drop
    /// ([`Underscores::Drop`](crate::h1::limits::Underscores::Drop)).
    pub headers: Vec<HeaderField>,
    /// How the end of the body is known.
    pub body: BodyLength,
    /// Does the client keep the connection open?
    pub persistence: Persistence,
    /// `Expect: 100-continue` was sent (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// `Connection: upgrade` with an Upgrade field was sent (RFC 9110 §7.8); the protocol's name is in its value.
    pub upgrade: Option<Span>,
    /// Bytes of the head, its final empty line included: the body starts here.
    pub head_len: usize,
}

impl RequestHead {
    /// Forgets the previous request and keeps the allocations.
    pub fn clear(&mut self) {
        // Field by field, so that a new one cannot be forgotten, and in place: a move of all of it costs more than this.
        let Self {
            method,
            method_span,
            version,
            path_span,
            query_span,
            path_normalised,
            host,
            port,
            authority_span,
            headers,
            body,
            persistence,
            expects_continue,
            upgrade,
            head_len,
        } = self;
        (*method, *method_span, *version) = Default::default();
        (*path_span, *query_span, *port, *authority_span) = Default::default();
        (*body, *persistence, *expects_continue, *upgrade, *head_len) = Default::default();
        path_normalised.clear();
        host.clear();
        headers.clear();
    }
}

/// A decoded response head. Reused from response to response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Status code, 100 to 999 (RFC 9110 §15 allows any three digits).
    pub status: u16,
    /// The reason phrase as sent; may be empty.
    pub reason: Span,
    /// The version of the hop it came over.
    pub version: Version,
    /// All header lines in order, including the hop-by-hop ones.
    pub headers: Vec<HeaderField>,
    /// How the end of the body is known; already takes the request's method and the status into account.
    pub body: BodyLength,
    /// Does the server keep the connection open?
    pub persistence: Persistence,
    /// The protocol that a 101 switches to: the value of its Upgrade field (RFC 9110 §7.8). `None` for other statuses.
    pub upgrade: Option<Span>,
    /// Bytes of the head, its final empty line included.
    pub head_len: usize,
}

impl ResponseHead {
    /// Forgets the previous response and keeps the allocations.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Self { headers, ..Self::default() };
    }
}

/// A request head together with the bytes it was decoded from.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The decoded head.
    pub head: &'a RequestHead,
    /// The bytes that its spans point into.
    pub bytes: &'a [u8],
}

impl<'a> RequestView<'a> {
    /// The method's name as sent.
    #[must_use]
    pub fn method_name(&self) -> &'a [u8] {
        self.head.method_span.of(self.bytes)
    }

    /// The path that is matched and forwarded: normalised, without the query.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        if self.head.path_normalised.is_empty() {
            self.head.path_span.of(self.bytes)
        } else {
            &self.head.path_normalised
        }
    }

    /// The query without `?`, if the target had one.
    #[must_use]
    pub fn query(&self) -> Option<&'a [u8]> {
        self.head.query_span.map(|span| span.of(self.bytes))
    }

    /// The host that is matched: lower case, no port, no trailing dot.
    #[must_use]
    pub fn host(&self) -> &'a [u8] {
        &self.head.host
    }

    /// The authority as sent, for forwarding.
    #[must_use]
    pub fn authority(&self) -> &'a [u8] {
        self.head.authority_span.of(self.bytes)
    }

    /// The first value of header `name` (compared without case).
    #[must_use]
    pub fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        header(&self.head.headers, self.bytes, name)
    }

    /// The first value of a header that the decoder recognises.
    #[must_use]
    pub fn known(&self, known: Known) -> Option<&'a [u8]> {
        self.head.headers.iter().find(|field| field.known == known).map(|field| field.value.of(self.bytes))
    }

    /// The value of cookie `name`, unquoted form as sent (RFC 6265 §4.2.1).
    #[must_use]
    pub fn cookie(&self, name: &[u8]) -> Option<&'a [u8]> {
        let fields = self.head.headers.iter().filter(|field| field.known == Known::Cookie);
        fields.flat_map(|field| field.value.of(self.bytes).split(|byte| *byte == b';')).find_map(|pair| {
            let pair = pair.trim_ascii();
            let split = pair.iter().position(|byte| *byte == b'=')?;
            (&pair[..split] == name).then(|| &pair[split + 1..])
        })
    }

    /// The value of query parameter `name`, as sent (not percent-decoded).
    #[must_use]
    pub fn query_param(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.query()?.split(|byte| *byte == b'&').find_map(|pair| {
            let split = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            (&pair[..split] == name).then(|| pair.get(split + 1..).unwrap_or_default())
        })
    }
}

/// A response head together with the bytes it was decoded from.
#[derive(Clone, Copy, Debug)]
pub struct ResponseView<'a> {
    /// The decoded head.
    pub head: &'a ResponseHead,
    /// The bytes that its spans point into.
    pub bytes: &'a [u8],
}

impl<'a> ResponseView<'a> {
    /// The first value of header `name` (compared without case).
    #[must_use]
    pub fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        header(&self.head.headers, self.bytes, name)
    }
}

fn header<'a>(headers: &[HeaderField], bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let field = headers.iter().find(|field| field.name.of(bytes).eq_ignore_ascii_case(name))?;
    Some(field.value.of(bytes))
}
