//! Every kind of object, broken in every way, under every operation: what must happen is the table [`EXPECTED`]. What never may
//! happen: a wrong byte, a panic, silence.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::TimeDelta;
use farshore::{
    operations::{OperationError, VerifyLevel},
    policy::Retention,
    report::VerifyReport,
    repository::{
        KeyCheck, LogKey, LogName, LogWriter, MarkState, PackCheck, Part, PinAction, PinRecord, Plan, Reader, Repository,
    },
    stores::{PutOptions, SharedStore},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, Recovery, noise, objects, store_of},
};

/// Longer than the grace.
const OVER_THE_GRACE: Duration = Duration::from_secs(27 * 3600);

/// A site with two points and a record of a verification after each; and the same of another repository, to swap with.
struct Site {
    recovery: Recovery,
    first: Objects,
    second: Objects,
    other: Objects,
    /// The bucket as each of the points shows it.
    contents: [Objects; 2],
    points: [String; 2],
    /// What prune takes away while nothing is harmed.
    spare: BTreeSet<String>,
}

async fn fill(recovery: &Recovery) -> (Objects, Objects, [Objects; 2], [String; 2]) {
    let cache = recovery.fresh_cache();
    let store: SharedStore = recovery.site_of(&Objects::new()).await;
    recovery.init(&store).await;
    recovery.put("a/noise", noise(150_000, 1)).await;
    recovery.put("a/text", b"the same words again and again\n".repeat(500)).await;
    recovery.put("empty", Vec::new()).await;
    doom_a_key(recovery, &store).await;
    archive(recovery, &store, 1).await;
    let first_point = recovery.backup(store.clone(), &cache).await.unwrap().point_id;
    assert_eq!(recovery.verify(store.clone(), &cache).await.unwrap().damage, []);
    keep_records(recovery, &store, &cache).await;
    keep_parts(recovery, &store, &cache, 1).await;
    let first = objects(store.as_ref()).await;
    let then = objects(recovery.source.as_ref()).await;
    recovery.put("b/later", noise(90_000, 2)).await;
    archive(recovery, &store, 2).await;
    let second_point = recovery.backup(store.clone(), &cache).await.unwrap().point_id;
    assert_eq!(recovery.verify(store.clone(), &cache).await.unwrap().damage, []);
    keep_parts(recovery, &store, &cache, 2).await;
    let now = objects(recovery.source.as_ref()).await;
    (first, objects(store.as_ref()).await, [then, now], [first_point, second_point])
}

/// A file of a log under a key of its own.
async fn archive(recovery: &Recovery, store: &SharedStore, number: u64) {
    let repository = recovery.open_with(&recovery.agent, store.clone(), &recovery.fresh_cache()).await.unwrap();
    let writer = LogWriter::new(Arc::new(repository), recovery.recipients.clone(), LogKey::default(), 1).unwrap();
    let name = LogName::new(7, &format!("00000001000000000000000{number}")).unwrap();
    writer.put(&name, noise(20_000, number).into()).await.unwrap();
}

/// What a run after the newest point left that made none, and a plan of shards.
async fn keep_parts(recovery: &Recovery, store: &SharedStore, cache: &Path, number: u64) {
    let repository = recovery.open(store.clone(), cache).await.unwrap();
    let name = repository.point_names(None).await.unwrap().pop().unwrap();
    let point = repository.point(&name).await.unwrap();
    let at = recovery.shared_clock().now() + TimeDelta::seconds(60);
    let (policy, run) = (name.policy.clone(), format!("{number:016x}"));
    let part = Part { policy: policy.clone(), run: run.clone(), at, snapshots: point.snapshots.clone(), shard: None };
    repository.put_part(&part).await.unwrap();
    let planned = repository.planned(&policy, Some(&name.id), 3).await.unwrap();
    let (base, policy_sha256) = (Some(name.key.clone()), "0".repeat(64));
    let (shared, snapshots) = (Vec::new(), point.snapshots);
    let plan = Plan { id: run, policy, policy_sha256, base, shards: 3, started_at: at, consistent_at: at, shared, snapshots };
    assert!(repository.put_plan(&planned.name, &plan).await.unwrap());
}

