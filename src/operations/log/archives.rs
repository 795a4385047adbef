//! The sites that files of the log are fetched from, one after another.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{local::check, refused};
use crate::{
    operations::OperationError,
    repository::{FetchedLogFile, LogAnswer, LogKind, LogName, LogReader},
};

/// A site that can be opened.
#[async_trait]
pub trait OpenArchive: Send + Sync {
    /// Its name, as an operator would write it down.
    fn name(&self) -> String;
    /// Opens it.
    async fn open(&self) -> Result<LogReader, OperationError>;
}

/// Sites in the order in which they are asked. Each is opened when it is needed.
pub struct Archives {
    sites: Vec<(Arc<dyn OpenArchive>, OnceCell<LogReader>)>,
}

/// What all sites together answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The file, whole, and whose it is.
    File(Vec<u8>),
    /// Every site answered, and none has it or a later one.
    Absent,
    /// Every site answered, and none has it; one has this later one.
    Gap { next: LogName, site: String },
}

impl Archives {
    /// Of these sites; at least one.
    pub fn new(sites: Vec<Arc<dyn OpenArchive>>) -> Self {
        Self { sites: sites.into_iter().map(|site| (site, OnceCell::new())).collect() }
    }

    /// Fetches a file from the first site that has it.
    ///
    /// # Errors
    /// Of the first site that failed, if no other has the file: it may be the one that has it.
    pub(super) async fn fetch(&self, name: &LogName) -> Result<Answer, OperationError> {
        let (mut failed, mut gap) = (None, None);
        for (site, reader) in &self.sites {
            match fetch_from(site.as_ref(), reader, name).await {
                Ok(LogAnswer::File(bytes)) => match check(name, &bytes) {
                    Ok(()) => return Ok(Answer::File(bytes)),
                    Err(detail) => drop(failed.get_or_insert(refused(format!("{}: {name}", site.name()), detail))),
                },
                Ok(LogAnswer::Absent) => {}
                Ok(LogAnswer::Gap { next }) => drop(gap.get_or_insert((next, site.name()))),
                Err(error) => {
                    if self.sites.len() > 1 {
                        tracing::warn!(site = site.name(), %error, "cannot say whether it has the file");
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        match (failed, gap) {
            (Some(error), _) => Err(error),
            (None, _) if self.sites.is_empty() => Err(refused(name.file(), "there is no site to fetch it from")),
            (None, Some((next, site))) => Ok(Answer::Gap { next, site }),
            (None, None) => Ok(Answer::Absent),
        }
    }

    /// How many sites there are.
    pub(super) fn count(&self) -> usize {
        self.sites.len()
    }

    /// A file as one of the sites has it, still sealed; nothing if it has none.
    ///
    /// # Errors
    /// Of that site.
    pub(super) async fn fetch_sealed(&self, site: usize, name: &LogName) -> Result<Option<FetchedLogFile>, OperationError> {
        let Some((site, reader)) = self.sites.get(site) else { return Ok(None) };
        Ok(opened(site.as_ref(), reader).await?.fetch_sealed(name).await?)
    }

    /// The beginning of a segment that no site has whole, from the site whose parts of it go furthest; nothing if there are none.
    ///
    /// # Errors
    /// Of the first site that failed: its parts may go further.
    pub(super) async fn parts(&self, segment: &LogName) -> Result<Option<Vec<u8>>, OperationError> {
        let mut furthest: Option<Vec<u8>> = None;
        for (site, reader) in &self.sites {
            let bytes = opened(site.as_ref(), reader).await?.fetch_parts(segment).await?;
            if bytes.len() > furthest.as_ref().map_or(0, Vec::len) {
                furthest = Some(bytes);
            }
        }
        Ok(furthest)
    }

    /// Segments that come after a file, by the first site that has any.
    pub(super) async fn after(&self, name: &LogName, most: usize) -> Result<Vec<LogName>, OperationError> {
        let mut failed = None;
        for (site, reader) in &self.sites {
            let found = async { Ok(opened(site.as_ref(), reader).await?.repository().segments_after(name, most).await?) };
            match found.await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found.into_iter().filter(|next| next.kind() == LogKind::Segment).collect()),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Vec::new()), Err)
    }
}

async fn opened<'a>(site: &dyn OpenArchive, reader: &'a OnceCell<LogReader>) -> Result<&'a LogReader, OperationError> {
    reader.get_or_try_init(|| site.open()).await
}

async fn fetch_from(site: &dyn OpenArchive, reader: &OnceCell<LogReader>, name: &LogName) -> Result<LogAnswer, OperationError> {
    Ok(opened(site, reader).await?.fetch(name).await?)
}
