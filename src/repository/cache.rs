//! The local index: every chunk of the repository and where it lies, in a file that can be deleted at any time.
//!
//! Assumes nothing about what is on disk: the cache of a repository that is locked by another process is replaced by a private
//! one for this run; one that is damaged, or knows an index that the site no longer has, is thrown away and rebuilt from the
//! site's indexes. Memory is flat in the number of chunks.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use chrono::DateTime;
use redb::{
    Database, Durability, MultimapTableDefinition, ReadOnlyMultimapTable, ReadOnlyTable, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, TableDefinition,
};

use super::{
    Class, PackCheck, RepositoryError,
    chunk::{ChunkId, ChunkRef, Encoding},
    error::Result,
    format::Id,
    pack::{PackEntry, Place, pack_overhead_bytes},
    reached,
};
use crate::stores::{Lock, LockMode};

/// Memory that redb may use for pages, bytes.
const PAGE_CACHE_BYTES: usize = 16 << 20;
const FILE: &str = "chunks-3.redb";
/// What earlier versions of this program left.
const FORMER_FILES: [&str; 1] = ["chunks-2.redb"];

/// id → pack number, offset, sealed, plain, encoding, how many chunks come before it in its pack.
type ChunkRow = (u32, u32, u32, u32, u8, u32);
/// number → sha256, size, class, run, data key, hash of the directory, number of chunks.
type PackRow = (&'static [u8; 32], u32, u8, &'static [u8; 16], &'static [u8; 16], &'static [u8; 32], u32);
const CHUNKS: TableDefinition<'static, &[u8; 32], ChunkRow> = TableDefinition::new("chunks");
/// Further places of chunks that lie in more than one pack: stored anew because a pack was lost, or by two runs at once.
const OTHERS: MultimapTableDefinition<'static, &[u8; 32], ChunkRow> = MultimapTableDefinition::new("others");
const PACKS: TableDefinition<'static, u32, PackRow> = TableDefinition::new("packs");
const INDEXES: TableDefinition<'static, &[u8; 32], ()> = TableDefinition::new("indexes");
/// index → number of its first pack, and how many follow.
const RANGES: TableDefinition<'static, &[u8; 32], (u32, u32)> = TableDefinition::new("ranges");
/// Numbers of packs that no index of the site names any more: their chunks are unknown, whatever rows they left.
const GONE: TableDefinition<'static, u32, ()> = TableDefinition::new("gone");
/// Key of an object → until when it is locked (seconds since 1970), and whether nobody can lift that.
const LOCKS: TableDefinition<'static, &str, (i64, bool)> = TableDefinition::new("locks");

/// Where a chunk is, with all that is needed to read it.
#[derive(Debug, Clone)]
pub struct Location {
    /// In the pack.
    pub place: Place,
    /// Number of the pack in this cache, for grouping and [`ChunkCache::pack`].
    pub pack: u32,
    /// How many chunks come before it in the pack.
    pub ordinal: u32,
}

/// A pack, as the cache knows it (without its chunks).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PackRecord {
    /// Its name.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub size: u32,
    /// Family of its chunks.
    pub class: Class,
    /// The run that wrote it.
    pub run: Id,
    /// Data key of its chunks.
    pub data_key: Id,
    /// [`PackEntry::directory_hash`].
    pub directory: [u8; 32],
    /// How many chunks it holds.
    pub chunks: u32,
}

impl PackRecord {
    /// Bytes of its sealed chunks together: what is not header, directory and trailer.
    pub fn chunk_bytes(&self) -> u64 {
        u64::from(self.size).saturating_sub(pack_overhead_bytes(self.chunks))
    }
}

pub(super) struct Tables {
    chunks: ReadOnlyTable<&'static [u8; 32], ChunkRow>,
    others: ReadOnlyMultimapTable<&'static [u8; 32], ChunkRow>,
    pub(super) packs: ReadOnlyTable<u32, PackRow>,
}

