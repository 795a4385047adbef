//! Entry streams: the sorted records of a snapshot, cut into chunks so that an unchanged range costs nothing the next day.
//!
//! A record is a u32 little-endian length and a MessagePack map. Chunks end between records, after one whose path hashes to a
//! multiple of [`CUT_EVERY`] (content-defined, so that an insertion moves only its neighbourhood) once they are long enough,
//! or when they are as long as they may be.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ChunkList, RepositoryError, chunk::unpack, error::Result};

/// Entry chunks are at least this long, bytes.
const MIN_BYTES: usize = 64 << 10;
/// Entry chunks are closed at the first record that reaches this, bytes.
const MAX_BYTES: usize = 1 << 20;
/// One record in so many may end a chunk.
const CUT_EVERY: u32 = 512;
/// Longest record, bytes: what a reader is ready to hold for one.
const MAX_RECORD_BYTES: usize = 4 << 20;

/// One entry as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Path, any bytes.
    #[serde(rename = "p", with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What it is, in a word.
    #[serde(rename = "k")]
    pub kind: String,
    /// Time of modification: seconds since 1970, nanoseconds.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<(i64, u32)>,
    /// Plain bytes, where it has content.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Where they are.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ChunkList>,
    /// The source's own attributes: MessagePack.
    #[serde(rename = "a", with = "serde_bytes", default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<u8>,
}

impl EntryRecord {
    /// Time of modification.
    pub fn modified_at(&self) -> Option<DateTime<Utc>> {
        self.modified.and_then(|(seconds, nanoseconds)| DateTime::from_timestamp(seconds, nanoseconds))
    }
}

/// Collects records into chunks. Pure.
#[derive(Debug, Default)]
pub struct Collector {
    buffer: Vec<u8>,
    last: Option<Vec<u8>>,
    /// Records so far.
    pub count: u64,
    /// Plain bytes of their contents.
    pub content_bytes: u64,
}

impl Collector {
    /// Adds a record; returns a chunk when one is full.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`] if the path is not greater than the last one's, or the record is too long.
    pub fn push(&mut self, record: &EntryRecord) -> Result<Option<Vec<u8>>> {
        let subject = || String::from_utf8_lossy(&record.path).into_owned();
        if self.last.as_ref().is_some_and(|last| *last >= record.path) {
            return Err(RepositoryError::Refused {
                subject: subject(),
                detail: "a defect: entries must come in ascending order of path, each path once".to_owned(),
            });
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        rmp_serde::encode::write_named(&mut self.buffer, record)
            .map_err(|error| RepositoryError::Refused { subject: subject(), detail: error.to_string() })?;
        let length = self.buffer.len() - start - 4;
        if length > MAX_RECORD_BYTES {
            return Err(RepositoryError::Refused {
                subject: subject(),
                detail: format!("its entry has {length} bytes, the most is {MAX_RECORD_BYTES}"),
            });
        }
        let length = u32::try_from(length).expect("at most 4 MiB");
        self.buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
        self.content_bytes += record.size.unwrap_or(0);
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(&record.path);
        let full = self.buffer.len() >= MAX_BYTES || (self.buffer.len() >= MIN_BYTES && ends_chunk(&record.path));
        Ok(full.then(|| std::mem::take(&mut self.buffer)))
    }

    /// Records that no chunk has yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        (!self.buffer.is_empty()).then(|| std::mem::take(&mut self.buffer))
    }
}

fn ends_chunk(path: &[u8]) -> bool {
    let hash = blake3::hash(path);
    u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("four bytes")).is_multiple_of(CUT_EVERY)
}

