//! What is read, what is not, and what is told.

use std::{
    fs,
    io::Write,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::Path,
};

use chrono::{TimeDelta, Utc};
use farshore::{
    clock::FixedClock,
    sources::{
        Capture,
        files::{FilesOptions, FilesSource},
    },
};

use super::tree::{set_mtime, source};
use crate::support::exchange::Capturing;

/// A capture by a clock that runs an hour ahead, so that files just made count as settled.
fn later(mut capturing: Capturing) -> Capturing {
    capturing.clock = FixedClock::shared(Utc::now() + TimeDelta::hours(1));
    capturing
}

fn paths(capturing: &Capturing, top: &Path) -> Vec<String> {
    let prefix = top.to_str().unwrap().trim_start_matches('/').to_owned();
    capturing.sink.entries().iter().map(|entry| entry.display_path().replacen(&prefix, "", 1)).collect()
}

#[tokio::test]
async fn unchanged_files_are_not_read_again_and_changed_ones_are() {
    let top = tempfile::tempdir().unwrap();
    for number in 0..300 {
        fs::write(top.path().join(format!("f{number}")), format!("content {number}")).unwrap();
    }
    let first = later(Capturing::first());
    let facts = first.run(&source(top.path())).await.unwrap().facts;
    assert_eq!((first.sink.opened(), &facts["read_files"]), (300, &300.into()));

    let second = later(Capturing::after(&first.sink));
    let facts = second.run(&source(top.path())).await.unwrap().facts;
    assert_eq!((second.sink.opened(), &facts["unchanged_files"]), (0, &300.into()));
    assert_eq!(second.sink.entries(), first.sink.entries());

    // Another content of the same length with the old time put back is only betrayed by its ctime.
    let sly = top.path().join("f7");
    let time = fs::metadata(&sly).unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    fs::File::options().write(true).open(&sly).unwrap().write_all_at(b"C", 0).unwrap();
    fs::File::open(&sly).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    fs::remove_file(top.path().join("f8")).unwrap();
    let third = later(Capturing::after(&second.sink));
    let facts = third.run(&source(top.path())).await.unwrap().facts;
    assert_eq!((third.sink.opened(), &facts["gone"]), (1, &1.into()), "{facts}");
    let entry = third.sink.entries().into_iter().find(|entry| entry.path.ends_with(b"/f7")).unwrap();
    assert_eq!(third.sink.bytes(&entry), b"Content 7");
}

#[tokio::test]
async fn a_file_changed_at_the_moment_of_its_reading_is_read_again_next_time() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("fresh"), "just now").unwrap();
    let mut first = Capturing::first();
    first.clock = FixedClock::shared(Utc::now());
    first.run(&source(top.path())).await.unwrap();
    let second = later(Capturing::after(&first.sink));
    second.run(&source(top.path())).await.unwrap();
    assert_eq!(second.sink.opened(), 1);
    let third = later(Capturing::after(&second.sink));
    third.run(&source(top.path())).await.unwrap();
    assert_eq!(third.sink.opened(), 0);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_kept_and_told() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("busy");
    fs::write(&path, vec![7; 5 << 20]).unwrap();
    set_mtime(&path, 1);
    let capturing = later(Capturing::first());
    let growing = path.clone();
    capturing.sink.at_first_write(move || {
        fs::File::options().append(true).open(&growing).unwrap().write_all(b"more").unwrap();
    });
    let facts = capturing.run(&source(top.path())).await.unwrap().facts;
    assert_eq!(facts["changed_while_read"], 1);
    assert!(capturing.problems()[0].contains("busy: changed while it was read"), "{:?}", capturing.problems());
    assert_eq!(capturing.sink.entries()[1].size(), 5 << 20);
    let next = later(Capturing::after(&capturing.sink));
    next.run(&source(top.path())).await.unwrap();
    assert_eq!((next.sink.opened(), next.problems().len()), (1, 0));
}

#[tokio::test]
async fn a_file_that_becomes_shorter_while_it_is_read_keeps_what_there_was() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("shrinking");
    fs::write(&path, vec![7; 9 << 20]).unwrap();
    let capturing = Capturing::first();
    let shrinking = path.clone();
    capturing.sink.at_first_write(move || fs::File::options().write(true).open(&shrinking).unwrap().set_len(100).unwrap());
    capturing.run(&source(top.path())).await.unwrap();
    assert!(capturing.problems()[0].contains("changed while it was read"), "{:?}", capturing.problems());
    let entry = &capturing.sink.entries()[1];
    let attributes: farshore::sources::files::FileAttributes = entry.attributes().unwrap();
    assert!(entry.size() < 9 << 20);
    assert_eq!(attributes.size, entry.size());
}

