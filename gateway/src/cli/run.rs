//! `ringway run`: serve until told to stop.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use config::Config;
use controller::compile::{AddressPool, Defaults, Place};
use controller::finding::Board;
use controller::snapshot::seal::StateKey;
use controller::watch::fleet::{FleetSettings, HubAccess, Limits, Writing, check_access};
use controller::watch::follow::Tuning;
use controller::{ControllerSettings, Inputs, Mailbox, ManifestSource, Reader, SharedView};
use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use gateway::addresses::{Addresses, Wanted};
use gateway::admin::Admin;
use gateway::node::Node;
use gateway::worker::clock;
use routing::model::{BackendLimits, Protocol, Timeouts};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::boot::Logging;
use super::facts::Told;
use super::manager::Manager;
use super::{RunArgs, boot, canary};

/// How long `/readyz` is red before accepting stops, so that whoever balances over nodes has seen it.
const UNREADY_BEFORE_DRAIN: Duration = Duration::from_millis(500);
/// Operators' orders that wait for the controller; beyond it they are refused.
const ORDERS_MAX: usize = 16;
/// Questions for its table that wait for the controller; beyond it they are refused.
const LOOKERS_MAX: usize = 4;
/// Reloads that wait for the controller; one beyond it is reported and not taken.
const RELOADS_WAITING_MAX: usize = 16;
/// How often workers and the service manager are looked after.
const ROUND: Duration = Duration::from_millis(100);

/// Serves.
pub(crate) fn main(args: &RunArgs) -> Result<ExitCode, String> {
    let config = Arc::new(args.load()?);
    let logging = boot::start_logging(config.observe.log_level);
    boot::check_kernel()?;
    let signals = watch_signals()?;
    let serving = Serving::start(&config)?;
    serving.until_told(args, config, &logging, &signals)
}

/// A running gateway: data plane, controller, and the ends of what connects them.
pub(crate) struct Serving {
    /// The data plane.
    pub node: Node,
    /// What the controller says of the world.
    pub view: SharedView,
    /// The admin API.
    pub admin: Admin,
    addresses: Option<Addresses>,
    defaults: Sender<Defaults>,
    stop_controller: Sender<()>,
    controller: JoinHandle<()>,
}

impl Serving {
    /// Starts everything; returns at once, while the first table is still being made.
    ///
    /// # Errors
    /// When threads, descriptors, the manifests directory or the hub's kubeconfig are missing.
    pub(crate) fn start(config: &Arc<Config>) -> Result<Self, String> {
        let source = source(config)?;
        let node = Node::start(config).map_err(|error| format!("cannot start workers: {error}"))?;
        let addresses = match config.gateway.interface.as_str() {
            "" => None,
            interface => Some(
                Addresses::start(interface, node.reporter())
                    .map_err(|error| format!("cannot keep addresses on {interface}: {error}"))?,
            ),
        };
        let view = SharedView::new();
        let (orders_in, orders) = bounded(ORDERS_MAX);
        let (lookers_in, lookers) = bounded(LOOKERS_MAX);
        let told = Told { view: view.clone(), orders: orders_in, lookers: lookers_in };
        let admin = Admin::start(config, &node, Arc::new(told)).map_err(|error| error.to_string())?;
        let no_mailbox = |error| format!("cannot start the controller: {error}");
        let workers =
            node.mailboxes().map_err(no_mailbox)?.into_iter().map(|mailbox| (mailbox, Reader::Worker));
        let observer = (admin.mailbox().map_err(no_mailbox)?, Reader::Observer);
        let mailboxes = workers
            .chain([observer])
            .map(|((tx, bell), reader)| Mailbox { tx, wake: File::from(bell), reader })
            .collect();
        let settings = ControllerSettings {
            source,
            listen: super::check::listeners(config),
            series_max: config.observe.metrics_series_max,
            defaults: defaults(config),
            state_dir: Some(config.admin.state_dir.clone()).filter(|dir| !dir.as_os_str().is_empty()),
            state_key: state_key(config),
        };
        let canary = config.canary.enabled.then(|| canary::of(&config.canary, &node));
        let (stop_controller, stop) = bounded(1);
        let (defaults_in, fresh_defaults) = bounded(RELOADS_WAITING_MAX);
        let reports = node.reports.clone();
        let inputs = Inputs { reports, orders, defaults: fresh_defaults, lookers, canary, stop };
        let seen = view.clone();
        let controller = std::thread::Builder::new()
            .name("controller".into())
            .spawn(move || controller::run(&settings, mailboxes, &inputs, &seen))
            .map_err(|error| format!("cannot start the controller: {error}"))?;
        Ok(Self { node, view, admin, addresses, defaults: defaults_in, stop_controller, controller })
    }

