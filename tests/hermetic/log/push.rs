//! What is taken from a server, and what is refused.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use crc_fast::{CrcAlgorithm, checksum};

use super::{SEGMENT_BYTES, SYSTEM, Server, name, segment, segment_of};

#[test]
fn what_was_pushed_is_archived_sealed_and_comes_back() {
    let server = Server::new();
    for number in 1..=3 {
        server.pushes(number);
    }
    server.writes("00000002.history", b"1\t0/300000\tno recovery target specified\n");
    server.writes(&format!("{}.partial", name(1, 4)), &segment(4));
    server.writes(&format!("{}.00000028.backup", name(1, 2)), b"START WAL LOCATION: 0/2000028\n");
    for file in ["00000002.history", &format!("{}.partial", name(1, 4)), &format!("{}.00000028.backup", name(1, 2))] {
        server.push(file, &[]).succeeds();
    }
    server.settles();
    let stored = server.archived();
    assert_eq!(stored.len(), 6, "{stored:?}");
    assert!(stored.contains(&format!("wal/{SYSTEM}/00000001/{}", name(1, 3))), "{stored:?}");
    let history = b"1\t0/300000\tno recovery target specified\n".to_vec();
    for (file, bytes, part) in [(name(1, 1), segment(1), 8256..8320), ("00000002.history".to_owned(), history, 11..40)] {
        let key = stored.iter().find(|key| key.ends_with(&file)).unwrap();
        let sealed = fs::read(server.agent.path("site").join(key)).unwrap();
        assert!(!sealed.windows(part.len()).any(|window| *window == bytes[part.clone()]), "{file}");
        server.get(&file).succeeds();
        assert!(fs::read(server.delivered()).unwrap() == bytes, "{file}");
    }
    for directory in ["spool", &format!("spool/{SYSTEM}")] {
        let mode = fs::metadata(server.agent.path(directory)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "the files in {directory} are not sealed");
    }
    // The same again, for a server that did not hear of its success.
    server.pushes(2);
    server.settles();
    assert_eq!(server.archived(), stored);
    assert_eq!(server.agent.stored("keys").iter().filter(|key| key.starts_with("keys/log-")).count(), 1, "one key for the process");
}

