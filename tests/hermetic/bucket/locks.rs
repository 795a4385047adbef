//! What holds objects: recorded, asked for, and put back where somebody says so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{FixedClock, SystemClock},
    progress::{Check, CheckOutcome},
    sources::{
        Capture, Examination, Rebuild, Rebuilt,
        bucket::{BucketAttributes, BucketOptions, BucketSource, BucketTarget, RestoredLocks},
    },
    stores::{FilesystemStore, Holds, Lock, LockMode, MemoryStore, ObjectAttributes, PutOptions, SharedStore, Store, StoreError},
};

use super::watched::Watched;
use crate::support::{
    exchange::{Capturing, Rebuilding, assert_checks, names},
    fake_azure::{FakeAzure, Rules},
    faulty_store::FaultyStore,
};

const RIGHTS: &str = "s3:GetObjectRetention and s3:GetObjectLegalHold";

fn locking(name: &str) -> Arc<MemoryStore> {
    MemoryStore::locking(name, SystemClock::shared())
}

fn lock(mode: LockMode, minutes: i64) -> Option<Lock> {
    let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    Some(Lock { mode, until: now + TimeDelta::minutes(minutes) })
}

fn held(lock: Option<Lock>, legal_hold: bool) -> Holds {
    Holds { lock, legal_hold }
}

async fn put(store: &dyn Store, key: &str, body: impl Into<Bytes>, holds: Holds) {
    let attributes = ObjectAttributes::default().held_by(holds);
    store.put(key, body.into(), PutOptions { attributes, ..PutOptions::default() }).await.unwrap();
}

fn source(store: SharedStore, locks: bool) -> BucketSource {
    BucketSource::new(store, BucketOptions { locks, ..BucketOptions::default() })
}

/// What the entries say.
fn recorded(capturing: &Capturing) -> BTreeMap<String, Holds> {
    let of =
        |entry: &farshore::sources::Entry| (entry.display_path(), entry.attributes::<BucketAttributes>().unwrap().object.holds());
    capturing.sink.entries().iter().map(of).collect()
}

/// What the objects say.
async fn shown(store: &dyn Store) -> BTreeMap<String, Holds> {
    let mut all = BTreeMap::new();
    for object in store.list("", None, 1000).await.unwrap().objects {
        let holds = store.holds(&object.key, None, None).await.unwrap();
        all.insert(object.key, holds);
    }
    all
}

fn of<const N: usize>(all: [(&str, Holds); N]) -> BTreeMap<String, Holds> {
    all.into_iter().map(|(key, holds)| (key.to_owned(), holds)).collect()
}

#[tokio::test]
async fn what_a_read_shows_is_recorded_and_what_changes_later_is_seen_only_where_locks_are_asked_for() {
    let store = locking("b");
    let (compliance, governance) = (lock(LockMode::Compliance, 600), lock(LockMode::Governance, 600));
    let all = [("c", held(compliance, false)), ("free", held(None, false)), ("g", held(governance, true)), ("h", held(None, true))];
    for (key, holds) in all {
        put(&*store, key, "bytes", holds).await;
    }
    let watched = Watched::over(store.clone());
    let first = Capturing::first();
    let facts = first.run(&source(watched.clone(), false)).await.unwrap().facts;
    assert_eq!((recorded(&first), watched.calls("holds")), (of(all), 0));
    assert!(facts["locks_asked"].is_null() && facts["locked_objects"].is_null(), "nobody asked: {facts}");

    let longer = lock(LockMode::Governance, 900);
    store.extend_lock("g", longer.unwrap()).await.unwrap();
    store.set_legal_hold("free", true);
    store.set_legal_hold("h", false);
    let second = Capturing::after(&first.sink);
    second.run(&source(watched.clone(), false)).await.unwrap();
    assert_eq!((second.sink.entries(), watched.calls("holds")), (first.sink.entries(), 0), "as it was when it was read");

    let third = Capturing::after(&second.sink);
    let facts = third.run(&source(watched.clone(), true)).await.unwrap().facts;
    let now = of([("c", held(compliance, false)), ("free", held(None, true)), ("g", held(longer, true)), ("h", held(None, false))]);
    assert_eq!((recorded(&third), third.problems()), (now, Vec::new()));
    assert_eq!((&facts["locks_asked"], &facts["locked_objects"], &facts["held_objects"]), (&4.into(), &2.into(), &2.into()));
    assert_eq!(
        (watched.calls("get"), third.sink.opened(), &facts["unchanged_objects"]),
        (4, 0, &4.into()),
        "nothing is read again"
    );
    assert_eq!((watched.calls("holds of what was not read"), watched.calls("holds by version")), (4, 4));
    for (before, after) in second.sink.entries().into_iter().zip(third.sink.entries()) {
        assert_eq!((&before.content, before.modified), (&after.content, after.modified));
        let of = |entry: &farshore::sources::Entry| {
            let attributes: BucketAttributes = entry.attributes().unwrap();
            BucketAttributes { object: attributes.object.held_by(Holds::default()), ..attributes }
        };
        assert_eq!(of(&before), of(&after), "nothing else is another");
    }

    put(&*store, "new", "bytes", held(governance, false)).await;
    let fourth = Capturing::after(&third.sink);
    let facts = fourth.run(&source(watched.clone(), true)).await.unwrap().facts;
    assert_eq!((watched.calls("get"), watched.calls("holds after a read"), watched.calls("holds")), (5, 1, 9));
    assert_eq!((recorded(&fourth)["new"], &facts["locked_objects"]), (held(governance, false), &3.into()));
    assert!(
        third.sink.entries().iter().all(|entry| fourth.sink.entries().contains(entry)),
        "what is the same is handed on as it was"
    );
}

