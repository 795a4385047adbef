//! Bytes of one entry, cut into chunks.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};
use tokio::sync::{Notify, oneshot};

use super::Shared;
use crate::repository::{
    ChunkList, ChunkRef, Class, RepositoryError,
    chunk::{AVERAGE_CUT_BYTES, MAX_CUT_BYTES, MIN_CUT_BYTES},
    error::Result,
    format::MAX_CHUNK_BYTES,
    memory::Share,
};

/// How a stream is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cutting {
    /// FastCDC, seeded per repository.
    ContentDefined,
    /// Every so many bytes, at most [`MAX_CHUNK_BYTES`].
    Fixed(u32),
}

/// Finds content-defined cuts.
#[derive(Debug)]
pub(in crate::repository) struct Cutter {
    gear: Vec<u64>,
    gear_shifted: Vec<u64>,
    masks: (u64, u64),
}

impl Cutter {
    /// Cuts in places that only those who know `seed` can foretell.
    pub(in crate::repository) fn new(seed: u64) -> Self {
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        Self {
            gear: gear.into_owned(),
            gear_shifted: gear_shifted.into_owned(),
            masks: select_masks(AVERAGE_CUT_BYTES, Normalization::Level1),
        }
    }

    /// Length of the first chunk of `bytes`; all of them if there is no cut.
    fn first(&self, bytes: &[u8]) -> usize {
        if bytes.len() <= MIN_CUT_BYTES {
            return bytes.len();
        }
        let (small, large) = self.masks;
        let (_, length) = cut_gear(
            bytes,
            MIN_CUT_BYTES,
            AVERAGE_CUT_BYTES,
            MAX_CUT_BYTES,
            small,
            large,
            small << 1,
            large << 1,
            &self.gear,
            &self.gear_shifted,
        );
        length
    }

    /// Ends of the chunks that are certain, whatever follows; with `last`, of all.
    pub(in crate::repository) fn ends(&self, bytes: &[u8], last: bool) -> Vec<usize> {
        let (mut at, mut ends) = (0, Vec::new());
        while at < bytes.len() {
            let rest = &bytes[at..];
            let length = self.first(rest);
            if !last && length == rest.len() && length < MAX_CUT_BYTES {
                break;
            }
            at += length;
            ends.push(at);
        }
        ends
    }
}

/// The refs of one content, filled in by workers in any order.
#[derive(Debug, Default)]
pub(super) struct Refs {
    slots: Mutex<Vec<Option<ChunkRef>>>,
    outstanding: AtomicUsize,
    all_done: Notify,
}

/// The place of one chunk in its content.
pub(super) struct Slot {
    refs: Arc<Refs>,
    index: usize,
    shared: Arc<Shared>,
}

impl Refs {
    pub(super) fn slot(self: &Arc<Self>, shared: &Arc<Shared>) -> Slot {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.push(None);
        Slot { refs: Arc::clone(self), index: slots.len() - 1, shared: Arc::clone(shared) }
    }

    /// Waits until every slot is filled and returns them in order.
    pub(super) async fn take(&self, shared: &Shared) -> Result<Vec<ChunkRef>> {
        let wait = async {
            loop {
                let notified = self.all_done.notified();
                if self.outstanding.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        shared.unless_failed(wait).await?;
        shared.check()?;
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.drain(..).collect::<Option<Vec<_>>>().ok_or_else(|| RepositoryError::Refused {
            subject: "backup".to_owned(),
            detail: "a defect: a chunk was lost on its way through the pipeline".to_owned(),
        })
    }
}

impl Slot {
    pub(super) fn fill(&self, chunk: ChunkRef) {
        self.refs.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[self.index] = Some(chunk);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.refs.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[self.index].is_none() {
            // The job panicked, or failed and said so already.
            self.shared.fail(RepositoryError::Refused {
                subject: "backup".to_owned(),
                detail: "a defect: a worker gave up on a chunk; the log says why".to_owned(),
            });
        }
        if self.refs.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.refs.all_done.notify_waiters();
        }
    }
}

/// Longest list of refs that stays within its entry, bytes; longer ones become chunks themselves. About 1,000 chunks.
const MAX_INLINE_REFS_BYTES: usize = 36 << 10;
/// A chunk of refs, bytes: a whole number of records.
const REFS_CHUNK_BYTES: usize = 36 << 13;
/// Bytes collected before content-defined cuts are looked for.
const CUT_BUFFER_BYTES: usize = 8 << 20;

/// Takes the bytes of one entry in order.
#[derive(Debug)]
pub struct ContentStream {
    shared: Arc<Shared>,
    class: Class,
    cutting: Cutting,
    /// Bytes still expected, if the hint was right.
    expected: Option<u64>,
    buffer: Vec<u8>,
    /// A part of a fixed size that came in one piece, in place of the buffer.
    whole: Option<Bytes>,
    /// Where the bytes begin in the buffer; before that there is room for what the last cut leaves over.
    start: usize,
    /// How long the buffer may grow; `share` covers it.
    capacity: usize,
    share: Option<Share>,
    /// What the last cut left over, still with a worker.
    tail: Option<oneshot::Receiver<Vec<u8>>>,
    refs: Arc<Refs>,
    size: u64,
}

impl ContentStream {
    pub(super) fn new(shared: Arc<Shared>, class: Class, cutting: Cutting, expected: Option<u64>) -> Self {
        let (buffer, refs) = (Vec::new(), Arc::default());
        let (start, capacity, size) = (0, 0, 0);
        Self { shared, class, cutting, expected, buffer, whole: None, start, capacity, share: None, tail: None, refs, size }
    }

