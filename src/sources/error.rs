//! What can go wrong at a source or a restore target, named by what the caller can do.

use crate::stores::StoreError;

/// An error of the repository's side of a [`super::Sink`] or [`super::Origin`]; sources pass it on and never look inside.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ExchangeError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// An error that ends a capture or a rebuild. Every message ends with the next step to take.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server, bucket or directory cannot be reached.
    #[error("{subject}: not reachable: {detail}")]
    Unreachable {
        /// Host and database, bucket, path.
        subject: String,
        /// What happened, and the next step.
        detail: String,
    },
    /// The credentials were refused.
    #[error("{subject}: the credentials were refused: {detail}")]
    Unauthenticated {
        /// Who, where.
        subject: String,
        /// The server's words, and the next step.
        detail: String,
    },
    /// A right is missing.
    #[error("{subject}: a right is missing: {detail}")]
    Denied {
        /// The thing it is missing on.
        subject: String,
        /// Which right, and the statement that grants it.
        detail: String,
    },
    /// The thing is not in a state that can be captured safely, or not set up for it.
    #[error("{subject}: cannot be captured: {detail}")]
    Unfit {
        /// The thing.
        subject: String,
        /// Why, and the next step.
        detail: String,
    },
    /// The restore target is not fit: not empty, too old, wrong kind, no room.
    #[error("{subject}: not a fit target: {detail}")]
    UnfitTarget {
        /// The target.
        subject: String,
        /// Why, and the next step.
        detail: String,
    },
    /// A program that is needed is missing, too old, failed or ran too long.
    #[error("{program}: {detail}")]
    Program {
        /// The program.
        program: String,
        /// What it said (its stderr), its exit status, and the next step.
        detail: String,
    },
    /// Stored data of this source does not make sense (after authentication: a newer program's, or a defect).
    #[error("{subject}: stored data cannot be understood: {detail}; a newer farshore may have written it")]
    Malformed {
        /// The entry.
        subject: String,
        /// What was wrong.
        detail: String,
    },
    /// The bucket or site.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The repository's side.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// A local file or the operating system.
    #[error("{subject}: {source}")]
    Io {
        /// The path or the thing.
        subject: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl SourceError {
    /// Wraps an operating system's error with the path it concerns.
    pub fn io(subject: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let subject = subject.into();
        move |source| Self::Io { subject, source }
    }
}
