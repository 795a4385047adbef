//! How an archive stands.

use std::time::{Duration, SystemTime};

use farshore::{
    operations::{LogStatusRequest, log_status},
    repository::{LogKey, LogName},
    stores::SharedStore,
};

use super::{
    SYSTEM, Server,
    faults::{begun, log_name, opened, put, writer},
    name,
    prune::point,
    segment,
};
use crate::support::recovery::Recovery;

#[test]
fn the_status_tells_what_is_there_what_is_missing_and_how_old_the_newest_is() {
    let server = Server::new();
    let empty = server.agent.run(["wal", "status", "policy.toml", "--json"]).succeeds().json();
    assert_eq!(empty["sites"][0]["systems"].as_array().unwrap().len(), 0);
    [1, 2, 3, 6, 8].into_iter().for_each(|number| server.pushes(number));
    server.settles();
    // Without a recovery point a gap hurts nobody.
    let json = server.agent.run(["wal", "status", "policy.toml", "--json"]).succeeds().json();
    let system = &json["sites"][0]["systems"][0];
    assert_eq!((system["system"].as_str(), system["segment_bytes"].as_u64()), (Some(&*SYSTEM.to_string()), Some(1 << 20)));
    assert!(system["rpo_seconds"].as_f64().unwrap() < 60.0, "{system:#}");
    let timeline = &system["timelines"][0];
    assert_eq!((timeline["first"].as_str(), timeline["last"].as_str()), (Some(&*name(1, 1)), Some(&*name(1, 8))));
    assert_eq!(timeline["segments"], 5);
    let gap =
        |number: usize| (timeline["gaps"][number]["from"].as_str().unwrap(), timeline["gaps"][number]["to"].as_str().unwrap());
    assert_eq!((gap(0), gap(1)), ((&*name(1, 4), &*name(1, 5)), (&*name(1, 7), &*name(1, 7))));
    assert_eq!((&json["spool"]["files"], &json["spool"]["is_stuck"]), (&0.into(), &false.into()));
    let text = server.agent.run(["wal", "status", "policy.toml"]).succeeds().stdout;
    let awaited = format!("{} to {} (2, may be on the way)", name(1, 4), name(1, 5));
    for said in ["spool", "0 files wait", &SYSTEM.to_string(), &name(1, 8), &awaited] {
        assert!(text.contains(said), "nothing about {said} in {text}");
    }
    server.archived_ago(Duration::from_secs(3600));
    let text = server.agent.run(["wal", "status", "policy.toml"]).succeeds().stdout;
    assert!(text.contains(&format!("{} to {} (2), {}", name(1, 4), name(1, 5), name(1, 7))), "{text}");
    let (site, identity) = (server.agent.text("site"), server.agent.text("operator.txt"));
    let json = server.agent.run(["wal", "status", "policy.toml", "--json"]).succeeds().json();
    let system = &json["sites"][0]["systems"][0];
    let bare = server.agent.run(["wal", "status", "--site", &site, "--identity", &identity, "--json"]).succeeds().json();
    assert_eq!((&bare["sites"][0]["systems"][0]["timelines"], &bare["spool"]), (&system["timelines"], &serde_json::Value::Null));
}

