//! A snapshot that was made to do harm cannot reach beyond the target.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path, sync::Arc};

use farshore::sources::{
    Entry,
    files::{FileAttributes, FilesTarget},
};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};
use serde_bytes::ByteBuf;

use super::tree::picture;
use crate::support::exchange::{MemoryOrigin, Rebuilding, names};

fn entry(path: &[u8], kind: &str, attributes: FileAttributes) -> Entry {
    let mut entry = Entry::new(path, kind);
    entry.set_attributes(&attributes).unwrap();
    entry
}

fn file(path: &[u8], bytes: &'static [u8]) -> (Entry, &'static [u8]) {
    (entry(path, "file", FileAttributes { mode: 0o4755, size: bytes.len() as u64, ..FileAttributes::default() }), bytes)
}

fn link(path: &[u8], kind: &str, to: &[u8]) -> (Entry, &'static [u8]) {
    (entry(path, kind, FileAttributes { link: Some(ByteBuf::from(to)), ..FileAttributes::default() }), b"")
}

async fn restore(entries: Vec<(Entry, &[u8])>, target: &Path, over: bool) -> (Rebuilding, farshore::sources::Rebuilt) {
    let origin: Arc<MemoryOrigin> = MemoryOrigin::of(entries);
    let rebuilding = Rebuilding { into_existing: over, ..Rebuilding::anew() };
    let rebuilt = rebuilding.run(&FilesTarget::new(target), origin, &serde_json::json!({})).await.unwrap();
    (rebuilding, rebuilt)
}

#[tokio::test]
async fn no_entry_is_written_outside_and_each_attempt_is_named() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("target");
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let outside_bytes = outside.to_str().unwrap().as_bytes();
    let entries = vec![
        file(b"../outside/climbed", b"bad"),
        file(outside.join("absolute").to_str().unwrap().as_bytes(), b"bad"),
        file(b"a/../../outside/hidden", b"bad"),
        link(b"door", "symlink", outside_bytes),
        file(b"door/through", b"bad"),
        link(b"door2", "symlink", b".."),
        (entry(b"door2/made", "directory", FileAttributes::default()), b""),
        (entry(b"door2/pipe", "fifo", FileAttributes::default()), b""),
        link(b"door2/second-link", "symlink", b"x"),
        link(b"stolen", "hardlink", b"../outside/victim"),
        link(b"stolen2", "hardlink", b"door/victim"),
        file(b"victim", b"a fair file"),
    ];
    let (rebuilding, rebuilt) = restore(entries, &target, false).await;
    assert_eq!(names(&outside), ["victim"]);
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert_eq!(names(place.path()), ["outside", "target"]);
    assert_eq!(fs::read_to_string(target.join("victim")).unwrap(), "a fair file");
    let problems = rebuilding.problems();
    for refused in ["climbed", "absolute", "hidden", "door/through", "door2/made", "door2/pipe", "door2/second-link"] {
        assert_eq!(problems.iter().filter(|problem| problem.contains(refused)).count(), 1, "{refused}: {problems:#?}");
    }
    assert!(rebuilt.checks.iter().any(farshore::progress::Check::failed), "what was refused is missed in the counts");
    // A hard link whose first name is no entry becomes a file of its own, never a name of what lies outside.
    for name in ["stolen", "stolen2"] {
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&fs::metadata(target.join(name)).unwrap()), 1);
    }
}

#[tokio::test]
async fn links_that_lie_in_an_existing_target_are_not_walked_through() {
    let place = tempfile::tempdir().unwrap();
    let (target, outside) = (place.path().join("target"), place.path().join("outside"));
    fs::create_dir(&target).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, target.join("etc")).unwrap();
    symlink(outside.join("log"), target.join("log")).unwrap();
    let (rebuilding, _) = restore(vec![file(b"etc/shadow", b"bad"), file(b"log", b"good")], &target, true).await;
    assert_eq!(names(&outside), Vec::<String>::new());
    assert_eq!(fs::read(target.join("log")).unwrap(), b"good");
    assert!(!fs::symlink_metadata(target.join("log")).unwrap().is_symlink());
    assert!(rebuilding.problems()[0].contains("etc/shadow"), "{:?}", rebuilding.problems());
}

#[tokio::test]
async fn sizes_and_holes_that_make_no_sense_are_refused_and_leave_no_remains() {
    let target = tempfile::tempdir().unwrap();
    let odd = |data: Option<Vec<(u64, u64)>>, size: u64| FileAttributes { size, data, mode: 0o600, ..FileAttributes::default() };
    let entries = vec![
        (entry(b"a", "file", odd(Some(vec![(u64::MAX - 1, 3)]), 3)), &b"abc"[..]),
        (entry(b"b", "file", odd(Some(vec![(0, 2), (1, 1)]), 3)), b"abc"),
        (entry(b"c", "file", odd(None, u64::MAX)), b"abc"),
        (entry(b"d", "file", odd(Some(vec![(2, 3)]), 10)), b"abc"),
        (entry(b"e", "no-such-kind", odd(None, 0)), b""),
    ];
    let (rebuilding, _) = restore(entries, target.path(), false).await;
    assert_eq!(names(target.path()), ["d"]);
    assert_eq!(fs::read(target.path().join("d")).unwrap(), b"\0\0abc\0\0\0\0\0");
    assert_eq!(rebuilding.problems().len(), 4, "{:?}", rebuilding.problems());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_set_of_entries_reaches_beyond_the_target(
        made in prop::collection::vec((prop::collection::vec(0usize..7, 1..5), 0usize..4, 0usize..6), 1..30),
        twice in any::<bool>()
    ) {
        const NAMES: [&str; 7] = ["a", "b", "..", ".", "", "victim", "outside"];
        // Not `/`: if the guard were ever broken, this test should harm no more than its own directory.
        const LINKS: [&str; 6] = ["..", "../outside", "../outside/.", "a", "../outside/victim", "b/../.."];
        let place = tempfile::tempdir().unwrap();
        let (target, outside) = (place.path().join("target"), place.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "untouched").unwrap();
        let before = picture(&outside);
        let mut entries = BTreeMap::new();
        for (names, kind, to) in made {
            let path = names.iter().map(|name| NAMES[*name]).collect::<Vec<_>>().join("/").into_bytes();
            let made = match kind {
                0 => file(&path, b"bad"),
                1 => (entry(&path, "directory", FileAttributes { mode: 0o700, ..FileAttributes::default() }), &b""[..]),
                2 => link(&path, "symlink", LINKS[to].as_bytes()),
                _ => link(&path, "hardlink", LINKS[to].as_bytes()),
            };
            entries.insert(path, made);
        }
        let entries: Vec<_> = entries.into_values().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(restore(entries.clone(), &target, true));
        if twice {
            // What the first restore left is walked by the second.
            runtime.block_on(restore(entries.into_iter().rev().take(1).collect(), &target, true));
        }
        prop_assert_eq!(picture(&outside), before);
        prop_assert_eq!(names(place.path()), ["outside", "target"]);
    }
}
