//! The hub and its members: who is watched, with which credentials, and when everything has been seen.
//!
//! A thread of its own (`fleet`) with a tokio current-thread runtime; all of its tasks share one `Hub` and none holds
//! it across an await. What it sees goes to the controller's loop through one bounded channel; when that is full the
//! thread waits, and so do the API servers. The loop never waits for it.
//!
//! Members are made by `MemberCluster` objects and, in the namespaces that are meant for that, by labelled Secrets and by
//! `ClusterProfile` objects; they come, change their credentials and go without a restart. See [`crate::watch::credentials`] for what is
//! refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod lease;
mod profiles;
mod roster;
mod status;

pub use status::{Limits, Writing};

use crossbeam_channel::{Receiver, Sender, bounded, never};
use k8s_openapi::api::core::v1::Secret;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tracing::{info, warn};

use crate::object::{Kind, Object, ObjectId, ProfileAccess, Source, Spec};
use crate::verdict::Notes;
use crate::view::{SharedView, SourceView};
use crate::watch::client::{Contact, chain, client};
use crate::watch::credentials::{self, Credentials, Refused};
use crate::watch::follow::{Doing, Tuning};
use crate::watch::kinds::{FLEET, MEMBER};
use crate::watch::known::Known;
use crate::watch::member::Cluster;
use crate::watch::secrets::{self, Listed};
use crate::watch::{Observation, Presence};

/// Batches that wait for the controller's loop; beyond it the fleet's thread waits.
const BATCHES_MAX: usize = 256;
/// How long the first table waits for members after the hub has told everything.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether everything has been seen, Secrets are asked for again, and the view is brought up
/// to date.
const TICK: Duration = Duration::from_millis(50);
/// Members at once; more are refused. As many as the compiler takes.
const MEMBERS_MAX: usize = crate::compile::context::MEMBERS_MAX;
/// A Secret that could not be had is asked for again after this time.
const REFETCH: Duration = Duration::from_secs(2);
/// Namespaces whose Secrets are watched at once.
const NAMESPACES_MAX: usize = 1024;

/// How the hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubAccess {
    /// By this kubeconfig.
    Kubeconfig(PathBuf),
    /// By the service account of the pod that this runs in.
    InCluster,
}

/// What the fleet's watches are told at boot.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// The hub.
    pub access: HubAccess,
    /// `fleet.namespace`
    pub namespace: String,
    /// `fleet.secret_namespaces`
    pub secret_namespaces: Vec<String>,
    /// How status is written to the hub while this process holds the Lease; `None` = it never writes.
    pub writer: Option<Writing>,
    /// Times.
    pub tuning: Tuning,
}

/// What was seen at one moment.
#[derive(Debug)]
pub struct Batch {
    /// When it was heard of, `CLOCK_MONOTONIC` nanoseconds.
    pub observed_ns: u64,
    /// Which cluster said it.
    pub source: Source,
    /// What was seen, in its order.
    pub seen: Vec<Observation>,
}

/// What was known before this process began.
#[derive(Debug, Default)]
pub struct Before {
    /// Member clusters.
    pub members: BTreeSet<Arc<str>>,
    /// Objects.
    pub objects: Vec<(Arc<Object>, Notes)>,
}

/// The running watches. Dropping it ends them.
#[derive(Debug)]
pub struct FleetWatch {
    batches: Receiver<Batch>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FleetWatch {
    /// Starts to watch; returns at once, whether the hub answers or not.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(settings: FleetSettings, before: Before, view: SharedView) -> Result<Self, String> {
        let (to, batches) = bounded(BATCHES_MAX);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("fleet".into())
            .spawn(move || serve(settings, &before, to, view, stopped))
            .map_err(|error| format!("cannot start the fleet's thread: {error}"))?;
        Ok(Self { batches, stop: Some(stop), thread: Some(thread) })
    }

    /// Where batches arrive. Disconnected when the thread has ended.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Batch> {
        &self.batches
    }
}

