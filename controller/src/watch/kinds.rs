//! Which resources are read, in which versions and from whom, and how raw objects of an API server become ours.

use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;

use crate::finding::ParentRef;
use crate::object::Source;
use crate::watch::Remains;
use crate::watch::decode::{self, One};

/// A resource that is watched.
#[derive(Debug)]
pub struct Resource {
    /// Its API group; empty for the core group.
    pub group: &'static str,
    /// The versions that are read, the preferred one first: a server that does not know it is asked for the next.
    pub versions: &'static [&'static str],
    /// Its kind.
    pub kind: &'static str,
    /// Its name in URLs.
    pub plural: &'static str,
}

const fn resource(
    group: &'static str,
    versions: &'static [&'static str],
    kind: &'static str,
    plural: &'static str,
) -> Resource {
    Resource { group, versions, kind, plural }
}

/// Parents of one route (Gateway API: 32).
const PARENTS_MAX: usize = 32;

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const OURS: &str = crate::crd::GROUP;

/// What is watched on the Fleet, Secrets apart. Those that are resources of a CRD may be missing.
pub static FLEET: [Resource; 20] = [
    resource("networking.k8s.io", &["v1"], "Ingress", "ingresses"),
    resource("networking.k8s.io", &["v1"], "IngressClass", "ingressclasses"),
    resource(GATEWAY_API, &["v1", "v1beta1"], "GatewayClass", "gatewayclasses"),
    resource(GATEWAY_API, &["v1", "v1beta1"], "Gateway", "gateways"),
    resource(GATEWAY_API, &["v1", "v1beta1"], "HTTPRoute", "httproutes"),
    resource(GATEWAY_API, &["v1", "v1alpha2"], "GRPCRoute", "grpcroutes"),
    resource(GATEWAY_API, &["v1", "v1alpha2"], "TCPRoute", "tcproutes"),
    resource(GATEWAY_API, &["v1", "v1alpha3", "v1alpha2"], "TLSRoute", "tlsroutes"),
    resource(GATEWAY_API, &["v1", "v1alpha2"], "UDPRoute", "udproutes"),
    resource(GATEWAY_API, &["v1", "v1beta1"], "ReferenceGrant", "referencegrants"),
    resource(GATEWAY_API, &["v1"], "BackendTLSPolicy", "backendtlspolicies"),
    resource("", &["v1"], "Namespace", "namespaces"),
    resource("", &["v1"], "ConfigMap", "configmaps"),
    resource("multicluster.x-k8s.io", &["v1beta1", "v1alpha1"], "ServiceImport", "serviceimports"),
    resource("multicluster.x-k8s.io", &["v1alpha1"], "ClusterProfile", "clusterprofiles"),
    resource(OURS, &["v1alpha1"], "MemberCluster", "memberclusters"),
    resource(OURS, &["v1alpha1"], "GatewayConfig", "gatewayconfigs"),
    resource(OURS, &["v1alpha1"], "FailoverPolicy", "failoverpolicies"),
    resource("alibabacloud.com", &["v1"], "AlbConfig", "albconfigs"),
    resource("mse.alibabacloud.com", &["v1alpha1"], "MseIngressConfig", "mseingressconfigs"),
];

/// What is watched on a member.
pub static MEMBER: [Resource; 3] = [
    resource("", &["v1"], "Service", "services"),
    resource("discovery.k8s.io", &["v1"], "EndpointSlice", "endpointslices"),
    resource("", &["v1"], "Node", "nodes"),
];

/// Read one by one, by name.
static SECRET: Resource = resource("", &["v1"], "Secret", "secrets");

/// The resource that has this group and kind, if it is read at all.
#[must_use]
pub fn find(group: &str, kind: &str) -> Option<&'static Resource> {
    let mut all = FLEET.iter().chain(&MEMBER).chain(std::iter::once(&SECRET));
    all.find(|resource| resource.group == group && resource.kind == kind)
}

impl Resource {
    /// One of its versions, as the client names it.
    #[must_use]
    pub fn api(&self, version: &str) -> ApiResource {
        let group = self.group;
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// What of a Fleet object's status is read: all of a `ClusterProfile`'s, and which addresses a Gateway has.
    fn keep_of_status(&self, object: &mut serde_json::Map<String, Value>) {
        let kept = match (self.kind, object.remove("status")) {
            ("ClusterProfile", Some(status)) => status,
            ("Gateway", Some(status)) if status["addresses"].is_array() => {
                serde_json::json!({"addresses": status["addresses"]})
            }
            _ => return,
        };
        object.insert("status".to_owned(), kept);
    }

    /// Decodes one object that the API server sent.
    ///
    /// What changes without a change of what is asked for is left out: `managedFields`, `resourceVersion` and, on the
    /// Fleet, where it is ours to write, `status`. That of a `ClusterProfile` is its manager's, and says how it is reached; a Gateway's
    /// addresses are kept, too: they are where it is known which it has.
    #[must_use]
    pub fn decode(&self, version: &str, object: DynamicObject, source: &Source) -> One {
        let DynamicObject { types: _, mut metadata, data } = object;
        let generation = metadata.generation.unwrap_or(0);
        let uid = Arc::from(metadata.uid.as_deref().unwrap_or_default());
        metadata.managed_fields = None;
        metadata.resource_version = None;
        let mut map = match data {
            Value::Object(map) => map,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                serde_json::Map::new()
            }
        };
        if *source == Source::Fleet {
            self.keep_of_status(&mut map);
        }
        map.insert("apiVersion".to_owned(), self.api(version).api_version.into());
        map.insert("kind".to_owned(), self.kind.into());
        map.insert("metadata".to_owned(), serde_json::to_value(metadata).unwrap_or_default());
        let remains = Remains { generation, uid, parents: parents(&map) };
        match decode::decode_one(Value::Object(map), source) {
            One::Refused(id, note, _) => One::Refused(id, note, remains),
            read @ (One::Object(..) | One::Unused(_)) => read,
        }
    }
}

/// What can be read of a route's `parentRefs`.
fn parents(object: &serde_json::Map<String, Value>) -> Vec<ParentRef> {
    let given = object.get("spec").and_then(|spec| spec.get("parentRefs")).and_then(Value::as_array);
    let read = |parent: &Value| serde_json::from_value(parent.clone()).ok();
    given.into_iter().flatten().take(PARENTS_MAX).filter_map(read).collect()
}
