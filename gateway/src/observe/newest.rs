//! Directories that hold the newest so many files: drill reports, recordings of verdicts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Writes `dir/name` as a whole or not at all; the oldest `.json` files beyond `kept` go. Files are ordered by name, so
/// a name begins with a padded time. Not for a worker: it waits for the disk.
pub(crate) fn keep(dir: &Path, name: &str, bytes: &[u8], kept: usize) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let (next, path) = (dir.join(".next"), dir.join(name));
    fs::write(&next, bytes)?;
    fs::rename(next, &path)?;
    let mut all: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    all.sort();
    for old in &all[..all.len().saturating_sub(kept)] {
        fs::remove_file(old)?;
    }
    Ok(path)
}
