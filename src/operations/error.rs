//! What can go wrong with an operation.

use crate::{
    repository::RepositoryError,
    sources::{ExchangeError, SourceError},
    stores::StoreError,
};

/// An error that ends an operation.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The repository or its site.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A source, in a backup.
    #[error("source {name}: {error}")]
    Source {
        /// Name of the source.
        name: String,
        /// What happened.
        error: SourceError,
    },
    /// A restore target.
    #[error("restoring {name}: {error}")]
    Target {
        /// Name of the source that was to be restored.
        name: String,
        /// What happened.
        error: SourceError,
    },
    /// The request makes no sense.
    #[error("{subject}: {detail}")]
    Refused {
        /// What was asked.
        subject: String,
        /// Why not, and what would be right.
        detail: String,
    },
    /// A local file or the operating system.
    #[error("{subject}: {source}")]
    Io {
        /// The path.
        subject: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl From<StoreError> for OperationError {
    fn from(error: StoreError) -> Self {
        Self::Repository(error.into())
    }
}

/// The repository's error within a source's, if that is what ended the source's work.
fn repository_error(error: SourceError) -> Result<RepositoryError, SourceError> {
    match error {
        SourceError::Exchange(ExchangeError(inner)) => match inner.downcast::<RepositoryError>() {
            Ok(error) => Ok(*error),
            Err(inner) => Err(SourceError::Exchange(ExchangeError(inner))),
        },
        other => Err(other),
    }
}

impl OperationError {
    /// An error of capturing the source `name`: the repository's own errors are told apart from the source's.
    pub fn capturing(name: &str, error: SourceError) -> Self {
        repository_error(error).map_or_else(|error| Self::Source { name: name.to_owned(), error }, Self::Repository)
    }

    /// An error of rebuilding the source `name`.
    pub fn rebuilding(name: &str, error: SourceError) -> Self {
        repository_error(error).map_or_else(|error| Self::Target { name: name.to_owned(), error }, Self::Repository)
    }
}
