//! Secrets of the Fleet, by their metadata: which exist, with which labels and in which version. Content is asked for
//! one by one, and only where something refers to it.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::watch::credentials::{Shape, shape};
use crate::watch::fleet::SharedHub;
use crate::watch::follow::{Belief, Change, Doing, Handler, Tuning, config, follow};
use crate::watch::known::List;

/// One Secret, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its `uid` and `resourceVersion`: others, and its content is asked for again. The version alone may come again in a
    /// store that was made anew.
    pub version: String,
    /// What its labels say that it is.
    pub shape: Option<Shape>,
}

impl Meta {
    fn of(metadata: &ObjectMeta) -> Self {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let version = format!("{}/{}", part(&metadata.uid), part(&metadata.resource_version));
        Self { version, shape: metadata.labels.as_ref().and_then(shape) }
    }
}

/// All Secrets of a namespace, by name.
pub type Listed = Rc<BTreeMap<String, Meta>>;

struct Namespace {
    name: Rc<str>,
    known: Listed,
    hub: SharedHub,
}

/// Watches the Secrets of a namespace; never returns.
pub(super) async fn watch(client: Client, name: Rc<str>, hub: SharedHub, tuning: Tuning) {
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client, &name);
    let mut handler = Namespace { name, known: Listed::default(), hub };
    let open = |_| watcher(api.clone(), config()).boxed();
    follow(&["v1"], open, &mut handler, tuning).await;
}

impl Handler<PartialObjectMeta<Secret>> for Namespace {
    type Item = (String, Meta);

    fn read(&self, _version: &str, object: PartialObjectMeta<Secret>) -> (String, Meta) {
        let meta = Meta::of(&object.metadata);
        (object.metadata.name.unwrap_or_default(), meta)
    }

    fn list(&mut self, items: Vec<(String, Meta)>, which: List, _observed_ns: u64) -> Belief {
        let fresh: BTreeMap<String, Meta> = items.into_iter().collect();
        // Members are made by labelled Secrets: half of them do not vanish between two requests.
        let labelled =
            |all: &BTreeMap<String, Meta>| all.values().filter(|meta| meta.shape.is_some()).count();
        let shrinks = labelled(&fresh) < labelled(&self.known).div_ceil(2);
        // Nor do the certificates that are served.
        if which == List::First && (shrinks || self.hub.borrow().loses_secrets(&self.name, &fresh)) {
            return Belief::Doubted;
        }
        self.known = Rc::new(fresh);
        self.hub.borrow_mut().secrets(&self.name, self.known.clone());
        Belief::Believed
    }

    fn changes(&mut self, changes: Vec<Change<(String, Meta)>>, _observed_ns: u64) {
        let known = Rc::make_mut(&mut self.known);
        for change in changes {
            match change {
                Change::Apply((name, meta)) => drop(known.insert(name, meta)),
                Change::Delete((name, _)) => drop(known.remove(&name)),
            }
        }
        self.hub.borrow_mut().secrets(&self.name, self.known.clone());
    }

    fn doing(&mut self, doing: Doing) {
        self.hub.borrow_mut().secrets_doing(&self.name, doing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_secret_with_the_version_of_the_old_one_is_another() {
        let of = |uid: &str, version: &str| {
            let metadata = ObjectMeta {
                uid: Some(uid.to_owned()),
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            };
            Meta::of(&metadata)
        };
        assert_eq!(of("a", "7"), of("a", "7"));
        assert_ne!(of("a", "7"), of("a", "8"), "it has changed");
        assert_ne!(of("a", "7"), of("b", "7"), "made anew, in a store that counts from the beginning");
    }
}