/// The records of one entry chunk, each as it is written down. Ends after the first that is damaged.
pub fn split_records(chunk: &[u8]) -> impl Iterator<Item = Result<&[u8]>> {
    let damaged = |detail: String| RepositoryError::Damaged { place: "an entry stream".to_owned(), detail };
    let mut rest = chunk;
    std::iter::from_fn(move || {
        let whole = std::mem::take(&mut rest);
        if whole.is_empty() {
            return None;
        }
        let Some((length, tail)) = whole.split_first_chunk::<4>() else {
            return Some(Err(damaged("ends within a length".to_owned())));
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_RECORD_BYTES {
            return Some(Err(damaged(format!("has a record of {length} bytes"))));
        }
        let Some((record, after)) = tail.split_at_checked(length) else {
            return Some(Err(damaged("ends within a record".to_owned())));
        };
        rest = after;
        Some(Ok(record))
    })
}

/// Reads the records of one entry chunk; `last` is the path before them, and becomes the last of them.
///
/// # Errors
/// [`RepositoryError::Damaged`], also for records out of order, too long, or whose chunks are not as long as they say.
pub fn parse_chunk(chunk: &Bytes, last: &mut Option<Vec<u8>>) -> Result<Vec<EntryRecord>> {
    let damaged = |detail: String| RepositoryError::Damaged { place: "an entry stream".to_owned(), detail };
    let mut records = Vec::new();
    for record in split_records(chunk) {
        let record = record?;
        let record: EntryRecord = unpack(record).map_err(|error| damaged(error.to_string()))?;
        if last.as_ref().is_some_and(|last| *last >= record.path) {
            return Err(damaged("is not in ascending order of path".to_owned()));
        }
        if let Some(content) = record.content.as_ref().filter(|content| content.level == 0) {
            let bytes: u64 = content.chunks()?.map(|chunk| u64::from(chunk.length)).sum();
            if Some(bytes) != record.size {
                let path = String::from_utf8_lossy(&record.path).into_owned();
                return Err(damaged(format!("{path:?} says {:?} bytes and its chunks have {bytes}", record.size)));
            }
        }
        let path = last.get_or_insert_default();
        path.clear();
        path.extend_from_slice(&record.path);
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Collector, EntryRecord, parse_chunk};

    fn chunks_of(paths: impl Iterator<Item = String>) -> Vec<Vec<u8>> {
        let mut collector = Collector::default();
        let mut chunks = Vec::new();
        for path in paths {
            let record = EntryRecord { path: path.into_bytes(), kind: "object".into(), size: Some(1), ..EntryRecord::default() };
            chunks.extend(collector.push(&record).unwrap());
        }
        chunks.extend(collector.finish());
        chunks
    }

    #[test]
    fn inserting_one_entry_changes_only_the_chunk_it_falls_into() {
        let before = chunks_of((0..50_000).map(|number| format!("{number:08}")));
        let after = chunks_of((0..50_000).flat_map(|number| {
            let inserted = (number == 25_000).then(|| format!("{number:08}x"));
            std::iter::once(format!("{number:08}")).chain(inserted)
        }));
        assert!(before.len() > 8, "{} chunks", before.len());
        assert_eq!(after.iter().filter(|chunk| !before.contains(chunk)).count(), 1);
    }

    #[test]
    fn records_come_back_and_disorder_is_refused() {
        let chunk = Bytes::from(chunks_of(["a", "a/b", "b"].into_iter().map(Into::into)).remove(0));
        let paths: Vec<_> = parse_chunk(&chunk, &mut None).unwrap().into_iter().map(|record| record.path).collect();
        assert_eq!(paths, [b"a".to_vec(), b"a/b".to_vec(), b"b".to_vec()]);
        assert!(parse_chunk(&chunk.slice(..chunk.len() - 1), &mut None).is_err());
        assert!(parse_chunk(&chunk, &mut Some(b"a".to_vec())).is_err(), "the path before is not smaller");
        let mut collector = Collector::default();
        let record = EntryRecord { path: b"x".to_vec(), ..EntryRecord::default() };
        collector.push(&record).unwrap();
        assert!(collector.push(&record).is_err());
    }
}
