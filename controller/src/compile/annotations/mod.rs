//! Annotations of Ingresses and routes. Each one of a family that we know gets a verdict: honoured, honoured with a
//! difference, ignored and why, or refused with what is allowed. What is wrong says nothing; the rest holds.
//!
//! [`registry`] says what there is, [`given`] which of it an object carries; the other modules read one family of
//! purposes each. They hold for the Ingress that carries them, also where the documentation of MSE calls them
//! service-scoped. There is no text template anywhere: what is not plainly allowed is refused.

mod access;
mod address;
mod alb;
mod checks;
mod external;
pub mod given;
mod heads;
mod ours;
mod protect;
pub mod registry;
mod rewrites;
mod serving;
mod spoken;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::limit::Rate;
use routing::model::{
    Access, Application, Cors, FixedResponse, HeaderEdits, HttpsRedirect, Method, Predicate, RateKey,
    ValueRewrites,
};

use self::given::Given;
use crate::compile::policy::Part;
use crate::compile::transport::TransportPart;
use crate::merge::{Member, PortRef};
use crate::object::ObjectId;
use crate::text::Regexes;
use crate::verdict::Notes;
use crate::world::ServiceName;

pub(crate) use self::access::ranges;
pub use self::address::{Address, Matching, escaped};
pub use self::alb::{Forward, ServiceRule};
pub(crate) use self::external::field_value;
pub use self::external::{Asked, ExternalSpec};
pub(crate) use self::heads::{origins, tokens};
pub(crate) use self::protect::secret_name;
pub use self::protect::{BasicSpec, ClientSpec, SecretForm, TermsSpec};
pub use self::traffic::{CanaryWhen, CanaryWord, Destination};

/// What annotations are read with.
pub struct Reading<'a> {
    /// Whose they are.
    pub id: &'a ObjectId,
    /// Clusters by name.
    pub members: &'a BTreeMap<Arc<str>, Member>,
    /// Compiled patterns.
    pub regexes: &'a mut Regexes,
}

/// What the annotations of one object say.
#[derive(Debug, Default)]
pub struct Annotations {
    /// Policy.
    pub part: Part,
    /// `ringway.dev/rewrite-prefix`, `rewrite-path`.
    pub rewrite_prefix: Option<Arc<str>>,
    /// Hosts, paths, redirects.
    pub address: Address,
    /// Further conditions of every rule.
    pub more: Vec<Predicate>,
    /// `match-method`.
    pub methods: Vec<Method>,
    /// `canary` and its kin.
    pub canary: Option<Canary>,
    /// `subset-labels` with `service-subset`: the cluster whose endpoints come first.
    pub cluster: Option<Arc<str>>,
    /// `destination`.
    pub destinations: Vec<Destination>,
    /// `default-backend`.
    pub default_backend: Option<Arc<str>>,
    /// `custom-http-errors`.
    pub error_statuses: Vec<u16>,
    /// Changes to the request.
    pub request_headers: HeaderEdits,
    /// Changes to the response.
    pub response_headers: HeaderEdits,
    /// `backend-protocol` and `proxy-ssl-*`.
    pub transport: Option<Arc<TransportPart>>,
    /// What is checked.
    pub checks: Checks,
    /// `mirror-target-service`: where (`None` = the first port), and what share in millionths.
    pub mirror: Option<(ServiceName, Option<PortRef>, u32)>,
    /// Why every rule answers 503: something that protects it cannot be honoured.
    pub closed: Option<Arc<str>>,
    /// `order`; 10 where nothing is said.
    pub order: Option<u16>,
    /// `listen-ports`.
    pub ports: Option<Vec<u16>>,
    /// `conditions.SERVICE` and `actions.SERVICE`.
    pub services: BTreeMap<String, ServiceRule>,
}

