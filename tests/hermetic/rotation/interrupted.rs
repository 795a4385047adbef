//! A rotation that stops anywhere, a site that refuses, a backup at the same time.

use std::sync::{Arc, atomic::Ordering};

use farshore::{repository::RotationRequest, stores::SharedStore};
use tokio::sync::Notify;

use super::{Team, below};
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Objects, objects, patient, store_of},
    staged_store::Staged,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_stops_after_any_write_loses_nothing_and_goes_on() {
    let mut team = Team::new();
    let (before, contents) = team.begun().await;
    let bob_and_cid = team.request(&[&team.bob, &team.cid]);
    let whole = Arc::new(Staged::over(store_of(&before).await));
    team.rotate(&team.bob, whole.clone(), &bob_and_cid).await.unwrap();
    // A set, three keys wrapped, three wraps deleted.
    let writes = whole.written();
    assert_eq!(writes, 7);
    for stop in 0..writes {
        let what = format!("after {stop} of {writes} writes");
        let inner = store_of(&before).await;
        let cut = Arc::new(Staged::over(inner.clone()));
        cut.writes_left.store(stop, Ordering::SeqCst);
        let stopped = team.rotate(&team.bob, cut, &bob_and_cid).await;
        let said = stopped.as_ref().map_or_else(ToString::to_string, |done| done.left[0].detail.clone());
        assert!(said.contains("the connection broke") && stopped.is_ok() == (stop >= 4), "{what}: {said}");
        let store: SharedStore = inner.clone();
        team.assert_opens_everything(&team.bob, &store, &contents, &what).await;
        let stopped = objects(inner.as_ref()).await;
        team.recovery.assert_prunes_keep_every_point(&stopped, &team.bob.identity, &what).await;
        // The next night comes before anybody looks: the policy that fits the newest set backs up, the other is refused.
        team.recovery.recipients = team.named(&[&team.bob, &team.cid]);
        let new_policy = team.recovery.backup(store.clone(), &team.recovery.fresh_cache()).await;
        team.recovery.recipients = team.named(&[&team.ann, &team.bob]);
        let old_policy = team.recovery.backup(store.clone(), &team.recovery.fresh_cache()).await;
        assert_eq!((new_policy.is_ok(), old_policy.is_ok()), (stop > 0, stop == 0), "{what}");
        let done = team.rotate(&team.bob, store.clone(), &bob_and_cid).await.unwrap();
        assert!(done.unwrapped.is_empty() && done.left.is_empty(), "{what}: {done:?}");
        let contents = [contents[0].clone(), contents[1].clone(), contents[1].clone()];
        for person in [&team.bob, &team.cid] {
            team.assert_opens_everything(person, &store, &contents, &what).await;
        }
        let shut_out = team.restore(&team.ann, store.clone(), 0).await.unwrap_err().to_string();
        assert!(shut_out.contains("none of the identities at hand opens this key"), "{what}: {shut_out}");
        let after = objects(inner.as_ref()).await;
        assert!(below(&before, "packs/").iter().all(|(key, body)| after.get(key) == Some(body)), "{what}: data were touched");
        // Nothing is left to do, and nothing is done.
        let again = team.rotate(&team.cid, store, &bob_and_cid).await.unwrap();
        assert_eq!((again.wrapped, again.deleted, again.plan.writes_set), (0, 0, false), "{what}");
        assert!(objects(inner.as_ref()).await == after, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrapping_anew_that_stops_after_any_write_is_brought_to_its_end_by_a_plain_rotation() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let plain = team.request(&[&team.ann, &team.bob]);
    let anew = RotationRequest { anew: true, ..plain.clone() };
    let whole = Arc::new(Staged::over(store_of(&before).await));
    team.rotate(&team.bob, whole.clone(), &anew).await.unwrap();
    let writes = whole.written();
    // A set, three keys wrapped, three wraps deleted.
    assert_eq!(writes, 7);
    for stop in 1..=writes {
        let what = format!("after {stop} of {writes} writes");
        let inner = store_of(&before).await;
        let cut = Arc::new(Staged::over(inner.clone()));
        cut.writes_left.store(stop, Ordering::SeqCst);
        let _ = team.rotate(&team.bob, cut, &anew).await;
        let store: SharedStore = inner.clone();
        let stopped = objects(inner.as_ref()).await;
        team.recovery.assert_prunes_keep_every_point(&stopped, &team.bob.identity, &what).await;
        let done = team.rotate(&team.ann, store.clone(), &plain).await.unwrap();
        assert_eq!((done.wrapped + done.deleted, done.left.len()), ((writes - stop) as u64, 0), "{what}: {done:?}");
        let after = objects(inner.as_ref()).await;
        assert!(below(&before, "keys/").keys().all(|key| !after.contains_key(key)), "{what}: an older wrap is left");
        for person in [&team.ann, &team.bob] {
            team.assert_opens_everything(person, &store, &contents, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_no_data_key_writes_nothing() {
    let team = Team::new();
    let (before, _) = team.begun().await;
    let store = store_of(&before).await;
    for anew in [false, true] {
        let readers = if anew { [&team.ann, &team.bob] } else { [&team.bob, &team.cid] };
        let request = RotationRequest { anew, ..team.request(&readers) };
        let refused = team.rotate(&team.agent, store.clone(), &request).await.unwrap_err().to_string();
        assert!(refused.contains("keys/data-") && refused.contains("nothing was written"), "{refused}");
        assert!(objects(store.as_ref()).await == before);
    }
    // Where there is no data key yet, the catalogue's is all there is to wrap.
    let empty = store_of(&Objects::new()).await;
    let shared: SharedStore = empty.clone();
    team.recovery.init(&shared).await;
    let done = team.rotate(&team.agent, shared, &team.request(&[&team.bob, &team.cid])).await.unwrap();
    assert_eq!((done.wrapped, done.unwrapped.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_at_any_call_does_not_hinder_a_rotation() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let request = team.request(&[&team.bob, &team.cid]);
    let quiet = FaultyStore::over(store_of(&before).await);
    team.rotate(&team.bob, patient(quiet.clone()), &request).await.unwrap();
    for call in [Call::Put, Call::Get, Call::List, Call::Delete] {
        assert!(quiet.calls(call) > 0, "{call:?}");
        for number in 0..quiet.calls(call) {
            let bodies = [Fault::BodyBreaks(10), Fault::BodyEndsEarly(10)];
            let faults = [Fault::RefusedBefore, Fault::AnswerLost, Fault::Throttled].into_iter();
            for fault in faults.chain(bodies.into_iter().filter(|_| call == Call::Get)) {
                let what = format!("{fault:?} at {call:?} {number}");
                let inner = store_of(&before).await;
                let faulty = FaultyStore::over(inner.clone());
                faulty.queue_after(number, call, fault);
                let done =
                    team.rotate(&team.bob, patient(faulty), &request).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(done.unwrapped.is_empty() && done.left.is_empty(), "{what}: {done:?}");
                let restored = team.restore(&team.cid, inner, 1).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(restored == contents[1], "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wraps_that_the_site_keeps_are_said_and_deleted_later() {
    let mut team = Team::new();
    let (before, contents) = team.begun().await;
    let staged = Arc::new(Staged::over(store_of(&before).await));
    staged.denies_deletes.store(true, Ordering::SeqCst);
    let bob_and_cid = team.request(&[&team.bob, &team.cid]);
    let done = team.rotate(&team.bob, staged.clone(), &bob_and_cid).await.unwrap();
    assert_eq!((done.wrapped, done.deleted, done.left.len()), (3, 0, 3));
    assert!(done.left.iter().all(|left| left.detail.contains("cannot be deleted yet") && left.detail.contains("it is locked")));
    // Said as it is: what was wrapped for Ann still opens to her, and what is new does not.
    assert!(team.restore(&team.ann, staged.clone(), 1).await.unwrap() == contents[1]);
    team.recovery.recipients = team.named(&[&team.bob, &team.cid]);
    team.recovery.put("secret", crate::support::recovery::noise(50_000, 9)).await;
    team.recovery.backup(staged.clone(), &team.recovery.fresh_cache()).await.unwrap();
    let refused = team.restore(&team.ann, staged.clone(), 2).await.unwrap_err().to_string();
    assert!(refused.contains("none of the identities at hand opens this key"), "{refused}");
    let listed = team.recovery.open_with(&team.bob.identity, staged.clone(), &team.recovery.fresh_cache()).await.unwrap();
    let holders = listed.key_holders().await.unwrap();
    let ann = holders.holders.iter().find(|holder| holder.key == team.ann.public).unwrap();
    assert_eq!((ann.current, ann.catalogue, ann.data_keys, holders.data_keys), (false, true, 2, 3));
    staged.denies_deletes.store(false, Ordering::SeqCst);
    // To Cid the old ones do not open: he cannot tell whether they hold the same keys, and deletes none.
    let done = team.rotate(&team.cid, staged.clone(), &bob_and_cid).await.unwrap();
    assert_eq!((done.wrapped, done.deleted, done.left.len()), (0, 0, 3));
    assert!(done.left.iter().all(|left| left.detail.contains("cannot be compared")), "{done:?}");
    let done = team.rotate(&team.bob, staged.clone(), &bob_and_cid).await.unwrap();
    assert_eq!((done.wrapped, done.deleted, done.left.len()), (0, 3, 0));
    assert!(team.restore(&team.ann, staged.clone(), 0).await.is_err());
    let holders = listed.key_holders().await.unwrap();
    assert!(holders.holders.iter().all(|holder| holder.current), "{holders:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_opens_everything_and_nothing_is_deleted() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let inner = store_of(&before).await;
    let store: SharedStore = inner.clone();
    let all_three = team.request(&[&team.ann, &team.bob, &team.cid]);
    let named = RotationRequest { names: [(team.cid.public.clone(), "escrow".to_owned())].into(), ..all_three };
    let done = team.rotate(&team.ann, store.clone(), &named).await.unwrap();
    assert_eq!((done.wrapped, done.deleted, done.plan.added, done.plan.removed.len()), (3, 0, vec![team.cid.public.clone()], 0));
    let after = objects(inner.as_ref()).await;
    assert!(before.iter().all(|(key, body)| after.get(key) == Some(body)), "what was there is as it was");
    for person in [&team.ann, &team.bob, &team.cid] {
        team.assert_opens_everything(person, &store, &contents, "joined").await;
    }
    let repository = team.recovery.open_with(&team.agent.identity, store, &team.recovery.fresh_cache()).await.unwrap();
    let holders = repository.key_holders().await.unwrap();
    let cid = holders.holders.iter().find(|holder| holder.key == team.cid.public).unwrap();
    assert_eq!((cid.name.as_deref(), cid.catalogue, cid.data_keys), (Some("escrow"), true, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_runs_while_the_recipients_change_says_so_and_the_next_rotation_wraps_its_key() {
    let mut team = Team::new();
    let (before, _) = team.begun().await;
    let mut staged = Staged::over(store_of(&before).await);
    staged.pack_may_go = Some(Notify::new());
    let staged = Arc::new(staged);
    team.recovery.put("third", crate::support::recovery::noise(80_000, 3)).await;
    let now = objects(team.recovery.source.as_ref()).await;
    let cache = team.recovery.fresh_cache();
    let request = team.request(&[&team.bob, &team.cid]);
    let (report, rotated) = tokio::join!(team.recovery.backup(staged.clone(), &cache), async {
        staged.pack_came.notified().await;
        let rotated = team.rotate(&team.bob, staged.inner.clone(), &request).await;
        staged.pack_may_go.as_ref().unwrap().notify_one();
        rotated
    });
    let (report, rotated) = (report.unwrap(), rotated.unwrap());
    assert!(rotated.left.is_empty() && rotated.unwrapped.is_empty(), "{rotated:?}");
    assert!(report.problems.iter().any(|problem| problem.message.contains("recipients were changed while")), "{report:?}");
    // Its key was there in time to be wrapped as well; another one would be by the next call, which is free.
    let again = team.rotate(&team.bob, staged.inner.clone(), &request).await.unwrap();
    assert_eq!(again.wrapped, 0);
    assert!(team.restore(&team.cid, staged.inner.clone(), 2).await.unwrap() == now);
    assert!(team.restore(&team.ann, staged.inner.clone(), 2).await.is_err());
    team.recovery.recipients = team.named(&[&team.bob, &team.cid]);
    let quiet = team.recovery.backup(staged.inner.clone(), &team.recovery.fresh_cache()).await.unwrap();
    assert_eq!(quiet.problems, []);
}
