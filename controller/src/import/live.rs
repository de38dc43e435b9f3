//! Ingresses of a running cluster, read as `kubectl` would: by a kubeconfig and one of its contexts. Lists them once;
//! nothing is watched, nothing is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::Import;
use crate::object::{Object, Source};
use crate::watch::client::{self, Contact};
use crate::watch::decode::{Format, decode_text};

/// Objects of one page: the API server answers in pieces.
const PAGE: u32 = 500;
/// Ingresses of one import.
const INGRESSES_MAX: usize = 100_000;

/// Reads every Ingress that the kubeconfig at `path` gives access to, by its context `context`, or else by its own.
///
/// # Errors
/// What is wrong with the kubeconfig, or what the API server said.
pub fn live(path: &Path, context: Option<&str>) -> Result<Import, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let (found, problems) = runtime.block_on(list(path, context))?;
    Ok(Import::of(found, problems))
}

type Found = Vec<(Object, PathBuf)>;

async fn list(path: &Path, context: Option<&str>) -> Result<(Found, Vec<String>), String> {
    let wrong = |error: &dyn std::error::Error| format!("{}: {}", path.display(), client::chain(error));
    let read = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
    if let Some(name) = context
        && !read.contexts.iter().any(|known| known.name == name)
    {
        let names: Vec<&str> = read.contexts.iter().map(|known| known.name.as_str()).collect();
        return Err(format!("--context {name}: allowed, by {}: {}", path.display(), names.join(", ")));
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(read, &options).await.map_err(|error| wrong(&error))?;
    let server = PathBuf::from(config.cluster_url.to_string());
    let client = client::client(&config, &Arc::new(Contact::default()))?;
    let api: Api<Ingress> = Api::all(Client::clone(&client));
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await;
        let list = list.map_err(|error| format!("{}: {}", server.display(), client::chain(&error)))?;
        for ingress in list.items {
            decode(ingress, &server, &mut found, &mut problems);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(_) if found.len() >= INGRESSES_MAX => {
                problems.push(format!("more than {INGRESSES_MAX} Ingresses: the rest is left out"));
                return Ok((found, problems));
            }
            Some(token) => page = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok((found, problems)),
        }
    }
}

/// By the same way as from a file: what is accepted there is accepted here.
fn decode(mut ingress: Ingress, server: &Path, found: &mut Found, problems: &mut Vec<String>) {
    ingress.metadata.managed_fields = None;
    let text = serde_json::to_string(&ingress).unwrap_or_default();
    match decode_text(&text, Format::Json, &Source::Fleet) {
        Ok(decoded) => {
            found.extend(decoded.objects.into_iter().map(|(object, _)| (object, server.to_path_buf())));
            problems.extend(super::named(server, decoded.problems));
        }
        Err(error) => problems.push(format!("{}: {error}", server.display())),
    }
}