#[test]
fn what_may_be_lost_is_counted_from_when_the_log_ended_and_alarms_beyond_the_objective() {
    let server = Server::new();
    let policy = std::fs::read_to_string(server.agent.path("policy.toml")).unwrap();
    std::fs::write(server.agent.path("policy.toml"), policy + "\n[objectives]\nrpo = \"5m\"\n").unwrap();
    let status = || {
        let json = server.agent.run(["wal", "status", "policy.toml", "--json"]);
        let system = json.json()["sites"][0]["systems"][0].clone();
        (json.code, system["rpo_seconds"].as_f64().unwrap(), server.agent.run(["wal", "status", "policy.toml"]).stdout)
    };
    let nothing = server.agent.run(["wal", "status", "policy.toml"]).ends_with(4);
    assert!(nothing.stdout.contains("neither a recovery point nor anything of its log is here"), "{nothing:?}");
    server.pushes(1);
    server.settles();
    let (code, rpo, text) = status();
    assert!(code == 0 && rpo < 60.0 && text.contains("(objective 5 min)"), "{text}");
    // A spool that is emptied late: it is stored now, and the server ended it an hour ago.
    server.writes(&name(1, 2), &segment(2));
    let file = std::fs::File::options().write(true).open(server.agent.path("pg/pg_wal").join(name(1, 2))).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    server.push(&name(1, 2), &[]).succeeds();
    server.settles();
    let (code, rpo, text) = status();
    assert!(code == 4 && (3600.0..3700.0).contains(&rpo), "{rpo}: {text}");
    let said = ["RPO: 1 h", "and the objective is 5 min", &format!("cluster {SYSTEM}")];
    assert!(said.iter().all(|said| text.contains(said)), "{text}");
    server.pushes(3);
    server.settles();
    assert_eq!(status().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_before_segments_that_came_only_just_now_is_no_gap_yet() {
    let (recovery, store) = begun(true).await;
    point(&recovery, &store, 1, 3).await;
    let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
    for number in [3, 4] {
        put(&writer, number).await.unwrap();
    }
    recovery.clock.advance(Duration::from_secs(600));
    for number in [6, 7] {
        put(&writer, number).await.unwrap();
    }
    let repository = opened(&recovery, &recovery.agent, store.clone()).await;
    let status = async || {
        let request = LogStatusRequest {
            repository: &repository,
            policy: None,
            server: None,
            objective: None,
            clock: recovery.shared_clock(),
        };
        let report = log_status(request).await.unwrap();
        let (system, problems) = (&report.systems[0], report.problems.len());
        let (gap, point) = (&system.timelines[0].gaps[0], &system.points[0]);
        assert_eq!((gap.from.as_str(), point.reaches.as_deref()), (&*name(1, 5), Some(&*name(1, 4))));
        (gap.is_awaited, point.is_cut_off, problems)
    };
    assert_eq!(status().await, (true, false, 0));
    recovery.clock.advance(Duration::from_secs(59));
    put(&writer, 8).await.unwrap();
    assert_eq!(status().await, (true, false, 0));
    recovery.clock.advance(Duration::from_secs(1));
    assert_eq!(status().await, (false, true, 1), "segment 6 has been there for a minute");
    put(&writer, 5).await.unwrap();
    let request =
        LogStatusRequest { repository: &repository, policy: None, server: None, objective: None, clock: recovery.shared_clock() };
    let report = log_status(request).await.unwrap();
    assert_eq!((report.problems.len(), report.systems[0].timelines[0].gaps.len()), (0, 0));
}

/// What may be lost, and what is wrong, where five minutes may be.
async fn at_risk(recovery: &Recovery, store: &SharedStore) -> (Option<f64>, Vec<String>) {
    let repository = opened(recovery, &recovery.agent, store.clone()).await;
    let (policy, objective) = (Some(recovery.policy.name.as_str()), Some(Duration::from_secs(300)));
    let request = LogStatusRequest { repository: &repository, policy, server: None, objective, clock: recovery.shared_clock() };
    let report = log_status(request).await.unwrap();
    let said = report.problems.iter().map(|problem| format!("{}: {}", problem.subject, problem.message)).collect();
    (report.systems.first().and_then(|system| system.rpo_seconds), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_stopped_alarms_when_more_than_the_objective_would_be_lost() {
    let (recovery, store) = begun(true).await;
    let minutes = |minutes: u64| recovery.clock.advance(Duration::from_secs(60 * minutes));
    let (rpo, said) = at_risk(&recovery, &store).await;
    assert!(rpo.is_none() && said.len() == 1 && said[0].contains("RPO: all would be lost with the server now"), "{said:?}");
    let writer = writer(&recovery, store.clone(), &LogKey::default()).await;
    put(&writer, 6).await.unwrap();
    minutes(5);
    // Where nobody knew when it ended, it is when it was stored.
    assert_eq!(at_risk(&recovery, &store).await, (Some(300.0), vec![]));
    minutes(1);
    let (rpo, said) = at_risk(&recovery, &store).await;
    assert_eq!((rpo, said.len()), (Some(360.0), 1), "{said:?}");
    let words = "RPO: 6 min would be lost with the server now, and the objective is 5 min (the server could not be asked whether it is idle)";
    assert!(said[0].contains(words), "{said:?}");
    // Part of the next: as of when the server was asked, which was two minutes before it came.
    let asked = recovery.shared_clock().now();
    minutes(2);
    let part = LogName::part(SYSTEM, &name(1, 7), &(0..4096)).unwrap();
    writer.put_ended(&part, segment(7)[..4096].to_vec().into(), Some(asked)).await.unwrap();
    assert_eq!(at_risk(&recovery, &store).await, (Some(120.0), vec![]));
    // Nothing is newer than it was when it was stored.
    let later = LogName::part(SYSTEM, &name(1, 7), &(0..8192)).unwrap();
    let ahead = Some(recovery.shared_clock().now() + Duration::from_secs(3600));
    writer.put_ended(&later, segment(7)[..8192].to_vec().into(), ahead).await.unwrap();
    minutes(3);
    assert_eq!(at_risk(&recovery, &store).await, (Some(180.0), vec![]));
    // A backup is something, too.
    minutes(30);
    point(&recovery, &store, 1, 6).await;
    assert_eq!(at_risk(&recovery, &store).await.1, Vec::<String>::new());
    minutes(6);
    assert_eq!(at_risk(&recovery, &store).await.1.len(), 1);
    // A log that is not there at all alarms as well.
    for key in [log_name(&name(1, 6)), part, later] {
        store.delete(&key.to_string()).await.unwrap();
    }
    let (rpo, said) = at_risk(&recovery, &store).await;
    assert!(rpo.is_none() && said.len() == 1 && said[0].starts_with(&format!("cluster {SYSTEM}: RPO: ")), "{said:?}");
}
