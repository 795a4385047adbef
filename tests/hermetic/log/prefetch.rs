//! What is fetched ahead is taken, and gone when it is of no use.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{SYSTEM, Server, faults::log_name, name, segment};

/// Archives the first segments of a server, up to this one.
fn archive(server: Server, last: u64) -> Server {
    (1..=last).for_each(|number| server.pushes(number));
    server.settles();
    server
}

fn ahead(server: &Server) -> PathBuf {
    server.agent.path("back/pg_wal/.farshore").join(SYSTEM.to_string())
}

/// Where a segment lies that was fetched ahead: its name holds the machine's boot.
fn fetched(server: &Server, number: u64) -> PathBuf {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    ahead(server).join(format!("{}.{}", name(1, number), boot.trim()))
}

/// Waits for a file that is fetched ahead.
fn comes(server: &Server, number: u64) {
    let began = Instant::now();
    while !fetched(server, number).exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "segment {number}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A segment was delivered, by what lies there.
fn is_last(server: &Server, number: u64) {
    let last = server.agent.path("back/pg_wal/.farshore/last");
    std::os::unix::fs::symlink(log_name(&name(1, number)).to_string(), last).unwrap();
}

fn gets(server: &Server, number: u64) {
    server.get_with(&name(1, number), &[]).succeeds();
    assert!(fs::read(server.delivered()).unwrap() == segment(number), "segment {number}");
}

#[test]
fn what_comes_next_is_there_before_it_is_asked_for() {
    let server = archive(Server::new(), 20);
    gets(&server, 1);
    (2..=9).for_each(|number| comes(&server, number));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!fetched(&server, 10).exists(), "so many ahead and no more");
    // Only the process that fetches goes to the site.
    fs::rename(server.agent.path("site"), server.agent.path("away")).unwrap();
    (2..=9).for_each(|number| gets(&server, number));
    server.get_with(&name(1, 10), &[]).ends_with(126);
    fs::rename(server.agent.path("away"), server.agent.path("site")).unwrap();
    (10..=20).for_each(|number| gets(&server, number));
    // At the end of the log nothing of it is left.
    server.get_with(&name(1, 21), &[]).ends_with(1);
    let left: Vec<_> = fs::read_dir(server.agent.path("back/pg_wal")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["RECOVERYXLOG"]);
}

