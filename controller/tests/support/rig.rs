//! A controller with one worker, watching the API servers of a test.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses its own part of this"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use controller::compile::Defaults;
use controller::finding::Board;
use controller::watch::fleet::{FleetSettings, HubAccess, Limits, Writing};
use controller::watch::follow::Tuning;
use controller::{
    ControllerSettings, ControllerView, Inputs, Mailbox, ManifestSource, Reader, SharedView, dump, run,
};
use crossbeam_channel::{Receiver, Sender, bounded, never};
use routing::delta::{Change, Mail, Report, RouteTable};
use routing::model::Protocol;
use serde_json::{Value, json};

use super::apiserver::{ApiServer, OURS, base64};

#[path = "temp.rs"]
mod temp;
pub use temp::Temp;

/// How long anything may take before a test says that it never happens.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Rig {
    pub view: SharedView,
    table: RouteTable,
    mail: Receiver<Mail>,
    reports: Sender<Report>,
    stop: Sender<()>,
    controller: Option<JoinHandle<()>>,
}

/// Times short enough for tests.
pub fn tuning() -> Tuning {
    Tuning {
        confirm_after: Duration::from_millis(500),
        rediscover: Duration::from_millis(100),
        pause_max: Duration::from_millis(200),
        relist_after: Duration::from_millis(400),
        renew: Duration::from_millis(200),
    }
}

pub fn settings(hub: &ApiServer, dir: &Path) -> ControllerSettings {
    let kubeconfig = dir.join("hub.yaml");
    fs::write(&kubeconfig, hub.kubeconfig("hub")).unwrap();
    ControllerSettings {
        source: ManifestSource::Fleet(FleetSettings {
            access: HubAccess::Kubeconfig(kubeconfig),
            namespace: "ringway-system".to_owned(),
            secret_namespaces: vec!["argocd".to_owned()],
            writer: None,
            tuning: tuning(),
        }),
        listen: vec![(SocketAddr::from(([127, 0, 0, 1], 80)), Protocol::Http)],
        series_max: 100,
        defaults: Defaults::default(),
        state_dir: Some(dir.join("state")),
        state_key: None,
    }
}

/// The same, and it writes status while it holds the Lease.
pub fn writing(hub: &ApiServer, dir: &Path, writer: &str) -> ControllerSettings {
    let mut settings = settings(hub, dir);
    if let ManifestSource::Fleet(fleet) = &mut settings.source {
        fleet.writer = Some(Writing {
            identity: writer.to_owned(),
            addresses: vec!["203.0.113.7".to_owned(), "gw.example".to_owned()],
            limits: Limits { burst: 300, per_second: 50 },
            board: Board::default(),
        });
    }
    settings
}

/// What a controller hears that nobody but its workers talks to.
pub fn undisturbed(reports: Receiver<Report>, stop: Receiver<()>) -> Inputs {
    Inputs { reports, orders: never(), defaults: never(), lookers: never(), canary: None, stop }
}

impl Rig {
    pub fn start(settings: ControllerSettings) -> Self {
        let (tx, mail) = bounded(64);
        let wake = fs::File::options().write(true).open("/dev/null").unwrap();
        let mailboxes = vec![Mailbox { tx, wake, reader: Reader::Worker }];
        let (reports, heard) = bounded(64);
        let (stop, stopped) = bounded(1);
        let view = SharedView::new();
        let seen = view.clone();
        let inputs = undisturbed(heard, stopped);
        let controller = std::thread::spawn(move || run(&settings, mailboxes, &inputs, &seen));
        Self { view, table: RouteTable::default(), mail, reports, stop, controller: Some(controller) }
    }

    fn read_mail(&mut self) {
        let wait = Duration::from_millis(2);
        while let Ok(mail) = self.mail.recv_timeout(wait) {
            let Mail::Update(update) = mail else { continue };
            match &update.change {
                Change::Table(delta) => self.table.apply(delta),
                Change::Snapshot(delta) => {
                    self.table = RouteTable::default();
                    self.table.apply(delta);
                }
                Change::Health(_) => {}
            }
            let at_ns = monotonic_ns();
            let _ = self.reports.send(Report::Applied { worker: 0, generation: update.generation, at_ns });
        }
    }

    /// The worker says something.
    pub fn report(&self, report: Report) {
        self.reports.send(report).unwrap();
    }

    /// The table that the worker runs, as text.
    pub fn text(&mut self) -> String {
        self.read_mail();
        dump::table(&self.table)
    }

    pub fn serves(&mut self, address: &str) -> bool {
        self.text().contains(address)
    }

    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() >= deadline {
                let view = self.view.read();
                panic!("never happened: {what}\n{}\n{:#?}", self.text(), view.sources);
            }
        }
    }

    /// Looks for this long that it stays so.
    #[track_caller]
    pub fn stays(&mut self, what: &str, time: Duration, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            assert!(holds(self), "it changed: {what}\n{}", self.text());
        }
    }

    pub fn sources(&self) -> ControllerView {
        self.view.read()
    }

    /// Why a cluster cannot be relied on; `None` = it is not known.
    pub fn reason(&self, cluster: &str) -> Option<String> {
        self.view.read().sources.get(cluster).map(|source| source.reason.clone())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.stop.try_send(());
        let joined = self.controller.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            joined.unwrap().expect("the controller's thread panicked");
        }
    }
}

pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

// ---------------------------------------------------------------- objects

pub fn ingress(name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"rules": [{"host": format!("{name}.example"), "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}})
}

pub fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]}})
}

pub fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
}

pub fn member(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "ringway.dev/v1alpha1", "kind": "MemberCluster", "metadata": {"name": name}, "spec": spec})
}

/// A `MemberCluster` and the Secret with its kubeconfig.
pub fn declared(hub: &ApiServer, name: &str, kubeconfig: &str) {
    hub.put(secret("ringway-system", name, &[], &[("kubeconfig", kubeconfig)]));
    let reference = json!({"kubeconfigSecretRef": {"namespace": "ringway-system", "name": name}});
    hub.put(member(name, reference));
}

pub fn secret(namespace: &str, name: &str, labels: &[(&str, &str)], data: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(key, value)| ((*key).to_owned(), base64(value.as_bytes()).into())).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": namespace, "labels": labels}, "data": data})
}

/// A hub with our CRDs, an Ingress `web`, and a member `alpha` with these endpoints.
pub fn hub_and_alpha(addresses: &[&str]) -> (ApiServer, ApiServer) {
    let (hub, alpha) = (ApiServer::start(), ApiServer::start());
    hub.install(&OURS);
    hub.put(ingress("web"));
    alpha.put(service());
    alpha.put(slice("web-1", addresses));
    declared(&hub, "alpha", &alpha.kubeconfig("alpha"));
    (hub, alpha)
}
