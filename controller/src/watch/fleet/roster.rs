//! Who the members are, and with which credentials they are watched.

use super::profiles::Reach;
use super::*;
use crate::compile::transport;
use crate::watch::credentials::Shape;

/// What is known of how a member is reached; `None` = not known yet, or not any more: what there is stays.
type Desired = BTreeMap<Arc<str>, Option<Result<Credentials, String>>>;

impl Hub {
    /// Brings watches, Secrets and members in line with what is declared.
    pub(super) fn reconcile(&mut self) {
        self.watch_namespaces();
        self.fetch();
        let desired = self.desired();
        self.admit(desired);
        self.tell_profiles();
    }

    /// Namespaces whose labelled Secrets make members.
    pub(super) fn meant(&self) -> impl Iterator<Item = Rc<str>> + use<'_> {
        let named = std::iter::once(&self.settings.namespace).chain(&self.settings.secret_namespaces);
        named.map(|name| Rc::from(name.as_str()))
    }

    fn watch_namespaces(&mut self) {
        let Some(hub) = self.myself.upgrade() else { return };
        let referred = self.declared.values().flatten().chain(self.certificates.values().flatten());
        let wanted: BTreeSet<Rc<str>> =
            referred.map(|(namespace, _)| namespace.clone()).chain(self.meant()).collect();
        for namespace in wanted {
            if self.namespaces.contains_key(&namespace) || self.namespaces.len() >= NAMESPACES_MAX {
                continue;
            }
            // Kept once it is there: the next Ingress of this namespace finds it.
            self.namespaces.insert(namespace.clone(), Namespace::default());
            let tuning = self.settings.tuning;
            let watch = secrets::watch(self.client.clone(), namespace, hub.clone(), tuning);
            tokio::task::spawn_local(watch);
        }
    }

    /// Secrets that are needed, with the version that there is.
    fn needed(&self) -> Vec<(SecretName, String)> {
        let mut needed = BTreeMap::new();
        for (namespace, state) in &self.namespaces {
            let is_meant = self.meant().any(|meant| meant == *namespace);
            for (name, meta) in state.listed.iter().flat_map(|listed| listed.iter()) {
                if is_meant && meta.shape.is_some() {
                    needed.insert((namespace.clone(), name.clone()), meta.version.clone());
                }
            }
        }
        let profiled = self.accesses();
        let named = self.declared.values().flatten().chain(self.certificates.values().flatten());
        for secret in named.chain(profiled.keys()) {
            let listed = self.namespaces.get(&secret.0).and_then(|state| state.listed.as_ref());
            if let Some(meta) = listed.and_then(|listed| listed.get(&secret.1)) {
                needed.insert(secret.clone(), meta.version.clone());
            }
        }
        needed.into_iter().collect()
    }

    /// Asks for Secrets that are needed and not known in their version.
    fn fetch(&mut self) {
        let Some(hub) = self.myself.upgrade() else { return };
        let needed = self.needed();
        let mut accesses = self.accesses();
        // What a MemberCluster names stays known: its Secret may come back in the version that it had.
        let named: BTreeSet<&SecretName> =
            needed.iter().map(|(name, _)| name).chain(self.declared.values().flatten()).collect();
        let kept: BTreeSet<SecretName> = named.into_iter().chain(accesses.keys()).cloned().collect();
        self.fetched.retain(|name, _| kept.contains(name));
        for (secret, version) in needed {
            let accesses = accesses.remove(&secret).unwrap_or_default();
            if self.is_current(&secret, &version, &accesses) || self.asked.contains_key(&secret) {
                continue;
            }
            self.asked.insert(secret.clone(), Instant::now());
            tokio::task::spawn_local(get(self.client.clone(), secret, (version, accesses), hub.clone()));
        }
    }

    /// Is it known what this version of a Secret holds, to all who ask?
    fn is_current(&self, secret: &SecretName, version: &str, accesses: &[ProfileAccess]) -> bool {
        self.fetched.get(secret).is_some_and(|fetched| {
            fetched.version == version && accesses.iter().all(|access| fetched.profiled.contains_key(access))
        })
    }

    /// The content of a Secret came.
    fn got(&mut self, name: SecretName, fetched: Fetched, secret: Option<Secret>) {
        self.asked.remove(&name);
        let wanted = self.certificates.values().any(|names| names.contains(&name));
        if let (true, Some(secret)) = (wanted, secret) {
            self.certificate(secret);
        }
        self.fetched.insert(name, fetched);
        self.reconcile();
    }

    /// A certificate is seen like any other object.
    fn certificate(&mut self, secret: Secret) {
        let mut secret = secret;
        secret.metadata.managed_fields = None;
        secret.metadata.resource_version = None;
        let Ok(mut value) = serde_json::to_value(secret) else { return };
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".to_owned(), "v1".into());
            map.insert("kind".to_owned(), "Secret".into());
        }
        let mut seen = Vec::new();
        self.secrets_known.apply(crate::watch::decode::decode_one(value, &Source::Fleet), &mut seen);
        self.send(Source::Fleet, seen, crate::clock::monotonic_ns());
    }

    /// Has everything been told that says who the members are, and how they are reached?
    pub(super) fn credentials_are_known(&self) -> bool {
        let known = |namespace: &Rc<str>| {
            self.namespaces.get(namespace).is_some_and(|state| state.listed.is_some() || state.is_closed())
        };
        let referred = self.declared.values().flatten().map(|(namespace, _)| namespace.clone());
        let listed = referred.chain(self.meant()).all(|namespace| known(&namespace));
        let accesses = self.accesses();
        let current = |(secret, version): &(SecretName, String)| {
            let accesses = accesses.get(secret).map_or(&[][..], Vec::as_slice);
            self.is_current(secret, version, accesses)
        };
        listed && self.needed().iter().all(current)
    }

    /// The members that labelled Secrets name: those with labels of these shapes.
    pub(super) fn labelled(
        &self,
        counts: impl Fn(Shape) -> bool,
    ) -> BTreeMap<&str, Result<Credentials, String>> {
        let mut labelled: BTreeMap<&str, Result<Credentials, String>> = BTreeMap::new();
        for namespace in self.meant() {
            let listed = self.namespaces.get(&namespace).and_then(|state| state.listed.as_ref());
            let listed = listed.iter().flat_map(|listed| listed.iter());
            for (name, _) in listed.filter(|(_, meta)| meta.shape.is_some_and(&counts)) {
                let fetched = self.fetched.get(&(namespace.clone(), name.clone()));
                for (cluster, result) in fetched.iter().flat_map(|fetched| &fetched.labelled) {
                    let result = match result {
                        Ok(credentials) => Ok(credentials.clone()),
                        Err(refused) => Err(format!("Secret {namespace}/{name}: {refused}")),
                    };
                    // Of two Secrets for one cluster the first one by namespace, in the order of the settings, and
                    // by name counts.
                    labelled.entry(cluster).or_insert(result);
                }
            }
        }
        labelled
    }

    fn desired(&self) -> Desired {
        let mut desired = Desired::new();
        let labelled = self.labelled(|shape| shape != Shape::Inventory);
        let mut profiled = self.profiled();
        for (name, secret) in &self.declared {
            let credentials = match secret {
                None => match labelled.get(&**name) {
                    Some(result) => Some(result.clone()),
                    None => match profiled.remove(name) {
                        Some(Reach::By(result)) => Some(result),
                        Some(Reach::Unknown | Reach::Nowhere) | None => None,
                    },
                },
                Some(secret) => self.fetched.get(secret).map(|fetched| match &fetched.own {
                    Ok(credentials) => Ok(credentials.clone()),
                    Err(refused) => Err(format!("Secret {}/{}: {refused}", secret.0, secret.1)),
                }),
            };
            desired.insert(name.clone(), credentials);
        }
        for (name, result) in labelled {
            desired.entry(Arc::from(name)).or_insert(Some(result));
        }
        for (name, reach) in profiled {
            let credentials = match reach {
                Reach::By(result) => Some(result),
                Reach::Unknown => None,
                // What is a member stays one: its manager may be writing its status anew.
                Reach::Nowhere if self.members.contains_key(&name) => None,
                Reach::Nowhere => continue,
            };
            desired.entry(name).or_insert(credentials);
        }
        desired
    }

    /// A member may go only when everything that could declare it has spoken.
    fn may_remove(&self) -> bool {
        let declared = self.fleet.watches.iter().find(|watch| watch.resource.kind == "MemberCluster");
        declared.is_some_and(|watch| watch.listed)
            && self.profiles_are_known()
            && self.credentials_are_known()
    }

    fn admit(&mut self, desired: Desired) {
        let Some(hub) = self.myself.upgrade() else { return };
        let now_ns = crate::clock::monotonic_ns();
        let presence = |name: &Arc<str>, presence| Observation::Member { name: name.clone(), presence };
        if self.may_remove() {
            let gone: Vec<_> =
                self.members.keys().filter(|name| !desired.contains_key(*name)).cloned().collect();
            for name in gone {
                info!(cluster = &*name, "member removed");
                self.members.remove(&name);
                let seen = vec![presence(&name, Presence::Gone)];
                self.send(Source::Member(name), seen, now_ns);
            }
        }
        let tuning = self.settings.tuning;
        for (name, credentials) in desired {
            if !self.members.contains_key(&name) {
                if !crate::watch::files::is_cluster_name(&name) || self.members.len() >= MEMBERS_MAX {
                    if self.unfit.insert(name.clone()) {
                        warn!(
                            cluster = &*name,
                            "not a cluster id, or more than {MEMBERS_MAX} members: not used"
                        );
                    }
                    continue;
                }
                info!(cluster = &*name, "member added");
                let source = Source::Member(name.clone());
                self.members.insert(name.clone(), Cluster::new(source.clone(), &MEMBER));
                self.send(source, vec![presence(&name, Presence::Present)], now_ns);
            }
            let Some(member) = self.members.get_mut(&name) else { continue };
            match credentials {
                Some(Ok(credentials)) if member.credentials == Some(credentials.digest) => {}
                Some(Ok(credentials)) => {
                    if member.credentials.is_some() {
                        info!(cluster = &*name, "credentials have changed");
                    }
                    member.follow(&credentials, &hub, tuning);
                }
                Some(Err(reason)) => {
                    member.stop();
                    member.refuse(reason);
                }
                None if member.credentials.is_none() => {
                    member.refuse(
                        "no kubeconfig: no Secret that its MemberCluster, its ClusterProfile or a label names"
                            .to_owned(),
                    );
                }
                // The Secret is gone: what it said is used as long as the member's API accepts it.
                None => {}
            }
        }
    }

    pub(super) fn publish(&mut self) {
        let tuning = self.settings.tuning;
        let mut sources = BTreeMap::from([(Arc::from("fleet"), self.fleet.view(tuning))]);
        sources.extend(self.members.iter().map(|(name, member)| (name.clone(), member.view(tuning))));
        if self.published != sources {
            self.published.clone_from(&sources);
            self.view.update(|view| view.sources = sources);
        }
    }
}

