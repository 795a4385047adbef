//! One source's entries and bytes into all sites at once: the sink of a capture.
//!
//! Every repository has keys, cuts and chunk names of its own, so each site seals for itself; what is read once is handed to each.
//! The reference in an entry's `Content` holds one chunk list for each site, in their order.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    checkpoint::Checkpoints,
    site::{Failure, Site},
};
use crate::{
    operations::{
        density::{Density, Sampler},
        exchange::exchange,
    },
    repository::{ChunkList, ChunkRef, ContentStream, Cutting, EntryRecord, EntryStream, RepositoryError},
    sources::{Content, ContentWriter, Cut, Entry, ExchangeError, Sink},
};

/// How long storing what a failed source gave may take.
const MOST_ABANDONING: Duration = Duration::from_secs(60);

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
    checkpoints: Option<Checkpoints>,
}

impl<'a> FanOut<'a> {
    /// For one snapshot.
    pub(super) fn new(sites: &'a [Site<'a>], checkpoints: Option<Checkpoints>) -> Self {
        let entries = sites.iter().map(|site| site.writer.entries()).collect();
        Self { sites, entries, density: Arc::default(), checkpoints }
    }

    /// The source failed: keeps what it gave, if that is more than the sites know of already.
    pub(super) async fn abandon(&self) {
        if let Some(checkpoints) = self.checkpoints.as_ref().filter(|checkpoints| checkpoints.is_worth_it(self.sites)) {
            // Whoever waits for the reason must not wait for a site that does not answer, either.
            if tokio::time::timeout(MOST_ABANDONING, checkpoints.store(self.sites, &self.entries)).await.is_err() {
                tracing::warn!("what was read so far could not be stored in time; it is read again");
            }
        }
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
        let earlier = self.sites.iter().map(|_| Vec::new());
        Ok(Box::new(self.contents(cutting, size, earlier, 0)))
    }

    fn room(&self) -> u32 {
        let rooms = self.sites.iter().map(|site| site.writer.room());
        rooms.min().unwrap_or(u32::MAX)
    }

    fn lull(&self) {
        for site in self.sites.iter().filter(|site| site.is_living()) {
            site.writer.send_off();
        }
    }

    async fn content_over(
        &self,
        earlier: &Content,
        piece_bytes: u32,
        size: Option<u64>,
    ) -> Result<Option<Box<dyn ContentWriter>>, ExchangeError> {
        let mut pieces = Vec::with_capacity(self.sites.len());
        for (site, list) in self.sites.iter().zip(decode(&earlier.reference).map_err(exchange)?) {
            let refs = match list {
                Some(list) if site.is_living() => site.reader.flatten(&list).await,
                None if site.is_living() => return Ok(None),
                _ => Ok(Vec::new()),
            };
            match refs {
                Ok(refs) if !site.is_living() || is_cut_every(piece_bytes, earlier.size, &refs) => pieces.push(refs),
                Ok(_) => return Ok(None),
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => {
                    site.failure.set(error);
                    pieces.push(Vec::new());
                }
            }
        }
        Ok(Some(Box::new(self.contents(Cutting::Fixed(piece_bytes), size, pieces.into_iter(), piece_bytes))))
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
        if !someone {
            return Err(nobody_left(self.sites.iter().map(|site| &site.failure)));
        }
        if let Some(checkpoints) = self.checkpoints.as_ref().filter(|checkpoints| checkpoints.is_due_after_one_more(self.sites)) {
            checkpoints.store(self.sites, &self.entries).await;
        }
        Ok(())
    }
}

impl FanOut<'_> {
    /// A writer with a lane for each site, over what each has of an earlier content.
    fn contents(
        &self,
        cutting: Cutting,
        size: Option<u64>,
        earlier: impl Iterator<Item = Vec<ChunkRef>>,
        piece_bytes: u32,
    ) -> Contents {
        let lane = |(site, earlier): (&Site<'_>, Vec<ChunkRef>)| {
            let stream = site.is_living().then(|| site.writer.content(cutting, size));
            Lane { stream, earlier, failure: Arc::clone(&site.failure) }
        };
        Contents {
            lanes: self.sites.iter().zip(earlier).map(lane).collect(),
            piece_bytes,
            written: 0,
            sampler: Sampler::default(),
            density: self.density(),
        }
    }
}

/// Whether a content of so many bytes was cut at every multiple of a length.
fn is_cut_every(piece_bytes: u32, size: u64, chunks: &[ChunkRef]) -> bool {
    let pieces = (0..size).step_by(piece_bytes.max(1) as usize).map(|start| (size - start).min(u64::from(piece_bytes)));
    pieces.eq(chunks.iter().map(|chunk| u64::from(chunk.length)))
}

/// The bytes of one entry on their way to one site.
struct Lane {
    /// Nothing for a site that was left behind.
    stream: Option<ContentStream>,
    /// The chunks of the content that it is written over.
    earlier: Vec<ChunkRef>,
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
    /// How the content that it is written over was cut, bytes.
    piece_bytes: u32,
    /// Bytes that came so far, kept ones among them.
    written: u64,
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
            self.written += piece.len() as u64;
            self.streams().for_each(|stream| stream.push(piece.clone()));
        }
        Ok(())
    }

    async fn keep(&mut self, bytes: u64) -> Result<(), ExchangeError> {
        let piece = |at: u64| usize::try_from(at.div_ceil(u64::from(self.piece_bytes.max(1)))).unwrap_or(usize::MAX);
        let (from, to) = (piece(self.written), piece(self.written + bytes));
        for lane in &mut self.lanes {
            let Some(stream) = &mut lane.stream else { continue };
            let kept = lane.earlier.get(from..to).unwrap_or_default();
            if kept.iter().map(|chunk| u64::from(chunk.length)).sum::<u64>() != bytes {
                return Err(exchange(RepositoryError::Refused {
                    subject: "backup".to_owned(),
                    detail: format!("a defect: {bytes} bytes at {} are no whole pieces of the earlier content", self.written),
                }));
            }
            let done = stream.keep(kept).await;
            lane.settle(done);
        }
        self.written += bytes;
        if self.streams().next().is_some() { Ok(()) } else { Err(nobody_left(self.lanes.iter().map(|lane| &lane.failure))) }
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
