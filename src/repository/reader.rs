//! The way out: site → ranged reads → authentication tag → zstd → keyed hash → bytes.
//!
//! Reads go by pack, not by file: wanted chunks are grouped by pack, sorted by offset, neighbours merged into one ranged
//! request, many requests in flight. Every chunk's tag is verified, and then its keyed hash: a stolen writer could store a
//! false chunk under a true id.

mod archived;
mod entries;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Budget, ChunkCache, ChunkId, ChunkList, ChunkRef, Class, Marks, Repository, RepositoryError, Workers,
    cache::{Location, PackRecord},
    chunk::{MAX_CUT_BYTES, MAX_LEVEL, MAX_LIST_BYTES},
    error::{Result, reading},
    format::{MAX_CHUNK_BYTES, pack_key},
    keys::{Catalogue, DataKeys},
    memory::{Lane, Share},
    pack::{Place, open_directory},
    seal::OpeningKey,
    structure::{Site, update_indexes},
    workers::Desk,
};
use crate::stores::{GetOptions, Pieces, SharedStore, read_into, read_pieces};

pub use archived::ArchivedPack;

/// Bytes between two wanted chunks that are cheaper to read than to ask anew for.
const MERGE_GAP_BYTES: u64 = 128 << 10;
/// Longest ranged read, bytes (sealed).
const MAX_RANGE_BYTES: u64 = 4 << 20;
/// Most plain bytes of one ranged read: catalogue chunks compress tenfold.
const MAX_RANGE_PLAIN_BYTES: usize = 8 << 20;
/// Requests in flight at once, per stream of pieces.
const REQUESTS: usize = 16;
/// Groups that an ordered stream reads ahead.
const READ_AHEAD: usize = 6;

/// A piece of one of the contents asked for.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Which of the wanted contents.
    pub index: usize,
    /// Where it lies in it, bytes.
    pub offset: u64,
    /// The plain bytes.
    pub bytes: Bytes,
}

/// Why contents that were asked for together are not delivered.
#[derive(Debug)]
pub struct Undelivered {
    /// Which of the wanted contents it is about, where that is known.
    pub index: Option<usize>,
    /// What happened.
    pub error: RepositoryError,
}

impl From<RepositoryError> for Undelivered {
    fn from(error: RepositoryError) -> Self {
        Self { index: None, error }
    }
}

impl From<Undelivered> for RepositoryError {
    fn from(undelivered: Undelivered) -> Self {
        undelivered.error
    }
}

/// Reads chunks, contents and entries of a repository.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: SharedStore,
    catalogue: Arc<Catalogue>,
    data_keys: DataKeys,
    cache: Arc<ChunkCache>,
    workers: Arc<Workers>,
    budget: Budget,
}

/// Where pieces of a chunk are wanted.
type Wanted = Vec<(usize, u64)>;

/// One ranged read: neighbouring chunks of one pack.
#[derive(Debug, Clone)]
struct Range {
    pack: u32,
    chunks: Vec<(Place, Wanted)>,
}

impl Range {
    fn start(&self) -> u64 {
        self.chunks.first().map_or(0, |(place, _)| u64::from(place.offset))
    }

    fn end(&self) -> u64 {
        self.chunks.last().map_or(0, |(place, _)| u64::from(place.offset) + u64::from(place.sealed_bytes))
    }

    /// Whether `place` is near enough to be read with the rest.
    fn takes(&self, pack: u32, place: &Place) -> bool {
        let end = u64::from(place.offset) + u64::from(place.sealed_bytes);
        let start = u64::from(place.offset);
        pack == self.pack
            && start >= self.end()
            && start - self.end() <= MERGE_GAP_BYTES
            && end - self.start() <= MAX_RANGE_BYTES
            && self.plain_bytes() + place.plain_bytes as usize <= MAX_RANGE_PLAIN_BYTES
    }

    fn plain_bytes(&self) -> usize {
        self.chunks.iter().map(|(place, _)| place.plain_bytes as usize).sum()
    }

    /// Who wants the chunk that an error names, if it names one: the others of the range may well be sound.
    fn named_by(&self, error: &RepositoryError) -> Option<usize> {
        let RepositoryError::Damaged { place, .. } = error.root() else { return None };
        let (_, wanted) = self.chunks.iter().find(|(chunk, _)| place.ends_with(&format!("chunk {}", chunk.id)))?;
        wanted.first().map(|(index, _)| *index)
    }

    /// Memory that reading and opening it takes.
    fn cost(&self) -> usize {
        self.plain_bytes() + usize::try_from(self.end() - self.start()).unwrap_or(usize::MAX)
    }
}