/// A pin, and a mark that says of a pack that it is sound.
async fn keep_records(recovery: &Recovery, store: &SharedStore, cache: &Path) {
    let repository = recovery.open(store.clone(), cache).await.unwrap();
    let point = repository.point_names(None).await.unwrap().remove(0);
    let record = PinRecord {
        action: PinAction::Pin,
        point: point.id.clone(),
        policy: point.policy.clone(),
        until: None,
        reason: "test".to_owned(),
        user: "test".to_owned(),
        host: "test".to_owned(),
        at: point.time,
    };
    repository.put_pin(&record).await.unwrap();
    let pack = objects(store.as_ref()).await.into_keys().find(|key| key.starts_with("packs/")).unwrap();
    repository.put_mark(&pack, MarkState::Sound, "test").await.unwrap();
}

/// A backup that breaks off after its first write leaves a data key, and a prune dooms that.
async fn doom_a_key(recovery: &Recovery, store: &SharedStore) {
    let breaks = FaultyStore::over(store.clone());
    breaks.queue(Call::Put, [Fault::None].into_iter().chain([Fault::RefusedBefore; 20]));
    recovery.backup(breaks, &recovery.fresh_cache()).await.unwrap_err();
    recovery.clock.advance(OVER_THE_GRACE);
    assert_eq!(recovery.prune(store.clone(), &recovery.fresh_cache()).await.unwrap().keys_doomed, 1);
}

/// Of an agent that keeps every point.
fn keeper(encrypted: bool) -> Recovery {
    let mut recovery = Recovery::new(encrypted);
    recovery.retention = Retention { keep_last: 1000, ..Retention::default() };
    recovery
}

async fn site(encrypted: bool) -> Site {
    let recovery = keeper(encrypted);
    let (first, second, contents, points) = fill(&recovery).await;
    let other = fill(&keeper(encrypted)).await.1;
    let mut site = Site { recovery, first, second, other, contents, points, spare: BTreeSet::new() };
    let (outcome, lost) = pruned(&site, &site.second).await;
    assert_eq!(outcome, Whole);
    assert!(of_kind(&site.second, "doom record").iter().all(|key| lost.contains(*key)), "{lost:?}");
    site.spare = lost;
    site
}

/// Prunes a site when the grace is over that a record there names, and again when the next one is. Every point that could be restored
/// before still can. What this prune takes away of what was there.
async fn pruned(site: &Site, all: &Objects) -> (Outcome, BTreeSet<String>) {
    let recovery = &site.recovery;
    let store = recovery.site_of(all).await;
    let restored = || async {
        let cache = recovery.fresh_cache();
        let mut restored = Vec::new();
        for point in &site.points {
            restored.push(recovery.restore(store.clone(), &cache, point).await.ok());
        }
        restored
    };
    let before = restored().await;
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        recovery.clock.advance(OVER_THE_GRACE);
        outcomes.push(match recovery.prune(store.clone(), &recovery.fresh_cache()).await {
            Err(_) => Refused,
            Ok(report) if report.problems.is_empty() => Whole,
            Ok(_) => Said,
        });
        for ((point, before), now) in site.points.iter().zip(&before).zip(restored().await) {
            assert!(before.is_none() || now == *before, "prune took from point {point}");
        }
    }
    let left = objects(store.as_ref()).await;
    (outcomes[0], all.keys().filter(|key| !left.contains_key(*key)).cloned().collect())
}

/// The kinds of objects, by what their keys and headers say.
const KINDS: [&str; 15] = [
    "repository",
    "catalogue key",
    "data key",
    "data pack",
    "catalogue pack",
    "index",
    "point",
    "evidence",
    "pin",
    "mark",
    "doom record",
    "log key",
    "log file",
    "part",
    "plan",
];

fn kind(key: &str, body: &[u8]) -> &'static str {
    match key.split('/').next().unwrap() {
        "repository.json" => "repository",
        "keys" if key.starts_with("keys/catalogue") => "catalogue key",
        "keys" if key.starts_with("keys/log") => "log key",
        "keys" => "data key",
        "packs" if body[9] == 1 => "data pack",
        "packs" => "catalogue pack",
        "indexes" => "index",
        "points" => "point",
        "evidence" => "evidence",
        "pins" => "pin",
        "damaged" => "mark",
        "doomed" => "doom record",
        "wal" => "log file",
        "parts" if key.contains("/plan/") => "plan",
        "parts" => "part",
        other => panic!("what is {other}?"),
    }
}

