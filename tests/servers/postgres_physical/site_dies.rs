//! A site across a network that dies under a server in the midst of its recovery.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    archive::{Archive, base, load},
    archive_clouds::{secret, stored_up_to},
    cluster::Cluster,
};
use crate::{
    postgres::Server,
    support::{
        agent::files,
        fault_proxy::{Direction, Fault, FaultProxy},
        server,
    },
};

/// Starts a recovery under which the site dies as soon as it has had the first of the log; whether it came up all the same.
async fn dies_under(copy: &mut Cluster, proxy: &Arc<FaultProxy>, fault: Fault) -> bool {
    let (log, done) = (copy.path("log"), Arc::new(AtomicBool::new(false)));
    let (site, ended) = (Arc::clone(proxy), Arc::clone(&done));
    let watch = tokio::spawn(async move {
        while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains("restored log file")) {
            assert!(!ended.load(Ordering::SeqCst), "it ended before it had had anything");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        site.set(fault).await;
    });
    // What another recovery left there is not this one's.
    std::fs::write(copy.path("log"), []).unwrap();
    let is_up = tokio::task::block_in_place(|| copy.try_start());
    done.store(true, Ordering::SeqCst);
    watch.await.unwrap();
    is_up
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_site_that_dies_in_the_midst_of_a_recovery_stops_it_and_it_goes_on_when_the_site_is_back() {
    let endpoint = server("FARSHORE_TEST_S3_ENDPOINT");
    let target: SocketAddr = endpoint.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let proxy = Arc::new(FaultProxy::start(target).await.unwrap());
    let archive = Archive::at("limit = \"256MiB\"", |archive| {
        format!(
            "{{ kind = \"s3\", bucket = \"farshore-system\", prefix = \"dies-{:016x}\", endpoint = \"http://{}\", path_style = true, access_key = \"{}\", secret_key = {} }}",
            rand::random::<u64>(),
            proxy.address(),
            server("FARSHORE_TEST_S3_ACCESS_KEY"),
            secret(archive, "s3.secret", "FARSHORE_TEST_S3_SECRET_KEY")
        )
    });
    let primary = archive.primary(Server::Eighteen);
    primary.psql("postgres", "CREATE TABLE load (id int, filler text); CREATE TABLE markers (id int)");
    let mut copy = base(&primary, &[&archive.restore_command(), "archive_mode=off", "hot_standby=off"]);
    // More than is fetched ahead.
    (1..=9).for_each(|round| load(&primary, round));
    tokio::task::block_in_place(|| stored_up_to(&archive, &primary));

    for fault in [
        Fault::Reset { direction: Direction::FromTarget, after_bytes: 0 },
        Fault::Truncate { direction: Direction::FromTarget, after_bytes: 150 },
    ] {
        proxy.set(Fault::Pass).await;
        assert!(!dies_under(&mut copy, &proxy, fault).await, "{fault:?}: it came up: {}", copy.log());
        let log = copy.log();
        assert!(log.contains("FATAL:  could not restore file"), "{fault:?}: {log}");
        assert!(!log.contains("archive recovery complete") && !log.contains("selected new timeline"), "{fault:?}: {log}");
        assert!(copy.data().join("recovery.signal").exists(), "{fault:?}: it was promoted: {log}");
        let begun = files(&copy.data().join("pg_wal")).into_iter().filter(|name| name.starts_with("00000002")).count();
        assert_eq!(begun, 0, "{fault:?}: it has begun a timeline: {log}");
    }
    proxy.set(Fault::Pass).await;
    tokio::task::block_in_place(|| copy.start());
    assert_eq!(copy.psql("postgres", "SELECT max(id), count(*) FROM markers"), "9|9");
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM load"), "270000");
    assert_eq!(copy.psql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "2");
}
