//! How a member's API is reached: kubeconfigs in Secrets, and what is refused in them by name.
//!
//! A kubeconfig comes from another cluster, perhaps from another team. It may name a server, a certificate authority
//! and a credential, all of them inline. It may not make this process run a program, read a file, go through a proxy,
//! or skip the check of the server's certificate (SECURITY S41). Nothing of a Secret's content is ever logged.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Secret;
use kube::Config;
use kube::config::{Cluster, KubeConfigOptions, Kubeconfig, NamedCluster};
use serde_json::{Value, json};

use crate::object::{ProfileAccess, ProfileSecret};
use crate::watch::files::is_cluster_name;

/// A label whose value is the cluster id: the Secret's kubeconfig makes a member.
pub const MEMBER_LABEL: &str = "ringway.dev/member";
/// Istio's remote secrets: every key is a cluster's name, every value its kubeconfig.
const ISTIO_LABEL: (&str, &str) = ("istio/multiCluster", "true");
/// Argo CD's cluster secrets.
const ARGO_LABEL: (&str, &str) = ("argocd.argoproj.io/secret-type", "cluster");
/// A cluster inventory's Secrets (KEP-4322): the value is the name of a `ClusterProfile`, and the Secret makes a member
/// only where there is that profile.
const INVENTORY_LABEL: &str = "x-k8s.io/cluster-profile";
/// Keys that a kubeconfig is looked for under; where there is only one key, it may have any name.
const KUBECONFIG_KEYS: [&str; 4] = ["kubeconfig", "value", "config", "Config"];
/// The name of the cluster that a profile describes, in the kubeconfig made of both.
const PROFILE: &str = "ringway-cluster-profile";
/// Largest kubeconfig, in bytes: a Secret cannot hold more.
const KUBECONFIG_BYTES_MAX: usize = 1024 * 1024;

/// Credentials of one member.
#[derive(Clone)]
pub struct Credentials {
    /// How its API is reached.
    pub config: Config,
    /// Tells them from other ones.
    pub digest: u64,
}

/// Why a Secret makes no member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `users[].user.exec`, or Argo CD's `execProviderConfig` or `awsAuthConfig`: it would run a program.
    Plugin(&'static str),
    /// A path instead of inline data.
    File(&'static str),
    /// `clusters[].cluster.proxy-url`
    Proxy,
    /// `insecure-skip-tls-verify: true`
    Unverified,
    /// `http://` to another machine.
    Plaintext,
    /// No such key in the Secret.
    Absent,
    /// Not a kubeconfig, or one without what it refers to.
    Unreadable(&'static str),
    /// Not a cluster id.
    Name(String),
    /// The `ClusterProfile` of this name says where the credentials are sent, and the Secret does not say that they are
    /// for it.
    Unlabelled(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(field) => write!(f, "{field} is refused: it would run a program on this node"),
            Self::File(field) => {
                write!(f, "{field} is refused: it would read a file of this node; put the data inline")
            }
            Self::Proxy => f.write_str("proxy-url is refused: the API is reached directly"),
            Self::Unverified => f.write_str(
                "insecure-skip-tls-verify is refused: whoever answers there would decide where requests go",
            ),
            Self::Plaintext => f.write_str("http:// is refused: credentials would travel in the clear"),
            Self::Absent => f.write_str("the Secret has no key kubeconfig, value, config or Config"),
            Self::Unreadable(what) => write!(f, "not a usable kubeconfig: {what}"),
            Self::Unlabelled(profile) => write!(
                f,
                "the profile gives cluster.server, and the Secret has no label {INVENTORY_LABEL}: {profile}: \
                 its credentials would be sent where their owner did not mean them to go"
            ),
            Self::Name(name) => {
                write!(f, "{name:?} is no cluster id: 1 to 63 lower-case letters, digits or '-'")
            }
        }
    }
}

/// A Secret whose labels say that it makes members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// [`MEMBER_LABEL`]
    Ours,
    /// Istio's.
    Istio,
    /// Argo CD's.
    Argo,
    /// [`INVENTORY_LABEL`]
    Inventory,
}