fn of_kind<'a>(all: &'a Objects, wanted: &str) -> Vec<&'a String> {
    all.iter().filter(|(key, body)| kind(key, body) == wanted).map(|(key, _)| key).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Missing,
    Truncated,
    /// One bit of what every object of the kind begins with.
    FlippedFirst,
    /// One bit of what is sealed in it.
    FlippedWithin,
    /// The last bit but seven.
    FlippedLast,
    /// By another valid object of the kind.
    Swapped,
    /// By the oldest other one of this repository.
    Older,
    Emptied,
}

use Harm::{Emptied, FlippedFirst, FlippedLast, FlippedWithin, Missing, Older, Swapped, Truncated};

const HARMS: [Harm; 8] = [Missing, Truncated, FlippedFirst, FlippedWithin, FlippedLast, Swapped, Older, Emptied];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Goes through, and what it gives is right.
    Whole,
    /// Goes through, and says what is wrong.
    Said,
    /// An error, and nothing done.
    Refused,
}

use Outcome::{Refused, Said, Whole};

/// What must happen to: the list of points; a restore of the newest; a verification by listing; one that reads everything; the next
/// backup; whether the next backup's own point is whole; and prune. Each operation begins with an empty local index.
fn expected(kind: &str, harm: Harm) -> [Outcome; 7] {
    match (kind, harm) {
        ("repository" | "catalogue key", _) => [Refused, Refused, Refused, Refused, Refused, Refused, Refused],
        // Seen in the listing, so what was sealed under it is stored anew.
        ("data key", Missing | Emptied) => [Whole, Refused, Said, Said, Said, Whole, Whole],
        // A writer cannot open data keys, and so cannot know; a reading verification does.
        ("data key", _) => [Whole, Refused, Whole, Said, Whole, Refused, Whole],
        // Nobody but a verification reads header and trailer of a pack.
        ("data pack" | "catalogue pack", FlippedFirst | FlippedLast) => [Whole, Whole, Whole, Said, Whole, Whole, Whole],
        // Of its own size: a writer does not read data again, a reading verification does.
        ("data pack", FlippedWithin) => [Whole, Refused, Whole, Said, Whole, Refused, Whole],
        // Prune needs no contents to know what needs them, and deletes nothing for want of them.
        ("data pack", _) => [Whole, Refused, Said, Said, Said, Whole, Whole],
        // A writer reads the newest point's entries, and so finds out; prune reads those of all points.
        ("catalogue pack", _) => [Whole, Refused, Said, Said, Said, Whole, Said],
        ("index", _) => [Whole, Refused, Said, Said, Said, Whole, Said],
        // Nobody but the evidence knows of a point that is gone.
        ("point", Missing) => [Whole, Whole, Whole, Whole, Whole, Whole, Whole],
        ("point", _) => [Said, Refused, Said, Said, Said, Whole, Said],
        ("evidence", _) => [Whole, Whole, Said, Said, Whole, Whole, Whole],
        // The newest of their kind: nothing comes after them that would miss them.
        ("pin" | "mark" | "doom record", Missing) => [Whole, Whole, Whole, Whole, Whole, Whole, Whole],
        ("pin", _) => [Whole, Whole, Said, Said, Whole, Whole, Whole],
        // What a mark that cannot be read is about counts as damaged, and is stored anew.
        ("mark", _) => [Whole, Whole, Said, Said, Said, Whole, Said],
        // It dooms nothing; what it named is doomed anew.
        ("doom record", _) => [Whole, Whole, Said, Said, Whole, Whole, Said],
        // No point needs the log. Whoever reads it fails, and a file that is gone is a gap: see `log`.
        ("log file", Missing) => [Whole, Whole, Whole, Whole, Whole, Whole, Whole],
        ("log key" | "log file", _) => [Whole, Whole, Whole, Said, Whole, Whole, Whole],
        // Hints: who cannot use one does without. Of a plan see `bucket::shards`.
        ("part" | "plan", Missing) => [Whole, Whole, Whole, Whole, Whole, Whole, Whole],
        ("part" | "plan", _) => [Whole, Whole, Whole, Said, Whole, Whole, Whole],
        other => panic!("{other:?} is not in the table"),
    }
}

