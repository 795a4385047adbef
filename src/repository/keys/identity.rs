//! Public keys that keys are wrapped to, and the identities that open them.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::is_passphrase_wrapped;
use crate::repository::{RepositoryError, error::Result};

/// To whom the keys of a repository are wrapped.
#[derive(Clone)]
pub enum Recipients {
    /// age public keys.
    Age {
        /// Those who can restore.
        readers: Vec<age::x25519::Recipient>,
        /// Agents, which open the catalogue key and nothing else.
        agents: Vec<age::x25519::Recipient>,
    },
    /// `encryption = "none"`, said in words by the policy: keys lie beside the data.
    Nobody,
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Age { readers, agents } => write!(out, "Age({} readers, {} agents)", readers.len(), agents.len()),
            Self::Nobody => out.write_str("Nobody"),
        }
    }
}

impl Recipients {
    /// The readers' public keys, sorted; none for [`Self::Nobody`].
    pub fn public_keys(&self) -> Vec<String> {
        match self {
            Self::Age { readers, .. } => sorted(readers),
            Self::Nobody => Vec::new(),
        }
    }

    /// The agents' public keys, sorted.
    pub fn agents(&self) -> Vec<String> {
        match self {
            Self::Age { agents, .. } => sorted(agents),
            Self::Nobody => Vec::new(),
        }
    }

    /// Reads age public keys (`age1…`).
    ///
    /// # Errors
    /// [`RepositoryError::Key`] naming the one that is none.
    pub fn parse(readers: &[String], agents: &[String]) -> Result<Self> {
        let parse = |keys: &[String]| keys.iter().map(|text| parse_public_key(text)).collect::<Result<_>>();
        Ok(Self::Age { readers: parse(readers)?, agents: parse(agents)? })
    }
}

fn sorted(keys: &[age::x25519::Recipient]) -> Vec<String> {
    let mut keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.sort();
    keys
}

/// Reads one age public key (`age1…`).
///
/// # Errors
/// [`RepositoryError::Key`] naming it.
pub fn parse_public_key(text: &str) -> Result<age::x25519::Recipient> {
    text.parse().map_err(|error: &str| RepositoryError::Key {
        place: text.to_owned(),
        detail: format!("not an age public key ({error}); it looks like age1… and comes from `farshore key generate`"),
    })
}

/// The age identities at hand: an operator's, an escrow's, or the agent's own.
#[derive(Clone, Default)]
pub struct Identities(Vec<Arc<age::x25519::Identity>>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// None at hand: enough for an unencrypted repository only.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads an identity file: lines `AGE-SECRET-KEY-1…`, comments with `#`. `place` names it in errors.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] with the line that is no key (its contents are not repeated).
    pub fn parse(place: &str, text: &SecretString) -> Result<Self> {
        let refused = |detail: String| RepositoryError::Key { place: place.to_owned(), detail };
        if is_passphrase_wrapped(text.expose_secret().as_bytes()) {
            return Err(refused(
                "is wrapped with a passphrase, which nobody can type here; an agent needs a key without one, in a file or credential that only it can read".to_owned(),
            ));
        }
        let mut all = Vec::new();
        for (number, line) in text.expose_secret().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line.parse::<age::x25519::Identity>().map_err(|error| {
                refused(format!(
                    "line {} is no age secret key ({error}); expected a file made by `farshore key generate`, with a line AGE-SECRET-KEY-1…",
                    number + 1
                ))
            })?;
            all.push(Arc::new(identity));
        }
        if all.is_empty() {
            return Err(refused("holds no age secret key; expected a line AGE-SECRET-KEY-1…".to_owned()));
        }
        Ok(Self(all))
    }

    /// Both together.
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public half of the first identity.
    pub fn public(&self) -> Option<age::x25519::Recipient> {
        self.0.first().map(|identity| identity.to_public())
    }

    /// The public halves (`age1…`) of all of them.
    pub fn public_keys(&self) -> Vec<String> {
        self.0.iter().map(|identity| identity.to_public().to_string()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &age::x25519::Identity> {
        self.0.iter().map(AsRef::as_ref)
    }
}

/// A new identity: the file's text (with its public key in a comment) and the public key.
pub fn generate_identity(created: chrono::DateTime<chrono::Utc>) -> (SecretString, String) {
    let identity = age::x25519::Identity::generate();
    let public = identity.to_public().to_string();
    let text = format!(
        "# farshore identity, created {}\n# public key: {public}\n{}\n",
        created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        identity.to_string().expose_secret()
    );
    (text.into(), public)
}
