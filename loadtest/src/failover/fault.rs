//! Faults as they happen in life: signals to real processes, packets that vanish, answers that go wrong.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::lab::Lab;

use super::pod::{Order, Pod};
use super::row::{Kind, Scope};
use super::topology::{Cluster, Cut, Turn, ip};
use crate::bench::machine::Stop;
use crate::bench::{Result, process};
use crate::manifests::Condition;

/// What a brownout adds, milliseconds.
const BROWNOUT_MS: u32 = 500;
/// For how long the gateway is stopped in every [`PAUSE_EVERY`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_EVERY: Duration = Duration::from_secs(1);

/// Whether an endpoint is struck.
fn is_struck(scope: Scope, pod: &Pod) -> bool {
    let (cluster, index, backend) = (pod.spec.cluster, pod.spec.index, pod.spec.backend);
    match scope {
        Scope::Cluster => cluster == Cluster::A,
        Scope::Pod => cluster == Cluster::A && index == 0,
        Scope::Backend => cluster == Cluster::A && backend == 1,
        Scope::Everything => true,
    }
}

/// Makes the row's fault.
pub(crate) fn inject(lab: &mut Lab) -> Result<()> {
    match lab.row.kind {
        Kind::Nothing | Kind::GatewayPauses => Ok(()),
        Kind::Kill => signal(lab, Signal::KILL),
        Kind::Stop => signal(lab, Signal::STOP),
        Kind::Drain => {
            if let Some(manifests) = &lab.proxy.manifests {
                manifests.set(Cluster::A, Condition::Terminating)?;
            }
            order(lab, &[Order::Drain])
        }
        Kind::Drop => drop_packets(lab, Turn::On),
        Kind::LinkDown => ip(&lab.topology.plan().link(Cluster::A, Turn::On)),
        Kind::Errors => order(lab, &[Order::Status(503)]),
        Kind::ErrorsRed => order(lab, &[Order::Status(503), Order::Health(503)]),
        Kind::Brownout => order(lab, &[Order::Extra(BROWNOUT_MS)]),
    }
}

/// Ends it.
pub(crate) fn heal(lab: &mut Lab) -> Result<()> {
    match lab.row.kind {
        Kind::Nothing | Kind::GatewayPauses => Ok(()),
        Kind::Kill => revive(lab),
        Kind::Drain => {
            revive(lab)?;
            match &lab.proxy.manifests {
                Some(manifests) => manifests.set(Cluster::A, Condition::Ready),
                None => Ok(()),
            }
        }
        Kind::Stop => signal(lab, Signal::CONT),
        Kind::Drop => drop_packets(lab, Turn::Off),
        Kind::LinkDown => ip(&lab.topology.plan().link(Cluster::A, Turn::Off)),
        Kind::Errors | Kind::ErrorsRed => order(lab, &[Order::Health(200), Order::Status(200)]),
        Kind::Brownout => order(lab, &[Order::Extra(0)]),
    }
}

/// Waits for `length`; when the row says so, the gateway is stopped again and again meanwhile.
pub(crate) fn hold(lab: &Lab, length: Duration, stop: &Stop) -> Result<()> {
    if lab.row.kind != Kind::GatewayPauses {
        return stop.pause(length);
    }
    let rounds = length.as_secs() / PAUSE_EVERY.as_secs();
    for _ in 0..rounds {
        let paused = Paused::new(lab.proxy.child.pid());
        stop.pause(PAUSE)?;
        drop(paused);
        stop.pause(PAUSE_EVERY.saturating_sub(PAUSE))?;
    }
    Ok(())
}

/// A process tree that is stopped until this is dropped.
struct Paused(Vec<u32>);

impl Paused {
    fn new(root: u32) -> Self {
        let tree = process::tree(root);
        send(&tree, Signal::STOP);
        Self(tree)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        send(&self.0, Signal::CONT);
    }
}

fn send(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw)) {
        // Fails only when it has ended.
        let _ = kill_process(pid, signal);
    }
}

fn signal(lab: &Lab, signal: Signal) -> Result<()> {
    for pod in lab.pods.iter().filter(|pod| is_struck(lab.row.scope, pod)) {
        pod.signal(signal);
    }
    Ok(())
}

fn order(lab: &mut Lab, orders: &[Order]) -> Result<()> {
    let scope = lab.row.scope;
    for pod in lab.pods.iter_mut().filter(|pod| is_struck(scope, pod)) {
        for order in orders {
            pod.order(*order)?;
        }
    }
    Ok(())
}

fn drop_packets(lab: &Lab, turn: Turn) -> Result<()> {
    let cut = match lab.row.scope {
        Scope::Pod => Cut::Pod(0),
        Scope::Cluster | Scope::Backend | Scope::Everything => Cut::Cluster,
    };
    for arguments in lab.topology.plan().drop_rules(Cluster::A, cut, turn) {
        ip(&arguments)?;
    }
    Ok(())
}

/// New processes at the addresses of those that are gone.
fn revive(lab: &mut Lab) -> Result<()> {
    let scope = lab.row.scope;
    for pod in lab.pods.iter_mut().filter(|pod| is_struck(scope, pod)) {
        pod.wait_end()?;
        *pod = Pod::start(&pod.spec, lab.topology.plan(), &lab.folder)?;
    }
    Ok(())
}
