//! What else is done to a site at which a rotation has stopped: verifications, and prunes down to their deletions.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use farshore::{operations::VerifyLevel, policy::Retention, stores::SharedStore};

use super::Team;
use crate::support::{
    recovery::{Objects, noise, objects},
    soak,
    staged_store::Staged,
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifications_and_prunes_after_any_write_of_a_rotation_lose_nothing_and_it_goes_on() {
    let mut team = Team::new();
    team.recovery.retention = Retention { keep_within: 70 * HOUR, keep_verified: 1, ..Retention::default() };
    let recovery = &team.recovery;
    let begun: SharedStore = recovery.site_of(&Objects::new()).await;
    recovery.init(&begun).await;
    // Of three runs, each with a key of its own, the first one's packs are needed by its own point alone.
    let mut contents = Vec::new();
    for (number, gone) in [(0, None), (1, Some("0")), (2, None)] {
        if let Some(gone) = gone {
            farshore::stores::Store::delete(recovery.source.as_ref(), gone).await.unwrap();
        }
        recovery.put(&number.to_string(), noise(60_000, number)).await;
        recovery.backup(begun.clone(), &recovery.fresh_cache()).await.unwrap();
        contents.push(objects(recovery.source.as_ref()).await);
    }
    let before = objects(begun.as_ref()).await;
    let bob_and_cid = team.request(&[&team.bob, &team.cid]);
    let mut stops = 0;
    // In everyday tests after every other write.
    let step = if soak(1) > 1 { 1 } else { 2 };
    for stop in (0..).step_by(step) {
        let what = format!("after {stop} writes");
        let site: SharedStore = recovery.site_of(&before).await;
        recovery.clock.advance(100 * HOUR);
        let cut = Arc::new(Staged::over(site.clone()));
        cut.writes_left.store(stop, Ordering::SeqCst);
        let ended = team.rotate(&team.bob, cut.clone(), &bob_and_cid).await.is_ok() && cut.writes_left.load(Ordering::SeqCst) >= 0;
        for (who, level) in
            [(&team.agent, VerifyLevel::Structure), (&team.bob, VerifyLevel::Structure), (&team.bob, VerifyLevel::ReadData(100.0))]
        {
            let verified = recovery.verify_so_far(&who.identity, site.clone(), &recovery.fresh_cache(), level).await.unwrap();
            assert_eq!((verified.damage, verified.points_checked), (vec![], 3), "{what}, {level:?}");
        }
        // Of the first point nothing is left, and of its key no wrap, whoever it was for.
        let mut deleted = (0, 0);
        for _ in 0..4 {
            let pruned = recovery.prune(site.clone(), &recovery.fresh_cache()).await.unwrap();
            assert_eq!(pruned.problems, [], "{what}");
            deleted = (deleted.0 + pruned.points_deleted, deleted.1 + pruned.keys_deleted);
            recovery.clock.advance(27 * HOUR);
        }
        assert_eq!(deleted, (2, 1), "{what}");
        let keys = objects(site.as_ref()).await.into_keys().filter(|key| key.starts_with("keys/data-"));
        let ids: std::collections::BTreeSet<String> = keys.map(|key| key["keys/data-".len()..][..32].to_owned()).collect();
        assert_eq!(ids.len(), 2, "{what}: {ids:?}");
        team.assert_opens_everything(&team.bob, &site, &contents[2..], &what).await;
        let done = team.rotate(&team.bob, site.clone(), &bob_and_cid).await.unwrap();
        assert!(done.unwrapped.is_empty() && done.left.is_empty(), "{what}: {done:?}");
        for person in [&team.bob, &team.cid] {
            team.assert_opens_everything(person, &site, &contents[2..], &what).await;
        }
        team.restore(&team.ann, site, 0).await.unwrap_err();
        if ended {
            break;
        }
        stops += 1;
    }
    // A set, four keys wrapped, four wraps deleted.
    assert_eq!(stops, if step == 1 { 9 } else { 5 });
}
