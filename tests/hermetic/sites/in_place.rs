//! What is changed in place and read in parts only: unchanged pieces are taken from the earlier point, at every site.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use farshore::{
    repository::{Budget, ChunkRef, MarkState, Reader, Repository},
    sources::{Capture, CaptureContext, Captured, Cut, Entry, ExchangeError, SourceError},
    stores::SharedStore,
};
use futures_util::TryStreamExt;

use crate::support::{
    recovery::{Objects, Recovery, noise, store_of},
    sites::Far,
};

const PIECE: u32 = 4096;

/// Some bytes, and which pieces of them changed since the last capture.
#[derive(Debug, Default)]
struct InPlace {
    bytes: Mutex<Vec<u8>>,
    changed: Mutex<Vec<usize>>,
    read: AtomicU64,
    /// What the last capture was given to build on.
    facts: Mutex<Option<serde_json::Value>>,
    captures: AtomicU64,
}

impl InPlace {
    fn new(pieces: usize, rest: usize) -> Self {
        Self { bytes: Mutex::new(noise(pieces * PIECE as usize + rest, 3)), ..Self::default() }
    }

    /// Changes pieces, and makes it longer.
    fn change(&self, pieces: &[usize], more: usize) {
        let mut bytes = self.bytes.lock().unwrap();
        for piece in pieces {
            bytes[piece * PIECE as usize + 7] ^= 0x55;
        }
        let was = bytes.len();
        bytes.extend(noise(more, was as u64));
        let mut changed = self.changed.lock().unwrap();
        changed.extend_from_slice(pieces);
        if more > 0 {
            changed.extend(was / PIECE as usize..bytes.len().div_ceil(PIECE as usize));
        }
    }
}

#[async_trait]
impl Capture for InPlace {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn describe(&self) -> String {
        "a thing that is changed in place".to_owned()
    }

    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        let bytes = Bytes::from(self.bytes.lock().unwrap().clone());
        let changed = std::mem::take(&mut *self.changed.lock().unwrap());
        let facts = context.earlier_facts.clone();
        *self.facts.lock().unwrap() = facts.clone();
        let earlier = match context.earlier {
            Some(mut earlier) if facts.is_some() => earlier.try_next().await?,
            _ => None,
        };
        let size = Some(bytes.len() as u64);
        let over = match earlier.and_then(|entry| entry.content) {
            Some(content) => context.sink.content_over(&content, PIECE, size).await?,
            None => None,
        };
        let is_over = over.is_some();
        let mut writer = match over {
            Some(writer) => writer,
            None => context.sink.content(Cut::Fixed(PIECE), size).await?,
        };
        for (number, start) in (0..bytes.len()).step_by(PIECE as usize).enumerate() {
            let piece = bytes.slice(start..bytes.len().min(start + PIECE as usize));
            if is_over && !changed.contains(&number) {
                writer.keep(piece.len() as u64).await?;
            } else {
                self.read.fetch_add(piece.len() as u64, Ordering::SeqCst);
                // Pieces come in parts.
                let (one, other) = (piece.slice(..piece.len() / 3), piece.slice(piece.len() / 3..));
                writer.write(one).await?;
                writer.write(other).await?;
            }
        }
        let mut entry = Entry::new("thing", "output");
        entry.content = Some(writer.finish().await?);
        context.sink.entry(entry).await?;
        let facts = serde_json::json!({ "capture": self.captures.fetch_add(1, Ordering::SeqCst) });
        Ok(Captured { facts, consistent_at: None })
    }
}

struct Place {
    recovery: Recovery,
    thing: Arc<InPlace>,
}

impl Place {
    fn new(pieces: usize, rest: usize) -> Self {
        Self { recovery: Recovery::new(true), thing: Arc::new(InPlace::new(pieces, rest)) }
    }

    async fn far(&self, name: &'static str) -> Far {
        let store: SharedStore = store_of(&Objects::new()).await;
        self.recovery.init(&store).await;
        self.recovery.far(name, store)
    }

    /// Backs up, and returns how many bytes were read.
    async fn back_up(&self, sites: &[Far]) -> u64 {
        let backed = self.recovery.capture_to(self.thing.clone(), sites, &self.recovery.fresh_cache()).await.unwrap();
        assert!(backed.failed.is_empty(), "{:?}", backed.failed);
        self.thing.read.swap(0, Ordering::SeqCst)
    }

    async fn open(&self, far: &Far) -> (Repository, Reader) {
        let repository = self.recovery.open(far.store.clone(), &self.recovery.fresh_cache()).await.unwrap();
        let reader = Reader::open(&repository, Arc::clone(&self.recovery.workers), Budget::new(0)).await.unwrap();
        (repository, reader)
    }

    /// The chunks and the bytes that the newest point of a site has.
    async fn newest(&self, far: &Far) -> (Vec<ChunkRef>, Vec<u8>) {
        let (repository, reader) = self.open(far).await;
        let name = repository.point_names(None).await.unwrap().pop().unwrap();
        let point = repository.point(&name).await.unwrap();
        let entry = reader.entries(&point.snapshots[0]).try_next().await.unwrap().unwrap();
        let list = entry.content.unwrap();
        let bytes: Vec<Bytes> = reader.read(&list).try_collect().await.unwrap();
        let bytes = bytes.concat();
        assert_eq!(entry.size, Some(bytes.len() as u64));
        (reader.flatten(&list).await.unwrap(), bytes)
    }

