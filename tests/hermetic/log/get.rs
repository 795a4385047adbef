//! What a server that recovers is told. It takes an exit code from 1 to 125 for the end of the log.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use super::{SYSTEM, Server, name, segment};

fn archive() -> Server {
    let server = Server::new();
    [1, 2, 3, 6].into_iter().for_each(|number| server.pushes(number));
    server.writes("00000002.history", b"1\t0/300000\tno recovery target specified\n");
    server.push("00000002.history", &[]).succeeds();
    server.settles();
    server.archived_ago(HOUR);
    server
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn only_what_is_proven_to_be_absent_ends_a_recovery() {
    let server = archive();
    server.gets(2);
    for absent in [name(1, 7), name(2, 1), "00000003.history".to_owned(), "00000001.history".to_owned()] {
        let outcome = server.get(&absent).ends_with(1);
        assert_eq!(outcome.stderr, "", "{absent}");
        assert!(!server.delivered().exists());
    }
    for missing in [4, 5] {
        server.get(&name(1, missing)).fails(126, &["the log has a gap", &name(1, 6)]);
    }
    server.get(&name(1, 0)).fails(126, &["the log has a gap", &name(1, 1)]);
    assert!(!server.delivered().exists());
}

#[test]
fn a_segment_that_is_stored_after_the_one_behind_it_is_waited_for() {
    let server = archive();
    let place = server.agent.path("site").join(format!("wal/{SYSTEM}/00000001"));
    let (there, aside) = (place.join(name(1, 3)), server.agent.path("aside"));
    fs::rename(&there, &aside).unwrap();
    // Segment 6 came an hour ago.
    let began = Instant::now();
    server.get(&name(1, 3)).fails(126, &["the log has a gap", &name(1, 6)]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    // It comes just now, and so does the one before.
    server.archived_ago(Duration::ZERO);
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        fs::rename(aside, there).unwrap();
    });
    let outcome = server.get(&name(1, 3)).succeeds();
    later.join().unwrap();
    assert!(outcome.stderr.contains("may be on its way") && began.elapsed() >= Duration::from_secs(2), "{}", outcome.stderr);
    assert!(fs::read(server.delivered()).unwrap() == segment(3));

    // One of those that come later has been there for long: then it is no matter of moments, and nobody waits.
    server.archived_ago(HOUR);
    let newest = fs::File::options().write(true).open(place.join(name(1, 6))).unwrap();
    newest.set_modified(std::time::SystemTime::now()).unwrap();
    let began = Instant::now();
    server.get(&name(1, 0)).fails(126, &["the log has a gap", &name(1, 1)]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // And where it does not come, the wait ends.
    server.archived_ago(Duration::from_secs(45));
    let began = Instant::now();
    let outcome = server.get(&name(1, 5)).fails(126, &["the log has a gap", &name(1, 6)]);
    assert!(outcome.stderr.contains("may be on its way") && began.elapsed() < Duration::from_secs(60), "{}", outcome.stderr);
}

#[test]
fn what_the_server_has_itself_and_goes_on_from_is_no_gap() {
    let server = archive();
    let has = |number: u64, of: u64| fs::write(server.agent.path("back/pg_wal").join(name(1, number)), segment(of)).unwrap();
    has(4, 4);
    server.get(&name(1, 4)).fails(126, &["the log has a gap"]);
    // A file that was used before is no later segment.
    has(5, 2);
    server.get(&name(1, 4)).fails(126, &["the log has a gap"]);
    has(5, 5);
    server.get(&name(1, 4)).ends_with(1);
    server.get(&name(1, 5)).fails(126, &["the log has a gap"]);
    has(4, 3);
    server.get(&name(1, 4)).fails(126, &["the log has a gap"]);
    // What is archived comes from there all the same.
    has(2, 2);
    server.gets(2);
}

#[test]
fn every_other_end_stops_a_recovery() {
    let server = archive();
    let agent = &server.agent;
    let (policy, identity, system) = (agent.text("policy.toml"), agent.text("operator.txt"), SYSTEM.to_string());
    let (file, to) = (name(1, 2), agent.text("back/x"));
    let (policy, identity, system, file, to) = (&*policy, &*identity, &*system, &*file, &*to);
    let whole = ["wal", "get", "--no-prefetch", "--identity", identity, "--system", system, policy, file, to];
    agent.run(whole).succeeds();
    fs::remove_file(to).unwrap();
    let without = |words: &[&str]| whole.iter().copied().filter(|word| !words.contains(word)).collect::<Vec<_>>();
    let instead = |word: &str, other: &'static str| whole.map(|own| if own == word { other.to_owned() } else { own.to_owned() });
    for arguments in [
        without(&[to]),
        without(&[to, file]),
        without(&[to, file, policy]),
        without(&["get"]),
        without(&["wal"]),
        without(&["--identity", identity]),
        without(&["--system", system]),
        without(&["--system"]),
        [whole.as_slice(), &["--unknown"]].concat(),
        [whole.as_slice(), &["more"]].concat(),
        [whole.as_slice(), &["--site", "nowhere"]].concat(),
        vec!["wal", "gte", policy, file, to],
        vec!["wall", "get", policy, file, to],
        vec!["wal"],
    ] {
        let outcome = agent.run(arguments.iter().copied());
        assert_eq!(outcome.code, 126, "{arguments:?}: {}", outcome.stderr);
    }
    for arguments in [
        instead(policy, "no-such-policy"),
        instead(policy, "operator.txt"),
        instead(identity, "no-such-identity"),
        instead(identity, "policy.toml"),
        instead(identity, "agent.key"),
        instead(system, "x"),
        instead(system, "-1"),
        instead(file, "../../etc/passwd"),
        instead(file, "RECOVERYXLOG"),
        instead(file, ""),
        instead(to, "/no/such/directory/RECOVERYXLOG"),
        instead(to, "/"),
        instead(to, ""),
        instead(to, "back"),
    ] {
        let outcome = agent.run(arguments.iter().map(String::as_str));
        assert_eq!(outcome.code, 126, "{arguments:?}: {}", outcome.stderr);
    }
    // Nobody to tell it to: printing fails, and that is a panic.
    let arguments = instead(policy, "no-such-policy");
    let mut child = agent.command(arguments.iter().map(String::as_str)).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(126));
    // Other commands keep their codes.
    agent.run(["wal", "push"]).ends_with(2);
    agent.run(["wal", "status", "no-such-policy"]).ends_with(3);
    agent.run(["restore"]).ends_with(2);
}

