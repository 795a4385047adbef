//! What becomes of every pack and data key.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{Numbered, OperationError, PruneRequest, look::Look};
use crate::{
    progress::Problem,
    report::{Amount, PruneReport},
    repository::{ChunkCache, Class, DoomRecord, Id, PackFacts, PackRecord, PackVerdict, StoredPack, pack_key},
};

/// The verdicts. Nothing is written by making them.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// To be deleted now, with their sizes.
    pub(super) delete: BTreeMap<[u8; 32], u64>,
    /// Packs that are not there, that nothing needs, and that indexes name.
    pub(super) names_only: HashSet<[u8; 32]>,
    /// To be doomed, with their sizes.
    pub(super) doom: BTreeMap<[u8; 32], u64>,
    /// To be emptied, so that no more is unneeded than the policy allows.
    pub(super) repack: Numbered,
    pub(super) keys_to_delete: HashSet<Id>,
    pub(super) keys_to_doom: HashSet<Id>,
    /// The data key of each pack that an index names.
    key_of: HashMap<[u8; 32], Id>,
    /// Packs that stay and of which a part is not needed, with the bytes of that part.
    wasteful: Vec<(u64, u32, PackRecord)>,
    /// Packs that points which stay need; `None` where that is not known.
    needed: Option<HashSet<[u8; 32]>>,
    packs_there: HashSet<[u8; 32]>,
    /// Keys of damaged indexes of which nothing is missing.
    pub(super) needless: Vec<String>,
    /// Data keys that are there; `None` where nobody asked.
    keys_there: Option<HashSet<Id>>,
    waiting: Amount,
    spared: u64,
    all: Amount,
    bytes_needed: u64,
    /// Something is too young to be judged: it may be garbage tomorrow without anything having changed.
    young: bool,
    locked: u64,
}

impl Judgement {
    pub(super) async fn of(request: &PruneRequest<'_>, look: &Look, cache: &Arc<ChunkCache>) -> Result<Self, OperationError> {
        let repository = request.repository;
        let mut this = Self::default();
        // Numbers first, then what is there: a pack that is known was stored before it is looked for.
        let mut numbers: HashMap<[u8; 32], (u32, PackRecord)> = HashMap::new();
        // Indexes that say different things of one pack: one of them lies, and nothing is done to the pack.
        let mut disputed: HashSet<[u8; 32]> = HashSet::new();
        let said = cache.packs()?;
        for (number, record) in &said {
            let first = numbers.entry(record.sha256).or_insert_with(|| (*number, record.clone()));
            if first.1 != *record {
                disputed.insert(record.sha256);
            }
        }
        if let Some(one) = disputed.iter().next() {
            let (key, count) = (pack_key(one), disputed.len());
            let said = format!(
                "indexes say different things of {count} packs, of which this is one: somebody wrote an index who should not have. Nothing is done to those packs; `farshore verify --read-data` tells what is true"
            );
            request.observer.problem(Problem::new(key, said));
        }
        let there = repository.stored_packs().await?;
        let seen = cache.seen();
        let indexes_whole = !seen.damaged.iter().any(|check| check.key.starts_with("indexes/"));
        this.needless = seen.needless.iter().map(|check| check.key.clone()).collect();
        let reach = look.reach.as_ref();
        this.needed = reach.map(|reach| {
            numbers.iter().filter(|(_, (number, _))| reach.needed(*number).is_some()).map(|(name, _)| *name).collect()
        });
        let all_known = indexes_whole && reach.is_some_and(|reach| reach.holes() == 0);
        for (sha256, StoredPack { size, stored_at, .. }) in &there {
            this.all.add(*size);
            let known = numbers.get(sha256);
            let needed = known.and_then(|(number, _)| reach?.needed(*number));
            this.bytes_needed += needed.map_or(0, |needed| needed.bytes);
            let clear = reach.is_some() && !disputed.contains(sha256) && (known.is_some() || all_known);
            let facts = PackFacts {
                stored_at: *stored_at,
                kept_need: needed.is_some() || !clear,
                any_need: look.doomed_unclear || known.is_some_and(|(number, _)| reach.is_none_or(|reach| reach.needs(*number))),
                matures_at: look.dooms.pack(sha256),
            };
            match facts.verdict(look.now, look.grace) {
                PackVerdict::Stays => this.stays(look, known, &facts),
                PackVerdict::Spared => this.spared += 1,
                PackVerdict::Waits => this.waiting.add(*size),
                PackVerdict::Doom if is_locked(cache, sha256, look)? => this.locked += 1,
                PackVerdict::Doom => drop(this.doom.insert(*sha256, *size)),
                // A lock that an earlier prune met.
                PackVerdict::Delete if lock_ends(cache, sha256)?.is_some_and(|until| until > look.now) => this.locked += 1,
                PackVerdict::Delete => drop(this.delete.insert(*sha256, *size)),
            }
        }
        // To move what is needed of a pack it would have to be brought back: it stays as it is.
        this.wasteful.retain(|(.., record)| !there.get(&record.sha256).is_some_and(|pack| pack.is_archived));
        this.choose_emptiest(request.retention.max_unused);
        if let Some(reach) = reach {
            let lost = numbers.iter().filter(|(sha256, (number, _))| !there.contains_key(*sha256) && !reach.needs(*number));
            this.names_only = lost.map(|(sha256, _)| *sha256).collect();
        }
        if all_known && !look.doomed_unclear {
            this.keys(request, look, &said, |sha256| there.contains_key(sha256)).await?;
        }
        this.packs_there = there.into_keys().collect();
        this.key_of = numbers.into_iter().map(|(sha256, (_, record))| (sha256, record.data_key)).collect();
        Ok(this)
    }

