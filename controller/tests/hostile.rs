//! Objects and files made to hurt (SECURITY S36–S40): each is refused by name, and the good route beside it stays as
//! it is. Random mutations of good manifests never panic, and arriving at a state step by step or at once is one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use controller::compile::{Compiler, CompilerSettings, Defaults};
use controller::merge::Loopback;
use controller::object::{ObjectId, Source};
use controller::verdict::Outcome;
use controller::watch::decode::{Format, decode_text};
use controller::watch::files::Directory;
use controller::watch::{Observation, Presence};
use controller::world::World;
use controller::{check_dir, dump};
use proptest::prelude::*;

const GOOD: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: good, creationTimestamp: "2020-01-01T00:00:00Z"}
spec: {rules: [{host: good.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ringway}
spec: {controllerName: ringway.dev/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public}
spec: {gatewayClassName: ringway, listeners: [{name: http, port: 80, protocol: HTTP}]}
"#;

const MEMBER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}, {addresses: [127.0.0.1]}]
"#;

fn listen() -> Vec<controller::Listen> {
    vec!["[::]:8080".parse::<SocketAddr>().unwrap().into()]
}

fn dir(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = std::env::temp_dir().join(format!("ringway-hostile-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn ingress(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: bad}}\nspec: {spec}\n")
}

fn path(path: &str) -> String {
    ingress(&format!(
        "{{rules: [{{host: bad.example, http: {{paths: [{{path: {path}, pathType: Prefix, backend: {{service: \
         {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}"
    ))
}

fn annotated(annotation: &str) -> String {
    path("/").replace("{name: bad}", &format!("{{name: bad, annotations: {{{annotation}}}}}"))
}

fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: bad}}\n\
         spec: {{parentRefs: [{{name: public}}], rules: [{rule}]}}\n"
    )
}

fn slice(kind: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: bad, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {kind}\n\
         ports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: bad}}\n\
         spec: {{targetRefs: [{{group: networking.k8s.io, kind: Ingress, name: nobody}}], {spec}}}\n"
    )
}

