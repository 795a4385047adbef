//! Every kind of object, broken in every way, under every operation: what must happen is the table [`EXPECTED`]. What never may
//! happen: a wrong byte, a panic, silence.

use std::collections::BTreeSet;

use bytes::Bytes;
use farshore::{operations::OperationError, report::VerifyReport, stores::SharedStore};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::recovery::{Objects, Recovery, noise, objects, store_of};

/// A site with two points and a record of a verification after each; and the same of another repository, to swap with.
struct Site {
    recovery: Recovery,
    first: Objects,
    second: Objects,
    other: Objects,
    /// The bucket as each of the points shows it.
    contents: [Objects; 2],
    points: [String; 2],
}

async fn fill(recovery: &Recovery) -> (Objects, Objects, [Objects; 2], [String; 2]) {
    let cache = recovery.fresh_cache();
    let store: SharedStore = store_of(&Objects::new()).await;
    recovery.init(&store).await;
    recovery.put("a/noise", noise(150_000, 1)).await;
    recovery.put("a/text", b"the same words again and again\n".repeat(500)).await;
    recovery.put("empty", Vec::new()).await;
    let first_point = recovery.backup(store.clone(), &cache).await.unwrap().point_id;
    assert_eq!(recovery.verify(store.clone(), &cache).await.unwrap().damage, []);
    let first = objects(store.as_ref()).await;
    let then = objects(recovery.source.as_ref()).await;
    recovery.put("b/later", noise(90_000, 2)).await;
    let second_point = recovery.backup(store.clone(), &cache).await.unwrap().point_id;
    assert_eq!(recovery.verify(store.clone(), &cache).await.unwrap().damage, []);
    let now = objects(recovery.source.as_ref()).await;
    (first, objects(store.as_ref()).await, [then, now], [first_point, second_point])
}

async fn site(encrypted: bool) -> Site {
    let recovery = Recovery::new(encrypted);
    let (first, second, contents, points) = fill(&recovery).await;
    let other = fill(&Recovery::new(encrypted)).await.1;
    Site { recovery, first, second, other, contents, points }
}

/// The kinds of objects, by what their keys and headers say.
const KINDS: [&str; 8] = ["repository", "catalogue key", "data key", "data pack", "catalogue pack", "index", "point", "evidence"];

fn kind(key: &str, body: &[u8]) -> &'static str {
    match key.split('/').next().unwrap() {
        "repository.json" => "repository",
        "keys" if key.starts_with("keys/catalogue") => "catalogue key",
        "keys" => "data key",
        "packs" if body[9] == 1 => "data pack",
        "packs" => "catalogue pack",
        "indexes" => "index",
        "points" => "point",
        "evidence" => "evidence",
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
    Flipped,
    Swapped,
    Emptied,
}

const HARMS: [Harm; 5] = [Harm::Missing, Harm::Truncated, Harm::Flipped, Harm::Swapped, Harm::Emptied];

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

/// What must happen to: the list of points; a restore of the newest; a verification that reads everything; the next backup; and
/// whether the next backup's own point is whole. Each operation begins with an empty local index.
fn expected(kind: &str, harm: Harm) -> [Outcome; 5] {
    match (kind, harm) {
        ("repository" | "catalogue key", _) => [Refused, Refused, Refused, Refused, Refused],
        // Seen in the listing, so what was sealed under it is stored anew.
        ("data key", Harm::Missing | Harm::Emptied) => [Whole, Refused, Said, Said, Whole],
        // A writer cannot open data keys, and so cannot know; a verification does.
        ("data key", _) => [Whole, Refused, Said, Whole, Refused],
        // Of its own size: a writer does not read data again, a verification does.
        ("data pack", Harm::Flipped) => [Whole, Refused, Said, Whole, Refused],
        ("data pack", _) => [Whole, Refused, Said, Said, Whole],
        // A writer reads the newest point's entries, and so finds out.
        ("catalogue pack", _) => [Whole, Refused, Said, Said, Whole],
        ("index", _) => [Whole, Refused, Said, Said, Whole],
        // Nobody but the evidence knows of a point that is gone.
        ("point", Harm::Missing) => [Whole, Whole, Whole, Whole, Whole],
        ("point", _) => [Said, Refused, Said, Said, Whole],
        ("evidence", _) => [Whole, Whole, Said, Whole, Whole],
        other => panic!("{other:?} is not in the table"),
    }
}

fn harmed(site: &Site, key: &str, harm: Harm, random: &mut StdRng) -> Objects {
    let mut all = site.second.clone();
    let body = all[key].clone();
    let kind = kind(key, &body);
    match harm {
        Harm::Missing => {
            all.remove(key);
        }
        Harm::Truncated => {
            all.insert(key.to_owned(), body.slice(..random.random_range(1..body.len())));
        }
        Harm::Flipped => {
            all.insert(key.to_owned(), flip(&body, random.random_range(0..body.len() * 8)));
        }
        Harm::Swapped => {
            // Another of this repository if there is one, else of another repository.
            let another = of_kind(&site.second, kind).into_iter().find(|other| *other != key);
            let with = another
                .map(|other| &site.second[other])
                .or_else(|| of_kind(&site.other, kind).first().map(|other| &site.other[*other]));
            all.insert(key.to_owned(), with.unwrap().clone());
        }
        Harm::Emptied => {
            all.insert(key.to_owned(), Bytes::new());
        }
    }
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
async fn outcomes(site: &Site, all: &Objects) -> [Outcome; 5] {
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
    [points, restored, verified, next, own]
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
            let found = outcomes(&site, &harmed(&site, key, harm, &mut random)).await;
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

/// Flips of single bits, drawn so that small objects get as many as large ones; each must be found. Nothing is exempt.
async fn any_flipped_bit_is_found_by_a_reading_verification(encrypted: bool, flips: usize) {
    let seed = 4711;
    let mut random = StdRng::seed_from_u64(seed);
    let site = site(encrypted).await;
    let keys: Vec<_> = site.second.keys().collect();
    let mut unfound = BTreeSet::new();
    for _ in 0..flips {
        let key = keys[random.random_range(0..keys.len())];
        let bit = random.random_range(0..site.second[key].len() * 8);
        let mut all = site.second.clone();
        all.insert(key.clone(), flip(&site.second[key], bit));
        let found = site.recovery.verify(store_of(&all).await, &site.recovery.fresh_cache()).await;
        let named = match &found {
            Err(_) => true,
            // A key that lies open has no tag of its own: what it does not open any more is named instead.
            Ok(report) if !encrypted && kind(key, &site.second[key]) == "data key" => !report.damage.is_empty(),
            Ok(report) => report.damage.iter().any(|damage| damage.object == *key || damage.detail.contains(key.as_str())),
        };
        if !named {
            unfound.insert(format!("{key} ({}), bit {bit}", kind(key, &site.second[key])));
        }
    }
    assert!(unfound.is_empty(), "seed {seed}, encrypted {encrypted}: not found:\n{unfound:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_flipped_bit_of_an_encrypted_repository_is_found_and_named() {
    any_flipped_bit_is_found_by_a_reading_verification(true, 1200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_flipped_bit_of_an_unencrypted_repository_is_found_and_named() {
    any_flipped_bit_is_found_by_a_reading_verification(false, 1000).await;
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