    /// A pack that stays: perhaps what is needed of it should move.
    fn stays(&mut self, look: &Look, known: Option<&(u32, PackRecord)>, facts: &PackFacts) {
        let is_young = look.now - facts.stored_at < look.grace;
        let needed = known.and_then(|(number, _)| look.reach.as_ref()?.needed(*number));
        let (Some((number, record)), Some(needed)) = (known, needed) else {
            self.young = true;
            return;
        };
        if needed.count < record.chunks {
            self.young |= is_young;
            if !is_young {
                let unneeded = record.chunk_bytes().saturating_sub(needed.bytes);
                self.wasteful.push((unneeded, *number, record.clone()));
            }
        }
    }

    /// Chooses packs to be emptied, the emptiest first, until no more than so many hundredths of what stays are unneeded.
    fn choose_emptiest(&mut self, max_unused: u32) {
        let mut wasteful = std::mem::take(&mut self.wasteful);
        // By the share that is not needed: most room for the fewest bytes that must be moved.
        wasteful.sort_by_key(|(unneeded, number, record)| {
            (std::cmp::Reverse(unneeded * 10_000 / u64::from(record.size.max(1))), *number)
        });
        let mut unneeded: u64 = wasteful.iter().map(|(unneeded, _, _)| unneeded).sum();
        let allowed = |unneeded: u64, needed: u64| unneeded * 100 <= (unneeded + needed) * u64::from(max_unused);
        for (waste, number, record) in wasteful {
            if allowed(unneeded, self.bytes_needed) {
                break;
            }
            unneeded -= waste;
            self.repack.push((number, record));
        }
    }

    /// Data keys that no pack needs.
    async fn keys(
        &mut self,
        request: &PruneRequest<'_>,
        look: &Look,
        said: &[(u32, PackRecord)],
        is_there: impl Fn(&[u8; 32]) -> bool,
    ) -> Result<(), OperationError> {
        // A pack that a point needs and that is missing may be put back from another copy of the site: its key must be there then.
        let is_needed = |number: u32| look.reach.as_ref().is_some_and(|reach| reach.needs(number));
        let holds = |number: u32, record: &PackRecord| is_there(&record.sha256) || is_needed(number);
        // All that any index says of a pack: where one of them lies, another names the key that the pack was sealed under.
        let holding = said.iter().filter(|(number, record)| record.class == Class::Data && holds(*number, record));
        let remaining: HashSet<Id> =
            holding.filter(|(_, record)| !self.delete.contains_key(&record.sha256)).map(|(_, record)| record.data_key).collect();
        let stored = request.repository.stored_data_keys().await?;
        self.keys_there = Some(stored.keys().copied().collect());
        for (id, stored_at) in stored {
            if remaining.contains(&id) {
                continue;
            }
            let matures_at = look.dooms.key(&id);
            let facts = PackFacts { stored_at, kept_need: false, any_need: false, matures_at };
            match facts.verdict(look.now, look.grace) {
                PackVerdict::Delete => drop(self.keys_to_delete.insert(id)),
                PackVerdict::Doom => drop(self.keys_to_doom.insert(id)),
                PackVerdict::Stays | PackVerdict::Spared => self.young = true,
                PackVerdict::Waits => {}
            }
        }
        Ok(())
    }