impl Reader {
    /// A reader with the keys at hand; data keys are opened when first needed.
    ///
    /// # Errors
    /// As [`Repository::chunks`].
    pub async fn open(repository: &Repository, workers: Arc<Workers>, budget: Budget) -> Result<Self> {
        Ok(Self::over(repository, repository.chunks().await?, workers, budget))
    }

    /// A reader over a local index that is open and up to date.
    pub fn over(repository: &Repository, cache: Arc<ChunkCache>, workers: Arc<Workers>, budget: Budget) -> Self {
        let shared = Shared {
            store: repository.store.clone(),
            catalogue: Arc::clone(&repository.catalogue),
            data_keys: repository.data_keys(),
            cache,
            workers,
            budget,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The bytes of a content, in order, read ahead.
    pub fn read(&self, content: &ChunkList) -> BoxStream<'static, Result<Bytes>> {
        self.list(content, Class::Data)
    }

    fn list(&self, list: &ChunkList, class: Class) -> BoxStream<'static, Result<Bytes>> {
        let (this, list) = (self.clone(), list.clone());
        stream::once(async move {
            let refs = this.flatten(&list).await?;
            Ok::<_, RepositoryError>(this.in_order(refs, class))
        })
        .try_flatten()
        .boxed()
    }

    /// The list that a list of level 1 or more holds.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`], [`RepositoryError::MissingChunk`].
    pub async fn level_below(&self, list: &ChunkList) -> Result<ChunkList> {
        let damaged = |detail: String| RepositoryError::Damaged { place: "a chunk list".to_owned(), detail };
        let level = list.level.checked_sub(1).filter(|level| *level < MAX_LEVEL);
        let level = level.ok_or_else(|| damaged(format!("has {} levels, the most is {MAX_LEVEL}", list.level)))?;
        let refs: Vec<ChunkRef> = list.chunks()?.collect();
        let bytes: u64 = refs.iter().map(|chunk| u64::from(chunk.length)).sum();
        if bytes > MAX_LIST_BYTES {
            return Err(damaged(format!("is {bytes} bytes long, the most is {MAX_LIST_BYTES}")));
        }
        let mut below = ChunkList { level, refs: Vec::new() };
        let mut pieces = self.in_order(refs, Class::Catalogue);
        // Each piece gives its memory back before the next: collecting them would wait for ourselves.
        while let Some(piece) = pieces.try_next().await? {
            below.refs.extend_from_slice(&piece);
        }
        Ok(below)
    }

    /// The level-0 refs of a list.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`], [`RepositoryError::MissingChunk`].
    pub async fn flatten(&self, list: &ChunkList) -> Result<Vec<ChunkRef>> {
        let mut list = list.clone();
        while list.level > 0 {
            list = self.level_below(&list).await?;
        }
        let refs = list.chunks()?.collect();
        Ok(refs)
    }

