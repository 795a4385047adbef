//! Everything is read once by so many runs, on whatever machine; and an interrupted one goes on.

use std::{collections::BTreeSet, fs, time::Duration};

use farshore::{operations::VerifyLevel, report::VerifyReport, stores::PutOptions};

use super::{nightly, verified};
use crate::support::{
    recovery::{Recovery, noise, objects},
    watched_store::WatchedStore,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_nights_as_parts_read_every_pack_once_whatever_machine_runs_them() {
    const PARTS: u32 = 5;
    let recovery = Recovery::new(true);
    let (store, mut ids) = nightly(&recovery, 8).await;
    let all = objects(store.as_ref()).await;
    let packs: BTreeSet<String> = all.keys().filter(|key| key.starts_with("packs/")).cloned().collect();
    let data_packs: Vec<&String> = packs.iter().filter(|key| all[*key][9] == 1).collect();
    let watched = WatchedStore::over(store.clone(), recovery.clock.clone());
    let (mut read, mut parts): (Vec<String>, _) = (Vec::new(), Vec::new());
    for night in 0..u64::from(PARTS) {
        // The eighth point needs the data packs of all before it.
        let unread = data_packs.iter().any(|key| !read.contains(key));
        assert!(!unread || !verified(&recovery, &store).await.contains(&ids[7]), "night {night}: not everything was read yet");
        let report = recovery.verify_at(watched.clone(), &recovery.fresh_cache(), VerifyLevel::ReadPart(PARTS)).await.unwrap();
        assert_eq!(report.damage, []);
        parts.push(report.part.unwrap().number);
        let reads = watched.whole_reads();
        assert_eq!(u64::try_from(reads.len()).unwrap(), report.packs_read);
        read.extend(reads.into_iter().flat_map(|(key, times)| vec![key; times as usize]));
        // Life goes on.
        recovery.put(&format!("later/{night}"), noise(20_000, 100 + night)).await;
        ids.push(recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap().point_id);
        recovery.clock.advance(Duration::from_secs(86_400));
    }
    assert_eq!(parts, [1, 2, 3, 4, 5]);
    let of_before: Vec<_> = read.iter().filter(|key| packs.contains(*key)).collect();
    assert_eq!(of_before.len(), packs.len(), "each once");
    assert_eq!(of_before.into_iter().cloned().collect::<BTreeSet<_>>(), packs);
    // Verified are the points that were there all the time; of later ones those whose own packs had their turn since.
    let sound = verified(&recovery, &store).await;
    assert!(ids[..8].iter().all(|id| sound.contains(id)), "{sound:?}");
    assert!(!sound.contains(&ids[12]), "what was stored after the last reading was read by nobody");
    for _ in 0..PARTS {
        recovery.verify_at(watched.clone(), &recovery.fresh_cache(), VerifyLevel::ReadPart(PARTS)).await.unwrap();
    }
    assert_eq!(verified(&recovery, &store).await.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_that_goes_on_does_not_vouch_for_what_was_damaged_meanwhile() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 8).await;
    let watched = WatchedStore::over(store.clone(), recovery.clock.clone());
    let (cache, full) = (recovery.fresh_cache(), VerifyLevel::ReadData(100.0));
    recovery.clock.advance(Duration::from_secs(60));
    watched.stop_after(Some(7));
    let work = recovery.verify_at(watched.clone(), &cache, full);
    tokio::time::timeout(Duration::from_secs(3), work).await.unwrap_err();
    watched.stop_after(None);
    // Those that were still being read when it was killed are not noted down: all seven rot, so that some were.
    for key in watched.whole_reads().into_keys() {
        let mut body = objects(store.as_ref()).await[&key].to_vec();
        let middle = body.len() / 2;
        body[middle] ^= 1;
        store.delete(&key).await.unwrap();
        store.put(&key, body.into(), PutOptions::default()).await.unwrap();
    }
    let elsewhere = recovery.verify_at(store.clone(), &recovery.fresh_cache(), full).await.unwrap();
    let packs = |report: &VerifyReport| -> BTreeSet<String> {
        report.damage.iter().map(|damage| damage.object.clone()).filter(|object| object.starts_with("packs/")).collect()
    };
    assert_eq!(packs(&elsewhere).len(), 7, "{elsewhere:?}");
    let report = recovery.verify_at(watched.clone(), &cache, full).await.unwrap();
    assert_eq!((packs(&report).len(), report.packs_resumed), (7, 0), "{report:?}");
    assert!(!verified(&recovery, &store).await.contains(&ids[7]));
    assert_eq!(packs(&recovery.verify_at(store, &recovery.fresh_cache(), full).await.unwrap()).len(), 7, "the marks stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_a_part_that_cannot_be_is_named_and_counts_for_nothing() {
    let recovery = Recovery::new(true);
    let (store, ids) = nightly(&recovery, 2).await;
    let full = VerifyLevel::ReadData(100.0);
    recovery.verify_at(store.clone(), &recovery.fresh_cache(), full).await.unwrap();
    // Whoever has the agent's key can write it.
    let thief = recovery.open_with(&recovery.agent, store.clone(), &recovery.fresh_cache()).await.unwrap();
    let name = thief.evidence_names().await.unwrap().pop().unwrap();
    let mut forged: serde_json::Value = serde_json::from_slice(&thief.evidence(&name).await.unwrap().0).unwrap();
    forged["report"]["part"] = serde_json::json!({ "number": 1, "of": 0 });
    let (forged, _) = thief.put_evidence(&serde_json::to_vec(&forged).unwrap()).await.unwrap();
    let report = recovery.verify_at(store.clone(), &recovery.fresh_cache(), VerifyLevel::ReadPart(3)).await.unwrap();
    assert!(report.damage.iter().any(|damage| damage.object == forged.key && damage.detail.contains("part 1 of 0")), "{report:?}");
    assert_eq!(verified(&recovery, &store).await.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_of_long_ago_do_not_make_a_point_verified() {
    let recovery = Recovery::new(true);
    // So many that both halves hold some of what the newest point needs, but in one of a million cases.
    let (store, ids) = nightly(&recovery, 20).await;
    let night = async || recovery.verify_at(store.clone(), &recovery.fresh_cache(), VerifyLevel::ReadPart(2)).await;
    night().await.unwrap();
    recovery.clock.advance(Duration::from_secs(46 * 86_400));
    night().await.unwrap();
    assert!(!verified(&recovery, &store).await.contains(&ids[19]), "the first half was read 46 days ago");
    night().await.unwrap();
    assert_eq!(verified(&recovery, &store).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_verification_goes_on_where_it_was_and_believes_only_its_own_notes() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 8).await;
    let packs = objects(store.as_ref()).await.into_keys().filter(|key| key.starts_with("packs/")).count() as u64;
    let watched = WatchedStore::over(store.clone(), recovery.clock.clone());
    let cache = recovery.fresh_cache();
    let full = VerifyLevel::ReadData(100.0);
    let killed = async |cache: &std::path::Path| {
        watched.stop_after(Some(7));
        let work = recovery.verify_at(watched.clone(), cache, full);
        tokio::time::timeout(Duration::from_secs(3), work).await.unwrap_err();
        watched.stop_after(None);
        watched.whole_reads()
    };
    let before = killed(&cache).await;
    assert_eq!(before.len(), 7);
    assert!(verified(&recovery, &store).await.is_empty());
    let report = recovery.verify_at(watched.clone(), &cache, full).await.unwrap();
    let after = watched.whole_reads();
    // What was being read when it was killed is read again.
    assert!(report.packs_resumed >= 3 && report.packs_resumed <= 7, "{report:?}");
    assert_eq!(after.len() as u64, packs - report.packs_resumed);
    assert_eq!(before.keys().chain(after.keys()).collect::<BTreeSet<_>>().len() as u64, packs);
    assert_eq!(verified(&recovery, &store).await.len(), 8);
    // The next one begins anew.
    assert_eq!(recovery.verify_at(watched.clone(), &cache, full).await.unwrap().packs_resumed, 0);
    // Notes that somebody changed, that are of another repository, too old, or of another part are not believed.
    killed(&cache).await;
    let directory = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let note = directory.join("verification.state");
    let good = fs::read(&note).unwrap();
    let mut changed = good.clone();
    changed[100] ^= 1;
    let other = Recovery::new(true);
    let (others_store, _) = nightly(&other, 1).await;
    let others = WatchedStore::over(others_store, other.clock.clone());
    others.stop_after(Some(1));
    let others_cache = other.fresh_cache();
    tokio::time::timeout(Duration::from_secs(2), other.verify_at(others, &others_cache, full)).await.unwrap_err();
    let others_note = fs::read_dir(&others_cache).unwrap().next().unwrap().unwrap().path().join("verification.state");
    for note_of in [changed, fs::read(others_note).unwrap(), b"{}".to_vec(), Vec::new()] {
        fs::write(&note, note_of).unwrap();
        assert_eq!(recovery.verify_at(watched.clone(), &cache, full).await.unwrap().packs_resumed, 0);
    }
    fs::write(&note, &good).unwrap();
    assert_eq!(recovery.verify_at(watched.clone(), &cache, VerifyLevel::ReadPart(2)).await.unwrap().packs_resumed, 0);
    fs::write(&note, &good).unwrap();
    recovery.clock.advance(Duration::from_secs(8 * 86_400));
    assert_eq!(recovery.verify_at(watched.clone(), &cache, full).await.unwrap().packs_resumed, 0);
}
