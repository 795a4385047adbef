//! `kill -9` at random moments: what is listed is whole, and nothing that was begun is ever listed.

use std::{collections::BTreeMap, fs, process::Stdio, thread::sleep, time::Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::agent::{Agent, noise, tree};

const BACKUPS: u32 = 50;
/// A reading verification of all points so far comes after so many backups, and at the end.
const VERIFY_EVERY: u32 = 10;

/// Changes, adds and removes some files.
fn change(agent: &Agent, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let name = agent.path(&format!("data/{:02}", random.random_range(0..12)));
        if random.random_range(0..5) == 0 {
            let _ = fs::remove_file(name);
        } else {
            fs::write(name, noise(random.random(), random.random_range(0..300_000))).unwrap();
        }
    }
}

#[test]
fn a_backup_killed_at_any_moment_leaves_only_whole_points() {
    let seed = std::env::var("FARSHORE_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse::<u64>().unwrap());
    println!("FARSHORE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let agent = Agent::new("");
    fs::write(agent.path("data/first"), noise(1, 1 << 20)).unwrap();
    agent.write_policy(&agent.files_source());
    agent.init();
    // A backup that is spared says how long the moments are to choose from, on a machine that may be busy.
    let started = Instant::now();
    agent.backup();
    let mut whole = started.elapsed();
    let mut states = vec![tree(&agent.path("data"))];
    let mut killed = 0;
    for number in 1..=BACKUPS {
        change(&agent, &mut random);
        let state = tree(&agent.path("data"));
        let begun = Instant::now();
        let mut child = agent.command(["backup", "policy.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let spared = random.random_range(0..6) == 0;
        if !spared {
            sleep(whole.mul_f64(random.random_range(0.0..1.2)));
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        if spared {
            assert!(status.success());
            whole = begun.elapsed();
        }
        killed += u32::from(!status.success());
        if random.random_range(0..8) == 0 {
            agent.delete_cache();
        }
        let points = agent.points();
        assert!(points.len() == states.len() || points.len() == states.len() + 1, "one backup makes one point at most");
        if points.len() > states.len() {
            states.push(state);
        } else {
            assert!(!status.success(), "a backup that reports success has made a point");
        }
        if number % VERIFY_EVERY == 0 {
            let report = agent.operator(["verify", "policy.toml", "--read-data", "--json"]).succeeds().json()[0].clone();
            assert_eq!(report["points_checked"], states.len());
            assert_restores(&agent, states.last().unwrap(), &format!("restored-{number}"));
        }
    }
    assert!(
        (10..=45).contains(&killed),
        "{killed} of {BACKUPS} were killed: the moments are badly chosen (a whole one took {whole:?})"
    );
    for (point, state) in agent.points().iter().zip(&states) {
        let listed = agent.run(["ls", "policy.toml", &format!("{point}:config"), "--json"]).succeeds().json_lines();
        let files = listed.iter().filter(|line| line["entry"]["kind"] == "file").count();
        assert_eq!(files, state.len(), "point {point}");
    }
}

fn assert_restores(agent: &Agent, state: &BTreeMap<String, Vec<u8>>, to: &str) {
    agent.operator(["restore", "policy.toml", "latest", "--source", "config", "--to", to]).succeeds();
    assert!(tree(&agent.path(&format!("{to}{}", agent.text("data")))) == *state, "the newest point is what was there at its time");
    fs::remove_dir_all(agent.path(to)).unwrap();
}
