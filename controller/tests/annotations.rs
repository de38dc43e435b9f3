//! Every annotation of the registry: its good value is honoured, or ignored with the reason that the registry gives; its
//! bad value is refused by name, with what is allowed, and the rest of the Ingress keeps working. Then what families
//! become in the compiled table, and that ANNOTATIONS.md says what the registry says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use controller::compile::Defaults;
use controller::compile::annotations::registry::{self, ENTRIES, Entry, Family, Fate};
use controller::compile::annotations::{self, Annotations, Reading};
use controller::crd::EndpointMode;
use controller::merge::Member;
use controller::object::{Kind, ObjectId, Source};
use controller::text::Regexes;
use controller::verdict::{Note, Notes, Severity};

// ---------------------------------------------------------------- one by one

fn read(pairs: &[(String, String)]) -> (Annotations, Vec<Note>) {
    let member = |(index, name): (u16, &str)| {
        let name: Arc<str> = Arc::from(name);
        let member = Member {
            id: routing::id::ClusterId(index),
            name: name.clone(),
            priority: 0,
            weight: None,
            mode: EndpointMode::Pod,
            allowed: vec![],
            region: Arc::from(""),
            zone: Arc::from(""),
        };
        (name, member)
    };
    let members: BTreeMap<Arc<str>, Member> = [(0, "alpha"), (1, "beta")].into_iter().map(member).collect();
    let id = ObjectId {
        source: Source::Fleet,
        kind: Kind::Ingress,
        namespace: Arc::from("default"),
        name: Arc::from("web"),
    };
    let mut regexes = Regexes::default();
    let mut reading = Reading { id: &id, members: &members, regexes: &mut regexes };
    let mut notes = Notes::default();
    let all: BTreeMap<String, String> = pairs.iter().cloned().collect();
    let read = annotations::read(&all, &mut reading, &mut notes);
    (read, notes.to_vec())
}

fn family(entry: &Entry) -> &'static str {
    let found = Family::PREFIXES.iter().find(|(_, family)| entry.is_of(*family));
    found.expect("an entry has a family").0
}

const EXTERNAL: (&str, &str) = ("auth-url", "http://oauth2-proxy.default.svc/auth");

