//! Four hosts on one machine: client, gateway, cluster a and cluster b, each a network namespace.
//!
//! ```text
//! client 10.99.0.1 ── 10.99.0.2 gateway 10.99.1.1 ── 10.99.1.11… cluster a
//!                               gateway 10.99.2.1 ── 10.99.2.11… cluster b
//! ```
//!
//! [`Plan`] is what `ip` is asked to do, as text: nothing happens there. [`Topology`] does it, and undoes it when it
//! is dropped. Interfaces exist only inside of the namespaces, and the namespaces' names hold the process id, so two
//! runs do not meet; what a killed run has left behind is removed by the next one.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bench::{BenchError, Result, process};

/// How our namespaces' names begin.
const PREFIX: &str = "ringway-lab-";
/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";
/// The port of every endpoint of backend number 0; the next backend has the next port.
const POD_PORT: u16 = 8_080;
/// Endpoints of a cluster at most: one octet of addresses from [`FIRST_POD`] on.
pub(crate) const PODS_MAX: u8 = 16;
const FIRST_POD: u8 = 11;
/// Above this preference a rule drops; the kernel's local table moves below it.
const DROP_PREFERENCE: &str = "10";
const LOCAL_PREFERENCE: &str = "100";

/// One of the two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cluster {
    /// Priority 0: serves while it can.
    A,
    /// Priority 1: the standby.
    B,
}

impl Cluster {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its name in manifests and in the header `x-cluster`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    fn octet(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }
}

/// One of the four hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// Where the load comes from.
    Client,
    /// Where the proxy under test runs.
    Gateway,
    /// Where a cluster's endpoints run.
    Cluster(Cluster),
}

impl Host {
    const ALL: [Self; 4] =
        [Self::Client, Self::Gateway, Self::Cluster(Cluster::A), Self::Cluster(Cluster::B)];
}

/// What is cut by [`Plan::drop_rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Every packet of the cluster.
    Cluster,
    /// Every packet of its endpoint with this index.
    Pod(u8),
}

/// Whether a rule comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It comes.
    On,
    /// It goes.
    Off,
}

/// The names and addresses of a lab, and the command lines that make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pid: u32,
    pods: u8,
}

/// Arguments of one call of `ip`.
pub(crate) type Arguments = Vec<String>;

fn words(line: &str) -> Arguments {
    line.split(' ').map(str::to_owned).collect()
}

impl Plan {
    /// A lab of the process `pid` with so many addresses per cluster.
    pub(crate) fn new(pid: u32, pods: u8) -> Self {
        assert!((1..=PODS_MAX).contains(&pods), "a cluster has 1 to {PODS_MAX} endpoints");
        Self { pid, pods }
    }

    /// The name of a host's namespace.
    pub(crate) fn namespace(&self, host: Host) -> String {
        let role = match host {
            Host::Client => "client",
            Host::Gateway => "gateway",
            Host::Cluster(cluster) => cluster.name(),
        };
        format!("{PREFIX}{}-{role}", self.pid)
    }

