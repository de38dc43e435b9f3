//! Members of a cluster inventory: which `ClusterProfile` objects make one, and what is said of those that do not.
//!
//! Whoever can write a `ClusterProfile` in a namespace whose Secrets make members can add a member; elsewhere a profile makes
//! none, and the Secret that it names stands beside it: it says where the Secret's credentials are sent, so it may name no
//! other namespace's. A `MemberCluster`, and a Secret whose label names the member, come first. What is known of a profile's access
//! here only (its Secret) is added to the remarks on it, and it is sent on with them: the rest of the way is any object's.

use super::*;
use crate::digest;
use crate::object::{FleetProfile, ProfileAccess};
use crate::watch::credentials::Shape;

/// A `ClusterProfile`, and what was last sent of it.
pub(super) struct Profile {
    object: Object,
    notes: Notes,
    told: Option<u64>,
}

/// How a member of the inventory is reached.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a few at a time, on their way to where they are used")]
pub(super) enum Reach {
    /// It is not known yet, or not any more: what there is stays.
    Unknown,
    /// So.
    By(Result<Credentials, String>),
    /// Its profile names no Secret, and no Secret names it: it is not a member.
    Nowhere,
}

impl Profile {
    fn spec(&self) -> &FleetProfile {
        static NOTHING: std::sync::LazyLock<FleetProfile> = std::sync::LazyLock::new(FleetProfile::default);
        self.object.spec.profile().unwrap_or(&NOTHING)
    }
}

impl Hub {
    /// Takes the profiles out of what was seen: they go on by [`Hub::tell_profiles`]. Returns whether there were any.
    pub(super) fn take_profiles(&mut self, seen: &mut Vec<Observation>) -> bool {
        let is_profile = |seen: &mut Observation| match seen {
            Observation::Upsert { object, .. } => object.id.kind == Kind::ClusterProfile,
            Observation::Member { .. }
            | Observation::Delete(_)
            | Observation::Problems { .. }
            | Observation::Synced => false,
        };
        let mut any = false;
        for profile in seen.extract_if(.., is_profile) {
            if let Observation::Upsert { object, notes, .. } = profile {
                any = true;
                self.keep_profile(*object, notes);
            }
        }
        any
    }

    /// Takes note of a profile.
    pub(super) fn keep_profile(&mut self, object: Object, notes: Notes) {
        self.profiles.insert(object.id.clone(), Profile { object, notes, told: None });
    }

    /// Those that may make a member, by its name: of several with one name that in the first namespace, in the order of
    /// the settings.
    fn candidates(&self) -> BTreeMap<Arc<str>, &Profile> {
        let mut found = BTreeMap::new();
        for namespace in self.meant() {
            for (id, profile) in self.profiles.iter().filter(|(id, _)| *id.namespace == *namespace) {
                if crate::watch::files::is_cluster_name(&id.name) {
                    found.entry(id.name.clone()).or_insert(profile);
                }
            }
        }
        found
    }

    /// The Secret that a profile's access names, where it may name it: who writes a profile decides where what the Secret
    /// holds is sent, and has no say over another namespace's.
    fn secret_of(profile: &Profile, access: &ProfileAccess) -> Result<SecretName, String> {
        let own = &*profile.object.id.namespace;
        match access.namespace.as_deref().unwrap_or(own) {
            namespace if namespace == own => Ok((Rc::from(own), access.secret.clone())),
            namespace => Err(format!(
                "Secret {namespace}/{}: a ClusterProfile may name Secrets of its own namespace ({own}) only",
                access.secret
            )),
        }
    }

    /// Secrets that profiles name, and what they are to hold.
    pub(super) fn accesses(&self) -> BTreeMap<SecretName, Vec<ProfileAccess>> {
        let mut named = BTreeMap::<SecretName, Vec<ProfileAccess>>::new();
        for profile in self.candidates().into_values() {
            let Some(access) = &profile.spec().access else { continue };
            if let Ok(secret) = Self::secret_of(profile, access) {
                named.entry(secret).or_default().push(access.clone());
            }
        }
        named
    }

