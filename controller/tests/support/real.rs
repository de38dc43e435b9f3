//! Real API servers in place of ours, where the environment names some (`scripts/test-apiserver`): each test takes as
//! many as it needs, one after the other, and finds them empty.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test uses its own part of this"
)]

use std::sync::{Arc, Mutex};

use controller::watch::client::{Contact, client};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::apiserver::{CLOUD, CORE, GATEWAY_API, OURS, base64};

/// Servers that no test uses now; `None` = not looked at yet.
static FREE: Mutex<Option<Vec<String>>> = Mutex::new(None);

fn free<T>(with: impl FnOnce(&mut Vec<String>) -> T) -> T {
    let mut free = FREE.lock().unwrap();
    let given = || std::env::var("RINGWAY_TEST_APISERVERS").unwrap_or_default();
    let split = || given().split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect();
    with(free.get_or_insert_with(split))
}

pub fn are_given() -> bool {
    std::env::var("RINGWAY_TEST_APISERVERS").is_ok_and(|urls| !urls.is_empty())
}

pub struct Real {
    url: String,
    runtime: Mutex<Runtime>,
    client: Client,
}

impl Real {
    /// The next free one, emptied.
    pub fn take() -> Self {
        let url = free(Vec::pop)
            .expect("a test uses more API servers than there are: run it with --test-threads=1");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let read = Kubeconfig::from_yaml(&kubeconfig(&url)).unwrap();
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
            client(&config, &Arc::new(Contact::default())).unwrap()
        });
        let real = Self { url, runtime: Mutex::new(runtime), client };
        real.empty();
        real
    }

    pub fn kubeconfig(&self) -> String {
        kubeconfig(&self.url)
    }

    fn run<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.lock().unwrap().block_on(what)
    }

    fn api(&self, (group, plural, kind): (&str, &str, &str), namespace: &str) -> Api<DynamicObject> {
        let (name, version) = group.split_once('/').unwrap_or(("", group));
        let resource = ApiResource {
            group: name.to_owned(),
            version: version.to_owned(),
            api_version: group.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    fn empty(&self) {
        for kind in kinds().filter(|(_, plural, _)| *plural != "namespaces") {
            for object in self.list(kind) {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                let (namespace, name) = (text("namespace"), text("name"));
                // The server's own, which it makes again.
                if name != "kubernetes" && !namespace.starts_with("kube-") {
                    let api = self.api(kind, &namespace);
                    let _ = self.run(api.delete(&name, &DeleteParams::default()));
                }
            }
        }
    }

    fn list(&self, kind: (&str, &str, &str)) -> Vec<Value> {
        let api = self.api(kind, "");
        let list = self.run(api.list(&ListParams::default())).unwrap();
        list.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    /// Creates or replaces, status included; the server's own word when it refuses.
    pub fn put(&self, object: &Value) -> Result<Value, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let is =
            |(group, _, kind): &(&str, &str, &str)| object["apiVersion"] == *group && object["kind"] == *kind;
        let kind = kinds().find(is).expect("a kind that the tests know");
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        if !namespace.is_empty() && namespace != "default" {
            let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            let api = self.api(("v1", "namespaces", "Namespace"), "");
            let _ = self.run(api.create(&PostParams::default(), &serde_json::from_value(own).unwrap()));
        }
        let api = self.api(kind, &namespace);
        let params = PostParams::default();
        let mut given: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
        given.metadata.managed_fields = None;
        let status = given.data.get("status").cloned();
        // Somebody may write in between.
        for _ in 0..5 {
            let there = self.run(api.get_opt(&name)).map_err(|error| error.to_string())?;
            given.metadata.resource_version =
                there.as_ref().and_then(|there| there.metadata.resource_version.clone());
            let written = match there {
                Some(_) => self.run(api.replace(&name, &params, &given)),
                None => self.run(api.create(&params, &given)),
            };
            let mut written = match written {
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                written => written.map_err(|error| error.to_string())?,
            };
            if let Some(status) = &status {
                written.data["status"] = status.clone();
                written = match self.run(api.replace_status(&name, &params, &written)) {
                    Err(kube::Error::Api(status)) if status.code == 409 => continue,
                    written => written.map_err(|error| error.to_string())?,
                };
            }
            return Ok(serde_json::to_value(written).unwrap());
        }
        Err("409 five times".to_owned())
    }

    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let api = self.api(by_plural(plural), namespace);
        self.run(api.delete(name, &DeleteParams::default())).unwrap();
    }

    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let api = self.api(by_plural(plural), namespace);
        let found = self.run(api.get_opt(name)).unwrap();
        found.map(|object| serde_json::to_value(object).unwrap())
    }

    pub fn objects(&self, plural: &str) -> Vec<Value> {
        self.list(by_plural(plural))
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        free(|free| free.push(self.url.clone()));
    }
}

fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    CORE.into_iter().chain(OURS).chain(GATEWAY_API).chain(CLOUD)
}

fn by_plural(plural: &str) -> (&'static str, &'static str, &'static str) {
    kinds().find(|(_, known, _)| *known == plural).expect("a kind that the tests know")
}

fn kubeconfig(url: &str) -> String {
    let ca = std::fs::read(std::env::var("RINGWAY_TEST_CA").unwrap()).unwrap();
    let (ca, token) = (base64(&ca), std::env::var("RINGWAY_TEST_TOKEN").unwrap());
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts:\n- {{name: a, context: {{cluster: a, user: a}}}}\n\
         clusters:\n- {{name: a, cluster: {{server: \"{url}\", certificate-authority-data: \"{ca}\"}}}}\n\
         users:\n- {{name: a, user: {{token: {token}}}}}\n"
    )
}
