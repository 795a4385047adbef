//! A store's keys in order, the next ones being fetched while the last are worked on: as they are, or as they were.

use std::vec::IntoIter;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    pages::{Fetched, Later, Manner},
    ranges::{Span, list_all},
};
use crate::{
    sources::SourceError,
    stores::{ObjectStat, SharedStore, StoreError},
};

/// Objects of a store in strictly ascending order of their keys.
#[derive(Debug)]
pub(super) struct Listing {
    pages: mpsc::Receiver<Result<Option<Fetched>, StoreError>>,
    page: IntoIter<ObjectStat>,
    later: Later,
    last: Option<String>,
    /// The last page was taken.
    ended: bool,
    place: String,
    _fetcher: AbortOnDropHandle<()>,
}

impl Listing {
    /// Begins to list everything as it is; the first request is on its way.
    pub(super) fn start(store: SharedStore) -> Self {
        Self::of(store, Manner::Present, Span::default())
    }

    /// Begins to list a part of the keys.
    pub(super) fn of(store: SharedStore, manner: Manner, span: Span) -> Self {
        let place = store.describe();
        // One: what is fetched ahead is bounded there.
        let (sender, pages) = mpsc::channel(1);
        let fetcher = AbortOnDropHandle::new(tokio::spawn(list_all(store, manner, span, sender)));
        Self { pages, page: Vec::new().into_iter(), later: Later::default(), last: None, ended: false, place, _fetcher: fetcher }
    }

    /// What was passed over so far.
    pub(super) fn later(&self) -> Later {
        self.later
    }

    /// The next object.
    pub(super) async fn next(&mut self) -> Result<Option<ObjectStat>, SourceError> {
        loop {
            if let Some(object) = self.page.next() {
                return Ok(Some(object));
            }
            if self.ended {
                return Ok(None);
            }
            // A listing that broke off must not pass for one that came to its end.
            let page = self.pages.recv().await.ok_or_else(|| SourceError::Unfit {
                subject: self.place.clone(),
                detail: "a defect: the listing broke off; the log says why".to_owned(),
            })?;
            let Some(page) = page? else {
                self.ended = true;
                return Ok(None);
            };
            let counts = page.counts();
            self.later.keys += counts.keys;
            self.later.covered += counts.covered;
            self.check_order(&page.objects)?;
            self.page = page.objects.into_iter();
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