/// What filters check.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// Source ranges.
    pub access: Option<Access>,
    /// `satisfy: any`: is who comes from these ranges asked for nothing else?
    pub any_suffices: bool,
    /// `ssl-redirect`, `force-ssl-redirect`.
    pub https: Option<HttpsRedirect>,
    /// `enable-cors` and its kin.
    pub cors: Option<Cors>,
    /// Requests in a time.
    pub rates: Vec<RateSpec>,
    /// Requests at once.
    pub concurrency: Vec<ConcurrencySpec>,
    /// Source ranges of the whole host: `domain-whitelist-source-range`, `domain-blacklist-source-range`.
    pub domain: Option<Access>,
    /// `proxy-body-size`.
    pub body_bytes_max: u64,
    /// `auth-tls-secret` and its kin.
    pub client: Option<ClientSpec>,
    /// `tls-min-protocol-version` and its kin.
    pub terms: Option<TermsSpec>,
    /// `ringway.dev/alpn`; empty = the node's own choice.
    pub alpn: Box<[Application]>,
    /// `proxy-redirect-from` and its kin.
    pub values: Option<Arc<ValueRewrites>>,
    /// `enable-gzip`.
    pub gzip: Option<bool>,
    /// `auth-type` and its kin.
    pub basic: Option<BasicSpec>,
    /// `auth-url` and its kin.
    pub external: Option<ExternalSpec>,
    /// `custom-headers`: the ConfigMap with fields of responses, by namespace and name.
    pub custom_headers: Option<(Arc<str>, Arc<str>)>,
}

/// One rate limit.
#[derive(Clone, Debug)]
pub struct RateSpec {
    /// The annotation: with the rule it names the state that workers share.
    pub name: &'static str,
    /// How fast.
    pub rate: Rate,
    /// Whose requests count together.
    pub key: RateKey,
    /// Is it one limit for the whole Ingress, or one for each of its rules?
    pub scope: RateScope,
    /// Sources that do not count.
    pub exempt: Vec<ipnet::IpNet>,
    /// What the others are answered.
    pub answer: Arc<FixedResponse>,
}

/// One bound of requests at once.
#[derive(Clone, Debug)]
pub struct ConcurrencySpec {
    /// The annotation: with the rule it names the state that workers share.
    pub name: &'static str,
    /// At most so many.
    pub max: u32,
    /// Whose requests count together.
    pub key: RateKey,
    /// What is counted together.
    pub scope: RateScope,
    /// Sources that do not count.
    pub exempt: Vec<ipnet::IpNet>,
    /// What the others are answered.
    pub answer: Arc<FixedResponse>,
}

/// What one limit covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateScope {
    /// All rules of the Ingress together.
    Ingress,
    /// Each rule by itself.
    Rule,
    /// All rules of the Ingress with the same Service.
    Service,
}

/// A canary: which requests of another Ingress's rule go to this one's backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canary {
    /// By header, query and cookie, in this order of precedence.
    pub when: Vec<CanaryWhen>,
    /// Of the others so many…
    pub weight: u32,
    /// …of so many.
    pub total: u32,
    /// `affinity-canary-behavior: legacy`: sessions of the other Ingress decide nothing between the two.
    pub legacy_sessions: bool,
}

/// Reads annotations. One that is wrong is reported and says nothing.
pub fn read(
    annotations: &BTreeMap<String, String>,
    reading: &mut Reading<'_>,
    notes: &mut Notes,
) -> Annotations {
    let mut out = Annotations::default();
    ours::read(annotations, reading.members, &mut out, notes);
    let mut given = Given::new(annotations, notes);
    if given.is_empty() {
        return out;
    }
    address::read(&mut given, reading, &mut out);
    alb::read(&mut given, reading, &mut out);
    traffic::read(&mut given, reading, &mut out);
    heads::read(&mut given, reading, &mut out);
    rewrites::read(&mut given, reading, &mut out);
    serving::read(&mut given, reading, &mut out);
    spoken::read(&mut given, reading, &mut out);
    access::read(&mut given, reading, &mut out);
    protect::read(&mut given, reading, &mut out);
    external::read(&mut given, reading, &mut out);
    given.finish(&mut out);
    out
}

/// Reads the annotations of a route of the Gateway API: ours. Those of the families belong on Ingresses.
pub fn read_of_route(
    annotations: &BTreeMap<String, String>,
    reading: &mut Reading<'_>,
    notes: &mut Notes,
) -> Annotations {
    let mut out = Annotations::default();
    ours::read(annotations, reading.members, &mut out, notes);
    if !std::mem::take(&mut out.checks.alpn).is_empty() {
        let reason = "ignored: on the Gateway's listener, as tls.options[ringway.dev/alpn]";
        notes.ignored(given::field("ringway.dev/alpn"), "", reason);
    }
    for (name, value) in annotations {
        let is_known = registry::Family::PREFIXES.iter().any(|(prefix, _)| name.starts_with(prefix));
        if is_known {
            notes.ignored(
                given::field(name),
                value,
                "ignored: annotations of Ingresses mean nothing on routes",
            );
        }
    }
    out
}