impl Namespace {
    /// It will not be listed.
    fn is_closed(&self) -> bool {
        match &self.doing {
            Some(Doing::Failing { forbidden, .. }) => *forbidden,
            Some(Doing::Watching | Doing::Missing | Doing::Doubting) | None => false,
        }
    }
}

async fn get(
    client: Client,
    name: SecretName,
    (version, accesses): (String, Vec<ProfileAccess>),
    hub: SharedHub,
) {
    let api: Api<Secret> = Api::namespaced(client, &name.0);
    let (fetched, secret) = match api.get(&name.1).await {
        Ok(secret) => {
            let shape = secret.metadata.labels.as_ref().and_then(credentials::shape);
            let labelled = match shape {
                Some(shape) => credentials::members(&secret, shape).await,
                None => Vec::new(),
            };
            let own = credentials::referenced(&secret).await;
            let mut profiled = HashMap::with_capacity(accesses.len());
            for access in accesses {
                let read = credentials::profiled(&secret, &access).await;
                profiled.insert(access, read);
            }
            (Fetched { version, labelled, own, profiled }, Some(secret))
        }
        Err(kube::Error::Api(status)) => {
            let (namespace, secret) = &name;
            warn!(%namespace, secret, code = status.code, "a Secret cannot be read");
            let refused = Refused::Unreadable("the API server does not let it be read");
            let profiled = accesses.into_iter().map(|access| (access, Err(refused.clone()))).collect();
            (Fetched { version, labelled: Vec::new(), own: Err(refused), profiled }, None)
        }
        // No answer: asked again when its entry in `asked` is old.
        Err(_) => return,
    };
    hub.borrow_mut().got(name, fetched, secret);
}

