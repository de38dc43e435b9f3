//! The compiled table as text, by names instead of numbers: for `explain`, for tests, for people.
//!
//! Two tables that behave alike print alike, whatever numbers were handed out.

use std::collections::BTreeMap;
use std::fmt::Write;

use routing::delta::RouteTable;
use routing::id::{BackendId, ClusterId};
use routing::model::{
    AcrossBackends, Application, BackendSpec, Balance, CHECK_CODE_MAX, COOKIE_ATTRIBUTES, CheckCodes,
    CheckProbe, ClusterSpec, Detection, Filters, HashKey, HeaderEdits, HostPattern, HttpAsks, Layer4,
    ListenerSpec, ListenerTls, NameKind, PathMatch, PathRewrite, PinMatch, Policy, Predicate, Protocol,
    RateKey, Rule, Security, SendProxy, Speech, Target, Transport, ValuePattern, Verification,
    WeightedBackend, WildcardLabels,
};

/// A host pattern as people write it.
#[must_use]
pub fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard { suffix, labels: WildcardLabels::Many } => format!("*.{suffix}"),
        HostPattern::Wildcard { suffix, labels: WildcardLabels::One } => format!("*.{suffix} (one label)"),
    }
}

/// The whole table.
#[must_use]
pub fn table(table: &RouteTable) -> String {
    let dump = Dump { table };
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = dump.write(&mut out);
    out
}

/// Every cluster by its name: where it is, and what operators and policies say of it.
#[must_use]
pub fn clusters(table: &RouteTable) -> BTreeMap<String, String> {
    table.clusters.values().map(|one| (one.name.to_string(), cluster(one).trim().to_owned())).collect()
}

/// Every listener by its name and address: what it speaks, to whom, with which certificates.
#[must_use]
pub fn listeners(table: &RouteTable) -> BTreeMap<String, String> {
    table
        .listeners
        .values()
        .map(|one| (listener_name(one), one_line(listener(one).trim_start_matches('/'))))
        .collect()
}

/// Every backend by its name: how it is spoken to, and how its failures are found, where that is not the default.
#[must_use]
pub fn backends(table: &RouteTable) -> BTreeMap<String, String> {
    table.backends.values().map(|one| (one.name.to_string(), backend(one, "").trim().to_owned())).collect()
}

/// Every rule by its listener, host and match; what it does, and whose it is, in one line.
#[must_use]
pub fn rules(table: &RouteTable) -> BTreeMap<(String, String, String), String> {
    let dump = Dump { table };
    let mut rules = BTreeMap::new();
    for (key, of_host) in &table.hosts {
        let listener = table.listeners.get(&key.listener).map_or("?".to_owned(), |one| listener_name(one));
        for rule in &of_host.rules {
            let mut text = String::new();
            // Writing to a String cannot fail.
            let _ = dump.rule(&mut text, rule);
            let (matched, does) = text.split_once("  <- ").unwrap_or((&text, ""));
            let name = (listener.clone(), host(&key.pattern), matched.trim().to_owned());
            rules.insert(name, one_line(does));
        }
    }
    rules
}