    /// Data keys of packs that were to be deleted and are not gone.
    pub(super) fn keys_of_deleted(&self, packs: &HashSet<[u8; 32]>, gone: &HashSet<[u8; 32]>) -> HashSet<Id> {
        packs.difference(gone).filter_map(|pack| self.key_of.get(pack).copied()).collect()
    }

    /// What has become of the packs and keys of a record, by what was listed before anything was deleted: so that what this prune has
    /// deleted counts as pending, and the record stays for a later one. Until then it tells whoever meets a listing that still shows it.
    pub(super) fn fates<'a>(
        &'a self,
        record: &'a DoomRecord,
        (packs, keys): &'a (HashSet<[u8; 32]>, HashSet<Id>),
    ) -> impl Iterator<Item = Fate> + 'a {
        let of_pack = |pack: [u8; 32]| match self.packs_there.contains(&pack) {
            false => Fate::Gone,
            true if packs.contains(&pack) => Fate::Needed,
            true => Fate::Pending,
        };
        let of_key = |key: Id| match &self.keys_there {
            Some(there) if !there.contains(&key) => Fate::Gone,
            Some(_) if keys.contains(&key) => Fate::Needed,
            _ => Fate::Pending,
        };
        record.pack_names().map(of_pack).chain(record.key_ids().map(of_key))
    }

    /// Whether there was nothing to do, and will be nothing as long as nothing changes.
    pub(super) fn is_idle(&self) -> bool {
        let objects = self.delete.len() + self.names_only.len() + self.doom.len() + self.repack.len() + self.needless.len();
        let keys = self.keys_to_delete.len() + self.keys_to_doom.len();
        objects + keys == 0 && self.waiting.objects == 0 && self.locked == 0 && !self.young && self.needed.is_some()
    }

    /// Puts it into a report, as what is going to be done.
    pub(super) fn tell(&self, report: &mut PruneReport, look: &Look) {
        let sum = |packs: &BTreeMap<[u8; 32], u64>| Amount { objects: packs.len() as u64, bytes: packs.values().sum() };
        report.packs = self.all;
        report.bytes_needed = self.bytes_needed;
        report.packs_waiting = self.waiting;
        report.packs_spared = self.spared;
        report.packs_doomed = sum(&self.doom);
        report.keys_doomed = self.keys_to_doom.len() as u64;
        report.locked = self.locked;
        report.next_at = look.next_maturity();
        if report.dry_run {
            report.packs_deleted = sum(&self.delete);
            report.keys_deleted = self.keys_to_delete.len() as u64;
            let bytes = self.repack.iter().map(|(_, record)| u64::from(record.size)).sum();
            report.packs_emptied = Amount { objects: self.repack.len() as u64, bytes };
        }
    }
}

/// What has become of something that was doomed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not listed.
    Gone,
    /// It is there, and points need it that nobody has doomed.
    Needed,
    /// It was there, and is to go or has just gone; or nobody can tell.
    Pending,
}

/// Until when a lock holds a pack, as far as that is known here.
fn lock_ends(cache: &ChunkCache, sha256: &[u8; 32]) -> Result<Option<DateTime<Utc>>, OperationError> {
    Ok(cache.lock(&pack_key(sha256))?.map(|lock| lock.until))
}

/// Whether a lock that is known here holds a pack longer than its grace would take: dooming it now would be for nothing.
fn is_locked(cache: &ChunkCache, sha256: &[u8; 32], look: &Look) -> Result<bool, OperationError> {
    Ok(lock_ends(cache, sha256)?.is_some_and(|until| until > look.now + look.grace))
}