/// What the labels say.
#[must_use]
pub fn shape(labels: &std::collections::BTreeMap<String, String>) -> Option<Shape> {
    let has = |(key, value): (&str, &str)| labels.get(key).is_some_and(|given| given == value);
    if labels.contains_key(MEMBER_LABEL) {
        Some(Shape::Ours)
    } else if has(ISTIO_LABEL) {
        Some(Shape::Istio)
    } else if has(ARGO_LABEL) {
        Some(Shape::Argo)
    } else if labels.contains_key(INVENTORY_LABEL) {
        Some(Shape::Inventory)
    } else {
        None
    }
}

/// The members that a labelled Secret makes: names, and credentials or why there are none.
pub async fn members(secret: &Secret, shape: Shape) -> Vec<(String, Result<Credentials, Refused>)> {
    let named = |name: String| if is_cluster_name(&name) { Ok(name) } else { Err(Refused::Name(name)) };
    let found: Vec<(String, Result<String, Refused>)> = match shape {
        Shape::Ours | Shape::Inventory => {
            let label = if shape == Shape::Ours { MEMBER_LABEL } else { INVENTORY_LABEL };
            let labels = secret.metadata.labels.as_ref();
            let name = labels.and_then(|labels| labels.get(label)).cloned().unwrap_or_default();
            vec![(name, kubeconfig(secret))]
        }
        Shape::Istio => {
            let keys = secret.data.iter().flatten().map(|(key, _)| key.clone());
            keys.map(|key| (key.clone(), text(secret, &key).ok_or(Refused::Unreadable("not UTF-8"))))
                .collect()
        }
        Shape::Argo => {
            let name = text(secret, "name").unwrap_or_default();
            vec![(name, argo(secret))]
        }
    };
    let mut out = Vec::with_capacity(found.len());
    for (name, kubeconfig) in found {
        let result = match named(name.clone()).and(kubeconfig) {
            Ok(kubeconfig) => credentials(&kubeconfig).await,
            Err(refused) => Err(refused),
        };
        out.push((name, result));
    }
    out
}

/// The credentials in a Secret that a `MemberCluster` names.
///
/// # Errors
/// Why it cannot be used.
pub async fn referenced(secret: &Secret) -> Result<Credentials, Refused> {
    let is_argo = secret.metadata.labels.as_ref().and_then(shape) == Some(Shape::Argo);
    let kubeconfig = if is_argo { argo(secret)? } else { kubeconfig(secret)? };
    credentials(&kubeconfig).await
}

/// The credentials in a Secret that a `ClusterProfile` names.
///
/// # Errors
/// Why they cannot be used.
pub async fn profiled(secret: &Secret, access: &ProfileAccess) -> Result<Credentials, Refused> {
    let (text, mut parsed) = match &access.holds {
        ProfileSecret::Token => {
            let token = text(secret, "token").ok_or(Refused::Unreadable("it has no key token"))?;
            let auth = json!({"apiVersion": "v1", "kind": "Config", "current-context": "profile",
                "contexts": [{"name": "profile", "context": {"cluster": "profile", "user": "profile"}}],
                "users": [{"name": "profile", "user": {"token": token.trim()}}]});
            let text = auth.to_string();
            let parsed = parse(&text)?;
            (text, parsed)
        }
        ProfileSecret::Kubeconfig { key, context } => {
            let missing = Refused::Unreadable("it has no such key as the profile names");
            let text = text(secret, key).ok_or(missing)?;
            let mut parsed = parse(&text)?;
            if !context.is_empty() {
                parsed.current_context = Some(context.clone());
            }
            (text, parsed)
        }
    };
    if !access.server.is_empty() {
        let labels = secret.metadata.labels.as_ref();
        if labels.and_then(|labels| labels.get(INVENTORY_LABEL)) != Some(&access.profile) {
            return Err(Refused::Unlabelled(access.profile.clone()));
        }
        let chosen =
            parsed.contexts.iter_mut().find(|named| Some(&named.name) == parsed.current_context.as_ref());
        let chosen = chosen.and_then(|named| named.context.as_mut());
        let chosen = chosen.ok_or(Refused::Unreadable("it has no such context as the profile names"))?;
        // Where the cluster is, is the profile's to say.
        PROFILE.clone_into(&mut chosen.cluster);
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let cluster = Cluster {
            server: given(&access.server),
            certificate_authority_data: given(&access.authority),
            tls_server_name: given(&access.server_name),
            ..Cluster::default()
        };
        parsed.clusters.retain(|named| named.name != PROFILE);
        parsed.clusters.push(NamedCluster {
            name: PROFILE.to_owned(),
            cluster: Some(cluster),
            ..NamedCluster::default()
        });
    }
    usable(parsed, &format!("{access:?} {text}")).await
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    (bytes.0.len() <= KUBECONFIG_BYTES_MAX).then(|| String::from_utf8(bytes.0.clone()).ok())?
}

