//! What the manifests ask for, and real servers in the place of the pods.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::Arc;

use controller::compile::Defaults;
use loadgen::{Backend, BackendOptions, Latency};
use routing::delta::RouteTable;
use routing::id::ClusterId;
use routing::model::{HostPattern, ListenerSpec, PathMatch, Rule, Target};

use super::manifests::Folder;

/// Where Ingress rules are served when the port is free.
const LISTEN_PORT: u16 = 8_080;

/// What a compiled table says to the demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Member clusters that hold pods, by name.
    pub members: Vec<Member>,
    /// Where listeners are, by name.
    pub listeners: Vec<(Arc<str>, SocketAddr)>,
    /// What the load asks for.
    pub target: Request,
}

/// One member cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name.
    pub name: Arc<str>,
    /// Its number in the table.
    pub id: ClusterId,
    /// Where its pods listen, in order.
    pub pods: Vec<SocketAddr>,
}

/// A GET that a rule sends to pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Where to connect.
    pub addr: SocketAddr,
    /// The Host header, without a port.
    pub host: String,
    /// The path.
    pub path: String,
}

impl Plan {
    /// Reads it from a table.
    ///
    /// # Errors
    /// Says what the manifests lack: pods on loopback, or a rule that a plain GET reaches.
    pub(super) fn of(table: &RouteTable) -> Result<Self, String> {
        let mut members: BTreeMap<Arc<str>, Member> = BTreeMap::new();
        let mut owners: BTreeMap<SocketAddr, Arc<str>> = BTreeMap::new();
        for endpoint in table.endpoints.values() {
            let Some(cluster) = table.clusters.get(&endpoint.cluster) else { continue };
            let (name, addr) = (&cluster.name, endpoint.addr);
            if !addr.ip().is_loopback() {
                return Err(format!(
                    "pod {addr} of cluster {name} is not on loopback; the demo starts its pods itself"
                ));
            }
            match owners.insert(addr, Arc::clone(name)) {
                Some(other) if other != *name => {
                    return Err(format!("pod {addr} is in two clusters, {other} and {name}"));
                }
                // A second port or Service of the same pod.
                Some(_) => continue,
                None => {}
            }
            let fresh = || Member { name: Arc::clone(name), id: endpoint.cluster, pods: Vec::new() };
            members.entry(Arc::clone(name)).or_insert_with(fresh).pods.push(addr);
        }
        if members.is_empty() {
            return Err("no rule of these manifests leads to a pod".to_owned());
        }
        members.values_mut().for_each(|member| member.pods.sort());
        let mut listeners: Vec<_> =
            table.listeners.values().map(|listener| (Arc::clone(&listener.name), listener.addr)).collect();
        listeners.sort();
        let target = request_for(table).ok_or("no rule of these manifests is reached by a plain GET")?;
        Ok(Self { members: members.into_values().collect(), listeners, target })
    }

    /// All pods together.
    pub(super) fn pods(&self) -> u64 {
        self.members.iter().map(|member| member.pods.len() as u64).sum()
    }

    /// Which member to kill: the one that was named, else `beta`, else the last.
    ///
    /// # Errors
    /// There is no member of this name.
    pub(super) fn victim(&self, named: Option<&str>) -> Result<usize, String> {
        let find = |name: &str| self.members.iter().position(|member| &*member.name == name);
        match named {
            None => Ok(find("beta").unwrap_or(self.members.len() - 1)),
            Some(name) => find(name).ok_or_else(|| {
                let names: Vec<_> = self.members.iter().map(|member| &*member.name).collect();
                format!("--kill {name}: there is no such cluster; there is {}", names.join(", "))
            }),
        }
    }
}

/// The first rule that a GET without conditions reaches, Ingress before Gateway, any host before a named one.
fn request_for(table: &RouteTable) -> Option<Request> {
    let rank = |pattern: &HostPattern| match pattern {
        HostPattern::Any => 0,
        HostPattern::Exact(_) => 1,
        HostPattern::Wildcard { .. } => 2,
    };
    let mut candidates: Vec<_> = table
        .hosts
        .iter()
        .filter_map(|(key, rules)| Some((table.listeners.get(&key.listener)?, key, rules)))
        .collect();
    candidates.sort_by_key(|(listener, key, _)| (!listener.name.starts_with("ingress:"), rank(&key.pattern)));
    candidates.iter().find_map(|(listener, key, rules)| {
        let path = rules.rules.iter().find_map(plain_path)?;
        Some(Request { addr: reach(listener), host: host_of(&key.pattern, &listener.hostname), path })
    })
}

fn plain_path(rule: &Rule) -> Option<String> {
    let matches = &rule.matches;
    let is_plain = matches.method.is_none() && matches.headers.is_empty() && matches.query.is_empty();
    let leads_to_pods = match &rule.action.target {
        Target::Forward(backends) => backends.iter().any(|one| one.backend.is_some() && one.weight > 0),
        Target::Redirect(_) | Target::Reply { .. } => false,
    };
    match &matches.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) if is_plain && leads_to_pods => {
            Some(path.to_string())
        }
        PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => None,
    }
}