fn hostile_policies() -> Vec<String> {
    vec![
        policy("timeouts: {connect: 1e9s}"),
        policy("clusters: [{name: alpha, weight: -5}]"),
        policy("clusters: [{name: alpha, priority: 256}]"),
        policy("retry: {attempts: 0}"),
        policy("retry: {maxBodyBytes: 99999999999}"),
        policy("hedge: {mode: Sometimes}"),
        policy("writeFence: On"),
        policy("spill: {healthyPercent: 9223372036854775807}"),
        policy("panic: {usablePercent: -9223372036854775808}"),
        policy("capacity: {maxInFlight: 4294967296}"),
        policy("capacity: {routePriority: -1}"),
        policy("detection: {errors: {window: 1ms}}"),
        policy("detection: {errors: {minimum: 4294967297}}"),
        policy("failback: {ramp: 99999h}"),
        policy("healthCheck: {interval: 1ms}"),
        policy("healthCheck: {interval: 0s}"),
        policy("healthCheck: {timeout: 0s}"),
        policy("healthCheck: {protocol: GRPC}"),
        policy(r#"healthCheck: {protocol: "HTTP\r\n"}"#),
        policy(r#"healthCheck: {path: "/ok HTTP/1.1\r\nHost: evil\r\n\r\n"}"#),
        policy(r#"healthCheck: {path: "/ok?a=b c"}"#),
        policy("healthCheck: {path: healthz}"),
        policy("healthCheck: {path: /../admin}"),
        policy(r#"healthCheck: {host: "evil\r\nX: y"}"#),
        policy("healthCheck: {host: 169.254.169.254}"),
        policy("healthCheck: {host: '*.example'}"),
        policy("healthCheck: {unhealthyThreshold: 4294967296}"),
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\n\
         metadata: {name: alpha, annotations: {ringway.dev/promoted: \"1\"}}\nspec: {}\n"
            .to_owned(),
        policy(r#"pins: [{when: {cookie: {name: "a=b", value: c}}, cluster: alpha}]"#),
    ]
}

fn hostile_fleet() -> Vec<String> {
    let backend = "backendRefs: [{name: web, port: 80}]";
    let long = "a".repeat(300);
    let mut bad = vec![
        path(r#""/\r\nX-Injected: 1""#),
        path(r#""/\0""#),
        path(r#""/a b""#),
        path(r#""/a;\u001b[31m""#),
        path("/../../etc/passwd"),
        path("/%2e%2e%2fadmin"),
        path("//evil.example/"),
        path(&format!("/{}", "a".repeat(5000))),
        ingress(r#"{rules: [{host: "bad.example\r\nx: y", http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: "*", http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: "*.*.example", http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: 10.0.0.1, http: {paths: []}}]}"#),
        ingress(r#"{rules: [{host: "bad.example:80", http: {paths: []}}]}"#),
        ingress(r#"{ingressClassName: "nginx\n", rules: []}"#),
        ingress("{defaultBackend: {resource: {kind: Secret, name: x}}}"),
        ingress("{defaultBackend: {service: {name: web, port: {number: 70000}}}}"),
        ingress("{defaultBackend: {service: {name: web, port: {number: 80, name: http}}}}"),
        ingress("{defaultBackend: {service: {name: web}}}"),
        ingress("[]"),
        annotated(r#"ringway.dev/load-balance: "hash(header:x\r\ny)""#),
        annotated(r#"ringway.dev/affinity-cookie: "a;Domain=evil""#),
        annotated(r#"ringway.dev/rewrite-prefix: "/x\r\nHost: y""#),
        annotated(r#"ringway.dev/cluster: "../../alpha""#),
        annotated(r#"ringway.dev/cluster-weight.alpha: "99999999999999999999""#),
        annotated(r#"ringway.dev/server-snippet: "load_module /tmp/x.so;""#),
        annotated("ringway.dev/cluster-weight.alpha: 5"),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: \"a\\r\\nb\"}\nspec: {}\n".to_owned(),
        format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {long}}}\nspec: {{}}\n"),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: []\n".to_owned(),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x, namespace: ../kube-system}\n".to_owned(),
        route(r#"{matches: [{path: {type: RegularExpression, value: "(a+)+$("}}]}"#),
        route(r#"{matches: [{path: {type: RegularExpression, value: "((a{1000}){1000}){1000}"}}]}"#),
        route(r#"{matches: [{path: {type: RegularExpression, value: "a)|(.*"}}]}"#),
        route(&format!("{{matches: [{{path: {{type: RegularExpression, value: \"{}\"}}}}]}}", "(".repeat(900))),
        route(r#"{matches: [{headers: [{name: "x\r\ny", value: v}]}]}"#),
        route(r#"{matches: [{headers: [{name: x, type: RegularExpression, value: "\\p{Greek}{9999}"}]}]}"#),
        route(r#"{matches: [{queryParams: [{name: "a&b", value: v}]}]}"#),
        route(r#"{matches: [{queryParams: [{name: a, value: "\u0000"}]}]}"#),
        route(r#"{matches: [{method: "GET /"}]}"#),
        route("{backendRefs: [{name: web, namespace: kube-system, port: 80}]}"),
        route("{backendRefs: [{name: web, port: 80, weight: -1}]}"),
        route("{backendRefs: [{kind: ExternalName, group: evil, name: web, port: 80}]}"),
        route("{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]}"),
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {name: alpha}\nspec: {weight: -1}\n".to_owned(),
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {name: UPPER}\nspec: {}\n".to_owned(),
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
         d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
         g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
            .to_owned(),
        "[".repeat(100_000),
        "kind: List\nitems: [".repeat(50),
        "\u{0}\u{1}\u{2}".to_owned(),
    ];
    bad.extend(hostile_policies());
    // The rest of a broken route's rules must not be catch-alls.
    bad.push(route(&format!("{{matches: [{{headers: [{{name: \"\", value: v}}]}}], {backend}}}")));
    bad
}

#[test]
fn hostile_fleet_objects_are_refused_and_change_nothing_else() {
    let alone = dir("alone", &[("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER)]);
    let mut good = Vec::new();
    let (table, report) = controller::compile_dir(&alone, &listen(), &Defaults::default());
    assert!(!report.refused(), "{report}");
    good.extend(dump::table(&table).lines().map(str::to_owned));
    let all = hostile_fleet();
    assert!(all.len() >= 50);
    for (index, bad) in all.iter().enumerate() {
        let files =
            [("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER), ("fleet/x-bad.yaml", bad)];
        let root = dir(&format!("fleet-{index}"), &files);
        let (table, report) = controller::compile_dir(&root, &listen(), &Defaults::default());
        assert!(report.refused(), "accepted:\n{bad}\n{report}");
        let refused: Vec<_> =
            report.verdicts.iter().filter(|v| v.outcome >= Outcome::PartlyRefused).collect();
        assert!(refused.iter().all(|v| &*v.origin == "fleet/x-bad.yaml"), "{bad}\n{report}");
        // Nothing of it reaches a terminal or a log as a control character.
        assert!(!report.to_string().chars().any(|c| c.is_control() && c != '\n'), "{bad:?}\n{report}");
        let text = dump::table(&table);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        for line in &good {
            assert!(text.lines().any(|found| found == line), "lost {line:?} to\n{bad}\n{text}");
        }
        // What could not be read as a condition is not served without it.
        let caught_all = text.lines().any(|line| line.contains("prefix /  <- HTTPRoute default/bad"));
        assert!(!caught_all || text.contains("reply 500"), "{bad}\n{text}");
        fs::remove_dir_all(root).unwrap();
    }
    fs::remove_dir_all(alone).unwrap();
}

#[test]
fn addresses_that_a_member_must_not_point_at_are_never_endpoints() {
    let refused = [
        ("IPv4", "169.254.169.254"),
        ("IPv4", "169.254.0.1"),
        ("IPv4", "0.0.0.0"),
        ("IPv4", "0.1.2.3"),
        ("IPv4", "255.255.255.255"),
        ("IPv4", "224.0.0.1"),
        ("IPv4", "100.100.100.200"),
        ("IPv4", "168.63.129.16"),
        ("IPv6", "::"),
        ("IPv6", "fe80::1"),
        ("IPv6", "ff02::1"),
        ("IPv6", "fd00:ec2::254"),
        ("IPv6", "::ffff:169.254.169.254"),
        ("IPv6", "::ffff:0.0.0.0"),
        ("IPv4", "10.2.0.1"),
        ("IPv4", "not-an-address"),
        ("IPv4", "::1"),
        ("IPv6", "10.1.0.9"),
        ("FQDN", "evil.example"),
    ];
    let member = "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {name: alpha}\n\
                  spec: {allowedCIDRs: [10.1.0.0/16, 127.0.0.0/8, 169.254.0.0/16, '::/0']}\n";
    for (index, (kind, address)) in refused.iter().enumerate() {
        let bad = slice(kind, address);
        let files = [
            ("fleet/good.yaml", GOOD),
            ("fleet/member.yaml", member),
            ("clusters/alpha/web.yaml", MEMBER),
            ("clusters/alpha/x-bad.yaml", &bad),
        ];
        let root = dir(&format!("slice-{index}"), &files);
        let (table, report) = controller::compile_dir(&root, &listen(), &Defaults::default());
        let mut found: Vec<String> = table.endpoints.values().map(|e| e.addr.ip().to_string()).collect();
        found.sort();
        assert_eq!(found, ["10.1.0.1", "127.0.0.1"], "{address}");
        assert!(report.refused(), "{address}\n{report}");
        fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn loopback_of_a_real_member_is_refused() {
    let mut world = World::default();
    world.observe(Observation::Member { name: "alpha".into(), presence: Presence::Present });
    for (source, text) in [(Source::Fleet, GOOD), (Source::Member("alpha".into()), MEMBER)] {
        for (object, notes) in decode_text(text, Format::Yaml, &source).unwrap().objects {
            world.observe(Observation::Upsert { object: Box::new(object), origin: "".into(), notes });
        }
    }
    world.observe(Observation::Synced);
    let settings = CompilerSettings {
        listen: listen(),
        series_max: 10,
        loopback: Loopback::Refused,
        defaults: Defaults::default(),
    };
    let mut compiler = Compiler::new(settings);
    let _ = compiler.compile(&mut world);
    let found: Vec<String> = compiler.table().endpoints.values().map(|e| e.addr.to_string()).collect();
    assert_eq!(found, ["10.1.0.1:8080"]);
}

#[test]
fn folders_that_lead_nowhere_or_in_circles_are_reported() {
    let root = dir("folders", &[("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER)]);
    fs::create_dir_all(root.join("clusters/Not_A_Name")).unwrap();
    fs::write(root.join("clusters/stray.yaml"), MEMBER).unwrap();
    std::os::unix::fs::symlink("..", root.join("fleet/loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("fleet/dangling.yaml")).unwrap();
    let huge = fs::File::create(root.join("fleet/huge.yaml")).unwrap();
    huge.set_len(controller::watch::files::FILE_BYTES_MAX + 1).unwrap();
    let report = check_dir(&root, &listen());
    let text = report.to_string();
    for expected in ["Not_A_Name", "clusters/stray.yaml", "fleet/huge.yaml", "fleet/loop"] {
        assert!(text.contains(expected), "{expected} is missing:\n{text}");
    }
    assert!(text.contains("accepted        Ingress default/good"), "{text}");
    fs::remove_dir_all(&root).unwrap();
    assert!(check_dir(&root, &listen()).refused(), "a directory that is not there is not an empty one");
}

#[test]
fn a_directory_that_vanishes_keeps_what_was_read_from_it() {
    let root = dir("vanishing", &[("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER)]);
    let mut directory = Directory::new(&root);
    assert!(directory.scan().len() > 4);
    fs::rename(&root, root.with_extension("away")).unwrap();
    let seen = directory.scan();
    assert!(seen.iter().all(|o| matches!(o, Observation::Problems { .. })), "{seen:?}");
    fs::rename(root.with_extension("away"), &root).unwrap();
    let seen = directory.scan();
    assert!(seen.iter().all(|o| matches!(o, Observation::Problems { .. })), "{seen:?}");
    fs::remove_dir_all(&root).unwrap();
}

/// A good text with bytes replaced, cut, doubled or moved.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..5u8, any::<char>(), 0..40usize);
    prop::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, how, what, len) in edits {
            let at = at.index(chars.len().max(1)).min(chars.len());
            let end = (at + len).min(chars.len());
            match how {
                0 => chars.insert(at, what),
                1 => drop(chars.drain(at..end)),
                2 => {
                    let copy: Vec<char> = chars[at..end].to_vec();
                    chars.splice(at..at, copy);
                }
                3 => {
                    chars.insert(at, ['{', '}', '[', ']', ':', '-', '\n', '"', '&', '*', '\t', '0'][len % 12])
                }
                _ => chars[at..end].reverse(),
            }
        }
        chars.into_iter().collect()
    })
}

fn replay(files: &[(Source, Vec<String>)]) -> Compiler {
    let mut world = World::default();
    world.observe(Observation::Member { name: "alpha".into(), presence: Presence::Present });
    let settings = || CompilerSettings {
        listen: listen(),
        series_max: 4,
        loopback: Loopback::Allowed,
        defaults: Defaults::default(),
    };
    let mut compiler = Compiler::new(settings());
    world.observe(Observation::Synced);
    for (source, versions) in files {
        let mut held: HashSet<ObjectId> = HashSet::new();
        for text in versions {
            let Ok(decoded) = decode_text(text, Format::Yaml, source) else { continue };
            let now: HashSet<ObjectId> =
                decoded.objects.iter().map(|(object, _)| object.id.clone()).collect();
            held.difference(&now).for_each(|id| world.observe(Observation::Delete(id.clone())));
            held = now;
            for (object, notes) in decoded.objects {
                world.observe(Observation::Upsert { object: Box::new(object), origin: "".into(), notes });
            }
            let before = compiler.table().clone();
            let delta = compiler.compile(&mut world);
            let mut after = before;
            after.apply(&delta);
            assert!(routing::delta::diff(&after, compiler.table()).is_empty());
        }
    }
    let _ = compiler.verdicts(&world);
    // Step by step and at once lead to one table.
    let mut fresh_world = World::default();
    fresh_world.observe(Observation::Member { name: "alpha".into(), presence: Presence::Present });
    for (id, stored) in world.objects() {
        let object = Box::new((*stored.object).clone());
        assert_eq!(*id, object.id);
        let notes = stored.notes.clone();
        fresh_world.observe(Observation::Upsert { object, origin: stored.origin.clone(), notes });
    }
    fresh_world.observe(Observation::Synced);
    let mut fresh = Compiler::new(settings());
    let _ = fresh.compile(&mut fresh_world);
    assert_eq!(dump::table(fresh.table()), dump::table(compiler.table()));
    compiler
}

const RICH: &str = include_str!("../../config/examples/quickstart/fleet/web.yaml");
const RICH_GATEWAY: &str = include_str!("../../config/examples/weighted/fleet/web.yaml");

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_of_good_manifests_panics_or_leads_two_ways(
        fleet in prop::collection::vec(prop_oneof![mutated(GOOD), mutated(RICH), mutated(RICH_GATEWAY)], 1..5),
        member in prop::collection::vec(mutated(MEMBER), 1..4),
    ) {
        let mut fleet = fleet;
        fleet.insert(0, RICH_GATEWAY.to_owned());
        fleet.insert(1, GOOD.to_owned());
        let source = Source::Member("alpha".into());
        let mut member = member;
        member.insert(0, MEMBER.to_owned());
        member.push(MEMBER.to_owned());
        replay(&[
            (source.clone(), vec![MEMBER.replace("web", "web-next")]),
            (Source::Fleet, fleet),
            (source, member),
        ]);
    }
}