/// What an annotation needs beside it to say anything.
fn companions(name: &str) -> Vec<(&'static str, &'static str)> {
    let mut out = Vec::new();
    for (start, companion) in [
        ("canary-", ("canary", "true")),
        ("canary-by-header-", ("canary-by-header", "x-canary")),
        ("canary-by-cookie-", ("canary-by-cookie", "canary")),
        ("canary-by-query-", ("canary-by-query", "canary")),
        ("cors-", ("enable-cors", "true")),
        ("cors-allow-credentials", ("cors-allow-origin", "https://a.example")),
        ("session-cookie-", ("affinity", "cookie")),
        ("affinity-canary-behavior", ("affinity", "cookie")),
        ("healthcheck-", ("healthcheck-enabled", "true")),
        ("healthy-threshold-count", ("healthcheck-enabled", "true")),
        ("unhealthy-threshold-count", ("healthcheck-enabled", "true")),
        ("proxy-redirect-from", ("proxy-redirect-to", "https://shop.example/")),
        ("proxy-redirect-to", ("proxy-redirect-from", "http://inner.example/")),
        ("auth-proxy-set-headers", EXTERNAL),
        ("permanent-redirect-code", ("permanent-redirect", "/x")),
        ("temporal-redirect-code", ("temporal-redirect", "/x")),
        ("custom-http-errors", ("default-backend", "web")),
        ("rate-limit-fallback-", ("rate-limit", "10")),
        ("concurrency-limit-fallback-", ("concurrency-limit", "10")),
        ("mirror-percentage", ("mirror-target-service", "default/web:80")),
        ("service-subset", ("subset-labels", "topology.istio.io/cluster alpha")),
        ("auth-type", ("auth-secret", "staff")),
        ("auth-secret", ("auth-type", "basic")),
        ("auth-secret-type", ("auth-secret", "staff")),
        ("auth-realm", ("auth-secret", "staff")),
        ("auth-realm", ("auth-type", "basic")),
        ("auth-tls-", ("auth-tls-secret", "web-cacert")),
        ("auth-method", EXTERNAL),
        ("auth-signin", EXTERNAL),
        ("auth-signin-redirect-param", ("auth-signin", "/in")),
        ("auth-response-headers", EXTERNAL),
        ("auth-request-redirect", EXTERNAL),
        ("auth-always-set-cookie", EXTERNAL),
        ("rule-direction.", ("actions.web", r#"[{"type":"RemoveHeader","RemoveHeaderConfig":{"key":"x"}}]"#)),
    ] {
        if name.starts_with(start) && companion.0 != name {
            out.push(companion);
        }
    }
    out
}

fn case(entry: &Entry, value: &str) -> (String, Vec<(String, String)>) {
    let prefix = family(entry);
    let rest = if entry.name.starts_with("cluster-weight") { "alpha" } else { "web" };
    let name = entry.name.replace('*', rest);
    let full = format!("{prefix}{name}");
    let beside = companions(&name).into_iter().map(|(name, value)| {
        let entry = ENTRIES.iter().find(|entry| entry.is_named(name)).unwrap();
        (format!("{}{name}", family(entry)), value.to_owned())
    });
    let mut pairs: Vec<(String, String)> = beside.collect();
    pairs.push((full.clone(), value.to_owned()));
    (full, pairs)
}

fn note_on(full: &str, notes: &[Note]) -> Note {
    let field = format!("metadata.annotations[{full}]");
    let found: Vec<&Note> = notes.iter().filter(|note| note.field == field).collect();
    assert_eq!(found.len(), 1, "{full} gets one verdict: {notes:#?}");
    found[0].clone()
}

#[test]
fn every_good_value_gets_the_verdict_of_the_registry() {
    for entry in ENTRIES {
        let (full, pairs) = case(entry, entry.good);
        let (_, notes) = read(&pairs);
        let note = note_on(&full, &notes);
        let (severity, reason) = match entry.fate {
            Fate::Honoured => (Severity::Info, "honoured".to_owned()),
            Fate::Differs(how) => (Severity::Info, format!("honoured with a difference: {how}")),
            Fate::Ignored(why) => (Severity::Ignored, format!("ignored: {why}")),
            Fate::Closes(why) => (Severity::RefusedPart, format!("not supported: {why}")),
        };
        assert_eq!((note.severity, note.reason), (severity, reason), "{full}: {}", entry.good);
        let others =
            notes.iter().filter(|note| note.severity > Severity::Info && !note.field.contains(&full));
        assert_eq!(others.count(), 0, "{full}: {notes:#?}");
    }
}

#[test]
fn every_bad_value_is_refused_by_name_with_what_is_allowed() {
    let is_used = |entry: &&Entry| matches!(entry.fate, Fate::Honoured | Fate::Differs(_));
    for entry in ENTRIES.iter().filter(is_used) {
        // What takes any text takes neither control characters nor more than its bound.
        let free = ["a\u{7}b".to_owned(), "x".repeat(annotations::given::VALUE_BYTES_MAX + 1)];
        let bad = if entry.bad.is_empty() { free.to_vec() } else { vec![entry.bad.to_owned()] };
        assert!(
            !entry.bad.is_empty() || TAKES_ANY_TEXT.contains(&entry.name),
            "{} has no bad value",
            entry.name
        );
        for bad in bad {
            let (full, pairs) = case(entry, &bad);
            let (_, notes) = read(&pairs);
            let note = note_on(&full, &notes);
            assert_eq!(note.severity, Severity::RefusedPart, "{full}: {bad:?} {note:?}");
            assert!(note.reason.contains("allowed: "), "{full}: {note:?}");
            assert!(!note.value.is_empty(), "{full}: {note:?}");
        }
    }
}

/// Honoured, and every printable text is one of its values.
const TAKES_ANY_TEXT: [&str; 10] = [
    "exact-match-header-*",
    "prefix-match-header-*",
    "exact-match-query-*",
    "prefix-match-query-*",
    "canary-by-header-value",
    "canary-by-cookie-value",
    "canary-by-query-value",
    "service-subset",
    "rate-limit-fallback-custom-response-body",
    "concurrency-limit-fallback-custom-response-body",
];

/// Where the registry lists words, every one of them is taken.
#[test]
fn every_documented_value_is_accepted() {
    let is_word = |part: &&str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_.$-".contains(c))
    };
    let mut tried = 0;
    for entry in ENTRIES.iter().filter(|entry| matches!(entry.fate, Fate::Honoured | Fate::Differs(_))) {
        let words: Vec<&str> = entry.grammar.split(';').next().unwrap().split(", ").collect();
        if words.len() < 2 || !words.iter().all(is_word) {
            continue;
        }
        for word in words {
            let (full, mut pairs) = case(entry, word);
            if entry.name == "backend-scheduler" {
                pairs.push((format!("{A}backend-scheduler-uch-value"), "user".to_owned()));
            }
            let (_, notes) = read(&pairs);
            let note = note_on(&full, &notes);
            assert_eq!(note.severity, Severity::Info, "{full}: {word}: {note:?}");
            tried += 1;
        }
    }
    assert!(tried > 70, "{tried}");
}

/// A bad value costs itself: the rule goes on as if it were not there, or, where it protects something, is closed.
#[test]
fn an_ingress_with_a_bad_value_is_served_or_closed_and_says_so() {
    for entry in ENTRIES.iter().filter(|entry| !entry.bad.is_empty()) {
        let (full, pairs) = case(entry, entry.bad);
        let mut named: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let marker = "nginx.ingress.kubernetes.io/x-forwarded-prefix";
        if full != marker {
            named.push((marker, "/marker"));
        }
        let canary = named.iter().any(|(name, value)| name.ends_with("/canary") && *value == "true");
        let text = ingress("web", "/", &named);
        let text = if canary { ingress("main", "/", &[(marker, "/marker")]) + &text } else { text };
        let (table, report) = compiled(&text);
        let served =
            table.contains("/marker") || table.contains("default/web:80") || table.contains("answer ");
        // A rule whose condition cannot be read meets no request.
        let unserved = entry.name == "conditions.*" && !table.contains("a.example");
        assert!(served || unserved || table.contains("reply 503"), "{full}: {table}\n{report}");
        assert!(report.contains(&format!("{full}]")), "{full}: {report}");
    }
}

#[test]
fn control_characters_are_refused_in_every_annotation() {
    for entry in ENTRIES {
        let (full, pairs) = case(entry, "a\u{1b}[2Jb\r");
        let (_, notes) = read(&pairs);
        let note = note_on(&full, &notes);
        assert_eq!(note.severity, Severity::RefusedPart, "{full}");
        assert!(!note.value.contains('\u{1b}'), "{full}");
    }
}

#[test]
fn names_of_the_registry_are_unique_and_families_do_not_mix() {
    let mut names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ENTRIES.len());
    let one = |name: &str, value: &str| read(&[(name.to_owned(), value.to_owned())]).1;
    assert!(
        one("nginx.ingress.kubernetes.io/destination", "100% web:80")[0].reason.contains("another family")
    );
    assert!(
        one("mse.ingress.kubernetes.io/no-such-thing", "1")[0].reason.contains("no annotation of this name")
    );
    let both = [
        ("nginx.ingress.kubernetes.io/load-balance".to_owned(), "random".to_owned()),
        ("mse.ingress.kubernetes.io/load-balance".to_owned(), "round_robin".to_owned()),
    ];
    let (read, notes) = read(&both);
    assert_eq!(read.part.balance, Some(routing::model::Balance::RoundRobin));
    let losing = note_on("nginx.ingress.kubernetes.io/load-balance", &notes);
    assert!(losing.reason.contains("says the same, and comes first"), "{losing:?}");
}