impl Drop for FleetWatch {
    fn drop(&mut self) {
        // A thread that waits for room in the channel is let go first.
        self.batches = never();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook.
            let _ = thread.join();
        }
    }
}

/// The hub's kubeconfig, read and checked as far as that needs no server.
///
/// # Errors
/// What is wrong with it.
pub fn check_access(access: &HubAccess) -> Result<(), String> {
    match access {
        HubAccess::Kubeconfig(path) => match Kubeconfig::read_from(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{}: {}", path.display(), chain(&error))),
        },
        HubAccess::InCluster => Config::incluster().map(drop).map_err(|error| chain(&error)),
    }
}

async fn hub_config(access: &HubAccess) -> Result<Config, String> {
    match access {
        HubAccess::Kubeconfig(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| chain(&error))?;
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            config.map_err(|error| chain(&error))
        }
        HubAccess::InCluster => Config::incluster().map_err(|error| chain(&error)),
    }
}

fn serve(
    settings: FleetSettings,
    before: &Before,
    to: Sender<Batch>,
    view: SharedView,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return warn!(%error, "no runtime for the fleet's watches"),
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        tokio::select! {
            _ = stopped => {}
            () = run(settings, before, to, view) => {}
        }
    });
}

async fn run(settings: FleetSettings, before: &Before, to: Sender<Batch>, view: SharedView) {
    let contact = Arc::new(Contact::default());
    let config = match hub_config(&settings.access).await {
        Ok(config) => config,
        Err(reason) => return warn!(reason, "the hub's kubeconfig cannot be used"),
    };
    let client = match client(&config, &contact) {
        Ok(client) => client,
        Err(reason) => return warn!(reason, "the hub's kubeconfig cannot be used"),
    };
    let uri = &config.cluster_url;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let hub_at = uri.host().map(|host| (host.to_owned(), port));
    let hub: SharedHub = Rc::new(RefCell::new(Hub::new(settings, client.clone(), contact, to, view)));
    {
        let mut this = hub.borrow_mut();
        this.myself = Rc::downgrade(&hub);
        this.resume(before);
        let tuning = this.settings.tuning;
        this.fleet.follow_with(&client, &hub, tuning);
        this.start_writing(&hub, hub_at);
        this.reconcile();
    }
    let mut tick = tokio::time::interval(TICK);
    while !hub.borrow().is_over {
        tick.tick().await;
        hub.borrow_mut().tick();
    }
}

/// All tasks of the thread share it.
pub(super) type SharedHub = Rc<RefCell<Hub>>;

/// A Secret by namespace and name.
type SecretName = (Rc<str>, String);

