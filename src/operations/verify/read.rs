//! Reading packs, and authenticating every byte of them.

use futures_util::{StreamExt, stream};

use super::{OperationError, resume::Progress, share::part_of, walk::Walk};
use crate::{
    progress::{Observer, Problem, Tally},
    report::{ReadPart, VerifyReport},
    repository::{Class, PackRecord, RepositoryError, random, sha256},
    stores::StoreError,
};

/// Packs read at once.
const READS: usize = 4;

/// Which packs are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Share {
    /// Each with this probability.
    Chance(f64),
    /// One part; of 1: all.
    Part(ReadPart),
}

impl Share {
    fn takes(self, pack: &PackRecord) -> bool {
        match self {
            Self::Chance(share) => chance() < share,
            Self::Part(part) => part_of(pack, part.of) == part.number,
        }
    }

    /// Likewise for an object whose name is no hash of it.
    pub(super) fn takes_object(self, key: &str) -> bool {
        match self {
            Self::Chance(share) => chance() < share,
            Self::Part(part) => {
                let [a, b, c, d, ..] = sha256(key.as_bytes());
                u32::from_le_bytes([a, b, c, d]) % part.of + 1 == part.number
            }
        }
    }
}

/// Reads the packs of a share. What is interrupted is gone on with by the next one on this machine, where the share is a part.
pub(super) async fn read_packs(
    walk: &mut Walk<'_>,
    report: &mut VerifyReport,
    share: Share,
    tally: &Tally,
) -> Result<(), OperationError> {
    let (repository, reader, clock) = (walk.request.repository, walk.reader, &walk.request.clock);
    let mut progress = None;
    match share {
        Share::Chance(share) => report.read_data_percent = share * 100.0,
        Share::Part(part) => {
            report.read_data_percent = 100.0 / f64::from(part.of);
            report.part = Some(part).filter(|part| part.of > 1);
            let taken_up = Progress::take_up(repository, part, clock.now(), clock.monotonic()).await;
            report.started_at = taken_up.started_at;
            progress = Some(taken_up);
        }
    }
    let quarantined = reader.cache().seen().quarantined.clone();
    let mut wanted = Vec::new();
    for (number, record) in walk.packs.iter().filter(|(number, record)| !walk.broken.contains_key(number) && share.takes(record)) {
        // Not what was marked since, nor what was put there again.
        let since = |started_at| {
            walk.stored_pack(*number).is_some_and(|(_, stored_at)| stored_at < started_at) && !quarantined.contains(number)
        };
        if progress.as_ref().is_some_and(|progress| progress.has(&record.sha256) && since(progress.started_at)) {
            report.packs_resumed += 1;
            walk.read.insert(*number);
        } else {
            wanted.push((*number, record.clone()));
        }
    }
    let bytes = wanted.iter().map(|(_, record)| u64::from(record.size)).sum();
    tally.phase("read packs", Some(bytes));
    let (mut locked, mut archived, mut data_opened) = (Vec::new(), Vec::new(), 0_u64);
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
                walk.read.insert(number);
                if let Some(progress) = &mut progress {
                    progress.add(repository, &record.sha256, size, clock.monotonic()).await;
                }
                tally.bytes(size);
                tally.items(1);
            }
            Err(error) if error.is_damage() => {
                walk.broken.insert(number, error.to_string());
            }
            Err(error @ RepositoryError::Key { .. }) => locked.push((number, error)),
            Err(RepositoryError::Store(error @ StoreError::Archived { .. })) => archived.push((size, error)),
            Err(error) => {
                if let Some(progress) = &progress {
                    progress.save(repository).await;
                }
                return Err(error.into());
            }
        }
    }
    // Keys that open nothing at all are the wrong ones; if they open some, the rest is lost to them: that is damage.
    if data_opened == 0 && report.packs_resumed == 0 && !locked.is_empty() {
        return Err(locked.swap_remove(0).1.into());
    }
    if let Some((_, error)) = archived.first() {
        let bytes: u64 = archived.iter().map(|(size, _)| size).sum();
        let said = format!("{} packs of {bytes} bytes lie in an archive and were not read; of one: {error}", archived.len());
        tally.problem(Problem::new(repository.store().describe(), said));
    }
    walk.locked.extend(locked.iter().map(|(number, _)| *number));
    walk.broken.extend(locked.into_iter().map(|(number, error)| (number, error.to_string())));
    Ok(())
}

/// A number from 0 to 1, uniformly.
fn chance() -> f64 {
    f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX)
}