#[tokio::test]
async fn a_lock_that_has_ended_is_none() {
    let clock = FixedClock::shared(Utc::now());
    let store = MemoryStore::locking("b", clock.clone());
    let hour = lock(LockMode::Compliance, 60);
    put(&*store, "k", "bytes", held(hour, false)).await;
    let first = Capturing::first();
    let facts = first.run(&source(store.clone(), true)).await.unwrap().facts;
    assert_eq!((recorded(&first)["k"], &facts["locked_objects"]), (held(hour, false), &1.into()));
    clock.advance(Duration::from_secs(2 * 3600));
    let second = Capturing::after(&first.sink);
    let facts = second.run(&source(store.clone(), true)).await.unwrap().facts;
    assert_eq!((recorded(&second)["k"], &facts["locked_objects"]), (held(None, false), &0.into()));
    let anew = Capturing::first();
    anew.run(&source(store, false)).await.unwrap();
    assert_eq!(recorded(&anew)["k"], held(None, false));
}

#[tokio::test]
async fn whoever_may_not_see_locks_is_told_so_once_and_loses_nothing_that_was_recorded() {
    let store = Watched::over(locking("b"));
    let holds = held(lock(LockMode::Compliance, 600), true);
    for number in 0..40 {
        put(&*store, &format!("k/{number:02}"), "bytes", holds).await;
    }
    let first = Capturing::first();
    first.run(&source(store.clone(), true)).await.unwrap();
    store.fail("holds", "", |place| StoreError::Denied { place, action: "read the lock of", detail: "AccessDenied".into() });
    put(&*store, "new", "bytes", holds).await;
    let asked = store.calls("holds");
    let second = Capturing::after(&first.sink);
    let facts = second.run(&source(store.clone(), true)).await.unwrap().facts;
    let problems = second.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for words in ["of 41 of them", "permission denied to read the lock of", RIGHTS, "leave `locks = true` out"] {
        assert!(problems[0].contains(words), "{words}: {problems:?}");
    }
    assert_eq!((&facts["objects"], &facts["locks_asked"]), (&41.into(), &0.into()));
    assert!(recorded(&second).values().all(|recorded| *recorded == holds), "{:?}", recorded(&second));
    // Those that were under way.
    assert!(store.calls("holds") - asked <= 4, "{} were asked for", store.calls("holds") - asked);
}

#[tokio::test]
async fn where_nothing_can_be_locked_there_is_one_problem_and_a_whole_point() {
    let store = Watched::over(MemoryStore::new("b"));
    for key in ["a", "b", "c"] {
        put(&*store, key, "bytes", Holds::default()).await;
    }
    let capturing = Capturing::first();
    let facts = capturing.run(&source(store.clone(), true)).await.unwrap().facts;
    let problems = capturing.problems();
    assert!(problems.len() == 1 && problems[0].contains("nothing is locked there: leave `locks = true` out"), "{problems:?}");
    assert_eq!((&facts["objects"], &facts["locks_asked"]), (&3.into(), &0.into()));
}

