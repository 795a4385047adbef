//! One page of a listing: of what is there, or of the versions that there were.

use super::{
    as_of::{Choice, Window},
    shape::Sample,
};
use crate::stores::{ObjectStat, ObjectVersion, SharedStore, StoreError, VersionCursor};

/// Keys asked for at once: S3's most.
pub(super) const PAGE_KEYS: usize = 1000;

/// What is listed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manner {
    /// What is there now.
    Present,
    /// What was there then, each object with the version that is to be read.
    AsOf(Window),
}

/// What a listing as of T passed over, in keys.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Later {
    /// Something happened after T: uploaded, overwritten, deleted.
    pub(super) keys: u64,
    /// What is listed is not what lies there now.
    pub(super) covered: u64,
}

/// Objects in ascending order, and what is to be counted beside them.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) objects: Vec<ObjectStat>,
    /// Keys of which there is something to count, whether there is an object or not.
    passed: Vec<(String, Later)>,
}

impl Fetched {
    /// Leaves out what lies after this key.
    pub(super) fn until(mut self, until: Option<&str>) -> Self {
        if let Some(until) = until {
            self.objects.truncate(self.objects.partition_point(|object| *object.key <= *until));
            self.passed.truncate(self.passed.partition_point(|(key, _)| **key <= *until));
        }
        self
    }

    /// What is to be counted.
    pub(super) fn counts(&self) -> Later {
        self.passed
            .iter()
            .fold(Later::default(), |sum, (_, one)| Later { keys: sum.keys + one.keys, covered: sum.covered + one.covered })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.passed.is_empty()
    }
}

/// Where a range of keys is listed on from. Made anew for each range, and moved into the request and back.
#[derive(Debug)]
pub(super) enum Cursor {
    Present { after: Option<String> },
    AsOf { from: Option<VersionCursor>, keys: Box<Keys> },
}

impl Cursor {
    /// Before the first key after this one; without one, of all.
    pub(super) fn after(manner: Manner, after: Option<&str>) -> Self {
        match manner {
            Manner::Present => Self::Present { after: after.map(str::to_owned) },
            Manner::AsOf(window) => Self::AsOf {
                from: after.map(VersionCursor::after),
                keys: Box::new(Keys { window, after: after.map(str::to_owned), current: None }),
            },
        }
    }
}

/// What a request brought.
#[derive(Debug)]
pub(super) struct Listed {
    /// Everything of the page, beyond the end of the range, too.
    pub(super) fetched: Fetched,
    /// Nothing of a page without keys.
    pub(super) sample: Option<Sample>,
    /// Nothing at the end of the store.
    pub(super) next: Option<Cursor>,
}

/// Lists one page. Of versions, a key may go on in the next one, and is finished when the next key, or the end, is seen.
pub(super) async fn list(store: &SharedStore, cursor: Cursor) -> Result<Listed, StoreError> {
    match cursor {
        Cursor::Present { after } => {
            let page = store.list("", after.as_deref(), PAGE_KEYS).await?;
            let sample = sample(page.objects.iter());
            let next = sample.as_ref().filter(|_| page.more).map(|sample| Cursor::Present { after: Some(sample.last.clone()) });
            Ok(Listed { fetched: Fetched { objects: page.objects, passed: Vec::new() }, sample, next })
        }
        Cursor::AsOf { from, mut keys } => {
            let page = store.list_versions("", from.as_ref(), PAGE_KEYS).await?;
            if page.next.is_some() && page.next == from {
                let detail = "a listing of versions does not go on".to_owned();
                return Err(StoreError::Corrupt { place: store.describe(), detail });
            }
            let sample = sample(page.versions.iter().map(|version| &version.stat));
            let fetched = keys.take(store, page.versions, page.next.is_none())?;
            Ok(Listed { fetched, sample, next: page.next.map(|next| Cursor::AsOf { from: Some(next), keys }) })
        }
    }
}

fn sample<'a>(stats: impl ExactSizeIterator<Item = &'a ObjectStat> + DoubleEndedIterator + Clone) -> Option<Sample> {
    let (first, last) = (stats.clone().next()?, stats.clone().next_back()?);
    Some(Sample { first: first.key.clone(), last: last.key.clone(), items: stats.len() })
}

/// Versions made into objects, key by key.
#[derive(Debug)]
pub(super) struct Keys {
    window: Window,
    /// What is not after it belongs to the range before.
    after: Option<String>,
    current: Option<(String, Choice)>,
}

impl Keys {
    /// The objects of the keys that are complete with this page.
    fn take(&mut self, store: &SharedStore, versions: Vec<ObjectVersion>, last: bool) -> Result<Fetched, StoreError> {
        let mut fetched = Fetched::default();
        for version in versions {
            if self.after.as_ref().is_some_and(|after| version.stat.key <= *after) {
                continue;
            }
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
        let Some((key, choice)) = self.current.take() else { return };
        let chose = choice.made();
        if chose.later || chose.covered {
            fetched.passed.push((key, Later { keys: u64::from(chose.later), covered: u64::from(chose.covered) }));
        }
        fetched.objects.extend(chose.stat);
    }
}
