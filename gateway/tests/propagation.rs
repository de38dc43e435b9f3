//! An edit of a manifest reaches every worker. How long that takes: `cargo bench -p ringway --bench propagation`.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use support::backend::Backend;
use support::client::Client;
use support::fleet::{Fleet, ingress, service};
use support::{config, until};

fn start(backend: &Backend) -> Fleet {
    let mut config = config();
    config.worker.count = 4;
    Fleet::start(
        config,
        &[("fleet/web.yaml", &ingress("web", "/")), ("clusters/one/web.yaml", &service(&[backend.addr]))],
    )
}

/// Rules, endpoints, and a deletion; each on every worker, and each timed from its event to the last worker.
#[test]
fn an_edited_manifest_is_in_force_on_every_worker() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let fleet = start(&old);
    let timed = || fleet.view.read().lag.count;
    let mut seen = fleet.view.read().generation;
    let mut edit = |what: &str, change: &dyn Fn()| {
        let (before, generation) = (timed(), seen.0);
        change();
        until(what, || fleet.generations().iter().all(|worker| *worker > generation) && fleet.is_settled());
        until("it is timed", || timed() > before);
        seen = fleet.view.read().generation;
    };
    // New connections: the kernel spreads them over the workers.
    let all = |path: &str, expected: (u16, &str)| {
        for _ in 0..16 {
            let response = Client::connect(fleet.addr).get(path);
            assert_eq!((response.status, response.text().as_str()), expected, "{path}");
        }
    };
    all("/", (200, "old"));
    edit("endpoints", &|| fleet.write("clusters/one/web.yaml", &service(&[new.addr])));
    all("/", (200, "new"));
    edit("a rule", &|| fleet.write("fleet/web.yaml", &ingress("web", "/only")));
    all("/only", (200, "new"));
    assert_eq!(Client::connect(fleet.addr).get("/").reason(), "no_route");
    edit("an object that is gone", &|| fleet.write("fleet/web.yaml", "# nothing\n"));
    assert_eq!(Client::connect(fleet.addr).get("/only").reason(), "no_route");
    let lag = fleet.view.read().lag;
    assert_eq!(lag.buckets.iter().sum::<u64>(), lag.count);
    assert!(lag.max_ns > 0 && lag.sum_ns >= lag.max_ns);
}
