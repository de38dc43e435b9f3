//! Everything that was observed, by name, and what a change of it makes stale.
//!
//! Nothing is judged here. [`World::observe`] is the only way in; [`World::take_dirty`] tells the compiler what to
//! look at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::object::{Kind, MemberNode, MemberService, MemberSlice, Object, ObjectId, Role, Source};
use crate::verdict::Notes;
use crate::watch::{Observation, Presence, Problem};

/// A Service by namespace and name, whatever the cluster (namespace sameness).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// An object with where it came from and what was noticed while decoding it.
#[derive(Debug)]
pub struct Stored {
    /// The object.
    pub object: Arc<Object>,
    /// The file; empty when it did not come from one.
    pub origin: Arc<str>,
    /// Decoding notes.
    pub notes: Notes,
}

/// What must be compiled again.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Classes, gateways, clusters, policies or grants changed: everything is looked at again.
    pub everything: bool,
    /// Routes of every kind that changed.
    pub routes: BTreeSet<ObjectId>,
    /// Services whose endpoints changed.
    pub endpoints: BTreeSet<ServiceName>,
    /// Services that came, went, or changed their ports: routes that name them are looked at again, too.
    pub services: BTreeSet<ServiceName>,
    /// Objects of members whose addresses are to be reviewed.
    pub reviewed: BTreeSet<ObjectId>,
    /// Member clusters whose Nodes changed.
    pub nodes: BTreeSet<Arc<str>>,
    /// Secrets that changed: namespace and name.
    pub secret_names: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Secrets and ConfigMaps that changed: routes that take something from them are looked at again.
    pub contents: BTreeSet<ObjectId>,
    /// Did anything change that may hold a CA bundle or our certificate towards backends?
    pub authorities: bool,
    /// A ReferenceGrant changed or went: what it permitted ends at once.
    pub revoked: bool,
    /// Any object, problem or member changed at all.
    pub reports: bool,
    /// Objects that cannot be read, or can be read again.
    pub remarked: BTreeSet<ObjectId>,
}

/// Everything that was observed.
#[derive(Debug, Default)]
pub struct World {
    objects: BTreeMap<ObjectId, Stored>,
    members: BTreeSet<Arc<str>>,
    slices: HashMap<(Arc<str>, ServiceName), BTreeSet<ObjectId>>,
    problems: BTreeMap<Arc<str>, Vec<Problem>>,
    unreadable: HashMap<ObjectId, Problem>,
    synced: bool,
    dirty: Dirty,
}