    fn full_capacity(&self) -> usize {
        match self.cutting {
            Cutting::ContentDefined => CUT_BUFFER_BYTES,
            Cutting::Fixed(bytes) => (bytes as usize).clamp(1, MAX_CHUNK_BYTES),
        }
    }

    /// Takes more bytes; waits while the memory budget is spent.
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.shared.check()?;
        while !bytes.is_empty() {
            if self.room() == 0 {
                self.hand_over().await?;
                self.make_room().await?;
            }
            let piece = bytes.split_to(bytes.len().min(self.room()));
            self.push(piece);
        }
        Ok(())
    }

    /// Bytes that [`Self::push`] takes before [`Self::hand_over`] and [`Self::make_room`] are due.
    pub fn room(&self) -> usize {
        self.capacity - self.whole.as_ref().map_or(self.buffer.len(), Bytes::len)
    }

    /// Takes bytes, at most [`Self::room`] of them; what is beyond that would not be covered by the memory limit.
    ///
    /// A whole part of a fixed size is not copied. What it is a piece of lives as long as it does: parts are worked on in their order, so
    /// that this is at most one such piece for each worker and each stream more than the limit knows of.
    pub fn push(&mut self, piece: Bytes) {
        self.size += piece.len() as u64;
        self.expected = self.expected.map(|expected| expected.saturating_sub(piece.len() as u64));
        if matches!(self.cutting, Cutting::Fixed(_)) && piece.len() == self.full_capacity() && piece.len() == self.room() {
            self.whole = Some(piece);
            return;
        }
        if self.buffer.capacity() == 0 {
            self.buffer = self.shared.budget.buffer(self.capacity);
            self.buffer.clear();
        }
        self.buffer.extend_from_slice(&piece);
    }

    /// Takes chunks that the repository has ([`super::Writer::has`]) for the next bytes. Only where a cut falls in any case: between two
    /// parts of a fixed size.
    ///
    /// # Errors
    /// The first error of the run; [`RepositoryError::Refused`] within a part.
    pub async fn keep(&mut self, chunks: &[ChunkRef]) -> Result<()> {
        let Cutting::Fixed(part) = self.cutting else { return Err(not_at_a_cut()) };
        if !self.size.is_multiple_of(u64::from(part)) {
            return Err(not_at_a_cut());
        }
        self.shared.check()?;
        if !self.is_empty() {
            self.send(false).await?;
        }
        for chunk in chunks {
            self.refs.slot(&self.shared).fill(*chunk);
            self.size += u64::from(chunk.length);
            self.expected = self.expected.map(|expected| expected.saturating_sub(u64::from(chunk.length)));
        }
        Ok(())
    }

    /// Whether no bytes wait to be cut.
    fn is_empty(&self) -> bool {
        // A tail never comes alone: a buffer is made for bytes that are there.
        self.whole.is_none() && self.buffer.len() <= self.start
    }

    /// Whether the part of a fixed size is not whole yet, because the hint was wrong.
    fn is_too_small(&self) -> bool {
        matches!(self.cutting, Cutting::Fixed(_)) && self.capacity > 0 && self.capacity < self.full_capacity()
    }

    /// Where there is no room left: gives its share of the memory back, so that no task waits for one with another in hand. Who
    /// writes the same bytes to several repositories calls this for all of them first, and then [`Self::make_room`].
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn hand_over(&mut self) -> Result<()> {
        self.shared.check()?;
        if self.is_too_small() {
            self.share = None;
            return Ok(());
        }
        if self.capacity > 0 { self.send(false).await } else { Ok(()) }
    }

    /// After [`Self::hand_over`]: a new buffer, filled while the last one is being cut; or a larger one, where the hint was
    /// wrong. Streams that took the same bytes, cut in the same way, get the same room.
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn make_room(&mut self) -> Result<()> {
        let full = self.full_capacity();
        if self.is_too_small() {
            self.share = Some(self.shared.unless_failed(self.shared.budget.share(full)).await?);
            self.buffer.reserve_exact(full - self.buffer.len());
            self.capacity = full;
            return Ok(());
        }
        let expected = self.expected.map_or(usize::MAX, |expected| usize::try_from(expected).unwrap_or(usize::MAX));
        let room = if expected == 0 { full } else { expected.min(full) };
        self.start = if self.tail.is_some() { MAX_CUT_BYTES } else { 0 };
        self.share = Some(self.shared.unless_failed(self.shared.budget.share(self.start + room)).await?);
        self.capacity = self.start + room;
        if self.start > 0 {
            self.buffer = self.shared.budget.buffer(self.capacity);
            self.buffer.resize(self.start, 0);
        }
        Ok(())
    }

