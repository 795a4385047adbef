//! Errors that reach the operator, and the exit code of each.

use serde_json::json;

use crate::{
    operations::OperationError, policy::PolicyErrors, report::ExitCode, repository::RepositoryError, sources::SourceError,
    stores::StoreError,
};

/// An error of the command line.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The flags make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The policy is wrong.
    #[error("{0}")]
    Policy(#[from] PolicyErrors),
    /// A policy or secret cannot be read.
    #[error("{subject}: {detail}")]
    Setting {
        /// The file, variable or credential.
        subject: String,
        /// What is wrong, and the next step.
        detail: String,
    },
    /// An operation failed.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// Anything else.
    #[error("{subject}: {detail}")]
    Other {
        /// The thing.
        subject: String,
        /// What happened.
        detail: String,
    },
}

impl From<RepositoryError> for CliError {
    fn from(error: RepositoryError) -> Self {
        Self::Operation(error.into())
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::Operation(error.into())
    }
}

fn of_repository(error: &RepositoryError) -> ExitCode {
    match error.root() {
        RepositoryError::NoRepository { .. } | RepositoryError::AlreadyThere { .. } => ExitCode::Site,
        RepositoryError::UnknownFormat { .. } | RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. } => {
            ExitCode::Damaged
        }
        RepositoryError::Key { .. } | RepositoryError::OtherRecipients { .. } => ExitCode::Keys,
        RepositoryError::NoSuchPoint { .. } => ExitCode::Usage,
        RepositoryError::Store(_) => ExitCode::Site,
        RepositoryError::Refused { .. }
        | RepositoryError::Cache { .. }
        | RepositoryError::Earlier(_)
        | RepositoryError::Entry { .. } => ExitCode::Other,
    }
}

fn of_target(error: &SourceError) -> ExitCode {
    match error {
        SourceError::Malformed { .. } => ExitCode::Damaged,
        _ => ExitCode::Target,
    }
}

impl CliError {
    /// Anything without a kind of its own.
    pub fn other(subject: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::Other { subject: subject.into(), detail: detail.to_string() }
    }

    /// A setting that cannot be used.
    pub fn setting(subject: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::Setting { subject: subject.into(), detail: detail.to_string() }
    }

    /// Its exit code.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Usage,
            Self::Policy(_) | Self::Setting { .. } => ExitCode::Policy,
            Self::Other { .. } => ExitCode::Other,
            Self::Operation(error) => match error {
                OperationError::Repository(error) => of_repository(error),
                OperationError::Source { .. } => ExitCode::Source,
                OperationError::Target { error, .. } => of_target(error),
                OperationError::Refused { .. } | OperationError::Io { .. } => ExitCode::Other,
            },
        }
    }

    /// Prints it to standard error: as text, or as one JSON object.
    pub fn print(&self, json: bool) {
        if json {
            eprintln!("{}", json!({ "error": self.to_string(), "exit_code": self.exit_code().code() }));
        } else {
            eprintln!("farshore: {self}");
        }
    }
}