/// Every endpoint by its backend, cluster and address; its condition.
#[must_use]
pub fn endpoints(table: &RouteTable) -> BTreeMap<(String, String, String), String> {
    let dump = Dump { table };
    let endpoint = |one: &routing::model::EndpointSpec| {
        let (backend, cluster) = (dump.backend(one.backend).to_owned(), dump.cluster(one.cluster).to_owned());
        ((backend, cluster, one.addr.to_string()), format!("{:?}", one.condition))
    };
    table.endpoints.values().map(endpoint).collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn listener_name(listener: &ListenerSpec) -> String {
    format!("{} {}", listener.name, listener.addr)
}

/// What a cluster is, behind its name.
fn cluster(cluster: &ClusterSpec) -> String {
    let region =
        if cluster.region.is_empty() { String::new() } else { format!(" region={}", cluster.region) };
    format!("{region}{}", standing(cluster))
}

/// What a listener is, behind its name and address; its certificates in lines of their own.
fn listener(listener: &ListenerSpec) -> String {
    let protocol = match listener.protocol {
        Protocol::Http => "http",
        Protocol::Https => "https",
        Protocol::Tcp => "tcp",
        Protocol::TlsPassthrough => "tls",
        Protocol::TlsTerminate => "tls-ends",
        Protocol::Udp => "udp",
    };
    let hosts = host(&listener.hostname);
    let rules = listener.layer4.as_ref().map(|rules| layer4(rules)).unwrap_or_default();
    let mut out = format!("/{protocol} hosts={hosts}{rules}\n");
    if let Some(tls) = &listener.tls {
        // Writing to a String cannot fail.
        let _ = certificates(&mut out, tls);
    }
    out
}

/// What a backend is, behind its name.
fn backend(backend: &BackendSpec, rings: &str) -> String {
    let speech = match backend.speech {
        Speech::Http => "",
        Speech::Opaque => " opaque",
        Speech::Datagrams => " datagrams",
    };
    format!("{speech}{}{rings}{}", transport(&backend.transport), detection(&backend.detection))
}

fn certificates(out: &mut String, tls: &ListenerTls) -> std::fmt::Result {
    let mut names: Vec<_> = tls.iter().collect();
    names.sort_by_key(|(name, kind, _)| (*kind, *name));
    for (name, kind, set) in names {
        let shown = match kind {
            NameKind::Exact => name.to_owned(),
            NameKind::Wildcard => format!("*.{name}"),
            NameKind::Default => "any other name".to_owned(),
        };
        let terms = set.terms.as_ref().map(|terms| format!(" {terms:?}")).unwrap_or_default();
        let secrets: Vec<&str> = set.certificates.iter().map(|certificate| &*certificate.secret).collect();
        writeln!(out, "  certificate {shown}: {}{terms}", secrets.join(", "))?;
    }
    Ok(())
}

struct Dump<'a> {
    table: &'a RouteTable,
}