    fn until_told(
        mut self,
        args: &RunArgs,
        mut config: Arc<Config>,
        logging: &Logging,
        signals: &Receiver<i32>,
    ) -> Result<ExitCode, String> {
        let round = tick(ROUND);
        let mut manager = Manager::from_environment();
        loop {
            select! {
                recv(signals) -> signal => match signal {
                    Ok(SIGHUP) => config = self.reload(args, config, logging),
                    Ok(SIGUSR1) => self.node.reopen_log(),
                    Ok(_) | Err(_) => break,
                },
                recv(round) -> _ => {
                    if self.node.has_lost_a_worker() {
                        tracing::error!("a worker has ended; stopping");
                        break;
                    }
                    if self.is_serving() {
                        manager.ready();
                    }
                    self.keep_addresses(&config);
                    manager.feed(clock::now(), self.node.peers.lines.iter().map(|line| line.alive_ns()));
                }
            }
        }
        manager.stopping();
        self.stop(config.timeouts.drain.get(), signals)
    }

    /// What Gateways have is put on the interface.
    fn keep_addresses(&mut self, config: &Config) {
        let Some(addresses) = &mut self.addresses else { return };
        let view = self.view.read();
        // What is not known yet takes nothing away.
        if view.synced {
            let pool = config.gateway.address_pool.clone();
            addresses.want(Wanted { addresses: view.gateway_addresses, pool });
        }
    }

    /// Has every worker applied a table? Its listeners are open then.
    fn is_serving(&self) -> bool {
        self.view.read().synced && self.node.stats.iter().all(|stats| stats.generation.get() > 0)
    }

    fn reload(&self, args: &RunArgs, running: Arc<Config>, logging: &Logging) -> Arc<Config> {
        let reloaded =
            args.load().and_then(|fresh| running.reload(&fresh).map_err(|error| error.to_string()));
        match reloaded {
            Ok(reloaded) => {
                let applied: Vec<_> = reloaded.applied.iter().map(|key| key.name).collect();
                let waiting: Vec<_> = reloaded.waiting.iter().map(|key| key.name).collect();
                tracing::info!(?applied, needs_restart = ?waiting, "configuration read again");
                let config = Arc::new(reloaded.config);
                self.node.reload(&config);
                logging.set_level(config.observe.log_level);
                if self.defaults.try_send(defaults(&config)).is_err() {
                    tracing::error!(
                        "the controller does not listen: timeouts and bounds of backends are not changed"
                    );
                }
                config
            }
            Err(error) => {
                tracing::error!("configuration not changed: {error}");
                running
            }
        }
    }

    /// Drains and ends: not ready, then no new connections, then what is in flight, until `deadline`.
    ///
    /// # Errors
    /// What ended a worker.
    pub(crate) fn stop(self, deadline: Duration, signals: &Receiver<i32>) -> Result<ExitCode, String> {
        tracing::info!(?deadline, "draining");
        self.admin.set_draining();
        let wait = |for_ms| signals.recv_timeout(for_ms).is_ok();
        let mut hurried = wait(UNREADY_BEFORE_DRAIN);
        self.node.peers.drain();
        let until = Instant::now() + deadline;
        while !hurried && !self.node.has_ended() && Instant::now() < until {
            hurried = wait(Duration::from_millis(10));
        }
        let in_flight: u64 = self.node.stats.iter().map(|stats| stats.in_flight.get()).sum();
        if in_flight > 0 {
            tracing::warn!(in_flight, "cut at the drain deadline");
        }
        self.node.peers.stop();
        drop(self.addresses);
        let ended = self.node.join().map_err(|error| error.to_string());
        let _ = self.stop_controller.try_send(());
        // A panic there was logged by the controller itself.
        let _ = self.controller.join();
        self.admin.stop();
        ended.map(|()| ExitCode::SUCCESS)
    }
}

