//! Who may come by the word of another service (`auth-url` of ingress-nginx). Plain data; the gateway's exchange asks.

use std::sync::Arc;

use super::{Method, WeightedBackend};

/// External authentication of a rule: a question without a body is asked for each request, and its answer decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuth {
    /// Who is asked.
    pub asked: Authoriser,
    /// Path and query of the question.
    pub target: UrlTemplate,
    /// Its method.
    pub method: Method,
    /// Where those are sent (302) that nobody knows yet (401).
    pub signin: Option<UrlTemplate>,
    /// What the question says of where to go afterwards (`X-Auth-Request-Redirect`).
    pub redirect: UrlTemplate,
    /// Fields of the answer that the request goes on with, by name in lower case. The client's own are taken away by the rule.
    pub passes: Box<[Arc<str>]>,
    /// Fields of the question, by name in lower case, beside the request's own.
    pub fields: Box<[(Arc<str>, UrlTemplate)]>,
    /// Are cookies that the answer sets sent with responses of any status?
    pub always_sets_cookie: bool,
}

/// Who is asked. Always endpoints that the table knows: no name is looked up, and no address of a manifest is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authoriser {
    /// A Service.
    Service {
        /// One backend, of weight 1.
        backends: Box<[WeightedBackend]>,
        /// The question's Host.
        host: Arc<str>,
    },
    /// Whatever rule serves this host where the request came in; `None` = the request's own host.
    Host(Option<Arc<str>>),
    /// It may not be asked: every request is answered 503.
    Unusable,
}

impl Authoriser {
    /// Who is asked by the table's number.
    #[must_use]
    pub fn backends(&self) -> &[WeightedBackend] {
        match self {
            Self::Service { backends, .. } => backends,
            Self::Host(_) | Self::Unusable => &[],
        }
    }
}

/// A URL, or a part of one, with facts of the request in it: a closed list of parts, put one behind the other.
pub type UrlTemplate = Box<[UrlPart]>;

/// One part of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlPart {
    /// As it stands.
    Text(Arc<str>),
    /// `http` or `https`, as the client speaks.
    Scheme,
    /// The host, without a port.
    Host,
    /// The host as sent, with its port.
    Authority,
    /// Path and query as sent.
    Target,
    /// The same with everything escaped that is not unreserved (RFC 3986 §2.3), `/` and `?` included.
    EscapedTarget,
    /// The path that is matched.
    Path,
    /// The query as sent, without `?`.
    Query,
    /// The method.
    Method,
}
