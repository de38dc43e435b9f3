//! The rows of the table: which fault, under which load, and what must hold.

use std::time::Duration;

use loadgen::Method;

use super::claims::{Claim, Metric};

/// What is done to an endpoint, a cluster or everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing at all.
    Nothing,
    /// SIGKILL; healed by a new process at the same address.
    Kill,
    /// The slice says terminating, and the endpoint closes gracefully; healed as a kill.
    Drain,
    /// Packets vanish in both directions.
    Drop,
    /// The cluster's own end of its link goes down.
    LinkDown,
    /// SIGSTOP: the kernel goes on accepting, nobody answers.
    Stop,
    /// 503, while the health URL says 200.
    Errors,
    /// 503, the health URL included.
    ErrorsRed,
    /// Half a second is added to every answer, while the health URL answers at once.
    Brownout,
    /// The gateway itself is stopped for 20 ms in every second.
    GatewayPauses,
}

/// To whom it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Cluster a.
    Cluster,
    /// One endpoint of cluster a.
    Pod,
    /// All endpoints of the second backend in cluster a.
    Backend,
    /// Both clusters.
    Everything,
}

/// `hedge.mode` of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hedge {
    /// Only while something is suspected.
    Suspect,
    /// In peace, too.
    Always,
}

impl Hedge {
    /// Its name in a manifest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Suspect => "Suspect",
            Self::Always => "Always",
        }
    }
}

/// What becomes of the gateway's controller in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    /// It runs.
    Runs,
    /// Its thread is stopped before the load begins and what it reads (hub and members) is gone: nothing that a fault
    /// leads to may wait for it.
    Stopped,
}

/// On which layer the gateway passes the load on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Requests, over connections that are used again.
    Seven,
    /// A connection for each request: of what is inside the gateway knows nothing, and nothing can be asked twice.
    Four,
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) about: &'static str,
    /// The fault.
    pub(crate) kind: Kind,
    /// Its extent.
    pub(crate) scope: Scope,
    /// Requests per second.
    pub(crate) rate: u32,
    /// The method of every request.
    pub(crate) method: Method,
    /// Endpoints per cluster and backend.
    pub(crate) pods: u8,
    /// Backends (Services).
    pub(crate) backends: u8,
    /// Bytes of a large answer that streams for 190 ms; 0: a short one.
    pub(crate) bulk: usize,
    /// How many of ten thousand answers take a second.
    pub(crate) rare: u16,
    /// Hedge mode of our policy.
    pub(crate) hedge: Hedge,
    /// What becomes of our controller.
    pub(crate) controller: Controller,
    /// How the load is passed on.
    pub(crate) layer: Layer,
    /// Above this a request is affected: the healthy maximum, and 5 ms for the way.
    pub(crate) slow: Duration,
    /// How long the fault lasts, where the row decides and not `--seconds`.
    pub(crate) fault: Option<Duration>,
    /// Runs at most: a row that lasts ten minutes need not be run five times.
    pub(crate) runs_max: u32,
    /// What must hold.
    pub(crate) claims: Vec<Claim>,
}

/// Lengths that the command line decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// Of the false-alarm row.
    pub(crate) false_alarms: Duration,
    /// Of the fault of the row in which everything is down.
    pub(crate) all_down: Duration,
}

const SLOW: Duration = Duration::from_millis(45);
/// An answer of 1 MB streams for 190 ms after up to 40 ms; the rest is the way through a busy machine.
const SLOW_BULK: Duration = Duration::from_millis(400);
const RATE: u32 = 2_000;
/// The eight kinds, under which POST is measured, too.
const EIGHT: [(&str, Kind, &str); 8] = [
    ("kill", Kind::Kill, "SIGKILL of every endpoint of a"),
    ("drain", Kind::Drain, "a's endpoints terminate gracefully"),
    ("drop", Kind::Drop, "packets from and to a vanish"),
    ("linkdown", Kind::LinkDown, "a's end of its link goes down"),
    ("stop", Kind::Stop, "SIGSTOP of every endpoint of a: accepts, never answers"),
    ("errors", Kind::Errors, "a answers 503, its health URL 200"),
    ("errors-red", Kind::ErrorsRed, "a answers 503, its health URL, too"),
    ("brownout", Kind::Brownout, "a takes 500 ms longer, its health URL does not"),
];