impl Dump<'_> {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let mut clusters: Vec<_> = self.table.clusters.values().collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        for cluster in clusters {
            writeln!(out, "cluster {}{}", cluster.name, self::cluster(cluster))?;
        }
        let mut listeners: Vec<_> = self.table.listeners.iter().collect();
        listeners.sort_by(|a, b| (&a.1.name, a.1.addr).cmp(&(&b.1.name, b.1.addr)));
        for (id, listener) in listeners {
            write!(out, "listener {}{}", listener_name(listener), self::listener(listener))?;
            for (key, rules) in self.table.hosts.iter().filter(|(key, _)| key.listener == *id) {
                writeln!(out, "  host {}", host(&key.pattern))?;
                for rule in &rules.rules {
                    self.rule(out, rule)?;
                }
            }
        }
        self.backends(out)
    }

    fn cluster(&self, id: ClusterId) -> &str {
        self.table.clusters.get(&id).map_or("?", |cluster| &cluster.name)
    }

    fn backend(&self, id: BackendId) -> &str {
        self.table.backends.get(&id).map_or("?", |backend| &backend.name)
    }

    fn rule(&self, out: &mut String, rule: &Rule) -> std::fmt::Result {
        match &rule.matches.path {
            PathMatch::Exact(path) => write!(out, "    exact {path}")?,
            PathMatch::Prefix(path) => write!(out, "    prefix {path}")?,
            PathMatch::Regex(regex) => write!(out, "    regex {}", regex.as_str())?,
        }
        if let Some(method) = rule.matches.method {
            write!(out, " {method:?}")?;
        }
        for (what, conditions) in [("header", &rule.matches.headers), ("query", &rule.matches.query)] {
            for condition in conditions {
                match &condition.value {
                    ValuePattern::Exact(value) => write!(out, " {what}:{}={value}", condition.name)?,
                    ValuePattern::Regex(regex) => {
                        write!(out, " {what}:{}~{}", condition.name, regex.as_str())?
                    }
                }
            }
        }
        for more in &rule.matches.more {
            write!(out, " {}", predicate(more))?;
        }
        let action = &rule.action;
        write!(out, "  <- {} rules[{}]", action.route, action.rule_index)?;
        write!(out, "\n      ")?;
        match &action.target {
            Target::Forward(backends) => {
                write!(out, "forward")?;
                for backend in backends {
                    match backend.backend {
                        Some(id) => write!(out, " {}={}", self.backend(id), backend.weight)?,
                        None => write!(out, " (500)={}", backend.weight)?,
                    }
                    backend.cluster.map_or(Ok(()), |id| write!(out, "@{}", self.cluster(id)))?;
                    edits(out, "request", &backend.request_headers)?;
                    edits(out, "response", &backend.response_headers)?;
                }
            }
            Target::Redirect(to) => {
                let part = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("-").to_owned();
                write!(out, "redirect {} {} {}", to.status, part(&to.scheme), part(&to.hostname))?;
                write!(out, " port={:?}", to.port)?;
                to.path.as_ref().map_or(Ok(()), |path| path_rewrite(out, path))?;
            }
            Target::Reply { status, reason } => write!(out, "reply {status} ({reason})")?,
            Target::Fixed(answer) => {
                write!(out, "answer {} {:?} {:?}", answer.status, answer.content_type, answer.body)?;
                if !answer.location.is_empty() {
                    write!(out, " location={}", answer.location)?;
                }
            }
        }
        edits(out, "request", &action.request_headers)?;
        edits(out, "response", &action.response_headers)?;
        if let Some(hostname) = &action.rewrite.hostname {
            write!(out, " rewrite-host={hostname}")?;
        }
        action.rewrite.path.as_ref().map_or(Ok(()), |path| path_rewrite(out, path))?;
        if let Some(filters) = &action.filters {
            self.filters(out, filters)?;
        }
        writeln!(out)?;
        self.policy(out, &action.policy)
    }

    /// In the order in which they run.
    fn filters(&self, out: &mut String, filters: &Filters) -> std::fmt::Result {
        let name = |backends: &[WeightedBackend]| -> String {
            let names = backends.iter().filter_map(|backend| backend.backend).map(|id| self.backend(id));
            names.collect::<Vec<_>>().join(",")
        };
        if let Some(access) = &filters.access {
            write!(out, "\n      allow={:?} deny={:?}", access.allow, access.deny)?;
        }
        if let Some(https) = filters.https {
            write!(out, "\n      to-https={} port={}", https.status, https.port)?;
        }
        if let Some(client) = &filters.client {
            let by = if client.by.is_some() { "" } else { " closed" };
            write!(out, "\n      client-certificate {:?}{by} {:?}", client.demand, client.subject)?;
            write!(out, " page={:?} passes={}", client.error_page, client.passes)?;
        }
        if let Some(cors) = &filters.cors {
            write!(out, "\n      {cors:?}")?;
        }
        for limit in &filters.rates {
            write!(out, "\n      {:?} of {:?} exempt={:?}", limit.rate, limit.key, limit.exempt)?;
            write!(out, " else {} {:?}{}", limit.answer.status, limit.answer.body, limit.answer.location)?;
        }
        for limit in &filters.concurrency {
            let of = if limit.key == RateKey::Source { " of each source" } else { "" };
            write!(out, "\n      at-once<={}{of}", limit.max)?;
            write!(out, " else {} {:?}{}", limit.answer.status, limit.answer.body, limit.answer.location)?;
        }
        if filters.body_bytes_max > 0 {
            write!(out, "\n      body<={}", filters.body_bytes_max)?;
        }
        if let Some(known) = &filters.known {
            write!(out, "\n      known={:?} but={:?}", known.allow, known.deny)?;
        }
        if let Some(basic) = &filters.basic {
            write!(out, "\n      basic realm={:?} {:?}", basic.realm, basic.users)?;
        }
        if let Some(external) = &filters.external {
            write!(out, "\n      ask {:?} {:?} {:?}", external.method, external.asked, external.target)?;
            write!(out, " passes={:?} signin={:?}", external.passes, external.signin)?;
        }
        for rule in &filters.responses {
            write!(out, "\n      of responses {:?} {:?} {:?}", rule.statuses, rule.headers, rule.edits)?;
        }
        if let Some(values) = &filters.values {
            write!(out, "\n      {values:?}")?;
        }
        if filters.gzip {
            write!(out, "\n      gzip")?;
        }
        for mirror in &filters.mirrors {
            write!(out, "\n      mirror={} ppm={}", name(&mirror.backends), mirror.share_ppm)?;
        }
        if let Some(fallback) = &filters.fallback {
            write!(out, "\n      fallback={} statuses={:?}", name(&fallback.backends), fallback.statuses)?;
        }
        Ok(())
    }

    fn policy(&self, out: &mut String, policy: &Policy) -> std::fmt::Result {
        let mut clusters = policy.clusters.to_vec();
        clusters.sort_by(|a, b| {
            (a.priority, self.cluster(a.cluster)).cmp(&(b.priority, self.cluster(b.cluster)))
        });
        write!(out, "      clusters")?;
        for share in clusters {
            write!(out, " {}:p{}", self.cluster(share.cluster), share.priority)?;
            share.weight.map_or(Ok(()), |weight| write!(out, ":w{weight}"))?;
        }
        for pin in &policy.pins {
            let when = match &pin.when {
                PinMatch::Header(name, value) => format!("header {name}={value}"),
                PinMatch::Cookie(name, value) => format!("cookie {name}={value}"),
                PinMatch::Query(name, value) => format!("query {name}={value}"),
                PinMatch::SourceCidr(net) => format!("source {net}"),
            };
            let strict = if pin.strict { " strict" } else { "" };
            write!(out, " pin[{when} -> {}{strict}]", self.cluster(pin.cluster))?;
        }
        let default = Policy::default();
        match &policy.balance {
            Balance::LeastRequest => {}
            Balance::RoundRobin => write!(out, " round_robin")?,
            Balance::Random => write!(out, " random")?,
            Balance::ConsistentHash(HashKey::Source) => write!(out, " hash(source)")?,
            Balance::ConsistentHash(HashKey::Path) => write!(out, " hash(path)")?,
            Balance::ConsistentHash(HashKey::Header(name)) => write!(out, " hash(header:{name})")?,
            Balance::ConsistentHash(HashKey::Cookie(name)) => write!(out, " hash(cookie:{name})")?,
            Balance::ConsistentHash(HashKey::Query(name)) => write!(out, " hash(query:{name})")?,
        }
        if let Some(affinity) = &policy.affinity {
            write!(out, " affinity={}", affinity.cookie)?;
            if *affinity.path != *"/"
                || affinity.max_age.is_some()
                || *affinity.attributes != *COOKIE_ATTRIBUTES
            {
                write!(out, "[{} {:?}{}]", affinity.path, affinity.max_age, affinity.attributes)?;
            }
            if let Some(expires) = affinity.expires {
                write!(out, " expires={expires:?}")?;
            }
            if affinity.secure_over_tls {
                write!(out, " secure-over-tls")?;
            }
            if affinity.across == AcrossBackends::Anew {
                write!(out, " anew")?;
            }
        }
        if policy.connections != default.connections {
            write!(out, " {:?}", policy.connections)?;
        }
        if policy.retry != default.retry {
            write!(out, " {:?}", policy.retry)?;
        }
        if policy.timeouts != default.timeouts {
            write!(out, " {:?}", policy.timeouts)?;
        }
        if policy.outlier != default.outlier {
            write!(out, " eject-after={}", policy.outlier.consecutive_failures)?;
        }
        writeln!(out, "{}", choice(policy))
    }

    fn backends(&self, out: &mut String) -> std::fmt::Result {
        let mut by_backend: BTreeMap<BackendId, Vec<String>> = BTreeMap::new();
        for endpoint in self.table.endpoints.values() {
            let zone = if endpoint.zone.0 == 0 { "" } else { " zoned" };
            let node = if endpoint.node.0 == 0 { "" } else { " on a node" };
            let cluster = self.cluster(endpoint.cluster);
            let line = format!("{cluster} {} {:?}{zone}{node}", endpoint.addr, endpoint.condition);
            by_backend.entry(endpoint.backend).or_default().push(line);
        }
        let mut backends: Vec<_> = self.table.backends.iter().collect();
        backends.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        for (id, backend) in backends {
            let rings = self.table.rings.iter().filter(|((of, _), _)| of == id);
            let mut rings: Vec<String> = rings
                .map(|((_, cluster), ring)| {
                    format!(" ring[{} {}]", self.cluster(*cluster), self.ring(&ring.points))
                })
                .collect();
            rings.sort();
            writeln!(out, "backend {}{}", backend.name, self::backend(backend, &rings.concat()))?;
            let mut lines = by_backend.remove(id).unwrap_or_default();
            lines.sort();
            for line in lines {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    }

    /// A ring by the addresses of its points, not by their numbers.
    fn ring(&self, points: &[(u64, routing::id::EndpointId)]) -> String {
        let mut bytes = Vec::with_capacity(points.len() * 32);
        for (at, id) in points {
            let addr = self.table.endpoints.get(id).map(|endpoint| endpoint.addr.to_string());
            bytes.extend_from_slice(&at.to_le_bytes());
            bytes.extend_from_slice(addr.unwrap_or_default().as_bytes());
        }
        format!("{} points, {:016x}", points.len(), routing::balance::hash::hash(&bytes))
    }
}

/// How a backend is spoken to, where that is not HTTP/1.1 in clear.
#[must_use]
pub fn transport(transport: &Transport) -> String {
    let protocol = match transport.protocol {
        Application::Http1 => "",
        Application::Http2 => " http2",
    };
    match &transport.security {
        Security::Clear => protocol.to_owned(),
        Security::Closed(why) => format!("{protocol} closed[{why}]"),
        Security::Tls(tls) => {
            let verified = match &tls.verification {
                Verification::Against(authorities) => format!("verified against {authorities}"),
                Verification::Off => "not verified".to_owned(),
            };
            format!("{protocol} tls[{} {verified}, by {}]", tls.server_name, tls.source)
        }
    }
}

/// What a layer-4 listener asks of connections, where that is not the default.
#[must_use]
pub fn layer4(rules: &Layer4) -> String {
    let mut out = String::new();
    let lists = [("proxy-from", &rules.proxy_from), ("allow", &rules.allow), ("deny", &rules.deny)];
    for (name, ranges) in lists.into_iter().filter(|(_, ranges)| !ranges.is_empty()) {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        out.push_str(&format!(" {name}={}", ranges.join(",")));
    }
    match rules.send_proxy {
        SendProxy::Disabled => {}
        SendProxy::V1 => out.push_str(" sends-proxy=v1"),
        SendProxy::V2 => out.push_str(" sends-proxy=v2"),
    }
    let bounds = [
        ("connections", rules.connections_max),
        ("source-connections", rules.source_connections_max),
        ("source-rate", rules.source_rate_max),
    ];
    for (name, max) in bounds.into_iter().filter(|(_, max)| *max > 0) {
        out.push_str(&format!(" {name}<={max}"));
    }
    out
}

/// What operators and policies say of a cluster, where that is not the default: ` drained promoted in-flight<=100`.
#[must_use]
pub fn standing(cluster: &ClusterSpec) -> String {
    let mut out = String::new();
    match cluster.drain_percent {
        0 => {}
        100 => out.push_str(" drained"),
        percent => out.push_str(&format!(" drained={percent}%")),
    }
    if cluster.promoted {
        out.push_str(" promoted");
    }
    if cluster.in_flight_max != 0 {
        out.push_str(&format!(" in-flight<={}", cluster.in_flight_max));
    }
    out
}

/// What a policy says of hedging, spill, panic, shedding and writes, where that is not the default.
#[must_use]
pub fn choice(policy: &Policy) -> String {
    let default = Policy::default();
    let mut out = String::new();
    let mut say = |differs: bool, text: String| {
        if differs {
            out.push(' ');
            out.push_str(&text);
        }
    };
    say(policy.hedge != default.hedge, format!("hedge={:?}", policy.hedge));
    say(policy.spill_percent != default.spill_percent, format!("spill<{}%", policy.spill_percent));
    say(policy.panic_percent != default.panic_percent, format!("panic<{}%", policy.panic_percent));
    say(policy.route_priority != default.route_priority, format!("priority={}", policy.route_priority));
    say(policy.write_fence != default.write_fence, format!("writes={:?}", policy.write_fence));
    say(policy.established != default.established, format!("established={:?}", policy.established));
    out
}

/// How a backend's failures are found, where that is not the default.
#[must_use]
pub fn detection(detection: &Detection) -> String {
    let default = Detection::default();
    let mut out = String::new();
    let mut say = |differs: bool, text: String| {
        if differs {
            out.push(' ');
            out.push_str(&text);
        }
    };
    let (errors, failback) = (&detection.errors, &detection.failback);
    say(!detection.silence, "silence=false".to_owned());
    let ratio = format!("errors>={}% of at least {} in {:?}", errors.percent, errors.minimum, errors.window);
    say(*errors != default.errors, ratio);
    let back = format!("failback=after {:?} over {:?}", failback.delay, failback.ramp);
    say(*failback != default.failback, back);
    if let Some(check) = &detection.check {
        let probe = match &check.probe {
            CheckProbe::Http { path, host, asks } => {
                format!("{} {host}{path}{}", asks.method.as_str(), asked(*asks))
            }
            CheckProbe::Grpc { service, good, .. } => format!("grpc health of {service:?}{}", codes(*good)),
            CheckProbe::Tcp => "connect".to_owned(),
        };
        let probe = check.port.map_or(probe.clone(), |port| format!("{probe} at port {port}"));
        let (interval, timeout) = (check.interval, check.timeout);
        let thresholds = format!("{} down, {} up", check.unhealthy_threshold, check.healthy_threshold);
        say(true, format!("check[{probe} every {interval:?} within {timeout:?}, {thresholds}]"));
    }
    out
}

/// How a check differs from the default.
fn asked(asks: HttpAsks) -> String {
    let (default, mut out) = (HttpAsks::default(), String::new());
    if asks.version != default.version {
        out += &format!(" {}", asks.version.as_str());
    }
    if asks.good != default.good {
        let good: Vec<String> = asks.good.iter().map(|class| format!("{class}xx")).collect();
        out += &format!(" good={}", good.join(","));
    }
    if asks.in_clear {
        out += " in clear";
    }
    out
}

fn codes(good: CheckCodes) -> String {
    if good == CheckCodes::default() {
        return String::new();
    }
    let codes = (0..=CHECK_CODE_MAX).filter(|code| good.contains(*code)).map(|code| code.to_string());
    format!(" good={}", codes.collect::<Vec<_>>().join(","))
}

fn predicate(predicate: &Predicate) -> String {
    let value = |pattern: &ValuePattern| match pattern {
        ValuePattern::Exact(value) => format!("={value}"),
        ValuePattern::Regex(regex) => format!("~{}", regex.as_str()),
    };
    match predicate {
        Predicate::Cookie(one) => format!("cookie:{}{}", one.name, value(&one.value)),
        Predicate::Header(one) => format!("header:{}{}", one.name, value(&one.value)),
        Predicate::Query(one) => format!("query:{}{}", one.name, value(&one.value)),
        Predicate::Source(ranges) => format!("source:{ranges:?}"),
        Predicate::Methods(methods) => format!("methods:{methods:?}"),
        Predicate::Host(hosts) => format!("host:{hosts:?}"),
        Predicate::Path(pattern) => format!("path{}", value(pattern)),
        Predicate::Any(all) => {
            format!("({})", all.iter().map(self::predicate).collect::<Vec<_>>().join(" or "))
        }
    }
}

fn edits(out: &mut String, what: &str, edits: &HeaderEdits) -> std::fmt::Result {
    for (name, value) in &edits.set {
        write!(out, " {what}-set[{name}: {value}]")?;
    }
    for (name, value) in &edits.add {
        write!(out, " {what}-add[{name}: {value}]")?;
    }
    for name in &edits.remove {
        write!(out, " {what}-remove[{name}]")?;
    }
    Ok(())
}

fn path_rewrite(out: &mut String, path: &PathRewrite) -> std::fmt::Result {
    match path {
        PathRewrite::Full(path) => write!(out, " path={path}"),
        PathRewrite::Prefix { matched, replacement } => write!(out, " path[{matched:?} -> {replacement:?}]"),
        PathRewrite::Captures { regex, template } => write!(out, " path[{} -> {template}]", regex.as_str()),
    }
}
