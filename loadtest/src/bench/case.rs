//! What a case is: what is asked of a proxy, and by whom.

use super::cases::CASES;
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
    /// What the client speaks.
    pub(crate) speech: Speech,
    /// What the backend speaks.
    pub(crate) backend: Speech,
    /// Workers, threads or processes of the proxy, with a core each.
    pub(crate) workers: u32,
    /// Hosts with a rule of their own, beside the rule for all hosts; the load asks for the last of them.
    pub(crate) hosts: u32,
    /// Filters of the rule that the load meets.
    pub(crate) filters: u32,
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
    /// HTTP/2 and gRPC.
    Http2,
    /// By the number of connections.
    Connections,
    /// By the size of the body.
    Bodies,
    /// By the number of routes.
    Routes,
    /// By the number of workers.
    Workers,
    /// By the number of filters of a rule.
    Filters,
    /// While the table changes.
    Churn,
    /// At a constant rate.
    OpenLoop,
}

impl Group {
    pub(crate) const ALL: [Self; 11] = [
        Self::Main,
        Self::Layer4,
        Self::Tls,
        Self::Http2,
        Self::Connections,
        Self::Bodies,
        Self::Routes,
        Self::Workers,
        Self::Filters,
        Self::Churn,
        Self::OpenLoop,
    ];

    /// The word on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Layer4 => "l4",
            Self::Tls => "tls",
            Self::Http2 => "h2",
            Self::Connections => "connections",
            Self::Bodies => "bodies",
            Self::Routes => "routes",
            Self::Workers => "workers",
            Self::Filters => "filters",
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

/// How requests and answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN over TLS, with prior knowledge in clear.
    Http2,
    /// Unary calls of gRPC, on HTTP/2.
    Grpc,
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
    /// With h2load: as fast as it goes.
    Streams {
        /// Connections at once.
        connections: u32,
        /// Streams at once on each.
        streams: u32,
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

/// Whom the certificate is for. wrk asks for the name that it connects to, so it must be one that every machine knows.
pub(crate) const SECURED_HOST: &str = "localhost";

/// Descriptors of a proxy that are no connections of the load: listeners, logs, libraries.
const FILES_APART: u64 = 200;

/// The word that names the cases by connections, bodies, routes and workers together.
const SCALING: &str = "scaling";

impl Spec {
    /// The cases that a word names: a case, a group, `scaling` or `all`. Empty when it names nothing.
    pub(crate) fn named(word: &str) -> Vec<Case> {
        let scales = |case: &Spec| case.scale().is_some();
        let is_meant = |case: &Spec| {
            let is_named = case.name == word || case.group.name() == word;
            is_named || word == "all" || (word == SCALING && scales(case))
        };
        CASES.iter().filter(|case| is_meant(case)).collect()
    }

    /// Those that are measured when nothing is said: the rows of the comparison.
    pub(crate) fn usual() -> Vec<Case> {
        CASES.iter().filter(|case| matches!(case.group, Group::Main | Group::Layer4)).collect()
    }

    /// The program of others that makes its load, and the package that has it.
    pub(crate) fn generator(&self) -> Option<(&'static str, &'static str)> {
        match self.kind {
            Kind::Load { .. } => Some(("wrk", "wrk")),
            Kind::Streams { .. } => Some(("h2load", "nghttp2-client")),
            Kind::Open { .. } | Kind::Idle => None,
        }
    }

    /// The host that the load asks for.
    pub(crate) fn host(&self) -> String {
        match (self.transport, self.hosts.checked_sub(1)) {
            (Transport::Tls, _) => SECURED_HOST.to_owned(),
            (Transport::Plain, Some(last)) => host(last),
            (Transport::Plain, None) => "bench.example".to_owned(),
        }
    }

    /// Whether the proxy can be compared in this case. The floor opens an upstream connection for each of its
    /// clients, which no proxy does: per connection it is another thing. It has no routes, no TLS, no HTTP/2 and one
    /// thread; and what changes meanwhile, or filters, is told by our own manifests.
    pub(crate) fn takes(&self, proxy: Proxy) -> bool {
        let each = matches!(self.kind, Kind::Idle | Kind::Load { reuse: Reuse::Never, .. });
        match proxy {
            Proxy::Floor => {
                !each
                    && self.hosts == 0
                    && self.transport == Transport::Plain
                    && self.speech == Speech::Http1
                    && !self.is_of_ours()
                    && self.workers == 1
                    && self.connections().is_none_or(|connections| connections <= 4_000)
            }
            Proxy::Ringway => true,
            Proxy::Nginx | Proxy::Haproxy | Proxy::Envoy => !self.is_of_ours(),
        }
    }

    /// What changes meanwhile are our own manifests, and so is what filters are.
    fn is_of_ours(&self) -> bool {
        matches!(self.group, Group::Churn | Group::Filters)
    }

    /// Connections of its load, as asked for.
    pub(crate) fn connections(&self) -> Option<u32> {
        match self.kind {
            Kind::Load { connections, .. } | Kind::Streams { connections, .. } => Some(connections),
            Kind::Open { .. } | Kind::Idle => None,
        }
    }

    /// Descriptors of a proxy that a connection of its client takes: two, when all are busy at once, or are relayed.
    pub(crate) fn files_each(&self) -> u64 {
        if self.kind == Kind::Idle && self.layer == Layer::Seven { 1 } else { 2 }
    }

    /// So many connections, or as many as a proxy with that many descriptors can have, of which each takes some.
    pub(crate) fn within(connections: u32, files: u64, files_each: u64) -> u32 {
        let most = files.saturating_sub(FILES_APART) / files_each;
        connections.min(u32::try_from(most).unwrap_or(u32::MAX).max(1))
    }

    /// Where it stands on the axis of its group's chart.
    pub(crate) fn scale(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        match self.group {
            Group::Connections => self.connections().map(f64::from),
            Group::Bodies => Some(self.body as f64),
            Group::Routes => Some(f64::from(self.hosts)),
            Group::Workers => Some(f64::from(self.workers)),
            Group::Main
            | Group::Layer4
            | Group::Tls
            | Group::Http2
            | Group::Filters
            | Group::Churn
            | Group::OpenLoop => None,
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
            assert!(
                Group::ALL
                    .iter()
                    .all(|group| group.name() != case.name && !["all", SCALING].contains(&group.name()))
            );
        }
    }

    #[test]
    fn a_word_names_a_case_a_group_or_nothing() {
        let names = |word: &str| Spec::named(word).iter().map(|case| case.name).collect::<Vec<_>>();
        assert_eq!(names("h1-64"), ["h1-64"]);
        assert_eq!(names("churn"), ["churn-0", "churn-100"]);
        assert_eq!(names("all").len(), CASES.len());
        assert!(names("scaling").contains(&"conns-1") && names("scaling").contains(&"workers-2"));
        assert!(!names("scaling").contains(&"h1-64"));
        assert!(names("h1-65").is_empty());
        assert!(Group::ALL.iter().all(|group| !names(group.name()).is_empty()), "every group has a case");
    }

    #[test]
    fn connections_are_as_many_as_descriptors_allow() {
        assert_eq!(Spec::within(10_000, 1 << 20, 2), 10_000);
        assert_eq!(Spec::within(10_000, 20_000, 2), 9_900);
        assert_eq!((Spec::within(64, 1_024, 2), Spec::within(64, 0, 2)), (64, 1));
        let each = |name| Spec::named(name)[0].files_each();
        assert_eq!((each("l4-idle"), each("idle-memory"), each("h1-64")), (2, 1, 2));
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
        }
    }
}
