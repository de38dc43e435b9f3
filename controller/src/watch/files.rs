//! A directory of manifests: `fleet/**` is what the hub holds, `clusters/NAME/**` what member NAME holds.
//!
//! [`Directory`] turns the state of the disk into [`Observation`]s; it is told when to look by [`Events`](crate::watch::events::Events)
//! (inotify) and never waits. A file counts when its writer has closed it or renamed it into place, so that a half
//! written file is never believed. A file that does not parse keeps its last good content; of two files with the
//! same object the first path wins; a directory that cannot be read keeps what was read from it before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::object::{Object, ObjectId, Source};
use crate::verdict::{Note, Notes, Severity};
use crate::watch::decode::Format;
use crate::watch::documents::{Content, Documents, Held};
use crate::watch::{Observation, Presence, Problem, Remains};

/// Bytes of one file. `kubectl get -A -o yaml` of 100,000 endpoints fits.
pub const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Files read from one directory.
pub const FILES_MAX: usize = 50_000;
/// Levels of folders below the root.
pub const DEPTH_MAX: usize = 16;
/// Objects read from one directory.
pub const OBJECTS_MAX: usize = 500_000;
/// Characters of a cluster's name (RFC 1123 label).
const CLUSTER_NAME_MAX: usize = 63;

/// The state of the disk as it was last read.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<Arc<str>, FileState>,
    members: BTreeSet<Arc<str>>,
    /// Which files hold an object; the first one's is in force.
    claims: HashMap<ObjectId, BTreeSet<Arc<str>>>,
    /// Objects of later files, ready for when the earlier file gives them up.
    shadowed: HashMap<(ObjectId, Arc<str>), (Object, Notes)>,
    /// Remarks on folders, as last emitted.
    folder_problems: BTreeMap<Arc<str>, Note>,
}

#[derive(Debug, Default)]
struct FileState {
    stamp: Stamp,
    /// What it holds, with a digest of each object.
    objects: HashMap<ObjectId, u64>,
    /// The same by document.
    documents: Documents,
    parse_error: Option<String>,
    decode_problems: Vec<Problem>,
    /// As last emitted.
    emitted: Vec<Problem>,
}

/// Tells whether a file has changed without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: u64,
}

/// What a walk over the folders found.
#[derive(Default)]
struct Walk {
    files: BTreeMap<Arc<str>, (PathBuf, Stamp)>,
    members: BTreeSet<Arc<str>>,
    problems: BTreeMap<Arc<str>, Note>,
    /// Folders that could not be read: their files are not gone, only unknown.
    unknown: Vec<String>,
    visited: HashSet<(u64, u64)>,
}

