//! Directories that hold the newest so many files: drill reports, recordings of verdicts.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `dir/name` as a whole or not at all; the oldest `.json` files beyond `kept` go. Files are ordered by name, so
/// a name begins with a padded time. Not for a worker: it waits for the disk.
pub(crate) fn keep(dir: &Path, name: &str, bytes: &[u8], kept: usize) -> io::Result<PathBuf> {
    keep_written(dir, name, kept, |file| file.write_all(bytes))
}

/// As [`keep`], of what is made while it is written.
pub(crate) fn keep_written(
    dir: &Path,
    name: &str,
    kept: usize,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let (next, path) = (dir.join(".next"), dir.join(name));
    let mut file = BufWriter::new(File::create(&next)?);
    write(&mut file)?;
    file.flush()?;
    drop(file);
    fs::rename(next, &path)?;
    let mut all: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    all.sort();
    for old in &all[..all.len().saturating_sub(kept)] {
        fs::remove_file(old)?;
    }
    Ok(path)
}
