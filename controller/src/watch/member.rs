//! One cluster's objects: its watches, and how they are doing.
//!
//! A member whose API does not answer keeps everything that it ever said: its pods are judged by traffic and probes,
//! never by its API. New credentials take over where the old ones stopped, so that nothing is listed as new.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::StreamExt;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::clock;
use crate::object::{Object, Source};
use crate::verdict::Notes;
use crate::view::{SourceView, WatchPhase, WatchView};
use crate::watch::client::{Contact, client};
use crate::watch::credentials::Credentials;
use crate::watch::decode::One;
use crate::watch::fleet::SharedHub;
use crate::watch::follow::{Belief, Change, Doing, Handler, Tuning, config, follow};
use crate::watch::kinds::Resource;
use crate::watch::known::{Known, List, Relist};

/// The watches of one API server.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Whose objects they are.
    pub source: Source,
    /// When it last answered.
    pub contact: Arc<Contact>,
    /// When it last said something new; 0 = never.
    pub event_ns: u64,
    /// One for each resource.
    pub watches: Vec<WatchState>,
    /// Tells the credentials in use from other ones; `None` = not watched.
    pub credentials: Option<u64>,
    /// Why it is not watched, if it is not.
    pub refused: Option<String>,
    tasks: Vec<JoinHandle<()>>,
}

/// One watch, from outside.
#[derive(Debug)]
pub(super) struct WatchState {
    pub resource: &'static Resource,
    pub doing: Option<Doing>,
    /// It has told everything that there was, at least once.
    pub listed: bool,
    /// Lists that were believed.
    pub relists: u64,
    /// Lists that were doubted.
    pub doubted: u64,
    /// Times that it failed.
    pub failures: u64,
    failed_ns: u64,
    known: Rc<RefCell<Known>>,
}

impl WatchState {
    /// The server will not let it be listed.
    pub(super) fn is_hopeless(&self) -> bool {
        match &self.doing {
            Some(Doing::Failing { forbidden, .. }) => *forbidden,
            Some(Doing::Watching | Doing::Missing | Doing::Doubting) | None => false,
        }
    }
}

impl Cluster {
    /// Not watched yet.
    pub(super) fn new(source: Source, resources: &'static [Resource]) -> Self {
        let watch = |resource| WatchState {
            resource,
            doing: None,
            listed: false,
            relists: 0,
            doubted: 0,
            failures: 0,
            failed_ns: 0,
            known: Rc::default(),
        };
        Self {
            source,
            contact: Arc::default(),
            event_ns: 0,
            watches: resources.iter().map(watch).collect(),
            credentials: None,
            refused: None,
            tasks: Vec::new(),
        }
    }

    /// Takes note of an object that a snapshot holds.
    pub(super) fn prime(&mut self, object: &Object, notes: &Notes) {
        let kind = object.id.kind.as_str();
        if let Some(watch) = self.watches.iter().find(|watch| watch.resource.kind == kind) {
            watch.known.borrow_mut().prime(object, notes);
        }
    }

    /// Watches with these credentials from now on.
    pub(super) fn follow(&mut self, credentials: &Credentials, hub: &SharedHub, tuning: Tuning) {
        self.stop();
        self.credentials = Some(credentials.digest);
        match client(&credentials.config, &self.contact) {
            Ok(client) => self.follow_with(&client, hub, tuning),
            Err(reason) => self.refuse(reason),
        }
    }

    /// Watches through this client from now on.
    pub(super) fn follow_with(&mut self, client: &Client, hub: &SharedHub, tuning: Tuning) {
        self.refused = None;
        for (index, watch) in self.watches.iter().enumerate() {
            let handler = Objects {
                source: self.source.clone(),
                resource: watch.resource,
                index,
                known: watch.known.clone(),
                hub: hub.clone(),
            };
            self.tasks.push(tokio::task::spawn_local(objects(client.clone(), handler, tuning)));
        }
    }

    /// Not watched from now on; what it said stays.
    pub(super) fn stop(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.credentials = None;
    }

    /// Not watched, for this reason.
    pub(super) fn refuse(&mut self, reason: String) {
        if self.refused.as_ref() != Some(&reason) {
            warn!(cluster = %self.source, reason, "this cluster's API is not used");
        }
        self.tasks.drain(..).for_each(|task| task.abort());
        self.refused = Some(reason);
    }

    /// Has every watch told what there was, or will none of those that have not?
    pub(super) fn is_settled(&self) -> bool {
        let settled = |watch: &WatchState| watch.listed || watch.is_hopeless();
        self.refused.is_some() || self.watches.iter().all(settled)
    }