impl Directory {
    /// A directory of which nothing has been read yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf()),
            files: BTreeMap::new(),
            members: BTreeSet::new(),
            claims: HashMap::new(),
            shadowed: HashMap::new(),
            folder_problems: BTreeMap::new(),
        }
    }

    /// The absolute path of the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at everything: reads what changed since the last look, forgets what is gone.
    pub fn scan(&mut self) -> Vec<Observation> {
        self.scan_below("")
    }

    /// Looks at all folders, but reads only the file `wanted`, or the files below the folder `wanted`: another file
    /// may be half written just now.
    fn scan_below(&mut self, wanted: &str) -> Vec<Observation> {
        let is_wanted = |path: &str| {
            wanted.is_empty() || path.strip_prefix(wanted).is_some_and(|r| r.is_empty() || r.starts_with('/'))
        };
        let mut out = Vec::new();
        let mut walk = Walk::default();
        walk.root(&self.root);
        for name in walk.members.difference(&self.members) {
            out.push(Observation::Member { name: name.clone(), presence: Presence::Present });
        }
        let is_unknown = |path: &str| {
            walk.unknown.iter().any(|folder| path.starts_with(folder.as_str()) || folder.is_empty())
        };
        let gone: Vec<_> = (self.files.keys())
            .filter(|path| !walk.files.contains_key(*path) && !is_unknown(path))
            .cloned()
            .collect();
        for path in gone {
            self.forget(&path, &mut out);
        }
        for (relative, (path, stamp)) in &walk.files {
            if is_wanted(relative) && self.files.get(relative).is_none_or(|state| state.stamp != *stamp) {
                self.read(relative, path, *stamp, &mut out);
            }
        }
        let mut members = walk.members.clone();
        for name in self.members.difference(&walk.members) {
            if is_unknown(&format!("clusters/{name}/")) {
                members.insert(name.clone());
            } else {
                out.push(Observation::Member { name: name.clone(), presence: Presence::Gone });
            }
        }
        self.members = members;
        self.emit_folder_problems(walk.problems, &mut out);
        out
    }

    /// Looks at one path that something happened to.
    pub fn refresh(&mut self, path: &Path) -> Vec<Observation> {
        let Ok(relative) = path.strip_prefix(&self.root) else { return self.scan() };
        let hidden = relative.components().find_map(|part| {
            part.as_os_str().to_str().filter(|name| name.starts_with('.')).map(str::to_owned)
        });
        match hidden {
            // A mounted ConfigMap is replaced as a whole by renaming its hidden `..data` link.
            Some(name) if name.starts_with("..") => return self.scan(),
            // An editor's swap file.
            Some(_) => return Vec::new(),
            None => {}
        }
        let relative: Arc<str> = Arc::from(relative.to_string_lossy());
        let known = self.files.contains_key(&relative);
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() && format_of(path).is_some() => {
                let mut out = Vec::new();
                if known {
                    self.read(&relative, path, Stamp::of(&meta), &mut out);
                    out
                } else {
                    // The walk decides about new files: placement, limits and loops are its business.
                    self.scan_below(&relative)
                }
            }
            Ok(meta) if meta.is_file() => Vec::new(),
            Ok(_) => self.scan_below(&relative),
            // Gone. Most often it is the temporary file that was renamed to its target: then nothing is to be done.
            Err(_) if known || self.was_folder(&relative) => self.scan_below(&relative),
            Err(_) => Vec::new(),
        }
    }

    fn was_folder(&self, relative: &str) -> bool {
        let below = format!("{relative}/");
        let file = self.files.range(Arc::from(below.as_str())..).next();
        let member = relative.strip_prefix("clusters/").is_some_and(|name| self.members.contains(name));
        member || file.is_some_and(|(path, _)| path.starts_with(&below))
    }

    fn read(&mut self, relative: &Arc<str>, path: &Path, stamp: Stamp, out: &mut Vec<Observation>) {
        let Some(source) = source_of(relative) else { return };
        let content = read_text(path).and_then(|text| {
            let format = format_of(path).unwrap_or(Format::Yaml);
            let none = Documents::default();
            let known = self.files.get(relative).map_or(&none, |state| &state.documents);
            known.decode(&text, format, &source, |id, digest| self.is_in_force(relative, id, digest))
        });
        let state = self.files.entry(relative.clone()).or_default();
        state.stamp = stamp;
        match content {
            Ok(content) => {
                state.parse_error = None;
                self.replace(relative, content, out);
            }
            Err(error) => {
                state.parse_error = Some(error);
                self.emit_problems(relative, out);
            }
        }
    }

    /// Is this content of an object what was read from the file before, and is it used or kept in reserve?
    fn is_in_force(&self, path: &Arc<str>, id: &ObjectId, digest: u64) -> bool {
        let is_known = self.files.get(path).and_then(|state| state.objects.get(id)) == Some(&digest);
        let owner = self.claims.get(id).and_then(BTreeSet::first);
        is_known && (owner == Some(path) || self.shadowed.contains_key(&(id.clone(), path.clone())))
    }

    fn replace(&mut self, path: &Arc<str>, content: Content, out: &mut Vec<Observation>) {
        let mut problems: Vec<Problem> = content
            .problems
            .into_iter()
            .map(|(object, note)| Problem { object, note, remains: Remains::default() })
            .collect();
        let mut objects: HashMap<ObjectId, u64> = HashMap::new();
        let mut fresh = Vec::new();
        for held in content.objects {
            let id = held.id().clone();
            if objects.contains_key(&id) {
                let reason = "this object stands in the file twice: the first one is used";
                let note = Note::new(Severity::Refused, "", "", reason);
                problems.push(Problem { object: Some(id), note, remains: Remains::default() });
                continue;
            }
            if self.claims.len() >= OBJECTS_MAX && !self.claims.contains_key(&id) {
                let note = Note::new(
                    Severity::Refused,
                    "",
                    "",
                    format!("more than {OBJECTS_MAX} objects: not read"),
                );
                problems.push(Problem { object: Some(id), note, remains: Remains::default() });
                continue;
            }
            objects.insert(id, held.digest());
            match held {
                Held::Same(..) => {}
                Held::Fresh(object, digest) => fresh.push((*object, digest)),
            }
        }
        let state = self.files.entry(path.clone()).or_default();
        let before = std::mem::replace(&mut state.objects, objects);
        state.decode_problems = problems;
        state.documents = content.documents;
        let mut touched = BTreeSet::from([path.clone()]);
        // New names first: an object that moves between files is never gone in between.
        for ((object, notes), digest) in fresh {
            let unchanged = before.get(&object.id) == Some(&digest);
            self.claim(path, object, notes, unchanged, &mut touched, out);
        }
        let kept = &self.files[path].objects;
        let gone: Vec<ObjectId> = before.into_keys().filter(|id| !kept.contains_key(id)).collect();
        for id in gone {
            self.release(path, &id, &mut touched, out);
        }
        for path in touched {
            self.emit_problems(&path, out);
        }
    }

    fn claim(
        &mut self,
        path: &Arc<str>,
        object: Object,
        notes: Notes,
        unchanged: bool,
        touched: &mut BTreeSet<Arc<str>>,
        out: &mut Vec<Observation>,
    ) {
        let holders = self.claims.entry(object.id.clone()).or_default();
        let owner_before = holders.first().cloned();
        holders.insert(path.clone());
        if holders.first() != Some(path) {
            self.shadowed.insert((object.id.clone(), path.clone()), (object, notes));
            return;
        }
        match owner_before {
            Some(owner) if owner == *path && unchanged => return,
            // An earlier path takes the object over. The later file's copy is read again should it be needed.
            Some(owner) if owner != *path => {
                if let Some(state) = self.files.get_mut(&owner) {
                    state.stamp = Stamp::default();
                }
                touched.insert(owner);
            }
            Some(_) | None => {}
        }
        out.push(Observation::Upsert { object: Box::new(object), origin: path.clone(), notes });
    }

    fn release(
        &mut self,
        path: &Arc<str>,
        id: &ObjectId,
        touched: &mut BTreeSet<Arc<str>>,
        out: &mut Vec<Observation>,
    ) {
        let Some(holders) = self.claims.get_mut(id) else { return };
        let was_owner = holders.first() == Some(path);
        holders.remove(path);
        let heir = holders.first().cloned();
        self.shadowed.remove(&(id.clone(), path.clone()));
        match heir {
            None => {
                self.claims.remove(id);
                out.push(Observation::Delete(id.clone()));
            }
            Some(heir) if was_owner => {
                if let Some((object, notes)) = self.shadowed.remove(&(id.clone(), heir.clone())) {
                    out.push(Observation::Upsert { object: Box::new(object), origin: heir.clone(), notes });
                } else if let Some(state) = self.files.get_mut(&heir) {
                    // Its copy was in force before this path took it over: take it from the disk again.
                    state.objects.remove(id);
                    state.stamp = Stamp::default();
                    let file = self.root.join(&*heir);
                    let stamp = fs::metadata(&file).map(|meta| Stamp::of(&meta)).unwrap_or_default();
                    self.read(&heir.clone(), &file, stamp, out);
                }
                touched.insert(heir);
            }
            Some(_) => {}
        }
    }

    fn forget(&mut self, path: &Arc<str>, out: &mut Vec<Observation>) {
        let Some(state) = self.files.remove(path) else { return };
        let mut touched = BTreeSet::new();
        for id in state.objects.into_keys() {
            self.release(path, &id, &mut touched, out);
        }
        out.push(Observation::Problems { origin: path.clone(), problems: Vec::new() });
        for path in touched {
            self.emit_problems(&path, out);
        }
    }

    fn emit_problems(&mut self, path: &Arc<str>, out: &mut Vec<Observation>) {
        let Some(state) = self.files.get_mut(path) else { return };
        let mut problems = state.decode_problems.clone();
        for id in state.objects.keys() {
            if let Some(first) =
                self.claims.get(id).and_then(|holders| holders.first()).filter(|p| *p != path)
            {
                let reason = format!("the same object is in {first}: the first path is used");
                let note = Note::new(Severity::Refused, "", "", reason);
                problems.push(Problem { object: Some(id.clone()), note, remains: Remains::default() });
            }
        }
        problems.sort_by(|a, b| a.object.cmp(&b.object));
        if let Some(error) = &state.parse_error {
            let kept = state.objects.len();
            let reason = format!("does not parse: {error}; its last good content stays ({kept} objects)");
            problems.insert(
                0,
                Problem {
                    object: None,
                    note: Note::new(Severity::Refused, "", "", reason),
                    remains: Remains::default(),
                },
            );
        }
        if problems != state.emitted {
            state.emitted.clone_from(&problems);
            out.push(Observation::Problems { origin: path.clone(), problems });
        }
    }

    fn emit_folder_problems(&mut self, problems: BTreeMap<Arc<str>, Note>, out: &mut Vec<Observation>) {
        for path in self.folder_problems.keys().filter(|path| !problems.contains_key(*path)) {
            out.push(Observation::Problems { origin: path.clone(), problems: Vec::new() });
        }
        for (path, note) in &problems {
            if self.folder_problems.get(path) != Some(note) {
                let problems =
                    vec![Problem { object: None, note: note.clone(), remains: Remains::default() }];
                out.push(Observation::Problems { origin: path.clone(), problems });
            }
        }
        self.folder_problems = problems;
    }
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size: meta.size(),
            inode: meta.ino(),
        }
    }
}