#[tokio::test]
async fn one_objects_trouble_is_a_problem_and_a_server_that_is_gone_ends_the_capture() {
    let store = Watched::over(locking("b"));
    let holds = held(lock(LockMode::Governance, 600), false);
    for key in ["a", "b", "c"] {
        put(&*store, key, "bytes", holds).await;
    }
    let first = Capturing::first();
    first.run(&source(store.clone(), false)).await.unwrap();
    store.fail("holds", "b", |place| StoreError::Other { place, action: "read the lock of", detail: "odd".into() });
    let second = Capturing::after(&first.sink);
    let facts = second.run(&source(store.clone(), true)).await.unwrap().facts;
    let problems = second.problems();
    assert!(problems.len() == 1 && problems[0].contains("of 1 of them") && problems[0].contains("asks again"), "{problems:?}");
    assert_eq!((&facts["locks_asked"], &facts["locked_objects"]), (&2.into(), &3.into()));
    store.fail("holds", "c", |place| StoreError::Unavailable { place, detail: "connection reset".into() });
    let error = Capturing::after(&second.sink).run(&source(store, true)).await.unwrap_err().to_string();
    assert!(error.contains("connection reset"), "{error}");
}

#[tokio::test]
async fn an_examination_says_whether_locks_may_be_seen() {
    let found = async |store: SharedStore, locks: bool| {
        put(&*store, "a", "bytes", Holds::default()).await;
        let examination = Examination { clock: SystemClock::shared(), scratch_drills: false };
        let findings = source(store, locks).examine(&examination).await;
        findings.into_iter().find(|finding| finding.name == "locks")
    };
    assert!(found(locking("b"), false).await.is_none(), "nobody wants to know");
    let sound = found(locking("b"), true).await.unwrap();
    assert_eq!(sound.outcome, CheckOutcome::Passed, "{sound:?}");
    let denied = Watched::over(locking("b"));
    denied.fail("holds", "", |place| StoreError::Denied { place, action: "read the lock of", detail: "AccessDenied".into() });
    let denied = found(denied, true).await.unwrap();
    assert!(denied.outcome == CheckOutcome::Failed && denied.mend.as_deref().unwrap().contains(RIGHTS), "{denied:?}");
    let without = found(MemoryStore::new("b"), true).await.unwrap();
    assert!(without.outcome == CheckOutcome::Failed && without.mend.as_deref().unwrap().contains("locks = true"), "{without:?}");
}

/// A source with every kind of hold, captured.
async fn captured() -> (Capturing, serde_json::Value, BTreeMap<String, Holds>) {
    let store = locking("source");
    let (compliance, governance) = (lock(LockMode::Compliance, 600), lock(LockMode::Governance, 600));
    for (key, holds) in [
        ("compliance", held(compliance, false)),
        ("empty", held(compliance, true)),
        ("ends soon", held(lock(LockMode::Compliance, 3), true)),
        ("free", held(None, false)),
        ("governance", held(governance, false)),
        ("held", held(None, true)),
        ("large", held(governance, true)),
    ] {
        let body = match key {
            "empty" => Bytes::new(),
            "large" => vec![7; 9 << 20].into(),
            _ => Bytes::from_static(b"bytes"),
        };
        put(&*store, key, body, holds).await;
    }
    let capturing = Capturing::first();
    let facts = capturing.run(&source(store.clone(), true)).await.unwrap().facts;
    assert_eq!(capturing.problems(), Vec::<String>::new());
    let all = shown(&*store).await;
    (capturing, facts, all)
}

fn check<'a>(rebuilt: &'a Rebuilt, words: &str) -> Option<&'a Check> {
    rebuilt.checks.iter().find(|check| check.name.contains(words))
}

async fn restored(target: SharedStore, locks: RestoredLocks, over: bool) -> Rebuilt {
    let (capturing, facts, _) = captured().await;
    let rebuilding = if over { Rebuilding::over() } else { Rebuilding::anew() };
    let rebuilt = rebuilding.run(&BucketTarget::new(target).with_locks(locks), capturing.sink.origin(), &facts).await.unwrap();
    assert_eq!(rebuilding.problems(), Vec::<String>::new());
    rebuilt
}