fn harmed(site: &Site, key: &str, harm: Harm, random: &mut StdRng) -> Objects {
    let mut all = site.second.clone();
    let body = all[key].clone();
    let kind = kind(key, &body);
    let others = || of_kind(&site.other, kind).into_iter().map(|other| &site.other[other]);
    let replaced = match harm {
        Missing => {
            all.remove(key);
            return all;
        }
        Truncated => body.slice(..random.random_range(1..body.len())),
        // An age file begins with a line of text, and so do the keys that lie open.
        FlippedFirst => flip(&body, 8 * 9 + 1),
        FlippedWithin if kind.ends_with("pack") => flip(&body, 8 * random.random_range(64..body.len() / 2)),
        FlippedWithin => flip(&body, random.random_range(body.len() * 4..body.len() * 7)),
        FlippedLast => flip(&body, body.len() * 8 - 8),
        // Another of this repository if there is one, else of another repository.
        Swapped => {
            let own = of_kind(&site.second, kind).into_iter().rfind(|other| *other != key).map(|other| &site.second[other]);
            own.or_else(|| others().next()).unwrap().clone()
        }
        Older => {
            let own = of_kind(&site.first, kind).into_iter().find(|other| *other != key).map(|other| &site.first[other]);
            own.or_else(|| others().next()).unwrap().clone()
        }
        Emptied => Bytes::new(),
    };
    all.insert(key.to_owned(), replaced);
    all
}

fn flip(body: &Bytes, bit: usize) -> Bytes {
    let mut bytes = body.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes.into()
}

fn of_verify(found: &Result<VerifyReport, OperationError>) -> Outcome {
    match found {
        Err(_) => Refused,
        Ok(report) if report.damage.is_empty() => Whole,
        Ok(_) => Said,
    }
}

/// Does everything to a harmed site.
async fn outcomes(site: &Site, all: &Objects) -> ([Outcome; 7], BTreeSet<String>) {
    let (recovery, contents) = (&site.recovery, &site.contents);
    let store = || async { store_of(all).await };
    let points = match recovery.points(store().await, &recovery.fresh_cache()).await {
        Err(_) => Refused,
        Ok(points) if points.iter().any(|point| point.unreadable.is_some()) => Said,
        Ok(_) => Whole,
    };
    let restored = match recovery.restore(store().await, &recovery.fresh_cache(), "latest").await {
        Err(_) => Refused,
        Ok(restored) => {
            let gone = of_kind(all, "point").len() < 2;
            assert!(restored == contents[1] || gone && restored == contents[0], "a wrong byte was restored");
            Whole
        }
    };
    let verified = of_verify(&recovery.verify(store().await, &recovery.fresh_cache()).await);
    let listed = of_verify(&recovery.verify_at(store().await, &recovery.fresh_cache(), VerifyLevel::Structure).await);
    let after = store().await;
    let (next, own) = match recovery.backup(after.clone(), &recovery.fresh_cache()).await {
        Err(_) => (Refused, Refused),
        Ok(report) => {
            let own = recovery.restore(after, &recovery.fresh_cache(), &report.point_id).await;
            let own = own.map_or(Refused, |restored| {
                assert_eq!(restored, contents[1], "a wrong byte was restored");
                Whole
            });
            let said = !report.problems.is_empty() || report.sources.iter().any(|source| !source.problems.is_empty());
            (if said { Said } else { Whole }, own)
        }
    };
    let (prune, lost) = pruned(site, all).await;
    ([points, restored, listed, verified, next, own, prune], lost)
}

