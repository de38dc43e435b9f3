//! What a `FailoverPolicy` says, field by field. A field that is wrong is reported with what is allowed, and says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use routing::model::{Established, HedgeMode, PinMatch, WriteFence};

use super::Part;
use super::detection::{CheckPart, CheckProtocol, DetectionPart};
use crate::crd::{self, FailoverPolicySpec, PinWhen, PolicyCluster};
use crate::merge::Member;
use crate::object::ObjectId;
use crate::text;
use crate::verdict::Notes;

/// Keeps the value, or says what is allowed.
fn checked<T, U: std::fmt::Display + Clone>(
    notes: &mut Notes,
    field: &str,
    given: Option<U>,
    parse: impl FnOnce(U) -> Result<T, String>,
) -> Option<T> {
    let given = given?;
    match parse(given.clone()) {
        Ok(value) => Some(value),
        Err(allowed) => {
            notes.refused_part(field, given, format!("allowed: {allowed}"));
            None
        }
    }
}

/// Pins of one policy.
pub const PINS_MAX: usize = 64;
/// Statuses of one retry policy.
pub const STATUSES_MAX: usize = 32;
/// The shortest time between two checks of an endpoint, and the shortest window of an error ratio.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The shortest time that a check may wait.
const CHECK_TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The longest time between two checks, and the longest that one may wait.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The longest window of an error ratio.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// The longest failback delay and ramp.
const FAILBACK_MAX: Duration = Duration::from_secs(3600);
/// The most failures that an error ratio may wait for.
const MINIMUM_MAX: i64 = 1_000_000;
/// The most checks in a row that a verdict may wait for.
const THRESHOLD_MAX: i64 = 100;

/// What the policy `id` says. A field that is wrong is reported and says nothing.
pub fn read(
    id: &ObjectId,
    spec: &FailoverPolicySpec,
    members: &BTreeMap<Arc<str>, Member>,
    notes: &mut Notes,
) -> Part {
    let mut part = Part { order: spec.order, ..Part::default() };
    if let Some(clusters) = &spec.clusters {
        read_clusters(clusters, members, &mut part, notes);
    }
    if let Some(pins) = &spec.pins {
        let mut read = Vec::new();
        for (index, pin) in pins.iter().enumerate() {
            let field = format!("spec.pins[{index}]");
            if index >= PINS_MAX {
                notes.refused_part(field, "", format!("at most {PINS_MAX} pins"));
                break;
            }
            if !members.contains_key(pin.cluster.as_str()) {
                notes.refused_part(format!("{field}.cluster"), &pin.cluster, "no such member cluster");
                continue;
            }
            match read_when(&pin.when) {
                Ok(when) => read.push((when, Arc::from(pin.cluster.as_str()), pin.strict)),
                Err(allowed) => {
                    notes.refused_part(format!("{field}.when"), "", format!("allowed: {allowed}"));
                }
            }
        }
        part.pins = Some(read);
    }
    read_retry(spec, &mut part, notes);
    if let Some(timeouts) = &spec.timeouts {
        let mut read = |name: &str, given: &Option<String>| {
            checked(notes, &format!("spec.timeouts.{name}"), given.as_deref(), text::duration)
        };
        part.connect = read("connect", &timeouts.connect);
        part.attempt = read("attempt", &timeouts.attempt);
        part.request = read("request", &timeouts.request);
        part.idle = read("idle", &timeouts.idle);
    }
    part.balance = checked(notes, "spec.loadBalance", spec.load_balance.as_deref(), text::balance);
    read_choice(spec, &mut part, notes);
    part.detection = read_detection(id, spec, notes);
    part
}

fn read_clusters(
    clusters: &[PolicyCluster],
    members: &BTreeMap<Arc<str>, Member>,
    part: &mut Part,
    notes: &mut Notes,
) {
    let (mut weights, mut priorities) = (BTreeMap::new(), BTreeMap::new());
    let mut sets_priority = false;
    for (index, cluster) in clusters.iter().enumerate() {
        let field = format!("spec.clusters[{index}]");
        let Some((name, _)) = members.get_key_value(cluster.name.as_str()) else {
            notes.ignored(format!("{field}.name"), &cluster.name, "no such member cluster");
            continue;
        };
        if priorities.contains_key(name) {
            notes.refused_part(format!("{field}.name"), name, "listed twice: the first entry is used");
            continue;
        }
        let weight = checked(notes, &format!("{field}.weight"), cluster.weight, |w| {
            text::bounded(w, 0, text::WEIGHT_MAX)
        });
        let priority =
            checked(notes, &format!("{field}.priority"), cluster.priority, |p| text::bounded(p, 0, 255));
        sets_priority |= priority.is_some();
        priorities.insert(name.clone(), priority.unwrap_or(0));
        weight.map(|weight| weights.insert(name.clone(), weight));
    }
    part.weights = (!weights.is_empty()).then_some(weights);
    part.priorities = sets_priority.then_some(priorities);
}

