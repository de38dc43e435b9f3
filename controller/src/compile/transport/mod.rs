//! How the endpoints of a backend are spoken to: `BackendTLSPolicy`, annotations of Ingresses, `appProtocol`.
//!
//! One answer for each backend, however many routes use it: what a Service port speaks does not depend on who asks. A
//! `BackendTLSPolicy` on the Service comes first (Gateway API v1, GEP-1897) and always verifies. Then what annotations of
//! Ingresses say: one that asks for TLS before one that does not, so that no Ingress takes another's protection away. Then
//! the port's `appProtocol` (GEP-1911). What cannot be honoured closes the backend: it is never spoken to in clear instead.
//!
//! [`authorities`] reads CA bundles and client certificates, [`settings`] makes what the TLS library connects with; each
//! content exists once.

pub(super) mod authorities;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::backendtlspolicies::{
    BackendTlsPolicy, BackendTlsPolicyValidationSubjectAltNames as SubjectAltName,
    BackendTlsPolicyValidationSubjectAltNamesType as SubjectAltNameType,
};
use routing::model::{Application, Security, Transport};

use self::authorities::{Authorities, Trust};
use self::settings::{Ask, Made, Name, Names};
use crate::compile::context::{Context, MCS_GROUP};
use crate::merge::{BackendKey, port_of};
use crate::object::{AppProtocol, Kind, Object, ObjectId, Spec};
use crate::text;
use crate::verdict::{Code, Note, Notes, Severity};
use crate::world::{ServiceName, World};

/// The option of a `BackendTLSPolicy` that names the Secret with our own certificate, in the policy's namespace.
pub(crate) const CLIENT_CERTIFICATE: &str = "ringway.dev/client-certificate";
/// Bounds of the Gateway API: `caCertificateRefs` 8, `subjectAltNames` 5.
const REFS_MAX: usize = 8;
const NAMES_MAX: usize = 5;

/// What the annotations of one Ingress say of the backends that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransportPart {
    /// `backend-protocol`.
    pub spoken: Spoken,
    /// `proxy-ssl-secret`: namespace and name of the Secret with our certificate and, as `ca.crt`, whom to trust.
    pub secret: Option<(Arc<str>, Arc<str>)>,
    /// `proxy-ssl-verify: on`.
    pub verify: bool,
    /// `proxy-ssl-name`.
    pub name: Option<Arc<str>>,
    /// `proxy-ssl-server-name: on`: is the name sent (SNI)?
    pub sends_name: bool,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1 in clear.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in clear (h2c): `HTTP2`, `GRPC`.
    Http2,
    /// HTTP/2 over TLS: `GRPCS`.
    Http2Tls,
    /// HTTP/2; whether over TLS the port says: `GRPCRoute`.
    Http2AsThePortSays,
}

impl Spoken {
    fn is_secure(self) -> bool {
        match self {
            Self::Https | Self::Http2Tls => true,
            Self::Http | Self::Http2 | Self::Http2AsThePortSays => false,
        }
    }

    fn application(self) -> Application {
        match self {
            Self::Http | Self::Https => Application::Http1,
            Self::Http2 | Self::Http2Tls | Self::Http2AsThePortSays => Application::Http2,
        }
    }
}

/// What Ingresses say of one backend.
pub(super) type Said = BTreeMap<ObjectId, Arc<TransportPart>>;

/// A policy by what it is attached to: namespace, Service, section (empty = all of its ports).
pub(super) type PolicyTarget = (Arc<str>, Arc<str>, String);

/// Remarks on policies and Ingresses.
pub(super) type Remarks = Vec<(ObjectId, Note)>;

/// CA bundles, and the settings in use.
#[derive(Debug, Default)]
pub(super) struct Transports {
    authorities: Authorities,
    made: Made,
}

/// Why a backend is closed: the reason, and the field of the object that is at fault.
struct Wrong {
    field: String,
    value: String,
    reason: String,
    code: Option<Code>,
}

impl Wrong {
    fn new(field: impl Into<String>, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.into(), reason: reason.into(), code: None }
    }

    fn because(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }
}

