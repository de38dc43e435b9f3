//! What is asked about: one request, or one connection, and where it arrived.
//!
//! One entry for every protocol: `table.route(&subject)`. Today a subject is an HTTP request; TLS, TCP and UDP
//! become further variants of [`SubjectKind`].

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
}

impl<'a> Subject<'a> {
    /// The request, of a subject that is one.
    #[must_use]
    pub fn http(&self) -> &RequestView<'a> {
        match &self.kind {
            SubjectKind::Http(view) => view,
        }
    }
}
