//! The last world on disk: what is served when this process starts and no API server answers.
//!
//! `STATE_DIR/world.jsonl`: a head, one line for each member and each object in the form of a manifest, and a checksum.
//! Written as a whole beside the old one and renamed into place, by a thread of its own, at most every
//! [`INTERVAL`]. No kubeconfig is in it. Secrets that the world holds (certificates, passwords, authorities) are in it
//! by name, and with what they hold only where there is a key to seal them with ([`seal`]): those that cannot be opened
//! are absent at the next start, which names them, and the rest serves. A file of a later version, or one that is cut
//! or altered, is not used, and that is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Sender, TrySendError, bounded};
use k8s_openapi::ByteString;
use routing::model::{Carrier, Condition};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::object::{FleetSecret, Object, ObjectId, Source, Spec};
use crate::verdict::Notes;
use crate::watch::decode::{One, decode_one};
use crate::watch::fleet::Before;
use crate::watch::profile;
use crate::world::World;

pub mod seal;

use seal::{Seal, StateKey};

/// How often a changed world is written at most.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The file's name.
const FILE: &str = "world.jsonl";
/// The form of the file.
const VERSION: u32 = 2;
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Longest line that is read, in bytes: an API server takes no object of more than 1.5 MiB.
const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Secrets that are named in one log line; the rest is counted.
const NAMED_MAX: usize = 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Head {
        version: u32,
        written: u64,
        /// What the key of this file is derived with; absent = there was none to seal with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        salt: Option<ByteString>,
    },
    Member(String),
    /// Of the hub when there is no cluster.
    Object {
        cluster: Option<String>,
        object: Value,
    },
    /// A Secret, its number among those of the file, and what it holds, sealed; absent = it is left out.
    Secret {
        name: String,
        index: u64,
        sealed: Option<ByteString>,
    },
    Sum {
        lines: u64,
        fnv1a: u64,
    },
}

/// A world as it was: cheap to take, for the controller's loop.
#[derive(Debug)]
struct Picture {
    members: BTreeSet<Arc<str>>,
    objects: Vec<Arc<Object>>,
}

/// Writes snapshots on a thread of its own. Dropping it waits for the last one.
#[derive(Debug)]
pub struct Writer {
    to: Option<Sender<Picture>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes into `dir`, which is made when it is missing. Without a `key` no Secret's content is written.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(dir: PathBuf, key: Option<StateKey>) -> io::Result<Self> {
        let (to, pictures) = bounded::<Picture>(1);
        let thread = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            for picture in pictures {
                if let Err(error) = write(&dir, &picture, key.as_ref()) {
                    warn!(dir = %dir.display(), %error, "the world is not saved: a start without the hub has the last one that was");
                }
            }
        })?;
        Ok(Self { to: Some(to), thread: Some(thread) })
    }

    /// Hands the world over to be written. `false`: the one before is still being written, try again later.
    pub fn save(&self, world: &World) -> bool {
        let Some(to) = &self.to else { return false };
        if to.is_full() {
            return false;
        }
        let objects = world.objects().map(|(_, stored)| stored.object.clone()).collect();
        match to.try_send(Picture { members: world.members().clone(), objects }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.to.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook.
            let _ = thread.join();
        }
    }
}

/// FNV-1a: finds what a full disk or a bad sector does to a file. It is not against somebody who alters it.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