#[tokio::test]
async fn a_file_that_vanishes_is_a_problem_and_the_rest_goes_on() {
    let top = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::write(top.path().join(name), name).unwrap();
    }
    let capturing = Capturing::first();
    let vanishing = top.path().join("one");
    capturing.sink.before_first_read(move || fs::remove_file(vanishing).unwrap());
    let facts = capturing.run(&source(top.path())).await.unwrap().facts;
    assert_eq!(facts["vanished"], 1);
    assert!(capturing.problems()[0].contains("one: vanished"), "{:?}", capturing.problems());
    assert_eq!(paths(&capturing, top.path()), ["", "/two"]);
}

#[tokio::test]
async fn what_may_not_be_read_is_a_problem_for_an_ordinary_user() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("locked"), "x").unwrap();
    fs::set_permissions(top.path().join("locked"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::write(top.path().join("open"), "x").unwrap();
    let capturing = Capturing::first();
    let facts = capturing.run(&source(top.path())).await.unwrap().facts;
    let root = rustix::process::geteuid().is_root();
    assert_eq!(facts["unreadable"], i32::from(!root));
    assert_eq!(capturing.problems().len(), usize::from(!root));
    assert_eq!(facts["entries"]["file"], 1 + i32::from(root));
}

#[tokio::test]
async fn missing_paths_are_problems_and_fatal_only_when_none_is_left() {
    let top = tempfile::tempdir().unwrap();
    let missing = top.path().join("no-such-place");
    fs::write(top.path().join("here"), "x").unwrap();
    let both = FilesSource::new(FilesOptions { paths: vec![missing.clone(), top.path().join("here")], ..Default::default() });
    let capturing = Capturing::first();
    capturing.run(&both).await.unwrap();
    assert!(capturing.problems()[0].contains("no-such-place"), "{:?}", capturing.problems());
    assert_eq!(paths(&capturing, top.path()), ["/here"]);
    let error = Capturing::first().run(&source(&missing)).await.unwrap_err().to_string();
    assert!(error.contains("no-such-place") && error.contains("correct the paths"), "{error}");
    assert_eq!(both.kind(), "files");
}

#[tokio::test]
async fn patterns_leave_out_and_links_are_not_followed() {
    let top = tempfile::tempdir().unwrap();
    fs::create_dir_all(top.path().join("cache/deep")).unwrap();
    fs::create_dir(top.path().join("conf")).unwrap();
    for name in ["cache/deep/x.conf", "conf/a.conf", "conf/a.bak", "b.conf", "c.txt"] {
        fs::write(top.path().join(name), name).unwrap();
    }
    symlink("/etc", top.path().join("etc.conf")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(top.path().join("s.conf")).unwrap();
    let source = FilesSource::new(FilesOptions {
        paths: vec![top.path().to_owned(), top.path().join("conf")],
        include: vec!["*.conf".to_owned()],
        exclude: vec!["cache/".to_owned()],
        one_file_system: true,
    });
    let capturing = Capturing::first();
    let facts = capturing.run(&source).await.unwrap().facts;
    assert_eq!(paths(&capturing, top.path()), ["", "/b.conf", "/conf", "/conf/a.conf", "/etc.conf"]);
    assert_eq!(facts["sockets_skipped"], 1);
}

#[tokio::test]
async fn a_named_symbolic_link_is_told_to_be_only_that() {
    let top = tempfile::tempdir().unwrap();
    symlink("/etc", top.path().join("link")).unwrap();
    let capturing = Capturing::first();
    capturing.run(&source(&top.path().join("link"))).await.unwrap();
    assert!(capturing.problems()[0].contains("is a symbolic link"), "{:?}", capturing.problems());
    assert_eq!(capturing.sink.entries().len(), 1);
}

#[tokio::test]
async fn siblings_that_sort_between_a_directory_and_its_contents_come_between() {
    let top = tempfile::tempdir().unwrap();
    fs::create_dir(top.path().join("a")).unwrap();
    for name in ["a/b", "a-b", "a.b", "a0", "aa"] {
        fs::write(top.path().join(name), "").unwrap();
    }
    let capturing = Capturing::first();
    capturing.run(&source(top.path())).await.unwrap();
    assert_eq!(paths(&capturing, top.path()), ["", "/a", "/a-b", "/a.b", "/a/b", "/a0", "/aa"]);
}
