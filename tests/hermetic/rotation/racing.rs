//! Two rotations at once, and a set that nobody who may has written.

use std::sync::Arc;

use farshore::{operations::OperationError, repository::RepositoryError, stores::SharedStore};
use tokio::sync::Barrier;

use super::{Person, Team, below};
use crate::support::{
    recovery::{objects, store_of},
    staged_store::Staged,
};

async fn of_two_rotations_one_wins(overwrites: bool) {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let dan = Person::new();
    let mut staged = Staged::over(store_of(&before).await);
    (staged.meeting, staged.overwrites) = (Some(Barrier::new(2)), overwrites);
    let staged = Arc::new(staged);
    let (to_cid, to_dan) = (team.request(&[&team.ann, &team.bob, &team.cid]), team.request(&[&team.ann, &team.bob, &dan]));
    let both = tokio::join!(team.rotate(&team.ann, staged.clone(), &to_cid), team.rotate(&team.bob, staged.clone(), &to_dan));
    let (winner, loser, error) = match both {
        (Ok(_), Err(error)) => (&team.cid, &dan, error),
        (Err(error), Ok(_)) => (&dan, &team.cid, error),
        other => panic!("one must win and one must say that it did not: {other:?}"),
    };
    let said = error.to_string();
    assert!(said.contains("another rotation was faster") && said.contains(&winner.public), "{said}");
    assert!(matches!(error, OperationError::Repository(RepositoryError::Key { .. })));
    let store: SharedStore = staged.inner.clone();
    for person in [&team.ann, &team.bob, winner] {
        team.assert_opens_everything(person, &store, &contents, "after the race").await;
    }
    assert!(team.restore(loser, store.clone(), 0).await.is_err());
    // The other one comes again, and has it his way.
    let (mine, request) = if std::ptr::eq(loser, &dan) { (&dan, to_dan) } else { (&team.cid, to_cid) };
    team.rotate(&team.ann, store.clone(), &request).await.unwrap();
    team.assert_opens_everything(mine, &store, &contents, "the second").await;
    assert!(team.restore(winner, store, 0).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rotations_that_race_one_wins_and_the_other_says_so() {
    of_two_rotations_one_wins(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rotations_that_race_one_wins_also_where_the_last_writer_does() {
    of_two_rotations_one_wins(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rotations_that_mean_the_same_help_each_other() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let mut staged = Staged::over(store_of(&before).await);
    staged.meeting = Some(Barrier::new(2));
    let staged = Arc::new(staged);
    let request = team.request(&[&team.bob, &team.cid]);
    let (one, other) =
        tokio::join!(team.rotate(&team.bob, staged.clone(), &request), team.rotate(&team.bob, staged.clone(), &request));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.wrapped + other.wrapped, 3);
    assert!(one.unwrapped.is_empty() && other.unwrapped.is_empty(), "{one:?} {other:?}");
    let store: SharedStore = staged.inner.clone();
    team.assert_opens_everything(&team.cid, &store, &contents, "together").await;
    assert!(team.restore(&team.ann, store, 0).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_a_thief_wrote_with_the_agents_key_lets_nobody_in() {
    let team = Team::new();
    let (before, contents) = team.begun().await;
    let eve = Person::new();
    // The agent's key is enough for the set and the catalogue key, and for no data key. The program refuses that; a thief's would not,
    // so here it sees no data key.
    let data = below(&before, "keys/data-");
    let blind = store_of(&before.into_iter().filter(|(key, _)| !data.contains_key(key)).collect()).await;
    let forged = team.rotate(&team.agent, blind.clone(), &team.request(&[&team.ann, &team.bob, &eve])).await.unwrap();
    assert_eq!((forged.wrapped, forged.plan.writes_set), (1, true));
    let store: SharedStore = store_of(&objects(blind.as_ref()).await.into_iter().chain(data).collect()).await;
    // The agent notices, and wraps nothing to her.
    let refused = team.recovery.backup(store.clone(), &team.recovery.fresh_cache()).await.unwrap_err().to_string();
    assert!(refused.contains("other recipients") && refused.contains(&eve.public), "{refused}");
    // Who puts it right does not let her in either: only the policy says who the recipients are.
    let plan_of = team.request(&[&team.ann, &team.bob]);
    let done = team.rotate(&team.ann, store.clone(), &plan_of).await.unwrap();
    assert_eq!((done.plan.removed, done.wrapped), (vec![eve.public.clone()], 3));
    assert!(team.restore(&eve, store.clone(), 0).await.is_err());
    team.recovery.backup(store.clone(), &team.recovery.fresh_cache()).await.unwrap();
    team.assert_opens_everything(&team.bob, &store, &contents, "put right").await;
}
