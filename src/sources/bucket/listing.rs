//! A store's keys in order, the next page being fetched while the last is worked on.

use std::vec::IntoIter;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    sources::SourceError,
    stores::{ObjectStat, SharedStore, StoreError},
};

/// Keys asked for at once: S3's most.
const PAGE_KEYS: usize = 1000;

/// Pages fetched ahead.
const PAGES_AHEAD: usize = 4;

/// Objects of a store in strictly ascending order of their keys.
#[derive(Debug)]
pub(super) struct Listing {
    pages: mpsc::Receiver<Result<Vec<ObjectStat>, StoreError>>,
    page: IntoIter<ObjectStat>,
    last: Option<String>,
    place: String,
    _fetcher: AbortOnDropHandle<()>,
}

impl Listing {
    /// Begins to list everything; the first request is on its way.
    pub(super) fn start(store: SharedStore) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let place = store.describe();
        let fetcher = tokio::spawn(async move {
            let mut after: Option<String> = None;
            loop {
                let (objects, more) = match store.list("", after.as_deref(), PAGE_KEYS).await {
                    Ok(page) => (page.objects, page.more),
                    Err(error) => {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                };
                after = objects.last().map(|object| object.key.clone());
                let last = !more || after.is_none();
                // The receiver is gone when the work ended early.
                if sender.send(Ok(objects)).await.is_err() || last {
                    return;
                }
            }
        });
        Self { pages, page: Vec::new().into_iter(), last: None, place, _fetcher: AbortOnDropHandle::new(fetcher) }
    }

    /// The next object.
    pub(super) async fn next(&mut self) -> Result<Option<ObjectStat>, SourceError> {
        loop {
            if let Some(object) = self.page.next() {
                return Ok(Some(object));
            }
            let Some(page) = self.pages.recv().await else { return Ok(None) };
            let page = page?;
            self.check_order(&page)?;
            self.page = page.into_iter();
        }
    }

    /// A server that lists out of order would make entries vanish from the merge: better no backup than a wrong one.
    fn check_order(&mut self, page: &[ObjectStat]) -> Result<(), SourceError> {
        let mut last = self.last.as_deref();
        for object in page {
            if last.is_some_and(|last| last >= object.key.as_str()) {
                return Err(SourceError::Unfit {
                    subject: self.place.clone(),
                    detail: format!(
                        "the server lists {:?} after {:?}, which is not byte order; directory buckets and some gateways do so: use a general-purpose bucket",
                        object.key,
                        last.unwrap_or_default()
                    ),
                });
            }
            last = Some(&object.key);
        }
        if let Some(last) = page.last() {
            self.last = Some(last.key.clone());
        }
        Ok(())
    }
}