    /// Where the proxy listens.
    pub(crate) fn listen() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(10, 99, 0, 2), 8_080))
    }

    /// Where an endpoint of a backend listens.
    pub(crate) fn pod(cluster: Cluster, index: u8, backend: u8) -> SocketAddr {
        let address = Ipv4Addr::new(10, 99, cluster.octet(), FIRST_POD + index);
        SocketAddr::from((address, POD_PORT + u16::from(backend)))
    }

    /// Everything that makes the lab, in order.
    pub(crate) fn set_up(&self) -> Vec<Arguments> {
        let (client, gateway) = (self.namespace(Host::Client), self.namespace(Host::Gateway));
        let mut lines = Vec::new();
        for host in Host::ALL {
            let name = self.namespace(host);
            lines.push(format!("netns add {name}"));
            lines.push(format!("-n {name} link set lo up"));
            // Rules that drop must come before the one that delivers.
            lines.push(format!("-n {name} rule add pref {LOCAL_PREFERENCE} lookup local"));
            lines.push(format!("-n {name} rule del pref 0"));
        }
        lines.push(format!("-n {client} link add eth0 type veth peer name clients netns {gateway}"));
        lines.push(format!("-n {client} addr add 10.99.0.1/24 dev eth0"));
        lines.push(format!("-n {gateway} addr add 10.99.0.2/24 dev clients"));
        lines.push(format!("-n {client} link set eth0 up"));
        lines.push(format!("-n {gateway} link set clients up"));
        for cluster in Cluster::ALL {
            let (name, octet) = (self.namespace(Host::Cluster(cluster)), cluster.octet());
            let near = Self::interface(cluster);
            lines.push(format!("-n {gateway} link add {near} type veth peer name eth0 netns {name}"));
            lines.push(format!("-n {gateway} addr add 10.99.{octet}.1/24 dev {near}"));
            for index in 0..self.pods {
                lines.push(format!("-n {name} addr add {}/24 dev eth0", Self::pod(cluster, index, 0).ip()));
            }
            lines.push(format!("-n {gateway} link set {near} up"));
            lines.push(format!("-n {name} link set eth0 up"));
        }
        lines.iter().map(|line| words(line)).collect()
    }

    /// Drops packets silently in both directions, each where it arrives: no socket on either side is told anything,
    /// as when a cable is cut far away.
    pub(crate) fn drop_rules(&self, cluster: Cluster, cut: Cut, turn: Turn) -> Vec<Arguments> {
        let (to, from) = match cut {
            Cut::Cluster => (String::new(), String::new()),
            Cut::Pod(index) => {
                let address = Self::pod(cluster, index, 0).ip();
                (format!(" to {address}"), format!(" from {address}"))
            }
        };
        let verb = match turn {
            Turn::On => "add",
            Turn::Off => "del",
        };
        let (there, here) = (self.namespace(Host::Cluster(cluster)), self.namespace(Host::Gateway));
        let near = Self::interface(cluster);
        [
            format!("-n {there} rule {verb} pref {DROP_PREFERENCE} iif eth0{to} blackhole"),
            format!("-n {here} rule {verb} pref {DROP_PREFERENCE} iif {near}{from} blackhole"),
        ]
        .iter()
        .map(|line| words(line))
        .collect()
    }

    /// Sets the cluster's own end of its link down (`Turn::On`: the fault is there) or up again.
    pub(crate) fn link(&self, cluster: Cluster, turn: Turn) -> Arguments {
        let state = match turn {
            Turn::On => "down",
            Turn::Off => "up",
        };
        words(&format!("-n {} link set eth0 {state}", self.namespace(Host::Cluster(cluster))))
    }

    /// The gateway's interface towards a cluster.
    fn interface(cluster: Cluster) -> &'static str {
        match cluster {
            Cluster::A => "to-a",
            Cluster::B => "to-b",
        }
    }
}

/// Namespaces that exist; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Topology {
    plan: Plan,
}

/// Congestion control of every host: a default of BBR would add its pacing timers to every proxy's latency.
const CONGESTION_CONTROL: &str = "reno";

impl Topology {
    /// Makes the hosts.
    ///
    /// # Errors
    /// Says what is missing: root, iproute2, or a kernel that allows network namespaces.
    pub(crate) fn create(plan: Plan) -> Result<Self> {
        check_rights()?;
        sweep();
        let topology = Self { plan };
        for arguments in topology.plan.set_up() {
            ip(&arguments)?;
        }
        for host in Host::ALL {
            topology.inside(host, || {
                // Not built into every kernel: then the report shows what was used instead.
                let _ = fs::write("/proc/sys/net/ipv4/tcp_congestion_control", CONGESTION_CONTROL);
            })?;
        }
        Ok(topology)
    }