#[test]
fn a_push_returns_when_the_file_is_in_the_spool_whatever_the_site_does() {
    let server = Server::new();
    server.agent.run(["wal", "status", "policy.toml"]).succeeds();
    // Nothing is written there any more.
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    for number in 1..=3 {
        let began = Instant::now();
        server.pushes(number);
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }
    assert_eq!(server.spooled(), [name(1, 1), name(1, 2), name(1, 3)]);
    // What is wrong is said with a later push.
    let began = Instant::now();
    loop {
        let outcome = server.push(&name(1, 3), &[]).succeeds();
        if outcome.stderr.contains("warning") && outcome.stderr.contains("site far") {
            break;
        }
        assert!(began.elapsed().as_secs() < 60, "{}\n{}", outcome.stderr, server.status());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let status = server.agent.run(["wal", "status", "policy.toml", "--json"]);
    assert_eq!(status.code, 6, "{status:?}");
    let json = status.json();
    assert_eq!((json["spool"]["files"].as_u64(), json["spool"]["is_stuck"].as_bool()), (Some(3), Some(true)), "{json:#}");
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    server.settles();
    (1..=3).for_each(|number| server.gets(number));
    let outcome = server.push(&name(1, 3), &[]).succeeds();
    assert_eq!(outcome.stderr, "", "what is mended is not told any more");
}

/// How long half of the pushes may take that find room in the spool. It is loose: an unoptimised program, each time a new process, on a machine that
/// runs other tests. What was measured stands in `docs/soak.md`.
const MOST_OF_A_PUSH: Duration = Duration::from_millis(250);

#[test]
fn a_push_takes_no_longer_than_a_durable_write_while_the_spool_has_room() {
    let server = Server::new();
    // The site takes nothing: whoever waited for it would wait for ever.
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    server.pushes(1);
    let mut took: Vec<Duration> = (2..52)
        .map(|number| {
            server.writes(&name(1, number), &segment(number));
            let began = Instant::now();
            server.push(&name(1, number), &[]).succeeds();
            began.elapsed()
        })
        .collect();
    took.sort();
    let (median, last) = (took[25], took[49]);
    println!("{} pushes of {SEGMENT_BYTES} bytes: half of them within {median:?}, all within {last:?}", took.len());
    assert!(median < MOST_OF_A_PUSH, "{median:?}, at most {last:?}");
    assert_eq!(server.spooled().len(), 51);
    // What is said to be taken is there as it was, whatever becomes of the one who took it.
    server.stop_upload();
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    server.pushes(52);
    server.settles();
    [1, 2, 51, 52].into_iter().for_each(|number| server.gets(number));
}

#[test]
fn a_full_spool_waits_and_then_lets_the_server_keep_its_log() {
    let server = Server::new();
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    (1..=64).for_each(|number| server.pushes(number));
    server.writes(&name(1, 65), &segment(65));
    let began = Instant::now();
    let said = ["the spool is full", "64 files", "64.0 MiB", "The server keeps its log", "no such"];
    let outcome = server.push(&name(1, 65), &["--wait", "2s"]);
    assert!(began.elapsed().as_secs() >= 2);
    outcome.fails(1, &said[..4]);
    assert_eq!(server.spooled().len(), 64);
    // One that waits gets in as soon as there is room.
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    server.push(&name(1, 65), &["--wait", "60s"]).succeeds();
    server.settles();
    [1, 30, 64, 65].into_iter().for_each(|number| server.gets(number));
    assert_eq!(server.archived().len(), 65);
}

#[test]
fn other_bytes_under_a_name_are_an_error_in_the_spool_and_at_the_site() {
    let server = Server::new();
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    server.pushes(1);
    server.writes(&name(1, 1), &segment_of(SYSTEM, 1, 1, 99));
    server.push(&name(1, 1), &[]).fails(1, &["another file of this name with other bytes waits"]);
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    server.settles();
    // It is archived by now; and so are no others of that timeline, which another server may be writing.
    server.push(&name(1, 1), &[]).succeeds();
    server.writes(&name(1, 2), &segment(2));
    let began = Instant::now();
    loop {
        let outcome = server.push(&name(1, 2), &[]);
        if outcome.code == 1 {
            assert!(outcome.stderr.contains("another file of this name with other bytes is archived"), "{}", outcome.stderr);
            break;
        }
        assert!(began.elapsed().as_secs() < 60, "{}", server.status());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(server.archived().len(), 1, "{:?}", server.archived());
    server.gets(1);
}

#[test]
fn of_several_that_wait_none_is_stored_beside_another_servers() {
    let server = Server::new();
    server.pushes(1);
    server.settles();
    // The uploader goes on living, and has met this timeline.
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    server.writes(&name(1, 1), &segment_of(SYSTEM, 1, 1, 99));
    server.push(&name(1, 1), &[]).succeeds();
    for number in 2..=4 {
        server.pushes(number);
    }
    assert_eq!(server.spooled(), [name(1, 1), name(1, 2), name(1, 3), name(1, 4)]);
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    let began = Instant::now();
    while !server.status().contains("another file of this name with other bytes is archived") {
        assert!(began.elapsed().as_secs() < 60, "{}", server.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.archived().len(), 1, "{:?}", server.archived());
    server.gets(1);
}

#[test]
fn what_is_not_this_clusters_or_not_what_its_name_says_is_refused() {
    let server = Server::new();
    let own = segment(5);
    let mut recycled = own.clone();
    recycled[8..16].copy_from_slice(&(3 * SEGMENT_BYTES as u64).to_le_bytes());
    let mut no_magic = own.clone();
    no_magic[1] = 0;
    for (file, bytes, said) in [
        (name(1, 5), segment_of(SYSTEM + 1, 1, 5, 0), "system identifier"),
        (name(1, 6), own.clone(), "the file was used again"),
        (name(1, 5), recycled, "the file was used again"),
        (name(1, 5), no_magic, "no page of the log"),
        (name(1, 5), segment_of(SYSTEM, 2, 5, 0), "timeline 2"),
        (name(1, 5), own[..SEGMENT_BYTES - 1].to_vec(), "its header says"),
        (name(1, 5), vec![0; SEGMENT_BYTES], "does not begin with the header"),
        (name(1, 5), vec![], "does not begin with the header"),
        (format!("{}.partial", name(1, 6)), own.clone(), "the file was used again"),
        ("00000002.history".to_owned(), vec![], "is empty"),
        ("postgresql.conf".to_owned(), own.clone(), "no file that PostgreSQL archives"),
        (format!("{}.", name(1, 5)), own.clone(), "no file that PostgreSQL archives"),
    ] {
        server.writes(&file, &bytes);
        server.push(&file, &[]).fails(1, &[said]);
    }
    server.push(&name(1, 9), &[]).fails(1, &["No such file"]);
    assert_eq!((server.spooled().len(), server.archived().len()), (0, 0));
    // A segment of a new timeline begins as a copy of the one before.
    server.writes(&name(2, 5), &own);
    server.push(&name(2, 5), &[]).succeeds();
    // Without the cluster nobody knows whose it is.
    fs::remove_file(server.agent.path("pg/global/pg_control")).unwrap();
    server.writes(&name(1, 5), &own);
    server.push(&name(1, 5), &[]).fails(1, &["control file"]);
    fs::write(server.agent.path("pg/global/pg_control"), [1; 8192]).unwrap();
    server.push(&name(1, 5), &[]).fails(1, &["no sound control file"]);
}

/// A segment in which there is one record, or the switch to the next segment after it, and nothing else.
pub(super) fn begun(number: u64, is_switched: bool) -> Vec<u8> {
    let mut bytes = segment(number);
    bytes[40..].fill(0);
    let mut before = 0_u64;
    let mut record = |at: usize, manager: u8, info: u8, body: &[u8]| {
        let mut header = [0; 24];
        header[..4].copy_from_slice(&(24 + body.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&before.to_le_bytes());
        (header[16], header[17]) = (info, manager);
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, &[body, &header[..20]].concat());
        header[20..].copy_from_slice(&u32::try_from(sum).unwrap().to_le_bytes());
        before = number * SEGMENT_BYTES as u64 + at as u64;
        bytes[at..at + 24].copy_from_slice(&header);
        bytes[at + 24..at + 24 + body.len()].copy_from_slice(body);
    };
    record(40, 10, 0, &[7; 104]);
    if is_switched {
        record(168, 0, 0x40, &[]);
    }
    bytes
}

#[test]
fn the_beginning_of_a_segment_is_not_taken_for_a_whole_one_and_one_that_was_switched_is() {
    for wal in ["limit = \"64MiB\"", "synchronous = true"] {
        let server = Server::with(wal);
        server.writes(&name(1, 5), &begun(5, false));
        let said = ["ends at 0/5000A8, and the log was not switched there", "is the beginning of a segment", "is not archived"];
        server.push(&name(1, 5), &[]).fails(1, &said);
        assert_eq!((server.spooled().len(), server.archived().len()), (0, 0));
        // The server has fetched the whole one.
        server.pushes(5);
        server.writes(&name(1, 6), &begun(6, true));
        server.push(&name(1, 6), &[]).succeeds();
        server.settles();
        server.get(&name(1, 6)).succeeds();
        assert!(fs::read(server.delivered()).unwrap() == begun(6, true));
        // A standby that archives as well, and went on along another timeline: the next one begins with a copy.
        server.writes(&name(1, 8), &begun(8, false));
        server.writes("00000003.history", b"1\t0/7000A8\tno recovery target specified\n");
        server.push(&name(1, 8), &[]).fails(1, &["is the beginning of a segment"]);
        server.writes("00000002.history", b"1\t0/8000A8\tno recovery target specified\n");
        let said = server.push(&name(1, 8), &[]).succeeds().stderr;
        assert!(said.contains("its timeline was left in it"), "{said}");
        server.settles();
        assert_eq!(server.get(&name(1, 8)).code, 1, "it is not there");
        // What a timeline ended in is the beginning of one by its name.
        server.writes(&format!("{}.partial", name(1, 7)), &begun(7, false));
        server.push(&format!("{}.partial", name(1, 7)), &[]).succeeds();
    }
}

#[test]
fn synchronously_a_push_returns_only_when_every_site_has_it() {
    let server = Server::with("synchronous = true");
    for number in 1..=3 {
        server.pushes(number);
        assert_eq!((server.archived().len() as u64, server.spooled().len()), (number, 0));
    }
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    server.writes(&name(1, 4), &segment(4));
    server.push(&name(1, 4), &["--wait", "2s"]).fails(1, &["was not confirmed by every site within 2 s"]);
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    server.push(&name(1, 4), &["--wait", "60s"]).succeeds();
    assert_eq!(server.archived().len(), 4);
}

#[test]
fn one_site_that_is_down_keeps_no_other_from_having_the_log() {
    let server = Server::with_second_site();
    let second = || crate::support::agent::files(&server.agent.path("second/wal")).len();
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    (1..=5).for_each(|number| server.pushes(number));
    let began = Instant::now();
    while second() < 5 {
        assert!(began.elapsed().as_secs() < 60, "{}", server.status());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(server.spooled().len(), 5, "they wait for the other site");
    // The first site does not answer: the second has them.
    server.gets(3);
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    server.settles();
    assert_eq!(server.archived().len(), 5);
    // Whether a file is absent only both can say.
    server.get(&name(1, 6)).ends_with(1);
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    server.get(&name(1, 6)).fails(126, &["no such bucket, container or directory"]);
}

#[test]
fn the_policy_may_be_named_by_the_environment_and_must_have_one_cluster() {
    let mut server = Server::new();
    server.writes(&name(1, 1), &segment(1));
    let path = server.agent.path("pg/pg_wal").join(name(1, 1));
    let path = path.to_str().unwrap().to_owned();
    let policy = server.agent.text("policy.toml");
    server.agent.set("FARSHORE_POLICY", policy);
    server.agent.run(["wal", "push", &path]).succeeds();
    server.settles();
    server.gets(1);
    let two = format!("{}{}", server.source("limit = \"1GiB\""), server.source("limit = \"1GiB\"").replace("\"db\"", "\"other\""));
    server.agent.write_policy(&two);
    server.agent.run(["wal", "push", &path]).fails(2, &["say which with --source: db, other"]);
    server.agent.run(["wal", "push", "--source", "db", &path]).succeeds();
    server.agent.run(["wal", "push", "--source", "third", &path]).fails(2, &["no source \"third\""]);
    server.agent.write_policy(&server.agent.files_source());
    server.agent.run(["wal", "push", &path]).fails(2, &["no source of kind \"postgres\""]);
}