/// What a look at the site showed to be wrong; never kept on disk.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Packs that indexes name and the site has not, or in another size.
    pub missing: HashSet<u32>,
    /// Packs that prune has doomed, or whose data key is: they are read, and nothing new may rely on them.
    pub doomed: HashSet<u32>,
    /// Packs that are marked as damaged, or whose data key is: what can be read of them is read, and nothing new may rely on them.
    pub quarantined: HashSet<u32>,
    /// Packs of a storage class that is an archive, so that they may have to be brought back before they are read.
    pub archived: HashSet<u32>,
    /// Indexes and marks that cannot be used, each with the reason.
    pub damaged: Vec<PackCheck>,
    /// Indexes that cannot be used either, and of which nothing is missing: every pack that was stored before is named by others.
    pub needless: Vec<PackCheck>,
}

impl Seen {
    /// The less the better: whole, doomed, quarantined, missing.
    fn rank(&self, pack: u32) -> u8 {
        if self.missing.contains(&pack) {
            3
        } else if self.quarantined.contains(&pack) {
            2
        } else {
            u8::from(self.doomed.contains(&pack))
        }
    }

    /// Whether something new may rely on a pack.
    pub fn is_adoptable(&self, pack: u32) -> bool {
        self.rank(pack) == 0
    }
}

/// Rank of a place that no index of the site names any more.
const UNKNOWN: u8 = u8::MAX;

/// The local index of one repository.
pub struct ChunkCache {
    database: Database,
    tables: RwLock<Arc<Tables>>,
    gone: RwLock<Arc<HashSet<u32>>>,
    seen: RwLock<Arc<Seen>>,
    path: PathBuf,
    /// Keeps a private cache's directory until the end of the run.
    _private: Option<tempfile::TempDir>,
}

impl std::fmt::Debug for ChunkCache {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "ChunkCache({})", self.path.display())
    }
}

fn failed(path: &Path) -> impl Fn(redb::Error) -> RepositoryError + '_ {
    move |error| RepositoryError::Cache { path: path.display().to_string(), detail: error.to_string() }
}

impl ChunkCache {
    /// Opens the cache in `directory`, or a private one where that is in use by another process.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`] if neither can be had.
    pub fn open(directory: &Path) -> Result<Self> {
        let unusable = |detail: String| RepositoryError::Cache { path: directory.display().to_string(), detail };
        fs::create_dir_all(directory).map_err(|error| unusable(error.to_string()))?;
        for former in FORMER_FILES {
            let _ = fs::remove_file(directory.join(former));
        }
        let path = directory.join(FILE);
        match Self::at(&path, None) {
            Ok(cache) => Ok(cache),
            Err(redb::Error::DatabaseAlreadyOpen) => {
                let private = tempfile::tempdir_in(directory).map_err(|error| unusable(error.to_string()))?;
                let path = private.path().join(FILE);
                Self::at(&path, Some(private)).map_err(failed(&path))
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the local cache is unusable and is rebuilt from the site");
                fs::remove_file(&path).map_err(|error| unusable(error.to_string()))?;
                Self::at(&path, None).map_err(failed(&path))
            }
        }
    }

    fn at(path: &Path, private: Option<tempfile::TempDir>) -> Result<Self, redb::Error> {
        let database = Database::builder().set_cache_size(PAGE_CACHE_BYTES).create(path)?;
        let write = database.begin_write()?;
        write.open_table(CHUNKS)?;
        write.open_multimap_table(OTHERS)?;
        write.open_table(PACKS)?;
        write.open_table(INDEXES)?;
        write.open_table(RANGES)?;
        write.open_table(LOCKS)?;
        write.open_table(GONE)?;
        write.commit()?;
        let tables = RwLock::new(Arc::new(read(&database)?));
        let gone = RwLock::new(Arc::new(read_gone(&database)?));
        Ok(Self { database, tables, gone, seen: RwLock::default(), path: path.to_owned(), _private: private })
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn failed(&self) -> impl Fn(redb::Error) -> RepositoryError + '_ {
        failed(&self.path)
    }

