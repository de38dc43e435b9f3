//! What is written to the hub: status of what is ours, and Events of what is refused or not used.
//!
//! Only the holder of the Lease writes, under one field manager by server-side apply, so that what others wrote stays
//! theirs. Every object is read before it is written: what is there already is not written again, whoever wrote it,
//! and a condition that stays as it is keeps its time. The sources are the compiler's [`Finding`]s (`compose` makes a
//! status of one, `events` an Event) and, for `MemberClusters`, what the watches know of them. `pace` decides what is
//! written next, and how fast; what changes faster is written in its last form. A write that fails is tried again.

mod compose;
mod events;
mod pace;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::lease::{self, Term};
use super::*;
use crate::digest;
use crate::finding::{Board, Finding};
use crate::watch::client::is_absent;
use crate::watch::kinds::Resource;

pub use pace::Limits;
use pace::Pace;

/// The owner of our entries.
const FIELD_MANAGER: &str = "ringway";
/// How often it is looked whether there is anything to write.
const ROUND: Duration = Duration::from_millis(100);
/// Requests to the hub at once.
const REQUESTS_AT_ONCE: usize = 16;
/// How long one object may take: reading, an Event, writing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// `MemberClusters` written in one round.
const MEMBERS_PER_ROUND: usize = 8;
/// `lastSeenTime` moves in steps of so many seconds: a healthy member is not written about more often.
const LAST_SEEN_STEP: i64 = 60;
/// Characters of a condition's message.
const MESSAGE_CHARS_MAX: usize = 256;
/// What is said of a member that nothing is known of but its name.
const NO_CREDENTIALS: &str = "no kubeconfig: spec.kubeconfigSecretRef names no Secret that can be read";
/// A member that could not be written is tried again after this.
const MEMBER_RETRY: Duration = Duration::from_secs(1);
/// Failures that are logged in one round; the rest is counted.
const LOGGED_PER_ROUND: usize = 3;

/// How status is written: `[fleet] write_status` and what belongs to it.
#[derive(Clone, Debug)]
pub struct Writing {
    /// A name that no other process has.
    pub identity: String,
    /// `fleet.addresses`: IP addresses or names; empty = the address from which the hub is reached.
    pub addresses: Vec<String>,
    /// `fleet.status_burst`, `fleet.status_per_second`
    pub limits: Limits,
    /// What there is to say.
    pub board: Board,
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// This was applied.
    Applied,
    /// Nothing had to be.
    Unchanged,
    /// The object is not there, or has no status.
    Gone,
}

/// What was last written about a member.
struct MemberWritten {
    digest: u64,
    /// Of the object that it was written to.
    uid: Arc<str>,
    live: Value,
}

struct Writer {
    hub: SharedHub,
    client: Client,
    term: Term,
    writing: Writing,
    /// The hub's host and port.
    hub_at: Option<(String, u16)>,
    pace: Pace,
    /// What is written of this term.
    addresses: Vec<String>,
    holds: bool,
    members: HashMap<Arc<str>, MemberWritten>,
    /// Members that could not be written, and when they are tried again.
    members_again: HashMap<Arc<str>, Instant>,
    /// What the last Event about each object said.
    said: RefCell<HashMap<ObjectId, u64>>,
}

impl Hub {
    /// Starts the tasks that write, unless the configuration says otherwise.
    pub(super) fn start_writing(&self, hub: &SharedHub, hub_at: Option<(String, u16)>) {
        let Some(writing) = self.settings.writer.clone() else { return };
        let (namespace, renew) = (self.settings.namespace.clone(), self.settings.tuning.renew);
        let term = Term::default();
        let identity = writing.identity.clone();
        let hold = lease::hold(self.client.clone(), namespace, identity, renew, term.clone());
        tokio::task::spawn_local(hold);
        let writer = Writer {
            hub: hub.clone(),
            client: self.client.clone(),
            term,
            hub_at,
            pace: Pace::new(writing.limits),
            addresses: Vec::new(),
            holds: false,
            members: HashMap::new(),
            members_again: HashMap::new(),
            said: RefCell::default(),
            writing,
        };
        tokio::task::spawn_local(writer.run());
    }

    fn wrote(&mut self, done: bool) {
        self.view.update(|view| match done {
            true => view.status_writes_total += 1,
            false => view.status_failures_total += 1,
        });
    }
}

