//! How the failures of a backend are found: one answer for each backend, however many routes use it.
//!
//! A [`DetectionPart`] is what policies say, laid over each other like the rest of a policy. A backend's is that of
//! the policy on its Service, laid over that of one of its routes: of those whose own policy (on the Gateway, the
//! route, the Ingress) says anything the first by kind, namespace and name, or else what the default policy says.
//! Routes that say something else are told so: see [`choose`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use routing::model::{CheckCodes, CheckProbe, Detection, HealthCheck, HttpAsks};

use super::lay;
use crate::object::ObjectId;
use crate::verdict::{Note, Severity};

/// How often an endpoint is checked unless a policy says otherwise.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Failures in a row that take an endpoint out unless a policy says otherwise.
const UNHEALTHY_THRESHOLD: u32 = 2;
/// Successes in a row that let traffic try it again unless a policy says otherwise.
const HEALTHY_THRESHOLD: u32 = 3;

/// What policies say of detection, checks and failback; `None` = nothing. Equal when they say the same, whoever
/// says it.
#[derive(Clone, Debug, Default)]
pub struct DetectionPart {
    /// `detection.silence`.
    pub silence: Option<bool>,
    /// `detection.errors.percent`.
    pub errors_percent: Option<u8>,
    /// `detection.errors.minimum`.
    pub errors_minimum: Option<u32>,
    /// `detection.errors.window`.
    pub errors_window: Option<Duration>,
    /// `failback.delay`.
    pub delay: Option<Duration>,
    /// `failback.ramp`.
    pub ramp: Option<Duration>,
    /// `healthCheck`, if there is any.
    pub check: Option<CheckPart>,
    /// The policies that said it, the least specific first.
    pub from: Vec<ObjectId>,
    /// Where the most specific of them is attached.
    pub reach: Reach,
}

impl PartialEq for DetectionPart {
    fn eq(&self, other: &Self) -> bool {
        let says = |part: &Self| {
            let errors = (part.errors_percent, part.errors_minimum, part.errors_window);
            (part.silence, errors, part.delay, part.ramp)
        };
        says(self) == says(other) && self.check == other.check
    }
}

impl Eq for DetectionPart {}

/// Where a policy is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// To a Gateway, a route, an Ingress or a Service.
    #[default]
    Attached,
    /// A `GatewayConfig` names it: it holds where no other says anything.
    Default,
}

/// `healthCheck`, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckPart {
    /// `protocol`.
    pub protocol: Option<CheckProtocol>,
    /// `path`, with its query.
    pub path: Option<Arc<str>>,
    /// `host`.
    pub host: Option<Arc<str>>,
    /// `service`.
    pub service: Option<Arc<str>>,
    /// How HTTP is asked, and what is good.
    pub asks: Option<HttpAsks>,
    /// Codes of gRPC that are good.
    pub good: Option<CheckCodes>,
    /// Another port than the endpoint's.
    pub port: Option<u16>,
    /// `interval`.
    pub interval: Option<Duration>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `unhealthyThreshold`.
    pub unhealthy_threshold: Option<u32>,
    /// `healthyThreshold`.
    pub healthy_threshold: Option<u32>,
}

/// What a check speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckProtocol {
    /// A request of HTTP.
    Http,
    /// `grpc.health.v1.Health/Check`.
    Grpc,
    /// A connect.
    Tcp,
}

