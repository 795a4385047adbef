//! A store's keys in order, the next page being fetched while the last is worked on: as they are, or as they were.

use std::vec::IntoIter;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::as_of::{Choice, Window};
use crate::{
    sources::SourceError,
    stores::{ObjectStat, ObjectVersion, SharedStore, StoreError, VersionCursor},
};

/// Keys asked for at once: S3's most.
const PAGE_KEYS: usize = 1000;

/// Pages fetched ahead.
const PAGES_AHEAD: usize = 4;

/// Objects, and what is to be counted beside them.
#[derive(Debug, Default)]
struct Fetched {
    objects: Vec<ObjectStat>,
    counts: Later,
}

/// What a listing as of T passed over, in keys.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Later {
    /// Something happened after T: uploaded, overwritten, deleted.
    pub(super) keys: u64,
    /// What is listed is not what lies there now.
    pub(super) covered: u64,
}

type Pages = mpsc::Sender<Result<Fetched, StoreError>>;

/// Objects of a store in strictly ascending order of their keys.
#[derive(Debug)]
pub(super) struct Listing {
    pages: mpsc::Receiver<Result<Fetched, StoreError>>,
    page: IntoIter<ObjectStat>,
    later: Later,
    last: Option<String>,
    place: String,
    _fetcher: AbortOnDropHandle<()>,
}

impl Listing {
    /// Begins to list everything as it is; the first request is on its way.
    pub(super) fn start(store: SharedStore) -> Self {
        Self::fetched_by(store.describe(), |pages| tokio::spawn(fetch(store, pages)))
    }

    /// Begins to list everything as it was, each object with the version that is to be read.
    pub(super) fn as_of(store: SharedStore, window: Window) -> Self {
        Self::fetched_by(store.describe(), |pages| tokio::spawn(fetch_as_of(store, window, pages)))
    }

    fn fetched_by(place: String, start: impl FnOnce(Pages) -> tokio::task::JoinHandle<()>) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let fetcher = AbortOnDropHandle::new(start(sender));
        Self { pages, page: Vec::new().into_iter(), later: Later::default(), last: None, place, _fetcher: fetcher }
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
            let Some(page) = self.pages.recv().await else { return Ok(None) };
            let Fetched { objects, counts } = page?;
            self.later.keys += counts.keys;
            self.later.covered += counts.covered;
            self.check_order(&objects)?;
            self.page = objects.into_iter();
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

async fn fetch(store: SharedStore, pages: Pages) {
    let mut after: Option<String> = None;
    loop {
        let (objects, more) = match store.list("", after.as_deref(), PAGE_KEYS).await {
            Ok(page) => (page.objects, page.more),
            Err(error) => {
                let _ = pages.send(Err(error)).await;
                return;
            }
        };
        after = objects.last().map(|object| object.key.clone());
        let last = !more || after.is_none();
        // The receiver is gone when the work ended early.
        if pages.send(Ok(Fetched { objects, counts: Later::default() })).await.is_err() || last {
            return;
        }
    }
}

async fn fetch_as_of(store: SharedStore, window: Window, pages: Pages) {
    let mut keys = Keys { window, current: None };
    let mut from: Option<VersionCursor> = None;
    loop {
        let page = match store.list_versions("", from.as_ref(), PAGE_KEYS).await {
            Ok(page) if page.next.is_some() && page.next == from => {
                Err(StoreError::Corrupt { place: store.describe(), detail: "a listing of versions does not go on".to_owned() })
            }
            done => done,
        };
        let fetched = page.and_then(|page| Ok((keys.take(&store, page.versions, page.next.is_none())?, page.next)));
        let (fetched, next) = match fetched {
            Ok((fetched, next)) => (Ok(fetched), next),
            Err(error) => (Err(error), None),
        };
        from = next;
        if pages.send(fetched).await.is_err() || from.is_none() {
            return;
        }
    }
}

/// Versions made into objects, key by key; a key may go on in the next page.
struct Keys {
    window: Window,
    current: Option<(String, Choice)>,
}

impl Keys {
    /// The objects of the keys that are complete with this page.
    fn take(&mut self, store: &SharedStore, versions: Vec<ObjectVersion>, last: bool) -> Result<Fetched, StoreError> {
        let mut fetched = Fetched::default();
        for version in versions {
            match &mut self.current {
                Some((key, choice)) if *key == version.stat.key => choice.see(version),
                Some((key, _)) if *key > version.stat.key => {
                    let detail = format!(
                        "the server lists versions of {:?} after those of {key:?}, which is not byte order",
                        version.stat.key
                    );
                    return Err(StoreError::Corrupt { place: store.describe(), detail });
                }
                _ => {
                    self.finish(&mut fetched);
                    let key = version.stat.key.clone();
                    let mut choice = Choice::of(self.window);
                    choice.see(version);
                    self.current = Some((key, choice));
                }
            }
        }
        if last {
            self.finish(&mut fetched);
        }
        Ok(fetched)
    }

    fn finish(&mut self, fetched: &mut Fetched) {
        let Some((_, choice)) = self.current.take() else { return };
        let chose = choice.made();
        fetched.counts.keys += u64::from(chose.later);
        fetched.counts.covered += u64::from(chose.covered);
        fetched.objects.extend(chose.stat);
    }
}
