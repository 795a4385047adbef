//! A rotation of which one call takes very long, while the others do all that is done at a site in days: backups, verifications, prunes
//! down to their deletions, and another rotation.

use std::time::Duration;

use farshore::{
    operations::VerifyLevel,
    policy::Retention,
    stores::{SharedStore, Store},
};

use super::{Person, Team};
use crate::support::{
    faulty_store::{Call, FaultyStore},
    recovery::{Objects, noise, objects},
    slow::{assert_clear, slow, slow_calls},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Of three runs, each with a key of its own, the first one's packs are needed by its own point alone.
async fn begun(team: &Team) -> (Objects, Vec<Objects>) {
    let recovery = &team.recovery;
    let store: SharedStore = recovery.site_of(&Objects::new()).await;
    recovery.init(&store).await;
    let mut contents = Vec::new();
    for (number, gone) in [(0, None), (1, Some("0")), (2, None)] {
        if let Some(gone) = gone {
            recovery.source.delete(gone).await.unwrap();
        }
        recovery.put(&number.to_string(), noise(60_000, number)).await;
        recovery.backup(store.clone(), &recovery.fresh_cache()).await.unwrap();
        contents.push(objects(recovery.source.as_ref()).await);
    }
    (objects(store.as_ref()).await, contents)
}

/// A team whose points of the beginning are, but for the last, to go after a hundred hours.
fn team() -> Team {
    let mut team = Team::new();
    team.recovery.retention = Retention { keep_within: 70 * HOUR, keep_verified: 1, ..Retention::default() };
    team
}

/// The nights that pass while a call is slow: prunes and verifications.
async fn nights(team: &Team, site: &SharedStore, what: &str) {
    let recovery = &team.recovery;
    for _ in 0..4 {
        let pruned = recovery.prune(site.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!(pruned.problems, [], "{what}");
        recovery.clock.advance(27 * HOUR);
    }
    for (who, level) in [(&team.agent, VerifyLevel::Structure), (&team.bob, VerifyLevel::ReadData(100.0))] {
        let verified = recovery.verify_so_far(&who.identity, site.clone(), &recovery.fresh_cache(), level).await.unwrap();
        assert_eq!(verified.damage, [], "{what}, {level:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_which_one_call_outlasts_keys_and_points_loses_nothing_and_goes_on() {
    let team = team();
    let (before, contents) = begun(&team).await;
    let to_cid = team.request(&[&team.bob, &team.cid]);
    let stored = async || {
        let site: SharedStore = team.recovery.site_of(&before).await;
        team.recovery.clock.advance(100 * HOUR);
        site
    };
    let quiet = FaultyStore::over(stored().await);
    team.rotate(&team.bob, quiet.clone(), &to_cid).await.unwrap();
    assert!(quiet.calls(Call::Put) > 4 && quiet.calls(Call::Delete) > 3);
    let (mut done, mut went_on) = (0, 0);
    for at in slow_calls(&quiet, 2) {
        let site = stored().await;
        let (faulty, what) = slow(&site, at);
        let (rotated, came) = faulty.while_slow(team.rotate(&team.bob, faulty.clone(), &to_cid), nights(&team, &site, &what)).await;
        if !came {
            // Several keys are tried at once, and the first that opens is enough: the others are not waited for.
            assert!(at.0 == Call::Get && rotated.is_ok(), "{what}: it never came to it: {rotated:?}");
            continue;
        }
        match rotated {
            Ok(rotated) if rotated.left.is_empty() && rotated.unwrapped.is_empty() => done += 1,
            // A key that went with its point meanwhile: named, and for the next one to see to.
            Ok(_) => went_on += 1,
            Err(error) => {
                assert_clear(&error, &what);
                went_on += 1;
            }
        }
        // The last point is what retention keeps; nobody lost it, and those who leave have it only as long as the rotation is not done.
        let left = recovered(&team, &site).await;
        team.assert_opens_everything(&team.bob, &site, &contents[3 - left..], &what).await;
        let again = team.rotate(&team.bob, site.clone(), &to_cid).await.unwrap();
        assert!(again.unwrapped.is_empty() && again.left.is_empty(), "{what}: {again:?}");
        for person in [&team.bob, &team.cid] {
            team.assert_opens_everything(person, &site, &contents[3 - left..], &what).await;
        }
        team.restore(&team.ann, site.clone(), 0).await.unwrap_err();
        nights(&team, &site, &what).await;
        team.assert_opens_everything(&team.cid, &site, &contents[2..], &what).await;
    }
    assert!(done > 0, "{done} done, {went_on} went on: this proves little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_which_one_call_outlasts_a_backup_and_another_rotation_shuts_nobody_out_who_is_let_in() {
    let team = team();
    let (before, mut contents) = begun(&team).await;
    let dan = Person::new();
    let (to_cid, to_dan) = (team.request(&[&team.bob, &team.cid]), team.request(&[&team.bob, &dan]));
    let quiet = FaultyStore::over(team.recovery.site_of(&before).await);
    team.rotate(&team.bob, quiet.clone(), &to_cid).await.unwrap();
    contents.push(contents[2].clone());
    let mut outrun = 0;
    for at in slow_calls(&quiet, 2) {
        let site: SharedStore = team.recovery.site_of(&before).await;
        let (faulty, what) = slow(&site, at);
        let meanwhile = async {
            // Somebody changes his mind, and the night's backup comes by the new policy.
            team.rotate(&team.bob, site.clone(), &to_dan).await.unwrap();
            backup_for(&team, &[&team.bob, &dan], &site).await;
        };
        let (rotated, came) = faulty.while_slow(team.rotate(&team.bob, faulty.clone(), &to_cid), meanwhile).await;
        if !came {
            assert!(at.0 == Call::Get && rotated.is_ok(), "{what}: it never came to it: {rotated:?}");
            continue;
        }
        if let Err(error) = &rotated {
            assert_clear(error, &what);
            outrun += 1;
        }
        team.assert_opens_everything(&team.bob, &site, &contents, &what).await;
        // Whoever's wish came last: a further rotation makes it so for all keys, and both orders end alike.
        for (request, inside, outside) in [(&to_cid, &team.cid, &dan), (&to_dan, &dan, &team.cid)] {
            let again = team.rotate(&team.bob, site.clone(), request).await.unwrap();
            assert!(again.unwrapped.is_empty() && again.left.is_empty(), "{what}: {again:?}");
            team.assert_opens_everything(&team.bob, &site, &contents, &what).await;
            team.assert_opens_everything(inside, &site, &contents, &what).await;
            team.restore(outside, site.clone(), 0).await.unwrap_err();
        }
    }
    assert!(outrun > 0, "no rotation was outrun by the other");
}

/// A further point, by a policy that names these readers.
async fn backup_for(team: &Team, readers: &[&Person], site: &SharedStore) {
    let mut recovery = team.recovery.beside("p");
    (recovery.source, recovery.recipients) = (team.recovery.source.clone(), team.named(readers));
    recovery.backup(site.clone(), &recovery.fresh_cache()).await.unwrap();
}

/// How many points there are.
async fn recovered(team: &Team, site: &SharedStore) -> usize {
    let cache = team.recovery.fresh_cache();
    let repository = team.recovery.open_with(&team.bob.identity, site.clone(), &cache).await.unwrap();
    repository.point_names(None).await.unwrap().len()
}