fn host_of(pattern: &HostPattern, listener: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard { suffix, .. } => format!("demo.{suffix}"),
        HostPattern::Any if *listener != HostPattern::Any => host_of(listener, &HostPattern::Any),
        HostPattern::Any => "localhost".to_owned(),
    }
}

/// Where a client on this machine connects to reach a listener.
fn reach(listener: &ListenerSpec) -> SocketAddr {
    let mut addr = listener.addr;
    if addr.ip().is_unspecified() {
        addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    addr
}

/// A port that was not free, and what was done: a sentence.
pub(super) type Remark = String;

/// The servers in the place of the pods, member by member as in the [`Plan`].
pub(super) struct Stage {
    members: Vec<Vec<Backend>>,
}

/// Everything that is needed before the gateway starts.
pub(super) struct Scene {
    /// What is served.
    pub plan: Plan,
    /// The pods, running.
    pub stage: Stage,
    /// Where Ingress rules are served.
    pub listen: SocketAddr,
    /// The gateway's ports.
    pub ports: Ports,
    /// Ports that had to be moved.
    pub remarks: Vec<Remark>,
}

impl Scene {
    /// Starts a server at every pod's address. What is taken by somebody else moves to a free port, in the
    /// manifests, too.
    ///
    /// # Errors
    /// The manifests do not fit ([`Plan::of`]), or an address cannot be bound at all.
    pub(super) fn set(folder: &mut Folder) -> Result<Self, String> {
        let mut remarks = Vec::new();
        let mut ports = Ports::default();
        let listen = listen_addr(&mut ports, &mut remarks)?;
        let compile = |folder: &Folder| {
            let (table, judged) =
                controller::compile_dir(folder.manifests(), &[listen], &Defaults::default());
            Plan::of(&table).map_err(|why| if judged.refused() { format!("{why}\n{judged}") } else { why })
        };
        let plan = compile(folder)?;
        let mut stage = Stage { members: Vec::new() };
        for member in &plan.members {
            stage.members.push(start_pods(member, folder, &mut remarks)?);
        }
        for (name, addr) in plan.listeners.iter().filter(|(_, addr)| *addr != listen) {
            if let Some(free) = ports.settle(*addr)? {
                folder.move_port("fleet", addr.port(), free)?;
                remarks.push(format!("port {} is not free: listener {name} moves to {free}", addr.port()));
            }
        }
        let plan = if remarks.is_empty() { plan } else { compile(folder)? };
        stage.check(&plan)?;
        Ok(Self { plan, stage, listen, ports, remarks })
    }
}

fn start_pods(
    member: &Member,
    folder: &mut Folder,
    remarks: &mut Vec<Remark>,
) -> Result<Vec<Backend>, String> {
    let mut pods = Vec::with_capacity(member.pods.len());
    for addr in &member.pods {
        let start = |addr: SocketAddr| {
            let (cluster, endpoint) = (member.name.to_string(), addr.to_string());
            Backend::start(addr, BackendOptions { cluster, endpoint, latency: Latency::service() })
        };
        let failed = |error: io::Error| format!("cannot start the pod {addr} of {}: {error}", member.name);
        let pod = match start(*addr) {
            Ok(pod) => pod,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let free = free_port(addr.ip()).map_err(failed)?;
                folder.move_port(&format!("clusters/{}", member.name), addr.port(), free)?;
                remarks.push(format!(
                    "port {} is not free: a pod of {} moves to {free}",
                    addr.port(),
                    member.name
                ));
                start(SocketAddr::new(addr.ip(), free)).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        pods.push(pod);
    }
    Ok(pods)
}

/// Where Ingress rules are served: the default, or another port; IPv4 alone where there is no IPv6.
fn listen_addr(ports: &mut Ports, remarks: &mut Vec<Remark>) -> Result<SocketAddr, String> {
    let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), LISTEN_PORT);
    let has_ipv6 = TcpListener::bind(SocketAddr::new(both.ip(), 0)).is_ok();
    let wanted =
        if has_ipv6 { both } else { SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), LISTEN_PORT) };
    let Some(free) = ports.settle(wanted)? else { return Ok(wanted) };
    remarks.push(format!("port {LISTEN_PORT} is not free: Ingress rules are served on {free}"));
    Ok(SocketAddr::new(wanted.ip(), free))
}

/// The ports that the gateway will bind, held against other demos on this machine until this is dropped.
///
/// The gateway shares its ports among its workers (`SO_REUSEPORT`), so the kernel would let two gateways share one,
/// too, and give each half of the other's traffic. Between looking whether a port is free and binding it, another
/// demo may look as well: hence a claim that only one can hold, an abstract Unix socket named after the port.
#[derive(Default)]
pub(super) struct Ports {
    claims: Vec<UnixListener>,
}