    /// What it was made from.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs `work` on a thread that is in the host's namespace.
    pub(crate) fn inside<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> Result<T> {
        let name = self.plan.namespace(host);
        let joined = std::thread::scope(|scope| scope.spawn(|| enter(&name).map(|()| work())).join());
        match joined {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        for host in Host::ALL {
            remove(&self.plan.namespace(host));
        }
    }
}

/// Moves this thread into a namespace, for good.
pub(crate) fn enter(namespace: &str) -> Result<()> {
    let path = format!("{NAMESPACES}/{namespace}");
    let doing = || format!("enter the network namespace {namespace}");
    let file = File::open(&path).map_err(BenchError::io(doing()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|why| BenchError::io(doing())(why.into()))
}

/// Refuses, with the reason, where namespaces cannot be made.
pub(crate) fn check_rights() -> Result<()> {
    process::find("ip", "apt-get install iproute2")?;
    if !rustix::process::geteuid().is_root() {
        let why = "needs root: it makes network namespaces and drops packets in them";
        return Err(BenchError::failed("failover", why));
    }
    Ok(())
}

/// One call of `ip`.
pub(crate) fn ip(arguments: &[String]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        // Ctrl-C must not hit what cleans up after it.
        .process_group(0)
        .output()
        .map_err(BenchError::io("start ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(BenchError::failed("ip", format!("{}: {}", arguments.join(" "), said.trim())))
}

/// Removes namespaces of runs that were killed before they could.
fn sweep() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            remove(&name);
        }
    }
}

/// Removes one of our namespaces, and with it its interfaces. What still runs in it is killed: a server that was
/// killed itself may have left its workers.
fn remove(namespace: &str) {
    let pids = Command::new("ip").args(["netns", "pids", namespace]).stdin(Stdio::null()).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        // Fails only when it has ended meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
    if let Err(why) = ip(&words(&format!("netns del {namespace}"))) {
        eprintln!("cleaning up: {why}");
    }
}

/// The process whose namespace this is; `None`: not one of ours.
fn owner(namespace: &str) -> Option<u32> {
    namespace.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_stays_inside_of_its_own_namespaces() {
        let plan = Plan::new(42, 2);
        let ours = Host::ALL.map(|host| plan.namespace(host));
        let set_up = plan.set_up();
        for line in &set_up {
            let name = if line[0] == "netns" { &line[2] } else { &line[1] };
            assert!(matches!(line[0].as_str(), "netns" | "-n") && ours.contains(name), "{line:?}");
        }
        assert_eq!(set_up.iter().filter(|line| line[0] == "netns").count(), ours.len());
        assert!(ours.iter().all(|name| owner(name) == Some(42)));
        let others = Host::ALL.map(|host| Plan::new(43, 2).namespace(host));
        assert!(ours.iter().all(|name| !others.contains(name)), "two runs do not meet");
    }

    #[test]
    fn every_endpoint_has_an_address_of_its_own_on_its_clusters_link() {
        let plan = Plan::new(1, PODS_MAX);
        let text: Vec<String> = plan.set_up().iter().map(|line| line.join(" ")).collect();
        let mut seen = std::collections::BTreeSet::new();
        for cluster in Cluster::ALL {
            for index in 0..PODS_MAX {
                let pod = Plan::pod(cluster, index, 0);
                assert!(seen.insert(pod) && seen.insert(Plan::pod(cluster, index, 1)));
                let line = format!(
                    "-n {} addr add {}/24 dev eth0",
                    plan.namespace(Host::Cluster(cluster)),
                    pod.ip()
                );
                assert!(text.contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn a_fault_is_healed_by_the_same_rules() {
        let plan = Plan::new(7, 4);
        for cut in [Cut::Cluster, Cut::Pod(3)] {
            let on = plan.drop_rules(Cluster::A, cut, Turn::On);
            let off = plan.drop_rules(Cluster::A, cut, Turn::Off);
            let renamed: Vec<Arguments> = on
                .iter()
                .map(|line| {
                    line.iter().map(|word| if word == "add" { "del".into() } else { word.clone() }).collect()
                })
                .collect();
            assert_eq!(renamed, off);
            assert_eq!(on.len(), 2, "both directions");
        }
        let pod = plan.drop_rules(Cluster::A, Cut::Pod(3), Turn::On).concat().join(" ");
        assert!(
            pod.contains("to 10.99.1.14 blackhole") && pod.contains("from 10.99.1.14 blackhole"),
            "{pod}"
        );
    }

    #[test]
    fn only_our_own_namespaces_are_ours() {
        for name in ["ringway-lab-12", "ringway-lab-x-client", "other-12-client", "ringway-lab-"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
