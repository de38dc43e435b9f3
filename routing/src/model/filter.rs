//! What is checked and done for a request before and beside forwarding it. Plain data; the gateway's exchange runs it.
//!
//! The order is fixed, and is the order of the fields of [`Filters`]: who may come at all, where to, from which page,
//! how much, how much at once, by whose word; then what is done beside, and what follows a failure. The same filters serve
//! annotations of an Ingress and filters of an `HTTPRoute`.

use std::sync::Arc;

use ipnet::IpNet;
use regex::bytes::Regex;

use super::{
    BasicAuth, ExternalAuth, FixedResponse, HeaderEdits, RuleMatch, ValueMatch, ValueRewrites,
    WeightedBackend,
};
use crate::limit::{InFlight, Rate, RateState, Shared};

/// All filters of a rule, in the order in which they run. What is `None` or empty does nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// 1. Who may come: 403 for others.
    pub access: Option<Access>,
    /// 2. Requests that came without TLS are redirected.
    pub https: Option<HttpsRedirect>,
    /// 3. Which certificate the client must have shown: 400 for others.
    pub client: Option<ClientCertificate>,
    /// 4. Cross-origin requests: preflights are answered here, other responses get their headers.
    pub cors: Option<Cors>,
    /// 5. How many requests in a time. The first limit that is reached answers.
    pub rates: Box<[RateLimit]>,
    /// 6. How many requests at once. The first bound that is reached answers.
    pub concurrency: Box<[ConcurrencyLimit]>,
    /// 7. The largest request body, in bytes, judged by `Content-Length`: 413. 0 = any.
    pub body_bytes_max: u64,
    /// Sources that need not prove who they are by 8 and 9 (`satisfy: any`); for all others those decide.
    pub known: Option<Access>,
    /// 8. Who may come by name and password: 401 for others. After everything that is cheap to check.
    pub basic: Option<BasicAuth>,
    /// 9. Who may come by the word of another service: its 401 or 403, or 500 when it says neither yes nor no.
    pub external: Option<Arc<ExternalAuth>>,
    /// 10. What becomes of inner names in the response.
    pub values: Option<Arc<ValueRewrites>>,
    /// Changes to some responses, each after those before it. Part of the header changes.
    pub responses: Box<[Arc<ResponseRule>]>,
    /// 11. Are texts compressed for clients that ask for it?
    pub gzip: bool,
    /// 12. Copies go elsewhere; their answers are not waited for.
    pub mirrors: Box<[Mirror]>,
    /// 13. Where a request goes that its own backends cannot serve, or answer with an error.
    pub fallback: Option<Fallback>,
}

impl Filters {
    /// The backends of all filters. Every field is named: one that comes says here whether it has any.
    pub fn backends(&self) -> impl Iterator<Item = &WeightedBackend> {
        let Self {
            access: _,
            https: _,
            client: _,
            cors: _,
            rates: _,
            concurrency: _,
            body_bytes_max: _,
            known: _,
            basic: _,
            external,
            values: _,
            responses: _,
            gzip: _,
            mirrors,
            fallback,
        } = self;
        let asked = external.iter().flat_map(|external| external.asked.backends());
        let mirrors = mirrors.iter().flat_map(|mirror| &*mirror.backends);
        asked.chain(mirrors).chain(fallback.iter().flat_map(|fallback| &*fallback.backends))
    }
}

/// What is changed in the responses that it is about (ALB's `rule-direction: Response`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseRule {
    /// What must hold for the request.
    pub request: RuleMatch,
    /// Statuses, one of which the response must have; empty = any.
    pub statuses: Box<[u16]>,
    /// Fields, one of each group of which the response must have.
    pub headers: Box<[Box<[ValueMatch]>]>,
    /// What is changed.
    pub edits: HeaderEdits,
}

/// Which source addresses may come. An address that is denied may not, whatever else allows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// If not empty, only these.
    pub allow: Box<[IpNet]>,
    /// Not these.
    pub deny: Box<[IpNet]>,
}

/// Redirects what came without TLS to the same address with `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The port of the location; 443 is not written.
    pub port: u16,
}

