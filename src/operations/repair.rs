//! Repair: indexes are rebuilt from the packs' own directories, and whatever is still hurt is named: point, source, path.
//!
//! Nothing is deleted or overwritten. Damaged packs stay where they are, marked, so that the next backup stores what they held
//! anew. Memory is bounded: entries are streams, and what is hurt is told as it is found, not collected.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::TryStreamExt;

use super::OperationError;
use crate::{
    clock::SharedClock,
    progress::{Observer, SharedObserver, Tally},
    report::{Damage, Hurt, HurtPoint, HurtSource, RepairReport, hurt_words},
    repository::{
        Budget, ChunkCache, ChunkId, ChunkList, MarkState, Point, PointName, Reader, Repository, RepositoryError, Snapshot,
        Workers, pack_key,
    },
    stores::StoreError,
};

/// What a repair needs.
pub struct RepairRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Threads for CPU work.
    pub workers: Arc<Workers>,
    /// Memory for reading.
    pub budget: Budget,
    /// Write nothing.
    pub dry_run: bool,
    /// Told of everything that is hurt, as it is found.
    pub hurt: &'a (dyn Fn(&Hurt) + Send + Sync),
    /// Told of progress.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
}

/// What cannot be used of a pack.
enum Unusable {
    All,
    Chunks(HashSet<ChunkId>),
}

struct Walk<'a> {
    request: &'a RepairRequest<'a>,
    reader: Reader,
    cache: Arc<ChunkCache>,
    /// By pack number.
    unusable: HashMap<u32, Unusable>,
}

/// Rebuilds what can be rebuilt, and names what is hurt.
///
/// # Errors
/// Those of reaching the site; damage is no error here but the report's contents.
pub async fn repair(request: RepairRequest<'_>) -> Result<RepairReport, OperationError> {
    let (started_at, start) = (request.clock.now(), request.clock.monotonic());
    let repository = request.repository;
    let tally = Tally::over(Arc::clone(&request.observer));
    // Points first: what a point needs that was there before the packs were listed is in an index by now.
    let points = repository.point_names(None).await?;
    tally.phase("rebuild indexes", None);
    let marks = repository.marks().await?;
    // All of them, from the site: the local index may know one that was whole when it was read.
    let (_, unusable) = repository.check_indexes().await?;
    for check in unusable.iter().filter(|check| !request.dry_run && marks.damage(&check.key).is_none()) {
        repository.put_mark(&check.key, MarkState::Damaged, &check.detail).await?;
    }
    let open = async || Reader::open(repository, Arc::clone(&request.workers), request.budget.clone()).await;
    let (rebuilt, reader) = if request.dry_run {
        // Whoever opens the local index forgets what a mark names; here there may be none. What would be known is known as long as the
        // reader holds it.
        repository.forget_indexes(unusable.iter().map(|check| check.key.as_str())).await?;
        let reader = open().await?;
        (repository.rebuild_indexes(false).await?, reader)
    } else {
        (repository.rebuild_indexes(true).await?, open().await?)
    };
    let cache = Arc::clone(reader.cache());
    let mut report = RepairReport {
        site: repository.store().describe(),
        started_at,
        seconds: 0.0,
        dry_run: request.dry_run,
        packs_found: rebuilt.packs,
        chunks_found: rebuilt.chunks,
        indexes_written: rebuilt.indexes,
        replaced: Vec::new(),
        damaged: Vec::new(),
        points_whole: 0,
        points_hurt: Vec::new(),
    };
    // Every usable pack is known now, so nothing hangs on what a damaged index said.
    report.replaced =
        unusable.into_iter().map(|check| Damage { object: check.key, detail: check.detail, points: Vec::new() }).collect();
    report.damaged =
        rebuilt.unusable.into_iter().map(|check| Damage { object: check.key, detail: check.detail, points: Vec::new() }).collect();
    tally.phase("read damaged packs", None);
    let mut walk = Walk { request: &request, reader, cache, unusable: HashMap::new() };
    walk.look_into_packs(&mut report).await?;
    tally.phase("follow points", None);
    for name in points {
        match walk.point(&name, &tally).await? {
            Followed::Whole => report.points_whole += 1,
            Followed::Hurt(hurt) => report.points_hurt.push(hurt),
            Followed::Gone => {}
        }
    }
    report.seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    Ok(report)
}

/// What became of a point that was followed.
enum Followed {
    Whole,
    Hurt(HurtPoint),
    /// A prune deleted it since it was listed.
    Gone,
}