fn read_when(when: &PinWhen) -> Result<PinMatch, String> {
    let given =
        [when.header.is_some(), when.cookie.is_some(), when.query.is_some(), when.source_cidr.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err("exactly one of header, cookie, query, sourceCIDR".to_owned());
    }
    if let Some(header) = &when.header {
        Ok(PinMatch::Header(text::header_name(&header.name)?, text::value(&header.value)?))
    } else if let Some(cookie) = &when.cookie {
        Ok(PinMatch::Cookie(text::cookie_name(&cookie.name)?, text::value(&cookie.value)?))
    } else if let Some(query) = &when.query {
        Ok(PinMatch::Query(text::query_name(&query.name)?, text::value(&query.value)?))
    } else {
        let cidr = when.source_cidr.as_deref().unwrap_or_default();
        cidr.parse().map(PinMatch::SourceCidr).map_err(|_| "a range such as 10.0.0.0/8".to_owned())
    }
}

fn read_retry(spec: &FailoverPolicySpec, part: &mut Part, notes: &mut Notes) {
    if let Some(detection) = &spec.detection {
        let field = "spec.detection.consecutiveFailures";
        part.consecutive_failures =
            checked(notes, field, detection.consecutive_failures, |n| text::bounded(n, 0, 255));
    }
    let Some(retry) = &spec.retry else { return };
    part.attempts = checked(notes, "spec.retry.attempts", retry.attempts, |n| text::bounded(n, 1, 10));
    part.budget_percent =
        checked(notes, "spec.retry.budgetPercent", retry.budget_percent, |n| text::bounded(n, 0, 100));
    part.body_bytes_max =
        checked(notes, "spec.retry.maxBodyBytes", retry.max_body_bytes, |n| text::bounded(n, 0, 1 << 20));
    part.non_idempotent = retry.non_idempotent;
    part.statuses =
        retry.statuses.as_deref().map(|statuses| read_statuses(statuses, "spec.retry.statuses", notes));
    part.grpc_codes = retry.grpc_codes.as_ref().map(|names| {
        let read = names
            .iter()
            .filter_map(|name| checked(notes, "spec.retry.grpcCodes", Some(name.as_str()), text::grpc_code));
        read.collect()
    });
}

/// Statuses that are tried again.
pub fn read_statuses(statuses: &[i64], field: &str, notes: &mut Notes) -> Vec<u16> {
    let mut read = BTreeSet::new();
    for status in statuses {
        let parsed = checked(notes, field, Some(*status), |s| text::bounded(s, 400, 599));
        if let Some(status) = parsed.filter(|_| read.len() < STATUSES_MAX) {
            read.insert(status);
        }
    }
    read.into_iter().collect()
}

/// What is decided for each request.
fn read_choice(spec: &FailoverPolicySpec, part: &mut Part, notes: &mut Notes) {
    let mut percent = |field: &str, given: Option<i64>| {
        checked(notes, field, given, |percent| text::bounded(percent, 0, 100))
    };
    part.spill_percent =
        percent("spec.spill.healthyPercent", spec.spill.as_ref().map(|spill| spill.healthy_percent));
    part.panic_percent =
        percent("spec.panic.usablePercent", spec.panic.as_ref().map(|panic| panic.usable_percent));
    let priority = spec.capacity.as_ref().and_then(|capacity| capacity.route_priority);
    part.route_priority =
        checked(notes, "spec.capacity.routePriority", priority, |p| text::bounded(p, 0, 255));
    part.hedge = spec.hedge.as_ref().map(|hedge| match hedge.mode {
        crd::HedgeMode::Disabled => HedgeMode::Disabled,
        crd::HedgeMode::Suspect => HedgeMode::Suspect,
        crd::HedgeMode::Always => HedgeMode::Always,
    });
    part.write_fence = spec.write_fence.map(|fence| match fence {
        crd::WriteFence::Disabled => WriteFence::Disabled,
        crd::WriteFence::UntilPromoted => WriteFence::UntilPromoted,
    });
    part.established = spec.established.map(|established| match established {
        crd::Established::Reset => Established::Reset,
        crd::Established::Keep => Established::Keep,
    });
}