impl Row {
    fn new(name: &str, about: &'static str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            about,
            kind,
            scope: Scope::Cluster,
            rate: RATE,
            method: Method::Get,
            pods: 2,
            backends: 1,
            bulk: 0,
            rare: 0,
            hedge: Hedge::Suspect,
            controller: Controller::Runs,
            layer: Layer::Seven,
            slow: SLOW,
            fault: None,
            runs_max: u32::MAX,
            claims: Vec::new(),
        }
    }

    fn claiming(mut self, claims: impl IntoIterator<Item = Claim>) -> Self {
        self.claims.extend(claims);
        self
    }

    /// What a peer must be told that one try may take: it must not give up on answers that are only rarely slow, or
    /// large. Ringway is told nothing of the kind.
    pub(crate) fn try_timeout(&self) -> Duration {
        match (self.rare, self.bulk) {
            (0, 0) => Duration::from_millis(100),
            (0, _) => Duration::from_millis(500),
            (_, _) => Duration::from_millis(1_200),
        }
    }

    /// Whether it compares the two hedge modes instead of looking at a fault.
    pub(crate) fn compares_hedging(&self) -> bool {
        self.name == "peace"
    }

    /// Every row, in the order of the table.
    pub(crate) fn all(lengths: Lengths) -> Vec<Self> {
        let mut rows: Vec<Self> = EIGHT.iter().map(|(name, kind, about)| eight(name, about, *kind)).collect();
        rows.extend(partial());
        rows.push(large_answers());
        rows.extend(independence());
        rows.extend(alone());
        rows.extend(layer4());
        let drop_slowly = Self::new("low-rate", "drop at 20 requests per second", Kind::Drop);
        rows.push(
            Self { rate: 20, ..drop_slowly }
                .claiming([Claim::never(Metric::Failed), Claim::at_most(Metric::MaxMs, 70.0)]),
        );
        let healthy = "nothing is wrong, but the gateway is stopped for 20 ms in every second";
        rows.push(
            Self {
                fault: Some(lengths.false_alarms),
                runs_max: 1,
                ..Self::new("false-alarms", healthy, Kind::GatewayPauses)
            }
            .claiming([
                Claim::never(Metric::Failed),
                Claim::never(Metric::Downs),
                Claim::at_most(Metric::TwicePercent, 1.0),
            ]),
        );
        rows.extend(EIGHT.iter().map(|(name, kind, about)| {
            Self { method: Method::Post, ..Self::new(&format!("post-{name}"), about, *kind) }
                // What was never sent goes to the standby, as soon as the fault is known.
                .claiming([Claim::never(Metric::Twice), Claim::at_most(Metric::LastAffectedMs, 100.0)])
        }));
        let down = "every endpoint of both clusters answers 503";
        rows.push(
            Self {
                scope: Scope::Everything,
                fault: Some(lengths.all_down),
                ..Self::new("all-down", down, Kind::Errors)
            }
            .claiming([
                Claim::at_most(Metric::Executions, 1.2),
                Claim::at_most(Metric::MemoryGrowthPercent, 10.0),
                Claim::at_most(Metric::RecoveredMs, 200.0),
            ]),
        );
        rows.push(
            Self::new("peace", "nothing is wrong; hedge mode Always beside Suspect", Kind::Nothing).claiming(
                [
                    Claim::never(Metric::Failed),
                    Claim::at_most(Metric::P999Ratio, 0.5),
                    Claim::at_most(Metric::ExtraExecutionsPercent, 3.0).aiming_at(2.0),
                ],
            ),
        );
        rows
    }

    /// The rows with these names; a group's name stands for its rows. None given: all of them.
    ///
    /// # Errors
    /// A name that is not known, with those that are.
    pub(crate) fn select(names: &[String], lengths: Lengths) -> Result<Vec<Self>, String> {
        let all = Self::all(lengths);
        for name in names {
            if !all.iter().any(|row| row.answers_to(name)) {
                let known: Vec<_> = all.iter().map(|row| row.name.as_str()).collect();
                return Err(format!(
                    "no row {name:?}; rows: {}; groups: all, {}",
                    known.join(", "),
                    GROUPS.join(", ")
                ));
            }
        }
        Ok(all
            .into_iter()
            .filter(|row| names.is_empty() || names.iter().any(|name| row.answers_to(name)))
            .collect())
    }

    /// Is this its name, or that of a group it is of?
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        let is_eight = EIGHT.iter().any(|(eight, ..)| self.name == *eight);
        match name {
            "all" => true,
            "eight" => is_eight,
            "post" => self.name.starts_with("post-"),
            "partial" => self.scope == Scope::Pod || self.scope == Scope::Backend,
            "independence" => self.name.starts_with("independence-"),
            "alone" => self.name.starts_with("alone-"),
            "tcp" => self.layer == Layer::Four,
            name => self.name == name,
        }
    }
}