    /// The indexes that are in the cache.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn indexes(&self) -> Result<HashSet<[u8; 32]>> {
        let collect = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(INDEXES)?;
            table.iter()?.map(|row| Ok(*row?.0.value())).collect()
        };
        collect().map_err(self.failed())
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn clear(&self) -> Result<()> {
        let clear = || -> Result<_, redb::Error> {
            let write = self.database.begin_write()?;
            write.delete_table(CHUNKS)?;
            write.delete_multimap_table(OTHERS)?;
            write.delete_table(PACKS)?;
            write.delete_table(INDEXES)?;
            write.delete_table(RANGES)?;
            write.delete_table(GONE)?;
            reached::forget(&write)?;
            write.open_table(GONE)?;
            write.open_table(CHUNKS)?;
            write.open_multimap_table(OTHERS)?;
            write.open_table(PACKS)?;
            write.open_table(INDEXES)?;
            write.open_table(RANGES)?;
            write.commit()?;
            self.refresh()
        };
        clear().map_err(self.failed())
    }

    fn refresh(&self) -> Result<(), redb::Error> {
        let tables = Arc::new(read(&self.database)?);
        *self.tables.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = tables;
        let gone = Arc::new(read_gone(&self.database)?);
        *self.gone.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = gone;
        Ok(())
    }

    fn gone(&self) -> Arc<HashSet<u32>> {
        Arc::clone(&self.gone.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Forgets what these indexes named: the site has them no more. The rows of their chunks stay, and mean nothing; returns
    /// whether there are so many of them that a new cache would be smaller by half. Blocking.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn forget(&self, indexes: &[[u8; 32]]) -> Result<bool> {
        let forget = || -> Result<_, redb::Error> {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let (mut names, mut ranges) = (write.open_table(INDEXES)?, write.open_table(RANGES)?);
                let (packs, mut gone) = (write.open_table(PACKS)?, write.open_table(GONE)?);
                for index in indexes {
                    names.remove(index)?;
                    let Some(range) = ranges.remove(index)?.map(|range| range.value()) else { continue };
                    for number in range.0..range.0.saturating_add(range.1) {
                        if packs.get(number)?.is_some() {
                            gone.insert(number, ())?;
                        }
                    }
                }
            }
            write.commit()?;
            self.refresh()?;
            Ok(self.gone().len() as u64 * 2 > self.database.begin_read()?.open_table(PACKS)?.len()?)
        };
        forget().map_err(self.failed())
    }

    /// Adds the packs of an index. Blocking.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn add(&self, index: &[u8; 32], packs: &[PackEntry]) -> Result<()> {
        self.add_all(&[(index, packs)])
    }

    /// Adds the packs of several indexes, all or none of them: ids are hashes, so that rows of many indexes, sorted, cost a page of
    /// the file once and not once for each index. Blocking.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn add_all(&self, indexes: &[(&[u8; 32], &[PackEntry])]) -> Result<()> {
        let add = || -> Result<_, redb::Error> {
            let mut write = self.database.begin_write()?;
            // A cache that is lost in a crash is rebuilt; waiting for the disk here would only slow the backup down.
            write.set_durability(Durability::None)?;
            {
                let mut pack_rows = write.open_table(PACKS)?;
                let (mut ranges, mut names) = (write.open_table(RANGES)?, write.open_table(INDEXES)?);
                let mut next = pack_rows.last()?.map_or(0, |(last, _)| last.value() + 1);
                let mut rows: Vec<(&ChunkId, ChunkRow)> = Vec::new();
                for (index, packs) in indexes {
                    // An index names far fewer packs than a u32 counts.
                    ranges.insert(*index, (next, packs.len() as u32))?;
                    for (number, pack) in (next..).zip(*packs) {
                        let class = u8::from(pack.class == Class::Catalogue) + 1;
                        let directory = pack.directory_hash();
                        // A pack is closed far below 2^32 chunks.
                        let count = pack.places.len() as u32;
                        let row = (&pack.sha256, pack.size, class, &pack.run, &pack.data_key, &directory, count);
                        pack_rows.insert(number, row)?;
                        rows.extend((0..).zip(&pack.places).map(|(ordinal, place)| {
                            let encoding = place.encoding as u8;
                            (&place.id, (number, place.offset, place.sealed_bytes, place.plain_bytes, encoding, ordinal))
                        }));
                    }
                    next += packs.len() as u32;
                    names.insert(*index, ())?;
                }
                // Of one chunk's places the last stays the first that is found, as if each had come alone.
                rows.sort_by_key(|(id, _)| id.0);
                let (mut chunk_rows, mut other_rows) = (write.open_table(CHUNKS)?, write.open_multimap_table(OTHERS)?);
                for (id, row) in rows {
                    if let Some(before) = chunk_rows.insert(&id.0, row)? {
                        other_rows.insert(&id.0, before.value())?;
                    }
                }
            }
            write.commit()?;
            self.refresh()
        };
        add().map_err(self.failed())
    }

    /// Writes what was added through to the disk, so that the next run finds it.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn persist(&self) -> Result<()> {
        let persist = || -> Result<_, redb::Error> { Ok(self.database.begin_write()?.commit()?) };
        persist().map_err(self.failed())
    }

    /// The indexes that name any of these packs; also those of which an earlier version of this program did not keep which ones.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn indexes_of(&self, packs: &HashSet<u32>) -> Result<Vec<[u8; 32]>> {
        let all = self.indexes()?;
        let choose = || -> Result<_, redb::Error> {
            let ranges = self.database.begin_read()?.open_table(RANGES)?;
            let mut chosen = Vec::new();
            for index in all {
                let named = match ranges.get(&index)? {
                    None => true,
                    Some(range) => {
                        let (first, count) = range.value();
                        (first..first.saturating_add(count)).any(|number| packs.contains(&number))
                    }
                };
                if named {
                    chosen.push(index);
                }
            }
            Ok(chosen)
        };
        choose().map_err(self.failed())
    }

    /// Remembers how objects are locked. Blocking.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn note_locks<'a>(&self, locks: impl Iterator<Item = (&'a str, &'a Lock)>) -> Result<()> {
        let note = || -> Result<_, redb::Error> {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let mut rows = write.open_table(LOCKS)?;
                for (key, lock) in locks {
                    rows.insert(key, (lock.until.timestamp(), lock.mode == LockMode::Compliance))?;
                }
            }
            Ok(write.commit()?)
        };
        note().map_err(self.failed())
    }

    /// How an object was locked when that was last known. (It may hold longer by now, never shorter.)
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn lock(&self, key: &str) -> Result<Option<Lock>> {
        let look = || -> Result<_, redb::Error> {
            let rows = self.database.begin_read()?.open_table(LOCKS)?;
            Ok(rows.get(key)?.map(|row| row.value()))
        };
        let row = look().map_err(self.failed())?;
        Ok(row.and_then(|(until, firm)| {
            let mode = if firm { LockMode::Compliance } else { LockMode::Governance };
            Some(Lock { mode, until: DateTime::from_timestamp(until, 0)? })
        }))
    }

    pub(super) fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// What the last look at the site showed to be wrong.
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Keeps what a look at the site showed to be wrong.
    pub fn set_seen(&self, seen: Seen) {
        *self.seen.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(seen);
    }

    /// Remembers that a pack cannot be read: its chunks are stored anew by whoever has their bytes.
    pub fn lose(&self, pack: u32) {
        let mut seen = self.seen.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut missing = seen.missing.clone();
        missing.insert(pack);
        *seen = Arc::new(Seen { missing, ..(**seen).clone() });
    }

    /// Where a chunk lies, if any index knows it; rather in a whole pack than in one that is doomed, rather in that than in one that is
    /// quarantined, and rather in that than in one that the site lost. An index that says another length than the chunk has says nothing of it.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn find(&self, chunk: &ChunkRef) -> Result<Option<Location>> {
        let find = || -> Result<_, redb::Error> {
            let (tables, seen, gone, id) = (self.tables(), self.seen(), self.gone(), &chunk.id);
            let lies = |row: &ChunkRow| row.3 != chunk.length || gone.contains(&row.0);
            let rank = |row: &ChunkRow| if lies(row) { UNKNOWN } else { seen.rank(row.0) };
            let Some(row) = tables.chunks.get(&id.0)? else { return Ok(None) };
            let mut row = row.value();
            if rank(&row) > 0 {
                for other in tables.others.get(&id.0)? {
                    let other = other?.value();
                    if rank(&other) < rank(&row) {
                        row = other;
                    }
                }
            }
            if rank(&row) == UNKNOWN {
                return Ok(None);
            }
            Ok(Some(location(id, row)))
        };
        find().map_err(self.failed())
    }

    /// Where a chunk lies that a point needs, as far as the packs there must stay: one copy that nobody has doomed, the same for
    /// whoever asks, whatever order he met the indexes in; where all are doomed (or damaged, or lost) all of those.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn needed_copies(&self, chunk: &ChunkRef) -> Result<Vec<Location>> {
        let find = || -> Result<_, redb::Error> {
            let (tables, seen, gone, id) = (self.tables(), self.seen(), self.gone(), &chunk.id);
            let Some(row) = tables.chunks.get(&id.0)? else { return Ok(Vec::new()) };
            let mut rows = vec![row.value()];
            for other in tables.others.get(&id.0)? {
                rows.push(other?.value());
            }
            rows.retain(|row| row.3 == chunk.length && !gone.contains(&row.0));
            let best = rows.iter().map(|row| seen.rank(row.0)).min();
            rows.retain(|row| Some(seen.rank(row.0)) == best);
            if best == Some(0) && rows.len() > 1 {
                // By run first: what one run stored is needed together.
                let mut named = Vec::with_capacity(rows.len());
                for row in rows {
                    let name = tables.packs.get(row.0)?.map(|pack| record(pack.value())).map(|pack| (pack.run, pack.sha256));
                    named.push((name, row));
                }
                rows = named.into_iter().min_by_key(|(name, row)| (*name, row.0)).map(|(_, row)| row).into_iter().collect();
            }
            Ok(rows.into_iter().map(|row| location(id, row)).collect())
        };
        find().map_err(self.failed())
    }

    /// Every place where a chunk lies, whatever is known of its pack.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn copies(&self, id: &ChunkId) -> Result<Vec<u32>> {
        let find = || -> Result<_, redb::Error> {
            let tables = self.tables();
            let mut packs: Vec<u32> = tables.chunks.get(&id.0)?.map(|row| row.value().0).into_iter().collect();
            for other in tables.others.get(&id.0)? {
                packs.push(other?.value().0);
            }
            let gone = self.gone();
            packs.retain(|pack| !gone.contains(pack));
            Ok(packs)
        };
        find().map_err(self.failed())
    }

    /// A pack by its number.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`], also for a number that is not there.
    pub fn pack(&self, number: u32) -> Result<PackRecord> {
        let row = self.tables().packs.get(number).map_err(|error| self.failed()(error.into()))?;
        let row = row.ok_or_else(|| RepositoryError::Cache {
            path: self.path.display().to_string(),
            detail: format!("pack {number} is missing"),
        })?;
        Ok(record(row.value()))
    }

    /// All packs that indexes of the site name, with their numbers.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub fn packs(&self) -> Result<Vec<(u32, PackRecord)>> {
        let collect = || -> Result<_, redb::Error> {
            let (tables, gone) = (self.tables(), self.gone());
            let mut packs = Vec::new();
            for row in tables.packs.range::<u32>(..)? {
                let (number, pack) = row?;
                if !gone.contains(&number.value()) {
                    packs.push((number.value(), record(pack.value())));
                }
            }
            Ok(packs)
        };
        collect().map_err(self.failed())
    }
}