impl Writer {
    /// Writes for as long as the term lasts; never returns.
    async fn run(mut self) {
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            self.round().await;
        }
    }

    fn may_write(&self) -> bool {
        self.term.get().is_some_and(|until| until > Instant::now())
    }

    async fn round(&mut self) {
        if !self.may_write() {
            // Whoever writes meanwhile may say something else.
            self.holds = false;
            self.members.clear();
            self.said.borrow_mut().clear();
            self.pace.forget();
            return;
        }
        if !self.holds {
            self.holds = true;
            self.addresses = self.find_addresses().await;
            // What is new is part of all.
            let _ = self.writing.board.take_news();
            self.pace.look_through(self.writing.board.all());
        }
        self.pace.news(self.writing.board.take_news());
        self.write_members().await;
        let (batch, waiting) = self.pace.take(Instant::now());
        if waiting > 0 {
            self.hub.borrow().view.update(|view| view.status_deferred_total += waiting as u64);
        }
        let this = &*self;
        let one = |id: ObjectId| async move {
            let result = tokio::time::timeout(WRITE_TIMEOUT, this.write(&id)).await;
            (id, result)
        };
        let results: Vec<_> = stream::iter(batch).map(one).buffer_unordered(REQUESTS_AT_ONCE).collect().await;
        let mut logged = 0;
        for (id, result) in results {
            let reason = match result {
                Ok(Ok(Written::Applied)) => {
                    self.hub.borrow_mut().wrote(true);
                    continue;
                }
                Ok(Ok(Written::Unchanged | Written::Gone)) => continue,
                Ok(Err(error)) => chain(&error),
                Err(_) => format!("no answer within {WRITE_TIMEOUT:?}"),
            };
            self.hub.borrow_mut().wrote(false);
            if logged < LOGGED_PER_ROUND {
                logged += 1;
                warn!(object = %id, reason, "status not written; it is tried again");
            }
            self.pace.again(id, Instant::now());
        }
    }

    /// Where the nodes are reached, if nobody said: at the address from which this one reaches the hub.
    async fn find_addresses(&self) -> Vec<String> {
        if !self.writing.addresses.is_empty() {
            return self.writing.addresses.clone();
        }
        let Some((host, port)) = &self.hub_at else { return Vec::new() };
        match own_address(host, *port).await {
            Ok(address) => vec![address.to_string()],
            Err(error) => {
                warn!(%error, "fleet.addresses is empty, and the node's own address is not known: none is reported");
                Vec::new()
            }
        }
    }

    /// Says what there is to say of one object.
    async fn write(&self, id: &ObjectId) -> kube::Result<Written> {
        let Some(finding) = self.writing.board.get(id) else { return Ok(Written::Gone) };
        let Some((api, api_version, live)) = self.read(id).await? else { return Ok(Written::Gone) };
        // The term may have ended while the hub answered.
        if !self.may_write() {
            return Ok(Written::Unchanged);
        }
        self.say(id, &finding, (&api_version, live.metadata.uid.as_deref())).await?;
        let now = seconds(Timestamp::now().as_second());
        let there = live.data.get("status").unwrap_or(&Value::Null);
        let Some(status) = compose::status(&finding, there, &self.addresses, &now) else {
            return Ok(Written::Unchanged);
        };
        let mut metadata = json!({"name": &*id.name});
        if !id.namespace.is_empty() {
            metadata["namespace"] = (&*id.namespace).into();
        }
        if status.get("parents").or(status.get("ancestors")).is_some() {
            // The list is one value: written over anything but what was read, entries of others would be lost.
            metadata["resourceVersion"] = live.metadata.resource_version.unwrap_or_default().into();
        }
        let kind = id.kind.as_str();
        let body = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "status": status});
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&id.name, &params, &Patch::Apply(body)).await {
            Ok(_) => Ok(Written::Applied),
            Err(error) if is_absent(&error) => Ok(Written::Gone),
            Err(error) => Err(error),
        }
    }

    /// The object as the hub has it now, in the first version of ours that the hub knows.
    async fn read(&self, id: &ObjectId) -> kube::Result<Option<(Api<DynamicObject>, String, DynamicObject)>> {
        let Some(resource) = FLEET.iter().find(|resource| resource.kind == id.kind.as_str()) else {
            return Ok(None);
        };
        for version in resource.versions {
            let api = self.api(resource, version, &id.namespace);
            match api.get(&id.name).await {
                Ok(live) => return Ok(Some((api, resource.api(version).api_version, live))),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn api(&self, resource: &Resource, version: &str, namespace: &str) -> Api<DynamicObject> {
        let kind = resource.api(version);
        match namespace {
            "" => Api::all_with(self.client.clone(), &kind),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &kind),
        }
    }

    /// Posts an Event, unless it was the last one about this object.
    async fn say(&self, id: &ObjectId, finding: &Finding, about: (&str, Option<&str>)) -> kube::Result<()> {
        let Some(event) = events::event(id, finding, about, &self.writing.identity) else {
            self.said.borrow_mut().remove(id);
            return Ok(());
        };
        let digest = digest::of(&event.metadata.name);
        if self.said.borrow().get(id) == Some(&digest) {
            return Ok(());
        }
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {}
            // It was said before, or its namespace goes.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 403 => {
                debug!(object = %id, code = status.code, "an Event was not taken");
            }
            Err(error) => return Err(error),
        }
        self.said.borrow_mut().insert(id.clone(), digest);
        Ok(())
    }

    async fn write_members(&mut self) {
        let wanted = self.hub.borrow().wanted(&self.writing.board);
        self.members.retain(|name, _| wanted.iter().any(|one| one.name == *name));
        self.members_again.retain(|_, at| *at > Instant::now());
        let mut room = MEMBERS_PER_ROUND;
        for one in wanted {
            let digest = digest::of(&one);
            let known = self.members.get(&one.name);
            let is_there = known.is_some_and(|known| known.digest == digest);
            if room == 0 || is_there || self.members_again.contains_key(&one.name) {
                continue;
            }
            room -= 1;
            let live =
                known.filter(|known| known.uid == one.uid).map_or(Value::Null, |known| known.live.clone());
            let (name, uid) = (one.name.clone(), one.uid.clone());
            let error = match tokio::time::timeout(WRITE_TIMEOUT, self.write_member(one, live)).await {
                Ok(Ok(Some(live))) => {
                    self.hub.borrow_mut().wrote(true);
                    self.members.insert(name, MemberWritten { digest, uid, live });
                    continue;
                }
                // It is gone, and its watch has not said so yet: the list that did is doubted, perhaps.
                Ok(Ok(None)) => {
                    self.members_again.insert(name, Instant::now() + MEMBER_RETRY);
                    continue;
                }
                Ok(Err(error)) => chain(&error),
                Err(_) => format!("no answer within {WRITE_TIMEOUT:?}"),
            };
            self.hub.borrow_mut().wrote(false);
            warn!(member = &*name, error, "status not written; it is tried again");
            self.members_again.insert(name, Instant::now() + MEMBER_RETRY);
        }
    }

    /// Returns the status as it is now.
    async fn write_member(&self, one: Member, live: Value) -> kube::Result<Option<Value>> {
        let resource = FLEET.iter().find(|resource| resource.kind == "MemberCluster");
        let Some(resource) = resource else { return Ok(None) };
        let version = resource.versions[0];
        let api = self.api(resource, version, "");
        let live = if live.is_null() {
            let Some(live) = api.get_opt(&one.name).await? else { return Ok(None) };
            live.data.get("status").cloned().unwrap_or(json!({}))
        } else {
            live
        };
        let now = seconds(Timestamp::now().as_second());
        let mut status = one.more;
        let reason = if one.holds { "Watching" } else { "Unreachable" };
        let mut conditions = compose::judge(&one.notes, &live["conditions"], one.generation, &now);
        conditions.push(compose::condition(
            ("Ready", one.holds, reason, &one.message),
            &live["conditions"],
            one.generation,
            &now,
        ));
        status["conditions"] = conditions.into();
        let api_version = resource.api(version).api_version;
        let body = json!({"apiVersion": api_version, "kind": "MemberCluster",
            "metadata": {"name": &*one.name}, "status": status});
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&one.name, &params, &Patch::Apply(body)).await {
            Ok(after) => Ok(Some(after.data.get("status").cloned().unwrap_or(json!({})))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The address from which a host is reached; no packet is sent.
async fn own_address(host: &str, port: u16) -> std::io::Result<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((host, port)).await?.next();
    let found = found.ok_or_else(|| std::io::Error::other("the hub's name has no address"))?;
    let any: IpAddr = match found {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
    socket.connect(found).await?;
    Ok(socket.local_addr()?.ip())
}

/// Kubernetes takes times in whole seconds.
fn seconds(unix: i64) -> String {
    Timestamp::from_second(unix).map(|time| time.to_string()).unwrap_or_default()
}

/// What a member's status is to say.
#[derive(Debug)]
struct Member {
    name: Arc<str>,
    uid: Arc<str>,
    generation: i64,
    holds: bool,
    message: String,
    notes: Vec<crate::verdict::Note>,
    more: Value,
}

impl Hub {
    /// What the status of every `MemberCluster` is to say now.
    fn wanted(&self, board: &Board) -> Vec<Member> {
        let endpoints = self.view.read_endpoints();
        let mut wanted = Vec::new();
        let now = (Timestamp::now().as_second(), crate::clock::monotonic_ns());
        for (name, (generation, uid)) in &self.generations {
            let view = match self.members.get(name) {
                Some(member) => member.view(self.settings.tuning),
                None => SourceView { reason: NO_CREDENTIALS.to_owned(), ..SourceView::default() },
            };
            let holds = view.reason.is_empty();
            let message = match holds {
                true => "its API is watched".to_owned(),
                false => view.reason.chars().take(MESSAGE_CHARS_MAX).collect(),
            };
            let mut more = json!({"endpoints": endpoints.get(name).copied().unwrap_or(0)});
            if view.answered_ns > 0 {
                let ago = i64::try_from(now.1.saturating_sub(view.answered_ns) / 1_000_000_000).unwrap_or(0);
                let seen = (now.0 - ago) / LAST_SEEN_STEP * LAST_SEEN_STEP;
                more["lastSeenTime"] = seconds(seen).into();
            }
            let id = ObjectId {
                source: Source::Fleet,
                kind: Kind::MemberCluster,
                namespace: Arc::from(""),
                name: name.clone(),
            };
            let notes = board.get(&id).map(|finding| finding.notes.clone()).unwrap_or_default();
            let (name, uid, generation) = (name.clone(), uid.clone(), *generation);
            wanted.push(Member { name, uid, generation, holds, message, notes, more });
        }
        wanted
    }
}
