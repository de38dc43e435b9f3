//! Secrets on the disk: sealed with a key of the node's own (`admin.state_key`), or left out.
//!
//! AES-256-GCM under a key that is derived anew for each file from the node's and from a random salt (HKDF-SHA256): a
//! nonce is the Secret's number in its file, so that none ever comes twice under one key, however often the world is
//! saved. Bound to the file's head and to the Secret's name: what was sealed opens in its own file and place only.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Bytes of the salt in a file's head.
const SALT_BYTES: usize = 32;
/// What the derived key is for.
const PURPOSE: &[u8] = b"ringway world.jsonl secrets";

/// The node's key. Prints nothing of it.
#[derive(Clone)]
pub struct StateKey([u8; KEY_BYTES]);

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey")
    }
}

impl StateKey {
    /// Reads it from a file of 32 bytes. A path without a directory names a credential of the service manager, in
    /// `credentials` (`$CREDENTIALS_DIRECTORY`).
    ///
    /// # Errors
    /// What is wrong; nothing of what was read.
    pub fn read(path: &Path, credentials: Option<&Path>) -> Result<Self, String> {
        let is_name = path.components().count() == 1 && path.is_relative();
        let path = match (is_name, credentials) {
            (true, Some(dir)) => dir.join(path),
            (true, None) => {
                return Err(format!(
                    "{}: a credential's name, and $CREDENTIALS_DIRECTORY is not set",
                    path.display()
                ));
            }
            (false, _) => path.to_path_buf(),
        };
        let wrong = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
        let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
        let file = File::open(&path).map_err(|error| wrong(&error))?;
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
        let key = bytes.try_into().map_err(|_| wrong(&format_args!("not {KEY_BYTES} bytes")))?;
        Ok(Self(key))
    }
}

/// A salt for a new file.
pub(super) fn salt() -> std::io::Result<Vec<u8>> {
    let mut salt = vec![0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_| std::io::Error::other("no random numbers"))?;
    Ok(salt)
}

/// Seals and opens the Secrets of one file.
pub(super) struct Seal {
    key: LessSafeKey,
    head: Vec<u8>,
}

impl Seal {
    /// `head`: the line of the file that holds the `salt`. `None`: the library takes no such key.
    pub(super) fn new(key: &StateKey, salt: &[u8], head: &[u8]) -> Option<Self> {
        let derived = Salt::new(HKDF_SHA256, salt).extract(&key.0);
        let key = UnboundKey::from(derived.expand(&[PURPOSE], &AES_256_GCM).ok()?);
        Some(Self { key: LessSafeKey::new(key), head: head.to_vec() })
    }

    /// Seals the `index`th Secret of the file; no number may be used twice.
    pub(super) fn seal(&self, index: u64, name: &str, mut text: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let sealed = self.key.seal_in_place_append_tag(nonce(index), self.bound_to(name), &mut text);
        sealed.map_err(|_| std::io::Error::other("a Secret cannot be sealed"))?;
        Ok(text)
    }

    /// What was sealed so; `None`: it was not, or not with this key.
    pub(super) fn open(&self, index: u64, name: &str, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let text = self.key.open_in_place(nonce(index), self.bound_to(name), &mut sealed).ok()?;
        Some(text.to_vec())
    }

    fn bound_to(&self, name: &str) -> Aad<Vec<u8>> {
        let length = (self.head.len() as u64).to_le_bytes();
        Aad::from([&length[..], &self.head, name.as_bytes()].concat())
    }
}

fn nonce(index: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
pub(super) fn key(byte: u8) -> StateKey {
    StateKey([byte; KEY_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_its_key_in_its_file_and_place_only() {
        let seal = Seal::new(&key(7), b"salt", b"head").unwrap();
        let sealed = seal.seal(3, "shop/tls", b"a private key".to_vec()).unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"private"));
        assert_eq!(seal.open(3, "shop/tls", sealed.clone()).unwrap(), b"a private key");
        let open = |by: u8, salt: &[u8], head: &[u8], index: u64, name: &str| {
            Seal::new(&key(by), salt, head).unwrap().open(index, name, sealed.clone())
        };
        assert!(open(7, b"salt", b"head", 3, "shop/tls").is_some());
        assert!(open(8, b"salt", b"head", 3, "shop/tls").is_none(), "another key");
        assert!(open(7, b"sal2", b"head", 3, "shop/tls").is_none(), "another salt");
        assert!(open(7, b"salt", b"hea2", 3, "shop/tls").is_none(), "another head");
        assert!(open(7, b"salt", b"head", 4, "shop/tls").is_none(), "another place");
        assert!(open(7, b"salt", b"head", 3, "shop/tl2").is_none(), "another name");
        let mut altered = sealed.clone();
        altered[0] ^= 1;
        assert!(seal.open(3, "shop/tls", altered).is_none(), "altered");
    }

    #[test]
    fn a_key_is_32_bytes_of_a_file_or_of_a_credential_and_is_never_printed() {
        let dir = std::env::temp_dir().join(format!("ringway-state-key-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("state_key");
        std::fs::write(&file, [b'K'; 32]).unwrap();
        let read = StateKey::read(&file, None).unwrap();
        assert_eq!(format!("{read:?}"), "StateKey");
        assert_eq!(StateKey::read(Path::new("state_key"), Some(&dir)).unwrap().0, read.0);
        assert!(StateKey::read(Path::new("state_key"), None).unwrap_err().contains("CREDENTIALS_DIRECTORY"));
        for wrong in [&[b'K'; 31][..], &[b'K'; 33], b""] {
            std::fs::write(&file, wrong).unwrap();
            let said = StateKey::read(&file, None).unwrap_err();
            assert!(said.ends_with("not 32 bytes") && !said.contains("KK"), "{said}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(StateKey::read(&file, None).is_err());
    }
}
