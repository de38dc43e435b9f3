//! A changed table goes to one worker first; endpoints never wait.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::BTreeSet;

use config::{Config, Period};
use controller::view::{CanaryPhase, CanaryView};
use support::backend::{Backend, Then};
use support::client::Client;
use support::fleet::{Fleet, service};
use support::{config, until};

/// Two workers; a verdict takes 20 requests of the changed route.
fn settings(watch: Period) -> Config {
    let mut config = config();
    config.worker.count = 2;
    config.worker.rebalance = false;
    config.canary.enabled = true;
    (config.canary.watch, config.canary.longest) = (watch, Period::secs(3_600));
    config.canary.requests = 20;
    // Both share two cores with every other test: how long a request takes says nothing here.
    config.canary.p99_above = 100_000;
    config
}

/// Ingress `web`: everything to this Service.
fn to(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web}}\nspec:\n  rules:\n  - http:\n      \
         paths:\n      - {{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}\n"
    )
}

fn other(endpoint: std::net::SocketAddr) -> String {
    service(&[endpoint])
        .replace("name: web", "name: other")
        .replace("service-name: web", "service-name: other")
}

fn start(watch: Period, web: &Backend, other_backend: &Backend) -> Fleet {
    Fleet::start(
        settings(watch),
        &[
            ("fleet/web.yaml", &to("web")),
            ("clusters/one/web.yaml", &service(&[web.addr])),
            ("clusters/one/other.yaml", &other(other_backend.addr)),
        ],
    )
}

fn view(fleet: &Fleet) -> CanaryView {
    fleet.view.read().canary
}

fn is_watching(fleet: &Fleet) -> bool {
    matches!(view(fleet).phase, CanaryPhase::Watching { worker: 0, .. })
}

/// New connections: the kernel spreads them over the workers.
fn answers(fleet: &Fleet) -> BTreeSet<String> {
    (0..48).map(|_| Client::connect(fleet.addr).get("/").text()).collect()
}

fn set(answers: &[&str]) -> BTreeSet<String> {
    answers.iter().map(|text| (*text).to_owned()).collect()
}

/// Requests until `holds`.
fn serve_until(fleet: &Fleet, what: &str, holds: impl Fn(&CanaryView) -> bool) {
    until(what, || {
        let _ = Client::connect(fleet.addr).get("/");
        holds(&view(fleet))
    });
}

#[test]
fn a_rule_that_leads_to_a_failing_backend_is_taken_back_by_itself_until_its_source_changes() {
    let web = Backend::named("web");
    let bad = Backend::answering("HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nbad", Then::Close);
    let fleet = start(Period::secs(3_600), &web, &bad);
    fleet.write("fleet/web.yaml", &to("other"));
    until("it is on trial", || is_watching(&fleet) && fleet.is_settled());
    assert_eq!(answers(&fleet), set(&["web", "bad"]), "one worker has it");
    serve_until(&fleet, "it is taken back", |view| view.rolled_back_total == 1);
    until("everywhere", || fleet.is_settled());
    assert_eq!(answers(&fleet), set(&["web"]));
    let seen = view(&fleet);
    assert_eq!(seen.refused.iter().map(|name| &**name).collect::<Vec<_>>(), ["Ingress default/web"]);
    assert!(seen.reason.contains("requests of the changed routes failed"), "{}", seen.reason);
    until("its object says so", || {
        let verdicts = fleet.view.read().verdicts;
        verdicts.iter().flat_map(|verdict| &verdict.notes).any(|note| note.reason.contains("taken back"))
    });
    // Another object changes: what was refused stays refused. Its own source changes: it is tried again.
    fleet.write("clusters/one/web.yaml", &service(&[web.addr, web.addr]));
    until("an endpoint's change is everywhere", || fleet.is_settled());
    assert_eq!((answers(&fleet), is_watching(&fleet)), (set(&["web"]), false));
    fleet.write("fleet/web.yaml", &to("web"));
    until("nothing is refused", || view(&fleet).refused.is_empty() && fleet.is_settled());
    assert_eq!((answers(&fleet), is_watching(&fleet)), (set(&["web"]), false));
}

#[test]
fn a_rule_that_is_no_worse_goes_to_all_workers_when_it_was_watched() {
    let (web, good) = (Backend::named("web"), Backend::named("other"));
    let fleet = start(Period::millis(300), &web, &good);
    fleet.write("fleet/web.yaml", &to("other"));
    serve_until(&fleet, "it goes to all", |view| view.promoted_total == 1);
    until("everywhere", || fleet.is_settled());
    assert_eq!(answers(&fleet), set(&["other"]));
    assert!(view(&fleet).refused.is_empty());
    until("the Service that nothing refers to is let go of", || fleet.view.read().backends == 1);
}

#[test]
fn endpoints_of_either_side_reach_every_worker_at_once_while_a_rule_is_on_trial() {
    let (web, other_backend) = (Backend::named("web"), Backend::named("other"));
    let (new_web, new_other) = (Backend::named("new web"), Backend::named("new other"));
    let fleet = start(Period::secs(3_600), &web, &other_backend);
    fleet.write("fleet/web.yaml", &to("other"));
    until("it is on trial", || is_watching(&fleet) && fleet.is_settled());
    assert_eq!(answers(&fleet), set(&["web", "other"]));
    let edit = |path: &str, text: &str, expected: &[&str]| {
        let before = fleet.view.read().generation;
        fleet.write(path, text);
        until("it is everywhere", || fleet.view.read().generation > before && fleet.is_settled());
        assert_eq!(answers(&fleet), set(expected));
        assert!(is_watching(&fleet), "nothing was decided");
    };
    // No rule of the sources leads to `web` any more: the other worker's still do.
    edit("clusters/one/web.yaml", &service(&[new_web.addr]), &["new web", "other"]);
    edit("clusters/one/other.yaml", &other(new_other.addr), &["new web", "new other"]);
}

#[test]
fn an_edit_that_is_undone_ends_its_trial() {
    let (web, good) = (Backend::named("web"), Backend::named("other"));
    let fleet = start(Period::secs(3_600), &web, &good);
    fleet.write("fleet/web.yaml", &to("other"));
    until("it is on trial", || is_watching(&fleet));
    fleet.write("fleet/web.yaml", &to("web"));
    until("it is over", || view(&fleet).phase == CanaryPhase::Idle && fleet.is_settled());
    assert_eq!((answers(&fleet), view(&fleet).withdrawn_total), (set(&["web"]), 1));
}

#[test]
fn with_one_worker_it_is_skipped_by_name_and_changes_are_in_force_at_once() {
    let (web, good) = (Backend::named("web"), Backend::named("other"));
    let mut settings = settings(Period::secs(3_600));
    settings.worker.count = 1;
    let fleet = Fleet::start(
        settings,
        &[
            ("fleet/web.yaml", &to("web")),
            ("clusters/one/web.yaml", &service(&[web.addr])),
            ("clusters/one/other.yaml", &other(good.addr)),
        ],
    );
    until("it says so", || matches!(view(&fleet).phase, CanaryPhase::Skipped(_)));
    let before = fleet.view.read().generation;
    fleet.write("fleet/web.yaml", &to("other"));
    until("it is in force", || fleet.view.read().generation > before && fleet.is_settled());
    assert_eq!(answers(&fleet), set(&["other"]));
}
