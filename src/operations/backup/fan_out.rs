//! One source's entries and bytes into all sites at once: the sink of a capture.
//!
//! Every repository has keys, cuts and chunk names of its own, so each site seals for itself; what is read once is handed to each.
//! The reference in an entry's `Content` holds one chunk list for each site, in their order.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use super::site::{Failure, Site};
use crate::{
    operations::{
        density::{Density, Sampler},
        exchange::exchange,
    },
    repository::{ChunkList, ContentStream, Cutting, EntryRecord, EntryStream, RepositoryError},
    sources::{Content, ContentWriter, Cut, Entry, ExchangeError, Sink},
};

/// A chunk list for each site; nothing for one that was left behind.
pub(super) type Lists = Vec<Option<ChunkList>>;

/// As it travels through a source.
pub(super) fn encode(lists: &Lists) -> Vec<u8> {
    rmp_serde::to_vec(lists).expect("numbers and bytes always serialise")
}

fn decode(reference: &[u8]) -> Result<Lists, RepositoryError> {
    rmp_serde::from_slice(reference).map_err(|error| RepositoryError::Refused {
        subject: "backup".to_owned(),
        detail: format!("a defect: a source gave back another reference than it was given: {error}"),
    })
}

fn nobody_left<'a>(mut failures: impl Iterator<Item = &'a Arc<Failure>>) -> ExchangeError {
    exchange(failures.find_map(|failure| failure.error()).unwrap_or_else(|| RepositoryError::Refused {
        subject: "backup".to_owned(),
        detail: "a defect: there is no site to write to".to_owned(),
    }))
}

/// Takes one source's entries and bytes into the repositories.
pub(super) struct FanOut<'a> {
    sites: &'a [Site<'a>],
    entries: Vec<EntryStream>,
    density: Arc<Density>,
}

impl<'a> FanOut<'a> {
    /// For one snapshot.
    pub(super) fn new(sites: &'a [Site<'a>]) -> Self {
        Self { sites, entries: sites.iter().map(|site| site.writer.entries()).collect(), density: Arc::default() }
    }

    /// What is seen of the bytes as they pass.
    pub(super) fn density(&self) -> Arc<Density> {
        Arc::clone(&self.density)
    }

    /// The end: for each site that still takes part entry list, number of entries, plain bytes of their contents.
    pub(super) async fn finish(self) -> Vec<Option<(ChunkList, u64, u64)>> {
        let each = self.sites.iter().zip(self.entries).map(|(site, entries)| async move {
            if !site.is_living() {
                return None;
            }
            entries.finish().await.map_err(|error| site.failure.set(error)).ok()
        });
        join_all(each).await
    }
}

#[async_trait]
impl Sink for FanOut<'_> {
    async fn content(&self, cut: Cut, size: Option<u64>) -> Result<Box<dyn ContentWriter>, ExchangeError> {
        let cutting = match cut {
            Cut::ContentDefined => Cutting::ContentDefined,
            Cut::Fixed(bytes) => Cutting::Fixed(bytes),
        };
        let lane = |site: &Site<'_>| {
            let stream = site.is_living().then(|| site.writer.content(cutting, size));
            Lane { stream, failure: Arc::clone(&site.failure) }
        };
        Ok(Box::new(Contents {
            lanes: self.sites.iter().map(lane).collect(),
            sampler: Sampler::default(),
            density: self.density(),
        }))
    }

    async fn entry(&self, entry: Entry) -> Result<(), ExchangeError> {
        let size = entry.content.as_ref().map(|content| content.size);
        let mut lists = entry.content.map(|content| decode(&content.reference)).transpose().map_err(exchange)?;
        let mut record = EntryRecord {
            path: entry.path,
            kind: entry.kind,
            modified: entry.modified.map(|time| (time.timestamp(), time.timestamp_subsec_nanos())),
            size,
            content: None,
            attributes: entry.attributes,
        };
        let mut someone = false;
        for (index, (site, entries)) in self.sites.iter().zip(&self.entries).enumerate() {
            record.content = lists.as_mut().and_then(|lists| lists.get_mut(index)?.take());
            if !site.is_living() {
                continue;
            }
            if size.is_some() && record.content.is_none() {
                return Err(exchange(RepositoryError::Refused {
                    subject: String::from_utf8_lossy(&record.path).into_owned(),
                    detail: "a defect: a site that takes part has no bytes of it".to_owned(),
                }));
            }
            match entries.push(&record).await {
                Ok(()) => someone = true,
                Err(error) => site.failure.set(error),
            }
        }
        if someone { Ok(()) } else { Err(nobody_left(self.sites.iter().map(|site| &site.failure))) }
    }
}

/// The bytes of one entry on their way to one site.
struct Lane {
    /// Nothing for a site that was left behind.
    stream: Option<ContentStream>,
    failure: Arc<Failure>,
}

impl Lane {
    /// Keeps what came of a step; a failed one leaves the site behind, and gives back what it held of its memory.
    fn settle<T>(&mut self, done: Result<T, RepositoryError>) -> Option<T> {
        done.map_err(|error| {
            self.stream = None;
            self.failure.set(error);
        })
        .ok()
    }
}

struct Contents {
    lanes: Vec<Lane>,
    sampler: Sampler,
    density: Arc<Density>,
}

impl Contents {
    fn streams(&mut self) -> impl Iterator<Item = &mut ContentStream> {
        self.lanes.iter_mut().filter_map(|lane| lane.stream.as_mut())
    }

    /// New room at every site. All give their shares of the memory back before any waits for a new one, and they wait in the same
    /// order: two contents, of which each holds at one site what the other waits for, would wait for ever. What came so far is the
    /// same everywhere, and cut in the same way, so that all run out of room at once.
    async fn make_room(&mut self) -> Result<(), ExchangeError> {
        for lane in &mut self.lanes {
            // A site that failed elsewhere must not go on taking memory here.
            if lane.failure.is_set() {
                lane.stream = None;
            }
            if let Some(stream) = lane.stream.as_mut().filter(|stream| stream.room() == 0) {
                let done = stream.hand_over().await;
                lane.settle(done);
            }
        }
        for lane in &mut self.lanes {
            if let Some(stream) = lane.stream.as_mut().filter(|stream| stream.room() == 0) {
                let done = stream.make_room().await;
                lane.settle(done);
            }
        }
        if self.streams().next().is_some() { Ok(()) } else { Err(nobody_left(self.lanes.iter().map(|lane| &lane.failure))) }
    }
}

#[async_trait]
impl ContentWriter for Contents {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), ExchangeError> {
        self.sampler.look(&bytes, &self.density);
        while !bytes.is_empty() {
            let room = match self.streams().map(|stream| stream.room()).min() {
                Some(room) if room > 0 => room,
                _ => {
                    self.make_room().await?;
                    continue;
                }
            };
            let piece = bytes.split_to(bytes.len().min(room));
            self.streams().for_each(|stream| stream.push(&piece));
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Content, ExchangeError> {
        let failures: Vec<_> = self.lanes.iter().map(|lane| Arc::clone(&lane.failure)).collect();
        let each = self.lanes.into_iter().map(|lane| async move {
            let done = lane.stream?.finish().await;
            done.map_err(|error| lane.failure.set(error)).ok()
        });
        let (mut size, mut lists) = (None, Lists::new());
        for done in join_all(each).await {
            size = done.as_ref().map(|(_, size)| *size).or(size);
            lists.push(done.map(|(list, _)| list));
        }
        match size {
            Some(size) => Ok(Content { size, reference: encode(&lists) }),
            None => Err(nobody_left(failures.iter())),
        }
    }
}
