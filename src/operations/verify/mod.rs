//! Verify: is everything there, and is it what it was?
//!
//! Levels: *structure* follows every point to its chunks and every index to its packs, by listing alone, and asks the site for the
//! stored checksum of packs that were put there again after a point that needs them; reading verification also reads packs (all,
//! a share by chance, or the part whose turn it is), every index, opens every key, and follows the chain of the evidence: every
//! byte that carries a meaning is authenticated.
//!
//! What is found damaged by reading is marked on the site, so that no backup relies on it and the next one stores the same bytes
//! anew; what was read and is sound makes points *verified* (`docs/decisions/0017-what-verification-reads-and-remembers.md`).

mod log;
mod needs;
mod read;
mod resume;
mod share;
mod vanished;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::TimeDelta;
use futures_util::future::join_all;
use needs::PointSet;
use walk::Walk;

use super::{OperationError, history};
use crate::{
    clock::SharedClock,
    progress::{Observer, SharedObserver, Tally},
    report::{Damage, ReadPart, VerifyReport},
    repository::{Budget, MarkState, PackRecord, Reader, Repository, Workers},
};

/// Points read at once.
const READS: usize = 8;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VerifyLevel {
    /// Only lists.
    Structure,
    /// So many percent of the packs, chosen anew each time; 100 reads all.
    ReadData(f64),
    /// One of so many equal parts of the packs: the one whose turn it is.
    ReadPart(u32),
}

impl VerifyLevel {
    fn is_full(self) -> bool {
        matches!(self, Self::ReadData(percent) if percent >= 100.0)
    }
}

/// What a verification needs.
#[derive(Debug)]
pub struct VerifyRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Threads for CPU work.
    pub workers: Arc<Workers>,
    /// Memory for reading.
    pub budget: Budget,
    /// Only points of this policy are followed; all of them without.
    pub policy: Option<&'a str>,
    /// How much.
    pub level: VerifyLevel,
    /// How long ago a pack may have been read by an earlier verification of all or of its part, for a point to count as verified.
    pub window: TimeDelta,
    /// Told of progress.
    pub observer: SharedObserver,
    /// The time.
    pub clock: SharedClock,
}

/// Packs, each once: several indexes may name the same pack.
struct Distinct {
    /// By the first of its numbers.
    packs: HashMap<u32, PackRecord>,
    /// From each of its numbers to that one.
    numbers: HashMap<u32, u32>,
    /// And from the pack itself.
    by_record: HashMap<PackRecord, u32>,
}

impl Distinct {
    fn of(packs: &[(u32, PackRecord)]) -> Self {
        let mut distinct = Self { packs: HashMap::new(), numbers: HashMap::new(), by_record: HashMap::new() };
        for (number, record) in packs {
            let one = *distinct.by_record.entry(record.clone()).or_insert(*number);
            distinct.numbers.insert(*number, one);
            distinct.packs.entry(one).or_insert_with(|| record.clone());
        }
        distinct
    }
}

