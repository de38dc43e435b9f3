//! The cases as data: what is asked of a proxy, and what the peers are known to cost in each.

use super::proxy::Proxy;

/// One thing to measure.
#[derive(Debug, PartialEq)]
pub(crate) struct Spec {
    /// The name on the command line and in the report.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) about: &'static str,
    /// The cases that one word on the command line names together, and one chart shows.
    pub(crate) group: Group,
    /// How it is measured.
    pub(crate) kind: Kind,
    /// Bytes of a response's body.
    pub(crate) body: usize,
    /// What the proxies are set up to understand.
    pub(crate) layer: Layer,
    /// How the client's side is secured.
    pub(crate) transport: Transport,
    /// Hosts with a rule of their own, beside the rule for all hosts; the load asks for the last of them.
    pub(crate) hosts: u32,
    /// What changes meanwhile.
    pub(crate) churn: Churn,
}

/// A case: they are all in one table.
pub(crate) type Case = &'static Spec;

/// Cases that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// The rows of the comparison.
    Main,
    /// Bytes passed on as they are.
    Layer4,
    /// Over TLS.
    Tls,
    /// By the number of connections.
    Connections,
    /// By the size of the body.
    Bodies,
    /// By the number of routes.
    Routes,
    /// While the table changes.
    Churn,
    /// At a constant rate.
    OpenLoop,
}

impl Group {
    pub(crate) const ALL: [Self; 8] = [
        Self::Main,
        Self::Layer4,
        Self::Tls,
        Self::Connections,
        Self::Bodies,
        Self::Routes,
        Self::Churn,
        Self::OpenLoop,
    ];

    /// The word on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Layer4 => "l4",
            Self::Tls => "tls",
            Self::Connections => "connections",
            Self::Bodies => "bodies",
            Self::Routes => "routes",
            Self::Churn => "churn",
            Self::OpenLoop => "open-loop",
        }
    }
}

/// What a proxy understands of what it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// HTTP.
    Seven,
    /// Bytes.
    Four,
}

/// How the client's side is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Not at all.
    Plain,
    /// TLS 1.3, a P-256 certificate, no resumption.
    Tls,
}

/// What changes while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Churn {
    /// Nothing.
    None,
    /// So many times per second an endpoint of another Service comes or goes.
    Endpoints(u32),
}

/// How a case is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With wrk: as fast as it goes.
    Load {
        /// Connections at once.
        connections: u32,
        /// Whether a connection serves more than one request.
        reuse: Reuse,
    },
    /// With our own generator: so many requests per second, whatever the answers do, on as many connections as it takes.
    Open {
        /// Requests per second.
        rate: u32,
    },
    /// By opening connections and looking at memory.
    Idle,
}

/// Whether a client's connection serves more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Keep-alive.
    KeepAlive,
    /// `Connection: close` on every request.
    Never,
}

/// Bytes of the body where the case is not about it.
const SMALL: usize = 128;

/// A run in which a peer's ratio to the floor is more than this off what is known is void.
pub(crate) const TOLERANCE: f64 = 0.15;

const fn keep(connections: u32) -> Kind {
    Kind::Load { connections, reuse: Reuse::KeepAlive }
}

/// HTTP/1.1 in clear, small bodies, one rule, nothing changes; each case says what is different.
const fn plain(name: &'static str, about: &'static str, group: Group, kind: Kind) -> Spec {
    Spec {
        name,
        about,
        group,
        kind,
        body: SMALL,
        layer: Layer::Seven,
        transport: Transport::Plain,
        hosts: 0,
        churn: Churn::None,
    }
}

const fn sized(name: &'static str, about: &'static str, group: Group, body: usize) -> Spec {
    Spec { body, ..plain(name, about, group, keep(64)) }
}

const fn scaled(name: &'static str, connections: u32) -> Spec {
    plain(name, "HTTP/1.1, 128-byte bodies, by the number of connections", Group::Connections, keep(connections))
}

const fn routed(name: &'static str, hosts: u32) -> Spec {
    Spec {
        hosts,
        ..plain(name, "HTTP/1.1, 64 connections, by the number of hosts with a rule", Group::Routes, keep(64))
    }
}