impl Transports {
    /// What holds for a backend, and remarks.
    pub(super) fn resolve(
        &mut self,
        key: &BackendKey,
        said: &Said,
        context: &Context,
        world: &World,
    ) -> (Transport, Remarks) {
        let mut remarks = Remarks::new();
        let annotated = choose(key, said, &mut remarks);
        let declared = app_protocol(key, context, world);
        let protocol = match (annotated, declared) {
            (Some((_, part)), _) => part.spoken.application(),
            (None, AppProtocol::H2c) => Application::Http2,
            (None, AppProtocol::Unspecified | AppProtocol::Http | AppProtocol::Https) => Application::Http1,
        };
        let security = match (policy_of(key, context, world), annotated) {
            (Some(object), _) => self.of_policy(object, protocol, world, &mut remarks),
            (None, Some((id, part))) if part.spoken.is_secure() => {
                self.of_ingress((id, part), key, context, world, &mut remarks)
            }
            (None, Some((_, part))) if part.spoken != Spoken::Http2AsThePortSays => Security::Clear,
            (None, Some(_) | None) => match declared {
                AppProtocol::Https => self.of_service(key, protocol),
                AppProtocol::H2c | AppProtocol::Http | AppProtocol::Unspecified => Security::Clear,
            },
        };
        (Transport { protocol, security }, remarks)
    }

    /// Forgets what no backend uses any more.
    pub(super) fn tidy(&mut self) {
        self.made.tidy();
    }

    fn of_policy(
        &mut self,
        object: &Arc<Object>,
        protocol: Application,
        world: &World,
        remarks: &mut Remarks,
    ) -> Security {
        let Spec::BackendTlsPolicy(policy) = &object.spec else { return Security::Clear };
        let made = self.ask_of_policy(object, policy, protocol, world).and_then(|ask| self.make(&ask));
        close_if_wrong(made, &object.id, Severity::Refused, remarks)
    }

    fn ask_of_policy(
        &mut self,
        object: &Object,
        policy: &BackendTlsPolicy,
        protocol: Application,
        world: &World,
    ) -> Result<Ask, Wrong> {
        let validation = &policy.spec.validation;
        let server_name = text::check_host(&validation.hostname).map_err(|allowed| {
            Wrong::new("spec.validation.hostname", &*validation.hostname, format!("allowed: {allowed}"))
        })?;
        let names = names(validation.subject_alt_names.as_deref().unwrap_or_default())?;
        let refs = validation.ca_certificate_refs.as_deref().unwrap_or_default();
        let field = "spec.validation.caCertificateRefs";
        let roots = match (refs, validation.well_known_ca_certificates.as_deref()) {
            ([], Some("System")) => self
                .authorities
                .system()
                .map_err(|reason| Wrong::new("spec.validation.wellKnownCACertificates", "System", reason))?,
            ([], Some(other)) => {
                let reason = "Invalid: allowed: System";
                return Err(Wrong::new("spec.validation.wellKnownCACertificates", other, reason));
            }
            ([], None) => {
                return Err(Wrong::new(field, "", "Invalid: name a CA, or wellKnownCACertificates: System"));
            }
            (_, Some(_)) => {
                return Err(Wrong::new(field, "", "Invalid: either this or wellKnownCACertificates"));
            }
            (refs, None) => {
                let mut wanted = Vec::new();
                for (index, reference) in refs.iter().take(REFS_MAX).enumerate() {
                    let field = format!("{field}[{index}]");
                    let kind = match (reference.group.as_str(), reference.kind.as_str()) {
                        ("", "ConfigMap") => Kind::ConfigMap,
                        ("", "Secret") => Kind::Secret,
                        (_, other) => {
                            let reason = "InvalidKind: allowed: ConfigMap, Secret";
                            return Err(Wrong::new(field, other, reason).because(Code::InvalidKind));
                        }
                    };
                    wanted.push((kind, Arc::clone(&object.id.namespace), Arc::from(&*reference.name)));
                }
                let found = self.authorities.bundle(&wanted, world);
                found.map_err(|(index, reason)| {
                    let name = refs.get(index).map_or("", |reference| &reference.name);
                    Wrong::new(
                        format!("{field}[{index}]"),
                        name,
                        format!("InvalidCACertificateRef: {reason}"),
                    )
                    .because(Code::InvalidCaCertificateRef)
                })?
            }
        };
        let certificate = policy.spec.options.as_ref().and_then(|options| options.get(CLIENT_CERTIFICATE));
        let client = match certificate {
            None => None,
            Some(name) => {
                let secret = (Arc::clone(&object.id.namespace), Arc::from(name.as_str()));
                let found = self.authorities.certificate(&secret, world);
                let field = format!("spec.options[{CLIENT_CERTIFICATE}]");
                Some(found.map_err(|reason| Wrong::new(field, name, reason))?)
            }
        };
        let source = Arc::from(object.id.to_string());
        Ok(Ask { source, server_name, sends_name: true, trust: Trust::In(roots), names, client, protocol })
    }

