//! Inotify: tells when to look at which path. It never reads a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecursiveMode, Watcher};

use crate::clock;

/// Paths that wait to be looked at; beyond it everything is looked at once.
const EVENTS_WAITING_MAX: usize = 4096;

/// Something happened.
#[derive(Debug)]
pub struct FileEvent {
    /// To this path; `None` = look at everything.
    pub path: Option<PathBuf>,
    /// When it was heard of, `CLOCK_MONOTONIC` nanoseconds.
    pub observed_ns: u64,
    /// A folder came: files may have come into it before it was watched, so it is worth a second look.
    pub is_folder: bool,
}

/// The stream of events of one directory.
pub struct Events {
    receiver: Receiver<FileEvent>,
    overflowed: Arc<AtomicBool>,
    _watcher: notify::RecommendedWatcher,
}

impl Events {
    /// Starts to listen to `root` and everything below it.
    ///
    /// # Errors
    /// When inotify is not to be had (limits of watches, a directory that is missing).
    pub fn start(root: &Path) -> Result<Self, String> {
        let (sender, receiver) = bounded(EVENTS_WAITING_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        let flag = overflowed.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            forward(event, &sender, &flag);
        })
        .map_err(|error| error.to_string())?;
        watcher.watch(root, RecursiveMode::Recursive).map_err(|error| error.to_string())?;
        Ok(Self { receiver, overflowed, _watcher: watcher })
    }

    /// Where events arrive.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<FileEvent> {
        &self.receiver
    }

    /// Were events lost since the last call? Then everything must be looked at.
    #[must_use]
    pub fn take_overflow(&self) -> bool {
        self.overflowed.swap(false, Ordering::Relaxed)
    }
}

fn forward(event: notify::Result<Event>, sender: &Sender<FileEvent>, overflowed: &AtomicBool) {
    let observed_ns = clock::monotonic_ns();
    let send = |path: Option<PathBuf>, is_folder: bool| match sender.try_send(FileEvent {
        path,
        observed_ns,
        is_folder,
    }) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(_)) => overflowed.store(true, Ordering::Relaxed),
    };
    match event {
        Err(_) => send(None, false),
        Ok(event) if event.need_rescan() => send(None, false),
        Ok(event) => {
            for path in event.paths {
                if let Some(is_folder) = concerns(&event.kind, &path) {
                    send(Some(path), is_folder);
                }
            }
        }
    }
}

/// Is this event worth a look, and is it a folder that came?
fn concerns(kind: &EventKind, path: &Path) -> Option<bool> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(false),
        EventKind::Create(CreateKind::Folder) => Some(true),
        // A plain file is looked at when its writer closes it; links are complete at once.
        EventKind::Create(_) => {
            let meta = path.symlink_metadata().ok()?;
            let complete = meta.is_symlink() || std::os::unix::fs::MetadataExt::nlink(&meta) > 1;
            complete.then_some(false)
        }
        EventKind::Modify(ModifyKind::Name(_)) => Some(path.is_dir()),
        EventKind::Remove(_) => Some(false),
        EventKind::Any
        | EventKind::Other
        | EventKind::Access(_)
        | EventKind::Modify(
            ModifyKind::Any | ModifyKind::Data(_) | ModifyKind::Metadata(_) | ModifyKind::Other,
        ) => None,
    }
}