fn write(dir: &Path, picture: &Picture, key: Option<&StateKey>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let next = dir.join(format!("{FILE}.next"));
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
    let mut out = BufWriter::new(file);
    let (mut sum, mut lines) = (Sum::default(), 0);
    let mut put = |line: &Line| -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        sum.add(&bytes);
        lines += 1;
        out.write_all(&bytes)?;
        Ok(bytes)
    };
    let written = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let salt = key.map(|_| seal::salt()).transpose()?;
    let head = put(&Line::Head { version: VERSION, written, salt: salt.clone().map(ByteString) })?;
    let seal = key.zip(salt).and_then(|(key, salt)| Seal::new(key, &salt, &head));
    let mut secrets = 0;
    for member in &picture.members {
        put(&Line::Member(member.to_string()))?;
    }
    for object in &picture.objects {
        let cluster = match &object.id.source {
            Source::Fleet => None,
            Source::Member(name) => Some(name.to_string()),
        };
        if let Some(secret) = object.spec.secret() {
            let (name, index) = (format!("{}/{}", object.id.namespace, object.id.name), secrets);
            secrets += 1;
            let sealed = (seal.as_ref())
                .map(|seal| seal.seal(index, &name, serde_json::to_vec(&of_secret(&object.id, secret))?))
                .transpose()?;
            put(&Line::Secret { name, index, sealed: sealed.map(ByteString) })?;
        } else if let Some(object) = manifest(object) {
            put(&Line::Object { cluster, object })?;
        }
    }
    let last = serde_json::to_vec(&Line::Sum { lines, fnv1a: sum.0 })?;
    out.write_all(&last)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&next, dir.join(FILE))
}

/// What was written before this process began, and when, in Unix seconds; `None` when there is nothing to use. Secrets
/// that cannot be opened with this `key` are absent, and named.
#[must_use]
pub fn load(dir: &Path, key: Option<&StateKey>) -> Option<(Before, u64)> {
    let path = dir.join(FILE);
    match read(&path, key) {
        Ok((before, written, absent)) => {
            absent.tell(&path);
            let (members, objects) = (before.members.len(), before.objects.len());
            info!(path = %path.display(), members, objects, written, "the last world was read from the disk");
            Some((before, written))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the snapshot of the world is not used");
            None
        }
    }
}

/// Secrets that a snapshot names and that cannot be had from it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Absent {
    /// They were never in it.
    left_out: Vec<String>,
    /// They are sealed, and there is no key, or it is another one.
    closed: Vec<String>,
}

impl Absent {
    fn tell(&self, path: &Path) {
        let reasons = [
            (&self.left_out, "they were saved without admin.state_key"),
            (&self.closed, "admin.state_key is not set, or not the key that they were sealed with"),
        ];
        for (all, reason) in reasons.iter().filter(|(all, _)| !all.is_empty()) {
            let mut names = all.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            if all.len() > NAMED_MAX {
                names += &format!(" and {} more", all.len() - NAMED_MAX);
            }
            warn!(path = %path.display(), secrets = names, reason, "Secrets of the last world are absent until the hub answers");
        }
    }
}

fn read(path: &Path, key: Option<&StateKey>) -> io::Result<(Before, u64, Absent)> {
    let file = fs::File::open(path)?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let mut file = BufReader::new(file);
    let (mut before, mut written) = (Before::default(), None);
    let (mut absent, mut seal) = (Absent::default(), None);
    let (mut sum, mut count) = (Sum::default(), 0);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
            return Err(io::Error::other("it ends before its checksum"));
        }
        match serde_json::from_slice(&bytes)? {
            // The first one had no Secrets.
            Line::Head { version, .. } if !(1..=VERSION).contains(&version) => {
                return Err(io::Error::other(format!("version {version}, this is {VERSION}")));
            }
            Line::Head { written: at, salt, .. } => {
                written = Some(at);
                seal = key.zip(salt).and_then(|(key, salt)| Seal::new(key, &salt.0, &bytes));
            }
            Line::Secret { name, sealed: None, .. } => absent.left_out.push(name),
            Line::Secret { name, index, sealed: Some(sealed) } => {
                let opened = seal.as_ref().and_then(|seal| seal.open(index, &name, sealed.0));
                match opened.and_then(|text| serde_json::from_slice(&text).ok()) {
                    Some(object) => take(&mut before, object, &Source::Fleet),
                    None => absent.closed.push(name),
                }
            }
            Line::Member(name) => drop(before.members.insert(Arc::from(name))),
            Line::Object { cluster, object } => {
                let source = cluster.map_or(Source::Fleet, |name| Source::Member(Arc::from(name)));
                take(&mut before, object, &source);
            }
            Line::Sum { lines, fnv1a } => {
                if (lines, fnv1a) != (count, sum.0) {
                    return Err(io::Error::other("its checksum is another: it was cut or altered"));
                }
                let at = written.ok_or_else(|| io::Error::other("it has no head"))?;
                return Ok((before, at, absent));
            }
        }
        sum.add(&bytes);
        count += 1;
    }
}

