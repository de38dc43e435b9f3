//! Why a request goes where it goes: one question and its answer, as data.
//!
//! The same code answers `/api/v1/explain` and `ringway explain --manifests`: the question becomes the bytes of a
//! request, the gateway's own decoder reads them, and the very table is asked. Nothing is sent, nothing counted.

use std::net::{IpAddr, SocketAddr};

use routing::id::BindId;
use routing::model::{HostPattern, PathMatch, Rule, RuleAction, Target, ValuePattern, WildcardLabels};
use routing::subject::{Subject, SubjectKind};
use routing::table::{
    BackendCandidate, ClusterCandidate, EndpointCandidate, Explanation, Strictness, Table, Why,
};
use routing::time::MonoTime;
use serde::{Deserialize, Serialize};
use wire::h1::decode::{self, Decoded};
use wire::h1::limits::HeadLimits;
use wire::head::{RequestHead, RequestView};

/// Longest question, all of its parts together, in bytes.
pub const QUESTION_BYTES_MAX: usize = 16 * 1024;

/// A request to explain.
#[derive(Clone, Debug)]
pub struct Question {
    /// The method, as it would be sent.
    pub method: String,
    /// `http://host[:port]/path?query`, or the same without the scheme.
    pub url: String,
    /// Further header lines: name and value. `Host` replaces the URL's.
    pub headers: Vec<(String, String)>,
    /// The client's address: pins and hashes by source look at it.
    pub source: IpAddr,
}

/// Did a candidate win?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is chosen, or takes part in the choice.
    Chosen,
    /// It is not; the reason stands beside it.
    Lost,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The generation of the table that was asked.
    pub generation: u64,
    /// The socket on which the request was taken to arrive.
    pub bind: String,
    /// The listeners of that socket that own the host.
    pub listeners: Vec<String>,
    /// Said where the URL's port is not served by any listener.
    pub remark: Option<String>,
    /// The host that was matched: lower case, no port.
    pub host: String,
    /// The path that was matched: normalised.
    pub path: String,
    /// The rule; `None` = 404, for the reason in `no_rule`.
    pub rule: Option<RuleAnswer>,
    /// Why no rule was found.
    pub no_rule: Option<String>,
    /// Every rule that was looked at, in order.
    pub rules: Vec<RuleCandidate>,
    /// Rules beyond those listed.
    pub rules_left_out: usize,
    /// The cluster that the request is pinned to.
    pub pin: Option<PinAnswer>,
    /// The rule's backends.
    pub backends: Vec<BackendAnswer>,
}

/// The rule that serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleAnswer {
    /// Its route: `Ingress namespace/name` or `HTTPRoute namespace/name`.
    pub route: String,
    /// Its index in the route.
    pub rule: u16,
    /// What had to hold.
    pub matches: String,
    /// What is done.
    pub action: String,
}

/// A rule that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleCandidate {
    /// Its route.
    pub route: String,
    /// Its index in the route.
    pub rule: u16,
    /// Did it win?
    pub verdict: Verdict,
    /// Why not; empty for the winner.
    pub reason: String,
}

/// A pin that holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PinAnswer {
    /// The cluster.
    pub cluster: String,
    /// `strict`, or `falls back` to all clusters when that one cannot serve.
    pub mode: String,
}

/// One backend of the rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendAnswer {
    /// `namespace/service:port`; empty for a reference that cannot be resolved.
    pub name: String,
    /// Its weight in the rule.
    pub weight: u32,
    /// How likely a first attempt goes here, percent.
    pub percent: f64,
    /// Does it take part?
    pub verdict: Verdict,
    /// Why not.
    pub reason: String,
    /// The clusters of the plan.
    pub clusters: Vec<ClusterAnswer>,
}

/// One cluster of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterAnswer {
    /// Its name.
    pub name: String,
    /// Its priority; 0 = active.
    pub priority: u8,
    /// Its weight; `None` = in proportion to its usable endpoints.
    pub weight: Option<u32>,
    /// Ready endpoints.
    pub ready: u32,
    /// Terminating endpoints.
    pub terminating: u32,
    /// Endpoints that are suspected, ejected or down.
    #[serde(default)]
    pub out: u32,
    /// What the failure detector says of the cluster: `healthy`, `suspect`, `down (REASON)`, `probation`, `ramp`.
    #[serde(default)]
    pub cluster_state: String,
    /// What it says of the backend in this cluster.
    #[serde(default)]
    pub backend_state: String,
    /// How likely an attempt on this backend goes here, percent.
    pub percent: f64,
    /// Does it take part?
    pub verdict: Verdict,
    /// Why not.
    pub reason: String,
    /// Where it stands among the clusters, in words; empty without an endpoint.
    pub rank: String,
    /// Its endpoints.
    pub endpoints: Vec<EndpointAnswer>,
    /// Endpoints beyond those listed.
    pub endpoints_left_out: usize,
}

