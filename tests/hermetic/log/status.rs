//! How an archive stands.

use super::{SYSTEM, Server, name};

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
    for said in ["spool", "0 files wait", &SYSTEM.to_string(), &name(1, 8), &format!("{} to {} (2)", name(1, 4), name(1, 5))] {
        assert!(text.contains(said), "nothing about {said} in {text}");
    }
    let (site, identity) = (server.agent.text("site"), server.agent.text("operator.txt"));
    let bare = server.agent.run(["wal", "status", "--site", &site, "--identity", &identity, "--json"]).succeeds().json();
    assert_eq!((&bare["sites"][0]["systems"][0]["timelines"], &bare["spool"]), (&system["timelines"], &serde_json::Value::Null));
}
