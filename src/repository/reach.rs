//! What points need: followed from their entry lists to every chunk, each list read once however many points share it.
//!
//! Memory: a bit for each chunk that is needed, 33 MiB for those noted lately, and a row for each list chunk that was read. 10^8 chunks are 12.5 MB of bits; their
//! entries are some 15,000 list chunks, and a day that changes one in a hundred of them adds 150.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use serde::Deserialize;

use super::{
    ChunkCache, ChunkId, ChunkList, ChunkRef, Class, PackRecord, Reader, Recent, RepositoryError, Snapshot,
    chunk::{MAX_LEVEL, parse_refs, unpack},
    entry::split_records,
    error::Result,
    workers::off_thread,
};

/// What is needed of one pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// A bit for each of its chunks, by their order.
    chunks: Vec<u64>,
    /// How many bits are set.
    pub count: u32,
    /// Sealed bytes of the chunks that are needed.
    pub bytes: u64,
}

impl Needed {
    /// Whether the chunk that comes after so many others is needed.
    pub fn has(&self, ordinal: u32) -> bool {
        self.chunks.get(ordinal as usize / 64).is_some_and(|word| word & (1 << (ordinal % 64)) != 0)
    }

    fn add(&mut self, ordinal: u32, sealed_bytes: u32) {
        let word = ordinal as usize / 64;
        if self.chunks.len() <= word {
            self.chunks.resize(word + 1, 0);
        }
        if !self.has(ordinal) {
            self.chunks[word] |= 1 << (ordinal % 64);
            self.count += 1;
            self.bytes += u64::from(sealed_bytes);
        }
    }
}

/// What the bytes of a list chunk are: the same bytes could be read as either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Entries,
    /// Refs of list chunks that end in entries; so many levels above them.
    EntryRefs(u8),
    /// Refs of a content, so many levels above its chunks.
    ContentRefs(u8),
}

/// What the points that were followed so far need.
#[derive(Debug)]
pub struct Reach {
    cache: Arc<ChunkCache>,
    /// From every number of a pack but its first to that one: several indexes may name the same pack.
    numbers: HashMap<u32, u32>,
    found: Found,
    read: HashSet<(ChunkId, Role)>,
}

#[derive(Debug, Default)]
struct Found {
    /// What is needed, by the first number of the pack.
    needed: HashMap<u32, Needed>,
    /// Packs that only the points followed since [`Reach::settle`] need.
    also: HashSet<u32>,
    settled: bool,
    holes: u64,
    recent: Recent<()>,
}