impl Walk<'_> {
    /// Finds out what of the packs that are marked or missing cannot be used.
    async fn look_into_packs(&mut self, report: &mut RepairReport) -> Result<(), OperationError> {
        let seen = self.cache.seen();
        let mut told = HashSet::new();
        for (number, record) in self.cache.packs()? {
            let object = pack_key(&record.sha256);
            let (unusable, detail) = if seen.missing.contains(&number) {
                (Unusable::All, "is missing, cut short, or its data key is".to_owned())
            } else if seen.quarantined.contains(&number) {
                match self.reader.unusable_chunks(&record).await {
                    Ok(Some(chunks)) => {
                        let detail = format!("{} of its chunks cannot be used", chunks.len());
                        (Unusable::Chunks(chunks), detail)
                    }
                    Ok(None) => (Unusable::All, "nothing of it can be used".to_owned()),
                    Err(RepositoryError::Key { .. }) => {
                        let detail =
                            "is marked as damaged; without its key nobody knows which of its chunks: --identity".to_owned();
                        (Unusable::All, detail)
                    }
                    Err(error) => return Err(error.into()),
                }
            } else {
                continue;
            };
            self.unusable.insert(number, unusable);
            if told.insert(object.clone()) {
                report.damaged.push(Damage { object, detail, points: Vec::new() });
            }
        }
        Ok(())
    }

    /// What is hurt of a point, if anything is.
    async fn point(&self, name: &PointName, tally: &Tally) -> Result<Followed, OperationError> {
        let repository = self.request.repository;
        let mut hurt = HurtPoint { point: name.id.clone(), policy: name.policy.clone(), sources: Vec::new() };
        let point = match repository.point(name).await {
            Ok(point) => point,
            Err(error) if error.is_damage() => match repository.store().stat(&name.key).await {
                Err(StoreError::NotFound { .. }) => return Ok(Followed::Gone),
                _ => {
                    self.tell(name, None, None, 0, error.to_string());
                    return Ok(Followed::Hurt(hurt));
                }
            },
            Err(error) => return Err(error.into()),
        };
        let Point { snapshots, .. } = point;
        for snapshot in snapshots {
            let found = self.snapshot(name, &snapshot, tally).await?;
            if found.hurt > 0 || !found.complete {
                hurt.sources.push(found);
            }
        }
        Ok(if hurt.sources.is_empty() { Followed::Whole } else { Followed::Hurt(hurt) })
    }

    async fn snapshot(&self, name: &PointName, snapshot: &Snapshot, tally: &Tally) -> Result<HurtSource, OperationError> {
        let mut found = HurtSource { source: snapshot.source.clone(), entries: 0, hurt: 0, complete: true };
        let mut entries = self.reader.entries(snapshot);
        loop {
            let record = match entries.try_next().await {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) if error.is_damage() => {
                    found.complete = false;
                    self.tell(name, Some(snapshot), None, 0, format!("its list of entries is damaged: {error}"));
                    return Ok(found);
                }
                Err(error) => return Err(error.into()),
            };
            found.entries += 1;
            tally.items(1);
            let Some(content) = &record.content else { continue };
            let (bytes, detail) = match self.content(content).await {
                Ok((0, _)) => continue,
                Ok((chunks, bytes)) => (bytes, hurt_words(bytes, chunks)),
                Err(error) if error.is_damage() => (record.size.unwrap_or(0), error.to_string()),
                Err(error) => return Err(error.into()),
            };
            found.hurt += 1;
            self.tell(name, Some(snapshot), Some(&record.path), bytes, detail);
        }
        if found.entries != snapshot.entry_count {
            found.complete = false;
            let detail = format!("has {} entries instead of {}", found.entries, snapshot.entry_count);
            self.tell(name, Some(snapshot), None, 0, detail);
        }
        Ok(found)
    }

    /// How many chunks of a content are in no sound pack, and how many bytes they are.
    async fn content(&self, content: &ChunkList) -> Result<(u64, u64), RepositoryError> {
        let (mut chunks, mut bytes) = (0, 0);
        for chunk in self.reader.flatten(content).await? {
            let usable = |pack: &u32| match self.unusable.get(pack) {
                None => true,
                Some(Unusable::All) => false,
                Some(Unusable::Chunks(unusable)) => !unusable.contains(&chunk.id),
            };
            if !self.cache.copies(&chunk.id)?.iter().any(usable) {
                chunks += 1;
                bytes += u64::from(chunk.length);
            }
        }
        Ok((chunks, bytes))
    }

    fn tell(&self, name: &PointName, snapshot: Option<&Snapshot>, path: Option<&[u8]>, bytes: u64, detail: String) {
        (self.request.hurt)(&Hurt {
            point: name.id.clone(),
            policy: name.policy.clone(),
            source: snapshot.map(|snapshot| snapshot.source.clone()),
            path: path.map(|path| String::from_utf8_lossy(path).into_owned()),
            bytes,
            detail,
        });
    }
}
