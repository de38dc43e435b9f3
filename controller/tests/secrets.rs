//! TLS Secrets: which certificate answers for which name, who may refer to it, and what a wrong one costs. Certificates are
//! made by the tests: no key lies in the tree.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use controller::compile::{Compiler, CompilerSettings, Defaults};
use controller::dump;
use controller::merge::Loopback;
use controller::watch::Observation;
use controller::watch::files::Directory;
use controller::world::World;
use k8s_openapi::ByteString;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use routing::model::{ListenerTls, Protocol};

/// A certificate of its own authority, and its key, PEM.
fn certificate(names: &[&str]) -> (String, String) {
    certificate_until(names, 2096)
}

fn certificate_until(names: &[&str], year: i32) -> (String, String) {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 2);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn secret(name: &str, (chain, key): &(String, String)) -> String {
    let base64 = |pem: &str| serde_json::to_string(&ByteString(pem.as_bytes().to_vec())).unwrap();
    format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}}}\n\
         data: {{tls.crt: {}, tls.key: {}}}\n",
        base64(chain),
        base64(key)
    )
}

fn ingress(namespace: &str, name: &str, host: &str, tls: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  tls: [{tls}]\n  rules: [{{host: {host}, http: {{paths: [{{path: /, pathType: Prefix, \
         backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]\n"
    )
}

/// A directory of manifests that a test edits, compiled step by step.
struct Fleet {
    dir: PathBuf,
    directory: Directory,
    world: World,
    compiler: Compiler,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Fleet {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("ringway-secrets-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("fleet")).unwrap();
        let mut fleet = Self {
            directory: Directory::new(&dir),
            dir,
            world: World::default(),
            compiler: Compiler::new(settings()),
        };
        for (file, text) in files {
            fs::write(fleet.dir.join("fleet").join(file), text).unwrap();
        }
        fleet.look();
        fleet.world.observe(Observation::Synced);
        let _ = fleet.compiler.compile(&mut fleet.world);
        fleet
    }

    /// Replaces a file (an empty text deletes it); the number of listeners that the workers are told of.
    fn edit(&mut self, file: &str, text: &str) -> usize {
        let path = self.dir.join("fleet").join(file);
        if text.is_empty() {
            fs::remove_file(&path).unwrap();
        } else {
            fs::write(path.with_extension("swap"), text).unwrap();
            fs::rename(path.with_extension("swap"), &path).unwrap();
        }
        self.look()
    }

    fn look(&mut self) -> usize {
        for observation in self.directory.scan() {
            self.world.observe(observation);
        }
        let mut after = self.compiler.table().clone();
        let delta = self.compiler.compile(&mut self.world);
        after.apply(&delta);
        assert!(after == *self.compiler.table(), "the delta leads to the table");
        delta.listeners.len()
    }

    /// The certificates of all listeners, as the dump prints them.
    fn certificates(&self) -> Vec<String> {
        let text = dump::table(self.compiler.table());
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("certificate "));
        lines.map(str::to_owned).collect()
    }

    fn tls(&self) -> Arc<ListenerTls> {
        let mut found = self.compiler.table().listeners.values().filter_map(|listener| listener.tls.clone());
        found.next().expect("a listener with TLS")
    }

    /// Every remark as `object: field: reason`.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for verdict in self.compiler.verdicts(&self.world) {
            let object = verdict.object.map(|object| object.to_string()).unwrap_or_default();
            for note in verdict.notes {
                remarks.push(format!("{object}: {}: {}", note.field, note.reason));
            }
        }
        remarks
    }

    #[track_caller]
    fn remarks_on(&self, start: &str, reason: &str) {
        let remarks = self.remarks();
        let found = remarks.iter().any(|remark| remark.starts_with(start) && remark.contains(reason));
        assert!(found, "{start} … {reason} is not among {remarks:#?}");
    }
}

fn settings() -> CompilerSettings {
    let addr = |port| SocketAddr::from(([0, 0, 0, 0], port));
    CompilerSettings {
        listen: vec![addr(8080).into(), (addr(8443), Protocol::Https).into()],
        series_max: 1000,
        loopback: Loopback::Allowed,
        defaults: Defaults::default(),
    }
}

#[test]
fn the_hosts_of_an_ingress_get_the_certificates_of_its_secrets() {
    let fleet = Fleet::new(
        "ingress",
        &[
            (
                "a.yaml",
                &ingress("default", "a", "a.example", "{hosts: [a.example, '*.a.example'], secretName: a}"),
            ),
            // Without hosts: those of the rules.
            ("b.yaml", &ingress("default", "b", "b.example", "{secretName: b}")),
            (
                "s.yaml",
                &[
                    secret("a", &certificate(&["a.example", "*.a.example"])),
                    secret("b", &certificate(&["b.example"])),
                ]
                .join("---\n"),
            ),
        ],
    );
    assert_eq!(
        fleet.certificates(),
        ["a.example: default/a", "b.example: default/b", "*.a.example: default/a"]
    );
    assert!(fleet.tls().find(Some("other.example")).is_none(), "no default unless one is asked for");
    let complaints: Vec<String> =
        fleet.remarks().into_iter().filter(|remark| !remark.contains("no member cluster")).collect();
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn a_wrong_secret_is_named_with_its_field_and_costs_only_itself() {
    let (good, other) = (certificate(&["good.example"]), certificate(&["good.example"]));
    let wrong: [(&str, (String, String), &str); 6] = [
        ("data[tls.key]: missing", (good.0.clone(), String::new()), "no-key"),
        ("data[tls.crt]: missing", (String::new(), good.1.clone()), "no-cert"),
        ("data[tls.key]: does not belong to the certificate", (good.0.clone(), other.1), "mismatch"),
        ("data[tls.crt]: 0 certificates", ("hello".into(), good.1.clone()), "no-pem"),
        ("data[tls.key]: no private key in PEM", (good.0.clone(), good.0.clone()), "two-certs"),
        (
            "data[tls.crt]: not a certificate",
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), good.1.clone()),
            "no-der",
        ),
    ];
    let mut secrets = secret("good", &good);
    let mut ingresses =
        ingress("default", "good", "good.example", "{hosts: [good.example], secretName: good}");
    for (_, contents, name) in &wrong {
        secrets = format!("{secrets}---\n{}", secret(name, contents));
        let host = format!("{name}.example");
        let tls = format!("{{hosts: [{host}], secretName: {name}}}");
        ingresses = format!("{ingresses}---\n{}", ingress("default", name, &host, &tls));
    }
    let fleet = Fleet::new("wrong", &[("s.yaml", &secrets), ("i.yaml", &ingresses)]);
    assert_eq!(fleet.certificates(), ["good.example: default/good"]);
    for (reason, _, name) in &wrong {
        fleet.remarks_on(&format!("Secret default/{name}: "), reason);
        fleet.remarks_on(&format!("Ingress default/{name}: spec.tls[0].secretName"), "InvalidCertificateRef");
    }
    let text = format!("{:?} {:?}", fleet.remarks(), fleet.compiler);
    assert!(
        !text.contains("PRIVATE KEY") && !text.contains(good.1.lines().nth(1).unwrap()),
        "no key is printed"
    );
}

#[test]
fn expiry_and_names_that_do_not_fit_are_remarked_on_and_served() {
    let fleet = Fleet::new(
        "expiry",
        &[
            (
                "i.yaml",
                &ingress(
                    "default",
                    "a",
                    "a.example",
                    "{hosts: [a.example], secretName: old}, {hosts: [b.example], secretName: gone}",
                ),
            ),
            ("s.yaml", &secret("old", &certificate_until(&["x.example"], 2020))),
        ],
    );
    assert_eq!(fleet.certificates(), ["a.example: default/old"]);
    fleet.remarks_on("Secret default/old: data[tls.crt]", "expired");
    fleet.remarks_on(
        "Ingress default/a: spec.tls[0].secretName",
        "not for this host, clients will refuse it; it is for: x.example",
    );
    fleet.remarks_on("Ingress default/a: spec.tls[1].secretName", "no such Secret");
    assert_eq!(fleet.tls().find(Some("a.example")).unwrap().certificates[0].not_after, 1_577_923_200);
}

#[test]
fn the_last_good_certificate_stays_until_its_secret_is_deleted() {
    let first = certificate(&["a.example"]);
    let host = ingress("default", "a", "a.example", "{hosts: [a.example], secretName: a}");
    let mut fleet = Fleet::new("last-good", &[("i.yaml", &host), ("s.yaml", &secret("a", &first))]);
    let of = |fleet: &Fleet| fleet.tls().find(Some("a.example")).map(|set| set.certificates[0].digest);
    let before = of(&fleet).unwrap();
    let unchanged = fleet.edit("s.yaml", &format!("# a comment\n{}", secret("a", &first)));
    assert_eq!((unchanged, of(&fleet)), (0, Some(before)), "the same content tells the workers nothing");
    assert_eq!(fleet.edit("s.yaml", &secret("a", &(first.0.clone(), String::new()))), 0);
    assert_eq!(of(&fleet), Some(before));
    fleet.remarks_on("Secret default/a: data[tls.key]", "the last good certificate stays in use");
    assert_eq!(fleet.edit("s.yaml", &secret("a", &certificate(&["a.example"]))), 1, "one listener changes");
    assert!(of(&fleet).is_some_and(|now| now != before));
    assert!(!fleet.remarks().iter().any(|remark| remark.contains("last good")));
    assert_eq!(fleet.edit("s.yaml", ""), 1);
    assert_eq!(of(&fleet), None);
    fleet.remarks_on("Ingress default/a: spec.tls[0].secretName", "no such Secret");
}

#[test]
fn a_host_of_another_namespace_cannot_be_given_a_certificate() {
    let theirs = |namespace: &str, created: &str| {
        let tls = "{hosts: [a.example], secretName: a}";
        ingress(namespace, "a", "a.example", tls)
            .replace("metadata: {", &format!("metadata: {{creationTimestamp: {created}, "))
    };
    let secrets = [("one", certificate(&["a.example"])), ("two", certificate(&["a.example"]))].map(
        |(namespace, contents)| {
            secret("a", &contents).replace("name: a", &format!("name: a, namespace: {namespace}"))
        },
    );
    let fleet = Fleet::new(
        "tenants",
        &[
            ("1.yaml", &theirs("two", "2024-01-02T00:00:00Z")),
            ("2.yaml", &theirs("one", "2024-01-01T00:00:00Z")),
            ("s.yaml", &secrets.join("---\n")),
        ],
    );
    assert_eq!(fleet.certificates(), ["a.example: one/a"]);
    fleet.remarks_on(
        "Ingress two/a: spec.tls[0].secretName",
        "Ingress one/a of another namespace has this host",
    );
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ringway}
spec: {controllerName: ringway.dev/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: ringway
  listeners:
  - {name: one, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: a, namespace: default}]}}
  - {name: clear, port: 446, protocol: HTTP, hostname: b.example}
  - {name: bare, port: 443, protocol: HTTPS, hostname: c.example, tls: {certificateRefs: []}}
  - {name: through, port: 444, protocol: HTTPS, tls: {mode: Passthrough}}
  - {name: kind, port: 445, protocol: HTTPS, tls: {certificateRefs: [{kind: ConfigMap, name: a}]}}
  - {name: rival, port: 446, protocol: TCP}
";

const GRANT: &str = "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: certificates, namespace: default}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}]
  to: [{group: '', kind: Secret, name: a}]
";

#[test]
fn a_gateway_uses_a_secret_of_another_namespace_only_while_that_allows_it() {
    let a = secret("a", &certificate(&["a.example"]));
    let mut fleet = Fleet::new("grant", &[("g.yaml", GATEWAY), ("s.yaml", &a)]);
    assert_eq!(fleet.certificates(), Vec::<String>::new());
    fleet.remarks_on("Gateway edge/public: spec.listeners[0].tls.certificateRefs[0]", "RefNotPermitted");
    fleet.remarks_on(
        "Gateway edge/public: spec.listeners[1]",
        "ProtocolConflict: rival speaks TCP on this port; neither is served",
    );
    fleet.remarks_on(
        "Gateway edge/public: spec.listeners[2].tls.certificateRefs",
        "every TLS handshake is refused",
    );
    fleet.remarks_on("Gateway edge/public: spec.listeners[3].protocol", "tls.mode Terminate");
    fleet.remarks_on("Gateway edge/public: spec.listeners[4].tls.certificateRefs[0]", "allowed: Secret");
    // A grant for something else is none.
    fleet.edit("grant.yaml", &GRANT.replace("name: a}", "name: other}"));
    assert_eq!(fleet.certificates(), Vec::<String>::new());
    fleet.edit("grant.yaml", &GRANT.replace("kind: Secret", "kind: Service"));
    assert_eq!(fleet.certificates(), Vec::<String>::new());
    fleet.edit("grant.yaml", GRANT);
    assert_eq!(fleet.certificates(), ["a.example: default/a", "any other name: default/a"]);
    fleet.edit("grant.yaml", "");
    assert_eq!(fleet.certificates(), Vec::<String>::new(), "revoked");
}

/// `CERTIFICATES=10000 cargo test --release -p ringway-controller --test secrets -- --nocapture one_of_many` measures.
#[test]
fn one_of_many_certificates_is_swapped_without_looking_at_the_others_keys() {
    let count: usize = std::env::var("CERTIFICATES").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
    let mut secrets = String::new();
    let mut ingresses = String::new();
    for n in 0..count {
        let host = format!("h{n}.example");
        secrets += &format!("{}---\n", secret(&format!("s{n}"), &certificate(&[&host])));
        let tls = format!("{{hosts: [{host}], secretName: s{n}}}");
        ingresses += &format!("{}---\n", ingress("default", &format!("i{n}"), &host, &tls));
    }
    let begun = Instant::now();
    let bare = Fleet::new("bare", &[("i.yaml", &ingresses)]);
    let without = begun.elapsed();
    drop(bare);
    let begun = Instant::now();
    let mut fleet = Fleet::new("many", &[("i.yaml", &ingresses), ("s.yaml", &secrets)]);
    let loaded = begun.elapsed();
    assert_eq!(fleet.certificates().len(), count);
    let before = fleet.tls();
    let begun = Instant::now();
    assert_eq!(
        fleet.edit("s0.yaml", &secret("extra", &certificate(&["x.example"]))),
        0,
        "nobody refers to it"
    );
    let other = fleet.tls();
    assert!(Arc::ptr_eq(&before, &other));
    println!("{count}: all {loaded:?}, without certificates {without:?}, one more {:?}", begun.elapsed());
}

/// One element of DER.
fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match contents.len() {
        length @ 0..0x80 => out.push(u8::try_from(length).unwrap()),
        length => {
            out.extend([0x82, u8::try_from(length >> 8).unwrap(), u8::try_from(length & 0xff).unwrap()])
        }
    }
    out.extend(contents);
    out
}

