//! Wraps and sets that are hurt: an older wrap is used, or the damage is named; never the wrong key, never silence.

use bytes::Bytes;
use farshore::{
    repository::RotationRequest,
    stores::{PutOptions, SharedStore, Store},
};

use super::{Team, below};
use crate::support::recovery::{Objects, objects, store_of};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Flipped,
    Truncated,
    Emptied,
    /// The bytes of the older generation's wrap of the same key.
    Older,
    /// The wrap of another key.
    Swapped,
}

const HARMS: [Harm; 5] = [Harm::Flipped, Harm::Truncated, Harm::Emptied, Harm::Older, Harm::Swapped];

/// The wraps of generation 1 that hold data keys.
fn rewraps(all: &Objects) -> Vec<String> {
    below(all, "keys/data-").into_keys().filter(|key| key.contains(".00000001-")).collect()
}

fn harmed(before: &Objects, after: &Objects, key: &str, harm: Harm) -> Objects {
    let mut all = after.clone();
    let body = after[key].clone();
    let older = format!("{}.age", key.split('.').next().unwrap());
    let broken = match harm {
        Harm::Flipped => {
            let mut bytes = body.to_vec();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            bytes.into()
        }
        Harm::Truncated => body.slice(..body.len() / 2),
        Harm::Emptied => Bytes::new(),
        Harm::Older => before[&older].clone(),
        Harm::Swapped => after[rewraps(after).iter().find(|other| *other != key).unwrap()].clone(),
    };
    all.insert(key.to_owned(), broken);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hurt_wrap_is_passed_over_where_an_older_one_opens_and_named_where_none_does() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    // Once with the older wraps beside the new ones, once with them gone.
    for keeps_older in [true, false] {
        let readers = if keeps_older { vec![&team.ann, &team.bob, &team.cid] } else { vec![&team.bob, &team.cid] };
        let store = store_of(&before).await;
        team.rotate(&team.bob, store.clone(), &team.request(&readers)).await.unwrap();
        let after = objects(store.as_ref()).await;
        let key = &rewraps(&after)[0];
        for harm in HARMS {
            let what = format!("{harm:?}, older wraps kept: {keeps_older}");
            let hurt: SharedStore = store_of(&harmed(&before, &after, key, harm)).await;
            let bob = team.restore(&team.bob, hurt.clone(), 1).await;
            // An older wrap holds the same key, and Bob was a recipient then.
            if keeps_older || harm == Harm::Older {
                assert!(bob.unwrap_or_else(|error| panic!("{what}: {error}")) == contents[1], "{what}");
            } else {
                let error = bob.unwrap_err().to_string();
                assert!(error.contains(key.as_str()) && error.contains("another copy of the site"), "{what}: {error}");
            }
            let cid = team.restore(&team.cid, hurt.clone(), 1).await.unwrap_err().to_string();
            assert!(cid.contains(key.as_str()), "{what}: {cid}");
            let verified = team.recovery.verify_with(&team.cid.identity, hurt.clone(), &team.recovery.fresh_cache()).await;
            let named = match verified {
                Ok(report) => report.damage.iter().any(|damage| damage.object == *key || damage.detail.contains(key.as_str())),
                Err(error) => error.to_string().contains(key.as_str()),
            };
            assert!(named, "{what}: verification does not name {key}");
            // Who still opens the key mends it: everything is wrapped anew.
            if keeps_older {
                let mut anew = team.request(&readers);
                anew.anew = true;
                let mended = team.rotate(&team.bob, hurt.clone(), &anew).await.unwrap();
                assert_eq!((mended.wrapped, mended.unwrapped.len(), mended.left.len()), (3, 0, 0), "{what}");
                team.assert_opens_everything(&team.cid, &hurt, &contents, &what).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_wrap_is_not_deleted_before_the_newer_one_is_known_to_open() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let store = store_of(&before).await;
    team.rotate(&team.bob, store.clone(), &team.request(&[&team.bob, &team.cid])).await.unwrap();
    let after = objects(store.as_ref()).await;
    let key = &rewraps(&after)[0];
    // As if the rotation had stopped before it deleted, and a wrap had been hurt since.
    let mut all = harmed(&before, &after, key, Harm::Flipped);
    all.extend(below(&before, "keys/"));
    let hurt: SharedStore = store_of(&all).await;
    let done = team.rotate(&team.bob, hurt.clone(), &team.request(&[&team.bob, &team.cid])).await.unwrap();
    assert_eq!((done.deleted, done.left.len()), (2, 1), "{done:?}");
    assert!(done.left[0].detail.contains("is kept, because") && done.left[0].detail.contains(key.as_str()), "{done:?}");
    assert!(team.restore(&team.bob, hurt, 1).await.unwrap() == contents[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_wrap_that_holds_another_key_than_the_newest_is_kept() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let store = store_of(&before).await;
    let anew = RotationRequest { anew: true, ..team.request(&[&team.ann, &team.bob]) };
    team.rotate(&team.bob, store.clone(), &anew).await.unwrap();
    let mut all = objects(store.as_ref()).await;
    // As if the older wraps had never gone, and somebody had wrapped a key of his own for the newest set.
    all.extend(below(&before, "keys/"));
    let forged = rewraps(&all).into_iter().find(|key| key.contains("data-")).unwrap();
    let older = below(&before, "keys/data-").into_keys().find(|key| forged.starts_with(key.trim_end_matches("age"))).unwrap();
    let id = forged.trim_start_matches("keys/data-").split('.').next().unwrap();
    let json = format!("{{\"kind\":\"data\",\"id\":\"{id}\",\"key\":\"{}\"}}", "ab".repeat(32));
    let reader: age::x25519::Recipient = team.bob.public.parse().unwrap();
    all.insert(forged.clone(), age::encrypt(&reader, json.as_bytes()).unwrap().into());
    let hurt: SharedStore = store_of(&all).await;
    let done = team.rotate(&team.bob, hurt.clone(), &team.request(&[&team.ann, &team.bob])).await.unwrap();
    assert_eq!((done.deleted, done.left.len()), (2, 1), "{done:?}");
    assert!(done.left[0].key == older && done.left[0].detail.contains("holds another key"), "{done:?}");
    // Nothing is lost: without the forged wrap everything opens.
    hurt.delete(&forged).await.unwrap();
    assert!(team.restore(&team.bob, hurt, 1).await.unwrap() == contents[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hurt_set_hinders_no_restore_is_named_and_written_anew() {
    let mut team = Team::new();
    let (before, contents) = team.begun().await;
    let store = store_of(&before).await;
    team.rotate(&team.bob, store.clone(), &team.request(&[&team.bob, &team.cid])).await.unwrap();
    team.recovery.recipients = team.named(&[&team.bob, &team.cid]);
    let after = objects(store.as_ref()).await;
    let set = "recipients/00000001";
    for bit in [0, 8 * 9, 8 * 30, 8 * 100] {
        let mut all = after.clone();
        let mut bytes = all[set].to_vec();
        bytes[bit / 8] ^= 1;
        all.insert(set.to_owned(), bytes.into());
        let hurt: SharedStore = store_of(&all).await;
        for person in [&team.bob, &team.cid] {
            assert!(team.restore(person, hurt.clone(), 1).await.unwrap() == contents[1], "bit {bit}");
        }
        let verified = team.recovery.verify_with(&team.bob.identity, hurt.clone(), &team.recovery.fresh_cache()).await.unwrap();
        assert_eq!(verified.damage.iter().map(|damage| damage.object.as_str()).collect::<Vec<_>>(), [set], "bit {bit}");
        let refused = team.recovery.backup(hurt.clone(), &team.recovery.fresh_cache()).await.unwrap_err().to_string();
        assert!(refused.contains(set) && refused.contains("farshore key rotate"), "bit {bit}: {refused}");
        let mut request = team.request(&[&team.bob, &team.cid]);
        request.agents = Some(vec![team.agent.public.clone()]);
        let done = team.rotate(&team.bob, hurt.clone(), &request).await.unwrap();
        assert_eq!((done.plan.generation, done.wrapped, done.left.len()), (2, 3, 0), "bit {bit}");
        team.recovery.backup(hurt, &team.recovery.fresh_cache()).await.unwrap();
    }
    // Taken away: the keys still say that there was one, and the policy that nothing is wrapped to those of before.
    let mut all = after.clone();
    all.remove(set);
    let robbed: SharedStore = store_of(&all).await;
    assert!(team.restore(&team.cid, robbed.clone(), 1).await.unwrap() == contents[1]);
    let verified = team.recovery.verify_with(&team.bob.identity, robbed.clone(), &team.recovery.fresh_cache()).await.unwrap();
    assert_eq!(verified.damage.iter().map(|damage| damage.object.as_str()).collect::<Vec<_>>(), [set]);
    let refused = team.recovery.backup(robbed, &team.recovery.fresh_cache()).await.unwrap_err().to_string();
    assert!(refused.contains("other recipients"), "{refused}");
    // The set of another generation in its place is none.
    let rotated = store_of(&after).await;
    rotated.put("recipients/00000002", after[set].clone(), PutOptions::default()).await.unwrap();
    let refused = team.recovery.backup(rotated, &team.recovery.fresh_cache()).await.unwrap_err().to_string();
    assert!(refused.contains("recipients/00000002") && refused.contains("holds generation 1 instead"), "{refused}");
}