fn take(before: &mut Before, object: Value, source: &Source) {
    if let One::Object(object, notes) = decode_one(object, source) {
        before.objects.push((Arc::from(object), notes));
    }
}

fn of_secret(id: &ObjectId, secret: &FleetSecret) -> Value {
    let parts = [("tls.crt", &secret.certificate), ("tls.key", &secret.key)];
    let parts = parts.into_iter().filter(|(_, bytes)| !bytes.is_empty());
    let others = secret.others.iter().map(|(key, bytes)| (key.as_str(), bytes));
    let data: serde_json::Map<String, Value> =
        parts.chain(others).map(|(key, bytes)| (key.to_owned(), json!(ByteString(bytes.clone())))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": &*id.name, "namespace": &*id.namespace},
        "data": data})
}

/// An object as a manifest; `None` for what does not rest on the disk in clear.
fn manifest(object: &Object) -> Option<Value> {
    let typed = match &object.spec {
        Spec::Ingress(it) => serde_json::to_value(it),
        Spec::IngressClass(it) => serde_json::to_value(it),
        Spec::Gateway(it) => serde_json::to_value(it),
        Spec::GatewayClass(it) => serde_json::to_value(it),
        Spec::HttpRoute(it) => serde_json::to_value(it),
        Spec::GrpcRoute(it) => serde_json::to_value(it),
        Spec::TcpRoute(it) => serde_json::to_value(it),
        Spec::TlsRoute(it) => serde_json::to_value(it),
        Spec::UdpRoute(it) => serde_json::to_value(it),
        Spec::ReferenceGrant(it) => serde_json::to_value(it),
        Spec::BackendTlsPolicy(it) => serde_json::to_value(it),
        Spec::ConfigMap(map) => {
            let metadata = json!({"name": &*object.id.name, "namespace": &*object.id.namespace});
            let mut data: BTreeMap<&str, &str> =
                map.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            data.extend(map.authorities.as_deref().map(|authorities| ("ca.crt", authorities)));
            // What it held is not known; that it was no list of fields is.
            data.extend(map.unfit.as_deref().map(|unfit| (unfit, "\n")));
            return Some(
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}),
            );
        }
        Spec::ClusterProfile(it) => return it.is_member.then(|| profile::manifest(object, it)),
        Spec::MemberCluster(it) => serde_json::to_value(it),
        Spec::GatewayConfig(it) => serde_json::to_value(it),
        Spec::AlbConfig(spec) => return Some(cloud("alibabacloud.com/v1", object, spec)),
        Spec::MseIngressConfig(spec) => return Some(cloud("mse.alibabacloud.com/v1alpha1", object, spec)),
        Spec::FailoverPolicy(it) => serde_json::to_value(it),
        Spec::Namespace(labels) => {
            let metadata = json!({"name": &*object.id.name, "labels": labels});
            return Some(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        }
        // Sealed, or left out: listeners with TLS wait for the API server then.
        Spec::Secret(_) => return None,
        Spec::Service(it) => return Some(service(&object.id, it)),
        Spec::EndpointSlice(it) => return Some(slice(&object.id, it)),
        Spec::Node(it) => return Some(node(&object.id, it)),
        Spec::Other => return None,
    };
    typed.ok()
}

fn cloud(version: &str, object: &Object, spec: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": object.id.kind.as_str(),
        "metadata": {"name": &*object.id.name, "annotations": object.annotations, "generation": object.generation,
            "uid": &*object.uid},
        "spec": spec,
    })
}