    /// A watch of it says how it is doing.
    pub(super) fn note(&mut self, index: usize, doing: Doing) {
        let Some(watch) = self.watches.get_mut(index) else { return };
        match &doing {
            Doing::Watching | Doing::Missing => watch.listed = true,
            Doing::Doubting => watch.doubted += 1,
            Doing::Failing { .. } => {
                watch.failures += 1;
                watch.failed_ns = clock::monotonic_ns();
            }
        }
        if watch.doing.as_ref() == Some(&doing) {
            return;
        }
        let (cluster, kind) = (&self.source, watch.resource.kind);
        match &doing {
            Doing::Watching => info!(%cluster, kind, "watching"),
            Doing::Missing => {
                info!(%cluster, kind, "not known to the API server: asked for again now and then")
            }
            Doing::Doubting => {
                warn!(%cluster, kind, "a list lost more than half: what was known stays until a second list says the same");
            }
            Doing::Failing { reason, .. } => {
                warn!(%cluster, kind, reason, "watch interrupted; what was known stays")
            }
        }
        watch.doing = Some(doing);
    }
}

impl Cluster {
    /// What is shown of it.
    pub(super) fn view(&self, tuning: Tuning) -> SourceView {
        // A watch that is renewed says nothing until something happens; one that fails says so at every try.
        let patience_ns = u64::try_from(tuning.pause_max.as_nanos() * 3).unwrap_or(u64::MAX);
        let now_ns = clock::monotonic_ns();
        let watches: Vec<WatchView> = (self.watches.iter())
            .map(|watch| WatchView {
                kind: watch.resource.kind,
                state: match &watch.doing {
                    None => WatchPhase::Waiting,
                    Some(Doing::Watching) => WatchPhase::Watching,
                    Some(Doing::Missing) => WatchPhase::Missing,
                    Some(Doing::Doubting) => WatchPhase::Doubting,
                    Some(Doing::Failing { .. })
                        if watch.listed && now_ns.saturating_sub(watch.failed_ns) > patience_ns =>
                    {
                        WatchPhase::Watching
                    }
                    Some(Doing::Failing { .. }) => WatchPhase::Failing,
                },
                lists_total: watch.relists,
                doubted_total: watch.doubted,
                failures_total: watch.failures,
            })
            .collect();
        let failing = watches.iter().zip(&self.watches).find_map(|(view, watch)| {
            let Some(Doing::Failing { reason, .. }) = &watch.doing else { return None };
            (view.state == WatchPhase::Failing).then(|| format!("{}: {reason}", view.kind))
        });
        let doubting = watches.iter().find(|watch| watch.state == WatchPhase::Doubting);
        let doubting = doubting.map(|watch| format!("{}: a list shrank and is doubted", watch.kind));
        let waiting = || self.watches.iter().any(|watch| !watch.listed).then(|| "not read yet".to_owned());
        let reason = (self.refused.clone())
            .or_else(|| self.contact.failure())
            .or(failing)
            .or(doubting)
            .or_else(waiting)
            .unwrap_or_default();
        SourceView { reason, answered_ns: self.contact.answered_ns(), event_ns: self.event_ns, watches }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Objects {
    source: Source,
    resource: &'static Resource,
    index: usize,
    known: Rc<RefCell<Known>>,
    hub: SharedHub,
}

async fn objects(client: Client, mut handler: Objects, tuning: Tuning) {
    let resource = handler.resource;
    let open = |version| {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource.api(version));
        watcher(api, config()).boxed()
    };
    follow(resource.versions, open, &mut handler, tuning).await;
}

impl Handler<DynamicObject> for Objects {
    type Item = One;

    fn read(&self, version: &str, object: DynamicObject) -> One {
        self.resource.decode(version, object, &self.source)
    }

    fn list(&mut self, items: Vec<One>, which: List, observed_ns: u64) -> Belief {
        let relist = self.known.borrow_mut().relist(items, which);
        match relist {
            Relist::Believed(seen) => {
                let mut hub = self.hub.borrow_mut();
                hub.relisted(&self.source, self.index);
                hub.seen(&self.source, seen, observed_ns);
                Belief::Believed
            }
            Relist::Doubted { before, after } => {
                let (cluster, kind) = (&self.source, self.resource.kind);
                warn!(%cluster, kind, before, after, "a list shrank");
                Belief::Doubted
            }
        }
    }

    fn changes(&mut self, changes: Vec<Change<One>>, observed_ns: u64) {
        let mut seen = Vec::new();
        {
            let mut known = self.known.borrow_mut();
            for change in changes {
                match change {
                    Change::Apply(one) => known.apply(one, &mut seen),
                    Change::Delete(one) => {
                        if let Some(id) = one.id() {
                            known.delete(id, &mut seen);
                        }
                    }
                }
            }
        }
        self.hub.borrow_mut().seen(&self.source, seen, observed_ns);
    }

    fn doing(&mut self, doing: Doing) {
        self.hub.borrow_mut().doing(&self.source, self.index, doing);
    }
}