fn kubeconfig(secret: &Secret) -> Result<String, Refused> {
    let known = KUBECONFIG_KEYS.iter().find_map(|key| text(secret, key));
    let only = || {
        let data = secret.data.as_ref().filter(|data| data.len() == 1)?;
        text(secret, data.keys().next()?)
    };
    known.or_else(only).ok_or(Refused::Absent)
}

/// Argo CD's form, as a kubeconfig: the same checks hold for it.
fn argo(secret: &Secret) -> Result<String, Refused> {
    let server = text(secret, "server").ok_or(Refused::Unreadable("no server"))?;
    let config: Value = match text(secret, "config") {
        Some(config) => {
            serde_json::from_str(&config).map_err(|_| Refused::Unreadable("config is not JSON"))?
        }
        None => Value::Null,
    };
    for field in ["execProviderConfig", "awsAuthConfig"] {
        if config.get(field).is_some_and(|value| !value.is_null()) {
            return Err(Refused::Plugin(field));
        }
    }
    let tls = &config["tlsClientConfig"];
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "argo",
        "contexts": [{"name": "argo", "context": {"cluster": "argo", "user": "argo"}}],
        "clusters": [{"name": "argo", "cluster": {
            "server": server,
            "certificate-authority-data": tls["caData"],
            "insecure-skip-tls-verify": tls["insecure"],
            "tls-server-name": tls["serverName"],
            "proxy-url": config["proxyUrl"],
        }}],
        "users": [{"name": "argo", "user": {
            "token": config["bearerToken"],
            "username": config["username"],
            "password": config["password"],
            "client-certificate-data": tls["certData"],
            "client-key-data": tls["keyData"],
        }}],
    });
    Ok(kubeconfig.to_string())
}

async fn credentials(kubeconfig: &str) -> Result<Credentials, Refused> {
    usable(parse(kubeconfig)?, kubeconfig).await
}

fn parse(kubeconfig: &str) -> Result<Kubeconfig, Refused> {
    // What the parser says may quote the text, and the text holds a credential.
    let mut parsed =
        Kubeconfig::from_yaml(kubeconfig).map_err(|_| Refused::Unreadable("it does not parse"))?;
    if parsed.current_context.as_deref().is_none_or(str::is_empty) && parsed.contexts.len() == 1 {
        parsed.current_context = Some(parsed.contexts[0].name.clone());
    }
    Ok(parsed)
}

/// What it says, if it may be used; `told_by`: what tells it from another.
async fn usable(parsed: Kubeconfig, told_by: &str) -> Result<Credentials, Refused> {
    check(&parsed)?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|_| Refused::Unreadable("server, certificates or credentials cannot be read"))?;
    let host = config.cluster_url.host().unwrap_or_default();
    let is_loopback =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if config.cluster_url.scheme_str() != Some("https") && !is_loopback {
        return Err(Refused::Plaintext);
    }
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    hasher.write(told_by.as_bytes());
    Ok(Credentials { config, digest: hasher.finish() })
}