    /// Chunks in the order asked for, neighbours read together, several requests ahead.
    pub(super) fn in_order(&self, refs: Vec<ChunkRef>, class: Class) -> BoxStream<'static, Result<Bytes>> {
        let shared = Arc::clone(&self.shared);
        let mut queue = refs.into_iter().peekable();
        let groups = std::iter::from_fn(move || {
            let first = queue.next()?;
            let mut range = match shared.locate(&first) {
                Ok(found) => Range { pack: found.pack, chunks: vec![(found.place, vec![(0, 0)])] },
                Err(error) => return Some(Err(error)),
            };
            while let Some(next) = queue.peek() {
                let Ok(found) = shared.locate(next) else { break };
                if !range.takes(found.pack, &found.place) {
                    break;
                }
                let number = range.chunks.len();
                range.chunks.push((found.place, vec![(number, 0)]));
                queue.next();
            }
            Some(Ok(range))
        });
        let (shared, lane) = (Arc::clone(&self.shared), Lane::default());
        stream::iter(groups)
            .map(move |range| {
                let (shared, lane) = (Arc::clone(&shared), lane.clone());
                async move { shared.fetch(range?, class, lane).await.map_err(RepositoryError::from) }
            })
            .buffered(READ_AHEAD)
            .map_ok(|pieces| stream::iter(pieces.into_iter().map(|piece| Ok(piece.bytes))))
            .try_flatten()
            .boxed()
    }

    /// The bytes of many contents, in whatever order is fastest.
    pub fn deliver(&self, wanted: Vec<ChunkList>) -> BoxStream<'static, Result<Piece, Undelivered>> {
        let this = self.clone();
        stream::once(async move {
            let ranges = this.plan(&wanted).await?;
            let (shared, lane) = (Arc::clone(&this.shared), Lane::default());
            let pieces = stream::iter(ranges)
                .map(move |range| {
                    let (shared, lane) = (Arc::clone(&shared), lane.clone());
                    async move { shared.fetch(range, Class::Data, lane).await }
                })
                .buffer_unordered(REQUESTS)
                .map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)))
                .try_flatten();
            Ok::<_, Undelivered>(pieces)
        })
        .try_flatten()
        .boxed()
    }

    /// Groups all chunks by pack and offset; a chunk that is wanted twice is read once.
    async fn plan(&self, wanted: &[ChunkList]) -> Result<Vec<Range>, Undelivered> {
        let mut by_place: BTreeMap<(u32, u32), (Place, Wanted)> = BTreeMap::new();
        for (index, list) in wanted.iter().enumerate() {
            let mut offset = 0;
            let undelivered = |error| Undelivered { index: Some(index), error };
            for chunk in self.flatten(list).await.map_err(undelivered)? {
                let found = self.shared.locate(&chunk).map_err(undelivered)?;
                by_place
                    .entry((found.pack, found.place.offset))
                    .or_insert_with(|| (found.place, Vec::new()))
                    .1
                    .push((index, offset));
                offset += u64::from(chunk.length);
            }
        }
        let mut ranges: Vec<Range> = Vec::new();
        for ((pack, _), (place, wanted)) in by_place {
            match ranges.last_mut() {
                Some(range) if range.takes(pack, &place) => range.chunks.push((place, wanted)),
                _ => ranges.push(Range { pack, chunks: vec![(place, wanted)] }),
            }
        }
        Ok(ranges)
    }

    /// Reads a whole pack and verifies everything in it: name, directory, and (for packs whose data key is at hand) every
    /// chunk's tag and keyed hash. Returns the number of chunks and of plain bytes.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] naming the first thing that does not match; the store's; [`RepositoryError::Key`].
    pub async fn verify_pack(&self, record: &PackRecord) -> Result<(u64, u64)> {
        let shared = &self.shared;
        let _share = shared.budget.share(record.size as usize + MAX_CHUNK_BYTES).await;
        let key = pack_key(&record.sha256);
        let place = format!("{}/{key}", shared.store.describe());
        let mut bytes = shared.budget.buffer(record.size as usize);
        let read = read_into(shared.store.as_ref(), &key, GetOptions::default(), u64::from(record.size), &mut bytes);
        read.await.map_err(reading)?;
        let opener = shared.opener(record).await?;
        let (worker, record) = (Arc::clone(shared), record.clone());
        shared
            .on_worker(&place.clone(), move |desk| {
                let entry = super::pack::read_pack(&place, &record.sha256, &bytes, &worker.catalogue)?;
                let same = (entry.class, entry.run, entry.data_key) == (record.class, record.run, record.data_key);
                if !same || entry.directory_hash() != record.directory {
                    let detail = "its header or directory is not what its index says".to_owned();
                    return Err(RepositoryError::Damaged { place, detail });
                }
                let mut plain_bytes = 0;
                let mut plain = worker.budget.buffer(MAX_CUT_BYTES);
                for chunk in &entry.places {
                    let start = chunk.offset as usize;
                    let sealed = &bytes[start..start + chunk.sealed_bytes as usize];
                    worker.open(desk, &opener, record.class, chunk, sealed, (&mut plain, 0), &place)?;
                    plain_bytes += u64::from(chunk.plain_bytes);
                }
                worker.budget.reuse(bytes);
                worker.budget.reuse(plain);
                Ok((entry.places.len() as u64, plain_bytes))
            })
            .await
    }

    /// Reads a pack that is known to be damaged, and tells which of the chunks that its own directory names cannot be used; `None`
    /// if not even the directory can, or there is no pack.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Key`].
    pub async fn unusable_chunks(&self, record: &PackRecord) -> Result<Option<HashSet<ChunkId>>> {
        let shared = &self.shared;
        let _share = shared.budget.share(record.size as usize + MAX_CHUNK_BYTES).await;
        let key = pack_key(&record.sha256);
        let place = format!("{}/{key}", shared.store.describe());
        let mut bytes = shared.budget.buffer(record.size as usize);
        let read = read_into(shared.store.as_ref(), &key, GetOptions::default(), u64::from(record.size), &mut bytes);
        match read.await.map_err(reading) {
            Ok(()) => {}
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        }
        let opener = match shared.opener(record).await {
            Ok(opener) => opener,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        };
        let (worker, record) = (Arc::clone(shared), record.clone());
        shared
            .on_worker(&place.clone(), move |desk| {
                let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let Ok(entry) = open_directory(&place, &record.sha256, size, &bytes, &bytes, &worker.catalogue) else {
                    return Ok(None);
                };
                let mut unusable = HashSet::new();
                let mut plain = worker.budget.buffer(MAX_CUT_BYTES);
                for chunk in &entry.places {
                    let start = chunk.offset as usize;
                    let sealed = &bytes[start..start + chunk.sealed_bytes as usize];
                    if worker.open(desk, &opener, record.class, chunk, sealed, (&mut plain, 0), &place).is_err() {
                        unusable.insert(chunk.id);
                    }
                }
                worker.budget.reuse(bytes);
                worker.budget.reuse(plain);
                Ok(Some(unusable))
            })
            .await
    }

    /// The local index.
    pub fn cache(&self) -> &Arc<ChunkCache> {
        &self.shared.cache
    }

    /// What names chunks.
    pub(super) fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.shared.catalogue)
    }
}

