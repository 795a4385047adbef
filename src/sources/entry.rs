//! One thing within a snapshot: a file, an object, a table's rows, a schema.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::SourceError;

/// Reference to bytes in the repository; opaque to sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Plain bytes.
    pub size: u64,
    /// What the repository needs to find them again.
    pub reference: Vec<u8>,
}

/// One thing within a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique within the snapshot, any bytes; `/` separates levels for display and `--path`.
    pub path: Vec<u8>,
    /// What it is, in one word: `file`, `directory`, `symlink`, `object`, `table`, `schema`, `output` …
    pub kind: String,
    /// Its own time of modification, where it has one.
    pub modified: Option<DateTime<Utc>>,
    /// Its bytes, where it has any.
    pub content: Option<Content>,
    /// What only its source understands: MessagePack of a map with named fields. Empty if there is nothing.
    pub attributes: Vec<u8>,
}

impl Entry {
    /// An entry without bytes or attributes.
    pub fn new(path: impl Into<Vec<u8>>, kind: impl Into<String>) -> Self {
        Self { path: path.into(), kind: kind.into(), modified: None, content: None, attributes: Vec::new() }
    }

    /// Plain bytes of its content.
    pub fn size(&self) -> u64 {
        self.content.as_ref().map_or(0, |content| content.size)
    }

    /// The path for people: invalid UTF-8 replaced.
    pub fn display_path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Sets the attributes, a struct with named fields.
    ///
    /// # Errors
    /// [`SourceError::Malformed`] if the value cannot be written as MessagePack (no struct of this crate is so).
    pub fn set_attributes<T: Serialize>(&mut self, attributes: &T) -> Result<(), SourceError> {
        self.attributes = rmp_serde::to_vec_named(attributes).map_err(|error| self.malformed(&error))?;
        Ok(())
    }

    /// Reads the attributes; unknown fields are passed over, so that older programs read newer points.
    ///
    /// # Errors
    /// [`SourceError::Malformed`] if they are not those of `T`.
    pub fn attributes<T: DeserializeOwned>(&self) -> Result<T, SourceError> {
        unpack(&self.attributes).map_err(|error| self.malformed(&error))
    }

    fn malformed(&self, error: &dyn std::fmt::Display) -> SourceError {
        SourceError::Malformed { subject: self.display_path(), detail: format!("attributes of kind {}: {error}", self.kind) }
    }
}

/// Deepest nesting of MessagePack that is read: nothing that is stored has more than a few levels, and a reader's stack is finite.
const MAX_DEPTH: usize = 32;

/// Reads MessagePack, at most [`MAX_DEPTH`] levels deep.
pub(super) fn unpack<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, rmp_serde::decode::Error> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut deserializer)
}