fn seq(parts: &[Vec<u8>]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

/// What an OCSP response says (RFC 6960 §4.2.1).
#[derive(Clone)]
struct Response {
    /// Of the whole answer: 0 = successful.
    outcome: u8,
    /// Of the certificate: `[0]` good, `[1]` revoked, `[2]` unknown.
    status: Vec<u8>,
    this_update: String,
    next_update: Option<String>,
    /// The serial number that it is about; `None` = the certificate's.
    serial: Option<Vec<u8>>,
    issuer: Option<Vec<u8>>,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            outcome: 0,
            status: vec![0x80, 0],
            this_update: "20200101000000Z".into(),
            next_update: Some("20960101000000Z".into()),
            serial: None,
            issuer: None,
        }
    }
}

impl Response {
    /// About the certificate of this PEM; nobody signs it, which is for clients to look at.
    fn about(&self, pem: &str) -> Vec<u8> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        let sha1 = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
        let issuer = aws_lc_rs::digest::digest(sha1, leaf.issuer().as_raw()).as_ref().to_vec();
        let time = |text: &str| der(0x18, text.as_bytes());
        let id = seq(&[
            seq(&[der(0x06, &[0x2b, 0x0e, 0x03, 0x02, 0x1a]), vec![5, 0]]),
            der(0x04, self.issuer.as_ref().unwrap_or(&issuer)),
            der(0x04, &[7; 20]),
            der(0x02, self.serial.as_deref().unwrap_or(leaf.raw_serial())),
        ]);
        let next = self.next_update.iter().map(|text| der(0xa0, &time(text))).collect::<Vec<_>>().concat();
        let single = seq(&[id, self.status.clone(), time(&self.this_update), next]);
        let data = seq(&[der(0xa2, &der(0x04, &[7; 20])), time("20200101000000Z"), seq(&[single])]);
        let basic = seq(&[data, seq(&[der(0x06, &[0x2a, 3])]), der(0x03, &[0, 1, 2, 3])]);
        let kind = der(0x06, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]);
        let bytes = der(0xa0, &seq(&[kind, der(0x04, &basic)]));
        seq(&[der(0x0a, &[self.outcome]), if self.outcome == 0 { bytes } else { Vec::new() }])
    }
}