/// What a rule asks of the certificate that the client's handshake was made with. A connection whose handshake was made
/// under other terms is misdirected (421): its certificate proves nothing here.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The terms: [`ClientAuth::digest`](super::ClientAuth::digest). `None` = the Secret that says whom to trust cannot be
    /// used: every request is answered 503.
    pub by: Option<[u8; 32]>,
    /// Must there be one?
    pub demand: Demand,
    /// What its subject must match, on the whole.
    pub subject: Option<Regex>,
    /// Where those are sent (302) that have none, or a wrong one.
    pub error_page: Option<Arc<str>>,
    /// Is the backend shown the certificate itself?
    pub passes: bool,
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        let subject = |of: &Self| of.subject.as_ref().map(|regex| regex.as_str().to_owned());
        (self.by, self.demand, self.passes) == (other.by, other.demand, other.passes)
            && self.error_page == other.error_page
            && subject(self) == subject(other)
    }
}

impl Eq for ClientCertificate {}

/// Must a client have a certificate?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Yes, and it must verify.
    Required,
    /// If it has one, that must verify.
    Optional,
    /// The backend is told what was found.
    Reported,
}

/// Cross-origin resource sharing (Fetch standard). An origin that is not listed gets no header: the browser refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Who may ask.
    pub origins: Origins,
    /// `Access-Control-Allow-Methods` of a preflight.
    pub methods: Allowed,
    /// `Access-Control-Allow-Headers` of a preflight.
    pub headers: Allowed,
    /// `Access-Control-Expose-Headers`; empty = none is sent.
    pub expose: Arc<str>,
    /// May cookies be sent? Together with [`Origins::Any`] that is any page's visitors' cookies: only an `HTTPRoute` can say
    /// both, and the page's own origin is answered then, never `*`, which browsers refuse.
    pub credentials: bool,
    /// `Access-Control-Max-Age`, in seconds, as text; empty = none is sent.
    pub max_age: Arc<str>,
}

/// What a preflight is told of methods, or of fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Nothing: what is safelisted is allowed (Fetch standard).
    Safelisted,
    /// Whatever was asked for.
    Asked,
    /// These, as they are sent.
    These(Arc<str>),
}

/// Which origins may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// `*`.
    Any,
    /// Exactly these, in lower case, without the scheme's own port. After `://` there may be `*`, one label or more (Gateway
    /// API), or `?`, just one (ingress-nginx).
    List(Box<[Arc<str>]>),
}

/// A bound of requests in a time, for all workers of the node together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How fast.
    pub rate: Rate,
    /// Whose requests are counted together.
    pub key: RateKey,
    /// Sources that are not counted.
    pub exempt: Box<[IpNet]>,
    /// What the others are answered.
    pub answer: Arc<FixedResponse>,
    /// What the workers share. Two limits are equal whatever stands in it.
    pub state: Shared<RateState>,
}

/// Whose requests a limit counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// All.
    All,
    /// Those of one source address.
    Source,
}

/// A bound of requests in flight, for all workers of the node together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencyLimit {
    /// At most so many.
    pub max: u32,
    /// Whose requests are counted together.
    pub key: RateKey,
    /// Sources that are not counted.
    pub exempt: Box<[IpNet]>,
    /// What the others are answered.
    pub answer: Arc<FixedResponse>,
    /// What the workers share.
    pub state: Shared<InFlight>,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The backend: one, of weight 1.
    pub backends: Box<[WeightedBackend]>,
    /// Share of requests that are copied, in millionths.
    pub share_ppm: u32,
}

/// Where a request goes that its own backends fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The backend: one, of weight 1.
    pub backends: Box<[WeightedBackend]>,
    /// Is it asked when the rule's backends have no usable endpoint?
    pub without_endpoint: bool,
    /// Statuses of the rule's backends that are answered by the fallback instead, for the path `/`.
    pub statuses: Box<[u16]>,
    /// What it is told of the rule, as ingress-nginx names it: fields with their values.
    pub told: Box<[(&'static str, Arc<str>)]>,
}
