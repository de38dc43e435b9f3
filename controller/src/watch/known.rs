//! What one watch has told so far, and whether a new list of it is believed.
//!
//! Pure. A watch's list replaces everything that was known; its events change it one by one. A list that is empty or
//! much smaller than what was known may be a fresh or restored API server, a lost permission, or a namespace that was
//! recreated: it is held back until a second list says the same (DESIGN, invariant 7). A single deletion is an event
//! and is believed at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::digest;
use crate::object::{Object, ObjectId};
use crate::verdict::Notes;
use crate::watch::decode::One;
use crate::watch::{Observation, Problem};

/// A list that leaves less than this share of what was known is doubted: one half.
const SHRUNK_DIVISOR: u64 = 2;

/// Is this the first list that says so, or one that was asked for to be sure?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The first.
    First,
    /// The one that confirms, or does not.
    Second,
}

/// What becomes of a list.
#[derive(Debug)]
pub enum Relist {
    /// It is believed: these are the differences.
    Believed(Vec<Observation>),
    /// It is not believed yet; nothing has changed.
    Doubted {
        /// What was known: endpoints, or objects where there are no endpoints.
        before: u64,
        /// What the list leaves of it.
        after: u64,
    },
}

/// What one watch has told so far.
#[derive(Debug, Default)]
pub struct Known {
    objects: HashMap<ObjectId, Entry>,
    /// Objects that could not be decoded: a remark on each was made.
    refused: HashSet<Arc<str>>,
    weight: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: u64,
    weight: u64,
}

impl Known {
    /// Takes note of an object that is there already: of a snapshot.
    pub fn prime(&mut self, object: &Object, notes: &Notes) {
        self.insert(object, notes);
    }

    /// Returns whether anything is new about it.
    fn insert(&mut self, object: &Object, notes: &Notes) -> bool {
        let entry = Entry { digest: digest::of(&(object, notes)), weight: weight(object) };
        self.weight += entry.weight;
        let before = self.objects.insert(object.id.clone(), entry);
        self.weight -= before.map_or(0, |before| before.weight);
        before.is_none_or(|before| before.digest != entry.digest)
    }

    /// An event: this object is there.
    pub fn apply(&mut self, one: One, out: &mut Vec<Observation>) {
        match one {
            One::Object(object, notes) => {
                let origin = origin(&object.id);
                self.forgive(&origin, out);
                if self.insert(&object, &notes) {
                    let origin = Arc::from(object.id.source.to_string());
                    out.push(Observation::Upsert { object, origin, notes });
                }
            }
            One::Refused(id, note, remains) => {
                let origin = id.as_ref().map_or_else(|| Arc::from("?"), origin);
                self.refused.insert(origin.clone());
                let problems = vec![Problem { object: id, note, remains }];
                out.push(Observation::Problems { origin, problems });
            }
            One::Unused(id) => self.forgive(&origin(&id), out),
        }
    }

    fn forgive(&mut self, origin: &Arc<str>, out: &mut Vec<Observation>) {
        if self.refused.remove(origin) {
            out.push(Observation::Problems { origin: origin.clone(), problems: Vec::new() });
        }
    }

    /// An event: this object is gone.
    pub fn delete(&mut self, id: &ObjectId, out: &mut Vec<Observation>) {
        self.forgive(&origin(id), out);
        if let Some(entry) = self.objects.remove(id) {
            self.weight -= entry.weight;
            out.push(Observation::Delete(id.clone()));
        }
    }

    /// A list: all that there is.
    pub fn relist(&mut self, fresh: Vec<One>, which: List) -> Relist {
        let after = fresh.iter().map(One::weight).sum::<u64>();
        if which == List::First && after < self.weight.div_ceil(SHRUNK_DIVISOR) {
            return Relist::Doubted { before: self.weight, after };
        }
        let mut out = Vec::new();
        let mut there: HashSet<ObjectId> = HashSet::with_capacity(fresh.len());
        let before: Vec<Arc<str>> = self.refused.iter().cloned().collect();
        let mut refused = HashSet::new();
        for one in fresh {
            // What cannot be read any more is unknown, not gone: what was read from it before stays.
            there.extend(one.id().cloned());
            if let One::Refused(id, _, _) = &one {
                refused.insert(id.as_ref().map_or_else(|| Arc::from("?"), origin));
            }
            self.apply(one, &mut out);
        }
        let gone: Vec<ObjectId> = self.objects.keys().filter(|id| !there.contains(*id)).cloned().collect();
        for id in gone {
            self.delete(&id, &mut out);
        }
        for origin in before.iter().filter(|origin| !refused.contains(*origin)) {
            self.forgive(origin, &mut out);
        }
        Relist::Believed(out)
    }

    /// The objects.
    pub fn ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.objects.keys()
    }
}

