//! Verify: is everything there, and is it what it was?
//!
//! Levels: *structure* follows every point to its chunks and every index to its packs, by listing alone; reading verification
//! also reads packs (all, or a share of them), every index, opens every key, and follows the chain of the evidence: every byte
//! that carries a meaning is authenticated.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{OperationError, history};
use crate::{
    clock::SharedClock,
    progress::{Observer, SharedObserver, Tally},
    report::{Damage, VerifyReport},
    repository::{ChunkList, Class, PackCheck, Point, PointName, Reader, Repository, RepositoryError},
};

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VerifyLevel {
    /// Only lists.
    Structure,
    /// So many percent of the packs, chosen anew each time; 100 reads all.
    ReadData(f64),
}

/// What a verification needs.
#[derive(Debug)]
pub struct VerifyRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Reads it, with the keys at hand.
    pub reader: Reader,
    /// Only points of this policy are followed; all of them without.
    pub policy: Option<&'a str>,
    /// How much.
    pub level: VerifyLevel,
    /// Told of progress.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
}

/// Packs read at once.
const READS: usize = 4;

struct Walk<'a> {
    request: &'a VerifyRequest<'a>,
    /// Pack numbers that are broken, with what is wrong.
    broken: BTreeMap<u32, String>,
    /// Points that need a pack, by its number.
    needs: BTreeMap<u32, BTreeSet<String>>,
    damage: Vec<Damage>,
    sound: BTreeSet<String>,
    points: u64,
}

/// Verifies a repository. What was found is stored on the site, so that points count as verified.
///
/// # Errors
/// Those of reaching the site; damage is no error here but the report's contents.
pub async fn verify(request: VerifyRequest<'_>) -> Result<VerifyReport, OperationError> {
    let (started_at, start) = (request.clock.now(), request.clock.monotonic());
    let tally = Tally::over(Arc::clone(&request.observer));
    tally.phase("structure", None);
    let cache = request.reader.cache();
    let structure = request.repository.structure(cache).await?;
    let numbers: BTreeMap<String, u32> =
        cache.packs()?.into_iter().map(|(number, record)| (hex::encode(record.sha256), number)).collect();
    let broken = structure
        .broken
        .iter()
        .filter_map(|check| Some((*numbers.get(check.key.rsplit('/').next()?)?, check.detail.clone())))
        .collect();
    let mut walk =
        Walk { request: &request, broken, needs: BTreeMap::new(), damage: Vec::new(), sound: BTreeSet::new(), points: 0 };
    walk.damaged(structure.keys_missing);
    for name in request.repository.point_names(request.policy).await? {
        walk.point(&name, &tally).await?;
    }
    let mut report = VerifyReport {
        site: request.repository.store().describe(),
        started_at,
        seconds: 0.0,
        read_data_percent: 0.0,
        points_checked: walk.points,
        indexes_checked: cache.indexes()?.len() as u64,
        packs_checked: structure.packs_sound,
        packs_read: 0,
        bytes_read: 0,
        chunks_checked: 0,
        packs_unreferenced: structure.unreferenced,
        damage: Vec::new(),
        problems: Vec::new(),
    };
    if let VerifyLevel::ReadData(percent) = request.level {
        report.read_data_percent = percent;
        read_packs(&mut walk, &mut report, percent, &tally).await?;
        tally.phase("read catalogue", None);
        let (indexes, damaged) = request.repository.check_indexes().await?;
        report.indexes_checked = indexes;
        walk.damaged(damaged);
        walk.damaged(request.repository.check_keys().await?);
    } else {
        walk.damaged(cache.seen().damaged.clone());
    }
    for (object, detail) in history::flaws(request.repository).await? {
        walk.damage.push(Damage { object, detail, points: Vec::new() });
    }
    for pin in request.repository.pins().await? {
        walk.damage.extend(pin.record.err().map(|detail| Damage { object: pin.key, detail, points: Vec::new() }));
    }
    report.damage = walk.finish()?;
    report.problems = tally.problems();
    report.seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    let hurt: HashSet<&String> = report.damage.iter().flat_map(|damage| &damage.points).collect();
    let sound: BTreeSet<String> = walk.sound.iter().filter(|point| !hurt.contains(point)).cloned().collect();
    if matches!(request.level, VerifyLevel::ReadData(percent) if percent >= 100.0) {
        history::keep_verification(request.repository, request.clock.now(), sound, &report).await?;
    }
    Ok(report)
}

