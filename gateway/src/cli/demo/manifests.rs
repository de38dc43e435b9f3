//! The folder of manifests that the demo serves: the quickstart example from inside the binary, or one of the user's.
//!
//! A user's folder is never written to: when one of its ports is taken, a copy is changed instead.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The example `config/examples/quickstart`, so that the demo runs from any directory.
const QUICKSTART: [(&str, &str); 4] = [
    ("fleet/web.yaml", include_str!("../../../../config/examples/quickstart/fleet/web.yaml")),
    ("fleet/gateway-api.yaml", include_str!("../../../../config/examples/quickstart/fleet/gateway-api.yaml")),
    (
        "clusters/alpha/web.yaml",
        include_str!("../../../../config/examples/quickstart/clusters/alpha/web.yaml"),
    ),
    ("clusters/beta/web.yaml", include_str!("../../../../config/examples/quickstart/clusters/beta/web.yaml")),
];
/// Names tried for the working folder.
const NAMES_MAX: u32 = 100;
/// Levels of folders below a user's folder that are copied.
const DEPTH_MAX: usize = 16;

/// Manifests, and a working folder that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    manifests: PathBuf,
    owner: Owner,
    work: WorkDir,
}

/// Whose files the manifests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    User,
    Demo,
}

impl Folder {
    /// The user's folder, or the embedded example written to a folder of its own.
    ///
    /// # Errors
    /// Names the path that is missing or cannot be written.
    pub(super) fn open(users: Option<&Path>) -> Result<Self, String> {
        let work = WorkDir::create().map_err(|error| format!("cannot make a working folder: {error}"))?;
        if let Some(users) = users {
            if !users.is_dir() {
                return Err(format!("manifests {}: not a directory", users.display()));
            }
            return Ok(Self { manifests: users.to_path_buf(), owner: Owner::User, work });
        }
        let manifests = work.0.join("manifests");
        for (name, text) in QUICKSTART {
            write(&manifests.join(name), text.as_bytes())?;
        }
        Ok(Self { manifests, owner: Owner::Demo, work })
    }

    /// Where the manifests are.
    pub(super) fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// A path in the working folder, outside the manifests.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.work.0.join(name)
    }

    /// Writes another port in place of `from`, in every file below `part` (`fleet`, `clusters/NAME`).
    ///
    /// # Errors
    /// Names the path that cannot be read or written.
    pub(super) fn move_port(&mut self, part: &str, from: u16, to: u16) -> Result<(), String> {
        if self.owner == Owner::User {
            let copy = self.work.0.join("manifests");
            for (path, below) in files(&self.manifests)? {
                write(&copy.join(below), &fs::read(&path).map_err(|error| named(&path, &error))?)?;
            }
            (self.manifests, self.owner) = (copy, Owner::Demo);
        }
        for (path, _) in files(&self.manifests.join(part))? {
            let text = fs::read_to_string(&path).map_err(|error| named(&path, &error))?;
            write(&path, replace_port(&text, from, to).as_bytes())?;
        }
        Ok(())
    }
}

/// Every manifest below `root`, with its path from there.
fn files(root: &Path) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| named(&folder, &error))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_manifest =
                path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known));
            if path.is_dir() && depth < DEPTH_MAX {
                folders.push((path, depth + 1));
            } else if is_manifest {
                let below = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
                found.push((path, below));
            }
        }
    }
    Ok(found)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).and_then(|()| fs::write(path, bytes)).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// The text with `port: FROM` written as `port: TO`, in YAML and in JSON; `targetPort`, longer numbers and everything
/// else stay.
fn replace_port(text: &str, from: u16, to: u16) -> String {
    let digits = from.to_string();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("port") {
        let is_word = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let (before, after) = rest.split_at(at + "port".len());
        out.push_str(before);
        rest = after;
        let colon = rest.trim_start_matches(['"', '\'']).trim_start_matches(' ');
        let Some(value) = colon.strip_prefix(':').filter(|_| is_word) else { continue };
        let value = value.trim_start_matches(' ');
        let Some(tail) = value.strip_prefix(&*digits) else { continue };
        if tail.starts_with(|c: char| c.is_alphanumeric()) {
            continue;
        }
        out.push_str(&rest[..rest.len() - value.len()]);
        out.push_str(&to.to_string());
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// A folder of our own, removed when this is dropped.
#[derive(Debug)]
struct WorkDir(PathBuf);

impl WorkDir {
    fn create() -> io::Result<Self> {
        let base = std::env::temp_dir();
        let mut refused = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 0..NAMES_MAX {
            let path = base.join(format!("ringway-demo-{}-{number}", std::process::id()));
            // Never an existing folder: it may be somebody else's, with links in it.
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // What is left behind is in the system's folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/quickstart")
    }

    #[test]
    fn the_embedded_example_is_the_folder_that_a_user_copies() {
        let mut on_disk: Vec<_> = files(&example()).unwrap().into_iter().map(|(_, below)| below).collect();
        let mut embedded: Vec<_> = QUICKSTART.iter().map(|(name, _)| PathBuf::from(name)).collect();
        on_disk.sort();
        embedded.sort();
        assert_eq!(embedded, on_disk);
    }

    #[test]
    fn only_the_port_itself_is_replaced() {
        let yaml = "- {name: http, port: 80, targetPort: 80}\nport: 8080\nsupport: 80\nport:   80\n";
        let moved = "- {name: http, port: 9, targetPort: 80}\nport: 8080\nsupport: 80\nport:   9\n";
        assert_eq!(replace_port(yaml, 80, 9), moved);
        assert_eq!(replace_port(r#"{"port": 80, "ports": 80}"#, 80, 9), r#"{"port": 9, "ports": 80}"#);
        assert_eq!(replace_port("no such thing, port", 80, 9), "no such thing, port");
    }

    #[test]
    fn a_users_folder_is_copied_before_it_is_changed_and_the_copy_goes_away() {
        let mut folder = Folder::open(Some(&example())).unwrap();
        assert_eq!(folder.manifests(), example());
        folder.move_port("clusters/beta", 9_201, 19_201).unwrap();
        let copy = folder.manifests().to_path_buf();
        let moved = fs::read_to_string(copy.join("clusters/beta/web.yaml")).unwrap();
        assert!(moved.contains("port: 19201") && !moved.contains("port: 9201"));
        let same = |name: &str| fs::read(copy.join(name)).unwrap() == fs::read(example().join(name)).unwrap();
        assert!(same("clusters/alpha/web.yaml") && same("fleet/web.yaml"));
        assert!(!fs::read_to_string(example().join("clusters/beta/web.yaml")).unwrap().contains("19201"));
        drop(folder);
        assert!(!copy.exists());
    }
}