    fn of_ingress(
        &mut self,
        (id, part): (&ObjectId, &TransportPart),
        key: &BackendKey,
        context: &Context,
        world: &World,
        remarks: &mut Remarks,
    ) -> Security {
        let ask = self.ask_of_ingress((id, part), key, context, world);
        let made = ask.and_then(|ask| self.make(&ask));
        close_if_wrong(made, id, Severity::RefusedPart, remarks)
    }

    fn ask_of_ingress(
        &mut self,
        (id, part): (&ObjectId, &TransportPart),
        key: &BackendKey,
        context: &Context,
        world: &World,
    ) -> Result<Ask, Wrong> {
        let field = "metadata.annotations[nginx.ingress.kubernetes.io/proxy-ssl-secret]";
        let (mut client, mut own) = (None, None);
        if let Some(secret) = &part.secret {
            let (namespace, name) = secret;
            let shown = format!("{namespace}/{name}");
            let from = ("networking.k8s.io", "Ingress", &*id.namespace);
            if *namespace != id.namespace && !context.is_granted(from, namespace, ("", "Secret", name)) {
                let reason = format!("RefNotPermitted: no ReferenceGrant in namespace {namespace} allows it");
                return Err(Wrong::new(field, shown, reason));
            }
            let found = self.authorities.mutual(secret, world);
            (client, own) = found.map_err(|reason| Wrong::new(field, shown, reason))?;
        }
        let trust = match (part.verify, own) {
            (false, _) => Trust::Everybody,
            (true, Some(roots)) => Trust::In(roots),
            (true, None) => Trust::In(self.authorities.system().map_err(|reason| {
                Wrong::new("metadata.annotations[nginx.ingress.kubernetes.io/proxy-ssl-verify]", "on", reason)
            })?),
        };
        Ok(Ask {
            source: Arc::from(id.to_string()),
            server_name: part.name.clone().unwrap_or_else(|| service_name(key)),
            sends_name: part.sends_name,
            trust,
            names: Names::Asked,
            client,
            protocol: part.spoken.application(),
        })
    }

    /// `appProtocol: https` and nothing else: the name of the Service, vouched for by an authority that the system trusts.
    fn of_service(&mut self, key: &BackendKey, protocol: Application) -> Security {
        let source: Arc<str> = Arc::from(format!("Service {}/{}", key.service.namespace, key.service.name));
        let made = self.authorities.system().and_then(|roots| {
            let ask = Ask {
                source,
                server_name: service_name(key),
                sends_name: true,
                trust: Trust::In(roots),
                names: Names::Asked,
                client: None,
                protocol,
            };
            self.made.make(&ask)
        });
        match made {
            Ok(tls) => Security::Tls(tls),
            Err(reason) => Security::Closed(Arc::from(reason)),
        }
    }

    fn make(&mut self, ask: &Ask) -> Result<Security, Wrong> {
        self.made.make(ask).map(Security::Tls).map_err(|reason| Wrong::new("", "", reason))
    }
}

fn close_if_wrong(
    made: Result<Security, Wrong>,
    id: &ObjectId,
    severity: Severity,
    remarks: &mut Remarks,
) -> Security {
    match made {
        Ok(security) => security,
        Err(Wrong { field, value, reason, code }) => {
            let told = format!("{reason}; its backends are not spoken to at all");
            remarks.push((id.clone(), Note { code, ..Note::new(severity, field, value, told) }));
            Security::Closed(Arc::from(reason))
        }
    }
}

/// What counts of what Ingresses say: what asks for TLS first, then by name. The others are told where they differ.
fn choose<'s>(
    key: &BackendKey,
    said: &'s Said,
    remarks: &mut Remarks,
) -> Option<(&'s ObjectId, &'s TransportPart)> {
    let (first, chosen) = said.iter().min_by_key(|(id, part)| (!part.spoken.is_secure(), *id))?;
    for (id, part) in said.iter().filter(|(_, part)| *part != chosen) {
        let reason = format!(
            "ignored for {key}: a backend is spoken to in one way, and {first} comes first (what asks for TLS before what does \
             not, then by name)"
        );
        let field = "backend-protocol, proxy-ssl-*";
        let value = format!("{:?}", part.spoken);
        remarks.push((id.clone(), Note::new(Severity::Ignored, field, value, reason)));
    }
    Some((first, chosen))
}