impl Walk<'_> {
    /// Follows a point to its packs.
    async fn point(&mut self, name: &PointName, tally: &Tally) -> Result<(), OperationError> {
        self.points += 1;
        let followed = match self.request.repository.point(name).await {
            Ok(point) => self.follow(&point, tally).await,
            Err(error) => Err(error),
        };
        match followed {
            Ok(()) => {
                self.sound.insert(name.id.clone());
            }
            // Also a catalogue pack that is gone: `structure` found it as well, but here we know whom it hurts.
            Err(error) if error.is_damage() => {
                self.damage.push(Damage { object: name.key.clone(), detail: error.to_string(), points: vec![name.id.clone()] });
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn follow(&mut self, point: &Point, tally: &Tally) -> Result<(), RepositoryError> {
        for snapshot in &point.snapshots {
            self.list(point, &snapshot.entries)?;
            let mut entries = self.request.reader.entries(snapshot);
            let mut count = 0;
            while let Some(record) = entries.try_next().await? {
                count += 1;
                tally.items(1);
                let Some(content) = &record.content else { continue };
                self.list(point, content)?;
                if content.level > 0 {
                    let mut all = ChunkList::default();
                    self.request.reader.flatten(content).await?.into_iter().for_each(|chunk| all.push(chunk));
                    self.list(point, &all)?;
                }
            }
            if count != snapshot.entry_count {
                return Err(RepositoryError::Damaged {
                    place: format!("point {}, source {}", point.id, snapshot.source),
                    detail: format!("has {count} entries instead of {}", snapshot.entry_count),
                });
            }
        }
        Ok(())
    }

    fn list(&mut self, point: &Point, list: &ChunkList) -> Result<(), RepositoryError> {
        for chunk in list.chunks()? {
            let place = || self.request.repository.store().describe();
            let location = self.request.reader.cache().find(&chunk.id)?;
            let location = location.ok_or_else(|| RepositoryError::MissingChunk { place: place(), id: chunk.id.to_string() })?;
            let points = self.needs.entry(location.pack).or_default();
            if !points.contains(&point.id) {
                points.insert(point.id.clone());
            }
        }
        Ok(())
    }

    fn damaged(&mut self, objects: Vec<PackCheck>) {
        self.damage.extend(objects.into_iter().map(|check| Damage { object: check.key, detail: check.detail, points: Vec::new() }));
    }

    /// What is damaged, each with the points that need it.
    fn finish(&mut self) -> Result<Vec<Damage>, OperationError> {
        let mut damage = std::mem::take(&mut self.damage);
        for (number, detail) in &self.broken {
            let record = self.request.reader.cache().pack(*number)?;
            let name = hex::encode(record.sha256);
            let points = self.needs.get(number).map(|points| points.iter().cloned().collect()).unwrap_or_default();
            damage.push(Damage { object: format!("packs/{}/{name}", &name[..2]), detail: detail.clone(), points });
        }
        Ok(damage)
    }
}

/// Reads packs and authenticates every byte of them.
async fn read_packs(walk: &mut Walk<'_>, report: &mut VerifyReport, percent: f64, tally: &Tally) -> Result<(), OperationError> {
    let reader = &walk.request.reader;
    let wanted: Vec<_> = reader
        .cache()
        .packs()?
        .into_iter()
        .filter(|(number, _)| !walk.broken.contains_key(number) && (percent >= 100.0 || chance() < percent / 100.0))
        .collect();
    let bytes = wanted.iter().map(|(_, record)| u64::from(record.size)).sum();
    tally.phase("read packs", Some(bytes));
    let (mut locked, mut data_opened) = (Vec::new(), 0_u64);
    let mut results = stream::iter(wanted)
        .map(|(number, record)| async move { (number, reader.verify_pack(&record).await, record) })
        .buffer_unordered(READS);
    while let Some((number, result, record)) = results.next().await {
        let size = u64::from(record.size);
        match result {
            Ok((chunks, _)) => {
                data_opened += u64::from(record.class == Class::Data);
                report.packs_read += 1;
                report.bytes_read += size;
                report.chunks_checked += chunks;
                tally.bytes(size);
                tally.items(1);
            }
            Err(error) if error.is_damage() => {
                walk.broken.insert(number, error.to_string());
            }
            Err(error @ RepositoryError::Key { .. }) => locked.push((number, error)),
            Err(error) => return Err(error.into()),
        }
    }
    // Keys that open nothing at all are the wrong ones; if they open some, the rest is lost to them: that is damage.
    if data_opened == 0 && !locked.is_empty() {
        return Err(locked.swap_remove(0).1.into());
    }
    walk.broken.extend(locked.into_iter().map(|(number, error)| (number, error.to_string())));
    Ok(())
}

/// A number from 0 to 1, uniformly.
fn chance() -> f64 {
    f64::from(u32::from_le_bytes(crate::repository::random())) / f64::from(u32::MAX)
}
