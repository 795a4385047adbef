//! Writing a batch of objects from pieces that come in any order.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::OnceCell;

use super::{BucketAttributes, concerns_one_object, restored_locks::Met};
use crate::{
    progress::Problem,
    sources::{Content, OBJECT_PART_BYTES, Piece, RebuildContext, SourceError},
    stores::{MAX_SINGLE_PUT_BYTES, ObjectAttributes, PutOptions, SharedStore, StoreError, UploadedPart},
};

/// Most parts of a multipart upload (S3's limit, and below Azure's).
const MOST_PARTS: u64 = 10_000;

/// Above this size an object cannot be uploaded in parts of [`OBJECT_PART_BYTES`].
const MOST_BYTES_BY_PIECES: u64 = MOST_PARTS * OBJECT_PART_BYTES as u64;

/// An object to be written.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) key: String,
    pub(super) content: Content,
    pub(super) attributes: BucketAttributes,
}

impl Wanted {
    /// What is asked of the target: what encrypts there is the target's own. (What is to hold it was decided before.)
    fn sent(&self) -> ObjectAttributes {
        ObjectAttributes { encryption: None, encryption_key: None, ..self.attributes.object.clone() }
    }
}

/// How far an object is.
#[derive(Debug, Default)]
struct Upload {
    id: OnceCell<String>,
    parts: Mutex<Vec<UploadedPart>>,
    arrived: AtomicU64,
    failed: OnceCell<()>,
}

/// What a batch brought.
#[derive(Debug, Default)]
pub(super) struct Transferred {
    pub(super) objects: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Objects whose source had encrypted them with a key of its own, and the first of them.
    pub(super) encrypted: AtomicU64,
    pub(super) first_encrypted: OnceLock<(String, String)>,
    /// Locks and legal holds.
    pub(super) met: Met,
}

/// One batch on its way into the store.
pub(super) struct Transfer<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) context: &'a RebuildContext<'a>,
    pub(super) done: &'a Transferred,
}