/// Everything that the fleet's thread knows.
pub(super) struct Hub {
    settings: FleetSettings,
    myself: std::rc::Weak<RefCell<Hub>>,
    client: Client,
    to: Sender<Batch>,
    view: SharedView,
    fleet: Cluster,
    members: BTreeMap<Arc<str>, Cluster>,
    /// `MemberCluster` objects, with the Secret that each names.
    declared: BTreeMap<Arc<str>, Option<SecretName>>,
    /// `ClusterProfile` objects.
    profiles: BTreeMap<ObjectId, profiles::Profile>,
    /// Secrets that Ingresses and Gateways name.
    certificates: HashMap<ObjectId, BTreeSet<SecretName>>,
    namespaces: HashMap<Rc<str>, Namespace>,
    fetched: HashMap<SecretName, Fetched>,
    /// Asked for, and no answer yet.
    asked: HashMap<SecretName, Instant>,
    /// What is known of Secrets that hold certificates.
    secrets_known: Known,
    /// `metadata.generation` and `metadata.uid` of each `MemberCluster`.
    generations: BTreeMap<Arc<str>, (i64, Arc<str>)>,
    /// Names that cannot be members: each is logged once.
    unfit: HashSet<Arc<str>>,
    published: BTreeMap<Arc<str>, SourceView>,
    settled_at: Option<Instant>,
    is_synced: bool,
    /// What is served is what the disk held: the hub has not told everything yet.
    is_resumed: bool,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Namespace {
    listed: Option<Listed>,
    doing: Option<Doing>,
}

/// What was made of a Secret's content.
struct Fetched {
    version: String,
    labelled: Vec<(String, Result<Credentials, Refused>)>,
    own: Result<Credentials, Refused>,
    /// What it is to the profiles that name it.
    profiled: HashMap<ProfileAccess, Result<Credentials, Refused>>,
}

impl Hub {
    fn new(
        settings: FleetSettings,
        client: Client,
        contact: Arc<Contact>,
        to: Sender<Batch>,
        view: SharedView,
    ) -> Self {
        let mut fleet = Cluster::new(Source::Fleet, &FLEET);
        fleet.contact = contact;
        Self {
            settings,
            myself: std::rc::Weak::new(),
            client,
            to,
            view,
            fleet,
            members: BTreeMap::new(),
            declared: BTreeMap::new(),
            profiles: BTreeMap::new(),
            certificates: HashMap::new(),
            namespaces: HashMap::new(),
            fetched: HashMap::new(),
            asked: HashMap::new(),
            secrets_known: Known::default(),
            generations: BTreeMap::new(),
            unfit: HashSet::new(),
            published: BTreeMap::new(),
            settled_at: None,
            is_synced: false,
            is_resumed: false,
            is_over: false,
        }
    }

    /// Goes on from what was known before: a list is compared with it, and may be doubted.
    fn resume(&mut self, before: &Before) {
        for name in &before.members {
            let source = Source::Member(name.clone());
            self.members.insert(name.clone(), Cluster::new(source, &MEMBER));
        }
        for (object, notes) in &before.objects {
            match &object.id.source {
                Source::Fleet if object.id.kind == Kind::Secret => self.secrets_known.prime(object, notes),
                Source::Fleet => self.fleet.prime(object, notes),
                Source::Member(name) => {
                    if let Some(member) = self.members.get_mut(name) {
                        member.prime(object, notes);
                    }
                }
            }
            if object.id.kind == Kind::ClusterProfile {
                self.keep_profile((**object).clone(), notes.clone());
            } else {
                self.note(object);
            }
        }
        self.is_resumed = !before.members.is_empty() || !before.objects.is_empty();
        self.is_synced = self.is_resumed;
    }

    fn send(&mut self, source: Source, seen: Vec<Observation>, observed_ns: u64) {
        if seen.is_empty() {
            return;
        }
        // The controller is gone: so is everybody who could use this.
        self.is_over |= self.to.send(Batch { observed_ns, source, seen }).is_err();
    }

    /// A watch saw something.
    pub(super) fn seen(&mut self, source: &Source, mut seen: Vec<Observation>, observed_ns: u64) {
        let mut concerns_members = false;
        if *source == Source::Fleet {
            concerns_members = self.take_profiles(&mut seen);
            for observation in &seen {
                concerns_members |= match observation {
                    Observation::Upsert { object, .. } => self.note(object),
                    Observation::Delete(id) => self.forget(id),
                    Observation::Member { .. } | Observation::Problems { .. } | Observation::Synced => false,
                };
            }
        }
        if let Some(cluster) = self.cluster(source).filter(|_| !seen.is_empty()) {
            cluster.event_ns = observed_ns;
        }
        self.send(source.clone(), seen, observed_ns);
        if concerns_members {
            self.reconcile();
        }
    }

    /// Takes note of what refers to Secrets.
    fn note(&mut self, object: &Object) -> bool {
        if let Spec::MemberCluster(member) = &object.spec {
            let reference = member.spec.kubeconfig_secret_ref.as_ref();
            let secret = reference.map(|secret| (Rc::from(secret.namespace.as_str()), secret.name.clone()));
            self.declared.insert(object.id.name.clone(), secret);
            self.generations.insert(object.id.name.clone(), (object.generation, object.uid.clone()));
            return true;
        }
        let names = roster::certificates(object);
        let before = match names.is_empty() {
            true => self.certificates.remove(&object.id),
            false => self.certificates.insert(object.id.clone(), names.clone()),
        };
        before.unwrap_or_default() != names
    }

