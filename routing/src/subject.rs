//! What is asked about: one request, or one connection, and where it arrived.
//!
//! One entry for every protocol: `table.route(&subject)`. A subject is an HTTP request, or a whole connection or
//! flow of datagrams that is passed on as it is: by the name in its TLS ClientHello, or by nothing but where it arrived.

use std::net::SocketAddr;

use wire::head::RequestView;

use crate::id::BindId;

/// One thing to route.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Where it was accepted.
    pub bind: BindId,
    /// Who sent it: the client's address as far as it is trusted (pins by source, source hash).
    pub peer: SocketAddr,
    /// What it is.
    pub kind: SubjectKind<'a>,
}

/// What a subject is.
#[derive(Clone, Copy, Debug)]
pub enum SubjectKind<'a> {
    /// An HTTP request of any version.
    Http(RequestView<'a>),
    /// A TLS connection that is passed through.
    Tls {
        /// The server name in lower case; `None` when the client named none: only rules for every host match.
        sni: Option<&'a [u8]>,
        /// The first protocol that the client offers; empty when it offers none. No condition asks for it yet.
        alpn: &'a [u8],
    },
    /// A TCP connection of any content.
    Tcp,
    /// A flow of datagrams.
    Udp,
}

impl<'a> Subject<'a> {
    /// The request, of a subject that is one.
    #[must_use]
    pub fn http(&self) -> Option<&RequestView<'a>> {
        match &self.kind {
            SubjectKind::Http(view) => Some(view),
            SubjectKind::Tls { .. } | SubjectKind::Tcp | SubjectKind::Udp => None,
        }
    }

    /// The host that is asked for; empty when none is named.
    #[must_use]
    pub fn host(&self) -> &[u8] {
        match &self.kind {
            SubjectKind::Http(view) => view.host(),
            SubjectKind::Tls { sni, .. } => sni.unwrap_or_default(),
            SubjectKind::Tcp | SubjectKind::Udp => b"",
        }
    }

    /// Does it only read? A connection may do anything.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.http().is_some_and(|view| view.head.method.is_safe())
    }

    /// May it be begun at two endpoints? A connection may: until one of them has accepted it, nothing is sent. Flows of
    /// datagrams are never begun twice: their owner does not ask.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.http().is_none_or(|view| view.head.method.is_idempotent())
    }
}
