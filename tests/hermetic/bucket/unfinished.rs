//! A backup that ended before its time: the next one does not read again what this one had read.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use farshore::stores::{MemoryStore, PutOptions, SharedStore, Store};

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Recovery, noise, objects},
    staged_store::Staged,
};

const OBJECTS: u64 = 40;

struct Case {
    recovery: Recovery,
    site: Arc<MemoryStore>,
    cache: PathBuf,
}

impl Case {
    async fn new() -> Self {
        let recovery = Recovery::new(true);
        for number in 0..OBJECTS {
            recovery.put(&format!("o/{number:02}"), noise(10_000, number)).await;
        }
        let site = MemoryStore::with_clock("site", recovery.clock.clone());
        recovery.init(&(site.clone() as SharedStore)).await;
        let cache = recovery.fresh_cache();
        Self { recovery, site, cache }
    }

    /// A backup from the source through `faulty`: how many objects it read, and whether there is a point.
    async fn backup(&self, faulty: &Arc<FaultyStore>) -> (u64, Result<(), String>) {
        let far = self.recovery.far("s", self.site.clone());
        let before = faulty.calls(Call::Get);
        let backed = self.recovery.backup_to(faulty.clone(), &[far], &self.cache).await;
        let done = backed.map_err(|error| error.to_string()).and_then(|backed| match backed.failed.into_iter().next() {
            Some((_, error)) => Err(error.to_string()),
            None => Ok(()),
        });
        (faulty.calls(Call::Get) - before, done)
    }

    /// One that fails when it reads this object: what the sources say to all that comes then.
    async fn broken_off(&self, at: u64) {
        let faulty = FaultyStore::over(self.recovery.source.clone());
        faulty.break_after(at);
        let (_, done) = self.backup(&faulty).await;
        let error = done.unwrap_err();
        assert!(error.contains("not reachable"), "{error}");
    }

    async fn parts(&self) -> Vec<String> {
        let page = self.site.list("parts/", None, 1000).await.unwrap();
        page.objects.into_iter().map(|object| object.key).collect()
    }

