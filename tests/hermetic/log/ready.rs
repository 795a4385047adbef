//! Segments that the server has ready are stored before they are pushed, and their pushes are told the truth.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{SYSTEM, Server, name, push::begun, segment, segment_of};

impl Server {
    /// Writes segments, and says that they are to be archived.
    pub(super) fn has_ready(&self, numbers: impl IntoIterator<Item = u64>) {
        fs::create_dir_all(self.agent.path("pg/pg_wal/archive_status")).unwrap();
        for number in numbers {
            self.writes(&name(1, number), &segment(number));
            self.writes(&format!("archive_status/{}.ready", name(1, number)), b"");
        }
    }

    /// What the archiver does after a success.
    pub(super) fn is_done(&self, number: u64) {
        let status = self.agent.path("pg/pg_wal/archive_status");
        fs::rename(status.join(format!("{}.ready", name(1, number))), status.join(format!("{}.done", name(1, number)))).unwrap();
    }

    /// Waits until the site has these segments of the first timeline, and no others.
    #[track_caller]
    fn has_archived(&self, numbers: &[u64]) {
        let wanted: Vec<String> = numbers.iter().map(|number| format!("wal/{SYSTEM}/00000001/{}", name(1, *number))).collect();
        let began = Instant::now();
        while self.archived() != wanted {
            assert!(began.elapsed().as_secs() < 60, "{:?}: {}", self.archived(), self.status());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Names of marks in the spool.
    fn marks(&self) -> Vec<String> {
        let folder = fs::read_dir(self.agent.path("spool").join(SYSTEM.to_string())).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".stored") || name.ends_with(".coming")).collect()
    }

    /// Waits until nothing is on its way.
    fn is_quiet(&self) {
        let began = Instant::now();
        while self.marks().iter().any(|mark| mark.ends_with(".coming")) {
            assert!(began.elapsed().as_secs() < 60, "{:?}", self.marks());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn what_the_server_has_ready_is_stored_from_where_it_lies_and_never_comes_into_the_spool() {
    let server = Server::new();
    server.has_ready(1..=20);
    server.push(&name(1, 1), &[]).succeeds();
    // The first is the server's to push, and no more than sixteen after it are taken.
    server.has_archived(&(1..=17).collect::<Vec<_>>());
    server.is_quiet();
    server.is_done(1);
    for number in 2..=17 {
        server.push(&name(1, number), &[]).succeeds();
        assert_eq!(server.spooled(), Vec::<String>::new(), "segment {number}");
        server.is_done(number);
    }
    server.push(&name(1, 18), &[]).succeeds();
    server.is_done(18);
    server.has_archived(&(1..=20).collect::<Vec<_>>());
    (1..=20).for_each(|number| server.gets(number));
    for number in [19, 20] {
        server.push(&name(1, number), &[]).succeeds();
        server.is_done(number);
    }
    let began = Instant::now();
    while !server.marks().is_empty() {
        assert!(began.elapsed().as_secs() < 60, "marks of what is done go: {:?}", server.marks());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_file_that_is_another_than_the_one_that_was_stored_is_not_taken_for_it() {
    let server = Server::new();
    server.has_ready(1..=3);
    server.push(&name(1, 1), &[]).succeeds();
    server.has_archived(&[1, 2, 3]);
    server.is_quiet();
    server.writes(&name(1, 2), &segment_of(SYSTEM, 1, 2, 99));
    server.push(&name(1, 2), &[]).succeeds();
    let began = Instant::now();
    while !server.status().contains("another file of this name with other bytes is archived") {
        assert!(began.elapsed().as_secs() < 60, "{}", server.status());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.spooled(), [name(1, 2)], "what is nowhere else is kept");
    server.gets(2);
}

#[test]
fn what_is_not_what_its_name_says_is_left_for_its_push_to_refuse() {
    let server = Server::new();
    server.has_ready(1..=5);
    server.writes(&name(1, 2), &segment_of(SYSTEM + 1, 1, 2, 0));
    server.writes(&name(1, 3), b"half");
    server.writes(&name(1, 4), &begun(4, false));
    server.push(&name(1, 1), &[]).succeeds();
    server.has_archived(&[1, 5]);
    server.is_done(1);
    server.push(&name(1, 2), &[]).fails(1, &["it is not archived"]);
    server.push(&name(1, 3), &[]).fails(1, &["it is not archived"]);
    server.push(&name(1, 4), &[]).fails(1, &["is the beginning of a segment"]);
    assert!(!server.status().contains("\"message\""), "{}", server.status());
    server.has_ready([2, 3, 4]);
    (2..=5).for_each(|number| drop(server.push(&name(1, number), &[]).succeeds()));
    server.has_archived(&[1, 2, 3, 4, 5]);
    (1..=5).for_each(|number| server.gets(number));
}

#[test]
fn while_a_site_is_away_everything_goes_through_the_spool() {
    let server = Server::with_second_site();
    let second = server.agent.text("second");
    server.has_ready(1..=6);
    fs::rename(&second, server.agent.path("away")).unwrap();
    for number in 1..=6 {
        let began = Instant::now();
        server.push(&name(1, number), &[]).succeeds();
        assert!(began.elapsed().as_secs() < 10, "{number}: {:?}", began.elapsed());
        server.is_done(number);
    }
    assert_eq!(server.spooled(), (1..=6).map(|number| name(1, number)).collect::<Vec<_>>());
    assert_eq!(server.marks(), Vec::<String>::new());
    server.has_archived(&[1, 2, 3, 4, 5, 6]);
    fs::rename(server.agent.path("away"), &second).unwrap();
    server.settles();
    assert_eq!(crate::support::agent::files(&server.agent.path("second/wal")).len(), 6);
}

#[test]
fn a_mark_of_a_process_that_died_keeps_nobody_waiting() {
    let server = Server::new();
    server.pushes(1);
    server.settles();
    server.stop_upload();
    fs::write(server.agent.path("spool").join(SYSTEM.to_string()).join(format!(".{}.coming", name(1, 2))), b"").unwrap();
    let began = Instant::now();
    server.pushes(2);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    server.settles();
    server.gets(2);
    assert_eq!(server.marks(), Vec::<String>::new());
}