impl Transfer<'_> {
    /// Writes all of a batch; uploads that were begun and not completed are aborted.
    pub(super) async fn batch(&self, batch: Vec<Wanted>) -> Result<(), SourceError> {
        let (by_pieces, in_order): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|wanted| wanted.content.size <= MOST_BYTES_BY_PIECES);
        let (empty, filled): (Vec<_>, Vec<_>) = by_pieces.into_iter().partition(|wanted| wanted.content.size == 0);
        let mut puts =
            stream::iter(&empty).map(|wanted| self.put(wanted, Bytes::new()).boxed()).buffer_unordered(self.parallelism()).boxed();
        while let Some(done) = puts.next().await {
            done?;
        }
        drop(puts);
        self.pieces(&filled).await?;
        for wanted in &in_order {
            self.huge(wanted).await?;
        }
        Ok(())
    }

    fn parallelism(&self) -> usize {
        self.context.parallelism.max(self.store.requests())
    }

    async fn pieces(&self, wanted: &[Wanted]) -> Result<(), SourceError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let uploads: Vec<Upload> = wanted.iter().map(|_| Upload::default()).collect();
        let contents = wanted.iter().map(|wanted| wanted.content.clone()).collect();
        let written = self.write_all(wanted, &uploads, contents).await;
        let mut missing = None;
        for (wanted, upload) in wanted.iter().zip(&uploads) {
            let arrived = upload.arrived.load(Ordering::Acquire);
            if upload.failed.initialized() || arrived == wanted.content.size {
                continue;
            }
            if let Some(id) = upload.id.get() {
                self.abort(&wanted.key, id).await;
            }
            missing.get_or_insert_with(|| SourceError::Malformed {
                subject: wanted.key.clone(),
                detail: format!("{arrived} of {} bytes came from the repository", wanted.content.size),
            });
        }
        written?;
        missing.map_or(Ok(()), Err)
    }

    async fn write_all(&self, wanted: &[Wanted], uploads: &[Upload], contents: Vec<Content>) -> Result<(), SourceError> {
        let mut written = self
            .context
            .origin
            .deliver(contents)
            .map_err(SourceError::from)
            .map_ok(|piece| {
                let place = wanted.get(piece.index).zip(uploads.get(piece.index));
                async move {
                    let (wanted, upload) = place.ok_or_else(|| SourceError::Malformed {
                        subject: self.store.describe(),
                        detail: format!("a piece of content {} came, which was not asked for", piece.index),
                    })?;
                    self.piece(wanted, upload, piece).await
                }
                .boxed()
            })
            .try_buffer_unordered(self.parallelism())
            .boxed();
        while let Some(done) = written.next().await {
            done?;
        }
        Ok(())
    }

    async fn piece(&self, wanted: &Wanted, upload: &Upload, piece: Piece) -> Result<(), SourceError> {
        let part = u64::from(OBJECT_PART_BYTES);
        let (size, length) = (wanted.content.size, piece.bytes.len() as u64);
        if !piece.offset.is_multiple_of(part) || length != part.min(size.saturating_sub(piece.offset)) {
            return Err(SourceError::Malformed {
                subject: wanted.key.clone(),
                detail: format!("a piece of {length} bytes at {} is not a whole part of an object of {size}", piece.offset),
            });
        }
        if size <= part {
            self.put(wanted, piece.bytes).await?;
            upload.arrived.fetch_add(length, Ordering::AcqRel);
            return Ok(());
        }
        if upload.failed.initialized() {
            return Ok(());
        }
        let number = u32::try_from(piece.offset / part + 1).expect("an object by pieces has at most ten thousand parts");
        let sent = async {
            let id = upload.id.get_or_try_init(|| self.store.begin_upload(&wanted.key, wanted.sent())).await?;
            let sent = self.store.upload_part(&wanted.key, id, number, piece.bytes).await?;
            upload.parts.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
            self.context.observer.bytes(length);
            if upload.arrived.fetch_add(length, Ordering::AcqRel) + length == size {
                let mut parts = std::mem::take(&mut *upload.parts.lock().unwrap_or_else(PoisonError::into_inner));
                parts.sort_unstable_by_key(|part| part.number);
                if let Err(error) = self.store.complete_upload(&wanted.key, id, &parts, false).await {
                    upload.arrived.fetch_sub(length, Ordering::AcqRel);
                    return Err(error);
                }
                self.count(wanted);
            }
            Ok(())
        };
        if let Err(error) = sent.await {
            // Of parts that fail together, one reports and aborts.
            if concerns_one_object(&error) {
                if upload.failed.set(()).is_ok() {
                    if let Some(id) = upload.id.get() {
                        self.abort(&wanted.key, id).await;
                    }
                    self.failed(wanted, &error);
                }
                return Ok(());
            }
            return Err(error.into());
        }
        Ok(())
    }

    async fn put(&self, wanted: &Wanted, body: Bytes) -> Result<(), SourceError> {
        let length = body.len() as u64;
        let options = PutOptions { attributes: wanted.sent(), ..PutOptions::default() };
        match self.store.put(&wanted.key, body, options).await {
            Ok(_) => {
                self.context.observer.bytes(length);
                self.count(wanted);
                Ok(())
            }
            Err(error) if concerns_one_object(&error) => {
                self.failed(wanted, &error);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// An object of more than ten thousand parts of the usual size: larger parts, in order, one at a time, because each is
    /// collected in memory (up to 256 MiB for an object of 2.4 TiB).
    async fn huge(&self, wanted: &Wanted) -> Result<(), SourceError> {
        let step = u64::from(OBJECT_PART_BYTES);
        let part_bytes = wanted.content.size.div_ceil(MOST_PARTS).next_multiple_of(step);
        if part_bytes > MAX_SINGLE_PUT_BYTES {
            self.context.observer.problem(Problem::new(
                wanted.key.clone(),
                format!(
                    "has {} bytes, which cannot be uploaded in {MOST_PARTS} parts of {MAX_SINGLE_PUT_BYTES} bytes; restore the bucket into a directory and copy this object with the provider's own tool",
                    wanted.content.size
                ),
            ));
            return Ok(());
        }
        let id = self.store.begin_upload(&wanted.key, wanted.sent()).await?;
        match self.huge_parts(wanted, &id, part_bytes).await {
            Ok(()) => {
                self.count(wanted);
                Ok(())
            }
            Err(error) => {
                self.abort(&wanted.key, &id).await;
                match error {
                    SourceError::Store(error) if concerns_one_object(&error) => {
                        self.failed(wanted, &error);
                        Ok(())
                    }
                    error => Err(error),
                }
            }
        }
    }

    async fn huge_parts(&self, wanted: &Wanted, id: &str, part_bytes: u64) -> Result<(), SourceError> {
        let limit = usize::try_from(part_bytes).expect("a part fits into memory");
        let mut pieces = self.context.origin.read(&wanted.content);
        let (mut parts, mut collected, mut total) = (Vec::new(), BytesMut::new(), 0u64);
        loop {
            let piece = pieces.next().await.transpose()?;
            let ended = piece.is_none();
            collected.extend_from_slice(&piece.unwrap_or_default());
            while collected.len() >= limit || (ended && !collected.is_empty()) {
                let part = collected.split_to(limit.min(collected.len())).freeze();
                total += part.len() as u64;
                self.context.observer.bytes(part.len() as u64);
                let number = u32::try_from(parts.len() + 1).expect("there are at most ten thousand parts");
                parts.push(self.store.upload_part(&wanted.key, id, number, part).await?);
            }
            if ended {
                break;
            }
        }
        if total != wanted.content.size {
            return Err(SourceError::Malformed {
                subject: wanted.key.clone(),
                detail: format!("{total} of {} bytes came from the repository", wanted.content.size),
            });
        }
        self.store.complete_upload(&wanted.key, id, &parts, false).await?;
        Ok(())
    }

    fn count(&self, wanted: &Wanted) {
        self.done.objects.fetch_add(1, Ordering::Relaxed);
        self.done.bytes.fetch_add(wanted.content.size, Ordering::Relaxed);
        if let Some(word) = &wanted.attributes.object.encryption {
            self.done.encrypted.fetch_add(1, Ordering::Relaxed);
            self.done.first_encrypted.get_or_init(|| (wanted.key.clone(), word.clone()));
        }
        self.context.observer.items(1);
    }

    fn failed(&self, wanted: &Wanted, error: &StoreError) {
        self.context.observer.problem(Problem::new(
            wanted.key.clone(),
            format!("could not be written: {error}; mend that and restore again with --into-existing, which keeps what is there"),
        ));
    }

    async fn abort(&self, key: &str, id: &str) {
        if let Err(error) = self.store.abort_upload(key, id).await {
            self.context.observer.problem(Problem::new(
                key,
                format!("its unfinished upload {id} could not be removed ({error}) and may cost money; remove it with the provider's own tool"),
            ));
        }
    }
}