#[tokio::test]
async fn nothing_is_locked_by_a_restore_unless_somebody_says_so_and_it_says_how_much_was() {
    for target in [locking("target"), MemoryStore::new("target")] {
        let rebuilt = restored(target.clone(), RestoredLocks::LeftOut, false).await;
        assert_checks(&rebuilt);
        let note = check(&rebuilt, "locked or held at their source").unwrap();
        assert_eq!((note.outcome, &*note.expected, &*note.actual), (CheckOutcome::Note, "6", "0"));
        assert!(note.name.contains("--locks"), "{}", note.name);
        for object in target.list("", None, 1000).await.unwrap().objects {
            target.delete_versions(&object.key).await.unwrap();
        }
    }
    // What holds the objects of a target makes none of them another one.
    let target = locking("target");
    restored(target.clone(), RestoredLocks::AsRecorded, false).await;
    let rebuilt = restored(target, RestoredLocks::LeftOut, true).await;
    assert_eq!((rebuilt.items, rebuilt.items_kept), (0, 7));
}

#[tokio::test]
async fn locks_that_have_not_ended_and_legal_holds_come_back_with_each_object() {
    let (capturing, facts, all) = captured().await;
    for (locks, mode) in [(RestoredLocks::AsRecorded, None), (RestoredLocks::Governance, Some(LockMode::Governance))] {
        let target = locking("target");
        let rebuild = BucketTarget::new(target.clone()).with_locks(locks);
        let said = rebuild.inspect(&facts, false).await.unwrap();
        assert!(
            said.contains("empty; locks that have not ended") && said.contains("5 objects with a lock, 4 with a legal hold"),
            "{said}"
        );
        let rebuilding = Rebuilding::anew();
        let rebuilt = rebuilding.run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
        assert_checks(&rebuilt);
        let expected = all.iter().map(|(key, holds)| {
            let lock = holds.lock.filter(|_| key != "ends soon").map(|lock| Lock { mode: mode.unwrap_or(lock.mode), ..lock });
            (key.clone(), Holds { lock, ..*holds })
        });
        assert_eq!((shown(&*target).await, rebuilding.problems()), (expected.collect(), Vec::new()), "{locks:?}");
        for name in ["a lock in the target", "a legal hold in the target"] {
            assert_eq!(check(&rebuilt, name).unwrap().outcome, CheckOutcome::Passed, "{name}");
        }
        let ended = check(&rebuilt, "has ended since the backup").unwrap();
        assert_eq!((ended.outcome, &*ended.expected), (CheckOutcome::Note, "1"));
        assert!(check(&rebuilt, "locked or held at their source").is_none());
        // All of it matches now.
        let again = Rebuilding::over().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
        assert_eq!((again.items, again.items_kept), (0, 7));
    }
}