impl World {
    /// Takes note of one observation.
    pub fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Member { name, presence } => self.member(name, presence),
            Observation::Upsert { object, origin, notes } => self.upsert(*object, origin, notes),
            Observation::Delete(id) => self.delete(&id),
            Observation::Problems { origin, problems } => {
                self.dirty.reports = true;
                let of = |problem: &Problem| Some((problem.object.clone()?, problem.clone()));
                let named: Vec<(ObjectId, Problem)> = problems.iter().filter_map(of).collect();
                let before = match problems.is_empty() {
                    true => self.problems.remove(&origin),
                    false => self.problems.insert(origin, problems),
                };
                for id in before.into_iter().flatten().filter_map(|problem| problem.object) {
                    self.unreadable.remove(&id);
                    self.dirty.remarked.insert(id);
                }
                for (id, problem) in named {
                    self.dirty.remarked.insert(id.clone());
                    self.unreadable.insert(id, problem);
                }
            }
            Observation::Synced => {
                self.synced = true;
                self.dirty.everything = true;
            }
        }
    }

    fn member(&mut self, name: Arc<str>, presence: Presence) {
        self.dirty.everything = true;
        self.dirty.reports = true;
        match presence {
            Presence::Present => {
                self.members.insert(name);
            }
            Presence::Gone => {
                self.members.remove(&name);
                let source = Source::Member(name);
                let gone: Vec<_> = self.objects.keys().filter(|id| id.source == source).cloned().collect();
                for id in gone {
                    self.delete(&id);
                }
            }
        }
    }

    fn upsert(&mut self, object: Object, origin: Arc<str>, notes: Notes) {
        let id = object.id.clone();
        let before = self.objects.insert(
            id.clone(),
            Stored { object: Arc::new(object), origin: origin.clone(), notes: notes.clone() },
        );
        // The reports show counts, notes and files: an endpoint that comes or goes changes none of them.
        self.dirty.reports |= before.as_ref().is_none_or(|b| b.notes != notes || b.origin != origin);
        self.mark(&id, before.as_ref().map(|stored| stored.object.clone()));
    }

    fn delete(&mut self, id: &ObjectId) {
        if let Some(before) = self.objects.remove(id) {
            self.dirty.reports = true;
            self.mark(id, Some(before.object));
        }
    }

    fn mark(&mut self, id: &ObjectId, before: Option<Arc<Object>>) {
        if id.source != Source::Fleet {
            self.dirty.reviewed.insert(id.clone());
        }
        self.dirty.revoked |= id.kind == Kind::ReferenceGrant && before.is_some();
        match id.kind.role() {
            Role::Route => {
                self.dirty.routes.insert(id.clone());
            }
            Role::Common => self.dirty.everything = true,
            Role::Secret => {
                self.dirty.secret_names.insert((id.namespace.clone(), id.name.clone()));
                self.dirty.contents.insert(id.clone());
                self.dirty.authorities = true;
            }
            Role::Bundle => {
                self.dirty.contents.insert(id.clone());
                self.dirty.authorities = true;
            }
            Role::Service => {
                let name = ServiceName { namespace: id.namespace.clone(), name: id.name.clone() };
                self.dirty.services.insert(name.clone());
                self.dirty.endpoints.insert(name);
            }
            Role::Slice => self.mark_slice(id, before),
            Role::Node => {
                if let Source::Member(cluster) = &id.source {
                    self.dirty.nodes.insert(cluster.clone());
                }
            }
            Role::Unused => {}
        }
    }

    fn mark_slice(&mut self, id: &ObjectId, before: Option<Arc<Object>>) {
        let Source::Member(cluster) = &id.source else { return };
        let service_of = |object: &Object| object.spec.slice().map(|slice| slice.service.clone());
        let now = self.objects.get(id).and_then(|stored| service_of(&stored.object));
        let before = before.as_deref().and_then(service_of);
        for (service, presence) in [(before, Presence::Gone), (now, Presence::Present)] {
            let Some(service) = service else { continue };
            let name = ServiceName { namespace: id.namespace.clone(), name: service };
            let key = (cluster.clone(), name.clone());
            match presence {
                Presence::Present => {
                    self.slices.entry(key).or_default().insert(id.clone());
                }
                Presence::Gone => {
                    if let Some(ids) = self.slices.get_mut(&key) {
                        ids.remove(id);
                        if ids.is_empty() {
                            self.slices.remove(&key);
                        }
                    }
                }
            }
            self.dirty.endpoints.insert(name);
        }
    }

    /// Everything is to be compiled again: what all of it builds on has changed.
    pub fn mark_everything(&mut self) {
        self.dirty.everything = true;
    }

    /// What became stale since the last call.
    #[must_use]
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Has everything been seen that there was at the start?
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Every object, by name.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectId, &Stored)> {
        self.objects.iter()
    }

    /// Fleet objects of one kind, by name.
    pub fn fleet(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = ObjectId {
            source: Source::Fleet,
            kind: kind.clone(),
            namespace: Arc::from(""),
            name: Arc::from(""),
        };
        self.objects
            .range(first..)
            .take_while(move |(id, _)| id.source == Source::Fleet && id.kind == kind)
            .map(|(_, stored)| &stored.object)
    }

    /// One object.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(id).map(|stored| &stored.object)
    }

    /// One object, with where it came from.
    #[must_use]
    pub fn stored(&self, id: &ObjectId) -> Option<&Stored> {
        self.objects.get(id)
    }

    /// Why an object cannot be read, if it cannot: what was read of it before stays.
    #[must_use]
    pub fn problem(&self, id: &ObjectId) -> Option<&Problem> {
        self.unreadable.get(id)
    }

    /// The members that are known.
    #[must_use]
    pub fn members(&self) -> &BTreeSet<Arc<str>> {
        &self.members
    }

    /// Remarks on files.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<Arc<str>, Vec<Problem>> {
        &self.problems
    }

    /// A Service of one member.
    #[must_use]
    pub fn service(&self, cluster: &Arc<str>, name: &ServiceName) -> Option<&MemberService> {
        let id = ObjectId {
            source: Source::Member(cluster.clone()),
            kind: Kind::Service,
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        };
        self.objects.get(&id)?.object.spec.service()
    }

    /// The slices of a Service of one member.
    pub fn slices(&self, cluster: &Arc<str>, name: &ServiceName) -> impl Iterator<Item = &MemberSlice> {
        let ids = self.slices.get(&(cluster.clone(), name.clone()));
        ids.into_iter().flatten().filter_map(|id| self.objects.get(id)?.object.spec.slice())
    }

    /// The Nodes of one member, by name.
    pub fn nodes(&self, cluster: &Arc<str>) -> impl Iterator<Item = (&Arc<str>, &MemberNode)> {
        let first = ObjectId {
            source: Source::Member(cluster.clone()),
            kind: Kind::Node,
            namespace: Arc::from(""),
            name: Arc::from(""),
        };
        let source = first.source.clone();
        self.objects
            .range(first..)
            .take_while(move |(id, _)| id.source == source && id.kind == Kind::Node)
            .filter_map(|(id, stored)| Some((&id.name, stored.object.spec.node()?)))
    }
}
