//! Where secrets are, never what they are.

use std::{fmt, path::PathBuf};

/// Where a secret is found. Resolved at the last moment by the command line; the policy never holds the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretReference {
    /// A file that holds it; an absolute path. One trailing newline does not belong to it.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A systemd credential: a file of this name under `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl fmt::Display for SecretReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Env(name) => write!(formatter, "environment variable {name}"),
            Self::Credential(name) => write!(formatter, "systemd credential {name}"),
        }
    }
}

/// A value that may stand in the policy in plain words, or be kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlainOrSecret {
    /// As written.
    Plain(String),
    /// Kept elsewhere.
    Secret(SecretReference),
}
