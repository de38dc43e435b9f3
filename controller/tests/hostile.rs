//! Objects and files made to hurt (SECURITY S36–S40): each is refused by name, and the good route beside it stays as
//! it is. Random mutations of good manifests never panic, and arriving at a state step by step or at once is one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/hostile.rs"]
mod made;
#[path = "support/temp.rs"]
mod temp;

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;

use controller::compile::{Compiler, CompilerSettings, Defaults};
use controller::merge::Loopback;
use controller::object::{ObjectId, Source};
use controller::verdict::Outcome;
use controller::watch::decode::{Format, decode_text};
use controller::watch::files::Directory;
use controller::watch::{Observation, Presence};
use controller::world::World;
use controller::{check_dir, dump};
use made::{hostile_fleet, slice};
use proptest::prelude::*;
use temp::Temp;

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

#[test]
fn hostile_fleet_objects_are_refused_and_change_nothing_else() {
    let alone = Temp::with(&[("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER)]);
    let mut good = Vec::new();
    let (table, report) = controller::compile_dir(&alone.0, &listen(), &Defaults::default());
    assert!(!report.refused(), "{report}");
    good.extend(dump::table(&table).lines().map(str::to_owned));
    let all = hostile_fleet();
    assert!(all.len() >= 50);
    for bad in &all {
        let files =
            [("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER), ("fleet/x-bad.yaml", bad)];
        let root = Temp::with(&files);
        let (table, report) = controller::compile_dir(&root.0, &listen(), &Defaults::default());
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
    }
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
    for (kind, address) in &refused {
        let bad = slice(kind, address);
        let files = [
            ("fleet/good.yaml", GOOD),
            ("fleet/member.yaml", member),
            ("clusters/alpha/web.yaml", MEMBER),
            ("clusters/alpha/x-bad.yaml", &bad),
        ];
        let root = Temp::with(&files);
        let (table, report) = controller::compile_dir(&root.0, &listen(), &Defaults::default());
        let mut found: Vec<String> = table.endpoints.values().map(|e| e.addr.ip().to_string()).collect();
        found.sort();
        assert_eq!(found, ["10.1.0.1", "127.0.0.1"], "{address}");
        assert!(report.refused(), "{address}\n{report}");
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
    let temp = Temp::with(&[("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER)]);
    let root = temp.0.clone();
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
    let temp = Temp::with(&[("fleet/good.yaml", GOOD), ("clusters/alpha/web.yaml", MEMBER)]);
    let root = temp.0.clone();
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
