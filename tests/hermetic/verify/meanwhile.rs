//! A backup that commits while a verification or a repair is at work: what is new is no damage.

use farshore::{operations::VerifyLevel, stores::SharedStore};

use super::nightly;
use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    recovery::{Recovery, noise, objects},
};

#[derive(Debug, Clone, Copy)]
enum Reads {
    Structure,
    Everything,
    Repair,
}

/// What a reading finds wrong.
async fn wrong(recovery: &Recovery, site: SharedStore, reads: Reads) -> Vec<String> {
    let cache = recovery.fresh_cache();
    let said = |damage: &farshore::report::Damage| format!("{damage:?}");
    match reads {
        Reads::Structure => {
            recovery.verify_at(site, &cache, VerifyLevel::Structure).await.unwrap().damage.iter().map(said).collect()
        }
        Reads::Everything => recovery.verify(site, &cache).await.unwrap().damage.iter().map(said).collect(),
        Reads::Repair => {
            let report = recovery.repair(site, &cache, true, &|_| ()).await.unwrap();
            report.points_hurt.iter().map(|hurt| format!("{hurt:?}")).collect()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_call_a_backup_commits_before_what_it_made_is_no_damage() {
    let recovery = Recovery::new(true);
    let (store, _) = nightly(&recovery, 1).await;
    let before = objects(store.as_ref()).await;
    recovery.put("new", noise(20_000, 99)).await;
    for reads in [Reads::Structure, Reads::Everything, Reads::Repair] {
        let quiet = FaultyStore::over(recovery.site_of(&before).await);
        assert!(wrong(&recovery, quiet.clone(), reads).await.is_empty());
        let mut calls = 0;
        for call in [Call::Put, Call::Get, Call::Stat, Call::List, Call::Time] {
            for number in 0..quiet.calls(call) {
                let what = format!("{reads:?}, before {call:?} {number}");
                let site = recovery.site_of(&before).await;
                let faulty = FaultyStore::over(site.clone());
                faulty.queue_after(number, call, Fault::SlowBefore);
                let backup = async {
                    recovery.backup(site.clone(), &recovery.fresh_cache()).await.unwrap();
                };
                let (found, came) = faulty.while_slow(wrong(&recovery, faulty.clone(), reads), backup).await;
                assert!(came, "{what}: it never came to it");
                assert!(found.is_empty(), "{what}: {found:?}");
                // And the next verification sees the new point.
                let next = recovery.verify_at(site, &recovery.fresh_cache(), VerifyLevel::Structure).await.unwrap();
                assert_eq!((next.damage.as_slice(), next.points_checked), (&[][..], 2), "{what}");
                calls += 1;
            }
        }
        println!("{reads:?}: {calls} calls");
        assert!(calls > 15, "{reads:?}: {calls} calls prove nothing");
    }
}
