//! From the points to the packs they need; and from what is broken back to the points that it hurts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Distinct, Found, OperationError, VerifyRequest,
    needs::{Needs, PointSet},
};
use crate::{
    progress::{Observer, Tally},
    report::{Damage, VerifyReport},
    repository::{
        ChunkList, Class, Id, KeyCheck, MarkState, Marks, PackCheck, PackRecord, Point, PointName, Reached, Reader, Recent,
        RepositoryError, Seen, Snapshot, StructureReport, data_key_object, index_key, pack_key,
    },
    stores::StoreError,
};

/// Objects asked for at once.
const STATS: usize = 32;

pub(super) struct Walk<'a> {
    pub(super) request: &'a VerifyRequest<'a>,
    pub(super) reader: &'a Reader,
    /// By number; each pack once.
    pub(super) packs: HashMap<u32, PackRecord>,
    /// From every number of a pack to the one in `packs`.
    numbers: HashMap<u32, u32>,
    /// And from the pack itself.
    by_record: HashMap<PackRecord, u32>,
    /// The pack that was found for a chunk, by its number in `packs`, while this was known of packs.
    recent: (Arc<Seen>, Recent<u32>),
    /// By each number of a pack the one in `packs`, if it is there and nothing is known against it, while this was known of packs. What
    /// earlier verifications followed is held against it, for each pack of each point.
    usable: Option<(Arc<Seen>, Vec<Option<u32>>)>,
    /// Packs that the list which is being followed leads to.
    reached: HashSet<u32>,
    /// What was followed, to be remembered.
    followed: Vec<(ChunkList, Reached)>,
    pub(super) structure: StructureReport,
    /// Packs that cannot be used, with what is wrong.
    pub(super) broken: BTreeMap<u32, String>,
    /// Those of them that only lack a key that opens them: they may be sound, for who has it.
    pub(super) locked: HashSet<u32>,
    /// Packs that were read and are sound.
    pub(super) read: HashSet<u32>,
    pub(super) needs: Needs,
    /// Ids of the points, by number.
    pub(super) ids: Vec<String>,
    /// Their objects, by number.
    pub(super) objects: Vec<String>,
    /// When the site stored each.
    stored: Vec<DateTime<Utc>>,
    /// Points that were followed to their end.
    pub(super) sound: PointSet,
    /// Points that a prune has deleted since.
    pub(super) vanished: PointSet,
    /// Points of which a prune has moved chunks since, from packs that could not be read any more.
    pub(super) moved: PointSet,
    pub(super) damage: Vec<Damage>,
    /// Those of it that are records which no restore needs.
    pub(super) records: Vec<Damage>,
    pub(super) keys: BTreeMap<Id, KeyCheck>,
    keys_opened: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        request: &'a VerifyRequest<'a>,
        reader: &'a Reader,
        Distinct { packs, numbers, by_record }: Distinct,
        structure: StructureReport,
    ) -> Self {
        let broken = structure.broken.iter().map(|(number, detail)| (*number, detail.clone())).collect();
        let keys = structure.keys_missing.clone();
        Self {
            request,
            reader,
            packs,
            numbers,
            by_record,
            recent: (reader.cache().seen(), Recent::default()),
            usable: None,
            reached: HashSet::new(),
            followed: Vec::new(),
            structure,
            broken,
            locked: HashSet::new(),
            read: HashSet::new(),
            needs: Needs::default(),
            ids: Vec::new(),
            objects: Vec::new(),
            stored: Vec::new(),
            sound: PointSet::default(),
            vanished: PointSet::default(),
            moved: PointSet::default(),
            damage: Vec::new(),
            records: Vec::new(),
            keys,
            keys_opened: false,
        }
    }

    /// Follows a point that was read, or could not be, to its packs.
    pub(super) async fn point(
        &mut self,
        name: &PointName,
        stored: DateTime<Utc>,
        point: Result<Point, RepositoryError>,
        tally: &Tally,
    ) -> Result<(), OperationError> {
        let number = self.ids.len();
        self.ids.push(name.id.clone());
        self.objects.push(name.key.clone());
        self.stored.push(stored);
        self.follow_read(name, number, point, tally).await
    }

    /// Reads the point of this number once more, and follows it.
    pub(super) async fn follow_by_name(&mut self, name: &PointName, number: usize, tally: &Tally) -> Result<(), OperationError> {
        let point = self.request.repository.point(name).await;
        self.follow_read(name, number, point, tally).await
    }

    async fn follow_read(
        &mut self,
        name: &PointName,
        number: usize,
        point: Result<Point, RepositoryError>,
        tally: &Tally,
    ) -> Result<(), OperationError> {
        let followed = match point {
            Ok(point) => self.follow(&point, number, tally).await,
            Err(error) => Err(error),
        };
        match followed {
            Ok(()) => self.sound.insert(number),
            // Also a catalogue pack that is gone: the listing showed it as well, but here we know whom it hurts.
            Err(error) if error.is_damage() => {
                self.damage.push(Damage { object: name.key.clone(), detail: error.to_string(), points: vec![name.id.clone()] });
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn follow(&mut self, point: &Point, number: usize, tally: &Tally) -> Result<(), RepositoryError> {
        for snapshot in &point.snapshots {
            let count = match self.remembered(snapshot)? {
                Some(reached) => {
                    reached.packs.iter().for_each(|pack| self.need(*pack, number));
                    tally.items(reached.entries);
                    reached.entries
                }
                None => self.follow_list(snapshot, number, tally).await?,
            };
            if count != snapshot.entry_count {
                return Err(RepositoryError::Damaged {
                    place: format!("point {}, source {}", point.id, snapshot.source),
                    detail: format!("has {count} entries instead of {}", snapshot.entry_count),
                });
            }
        }
        Ok(())
    }

    /// What a snapshot's list led to when it was followed before, if every pack of it is there and nothing is known against it. A
    /// verification that reads everything follows everything anew.
    fn remembered(&mut self, snapshot: &Snapshot) -> Result<Option<Reached>, RepositoryError> {
        if self.request.level.is_full() {
            return Ok(None);
        }
        let cache = self.reader.cache();
        let Some(mut reached) = cache.reached(&snapshot.entries)? else { return Ok(None) };
        let seen = cache.seen();
        let usable = match self.usable.take() {
            Some((then, usable)) if Arc::ptr_eq(&then, &seen) => usable,
            _ => self.usable_now(&seen),
        };
        let is_usable = |pack: &mut u32| -> Result<bool, RepositoryError> {
            let mut now = usable.get(*pack as usize).copied().flatten();
            if now.is_none() && !self.numbers.contains_key(pack) {
                // An index that was replaced gave its packs new numbers.
                let number = self.by_record.get(&cache.pack(*pack)?);
                now = number.and_then(|number| usable.get(*number as usize).copied().flatten());
            }
            now.inspect(|now| *pack = *now);
            Ok(now.is_some())
        };
        let mut all = true;
        for pack in &mut reached.packs {
            all = all && is_usable(pack)?;
        }
        self.usable = Some((seen, usable));
        Ok(all.then_some(reached))
    }

    /// What stands in `usable`. A row for each number: there are at most twice as many as packs.
    fn usable_now(&self, seen: &Seen) -> Vec<Option<u32>> {
        let mut usable = vec![None; self.numbers.keys().max().map_or(0, |last| *last as usize + 1)];
        for (number, one) in &self.numbers {
            if self.structure.sound.contains_key(one) && seen.is_adoptable(*one) {
                usable[*number as usize] = Some(*one);
            }
        }
        usable
    }

    /// Follows a snapshot's list to its end; returns how many entries it has.
    async fn follow_list(&mut self, snapshot: &Snapshot, number: usize, tally: &Tally) -> Result<u64, RepositoryError> {
        let reader = self.reader;
        self.reached.clear();
        let mut list = snapshot.entries.clone();
        self.list(number, &list)?;
        while list.level > 0 {
            list = reader.level_below(&list).await?;
            self.list(number, &list)?;
        }
        let mut entries = reader.entries(snapshot);
        let mut count = 0;
        while let Some(record) = entries.try_next().await? {
            count += 1;
            tally.items(1);
            let Some(mut content) = record.content else { continue };
            self.list(number, &content)?;
            while content.level > 0 {
                content = reader.level_below(&content).await?;
                self.list(number, &content)?;
            }
        }
        let mut packs: Vec<u32> = self.reached.drain().collect();
        packs.sort_unstable();
        self.followed.push((snapshot.entries.clone(), Reached { entries: count, packs }));
        Ok(count)
    }

    fn list(&mut self, point: usize, list: &ChunkList) -> Result<(), RepositoryError> {
        let cache = self.reader.cache();
        let seen = cache.seen();
        if !Arc::ptr_eq(&seen, &self.recent.0) {
            // A pack was lost: another one may have its chunks.
            self.recent = (seen, Recent::default());
        }
        for chunk in list.chunks()? {
            let pack = match self.recent.1.get(&chunk.id) {
                Some(pack) => pack,
                None => {
                    let location = cache.find(&chunk)?.ok_or_else(|| RepositoryError::MissingChunk {
                        place: self.request.repository.store().describe(),
                        id: chunk.id.to_string(),
                    })?;
                    let pack = self.numbers.get(&location.pack).copied().unwrap_or(location.pack);
                    self.recent.1.put(&chunk.id, pack);
                    pack
                }
            };
            if self.reached.insert(pack) {
                self.need(pack, point);
            }
        }
        Ok(())
    }

    fn need(&mut self, pack: u32, point: usize) {
        self.needs.insert(pack, point);
    }

    /// Remembers on this machine what was followed, so that the next verification need not: it costs time, and nothing else, if that
    /// fails.
    pub(super) async fn remember(&mut self) {
        if self.followed.is_empty() {
            return;
        }
        let (cache, followed) = (self.reader.cache().clone(), std::mem::take(&mut self.followed));
        let kept = tokio::task::spawn_blocking(move || cache.keep_reached(followed.iter().map(|(list, reached)| (list, reached))));
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(%error, "what the points need was not remembered: the next verification follows them all again");
        }
    }

    /// Notes objects that no single pack or point stands for.
    pub(super) fn found(&mut self, objects: impl Iterator<Item = PackCheck>) {
        self.damage.extend(objects.map(|check| Damage { object: check.key, detail: check.detail, points: Vec::new() }));
    }

    /// Notes data keys that do not open: all packs under them are lost.
    pub(super) fn damaged_keys(&mut self, keys: BTreeMap<Id, KeyCheck>) {
        self.keys_opened = true;
        self.keys.extend(keys);
    }

    /// A pack that is there, and when the site stored it.
    pub(super) fn stored_pack(&self, pack: u32) -> Option<(&PackRecord, DateTime<Utc>)> {
        Some((self.packs.get(&pack)?, *self.structure.sound.get(&pack)?))
    }

    pub(super) fn key_of(&self, pack: u32) -> String {
        self.packs.get(&pack).map(|record| pack_key(&record.sha256)).unwrap_or_default()
    }

    /// Asks the site for the checksums of the packs that it stored later than a point that needs them. A pack is stored before the
    /// point, once, so somebody put those there again. All others are as they were stored, or damaged in a way that no
    /// stored checksum shows.
    pub(super) async fn compare_checksums(&mut self, report: &mut VerifyReport) -> Result<(), OperationError> {
        let later = |(number, stored): (&u32, &DateTime<Utc>)| {
            let needed = self.needs.get(*number)?.iter().any(|point| self.stored[point] < *stored);
            needed.then(|| (*number, self.packs.get(number).map(|record| record.sha256)))
        };
        let wanted: Vec<_> = self.structure.sound.iter().filter_map(later).collect();
        let store = self.request.repository.store();
        let mut stats = stream::iter(wanted)
            .map(|(number, name)| async move {
                let key = name.map(|name| pack_key(&name)).unwrap_or_default();
                (number, name, store.stat(&key).await)
            })
            .buffer_unordered(STATS);
        while let Some((number, name, stat)) = stats.next().await {
            match stat {
                Ok(stat) if stat.sha256.is_none() => report.checksums_unknown += 1,
                Ok(stat) => {
                    report.checksums_compared += 1;
                    if stat.sha256 != name {
                        self.broken.insert(number, "the site's own checksum of it is not its name: it was replaced".to_owned());
                    }
                }
                Err(StoreError::NotFound { .. }) => {
                    self.broken.insert(number, "is missing".to_owned());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What an earlier verification marked, this one has not read, and points still need: nobody has the same bytes in a sound pack.
    fn marked(&self, marks: &Marks) -> Found {
        let unencrypted = self.request.repository.is_unencrypted();
        let seen = self.reader.cache().seen();
        let mut found = Found::new();
        for (number, points) in self.needs.iter() {
            let Some(record) = self.packs.get(&number).filter(|_| seen.quarantined.contains(&number)) else { continue };
            let key_is_sound = self.keys_opened && !self.keys.contains_key(&record.data_key);
            let pack = pack_key(&record.sha256);
            let (object, is_read) = match marks.damage(&pack) {
                Some(_) => (pack, self.read.contains(&number)),
                None => (data_key_object(&record.data_key, unencrypted), key_is_sound),
            };
            let mut points = points.clone();
            points.remove_all(&self.vanished);
            points.remove_all(&self.moved);
            if is_read || points.is_empty() {
                continue;
            }
            let detail = format!("is marked as damaged: {}", marks.damage(&object).unwrap_or("its data key is"));
            found.entry(object).or_insert_with(|| (detail, PointSet::default())).1.add_all(&points);
        }
        found
    }

    /// What is damaged, each with the points that need it, and what no point needs any more. `needless` are the keys of damaged indexes
    /// of which nothing is missing.
    pub(super) fn finish(&mut self, marks: &Marks, needless: &HashSet<&str>, report: &mut VerifyReport) {
        let unencrypted = self.request.repository.is_unencrypted();
        let mut found = self.marked(marks);
        for (number, detail) in &self.broken {
            let points = self.needs.get(*number).cloned().unwrap_or_default();
            found.insert(self.key_of(*number), (detail.clone(), points));
        }
        for (id, check) in &self.keys {
            let mut points = PointSet::default();
            for (number, _) in self.packs.iter().filter(|(_, record)| record.data_key == *id) {
                self.needs.get(*number).into_iter().for_each(|needing| points.add_all(needing));
            }
            found.insert(data_key_object(id, unencrypted), (check.check.detail.clone(), points));
        }
        // Where a point cannot be followed, nobody knows what it needs.
        let all_followed = (0..self.ids.len()).all(|point| self.sound.contains(point) || self.vanished.contains(point));
        for (object, (detail, points)) in found {
            let known = marks.damage(&object).is_some() || self.is_known_to_be_gone(&object);
            let damage = Damage { object, detail, points: points.iter().map(|point| self.ids[point].clone()).collect() };
            if points.is_empty() && all_followed && known {
                report.mended.push(damage);
            } else {
                self.damage.push(damage);
            }
        }
        let mended: Vec<Damage>;
        (mended, report.damage) = std::mem::take(&mut self.damage)
            .into_iter()
            .partition(|damage| all_followed && needless.contains(damage.object.as_str()));
        report.mended.extend(mended);
        let unneeded = self.structure.sound.keys().filter(|number| self.needs.get(**number).is_none());
        report.packs_unreferenced = self.structure.unindexed;
        report.bytes_unreferenced = self.structure.unindexed_bytes;
        for number in unneeded {
            report.packs_unreferenced += 1;
            report.bytes_unreferenced += self.packs.get(number).map_or(0, |record| u64::from(record.size));
        }
    }

    /// Whether the listing itself shows an object to be missing, or the key that a pack was sealed under: every backup sees that, and needs no mark.
    fn is_known_to_be_gone(&self, object: &str) -> bool {
        let missing = &self.structure.keys_missing;
        let key_missing = missing.values().any(|key| key.check.key == object);
        let locked = |(number, record): (&u32, &PackRecord)| {
            record.class == Class::Data && missing.contains_key(&record.data_key) && self.key_of(*number) == object
        };
        key_missing
            || self.structure.broken.keys().any(|number| self.key_of(*number) == object)
            || (!missing.is_empty() && self.packs.iter().any(locked))
    }

    /// What to say on the site: objects that reading showed to be damaged and that have no mark yet, and those with a mark that were
    /// read and are sound.
    pub(super) async fn to_be_marked(
        &self,
        marks: &Marks,
        report: &VerifyReport,
    ) -> Result<Vec<(String, MarkState, String)>, OperationError> {
        let unencrypted = self.request.repository.is_unencrypted();
        let mut wanted = Vec::new();
        for (number, detail) in self.broken.iter().filter(|(number, _)| !self.locked.contains(number)) {
            wanted.push((self.key_of(*number), MarkState::Damaged, detail.clone()));
        }
        for (id, check) in &self.keys {
            if !check.is_locked {
                wanted.push((data_key_object(id, unencrypted), MarkState::Damaged, check.check.detail.clone()));
            }
        }
        // The local index of whoever read one when it was whole would go on believing in it.
        let indexes: BTreeMap<&str, &Damage> = report
            .damage
            .iter()
            .chain(&report.mended)
            .filter(|damage| damage.object.starts_with("indexes/"))
            .map(|damage| (damage.object.as_str(), damage))
            .collect();
        wanted.extend(indexes.values().map(|damage| (damage.object.clone(), MarkState::Damaged, damage.detail.clone())));
        wanted.retain(|(object, ..)| marks.damage(object).is_none() && !self.is_known_to_be_gone(object));
        let mut there = Vec::new();
        for (object, state, detail) in wanted {
            // A prune may have deleted it since: that is no damage.
            match self.request.repository.store().stat(&object).await {
                Ok(_) => there.push((object, state, detail)),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let again = "was read again, and is what it was".to_owned();
        let sound = self.read.iter().map(|number| self.key_of(*number));
        let keys: BTreeSet<Id> = self.packs.values().map(|record| record.data_key).collect();
        let opened = keys.iter().filter(|id| self.keys_opened && !self.keys.contains_key(*id));
        // One with a mark was read again, when the local index was brought up to date.
        let known = self.reader.cache().indexes()?.into_iter().map(|index| index_key(&index));
        let indexes = known.filter(|index| !indexes.contains_key(index.as_str()));
        let sound = sound.chain(opened.map(|id| data_key_object(id, unencrypted))).chain(indexes);
        there.extend(sound.filter(|object| marks.damage(object).is_some()).map(|object| (object, MarkState::Sound, again.clone())));
        there.extend(self.records.iter().map(|damage| (damage.object.clone(), MarkState::Damaged, damage.detail.clone())));
        Ok(there)
    }

    /// The points that were followed to their end and are not among `hurt`.
    pub(super) fn sound_but(&self, hurt: &BTreeSet<&String>) -> PointSet {
        let mut sound = PointSet::default();
        let unknown = |point: &usize| self.vanished.contains(*point) || self.moved.contains(*point);
        let counts = |point: &usize| !hurt.contains(&self.ids[*point]) && !unknown(point);
        self.sound.iter().filter(counts).for_each(|point| sound.insert(point));
        sound
    }
}