impl Walk {
    fn root(&mut self, root: &Path) {
        let mut found = false;
        for folder in ["fleet", "clusters"] {
            let path = root.join(folder);
            if path.is_dir() {
                found = true;
                self.folder(&path, folder, 1);
            }
        }
        if !found {
            let reason = "holds neither fleet/ nor clusters/NAME/: nothing is read from it";
            self.problem("", Severity::Refused, reason);
            // A directory that vanished is unknown, not empty: what was read from it stays.
            if !root.is_dir() {
                self.unknown.push(String::new());
            }
        }
    }

    fn problem(&mut self, path: &str, severity: Severity, reason: &str) {
        self.problems.insert(Arc::from(path), Note::new(severity, "", "", reason));
    }

    fn folder(&mut self, path: &Path, relative: &str, depth: usize) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => {
                self.unknown.push(format!("{relative}/"));
                self.problem(relative, Severity::Refused, &format!("cannot be read: {error}"));
                return;
            }
        };
        let mut names: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            self.entry(&path.join(name), &format!("{relative}/{name}"), name, depth);
        }
    }

    fn entry(&mut self, path: &Path, relative: &str, name: &str, depth: usize) {
        let Ok(meta) = fs::metadata(path) else { return };
        let in_clusters =
            relative.split_once('/').is_some_and(|(top, rest)| top == "clusters" && rest == name);
        if meta.is_dir() {
            // Folders may be links; each is entered once, so a loop of links ends.
            if depth >= DEPTH_MAX || !self.visited.insert((meta.dev(), meta.ino())) {
                self.problem(relative, Severity::Ignored, "too deep, or a loop of links: not entered");
                return;
            }
            if in_clusters {
                if !is_cluster_name(name) {
                    let reason = "not a cluster name: 1 to 63 lower-case letters, digits or '-'";
                    self.problem(relative, Severity::Refused, reason);
                    return;
                }
                self.members.insert(Arc::from(name));
            }
            self.folder(path, relative, depth + 1);
        } else if meta.is_file() && format_of(path).is_some() {
            if in_clusters {
                self.problem(
                    relative,
                    Severity::Ignored,
                    "belongs to no cluster: clusters/NAME/FILE is read",
                );
            } else if self.files.len() >= FILES_MAX {
                self.problem(relative, Severity::Refused, &format!("more than {FILES_MAX} files: not read"));
            } else {
                self.files.insert(Arc::from(relative), (path.to_path_buf(), Stamp::of(&meta)));
            }
        }
    }
}

/// Is this a cluster id? An RFC 1123 label.
#[must_use]
pub fn is_cluster_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= CLUSTER_NAME_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn source_of(relative: &str) -> Option<Source> {
    let mut parts = relative.split('/');
    match (parts.next()?, parts.next()?) {
        ("fleet", _) => Some(Source::Fleet),
        ("clusters", name) => Some(Source::Member(Arc::from(name))),
        _ => None,
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}