/// Calls of the site on a task of their own. They hold leave for some of the few requests that it allows, and whoever wants what they bring may not
/// ask for it before others, who wait for such leave, are done.
async fn on_its_own<T: Send + 'static>(calls: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    AbortOnDropHandle::new(tokio::spawn(calls)).await.unwrap_or_else(|error| {
        let detail = format!("a defect: a task of this program ended: {error}");
        Err(RepositoryError::Refused { subject: "reading packs".to_owned(), detail })
    })
}

impl Shared {
    fn missing(&self, chunk: &ChunkRef) -> RepositoryError {
        RepositoryError::MissingChunk { place: self.store.describe(), id: chunk.id.to_string() }
    }

    fn locate(&self, chunk: &ChunkRef) -> Result<Location> {
        let found = self.cache.find(chunk)?.ok_or_else(|| self.missing(chunk))?;
        if chunk.length as usize > MAX_CHUNK_BYTES {
            return Err(RepositoryError::Damaged {
                place: format!("chunk {}", chunk.id),
                detail: format!("has {} plain bytes by its entry, more than any", chunk.length),
            });
        }
        Ok(found)
    }

    async fn opener(&self, record: &PackRecord) -> Result<Arc<OpeningKey>> {
        match record.class {
            Class::Data => self.data_keys.get(&record.data_key).await,
            Class::Catalogue => Ok(self.catalogue.opening_key(&record.run)),
        }
    }

    /// Reads and opens one range. A pack that turns out to be damaged counts as lost from then on: its chunks are looked for in
    /// other packs, and a backup that met it in its earlier entries stores them anew instead of referring to them again.
    async fn fetch(self: Arc<Self>, range: Range, class: Class, lane: Lane) -> Result<Vec<Piece>, Undelivered> {
        match Arc::clone(&self).fetch_range(&range, class, &lane).await {
            Err(error) if error.is_damage() => {
                self.cache.lose(range.pack);
                let named = range.named_by(&error);
                match self.rescue(range, class, &lane).await {
                    // What was wrong at first says more than that there is no other copy.
                    Err(Undelivered { index, error: RepositoryError::MissingChunk { .. } }) => {
                        Err(Undelivered { index: named.or(index), error })
                    }
                    done => done,
                }
            }
            done => Ok(done?),
        }
    }

    /// Reads the chunks of a range one by one, each from a pack that is sound, if there is one. A prune may have moved them since
    /// the local index was brought up to date: if nothing is found, that is done once more.
    async fn rescue(self: Arc<Self>, range: Range, class: Class, lane: &Lane) -> Result<Vec<Piece>, Undelivered> {
        let mut rescued = Vec::with_capacity(range.chunks.len());
        let mut is_current = false;
        for (chunk, wanted) in range.chunks {
            let wish = ChunkRef { id: chunk.id, length: chunk.plain_bytes };
            let mut last = None;
            let pieces = loop {
                let found = match self.locate(&wish) {
                    Ok(found) if !self.cache.seen().missing.contains(&found.pack) => found,
                    // The cache knows no better one than a lost one.
                    nothing if is_current => {
                        let error = nothing.err().or(last).unwrap_or_else(|| self.missing(&wish));
                        return Err(Undelivered { index: wanted.first().map(|(index, _)| *index), error });
                    }
                    _ => {
                        is_current = true;
                        let this = Arc::clone(&self);
                        on_its_own(async move {
                            let site = Site { store: &this.store, catalogue: &this.catalogue };
                            update_indexes(&site, &this.cache, &Marks::default(), false).await.map(drop)
                        })
                        .await?;
                        continue;
                    }
                };
                let alone = Range { pack: found.pack, chunks: vec![(found.place, wanted.clone())] };
                match Arc::clone(&self).fetch_range(&alone, class, lane).await {
                    Err(error) if error.is_damage() => {
                        self.cache.lose(alone.pack);
                        last = Some(error);
                    }
                    done => break done?,
                }
            };
            // Copies without a share of the memory: the next chunk would wait for the share of this one.
            rescued.extend(pieces.into_iter().map(|piece| Piece { bytes: Bytes::copy_from_slice(&piece.bytes), ..piece }));
        }
        Ok(rescued)
    }