#[tokio::test]
async fn a_target_that_cannot_lock_is_refused_before_anything_is_written() {
    let (capturing, facts, _) = captured().await;
    let directory = tempfile::tempdir().unwrap();
    let azure = FakeAzure::today(Rules { supports_policies: false, claims_support: false, ..Rules::default() });
    let container: SharedStore = Arc::new(azure.store("back").await);
    let stores: [(SharedStore, &str); 3] = [
        (MemoryStore::new("target"), "made with Object Lock"),
        (FilesystemStore::new(directory.path().to_owned()), "made with Object Lock"),
        (container, "--enable-vlw true"),
    ];
    for (target, remedy) in stores {
        let rebuild = BucketTarget::new(target.clone()).with_locks(RestoredLocks::AsRecorded);
        let refused = rebuild.inspect(&facts, false).await.unwrap_err().to_string();
        for words in ["as --locks asks for", remedy, "restore without --locks"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
        Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap_err();
        assert!(target.list("", None, 1).await.unwrap().objects.is_empty());
    }
    assert_eq!((names(directory.path()), azure.versions()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_target_that_does_not_exist_is_made_so_that_it_can_lock_only_where_it_is_to() {
    let (capturing, facts, _) = captured().await;
    for (locks, made) in [(RestoredLocks::LeftOut, ("create", 1)), (RestoredLocks::Governance, ("create_locking", 1))] {
        let target = Watched::over(locking("target"));
        target.remove_place();
        let rebuild = BucketTarget::new(target.clone()).with_locks(locks);
        let said = rebuild.inspect(&facts, false).await.unwrap();
        assert!(said.contains("does not exist yet and will be made; locks"), "{said}");
        assert_checks(&Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap());
        assert_eq!((target.calls("create") + target.calls("create_locking"), target.calls(made.0)), (1, made.1), "{locks:?}");
    }
}

#[tokio::test]
async fn an_object_that_matches_and_is_held_less_than_is_wanted_is_written_again() {
    let (capturing, facts, all) = captured().await;
    let target = locking("target");
    let without = BucketTarget::new(target.clone());
    Rebuilding::anew().run(&without, capturing.sink.origin(), &facts).await.unwrap();
    // Firmer and longer than is wanted; less firm; without the hold.
    target.extend_lock("governance", lock(LockMode::Compliance, 900).unwrap()).await.unwrap();
    target.extend_lock("compliance", lock(LockMode::Governance, 900).unwrap()).await.unwrap();
    target.extend_lock("large", lock(LockMode::Governance, 900).unwrap()).await.unwrap();
    target.set_legal_hold("held", true);
    let rebuild = BucketTarget::new(target.clone()).with_locks(RestoredLocks::AsRecorded);
    let rebuilt = Rebuilding::over().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    assert_checks(&rebuilt);
    // Kept: "free", "governance", "held".
    assert_eq!((rebuilt.items, rebuilt.items_kept), (4, 3));
    let there = shown(&*target).await;
    for (key, wanted) in all.into_iter().filter(|(key, _)| key != "ends soon") {
        assert!(there[&key].covers(&wanted), "{key}: {} and not {wanted}", there[&key]);
    }
    let again = Rebuilding::over().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    assert_eq!((again.items, again.items_kept), (0, 7));
}

#[tokio::test]
async fn a_server_that_takes_locks_and_keeps_none_fails_the_restore() {
    let (capturing, facts, _) = captured().await;
    let target = FaultyStore::over(locking("target"));
    target.forget_locks();
    let rebuild = BucketTarget::new(target).with_locks(RestoredLocks::AsRecorded);
    let rebuilt = Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    let failed: Vec<_> = rebuilt.checks.iter().filter(|check| check.failed()).collect();
    assert_eq!(failed.len(), 2, "{:#?}", rebuilt.checks);
    assert!(failed[0].expected.starts_with("compliance until ") && failed[0].actual == "nothing", "{failed:?}");
}

#[tokio::test]
async fn a_target_that_does_not_tell_fails_nothing_and_says_so() {
    let (capturing, facts, _) = captured().await;
    let target = Watched::over(locking("target"));
    target.fail("holds", "", |place| StoreError::Denied { place, action: "read the lock of", detail: "AccessDenied".into() });
    let rebuild = BucketTarget::new(target).with_locks(RestoredLocks::AsRecorded);
    let rebuilt = Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap();
    assert_checks(&rebuilt);
    let note = check(&rebuilt, "a lock in the target").unwrap();
    assert!(note.outcome == CheckOutcome::Note && note.actual.contains("could not be read back"), "{note:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_objects_goes_to_azure_and_comes_back_from_there() {
    let (capturing, facts, all) = captured().await;
    let azure = FakeAzure::today(Rules::default());
    let target: SharedStore = Arc::new(azure.store("back").await);
    let rebuild = BucketTarget::new(target.clone()).with_locks(RestoredLocks::AsRecorded);
    assert_checks(&Rebuilding::anew().run(&rebuild, capturing.sink.origin(), &facts).await.unwrap());
    let wanted = |key: &str| Holds { lock: all[key].lock.filter(|_| key != "ends soon"), ..all[key] };
    let expected: BTreeMap<_, _> = all.keys().map(|key| (key.clone(), wanted(key))).collect();
    assert_eq!(shown(&*target).await, expected);
    // Unlocked policies for governance, locked ones for compliance: by the words of the service.
    for (asked, locks) in [(true, 7), (false, 0)] {
        let again = Capturing::first();
        let facts = again.run(&source(target.clone(), asked)).await.unwrap().facts;
        assert_eq!(recorded(&again), expected);
        assert_eq!(facts["locks_asked"].as_u64().unwrap_or(0), locks);
    }
    let back = locking("back");
    let rebuild = BucketTarget::new(back.clone()).with_locks(RestoredLocks::AsRecorded);
    let again = Capturing::first();
    let facts = again.run(&source(target, true)).await.unwrap().facts;
    assert_checks(&Rebuilding::anew().run(&rebuild, again.sink.origin(), &facts).await.unwrap());
    assert_eq!(shown(&*back).await, expected);
}
