//! What the flight recorder leaves behind: one JSON file for each failover that a worker decided,
//! `DIR/UNIX_MS-CLUSTER-wWORKER.json`, the newest so many. Made and written by a thread of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::Config;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use routing::health::action::{Origin, ProbeResult};
use routing::health::endpoint::Outcome;
use routing::id::{BackendId, ClusterId};
use routing::retry::{Charge, FailureKind};
use routing::table::EndpointKey;
use routing::time::MonoTime;
use serde::{Deserialize, Serialize};

use super::newest;
use super::recorder::{Entry, Trigger, What, Whom};

/// Windows that wait to be written, all workers together. Beyond it they are dropped and counted as `recordings`.
pub const WINDOWS_CAP: usize = 8;

/// What a worker hands over.
pub struct Window {
    /// Its number.
    pub worker: u16,
    /// The verdicts, in order; at least one.
    pub triggers: Vec<Trigger>,
    /// What happened around them, in order.
    pub entries: Vec<Entry>,
    /// Names of what occurs.
    pub names: Names,
    /// The same moment on both clocks.
    pub clocks: (MonoTime, SystemTime),
}

/// What the worker's table called things.
#[derive(Debug, Default)]
pub struct Names {
    /// Clusters.
    pub clusters: BTreeMap<ClusterId, String>,
    /// Backends: `namespace/service:port`.
    pub backends: BTreeMap<BackendId, String>,
    /// Endpoints: where they are reached, their backend, their cluster.
    pub endpoints: BTreeMap<(u32, u32), (String, BackendId, ClusterId)>,
}

impl Names {
    /// What an endpoint is filed under.
    #[must_use]
    pub fn key(endpoint: EndpointKey) -> (u32, u32) {
        (endpoint.slot, endpoint.turn)
    }

    fn endpoint(&self, key: EndpointKey) -> String {
        let known = self.endpoints.get(&Self::key(key));
        known.map_or_else(|| "left".to_owned(), |(addr, ..)| addr.clone())
    }

    fn place(&self, whom: Whom) -> Place {
        let known = whom.endpoint.and_then(|endpoint| self.endpoints.get(&Self::key(endpoint)));
        let cluster = whom.cluster.or(known.map(|(.., cluster)| *cluster));
        let backend = whom.backend.or(known.map(|(_, backend, _)| *backend));
        Place {
            cluster: cluster.and_then(|id| self.clusters.get(&id).cloned()),
            backend: backend.and_then(|id| self.backends.get(&id).cloned()),
            endpoint: whom.endpoint.map(|endpoint| self.endpoint(endpoint)),
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// `node.name`
    pub node: String,
    /// The worker that decided.
    pub worker: u16,
    /// When the first verdict was made: milliseconds since 1970. The zero of every `ms`.
    pub unix_ms: u64,
    /// What was decided, in order.
    pub verdicts: Vec<VerdictLine>,
    /// Everything that the worker did around it, in order.
    pub timeline: Vec<Line>,
}

/// Whom a line is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// `namespace/service:port`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `address:port`, or `left` when it was no longer in the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// One verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictLine {
    /// Milliseconds after the first.
    pub ms: f64,
    /// Whose state.
    #[serde(flatten)]
    pub place: Place,
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
    /// The numbers that led to it.
    pub evidence: String,
}

/// One entry of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds after the first verdict; negative = before.
    pub ms: f64,
    /// `pick`, `outcome`, `hedge`, `leave`, `tie`, `retry`, `suspect`, `down`, `probation`, `ramp`, `healthy`, `probe`,
    /// `shed`.
    pub kind: String,
    /// Whom it is about.
    #[serde(flatten)]
    pub place: Place,
    /// More of it: how it ended, why, beside what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How long it took, in milliseconds: an attempt, a probe; of a state: how long nothing had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
}

/// A [`Recording`] that is made while it is written, line by line: a busy worker's window as strings would be several
/// megabytes, which the process keeps once it had them.
#[derive(Serialize)]
struct Writing<'a> {
    node: &'a str,
    worker: u16,
    unix_ms: u64,
    verdicts: Vec<VerdictLine>,
    timeline: Timeline<'a>,
}

struct Timeline<'a> {
    window: &'a Window,
    zero: MonoTime,
}

impl Serialize for Timeline<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Window { entries, names, .. } = self.window;
        serializer.collect_seq(entries.iter().map(|entry| line(entry, names, self.zero)))
    }
}

impl<'a> Writing<'a> {
    fn of(window: &'a Window, node: &'a str) -> Self {
        let Window { worker, triggers, names, clocks, .. } = window;
        let zero = triggers.first().map_or(clocks.0, |trigger| trigger.at);
        let wall = clocks.1.checked_sub(clocks.0.since(zero)).unwrap_or(UNIX_EPOCH);
        let unix_ms = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let verdicts = triggers.iter().map(|trigger| VerdictLine {
            ms: after(zero, trigger.at),
            place: names.place(trigger.whom),
            from: trigger.from.to_string(),
            to: trigger.to.to_string(),
            evidence: trigger.evidence.to_string(),
        });
        Self {
            node,
            worker: *worker,
            unix_ms: u64::try_from(unix_ms).unwrap_or(u64::MAX),
            verdicts: verdicts.collect(),
            timeline: Timeline { window, zero },
        }
    }