/// What members say of the port: the first of them that says anything.
fn app_protocol(key: &BackendKey, context: &Context, world: &World) -> AppProtocol {
    let ports = context.members.keys().filter_map(|member| {
        world.service(member, &key.service).and_then(|service| port_of(service, &key.port))
    });
    let mut said = ports.map(|port| port.app_protocol).filter(|said| *said != AppProtocol::Unspecified);
    said.next().unwrap_or_default()
}

/// The policy of a backend: that on its port before that on its Service.
fn policy_of<'c>(key: &BackendKey, context: &'c Context, world: &World) -> Option<&'c Arc<Object>> {
    let (namespace, name) = (&key.service.namespace, &key.service.name);
    let of = |section: &str| context.tls_policies.get(&(namespace.clone(), name.clone(), section.to_owned()));
    let sections: BTreeSet<&str> = context
        .members
        .keys()
        .filter_map(|member| {
            world.service(member, &key.service).and_then(|service| port_of(service, &key.port))
        })
        .map(|port| &*port.name)
        .filter(|name| !name.is_empty())
        .collect();
    sections.into_iter().find_map(of).or_else(|| of(""))
}

/// `SERVICE.NAMESPACE.svc`: what certificates inside clusters are issued for.
fn service_name(key: &BackendKey) -> Arc<str> {
    Arc::from(format!("{}.{}.svc", key.service.name, key.service.namespace))
}

fn names(given: &[SubjectAltName]) -> Result<Names, Wrong> {
    if given.is_empty() {
        return Ok(Names::Asked);
    }
    let mut names = Vec::new();
    for (index, given) in given.iter().take(NAMES_MAX).enumerate() {
        let field = format!("spec.validation.subjectAltNames[{index}]");
        let name = match given.r#type {
            SubjectAltNameType::Hostname => {
                let name = given.hostname.as_deref().unwrap_or_default();
                text::check_host(name).map(Name::Dns).map_err(|allowed| (name, allowed))
            }
            SubjectAltNameType::Uri => match given.uri.as_deref().unwrap_or_default() {
                uri if uri.contains("://") && uri.is_ascii() => Ok(Name::Uri(Arc::from(uri))),
                other => Err((other, "an absolute URI".to_owned())),
            },
        };
        names.push(name.map_err(|(value, allowed)| Wrong::new(field, value, format!("allowed: {allowed}")))?);
    }
    Ok(Names::Any(names.into()))
}

impl Context {
    /// Reads every `BackendTLSPolicy` of the Fleet. Of two for one Service the older holds (GEP-1897).
    pub(super) fn read_tls_policies(&mut self, world: &World) {
        let mut policies: Vec<&Arc<Object>> = world.fleet(Kind::BackendTlsPolicy).collect();
        policies.sort_by_key(|object| (object.created, object.id.clone()));
        for object in policies {
            let Spec::BackendTlsPolicy(policy) = &object.spec else { continue };
            let mut notes = Notes::default();
            for (index, target) in policy.spec.target_refs.iter().enumerate() {
                let field = format!("spec.targetRefs[{index}]");
                // Namespace sameness: an import is the Services of its name.
                if !matches!(
                    (target.group.as_str(), target.kind.as_str()),
                    ("", "Service") | (MCS_GROUP, "ServiceImport")
                ) {
                    let given = format!("{} {}", target.group, target.kind);
                    notes.refused_part(
                        field,
                        given.trim(),
                        "allowed: Service, ServiceImport (with their groups)",
                    );
                    continue;
                }
                let section = target.section_name.clone().unwrap_or_default();
                let key = (object.id.namespace.clone(), Arc::<str>::from(target.name.as_str()), section);
                let service = ServiceName { namespace: key.0.clone(), name: key.1.clone() };
                let holds = !self.tls_policies.contains_key(&key);
                self.tls_targets.entry(service).or_default().push((object.id.clone(), holds));
                match self.tls_policies.get(&key) {
                    Some(first) => {
                        let reason = format!("Conflicted: {} has this target and is older", first.id);
                        let note = Note::new(Severity::RefusedPart, field, &target.name, reason);
                        notes.push(note.because(Code::Conflicted));
                    }
                    None => {
                        self.tls_policies.insert(key, Arc::clone(object));
                    }
                }
            }
            for option in policy.spec.options.iter().flat_map(BTreeMap::keys) {
                if option != CLIENT_CERTIFICATE {
                    let reason = format!("ignored: no such option; ours: {CLIENT_CERTIFICATE}");
                    notes.ignored(format!("spec.options[{option}]"), "", reason);
                }
            }
            self.notes(&object.id).extend(&notes);
        }
    }
}