    async fn check(&self, far: &Far) {
        let (chunks, bytes) = self.newest(far).await;
        assert!(bytes == *self.thing.bytes.lock().unwrap(), "{} has other bytes", far.name);
        let lengths = chunks.iter().map(|chunk| chunk.length as usize).collect::<Vec<_>>();
        assert_eq!(lengths, bytes.chunks(PIECE as usize).map(<[u8]>::len).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_pieces_and_new_ones_are_what_a_full_read_would_be_at_every_site() {
    // Lists of so many chunks are chunks themselves.
    let place = Place::new(1500, 1000);
    let sites = [place.far("a").await, place.far("b").await];
    assert_eq!(place.back_up(&sites).await, 1500 * u64::from(PIECE) + 1000);
    for (changed, more, read) in [
        (&[][..], 0, 0),
        (&[0, 7, 8, 1499], 0, 4 * u64::from(PIECE)),
        (&[1500], 0, 1000),
        (&[3], 5000, u64::from(PIECE) + 6000),
        (&[], 20_000, 20_000 + (1000 + 5000 - u64::from(PIECE))),
    ] {
        place.thing.change(changed, more);
        assert_eq!(place.back_up(&sites).await, read, "{changed:?} and {more} more");
        for far in &sites {
            place.check(far).await;
        }
    }
    // The same bytes read as a whole: not one other chunk.
    let kept = place.newest(&sites[0]).await.0;
    let fresh = Place { recovery: place.recovery, thing: place.thing };
    *fresh.thing.changed.lock().unwrap() = (0..2000).collect();
    fresh.back_up(&sites).await;
    assert_eq!(fresh.newest(&sites[0]).await.0, kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_whose_points_are_not_the_same_are_not_built_on() {
    let place = Place::new(40, 10);
    let sites = [place.far("a").await, place.far("b").await];
    place.back_up(&sites).await;
    place.thing.change(&[5], 0);
    assert_eq!(place.back_up(&sites[..1]).await, u64::from(PIECE));
    // What changed since the one is not what changed since the other.
    place.thing.change(&[6], 0);
    assert_eq!(place.back_up(&sites).await, 40 * u64::from(PIECE) + 10);
    assert_eq!(*place.thing.facts.lock().unwrap(), None);
    place.thing.change(&[7], 0);
    assert_eq!(place.back_up(&sites).await, u64::from(PIECE));
    for far in &sites {
        place.check(far).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_damaged_pack_nothing_is_kept() {
    let place = Place::new(40, 10);
    let sites = [place.far("a").await];
    place.back_up(&sites).await;
    let (repository, reader) = place.open(&sites[0]).await;
    let (chunks, _) = place.newest(&sites[0]).await;
    let location = reader.cache().find(&chunks[3]).unwrap().unwrap();
    let pack = reader.cache().pack(location.pack).unwrap();
    let key = farshore::repository::pack_key(&pack.sha256);
    repository.put_mark(&key, MarkState::Damaged, "a test says so").await.unwrap();
    place.thing.change(&[], 0);
    assert_eq!(place.back_up(&sites).await, 40 * u64::from(PIECE) + 10, "all of it is read and stored anew");
    place.check(&sites[0]).await;
    let again = place.newest(&sites[0]).await.0;
    let (_, reader) = place.open(&sites[0]).await;
    let moved = reader.cache().find(&again[3]).unwrap().unwrap();
    assert_ne!(reader.cache().pack(moved.pack).unwrap().sha256, pack.sha256);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_otherwise_is_not_written_over() {
    #[derive(Debug)]
    struct Whole(Arc<InPlace>);
    #[async_trait]
    impl Capture for Whole {
        fn kind(&self) -> &'static str {
            self.0.kind()
        }
        fn describe(&self) -> String {
            self.0.describe()
        }
        async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
            let bytes = self.0.bytes.lock().unwrap().clone();
            let mut writer = context.sink.content(Cut::Fixed(2 * PIECE), None).await?;
            assert!(writer.keep(u64::from(PIECE)).await.is_err(), "there is nothing to keep");
            let mut writer = context.sink.content(Cut::Fixed(2 * PIECE), None).await?;
            writer.write(bytes.into()).await?;
            let mut entry = Entry::new("thing", "output");
            entry.content = Some(writer.finish().await.map_err(|error: ExchangeError| error)?);
            context.sink.entry(entry).await?;
            Ok(Captured { facts: serde_json::json!({}), consistent_at: None })
        }
    }
    let place = Place::new(40, 10);
    let sites = [place.far("a").await];
    let whole = Arc::new(Whole(Arc::clone(&place.thing)));
    place.recovery.capture_to(whole, &sites, &place.recovery.fresh_cache()).await.unwrap();
    assert_eq!(place.back_up(&sites).await, 40 * u64::from(PIECE) + 10);
    place.check(&sites[0]).await;
}