impl Ports {
    /// `None` when the gateway can have `addr`, else a free port of the same address.
    ///
    /// # Errors
    /// The address cannot be bound whatever the port.
    pub(super) fn settle(&mut self, addr: SocketAddr) -> Result<Option<u16>, String> {
        let failed = |error: io::Error| format!("{addr}: {error}");
        let name =
            UnixAddr::from_abstract_name(format!("ringway-demo-port-{}", addr.port())).map_err(failed)?;
        let Ok(claim) = UnixListener::bind_addr(&name) else {
            return free_port(addr.ip()).map(Some).map_err(failed);
        };
        // Without SO_REUSEPORT: it fails where anybody listens.
        match TcpListener::bind(addr) {
            Ok(_) => {
                self.claims.push(claim);
                Ok(None)
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) =>
            {
                free_port(addr.ip()).map(Some).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

fn free_port(ip: IpAddr) -> io::Result<u16> {
    Ok(TcpListener::bind(SocketAddr::new(ip, 0))?.local_addr()?.port())
}

impl Stage {
    /// Ends every pod of a member: listeners closed, connections reset.
    ///
    /// # Errors
    /// A pod's thread does not answer.
    pub(super) fn kill(&self, member: usize) -> io::Result<()> {
        self.members[member].iter().try_for_each(Backend::kill)
    }

    /// Brings them back on their addresses.
    ///
    /// # Errors
    /// An address was taken meanwhile.
    pub(super) fn restart(&self, member: usize) -> io::Result<()> {
        self.members[member].iter().try_for_each(Backend::restart)
    }

    /// Requests that the pods of a member have received.
    pub(super) fn requests_of(&self, member: usize) -> u64 {
        self.members[member].iter().map(Backend::requests).sum()
    }

    /// Requests that all pods have received.
    pub(super) fn requests(&self) -> u64 {
        (0..self.members.len()).map(|member| self.requests_of(member)).sum()
    }

    /// Does every pod of the plan run?
    fn check(&self, plan: &Plan) -> Result<(), String> {
        let running = |pods: &Vec<Backend>| {
            let mut addrs: Vec<_> = pods.iter().map(Backend::addr).collect();
            addrs.sort();
            addrs
        };
        let fits = plan.members.len() == self.members.len()
            && plan.members.iter().zip(&self.members).all(|(member, pods)| member.pods == running(pods));
        if fits {
            return Ok(());
        }
        Err("these manifests do not survive a change of ports; free the ports that they name".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(example: &str) -> Plan {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples").join(example);
        Plan::of(
            &controller::compile_dir(
                &dir,
                &["[::]:8080".parse::<std::net::SocketAddr>().unwrap()],
                &Defaults::default(),
            )
            .0,
        )
        .unwrap()
    }

    #[test]
    fn the_quickstart_has_two_clusters_of_two_pods_and_is_asked_over_its_ingress() {
        let plan = plan("quickstart");
        let members: Vec<_> = plan.members.iter().map(|member| (&*member.name, member.pods.len())).collect();
        assert_eq!(members, [("alpha", 2), ("beta", 2)]);
        assert_eq!(plan.pods(), 4);
        let asked =
            Request { addr: ([127, 0, 0, 1], 8_080).into(), host: "localhost".into(), path: "/".into() };
        assert_eq!(plan.target, asked);
        assert_eq!(plan.listeners.len(), 2);
    }

    #[test]
    fn the_victim_is_the_named_one_or_beta() {
        let plan = plan("quickstart");
        assert_eq!((plan.victim(None), plan.victim(Some("alpha"))), (Ok(1), Ok(0)));
        assert!(plan.victim(Some("gamma")).unwrap_err().ends_with("there is alpha, beta"));
    }

    #[test]
    fn a_port_that_is_taken_or_claimed_by_another_demo_is_replaced() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let (mut ours, mut theirs) = (Ports::default(), Ports::default());
        let free = ours.settle(addr).unwrap().unwrap();
        assert_ne!(free, addr.port());
        let free = SocketAddr::new(addr.ip(), free);
        assert_eq!(ours.settle(free), Ok(None));
        assert_ne!(theirs.settle(free).unwrap(), None, "claimed, although nobody has bound it yet");
        drop(ours);
        assert_eq!(theirs.settle(free), Ok(None));
    }

    #[test]
    fn pods_whose_ports_are_taken_move_and_the_manifests_follow() {
        let quickstart = plan("quickstart");
        // Whoever holds it, this test or somebody else: it is taken.
        let taken = TcpListener::bind(quickstart.members[1].pods[0]);
        let mut folder = Folder::open(None).unwrap();
        let scene = Scene::set(&mut folder).unwrap();
        assert!(
            scene.remarks.iter().any(|remark| remark.contains("a pod of beta moves")),
            "{:?}",
            scene.remarks
        );
        assert_eq!(scene.plan.pods(), 4);
        assert!(!scene.plan.members[1].pods.contains(&quickstart.members[1].pods[0]));
        drop(taken);
    }
}
