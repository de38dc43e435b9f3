//! A whole node in one process: workers, the controller, and a directory of manifests that a test edits.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use config::Config;
use controller::compile::Defaults;
use controller::{ControllerSettings, Inputs, Mailbox, ManifestSource, Reader, SharedView};
use crossbeam_channel::{Sender, bounded, never};
use gateway::node::Node;
use routing::id::Generation;
use routing::model::Protocol;

use super::tls::Ca;
use super::{Port, until};

/// As `ringway run` tries tables.
#[path = "../../src/cli/canary.rs"]
mod canary;

/// Workers and a controller that watches [`Fleet::write`]'s directory.
pub struct Fleet {
    /// Where Ingress rules are served.
    pub addr: SocketAddr,
    /// Where they are served over TLS.
    pub tls: SocketAddr,
    /// What the controller says of itself.
    pub view: SharedView,
    node: Option<Node>,
    dir: PathBuf,
    stop: Sender<()>,
    controller: Option<JoinHandle<()>>,
    _ports: [Port; 2],
}

impl Fleet {
    /// Starts with these files; returns when every worker runs them.
    pub fn start(config: Config, files: &[(&str, &str)]) -> Self {
        Self::start_on(std::net::Ipv4Addr::LOCALHOST.into(), config, files)
    }

    /// The same on an address of the test's choice.
    pub fn start_on(ip: std::net::IpAddr, config: Config, files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringway-fleet-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        let (port, secure) = (Port::reserve_on(ip), Port::reserve_on(ip));
        let (stop, stopped) = bounded(1);
        let view = SharedView::new();
        let mut fleet = Self {
            addr: port.addr,
            tls: secure.addr,
            view,
            node: None,
            dir,
            stop,
            controller: None,
            _ports: [port, secure],
        };
        for (path, text) in files {
            fleet.write(path, text);
        }
        let settings = config.canary.clone();
        let node = Node::start(&Arc::new(config)).unwrap();
        let canary = settings.enabled.then(|| canary::of(&settings, &node));
        let mailbox = |(tx, bell)| Mailbox { tx, wake: File::from(bell), reader: Reader::Worker };
        let mailboxes = node.mailboxes().unwrap().into_iter().map(mailbox).collect();
        let settings = ControllerSettings {
            source: ManifestSource::Manifests(fleet.dir.clone()),
            listen: vec![(fleet.addr, Protocol::Http), (fleet.tls, Protocol::Https)],
            series_max: 100,
            defaults: Defaults::default(),
            state_dir: None,
            state_key: None,
        };
        let reports = node.reports.clone();
        let inputs =
            Inputs { reports, orders: never(), defaults: never(), lookers: never(), canary, stop: stopped };
        let seen = fleet.view.clone();
        let run = move || controller::run(&settings, mailboxes, &inputs, &seen);
        fleet.controller = Some(std::thread::spawn(run));
        fleet.node = Some(node);
        until("the first table is everywhere", || fleet.view.read().synced && fleet.is_settled());
        fleet
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Puts a file in place as editors and `kubectl` do: written beside, then renamed.
    pub fn write(&self, path: &str, text: &str) {
        let target = self.dir.join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let beside = target.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &target).unwrap();
    }

    /// Do all workers run the newest table that was broadcast?
    pub fn is_settled(&self) -> bool {
        let newest = self.view.read().generation;
        newest > Generation(0) && self.generations().iter().all(|generation| *generation == newest.0)
    }

    /// The table that each worker runs.
    pub fn generations(&self) -> Vec<u64> {
        self.node().stats.iter().map(|stats| stats.generation.get()).collect()
    }
}

/// A fleet whose one Ingress, with these annotations, serves `localhost` in clear and over TLS, by a certificate of `ca`.
pub fn localhost(annotations: &str, backend: SocketAddr, ca: &Ca) -> Fleet {
    let ingress = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web, annotations: {{{annotations}}}}}\nspec:\n  \
         tls: [{{hosts: [localhost], secretName: site}}]\n  rules: [{{host: localhost, http: {{paths: \
         [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]\n"
    );
    Fleet::start(
        super::config(),
        &[
            ("fleet/a.yaml", &ingress),
            ("fleet/s.yaml", &ca.leaf(&["localhost"]).secret("site")),
            ("clusters/alpha/web.yaml", &service(&[backend])),
        ],
    )
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let joined = self.node.take().map(|node| {
            node.peers.stop();
            node.join()
        });
        let _ = self.stop.try_send(());
        let controller = self.controller.take().map(JoinHandle::join);
        let _ = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            joined.transpose().unwrap();
            controller.transpose().unwrap_or_else(|_| panic!("the controller's thread panicked"));
        }
    }
}

/// An Ingress that sends everything below `path` to Service `web`.
pub fn ingress(name: &str, path: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec:\n  rules:\n  - http:\n      \
         paths:\n      - {{path: {path}, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
    )
}

/// Service `web` with these endpoints.
pub fn service(endpoints: &[SocketAddr]) -> String {
    let mut text =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n"
            .to_owned();
    // A slice has one port for all of its endpoints.
    for (index, endpoint) in endpoints.iter().enumerate() {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-{index}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: {}}}]\nendpoints:\n- {{addresses: [\"{}\"]}}\n",
            endpoint.port(),
            endpoint.ip()
        );
    }
    text
}