#[test]
fn a_site_that_is_away_empty_or_damaged_is_no_absence() {
    let server = archive();
    let object = |file: &str| server.agent.path("site").join(format!("wal/{SYSTEM}/00000001/{file}"));
    let file = name(1, 2);
    let whole = fs::read(object(&file)).unwrap();
    for (what, broken) in [
        ("cut off", whole[..whole.len() - 1].to_vec()),
        ("a header", whole[..64].to_vec()),
        ("empty", vec![]),
        ("longer", [whole.as_slice(), &[0]].concat()),
        ("another", fs::read(object(&name(1, 3))).unwrap()),
        ("flipped", whole.iter().enumerate().map(|(at, byte)| if at == whole.len() / 2 { byte ^ 1 } else { *byte }).collect()),
    ] {
        fs::write(object(&file), broken).unwrap();
        let outcome = server.get(&file);
        assert_eq!(outcome.code, 126, "{what}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("damaged"), "{what}: {}", outcome.stderr);
        assert!(!server.delivered().exists(), "{what}");
        assert_eq!(fs::read_dir(server.agent.path("back/pg_wal")).unwrap().count(), 0, "{what}");
    }
    fs::write(object(&file), whole).unwrap();
    server.gets(2);
    let keys = server.agent.path("site/keys");
    for key in fs::read_dir(&keys).unwrap().flatten().filter(|key| key.file_name().to_string_lossy().starts_with("log-")) {
        fs::remove_file(key.path()).unwrap();
    }
    server.get(&file).fails(126, &["is missing from the site"]);
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    server.get(&name(1, 7)).fails(126, &["no such bucket, container or directory"]);
    fs::create_dir(server.agent.path("site")).unwrap();
    server.get(&name(1, 7)).fails(126, &["no Farshore repository"]);
}

#[test]
fn the_agents_key_alone_opens_nothing_of_it() {
    let mut server = archive();
    let (policy, system, file, to) =
        (server.agent.text("policy.toml"), SYSTEM.to_string(), name(1, 2), server.agent.text("back/x"));
    let arguments = ["wal", "get", "--no-prefetch", "--system", &system, &policy, &file, &to];
    server.agent.run(arguments).fails(126, &["opens this key", "--identity"]);
    assert!(!server.agent.path("back/x").exists());
    // What is absent, and how the archive stands, it can tell.
    server.agent.run(arguments.map(|word| if word == file { "00000009.history" } else { word })).ends_with(1);
    server.agent.run(["wal", "status", "policy.toml"]);
    let identity = server.agent.text("escrow.txt");
    server.agent.set("FARSHORE_IDENTITY_FILE", identity);
    server.agent.run(arguments).succeeds();
}

#[test]
fn on_the_bad_day_the_site_and_an_identity_are_enough_in_the_clusters_directory() {
    let server = archive();
    let (site, identity) = (server.agent.text("site"), server.agent.text("operator.txt"));
    let arguments = ["wal", "get", "--no-prefetch", "--site", &site, "--identity", &identity, &name(1, 2), "pg_wal/RECOVERYXLOG"];
    let get = || server.agent.command(arguments).current_dir(server.agent.path("pg")).output().unwrap();
    assert!(get().status.success());
    assert!(fs::read(server.agent.path("pg/pg_wal/RECOVERYXLOG")).unwrap() == segment(2));
    fs::remove_file(server.agent.path("pg/global/pg_control")).unwrap();
    assert_eq!(get().status.code(), Some(126), "whose log it is, only the cluster says");
}