impl Reach {
    /// Nothing followed yet.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn new(cache: &Arc<ChunkCache>) -> Result<Self> {
        let (mut first, mut numbers) = (HashMap::<PackRecord, u32>::new(), HashMap::new());
        for (number, record) in cache.packs()? {
            let one = *first.entry(record).or_insert(number);
            if one != number {
                numbers.insert(number, one);
            }
        }
        Ok(Self { cache: Arc::clone(cache), numbers, found: Found::default(), read: HashSet::new() })
    }

    /// What is needed of a pack by the points followed before [`Self::settle`].
    pub fn needed(&self, pack: u32) -> Option<&Needed> {
        self.found.needed.get(&pack)
    }

    /// Whether any point that was followed needs a pack.
    pub fn needs(&self, pack: u32) -> bool {
        self.found.needed.contains_key(&pack) || self.found.also.contains(&pack)
    }

    /// Chunks of contents that no index knows. What else their points need is followed all the same.
    pub fn holes(&self) -> u64 {
        self.found.holes
    }

    /// From here on only packs are noted that points need.
    pub fn settle(&mut self) {
        self.found.settled = true;
    }

    /// Follows a snapshot to its end.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Damaged`] and the like for a list that cannot be read: nobody knows then what the point needs.
    pub async fn follow(&mut self, reader: &Reader, snapshot: &Snapshot) -> Result<()> {
        let list = &snapshot.entries;
        let mut refs: Vec<ChunkRef> = list.chunks()?.collect();
        for level in (0..=check_level(list)?).rev() {
            self.note(&refs, Class::Catalogue)?;
            let role = if level == 0 { Role::Entries } else { Role::EntryRefs(level) };
            let unread: Vec<ChunkRef> = refs.into_iter().filter(|chunk| self.read.insert((chunk.id, role))).collect();
            refs = Vec::new();
            let mut pieces = reader.in_order(unread, Class::Catalogue);
            while let Some(piece) = pieces.try_next().await? {
                if level > 0 {
                    refs.extend(parse_refs(&piece)?);
                    continue;
                }
                for content in self.entries(piece).await? {
                    self.content(reader, content).await?;
                }
            }
        }
        Ok(())
    }

    /// Follows a long content, whose list lies in chunks of its own.
    async fn content(&mut self, reader: &Reader, list: ChunkList) -> Result<()> {
        let mut refs: Vec<ChunkRef> = list.chunks()?.collect();
        for level in (1..=check_level(&list)?).rev() {
            self.note(&refs, Class::Catalogue)?;
            let unread: Vec<ChunkRef> =
                refs.into_iter().filter(|chunk| self.read.insert((chunk.id, Role::ContentRefs(level)))).collect();
            refs = Vec::new();
            let mut pieces = reader.in_order(unread, Class::Catalogue);
            while let Some(piece) = pieces.try_next().await? {
                if level > 1 {
                    refs.extend(parse_refs(&piece)?);
                } else {
                    self.on_thread(move |this| this.note_data(parse_refs(&piece)?)).await?;
                }
            }
        }
        Ok(())
    }

    /// Notes what the entries of a chunk need; returns the contents whose lists lie in chunks of their own.
    async fn entries(&mut self, chunk: Bytes) -> Result<Vec<ChunkList>> {
        self.on_thread(move |this| {
            let mut long = Vec::new();
            for record in split_records(&chunk) {
                let record: NeededEntry<'_> = unpack(record?)
                    .map_err(|error| RepositoryError::Damaged { place: "an entry stream".to_owned(), detail: error.to_string() })?;
                match record.content {
                    Some(content) if content.level == 0 => this.note_data(parse_refs(content.refs)?)?,
                    Some(content) => long.push(ChunkList { level: content.level, refs: content.refs.to_vec() }),
                    None => {}
                }
            }
            Ok(long)
        })
        .await
    }

    /// Parsing and looking up is work for a thread of its own.
    async fn on_thread<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Noting) -> Result<T> + Send + 'static) -> Result<T> {
        let mut noting = Noting {
            cache: Arc::clone(&self.cache),
            numbers: std::mem::take(&mut self.numbers),
            found: std::mem::take(&mut self.found),
        };
        let (noting, outcome) = off_thread(move || {
            let outcome = work(&mut noting);
            Ok((noting, outcome))
        })
        .await?;
        (self.numbers, self.found) = (noting.numbers, noting.found);
        outcome
    }

    /// Few: done where it stands.
    fn note(&mut self, chunks: &[ChunkRef], class: Class) -> Result<()> {
        for chunk in chunks {
            if !self.found.note(&self.cache, &self.numbers, chunk)? && class == Class::Catalogue {
                return Err(RepositoryError::MissingChunk { place: "the repository".to_owned(), id: chunk.id.to_string() });
            }
        }
        Ok(())
    }
}

fn check_level(list: &ChunkList) -> Result<u8> {
    if list.level > MAX_LEVEL {
        let detail = format!("has {} levels, the most is {MAX_LEVEL}", list.level);
        return Err(RepositoryError::Damaged { place: "a chunk list".to_owned(), detail });
    }
    Ok(list.level)
}

/// The part of a [`Reach`] that goes to another thread for a while.
struct Noting {
    cache: Arc<ChunkCache>,
    numbers: HashMap<u32, u32>,
    found: Found,
}

impl Noting {
    fn note_data(&mut self, chunks: impl Iterator<Item = ChunkRef>) -> Result<()> {
        for chunk in chunks {
            if !self.found.note(&self.cache, &self.numbers, &chunk)? {
                self.found.holes += 1;
            }
        }
        Ok(())
    }
}

impl Found {
    /// Whether any index knows the chunk.
    fn note(&mut self, cache: &ChunkCache, numbers: &HashMap<u32, u32>, chunk: &ChunkRef) -> Result<bool> {
        let id = &chunk.id;
        if self.recent.get(id).is_some() {
            return Ok(true);
        }
        let copies = cache.needed_copies(chunk)?;
        for found in &copies {
            let pack = numbers.get(&found.pack).copied().unwrap_or(found.pack);
            if !self.settled {
                self.needed.entry(pack).or_default().add(found.ordinal, found.place.sealed_bytes);
            } else if !self.needed.contains_key(&pack) {
                self.also.insert(pack);
            }
        }
        if copies.is_empty() {
            return Ok(false);
        }
        self.recent.put(id, ());
        Ok(true)
    }
}

/// An entry, as far as it says what it needs.
#[derive(Deserialize)]
struct NeededEntry<'a> {
    #[serde(rename = "c", borrow, default)]
    content: Option<NeededList<'a>>,
}

#[derive(Deserialize)]
struct NeededList<'a> {
    level: u8,
    #[serde(borrow, with = "serde_bytes")]
    refs: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::Needed;

    #[test]
    fn a_chunk_that_is_needed_twice_counts_once() {
        let mut needed = Needed::default();
        [(0, 10), (63, 20), (64, 30), (63, 20)].into_iter().for_each(|(ordinal, bytes)| needed.add(ordinal, bytes));
        assert_eq!((needed.count, needed.bytes), (3, 60));
        assert!(needed.has(63) && needed.has(64) && !needed.has(1) && !needed.has(1000));
    }
}