/// A list of who may come that cannot be read closes the Ingress: it must not open it.
#[test]
fn what_protects_and_cannot_be_honoured_closes() {
    for (name, value) in [
        ("nginx.ingress.kubernetes.io/whitelist-source-range", "10.0.0.0/8, typo"),
        ("nginx.ingress.kubernetes.io/denylist-source-range", "typo"),
        ("nginx.ingress.kubernetes.io/auth-type", "basic"),
        ("nginx.ingress.kubernetes.io/auth-type", "digest"),
        ("nginx.ingress.kubernetes.io/auth-url", "https://192.0.2.1/check"),
        ("nginx.ingress.kubernetes.io/auth-tls-secret", "a/b/c"),
        ("mse.ingress.kubernetes.io/auth-tls-secret", "default/ca"),
        ("nginx.ingress.kubernetes.io/backend-protocol", "FCGI"),
    ] {
        assert!(read(&[(name.to_owned(), value.to_owned())]).0.closed.is_some(), "{name}");
    }
    let origin = ("nginx.ingress.kubernetes.io/cors-allow-origin".to_owned(), "not an origin".to_owned());
    let enabled = ("nginx.ingress.kubernetes.io/enable-cors".to_owned(), "true".to_owned());
    let cors = read(&[origin, enabled]).0.checks.cors.unwrap();
    assert_eq!(cors.origins, routing::model::Origins::List(Box::default()), "nobody, not everybody");
}

// ---------------------------------------------------------------- what they become

struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {ports: [{port: 81}]}
";

