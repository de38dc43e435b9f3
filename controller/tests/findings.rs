//! What the compiler finds worth telling of objects that are not routes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;

use controller::compile::{Compiler, CompilerSettings, Defaults};
use controller::merge::Loopback;
use controller::object::{Kind, Source};
use controller::watch::Observation;
use controller::watch::decode::{Format, decode_text};
use controller::world::World;

const POLICY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: secure, generation: 7}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  validation: {hostname: web.example, wellKnownCACertificates: System}
  misspelt: true
"#;

/// Nothing else has a remark on it, so that only the policy itself can make anybody look at it.
#[test]
fn a_policy_for_backends_is_told_of_what_it_alone_says_and_forgotten_when_it_is_gone() {
    let listen: SocketAddr = "[::]:8080".parse().unwrap();
    let mut compiler = Compiler::new(CompilerSettings {
        listen: vec![listen.into()],
        series_max: 100,
        loopback: Loopback::Refused,
        defaults: Defaults::default(),
    });
    compiler.want_findings();
    let mut world = World::default();
    world.observe(Observation::Synced);
    compiler.compile(&mut world);
    assert_eq!(compiler.take_findings(&world), []);
    let (object, notes) = decode_text(POLICY, Format::Yaml, &Source::Fleet).unwrap().objects.remove(0);
    let id = object.id.clone();
    assert_eq!(id.kind, Kind::BackendTlsPolicy);
    world.observe(Observation::Upsert { object: Box::new(object), origin: Arc::from(""), notes });
    compiler.compile(&mut world);
    let told = compiler.take_findings(&world);
    let (of, finding) = &told[0];
    let finding = finding.as_ref().unwrap();
    assert_eq!((told.len(), of, finding.generation), (1, &id, 7));
    assert!(finding.notes.iter().any(|note| &*note.field == "spec.misspelt"), "{:?}", finding.notes);
    world.observe(Observation::Delete(id.clone()));
    compiler.compile(&mut world);
    assert_eq!(compiler.take_findings(&world), [(id, None)]);
}
