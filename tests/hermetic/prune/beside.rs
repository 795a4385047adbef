//! Two prunes at once: while one of them waits for an answer, whichever it is, the other one begins and ends.

use std::time::Duration;

use super::{
    basics::{DAY, HOUR},
    stopped_beside::{Scene, with_a_pack_to_be_emptied, with_locks},
};
use crate::support::faulty_store::{Call, Fault, FaultyStore};

/// In a scene that `prepare` makes, and so long after a prune that has doomed what may go. How often another prune came between.
async fn another_everywhere(prepare: impl AsyncFn() -> Scene, after: Duration, call: Call) -> u64 {
    for number in 0.. {
        let what = format!("before {call:?} {number}");
        let scene = prepare().await;
        scene.prune(&what).await;
        let recovery = &scene.parties[0].recovery;
        recovery.clock.advance(after);
        let slow = FaultyStore::over(scene.site.clone());
        slow.queue_after(number, call, Fault::SlowBefore);
        let (cache, others) = (recovery.fresh_cache(), recovery.fresh_cache());
        let other = async {
            recovery.prune(scene.site.clone(), &others).await.unwrap_or_else(|error| panic!("{what}, the other one: {error}"));
        };
        let (pruned, came) = slow.while_slow(recovery.prune(slow.clone(), &cache), other).await;
        let pruned = pruned.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(pruned.problems, [], "{what}");
        scene.check(&what).await;
        let verified = recovery.verify(scene.site.clone(), &recovery.fresh_cache()).await.unwrap();
        assert_eq!((verified.damage, verified.mended), (vec![], vec![]), "{what}: an index names what is gone");
        if !came {
            return number;
        }
    }
    unreachable!("it ends where no other prune came between")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_beside_which_another_one_replaces_indexes_ends_well_and_no_index_names_what_is_gone() {
    for call in [Call::Get, Call::List] {
        let times = another_everywhere(with_a_pack_to_be_emptied, 27 * HOUR, call).await;
        assert!(times > 5, "{call:?}: only {times} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_where_objects_were_locked() {
    for (call, least) in [(Call::Get, 5), (Call::Lock, 2)] {
        // The locks have ended; whether there is one is asked for all the same.
        let times = another_everywhere(with_locks, 20 * DAY, call).await;
        assert!(times >= least, "{call:?}: only {times} times");
    }
}