/// What Secrets are sealed with in `admin.state_dir`. A key that cannot be used keeps nobody from serving.
fn state_key(config: &Config) -> Option<StateKey> {
    let path = &config.admin.state_key;
    if path.as_os_str().is_empty() {
        return None;
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    match StateKey::read(path, credentials.as_deref()) {
        Ok(key) => Some(key),
        Err(reason) => {
            tracing::error!(
                reason,
                "admin.state_key cannot be used: Secrets are neither saved nor read back"
            );
            None
        }
    }
}

/// Where routes and endpoints come from.
///
/// # Errors
/// When the directory is missing, or the hub's kubeconfig cannot be read.
fn source(config: &Config) -> Result<ManifestSource, String> {
    if !config.fleet.is_set() {
        let dir = config.manifests.path().to_path_buf();
        if !dir.is_dir() {
            return Err(format!(
                "manifests {}: not a directory (give --manifests DIR, with DIR/fleet/*.yaml and DIR/clusters/NAME/*.yaml, or --fleet-kubeconfig FILE)",
                dir.display()
            ));
        }
        return Ok(ManifestSource::Manifests(dir));
    }
    let writer = config.fleet.write_status.then(|| Writing {
        identity: writer(config),
        addresses: config.fleet.addresses.clone(),
        limits: Limits { burst: config.fleet.status_burst, per_second: config.fleet.status_per_second },
        board: Board::default(),
    });
    Ok(ManifestSource::Fleet(FleetSettings { writer, ..fleet(config)? }))
}

/// The hub and its members, to be read.
///
/// # Errors
/// When there is no hub, or its kubeconfig cannot be read.
pub(super) fn fleet(config: &Config) -> Result<FleetSettings, String> {
    let fleet = &config.fleet;
    if !fleet.is_set() {
        return Err("fleet.kubeconfig: no hub is named".to_owned());
    }
    let access = match fleet.kubeconfig.to_str() {
        Some("in-cluster") => HubAccess::InCluster,
        Some(_) | None => HubAccess::Kubeconfig(fleet.kubeconfig.clone()),
    };
    check_access(&access).map_err(|error| format!("fleet.kubeconfig: {error}"))?;
    Ok(FleetSettings {
        access,
        namespace: fleet.namespace.clone(),
        secret_namespaces: fleet.secret_namespaces.clone(),
        writer: None,
        tuning: Tuning { confirm_after: fleet.confirm_after.get(), ..Tuning::default() },
    })
}

/// This process among all that write to the hub: two nodes may have the same name by mistake.
fn writer(config: &Config) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = if config.node.name.is_empty() { host } else { config.node.name.clone() };
    format!("{name}_{}_{:x}", std::process::id(), clock::now().0)
}

/// What holds where no policy says otherwise.
pub(crate) fn defaults(config: &Config) -> Defaults {
    let timeouts = &config.timeouts;
    Defaults {
        timeouts: Timeouts {
            connect: timeouts.connect.get(),
            attempt: timeouts.attempt.get(),
            request: timeouts.request.get(),
            idle: timeouts.idle.get(),
        },
        retry_body_bytes_max: u32::try_from(config.limits.retry_body_bytes_max.get()).unwrap_or(u32::MAX),
        limits: BackendLimits {
            endpoint_in_flight_max: config.pool.endpoint_in_flight_max,
            backend_in_flight_max: config.pool.backend_in_flight_max,
        },
        pool: AddressPool {
            ranges: config.gateway.address_pool.iter().map(|range| range.bounds()).collect(),
        },
        place: Place { region: config.node.region.as_str().into(), zone: config.node.zone.as_str().into() },
    }
}

pub(super) fn protocol(protocol: config::Protocol) -> Protocol {
    match protocol {
        config::Protocol::Http => Protocol::Http,
        config::Protocol::Https => Protocol::Https,
    }
}

/// Signals as messages: they are taken on a thread of their own, never on a worker.
pub(crate) fn watch_signals() -> Result<Receiver<i32>, String> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(|error| error.to_string())?;
    let (sender, receiver) = bounded(8);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })
        .map_err(|error| error.to_string())?;
    Ok(receiver)
}
