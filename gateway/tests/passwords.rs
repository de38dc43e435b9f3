//! Basic authentication end to end: Secrets as `htpasswd` writes them, what a request meets, and that a comparison that
//! takes long holds nobody else up.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway::observe::stats::Limit;
use support::backend::Backend;
use support::client::{Client, Response};
use support::fleet::{Fleet, service};
use support::{config, until};

const N: &str = "nginx.ingress.kubernetes.io/";
/// `secret`, in each form that is read.
const FILE: &str = "\
# made by hand
apr:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/
md5:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1
sha256:$5$rounds=1000$abcdefgh$XIppta5rT8zJUu4vAOKQXrwq9uY4Ijlz6VjyOmkx5i4
sha512:$6$rounds=1000$abcdefgh$nhYjN017qxiYztzyUpZtPnUQcnLy62KsunSLHNeLahp2EHPlAKmFFlrjEwSXGo2kgY5hR2.peKEg2VGUqIJJu1
bcrypt:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW
sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=
plain:{PLAIN}secret
old:rqXexS6ZhobKA
";

fn ingress(name: &str, host: &str, annotations: &[(&str, &str)]) -> String {
    let lines: String =
        annotations.iter().map(|(name, value)| format!("    {N}{name}: {value:?}\n")).collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n    x: y\n{lines}\
         spec:\n  rules:\n  - host: {host}\n    http:\n      paths:\n      - {{path: /, pathType: Prefix, \
         backend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
    )
}

fn secret(namespace: &str, key: &str, value: &str) -> String {
    let value: String = value.lines().map(|line| format!("\n    {line}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: staff, namespace: {namespace}}}\nstringData:\n  {key}: |{value}\n"
    )
}

/// An open Ingress beside the one that asks.
fn start(config: config::Config, annotations: &[(&str, &str)], secret: &str, web: &Backend) -> Fleet {
    let text = ingress("staff", "staff.example", annotations) + &ingress("open", "open.example", &[]);
    Fleet::start(
        config,
        &[
            ("fleet/web.yaml", &text),
            ("fleet/secret.yaml", secret),
            ("clusters/one/all.yaml", &service(&[web.addr])),
        ],
    )
}

fn field(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{name}:{password}")))
}

fn get(fleet: &Fleet, fields: &str) -> Response {
    let mut client = Client::connect(fleet.addr);
    client.send(format!("GET / HTTP/1.1\r\nHost: staff.example\r\n{fields}\r\n")).response()
}

fn hits(fleet: &Fleet, limit: Limit) -> u64 {
    fleet.node().stats.iter().map(|stats| stats.hits(limit)).sum()
}

const BASIC: [(&str, &str); 3] =
    [("auth-type", "basic"), ("auth-secret", "staff"), ("auth-realm", "Staff \"only\"")];

#[test]
fn a_password_of_every_form_lets_in_and_no_other_does() {
    let web = Backend::named("web");
    let fleet = start(config(), &BASIC, &secret("default", "auth", FILE), &web);
    for name in ["apr", "md5", "sha256", "sha512", "bcrypt", "sha", "plain"] {
        // The second time it is known.
        for _ in 0..2 {
            assert_eq!(get(&fleet, &field(name, "secret")).text(), "web", "{name}");
            assert_eq!(web.requests().pop().unwrap().one("authorization"), None, "{name}: not the backend's");
        }
        let refused = get(&fleet, &field(name, "Secret"));
        assert_eq!(refused.status, 401, "{name}");
        assert_eq!(refused.one("www-authenticate"), Some(r#"Basic realm="Staff \"only\"""#));
    }
    let seen = web.count();
    let two = field("plain", "secret") + &field("plain", "secret");
    for fields in [
        "".to_owned(),
        field("old", "secret"),
        field("nobody", "secret"),
        field("", ""),
        field("plain", ""),
        field("plain", &"x".repeat(4000)),
        two,
        "Authorization: Bearer c2VjcmV0\r\n".to_owned(),
        "Authorization: Basic !!!\r\n".to_owned(),
        "Authorization: Basic\r\n".to_owned(),
        format!("Authorization: Basic {}\r\n", STANDARD.encode("no colon")),
    ] {
        assert_eq!(get(&fleet, &fields).status, 401, "{fields}");
    }
    assert_eq!(web.count(), seen, "no backend was asked");
    assert_eq!(hits(&fleet, Limit::Basic), 7 + 11);
    // The host beside it asks nobody.
    let mut client = Client::connect(fleet.addr);
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: open.example\r\n\r\n").response().status, 200);
}

#[test]
fn a_changed_secret_holds_at_once_and_a_missing_one_closes() {
    let web = Backend::named("web");
    let map = [("auth-type", "basic"), ("auth-secret", "staff"), ("auth-secret-type", "auth-map")];
    let fleet = start(config(), &map, &secret("default", "ann", "{PLAIN}one"), &web);
    assert_eq!(get(&fleet, &field("ann", "one")).status, 200);
    fleet.write("fleet/secret.yaml", &secret("default", "ann", "{PLAIN}two"));
    until("the new password holds", || get(&fleet, &field("ann", "two")).status == 200);
    assert_eq!(get(&fleet, &field("ann", "one")).status, 401);
    // Another namespace's is as good as none, until that namespace grants it.
    fleet.write("fleet/secret.yaml", &secret("other", "ann", "{PLAIN}two"));
    until("it is closed", || get(&fleet, &field("ann", "two")).status == 503);
    let named = map.map(|(name, value)| (name, if name == "auth-secret" { "other/staff" } else { value }));
    fleet.write("fleet/web.yaml", &ingress("staff", "staff.example", &named));
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\n\
                 spec: {from: [{group: networking.k8s.io, kind: Ingress, namespace: default}], to: [{group: '', kind: Secret}]}\n";
    fleet.write("fleet/grant.yaml", grant);
    until("it is granted", || get(&fleet, &field("ann", "two")).status == 200);
    fleet.write("fleet/grant.yaml", &grant.replace("namespace: default", "namespace: elsewhere"));
    until("it is revoked", || get(&fleet, &field("ann", "two")).status == 503);
}

/// bcrypt of cost 12: hundreds of milliseconds here. One worker serves both clients.
#[test]
fn a_slow_comparison_holds_nobody_else_up_and_its_queue_is_bounded() {
    let web = Backend::named("web");
    let mut settings = config();
    settings.limits.password_checks_max = 1;
    let hash = bcrypt::hash("secret", 12).unwrap();
    let fleet = start(settings, &BASIC, &secret("default", "auth", &format!("ann:{hash}")), &web);
    let ask = |password: &str| {
        let mut client = Client::connect(fleet.addr);
        let fields = field("ann", password);
        client.send(format!("GET / HTTP/1.1\r\nHost: staff.example\r\n{fields}\r\n"));
        client
    };
    let mut slow = ask("secret");
    let mut open = Client::connect(fleet.addr);
    for _ in 0..20 {
        assert_eq!(open.send("GET / HTTP/1.1\r\nHost: open.example\r\n\r\n").response().status, 200);
    }
    let staff = |request: &support::backend::Request| request.one("host") == Some("staff.example");
    assert!(!web.requests().iter().any(staff), "it is still being compared");
    // One is under way, one waits; the others are sent away.
    let mut others: Vec<Client> = (0..6).map(|n| ask(&format!("wrong {n}"))).collect();
    let statuses: Vec<u16> = others.iter_mut().map(|client| client.response().status).collect();
    assert!(statuses.iter().all(|status| [401, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&503), "{statuses:?}");
    assert!(hits(&fleet, Limit::PasswordChecks) > 0);
    assert_eq!(slow.response().status, 200);
    // Known now: no place in the queue is needed, however full it is.
    let mut others: Vec<Client> = (0..4).map(|n| ask(&format!("wrong {n}"))).collect();
    assert_eq!(get(&fleet, &field("ann", "secret")).status, 200);
    others.iter_mut().for_each(|client| drop(client.response()));
}
