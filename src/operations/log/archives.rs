//! The sites that files of the log are fetched from, one after another.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{local::check, refused};
use crate::{
    operations::OperationError,
    repository::{FetchedLogFile, LaterLog, LogKind, LogName, LogReader, Looked},
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
pub(super) enum Answer<T> {
    /// The file, or what was made of it.
    File(T),
    /// Every site answered, and none has it or a later one.
    Absent,
    /// Every site answered, and none has it; this one has later ones. Of several, the one whose came last.
    Gap { later: LaterLog, site: String },
}

impl Archives {
    /// Of these sites; at least one.
    pub fn new(sites: Vec<Arc<dyn OpenArchive>>) -> Self {
        Self { sites: sites.into_iter().map(|site| (site, OnceCell::new())).collect() }
    }

    /// Fetches a file from the first site that has it: all of it, and what its name says.
    ///
    /// # Errors
    /// As [`Self::fetch_by`].
    pub(super) async fn fetch(&self, name: &LogName) -> Result<Answer<Vec<u8>>, OperationError> {
        self.fetch_by(name, async |file| whole(name, file).await).await
    }

    /// Fetches a file, still sealed, from the first site whose file `take` takes: an error of it says that this one is not sound.
    ///
    /// # Errors
    /// Of the first site that failed, or of the first `take`, if no other site's file was taken: that one may be the one that has it.
    pub(super) async fn fetch_by<T>(
        &self,
        name: &LogName,
        take: impl AsyncFn(FetchedLogFile) -> Result<T, OperationError>,
    ) -> Result<Answer<T>, OperationError> {
        self.find(name, take, true).await
    }

    /// The same for a file of which it does not matter why no site has it; nothing then.
    ///
    /// # Errors
    /// As [`Self::fetch_by`].
    pub(super) async fn fetch_listed<T>(
        &self,
        name: &LogName,
        take: impl AsyncFn(FetchedLogFile) -> Result<T, OperationError>,
    ) -> Result<Option<T>, OperationError> {
        Ok(match self.find(name, take, false).await? {
            Answer::File(taken) => Some(taken),
            Answer::Absent | Answer::Gap { .. } => None,
        })
    }

    async fn find<T>(
        &self,
        name: &LogName,
        take: impl AsyncFn(FetchedLogFile) -> Result<T, OperationError>,
        looks_for_later: bool,
    ) -> Result<Answer<T>, OperationError> {
        let (mut failed, mut gap): (_, Option<(LaterLog, String)>) = (None, None);
        for (site, reader) in &self.sites {
            let answer = async {
                let reader = opened(site.as_ref(), reader).await?;
                let looked = match looks_for_later {
                    true => reader.look(name).await?,
                    false => reader.fetch_sealed(name).await?.map_or(Looked::Absent, Looked::File),
                };
                Ok(match looked {
                    Looked::File(file) => Answer::File(take(file).await?),
                    Looked::Absent => Answer::Absent,
                    Looked::Later(later) => Answer::Gap { later, site: site.name() },
                })
            };
            match answer.await {
                Ok(Answer::File(taken)) => return Ok(Answer::File(taken)),
                Ok(Answer::Absent) => {}
                Ok(Answer::Gap { later, site }) => {
                    if gap.as_ref().is_none_or(|(other, _)| other.since < later.since) {
                        gap = Some((later, site));
                    }
                }
                Err(error) => {
                    if self.sites.len() > 1 {
                        tracing::warn!(site = site.name(), %error, "the file cannot be had from there");
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        match (failed, gap) {
            (Some(error), _) => Err(error),
            (None, _) if self.sites.is_empty() => Err(refused(name.file(), "there is no site to fetch it from")),
            (None, Some((later, site))) => Ok(Answer::Gap { later, site }),
            (None, None) => Ok(Answer::Absent),
        }
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

/// All of a file that was fetched, if it is what its name says.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn whole(name: &LogName, file: FetchedLogFile) -> Result<Vec<u8>, OperationError> {
    let place = file.place().to_owned();
    let bytes = file.whole().await?;
    check(name, &bytes).map_err(|detail| refused(place, detail))?;
    Ok(bytes)
}
