//! Sites of a log, opened when they are needed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use crate::{
    cli::{
        CliError, assemble,
        place::{self, PlaceArgs},
    },
    operations::{OpenArchive, OpenLogSite, OperationError},
    repository::{Identities, LogKey, LogReader, LogWriter},
};

/// An error as an operation of the log knows it.
fn told(place: &str, error: CliError) -> OperationError {
    match error {
        CliError::Operation(error) => error,
        other => OperationError::Refused { subject: place.to_owned(), detail: other.to_string() },
    }
}

/// A site that the log is written to.
pub(super) struct WrittenSite {
    pub(super) policy: PathBuf,
    pub(super) site: String,
    pub(super) cache: PathBuf,
    /// Outlives the opened site.
    pub(super) key: LogKey,
}

impl WrittenSite {
    async fn opened(&self) -> Result<LogWriter, CliError> {
        let word = self.policy.display().to_string();
        // The agent's own key: whoever pushes needs no other.
        let place = place::find_with(Some(&word), &PlaceArgs::of_site(&self.site), Identities::none()).await?;
        let (policy, site) = place.of_policy()?;
        let recipients = assemble::recipients(policy, &site.encryption)?;
        let repository = Arc::new(place.open(&self.cache).await?);
        Ok(LogWriter::new(repository, recipients, self.key.clone(), policy.limits.compression_level)?)
    }
}

#[async_trait]
impl OpenLogSite for WrittenSite {
    fn name(&self) -> &str {
        &self.site
    }

    async fn open(&self) -> Result<LogWriter, OperationError> {
        self.opened().await.map_err(|error| told(&self.site, error))
    }
}

/// A site that the log is read from.
pub(super) struct ReadSite {
    pub(super) policy: Option<String>,
    pub(super) args: PlaceArgs,
    pub(super) identities: Identities,
    pub(super) cache: PathBuf,
}

/// The sites that a command line means: all of a policy, or the one that is named, or one by its address.
pub(super) fn read_sites(
    policy: Option<&str>,
    args: &PlaceArgs,
    identities: &Identities,
    cache: &Path,
) -> Result<Vec<Arc<dyn OpenArchive>>, CliError> {
    let names = match (policy, &args.site) {
        (Some(policy), None) => place::load_policy(policy)?.sites.iter().map(|site| Some(site.name.clone())).collect(),
        (_, named) => vec![named.clone()],
    };
    let site = |site: Option<String>| -> Arc<dyn OpenArchive> {
        Arc::new(ReadSite {
            policy: policy.map(str::to_owned),
            args: PlaceArgs { site, ..args.clone() },
            identities: identities.clone(),
            cache: cache.to_owned(),
        })
    };
    Ok(names.into_iter().map(site).collect())
}

#[async_trait]
impl OpenArchive for ReadSite {
    fn name(&self) -> String {
        self.args.site.clone().unwrap_or_else(|| "the site".to_owned())
    }

    async fn open(&self) -> Result<LogReader, OperationError> {
        let opened = async {
            let place = place::find_with(self.policy.as_deref(), &self.args, self.identities.clone()).await?;
            Ok(LogReader::new(Arc::new(place.open(&self.cache).await?)))
        };
        opened.await.map_err(|error| told(&self.name(), error))
    }
}