/// A Secret with an OCSP response.
fn stapled(name: &str, contents: &(String, String), response: &[u8]) -> String {
    let response = serde_json::to_string(&ByteString(response.to_vec())).unwrap();
    secret(name, contents).replace("data: {", &format!("data: {{tls.ocsp-staple: {response}, "))
}

#[test]
fn an_ocsp_response_is_kept_only_where_it_calls_this_certificate_good() {
    let good = Response::default();
    let contents = certificate(&["a.example"]);
    let host = ingress("default", "a", "a.example", "{hosts: [a.example], secretName: a}");
    let whole = good.about(&contents.0);
    let mut fleet = Fleet::new("staple", &[("i.yaml", &host), ("s.yaml", &stapled("a", &contents, &whole))]);
    let staple = |fleet: &Fleet| {
        fleet.tls().find(Some("a.example")).unwrap().certificates[0].staple.as_ref().map(|it| it.not_after)
    };
    assert_eq!(staple(&fleet), Some(3_976_214_400));
    assert!(!fleet.remarks().iter().any(|remark| remark.contains("ocsp")), "{:#?}", fleet.remarks());
    let cut = whole[..whole.len() - 1].to_vec();
    let longer = [&whole[..], &[0]].concat();
    let wrong: [(&str, Vec<u8>); 11] = [
        ("no OCSP response in DER", b"hello".to_vec()),
        ("no OCSP response in DER", cut),
        ("no OCSP response in DER", longer),
        ("PEM; allowed: DER", b"-----BEGIN OCSP RESPONSE-----".to_vec()),
        ("20000 bytes; allowed: up to 16384", vec![0x30; 20_000]),
        ("the responder's answer was error 6", Response { outcome: 6, ..good.clone() }.about(&contents.0)),
        (
            "it is not about the certificate in tls.crt",
            Response { serial: Some(vec![9]), ..good.clone() }.about(&contents.0),
        ),
        (
            "it is not about the certificate in tls.crt",
            Response { issuer: Some(vec![9; 20]), ..good.clone() }.about(&contents.0),
        ),
        (
            "revoked",
            Response { status: der(0xa1, &der(0x18, b"20200101000000Z")), ..good.clone() }.about(&contents.0),
        ),
        ("not known to the responder", Response { status: vec![0x82, 0], ..good.clone() }.about(&contents.0)),
        ("no nextUpdate", Response { next_update: None, ..good.clone() }.about(&contents.0)),
    ];
    for (reason, response) in &wrong {
        fleet.edit("s.yaml", &stapled("a", &contents, response));
        assert_eq!(staple(&fleet), None, "{reason}");
        fleet.remarks_on("Secret default/a: data[tls.ocsp-staple]: ", reason);
        fleet.remarks_on("Secret default/a: data[tls.ocsp-staple]: ", "the certificate is served without it");
        assert_eq!(fleet.certificates(), ["a.example: default/a"], "the certificate itself is good");
    }
    let future = Response { this_update: "20950101000000Z".into(), ..good.clone() };
    fleet.edit("s.yaml", &stapled("a", &contents, &future.about(&contents.0)));
    fleet.remarks_on("Secret default/a: data[tls.ocsp-staple]: ", "is yet to come");
    // One that has expired stays for the metrics; workers leave it out.
    let old = Response { next_update: Some("20200102000000Z".into()), ..good };
    assert_eq!(
        fleet.edit("s.yaml", &stapled("a", &contents, &old.about(&contents.0))),
        1,
        "workers are told"
    );
    assert_eq!(staple(&fleet), Some(1_577_923_200));
    fleet.remarks_on(
        "Secret default/a: data[tls.ocsp-staple]",
        "expired: the certificate is served without it",
    );
}