const fn bytes(name: &'static str, about: &'static str, kind: Kind, body: usize) -> Spec {
    Spec { body, layer: Layer::Four, ..plain(name, about, Group::Layer4, kind) }
}

const fn secured(name: &'static str, about: &'static str, kind: Kind) -> Spec {
    Spec { transport: Transport::Tls, ..plain(name, about, Group::Tls, kind) }
}

const BODIES: &str = "HTTP/1.1, 64 connections, by the size of the body";
const EACH: Kind = Kind::Load { connections: 64, reuse: Reuse::Never };

/// All cases, the most telling first.
pub(crate) static CASES: [Spec; 34] = [
    plain("h1-64", "HTTP/1.1, 128-byte bodies, 64 connections", Group::Main, keep(64)),
    plain("h1-1000", "HTTP/1.1, 128-byte bodies, 1,000 connections", Group::Main, keep(1_000)),
    plain("h1-1", "HTTP/1.1, 128-byte bodies, one connection", Group::Main, keep(1)),
    sized("body-10k", "HTTP/1.1, 10,000-byte bodies, 64 connections", Group::Main, 10_000),
    sized("body-1m", "HTTP/1.1, 1 MiB bodies, 64 connections", Group::Main, 1 << 20),
    plain("new-connections", "a new client connection per request, 64 at once", Group::Main, EACH),
    plain("idle-memory", "memory of idle keep-alive connections after one request each", Group::Main, Kind::Idle),
    bytes("l4-64", "bytes as they are: 128-byte bodies, 64 connections; two messages a request", keep(64), SMALL),
    bytes("l4-1m", "bytes as they are: 1 MiB bodies, 64 connections", keep(64), 1 << 20),
    bytes("l4-idle", "memory of idle relayed connections, both sides, after one request each", Kind::Idle, SMALL),
    secured("tls-h1-64", "HTTP/1.1 over TLS, 128-byte bodies, 64 connections", keep(64)),
    secured("tls-handshakes", "a new TLS connection per request, full handshakes, 64 at once", EACH),
    scaled("conns-1", 1),
    scaled("conns-4", 4),
    scaled("conns-16", 16),
    scaled("conns-64", 64),
    scaled("conns-256", 256),
    scaled("conns-1000", 1_000),
    scaled("conns-4000", 4_000),
    scaled("conns-10000", 10_000),
    sized("body-0", BODIES, Group::Bodies, 0),
    sized("body-100", BODIES, Group::Bodies, 100),
    sized("body-1000", BODIES, Group::Bodies, 1_000),
    sized("body-10000", BODIES, Group::Bodies, 10_000),
    sized("body-100000", BODIES, Group::Bodies, 100_000),
    sized("body-1000000", BODIES, Group::Bodies, 1_000_000),
    sized("body-10000000", BODIES, Group::Bodies, 10_000_000),
    routed("routes-10", 10),
    routed("routes-1000", 1_000),
    routed("routes-10000", 10_000),
    routed("routes-100000", 100_000),
    plain("churn-0", "HTTP/1.1, 64 connections, nothing changes", Group::Churn, keep(64)),
    Spec {
        churn: Churn::Endpoints(100),
        ..plain("churn-100", "the same while 100 endpoints come or go per second", Group::Churn, keep(64))
    },
    plain("open-5000", "5,000 requests per second, open loop", Group::OpenLoop, Kind::Open { rate: 5_000 }),
];

impl Spec {
    /// The cases that a word names: a case, a group, or `all`. Empty when it names nothing.
    pub(crate) fn named(word: &str) -> Vec<Case> {
        let is_meant = |case: &Spec| word == "all" || case.name == word || case.group.name() == word;
        CASES.iter().filter(|case| is_meant(case)).collect()
    }

    /// Those that are measured when nothing is said: the rows of the comparison.
    pub(crate) fn usual() -> Vec<Case> {
        CASES.iter().filter(|case| matches!(case.group, Group::Main | Group::Layer4)).collect()
    }

    /// Whether it needs wrk.
    pub(crate) fn is_closed_loop(&self) -> bool {
        match self.kind {
            Kind::Load { .. } => true,
            Kind::Open { .. } | Kind::Idle => false,
        }
    }