const GROUPS: [&str; 6] = ["eight", "partial", "independence", "alone", "tcp", "post"];

/// New connections per second of the rows of layer 4: each leaves a port behind for a minute.
const RATE_TCP: u32 = 400;

/// TCP, request and answer on a connection of its own: what is on its way when the fault comes is lost with its connection,
/// connections that come later are not.
fn layer4() -> impl Iterator<Item = Row> {
    let kinds = [Kind::Kill, Kind::Drain, Kind::Drop, Kind::LinkDown, Kind::Stop];
    let rows = EIGHT.iter().filter(move |(_, kind, _)| kinds.contains(kind));
    rows.map(|(name, kind, about)| {
        let row = Row::new(&format!("tcp-{name}"), about, *kind);
        let row = Row { layer: Layer::Four, rate: RATE_TCP, ..row };
        match kind {
            // A stopped endpoint's kernel accepts and takes what it is sent. That may still be processed, so it is not sent
            // again: whoever comes between the fault and the verdict is reset, `timeouts.tcp_hang` after it (it may only
            // pause), and nobody who comes later. When the last of them came is what is claimed, not when it was reset.
            Kind::Stop => row.claiming([
                Claim::at_most(Metric::VerdictMs, 15.0),
                Claim::at_most(Metric::LastAffectedMs, 25.0),
            ]),
            Kind::Drop | Kind::LinkDown => {
                row.claiming([Claim::never(Metric::NewFailed), Claim::at_most(Metric::VerdictMs, 10.0)])
            }
            Kind::Kill
            | Kind::Drain
            | Kind::Nothing
            | Kind::Errors
            | Kind::ErrorsRed
            | Kind::Brownout
            | Kind::GatewayPauses => row.claiming([Claim::never(Metric::NewFailed)]),
        }
    })
}

/// The eight kinds but the drain, which the controller itself is told of: the same figures when it is dead.
fn alone() -> impl Iterator<Item = Row> {
    let others = EIGHT.iter().filter(|(_, kind, _)| *kind != Kind::Drain);
    others.map(|(name, kind, _)| {
        let about =
            "as the row without that name; the controller's thread is stopped, hub and members are gone";
        Row { controller: Controller::Stopped, ..eight(&format!("alone-{name}"), about, *kind) }
    })
}

/// One of the eight kinds under GET, with all that must hold of it.
fn eight(name: &str, about: &'static str, kind: Kind) -> Row {
    // A link that comes up must ask for addresses first (ARP): 0.6 to 0.7 s on Linux after neighbours were lost.
    let arp = if kind == Kind::LinkDown { 700.0 } else { 0.0 };
    Row::new(name, about, kind).claiming([Claim::never(Metric::Failed)]).claiming(finding(kind)).claiming([
        Claim::at_most(Metric::FirstBackMs, 100.0 + arp),
        Claim::at_most(Metric::FullShareMs, 800.0 + arp).aiming_at(400.0 + arp),
        Claim::at_most(Metric::ReturnAffected, 0.0),
    ])
}

/// What must hold from the fault on.
fn finding(kind: Kind) -> Vec<Claim> {
    match kind {
        Kind::Drop | Kind::LinkDown => {
            vec![Claim::at_most(Metric::VerdictMs, 10.0), Claim::at_most(Metric::Affected, 0.0)]
        }
        Kind::Stop => vec![
            Claim::at_most(Metric::VerdictMs, 15.0),
            Claim::at_most(Metric::Affected, 2.0),
            Claim::at_most(Metric::MaxMs, 60.0),
            Claim::never(Metric::LatePicks),
        ],
        Kind::Brownout => vec![
            Claim::at_most(Metric::VerdictMs, 30.0),
            Claim::at_most(Metric::Affected, 5.0),
            Claim::at_most(Metric::MaxMs, 80.0),
            Claim::at_most(Metric::Executions, 1.10).aiming_at(1.05),
            Claim::never(Metric::LatePicks),
        ],
        Kind::Errors => vec![
            Claim::never(Metric::Forwarded5xx),
            Claim::at_most(Metric::Executions, 1.2),
            Claim::never(Metric::LatePicks),
        ],
        Kind::ErrorsRed => vec![Claim::never(Metric::Forwarded5xx)],
        Kind::Kill | Kind::Drain | Kind::Nothing | Kind::GatewayPauses => Vec::new(),
    }
}