/// The Secrets that annotations of an Ingress name.
fn annotated(object: &Object) -> impl Iterator<Item = SecretName> {
    const NAMES: [&str; 3] = ["auth-secret", "auth-tls-secret", "proxy-ssl-secret"];
    let prefixes = crate::compile::annotations::registry::Family::PREFIXES.into_iter();
    let keys = prefixes.flat_map(|(prefix, _)| NAMES.map(|name| format!("{prefix}{name}")));
    keys.filter_map(|key| {
        let value = object.annotations.get(&key)?;
        let (namespace, name) =
            crate::compile::annotations::secret_name(value.trim(), &object.id.namespace).ok()?;
        Some((Rc::from(&*namespace), name.to_string()))
    })
}

/// The Secrets that an object names.
pub(super) fn certificates(object: &Object) -> BTreeSet<SecretName> {
    let own: Rc<str> = Rc::from(&*object.id.namespace);
    match &object.spec {
        Spec::Ingress(ingress) => {
            let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
            let tls = tls.filter_map(|tls| Some((own.clone(), tls.secret_name.clone()?)));
            tls.chain(annotated(object)).collect()
        }
        Spec::Gateway(gateway) => {
            let tls = gateway.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
            let references = tls.flat_map(|tls| tls.certificate_refs.iter().flatten());
            references
                .filter(|reference| reference.kind.as_deref().is_none_or(|kind| kind == "Secret"))
                .map(|reference| {
                    let namespace = reference.namespace.as_deref().map_or_else(|| own.clone(), Rc::from);
                    (namespace, reference.name.clone())
                })
                .collect()
        }
        Spec::BackendTlsPolicy(policy) => {
            let references = policy.spec.validation.ca_certificate_refs.iter().flatten();
            let authorities = references.filter(|reference| reference.kind == "Secret");
            let own_certificate =
                policy.spec.options.iter().flat_map(|options| options.get(transport::CLIENT_CERTIFICATE));
            let names = authorities.map(|reference| &reference.name).chain(own_certificate);
            names.map(|name| (own.clone(), name.clone())).collect()
        }
        Spec::IngressClass(_)
        | Spec::GatewayClass(_)
        | Spec::HttpRoute(_)
        | Spec::GrpcRoute(_)
        | Spec::TcpRoute(_)
        | Spec::TlsRoute(_)
        | Spec::UdpRoute(_)
        | Spec::ReferenceGrant(_)
        | Spec::ConfigMap(_)
        | Spec::ClusterProfile(_)
        | Spec::MemberCluster(_)
        | Spec::GatewayConfig(_)
        | Spec::AlbConfig(_)
        | Spec::MseIngressConfig(_)
        | Spec::FailoverPolicy(_)
        | Spec::Namespace(_)
        | Spec::Secret(_)
        | Spec::Service(_)
        | Spec::EndpointSlice(_)
        | Spec::Node(_)
        | Spec::Other => BTreeSet::new(),
    }
}