    /// The name of its file.
    fn file_name(&self) -> String {
        let cluster = self.verdicts.first().and_then(|verdict| verdict.place.cluster.as_deref());
        // Names of clusters are DNS labels; what is none must not lead out of the directory.
        let is_label = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let cluster = cluster.filter(is_label).unwrap_or("cluster");
        format!("{:013}-{cluster}-w{}.json", self.unix_ms, self.worker)
    }
}

fn line(entry: &Entry, names: &Names, zero: MonoTime) -> Line {
    let took = |us: u32| Some(f64::from(us) / 1e3);
    let (kind, detail, took_ms) = match entry.what {
        What::Pick { trial } => ("pick", if trial { "trial".to_owned() } else { String::new() }, None),
        What::Outcome { outcome, took_us } => ("outcome", outcome_name(outcome), took(took_us)),
        What::Hedge { why, beside } => {
            ("hedge", format!("{}, beside {}", why.name(), names.endpoint(beside)), None)
        }
        What::Leave { reason, beside } => {
            ("leave", format!("{reason}, left {}", names.endpoint(beside)), None)
        }
        What::Tie { beside } => ("tie", format!("beside {}", names.endpoint(beside)), None),
        What::Retry { failure, charge } => ("retry", retry_name(failure, charge), None),
        What::State { from, to, origin, silence_us, outstanding } => {
            let by = match origin {
                Origin::Own => "",
                Origin::Peer => ", by another worker",
            };
            (to.name(), format!("{from} to {to}, {outstanding} outstanding{by}"), took(silence_us))
        }
        What::Probe { result } => {
            let (detail, latency) = probe_name(result);
            ("probe", detail, latency.map(|latency| latency.as_secs_f64() * 1e3))
        }
        What::Shed { why } => ("shed", why.name().to_owned(), None),
    };
    let place = names.place(entry.whom);
    Line { ms: after(zero, entry.at), kind: kind.to_owned(), place, detail, took_ms }
}

fn outcome_name(outcome: Outcome) -> String {
    match outcome {
        Outcome::Success => "answered".to_owned(),
        Outcome::Refused => "refused".to_owned(),
        Outcome::ConnectFailed => "connect_failed".to_owned(),
        Outcome::Closed => "closed".to_owned(),
        Outcome::Timeout => "timeout".to_owned(),
        Outcome::ServerError(status) | Outcome::Unlisted(status) => format!("status {status}"),
        Outcome::Abandoned => "abandoned".to_owned(),
    }
}

fn retry_name(failure: FailureKind, charge: Charge) -> String {
    let failure = match failure {
        FailureKind::Connect => "no connection".to_owned(),
        FailureKind::Closed => "closed".to_owned(),
        FailureKind::Timeout => "timeout".to_owned(),
        FailureKind::Malformed => "malformed".to_owned(),
        FailureKind::Status(status) => format!("status {status}"),
        FailureKind::Grpc(code) => format!("grpc-status {code}"),
    };
    match charge {
        Charge::Budget => format!("{failure}, paid"),
        Charge::Free => format!("{failure}, free"),
    }
}

fn probe_name(result: ProbeResult) -> (String, Option<Duration>) {
    match result {
        ProbeResult::Answered { latency } => ("answered".to_owned(), Some(latency)),
        ProbeResult::Refused => ("refused".to_owned(), None),
        ProbeResult::TimedOut => ("not answered".to_owned(), None),
        ProbeResult::BadStatus(status) => (format!("status {status}"), None),
    }
}

/// Milliseconds from `zero` to `at`, to the microsecond.
fn after(zero: MonoTime, at: MonoTime) -> f64 {
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    if at >= zero { ms(at.since(zero)) } else { -ms(zero.since(at)) }
}

// ---------------------------------------------------------------- the writing thread

/// Where recordings go, and how many are kept.
#[derive(Clone, Debug)]
pub struct Shelf {
    dir: PathBuf,
    kept: usize,
    node: String,
}

impl Shelf {
    /// As `config` says; `None` = there is no recorder.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        let (observe, state_dir) = (&config.observe, &config.admin.state_dir);
        if observe.recorder_entries == 0 {
            return None;
        }
        let dir = match (observe.recorder_dir.as_os_str().is_empty(), state_dir.as_os_str().is_empty()) {
            (false, _) => observe.recorder_dir.clone(),
            (true, false) => state_dir.join("recordings"),
            (true, true) => return None,
        };
        Some(Self { dir, kept: observe.recorder_files as usize, node: config.node.name.clone() })
    }

    /// Writes what comes until `ended` and nothing is left.
    pub fn serve(&self, windows: &Receiver<Window>, ended: &Receiver<()>) {
        loop {
            match windows.recv_timeout(Duration::from_millis(250)) {
                Ok(window) => self.keep(&window),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if is_over(ended) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn keep(&self, window: &Window) {
        let writing = Writing::of(window, &self.node);
        let kept = newest::keep_written(&self.dir, &writing.file_name(), self.kept, |file| {
            serde_json::to_writer(file, &writing).map_err(std::io::Error::from)
        });
        match kept {
            Ok(path) => tracing::info!(file = %path.display(), "recording of a verdict"),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "a recording of a verdict is lost");
            }
        }
    }
}

/// Has the other end been dropped?
fn is_over(ended: &Receiver<()>) -> bool {
    matches!(ended.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
}