impl DetectionPart {
    /// Does it say anything?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn lay_over(&mut self, over: &Self) {
        lay(&mut self.silence, &over.silence);
        lay(&mut self.errors_percent, &over.errors_percent);
        lay(&mut self.errors_minimum, &over.errors_minimum);
        lay(&mut self.errors_window, &over.errors_window);
        lay(&mut self.delay, &over.delay);
        lay(&mut self.ramp, &over.ramp);
        if let Some(over) = &over.check {
            let check = self.check.get_or_insert_default();
            lay(&mut check.protocol, &over.protocol);
            lay(&mut check.path, &over.path);
            lay(&mut check.host, &over.host);
            lay(&mut check.service, &over.service);
            lay(&mut check.asks, &over.asks);
            lay(&mut check.good, &over.good);
            lay(&mut check.port, &over.port);
            lay(&mut check.interval, &over.interval);
            lay(&mut check.timeout, &over.timeout);
            lay(&mut check.unhealthy_threshold, &over.unhealthy_threshold);
            lay(&mut check.healthy_threshold, &over.healthy_threshold);
        }
        let new = over.from.iter().filter(|policy| !self.from.contains(policy)).cloned();
        let new: Vec<ObjectId> = new.collect();
        self.from.extend(new);
        self.reach = self.reach.min(over.reach);
    }

    /// With the defaults filled in.
    #[must_use]
    pub fn resolve(&self) -> Detection {
        let mut detection = Detection::default();
        detection.silence = self.silence.unwrap_or(detection.silence);
        let (errors, failback) = (&mut detection.errors, &mut detection.failback);
        errors.percent = self.errors_percent.unwrap_or(errors.percent);
        errors.minimum = self.errors_minimum.unwrap_or(errors.minimum);
        errors.window = self.errors_window.unwrap_or(errors.window);
        failback.delay = self.delay.unwrap_or(failback.delay);
        failback.ramp = self.ramp.unwrap_or(failback.ramp);
        detection.check = self.check.as_ref().map(|check| {
            let interval = check.interval.unwrap_or(CHECK_INTERVAL);
            let probe = match check.protocol.unwrap_or(CheckProtocol::Http) {
                CheckProtocol::Http => CheckProbe::Http {
                    path: check.path.clone().unwrap_or_else(|| Arc::from("/")),
                    host: check.host.clone().unwrap_or_default(),
                    asks: check.asks.unwrap_or_default(),
                },
                CheckProtocol::Grpc => CheckProbe::Grpc {
                    service: check.service.clone().unwrap_or_default(),
                    host: check.host.clone().unwrap_or_default(),
                    good: check.good.unwrap_or_default(),
                },
                CheckProtocol::Tcp => CheckProbe::Tcp,
            };
            Arc::new(HealthCheck {
                probe,
                port: check.port,
                interval,
                timeout: check.timeout.unwrap_or(interval),
                unhealthy_threshold: check.unhealthy_threshold.unwrap_or(UNHEALTHY_THRESHOLD),
                healthy_threshold: check.healthy_threshold.unwrap_or(HEALTHY_THRESHOLD),
            })
        });
        detection
    }
}

/// Lays what a more specific source says over what is there. What only one of them says stays shared.
pub fn overlay(under: &mut Option<Arc<DetectionPart>>, over: Option<&Arc<DetectionPart>>) {
    let Some(over) = over else { return };
    match under {
        None => *under = Some(over.clone()),
        Some(under) => Arc::make_mut(under).lay_over(over),
    }
}

/// The same, as a default policy says it.
#[must_use]
pub fn as_default(part: &Arc<DetectionPart>) -> Arc<DetectionPart> {
    Arc::new(DetectionPart { reach: Reach::Default, ..DetectionPart::clone(part) })
}

/// A route that uses a backend, in the order in which routes are asked: kind as it is written, namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User(String, Arc<str>, Arc<str>);

impl User {
    /// The route `id`.
    #[must_use]
    pub fn new(id: &ObjectId) -> Self {
        Self(id.kind.as_str().to_owned(), id.namespace.clone(), id.name.clone())
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.0, self.1, self.2)
    }
}

/// What routes say of one backend. Routes that say nothing are not listed.
pub type Said = BTreeMap<User, Arc<DetectionPart>>;

/// What holds for the backend `name`, and remarks on the policies that would have it otherwise.
#[must_use]
pub fn choose(
    name: &str,
    said: &Said,
    service: Option<&Arc<DetectionPart>>,
) -> (Arc<DetectionPart>, Vec<(ObjectId, Note)>) {
    let laid = |base: Option<&Arc<DetectionPart>>| {
        let mut part = base.cloned();
        overlay(&mut part, service);
        part.unwrap_or_default()
    };
    let Some((user, base)) = said.iter().min_by_key(|(user, part)| (part.reach, *user)) else {
        return (laid(None), Vec::new());
    };
    let chosen = laid(Some(base));
    let mut notes: BTreeMap<ObjectId, Note> = BTreeMap::new();
    for (loser, part) in said.iter().filter(|(_, part)| !Arc::ptr_eq(part, base)) {
        // A default policy that a more specific one replaces has lost nothing: that is what it is for.
        let Some(policy) = part.from.last().filter(|_| part.reach == base.reach) else { continue };
        let wanted = laid(Some(part));
        if wanted != chosen {
            let reason = format!(
                "ignored for {loser}: its backend {name} is judged as a whole, and {user} comes first{}",
                chosen.from.last().map(|policy| format!(" ({policy})")).unwrap_or_default()
            );
            let field = differing(&wanted, &chosen);
            notes.entry(policy.clone()).or_insert_with(|| Note::new(Severity::Ignored, field, "", reason));
        }
    }
    (chosen, notes.into_iter().collect())
}

/// The first group of fields in which they differ, for reports.
fn differing(a: &DetectionPart, b: &DetectionPart) -> &'static str {
    if a.check != b.check {
        "spec.healthCheck"
    } else if (a.delay, a.ramp) != (b.delay, b.ramp) {
        "spec.failback"
    } else {
        "spec.detection"
    }
}
