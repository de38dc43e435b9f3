//! What can be wrong with a configuration: always the key, the value and what is allowed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why there is no configuration. The process must not start with it; a running one keeps what it has.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type: TOML's own words, with line and column.
    Syntax(String),
    /// Values outside of what is allowed: all of them, not the first only. Never empty.
    Invalid(Vec<Invalid>),
    /// One of these in a file.
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<Self>,
    },
}

impl ConfigError {
    /// Names the file that it is about.
    pub(crate) fn of_file(self, path: &Path) -> Self {
        match self {
            named @ (Self::Read { .. } | Self::InFile { .. }) => named,
            Self::Syntax(_) | Self::Invalid(_) => {
                Self::InFile { path: path.to_owned(), error: Box::new(self) }
            }
        }
    }
}

/// One value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The key, with its section: `limits.headers_max`.
    pub key: &'static str,
    /// The value as TOML writes it.
    pub value: String,
    /// What is allowed, in words.
    pub allowed: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::Syntax(text) => f.write_str(text.trim_end()),
            Self::Invalid(all) => {
                for (index, one) in all.iter().enumerate() {
                    let end_of_previous = if index == 0 { "" } else { "\n" };
                    write!(f, "{end_of_previous}{one}")?;
                }
                Ok(())
            }
            Self::InFile { path, error } => write!(f, "{}:\n{error}", path.display()),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: allowed is {}", self.key, self.value, self.allowed)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { cause, .. } => Some(cause),
            Self::Syntax(_) | Self::Invalid(_) => None,
            Self::InFile { error, .. } => Some(error),
        }
    }
}