#[test]
fn a_recovery_that_goes_elsewhere_is_followed_and_half_a_file_is_never_taken() {
    let server = archive(Server::new(), 12);
    gets(&server, 1);
    comes(&server, 9);
    gets(&server, 11);
    comes(&server, 12);
    let began = Instant::now();
    while fetched(&server, 5).exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "what is not wanted any more goes");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Of what an earlier boot fetched a crash may have left a part only, under its whole name.
    fs::create_dir_all(ahead(&server)).unwrap();
    for leftover in [name(1, 2), format!("{}.00000000-0000-0000-0000-000000000000", name(1, 2))] {
        fs::write(ahead(&server).join(leftover), &segment(2)[..1000]).unwrap();
    }
    gets(&server, 2);
    // What a process left behind that was killed: its name says that it is not whole.
    fs::create_dir_all(ahead(&server)).unwrap();
    fs::write(ahead(&server).join(".farshore-0000"), &segment(3)[..1000]).unwrap();
    fs::write(ahead(&server).join(format!("{}.coming", name(1, 3))), b"").unwrap();
    let began = Instant::now();
    gets(&server, 3);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_site_that_cannot_give_a_segment_keeps_no_other_from_it() {
    let server = archive(Server::with_second_site(), 12);
    let at_first = |number: u64| server.agent.path(&format!("site/wal/{SYSTEM}/00000001")).join(name(1, number));
    // One is damaged where it ends, so that all but that has been opened when it is found; the other is nothing at all.
    let mut bytes = fs::read(at_first(3)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(at_first(3), bytes).unwrap();
    fs::write(at_first(4), b"").unwrap();
    for number in [3, 4] {
        server.gets(number);
        assert_eq!(fs::read_dir(server.agent.path("back/pg_wal")).unwrap().count(), 0, "half of what the first site has is left");
    }
    gets(&server, 1);
    (2..=9).for_each(|number| comes(&server, number));
    // Whoever takes them goes to no site.
    for directory in ["site", "second"] {
        fs::rename(server.agent.path(directory), server.agent.path(&format!("away-{directory}"))).unwrap();
    }
    (2..=9).for_each(|number| gets(&server, number));
    // The first one stays away.
    fs::rename(server.agent.path("away-second"), server.agent.path("second")).unwrap();
    gets(&server, 10);
    (11..=12).for_each(|number| comes(&server, number));
    (11..=12).for_each(|number| gets(&server, number));
}

#[test]
fn of_a_segment_that_is_damaged_everywhere_nothing_lies_there() {
    let server = archive(Server::new(), 4);
    let path = server.agent.path(&format!("site/wal/{SYSTEM}/00000001")).join(name(1, 3));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    gets(&server, 1);
    [2, 4].into_iter().for_each(|number| comes(&server, number));
    server.get(&name(1, 3)).fails(126, &["tag does not match"]);
    let there = || fs::read_dir(ahead(&server)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let began = Instant::now();
    // It is tried again every second; what it writes then goes again.
    while there().any(|file| file.starts_with(".farshore-")) {
        assert!(began.elapsed() < Duration::from_secs(10), "half a file stays");
    }
    assert!(!there().any(|file| file.starts_with(&name(1, 3)) && !file.ends_with(".coming")));
}

#[test]
fn whoever_takes_what_is_there_needs_neither_a_policy_nor_an_identity() {
    let server = archive(Server::new(), 12);
    gets(&server, 1);
    (2..=9).for_each(|number| comes(&server, number));
    let move_all = |from: &str, to: &str| {
        for file in ["policy.toml", "operator.txt"] {
            fs::rename(server.agent.path(&format!("{file}{from}")), server.agent.path(&format!("{file}{to}"))).unwrap();
        }
    };
    move_all("", ".away");
    (2..=6).for_each(|number| gets(&server, number));
    server.get_with(&name(1, 40), &[]).ends_with(126);
    move_all(".away", "");
    (7..=12).for_each(|number| gets(&server, number));
}

#[test]
fn a_delivery_waits_for_whoever_makes_itself_ready_and_not_for_one_that_died() {
    let server = archive(Server::new(), 4);
    let place = server.agent.path("back/pg_wal/.farshore");
    fs::create_dir_all(ahead(&server)).unwrap();
    is_last(&server, 0);
    // Its process did not live to take the lock.
    fs::write(place.join("looking"), b"").unwrap();
    let began = Instant::now();
    gets(&server, 1);
    assert!((0.2..20.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    (2..=4).for_each(|number| comes(&server, number));

    // One that lives, which does not yet know what comes next.
    let server = archive(Server::new(), 5);
    let place = server.agent.path("back/pg_wal/.farshore");
    fs::create_dir_all(ahead(&server)).unwrap();
    let lock = fs::File::create(place.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fs::write(place.join("looking"), b"").unwrap();
    is_last(&server, 2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            fs::write(ahead(&server).join("new"), b"what it fetched").unwrap();
            fs::rename(ahead(&server).join("new"), fetched(&server, 3)).unwrap();
        });
        server.get(&name(1, 3)).succeeds();
    });
    assert_eq!(fs::read(server.delivered()).unwrap(), b"what it fetched", "it did not wait");
    // Longer than a second it waits for nobody, and not at all for what is not going to be fetched.
    let takes = |number: u64| {
        let began = Instant::now();
        server.get(&name(1, number)).succeeds();
        assert!(fs::read(server.delivered()).unwrap() == segment(number));
        began.elapsed()
    };
    let (_, earlier, later) = (takes(1), takes(1), takes(4));
    assert!((1.0..20.0).contains(&later.as_secs_f64()) && earlier < later, "{earlier:?}, {later:?}");
    assert!(place.join("looking").exists(), "it still lives");
    drop(lock);
    takes(5);
    assert!(!place.join("looking").exists(), "each delivery would wait for one that is dead");
}