    /// How the members that profiles make are reached.
    pub(super) fn profiled(&self) -> BTreeMap<Arc<str>, Reach> {
        let inventory = self.labelled(|shape| shape == Shape::Inventory);
        let reach = |name: &str, profile: &Profile| {
            let Some(access) = &profile.spec().access else {
                return match inventory.get(name) {
                    // Its status is being written anew, and what the label is for is no kubeconfig.
                    Some(Err(_)) if self.members.contains_key(name) => Reach::Unknown,
                    Some(by) => Reach::By(by.clone()),
                    None => Reach::Nowhere,
                };
            };
            let secret = match Self::secret_of(profile, access) {
                Ok(secret) => secret,
                Err(reason) => return Reach::By(Err(reason)),
            };
            let fetched = self.fetched.get(&secret).and_then(|fetched| fetched.profiled.get(access));
            match fetched {
                None => Reach::Unknown,
                Some(Ok(credentials)) => Reach::By(Ok(credentials.clone())),
                Some(Err(why)) => Reach::By(Err(format!("Secret {}/{}: {why}", secret.0, secret.1))),
            }
        };
        let all = self.candidates();
        all.iter().map(|(name, profile)| (name.clone(), reach(name, profile))).collect()
    }

    /// Sends on every profile of which something new is to be said.
    pub(super) fn tell_profiles(&mut self) {
        if self.profiles.is_empty() || !self.credentials_are_known() {
            return;
        }
        let reached = self.profiled();
        let labelled = self.labelled(|shape| shape != Shape::Inventory);
        let labelled: BTreeSet<Arc<str>> = labelled.keys().map(|name| Arc::from(*name)).collect();
        let chosen: BTreeSet<ObjectId> =
            self.candidates().values().map(|profile| profile.object.id.clone()).collect();
        let told: Vec<(ObjectId, Object, Notes, u64)> = (self.profiles.iter())
            .filter_map(|(id, profile)| {
                let reach = reached.get(&id.name).filter(|_| chosen.contains(id));
                let mut notes = profile.notes.clone();
                let is_member = self.judge(profile, reach, &labelled, &mut notes);
                let mut object = profile.object.clone();
                if let Spec::ClusterProfile(spec) = &mut object.spec {
                    spec.is_member = is_member;
                }
                let digest = digest::of(&(&object, &notes));
                (profile.told != Some(digest)).then(|| (id.clone(), object, notes, digest))
            })
            .collect();
        let mut seen = Vec::new();
        for (id, object, notes, digest) in told {
            if let Some(profile) = self.profiles.get_mut(&id) {
                profile.told = Some(digest);
            }
            let origin = Arc::from(Source::Fleet.to_string());
            seen.push(Observation::Upsert { object: Box::new(object), origin, notes });
        }
        self.send(Source::Fleet, seen, crate::clock::monotonic_ns());
    }

    /// Says what becomes of a profile; returns whether it stands for a member.
    fn judge(
        &self,
        profile: &Profile,
        reach: Option<&Reach>,
        labelled: &BTreeSet<Arc<str>>,
        notes: &mut Notes,
    ) -> bool {
        let id = &profile.object.id;
        let Some(reach) = reach else {
            let (field, value, reason) = if !crate::watch::files::is_cluster_name(&id.name) {
                ("metadata.name", &id.name, "no cluster id: 1 to 63 lower-case letters, digits or '-'")
            } else if self.meant().any(|meant| *meant == *id.namespace) {
                ("metadata.name", &id.name, "another ClusterProfile of this name comes first")
            } else {
                let reason = "makes no member: only in fleet.namespace and fleet.secret_namespaces";
                ("metadata.namespace", &id.namespace, reason)
            };
            notes.ignored(field, value, reason);
            return false;
        };
        if self.declared.get(&id.name).is_some_and(Option::is_some) || labelled.contains(&id.name) {
            let reason = "a MemberCluster, or a labelled Secret, says how this member is reached";
            notes.info("status.accessProviders", "", reason);
            return true;
        }
        let field = profile.spec().access.as_ref().map_or("status.accessProviders", |access| &access.field);
        match reach {
            Reach::By(Ok(_)) => {}
            Reach::By(Err(reason)) => notes.refused(field, "", reason),
            Reach::Unknown => {
                let secret = profile.spec().access.as_ref().map_or("", |access| &access.secret);
                notes.refused(field, secret, "there is no such Secret, or it cannot be read");
            }
            Reach::Nowhere if profile.spec().refused.is_empty() => {
                let reason =
                    "no access provider, and no Secret with the label x-k8s.io/cluster-profile names it";
                notes.refused(field, "", reason);
            }
            Reach::Nowhere => profile.spec().refused.iter().for_each(|note| notes.push(note.clone())),
        }
        match reach {
            Reach::By(_) | Reach::Unknown => true,
            Reach::Nowhere => false,
        }
    }

    /// Have the profiles been told, or will they never be?
    pub(super) fn profiles_are_known(&self) -> bool {
        let mut watches = self.fleet.watches.iter();
        let watch = watches.find(|watch| watch.resource.kind == "ClusterProfile");
        watch.is_none_or(|watch| watch.listed || (watch.is_hopeless() && self.profiles.is_empty()))
    }
}