fn partial() -> [Row; 3] {
    let claims = || {
        [
            Claim::never(Metric::Failed),
            Claim::at_most(Metric::Affected, 5.0),
            Claim::at_most(Metric::MaxMs, 80.0),
            Claim::at_least(Metric::SharePercentA, 95.0),
        ]
    };
    let one_of_four = |name, about, kind| {
        Row { scope: Scope::Pod, pods: 4, ..Row::new(name, about, kind) }.claiming(claims())
    };
    [
        one_of_four("endpoint-hangs", "SIGSTOP of 1 of a's 4 endpoints", Kind::Stop),
        one_of_four("endpoint-vanishes", "packets from and to 1 of a's 4 endpoints vanish", Kind::Drop),
        Row {
            scope: Scope::Backend,
            backends: 2,
            ..Row::new("backend-hangs", "SIGSTOP of the endpoints of 1 of 2 backends in a", Kind::Stop)
        }
        .claiming(claims()),
    ]
}

/// No claim on the return: it is counted to an answer's last byte, and these stream for 190 ms.
fn large_answers() -> Row {
    Row {
        rate: 100,
        bulk: 1_000_000,
        slow: SLOW_BULK,
        ..Row::new("large-answers", "SIGKILL of a while 1 MB answers are on their way", Kind::Kill)
    }
    .claiming([
        Claim::never(Metric::LostBeforeBegun),
        Claim::never(Metric::CutSilently),
        Claim::never(Metric::Stuck),
    ])
}

/// The same figures whatever the route's timeout and the service's tail: 1 of 1,000 answers takes a second.
fn independence() -> impl Iterator<Item = Row> {
    let about = "as the row without that name; 1 of 1,000 answers takes a second";
    let kinds = [("drop", Kind::Drop), ("stop", Kind::Stop), ("brownout", Kind::Brownout)];
    kinds.into_iter().map(move |(name, kind)| {
        Row { rare: 10, ..Row::new(&format!("independence-{name}"), about, kind) }
            .claiming([Claim::never(Metric::Failed)])
            .claiming(finding(kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths =
        Lengths { false_alarms: Duration::from_secs(600), all_down: Duration::from_secs(30) };

    fn names(selected: &[&str]) -> Vec<String> {
        let selected: Vec<String> = selected.iter().map(|name| (*name).to_owned()).collect();
        Row::select(&selected, LENGTHS).unwrap().into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn rows_are_chosen_by_name_and_by_group_and_have_claims() {
        assert_eq!(names(&["eight"]), EIGHT.map(|(name, ..)| name));
        assert_eq!(names(&["drop", "kill"]), ["kill", "drop"]);
        assert_eq!(names(&["partial"]), ["endpoint-hangs", "endpoint-vanishes", "backend-hangs"]);
        assert_eq!(names(&["post"]).len(), 8);
        assert_eq!(names(&["alone"]).len(), 7);
        assert_eq!(names(&["tcp"]), ["tcp-kill", "tcp-drain", "tcp-drop", "tcp-linkdown", "tcp-stop"]);
        let all = Row::select(&[], LENGTHS).unwrap();
        assert_eq!(all.len(), names(&["all"]).len());
        let unique: std::collections::BTreeSet<_> = all.iter().map(|row| &row.name).collect();
        assert_eq!(unique.len(), all.len());
        for row in &all {
            assert!(!row.claims.is_empty(), "{} claims nothing", row.name);
        }
    }

    #[test]
    fn an_unknown_row_is_refused_and_the_known_ones_are_named() {
        let why = Row::select(&["explode".into()], LENGTHS).unwrap_err();
        assert!(why.contains("explode") && why.contains("brownout") && why.contains("partial"), "{why}");
    }
}