/// Refuses what a kubeconfig from elsewhere may not ask for: in any of its entries, chosen or not.
fn check(kubeconfig: &Kubeconfig) -> Result<(), Refused> {
    for cluster in kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref()) {
        if cluster.insecure_skip_tls_verify == Some(true) {
            return Err(Refused::Unverified);
        }
        if cluster.proxy_url.as_deref().is_some_and(|url| !url.is_empty()) {
            return Err(Refused::Proxy);
        }
        if cluster.certificate_authority.as_deref().is_some_and(|path| !path.is_empty()) {
            return Err(Refused::File("certificate-authority"));
        }
    }
    for user in kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
        if user.exec.is_some() {
            return Err(Refused::Plugin("exec"));
        }
        if user.auth_provider.is_some() {
            return Err(Refused::Plugin("auth-provider"));
        }
        let files = [
            ("tokenFile", &user.token_file),
            ("client-certificate", &user.client_certificate),
            ("client-key", &user.client_key),
        ];
        for (field, path) in files {
            if path.as_deref().is_some_and(|path| !path.is_empty()) {
                return Err(Refused::File(field));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn secret(labels: &[(&str, &str)], data: &[(&str, &str)]) -> Secret {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let mut secret = Secret::default();
        secret.metadata.labels = Some(labels.iter().map(owned).collect());
        let bytes = |(key, value): &(&str, &str)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        secret.data = Some(data.iter().map(bytes).collect::<BTreeMap<_, _>>());
        secret
    }

    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts:\n- {{name: a, context: {{cluster: a, user: a}}}}\n\
             clusters:\n- {{name: a, cluster: {{{cluster}}}}}\nusers:\n- {{name: a, user: {{{user}}}}}\n"
        )
    }

    #[test]
    fn what_a_foreign_kubeconfig_may_not_ask_for_is_refused_by_name() {
        let server = "server: \"https://10.0.0.1:6443\"";
        let cases = [
            (config(server, "exec: {command: sh, apiVersion: client.authentication.k8s.io/v1}"), "exec"),
            (config(server, "auth-provider: {name: gcp}"), "auth-provider"),
            (config(server, "tokenFile: /etc/shadow"), "tokenFile"),
            (config(server, "client-certificate: /etc/ssl/c.pem"), "client-certificate"),
            (config(server, "client-key: /etc/ssl/k.pem"), "client-key"),
            (
                config(&format!("{server}, certificate-authority: /etc/ca"), "token: t"),
                "certificate-authority",
            ),
            (config(&format!("{server}, proxy-url: \"http://p\""), "token: t"), "proxy-url"),
            (
                config(&format!("{server}, insecure-skip-tls-verify: true"), "token: t"),
                "insecure-skip-tls-verify",
            ),
            (config("server: \"http://10.0.0.1:8080\"", "token: t"), "http://"),
            ("token: [".to_owned(), "does not parse"),
        ];
        for (kubeconfig, named) in cases {
            let secret = secret(&[], &[("kubeconfig", &kubeconfig)]);
            let Err(refused) = now(referenced(&secret)) else { panic!("{kubeconfig} was accepted") };
            assert!(refused.to_string().contains(named), "{refused}");
        }
        let secret = secret(&[], &[("kubeconfig", &config(server, "token: t"))]);
        assert!(now(referenced(&secret)).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_secret_never_quotes_it() {
        let secret = secret(&[], &[("kubeconfig", "users: [{name: a, user: {token: hunter2")]);
        let Err(refused) = now(referenced(&secret)) else { panic!("accepted") };
        assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused}");
    }

    #[test]
    fn istio_argo_and_our_own_secrets_name_their_members() {
        let good = config("server: \"https://10.0.0.1:6443\"", "token: t");
        let istio = secret(&[("istio/multiCluster", "true")], &[("alpha", &good), ("Beta!", &good)]);
        assert_eq!(shape(istio.metadata.labels.as_ref().unwrap()), Some(Shape::Istio));
        let found = now(members(&istio, Shape::Istio));
        assert!(matches!(&found[0], (name, Err(Refused::Name(_))) if name == "Beta!"));
        assert!(matches!(&found[1], (name, Ok(_)) if name == "alpha"));

        let label = [("argocd.argoproj.io/secret-type", "cluster")];
        let argo = |config: &str| {
            secret(&label, &[("name", "beta"), ("server", "https://10.0.0.2"), ("config", config)])
        };
        let found = now(members(&argo(r#"{"bearerToken": "t"}"#), Shape::Argo));
        assert!(matches!(&found[0], (name, Ok(_)) if name == "beta"));
        for (config, named) in [
            (r#"{"execProviderConfig": {"command": "sh"}}"#, "execProviderConfig"),
            (r#"{"awsAuthConfig": {"clusterName": "x"}}"#, "awsAuthConfig"),
            (r#"{"tlsClientConfig": {"insecure": true}}"#, "insecure-skip-tls-verify"),
        ] {
            let found = now(members(&argo(config), Shape::Argo));
            let Err(refused) = &found[0].1 else { panic!("{config} was accepted") };
            assert!(refused.to_string().contains(named), "{refused}");
        }

        let ours = secret(&[(MEMBER_LABEL, "gamma")], &[("anything", &good)]);
        assert!(matches!(&now(members(&ours, Shape::Ours))[0], (name, Ok(_)) if name == "gamma"));
    }
}