fn location(id: &ChunkId, (pack, offset, sealed_bytes, plain_bytes, encoding, ordinal): ChunkRow) -> Location {
    let encoding = Encoding::from_number(encoding).unwrap_or(Encoding::Plain);
    Location { place: Place { id: *id, offset, sealed_bytes, plain_bytes, encoding }, pack, ordinal }
}

type StoredPack<'a> = (&'a [u8; 32], u32, u8, &'a Id, &'a Id, &'a [u8; 32], u32);

fn record((sha256, size, class, run, data_key, directory, chunks): StoredPack<'_>) -> PackRecord {
    let class = if class == 1 { Class::Data } else { Class::Catalogue };
    PackRecord { sha256: *sha256, size, class, run: *run, data_key: *data_key, directory: *directory, chunks }
}

fn read(database: &Database) -> Result<Tables, redb::Error> {
    let read = database.begin_read()?;
    Ok(Tables { chunks: read.open_table(CHUNKS)?, others: read.open_multimap_table(OTHERS)?, packs: read.open_table(PACKS)? })
}

fn read_gone(database: &Database) -> Result<HashSet<u32>, redb::Error> {
    let table = database.begin_read()?.open_table(GONE)?;
    table.iter()?.map(|row| Ok(row?.0.value())).collect()
}

#[cfg(test)]
mod tests;
