//! Where a request of the sample would go by a table: the same code for the table that is served and for the one that
//! `ringway plan` compiles, so that what differs is the tables.
//!
//! Tables as they are compiled: neither what the failure detector knows of the endpoints nor what operators say of clusters
//! is in them. Affinity cookies are not looked at either: a session stays where it is for as long as its endpoint is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use routing::delta::{Change, RouteTable, Update, snapshot};
use routing::id::{BindId, Generation};
use routing::model::Target;
use routing::subject::{Subject, SubjectKind};
use routing::table::{Look, OutOfStep, Seen, Table, TableSettings};
use routing::time::MonoTime;
use serde::{Deserialize, Serialize};
use wire::h1::decode::{self, Decoded};
use wire::h1::limits::HeadLimits;
use wire::head::{RequestHead, RequestView};

use super::explain;
use crate::observe::decisions::{Decision, label};

/// A share that is only what sums of shares are rounded by.
const NOTHING: f64 = 1e-9;

/// A request of the sample, as the API tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sampled {
    /// What is kept of its head, as a head of HTTP/1.1.
    pub request: String,
    /// What rules and pins asked for: it is in the head if it was in the request.
    pub looked: BTreeSet<String>,
    /// Is that all of it?
    pub whole: bool,
    /// Where it arrived.
    pub bind: Option<SocketAddr>,
    /// Who sent it, where a rule or a pin asks for it.
    pub source: Option<IpAddr>,
    /// For how many requests it stands.
    pub weight: f64,
    /// The rule that served it; `None` = none did.
    pub rule: Option<String>,
    /// The backend that had it last.
    pub backend: Option<String>,
    /// The cluster that had it last.
    pub cluster: Option<String>,
    /// Where it would go by the table that is served, with every endpoint healthy.
    pub would: Choice,
}

/// Where a request goes by a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The rule, with its conditions; `None` = there is none.
    pub rule: Option<String>,
    /// Places with their shares, which add up to 1.
    pub places: Vec<Place>,
    /// What rules ask for that is not known of the request: the choice may be another one.
    pub unknown: Vec<String>,
}

/// A place that a request goes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The backend, or what is done instead: `404`, `503`, a redirect.
    pub to: String,
    /// The cluster; empty where nothing is forwarded.
    pub cluster: String,
    /// How likely, 0 to 1.
    pub share: f64,
}

impl Sampled {
    /// What is told of a decision that stands for `weight` requests.
    #[must_use]
    pub fn of(decision: &Decision, weight: f64) -> Self {
        Self {
            request: String::from_utf8_lossy(&decision.head).into_owned(),
            looked: decision.looked.iter().map(ToString::to_string).collect(),
            whole: decision.seen == Seen::All,
            bind: decision.bind,
            source: decision.source,
            weight,
            rule: decision.rule.as_ref().map(|(route, index)| format!("{route} rules[{index}]")),
            backend: decision.went.as_ref().map(|(backend, _)| backend.to_string()),
            cluster: decision.went.as_ref().map(|(_, cluster)| cluster.to_string()),
            would: Choice::default(),
        }
    }

    /// The request in one line: method, host and path.
    #[must_use]
    pub fn line(&self) -> String {
        let mut lines = self.request.lines();
        let start = lines.next().unwrap_or_default();
        let host = lines.find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
        let mut words = start.split(' ');
        format!("{} {host}{}", words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// Where it goes by `table`. `limits`: as the listeners decode heads.
    #[must_use]
    pub fn replay(&self, table: &Table, limits: &HeadLimits, now: MonoTime) -> Choice {
        let mut head = RequestHead::default();
        let bytes = self.request.as_bytes();
        if !matches!(decode::request(bytes, limits, &mut head), Ok(Decoded::Complete)) {
            return Choice::nowhere("refused", vec!["the request as it was sent".to_owned()]);
        }
        let Some(bind) = self.bind.and_then(|addr| bind_of(table, addr)) else {
            return Choice::nowhere("no listener", Vec::new());
        };
        let peer = (self.source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0).into();
        let kind = SubjectKind::Http(RequestView { head: &head, bytes });
        let subject = Subject { bind, peer, kind };
        let explanation = table.explain(&subject, now);
        let rule = explanation.rule.as_ref().ok();
        let mut unknown = BTreeSet::new();
        let mut see = |look: Look<'_>| {
            let name = label(look);
            if !self.looked.contains(&name) {
                unknown.insert(name);
            }
        };
        table.decisive(&subject, rule, &mut see);
        let unknown = unknown.into_iter().collect();
        let Some(rule) = rule else { return Choice::nowhere("404", unknown) };
        let places = match &rule.action().target {
            Target::Forward(_) => places(&explanation),
            Target::Redirect(_) | Target::Reply { .. } | Target::Fixed(_) => {
                vec![Place { to: explain::action(table, rule.action()), cluster: String::new(), share: 1.0 }]
            }
        };
        let rule = format!("{}: {}", rule.action().route, explain::conditions(rule.matches()));
        Choice { rule: Some(rule), places, unknown }
    }
}

impl Choice {
    fn nowhere(to: &str, unknown: Vec<String>) -> Self {
        let place = Place { to: to.to_owned(), cluster: String::new(), share: 1.0 };
        Self { rule: None, places: vec![place], unknown }
    }

    /// What has a larger share by `other`, and by how much: together the share of such requests that goes elsewhere, 0 to 1.
    /// `key` says what of a place counts.
    #[must_use]
    pub fn gains<'a, K: Ord>(&'a self, other: &'a Self, key: impl Fn(&'a Place) -> K) -> BTreeMap<K, f64> {
        let mut gains = BTreeMap::<_, f64>::new();
        for (places, sign) in [(&self.places, -1.0), (&other.places, 1.0)] {
            for place in places {
                *gains.entry(key(place)).or_default() += sign * place.share;
            }
        }
        gains.retain(|_, gain| *gain > NOTHING);
        gains
    }
}

/// The table of a worker of `node` that runs what was compiled.
///
/// # Errors
/// None that is known: a table of its own is never out of step.
pub fn table_of(compiled: &RouteTable, node: &config::Node, now: MonoTime) -> Result<Table, OutOfStep> {
    let mut table = Table::new(TableSettings {
        node_region: node.region.as_str().into(),
        node_zone: node.zone.as_str().into(),
        ..TableSettings::default()
    });
    let update = Update {
        generation: Generation(1),
        base_generation: Generation(0),
        observed_ns: 0,
        change: Change::Snapshot(snapshot(compiled)),
    };
    table.apply(&update, now)?;
    Ok(table)
}

/// What a first attempt would come to.
fn places(explanation: &routing::table::Explanation) -> Vec<Place> {
    let mut places = Vec::new();
    let mut left = 1.0;
    for backend in &explanation.backends {
        for cluster in &backend.clusters {
            let share = backend.probability * cluster.probability;
            if share > 0.0 {
                left -= share;
                places.push(Place { to: backend.name.to_string(), cluster: cluster.name.to_string(), share });
            }
        }
    }
    if left > NOTHING {
        places.push(Place { to: "503".to_owned(), cluster: String::new(), share: left });
    }
    places
}

fn bind_of(table: &Table, addr: SocketAddr) -> Option<BindId> {
    table.listeners().iter().find(|view| view.spec.addr == addr).map(|view| view.spec.bind)
}