#[test]
fn what_expires_while_it_is_in_use_is_remarked_on_by_itself() {
    let contents = certificate(&["a.example"]);
    let host = ingress("default", "a", "a.example", "{hosts: [a.example], secretName: a}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let soon = i64::try_from(now).unwrap() + 2;
    let shown = x509_parser::time::ASN1Time::from_timestamp(soon).unwrap().to_datetime();
    let next = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        shown.year(),
        u8::from(shown.month()),
        shown.day(),
        shown.hour(),
        shown.minute(),
        shown.second()
    );
    let response = Response { next_update: Some(next), ..Response::default() }.about(&contents.0);
    let mut fleet = Fleet::new("due", &[("i.yaml", &host), ("s.yaml", &stapled("a", &contents, &response))]);
    let expired = |fleet: &Fleet| fleet.remarks().iter().any(|remark| remark.contains("expired"));
    assert!(!expired(&fleet));
    let end = Instant::now() + std::time::Duration::from_secs(10);
    while !fleet.compiler.is_due() {
        assert!(Instant::now() < end, "it never becomes due");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let delta = fleet.compiler.compile(&mut fleet.world);
    assert!(delta.is_empty(), "nothing changes for workers, who look at the clock themselves");
    assert!(expired(&fleet), "{:#?}", fleet.remarks());
    assert!(!fleet.compiler.is_due(), "said once");
}

#[test]
fn the_options_of_a_gateway_s_listener_are_named_where_they_are_wrong() {
    let a = secret("a", &certificate(&["a.example"]));
    let with = |port: u16, protocol: &str, options: &str| {
        format!(
            "- {{name: l{port}, port: {port}, protocol: {protocol}, hostname: a.example, \
             tls: {{certificateRefs: [{{name: a}}], options: {{{options}}}}}}}\n"
        )
    };
    let ours = |name: &str, value: &str| format!("ringway.dev/{name}: '{value}'");
    let listeners = [
        with(
            443,
            "HTTPS",
            &[ours("alpn", "http/1.1"), ours("tls-min-protocol-version", "TLSv1.3")].join(", "),
        ),
        with(444, "HTTPS", &[ours("alpn", "h3"), ours("tls-min-protocol-version", "TLSv1.1")].join(", ")),
        with(
            445,
            "HTTPS",
            &[ours("ssl-ciphers", "RC4-SHA"), ours("speed", "9"), "other.example/x: y".into()].join(", "),
        ),
        with(446, "TLS", &ours("alpn", "h2")),
        with(
            447,
            "HTTPS",
            &[ours("tls-max-protocol-version", "TLSv1.2"), ours("tls-min-protocol-version", "TLSv1.3")]
                .join(", "),
        ),
        with(448, "HTTPS", &ours("alpn", "h2, h2")),
    ];
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\n\
         spec: {{controllerName: ringway.dev/gateway}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\n\
         spec:\n  gatewayClassName: ringway\n  listeners:\n  {}",
        listeners.join("  ")
    );
    let fleet = Fleet::new("options", &[("g.yaml", &gateway), ("s.yaml", &a)]);
    let field =
        |index: usize, name: &str| format!("Gateway default/g: spec.listeners[{index}].tls.options[{name}]");
    for (index, name, reason) in [
        (1, "ringway.dev/alpn", "allowed: h2, http/1.1"),
        (1, "ringway.dev/tls-min-protocol-version", "allowed: TLSv1.2, TLSv1.3"),
        (2, "ringway.dev/ssl-ciphers", "allowed: ECDHE-ECDSA-AES128-GCM-SHA256"),
        (2, "ringway.dev/speed", "ringway.dev/ knows alpn"),
        (2, "other.example/x", "another implementation's"),
        (3, "ringway.dev/alpn", "allowed: on listeners of protocol HTTPS"),
        (4, "ringway.dev/tls-max-protocol-version", "not less than"),
        (5, "ringway.dev/alpn", "each protocol once"),
    ] {
        fleet.remarks_on(&field(index, name), reason);
    }
    let about_options = fleet.remarks().iter().filter(|remark| remark.contains("tls.options")).count();
    assert_eq!(about_options, 8, "{:#?}", fleet.remarks());
    let terms: Vec<_> = fleet
        .compiler
        .table()
        .listeners
        .values()
        .filter_map(|listener| listener.tls.as_ref()?.find(Some("a.example")))
        .map(|set| set.terms.as_ref().map(|terms| (terms.min, terms.max, terms.alpn.to_vec())))
        .collect();
    use routing::model::{Application, TlsVersion};
    assert_eq!(
        (terms.len(), terms.iter().filter(|terms| terms.is_some()).count()),
        (6, 2),
        "what is wrong asks for nothing: {terms:?}"
    );
    assert!(terms.contains(&Some((TlsVersion::V13, None, vec![Application::Http1]))), "{terms:?}");
    assert!(terms.contains(&Some((TlsVersion::V13, None, vec![]))), "{terms:?}");
}