    async fn assert_whole(&self) {
        let restored = self.recovery.restore(self.site.clone(), &self.cache, "latest").await.unwrap();
        assert!(restored == objects(self.recovery.source.as_ref()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_run_had_read_is_not_read_again() {
    let case = Case::new().await;
    case.broken_off(30).await;
    assert_eq!(case.parts().await.len(), 1);
    // With another local index, as on another machine.
    let elsewhere = Case { cache: case.recovery.fresh_cache(), ..case };
    let (read, done) = elsewhere.backup(&FaultyStore::over(elsewhere.recovery.source.clone())).await;
    done.unwrap();
    assert!((8..20).contains(&read), "{read} objects were read again");
    elsewhere.assert_whole().await;
    // Its point is what the next one builds on.
    let (read, done) = elsewhere.backup(&FaultyStore::over(elsewhere.recovery.source.clone())).await;
    assert_eq!((read, done), (0, Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_that_failed_are_built_on_together_and_on_the_point_before_them() {
    let case = Case::new().await;
    let (read, done) = case.backup(&FaultyStore::over(case.recovery.source.clone())).await;
    assert_eq!((read, done), (OBJECTS, Ok(())));
    for number in 0..OBJECTS {
        let body = noise(10_000, 1000 + number);
        if number % 2 == 0 {
            case.recovery.put(&format!("o/{number:02}"), body).await;
        } else {
            case.recovery.put(&format!("p/{number:02}"), body).await;
        }
    }
    for at in [30, 15] {
        case.broken_off(at).await;
    }
    let (read, done) = case.backup(&FaultyStore::over(case.recovery.source.clone())).await;
    done.unwrap();
    // Of 40 that changed. What was read behind the one that broke is not known to the part.
    assert!(read < 15, "{read} of 40 that changed were read a second time");
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_loses_what_it_read_since_it_last_stored_what_it_had() {
    let mut case = Case::new().await;
    case.recovery.checkpoint_every = Duration::ZERO;
    let faulty = FaultyStore::over(case.recovery.source.clone());
    faulty.queue_after(25, Call::Get, Fault::SlowAfter);
    // Dropped in the middle of everything, when some of what it read is stored.
    let some = async {
        while case.parts().await.len() < 12 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        (_, done) = case.backup(&faulty) => panic!("it came to its end: {done:?}"),
        () = some => {}
    }
    let (read, done) = case.backup(&FaultyStore::over(case.recovery.source.clone())).await;
    done.unwrap();
    assert!(read <= OBJECTS - 12, "{read} objects were read again");
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_is_read_again_and_what_is_gone_is_gone() {
    let case = Case::new().await;
    case.broken_off(30).await;
    case.recovery.put("o/03", noise(5_000, 77)).await;
    case.recovery.source.delete("o/04").await.unwrap();
    let (_, done) = case.backup(&FaultyStore::over(case.recovery.source.clone())).await;
    done.unwrap();
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_damaged_or_forged_costs_time_and_nothing_else() {
    let case = Case::new().await;
    case.broken_off(30).await;
    let key = case.parts().await.remove(0);
    let sound = objects(case.site.as_ref()).await.remove(&key).unwrap();
    let mut flipped = sound.to_vec();
    flipped[80] ^= 1;
    for body in [Bytes::from(flipped), Bytes::new(), sound.slice(..sound.len() - 1)] {
        case.site.delete(&key).await.unwrap();
        case.site.put(&key, body, PutOptions::default()).await.unwrap();
        case.recovery.put("o/00", noise(100, 5)).await;
        let (read, done) = case.backup(&FaultyStore::over(case.recovery.source.clone())).await;
        done.unwrap();
        case.assert_whole().await;
        assert!(read > 0);
        // As if it had never been, so that the part counts again.
        for point in case.site.list("points/", None, 10).await.unwrap().objects {
            case.site.delete(&point.key).await.unwrap();
        }
    }
    // Under another run's name.
    let other = key.replacen(&key[8..24], "00000000000000aa", 1);
    case.site.put(&other, sound, PutOptions::default()).await.unwrap();
    let (_, done) = case.backup(&FaultyStore::over(case.recovery.source.clone())).await;
    done.unwrap();
    case.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_takes_parts_away_when_they_are_older_than_the_grace() {
    let case = Case::new().await;
    case.broken_off(30).await;
    let grace = case.recovery.retention.grace;
    let prune = async |dry| case.recovery.prune_so(case.site.clone(), &case.cache, dry).await.unwrap().parts_deleted;
    assert_eq!(prune(false).await, 0);
    case.recovery.clock.advance(grace + Duration::from_secs(60));
    assert_eq!((prune(true).await, case.parts().await.len()), (1, 1));
    // Whoever may delete nothing is told, and the prune is one all the same.
    let denied = FaultyStore::over(case.site.clone());
    denied.queue(Call::Delete, [Fault::Denied]);
    let report = case.recovery.prune(denied, &case.cache).await.unwrap();
    assert_eq!((report.parts_deleted, report.problems.len(), case.parts().await.len()), (0, 1, 1));
    assert!(report.problems[0].message.contains("may not be deleted"), "{:?}", report.problems);
    // No right to delete versions is needed where nothing is locked.
    let site = Arc::new(Staged { denies_versions: true, ..Staged::over(case.site.clone()) });
    assert_eq!(case.recovery.prune(site, &case.cache).await.unwrap().parts_deleted, 1);
    assert_eq!((prune(false).await, case.parts().await.len()), (0, 0));
    let (read, done) = case.backup(&FaultyStore::over(case.recovery.source.clone())).await;
    assert_eq!((read, done), (OBJECTS, Ok(())));
    case.assert_whole().await;
}
