//! Ingresses of another gateway, read as they are: a verdict on each annotation, and what they would be in the Gateway
//! API. Needs no members and no classes: any folder of YAML, or what `kubectl get ingress -A -o yaml` printed.

mod live;
mod routes;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;

use crate::compile::annotations::{self, Annotations, Reading};
use crate::crd::EndpointMode;
use crate::merge::Member;
use crate::object::ObjectId;
use crate::object::{Object, Source, Spec};
use crate::text::Regexes;
use crate::verdict::{Note, Notes, Severity};
use crate::watch::decode::{Format, decode_text};

pub use self::live::live;

/// Files of one import.
const FILES_MAX: usize = 10_000;

/// One Ingress with what its annotations say.
pub(crate) struct Imported {
    pub(crate) object: Object,
    pub(crate) ingress: Ingress,
    pub(crate) read: Annotations,
    pub(crate) notes: Vec<Note>,
    origin: PathBuf,
}

/// What was found.
pub struct Import {
    ingresses: Vec<Imported>,
    problems: Vec<String>,
}

/// Reads every YAML and JSON file below `path`, or that file.
///
/// # Errors
/// When it cannot be read.
pub fn import(path: &Path) -> Result<Import, String> {
    let mut files = Vec::new();
    collect(path, &mut files).map_err(|error| format!("{}: {error}", path.display()))?;
    files.sort();
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for file in files.into_iter().take(FILES_MAX) {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let json = file.extension().is_some_and(|extension| extension == "json");
        let format = if json { Format::Json } else { Format::Yaml };
        match decode_text(&text, format, &Source::Fleet) {
            Ok(decoded) => {
                found.extend(decoded.objects.into_iter().map(|(object, _)| (object, file.clone())));
                problems.extend(named(&file, decoded.problems));
            }
            Err(error) => problems.push(format!("{}: {error}", file.display())),
        }
    }
    Ok(Import::of(found, problems))
}

/// Problems of one source, for people.
fn named(origin: &Path, problems: Vec<(Option<ObjectId>, Note)>) -> impl Iterator<Item = String> {
    problems.into_iter().map(move |(id, note)| {
        let id = id.map_or_else(String::new, |id| format!("{id}: "));
        format!("{}: {id}{}: {}", origin.display(), note.field, note.reason)
    })
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        let is_manifest = entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // A link may lead back up: folders are followed, links are not.
        if entry.is_dir() && !entry.is_symlink() {
            collect(&entry, files)?;
        } else if is_manifest && files.len() < FILES_MAX {
            files.push(entry);
        }
    }
    Ok(())
}

/// The clusters that the manifests speak of: whether they exist is not known here.
fn members<'a>(objects: impl Iterator<Item = &'a Object>) -> BTreeMap<Arc<str>, Member> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for object in objects {
        for (name, value) in &object.annotations {
            if name.ends_with("/remote-clusters") {
                names.extend(value.split(',').map(str::trim).map(Arc::from));
            } else if let Some((_, cluster)) = name.split_once("/cluster-weight.") {
                names.push(Arc::from(cluster));
            } else if name.ends_with("/subset-labels") {
                names.extend(value.split_whitespace().nth(1).map(Arc::from));
            }
        }
    }
    names.sort();
    names.dedup();
    let member = |(index, name): (usize, Arc<str>)| {
        let id = routing::id::ClusterId(u16::try_from(index).unwrap_or(u16::MAX));
        let (region, zone) = (Arc::from(""), Arc::from(""));
        let mode = EndpointMode::Pod;
        let member = Member {
            id,
            name: name.clone(),
            priority: 0,
            weight: None,
            mode,
            allowed: Vec::new(),
            region,
            zone,
        };
        (name, member)
    };
    names.into_iter().enumerate().map(member).collect()
}

impl Import {
    /// The Ingresses among these objects, with what their annotations say.
    fn of(found: Vec<(Object, PathBuf)>, problems: Vec<String>) -> Self {
        let members = members(found.iter().map(|(object, _)| object));
        let mut regexes = Regexes::default();
        let ingresses = found.into_iter().filter_map(|(object, origin)| {
            let Spec::Ingress(ingress) = &object.spec else { return None };
            let ingress = Ingress::clone(ingress);
            let mut notes = Notes::default();
            let mut reading = Reading { id: &object.id, members: &members, regexes: &mut regexes };
            let read = annotations::read(&object.annotations, &mut reading, &mut notes);
            Some(Imported { ingress, read, notes: notes.to_vec(), origin, object })
        });
        Self { ingresses: ingresses.collect(), problems }
    }

    /// Was anything refused, or could it not be read?
    #[must_use]
    pub fn refused(&self) -> bool {
        let notes = self.ingresses.iter().flat_map(|imported| &imported.notes);
        !self.problems.is_empty() || notes.into_iter().any(|note| note.severity >= Severity::RefusedPart)
    }

    /// `HTTPRoute` objects that say the same, as YAML, with what they cannot say as comments. Attached to `gateway`.
    #[must_use]
    pub fn gateway_api(&self, gateway: &str) -> String {
        let mut out = String::new();
        for imported in self.ingresses.iter().filter(|imported| imported.read.canary.is_none()) {
            for (route, left_out) in routes::of(imported, &self.ingresses, gateway) {
                out.push_str("---\n");
                for line in left_out {
                    // Writing to a String cannot fail.
                    let _ = writeln!(out, "# left out: {line}");
                }
                out.push_str(&serde_saphyr::to_string(&route).unwrap_or_default());
            }
        }
        out
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = [0; 4];
        for imported in &self.ingresses {
            writeln!(f, "{} {}", imported.origin.display(), imported.object.id)?;
            for note in &imported.notes {
                let index = match note.severity {
                    Severity::Info if note.reason == "honoured" => 0,
                    Severity::Info => 1,
                    Severity::Ignored => 2,
                    Severity::RefusedPart | Severity::Refused => 3,
                };
                counts[index] += 1;
                let name = note.field.trim_start_matches("metadata.annotations[").trim_end_matches(']');
                writeln!(f, "  {name}: {}: {}", note.value, note.reason)?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let [yes, but, no, wrong] = counts;
        let ingresses = self.ingresses.len();
        writeln!(
            f,
            "{ingresses} Ingresses: {yes} annotations honoured, {but} with a difference, {no} ignored, {wrong} refused"
        )
    }
}