    /// The host that the load asks for.
    pub(crate) fn host(&self) -> String {
        match self.hosts.checked_sub(1) {
            Some(last) => host(last),
            None => "bench.example".to_owned(),
        }
    }

    /// Whether the proxy can be compared in this case. The floor opens an upstream connection for each of its
    /// clients, which no proxy does: per connection it is another thing. It has no routes and no TLS; and what changes
    /// meanwhile are our own manifests.
    pub(crate) fn takes(&self, proxy: Proxy) -> bool {
        let each = matches!(self.kind, Kind::Idle | Kind::Load { reuse: Reuse::Never, .. });
        match proxy {
            Proxy::Floor => {
                !each
                    && self.hosts == 0
                    && self.transport == Transport::Plain
                    && self.group != Group::Churn
                    && self.connections().is_none_or(|connections| connections <= 4_000)
            }
            Proxy::Ringway => true,
            Proxy::Nginx | Proxy::Haproxy => self.group != Group::Churn,
        }
    }

    fn connections(&self) -> Option<u32> {
        match self.kind {
            Kind::Load { connections, .. } => Some(connections),
            Kind::Open { .. } | Kind::Idle => None,
        }
    }

    /// Where it stands on the axis of its group's chart.
    pub(crate) fn scale(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        match self.group {
            Group::Connections => self.connections().map(f64::from),
            Group::Bodies => Some(self.body as f64),
            Group::Routes => Some(f64::from(self.hosts)),
            Group::Main | Group::Layer4 | Group::Tls | Group::Churn | Group::OpenLoop => None,
        }
    }

    /// What a peer's CPU per request is known to be, lowest and highest, as a multiple of the floor's in the same run.
    ///
    /// Measured on two machines' worth of interleaved rounds with a floor written in C: HAProxy 2.6, nginx 1.31 (1.22
    /// is within its range).
    pub(crate) fn known_ratio(&self, proxy: Proxy) -> Option<(f64, f64)> {
        match (self.name, proxy) {
            ("h1-64", Proxy::Haproxy) => Some((1.63, 1.63)),
            ("h1-1000", Proxy::Haproxy) => Some((1.71, 1.71)),
            ("h1-1", Proxy::Haproxy) => Some((1.56, 1.56)),
            ("h1-64", Proxy::Nginx) => Some((1.56, 1.82)),
            ("h1-1000", Proxy::Nginx) => Some((1.56, 1.75)),
            ("h1-1", Proxy::Nginx) => Some((2.0, 2.0)),
            _ => None,
        }
    }
}

/// The n-th host that has a rule.
pub(crate) fn host(nth: u32) -> String {
    format!("h{nth}.bench.example")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_no_case_is_called_like_a_group() {
        for (at, case) in CASES.iter().enumerate() {
            assert!(CASES[..at].iter().all(|other| other.name != case.name), "{} twice", case.name);
            assert!(Group::ALL.iter().all(|group| group.name() != case.name && group.name() != "all"));
        }
    }

    #[test]
    fn a_word_names_a_case_a_group_or_nothing() {
        let names = |word: &str| Spec::named(word).iter().map(|case| case.name).collect::<Vec<_>>();
        assert_eq!(names("h1-64"), ["h1-64"]);
        assert_eq!(names("churn"), ["churn-0", "churn-100"]);
        assert_eq!(names("all").len(), CASES.len());
        assert!(names("h1-65").is_empty());
        assert!(Group::ALL.iter().all(|group| !names(group.name()).is_empty()), "every group has a case");
    }

    #[test]
    fn what_is_compared_can_be_compared() {
        for case in &CASES {
            assert!(case.takes(Proxy::Ringway), "{}", case.name);
            assert!(
                !case.takes(Proxy::Floor) || (case.hosts == 0 && case.transport == Transport::Plain),
                "{}: the floor knows neither routes nor TLS",
                case.name
            );
            for proxy in [Proxy::Nginx, Proxy::Haproxy] {
                assert!(case.known_ratio(proxy).is_none() || case.takes(Proxy::Floor), "{}", case.name);
            }
        }
    }
}
