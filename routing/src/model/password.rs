//! Who may come by name and password (RFC 7617), as an htpasswd file says it. Plain data: this crate does no cryptography.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Basic authentication of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The challenge's `realm`, ready to stand between quotes.
    pub realm: Arc<str>,
    /// Who may come. `None` = the Secret that says so cannot be used: every request is answered 503.
    pub users: Option<Arc<Users>>,
}

/// Names with what proves their passwords. Prints none of the hashes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Users {
    by_name: BTreeMap<Box<str>, PasswordHash>,
}

impl Users {
    /// Adds a name; of two equal ones the first holds, as in nginx. `false` = it is there already.
    pub fn add(&mut self, name: &str, hash: PasswordHash) -> bool {
        let place = self.by_name.entry(name.into());
        let is_new = matches!(place, std::collections::btree_map::Entry::Vacant(_));
        place.or_insert(hash);
        is_new
    }

    /// What proves the password of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&PasswordHash> {
        self.by_name.get(name)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Is there nobody?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.by_name.len())
    }
}

/// What a password is compared with. Prints only its kind.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// bcrypt in the modular crypt format: `$2a$`, `$2b$`, `$2y$`. Tens of milliseconds each.
    Bcrypt(Arc<str>),
    /// A thousand rounds of MD5: Apache's `$apr1$`, or `$1$` of crypt(3).
    Md5Crypt {
        /// `$apr1$` or `$1$`, which is hashed, too.
        magic: &'static str,
        /// At most 8 bytes.
        salt: Arc<str>,
        /// 22 characters.
        digest: Arc<str>,
    },
    /// SHA-crypt: `$5$` or `$6$`.
    ShaCrypt {
        /// Which of the two.
        kind: ShaCrypt,
        /// Rounds.
        rounds: u32,
        /// At most 16 bytes.
        salt: Arc<str>,
        /// 43 or 86 characters.
        digest: Arc<str>,
    },
    /// One SHA-1 over password and salt: `{SHA}`, `{SSHA}`.
    Sha1 {
        /// The digest.
        digest: [u8; 20],
        /// What comes behind the password; empty for `{SHA}`.
        salt: Arc<[u8]>,
    },
    /// The password itself: `{PLAIN}` of nginx.
    Plain(Arc<str>),
}

/// The two kinds of SHA-crypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShaCrypt {
    /// `$5$`
    Sha256,
    /// `$6$`
    Sha512,
}

impl PasswordHash {
    /// Does a comparison take so long that a worker must not do it itself?
    #[must_use]
    pub fn is_slow(&self) -> bool {
        match self {
            Self::Bcrypt(_) | Self::Md5Crypt { .. } | Self::ShaCrypt { .. } => true,
            Self::Sha1 { .. } | Self::Plain(_) => false,
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bcrypt(_) => "Bcrypt",
            Self::Md5Crypt { .. } => "Md5Crypt",
            Self::ShaCrypt { kind: ShaCrypt::Sha256, .. } => "Sha256Crypt",
            Self::ShaCrypt { kind: ShaCrypt::Sha512, .. } => "Sha512Crypt",
            Self::Sha1 { .. } => "Sha1",
            Self::Plain(_) => "Plain",
        })
    }
}