/// One endpoint of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointAnswer {
    /// Where it is reached.
    pub addr: String,
    /// Does it take part?
    pub verdict: Verdict,
    /// Why not.
    pub reason: String,
}

/// Asks `table`. `limits`: as the listeners decode heads.
///
/// # Errors
/// What is wrong with the question, or that no listener is there to receive the request.
pub fn answer(
    table: &Table,
    limits: &HeadLimits,
    question: &Question,
    now: MonoTime,
) -> Result<Answer, String> {
    let target = Place::parse(question)?;
    let bytes = target.request(question);
    let mut head = RequestHead::default();
    match decode::request(&bytes, limits, &mut head) {
        Ok(Decoded::Complete) => {}
        Ok(Decoded::Partial) => return Err("the request is not complete".to_owned()),
        Err(fault) => return Err(format!("the gateway refuses this request: {fault} ({})", fault.status())),
    }
    let view = RequestView { head: &head, bytes: &bytes };
    let (binds, remark) = binds(table, target.port)?;
    let explain = |(bind, addr): &(BindId, SocketAddr)| {
        let subject =
            Subject { bind: *bind, peer: (question.source, 0).into(), kind: SubjectKind::Http(view) };
        (*addr, table.explain(&subject, now))
    };
    let first_that_serves = binds.iter().map(explain).find(|(_, explanation)| explanation.rule.is_ok());
    let (addr, explanation) =
        first_that_serves.or_else(|| binds.first().map(explain)).ok_or("no listener")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let chosen = explanation.rule.as_ref().ok();
    Ok(Answer {
        generation: explanation.generation.0,
        bind: addr.to_string(),
        listeners: explanation.listeners.iter().map(ToString::to_string).collect(),
        remark: remark.map(|remark| format!("{remark}; explained as if it came to {addr}")),
        host: text(view.host()),
        path: text(view.path()),
        rule: chosen.map(|rule| RuleAnswer {
            route: rule.action().route.to_string(),
            rule: rule.action().rule_index,
            matches: conditions(rule.matches()),
            action: action(table, rule.action()),
        }),
        no_rule: explanation.rule.as_ref().err().map(ToString::to_string),
        rules: explanation.rules.iter().map(rule_candidate).collect(),
        rules_left_out: explanation.rules_left_out,
        pin: pin(&explanation),
        backends: explanation.backends.iter().map(backend).collect(),
    })
}

// ---------------------------------------------------------------- the question

/// The parts of a URL that matter.
struct Place<'a> {
    authority: &'a str,
    path: &'a str,
    port: Port,
}

/// The port that the request would go to.
#[derive(Clone, Copy)]
enum Port {
    /// Written in the URL.
    Written(u16),
    /// The scheme's own.
    Default(u16),
}

