//! An API server for tests: lists with pages, watches with versions, bookmarks and 410 Gone, metadata only, single
//! objects, create and update with optimistic locking, server-side apply of what we apply, and faults on demand.
//!
//! Plain threads and blocking sockets, so that it shares nothing with what it tests. What it does not model: TLS,
//! admission, schemas and defaulting, selectors, a page's snapshot (pages are cut from what there is now), field
//! ownership beyond list entries by key. Where real servers are given (`scripts/test-apiserver`) it stands for one of
//! them; tests that need its faults, or its log of requests, are left out then ([`needs_ours`]).
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "each test uses its own part of this"
)]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::real::{self, Real};

/// The resources that every server knows: group/version, plural, kind.
pub const CORE: [(&str, &str, &str); 10] = [
    ("v1", "services", "Service"),
    ("v1", "nodes", "Node"),
    ("v1", "secrets", "Secret"),
    ("v1", "namespaces", "Namespace"),
    ("v1", "configmaps", "ConfigMap"),
    ("events.k8s.io/v1", "events", "Event"),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    ("networking.k8s.io/v1", "ingresses", "Ingress"),
    ("networking.k8s.io/v1", "ingressclasses", "IngressClass"),
    ("coordination.k8s.io/v1", "leases", "Lease"),
];
/// Those of CRDs, which a test installs.
pub const OURS: [(&str, &str, &str); 3] = [
    ("ringway.dev/v1alpha1", "memberclusters", "MemberCluster"),
    ("ringway.dev/v1alpha1", "gatewayconfigs", "GatewayConfig"),
    ("ringway.dev/v1alpha1", "failoverpolicies", "FailoverPolicy"),
];
pub const GATEWAY_API: [(&str, &str, &str); 8] = [
    ("gateway.networking.k8s.io/v1", "tcproutes", "TCPRoute"),
    ("gateway.networking.k8s.io/v1", "tlsroutes", "TLSRoute"),
    ("gateway.networking.k8s.io/v1alpha2", "udproutes", "UDPRoute"),
    ("gateway.networking.k8s.io/v1", "referencegrants", "ReferenceGrant"),
    ("gateway.networking.k8s.io/v1", "backendtlspolicies", "BackendTLSPolicy"),
    ("gateway.networking.k8s.io/v1", "gatewayclasses", "GatewayClass"),
    ("gateway.networking.k8s.io/v1", "gateways", "Gateway"),
    ("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute"),
];

pub const CLOUD: [(&str, &str, &str); 2] = [
    ("alibabacloud.com/v1", "albconfigs", "AlbConfig"),
    ("mse.alibabacloud.com/v1alpha1", "mseingressconfigs", "MseIngressConfig"),
];

/// group/version, plural
type Kind = (String, String);
/// namespace, name
type Name = (String, String);

/// Of all servers: no two objects ever have the same.
static NEXT_UID: AtomicU64 = AtomicU64::new(1);

#[derive(Default)]
struct Store {
    kinds: BTreeMap<Kind, String>,
    objects: BTreeMap<Kind, BTreeMap<Name, Value>>,
    version: u64,
    /// version, kind, event type, object
    events: Vec<(u64, Kind, &'static str, Value)>,
    /// Events up to this version are forgotten.
    compacted: u64,
    /// Watches that began before this moment are told 410.
    expired: u64,
    watches: u64,
    /// Watches of another store have ended.
    wipes: u64,
    requests: Vec<String>,
    /// Path prefixes that are answered with a status.
    refused: HashMap<String, u16>,
    token: Option<String>,
    connections: Vec<TcpStream>,
    is_down: bool,
    is_over: bool,
    applied: HashMap<(String, String), Value>,
}

#[derive(Default)]
struct Shared {
    store: Mutex<Store>,
    changed: Condvar,
}

pub struct ApiServer {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// It stands for this one.
    real: Option<Real>,
}

/// Are real servers given? Then a test that begins with this is left out, and says so.
pub fn needs_ours(what: &str) -> bool {
    if real::are_given() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        println!("left out with real API servers: {test}: {what}");
    }
    real::are_given()
}

impl ApiServer {
    /// A server that knows no CRD; a real one knows all of them.
    pub fn start() -> Self {
        let real = real::are_given().then(Real::take);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let served = shared.clone();
        let acceptor = std::thread::spawn(move || accept(listener, addr, &served));
        let server = Self { addr, shared, acceptor: Some(acceptor), real };
        server.install(&CORE);
        server
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().unwrap()
    }

