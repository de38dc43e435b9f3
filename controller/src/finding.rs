//! What the hub is to be told about its objects: plain data between the compiler and the task that writes status.
//!
//! Made by the compiler from the remarks that `ringway check` prints and from what became of routes and listeners: one
//! truth, two outputs. Only what has changed is made anew. The [`Board`] holds the newest finding of each object;
//! whoever writes takes what is new there, so that what changes faster than it can be written is written in its last
//! form only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::object::ObjectId;
use crate::verdict::{Code, Note};

/// What is to be said of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `metadata.generation` of the object that was judged; 0 = it has none.
    pub generation: i64,
    /// Its `metadata.uid`: what was told to an object is not told to another one that took its name.
    pub uid: Arc<str>,
    /// All remarks on it, at most [`NOTES_PER_OBJECT_MAX`](crate::verdict::NOTES_PER_OBJECT_MAX).
    pub notes: Vec<Note>,
    /// What its status is made of.
    pub standing: Standing,
}

/// What an object's status is made of, by what kind of status it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It has none that is ours to write; what was written before is taken back.
    #[default]
    Nothing,
    /// None, but remarks are told as Events.
    Remarks,
    /// A route: what became of it at each parent of ours.
    Route {
        /// In the order of `parentRefs`.
        parents: Vec<ParentStanding>,
        /// Some of it is served, were it only with an error.
        serves: bool,
    },
    /// A Gateway of ours.
    Gateway {
        /// In its own order; of two listeners with one name the first.
        listeners: Vec<ListenerStanding>,
        /// Those that it asks for and has, or that the pool gives it; `None` = those of the node.
        addresses: Option<Vec<IpAddr>>,
    },
    /// A `GatewayClass` of ours.
    Class,
    /// An Ingress of ours: the addresses of its listeners where they are bound to particular ones.
    Ingress(Vec<IpAddr>),
    /// A `BackendTLSPolicy`: the Gateways of ours that have routes to what it names.
    Backing(Vec<AncestorStanding>),
    /// A `FailoverPolicy`.
    Policy,
    /// An `AlbConfig` that a class of ours names: its listeners, as `80/HTTP`.
    Alb(Vec<String>),
    /// A `MseIngressConfig` that a class of ours names.
    Mse,
}

/// A `parentRef` as it is written; what is not written is not invented.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace; that of the route when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// The listener; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The port; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// What became of a route at one parent of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStanding {
    /// As it is written.
    pub reference: ParentRef,
    /// The Gateway: namespace and name.
    pub gateway: (Arc<str>, Arc<str>),
    /// The listeners that it is attached to.
    pub sections: Vec<Arc<str>>,
    /// Why it is attached to none.
    pub refusal: Option<(Code, &'static str)>,
}

/// A Gateway by which a policy on a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorStanding {
    /// The Gateway: namespace and name.
    pub gateway: (Arc<str>, Arc<str>),
    /// Every Service of it that the policy names has an older policy.
    pub conflicted: bool,
}

/// One listener of a Gateway of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStanding {
    /// Its name.
    pub name: Arc<str>,
    /// Its place in `spec.listeners`: remarks on it name this.
    pub index: usize,
    /// The kinds of routes that may attach and are served.
    pub kinds: Vec<&'static str>,
    /// Routes that are attached.
    pub attached: u32,
    /// It is part of the table.
    pub serves: bool,
    /// Why this node cannot listen on one of its addresses.
    pub unbound: Option<crate::unbound::Why>,
}

/// The newest finding of each object. Clones share it; it is never locked by a worker.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Posted>>);

#[derive(Debug, Default)]
struct Posted {
    findings: BTreeMap<ObjectId, Arc<Finding>>,
    news: BTreeSet<ObjectId>,
}

impl Board {
    fn posted(&self) -> MutexGuard<'_, Posted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is known any more: whoever posts begins anew.
    pub fn clear(&self) {
        *self.posted() = Posted::default();
    }

    /// Posts what has changed; `None` = the object is gone.
    pub fn post(&self, changed: Vec<(ObjectId, Option<Arc<Finding>>)>) {
        if changed.is_empty() {
            return;
        }
        let mut posted = self.posted();
        for (id, finding) in changed {
            match finding {
                Some(finding) => {
                    posted.findings.insert(id.clone(), finding);
                    posted.news.insert(id);
                }
                None => {
                    posted.findings.remove(&id);
                    posted.news.remove(&id);
                }
            }
        }
    }

    /// What is new since the last call.
    #[must_use]
    pub fn take_news(&self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.posted().news)
    }

    /// Every object of which there is a finding.
    #[must_use]
    pub fn all(&self) -> BTreeSet<ObjectId> {
        self.posted().findings.keys().cloned().collect()
    }

    /// The newest finding of an object.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<Arc<Finding>> {
        self.posted().findings.get(id).cloned()
    }
}
