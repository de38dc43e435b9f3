//! `ClusterProfile` objects of a cluster inventory (KEP-4322), reduced to where a cluster is and how it is reached.
//!
//! Pure. `status.accessProviders` (and the deprecated `credentialProviders`) are meant for plugins that a consumer runs;
//! nothing is run here. Two providers only read a Secret, and are followed without their programs: they are the
//! reference plugins of SIG Multicluster. Every other one is refused by name (SECURITY S41), as is what an entry may not
//! ask for: the same as in a kubeconfig. Source: KEP-4322, KEP-5339 (`AccessProvider`, the reserved extension).

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::credentials::Refused;
use super::decode::{self, Refusal};
use crate::object::{FleetProfile, Object, ObjectId, ProfileAccess, ProfileSecret, Spec};
use crate::verdict::{Note, Notes, Severity};

/// Reads `Secret.data[key]` as a kubeconfig.
const KUBECONFIG_READER: &str = "kubeconfig-secretreader";
/// Reads `Secret.data.token`.
const TOKEN_READER: &str = "secretreader";
/// The extension that holds a provider's own settings.
const SETTINGS: &str = "client.authentication.k8s.io/exec";
/// Entries of a profile's lists that are looked at.
const ENTRIES_MAX: usize = 64;
/// Bytes of each text that is kept: an authority is the longest.
const TEXT_BYTES_MAX: usize = 256 * 1024;

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Entry {
    server: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
    certificate_authority: String,
    certificate_authority_data: String,
    proxy_url: String,
    extensions: Vec<Extension>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extension {
    name: String,
    extension: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KubeconfigSettings {
    name: String,
    key: String,
    namespace: String,
    context: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TokenSettings {
    cluster_name: String,
}

/// Reads one.
pub(super) fn read(value: &Value, id: ObjectId, notes: Notes) -> Result<(Object, Notes), Refusal> {
    let meta = decode::meta(value, &id)?;
    let status = &value["status"];
    let property = |names: &[&str]| {
        let of = |name: &&str| {
            let found = status["properties"].as_array()?.iter().take(ENTRIES_MAX);
            found.clone().find(|property| property["name"] == *name)?["value"].as_str()
        };
        names.iter().find_map(of).filter(|value| value.len() <= 63).unwrap_or_default().into()
    };
    let mut profile = FleetProfile {
        region: property(&["topology.kubernetes.io/region", "location"]),
        zone: property(&["topology.kubernetes.io/zone"]),
        is_member: true,
        ..FleetProfile::default()
    };
    for list in ["accessProviders", "credentialProviders"] {
        let entries = status[list].as_array().into_iter().flatten().take(ENTRIES_MAX);
        for (index, entry) in entries.enumerate() {
            if profile.access.is_some() {
                break;
            }
            let field = format!("status.{list}[{index}]");
            match access(entry, &field, &id.name) {
                Ok(access) => profile.access = Some(access),
                Err(note) => profile.refused.push(note),
            }
        }
    }
    if profile.access.is_some() {
        profile.refused.clear();
    }
    Ok((decode::with_meta(id, meta, Spec::ClusterProfile(Box::new(profile))), notes))
}

fn typed<T: DeserializeOwned>(value: &Value, field: &str) -> Result<T, Note> {
    serde_path_to_error::deserialize(value.clone()).map_err(|error| {
        let (path, why) = (error.path().to_string(), error.inner().to_string());
        Note::new(Severity::Refused, format!("{field}.{path}"), "", why)
    })
}

fn access(entry: &Value, field: &str, profile: &str) -> Result<ProfileAccess, Note> {
    let name = entry["name"].as_str().unwrap_or_default();
    let refused = |within: &str, value: &str, reason: String| {
        Note::new(Severity::Refused, format!("{field}{within}"), value, reason)
    };
    if ![KUBECONFIG_READER, TOKEN_READER].contains(&name) {
        let reason = format!(
            "an exec plugin of this name would run on this node: refused; followed without one: {KUBECONFIG_READER}, {TOKEN_READER}"
        );
        return Err(refused(".name", name, reason));
    }
    let cluster = match entry.get("cluster") {
        None | Some(Value::Null) => Entry::default(),
        Some(cluster) => typed(cluster, &format!("{field}.cluster"))?,
    };
    let wrong = [
        (cluster.insecure_skip_tls_verify, "insecure-skip-tls-verify", Refused::Unverified),
        (!cluster.proxy_url.is_empty(), "proxy-url", Refused::Proxy),
        (
            !cluster.certificate_authority.is_empty(),
            "certificate-authority",
            Refused::File("certificate-authority"),
        ),
    ];
    if let Some((_, within, why)) = wrong.into_iter().find(|(is_wrong, ..)| *is_wrong) {
        return Err(refused(&format!(".cluster.{within}"), "", why.to_string()));
    }
    let settings = cluster.extensions.iter().find(|extension| extension.name == SETTINGS);
    let within = format!(".cluster.extensions[{SETTINGS}]");
    let Some(settings) = settings else {
        return Err(refused(&within, "", "missing: it says which Secret holds the credentials".to_owned()));
    };
    let (namespace, secret, holds) = match name {
        TOKEN_READER => {
            let read: TokenSettings = typed(&settings.extension, &format!("{field}{within}"))?;
            (String::new(), read.cluster_name, ProfileSecret::Token)
        }
        _ => {
            let read: KubeconfigSettings = typed(&settings.extension, &format!("{field}{within}"))?;
            let holds = ProfileSecret::Kubeconfig { key: read.key, context: read.context };
            (read.namespace, read.name, holds)
        }
    };
    let missing = match &holds {
        _ if secret.is_empty() && name == TOKEN_READER => Some(("clusterName", "the Secret's name")),
        _ if secret.is_empty() => Some(("name", "the Secret's name")),
        ProfileSecret::Kubeconfig { key, .. } if key.is_empty() => Some(("key", "the key of the kubeconfig")),
        ProfileSecret::Token if cluster.server.is_empty() => {
            return Err(refused(".cluster.server", "", "missing: the Secret holds only a token".to_owned()));
        }
        ProfileSecret::Kubeconfig { .. } | ProfileSecret::Token => None,
    };
    if let Some((of, what)) = missing {
        return Err(refused(&format!("{within}.{of}"), "", format!("missing: {what}")));
    }
    let texts = [&cluster.server, &cluster.certificate_authority_data, &cluster.tls_server_name, &secret];
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(refused(".cluster", "", format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(ProfileAccess {
        field: field.to_owned(),
        profile: profile.to_owned(),
        namespace: (!namespace.is_empty()).then_some(namespace),
        secret,
        holds,
        server: cluster.server,
        authority: cluster.certificate_authority_data,
        server_name: cluster.tls_server_name,
    })
}

/// What is used of it, as a manifest.
pub(crate) fn manifest(object: &Object, profile: &FleetProfile) -> Value {
    let mut properties = Vec::new();
    for (name, value) in
        [("topology.kubernetes.io/region", &profile.region), ("topology.kubernetes.io/zone", &profile.zone)]
    {
        if !value.is_empty() {
            properties.push(json!({"name": name, "value": &**value}));
        }
    }
    let provider = profile.access.iter().map(|access| {
        let (name, settings) = match &access.holds {
            ProfileSecret::Token => (TOKEN_READER, json!({"clusterName": access.secret})),
            ProfileSecret::Kubeconfig { key, context } => {
                let namespace = access.namespace.clone().unwrap_or_default();
                let settings =
                    json!({"name": access.secret, "key": key, "context": context, "namespace": namespace});
                (KUBECONFIG_READER, settings)
            }
        };
        json!({"name": name, "cluster": {
            "server": access.server, "certificate-authority-data": access.authority,
            "tls-server-name": access.server_name,
            "extensions": [{"name": SETTINGS, "extension": settings}],
        }})
    });
    let providers: Vec<Value> = provider.collect();
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": {"name": &*object.id.name, "namespace": &*object.id.namespace, "generation": object.generation},
        "status": {"properties": properties, "accessProviders": providers},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Source;
    use crate::watch::decode::{One, decode_one};

    fn profile(status: Value) -> (Box<Object>, FleetProfile) {
        let object = json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
            "metadata": {"name": "beta", "namespace": "inventory"},
            "spec": {"clusterManager": {"name": "m"}}, "status": status});
        let One::Object(object, _) = decode_one(object, &Source::Fleet) else { panic!("not read") };
        let profile = object.spec.profile().unwrap().clone();
        (object, profile)
    }

    fn provider(name: &str, cluster: Value, settings: Value) -> Value {
        let mut cluster = cluster;
        cluster["extensions"] = json!([{"name": SETTINGS, "extension": settings}]);
        json!({"name": name, "cluster": cluster})
    }

    #[test]
    fn the_first_provider_that_needs_no_program_is_followed_and_the_deprecated_list_comes_last() {
        let server = json!({"server": "https://10.0.0.1", "certificate-authority-data": "QQ==", "tls-server-name": "n"});
        let kubeconfig =
            provider(KUBECONFIG_READER, server.clone(), json!({"name": "s", "key": "value", "context": "c"}));
        let token = provider(TOKEN_READER, server, json!({"clusterName": "beta"}));
        let (object, read) = profile(json!({
            "credentialProviders": [token],
            "accessProviders": [{"name": "google"}, kubeconfig],
            "properties": [{"name": "location", "value": "eu"}, {"name": "topology.kubernetes.io/zone", "value": "eu-1"}],
        }));
        let access = read.access.clone().unwrap();
        let holds = ProfileSecret::Kubeconfig { key: "value".to_owned(), context: "c".to_owned() };
        assert_eq!((&*access.secret, access.holds, &*access.server), ("s", holds, "https://10.0.0.1"));
        assert_eq!((&*access.field, &*access.server_name), ("status.accessProviders[1]", "n"));
        assert_eq!((&*read.region, &*read.zone, read.refused.len()), ("eu", "eu-1", 0));

        let One::Object(again, _) = decode_one(manifest(&object, &read), &Source::Fleet) else { panic!() };
        let mut again = again.spec.profile().unwrap().clone();
        again.access.as_mut().unwrap().field = "status.accessProviders[1]".to_owned();
        assert_eq!(again, read, "the disk holds all of it");

        let (_, old) = profile(json!({"credentialProviders": [token]}));
        assert_eq!(old.access.unwrap().holds, ProfileSecret::Token);
    }

    #[test]
    fn what_a_provider_may_not_ask_for_is_refused_by_name() {
        let secret = json!({"name": "s", "key": "k"});
        let with =
            |field: &str, value: Value| provider(KUBECONFIG_READER, json!({field: value}), secret.clone());
        let cases = [
            (json!({"name": "google"}), ".name", "exec plugin"),
            (with("proxy-url", json!("http://p")), ".cluster.proxy-url", "proxy-url"),
            (with("insecure-skip-tls-verify", json!(true)), ".cluster.insecure-skip-tls-verify", "refused"),
            (with("certificate-authority", json!("/etc/ca")), ".cluster.certificate-authority", "a file"),
            (with("server", json!(7)), ".cluster.server", "string"),
            (json!({"name": TOKEN_READER}), ".cluster.extensions", "missing"),
            (provider(TOKEN_READER, json!({}), json!({"clusterName": "b"})), ".cluster.server", "missing"),
            (provider(TOKEN_READER, json!({"server": "s"}), json!({})), "clusterName", "missing"),
            (provider(KUBECONFIG_READER, json!({}), json!({"name": "s"})), ".key", "missing"),
        ];
        for (provider, field, reason) in cases {
            let (_, read) = profile(json!({"accessProviders": [provider]}));
            let [note] = &read.refused[..] else { panic!("{provider}: {read:?}") };
            assert!(note.field.starts_with("status.accessProviders[0]"), "{note:?}");
            assert!(note.field.contains(field) && note.reason.contains(reason), "{note:?}");
            assert_eq!((read.access, note.severity), (None, Severity::Refused));
        }
    }
}