fn service(id: &ObjectId, service: &crate::object::MemberService) -> Value {
    let ports = service.ports.iter().map(|port| {
        let node_port = (port.node_port > 0).then_some(port.node_port);
        let (app_protocol, protocol) = (port.app_protocol.text(), protocol(port.carrier));
        json!({
            "name": &*port.name, "port": port.port, "nodePort": node_port, "protocol": protocol,
            "appProtocol": app_protocol,
        })
    });
    let ingress = service.load_balancer.iter().map(|ip| json!({"ip": ip.to_string()}));
    let (kind, external) = match &service.external_name {
        Some(name) => ("ExternalName", Some(name)),
        None => ("ClusterIP", None),
    };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": &*id.name, "namespace": &*id.namespace},
        "spec": {"type": kind, "externalName": external, "ports": ports.collect::<Vec<_>>()},
        "status": {"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}},
    })
}

/// As Kubernetes spells it.
fn protocol(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Tcp => "TCP",
        Carrier::Udp => "UDP",
    }
}

fn slice(id: &ObjectId, slice: &crate::object::MemberSlice) -> Value {
    let is_ipv6 = slice.endpoints.first().is_some_and(|endpoint| endpoint.ip.is_ipv6());
    let ports = slice
        .ports
        .iter()
        .map(|(name, carrier, port)| json!({"name": &**name, "port": port, "protocol": protocol(*carrier)}));
    let endpoints = slice.endpoints.iter().map(|endpoint| {
        let (ready, serving, terminating) = match endpoint.condition {
            Some(Condition::Ready) => (true, true, false),
            Some(Condition::Terminating) => (false, true, true),
            None => (false, false, false),
        };
        json!({
            "addresses": [endpoint.ip.to_string()],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "zone": Some(&*endpoint.zone).filter(|zone| !zone.is_empty()),
            "nodeName": Some(&*endpoint.node).filter(|node| !node.is_empty()),
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": &*id.name, "namespace": &*id.namespace,
            "labels": {"kubernetes.io/service-name": &*slice.service}},
        "addressType": if is_ipv6 { "IPv6" } else { "IPv4" },
        "ports": ports.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn node(id: &ObjectId, node: &crate::object::MemberNode) -> Value {
    let addresses = node.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    let ready = if node.ready { "True" } else { "False" };
    let labels = match &*node.zone {
        "" => json!({}),
        zone => json!({"topology.kubernetes.io/zone": zone}),
    };
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": &*id.name, "labels": labels},
        "status": {"addresses": addresses.collect::<Vec<_>>(), "conditions": [{"type": "Ready", "status": ready}]},
    })
}

/// The objects of a snapshot with what was noticed while they were decoded, as the world sees them.
pub(crate) fn observations(before: &Before) -> Vec<crate::watch::Observation> {
    use crate::watch::{Observation, Presence};
    if before.members.is_empty() && before.objects.is_empty() {
        // Nothing is known: that is not the same as a world with nothing in it.
        return Vec::new();
    }
    let present = |name: &Arc<str>| Observation::Member { name: name.clone(), presence: Presence::Present };
    let upsert = |(object, notes): &(Arc<Object>, Notes)| Observation::Upsert {
        object: Box::new((**object).clone()),
        origin: Arc::from(object.id.source.to_string()),
        notes: notes.clone(),
    };
    let mut seen: Vec<Observation> = before.members.iter().map(present).collect();
    seen.extend(before.objects.iter().map(upsert));
    seen.push(Observation::Synced);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::decode::{Format, decode_text};

    const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80, nodePort: 30080}, {name: tls, port: 443}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: ['fd00::1'], zone: z1, nodeName: n1}
- {addresses: ['fd00::2'], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: ['fd00::3'], conditions: {ready: false}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}], conditions: [{type: Ready, status: 'False'}]}
";

    fn picture() -> Picture {
        let alpha = Source::Member(Arc::from("alpha"));
        let mut objects: Vec<Arc<Object>> = Vec::new();
        for (object, _) in decode_text(WORLD, Format::Yaml, &alpha).unwrap().objects {
            objects.push(Arc::new(object));
        }
        let ingress = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}, \
                       spec: {rules: [{host: a.example}]}}";
        for (object, _) in decode_text(ingress, Format::Yaml, &Source::Fleet).unwrap().objects {
            objects.push(Arc::new(object));
        }
        Picture { members: BTreeSet::from([Arc::from("alpha"), Arc::from("empty")]), objects }
    }

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("ringway-snapshot-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let dir = Temp::new("same");
        let picture = picture();
        write(&dir.0, &picture, None).unwrap();
        let (before, written) = load(&dir.0, None).unwrap();
        assert!(written > 1_700_000_000);
        assert_eq!(before.members, picture.members);
        let text = |object: &Arc<Object>| format!("{object:?}");
        let read: Vec<String> = before.objects.iter().map(|(object, _)| text(object)).collect();
        assert_eq!(read, picture.objects.iter().map(text).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_was_cut_altered_or_is_of_another_version_is_not_used() {
        let dir = Temp::new("bad");
        write(&dir.0, &picture(), None).unwrap();
        let path = dir.0.join(FILE);
        let good = fs::read_to_string(&path).unwrap();
        let cut = good.lines().take(3).collect::<Vec<_>>().join("\n");
        let without_one: String =
            good.lines().enumerate().filter(|(n, _)| *n != 3).map(|(_, l)| format!("{l}\n")).collect();
        let cases = [
            cut,
            without_one,
            good.replace("8080", "8081"),
            good.replace("\"version\":2", "\"version\":3"),
            String::new(),
            "\0\0\0".to_owned(),
        ];
        for bad in cases {
            fs::write(&path, bad).unwrap();
            assert!(load(&dir.0, None).is_none());
        }
        fs::write(&path, good).unwrap();
        assert!(load(&dir.0, None).is_some());
    }

    #[test]
    fn secrets_come_back_with_the_key_that_they_were_sealed_with_and_are_named_without() {
        let dir = Temp::new("sealed");
        let text = "{apiVersion: v1, kind: Secret, metadata: {name: web, namespace: shop}, \
                    stringData: {tls.crt: THE CHAIN, tls.key: THE KEY, ca.crt: THE ROOT}}";
        let mut picture = picture();
        for (object, _) in decode_text(text, Format::Yaml, &Source::Fleet).unwrap().objects {
            picture.objects.push(Arc::new(object));
        }
        let path = dir.0.join(FILE);
        let secrets = |before: &Before| -> Vec<String> {
            let all = before.objects.iter().filter_map(|(object, _)| object.spec.secret());
            all.map(|secret| format!("{:?} {:?} {:?}", secret.certificate, secret.key, secret.others))
                .collect()
        };
        let written: Vec<String> = (picture.objects.iter().filter_map(|object| object.spec.secret()))
            .map(|secret| format!("{:?} {:?} {:?}", secret.certificate, secret.key, secret.others))
            .collect();
        let key = seal::key(7);
        write(&dir.0, &picture, Some(&key)).unwrap();
        let first = fs::read(&path).unwrap();
        let holds = |text: &str| first.windows(text.len()).any(|part| part == text.as_bytes());
        // "THE KEY" in base64, as a manifest has it.
        assert!(!holds("THE KEY") && !holds("VEhFIEtFWQ") && !holds("tls.key"));
        let (before, _, absent) = read(&path, Some(&key)).unwrap();
        assert_eq!((secrets(&before), absent), (written, Absent::default()));
        let others = before.objects.len() - 1;
        for wrong in [Some(seal::key(8)), None] {
            let (before, _, absent) = read(&path, wrong.as_ref()).unwrap();
            assert_eq!(absent, Absent { left_out: Vec::new(), closed: vec!["shop/web".to_owned()] });
            assert_eq!((secrets(&before), before.objects.len()), (Vec::new(), others), "the rest is there");
        }
        write(&dir.0, &picture, Some(&key)).unwrap();
        let sealed = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.lines()
                .filter(|line| line.contains("sealed") || line.contains("salt"))
                .map(str::to_owned)
                .collect()
        };
        let second = sealed(&fs::read(&path).unwrap());
        assert!(second.len() == 2 && second.iter().all(|line| !sealed(&first).contains(line)), "{second:?}");
        write(&dir.0, &picture, None).unwrap();
        let (before, _, absent) = read(&path, Some(&key)).unwrap();
        assert_eq!(absent, Absent { left_out: vec!["shop/web".to_owned()], closed: Vec::new() });
        assert_eq!(before.objects.len(), others);
    }
}