    /// Makes resources known.
    pub fn install(&self, kinds: &[(&str, &str, &str)]) {
        let mut store = self.store();
        for (group, plural, kind) in kinds {
            store.kinds.insert(((*group).to_owned(), (*plural).to_owned()), (*kind).to_owned());
        }
    }

    /// Creates or replaces an object; its kind must be known. Returns what is stored.
    pub fn put(&self, object: Value) -> Value {
        self.try_put(object).unwrap()
    }

    /// The same; a real server may refuse.
    pub fn try_put(&self, object: Value) -> Result<Value, String> {
        if let Some(real) = &self.real {
            return real.put(&object);
        }
        let mut store = self.store();
        let kind = store.kind_of(&object);
        let stored = store.write(&kind, object);
        self.shared.changed.notify_all();
        Ok(stored)
    }

    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        if let Some(real) = &self.real {
            return real.delete(plural, namespace, name);
        }
        let mut store = self.store();
        store.remove(plural, namespace, name);
        self.shared.changed.notify_all();
    }

    /// Replaces everything of a resource without telling any watch: a restored backup, a fresh server.
    pub fn lose(&self, plural: &str, keep: usize) {
        let mut store = self.store();
        store.version += 1;
        for (kind, objects) in &mut store.objects {
            if kind.1 == plural {
                let lost: Vec<Name> = objects.keys().skip(keep).cloned().collect();
                lost.iter().for_each(|name| drop(objects.remove(name)));
            }
        }
    }

    /// Another store under the same address: nothing is in it, and its versions begin anew. A watch from one that it has
    /// not come to is silent, as a real server's is.
    pub fn wipe(&self) {
        let mut store = self.store();
        store.objects.clear();
        store.events.clear();
        store.applied.clear();
        (store.version, store.compacted) = (0, 0);
        store.wipes += 1;
        cut(&mut store);
        self.shared.changed.notify_all();
    }

    /// Lets go of what nobody watches yet.
    pub fn forget_events(&self) {
        let mut store = self.store();
        store.compacted = store.version;
        store.events.clear();
    }

    /// Tells every open watch 410 Gone, and every one that asks for an older version than now.
    pub fn expire(&self) {
        let mut store = self.store();
        store.version += 1;
        store.compacted = store.version;
        store.events.clear();
        store.expired = store.watches;
        self.shared.changed.notify_all();
    }

    /// Requests below this path are answered with `status`; 0 = no more.
    pub fn refuse(&self, prefix: &str, status: u16) {
        self.store().refused.insert(prefix.to_owned(), status);
    }

    /// Only this bearer token is accepted from now on; open connections are cut.
    pub fn accept_only(&self, token: &str) {
        let mut store = self.store();
        store.token = Some(token.to_owned());
        cut(&mut store);
    }

    /// Nobody answers any more, and all connections are reset.
    pub fn go_down(&self) {
        let mut store = self.store();
        store.is_down = true;
        cut(&mut store);
        self.shared.changed.notify_all();
    }

    /// The same server, at the same address, again.
    pub fn come_up(&self) {
        self.store().is_down = false;
    }

    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        if let Some(real) = &self.real {
            return real.object(plural, namespace, name);
        }
        self.store().find(plural, namespace, name).cloned()
    }

    pub fn objects(&self, plural: &str) -> Vec<Value> {
        if let Some(real) = &self.real {
            return real.objects(plural);
        }
        let store = self.store();
        let of_kind = store.objects.iter().filter(|(kind, _)| kind.1 == plural);
        of_kind.flat_map(|(_, objects)| objects.values().cloned()).collect()
    }

    /// "METHOD path?query" of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.store().requests.clone()
    }

    pub fn kubeconfig(&self, token: &str) -> String {
        if let Some(real) = &self.real {
            return real.kubeconfig();
        }
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts:\n- {{name: a, context: {{cluster: a, user: a}}}}\n\
             clusters:\n- {{name: a, cluster: {{server: \"http://{}\"}}}}\nusers:\n- {{name: a, user: {{token: {token}}}}}\n",
            self.addr
        )
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        {
            let mut store = self.store();
            store.is_over = true;
            cut(&mut store);
        }
        self.shared.changed.notify_all();
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

fn cut(store: &mut Store) {
    for connection in store.connections.drain(..) {
        let _ = connection.shutdown(Shutdown::Both);
    }
}

fn accept(listener: TcpListener, addr: SocketAddr, shared: &Arc<Shared>) {
    let mut listener = Some(listener);
    loop {
        let (is_over, is_down) = {
            let store = shared.store.lock().unwrap();
            (store.is_over, store.is_down)
        };
        if is_over {
            return;
        }
        if is_down {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(addr).ok();
        }
        if let Some(listener) = &listener {
            listener.set_nonblocking(true).unwrap();
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                let _ = stream.set_nodelay(true);
                shared.store.lock().unwrap().connections.push(stream.try_clone().unwrap());
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

struct Request {
    method: String,
    path: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut parts = line.split_whitespace();
    let (method, target) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some(Request { method, path: path.to_owned(), query, headers, body })
}

fn serve(stream: TcpStream, shared: &Shared) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream) {
        if request.query.contains_key("watch") && request.method == "GET" {
            if watch(&request, &mut out, shared).is_none() {
                return;
            }
            continue;
        }
        let (status, body) = {
            let mut store = shared.store.lock().unwrap();
            let answer = store.answer(&request);
            shared.changed.notify_all();
            answer
        };
        if reply(&mut out, status, &body).is_none() {
            return;
        }
    }
}

fn reply(out: &mut TcpStream, status: u16, body: &Value) -> Option<()> {
    let (kind, body) = match body.is_null() {
        true => ("text/plain; charset=utf-8", "404 page not found\n".to_owned()),
        false => ("application/json", body.to_string()),
    };
    let head = format!(
        "HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    out.write_all((head + &body).as_bytes()).ok()
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let message = format!("{reason} (test server)");
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    (code, status)
}

/// Returns `None` when the connection is of no use any more.
fn watch(request: &Request, out: &mut TcpStream, shared: &Shared) -> Option<()> {
    let mut store = shared.store.lock().unwrap();
    store.log(request);
    let target = match store.admit(request) {
        Ok(target) => target,
        Err((status, body)) => {
            drop(store);
            return reply(out, status, &body);
        }
    };
    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .ok()?;
    store.watches += 1;
    let (me, wipes) = (store.watches, store.wipes);
    let mut from: u64 = request.query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    let seconds = request.query.get("timeoutSeconds").and_then(|v| v.parse().ok()).unwrap_or(30);
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if store.is_over || store.is_down || store.wipes != wipes {
            return None;
        }
        if from < store.compacted || me <= store.expired {
            let (_, status) = failure(410, "Expired");
            chunk(out, &json!({"type": "ERROR", "object": status}))?;
            return out.write_all(b"0\r\n\r\n").ok();
        }
        let first = store.events.partition_point(|(version, ..)| *version <= from);
        from = store.events.last().map_or(from, |(version, ..)| from.max(*version));
        let news = store.events[first..].iter().filter(|(_, kind, ..)| *kind == target.kind);
        for (_, kind, event, object) in news.cloned().collect::<Vec<_>>() {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            if kind == target.kind && target.namespace.as_deref().is_none_or(|wanted| wanted == namespace) {
                chunk(out, &json!({"type": event, "object": target.shown(&object)}))?;
            }
        }
        let now = Instant::now();
        if now >= end {
            let bookmark = json!({"apiVersion": target.kind.0, "kind": "Bookmark", "metadata": {"resourceVersion": from.to_string()}});
            chunk(out, &json!({"type": "BOOKMARK", "object": bookmark}))?;
            return out.write_all(b"0\r\n\r\n").ok();
        }
        let wait = (end - now).min(Duration::from_millis(200));
        store = shared.changed.wait_timeout(store, wait).unwrap().0;
    }
}

fn chunk(out: &mut TcpStream, event: &Value) -> Option<()> {
    let line = format!("{event}\n");
    out.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).ok()
}

/// What a path means.
struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
    metadata_only: bool,
}

impl Target {
    fn shown(&self, object: &Value) -> Value {
        if !self.metadata_only {
            return object.clone();
        }
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    }
}

fn target(request: &Request) -> Option<Target> {
    let mut parts = request.path.trim_matches('/').split('/');
    let group = match parts.next()? {
        "api" => parts.next()?.to_owned(),
        "apis" => format!("{}/{}", parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let accept = request.headers.get("accept").map_or("", String::as_str);
    Some(Target {
        kind: (group, (*rest.first()?).to_owned()),
        namespace,
        name: rest.get(1).map(|name| (*name).to_owned()),
        subresource: rest.get(2).map(|name| (*name).to_owned()),
        metadata_only: accept.contains("PartialObjectMetadata"),
    })
}

impl Store {
    fn log(&mut self, request: &Request) {
        let mut query: Vec<String> = request.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        query.sort();
        self.requests.push(format!("{} {}?{}", request.method, request.path, query.join("&")));
    }

    fn kind_of(&self, object: &Value) -> Kind {
        let (group, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let found = self.kinds.iter().find(|((known, _), name)| known == group && *name == kind);
        found.unwrap_or_else(|| panic!("{group} {kind} is not installed")).0.clone()
    }

    fn find(&self, plural: &str, namespace: &str, name: &str) -> Option<&Value> {
        let of_kind = self.objects.iter().filter(|(kind, _)| kind.1 == plural);
        of_kind.flat_map(|(_, objects)| objects.get(&(namespace.to_owned(), name.to_owned()))).next()
    }

    fn write(&mut self, kind: &Kind, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let name = (text("namespace"), text("name"));
        let before = self.objects.get(kind).and_then(|objects| objects.get(&name)).cloned();
        let generation = before.as_ref().map_or(1, |before| {
            let known = before["metadata"]["generation"].as_u64().unwrap_or(1);
            if before["spec"] == object["spec"] { known } else { known + 1 }
        });
        let of_before = |field: &str| before.as_ref().map(|before| before["metadata"][field].clone());
        let uid = of_before("uid")
            .unwrap_or_else(|| format!("uid-{}", NEXT_UID.fetch_add(1, Ordering::Relaxed)).into());
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("resourceVersion".into(), version.to_string().into());
        meta.insert("generation".into(), generation.into());
        // What is updated stays the object that it was; what is made anew is another one.
        meta.insert("uid".into(), uid);
        meta.entry("creationTimestamp").or_insert_with(|| "2026-01-01T00:00:00Z".into());
        meta.insert("managedFields".into(), json!([{"manager": "kubectl", "operation": "Update"}]));
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.objects.entry(kind.clone()).or_default().insert(name, object.clone());
        self.events.push((version, kind.clone(), event, object.clone()));
        object
    }

    fn remove(&mut self, plural: &str, namespace: &str, name: &str) {
        self.version += 1;
        let version = self.version;
        let key = (namespace.to_owned(), name.to_owned());
        for (kind, objects) in &mut self.objects {
            if let Some(mut object) = (kind.1 == plural).then(|| objects.remove(&key)).flatten() {
                let at = format!("/{plural}/{name}");
                self.applied.retain(|(_, path), _| !path.trim_end_matches("/status").ends_with(&at));
                object["metadata"]["resourceVersion"] = version.to_string().into();
                self.events.push((version, kind.clone(), "DELETED", object));
            }
        }
    }

    fn admit(&self, request: &Request) -> Result<Target, (u16, Value)> {
        let given = request.headers.get("authorization").map_or("", String::as_str);
        if self.token.as_ref().is_some_and(|token| given != format!("Bearer {token}")) {
            return Err(failure(401, "Unauthorized"));
        }
        let refused = |(prefix, status): &(&String, &u16)| **status > 0 && request.path.starts_with(*prefix);
        if let Some((_, status)) = self.refused.iter().find(refused) {
            return Err(failure(*status, if *status == 403 { "Forbidden" } else { "InternalError" }));
        }
        match target(request) {
            Some(target) if self.kinds.contains_key(&target.kind) => Ok(target),
            // A server has no Status for paths that it does not know.
            Some(_) | None => Err((404, Value::Null)),
        }
    }

    fn answer(&mut self, request: &Request) -> (u16, Value) {
        self.log(request);
        let target = match self.admit(request) {
            Ok(target) => target,
            Err(failure) => return failure,
        };
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match (request.method.as_str(), &target.name) {
            ("GET", None) => self.list(request, &target),
            ("GET", Some(name)) => match self.get(&target, name) {
                Some(object) => (200, target.shown(object)),
                None => failure(404, "NotFound"),
            },
            ("POST", None) => self.create(&target, body),
            ("PUT", Some(name)) => self.update(&target, name, body),
            ("PATCH", Some(name)) => self.apply(request, &target, name, body),
            (_, _) => failure(405, "MethodNotAllowed"),
        }
    }

    fn get(&self, target: &Target, name: &str) -> Option<&Value> {
        let key = (target.namespace.clone().unwrap_or_default(), name.to_owned());
        self.objects.get(&target.kind)?.get(&key)
    }

    fn list(&self, request: &Request, target: &Target) -> (u16, Value) {
        let all = self.objects.get(&target.kind).into_iter().flatten();
        let here = all.filter(|(name, _)| target.namespace.as_ref().is_none_or(|wanted| *wanted == name.0));
        let number = |key: &str| request.query.get(key).and_then(|value| value.parse::<usize>().ok());
        let (start, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
        let rest: Vec<&Value> = here.map(|(_, object)| object).skip(start).collect();
        let items: Vec<Value> = rest.iter().take(limit).map(|object| target.shown(object)).collect();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if rest.len() > limit {
            metadata["continue"] = (start + limit).to_string().into();
        }
        let kind = format!("{}List", self.kinds[&target.kind]);
        (200, json!({"apiVersion": target.kind.0, "kind": kind, "metadata": metadata, "items": items}))
    }

    fn create(&mut self, target: &Target, mut body: Value) -> (u16, Value) {
        let generated =
            body["metadata"]["generateName"].as_str().map(|prefix| format!("{prefix}{}", self.version));
        let name = body["metadata"]["name"].as_str().map(str::to_owned).or(generated).unwrap_or_default();
        if self.get(target, &name).is_some() {
            return failure(409, "AlreadyExists");
        }
        body["metadata"]["name"] = name.into();
        if let Some(namespace) = &target.namespace {
            body["metadata"]["namespace"] = namespace.clone().into();
        }
        (201, self.write(&target.kind, body))
    }

    fn update(&mut self, target: &Target, name: &str, body: Value) -> (u16, Value) {
        let Some(before) = self.get(target, name) else { return failure(404, "NotFound") };
        let (known, given) = (&before["metadata"]["resourceVersion"], &body["metadata"]["resourceVersion"]);
        if !given.is_null() && known != given {
            return failure(409, "Conflict");
        }
        (200, self.write(&target.kind, body))
    }

    /// Server-side apply, of a whole object or of `status`.
    fn apply(&mut self, request: &Request, target: &Target, name: &str, body: Value) -> (u16, Value) {
        let is_apply = request.headers.get("content-type").is_some_and(|t| t.contains("apply-patch"));
        let Some(manager) = request.query.get("fieldManager").filter(|_| is_apply) else {
            return failure(415, "UnsupportedMediaType");
        };
        let Some(before) = self.get(target, name).cloned() else { return failure(404, "NotFound") };
        let given = &body["metadata"]["resourceVersion"];
        if !given.is_null() && *given != before["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        let owner = (manager.clone(), request.path.clone());
        let last = self.applied.get(&owner).cloned().unwrap_or_default();
        let mut after = before.clone();
        let part = target.subresource.as_deref().unwrap_or("spec");
        let mut value = after[part].take();
        merge(&mut value, &body[part], &last[part], part);
        after[part] = value;
        self.applied.insert(owner, body);
        if after == before { (200, before) } else { (200, self.write(&target.kind, after)) }
    }
}

/// Lays `new` over `value`; what `last` had and `new` has not is taken away.
fn merge(value: &mut Value, new: &Value, last: &Value, field: &str) {
    match new {
        Value::Object(fields) => {
            if !value.is_object() {
                *value = json!({});
            }
            let map = value.as_object_mut().unwrap();
            for field in last.as_object().into_iter().flat_map(|last| last.keys()) {
                if !fields.contains_key(field) {
                    map.remove(field);
                }
            }
            for (field, new) in fields {
                merge(map.entry(field.clone()).or_insert(Value::Null), new, &last[field], field);
            }
        }
        Value::Array(items) if ["conditions", "listeners", "supportedFeatures"].contains(&field) => {
            let mut list = value.as_array().cloned().unwrap_or_default();
            let lost = |item: &Value| {
                let owned = last.as_array().into_iter().flatten().any(|last| key(last) == key(item));
                owned && !items.iter().any(|new| key(new) == key(item))
            };
            list.retain(|item| !lost(item));
            for item in items {
                let old = last.as_array().into_iter().flatten().find(|last| key(last) == key(item));
                match list.iter_mut().find(|known| key(known) == key(item)) {
                    Some(known) => merge(known, item, old.unwrap_or(&Value::Null), ""),
                    None => list.push(item.clone()),
                }
            }
            *value = Value::Array(list);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            *value = new.clone();
        }
    }
}

/// What tells list entries apart: `x-kubernetes-list-map-keys` of the lists that are maps. All others are one value.
fn key(item: &Value) -> Option<String> {
    let field = |name: &str| item.get(name).map(Value::to_string);
    field("type").or_else(|| field("name"))
}

pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for piece in bytes.chunks(3) {
        let word =
            piece.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for index in 0..4 {
            let digit = char::from(ALPHABET[(word >> (18 - 6 * index) & 63) as usize]);
            out.push(if index <= piece.len() { digit } else { '=' });
        }
    }
    out
}
