//! The only input of the controller: what was seen, as [`Observation`]s.
//!
//! [`files`] reads a directory of manifests; [`fleet`] watches the APIs of the hub and of its members
//! ([`member`], with [`credentials`] from [`secrets`]) and makes the same observations. [`follow`] is one watch,
//! [`known`] what it has told and whether a new list of it is believed, [`client`] the connection.
//! Nothing here judges what an object means: it is decoded, or reported.

use std::sync::Arc;

use crate::finding::ParentRef;
use crate::object::{Object, ObjectId};
use crate::verdict::{Note, Notes};

pub mod client;
pub mod credentials;
pub mod decode;
pub(crate) mod documents;
pub mod events;
pub mod files;
pub mod fleet;
pub mod follow;
pub mod kinds;
pub mod known;
pub mod member;
pub(crate) mod profile;
pub mod secrets;

/// One thing that was seen. Order matters: a later observation replaces an earlier one of the same name.
#[derive(Debug)]
pub enum Observation {
    /// A member cluster is known from now on, or no longer. `Gone` takes every object of that member with it.
    Member {
        /// The cluster id.
        name: Arc<str>,
        /// Is it there?
        presence: Presence,
    },
    /// An object is there, or has changed.
    Upsert {
        /// The object.
        object: Box<Object>,
        /// The file it came from; empty when it did not come from a file.
        origin: Arc<str>,
        /// What was noticed while it was decoded.
        notes: Notes,
    },
    /// An object is gone.
    Delete(ObjectId),
    /// All remarks on a file and on objects in it that are not used; replaces the earlier ones of that file.
    Problems {
        /// The file.
        origin: Arc<str>,
        /// The remarks; empty = none any more.
        problems: Vec<Problem>,
    },
    /// Everything that there was at the start has been seen.
    Synced,
}

/// Is it there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Present,
    /// It is not, any more.
    Gone,
}

/// A remark on a file, or on an object in it that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which object; `None` = the whole file.
    pub object: Option<ObjectId>,
    /// What is wrong.
    pub note: Note,
    /// What can still be read of it.
    pub remains: Remains,
}

/// What can still be read of an object that cannot be used: enough to tell its owner. Only of one that an API server
/// sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// `metadata.generation`; 0 = unknown.
    pub generation: i64,
    /// `metadata.uid`; empty = unknown.
    pub uid: Arc<str>,
    /// `spec.parentRefs` of a route, as many as can be read.
    pub parents: Vec<ParentRef>,
}
