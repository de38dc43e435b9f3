//! The Unix socket for operators: made so that nobody else can ever connect, and removed at the end.
//!
//! Whoever may write to the file may change the node: mode 0600 is the whole authentication. The socket is bound in a
//! directory of its own that only we can enter, gets its mode there, and is then renamed into place: at no moment is it
//! open to others.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A listening socket and the file by which it is found.
pub(super) struct Socket {
    path: PathBuf,
    /// Names the file: another process may have replaced it.
    inode: u64,
    pub(super) listener: UnixListener,
}

impl Socket {
    /// Listens on `path`. A file that a process left behind is replaced; a socket that somebody listens on is not.
    ///
    /// # Errors
    /// Somebody listens there, something that is no socket lies there, or the directory cannot be written.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.exists() {
            // The last level only: whoever asks for more has mistyped the path.
            fs::DirBuilder::new().mode(0o750).create(parent)?;
        }
        refuse_foreign(path)?;
        let private = parent.join(format!(".ringway-{}", std::process::id()));
        let _ = fs::remove_dir_all(&private);
        fs::DirBuilder::new().mode(0o700).create(&private)?;
        let made = Self::make(&private.join("s"), path);
        let _ = fs::remove_dir_all(&private);
        let (listener, inode) = made?;
        Ok(Self { path: path.to_owned(), inode, listener })
    }

    fn make(private: &Path, path: &Path) -> io::Result<(UnixListener, u64)> {
        let listener = UnixListener::bind(private)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(private, fs::Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(private)?.ino();
        fs::rename(private, path)?;
        Ok((listener, inode))
    }
}

/// What lies at `path` may be replaced when it is a socket that nobody listens on.
fn refuse_foreign(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let found = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
        Err(error) => Err(error),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Ours only: a successor may listen there already.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ringway-socket-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn the_socket_is_for_its_owner_alone_and_leaves_nothing_behind() {
        let folder = folder("mode");
        let path = folder.join("made/admin.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(fs::read_dir(folder.join("made")).unwrap().count(), 1, "no temporary directory is left");
        drop(socket);
        assert!(!path.exists());
        assert!(Socket::bind(&folder.join("no/such/folder.sock")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_left_behind_is_replaced_and_a_living_neighbour_is_not() {
        let folder = folder("stale");
        let path = folder.join("admin.sock");
        // Dropped without being removed, as by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let first = Socket::bind(&path).unwrap();
        let in_use = Socket::bind(&path).err().unwrap();
        assert_eq!(in_use.kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "the first one still listens");
        // A successor has taken the place: the first one's end does not remove its file.
        fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        fs::write(&path, "precious").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(folder).unwrap();
    }
}