impl<'a> Place<'a> {
    fn parse(question: &'a Question) -> Result<Self, String> {
        let Question { method, url, headers, .. } = question;
        let parts = headers.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        let mut size = 0;
        for part in parts.chain([method.as_str(), url.as_str()]) {
            // A line of our own making must not become two.
            if part.chars().any(char::is_control) {
                return Err(format!("{part:?} holds a control character"));
            }
            size += part.len();
        }
        if size > QUESTION_BYTES_MAX {
            return Err(format!("more than {QUESTION_BYTES_MAX} bytes of question"));
        }
        let (scheme_port, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (80, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (443, rest),
            Some((scheme, _)) => return Err(format!("scheme {scheme:?}: expected http or https")),
            None => (80, url.as_str()),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let authority = host.map_or(authority, |(_, value)| value.as_str());
        if authority.is_empty() {
            return Err(format!("{url:?} names no host: expected http://HOST/PATH"));
        }
        let written = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Ok(Self { authority, path, port: written.map_or(Port::Default(scheme_port), Port::Written) })
    }

    /// The request as a client would send it.
    fn request(&self, question: &Question) -> Vec<u8> {
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let mut text =
            format!("{} {slash}{} HTTP/1.1\r\nHost: {}\r\n", question.method, self.path, self.authority);
        for (name, value) in &question.headers {
            if !name.eq_ignore_ascii_case("host") {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

type Sockets = Vec<(BindId, SocketAddr)>;

/// The sockets that the request may arrive at: those of its port, or all when none has it.
fn binds(table: &Table, port: Port) -> Result<(Sockets, Option<String>), String> {
    let mut all: Vec<_> = table.listeners().iter().map(|view| (view.spec.bind, view.spec.addr)).collect();
    all.sort_unstable_by_key(|(_, addr)| *addr);
    all.dedup();
    if all.is_empty() {
        return Err("there is no listener: no Ingress or Gateway asks for one".to_owned());
    }
    let (Port::Written(number) | Port::Default(number)) = port;
    let on_port: Vec<_> = all.iter().copied().filter(|(_, addr)| addr.port() == number).collect();
    match (on_port.is_empty(), port) {
        (false, Port::Written(_) | Port::Default(_)) => Ok((on_port, None)),
        (true, Port::Written(_) | Port::Default(_)) => {
            Ok((all, Some(format!("no listener has port {number}"))))
        }
    }
}

// ---------------------------------------------------------------- the answer

fn split(why: &Why) -> (Verdict, String) {
    match why {
        Why::Chosen => (Verdict::Chosen, String::new()),
        Why::Lost(reason) => (Verdict::Lost, reason.clone()),
    }
}

fn rule_candidate(rule: &routing::table::RuleCandidate) -> RuleCandidate {
    let (verdict, reason) = split(&rule.why);
    RuleCandidate { route: rule.route.to_string(), rule: rule.rule_index, verdict, reason }
}

fn pin(explanation: &Explanation) -> Option<PinAnswer> {
    explanation.pin.as_ref().map(|(cluster, strictness)| PinAnswer {
        cluster: cluster.to_string(),
        mode: match strictness {
            Strictness::FallsBack => "falls back".to_owned(),
            Strictness::Strict => "strict".to_owned(),
        },
    })
}

fn backend(candidate: &BackendCandidate) -> BackendAnswer {
    let (verdict, reason) = split(&candidate.why);
    BackendAnswer {
        name: candidate.name.to_string(),
        weight: candidate.weight,
        percent: candidate.probability * 100.0,
        verdict,
        reason,
        clusters: candidate.clusters.iter().map(cluster).collect(),
    }
}

fn cluster(candidate: &ClusterCandidate) -> ClusterAnswer {
    let (verdict, reason) = split(&candidate.why);
    let [ready, terminating, out] = candidate.counts;
    let (cluster, backend) = candidate.states;
    ClusterAnswer {
        name: candidate.name.to_string(),
        priority: candidate.priority,
        weight: candidate.weight,
        ready,
        terminating,
        out,
        cluster_state: cluster.to_string(),
        backend_state: backend.to_string(),
        percent: candidate.probability * 100.0,
        verdict,
        reason,
        rank: candidate.rank.map(|rank| rank.to_string()).unwrap_or_default(),
        endpoints: candidate.endpoints.iter().map(endpoint).collect(),
        endpoints_left_out: candidate.endpoints_left_out,
    }
}

fn endpoint(candidate: &EndpointCandidate) -> EndpointAnswer {
    let (verdict, reason) = split(&candidate.why);
    EndpointAnswer { addr: candidate.addr.to_string(), verdict, reason }
}

// ---------------------------------------------------------------- rules in words

/// A host pattern as people write it.
pub(super) fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard { suffix, labels: WildcardLabels::Many | WildcardLabels::One } => {
            format!("*.{suffix}")
        }
    }
}

/// A rule's conditions.
pub(super) fn conditions(matches: &routing::model::RuleMatch) -> String {
    let mut text = match &matches.path {
        PathMatch::Exact(path) => format!("path = {path}"),
        PathMatch::Prefix(path) => format!("path below {path}"),
        PathMatch::Regex(regex) => format!("path ~ {}", regex.as_str()),
    };
    if let Some(method) = matches.method {
        text.push_str(&format!(", method {}", format!("{method:?}").to_uppercase()));
    }
    for (what, list) in [("header", &matches.headers), ("query", &matches.query)] {
        for condition in list {
            let (sign, value) = match &condition.value {
                ValuePattern::Exact(value) => ('=', &**value),
                ValuePattern::Regex(regex) => ('~', regex.as_str()),
            };
            text.push_str(&format!(", {what} {} {sign} {value}", condition.name));
        }
    }
    text
}

/// What a rule does.
pub(super) fn action(table: &Table, action: &RuleAction) -> String {
    match &action.target {
        Target::Forward(backends) => {
            let named = backends.iter().map(|weighted| {
                let name = weighted.backend.map_or("(unresolved: 500)", |id| table.backend_name(id));
                if backends.len() == 1 {
                    name.to_owned()
                } else {
                    format!("{name} weight {}", weighted.weight)
                }
            });
            format!("forward to {}", named.collect::<Vec<_>>().join(", "))
        }
        Target::Redirect(redirect) => {
            let part = |text: &Option<std::sync::Arc<str>>, default: &str| {
                text.as_deref().unwrap_or(default).to_owned()
            };
            let port = redirect.port.map(|port| format!(":{port}")).unwrap_or_default();
            let (scheme, host) = (part(&redirect.scheme, "(scheme)"), part(&redirect.hostname, "(host)"));
            format!("redirect {} to {scheme}://{host}{port}", redirect.status)
        }
        Target::Reply { status, reason } => format!("reply {status}: {reason}"),
        Target::Fixed(answer) => format!("reply {} {}", answer.status, answer.location),
    }
}

/// One line for a rule in a list.
pub(super) fn line(table: &Table, rule: &Rule) -> (String, String) {
    (conditions(&rule.matches), action(table, &rule.action))
}