/// Verifies a repository. What was found is stored on the site, so that points count as verified.
///
/// # Errors
/// Those of reaching the site; damage is no error here but the report's contents.
pub async fn verify(request: VerifyRequest<'_>) -> Result<VerifyReport, OperationError> {
    let repository = request.repository;
    let (started_at, start) = (request.clock.now(), request.clock.monotonic());
    let tally = Tally::over(Arc::clone(&request.observer));
    tally.phase("structure", None);
    // Points first: what a point needs that was there before the indexes were read is in them. A backup that commits later waits for
    // the next verification.
    let points = repository.stored_points(request.policy).await?;
    let (cache, survey) = repository.survey().await?;
    let reader = Reader::over(repository, cache, Arc::clone(&request.workers), request.budget.clone());
    let cache = reader.cache();
    let distinct = Distinct::of(&survey.named);
    let structure = survey.structure(&distinct.packs, repository.is_unencrypted());
    drop(survey);
    let marks = repository.marks().await?;
    let mut walk = Walk::new(&request, &reader, distinct, structure);
    for some in points.chunks(READS) {
        let read = join_all(some.iter().map(|(name, _)| repository.point(name))).await;
        for ((name, stored), point) in some.iter().zip(read) {
            walk.point(name, *stored, point, &tally).await?;
        }
    }
    walk.remember().await;
    let mut report = VerifyReport {
        site: repository.store().describe(),
        started_at,
        seconds: 0.0,
        read_data_percent: 0.0,
        part: None,
        points_checked: walk.ids.len() as u64,
        indexes_checked: cache.indexes()?.len() as u64,
        packs_checked: walk.structure.sound.len() as u64,
        packs_read: 0,
        packs_resumed: 0,
        points_moved: 0,
        bytes_read: 0,
        log_files_read: 0,
        chunks_checked: 0,
        packs_unreferenced: 0,
        bytes_unreferenced: 0,
        keys_unreferenced: walk.structure.keys_unneeded,
        checksums_compared: 0,
        checksums_unknown: 0,
        damage: Vec::new(),
        mended: Vec::new(),
        known: Vec::new(),
        problems: Vec::new(),
    };
    let (records, unreadable) = history::records(repository).await?;
    let seen = cache.seen();
    if request.level == VerifyLevel::Structure {
        walk.found(seen.needless.iter().cloned());
        walk.found(seen.damaged.iter().filter(|check| marks.unreadable.iter().all(|mark| mark.key != check.key)).cloned());
        walk.compare_checksums(&mut report).await?;
    } else {
        let share = match request.level {
            VerifyLevel::ReadPart(of) => read::Share::Part(share::due_part(&records, of)),
            _ if request.level.is_full() => read::Share::Part(ReadPart { number: 1, of: 1 }),
            VerifyLevel::ReadData(percent) => read::Share::Chance(percent / 100.0),
            VerifyLevel::Structure => read::Share::Chance(0.0),
        };
        read::read_packs(&mut walk, &mut report, share, &tally).await?;
        tally.phase("read catalogue", None);
        let (indexes, damaged) = repository.check_indexes().await?;
        report.indexes_checked = indexes;
        walk.found(damaged.into_iter());
        let (damaged, closed) = repository.check_keys().await?;
        walk.found(damaged.into_iter());
        walk.damaged_keys(closed);
        for check in repository.check_parts().await? {
            let detail = format!("no point needs it, and prune takes it away in time: {}", check.detail);
            walk.damage.push(Damage { object: check.key, detail, points: Vec::new() });
        }
        log::read_log(&mut walk, &mut report, share, &tally).await?;
    }
    // Records that no restore needs: what is wrong with them is said loudly once, and from then on as known.
    let pins = repository.pins().await?;
    let pins = pins.into_iter().filter_map(|pin| Some((pin.key, pin.record.err()?)));
    let unreadable_marks = marks.unreadable.iter().map(|check| (check.key.clone(), check.detail.clone()));
    for (object, detail) in history::flaws(&records, &unreadable).into_iter().chain(pins).chain(unreadable_marks) {
        let is_known = marks.damage(&object).is_some();
        let damage = Damage { object, detail, points: Vec::new() };
        if is_known { report.known.push(damage) } else { walk.records.push(damage) }
    }
    walk.damage.extend(walk.records.iter().cloned());
    for stored in repository.doom_records().await? {
        let harmless = |detail| format!("nothing is deleted for its sake, and prune takes it away in time: {detail}");
        walk.damage.extend(stored.record.err().map(harmless).map(|detail| Damage {
            object: stored.key,
            detail,
            points: Vec::new(),
        }));
    }
    walk.pass_over_what_vanished(&tally).await?;
    report.points_moved = walk.moved.iter().count() as u64;
    let needless: HashSet<&str> = seen.needless.iter().map(|check| check.key.as_str()).collect();
    walk.finish(&marks, &needless, &mut report);
    report.problems = tally.problems();
    report.seconds = request.clock.monotonic().saturating_sub(start).as_secs_f64();
    if request.level == VerifyLevel::Structure {
        return Ok(report);
    }
    for (object, state, detail) in walk.to_be_marked(&marks, &report).await? {
        repository.put_mark(&object, state, &detail).await?;
        tally.items(u64::from(state == MarkState::Damaged));
    }
    if request.level.is_full() || report.part.is_some() {
        let hurt: BTreeSet<&String> = report.damage.iter().flat_map(|damage| &damage.points).collect();
        let sound = walk.sound_but(&hurt);
        let earlier = share::earlier(&records, &walk.ids, request.clock.now(), request.window);
        let quarantined = |number: u32| marks.damage(&walk.key_of(number)).is_some();
        let read_now = |number: u32| walk.read.contains(&number);
        let complete =
            share::completely_read(&sound, &walk.needs, &earlier, |number| walk.stored_pack(number), read_now, quarantined);
        let names = |points: &PointSet| points.iter().map(|point| walk.ids[point].clone()).collect::<BTreeSet<String>>();
        let part_points = report.part.is_some().then(|| names(&sound));
        history::keep_verification(repository, request.clock.now(), names(&complete), part_points, &report).await?;
        resume::Progress::forget(repository);
    }
    Ok(report)
}

/// By key of an object: what is wrong with it, and the points that need it.
type Found = BTreeMap<String, (String, PointSet)>;