impl One {
    /// Which object it is, as far as that could be read.
    pub(super) fn id(&self) -> Option<&ObjectId> {
        match self {
            Self::Object(object, _) => Some(&object.id),
            Self::Refused(id, _, _) => id.as_ref(),
            Self::Unused(id) => Some(id),
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Self::Object(object, _) => weight(object),
            Self::Refused(..) | Self::Unused(_) => 0,
        }
    }
}

/// Endpoints of a slice; anything else counts once.
fn weight(object: &Object) -> u64 {
    let usable = |slice: &crate::object::MemberSlice| {
        slice.endpoints.iter().filter(|endpoint| endpoint.condition.is_some()).count() as u64
    };
    object.spec.slice().map_or(1, usable)
}

/// Where remarks on one object stand: each has a place of its own.
fn origin(id: &ObjectId) -> Arc<str> {
    Arc::from(format!("{}: {id}", id.source))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::object::{Kind, MemberSlice, SliceEndpoint, Source, Spec};
    use crate::verdict::{Note, Severity};
    use crate::watch::Remains;

    fn slice(name: &str, endpoints: u8) -> One {
        let id = ObjectId {
            source: Source::Member(Arc::from("alpha")),
            kind: Kind::EndpointSlice,
            namespace: Arc::from("default"),
            name: Arc::from(name),
        };
        let endpoint = |n| SliceEndpoint {
            ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
            condition: Some(routing::model::Condition::Ready),
            zone: Arc::from(""),
            node: Arc::from(""),
        };
        let endpoints = (0..endpoints).map(endpoint).collect();
        let slice = MemberSlice { service: Arc::from("web"), ports: Vec::new(), endpoints };
        let object = Object {
            id,
            created: 0,
            generation: 0,
            uid: Arc::from(""),
            annotations: Default::default(),
            spec: Spec::EndpointSlice(slice),
        };
        One::Object(Box::new(object), Notes::default())
    }

    fn bad(name: &str) -> One {
        let One::Object(object, _) = slice(name, 0) else { unreachable!() };
        One::Refused(Some(object.id), Note::new(Severity::Refused, "", "", "bad"), Remains::default())
    }

    fn believed(relist: Relist) -> Vec<Observation> {
        match relist {
            Relist::Believed(seen) => seen,
            Relist::Doubted { before, after } => panic!("doubted: {before} to {after}"),
        }
    }

    #[test]
    fn a_list_that_loses_more_than_half_of_the_endpoints_is_held_until_a_second_one_says_the_same() {
        let mut known = Known::default();
        assert_eq!(believed(known.relist(vec![slice("a", 4), slice("b", 4)], List::First)).len(), 2);
        let shrunk = || vec![slice("a", 3)];
        let Relist::Doubted { before, after } = known.relist(shrunk(), List::First) else {
            panic!("it was believed at once")
        };
        assert_eq!((before, after), (8, 3));
        assert_eq!(known.ids().count(), 2, "nothing has changed");
        let seen = believed(known.relist(shrunk(), List::Second));
        assert_eq!(seen.len(), 2, "{seen:?}");
    }

    #[test]
    fn endpoints_that_vanish_within_their_slices_count_as_much_as_slices_that_vanish() {
        let mut known = Known::default();
        believed(known.relist(vec![slice("a", 8)], List::First));
        assert!(matches!(known.relist(vec![slice("a", 1)], List::First), Relist::Doubted { .. }));
        assert!(matches!(known.relist(vec![slice("a", 0)], List::First), Relist::Doubted { .. }));
        assert_eq!(believed(known.relist(vec![slice("a", 4)], List::First)).len(), 1, "half is believed");
    }

    #[test]
    fn a_single_deletion_is_believed_at_once_and_an_unchanged_object_says_nothing() {
        let mut known = Known::default();
        believed(known.relist(vec![slice("a", 1)], List::First));
        assert!(believed(known.relist(vec![slice("a", 1)], List::First)).is_empty());
        let One::Object(object, _) = slice("a", 1) else { unreachable!() };
        let mut out = Vec::new();
        known.delete(&object.id, &mut out);
        assert!(matches!(out[..], [Observation::Delete(_)]));
    }

    #[test]
    fn an_object_that_cannot_be_read_any_more_keeps_its_last_good_content() {
        let mut known = Known::default();
        believed(known.relist(vec![slice("a", 1), slice("b", 1)], List::First));
        let seen = believed(known.relist(vec![slice("a", 1), bad("b")], List::First));
        let [Observation::Problems { problems, .. }] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(problems.len(), 1);
        let seen = believed(known.relist(vec![slice("a", 1), slice("b", 2)], List::First));
        assert!(
            matches!(&seen[..], [Observation::Problems { problems, .. }, Observation::Upsert { .. }] if problems.is_empty())
        );
    }
}