async fn every_harm_has_the_outcome_in_the_table(encrypted: bool) {
    let seed = 20_261_123;
    let mut random = StdRng::seed_from_u64(seed);
    let site = site(encrypted).await;
    let mut wrong = Vec::new();
    for kind in KINDS {
        let new = of_kind(&site.second, kind).into_iter().find(|key| !site.first.contains_key(*key));
        // A record is missed by the one after it: so the first.
        let key =
            if kind == "evidence" { of_kind(&site.first, kind)[0] } else { new.unwrap_or_else(|| of_kind(&site.second, kind)[0]) };
        for harm in HARMS {
            let (found, lost) = outcomes(&site, &harmed(&site, key, harm, &mut random)).await;
            // What only a point needs that is not there any more, prune must take away.
            if (kind, harm) != ("point", Missing) {
                let more: Vec<_> = lost.iter().filter(|lost| *lost != key && !site.spare.contains(*lost)).collect();
                if !more.is_empty() {
                    wrong.push(format!("{kind}, {harm:?}: prune deleted {more:?}"));
                }
            }
            if found != expected(kind, harm) {
                wrong.push(format!("{kind}, {harm:?}: {found:?} instead of {:?}", expected(kind, harm)));
            }
        }
    }
    assert!(wrong.is_empty(), "seed {seed}, encrypted {encrypted}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_harm_to_an_encrypted_repository_has_the_outcome_in_the_table() {
    every_harm_has_the_outcome_in_the_table(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_harm_to_an_unencrypted_repository_has_the_outcome_in_the_table() {
    every_harm_has_the_outcome_in_the_table(false).await;
}

/// Opened once: does what a reading verification does to one object.
struct Verifier<'a> {
    site: &'a Site,
    store: SharedStore,
    repository: Repository,
    reader: Reader,
}

impl Verifier<'_> {
    /// Whether a reading verification finds this object, which was changed, damaged. A verification looks at each object by itself,
    /// with exactly these calls; only of a data key that lies open, and so has no tag, the packs tell.
    async fn finds(&self, key: &str, all: &Objects) -> bool {
        let named = |checks: &[PackCheck]| checks.iter().any(|check| check.key == key);
        match kind(key, &self.site.second[key]) {
            "repository" | "catalogue key" => {
                self.site.recovery.open(self.store.clone(), &self.site.recovery.fresh_cache()).await.is_err()
            }
            "data key" | "log key" if self.repository.is_unencrypted() => {
                let found = self.site.recovery.verify(store_of(all).await, &self.site.recovery.fresh_cache()).await;
                found.is_err() || !found.unwrap().damage.is_empty()
            }
            "data key" | "log key" => {
                let found = self.repository.check_keys().await;
                let is_found = |(damaged, closed): (Vec<PackCheck>, BTreeMap<_, KeyCheck>)| {
                    named(&damaged) || closed.values().any(|found| found.check.key == key)
                };
                found.is_err() || is_found(found.unwrap())
            }
            "data pack" | "catalogue pack" => {
                let packs = self.reader.cache().packs().unwrap();
                let (_, record) = packs.iter().find(|(_, record)| key.ends_with(&hex::encode(record.sha256))).unwrap();
                self.reader.verify_pack(record).await.is_err_and(|error| error.is_damage())
            }
            "index" => named(&self.repository.check_indexes().await.unwrap().1),
            "point" => {
                let names = self.repository.point_names(None).await.unwrap();
                let name = names.iter().find(|name| name.key == key).unwrap();
                self.repository.point(name).await.is_err_and(|error| error.is_damage())
            }
            "evidence" => {
                let names = self.repository.evidence_names().await.unwrap();
                let name = names.iter().find(|name| name.key == key).unwrap();
                self.repository.evidence(name).await.is_err_and(|error| error.is_damage())
            }
            "pin" => self.repository.pins().await.unwrap().iter().any(|pin| pin.key == key && pin.record.is_err()),
            "doom record" => {
                let records = self.repository.doom_records().await.unwrap();
                records.iter().any(|stored| stored.key == key && stored.record.is_err())
            }
            "log file" => {
                let name = LogName::parse(key).unwrap();
                self.repository.check_log_file(&name, &self.repository.log_keys()).await.is_err_and(|error| error.is_damage())
            }
            "mark" => named(&self.repository.marks().await.unwrap().unreadable),
            "part" | "plan" => named(&self.repository.check_parts().await.unwrap()),
            other => panic!("what is {other}?"),
        }
    }
}

/// Flips of single bits, drawn so that small objects get as many as large ones; each must be found. Nothing is exempt. Of so many
/// flips, every hundredth is shown to a whole verification, the others to the part of one that looks at the object.
async fn any_flipped_bit_is_found_by_a_reading_verification(encrypted: bool, flips: usize) {
    let seed = std::env::var("FARSHORE_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse::<u64>().unwrap());
    println!("FARSHORE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = site(encrypted).await;
    let store: SharedStore = store_of(&site.second).await;
    let repository = site.recovery.open(store.clone(), &site.recovery.fresh_cache()).await.unwrap();
    let reader = site.recovery.reader(&repository).await.unwrap();
    let verifier = Verifier { site: &site, store: store.clone(), repository, reader };
    // A key that lies open and opens nothing has neither a tag nor a pack that could tell.
    let tells_nothing = |key: &String| !encrypted && kind(key, &site.second[key]) == "data key" && site.spare.contains(key);
    let keys: Vec<_> = site.second.keys().filter(|key| !tells_nothing(key)).collect();
    let mut unfound = BTreeSet::new();
    for number in 0..flips {
        let key = keys[random.random_range(0..keys.len())];
        let bit = random.random_range(0..site.second[key].len() * 8);
        let mut all = site.second.clone();
        all.insert(key.clone(), flip(&site.second[key], bit));
        let named = if number % 100 > 0 {
            store.put(key, all[key].clone(), PutOptions::default()).await.unwrap();
            let named = verifier.finds(key, &all).await;
            store.put(key, site.second[key].clone(), PutOptions::default()).await.unwrap();
            named
        } else {
            match &site.recovery.verify(store_of(&all).await, &site.recovery.fresh_cache()).await {
                Err(_) => true,
                // A key that lies open has no tag of its own: what it does not open any more is named instead.
                Ok(report) if !encrypted && ["data key", "log key"].contains(&kind(key, &site.second[key])) => {
                    !report.damage.is_empty()
                }
                Ok(report) => report.damage.iter().any(|damage| damage.object == *key || damage.detail.contains(key.as_str())),
            }
        };
        if !named {
            unfound.insert(format!("{key} ({}), bit {bit}", kind(key, &site.second[key])));
        }
    }
    assert!(unfound.is_empty(), "seed {seed}, encrypted {encrypted}: not found:\n{unfound:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_flipped_bit_of_an_encrypted_repository_is_found_and_named() {
    any_flipped_bit_is_found_by_a_reading_verification(true, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_flipped_bit_of_an_unencrypted_repository_is_found_and_named() {
    any_flipped_bit_is_found_by_a_reading_verification(false, 4_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_index_that_knows_more_than_the_site_is_not_believed() {
    let recovery = Recovery::new(true);
    let cache = recovery.fresh_cache();
    let store: SharedStore = store_of(&Objects::new()).await;
    recovery.init(&store).await;
    let empty = objects(store.as_ref()).await;
    recovery.put("a", noise(50_000, 3)).await;
    recovery.backup(store.clone(), &cache).await.unwrap();
    // The site forgets everything since `init`; then only the packs.
    let forgetful = store_of(&empty).await;
    let point = recovery.backup(forgetful.clone(), &cache).await.unwrap().point_id;
    let expected = objects(recovery.source.as_ref()).await;
    assert_eq!(recovery.restore(forgetful.clone(), &recovery.fresh_cache(), &point).await.unwrap(), expected);
    let mut without_packs = objects(forgetful.as_ref()).await;
    without_packs.retain(|key, _| !key.starts_with("packs/"));
    let bare = store_of(&without_packs).await;
    let report = recovery.backup(bare.clone(), &cache).await.unwrap();
    assert!(!report.problems.is_empty());
    assert_eq!(recovery.restore(bare.clone(), &recovery.fresh_cache(), &report.point_id).await.unwrap(), expected);
    // Also with a local index that met the lost packs' indexes in whatever order.
    assert_eq!(recovery.restore(bare, &cache, &point).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_finds_the_damaged_index_that_the_local_one_knows_already() {
    let site = site(true).await;
    let cache = site.recovery.fresh_cache();
    assert_eq!(site.recovery.verify(store_of(&site.second).await, &cache).await.unwrap().damage, []);
    let key = of_kind(&site.second, "index")[0];
    let mut all = site.second.clone();
    all.insert(key.clone(), flip(&site.second[key], 1000));
    let found = site.recovery.verify(store_of(&all).await, &cache).await.unwrap().damage;
    assert_eq!(found.iter().map(|damage| &damage.object).collect::<Vec<_>>(), [key]);
    // Nothing is lost as long as somebody remembers the index.
    let restored = site.recovery.restore(store_of(&all).await, &cache, &site.points[0]).await.unwrap();
    assert_eq!(restored, site.contents[0]);
}