/// What is judged for all requests of a backend together; `None` when nothing is said.
fn read_detection(id: &ObjectId, spec: &FailoverPolicySpec, notes: &mut Notes) -> Option<Arc<DetectionPart>> {
    let mut part = DetectionPart::default();
    if let Some(detection) = &spec.detection {
        part.silence = detection.silence;
        if let Some(errors) = &detection.errors {
            let field = |name: &str| format!("spec.detection.errors.{name}");
            part.errors_percent =
                checked(notes, &field("percent"), errors.percent, |n| text::bounded(n, 0, 100));
            part.errors_minimum =
                checked(notes, &field("minimum"), errors.minimum, |n| text::bounded(n, 1, MINIMUM_MAX));
            part.errors_window = checked(notes, &field("window"), errors.window.as_deref(), |window| {
                text::duration_between(window, INTERVAL_MIN, WINDOW_MAX)
            });
        }
    }
    if let Some(failback) = &spec.failback {
        let mut read = |name: &str, given: &Option<String>| {
            checked(notes, &format!("spec.failback.{name}"), given.as_deref(), |text| {
                text::duration_between(text, Duration::ZERO, FAILBACK_MAX)
            })
        };
        part.delay = read("delay", &failback.delay);
        part.ramp = read("ramp", &failback.ramp);
    }
    part.check = spec.health_check.as_ref().and_then(|check| read_check(check, notes));
    if part.is_empty() {
        return None;
    }
    part.from.push(id.clone());
    Some(Arc::new(part))
}

/// A check that would ask something else than what was meant is not made at all: it would take healthy endpoints out.
fn read_check(check: &crd::HealthCheck, notes: &mut Notes) -> Option<CheckPart> {
    let field = |name: &str| format!("spec.healthCheck.{name}");
    let protocol = match check.protocol.as_deref() {
        None => None,
        Some("HTTP") => Some(CheckProtocol::Http),
        Some("TCP") => Some(CheckProtocol::Tcp),
        Some("GRPC") => Some(CheckProtocol::Grpc),
        Some(other) => {
            notes.refused_part(field("protocol"), other, "allowed: HTTP, GRPC, TCP; no check is made");
            return None;
        }
    };
    let mut ask = |name: &str, given: &Option<String>, parse: fn(&str) -> Result<Arc<str>, String>| {
        let parse = |text: &str| parse(text).map_err(|allowed| format!("{allowed}; no check is made"));
        let read = checked(notes, &field(name), given.as_deref(), parse);
        if read.is_none() && given.is_some() { Err(()) } else { Ok(read) }
    };
    let (path, host) =
        (ask("path", &check.path, text::check_path), ask("host", &check.host, text::check_host));
    let service = ask("service", &check.service, text::grpc_service);
    let (Ok(path), Ok(host), Ok(service)) = (path, host, service) else { return None };
    if protocol == Some(CheckProtocol::Grpc) && path.is_some() {
        notes.ignored(field("path"), "", "a check of GRPC asks grpc.health.v1.Health");
    }
    if protocol != Some(CheckProtocol::Grpc) && service.is_some() {
        notes.ignored(field("service"), "", "it belongs to protocol GRPC");
    }
    if protocol == Some(CheckProtocol::Tcp) && (path.is_some() || host.is_some()) {
        notes.ignored(field("protocol"), "TCP", "a connect asks for no path and no host");
    }
    let mut time = |name: &str, given: &Option<String>, min: Duration| {
        checked(notes, &field(name), given.as_deref(), |text| {
            text::duration_between(text, min, CHECK_INTERVAL_MAX)
        })
    };
    let interval = time("interval", &check.interval, INTERVAL_MIN);
    let timeout = time("timeout", &check.timeout, CHECK_TIMEOUT_MIN);
    let mut count = |name: &str, given: Option<i64>| {
        checked(notes, &field(name), given, |n| text::bounded(n, 1, THRESHOLD_MAX))
    };
    let unhealthy_threshold = count("unhealthyThreshold", check.unhealthy_threshold);
    let healthy_threshold = count("healthyThreshold", check.healthy_threshold);
    Some(CheckPart {
        protocol,
        path,
        host,
        service,
        interval,
        timeout,
        unhealthy_threshold,
        healthy_threshold,
        ..CheckPart::default()
    })
}
