//! A change of policy alone sends what it changes and nothing else, whatever it is a change of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use controller::compile::{Compiler, CompilerSettings, Defaults};
use controller::merge::Loopback;
use controller::object::Source;
use controller::watch::decode::{Format, decode_text};
use controller::watch::{Observation, Presence};
use controller::world::World;
use routing::delta::TableDelta;
use routing::model::{HedgeMode, Target, WriteFence};

/// Two routes with a backend each; the policy is on the first Ingress.
const FLEET: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: one}
spec: {rules: [{host: one.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: two}
spec: {rules: [{host: two.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: two, port: {number: 80}}}}]}}]}
"#;

struct Gateway {
    world: World,
    compiler: Compiler,
}

impl Gateway {
    fn new() -> Self {
        let mut world = World::default();
        for name in ["alpha", "beta"] {
            world.observe(Observation::Member { name: name.into(), presence: Presence::Present });
        }
        let settings = CompilerSettings {
            listen: vec!["[::]:8080".parse::<std::net::SocketAddr>().unwrap().into()],
            series_max: 100,
            loopback: Loopback::Allowed,
            defaults: Defaults::default(),
        };
        let mut gateway = Self { world, compiler: Compiler::new(settings) };
        gateway.upsert(FLEET, &Source::Fleet);
        for (cluster, net) in [("alpha", 1), ("beta", 2)] {
            for (service, pod) in [("one", 1), ("two", 2)] {
                let text = format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\n\
                     spec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
                     apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\n\
                     addressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
                     endpoints: [{{addresses: [10.{net}.0.{pod}]}}]\n"
                );
                gateway.upsert(&text, &Source::Member(Arc::from(cluster)));
            }
        }
        gateway.world.observe(Observation::Synced);
        let _ = gateway.compiler.compile(&mut gateway.world);
        gateway
    }

    fn upsert(&mut self, text: &str, source: &Source) {
        let decoded = decode_text(text, Format::Yaml, source).unwrap();
        assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
        for (object, notes) in decoded.objects {
            let object = Box::new(object);
            self.world.observe(Observation::Upsert { object, origin: Arc::from(""), notes });
        }
    }

    /// What goes to the workers when the policy becomes `spec`.
    fn policy(&mut self, spec: &str) -> TableDelta {
        let text = format!(
            "apiVersion: ringway.dev/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: p}}\nspec:\n  \
             targetRefs: [{{group: networking.k8s.io, kind: Ingress, name: one}}]\n  {spec}\n"
        );
        self.upsert(&text, &Source::Fleet);
        self.compiler.compile(&mut self.world)
    }
}

/// clusters, backends, endpoints, rings, listeners, hosts
fn sizes(delta: &TableDelta) -> [usize; 6] {
    [
        delta.clusters.len(),
        delta.backends.len(),
        delta.endpoints.len(),
        delta.rings.len(),
        delta.listeners.len(),
        delta.hosts.len(),
    ]
}

#[test]
fn a_change_of_policy_sends_only_what_it_changes() {
    let mut gateway = Gateway::new();
    assert!(gateway.policy("").is_empty(), "a policy that says nothing changes nothing");

    let delta = gateway.policy("hedge: {mode: Always}\n  writeFence: UntilPromoted");
    assert_eq!(sizes(&delta), [0, 0, 0, 0, 0, 1], "the rules of one host");
    let rules = delta.hosts[0].1.as_ref().unwrap();
    let action = &rules.rules[0].action;
    assert_eq!(&*action.route, "Ingress default/one");
    assert_eq!(
        (action.policy.hedge, action.policy.write_fence),
        (HedgeMode::Always, WriteFence::UntilPromoted)
    );
    assert!(matches!(action.target, Target::Forward(_)));

    let both = "hedge: {mode: Always}\n  writeFence: UntilPromoted\n  healthCheck: {interval: 20ms}";
    let delta = gateway.policy(both);
    assert_eq!(sizes(&delta), [0, 1, 0, 0, 0, 0], "one backend, none of its endpoints");
    let backend = delta.backends[0].1.as_ref().unwrap();
    assert_eq!(&*backend.name, "default/one:80");
    assert_eq!(backend.detection.check.as_ref().unwrap().interval.as_millis(), 20);

    let bounded = format!("{both}\n  clusters: [{{name: beta}}]\n  capacity: {{maxInFlight: 10}}");
    let delta = gateway.policy(&bounded);
    assert_eq!(sizes(&delta), [1, 0, 0, 0, 0, 0], "one cluster");
    assert_eq!(delta.clusters[0].1.as_ref().unwrap().in_flight_max, 10);

    assert!(gateway.policy(&bounded).is_empty(), "the same again");
    assert_eq!(sizes(&gateway.policy("")), [1, 1, 0, 0, 0, 1], "and back to where it began");
}
