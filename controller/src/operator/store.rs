//! The file that lets operators' words outlive the process: `STATE_DIR/operator.json`.
//!
//! Written as a whole and renamed into place at every change; read once, at the start. Without a directory, or when
//! it cannot be written, words live as long as the process, and that is logged.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Ramp, Word, Words};

/// The file's name.
const FILE: &str = "operator.json";
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What is written of one cluster. A ramp is written as its end: a process that starts anew has no traffic to move
/// gently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Saved {
    #[serde(skip_serializing_if = "Option::is_none")]
    drained: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted: Option<bool>,
}

/// Where words are kept.
#[derive(Debug, Default)]
pub struct Store {
    dir: Option<PathBuf>,
    written: Option<BTreeMap<Arc<str>, Saved>>,
}

impl Store {
    /// Keeps words in `dir`; `None` = nowhere. The directory is made when there is something to write.
    #[must_use]
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, written: None }
    }

    /// What was said before this process began. A file that cannot be understood is left alone, and logged.
    pub fn load(&mut self, now_ns: u64) -> Words {
        let Some(path) = self.dir.as_ref().map(|dir| dir.join(FILE)) else { return Words::default() };
        let saved = match read(&path) {
            Ok(None) => return Words::default(),
            Ok(Some(saved)) => saved,
            Err(error) => {
                warn!(path = %path.display(), %error, "what operators said before is not known: every cluster serves as its MemberCluster says");
                return Words::default();
            }
        };
        let word = |saved: &Saved| Word {
            drain: saved.drained.map(|drained| {
                let to = if drained { 100 } else { 0 };
                Ramp { from: to, to, since_ns: now_ns, over_ns: 0, told: to }
            }),
            promoted: saved.promoted.map(|promoted| (promoted, now_ns)),
        };
        let said = saved.iter().map(|(name, saved)| (name.clone(), word(saved))).collect();
        info!(path = %path.display(), clusters = saved.len(), "operators' words read again");
        self.written = Some(saved);
        Words { said }
    }

    /// Writes what changed since the last call, if anything.
    pub fn save(&mut self, words: &Words) {
        let Some(dir) = &self.dir else { return };
        let saved: BTreeMap<Arc<str>, Saved> =
            words.said.iter().map(|(name, word)| (name.clone(), saved(word))).collect();
        if self.written.as_ref() == Some(&saved) || (self.written.is_none() && saved.is_empty()) {
            return;
        }
        if let Err(error) = write(dir, &saved) {
            warn!(dir = %dir.display(), %error, "operators' words are not saved: they end with this process");
        }
        // Not tried again until something else changes: the log says it once.
        self.written = Some(saved);
    }
}

fn saved(word: &Word) -> Saved {
    Saved {
        drained: word.drain.map(|ramp| ramp.to > 0),
        promoted: word.promoted.map(|(promoted, _)| promoted),
    }
}

fn read(path: &Path) -> io::Result<Option<BTreeMap<Arc<str>, Saved>>> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let saved: BTreeMap<String, Saved> = serde_json::from_slice(&fs::read(path)?)?;
    Ok(Some(saved.into_iter().map(|(name, saved)| (Arc::from(name), saved)).collect()))
}

fn write(dir: &Path, saved: &BTreeMap<Arc<str>, Saved>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let by_name: BTreeMap<&str, Saved> = saved.iter().map(|(name, saved)| (&**name, *saved)).collect();
    let next = dir.join(format!("{FILE}.next"));
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec_pretty(&by_name)?)?;
    file.sync_all()?;
    fs::rename(&next, dir.join(FILE))
}