    /// Hands the buffer over to the workers, with what the cut before it left over in front.
    async fn send(&mut self, last: bool) -> Result<()> {
        let mut start = self.start;
        if let Some(tail) = self.tail.take() {
            let tail = self.shared.unless_failed(tail).await?.map_err(|_| lost())?;
            // A cut leaves less over than the longest chunk, which is the room that was left for it.
            start -= tail.len();
            self.buffer[start..self.start].copy_from_slice(&tail);
        }
        let (buffer, share) = (std::mem::take(&mut self.buffer), self.share.take());
        self.capacity = 0;
        let bytes = match self.whole.take() {
            Some(whole) => self.shared.budget.hold(whole, share),
            None => self.shared.budget.lend(buffer, share).slice(start..),
        };
        let whole = match self.cutting {
            Cutting::Fixed(_) => true,
            Cutting::ContentDefined => last && bytes.len() <= MIN_CUT_BYTES,
        };
        if whole {
            Shared::chunk(&self.shared, self.class, bytes, self.refs.slot(&self.shared));
            return Ok(());
        }
        let (reply, tail) = oneshot::channel();
        let (shared, refs, class) = (Arc::clone(&self.shared), Arc::clone(&self.refs), self.class);
        // `finish` waits for the reply, which comes when all cuts are queued: `take` must not find all slots filled too early.
        self.shared.workers.run_first(move |_| {
            let guard = shared.guard();
            let mut start = 0;
            for end in shared.cutter.ends(&bytes, last) {
                Shared::chunk(&shared, class, bytes.slice(start..end), refs.slot(&shared));
                start = end;
            }
            let _ = reply.send(bytes[start..].to_vec());
            guard.done();
        });
        self.tail = Some(tail);
        Ok(())
    }

    /// The end: waits until every chunk has its name, and returns the list with the number of bytes.
    ///
    /// # Errors
    /// The first error of the run.
    pub async fn finish(mut self) -> Result<(ChunkList, u64)> {
        if !self.is_empty() {
            self.send(true).await?;
            if let Some(tail) = self.tail.take() {
                self.shared.unless_failed(tail).await?.map_err(|_| lost())?;
            }
        }
        let mut list = ChunkList::default();
        for chunk in self.refs.take(&self.shared).await? {
            list.push(chunk);
        }
        Ok((fold(&self.shared, list).await?, self.size))
    }
}

fn not_at_a_cut() -> RepositoryError {
    RepositoryError::Refused {
        subject: "backup".to_owned(),
        detail: "a defect: chunks were to be kept where no cut falls".to_owned(),
    }
}

/// A worker gave up before it replied.
fn lost() -> RepositoryError {
    RepositoryError::Refused {
        subject: "backup".to_owned(),
        detail: "a defect: bytes were lost on their way through the pipeline".to_owned(),
    }
}

/// Turns long lists of refs into chunks that hold them, level upon level.
pub(super) async fn fold(shared: &Arc<Shared>, mut list: ChunkList) -> Result<ChunkList> {
    while list.refs.len() > MAX_INLINE_REFS_BYTES {
        let refs = Arc::<Refs>::default();
        let bytes = Bytes::from(list.refs);
        for start in (0..bytes.len()).step_by(REFS_CHUNK_BYTES) {
            let piece = bytes.slice(start..(start + REFS_CHUNK_BYTES).min(bytes.len()));
            Shared::chunk(shared, Class::Catalogue, piece, refs.slot(shared));
        }
        let mut above = ChunkList { level: list.level + 1, refs: Vec::new() };
        for chunk in refs.take(shared).await? {
            above.push(chunk);
        }
        list = above;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::Cutter;

    fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes + 8);
        while out.len() < bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            out.extend_from_slice(&(seed >> 16).to_le_bytes()[..6]);
        }
        out.truncate(bytes);
        out
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_arrive() {
        let cutter = Cutter::new(7);
        let bytes = noise(20 << 20, 1);
        let whole = cutter.ends(&bytes, true);
        assert!(whole.len() > 5);
        let (mut start, mut pieces, mut buffer) = (0, Vec::new(), Vec::new());
        for block in bytes.chunks(6 << 20) {
            buffer.extend_from_slice(block);
            let ends = cutter.ends(&buffer, false);
            pieces.extend(ends.iter().map(|end| start + end));
            let done = ends.last().copied().unwrap_or(0);
            start += done;
            buffer.drain(..done);
        }
        pieces.extend(cutter.ends(&buffer, true).iter().map(|end| start + end));
        assert_eq!(pieces, whole);
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let bytes = noise(20 << 20, 1);
        assert_ne!(Cutter::new(1).ends(&bytes, true), Cutter::new(2).ends(&bytes, true));
    }
}