fn ingress(name: &str, path: &str, annotations: &[(&str, &str)]) -> String {
    let lines: String = annotations.iter().map(|(name, value)| format!("    {name}: {value:?}\n")).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n    x: y\n{lines}\
         spec:\n  rules:\n  - host: a.example\n    http:\n      paths:\n      - {{path: {path:?}, pathType: Prefix, \
         backend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n---\n"
    )
}

/// The table that these Ingresses compile to, and the verdicts.
fn compiled(fleet: &str) -> (String, String) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name =
        format!("ringway-annotations-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let temp = Temp(std::env::temp_dir().join(name));
    for cluster in ["alpha", "beta"] {
        fs::create_dir_all(temp.0.join("clusters").join(cluster)).unwrap();
        fs::write(temp.0.join("clusters").join(cluster).join("all.yaml"), SERVICES).unwrap();
    }
    fs::create_dir_all(temp.0.join("fleet")).unwrap();
    fs::write(temp.0.join("fleet/all.yaml"), fleet).unwrap();
    let listen: [std::net::SocketAddr; 1] = ["[::]:8080".parse().unwrap()];
    let (table, report) = controller::check::compile_dir(&temp.0, &listen, &Defaults::default());
    (controller::dump::table(&table), report.to_string())
}

const N: &str = "nginx.ingress.kubernetes.io/";
const M: &str = "mse.ingress.kubernetes.io/";
const A: &str = "alb.ingress.kubernetes.io/";

/// A path, annotations (family, name, value), and what the compiled table must hold.
type Case = (&'static str, &'static [(&'static str, &'static str, &'static str)], &'static [&'static str]);

const CASES: &[Case] = &[
    ("/a(/|$)(.*)", &[(N, "rewrite-target", "/$2")], &["regex ^(?:(?i:/a(/|$)(.*))(?s:.*))$", "-> /$2]"]),
    ("/a", &[(N, "rewrite-target", "/b")], &["prefix /a", "path=/b"]),
    ("/a", &[("higress.io/", "rewrite-path", "/b")], &[r#"path["/a" -> "/b"]"#]),
    ("/A", &[("higress.io/", "ignore-path-case", "true")], &["regex ^(?:(?i:/A)(?:/(?s:.*))?)$"]),
    (
        "/",
        &[(N, "server-alias", "b.example,*.c.example")],
        &["host b.example", "host *.c.example (one label)"],
    ),
    ("/", &[(N, "upstream-vhost", "inner.example")], &["rewrite-host=inner.example"]),
    ("/", &[(N, "app-root", "/start")], &["exact /  <-", "answer 302 \"\" \"\" location=/start"]),
    ("/", &[(N, "permanent-redirect", "https://b.example")], &["answer 301", "location=https://b.example"]),
    ("/", &[(N, "from-to-www-redirect", "true")], &["host www.a.example", "redirect 308 - a.example"]),
    ("/", &[(N, "force-ssl-redirect", "true")], &["to-https=308 port=443"]),
    ("/", &[(A, "ssl-redirect", "true")], &["to-https=308 port=443"]),
    (
        "/",
        &[(M, "subset-labels", "topology.istio.io/cluster beta"), (M, "service-subset", "b")],
        &["default/web:80=1@beta"],
    ),
    (
        "/",
        &[(A, "cluster-weight.alpha", "80"), (A, "cluster-weight.beta", "20")],
        &["alpha:p0:w80 beta:p0:w20"],
    ),
    (
        "/",
        &[(M, "destination", "75% web.default.svc.cluster.local:80\n25% other.default.svc.cluster.local:81")],
        &["default/web:80=75", "default/other:81=25"],
    ),
    (
        "/",
        &[(N, "default-backend", "other"), (N, "custom-http-errors", "404,503")],
        &["fallback=default/other:81 statuses=[404, 503]"],
    ),
    (
        "/",
        &[(M, "request-header-control-update", "x-a 1"), (M, "response-header-control-remove", "server")],
        &["request-set[x-a: 1]", "response-remove[server]"],
    ),
    ("/", &[(M, "timeout", "7")], &["request: 7s"]),
    (
        "/",
        &[(N, "proxy-connect-timeout", "3"), (N, "proxy-read-timeout", "90")],
        &["connect: 3s, attempt: 90s, request: 0ns, idle: 90s"],
    ),
    (
        "/",
        &[(N, "proxy-next-upstream", "error http_503 non_idempotent"), (N, "proxy-next-upstream-tries", "2")],
        &["attempts: 2", "statuses: [503], non_idempotent: true"],
    ),
    (
        "/",
        &[
            (N, "affinity", "cookie"),
            (N, "session-cookie-samesite", "None"),
            (N, "session-cookie-path", "/p"),
        ],
        &["affinity=INGRESSCOOKIE[/p None; Secure; HttpOnly; SameSite=None]"],
    ),
    ("/", &[(A, "sticky-session", "true")], &["affinity=SERVERID[/ Some(1000s); HttpOnly; SameSite=Lax]"]),
    ("/", &[(N, "load-balance", "ewma")], &["forward default/web:80=1"]),
    ("/", &[(N, "upstream-hash-by", "$http_x_user")], &["hash(header:x-user)"]),
    (
        "/",
        &[(A, "backend-scheduler", "uch"), (A, "backend-scheduler-uch-value", "user")],
        &["hash(query:user)"],
    ),
    (
        "/",
        &[(A, "healthcheck-enabled", "true"), (A, "healthcheck-path", "/h")],
        &["check[HEAD /h good=2xx every 2s within 5s, 3 down, 3 up]"],
    ),
    (
        "/",
        &[
            (A, "healthcheck-enabled", "true"),
            (A, "healthcheck-path", "/h"),
            (A, "healthcheck-protocol", "HTTP"),
            (A, "healthcheck-method", "GET"),
            (A, "healthcheck-httpcode", "http_2xx,http_3xx"),
            (A, "healthcheck-code", "http_2xx"),
            (A, "healthcheck-connect-port", "0"),
            (A, "healthcheck-timeout-seconds", "7"),
            (A, "healthcheck-interval-seconds", "4"),
            (A, "healthy-threshold-count", "5"),
            (A, "unhealthy-threshold-count", "6"),
        ],
        &["check[GET /h good=2xx every 4s within 7s, 6 down, 5 up]"],
    ),
    ("/", &[(M, "warmup", "30")], &["30s"]),
    (
        "/",
        &[(N, "whitelist-source-range", "10.0.0.0/8"), (N, "denylist-source-range", "10.1.0.0/16")],
        &["allow=[10.0.0.0/8] deny=[10.1.0.0/16]"],
    ),
    ("/", &[(N, "limit-rps", "10")], &["interval_ns: 100000000, tolerance_ns: 5000000000", "of Source"]),
    (
        "/",
        &[(M, "route-limit-rpm", "60"), (M, "route-limit-burst-multiplier", "2")],
        &["interval_ns: 1000000000", "429 \"local_rate_limited\""],
    ),
    (
        "/",
        &[(M, "concurrency-limit", "3"), (M, "concurrency-limit-fallback-redirect-url", "/busy")],
        &["at-once<=3 else 302 \"\"/busy"],
    ),
    (
        "/",
        &[(N, "auth-tls-secret", "default/ca"), (N, "auth-tls-verify-client", "optional")],
        &["client-certificate Optional closed None page=None passes=false"],
    ),
    (
        "/",
        &[(N, "limit-connections", "2"), (M, "connection-policy-tcp-max-connection", "9")],
        &["at-once<=2 of each source else 503", "at-once<=9 else 503"],
    ),
    (
        "/",
        &[
            (M, "connection-policy-tcp-max-connection-per-endpoint", "8"),
            (M, "connection-policy-http-max-request-per-connection", "100"),
        ],
        &["ConnectionBounds { endpoint_max: 8, requests_max: 100 }"],
    ),
    ("/", &[(N, "proxy-next-upstream-timeout", "7")], &["time_max: 7s"]),
    (
        "/",
        &[(N, "auth-type", "basic"), (N, "auth-secret", "staff")],
        &["basic realm=\"Authentication Required\" None", "request-remove[authorization]"],
    ),
    ("/", &[(N, "enable-gzip", "true")], &["\n      gzip\n"]),
    ("/", &[(N, "proxy-body-size", "8m")], &["body<=8388608"]),
    (
        "/",
        &[(M, "mirror-target-service", "other:81"), (M, "mirror-percentage", "25")],
        &["mirror=default/other:81 ppm=250000"],
    ),
    (
        "/",
        &[
            (A, "order", "1"),
            (
                A,
                "conditions.web",
                r#"[{"type":"Cookie","cookieConfig":{"values":[{"key":"k","value":"v*"}]}}]"#,
            ),
        ],
        &["(cookie:k~^(?:v(?s:.*))$)"],
    ),
    (
        "/",
        &[(
            A,
            "actions.web",
            r#"[{"type":"Redirect","RedirectConfig":{"host":"${host}","path":"/n","port":"443","protocol":"https","httpCode":"301"}}]"#,
        )],
        &["redirect 301 https -", "port=Some(443) path=/n"],
    ),
    (
        "/",
        &[(
            A,
            "actions.web",
            r#"[{"type":"ForwardGroup","ForwardConfig":{"ServerGroups":[{"ServiceName":"web","ServicePort":80,"Weight":30},{"ServiceName":"other","ServicePort":81,"Weight":70}]}},{"type":"InsertHeader","InsertHeaderConfig":{"key":"x-a","value":"1","valueType":"UserDefined"}}]"#,
        )],
        &["default/web:80=30", "default/other:81=70", "request-set[x-a: 1]"],
    ),
    ("/", &[(A, "actions.web", "[{]")], &["reply 503 (actions cannot be read)"]),
    (
        "/",
        &[("higress.io/", "match-method", "GET POST"), ("higress.io/", "prefix-match-query-v", "1.")],
        &["query:v~^(?:1\\..*)$ methods:[Get, Post]"],
    ),
];

#[test]
fn annotations_become_rows_backends_and_filters() {
    let mut wrong = String::new();
    for (path, given, expected) in CASES {
        let named: Vec<(String, &str)> =
            given.iter().map(|(family, name, value)| (format!("{family}{name}"), *value)).collect();
        let named: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let (table, report) = compiled(&ingress("web", path, &named));
        for wanted in expected.iter().filter(|wanted| !table.contains(**wanted)) {
            writeln!(wrong, "{named:?}: no {wanted:?} in\n{table}\n{report}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn an_ssl_redirect_of_ingress_nginx_needs_tls_on_the_host() {
    let with = [("nginx.ingress.kubernetes.io/ssl-redirect", "true")];
    let plain = ingress("web", "/", &with);
    assert!(!compiled(&plain).0.contains("to-https"));
    let tls = plain.replace("spec:\n", "spec:\n  tls: [{hosts: [a.example], secretName: x}]\n");
    assert!(compiled(&tls).0.contains("to-https"));
}

#[test]
fn a_canary_takes_its_share_of_the_rule_that_it_belongs_to() {
    let canary = [
        ("nginx.ingress.kubernetes.io/canary", "true"),
        ("nginx.ingress.kubernetes.io/canary-by-header", "x-canary"),
        ("nginx.ingress.kubernetes.io/canary-by-cookie", "canary"),
        ("nginx.ingress.kubernetes.io/canary-weight", "20"),
    ];
    let main = ingress("web", "/", &[("nginx.ingress.kubernetes.io/upstream-vhost", "inner.example")]);
    let other = ingress("gray", "/", &canary)
        .replace("name: web, port: {number: 80}", "name: other, port: {number: 81}");
    let (table, report) = compiled(&format!("{main}{other}"));
    let rules: Vec<&str> =
        table.lines().filter(|line| line.contains("prefix /") || line.contains("forward")).collect();
    let expected = [
        "    prefix / header:x-canary=always  <- Ingress default/gray rules[0]",
        "      forward default/other:81=1 rewrite-host=inner.example",
        "    prefix / header:x-canary=never  <- Ingress default/web rules[0]",
        "      forward default/web:80=1 rewrite-host=inner.example",
        "    prefix / cookie:canary=always  <- Ingress default/gray rules[0]",
        "      forward default/other:81=1 rewrite-host=inner.example",
        "    prefix / cookie:canary=never  <- Ingress default/web rules[0]",
        "      forward default/web:80=1 rewrite-host=inner.example",
        "    prefix /  <- Ingress default/web rules[0]",
        "      forward default/web:80=80 default/other:81=20 rewrite-host=inner.example",
    ];
    assert_eq!(rules, expected, "{table}\n{report}");
    let (table, report) = compiled(&other);
    assert!(!table.contains("host a.example"), "{table}");
    assert!(report.contains("no Ingress without canary has this host and path"), "{report}");
}

#[test]
fn a_service_of_another_namespace_needs_a_grant() {
    let of = |value| ingress("web", "/", &[("mse.ingress.kubernetes.io/destination", value)]);
    let (table, report) = compiled(&of("100% other.secret.svc.cluster.local:81"));
    assert!(table.contains("reply 500"), "{table}");
    assert!(report.contains("no ReferenceGrant in secret"), "{report}");
}

#[test]
fn the_lists_of_a_domain_hold_for_every_rule_of_the_host() {
    let domain = |name| format!("mse.ingress.kubernetes.io/domain-{name}-source-range");
    let (white, black) = (domain("whitelist"), domain("blacklist"));
    let one = ingress("one", "/", &[(&white, "10.0.0.0/8"), (&black, "10.9.0.0/16")]);
    let own = ingress("own", "/own", &[("mse.ingress.kubernetes.io/whitelist-source-range", "192.0.2.0/24")]);
    let plain = ingress("plain", "/plain", &[]);
    let (table, report) = compiled(&format!("{one}{own}{plain}"));
    let lists: Vec<&str> = table
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("allow=") || line.starts_with("prefix"))
        .collect();
    let expected = [
        "prefix /plain  <- Ingress default/plain rules[0]",
        "allow=[10.0.0.0/8] deny=[10.9.0.0/16]",
        "prefix /own  <- Ingress default/own rules[0]",
        "allow=[192.0.2.0/24] deny=[10.9.0.0/16]",
        "prefix /  <- Ingress default/one rules[0]",
        "allow=[10.0.0.0/8] deny=[10.9.0.0/16]",
    ];
    assert_eq!(lists, expected, "{table}\n{report}");
    // Another namespace's Ingress shuts nobody out of this one's host.
    let stranger = one.replace("name: one", "name: one\n  namespace: zoo");
    let (table, report) = compiled(&format!("{stranger}{plain}"));
    assert_eq!(table.matches("allow=[10.0.0.0/8]").count(), 1, "{table}");
    assert!(report.contains("hold for this Ingress only"), "{report}");
}

#[test]
fn a_bad_value_costs_itself_only() {
    let (table, report) = compiled(&ingress(
        "web",
        "/",
        &[
            ("nginx.ingress.kubernetes.io/proxy-read-timeout", "60s"),
            ("nginx.ingress.kubernetes.io/upstream-vhost", "inner.example"),
            ("nginx.ingress.kubernetes.io/configuration-snippet", "return 200;"),
        ],
    ));
    assert!(table.contains("forward default/web:80=1 rewrite-host=inner.example"), "{table}");
    for wanted in [
        "partly refused",
        "proxy-read-timeout]: \"60s\": allowed: 1 to 86400",
        "ignored: there are no templates here",
    ] {
        assert!(report.contains(wanted), "{wanted}: {report}");
    }
}

// ---------------------------------------------------------------- the document

fn document() -> String {
    let mut out = String::from(
        "# Annotations\n\nGenerated from controller/src/compile/annotations/registry.rs \
         (`UPDATE_EXPECT=1 cargo test -p ringway-controller --test annotations`).\n\nFamilies: n = \
         `nginx.ingress.kubernetes.io/`, m = `mse.ingress.kubernetes.io/`, h = `higress.io/` and \
         `higress.ingress.kubernetes.io/`, a = `alb.ingress.kubernetes.io/`. Of two families with one name MSE's comes first, \
         then ALB's, Higress's, nginx's. Every annotation holds for the Ingress that carries it. `ringway check DIR` prints \
         the verdict on each annotation of each Ingress.\n\nA request passes the filters of its rule in this order: source \
         ranges, redirect to https, client certificate, CORS preflight, rate limits, requests at once, size of the body, name and password, external \
         authentication; then mirror, header changes, rewrite, retries, fallback; and, on its way back, inner names and compression.\n",
    );
    let (mut yes, mut but, mut no) = (0, 0, 0);
    let mut rows = String::new();
    for entry in ENTRIES {
        let fate = match entry.fate {
            Fate::Honoured => {
                yes += 1;
                "honoured".to_owned()
            }
            Fate::Differs(how) => {
                but += 1;
                format!("honoured: {how}")
            }
            Fate::Ignored(why) => {
                no += 1;
                format!("ignored: {why}")
            }
            Fate::Closes(why) => {
                no += 1;
                format!("not supported: {why}")
            }
        };
        let grammar = entry.grammar.replace('|', "\\|");
        writeln!(
            rows,
            "| `{}` | {} | {} | {} |",
            entry.name,
            entry.families,
            grammar,
            fate.replace('|', "\\|")
        )
        .unwrap();
    }
    writeln!(out, "\n{yes} are honoured, {but} with a difference, {no} are not.\n").unwrap();
    out += &families();
    out.push_str("| annotation | of | may hold | becomes |\n|---|---|---|---|\n");
    out + &rows + OTHER_HANDS
}

/// How many annotations of each product's documentation there are, and what becomes of them.
fn families() -> String {
    let mut out = String::from(
        "| documented for | annotations | honoured | with a difference | not |\n|---|---|---|---|---|\n",
    );
    let products = [
        (Family::Nginx, "ingress-nginx"),
        (Family::Mse, "MSE"),
        (Family::Higress, "Higress"),
        (Family::Alb, "ALB"),
    ];
    for (family, product) in products {
        let fates = || ENTRIES.iter().filter(|entry| entry.is_of(family)).map(|entry| entry.fate);
        let honoured = fates().filter(|fate| matches!(fate, Fate::Honoured)).count();
        let differs = fates().filter(|fate| matches!(fate, Fate::Differs(_))).count();
        let all = fates().count();
        writeln!(out, "| {product} | {all} | {honoured} | {differs} | {} |", all - honoured - differs)
            .unwrap();
    }
    out + "\n"
}

/// What was found when manifests of other hands were read: by `ringway import` over the examples of those projects.
const OTHER_HANDS: &str = "
## Manifests of other hands

`ringway import DIR` over the examples that these projects publish in their repositories (`git archive COMMIT PATH`). What is not honoured is named with the
reason; nothing is dropped in silence. The cases of ALB's suite were written down as the Ingresses that they create. MSE publishes a page of its 91 annotations and no
manifests: every annotation of that page is in the table above and has a scenario; of its values only TLSv1.0 and TLSv1.1 as the highest version are refused.

| examples of | Ingresses | annotations honoured | with a difference | ignored | refused |
|---|---|---|---|---|---|
| ingress-nginx `dbb11b92`, `docs/examples` | 21 | 13 | 12 | 10 | 5 (`auth-url` of hosts outside: closed) |
| ALB's controller `c277108`, `docs/zh/usage.md` | 16 (3 more are no YAML as printed) | 9 | 16 | 0 | 0 |
| ALB's controller `c277108`, the cases of `test/e2e/testcase/alb` | 94 | 153 | 36 | 0 | 37 (26 of a ServerGroupID, which is the cloud's; 11 with conditions on responses, before those were taken) |
| Higress `4e0d6914`, `samples`, `test` | 157 | 83 | 22 | 7 | 11 (backends in Nacos, Eureka, Consul; `*` as a source range; a CBC cipher; `mcp-sse`) |

";

#[test]
fn the_document_says_what_the_registry_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ANNOTATIONS.md");
    let text = document();
    // What follows is counted by gateway/tests/ingress_nginx.
    let counted = "## ingress-nginx's end-to-end cases\n";
    let there = fs::read_to_string(&path).unwrap_or_default();
    let (own, rest) = there.split_once(counted).map_or((&*there, ""), |(own, rest)| (own, rest));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, format!("{text}{counted}{rest}")).unwrap();
        return;
    }
    assert_eq!(own, text, "run with UPDATE_EXPECT=1");
}

// ---------------------------------------------------------------- import

const GATEWAY: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ringway}
spec: {controllerName: ringway.dev/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public}
spec: {gatewayClassName: ringway, listeners: [{name: http, port: 80, protocol: HTTP}]}
";

fn imported(text: &str) -> controller::import::Import {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ringway-import-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let temp = Temp(std::env::temp_dir().join(name));
    fs::create_dir_all(temp.0.join("deep/er")).unwrap();
    fs::write(temp.0.join("deep/er/all.yaml"), text).unwrap();
    controller::import::import(&temp.0).unwrap()
}

#[test]
fn what_is_imported_gets_a_verdict_and_compiles_as_routes() {
    let n = |name: &str| format!("{N}{name}");
    let web = ingress(
        "web",
        "/a",
        &[
            (&n("upstream-vhost"), "inner.example"),
            (&n("enable-cors"), "true"),
            (&n("cors-allow-origin"), "https://a.example"),
            (&n("proxy-read-timeout"), "60"),
            (&n("affinity"), "cookie"),
            (&n("limit-rps"), "10"),
            (&n("configuration-snippet"), "deny all;"),
            ("mse.ingress.kubernetes.io/mirror-target-service", "other:81"),
        ],
    );
    let gray = ingress(
        "gray",
        "/a",
        &[(&n("canary"), "true"), (&n("canary-by-header"), "x-c"), (&n("canary-weight"), "25")],
    );
    let gray = gray.replace("name: web, port: {number: 80}", "name: other, port: {number: 81}");
    let import = imported(&format!("{web}{gray}"));
    let report = import.to_string();
    assert!(
        report.ends_with("2 Ingresses: 6 annotations honoured, 4 with a difference, 1 ignored, 0 refused\n"),
        "{report}"
    );
    assert!(!import.refused());
    let routes = import.gateway_api("public");
    assert!(routes.contains("# left out: nginx.ingress.kubernetes.io/limit-rps"), "{routes}");
    let (table, verdicts) = compiled(&format!("{GATEWAY}{routes}"));
    for wanted in [
        "prefix /a header:x-c=always",
        "prefix /a header:x-c=never",
        "forward default/web:80=75 default/other:81=25 rewrite-host=inner.example",
        "mirror=default/other:81 ppm=1000000",
        "origins: List([\"https://a.example\"])",
        "affinity=INGRESSCOOKIE",
    ] {
        assert!(table.contains(wanted), "{wanted}\n{table}\n{verdicts}\n{routes}");
    }
    assert!(verdicts.contains("0 partly refused, 0 refused"), "{verdicts}\n{routes}");
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_imported() {
    let import =
        imported(&format!("{}kind: Nonsense\n---\n{}", ingress("web", "/", &[]), ingress("too", "/b", &[])));
    let report = import.to_string();
    assert!(
        import.refused() && report.contains("apiVersion: missing") && report.contains("2 Ingresses"),
        "{report}"
    );
}

// ---------------------------------------------------------------- hostile values

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Whatever stands in annotations: no panic, one verdict for each, and no control character in a report.
        #[test]
        fn any_value_of_any_annotation_gets_a_verdict(
            given in proptest::collection::vec((0..ENTRIES.len(), "\\PC{0,12}|[0-9$%{}\\[\\]\":/.,* a-z\n-]{0,40}"), 1..12)
        ) {
            let mut pairs: Vec<(String, String)> = given
                .into_iter()
                .map(|(index, value)| (case(&ENTRIES[index], "").0, value))
                .collect();
            pairs.sort();
            pairs.dedup_by(|a, b| a.0 == b.0);
            let (_, notes) = read(&pairs);
            for (full, _) in &pairs {
                let note = note_on(full, &notes);
                prop_assert!(!note.value.chars().any(char::is_control), "{note:?}");
            }
        }
    }
}

/// What cannot be read must not be as good as absent.
#[test]
fn what_protects_closes_where_its_value_is_too_long_or_holds_control_characters() {
    let long: Vec<String> = (0..1_000).map(|n| format!("192.168.{}.{}/32, ", n / 256, n % 256)).collect();
    let basic = [("auth-type", "basic"), ("auth-secret", "staff")];
    let tls = [("auth-tls-secret", "ca"), ("auth-tls-match-cn", "CN=ann")];
    let asked =
        [("auth-url", "http://auth.default.svc/a"), ("auth-method", "GET"), ("auth-response-headers", "x-a")];
    let lists = [
        "whitelist-source-range",
        "allowlist-source-range",
        "denylist-source-range",
        "blacklist-source-range",
        "domain-whitelist-source-range",
        "domain-blacklist-source-range",
        "backend-protocol=HTTPS proxy-ssl-secret",
        "auth-snippet",
    ];
    let mut all: Vec<(Vec<(&str, &str)>, &str)> = Vec::new();
    for list in lists {
        let (beside, name) = list.rsplit_once(' ').unwrap_or(("", list));
        all.push((beside.split_once('=').into_iter().collect(), name));
    }
    for group in [&basic[..], &tls, &asked] {
        all.extend(group.iter().map(|(name, _)| (group.to_vec(), *name)));
    }
    for (beside, name) in all {
        let prefix = Family::PREFIXES
            .iter()
            .find(|(_, family)| registry::find(name).unwrap().is_of(*family))
            .unwrap()
            .0;
        for value in [format!("10.0.0.0/8\r, {}", "x"), format!("{}x", long.concat())] {
            let mut pairs: Vec<(String, String)> = Vec::new();
            for (beside, value) in beside.iter().filter(|(beside, _)| *beside != name) {
                pairs.push((format!("{prefix}{beside}"), (*value).to_owned()));
            }
            pairs.push((format!("{prefix}{name}"), value));
            let (read, notes) = read(&pairs);
            assert!(read.closed.is_some(), "{name} beside {beside:?}: {notes:?}");
            let told = note_on(&format!("{prefix}{name}"), &notes);
            assert!(told.reason.contains("no control characters"), "{told:?}");
        }
    }
}

/// One port is spoken to in one way: asking it may not take away what the rules say of it.
#[test]
fn a_question_to_the_backend_of_the_rules_is_asked_as_they_speak_to_it() {
    let given = [
        ("nginx.ingress.kubernetes.io/backend-protocol", "HTTPS"),
        ("nginx.ingress.kubernetes.io/proxy-ssl-name", "inner.example"),
        ("nginx.ingress.kubernetes.io/auth-url", "http://web.default.svc:80/check"),
    ];
    let (table, report) = compiled(&ingress("web", "/", &given));
    assert!(table.contains("backend default/web:80 tls[inner.example"), "{table}");
    assert!(report.contains("it is asked as they speak to it"), "{report}");
    let elsewhere = given.map(|(name, value)| {
        (name, if name.ends_with("auth-url") { "http://other.default.svc:81/check" } else { value })
    });
    let (table, report) = compiled(&ingress("web", "/", &elsewhere));
    assert!(table.contains("backend default/web:80 tls[inner.example"), "{table}");
    assert!(
        !table.contains("backend default/other:81 tls") && !report.contains("as they speak to it"),
        "{table}{report}"
    );
}