    /// The pieces hold their share of the memory until they are dropped.
    async fn fetch_range(self: Arc<Self>, range: &Range, class: Class, lane: &Lane) -> Result<Vec<Piece>> {
        let record = self.cache.pack(range.pack)?;
        let key = pack_key(&record.sha256);
        let place = format!("{}/{key}", self.store.describe());
        if record.class != class {
            return Err(RepositoryError::Damaged { place, detail: format!("holds {:?} where {class:?} is wanted", record.class) });
        }
        // In the order in which ranges are wanted, and not on that task: the first one must never wait for memory that later ones hold.
        let share = lane.share(&self.budget, range.cost()).await;
        on_its_own(self.read_range(range.clone(), record, key, place, share)).await
    }

    /// Reads and opens one range, for which there is memory.
    async fn read_range(
        self: Arc<Self>,
        range: Range,
        record: PackRecord,
        key: String,
        place: String,
        share: Share,
    ) -> Result<Vec<Piece>> {
        let class = record.class;
        let opener = self.opener(&record).await?;
        let (start, end) = (range.start(), range.end());
        let options = GetOptions { range: Some(start..end), ..GetOptions::default() };
        let sealed = read_pieces(self.store.as_ref(), &key, options, end - start).await.map_err(reading)?;
        if sealed.bytes() != end - start {
            return Err(RepositoryError::Damaged { place, detail: format!("ends before byte {end}, where a chunk should") });
        }
        let worker = Arc::clone(&self);
        self.on_worker(&place.clone(), move |desk| worker.open_range(desk, &opener, class, range, &sealed, share, &place)).await
    }

    /// Opens all chunks of a range. The share for what was read goes back with it, each piece keeps its own.
    #[allow(clippy::too_many_arguments, reason = "what one request brought together is used up here")]
    fn open_range(
        &self,
        desk: &mut Desk,
        key: &OpeningKey,
        class: Class,
        range: Range,
        sealed: &Pieces,
        mut share: Share,
        place: &str,
    ) -> Result<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(range.chunks.len());
        let mut joined = std::mem::take(&mut desk.joined);
        for (chunk, wanted) in &range.chunks {
            let from = u64::from(chunk.offset) - range.start();
            let sealed = sealed.joined(from..from + u64::from(chunk.sealed_bytes), &mut joined);
            let (mut plain, start) = self.budget.aligned(chunk.plain_bytes as usize);
            self.open(desk, key, class, chunk, sealed, (&mut plain, start), place)?;
            let bytes = self.budget.lend(plain, share.split(chunk.plain_bytes as usize)).slice(start..);
            pieces.extend(wanted.iter().map(|(index, offset)| Piece { index: *index, offset: *offset, bytes: bytes.clone() }));
        }
        desk.joined = joined;
        Ok(pieces)
    }

    /// Opens one chunk into `plain` from where it says on: tag, length, keyed hash.
    #[allow(clippy::too_many_arguments, reason = "one step of the two functions above, not an interface")]
    fn open(
        &self,
        desk: &mut Desk,
        key: &OpeningKey,
        class: Class,
        chunk: &Place,
        sealed: &[u8],
        (plain, start): (&mut Vec<u8>, usize),
        place: &str,
    ) -> Result<()> {
        let damaged = |detail: String| RepositoryError::Damaged { place: format!("{place}, chunk {}", chunk.id), detail };
        desk.open_chunk(key, chunk, sealed, plain, start).map_err(damaged)?;
        if self.catalogue.chunk_id(class, &plain[start..]) != chunk.id {
            return Err(damaged("its bytes are not what its name says: somebody with a writer's keys put it there".to_owned()));
        }
        Ok(())
    }

    async fn on_worker<T: Send + 'static>(
        &self,
        place: &str,
        work: impl FnOnce(&mut Desk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.workers.run(move |desk| {
            let _ = reply.send(work(desk));
        });
        answer.await.unwrap_or_else(|_| {
            Err(RepositoryError::Refused {
                subject: place.to_owned(),
                detail: "a defect: a worker gave up; the log says why".to_owned(),
            })
        })
    }
}
