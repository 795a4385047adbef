//! `kill -9` at random moments, of what takes files and of what stores them: nothing that was acknowledged is lost.

use std::{
    collections::BTreeSet,
    fs,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Server, name, segment};
use crate::support::soak;

#[test]
fn nothing_that_was_acknowledged_is_lost_whatever_is_killed() {
    let seed = std::env::var("FARSHORE_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse::<u64>().unwrap());
    println!("FARSHORE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Server::new();
    let agent = &server.agent;
    let policy = agent.text("policy.toml");
    let upload = || {
        let mut command = agent.command(["wal", "upload", &policy, "--idle", "1h"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut uploader = upload();
    let (mut acknowledged, mut killed) = (BTreeSet::new(), 0);
    // The last push that was spared says how long the moments are to choose from, on a machine that may be busy.
    let mut whole = Duration::ZERO;
    for number in 1..=soak(40) {
        // Every other run of ten the server is behind by some, and says so.
        let ready = (number..number + 5).filter(|ready| ready / 10 % 2 == 1 && *ready <= soak(40));
        server.has_ready(ready.filter(|ready| !agent.path("pg/pg_wal").join(name(1, *ready)).exists()).collect::<Vec<_>>());
        if !agent.path("pg/pg_wal").join(name(1, number)).exists() {
            server.writes(&name(1, number), &segment(number));
        }
        let path = format!("pg_wal/{}", name(1, number));
        let mut push = agent.command(["wal", "push", &policy, &path]);
        let began = Instant::now();
        let mut push = push.current_dir(agent.path("pg")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let is_spared = number == 1 || random.random();
        if !is_spared {
            sleep(whole.mul_f64(random.random_range(0.0..1.2)));
            let _ = push.kill();
        }
        let is_acknowledged = push.wait().unwrap().success();
        if is_spared {
            assert!(is_acknowledged, "nobody killed the push of {number}");
            whole = began.elapsed();
        }
        if is_acknowledged {
            acknowledged.insert(number);
        } else {
            killed += 1;
        }
        if random.random_range(0..3) == 0 {
            sleep(Duration::from_micros(random.random_range(0..100_000)));
            uploader.kill().unwrap();
            uploader.wait().unwrap();
            // Between the two a push may have started one of its own.
            server.stop_upload();
            uploader = upload();
        }
        // The server takes its file away, or uses it again, only when it was acknowledged.
        if acknowledged.contains(&number) {
            fs::remove_file(agent.path("pg/pg_wal").join(name(1, number))).unwrap();
            let _ = fs::remove_file(agent.path("pg/pg_wal/archive_status").join(format!("{}.ready", name(1, number))));
        }
    }
    assert!(!acknowledged.is_empty());
    assert!(killed > 0, "none of {} was killed: the moments are badly chosen (a whole push took {whole:?})", soak(40));
    server.settles();
    uploader.kill().unwrap();
    uploader.wait().unwrap();
    for number in &acknowledged {
        server.gets(*number);
    }
    // What was not acknowledged is pushed again, and is the same, or is not there yet.
    for number in (1..=soak(40)).filter(|number| !acknowledged.contains(number)) {
        server.pushes(number);
    }
    server.settles();
    (1..=soak(40)).for_each(|number| server.gets(number));
}
