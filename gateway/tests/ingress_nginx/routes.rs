//! Replays that are about which backend a request goes to, and as what.

use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::manifests::{N, get, ingress, send, services, with};
use crate::support::{config, until};

use super::heads::{Said, one};

/// A request with a Host of its own.
pub(crate) fn from(fleet: &Fleet, host: &str, path: &str) -> crate::support::client::Response {
    send(fleet, &format!("GET {path} HTTP/1.1\nHost: {host}\n\n"))
}

/// An Ingress and a canary of it.
pub(crate) fn canary(said: &[Said<'_>]) -> (Fleet, [Backend; 2]) {
    let (web, gray) = (Backend::named("web"), Backend::named("gray"));
    let fleet = with(&canary_text(said), &[("web", &[web.addr]), ("gray", &[gray.addr])]);
    (fleet, [web, gray])
}

pub(crate) fn canary_text(said: &[Said<'_>]) -> String {
    ingress("web", "/", "web", &[]) + &only_canary(said)
}

pub(crate) fn only_canary(said: &[Said<'_>]) -> String {
    let mut all = vec![(N, "canary", "true")];
    all.extend(said.iter().map(|(name, value)| (N, *name, *value)));
    ingress("gray", "/", "gray", &all)
}

/// Who answers requests with these fields.
pub(crate) fn chosen(said: &[Said<'_>], asked: &[(&str, &str)]) {
    let (fleet, _backends) = canary(said);
    for (fields, wanted) in asked {
        assert_eq!(get(&fleet, "/", fields).text(), *wanted, "{said:?} {fields:?}");
    }
}

/// How many of 200 requests go to the canary.
pub(crate) fn share(said: &[Said<'_>]) -> usize {
    let (fleet, _backends) = canary(said);
    let mut client = Client::connect(fleet.addr);
    (0..200).filter(|_| client.get("/").text() == "gray").count()
}

/// An Ingress and its canary, which come in this order, and the canary is then changed.
pub(crate) fn in_turn(first: &str, second: &str, wait: (&str, &str), asked: &[(&str, &str)]) {
    let (web, gray) = (Backend::named("web"), Backend::named("gray"));
    let all = services(&[("web", &[web.addr]), ("gray", &[gray.addr])]);
    let fleet = Fleet::start(config(), &[("fleet/a.yaml", first), ("clusters/one/all.yaml", &all)]);
    fleet.write("fleet/b.yaml", second);
    until("the second is in force", || get(&fleet, "/", wait.0).text() == wait.1);
    for (fields, wanted) in asked {
        assert_eq!(get(&fleet, "/", fields).text(), *wanted, "{fields:?}");
    }
}

/// What the backend sees of a request for `asked`.
pub(crate) fn seen(path: &str, said: &[Said<'_>], asked: &str) -> crate::support::backend::Request {
    let (fleet, web) = one(path, said);
    assert_eq!(get(&fleet, asked, "").status, 200);
    web.only_request()
}

/// Status and location of an answer.
pub(crate) fn sent(path: &str, said: &[Said<'_>], asked: &str, wanted: (u16, &str)) {
    let (fleet, _web) = one(path, said);
    let response = get(&fleet, asked, "");
    assert_eq!((response.status, response.one("location").unwrap_or_default()), wanted);
}

/// An Ingress behind a proxy that is trusted, and what becomes of requests from these addresses.
pub(crate) fn sources(said: &[Said<'_>], asked: &[(&str, u16)]) {
    let web = Backend::named("web");
    let all: Vec<_> = said.iter().map(|(name, value)| (N, *name, *value)).collect();
    let mut config = config();
    config.forward.trusted_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    let files = [ingress("web", "/", "web", &all), services(&[("web", &[web.addr])])];
    let fleet = Fleet::start(config, &[("fleet/web.yaml", &files[0]), ("clusters/one/all.yaml", &files[1])]);
    for (source, status) in asked {
        let response = get(&fleet, "/", &format!("X-Forwarded-For: {source}\n"));
        assert_eq!(response.status, *status, "{source}");
    }
}