    fn forget(&mut self, id: &ObjectId) -> bool {
        if id.kind == Kind::ClusterProfile {
            return self.profiles.remove(id).is_some();
        }
        if id.kind == Kind::MemberCluster {
            self.generations.remove(&id.name);
            return self.declared.remove(&id.name).is_some();
        }
        self.certificates.remove(id).is_some()
    }

    /// A list was believed.
    pub(super) fn relisted(&mut self, source: &Source, index: usize) {
        if let Some(watch) = self.cluster(source).and_then(|cluster| cluster.watches.get_mut(index)) {
            watch.relists += 1;
            watch.listed = true;
        }
    }

    /// A watch says how it is doing.
    pub(super) fn doing(&mut self, source: &Source, index: usize, doing: Doing) {
        if let Some(cluster) = self.cluster(source) {
            cluster.note(index, doing);
        }
    }

    fn cluster(&mut self, source: &Source) -> Option<&mut Cluster> {
        match source {
            Source::Fleet => Some(&mut self.fleet),
            Source::Member(name) => self.members.get_mut(name),
        }
    }

    /// Of the Secrets of a namespace that were read, does a list with these leave less than half?
    pub(super) fn loses_secrets(&self, namespace: &str, listed: &BTreeMap<String, secrets::Meta>) -> bool {
        let here = || self.secrets_known.ids().filter(|id| *id.namespace == *namespace);
        let kept = here().filter(|id| listed.contains_key(&*id.name)).count();
        kept < here().count().div_ceil(2)
    }

    /// The Secrets of a namespace, or their versions, have changed.
    pub(super) fn secrets(&mut self, namespace: &Rc<str>, listed: Listed) {
        let is_gone = |id: &&ObjectId| *id.namespace == **namespace && !listed.contains_key(&*id.name);
        let gone: Vec<ObjectId> = self.secrets_known.ids().filter(is_gone).cloned().collect();
        let mut seen = Vec::new();
        gone.iter().for_each(|id| self.secrets_known.delete(id, &mut seen));
        self.send(Source::Fleet, seen, crate::clock::monotonic_ns());
        self.namespaces.entry(namespace.clone()).or_default().listed = Some(listed);
        self.reconcile();
    }

    /// The watch of a namespace's Secrets says how it is doing.
    pub(super) fn secrets_doing(&mut self, namespace: &Rc<str>, doing: Doing) {
        let state = self.namespaces.entry(namespace.clone()).or_default();
        if let (Doing::Failing { reason, .. }, true) = (&doing, state.doing.as_ref() != Some(&doing)) {
            warn!(%namespace, reason, "Secrets cannot be watched; what was known of them stays");
        }
        state.doing = Some(doing);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let before = self.asked.len();
        self.asked.retain(|_, asked| now.duration_since(*asked) < REFETCH);
        if self.asked.len() != before {
            self.reconcile();
        }
        if !self.is_synced && self.fleet.is_settled() && self.credentials_are_known() {
            let settled_at = *self.settled_at.get_or_insert(now);
            let members = self.members.values().all(Cluster::is_settled);
            if members || now.duration_since(settled_at) > MEMBERS_PATIENCE {
                self.is_synced = true;
                let missing = self.members.values().filter(|member| !member.is_settled()).count();
                info!(members = self.members.len(), missing, "the fleet has been read");
                self.send(Source::Fleet, vec![Observation::Synced], crate::clock::monotonic_ns());
            }
        }
        if self.is_resumed && self.fleet.is_settled() && self.credentials_are_known() {
            self.is_resumed = false;
            info!("the hub has spoken: what the disk held is no longer needed");
            self.view.update(|view| view.resumed_from = None);
        }
        self.publish();
    }
}
